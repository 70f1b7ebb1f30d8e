"""Gather: the ingested units of a snapshot's window in, its real rows out, in total order and with their ids.

Rows after ``as_of`` are as if they were not there: no id, label, share or refusal hangs on them. Those before the window
are left out too; but the ids of labels count over all units up to ``as_of``, so that a window that moves shifts none.
One thing is of later rows too, where one file holds rows of several partitions: its columns and their types.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

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
from augmill.tasks.rows.schema import (
    GROUP,
    PARTITION,
    PLACES,
    POSITION,
    SPLIT,
    UNIT_REFUSED,
    class_counts,
    id_within,
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
BATCH_ROWS = 65_536  # of which keys are Python objects at a time
_KEY = pa.binary(16)


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
    rows, doubled, places = _name(config, *_read_rows(work, window, schema))
    rows, conflicting, several = _settle_conflicts(config, rows, places)
    refused = _refused(work, window) + doubled + conflicting
    refused.sort(key=_place(window))
    if not rows.num_rows:
        raise _no_row(window, files, schema, refused)
    read = sum(part["read"] for part in window.parts())
    counted = [row for row in refused if row["reason"] != ERASED]  # erased on purpose: no sign of an unsound source
    require_sound(config.labels, config.refuse, counted, read)
    said = _said(window, units)
    kind = schema.field(config.columns.answer).type
    if config.as_of is None:  # else a label may come with a later partition
        config.learnt.require_named(config.labels, said, kind)
    work.rows = rows.num_rows
    work.write(rows)
    work.write(pa.Table.from_pylist(refused, REFUSED_SCHEMA), "refused.parquet")
    work.notes.add("refused.parquet")
    work.write(schema.empty_table(), "source.parquet")  # the columns and types that a release gives back
    labels = _labels(window, units)
    if config.learnt.target is None:  # whether each fits its column's type
        config.learnt.column(pa.table({STRATUM: labels["order"]}), labels["values"], kind)
    work.write_json(labels, "labels.json")
    warnings = config.learnt.doubts(config.labels, said, class_counts(rows[STRATUM]), several, kind)
    summary = _summary(window, units, files, rows.num_rows, refused) | ({"warnings": warnings} if warnings else {})
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


def _read_rows(work: Work, window: _Window, schema: pa.Schema) -> tuple[pa.Table, pa.Table | None]:
    """(the window's rows in total order; where each stands, if any may be refused here)."""
    config, tables, places = window.config, list[pa.Table](), list[pa.Table]()
    for done, unit in enumerate(window.units):
        work.tell(done, len(window.units), "units")
        rows = work.read(unit.artifact)
        placed = config.columns.id is not None or config.refuse.conflicts != "keep"
        where = work.read(unit.artifact, "places.parquet") if placed else None
        if not all(window.holds(name) for name in unit.names):
            kept = pc.is_in(rows[PARTITION], pa.array([name for name in unit.names if window.holds(name)], pa.string()))
            rows, where = rows.filter(kept), where and where.filter(kept)
        tables.append(_in_types(rows, schema, config, _where(unit)))
        places += [where] if where is not None else []
    rows = pa.concat_tables(tables).combine_chunks()
    table = pa.concat_tables(places) if places else None
    if config.partitioned:  # within a partition as they stand: by file, then by place
        places_of = pc.index_in(rows[PARTITION], value_set=pa.array(window.names, pa.string()))
        keyed = pa.table({"partition": places_of, "at": pa.array(range(rows.num_rows), pa.int64())})
        order = pc.sort_indices(keyed, sort_keys=[("partition", "ascending"), ("at", "ascending")])
        rows, table = rows.take(order), table and table.take(order)
    return rows, table


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


def _refusal(
    rows: pa.Table, fields: Sequence[str], places: pa.Table, index: int, reason: str, detail: str
) -> dict[str, str]:
    shown = cut(show(rows.slice(index, 1).select(fields), fields)[0], 200)
    return {name: places[name][index].as_py() for name in PLACES.names} | {
        "reason": reason, "detail": detail, "row": shown
    }  # fmt: skip


def _name(
    config: GatherConfig, rows: pa.Table, places: pa.Table | None
) -> tuple[pa.Table, list[dict[str, str]], pa.Table | None]:
    """(the rows with their ids and positions; those whose id stands before, refused; the places of the former)."""
    ids, seen = rows[ROW_ID].to_pylist(), Counter[str]()
    refused: list[dict[str, str]] = []
    if config.columns.id is not None:
        assert places is not None
        at = {row_id: index for index, row_id in reversed(list(enumerate(ids)))}  # the first place of each
        first = sorted(at.values())
        again = sorted(set(range(len(ids))) - set(first))
        refused = [_refusal(rows, config.columns.fields, places, index, "duplicate_id", "") for index in again]
        kept = pa.array(first, pa.int64())
        rows, places, names = rows.take(kept), places.take(kept), [ids[index] for index in first]
    else:
        names = list(_hashed(ids, rows[PARTITION].to_pylist() if config.partitioned else None, seen))
    positions = pa.array(range(rows.num_rows), pa.int64())
    order = [*(name for name in (ROW_ID, STRATUM, TARGET) if name in rows.column_names), *config.columns.fields, SPLIT]
    arrays = {name: rows[name] for name in order} | {POSITION: positions}
    arrays |= {name: rows[name] for name in (GROUP, PARTITION) if name in rows.column_names}
    arrays |= {name: rows[name] for name in rows.column_names if name.startswith(USER_PREFIX)}
    return pa.table(arrays | {ROW_ID: pa.array(names, pa.string())}), refused, places


def _settle_conflicts(
    config: GatherConfig, rows: pa.Table, places: pa.Table | None
) -> tuple[pa.Table, list[dict[str, str]], tuple[int, int]]:
    """(the rows that stay; those that leave for ``refuse.conflicts``; equal ones under several labels, and their rows).

    Over the window's rows as a set: no order changes who stays. Ids were given before, so that none of them shifts.
    """
    if config.learnt.target is not None:
        return rows, [], (0, 0)
    parts = [_equal_digests(part, config.columns.fields) for part in rows.to_batches(BATCH_ROWS)]
    keys = pa.chunked_array(parts, _KEY)
    pairs = pa.table({"key": keys, STRATUM: rows[STRATUM]}).group_by(["key", STRATUM]).aggregate([([], "count_all")])
    strata = pairs.group_by("key").aggregate([("key", "count")])
    several = strata.filter(pc.greater(strata["key_count"], 1))["key"]
    at = pc.indices_nonzero(pc.is_in(keys, several)).to_pylist()
    if config.refuse.conflicts == "keep" or not at:
        return rows, [], (len(several), len(at))
    assert places is not None
    found = pairs.filter(pc.is_in(pairs["key"], several)).to_pylist()
    winners = _winners(found) if config.refuse.conflicts == "majority" else {}
    refused, left = [], set[int]()
    for index in at:
        label = rows[STRATUM][index].as_py()
        if winners.get(keys[index].as_py()) != label:
            left.add(index)
            detail = f"label {label!r}"
            refused.append(_refusal(rows, config.columns.fields, places, index, CONFLICT, detail))
    kept = pa.array([index for index in range(rows.num_rows) if index not in left], pa.int64())
    return rows.take(kept), refused, (0, 0)


def _equal_digests(rows: pa.RecordBatch, fields: tuple[str, ...]) -> pa.Array:
    """Of what equal rows share: 16 bytes each, where what they are made of would be gigabytes over a window."""
    return pa.array([hashlib.blake2b(key, digest_size=16).digest() for key in equal_keys(rows, fields)], _KEY)


def _winners(found: Sequence[dict[str, Any]]) -> dict[bytes, str]:
    """Of each key the label that more of its rows have than any other; where two have as many there is none."""
    by: dict[bytes, list[tuple[int, str]]] = {}
    for pair in found:
        by.setdefault(pair["key"], []).append((pair["count_all"], pair[STRATUM]))
    ranked = {key: sorted(pairs, reverse=True) for key, pairs in by.items()}
    return {key: best[1] for key, (best, second, *_) in ranked.items() if best[0] > second[0]}


def _hashed(stems: Iterable[str], partitions: list[str] | None, seen: Counter[str]) -> Iterable[str]:
    """The hash of the inputs, in a partitioned source of the partition too, and the occurrence: no window changes it."""
    for index, stem in enumerate(stems):
        name = id_within(None if partitions is None else partitions[index], stem)
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}-{seen[name]}"


def _refused(work: Work, window: _Window) -> list[dict[str, str]]:
    rows = [row for unit in window.units for row in work.read(unit.artifact, "refused.parquet").to_pylist()]
    return [{name: row[name] for name in REFUSED_SCHEMA.names} for row in rows if window.holds(row["partition"])]


def _place(window: _Window) -> Any:
    """The order of places: by file as the units have them, then by line or row."""
    files = {name: at for at, name in enumerate(name for unit in window.units for name in unit.about["files"])}
    return lambda row: (files[row["file"]], int(row["location"].rsplit(" ", 1)[-1]), row["reason"])


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
