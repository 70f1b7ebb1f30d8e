"""``augmill explain``, ``audit``, ``diff``: one row's way, one release's record, two releases compared."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from augmill.flows.cli.releases import Dataset, ReleaseOption, StoreOption, _find, _open
from augmill.flows.cli.run import SetOption
from augmill.flows.terminal import say

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ReleaseArgument = Annotated[
    str, typer.Argument(help="A release's id or its beginning, a tag, or a snapshot such as a date.")
]
SHOWN = 20


def register(app: typer.Typer) -> None:
    app.command("explain")(explain)
    app.command("audit")(audit)
    app.command("diff")(diff)


def explain(
    row_id: Annotated[
        str, typer.Argument(metavar="ROW", help="The aug_row_id of a row, or FILE:LOCATION of a refused one.")
    ],
    dataset: Dataset = None,
    changes: SetOption = None,
    store: StoreOption = None,
    release: ReleaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shows where a row comes from, or why it was refused.

    Split, parents, generator, seed, scores and night of a row; of a refused one, what refused it.
    """
    from augmill.flows.releases import explain as look
    from augmill.tasks.store.log import read_log

    opened, name = _open(store, dataset, changes, before="A row comes before the dataset")
    found = look(opened, name, _find(read_log(opened, name), release), row_id)
    if as_json:
        say(_line(found))
        return
    for key, value in found.items():
        if key == "parents":
            for parent in value:
                say(f"{'parent':<12}{parent['row_id']}")
                _fields(parent["row"])
        elif key == "row":
            _fields(value)
        elif key != "parent_ids" and value not in (None, {}, []):
            say(f"{key:<12}{_words(value)}")


def _fields(row: dict[str, Any]) -> None:
    _aligned([(name, _words(value)) for name, value in row.items()])


def _aligned(rows: list[tuple[str, str]], indent: str = "  ") -> None:
    from augmill.flows.cli.terminal import aligned

    say(*(f"{indent}{line}" for line in aligned(rows)))


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(_words(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _line(found: dict[str, Any]) -> str:
    return json.dumps(found, ensure_ascii=False, sort_keys=True, default=str)


def audit(
    release: ReleaseArgument,
    dataset: Dataset = None,
    changes: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shows who or what approved a release, and on which numbers.

    And everything else that is on record: log entries, recipe, ledger, versions, attempts.
    """
    from augmill.flows.cli.terminal import wrapped
    from augmill.flows.releases import audit as look
    from augmill.tasks.store.log import read_log

    opened, name = _open(store, dataset, changes, before="A release comes before the dataset")
    log = read_log(opened, name)
    found = look(opened, log, _find(log, release))
    if as_json:
        say(_line(found))
        return
    marks = [*(["current"] if found["current"] else []), *(["withdrawn"] if found["withdrawn"] else []), *found["tags"]]
    if "gone" in found:
        say(f"{found['gone']}. The log says about it:")
    else:
        stands = ", ".join(marks) or "neither current nor tagged"
        say(f"{found['release']} of {name}, snapshot {found['snapshot']}, {found['arrangement']}: {stands}")
    for entry in found["entries"]:
        again = ", in place of what was erased" if "outcome" in entry and entry.get("kind") == "forget" else ""
        say("", f"Entry {entry['number']}, {entry['time']}: {entry.get('outcome', entry.get('kind'))}{again}")
        say(f"  by {entry['actor']} with `{entry['command']}`")
        say(*(wrapped(entry["reason"]) if entry["reason"] else []))
        if "approved_by" in entry:
            say(f"  approved by {entry['approved_by']}")
        _aligned([(key, _words(value)) for key, value in (entry.get("verdict") or {}).items()], " " * 4)
    if "gone" in found:
        return
    say("", f"Recipe {found['recipe_sha256']}", f"Ledger {_words(found['ledger'])}")
    say("Made by")
    _fields({name: value for name, value in found["provenance"].items() if value != {}})
    for attempt in found["attempts"]:
        spent = _words({k: attempt[k] for k in ("seconds", "gpu_seconds", "worked", "generated")})
        span = f"{attempt['started']} to {attempt['ended']}"
        say(f"Attempt {attempt['number']} at {attempt['snapshot']}, {span}: {spent}")


def diff(
    left: ReleaseArgument,
    right: ReleaseArgument,
    dataset: Dataset = None,
    changes: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compares two releases: rows, classes, recipe, gate."""
    from augmill.flows.releases import diff as look
    from augmill.tasks.store.log import read_log

    opened, name = _open(store, dataset, changes, before="Two releases come before the dataset")
    log = read_log(opened, name)
    found = look(opened, log, _find(log, left), _find(log, right))
    if as_json:
        say(_line(found))
        return
    say(f"{found['releases'][0]} -> {found['releases'][1]}", "")
    say(f"{'rows':<12}{'added':>10}{'removed':>10}{'changed':>10}")
    for split, rows in found["rows"].items():
        say(f"{split:<12}{rows['added']:>10,}{rows['removed']:>10,}{rows['changed']:>10,}")
    for row, moved in list(found["moved"].items())[:SHOWN]:
        say(f"moved: {row} {moved}")
    for split, classes in found["classes"].items():
        _table(f"classes of {split}", classes)
    _table("recipe", found["recipe"])
    _table("metrics", found["metrics"])
    if found["arrangement"][0] != found["arrangement"][1]:
        say("", f"arrangement: {' -> '.join(found['arrangement'])}")


def _table(title: str, changes: dict[str, list[Any]]) -> None:
    if not changes:
        return
    say("", title)
    _aligned([(key, f"{_words(before)} -> {_words(after)}") for key, (before, after) in list(changes.items())[:SHOWN]])
    if len(changes) > SHOWN:
        say(f"  and {len(changes) - SHOWN:,} more (--json shows all)")
