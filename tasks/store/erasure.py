"""Erasure: the source rows that must never come back, by the hashes of their ids; and whether a table holds them.

private/erased/<dataset>/<digest>.json  one sealed document a request, put-if-absent, so that two at once lose nothing
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.tasks.contracts import ROW_ID
from augmill.tasks.errors import StoreRefused
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.rows.schema import ORIGIN, PARTITION, REAL, id_within
from augmill.tasks.store.store import Store

ERASED = "erased"  # of a refused row; nothing else is noted of it, and it counts for no share


@dataclass(frozen=True)
class Erased:
    """The ids of one dataset that are refused. ``digest`` is identity: what was read before is read again."""

    dataset: str = field(default="", metadata={"identity": False, "why": "the digest is of its own hashes"})
    digest: str = ""
    hashes: frozenset[str] = field(
        default=frozenset(), metadata={"identity": False, "why": "the digest stands for them"}
    )

    def holds(self, row_id: str) -> bool:
        return bool(self.hashes) and hash_id(self.dataset, row_id) in self.hashes


def hash_id(dataset: str, row_id: str) -> str:
    """What stands in the list instead of the id, which may itself be a name or an address."""
    return hashlib.sha256(f"{dataset}\x1f{row_id}".encode("utf-8", "surrogatepass")).hexdigest()


def plain_id(row_id: str, *, with_id: bool) -> str:
    """Without an id column an id is the hash of the inputs, and ``-2`` marks the second row of them: all such rows go."""
    return row_id if with_id else re.sub(r"-\d+$", "", row_id)


def erased_key(dataset: str, digest: str = "") -> str:
    return f"private/erased/{dataset}/{digest[:32]}.json" if digest else f"private/erased/{dataset}"


def read_erased(store: Store, dataset: str) -> Erased:
    """Raises StoreRefused where a list is rotted: rows would come back."""
    hashes: set[str] = set()
    for key in store.list_keys(erased_key(dataset)):
        body = store.unsealed(key, store.get(key))
        if body is None:
            again = "restore the file from a backup, or run the same `augmill forget` again after removing it"
            raise StoreRefused("the list of erased rows is not what was written", where=key, fix=again)
        hashes |= set(body["hashes"])
    return Erased(dataset, hash_json(sorted(hashes)) if hashes else "", frozenset(hashes))


def write_erased(store: Store, dataset: str, ids: Iterable[str]) -> str:
    """Adds the ids to the list; returns the digest that names this request, the same for the same ids."""
    hashes = sorted(hash_id(dataset, row_id) for row_id in set(ids))
    digest = hash_json(hashes)
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    store.write_sealed(erased_key(dataset, digest), {"dataset": dataset, "hashes": hashes, "time": moment})
    return digest


def pending_requests(store: Store, dataset: str, entries: Iterable[dict[str, Any]]) -> int:
    """Requests on the list that no entry of the log (kind forget) tells of: the rows are kept out, not yet removed."""
    carried_out = {str(entry["request"])[:32] for entry in entries if entry.get("request")}
    listed = (key.rsplit("/", 1)[-1].removesuffix(".json") for key in store.list_keys(erased_key(dataset)))
    return sum(digest not in carried_out for digest in listed)


def told_pending(count: int) -> str:
    return (
        f"{count} erasure(s) pending: the rows are kept out of new runs, but what holds them was not removed; "
        "run the same `augmill forget` again"
    )


class Held(NamedTuple):
    """Of one table: rows with one of the ids, rows one of whose parents has one, and which ids these are.

    ``source``: ids of source rows, which stand there or as parents; ``made``: ids of synthetic rows.
    """

    rows: int
    descended: int
    source: frozenset[str]
    made: frozenset[str]


NOTHING_HELD = Held(0, 0, frozenset(), frozenset())


def count_held(source: Any, ids: frozenset[str], *, with_id: bool, stems: bool = False) -> Held:
    """What a Parquet file holds of the ids, whatever prefix its columns have.

    ``stems``: the file is of an ingested unit, whose ids are not those of the snapshot yet (rows.id_within).
    """
    schema = pq.read_schema(source)
    own, parents = (_column(schema, name) for name in (ROW_ID, "parent_ids"))
    if not ids or (own is None and parents is None):
        return NOTHING_HELD
    origin = None if own is None else own.removesuffix(ROW_ID) + ORIGIN
    origin = origin if origin in schema.names else None
    within = PARTITION if stems and not with_id and PARTITION in schema.names else None
    table = pq.read_table(source, columns=[name for name in (own, parents, within, origin) if name is not None])
    held, found, made = list[str | None](), set[str](), set[str]()
    if own is not None:
        names = table[own].to_pylist()
        if within is not None:
            names = [id_within(*pair) for pair in zip(table[within].to_pylist(), names, strict=True)]
        held = _among(names, ids, with_id)
        origins = [None] * len(held) if origin is None else table[origin].to_pylist()
        for name, kind in zip(held, origins, strict=True):
            if name is not None:
                (found if kind in (REAL, None) else made).add(name)
    rows = sum(name is not None for name in held)
    if parents is None:
        return Held(rows, 0, frozenset(found), frozenset(made))
    column = table[parents].combine_chunks()
    named = _among(pc.list_flatten(column).to_pylist(), ids, with_id)
    found |= {name for name in named if name is not None}
    hits = pa.array([name is not None for name in named], pa.bool_())
    descended = len(pc.unique(pc.list_parent_indices(column).filter(hits)))
    return Held(rows, descended, frozenset(found), frozenset(made))


def _column(schema: Any, name: str) -> str | None:
    """The last column so named behind any prefix: the added columns stand behind the user's."""
    return next((field.name for field in reversed(list(schema)) if field.name.endswith(name)), None)


def _among(values: list[Any], ids: frozenset[str], with_id: bool) -> list[str | None]:
    """Each value as the id that it is; None where it is none of them."""
    plain = (None if value is None else plain_id(str(value), with_id=with_id) for value in values)
    return [name if name in ids else None for name in plain]
