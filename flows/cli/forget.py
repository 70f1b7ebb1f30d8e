"""``augmill forget``: source rows, what was made of them, and what was fitted on them, out of the store for good."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Any

import typer

from augmill.flows.cli.housekeeping import open_store
from augmill.flows.cli.releases import require_reason
from augmill.flows.cli.run import OrchestratorOption, RecipePath, SetOption, StoreOption, VerboseOption
from augmill.flows.terminal import say, say_result
from augmill.tasks.errors import UserError

SHOWN = 20


def register(app: typer.Typer) -> None:
    app.command("forget")(forget)


def forget(
    recipe: RecipePath,
    rows: Annotated[
        Path,
        typer.Option(
            "--rows",
            metavar="FILE",
            help="The ids (aug_row_id) of source rows: one a line, or a column of CSV or Parquet.",
        ),
    ],
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why. It is kept in the public log, so name nobody.")
    ],
    column: Annotated[
        str | None,
        typer.Option(
            "--column",
            metavar="COLUMN",
            help="The column of FILE that holds the ids.  [default: aug_row_id, or the only one]",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be removed and what made again.")
    ] = False,
    no_rebuild: Annotated[
        bool, typer.Option("--no-rebuild", help="Remove releases without making others in their place.")
    ] = False,
    changes: SetOption = None,
    store: StoreOption = None,
    orchestrator: OrchestratorOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Erases source rows and everything that was made from them.

    Current and tagged releases that held them are made again without them; --dry-run lists what would happen.
    """
    from augmill.flows.releases import find_rows, require_known
    from augmill.flows.releases import forget as carry_out
    from augmill.tasks.boundary.processes import left_temporary
    from augmill.tasks.recipe.origin import name_of
    from augmill.tasks.recipe.recipe import load_recipe

    require_reason(reason)
    loaded = load_recipe(recipe, store=store, changes=changes)
    ids = read_ids(rows, column)
    opened = open_store(loaded.run.store)
    found = find_rows(opened, loaded, ids)
    require_known(opened, found)
    plan = found.to_json(rebuild=not no_rebuild)
    _show(plan, [part.name for part in found.others])
    for path in (left := left_temporary()):
        say(f"{path}: left by a run that was killed; it may hold the rows, so it is removed as a whole")
    result: dict[str, Any] = {"outcome": "listed", **plan, "temporary": left}
    if not dry_run:
        command = f"augmill forget {name_of(recipe, changes)}"
        how = {"rebuild": not no_rebuild, "verbose": verbose}
        result = carry_out(loaded, ids, reason=reason, command=command, orchestrator=orchestrator, **how)
        removed = ", ".join(f"{count:,} {kind}" for kind, count in result["removed"].items())
        say(f"Forgotten. Removed: {len(plan['releases'])} releases, {removed}.")
    say_result(result)


def _show(plan: dict[str, Any], others: list[str]) -> None:
    say(f"{plan['found']:,} source row(s)")
    if plan["unknown"]:
        say(
            f"{plan['unknown']:,} of {plan['rows']:,} ids stand{'s' if plan['unknown'] == 1 else ''} nowhere in the "
            "store; kept out of later runs all the same, should the source still deliver it"
        )
    for item in plan["releases"][:SHOWN]:
        held = ", ".join(f"{count} in {split}" for split, count in item["rows"].items()) or "none of the rows"
        again = item["snapshot"] in plan["made_again"] and item["names"]
        kept = f"made again ({', '.join(item['names'])})" if again else "removed"
        kept += " by today's recipe, not by the one that made it" if item["release"] in plan["other_recipe"] else ""
        say(
            f"  {item['release']}  {item['snapshot']:<12} {held}; {item['descended']} made of them; "
            f"because of: {item['because']}; {kept}"
        )
    if len(plan["releases"]) > SHOWN:
        say(f"  and {len(plan['releases']) - SHOWN:,} more releases")
    stages = ", ".join(f"{stage} {count}" for stage, count in plan["artifacts"].items()) or "none"
    say(f"Artifacts that hold them: {stages}; with what was fitted on them, everything goes that no clean run uses.")
    if others:
        say(f"Other datasets in this store keep what is theirs: {', '.join(others)}.")


def read_ids(path: Path, column: str | None) -> list[str]:
    """The ids in a file. Raises UserError where there are none, or the file cannot be read."""
    import pyarrow as pa

    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}", where="--rows", fix="give a file of ids, one a line")
    try:
        values = _read_values(path, column)
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        kind = {".parquet": "Parquet", ".csv": "CSV in UTF-8"}.get(path.suffix.lower(), "text in UTF-8, one id a line")
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"expected {kind}; it cannot be read: {said}", where=str(path), fix="write the file again, whole"
        ) from error
    if not values:
        raise UserError("the file holds no id", where=str(path), fix="give ids of source rows, one a line")
    return list(dict.fromkeys(values))


def _read_values(path: Path, column: str | None) -> list[str]:
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        from augmill.tasks.boundary.parquet import read_parquet

        name = _choose(pq.read_schema(path).names, column)
        return [str(value) for value in read_parquet(path, [name])[name].to_pylist() if value is not None]
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            name = _choose(list(reader.fieldnames or []), column)
            return [row[name] for row in reader if row[name]]
    if column is not None:
        fix = "leave --column out, or name the file .csv or .parquet"
        raise UserError("plain text has no columns", where="--column", fix=fix)
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def _choose(names: list[str], column: str | None) -> str:
    if column is None and len(names) == 1:
        return names[0]
    if (column or "aug_row_id") in names:
        return column or "aug_row_id"
    known = ", ".join(names[:SHOWN]) or "none"
    raise UserError(
        f"there is no column {column or 'aug_row_id'!r}", where="--rows", fix=f"name it with --column: {known}"
    )
