"""Whole rows: what is asked of all fields of a row, each kind answering for its own.

A row equals another where all its parts do, and is near one as its least near part is (law 10).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import ROW_ID, STRATUM, TARGET, Floats, Ints, Kind, NearIndex
from augmill.tasks.registry import Registry
from augmill.tasks.rows.kinds.audio import Audio
from augmill.tasks.rows.kinds.dialogue import Dialogue
from augmill.tasks.rows.kinds.image import Image
from augmill.tasks.rows.kinds.items import Items
from augmill.tasks.rows.kinds.table import Table
from augmill.tasks.rows.kinds.text import Text
from augmill.tasks.rows.schema import GROUP

BLOCK = 1 << 12  # rows looked for at once

# By the types that a recipe names. Extend with one file or folder and its types here, or from outside.
_SHIPPED: dict[str, Kind] = {
    type: kind for kind in (Text(), Table(), Image(), Audio(), Dialogue(), Items()) for type in kind.types
}
KINDS = Registry("kind", Kind, _SHIPPED, made=True)


def type_of(field: str) -> str:
    """Of a field inside the pipeline: ``number`` of ``number:age``, ``text`` of ``text_b``; by which KINDS has its kind."""
    return field.partition(":")[0].replace("/", ":") if ":" in field else "text"


def field_of(type: str, column: str) -> str:
    """The name of a field inside the pipeline. A path's colon becomes a slash: what follows the first colon is the column."""
    return f"{type.replace(':', '/')}:{column}"


def kinds_of(fields: Sequence[str]) -> list[tuple[Kind, list[str]]]:
    """The kinds of the fields, each with those it owns, in order of first appearance."""
    found: dict[str, tuple[Kind, list[str]]] = {}
    for name in fields:
        kind = KINDS[type_of(name)]
        found.setdefault(kind.name, (kind, []))[1].append(name)
    return list(found.values())


def _arrows(fields: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    return [(name, KINDS[type_of(name)].arrow(type_of(name))) for name in fields]


def _keys(target: pa.DataType | None) -> list[tuple[str, pa.DataType]]:
    return [(STRATUM, pa.string()), *([(TARGET, target)] if target is not None else [])]


def real_schema(fields: Sequence[str], target: pa.DataType | None = None) -> pa.Schema:
    """The columns an extension may rely on in a table of real rows. ``target``: as ``Problem.target``."""
    return pa.schema([(ROW_ID, pa.string()), *_keys(target), *_arrows(fields)])


def schema_of(table: pa.Table, fields: Sequence[str]) -> pa.Schema:
    """``real_schema`` of a table that has these fields, with the target that it has."""
    return real_schema(fields, table.schema.field(TARGET).type if TARGET in table.column_names else None)


def candidate_schema(fields: Sequence[str], target: pa.DataType | None = None) -> pa.Schema:
    """What ``Generator.sample`` returns: one row per request, in the request's order.

    ``asked``: the requested class; ``stratum``: the class the row claims (differs only where ``labels == "own"``);
    ``reason``: null where a row was delivered, else why not, with null fields.
    """
    return pa.schema(
        [
            ("ordinal", pa.int64()),
            ("asked", pa.string()),
            *_keys(target),
            *_arrows(fields),
            ("parent_ids", pa.list_(pa.string())),
            ("seed", pa.int64()),
            ("reason", pa.string()),
        ]
    )


def _keys_of(kind: Kind, of: str) -> Callable[[pa.Table], list[bytes]]:
    """``of``: id, equal, or split."""
    return kind.id if of == "id" or (of == "split" and kind.libraries) else kind.equal


def _joined(table: pa.Table | pa.RecordBatch, fields: Sequence[str], of: str) -> list[bytes]:
    """Of one kind its own bytes; of several each with its name and length, so that none runs into another."""
    table = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
    parts = [(kind.name, _keys_of(kind, of)(table.select(own))) for kind, own in kinds_of(fields)]
    if len(parts) == 1:
        only: list[bytes] = parts[0][1]
        return only
    named = [(name.encode(), column) for name, column in sorted(parts)]
    return [
        b"".join(b"%s\x1f%d\x1f%s" % (name, len(column[at]), column[at]) for name, column in named)
        for at in range(table.num_rows)
    ]


def id_keys(table: pa.Table, fields: Sequence[str]) -> list[bytes]:
    """What copies of one row share (``Kind.id``)."""
    return _joined(table, fields, "id")


def equal_keys(table: pa.Table | pa.RecordBatch, fields: Sequence[str]) -> list[bytes]:
    """What rows share that a reader would call the same (``Kind.equal``)."""
    return _joined(table, fields, "equal")


def stems(table: pa.Table, fields: Sequence[str]) -> list[str]:
    """The hash of each row's ``id``, of which gather makes its row id. Frozen: erasure lists hold hashes of them."""
    return [hashlib.sha256(key).hexdigest()[:32] for key in id_keys(table, fields)]


def group_keys(table: pa.Table, fields: Sequence[str]) -> list[bytes]:
    """By what rows stay together: the group, where there is one; a row without goes by what equal rows share.

    Of a kind whose ``equal`` hangs on a decoder, by what copies share (``id``): no new version of it may move a row.
    """
    keys = _joined(table, fields, "split")
    if GROUP not in table.column_names:
        return keys
    return [
        key if group is None else group.encode("utf-8", "surrogatepass")
        for key, group in zip(keys, table[GROUP].to_pylist(), strict=True)
    ]


def show(table: pa.Table, fields: Sequence[str]) -> list[str]:
    """Each row in one line; not escaped."""
    parts = [kind.show(table.select(own)) for kind, own in kinds_of(fields)]
    return [" | ".join(row) for row in zip(*parts, strict=True)]


def draw(table: pa.Table, fields: Sequence[str]) -> list[str]:
    """Each row as HTML that reports set as it stands, by the kinds that draw; empty where none does."""
    parts = [drawn for kind, own in kinds_of(fields) if (drawn := kind.draw(table.select(own))) is not None]
    return ["".join(row) for row in zip(*parts, strict=True)] if parts else [""] * table.num_rows


def drawn_whole(fields: Sequence[str]) -> bool:
    """Whether ``draw`` says all of a row."""
    return all(kind.drawn_whole for kind, _ in kinds_of(fields))


def similarities(made: pa.Table, real: pa.Table, fields: Sequence[str]) -> Floats:
    """(made, real), 0 to 1: how alike rows are, as the kind in which they are least alike says."""
    found = [kind.similarities(made.select(own), real.select(own)) for kind, own in kinds_of(fields)]
    least: Floats = np.min(np.stack(found), axis=0)
    return least


def sizes(table: pa.Table, fields: Sequence[str]) -> tuple[str, list[int]] | None:
    """(what is counted, of each row how many), of the first kind that counts anything."""
    found = (kind.sizes(table.select(own)) for kind, own in kinds_of(fields))
    return next((part for part in found if part is not None), None)


def profile(table: pa.Table, fields: Sequence[str]) -> dict[str, Any]:
    """What rows look like, each kind in its own ways, whose names no other kind uses."""
    return {way: found for kind, own in kinds_of(fields) for way, found in kind.profile(table.select(own)).items()}


def drift(one: Mapping[str, Any], other: Mapping[str, Any], fields: Sequence[str]) -> dict[str, float]:
    """How far two profiles lie apart, in each kind's ways."""
    return {way: found for kind, _ in kinds_of(fields) for way, found in kind.drift(one, other).items()}


def diversity(made: pa.Table, real: pa.Table, fields: Sequence[str]) -> dict[str, float]:
    """How varied made rows are, as each kind measures it."""
    found: dict[str, float] = {}
    for kind, own in kinds_of(fields):
        found |= kind.diversity(made.select(own), real.select(own))
    return found


def is_exact(fields: Sequence[str]) -> list[str]:
    """The kinds among the fields for which rows are equal or are not: nothing is near."""
    empty = real_schema(fields).empty_table()
    return [kind.name for kind, own in kinds_of(fields) if kind.near(empty.select(own), 0.9) is None]


def near_groups(table: pa.Table, fields: Sequence[str], threshold: float) -> npt.NDArray[np.bool_]:
    """Of rows in order of priority those that stay: no row that stays stands before them and is equal or near."""
    own = kinds_of(fields)
    if len(own) == 1:
        return own[0][0].groups(table.select(fields), threshold)
    query, position, _ = RowIndex.build(table, fields, threshold).matches(table)
    before: dict[int, list[int]] = {}
    for one, other in zip(query.tolist(), position.tolist(), strict=True):
        if other < one:
            before.setdefault(one, []).append(other)
    keep = np.ones(table.num_rows, dtype=np.bool_)
    for one in sorted(before):
        keep[one] = not keep[before[one]].any()
    return keep


def near_keys(table: pa.Table, fields: Sequence[str], threshold: float) -> npt.NDArray[np.uint32]:
    """(rows, keys): of rows that ``near_groups`` finds near and that are not equal each pair shares a key in one place.

    Of several kinds the keys of the first for which anything is near, and which has keys to tell rows apart: rows are near
    in all of them or in none.
    """
    exact = is_exact(fields)
    for kind, own in sorted(kinds_of(fields), key=lambda part: type(part[0]).near_keys is Kind.near_keys):
        if kind.name not in exact:
            return kind.near_keys(table.select(own), threshold)
    return np.empty((table.num_rows, 0), np.uint32)


class EqualIndex(NearIndex):
    """Rows of a kind for which nothing is near: found again by ``Kind.equal`` alone."""

    def __init__(self, kind: Kind, keys: dict[bytes, int]) -> None:
        self.kind, self.keys = kind, keys

    def nearest(self, columns: pa.Table) -> tuple[Ints, Floats]:
        found = np.array([self.keys.get(key, -1) for key in self.kind.equal(columns)], dtype=np.int64)
        return found, (found >= 0).astype(np.float64)

    def matches(self, columns: pa.Table) -> tuple[Ints, Ints, Floats]:
        found, similarity = self.nearest(columns)
        hit = np.flatnonzero(found >= 0)
        return hit, found[hit], similarity[hit]

    def save(self, directory: Path, name: str) -> dict[str, Path]:
        table = pa.table({"key": pa.array(list(self.keys), pa.binary()), "position": list(self.keys.values())})
        return {f"{name}.arrow": write_arrow(table, directory / f"{name}.arrow")}

    @classmethod
    def load(cls, kind: Kind, directory: Path, name: str) -> EqualIndex:
        table = read_arrow(directory / f"{name}.arrow")
        return cls(kind, dict(zip(table["key"].to_pylist(), table["position"].to_pylist(), strict=True)))


def write_arrow(table: pa.Table, path: Path) -> Path:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def read_arrow(path: Path) -> pa.Table:
    with pa.OSFile(str(path), "rb") as source:
        return pa.ipc.open_file(source).read_all()


def _first_of(keys: Sequence[bytes]) -> dict[bytes, int]:
    first: dict[bytes, int] = {}
    for position, key in enumerate(keys):
        first.setdefault(key, position)
    return first


def _index(kind: Kind, columns: pa.Table, threshold: float) -> tuple[NearIndex, bool]:
    """(an index of these rows, whether anything but equal rows is near)."""
    found = kind.near(columns, threshold)
    return (EqualIndex(kind, _first_of(kind.equal(columns))), False) if found is None else (found, True)


@dataclass(frozen=True)
class _Part:
    """The fields of one kind: an index of the distinct ones, and which of these each row has."""

    kind: Kind
    fields: list[str]
    index: NearIndex
    near: bool
    place: Ints


@dataclass(frozen=True)
class _Step:
    """From what the parts before are in one to what they are with the next part: ``known``, ascending, of all rows.

    A pair is a number: the place among what was before, times ``width``, and the place of the next part.
    """

    width: int
    known: Ints

    def take(self, before: Ints, part: Ints) -> tuple[npt.NDArray[np.bool_], Ints]:
        """(whether some row has the pair, its place among those known)."""
        wanted = before * self.width + part
        at = np.searchsorted(self.known, wanted)
        hit = at < len(self.known)
        hit[hit] = self.known[at[hit]] == wanted[hit]
        return hit, at


def _steps(parts: Sequence[_Part]) -> tuple[list[_Step], Ints]:
    """(a step for each part but the first, the row of each place after the last one)."""
    code, steps = parts[0].place, []
    for part in parts[1:]:
        width = int(part.place.max(initial=0)) + 1
        known, code = np.unique(code * width + part.place, return_inverse=True)
        steps.append(_Step(width, known))
    return steps, np.argsort(code, kind="stable")


class RowIndex:
    """Rows to be found again by all their fields. Of equal rows only the first can be found."""

    def __init__(self, fields: Sequence[str], parts: list[_Part], first: Ints) -> None:
        self.fields, self._parts = tuple(fields), parts
        self._first = first  # of several kinds: position of each distinct row
        self._steps, self._rows = _steps(parts)

    @classmethod
    def build(cls, table: pa.Table, fields: Sequence[str], threshold: float) -> RowIndex:
        """``threshold``: least similarity that counts as near. Raises ValueError where it is not in (0, 1]."""
        own = kinds_of(fields)
        if len(own) == 1:
            kind, names = own[0]
            index, near = _index(kind, table.select(names), threshold)
            return cls(fields, [_Part(kind, names, index, near, np.empty(0, np.int64))], np.empty(0, np.int64))
        first = np.fromiter(_first_of(equal_keys(table, fields)).values(), np.int64)
        rows = table.take(pa.array(first))
        parts = []
        for kind, names in own:
            columns = rows.select(names)
            keys = kind.equal(columns)
            distinct = _first_of(keys)
            places = {key: place for place, key in enumerate(distinct)}
            index, near = _index(kind, columns.take(pa.array(list(distinct.values()), pa.int64())), threshold)
            place = np.fromiter((places[key] for key in keys), np.int64, len(keys))
            parts.append(_Part(kind, names, index, near, place))
        return cls(fields, parts, first)

    def matches(self, table: pa.Table) -> tuple[Ints, Ints, Floats]:
        """All pairs that are near: (query, position, similarity), by query, then position."""
        if len(self._parts) == 1:
            return self._parts[0].index.matches(table.select(self._parts[0].fields))
        found = list(self._matches(table)) or [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
        query, position, similarity = (np.concatenate(part) for part in zip(*found, strict=True))
        return query, position, similarity

    def _matches(self, table: pa.Table) -> Iterator[tuple[Ints, Ints, Floats]]:
        """The pairs of ``BLOCK`` queries each: of texts from one template all are near, until the other parts are asked."""
        for start in range(0, table.num_rows, BLOCK):
            rows = table.slice(start, BLOCK)
            first, *others = self._parts
            query, code, similarity = first.index.matches(rows.select(first.fields))
            for part, step in zip(others, self._steps, strict=True):
                of, place, near = part.index.matches(rows.select(part.fields))
                low = np.searchsorted(of, query)
                counts = np.searchsorted(of, query, "right") - low
                at = np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
                hit, code = step.take(np.repeat(code, counts), place[at])
                query, code = np.repeat(query, counts)[hit], code[hit]
                similarity = np.minimum(np.repeat(similarity, counts), near[at])[hit]
            position = self._first[self._rows[code]]
            order = np.lexsort((position, query))
            yield query[order] + start, position[order], similarity[order]

    def nearest(self, table: pa.Table) -> tuple[Ints, Floats]:
        """Best match of each row: (position, similarity), the first of equally similar ones; (-1, 0.0) for none."""
        if len(self._parts) == 1:
            return self._parts[0].index.nearest(table.select(self._parts[0].fields))
        best, value = np.full(table.num_rows, -1, np.int64), np.zeros(table.num_rows)
        for query, position, similarity in self._matches(table):
            order = np.lexsort((position, -similarity, query))
            hit, at = np.unique(query[order], return_index=True)
            best[hit], value[hit] = position[order][at], similarity[order][at]
        return best, value

    def save(self, directory: Path, name: str) -> dict[str, Path]:
        """File name -> path, as an extension's ``fit`` returns them."""
        about = directory / f"{name}.rows.json"
        about.write_text(json.dumps({"fields": self.fields, "near": [part.near for part in self._parts]}) + "\n")
        files = {about.name: about}
        for part in self._parts:
            files |= part.index.save(directory, f"{name}.{part.kind.name}" if len(self._parts) > 1 else name)
        if len(self._parts) > 1:
            places = {part.kind.name: pa.array(part.place) for part in self._parts}
            path = write_arrow(pa.table({"first": pa.array(self._first), **places}), directory / f"{name}.rows.arrow")
            files[path.name] = path
        return files

    @classmethod
    def load(cls, directory: Path, name: str) -> RowIndex:
        about = json.loads((directory / f"{name}.rows.json").read_text(encoding="utf-8"))
        own = kinds_of(about["fields"])
        several = len(own) > 1
        table = read_arrow(directory / f"{name}.rows.arrow") if several else None
        empty = np.empty(0, np.int64)
        parts = []
        for (kind, names), near in zip(own, about["near"], strict=True):
            file = f"{name}.{kind.name}" if several else name
            index = kind.load_near(directory, file) if near else EqualIndex.load(kind, directory, file)
            place = empty if table is None else table[kind.name].to_numpy()
            parts.append(_Part(kind, names, index, near, place))
        return cls(about["fields"], parts, empty if table is None else table["first"].to_numpy())
