"""``augmill status``: the snapshots as a calendar, and what to do about those that are not plainly released."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from augmill.flows.cli.housekeeping import open_store
from augmill.flows.cli.run import RecipePath, SetOption, StoreOption
from augmill.flows.cli.terminal import WIDTH, padded, shown, wrapped
from augmill.flows.terminal import Line, print_lines, say, say_result

if TYPE_CHECKING:
    from augmill.flows.nights.plan import BackfillPlan
    from augmill.flows.nights.states import SnapshotState
    from augmill.tasks.recipe.recipe import Recipe
    from augmill.tasks.store.log import Log

# state: (mark, colour on a terminal, what to do)
MARKS = {
    "published": ("P", "green", ""),
    "released": ("R", "green", ""),
    "kept": ("K", "yellow", "{next}."),
    "stale": ("S", "yellow", "To make it again: {again}"),
    "running": (">", "cyan", "Wait for it."),
    "missing": ("-", "", "To make it: {again}"),
    "interrupted": ("I", "red", "To go on where it stopped: {again}"),
    "failed": ("F", "red", "{next}; then: {again}"),
    "withdrawn": (
        "W",
        "magenta",
        "It was taken back and will not be made again as it was: change the recipe or the source.",
    ),
}
MEANINGS = {"published": "published, the mix", "released": "released, real rows"}
TROUBLE = 10  # exit code of --check


def register(app: typer.Typer) -> None:
    app.command("status")(status)


def status(
    recipe: RecipePath,
    changes: SetOption = None,
    store: StoreOption = None,
    first: Annotated[
        str | None, typer.Option("--from", metavar="SNAPSHOT", help="Show snapshots from this one on.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="SNAPSHOT", help="Show snapshots up to this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="For monitoring: exit 10 if the last night went wrong or the newest release is older than "
            "schedule.freshness. Reads only the store; the source too if nothing was tried yet.",
        ),
    ] = False,
) -> None:
    """Shows every snapshot: published, missing, failed or out of date.

    And what to do about those that need something done.
    """
    from augmill.flows.nights.record import left_to_do
    from augmill.flows.nights.states import find_trouble, snapshot_states
    from augmill.flows.units import look_at_source, require_partition
    from augmill.tasks.recipe.origin import name_of
    from augmill.tasks.recipe.recipe import load_recipe
    from augmill.tasks.store.attempts import utc_now
    from augmill.tasks.store.erasure import pending_requests, told_pending
    from augmill.tasks.store.log import read_log

    loaded = load_recipe(recipe, store=store, changes=changes)
    require_partition(loaded, first, "--from")
    require_partition(loaded, last, "--to")
    opened, now = open_store(loaded.run.store, where="run.store", fix="augmill run makes one"), utc_now()
    log = read_log(opened, loaded.dataset)
    if check:
        _end_check(loaded, find_trouble(loaded, opened, log, now=now), as_json)
    seen = look_at_source(loaded, opened, now)
    problem = None if seen.problem is None else f"{seen.problem.where}: {seen.problem.problem}"
    states = snapshot_states(loaded, opened, seen.view, log, now=now, first=first, last=last)
    pending = pending_requests(opened, loaded.dataset, log.entries)
    summary = _summary(loaded, log, states, problem) | {"erasures_pending": pending, "source_warning": seen.warning}
    if as_json:
        summary |= {"snapshots": [state.to_json() for state in states]}
    else:
        print_lines(
            page(loaded, log, states, problem, name_of(recipe, changes), left_to_do(opened, loaded, states, now))
        )
        print_lines([[(line, "yellow")] for line in wrapped(f"{seen.warning}.", first="")] if seen.warning else [])
        print_lines([[(line, "red")] for line in wrapped(f"{told_pending(pending)}.", first="")] if pending else [])
    say_result(summary)


def _end_check(recipe: Recipe, trouble: str | None, as_json: bool) -> None:
    """One line for a person, one of JSON for a program, and the exit code."""
    if not as_json:
        say(f"{recipe.dataset}: {trouble or 'ok'}")
    document = {"outcome": "trouble" if trouble else "ok", "dataset": recipe.dataset, "reason": trouble}
    say_result(document)
    raise typer.Exit(TROUBLE if trouble else 0)


def _summary(recipe: Recipe, log: Log, states: Sequence[SnapshotState], problem: str | None) -> dict[str, Any]:
    return {
        "outcome": "status",
        "dataset": recipe.dataset,
        "current": log.newest(),
        "counts": dict(Counter(state.state for state in states)),
        "source_problem": problem,
    }


# --- text: lines of (text, colour) pieces, so that a terminal may colour what a file gets plain ---------------------


def kind_of(state: SnapshotState) -> str:
    return "published" if state.state == "released" and state.outcome == "published" else state.state


def page(
    recipe: Recipe,
    log: Log,
    states: Sequence[SnapshotState],
    problem: str | None,
    path: str,
    left: Mapping[str, BackfillPlan] | None = None,
) -> list[Line]:
    """Everything that is shown, in 80 columns. ``path``: the recipe's, for commands.

    ``left``: what unfinished backfills still do, by snapshot.
    """
    left = left or {}
    span = f", {shown(states[0].snapshot, 24)} to {shown(states[-1].snapshot, 24)}" if len(states) > 1 else ""
    lines = [[(text, "")] for text in wrapped(f"{recipe.dataset}: {len(states):,} snapshot(s){span}", first="")]
    if problem:
        lines += [[(text, "red")] for text in wrapped(f"The source cannot be used: {problem}")]
    lines += [[("", "")]]
    lines += _months(states) if recipe.partitions.every == "day" and len(states) > 1 else _grid(states)
    lines += [[("", "")], *_legend(states), [("", "")]]
    for group in _groups(states, left):
        lines += _told(group, path, left.get(group[0].snapshot))
    newest, whole = log.newest(), log.current().get("all")
    lines += [[(f"Current: release {newest or 'none yet'}", "")]]
    if whole and all(state.snapshot != "all" for state in states):
        lines += [[(f"Also current: release {whole} of the snapshot all, made from every row there was", "")]]
    return lines


def _months(states: Sequence[SnapshotState]) -> list[Line]:
    """Months as weeks from Monday to Sunday, two beside one another; each day with the mark of its state."""
    by = {date.fromisoformat(state.snapshot): state for state in states}
    months = [_month(list(days), by) for _, days in itertools.groupby(sorted(by), key=lambda day: day.replace(day=1))]
    lines: list[Line] = []
    nothing: Line = []
    for at in range(0, len(months), 2):
        left, right = months[at], months[at + 1] if at + 1 < len(months) else []
        for a, b in itertools.zip_longest(left, right, fillvalue=nothing):
            gap = 33 - sum(len(text) for text, _ in a)
            lines.append([*a, (" " * gap, ""), *b] if b else a)
        lines.append([("", "")])
    return [_stripped(line) for line in lines[:-1]]


def _month(days: list[date], by: dict[date, SnapshotState]) -> list[Line]:
    lines: list[Line] = [[(f"  {days[0]:%B %Y}", "")], [("  Mo  Tu  We  Th  Fr  Sa  Su ", "")]]
    monday = days[0] - timedelta(days=days[0].weekday())
    while monday <= days[-1]:
        week: Line = []
        for day in (monday + timedelta(days=at) for at in range(7)):
            if day not in by or day.month != days[0].month:
                week.append(("    ", ""))
                continue
            mark, colour, _ = MARKS[kind_of(by[day])]
            week += [(f" {day.day:>2}", ""), (mark, colour)]
        lines.append([(" ", ""), *week])
        monday += timedelta(days=7)
    return lines


def _grid(states: Sequence[SnapshotState]) -> list[Line]:
    """Names with their marks, as many to a line as fit."""
    from rich.cells import cell_len

    width = min(max((cell_len(shown(state.snapshot)) for state in states), default=1), 36)
    lines: list[Line] = []
    per = max(1, (WIDTH - 2) // (width + 4))
    for at in range(0, len(states), per):
        line: Line = [("  ", "")]
        for state in states[at : at + per]:
            mark, colour, _ = MARKS[kind_of(state)]
            line += [(f"{padded(state.snapshot, width)} ", ""), (mark, colour), ("  ", "")]
        lines.append(_stripped(line))
    return lines


def _stripped(line: Line) -> Line:
    while line and not line[-1][0].strip():
        line = line[:-1]
    return line or [("", "")]


def _legend(states: Sequence[SnapshotState]) -> list[Line]:
    counts = Counter(kind_of(state) for state in states)
    lines = [""]
    for kind, (mark, _, _) in MARKS.items():
        part = f"{mark} {MEANINGS.get(kind, kind)} {counts[kind]:,}" if counts[kind] else ""
        if part and len(lines[-1]) + len(part) + 3 > WIDTH:
            lines.append("")
        lines[-1] += f"   {part}" if part else ""
    return [[(line[1:], "")] for line in lines]


def _groups(states: Iterable[SnapshotState], left: Mapping[str, BackfillPlan]) -> Iterable[list[SnapshotState]]:
    """Neighbours of one state for one reason, of all but those that were published and stand."""
    from augmill.flows.nights.plan import least_mode

    def alike(state: SnapshotState) -> tuple[object, ...]:
        plan, least = left.get(state.snapshot), least_mode(state)
        same = state.state, state.outcome, _reason(state), state.changed, bool(state.staged), least
        return *same, plan.id if plan is not None else ""

    for _, group in itertools.groupby(states, key=alike):
        first, *others = group
        if first.state != "released" or first.staged or first.outcome not in (None, "published"):
            yield [first, *others]


def _reason(state: SnapshotState) -> str:
    """Of real rows that were released by a verdict no more than that: its numbers are in the report, one a day."""
    plain = state.state == "released" and not state.cut_short and not state.staged
    return "real rows" if plain and state.outcome != "published" else state.reason.rstrip(".")


def _told(group: list[SnapshotState], path: str, plan: BackfillPlan | None) -> list[Line]:
    """What they are, why, and what to do."""
    state = group[0]
    _, colour, advice = MARKS[kind_of(state)]
    name = shown(state.snapshot, 24)
    if len(group) > 1:
        name += f" to {shown(group[-1].snapshot, 24)} ({len(group):,})"
    text = (
        state.state + (f" ({state.outcome})" if state.outcome else "") + (f": {_reason(state)}" if state.reason else "")
    )
    if state.release and state.state not in ("released", "stale") and len(group) == 1:
        text += f"; release {state.release} stands"
    if state.staged:
        text += "; a new release is staged"
        goes_on = "The backfill that staged it switches to it when it is run again"
        advice = advice or goes_on + (": {again}" if plan is not None else ".")
    if state.cut_short and state.state != "stale":
        advice = MARKS["interrupted"][2]
    if state.outcome == "expired":  # the attempt's own advice was for its verdict
        advice = MARKS["missing"][2]
    end, again = (state.newest.end if state.newest is not None else None) or {}, _again(group, path, plan)
    told = advice.format(next=str(end.get("next") or "See the reason").rstrip("."), again=again)
    told += f" That goes on with the unfinished backfill {plan.id}." if plan is not None and again in told else ""
    lines = wrapped(f"{name}  {text}.", indent="    ", first="  ") + (wrapped(told, indent="    ") if told else [])
    return [[(lines[0], colour)], *([(line, "")] for line in lines[1:])]


def _again(group: list[SnapshotState], path: str, plan: BackfillPlan | None) -> str:
    """The command that makes these snapshots; where an unfinished backfill holds them, that one's."""
    from augmill.flows.nights.plan import least_mode

    first = group[0]
    if plan is not None:
        given = {f"--{name}": plan.request[key] for name, key in _ASKED.items() if plan.request[key] is not None}
        return shlex.join(["augmill", "backfill", path, *(part for pair in given.items() for part in pair)])
    if first.snapshot == "all":
        return f"augmill run {path}"
    span = f"--from {shlex.quote(first.snapshot)} --to {shlex.quote(group[-1].snapshot)}"
    mode = (
        "" if (least := least_mode(first)) in (None, "missing") else f" --reprocess {least}"
    )  # missing is the default
    return f"augmill backfill {path} {span}{mode}"


_ASKED = {"from": "first", "to": "last", "reprocess": "reprocess", "order": "order", "publish": "publish"}
