"""``augmill compare``: several generators on the same splits and seeds, in one table and one plot."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from augmill.flows.cli.run import OrchestratorOption, RecipePath, SetOption, StoreOption, VerboseOption
from augmill.flows.terminal import say, say_result
from augmill.tasks.boundary.processes import importing

if TYPE_CHECKING:
    from augmill.flows.compare import Compared
    from augmill.tasks.recipe.recipe import Recipe

MOST_SEEDS = 1000


GeneratorsOption = Annotated[
    str,
    typer.Option(
        "--generators",
        metavar="NAMES",
        help="Such as rules,causal_lm/teacher,adaptive:rules+interpolate.  [default: the recipe's own]",
        show_default=False,
    ),
]
SeedsOption = Annotated[
    int, typer.Option("--seeds", metavar="N", help="Run each with N seeds, counted up from the recipe's seed.")
]
RatiosOption = Annotated[
    str,
    typer.Option(
        "--ratios",
        metavar="NUMBERS",
        help="Measure these numbers of synthetic rows per real row too, beside the target.",
    ),
]
OutOption = Annotated[
    Path,
    typer.Option("--out", metavar="FOLDER", help="Where to write report.html, table.md, plot.svg and cells.jsonl."),
]
AsOfOption = Annotated[
    str | None,
    typer.Option("--as-of", metavar="PARTITION", help="Use the rows up to the end of this partition, such as a date."),
]


def register(app: typer.Typer) -> None:
    app.command("compare")(compare)


def compare(
    recipe: RecipePath,
    generators: GeneratorsOption = "",
    seeds: SeedsOption = 10,
    ratios: RatiosOption = "0.5,1,2",
    out: OutOption = Path("comparison"),
    changes: SetOption = None,
    store: StoreOption = None,
    as_of: AsOfOption = None,
    orchestrator: OrchestratorOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Compares generators: what each gains, and at what price.

    Runs each of them with each seed, and publishes nothing.
    """
    with importing():
        from augmill.flows.compare import Compared, entrants, run_compare
        from augmill.tasks.recipe.origin import name_of
        from augmill.tasks.recipe.recipe import load_recipe

    loaded = load_recipe(recipe, store=store, changes=changes)
    _require_orchestrator(orchestrator)
    _require_folder(out)
    named, wanted = entrants(loaded, generators), parse_ratios(ratios)
    told = f"--generators {','.join(named)} --seeds {require_seeds(seeds)} --ratios {ratios}"
    command = f"augmill compare {name_of(recipe, changes)} {told}"
    found = Compared()
    write = functools.partial(_write, out, loaded, seeds, command, found)
    with _written_when_stopped(found, write):
        run_compare(
            loaded, found, command=command, orchestrator=orchestrator, verbose=verbose,
            generators=generators, seeds=seeds, ratios=wanted, as_of=as_of,
        )  # fmt: skip
    _tell(found, *write())


@contextlib.contextmanager
def _written_when_stopped(found: Compared, write: Callable[[], object]) -> Iterator[None]:
    """The table of what is finished is what a failure leaves, and an interrupt too."""
    try:
        yield
    except BaseException:
        if found.cells:
            write()
        raise


def _write(out: Path, recipe: Recipe, seeds: int, command: str, found: Compared) -> tuple[dict[str, str], list[Any]]:
    """(what ``write_comparison`` says, the cells that were left out)."""
    title = f"Generators on {recipe.dataset}, {seeds} seed{'s' if seeds > 1 else ''}"
    left = [[each.generator, each.seed, each.reason] for each in found.left]
    return write_comparison(out, found.cells, {"title": title, "command": command, "left": left}), left


def _tell(found: Compared, written: dict[str, str], left: list[Any]) -> None:
    from augmill.flows.cli.terminal import wrapped

    say("", *written.pop("table").split("\n"))
    say(*wrapped(measured_on(found.cells), "", ""))
    for name, seed, reason in left:
        say(f"Left out: {name}, seed {seed}: {reason}")
    say("", f"Report   {written['report']}")
    result = {"outcome": "compared", "cells": len(found.cells), "new": found.made, "left": left, **written}
    say_result(result)


def measured_on(cells: Sequence[Mapping[str, Any]]) -> str:
    """Which rows the table speaks of, as a sentence; empty where no cell was measured."""
    rows = next((cell["rows"] for cell in cells if cell["points"]), None)
    if rows is None:
        return ""
    gains = f"Gains are on {rows['test']:,} test rows, over all seeds"
    return f"{gains}; outcomes are the gate's, on {rows['validation']:,} validation rows."


def write_comparison(out: Path, cells: list[dict[str, Any]], about: dict[str, Any]) -> dict[str, str]:
    """Writes the four files; the table's text and where the report is. Raises DataError where there is no cell."""
    from augmill.tasks.errors import DataError
    from augmill.tasks.report import lines, page, plot, table

    if not cells:
        why = about["left"][0][2] if about["left"] else "none was asked for"
        raise DataError(f"no cell could be measured: {why}", where="compare", fix="see why each was left out")
    found = lines(cells)
    out.mkdir(parents=True, exist_ok=True)
    text = table(found)
    files = {
        "cells.jsonl": "".join(json.dumps(cell, ensure_ascii=False, sort_keys=True) + "\n" for cell in cells),
        "table.md": text,
        "report.html": page(found, about),
    }
    if any(line.curve for line in found):
        files["plot.svg"] = str(plot(found))
    for name, body in files.items():
        (out / name).write_text(body, encoding="utf-8")
    return {"table": text, "report": str((out / "report.html").absolute())}


def parse_ratios(text: str) -> tuple[float, ...]:
    """Positive numbers with commas between them. Raises UserError."""
    from augmill.tasks.errors import UserError

    found = []
    for part in filter(None, text.split(",")):
        try:
            value = float(part)
        except ValueError:
            value = 0.0
        if not 0 < value <= 100:
            problem = f"expected numbers between 0 and 100, found {part!r}"
            raise UserError(problem, where="--ratios", fix="give synthetic rows per real row, such as 0.5,1,2")
        found.append(value)
    return tuple(found)


def require_seeds(seeds: int) -> int:
    """Raises UserError."""
    from augmill.tasks.errors import UserError

    if not 1 <= seeds <= MOST_SEEDS:
        fix = "10 for generators that take seconds, 3 for those that train a model"
        raise UserError(f"expected 1 to {MOST_SEEDS} seeds, found {seeds}", where="--seeds", fix=fix)
    return seeds


def _require_folder(out: Path) -> None:
    """Found before the first cell, not after the last."""
    from augmill.tasks.errors import UserError

    if out.exists() and not out.is_dir():
        raise UserError("expected a folder, found a file", where=f"--out {out}", fix="name another one")


def _require_orchestrator(name: str | None) -> None:
    from augmill.tasks.errors import UserError

    if name not in (None, "prefect", "none"):
        problem = f"expected prefect or none, found {name!r}"
        raise UserError(problem, where="--orchestrator", fix="give one of the two")
