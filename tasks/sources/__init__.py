"""Labelled rows from files: CSV, JSON Lines and Parquet, plain or compressed, local or in an object store.

``list_files`` says which, ``hash_file`` what is in them, ``read_batches`` reads one in bounded memory; a bad row is
handed back with its place and reason, a bad file raises DataError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from augmill.tasks.errors import DataError
from augmill.tasks.registry import Registry
from augmill.tasks.rows.kinds.media import RELEASED, is_media
from augmill.tasks.rows.names import nearest

from .batching import Tally, unify
from .boxes import Coco, Voc
from .columnar import Parquet
from .delimited import DELIMITERS, Delimited, doubt_delimited, find_dialect
from .delta import Delta
from .dialogues import raw_names, raw_schema, split_batches, split_schema, with_reply
from .doubts import Doubt
from .encoding import guess_encoding
from .events import Events
from .files import list_files
from .folder import Folder
from .guess import guess_columns
from .jsonl import JsonLines, doubt_lines
from .lines import find_encoding
from .listing import is_settled, require_unchanged
from .members import fill
from .options import FILES, REASONS, Batch, Reader, RefusedRow, SourceFile, SourceOptions
from .storage import exists, hash_file, open_bytes
from .webdataset import WebDataset

_SHIPPED: dict[str, type[Reader]] = {
    "csv": Delimited,
    "jsonl": JsonLines,
    "parquet": Parquet,
    "delta": Delta,
    "folder": Folder,
    "webdataset": WebDataset,
    "events": Events,
    "coco": Coco,
    "voc": Voc,
}
SOURCES = Registry("source", Reader, _SHIPPED)

__all__ = [
    "REASONS",
    "SOURCES",
    "Batch",
    "Doubt",
    "Reader",
    "RefusedRow",
    "SourceFile",
    "SourceOptions",
    "describe_file",
    "doubt_file",
    "exists",
    "guess_columns",
    "guess_encoding",
    "hash_file",
    "is_settled",
    "list_files",
    "open_bytes",
    "read_batches",
    "read_schema",
    "sample_rows",
    "scan_schema",
]


def describe_file(file: SourceFile, options: SourceOptions) -> dict[str, str]:
    """How the file is read, guesses with their reasons: format, and encoding and delimiter where it is text."""
    out = {"file": file.name, "format": file.format}
    if file.parts:
        return describe_file(file.parts[0], options) | out | {"parts": str(len(file.parts))}
    if file.format == "csv":
        found = find_dialect(file, options)
        out |= {"encoding": found.codec, "encoding_why": found.codec_why}
        return out | {"delimiter": found.delimiter, "delimiter_why": found.delimiter_why}
    if file.format in ("folder", "coco", "voc"):
        return out | {"members": str(len(file.members) // (2 if file.format == "voc" else 1))}  # a picture and its XML
    if file.format == "delta":
        return out | {"version": str(file.version)}
    if file.format == "jsonl":
        codec, why = find_encoding(file, options)
        return out | {"encoding": codec, "encoding_why": why}
    return out


def doubt_file(file: SourceFile, options: SourceOptions) -> Doubt | None:
    """Why the file's columns may not be those one expects, and how to mend it; None where nothing speaks for it."""
    looks = {"csv": doubt_delimited, "jsonl": doubt_lines}
    return looks[file.format](file, options) if file.format in looks else None


def read_schema(file: SourceFile, options: SourceOptions) -> list[str]:
    """Column names in the file's order, then those of its hive partition: the header, the footer or 1,000 lines."""
    names = SOURCES[file.format]().columns(file, options)
    return with_reply(list(dict.fromkeys([*names, *file.partition])), options)


def sample_rows(file: SourceFile, options: SourceOptions, count: int) -> list[dict[str, Any]]:
    """The first readable rows, at most ``count``, with the partition's values."""
    return [{**row, **file.partition} for row in SOURCES[file.format]().sample(file, options, count)]


def scan_schema(files: Sequence[SourceFile], options: SourceOptions) -> pa.Schema:
    """One type for each column of the whole source: give it to ``read_batches`` where there are several files.

    CSV and Parquet: from headers and footers. JSON Lines: from every row (a first pass). Raises DataError where
    types clash between files.
    """
    groups = {kind: [file for file in files if file.format == kind] for kind in _formats(files)}
    parts = [(group, SOURCES[kind]().schema(group, options)) for kind, group in groups.items() if group]
    own = unify([schema for _, schema in parts], [group[0] for group, _ in parts])
    for name in dict.fromkeys(name for file in files for name in file.named):
        own = own.set(own.get_field_index(name), pa.field(name, RELEASED))
    return split_schema(_with_partition(own, {key: "" for file in files for key in file.partition}), options)


def read_batches(
    file: SourceFile,
    options: SourceOptions,
    columns: Sequence[str] | None = None,
    *,
    needed: Sequence[str] = (),
    schema: pa.Schema | None = None,
) -> Iterator[Batch]:
    """The file's rows in order; memory does not grow with the file (a batch is about 8 Mi characters).

    ``columns``: which, None for all; ``needed``: those without which the file is refused; ``schema``: the types, as
    ``scan_schema`` found them over all files (where None, over this file alone: two passes for JSON Lines). A column
    that other files have and this one lacks is null. Partition values are string columns; the path wins over a
    column of that name. Raises DataError for a damaged file or a missing column, naming file, place and remedy;
    ConflictError where the file, read to its end or found damaged, is no longer the one that was listed.
    """
    read = _read if options.dialogue is None else _read_dialogues
    try:
        yield from read(file, options, columns, needed, schema)
    except DataError:
        require_unchanged(file)  # a file that is being written looks damaged
        raise
    require_unchanged(file)


def _read(
    file: SourceFile,
    options: SourceOptions,
    columns: Sequence[str] | None,
    needed: Sequence[str],
    schema: pa.Schema | None,
) -> Iterator[Batch]:
    reader = SOURCES[file.format]()
    present = [*(reader.columns(file, options) if schema is not None and file.format != "jsonl" else [])]
    wanted = _with_partition(schema if schema is not None else scan_schema([file], options), file.partition)
    names = list(dict.fromkeys([*(present or wanted.names), *file.partition]))
    _require([*needed, *(columns or [])], names, file, options)
    if columns is not None:
        wanted = pa.schema([wanted.field(name) for name in dict.fromkeys(columns)])
    inner = pa.schema([_asked(field, file, needed) for field in wanted if field.name not in file.partition])
    tally = Tally(file)
    for batch in _filled(reader.batches(file, options, inner), file, options):
        last = batch.refused[-1] if batch.refused else None
        tally.add(len(batch.locations), len(batch.refused), f"{last.location} ({last.reason})" if last else "")
        yield replace(batch, table=_complete(batch, wanted, file))


def _read_dialogues(
    file: SourceFile,
    options: SourceOptions,
    columns: Sequence[str] | None,
    needed: Sequence[str],
    schema: pa.Schema | None,
) -> Iterator[Batch]:
    """As ``_read``, of a source with a column of dialogues."""
    wanted = schema if schema is not None else scan_schema([file], options)
    own = raw_schema(wanted, SOURCES[file.format](), file, options)
    names = list(dict.fromkeys(wanted.names if columns is None else columns))
    asked, must = (raw_names(each, wanted, options) for each in (names, needed))
    read = _read(file, replace(options, dialogue=None), asked, must, own)
    yield from split_batches(read, wanted, names, options)


def _filled(batches: Iterator[Batch], file: SourceFile, options: SourceOptions) -> Iterator[Batch]:
    """With the files that texts name, where some do."""
    if not file.named:
        yield from batches
        return
    known = {member.name: member for member in file.members}
    for batch in batches:
        yield from fill(batch, file, options, known)


def _asked(field: pa.Field, file: SourceFile, needed: Sequence[str]) -> pa.Field:
    """As the reader is asked for it: the names of files; needed files marked, since they may be longer than texts."""
    if field.name in file.named:
        return pa.field(field.name, pa.string())
    return field.with_metadata(FILES) if field.name in needed and is_media(field.type) else field


def _formats(files: Sequence[SourceFile]) -> list[str]:
    """In the order in which their columns come: those that ship first."""
    return list(dict.fromkeys([*SOURCES, *(file.format for file in files)]))


def _with_partition(schema: pa.Schema, partition: dict[str, str]) -> pa.Schema:
    fields = {field.name: field for field in schema}
    fields |= {key: pa.field(key, pa.string()) for key in partition}
    return pa.schema(list(fields.values()))


def _complete(batch: Batch, wanted: pa.Schema, file: SourceFile) -> pa.Table:
    """The batch with partition values, and nulls for what only other files have."""
    rows = len(batch.locations)
    read = dict(zip(batch.table.column_names, batch.table.columns, strict=True))
    arrays = []
    for field in wanted:
        if field.name in file.partition:
            arrays.append(pa.repeat(pa.scalar(file.partition[field.name], pa.string()), rows))
        elif field.name in read:
            arrays.append(read[field.name])
        else:
            arrays.append(pa.nulls(rows, field.type))
    return pa.table(arrays, schema=wanted)


def _require(names: Sequence[str], present: list[str], file: SourceFile, options: SourceOptions) -> None:
    known = set(present)
    missing = next((name for name in names if name not in known), None)
    if missing is None:
        return
    hint = nearest(missing, present)
    fix = "correct the recipe's columns, or the file"
    if file.format == "csv" and len(present) == 1:
        used = find_dialect(file, options).delimiter
        other = next((mark for mark in DELIMITERS if mark != used and mark in present[0]), None)
        fix = f"set source.delimiter to {other!r}; it was read with {used!r}" if other else fix
    if (doubt := doubt_file(file, options)) is not None:
        hint, fix = f"{hint}; {doubt.problem}", doubt.fix
    raise DataError(f"there is no column {missing!r}; {hint}", where=file.uri, fix=fix)
