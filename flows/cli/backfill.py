"""``augmill backfill``, ``augmill nightly``: many snapshots by one plan."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from augmill.flows.cli.run import OrchestratorOption, RecipePath, SetOption, StoreOption, VerboseOption
from augmill.flows.terminal import flush, say, say_result
from augmill.tasks.boundary.processes import importing

if TYPE_CHECKING:
    from augmill.flows.nights.plan import BackfillPlan, Estimate

MaxActive = Annotated[int, typer.Option("--max-active", metavar="N", help="Make at most N snapshots at once.")]
WHICH, HOW, BOUNDS = "Which snapshots", "How", "Bounds"  # the panels of `augmill backfill --help`
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

First = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="PARTITION", help="Start at this one.  [default: the source's first]", rich_help_panel=WHICH
    ),
]
Last = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="PARTITION",
        help="End with this one.  [default: the newest complete one]",
        rich_help_panel=WHICH,
    ),
]
MODES = "missing, failed, changed-data, changed-recipe or all. Each includes those before it."
Reprocess = Annotated[str, typer.Option("--reprocess", metavar="MODE", help=MODES, rich_help_panel=WHICH)]
Order = Annotated[str, typer.Option("--order", metavar="ORDER", help="oldest or newest first.", rich_help_panel=HOW)]
PUBLISH = "each (as it ends) or together (in one log entry).  [default: each; together if the recipe changed]"
Publish = Annotated[str | None, typer.Option("--publish", metavar="HOW", help=PUBLISH, rich_help_panel=HOW)]
MaxFailures = Annotated[
    int | None,
    typer.Option(
        "--max-failures", metavar="N", help="Start no further snapshot once N have failed.", rich_help_panel=BOUNDS
    ),
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        "--max-cost",
        metavar="PRICE",
        help="Start no snapshot that would take the whole backfill past this price.",
        rich_help_panel=BOUNDS,
    ),
]
MaxHours = Annotated[
    float | None,
    typer.Option(
        "--max-hours", metavar="HOURS", help="Start no further snapshot after this many hours.", rich_help_panel=BOUNDS
    ),
]

EXIT_CODES = {"stopped": 11}  # README, "How it ends"; where snapshots failed, their causes say which
SHOWN = 400  # lines of a plan on the terminal; the JSON object holds all


def register(app: typer.Typer) -> None:
    app.command("backfill")(backfill)
    app.command("nightly")(nightly)


def backfill(
    recipe: RecipePath,
    first: First = None,
    last: Last = None,
    reprocess: Reprocess = "missing",
    max_active: MaxActive = 1,
    order: Order = "oldest",
    publish: Publish = None,
    max_failures: MaxFailures = None,
    max_cost: MaxCost = None,
    max_hours: MaxHours = None,
    dry_run: DryRun = False,
    changes: SetOption = None,
    store: StoreOption = None,
    orchestrator: OrchestratorOption = None,
    as_json: AsJson = False,
    verbose: VerboseOption = False,
) -> None:
    """Makes the snapshots that are missing, failed or out of date.

    --dry-run prints the plan: which snapshots, why, and what they are expected to take.
    """
    with importing():
        from augmill.flows.nights import flows as runs
        from augmill.tasks.recipe.origin import name_of
        from augmill.tasks.recipe.recipe import load_recipe

    # What the first three may be, Request says.
    request = runs.BackfillRequest(
        first, last, reprocess, order, publish,  # type: ignore[arg-type]
        max_active, max_failures, max_cost, max_hours, dry_run,
    )  # fmt: skip
    result = runs.run_backfill(
        load_recipe(recipe, store=store, changes=changes),
        request,
        command=f"augmill backfill {name_of(recipe, changes)} --reprocess {reprocess}",
        orchestrator=_known(orchestrator),
        verbose=verbose,
        show=_shower(as_json, max_active),
    )
    _finish(result, as_json)


def nightly(
    recipe: RecipePath,
    max_active: MaxActive = 1,
    dry_run: DryRun = False,
    changes: SetOption = None,
    store: StoreOption = None,
    orchestrator: OrchestratorOption = None,
    as_json: AsJson = False,
    verbose: VerboseOption = False,
) -> None:
    """Makes the newest snapshot, and repairs recent ones that failed.

    How far back it looks is schedule.look_back. A changed recipe makes no earlier snapshot again: `augmill backfill` does.
    """
    with importing():
        from augmill.flows.nights.flows import run_nightly
        from augmill.flows.nights.paging import watched
        from augmill.tasks.recipe.origin import name_of
        from augmill.tasks.recipe.recipe import load_recipe

    loaded, known = load_recipe(recipe, store=store, changes=changes), _known(orchestrator)
    with nullcontext() if dry_run else watched(loaded, datetime.now(UTC)):  # its webhook is told of what went wrong
        result = run_nightly(
            loaded,
            command=f"augmill nightly {name_of(recipe, changes)}",
            max_active=max_active,
            dry_run=dry_run,
            orchestrator=known,
            verbose=verbose,
            show=_shower(as_json, max_active),
        )
    _finish(result, as_json)


def _known(orchestrator: str | None) -> str | None:
    from augmill.tasks.errors import UserError

    if orchestrator not in (None, "prefect", "none"):
        problem = f"expected prefect or none, found {orchestrator!r}"
        raise UserError(problem, where="--orchestrator", fix="give one of the two")
    return orchestrator


def _shower(as_json: bool, max_active: int) -> Callable[[BackfillPlan, str], None]:
    def show(plan: BackfillPlan, note: str) -> None:
        if not as_json:
            say(*plan_lines(plan, note, max_active))
            flush()

    return show


def plan_lines(plan: BackfillPlan, note: str, max_active: int) -> list[str]:
    """The plan for a person: one line per snapshot, the totals, and what is left out."""
    from augmill.flows.cli.terminal import named, shown, wrapped

    lines = wrapped(note, first="") if note else []
    count = len(plan.lines)
    how = {"each": "each published as it ends", "together": "all switched together in one log entry"}
    made = f"{count} snapshot{'s' * (count != 1)} to make, {how[plan.publish]}" if count else "nothing to make"
    lines += [f"{plan.dataset}: {made}.", *(_table(plan, max_active) if count else [])]
    by_reason: dict[str, list[str]] = {}
    for snapshot, why in plan.left_out.items():
        by_reason.setdefault(why, []).append(shown(snapshot))
    for why, names in by_reason.items():
        lines += wrapped(f"Left out: {named(names, 5)}: {why}", indent="    ", first="  ")
    return lines


def _table(plan: BackfillPlan, max_active: int) -> list[str]:
    """One line per snapshot, the reason last. A column that says nothing of any of them is left out."""
    from augmill.flows.cli.terminal import shown, table
    from augmill.flows.nights.plan import total

    whole, unknown = total(plan.lines, max_active)
    rows = [(line.snapshot, *_cells(line.estimate)) for line in plan.lines[:SHOWN]]
    rows.append(("in all", *_cells(whole)))
    heads = ("snapshot", "time", "GPU", "tokens", "cost")
    kept = [at for at in range(len(heads)) if at < 2 or any(row[at] not in ("", "-") for row in rows)]
    names = [line.snapshot for line in plan.lines[:SHOWN]]
    width = min(max(len(name) for name in [*names, "snapshot"]), 32) + 1
    printed = table([heads[at] for at in kept], [[row[at] for at in kept] for row in rows], width)
    reasons = ["", *(f"{line.state}: {line.reason}" for line in plan.lines[:SHOWN])]
    reasons.append(f"with {max_active} at once" if max_active > 1 else "")
    lines = [f"{text}  {shown(why[:160])}".rstrip() for text, why in zip(printed, reasons, strict=True)]
    if len(plan.lines) > SHOWN:
        lines.insert(-1, f"  ... and {len(plan.lines) - SHOWN:,} more (--json shows all)")
    if unknown:
        lines.append(f"  For {unknown:,} of them there is no earlier run to estimate from.")
    return lines


def _cells(estimate: Estimate) -> tuple[str, str, str, str]:
    if estimate.seconds is None:
        return "no run yet", "-", "-", "-"
    cost = "-" if estimate.cost is None else f"{estimate.cost:,.2f}"
    tokens = f"{estimate.tokens:,.0f}" if estimate.tokens else "-"
    return _time(estimate.seconds), _time(estimate.gpu_seconds or 0.0, "-"), tokens, cost


def _time(seconds: float, nothing: str = "0 s") -> str:
    if not seconds:
        return nothing
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _finish(result: dict[str, Any], as_json: bool) -> None:
    """What happened, for a person; one line of JSON, for a program; and the exit code."""
    if not as_json and result["outcome"] != "planned":
        titles = {
            "done": "Done.", "failed": "Some snapshots failed.", "stopped": "Stopped before the end of the plan.",
            "nothing": "Nothing to do.", "skipped": "Not started.",
        }  # fmt: skip
        out = ["", titles[result["outcome"]], f"  {result['reason']}"]
        for name in ("released", "kept", "failed", "not_switched"):
            if found := result.get(name):
                out.append(
                    f"  {name.replace('_', ' '):<12} {len(found)}: {', '.join(list(found)[:6])}{', ...' * (len(found) > 6)}"
                )
        if result.get("log_entry") is not None:
            out.append(f"  log entry    {result['log_entry']}")
        if result.get("released"):
            out.append(f'  to undo      augmill rollback --backfill {result["backfill"]} --reason "..."')
        out.append(f"  next         {result['next']}")
        say(*out)
    say_result(result)
    raise typer.Exit(result.get("exit_code", EXIT_CODES.get(result["outcome"], 0)))
