"""The rows of one unit of the source: each taken with its class, or refused with place and reason; counts by partition."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import pyarrow as pa

from augmill.tasks.contracts import FIRST_PROBLEM, ROW_ID, STRATUM, TARGET, USER_PREFIX, ReadLimits, ReadTarget
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.problems.classification import Labels
from augmill.tasks.recipe.sections import Columns
from augmill.tasks.rows.calendar import Calendar
from augmill.tasks.rows.hashing import TableHasher
from augmill.tasks.rows.kinds import stems
from augmill.tasks.rows.names import name_meant, name_of
from augmill.tasks.rows.schema import GROUP, PARTITION, SPLIT, id_within, is_media, titles
from augmill.tasks.sources import Batch, RefusedRow, SourceFile, SourceOptions
from augmill.tasks.stages.partitions import MOST, file_value
from augmill.tasks.stages.refusals import too_many_partitions
from augmill.tasks.stages.user_columns import read_fields, taken_over
from augmill.tasks.store.erasure import ERASED, Erased

MOST_READS = 10_000  # labels that are kept as they were read
BAD_PARTITION = "bad_partition"  # why a row is refused whose partition is said, and is none
# Reasons that are neither of a row's inputs nor of its target, with what they are about.
OF_THE_ROW = {
    "unknown_split": "split",
    "no_partition": "partition",
    BAD_PARTITION: "partition",
    "no_id": "",
    ERASED: "",
}


@dataclass(frozen=True)
class IngestConfig:
    """What of the recipe and of a unit's files decides its rows."""

    files: tuple[dict[str, Any], ...]  # name, sha256 and hive partition of each, in order, and its reader's version
    source: SourceOptions
    columns: Columns
    labels: Labels
    max_chars: int
    split_column: str | None
    split_files: dict[str, str]
    split_names: dict[str, str]
    calendar: Calendar
    pattern: str | None
    partition: str | None  # of all rows; "" where it is none; None where a column says it, or there are no partitions
    handles: tuple[SourceFile, ...] = field(metadata={"identity": False, "why": "where the same bytes are read from"})
    erased: Erased = Erased()
    places: bool = field(default=False, metadata={"later": True})  # whether places.parquet is written without ids too
    reading: int = field(default=1, metadata={"later": True})  # 2: names such as 1.0 and True are found by their value
    problem: str = field(default=FIRST_PROBLEM, metadata={"later": True})  # its name
    versions: dict[str, int | str] | None = field(default=None, metadata={"later": True})  # of kinds and problem


@dataclass
class PartitionSeen:
    """What was seen of one partition: counts, labels in order of first appearance, its rows' hash."""

    read: int = 0
    taken: int = 0
    coerced: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    labels: dict[str, tuple[str | None, Any]] = field(default_factory=dict)  # by the source's name: class, value
    classes: Counter[str] = field(default_factory=Counter)
    hasher: TableHasher | None = None

    def to_json(self) -> dict[str, Any]:
        revision = self.hasher.hexdigest()[:16] if self.hasher is not None else ""
        counts = {"read": self.read, "taken": self.taken, "coerced": self.coerced, "revision": revision}
        return counts | {
            "refused": dict(sorted(self.refused.items())),
            "labels": [[said, *read] for said, read in self.labels.items()],
            "classes": dict(self.classes),
        }


class UnitRows:
    """Turns batches of source rows into real rows, keeping count of labels and refusals by partition."""

    def __init__(self, config: IngestConfig) -> None:
        self.config = config
        self.problem = PROBLEMS[config.problem]
        self.targets = self.problem.reader(config.labels)
        self.targets.limits = ReadLimits(config.max_chars, config.source.max_file_bytes)
        self.taken_over = taken_over(config.columns, self.problem)
        self.split_names: dict[tuple[type, str], str] = {}  # what the column says, with its type: split
        self.repaired: Counter[str] = Counter()
        self.parts: dict[str, PartitionSeen] = {}  # "": of no partition
        self.partitioned = config.partition is not None or config.columns.partition is not None
        self.given = bool(config.split_files or config.split_column)
        self._reads: dict[tuple[type, Any, str | None, str | None], ReadTarget] = {}

    def part(self, name: str | None) -> PartitionSeen:
        return self.parts.get(name or "") or self.parts.setdefault(name or "", PartitionSeen())  # two a row

    def partitions(self, file: SourceFile, table: pa.Table) -> tuple[list[str | None], list[Any]]:
        """(the partition of each row, what was said of it)."""
        config, column = self.config, self.config.columns.partition
        if config.partition is not None:
            said = file_value(file, column, config.pattern, config.calendar)
            return [config.partition or None] * table.num_rows, [file.name if said is None else said] * table.num_rows
        if column is None:
            return [None] * table.num_rows, [None] * table.num_rows
        values = table[column].to_pylist()
        if not config.calendar.dated:
            return [name or None for name in table[column].cast(pa.string()).to_pylist()], values
        names = {value: config.calendar.name_of(value) for value in set(values)}
        return [names[value] for value in values], values

    def see(self, table: pa.Table, names: list[str | None]) -> None:
        """Counts and hashes the source's own rows, taken or not: a partition's revision hangs on nothing but them."""
        if len(set(names)) <= 1:
            groups = {names[0] or "": table} if names else {}
        else:
            at: dict[str, list[int]] = {}
            for index, name in enumerate(names):
                at.setdefault(name or "", []).append(index)
            groups = {name: table.take(pa.array(rows, pa.int64())) for name, rows in at.items()}
        for name, rows in groups.items():
            part = self.part(name)
            part.read += rows.num_rows
            part.hasher = part.hasher or TableHasher(rows.schema)
            part.hasher.update(rows)
        if len(self.parts) > MOST:
            raise too_many_partitions(self.config.columns.partition or "", MOST, self.config.handles[0])

    def unread(self, file: SourceFile, lines: list[RefusedRow]) -> list[dict[str, str]]:
        """The refusals of what cannot be parsed, counted: nobody knows what its column of partitions says."""
        name = self.config.partition or ""
        for line in lines:
            self.part(name).read += 1
            self.part(name).refused[line.reason] += 1
        return [
            {"file": file.name, "location": line.location, "reason": line.reason, "detail": line.detail, "row": ""}
            | {"partition": name}
            for line in lines
        ]

    def split_of(self, file: str, value: Any) -> str | None:
        """``file``: the name of the row's own."""
        config = self.config
        if config.split_files:
            base = file.rsplit("/", 1)[-1]
            hits = [s for s, p in config.split_files.items() if fnmatch(file, p) or fnmatch(base, p)]
            return hits[0] if hits else None
        if config.split_column is None:
            return None
        said = (type(value), name_of(value))
        if value is not None and said not in self.split_names:
            named = (split for name, split in config.split_names.items() if name_meant(name, value) == said[1])
            self.split_names[said] = next(named, said[1])
        name = self.split_names.get(said)
        return name if name in ("train", "validation", "test") else None

    def is_erased(self, identifier: Any, stem: str, name: str | None) -> bool:
        """Whether the row's id, or the one made of its inputs' hash, is on the list of those that must not come back."""
        stem = stem if self.config.columns.id is None else str(identifier)
        within = name if self.partitioned and self.config.columns.id is None else None
        return self.config.erased.holds(id_within(within, stem))

    def read(self, unread: str | None, target: Any, split: str | None, name: str | None) -> ReadTarget:
        """As ``refusal``, with what it coerced counted. Labels are few, so that each is looked at once."""
        if unread is None and self.problem.target is None and type(target) in (str, int, bool):
            key = (type(target), target, split, name)
            found = self._reads.get(key)
            if found is None:
                if len(self._reads) >= MOST_READS:
                    self._reads.clear()
                found = self._reads[key] = self.refusal(None, target, split, name)
            return found
        before = self.targets.coerced
        found = self.refusal(unread, target, split, name)
        self.part(name).coerced += self.targets.coerced - before
        return found

    def take(self, names: list[str | None], strata: list[str]) -> None:
        """Counts rows that are taken, by partition and class."""
        if len(set(names)) == 1:
            part = self.part(names[0])
            part.taken += len(names)
            part.classes.update(strata)
            return
        for name, stratum in zip(names, strata, strict=True):
            part = self.part(name)
            part.taken += 1
            part.classes[stratum] += 1

    def refusal(self, unread: str | None, target: Any, split: str | None, name: str | None) -> ReadTarget:
        """The row's target as read, with the reason why the row is refused. ``unread``: that of its inputs."""
        if unread is not None:
            return ReadTarget(None, None, unread, None)
        read = self.targets.read(target)
        if read.said is None:
            return read
        reason = read.reason
        if (self.config.split_column or self.config.split_files) and split is None:
            return dataclasses.replace(read, stratum=None, reason=reason or "unknown_split")
        if self.partitioned and name is None:
            return dataclasses.replace(read, stratum=None, reason=reason or "no_partition")
        # A retired or undeclared label too: its place among the ids stays its own, or those after it would shift.
        if self.problem.target is None:
            value = self.targets.values.get(str(read.stratum))
            self.part(name).labels.setdefault(read.said, (read.stratum, value))
        return read


@dataclass
class OpenBatch:
    """One batch of one file: its inputs as fields, and as Python values a list for each column that decides anything."""

    file: SourceFile
    table: pa.Table
    locations: list[str]
    columns: Columns
    fields: pa.Table
    unread: list[str | None]  # why the inputs of a row are refused
    targets: list[Any]
    ids: list[Any]
    splits: list[Any]
    names: list[str | None]
    said: list[Any]  # the values that the names were made of
    calendar: Calendar
    files: list[str] | None = None  # of a directory that is read as one the file that each row is

    def refused(self, index: int, reason: str) -> dict[str, str]:
        about = OF_THE_ROW.get(reason, "" if self.unread[index] else self.columns.answer_type)
        values = {"": None, "split": self.splits, "partition": self.said}.get(about, self.targets)
        value = values and values[index]
        why = f": {self.calendar.why_not(value)}" if reason == BAD_PARTITION else ""
        inputs = [_shown(self.table[name], index) for name in self.columns.sources]
        return {
            "file": self.file.name,
            "location": self.locations[index],
            "reason": reason,
            "detail": "" if value is None else f"{about} {value!r}{why}",
            "row": " | ".join(inputs),
            "partition": self.names[index] or "",
        }


def _shown(column: pa.ChunkedArray, index: int) -> str:
    """What a refused row's value is called: of a file its name, or its hash and size, never what is in it."""
    if is_media(column.type):
        return str(titles(column.slice(index, 1))[0] or "")[:200]
    value = column[index].as_py()
    return "" if value is None else str(value)[:200]


def open_batch(rows: UnitRows, file: SourceFile, batch: Batch) -> OpenBatch:
    table, locations = batch.table, batch.locations.to_pylist()
    columns = rows.config.columns
    fields, unread = read_fields(table, columns, ReadLimits(rows.config.max_chars, rows.config.source.max_file_bytes))
    ids, splits = (
        table[name].to_pylist() if name else [None] * table.num_rows for name in (columns.id, rows.config.split_column)
    )
    targets = table[columns.answer].to_pylist()
    said = rows.partitions(file, table)
    decided = (targets, ids, splits, *said)
    return OpenBatch(file, table, locations, columns, fields, unread, *decided, rows.config.calendar, batch.names)


def convert(rows: UnitRows, batch: OpenBatch) -> tuple[pa.Table, list[int], list[dict[str, str]]]:
    """(the rows that are taken, as a table; their indices in the batch; the refused ones)."""
    with_id, erased = rows.config.columns.id is not None, bool(rows.config.erased.hashes)
    hashes = stems(batch.fields, rows.config.columns.fields) if erased or not with_id else [""] * batch.table.num_rows
    kept, reads, splits = list[int](), list[ReadTarget](), list[str | None]()
    refused: list[dict[str, str]] = []
    said = zip(batch.unread, batch.targets, batch.splits, batch.names, strict=True)
    for index, (unread, target, asked, name) in enumerate(said):
        file = batch.file.name if batch.files is None else batch.files[index]
        split = rows.split_of(file, asked) if rows.given else None
        read = rows.read(unread, target, split, name)
        reason = read.reason
        if reason or with_id or erased:
            reason = _reason(rows, batch, index, reason, hashes[index])
        if reason:
            refused.append(batch.refused(index, reason) | ({"row": ""} if reason == ERASED else {}))
            rows.part(name).refused[reason] += 1
            continue
        kept.append(index)
        reads.append(read)
        splits.append(split)
    unfit = rows.problem.misfits(batch.fields.take(pa.array(kept, pa.int64())), [read.value for read in reads])
    if any(unfit):
        for index, why in zip(kept, unfit, strict=True):
            if why:
                refused.append(batch.refused(index, why))
                rows.part(batch.names[index]).refused[why] += 1
        fit = [at for at, why in enumerate(unfit) if not why]
        kept, reads, splits = [kept[at] for at in fit], [reads[at] for at in fit], [splits[at] for at in fit]
    rows.take([batch.names[index] for index in kept], [str(read.stratum) for read in reads])
    own: dict[str, list[Any]] = {
        ROW_ID: [str(batch.ids[index]) if with_id else hashes[index] for index in kept],
        STRATUM: [read.stratum for read in reads],
        TARGET: [read.value for read in reads],
        SPLIT: splits,
    }
    return _assemble(rows, batch, kept, own), kept, refused


def _reason(rows: UnitRows, batch: OpenBatch, index: int, reason: str, stem: str) -> str:
    """Why the row is refused, ``reason`` being what its inputs and its target say; "" where it is not."""
    if reason == "no_partition" and batch.said[index] is not None:
        reason = BAD_PARTITION
    if not reason and rows.config.columns.id is not None and batch.ids[index] in (None, ""):
        reason = "no_id"
    if rows.config.erased.hashes and rows.is_erased(batch.ids[index], stem, batch.names[index]):
        reason = ERASED  # after its label was read: the ids of labels, by first appearance, do not shift
    return reason


def _as_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values as strings that differ where the values do; bytes that are no UTF-8 (a hash, a UUID) escaped."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    if not pa.types.is_binary(column.type) and not pa.types.is_fixed_size_binary(column.type):
        return column.cast(pa.string())
    strings = [None if value is None else value.decode("utf-8", "backslashreplace") for value in column.to_pylist()]
    return pa.chunked_array([pa.array(strings, pa.string())])


def _assemble(rows: UnitRows, batch: OpenBatch, kept: list[int], out: dict[str, list[Any]]) -> pa.Table:
    columns, target = rows.config.columns, rows.problem.target
    at = pa.array(kept, pa.int64())
    picked, fields = batch.table.take(at), batch.fields.take(at)
    arrays: dict[str, Any] = {
        ROW_ID: pa.array(out[ROW_ID], pa.string()),
        STRATUM: pa.array(out[STRATUM], pa.string()),
        **({} if target is None else {TARGET: pa.array(out[TARGET], target)}),
        **dict(zip(fields.column_names, fields.columns, strict=True)),
        SPLIT: pa.array(out[SPLIT], pa.string()),
    }
    if columns.group is not None:
        arrays[GROUP] = _as_strings(picked[columns.group])
    if rows.partitioned:
        arrays[PARTITION] = pa.array([batch.names[index] for index in kept], pa.string())
    for name in picked.column_names:
        if name not in rows.taken_over:
            arrays[f"{USER_PREFIX}{name}"] = picked[name]
    return pa.table(arrays)
