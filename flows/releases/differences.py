"""Two releases against each other, and one release against the records: who approved it, with which numbers."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from augmill.flows.releases.lineage import SPLITS, makers, read_release, read_split, taken_away
from augmill.tasks.rows.hashing import canonical_json
from augmill.tasks.store.log import Log, entry_of
from augmill.tasks.store.store import Store, release_key

PROVENANCE = ("command", "time", "host", "python", "device", "versions", "generators", "repeatable", "source_versions")
OF_ATTEMPTS = ("seconds", "gpu_seconds", "worked", "generated", "source", "source_versions")
NAMED = 1_000  # ids in a list; counts are whole


def diff(store: Store, log: Log, left: str, right: str) -> dict[str, Any]:
    """rows by split, classes, recipe and metrics: what the second release has otherwise than the first."""
    manifests, provenances = zip(*(read_release(store, log.dataset, name) for name in (left, right)), strict=True)
    prefixes = [provenance["recipe"]["publish"]["prefix"] for provenance in provenances]
    sides = [
        {split: _by_id(read_split(store, log.dataset, release, split), prefix) for split in SPLITS}
        for release, prefix in zip((left, right), prefixes, strict=True)
    ]
    recipes = [_flat(provenance["recipe"]) for provenance in provenances]
    numbers = [_flat(log.publication(release).get("verdict") or {}) for release in (left, right)]
    counts = [manifest["counts"] for manifest in manifests]
    return {
        "releases": [left, right],
        "rows": {split: _rows(sides[0][split], sides[1][split]) for split in SPLITS},
        "moved": _moved(*sides),
        "classes": {
            split: changed
            for split in SPLITS
            if (changed := _changes(counts[0][split]["classes"], counts[1][split]["classes"]))
        },
        "recipe": _changes(*recipes),
        "metrics": _changes(*numbers),
        "arrangement": [manifest["arrangement"] for manifest in manifests],
    }


def _by_id(table: pa.Table | None, prefix: str) -> dict[str, bytes]:
    """id -> the row's own columns and what it weighs, as one value to compare."""
    if table is None:
        return {}
    # The scores are of the checks as fitted for that release: a row they judged otherwise is the same row.
    names = [name for name in table.column_names if name not in (f"{prefix}row_id", f"{prefix}scores")]
    rows = table.select(names).to_pylist()
    plain = [{name.removeprefix(prefix): _plain(value) for name, value in row.items()} for row in rows]
    return dict(zip(table[f"{prefix}row_id"].to_pylist(), map(canonical_json, plain), strict=True))


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | list | type(None)) else repr(value)


def _rows(left: dict[str, bytes], right: dict[str, bytes]) -> dict[str, Any]:
    changed = {
        "added": sorted(right.keys() - left.keys()),
        "removed": sorted(left.keys() - right.keys()),
        "changed": sorted(name for name in left.keys() & right.keys() if left[name] != right[name]),
    }
    counts = {name: len(ids) for name, ids in changed.items()}
    return counts | {"ids": {name: ids[:NAMED] for name, ids in changed.items()}}


def _moved(left: dict[str, dict[str, bytes]], right: dict[str, dict[str, bytes]]) -> dict[str, str]:
    """Rows that stand in another split than before; a law says that there are none."""
    before = {name: split for split, rows in left.items() for name in rows}
    after = {name: split for split, rows in right.items() for name in rows}
    return {name: f"{split} -> {after[name]}" for name, split in before.items() if after.get(name, split) != split}


def _changes(left: dict[str, Any], right: dict[str, Any]) -> dict[str, list[Any]]:
    keys = sorted(left.keys() | right.keys())
    return {key: [left.get(key), right.get(key)] for key in keys if left.get(key) != right.get(key)}


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested objects and lists as ``section.key: value``."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, part in items for k, v in _flat(part, f"{name}.{key}" if name else str(key)).items()}
    return {name: value}


def audit(store: Store, log: Log, release: str) -> dict[str, Any]:
    """Everything on record of one release: log, provenance, attempts, ledger; of one that was taken away, the log alone."""
    about = _logged(log, release)
    gone = taken_away(log, release)
    if gone is not None and store.size(release_key(log.dataset, release, "manifest.json")) is None:
        return about | {"gone": gone.problem}
    manifest, provenance = read_release(store, log.dataset, release)
    ledger = manifest["ledger"] or {"rows": []}
    totals = dict.fromkeys(("asked", "delivered", "surplus", "accepted"), 0)
    for row in ledger["rows"]:
        totals |= {name: totals[name] + row[name] for name in totals}
    return about | {
        "snapshot": manifest["snapshot"],
        "arrangement": manifest["arrangement"],
        "recipe_sha256": manifest["recipe"],
        "inputs": manifest["inputs"],
        "ledger": totals,
        "provenance": {name: provenance[name] for name in PROVENANCE if name in provenance},
        "failures": provenance["failures"],
        "attempts": [
            {
                "snapshot": attempt.snapshot,
                "number": attempt.number,
                "started": attempt.start["time"],
                "ended": attempt.end["time"],
                **{name: attempt.end.get(name) for name in OF_ATTEMPTS},
                "code": attempt.start.get("code"),
            }
            for attempt in makers(store, log.dataset, release)
            if attempt.end is not None
        ],
    }


def _logged(log: Log, release: str) -> dict[str, Any]:
    return {
        "dataset": log.dataset,
        "release": release,
        "current": release in log.current().values(),
        "withdrawn": release in log.withdrawn(),
        "tags": sorted(tag for tag, of in log.tags().items() if of == release),
        "entries": [_told(entry, release) for entry in log.entries if _names(entry, release)],
    }


def _names(entry: dict[str, Any], release: str) -> bool:
    named = {
        *entry["current"].values(),
        entry.get("release"),
        *entry.get("replaced", {}),
        *entry.get("replaced", {}).values(),
    }
    return release in named | {*entry.get("withdraws", []), *entry.get("expired", []), *entry.get("erased", [])}


def _told(entry: dict[str, Any], release: str) -> dict[str, Any]:
    keys = (
        "number",
        "time",
        "actor",
        "command",
        "kind",
        "reason",
        "outcome",
        "recipe",
        "approved_by",
        "verdict",
        "tag",
    )
    withdrawn = {"withdraws": True} if release in entry.get("withdraws", []) else {}
    own = entry_of(entry, release)
    return {key: own[key] for key in keys if key in own} | withdrawn
