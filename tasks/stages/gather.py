"""Gather: the ingested units of a snapshot's window in, its real rows out, in total order and with their ids.

Rows after ``as_of`` are as if they were not there: no id, label, share or refusal hangs on them. Those before the window
are left out too; but the ids of labels count over all units up to ``as_of``, so that a window that moves shifts none.
One thing is of later rows too, where one file holds rows of several partitions: its columns and their types.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.tasks.boundary.retries import in_threads
from augmill.tasks.contracts import FIRST_PROBLEM, ROW_ID, STRATUM, TARGET, USER_PREFIX, Artifact, Problem
from augmill.tasks.errors import AugmillError, DataError, UnsoundSource
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.problems.classification import Labels
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.recipe.sections import Columns, Refuse
from augmill.tasks.rows.calendar import rank
from augmill.tasks.rows.kinds import equal_keys, show
from augmill.tasks.rows.parts import in_order
from augmill.tasks.rows.schema import (
    GROUP,
    PARTITION,
    PLACES,
    POSITION,
    SPLIT,
    UNIT_REFUSED,
    class_counts,
    id_within,
    rows_at_once,
)
from augmill.tasks.rows.shown import cut
from augmill.tasks.stages.partitions import is_partitioned, window_start
from augmill.tasks.stages.refusals import (
    CONFLICT,
    no_row_upto,
    no_usable_row,
    require_alike,
    require_sound,
)
from augmill.tasks.stages.user_columns import taken_over, versions_of
from augmill.tasks.store.erasure import ERASED
from augmill.tasks.store.stage import Work, stage
from augmill.tasks.store.store import READERS

# --- One schema for units of a source that were read apart: numbers widen, null gives way, types that clash are -------


def unify_units(
    window: Sequence[pa.Schema], every: Sequence[pa.Schema], where: Sequence[str], *, as_strings: bool
) -> pa.Schema:
    """The columns of ``every`` unit in order of first appearance, typed as those of the ``window`` ask.

    Columns and types that only units outside of the window have count too, where they do not clash: a release's schema
    only grows (DESIGN, "The row"), and what was written years ago stops no night. ``where``: names the window's units;
    ``as_strings``: numbers give way to strings, as in one file of JSON Lines.
    Raises DataError naming the column, its units and both types.
    """
    types: dict[str, pa.Field] = {}
    first: dict[str, str] = {}
    for schema, place in zip(window, where, strict=True):
        for field in schema:
            known = types.get(field.name)
            found = field if known is None else _wider(known, field, as_strings)
            if found is None:
                assert known is not None
                raise DataError(
                    f"column {field.name!r} holds {field.type} here and {known.type} in {first[field.name]}",
                    where=place,
                    fix="write all partitions with the same types",
                )
            if known is None or not found.type.equals(known.type):
                first[field.name] = place
            types[field.name] = found
    for schema in every:
        for field in schema:
            known = types.get(field.name)
            types[field.name] = field if known is None else _wider(known, field, as_strings) or known
    names = dict.fromkeys(field.name for schema in every for field in schema)
    return pa.schema([types[name] for name in names])


def _wider(one: pa.Field, other: pa.Field, as_strings: bool) -> pa.Field | None:
    """A field that holds the values of both; None where their types clash."""
    if one.type.equals(other.type):
        return one if one.metadata == other.metadata else one.remove_metadata()
    for narrow, wide in ((one, other), (other, one)):
        if pa.types.is_null(narrow.type) or (as_strings and _is_plain(narrow.type) and pa.types.is_string(wide.type)):
            return wide
    try:
        return pa.unify_schemas([pa.schema([one]), pa.schema([other])], promote_options="permissive").field(0)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None


def _is_plain(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind))


def cast_column(column: pa.ChunkedArray, field: pa.Field, where: str) -> pa.ChunkedArray:
    """In the field's type. Raises DataError where a value does not fit (an integer past 2**53 among floats)."""
    try:
        return pc.cast(column, field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:  # the latter: strings where all others are null
        problem = f"column {field.name!r} does not fit {field.type}, its type in other partitions: {error}"
        raise DataError(problem, where=where, fix="write all partitions with the same types") from error


# --- Gather -----------------------------------------------------------------------------------------------------------


REFUSED_SCHEMA = UNIT_REFUSED.remove(UNIT_REFUSED.get_field_index("partition"))
PART_ROWS, PART_CELLS = 16_384, 4_000_000  # of the rows that are read at once, whichever is less


@dataclass(frozen=True)
class GatherConfig:
    """What of the recipe decides which ingested rows a snapshot holds, and whether they are enough."""

    columns: Columns
    labels: Labels
    refuse: Refuse
    partitioned: bool
    dated: bool
    first: str | None  # the window's first partition (None: all before as_of)
    as_of: str | None  # the window's last partition (None: all there is)
    problem: str = dataclasses.field(default=FIRST_PROBLEM, metadata={"later": True})  # its name
    versions: dict[str, int | str] | None = dataclasses.field(default=None, metadata={"later": True})  # as ingest's

    @property
    def learnt(self) -> Problem:
        return PROBLEMS[self.problem]


def prepare_gather(recipe: Recipe, as_of: str | None) -> GatherConfig:
    return GatherConfig(
        columns=recipe.columns,
        labels=recipe.labels,
        refuse=recipe.refuse,
        partitioned=is_partitioned(recipe),
        dated=recipe.partitions.calendar.dated,
        first=window_start(recipe, as_of),
        as_of=as_of,
        problem=recipe.learnt,
        versions=versions_of(recipe.columns, recipe.learnt),
    )


class _Unit:
    """What one unit says of itself; its rows are read only where the window holds some."""

    def __init__(self, work: Work, artifact: Artifact) -> None:
        self.artifact = artifact
        self.parts: dict[str, dict[str, Any]] = work.read_json(artifact, "parts.json")  # "": rows of no partition
        self.about: dict[str, Any] = work.read_json(artifact, "summary.json")
        self.schema = pq.read_schema(work.path(artifact, "source.parquet"))
        self.names = [name for name in self.parts if name]


class _Window:
    def __init__(self, config: GatherConfig, units: Sequence[_Unit]) -> None:
        self.config = config
        names = {name for unit in units for name in unit.names}
        # Without a last partition letter by letter: the ids of labels that such releases have go by that order.
        self.names = sorted(names, key=None if config.as_of is None else rank)
        if config.as_of is not None and not config.dated:
            for name in self.names:
                require_alike(name, config.as_of)
        self.units = [unit for unit in units if not unit.names or any(self.holds(name) for name in unit.names)]

    def upto(self, name: str) -> bool:
        return self.config.as_of is None or rank(name) <= rank(self.config.as_of)

    def holds(self, name: str) -> bool:
        """Also what has no partition: rows of a source without any, and refused ones, which may be of any."""
        return not name or (self.upto(name) and (self.config.first is None or name >= self.config.first))

    def parts(self) -> list[dict[str, Any]]:
        return [part for unit in self.units for name, part in unit.parts.items() if self.holds(name)]


@stage("gather", version=2)
def gather(work: Work, config: GatherConfig, artifacts: list[Artifact]) -> None:
    """``artifacts``: the units up to ``as_of``, in the order of their first file's name.

    Raises DataError where the types of a column clash, with no usable row, or for ``labels.unknown: stop``;
    UnsoundSource past ``refuse.max_share`` or with no row in the window; UserError where no row stands at or before
    ``as_of``, or ``as_of`` is not written as the partitions are.
    """
    units = in_threads(lambda artifact: _Unit(work, artifact), artifacts, READERS)  # what each says of itself
    window = _Window(config, units)
    schema = _unify(window, units)
    files = [name for unit in window.units for name in unit.about["files"]]
    if not window.units:
        raise _no_row(window, files, schema, [])
    written = _write_rows(work, _Rows(work, window, schema))
    refused = _refused(work, window) + written.refused
    refused.sort(key=_place(window))
    if not work.rows:
        raise _no_row(window, files, schema, refused)
    read = sum(part["read"] for part in window.parts())
    counted = [row for row in refused if row["reason"] != ERASED]  # erased on purpose: no sign of an unsound source
    require_sound(config.labels, config.refuse, counted, read)
    said = _said(window, units)
    kind = schema.field(config.columns.answer).type
    if config.as_of is None:  # else a label may come with a later partition
        config.learnt.require_named(config.labels, said, kind)
    work.write(pa.Table.from_pylist(refused, REFUSED_SCHEMA), "refused.parquet")
    work.notes.add("refused.parquet")
    work.write(schema.empty_table(), "source.parquet")  # the columns and types that a release gives back
    labels = _labels(window, units)
    if config.learnt.target is None:  # whether each fits its column's type
        config.learnt.column(pa.table({STRATUM: labels["order"]}), labels["values"], kind)
    work.write_json(labels, "labels.json")
    warnings = config.learnt.doubts(config.labels, said, written.classes, written.several, kind)
    summary = _summary(window, units, files, work.rows, refused) | ({"warnings": warnings} if warnings else {})
    work.note(summary, "summary.json")


def _unify(window: _Window, units: Sequence[_Unit]) -> pa.Schema:
    """The source's columns with their types."""
    as_strings = any(unit.about["read_as"][0]["format"] == "jsonl" for unit in window.units)
    where = [_where(unit) for unit in window.units]
    return unify_units(
        [unit.schema for unit in window.units], [unit.schema for unit in units], where, as_strings=as_strings
    )


def _where(unit: _Unit) -> str:
    files = unit.about["files"]
    of = f" (partition {unit.names[0]})" if len(unit.names) == 1 else ""
    return f"{files[0]}{of}"


Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Digests = npt.NDArray[np.uint64]  # (rows, 2): 16 bytes each


@dataclass(frozen=True)
class _Stretch:
    """Rows that follow one another, and where each stands: in which of the units, as which row of it."""

    rows: pa.Table
    unit: Ints
    at: Ints


class _Rows:
    """The window's rows in total order, read part by part, as often as asked: what is held of each is a few numbers.

    ``ids``: of each row its id, or the hash of the one it has. ``keys`` and ``labels``, where there are classes: of what
    equal rows share, and the place of the row's label in ``strata``. ``moves``: where each row stands among all as the
    units have them (by file, then by place), where that is not the total order.
    """

    def __init__(self, work: Work, window: _Window, schema: pa.Schema) -> None:
        self.work, self.window, self.schema, self.config = work, window, schema, window.config
        self.units = window.units
        if all(len(unit.names) <= 1 for unit in self.units):  # one without any has no rows, or none is in a partition
            places = {name: at for at, name in enumerate(window.names)}
            self.units = sorted(self.units, key=lambda unit: places[unit.names[0]] if unit.names else -1)
        known = pq.read_schema(work.path(self.units[0].artifact, "rows.parquet"))
        self.size = max(1, min(PART_ROWS, PART_CELLS // len(known)))
        self.empty = self._in_types(known.empty_table(), 0)
        self.strata: list[str] = []
        self.ids, self.keys, self.labels, self.moves = self._look()

    def _look(self) -> tuple[Digests, Digests, Ints, Ints | None]:
        config, numbers = self.config, dict[str, int]()
        classes = config.learnt.target is None
        asked = [ROW_ID, *([PARTITION] if config.partitioned else [])]
        asked += [STRATUM, *config.columns.fields] if classes else []
        found: list[list[npt.NDArray[Any]]] = [[_none()], [_none()], [np.empty(0, np.int64)], [np.empty(0, np.int64)]]
        for part in self._read(asked, tell=True):
            rows = part.rows
            found[0].append(_id_digests(rows, config))
            if classes:
                found[1].append(_digests(equal_keys(rows, config.columns.fields)))
                of = rows[STRATUM].to_pylist()
                found[2].append(np.fromiter((numbers.setdefault(one, len(numbers)) for one in of), np.int32, len(of)))
            if config.partitioned:  # within a partition as they stand
                names = pa.array(self.window.names, pa.string())
                found[3].append(pc.index_in(rows[PARTITION], value_set=names).to_numpy().astype(np.int32))
        self.strata = list(numbers)
        ids, keys, labels, places = (np.concatenate(parts) for parts in found)
        if bool((places[1:] >= places[:-1]).all()):
            return ids, keys, labels, None
        moves = np.argsort(places, kind="stable")
        return ids[moves], keys[moves] if classes else keys, labels[moves] if classes else labels, moves

    def _read(self, columns: list[str] | None = None, *, tell: bool = False) -> Iterator[_Stretch]:
        """As the units have them."""
        for number, unit in enumerate(self.units):
            if tell:
                self.work.tell(number, len(self.units), "units")
            held = [name for name in unit.names if self.window.holds(name)]
            asked = None if columns is None else list(dict.fromkeys([*columns, *([PARTITION] if unit.names else [])]))
            start = 0
            with pq.ParquetFile(self.work.path(unit.artifact, "rows.parquet"), pre_buffer=False) as file:
                for batch in file.iter_batches(rows_at_once(file.metadata, self.size), columns=asked):
                    rows, at = pa.Table.from_batches([batch]), np.arange(start, start + batch.num_rows)
                    start += batch.num_rows
                    if len(held) < len(unit.names):
                        kept = pc.is_in(rows[PARTITION], pa.array(held, pa.string()))
                        rows, at = rows.filter(kept), at[np.asarray(kept)]
                    rows = self._in_types(rows, number) if columns is None else rows.select(columns)
                    yield _Stretch(rows, np.full(len(at), number), at)

    def parts(self) -> Iterator[tuple[slice, _Stretch]]:
        """All columns of all rows in total order. Where files mix partitions the rows are sorted on the disk."""
        if self.moves is None:
            start = 0
            for part in self._read():
                yield slice(start, start + part.rows.num_rows), part
                start += part.rows.num_rows
            return
        held, start, places = list[tuple[Ints, Ints]](), 0, np.empty_like(self.moves)
        places[self.moves] = np.arange(len(places))

        def read() -> Iterator[pa.Table]:
            for part in self._read():
                held.append((part.unit, part.at))
                yield part.rows

        for rows in in_order(read(), places, self.size):
            if not start:  # all are read before the first comes back
                unit, at = (np.concatenate(each) for each in zip(*held, strict=True))
            moves = self.moves[start : start + rows.num_rows]
            yield slice(start, start + rows.num_rows), _Stretch(rows, unit[moves], at[moves])
            start += rows.num_rows

    def _in_types(self, rows: pa.Table, unit: int) -> pa.Table:
        return _in_types(rows, self.schema, self.config, _where(self.units[unit]))

    def places(self, found: list[_Refusal]) -> list[dict[str, str]]:
        """The refused rows as they are told, with the file and place of each."""
        told = []
        for number, unit in enumerate(self.units):
            own = [one for one in found if one.unit == number]
            if own:
                places = self.work.read(unit.artifact, "places.parquet", PLACES.names)
                where = places.take(pa.array([one.at for one in own], pa.int64())).to_pylist()
                told += [place | one.told for place, one in zip(where, own, strict=True)]
        return told


@dataclass(frozen=True)
class _Refusal:
    unit: int
    at: int
    told: dict[str, str]


def _none() -> Digests:
    return np.empty((0, 2), np.uint64)


def _packed(digests: bytes) -> Digests:
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def _digests(keys: Iterable[bytes]) -> Digests:
    """16 bytes for each, where what they are made of would be gigabytes over a window."""
    return _packed(b"".join(hashlib.blake2b(key, digest_size=16).digest() for key in keys))


def _id_digests(rows: pa.Table, config: GatherConfig) -> Digests:
    """Of rows with an id column the hash of the id; else the id that a row has where no other is like it."""
    ids = rows[ROW_ID].to_pylist()
    if config.columns.id is not None:
        return _digests(row_id.encode("utf-8", "surrogatepass") for row_id in ids)
    partitions = rows[PARTITION].to_pylist() if config.partitioned else [None] * len(ids)
    return _packed(bytes.fromhex("".join(map(id_within, partitions, ids))))


def _runs(digests: Digests) -> tuple[Ints, Ints]:
    """(an order in which equal ones stand side by side, each run in the order given; where each of these begins)."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ranked = digests[order]
    starts = np.ones(len(order), np.bool_)
    starts[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    return order, np.flatnonzero(starts)


def _occurrences(digests: Digests) -> npt.NDArray[np.int32]:
    """Of each the how-manieth of those that equal it, from 1. No window changes it: a partition's are of it alone."""
    order, starts = _runs(digests)
    sizes = np.diff(starts, append=len(order))
    found = np.empty(len(order), np.int32)
    found[order] = np.arange(len(order)) - np.repeat(starts, sizes) + 1
    return found


def _in_types(rows: pa.Table, schema: pa.Schema, config: GatherConfig, where: str) -> pa.Table:
    """The user's further columns in the types that they have over all units; null where this unit lacks one."""
    own = dict(zip(rows.column_names, rows.columns, strict=True))  # of 10,000 columns each is looked up once
    own_columns = taken_over(config.columns, config.learnt)
    arrays: dict[str, Any] = {name: column for name, column in own.items() if not name.startswith(USER_PREFIX)}
    for field in schema:
        if field.name in own_columns:
            continue
        name = f"{USER_PREFIX}{field.name}"
        nulls = pa.nulls(rows.num_rows, field.type)
        arrays[name] = cast_column(own[name], field, where) if name in own else nulls
    return pa.table(arrays)


def _conflicts(rows: _Rows, doubled: Bools) -> tuple[Bools, tuple[int, int]]:
    """(which rows leave for ``refuse.conflicts``; equal ones under several labels, and their rows, where all stay).

    Over the window's rows as a set: no order changes who stays. Ids were given before, so that none of them shifts.
    """
    leave = np.zeros(len(doubled), np.bool_)
    if rows.config.learnt.target is not None:
        return leave, (0, 0)
    left = np.flatnonzero(~doubled)
    order, starts = _runs(rows.keys[left])
    order = left[order]
    sizes, labels = np.diff(starts, append=len(order)), rows.labels[order]
    several = np.zeros(len(starts), np.bool_)
    if len(starts):
        several = np.minimum.reduceat(labels, starts) != np.maximum.reduceat(labels, starts)
    at = order[np.repeat(several, sizes)]
    how = rows.config.refuse.conflicts
    if how == "keep" or not len(at):
        return leave, (int(several.sum()), len(at))
    leave[at] = True
    if how == "majority":
        for of in np.split(at, np.cumsum(sizes[several])[:-1]):
            found, counts = np.unique(rows.labels[of], return_counts=True)
            if (counts == counts.max()).sum() == 1:  # where two have as many there is no winner
                leave[of[rows.labels[of] == found[counts.argmax()]]] = False
    return leave, (0, 0)


def _refusals(part: _Stretch, which: Bools, fields: Sequence[str], reason: str) -> list[_Refusal]:
    at = np.flatnonzero(which)
    if not len(at):
        return []
    rows = part.rows.take(pa.array(at))
    details = [f"label {label!r}" for label in rows[STRATUM].to_pylist()] if reason == CONFLICT else [""] * len(at)
    found = zip(at.tolist(), details, show(rows.select(fields), fields), strict=True)
    return [
        _Refusal(int(part.unit[one]), int(part.at[one]), {"reason": reason, "detail": detail, "row": cut(shown, 200)})
        for one, detail, shown in found
    ]


def _named(rows: pa.Table, fields: Sequence[str], names: Sequence[str], positions: Ints) -> pa.Table:
    """The rows as a snapshot has them, with their ids and positions."""
    order = [*(name for name in (ROW_ID, STRATUM, TARGET) if name in rows.column_names), *fields, SPLIT]
    own = dict(zip(rows.column_names, rows.columns, strict=True))
    arrays = {name: own[name] for name in order} | {POSITION: pa.array(positions, pa.int64())}
    arrays |= {name: own[name] for name in (GROUP, PARTITION) if name in own}
    arrays |= {name: column for name, column in own.items() if name.startswith(USER_PREFIX)}
    return pa.table(arrays | {ROW_ID: pa.array(names, pa.string())})


@dataclass(frozen=True)
class _Written:
    classes: dict[str, int]  # rows by class
    refused: list[dict[str, str]]  # those that leave here
    several: tuple[int, int]  # equal ones under several labels, and their rows, where these stay


def _write_rows(work: Work, rows: _Rows) -> _Written:
    """Writes the rows that stay, each with its id: of doubled ones of an id column the first."""
    config, fields = rows.config, rows.config.columns.fields
    times = _occurrences(rows.ids)
    doubled = times > 1 if config.columns.id is not None else np.zeros(len(times), np.bool_)
    leave, several = _conflicts(rows, doubled)
    positions = np.cumsum(~doubled) - 1
    found, classes = list[_Refusal](), Counter[str]()
    with work.writing(_named(rows.empty, fields, [], positions[:0]).schema, "rows.parquet") as write:
        for at, part in rows.parts():
            stays = ~(doubled[at] | leave[at])
            own_ids = config.columns.id is not None
            names = part.rows[ROW_ID].to_pylist() if own_ids else _names(rows.ids[at], times[at])
            found += _refusals(part, doubled[at], fields, "duplicate_id")
            found += _refusals(part, leave[at], fields, CONFLICT)
            named = _named(part.rows, fields, names, positions[at])
            named = named if stays.all() else named.filter(pa.array(stays))
            classes.update(class_counts(named[STRATUM]))
            work.rows += named.num_rows
            write(named)
    return _Written(dict(sorted(classes.items())), rows.places(found), several)


def _names(digests: Digests, times: npt.NDArray[np.int32]) -> list[str]:
    """The hash of the inputs, in a partitioned source of the partition too, and the occurrence."""
    digits = digests.tobytes().hex()
    return [
        digits[32 * at : 32 * at + 32] + ("" if time == 1 else f"-{time}") for at, time in enumerate(times.tolist())
    ]


def _refused(work: Work, window: _Window) -> list[dict[str, str]]:
    rows = [row for unit in window.units for row in work.read(unit.artifact, "refused.parquet").to_pylist()]
    return [{name: row[name] for name in REFUSED_SCHEMA.names} for row in rows if window.holds(row["partition"])]


def _place(window: _Window) -> Any:
    """The order of places: by file as the units have them, then by line or row; of a directory by the name in it."""
    files = {name: at for at, name in enumerate(name for unit in window.units for name in unit.about["files"])}

    def place(row: dict[str, str]) -> tuple[int, int, str, str]:
        number = row["location"].rsplit(" ", 1)[-1]
        return files[row["file"]], int(number) if number.isdecimal() else 0, row["location"], row["reason"]

    return place


def _no_row(window: _Window, files: list[str], schema: pa.Schema, refused: list[dict[str, str]]) -> AugmillError:
    config = window.config
    before = [name for name in window.names if window.upto(name)]
    if refused or not window.names:
        return no_usable_row(files, schema.names, refused)
    if not before:
        return no_row_upto(config.as_of or "", window.names[0])
    return UnsoundSource(
        f"there are no rows from {config.first} to {config.as_of}; the last ones before are from {before[-1]!r}",
        where="source (partitions.window)",
        fix="deliver its rows, or run for an earlier one",
    )


def _labels(window: _Window, units: Sequence[_Unit]) -> dict[str, Any]:
    """Every class up to ``as_of`` with its label, in order of first appearance, and with its id.

    An id is a place among all names that the source has for labels: the classes that a retired or renamed one, or one
    out of ``declared``, stands before keep theirs. A class of several names has that of the earliest.
    """
    found: dict[str, tuple[str | None, Any]] = {}
    for name in window.names if window.config.partitioned else [""]:
        if window.upto(name):
            for unit in units:
                for said, label, value in unit.parts.get(name, {"labels": []})["labels"]:
                    found.setdefault(said, (label, value))
    values, ids = dict[str, Any](), dict[str, int]()
    for at, (label, value) in enumerate(found.values()):
        if label is not None:
            values.setdefault(label, value)
            ids.setdefault(label, at)
    return {"values": values, "order": list(values), "ids": ids}


def _said(window: _Window, units: Sequence[_Unit]) -> set[str]:
    """What the rows up to ``as_of``, taken or not, call their labels."""
    parts = [part for unit in units for name, part in unit.parts.items() if window.upto(name)]
    return {said for part in parts for said, *_ in part["labels"]}


def _summary(
    window: _Window, units: Sequence[_Unit], files: list[str], taken: int, refused: list[dict[str, str]]
) -> dict[str, Any]:
    apart = [(name, part["read"]) for unit in units for name, part in unit.parts.items() if not window.holds(name)]
    repaired = Counter[str]()
    for unit in window.units:
        repaired.update(unit.about["repaired"])
    return {
        "files": files,
        "read_as": [how for unit in window.units for how in unit.about["read_as"]][:20],
        "read": sum(part["read"] for part in window.parts()),
        "later": sum(read for name, read in apart if not window.upto(name)),
        "before_window": sum(read for name, read in apart if window.upto(name)),
        "taken": taken,
        "refused": dict(sorted(Counter(item["reason"] for item in refused).items())),
        "labels_coerced_from_float": sum(part["coerced"] for part in window.parts()),
        "repaired": dict(sorted(repaired.items())),
        "examples": refused[:20],
    }
