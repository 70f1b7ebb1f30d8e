"""Parquet: types are the file's own. Dictionary columns come as their values, large and view strings as strings.

A file is small on the disk and may be vast when it is read: what its pages would unpack to is told before they are
(pages.py), and a text that a dictionary repeats is measured before it is repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.tasks.contracts import DataError

from .batching import BATCH_CELLS, BATCH_CHARACTERS, BATCH_ROWS, Parsed, Unpacked, make_batch, unify
from .options import Batch, Reader, SourceFile, SourceOptions
from .pages import FOOTER, Chunk, check_footer, measure
from .repair import Refusal, mend
from .storage import open_bytes, reaching

Sizes = dict[str, npt.NDArray[np.int64]]  # by column: the bytes of each row's cell
ROW_LIMIT = 16 << 20  # bytes of a row's cells together, as of a line of text
MAX_ITEMS = 1_000_000  # in any list of the footer


class Parquet(Reader):
    """Every cell that is text is checked: Parquet promises UTF-8, and some writers do not keep the promise."""

    VERSION = 2
    noun = "row"

    def columns(self, file: SourceFile, options: SourceOptions) -> list[str]:
        return list(self.schema([file], options).names)

    def schema(self, files: Sequence[SourceFile], options: SourceOptions) -> pa.Schema:
        return unify([_schema(file) for file in files], files)

    def batches(self, file: SourceFile, options: SourceOptions, schema: pa.Schema) -> Iterator[Batch]:
        present = set(_schema(file).names)
        wanted = pa.schema([field for field in schema if field.name in present])
        repaired: Counter[str] = Counter()
        row, first = 1, True
        read = Unpacked(file)
        for table, sizes in _tables(file, wanted.names):
            for part, numbers, refused in _split(table, sizes, options, row, read):
                first = False
                parsed: Parsed[None] = Parsed(numbers=numbers, refused=refused)
                yield _clean(_cast(part, wanted, file), parsed, options, repaired)
            row += table.num_rows
        if first:
            yield make_batch(wanted.empty_table(), "row", Parsed(), repaired)

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
        except pa.ArrowException as error:
            raise _unreadable(file, error) from error
        except OSError as error:
            if error.errno is None:  # the decoder's own complaint (a corrupt page), not the disk's
                raise _unreadable(file, error) from error
            raise


def _unreadable(file: SourceFile, error: Exception) -> DataError:
    problem = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"expected a whole Parquet file of {file.size:,} bytes, found a damaged or cut one: {problem}",
        where=file.uri,
        fix="write or upload it again, or set source.format to what it is",
    )


def _schema(file: SourceFile) -> pa.Schema:
    with _damage(file), open_bytes(file.uri) as stream:
        check_footer(stream, file.uri)
        schema = _open(stream).schema_arrow
    doubled = [name for name, count in Counter(schema.names).items() if count > 1]
    if doubled:
        raise DataError(f"the column {doubled[0]!r} stands twice", where=file.uri, fix="give each column one name")
    return pa.schema([pa.field(field.name, _plain(field.type)) for field in schema])


def _open(stream: BinaryIO, **more: Any) -> pq.ParquetFile:
    return pq.ParquetFile(stream, thrift_string_size_limit=FOOTER, thrift_container_size_limit=MAX_ITEMS, **more)


def _tables(file: SourceFile, names: list[str]) -> Iterator[tuple[pa.Table, Sizes]]:
    """The rows as they are stored, some at a time: a text that a dictionary repeats stands in the dictionary alone.

    With the bytes of each cell as it will be. Raises DataError for a decompression bomb.
    """
    with _damage(file), open_bytes(file.uri) as stream:
        held = Unpacked(replace(file, size=stream.seek(0, 2)))  # a table's log may lie
        stream.seek(0)
        plain, keeping = _open(stream), dict[frozenset[str], pq.ParquetFile]()
        for group in range(plain.metadata.num_row_groups):
            if plain.metadata.row_group(group).num_rows == 0:  # has no pages
                continue
            chunks = measure(stream, plain, group, set(names), held)
            kept = frozenset(chunk.path for chunk in chunks if chunk.keeps_dictionary)
            if kept not in keeping:  # for most files once
                keeping = {kept: _open(stream, metadata=plain.metadata, read_dictionary=sorted(kept))}
            rows = left = plain.metadata.row_group(group).num_rows
            _require_whole(chunks, rows, file)
            for batch in keeping[kept].iter_batches(_step(chunks, rows), row_groups=[group], columns=names):
                table = pa.Table.from_batches([batch])
                columns = zip(names, table.columns, strict=True)
                yield table, {name: decoded_bytes(column.chunk(0)) for name, column in columns}
                left -= table.num_rows
            if left:
                raise _unreadable(file, pa.ArrowInvalid(f"{left:,} of {rows:,} rows are not there"))


def _require_whole(chunks: Sequence[Chunk], rows: int, file: SourceFile) -> None:
    """Raises DataError where the pages hold other rows than the footer says; of lists nobody knows before they are read."""
    for chunk in chunks:
        if not chunk.nested and chunk.values != rows:
            problem = f"column {chunk.path!r} holds {chunk.values:,} values for {rows:,} rows"
            raise _unreadable(file, pa.ArrowInvalid(problem))


def _step(chunks: Sequence[Chunk], rows: int) -> int:
    """Rows to decode at once, for about 8 MiB: before the texts of dictionaries are repeated."""
    sizes = (chunk.width * chunk.values + chunk.pages * (not chunk.keeps_dictionary) for chunk in chunks)
    by_size = BATCH_CHARACTERS * rows // max(sum(sizes), 1)
    by_longest = BATCH_CHARACTERS // max(sum(chunk.longest for chunk in chunks), 1)
    return int(max(1, min(BATCH_ROWS, BATCH_CELLS // max(len(chunks), 1), by_size, by_longest)))


def _split(
    table: pa.Table, sizes: Sizes, options: SourceOptions, row: int, read: Unpacked
) -> Iterator[tuple[pa.Table, list[int], list[tuple[int, Refusal]]]]:
    """(rows, their numbers, those refused) in pieces of about 8 MiB as they will be decoded; ``row``: the first's number.

    A row is refused for a cell of more than ``max_cell_bytes``, and for more than ROW_LIMIT in all.
    """
    total, bad = np.zeros(table.num_rows, np.int64), dict[int, Refusal]()
    for name, own in sizes.items():
        total += own
        if is_text(table.schema.field(name).type):
            for index in np.flatnonzero(own > options.max_cell_bytes).tolist():
                found = f"{own[index]:,} bytes, at most {options.max_cell_bytes:,} are allowed"
                bad.setdefault(index, Refusal("cell_too_long", f"column {name!r}: {found}"))
    for index in np.flatnonzero(total > ROW_LIMIT).tolist():
        found = f"the row has {total[index]:,} bytes, at most {ROW_LIMIT:,} are allowed"
        bad.setdefault(index, Refusal("cell_too_long", found))
    kept = np.setdiff1d(np.arange(table.num_rows), sorted(bad))
    refused = [(row + index, bad[index]) for index in sorted(bad)]
    if bad:
        table, total = table.take(pa.array(kept)), total[kept]
    read.add(int(total.sum()))
    ends = np.cumsum(total)
    start = 0
    while start < table.num_rows or refused:
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BATCH_CHARACTERS, "right")))
        yield table.slice(start, stop - start), (row + kept[start:stop]).tolist(), refused
        start, refused = stop, []


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without what is encoding, not data."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    return _plain_inside(kind)


def _plain_inside(kind: pa.DataType) -> pa.DataType:
    """Of lists, maps and structs: without dictionaries and views, to which no dictionary can be cast."""

    def inside(field: pa.Field) -> pa.Field:
        is_encoded = pa.types.is_dictionary(field.type) or "_view" in str(field.type)
        return field.with_type(_plain(field.type) if is_encoded else _plain_inside(field.type))

    if pa.types.is_struct(kind):
        return pa.struct([inside(field) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(inside(kind.key_field), inside(kind.item_field), kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inside(kind.value_field), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(inside(kind.value_field))
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(inside(kind.value_field))
    return kind


def decoded_bytes(array: pa.Array) -> npt.NDArray[np.int64]:
    """Bytes that each value would take without its dictionary, with all that is nested in it."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        sizes = np.append(decoded_bytes(array.dictionary), 0)
        return sizes[array.indices.cast(pa.int64()).fill_null(len(sizes) - 1).to_numpy(zero_copy_only=False)]
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return decoded_bytes(array.cast(pa.large_binary()))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pc.binary_length(array).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return decoded_bytes(array.cast(pa.large_list(kind.value_type)))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        ends = np.concatenate([[0], np.cumsum(decoded_bytes(array.values))])
        return np.diff(ends[array.offsets.to_numpy()])
    if pa.types.is_fixed_size_list(kind):
        inner = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        return decoded_bytes(inner).reshape(len(array), kind.list_size).sum(axis=1, dtype=np.int64)
    if pa.types.is_struct(kind):
        return sum((decoded_bytes(part) for part in array.flatten()), np.zeros(len(array), np.int64))
    if isinstance(kind, pa.BaseExtensionType):
        return decoded_bytes(array.storage)
    return np.full(len(array), 0 if pa.types.is_null(kind) else max(1, kind.bit_width // 8), np.int64)


def is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


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


def _clean(table: pa.Table, parsed: Parsed[None], options: SourceOptions, repaired: Counter[str]) -> Batch:
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
    return make_batch(table, "row", parsed, repaired, dict(sorted(bad.items())))


def _suspects(raw: pa.Array, options: SourceOptions) -> list[int]:
    """Indexes of cells that ``mend`` may change or refuse."""
    mask = pc.greater(pc.binary_length(raw), options.max_cell_bytes)
    for mark in (b"\x00", b"\xef\xbb\xbf"):
        mask = pc.or_(mask, pc.match_substring(raw, mark))
    found = set(pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist())
    try:
        pa.Array.from_buffers(pa.string(), len(raw), raw.buffers(), offset=raw.offset).validate(full=True)
    except pa.ArrowInvalid:
        found |= {index for index, value in enumerate(raw.to_pylist()) if value is not None and not _is_utf8(value)}
    return sorted(found)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
