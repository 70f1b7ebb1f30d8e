"""Ingest: source files in, typed real rows with stable ids out; what is refused stands apart with its reason."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.tasks.contracts import ROW_ID, STRATUM, USER_PREFIX
from augmill.tasks.hashing import TableHasher
from augmill.tasks.labels import LabelReader, label_text
from augmill.tasks.recipe import Recipe
from augmill.tasks.recipe_sections import Columns, Labels, Refuse
from augmill.tasks.refusals import (
    files_upto,
    no_row_upto,
    no_usable_row,
    require_alike,
    require_columns,
    require_plain,
    require_sound,
)
from augmill.tasks.retries import READ
from augmill.tasks.rows import GROUP, PARTITION, POSITION, SPLIT
from augmill.tasks.sources import (
    SOURCES,
    SourceFile,
    SourceOptions,
    describe_file,
    hash_file,
    list_files,
    read_batches,
    scan_schema,
)
from augmill.tasks.stage import PARQUET, Work, stage
from augmill.tasks.text import canonical, join_fields

REFUSED_SCHEMA = pa.schema([(name, pa.string()) for name in ("file", "location", "reason", "detail", "row")])


@dataclass(frozen=True)
class IngestConfig:
    """What of the recipe and of the source's files decides the ingested rows."""

    files: tuple[dict[str, Any], ...]  # name, sha256 and hive partition of each, in order, and its reader's version
    source: SourceOptions
    columns: Columns
    labels: Labels
    refuse: Refuse
    split_column: str | None
    split_files: dict[str, str]
    split_names: dict[str, str]
    as_of: str | None  # rows of later partitions are as if they were not there (None: all there is)
    handles: tuple[SourceFile, ...] = field(metadata={"identity": False, "why": "where the same bytes are read from"})


def prepare_ingest(recipe: Recipe, as_of: str | None = None) -> IngestConfig:
    """Lists and hashes the source's files; those of a ``key=value`` directory after ``as_of`` are left alone.

    Raises UserError or DataError where there is nothing to read.
    """
    handles = tuple(list_files(recipe.source))
    if as_of is not None:
        handles = files_upto(handles, recipe.columns.partition, as_of)
    files = tuple(
        {
            "name": item.name,
            "sha256": hash_file(item, recipe.source),
            "partition": item.partition,
            "reader": SOURCES[item.format].VERSION,
        }
        for item in handles
    )
    return IngestConfig(
        files=files,
        source=dataclasses.replace(recipe.source, path="-"),
        columns=recipe.columns,
        labels=recipe.labels,
        refuse=recipe.refuse,
        split_column=recipe.splits.column,
        split_files=recipe.splits.files,
        split_names=recipe.splits.names,
        as_of=as_of,
        handles=handles,
    )


class _Rows:
    """Turns batches of source rows into real rows, keeping count of ids, labels and refusals."""

    def __init__(self, config: IngestConfig) -> None:
        self.config = config
        self.labels = LabelReader(config.labels)
        self.seen: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self.position = 0
        self.later: Counter[str] = Counter()  # rows left out, by partition

    def upto(self, table: pa.Table, locations: pa.Array) -> tuple[pa.Table, pa.Array]:
        """The rows of partitions up to ``as_of``, and those without one, which are refused later."""
        name, as_of = self.config.columns.partition, self.config.as_of
        if name is None or as_of is None:
            return table, locations
        partitions = table[name].cast(pa.string())
        for part in pc.unique(partitions).drop_null().to_pylist():
            require_alike(part, as_of)
        later = pc.fill_null(pc.greater(partitions, as_of), False)
        self.later.update(partitions.filter(later).to_pylist())
        kept = pc.invert(later)
        return table.filter(kept), locations.filter(kept.combine_chunks())

    def split_of(self, file: SourceFile, value: Any) -> str | None:
        config = self.config
        if config.split_files:
            base = file.name.rsplit("/", 1)[-1]
            hits = [s for s, p in config.split_files.items() if fnmatch(file.name, p) or fnmatch(base, p)]
            return hits[0] if hits else None
        if config.split_column is None:
            return None
        name = config.split_names.get(label_text(value), label_text(value)) if value is not None else None
        return name if name in ("train", "validation", "test") else None

    def refusal(self, texts: list[Any], label: Any, split: str | None, partition: Any) -> tuple[str | None, str]:
        """(class, "") for a row that is taken, (None, reason) for one that is not."""
        if any(text is None or not canonical(text) for text in texts):
            return None, "no_text"
        if any(len(text) > self.config.refuse.max_chars for text in texts):
            return None, "too_long"
        stratum, reason = self.labels.read(label)
        if not reason and (self.config.split_column or self.config.split_files) and split is None:
            return None, "unknown_split"
        if not reason and self.config.columns.partition is not None and partition is None:
            return None, "no_partition"
        return stratum, reason

    def row_id(self, identifier: Any, texts: list[str], with_id: bool) -> str | None:
        """The id column's value, or the hash of the texts and their occurrence; None for a doubled or missing id."""
        if with_id:
            name = "" if identifier is None else str(identifier)
            self.seen[name] += 1
            return name if name and self.seen[name] == 1 else None
        joined = join_fields(canonical(text) for text in texts)
        digest = hashlib.sha256(joined.encode("utf-8", "replace")).hexdigest()[:32]
        self.seen[digest] += 1
        return digest if self.seen[digest] == 1 else f"{digest}-{self.seen[digest]}"


def _convert(
    rows: _Rows, file: SourceFile, table: pa.Table, locations: list[str]
) -> tuple[pa.Table, list[dict[str, str]]]:
    """One batch: the rows that are taken, as a table, and the refused ones."""
    columns = rows.config.columns
    texts: list[list[str | None]] = [table[name].cast(pa.string()).to_pylist() for name in columns.texts]
    labels = table[columns.label].to_pylist()
    ids, splits, partitions = (
        table[name].to_pylist() if name else [None] * table.num_rows
        for name in (columns.id, rows.config.split_column, columns.partition)
    )
    kept: list[int] = []
    out: dict[str, list[Any]] = {ROW_ID: [], STRATUM: [], SPLIT: [], POSITION: []}
    refused: list[dict[str, str]] = []
    for index in range(table.num_rows):
        row_texts = [column[index] for column in texts]
        split = rows.split_of(file, splits[index])
        stratum, reason = rows.refusal(row_texts, labels[index], split, partitions[index])
        row_id = None if reason else rows.row_id(ids[index], [t or "" for t in row_texts], columns.id is not None)
        if not reason and row_id is None:
            reason = "duplicate_id" if ids[index] not in (None, "") else "no_id"
        if reason:
            about = next((name for name in ("label", "split") if name in reason), "")
            value = {"label": labels, "split": splits}[about][index] if about else None
            detail = "" if value is None else f"{about} {value!r}"
            shown = " | ".join((t or "")[:200] for t in row_texts)
            refused.append(
                {"file": file.name, "location": locations[index], "reason": reason, "detail": detail, "row": shown}
            )
            continue
        kept.append(index)
        for name, value in ((ROW_ID, row_id), (STRATUM, stratum), (SPLIT, split), (POSITION, rows.position)):
            out[name].append(value)
        rows.position += 1
    return _assemble(rows, file, table, kept, out, texts), refused


def _assemble(
    rows: _Rows,
    file: SourceFile,
    table: pa.Table,
    kept: list[int],
    out: dict[str, list[Any]],
    texts: list[list[str | None]],
) -> pa.Table:
    columns = rows.config.columns
    picked = table.take(pa.array(kept, pa.int64()))
    arrays: dict[str, Any] = {
        ROW_ID: pa.array(out[ROW_ID], pa.string()),
        STRATUM: pa.array(out[STRATUM], pa.string()),
        **{
            name: pa.array([column[index] for index in kept], pa.string())
            for name, column in zip(columns.fields, texts, strict=True)
        },
        SPLIT: pa.array(out[SPLIT], pa.string()),
        POSITION: pa.array(out[POSITION], pa.int64()),
    }
    for name, source in ((GROUP, columns.group), (PARTITION, columns.partition)):
        if source is not None:
            arrays[name] = picked[source].cast(pa.string())
    for name in picked.column_names:
        if name not in (*columns.texts, columns.label):
            arrays[f"{USER_PREFIX}{name}"] = picked[name]
    return pa.table(arrays)


def _needed(columns: Columns, split_column: str | None) -> list[str]:
    names = [*columns.texts, columns.label, columns.id, columns.group, columns.partition, split_column]
    return [name for name in dict.fromkeys(names) if name is not None]


@stage("ingest", version=3, retry=READ)
def ingest(work: Work, config: IngestConfig) -> None:
    """Reads every file of the source in order, batch by batch: memory does not grow with the file.

    Rows after ``as_of`` are left out before anything else is done with them: no id, label, share or refusal hangs on
    them. Three things are of all rows of the files read: the columns with their types, a guessed encoding, and the
    refusals of lines that cannot be parsed, for nobody knows their partition; these count for ``refuse.max_share``,
    but are no part of the content.
    Raises DataError past ``refuse.max_share``, with no usable row, or for ``labels.unknown: stop``; UserError where
    no row stands at or before ``as_of``, or ``as_of`` is not written as the partitions are.
    """
    rows = _Rows(config)
    schema = scan_schema(config.handles, config.source)
    require_columns(config.columns, config.split_column, schema.names, config.handles[0], config.source)
    require_plain(config.columns, schema)
    hasher, refused, read = _write_rows(work, rows, schema)
    if hasher is None or not hasher.rows:
        if rows.later and not refused:
            raise no_row_upto(config.as_of or "", min(rows.later))
        raise no_usable_row(config.handles, schema.names, refused)
    require_sound(config.labels, config.refuse, refused, read)
    work.rows = hasher.rows
    work.contents["rows.parquet"] = hasher.hexdigest()
    work.write(pa.Table.from_pylist(refused, REFUSED_SCHEMA), "refused.parquet")
    work.notes.add("refused.parquet")
    work.write(schema.empty_table(), "source.parquet")  # the columns and types that a release gives back
    work.write_json({"values": rows.labels.values, "order": list(rows.labels.values)}, "labels.json")
    work.note(_summary(rows, read, refused), "summary.json")


def _write_rows(work: Work, rows: _Rows, schema: pa.Schema) -> tuple[TableHasher | None, list[dict[str, str]], int]:
    """Writes rows.parquet batch by batch: (its hash, None where there was no batch; the refused rows; rows read)."""
    config = rows.config
    writer: pq.ParquetWriter | None = None
    hasher: TableHasher | None = None
    refused: list[dict[str, str]] = []
    read = 0
    needed = _needed(config.columns, config.split_column)
    try:
        for file in config.handles:
            for batch in read_batches(file, config.source, needed=needed, schema=schema):
                taken, locations = rows.upto(batch.table, batch.locations)
                table, bad = _convert(rows, file, taken, locations.to_pylist())
                rows.repaired.update(batch.repaired)
                refused += bad
                refused += [
                    {"file": file.name, "location": r.location, "reason": r.reason, "detail": r.detail, "row": ""}
                    for r in batch.refused
                ]
                read += taken.num_rows + len(batch.refused)
                if writer is None or hasher is None:
                    writer = pq.ParquetWriter(work.directory / "rows.parquet", table.schema, **PARQUET)
                    hasher = TableHasher(table.schema)
                writer.write_table(table)
                hasher.update(table)
    finally:
        if writer is not None:
            writer.close()
    return hasher, refused, read


def _summary(rows: _Rows, read: int, refused: list[dict[str, str]]) -> dict[str, Any]:
    config = rows.config
    return {
        "files": [item["name"] for item in config.files],
        "read_as": [describe_file(file, config.source) for file in config.handles[:20]],
        "read": read,
        "later": rows.later.total(),
        "taken": rows.position,
        "refused": dict(sorted(Counter(item["reason"] for item in refused).items())),
        "labels_coerced_from_float": rows.labels.coerced,
        "repaired": dict(sorted(rows.repaired.items())),
        "examples": refused[:20],
    }
