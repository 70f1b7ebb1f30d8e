"""``augmill explain``, ``audit``, ``diff``: one row's way, one release's record, two releases compared."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from augmill.flows.cli.releases import Dataset, ReleaseOption, StoreOption, _find, _open

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")]
ReleaseArgument = Annotated[str, typer.Argument(help="A release's id or its beginning.")]
SHOWN = 20


def register(app: typer.Typer) -> None:
    app.command("explain")(explain)
    app.command("audit")(audit)
    app.command("diff")(diff)


def explain(
    row_id: Annotated[str, typer.Argument(help="aug_row_id of a row; FILE:LOCATION of a refused one.")],
    dataset: Dataset = None,
    store: StoreOption = None,
    release: ReleaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shows where a row stands and why: split, parents, generator, seed, scores, night; or what refused it."""
    from augmill.flows.explaining import explain as look
    from augmill.tasks.log import read_log

    opened, name = _open(store, dataset)
    found = look(opened, name, _find(read_log(opened, name), release), row_id)
    if as_json:
        sys.stdout.write(_line(found))
        return
    for key, value in found.items():
        if key == "parents":
            for parent in value:
                sys.stdout.write(f"{'parent':<12}{parent['row_id']}\n")
                _fields(parent["row"])
        elif key == "row":
            _fields(value)
        elif key != "parent_ids" and value not in (None, {}, []):
            sys.stdout.write(f"{key:<12}{_words(value)}\n")


def _fields(row: dict[str, Any]) -> None:
    for name, value in row.items():
        sys.stdout.write(f"  {name:<14}{_words(value)}\n")


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(_words(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _line(found: dict[str, Any]) -> str:
    return json.dumps(found, ensure_ascii=False, sort_keys=True, default=str) + "\n"


def audit(
    release: ReleaseArgument, dataset: Dataset = None, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Shows who or what approved a release, with which numbers, and all that is on record of it."""
    from augmill.flows.comparing import audit as look
    from augmill.tasks.log import read_log

    opened, name = _open(store, dataset)
    log = read_log(opened, name)
    found = look(opened, log, _find(log, release))
    if as_json:
        sys.stdout.write(_line(found))
        return
    out = sys.stdout
    marks = [*(["current"] if found["current"] else []), *(["withdrawn"] if found["withdrawn"] else []), *found["tags"]]
    if "gone" in found:
        out.write(f"{found['gone']}. What the log says of it:\n")
    else:
        out.write(f"{found['release']} of {name}, snapshot {found['snapshot']}, {found['arrangement']}: ")
        out.write(f"{', '.join(marks) or 'neither current nor tagged'}\n")
    for entry in found["entries"]:
        again = ", in place of what was erased" if "outcome" in entry and entry.get("kind") == "forget" else ""
        out.write(f"\nEntry {entry['number']}, {entry['time']}: {entry.get('outcome', entry.get('kind'))}{again}\n")
        out.write(f"  by {entry['actor']} with `{entry['command']}`\n  {entry['reason']}\n")
        if "approved_by" in entry:
            out.write(f"  approved by {entry['approved_by']}\n")
        for key, value in (entry.get("verdict") or {}).items():
            out.write(f"    {key:<24}{_words(value)}\n")
    if "gone" in found:
        return
    out.write(f"\nRecipe {found['recipe_sha256']}\nLedger {_words(found['ledger'])}\n")
    out.write("Made by\n")
    _fields({name: value for name, value in found["provenance"].items() if value != {}})
    for attempt in found["attempts"]:
        out.write(f"Attempt {attempt['number']} at {attempt['snapshot']}, {attempt['started']} to {attempt['ended']}: ")
        out.write(f"{_words({k: attempt[k] for k in ('seconds', 'gpu_seconds', 'worked', 'generated')})}\n")


def diff(
    left: ReleaseArgument,
    right: ReleaseArgument,
    dataset: Dataset = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compares two releases: rows by split, classes, recipe, and the gate's numbers."""
    from augmill.flows.comparing import diff as look
    from augmill.tasks.log import read_log

    opened, name = _open(store, dataset)
    log = read_log(opened, name)
    found = look(opened, log, _find(log, left), _find(log, right))
    if as_json:
        sys.stdout.write(_line(found))
        return
    out = sys.stdout
    out.write(f"{found['releases'][0]} -> {found['releases'][1]}\n\n")
    out.write(f"{'rows':<12}{'added':>10}{'removed':>10}{'changed':>10}\n")
    for split, rows in found["rows"].items():
        out.write(f"{split:<12}{rows['added']:>10,}{rows['removed']:>10,}{rows['changed']:>10,}\n")
    for row, moved in list(found["moved"].items())[:SHOWN]:
        out.write(f"moved: {row} {moved}\n")
    for split, classes in found["classes"].items():
        _table(f"classes of {split}", classes)
    _table("recipe", found["recipe"])
    _table("metrics", found["metrics"])
    if found["arrangement"][0] != found["arrangement"][1]:
        out.write(f"\narrangement: {' -> '.join(found['arrangement'])}\n")


def _table(title: str, changes: dict[str, list[Any]]) -> None:
    if not changes:
        return
    sys.stdout.write(f"\n{title}\n")
    for key, (before, after) in list(changes.items())[:SHOWN]:
        sys.stdout.write(f"  {key:<32}{_words(before)} -> {_words(after)}\n")
    if len(changes) > SHOWN:
        sys.stdout.write(f"  and {len(changes) - SHOWN:,} more (--json shows all)\n")
