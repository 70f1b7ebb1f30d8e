"""The rows of one unit of the source: each taken with its class, or refused with place and reason; counts by partition."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import pyarrow as pa

from augmill.tasks.contracts import ROW_ID, STRATUM, USER_PREFIX
from augmill.tasks.problems.labels import class_of, label_text
from augmill.tasks.recipe.sections import Columns, Labels
from augmill.tasks.rows.calendar import Calendar
from augmill.tasks.rows.hashing import TableHasher
from augmill.tasks.rows.kinds.text import canonical, join_fields
from augmill.tasks.rows.schema import GROUP, PARTITION, SPLIT, id_within
from augmill.tasks.sources import RefusedRow, SourceFile, SourceOptions
from augmill.tasks.stages.labels import LabelReader
from augmill.tasks.stages.partitions import MOST, file_value
from augmill.tasks.stages.refusals import too_many_partitions
from augmill.tasks.store.erasure import ERASED, Erased

BAD_PARTITION = "bad_partition"  # why a row is refused whose partition is said, and is none


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
        self.labels = LabelReader(config.labels)
        self.split_names: dict[tuple[type, str], str] = {}  # what the column says, with its type: split
        self.repaired: Counter[str] = Counter()
        self.parts: dict[str, PartitionSeen] = {}  # "": of no partition
        self.partitioned = config.partition is not None or config.columns.partition is not None

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

    def split_of(self, file: SourceFile, value: Any) -> str | None:
        config = self.config
        if config.split_files:
            base = file.name.rsplit("/", 1)[-1]
            hits = [s for s, p in config.split_files.items() if fnmatch(file.name, p) or fnmatch(base, p)]
            return hits[0] if hits else None
        if config.split_column is None:
            return None
        said = (type(value), label_text(value))
        if value is not None and said not in self.split_names:
            named = (split for name, split in config.split_names.items() if class_of(name, value) == said[1])
            self.split_names[said] = next(named, said[1])
        name = self.split_names.get(said)
        return name if name in ("train", "validation", "test") else None

    def is_erased(self, identifier: Any, texts: list[Any], name: str | None) -> bool:
        """Whether the row's id, or that of its texts, is on the list of those that must not come back."""
        stem = row_stem([text or "" for text in texts]) if self.config.columns.id is None else str(identifier)
        within = name if self.partitioned and self.config.columns.id is None else None
        return self.config.erased.holds(id_within(within, stem))

    def refusal(self, texts: list[Any], label: Any, split: str | None, name: str | None) -> tuple[str | None, str]:
        """(class, "") for a row that is taken, (None, reason) for one that is not."""
        if any(text is None or not canonical(text) for text in texts):
            return None, "no_text"
        if any(len(text) > self.config.max_chars for text in texts):
            return None, "too_long"
        stratum, reason, said = self.labels.read(label)
        if said is None:
            return None, reason
        if (self.config.split_column or self.config.split_files) and split is None:
            return None, reason or "unknown_split"
        if self.partitioned and name is None:
            return None, reason or "no_partition"
        # A retired or undeclared label too: its place among the ids stays its own, or those after it would shift.
        self.part(name).labels.setdefault(said, (stratum, self.labels.values.get(str(stratum))))
        return stratum, reason


def row_stem(texts: list[str]) -> str:
    """The hash of the texts, of which gather makes an id."""
    joined = join_fields(canonical(text) for text in texts)
    return hashlib.sha256(joined.encode("utf-8", "replace")).hexdigest()[:32]


@dataclass
class OpenBatch:
    """One batch of one file, as Python values: a list for each column that decides anything."""

    file: SourceFile
    table: pa.Table
    locations: list[str]
    texts: list[list[str | None]]
    labels: list[Any]
    ids: list[Any]
    splits: list[Any]
    names: list[str | None]
    said: list[Any]  # the values that the names were made of
    calendar: Calendar

    def refused(self, index: int, reason: str) -> dict[str, str]:
        about = next((name for name in ("label", "split", "partition") if name in reason), "")
        value = {"label": self.labels, "split": self.splits, "partition": self.said}[about][index] if about else None
        why = f": {self.calendar.why_not(value)}" if reason == BAD_PARTITION else ""
        return {
            "file": self.file.name,
            "location": self.locations[index],
            "reason": reason,
            "detail": "" if value is None else f"{about} {value!r}{why}",
            "row": " | ".join((column[index] or "")[:200] for column in self.texts),
            "partition": self.names[index] or "",
        }


def open_batch(rows: UnitRows, file: SourceFile, table: pa.Table, locations: list[str]) -> OpenBatch:
    columns = rows.config.columns
    texts = [table[name].cast(pa.string()).to_pylist() for name in columns.texts]
    ids, splits = (
        table[name].to_pylist() if name else [None] * table.num_rows for name in (columns.id, rows.config.split_column)
    )
    labels = table[columns.label].to_pylist()
    said = rows.partitions(file, table)
    return OpenBatch(file, table, locations, texts, labels, ids, splits, *said, rows.config.calendar)


def convert(rows: UnitRows, batch: OpenBatch) -> tuple[pa.Table, list[int], list[dict[str, str]]]:
    """(the rows that are taken, as a table; their indices in the batch; the refused ones)."""
    with_id = rows.config.columns.id is not None
    kept: list[int] = []
    out: dict[str, list[Any]] = {ROW_ID: [], STRATUM: [], SPLIT: []}
    refused: list[dict[str, str]] = []
    for index in range(batch.table.num_rows):
        texts, name, before = [column[index] for column in batch.texts], batch.names[index], rows.labels.coerced
        split = rows.split_of(batch.file, batch.splits[index])
        stratum, reason = rows.refusal(texts, batch.labels[index], split, name)
        part = rows.part(name)
        part.coerced += rows.labels.coerced - before
        if reason == "no_partition" and batch.said[index] is not None:
            reason = BAD_PARTITION
        if not reason and with_id and batch.ids[index] in (None, ""):
            reason = "no_id"
        if rows.config.erased.hashes and rows.is_erased(batch.ids[index], texts, name):
            reason = ERASED  # after its label was read: the ids of labels, by first appearance, do not shift
        if reason:
            refused.append(batch.refused(index, reason) | ({"row": ""} if reason == ERASED else {}))
            part.refused[reason] += 1
            continue
        part.taken += 1
        part.classes[str(stratum)] += 1
        kept.append(index)
        row_id = str(batch.ids[index]) if with_id else row_stem([text or "" for text in texts])
        for column, value in ((ROW_ID, row_id), (STRATUM, stratum), (SPLIT, split)):
            out[column].append(value)
    return _assemble(rows, batch, kept, out), kept, refused


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values as texts that differ where the values do; bytes that are no UTF-8 (a hash, a UUID) escaped."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    if not pa.types.is_binary(column.type) and not pa.types.is_fixed_size_binary(column.type):
        return column.cast(pa.string())
    texts = [None if value is None else value.decode("utf-8", "backslashreplace") for value in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _assemble(rows: UnitRows, batch: OpenBatch, kept: list[int], out: dict[str, list[Any]]) -> pa.Table:
    columns = rows.config.columns
    picked = batch.table.take(pa.array(kept, pa.int64()))
    arrays: dict[str, Any] = {
        ROW_ID: pa.array(out[ROW_ID], pa.string()),
        STRATUM: pa.array(out[STRATUM], pa.string()),
        **{
            name: pa.array([column[index] for index in kept], pa.string())
            for name, column in zip(columns.fields, batch.texts, strict=True)
        },
        SPLIT: pa.array(out[SPLIT], pa.string()),
    }
    if columns.group is not None:
        arrays[GROUP] = _as_text(picked[columns.group])
    if rows.partitioned:
        arrays[PARTITION] = pa.array([batch.names[index] for index in kept], pa.string())
    for name in picked.column_names:
        if name not in (*columns.texts, columns.label):
            arrays[f"{USER_PREFIX}{name}"] = picked[name]
    return pa.table(arrays)
