"""Parquet files, whose types are kept. Dictionary columns come as their values, large and view strings as strings.

A file is small on the disk and may be vast when it is read: what its pages would unpack to is told before they are
(tasks/boundary/parquet.py), and a text that a dictionary repeats is measured before it is repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.boundary.parquet import Sizes, Unpacked, damaged, is_text, plain_schema, read_tables
from augmill.tasks.errors import DataError

from .batching import BATCH_CELLS, BATCH_CHARACTERS, BATCH_ROWS, make_batch, unify
from .clean import Numbers
from .magic import HEAD, foreign
from .options import FILES, Batch, Reader, SourceFile, SourceOptions
from .repair import Refusal, mend
from .storage import open_bytes, reaching

ROW_LIMIT = 16 << 20  # bytes of a row's cells together, as of a line of text


class Parquet(Reader):
    """Every cell that is text is checked: Parquet promises UTF-8, and some writers do not keep the promise."""

    VERSION = 2  # 2: cut by decoded bytes; views of text inside nested columns; decimals may be labels
    noun = "row"

    def columns(self, file: SourceFile, options: SourceOptions) -> list[str]:
        return list(self.schema([file], options).names)

    def schema(self, files: Sequence[SourceFile], options: SourceOptions) -> pa.Schema:
        return unify([_schema(file) for file in files], files)

    def batches(self, file: SourceFile, options: SourceOptions, schema: pa.Schema) -> Iterator[Batch]:
        present = set(_schema(file).names)
        wanted = pa.schema([field for field in schema if field.name in present])
        files = {field.name for field in wanted if field.metadata == FILES}
        repaired: Counter[str] = Counter()
        row, first = 1, True
        read = Unpacked(file.uri, file.size)
        with _damage(file), open_bytes(file.uri) as stream:
            for table, sizes in read_tables(stream, file.uri, wanted.names, BATCH_ROWS, BATCH_CELLS):
                for part, numbers, refused in _split(table, sizes, files, options, row, read):
                    first = False
                    yield _clean(_cast(part, wanted, file), numbers, refused, options, repaired)
                row += table.num_rows
        if first:
            yield make_batch(wanted.empty_table(), "row", [], [], repaired)

    def sample(self, file: SourceFile, options: SourceOptions, count: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for batch in self.batches(file, options, _schema(file)):
            rows += batch.table.slice(0, count - len(rows)).to_pylist()
            if len(rows) >= count:
                break
        return rows


@contextmanager
def _damage(file: SourceFile) -> Iterator[None]:
    with reaching(file.uri):
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's complaint, not the decoder's
                raise
            raise _unreadable(file, error) from error


def _unreadable(file: SourceFile, error: Exception) -> DataError:
    with open_bytes(file.uri) as stream:
        found = foreign(stream.read(HEAD))
    if found and found[0] != "a Parquet file":
        return DataError(f"expected a Parquet file, found {found[0]}", where=file.uri, fix=found[1])
    return damaged(error, file.uri, f" of {file.size:,} bytes")


def _schema(file: SourceFile) -> pa.Schema:
    with _damage(file), open_bytes(file.uri) as stream:
        return plain_schema(stream, file.uri)


def _split(
    table: pa.Table, sizes: Sizes, files: set[str], options: SourceOptions, row: int, read: Unpacked
) -> Iterator[tuple[pa.Table, Numbers, list[tuple[int, Refusal]]]]:
    """(rows, their numbers, those refused) in pieces of about 8 MiB as they will be decoded; ``row``: the first's number.

    A row is refused for a cell of more than ``max_cell_bytes``, a file of more than ``max_file_bytes``, and for more than
    ROW_LIMIT in all but its files.
    """
    total, beside, bad = np.zeros(table.num_rows, np.int64), np.zeros(table.num_rows, np.int64), dict[int, Refusal]()
    for name, own in sizes.items():
        total += own
        beside += own * (name in files)
        if name in files:
            reason, most = "file_too_large", options.max_file_bytes
        elif is_text(table.schema.field(name).type):
            reason, most = "cell_too_long", options.max_cell_bytes
        else:
            continue
        for index in np.flatnonzero(own > most).tolist():
            found = f"{own[index]:,} bytes, at most {most:,} are allowed"
            bad.setdefault(index, Refusal(reason, f"column {name!r}: {found}"))
    for index in np.flatnonzero(total - beside > ROW_LIMIT).tolist():
        found = f"the row has {total[index]:,} bytes, at most {ROW_LIMIT:,} are allowed"
        bad.setdefault(index, Refusal("cell_too_long", found))
    kept, refused = np.arange(table.num_rows), [(row + index, bad[index]) for index in sorted(bad)]
    if bad:
        kept = np.setdiff1d(kept, sorted(bad))
        table, total = table.take(pa.array(kept)), total[kept]
    read.add(int(total.sum()))
    ends = np.cumsum(total)
    start = 0
    while start < table.num_rows or refused:
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BATCH_CHARACTERS, "right")))
        yield table.slice(start, stop - start), row + kept[start:stop], refused
        start, refused = stop, []


def _cast(table: pa.Table, wanted: pa.Schema, file: SourceFile) -> pa.Table:
    """In the wanted types. A cast to string checks no bytes, so that ``_clean`` can name the bad row."""
    if table.schema.equals(wanted):
        return table
    try:
        columns = dict(zip(table.column_names, table.columns, strict=True))
        return pa.table([columns[field.name].cast(field.type) for field in wanted], schema=wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"a column does not fit the type of the other files: {error}", where=file.uri, fix="make the files agree"
        ) from error


def _clean(
    table: pa.Table,
    numbers: Numbers,
    refused: list[tuple[int, Refusal]],
    options: SourceOptions,
    repaired: Counter[str],
) -> Batch:
    bad: dict[int, Refusal] = {}
    for position, field in enumerate(table.schema):
        if not pa.types.is_string(field.type):
            continue
        raw = table[field.name].combine_chunks().cast(pa.binary())
        found = _suspects(raw, options)
        if not found:
            continue
        values = raw.to_pylist()
        for index in found:
            text = mend(values[index].decode("utf-8", "surrogateescape"), options, repaired)
            if isinstance(text, Refusal):
                bad.setdefault(index, Refusal(text.reason, f"column {field.name!r}: {text.detail}"))
            values[index] = None if isinstance(text, Refusal) else text.encode()
        table = table.set_column(position, field, pa.array(values, pa.binary()).cast(pa.string()))
    return make_batch(table, "row", numbers, refused, repaired, dict(sorted(bad.items())))


def _suspects(raw: pa.Array, options: SourceOptions) -> list[int]:
    """Indexes of cells that ``mend`` may change or refuse."""
    if not len(raw) or _is_plain(raw, options):
        return []
    mask = pc.greater(pc.binary_length(raw), options.max_cell_bytes)
    for mark in (b"\x00", b"\xef\xbb\xbf"):
        mask = pc.or_(mask, pc.match_substring(raw, mark))
    found = set(pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist())
    try:
        pa.Array.from_buffers(pa.string(), len(raw), raw.buffers(), offset=raw.offset).validate(full=True)
    except pa.ArrowInvalid:
        found |= {index for index, value in enumerate(raw.to_pylist()) if value is not None and not _is_utf8(value)}
    return sorted(found)


def _is_plain(raw: pa.Array, options: SourceOptions) -> bool:
    """Whether no cell is a suspect, by the bytes of all together: 20 times faster than a kernel for each mark."""
    _, offsets, data = raw.buffers()
    ends = np.frombuffer(offsets, np.int32)[raw.offset : raw.offset + len(raw) + 1]
    if data is None or ends[0] == ends[-1]:
        return True
    text = bytes(memoryview(data)[ends[0] : ends[-1]])
    if int(np.diff(ends).max()) > options.max_cell_bytes or b"\x00" in text:
        return False
    if text.isascii():
        return True
    starts = np.frombuffer(text, np.uint8)[ends[:-1][ends[:-1] < ends[-1]] - ends[0]]
    if bool(
        (starts & 0xC0 == 0x80).any()
    ):  # a cell that begins within a character, which the cell before it did not end
        return False
    try:
        return "\ufeff" not in text.decode()
    except UnicodeDecodeError:
        return False


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
