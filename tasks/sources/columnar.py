"""Parquet: types are the file's own. Dictionary columns come as their values, large and view strings as strings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.tasks.contracts import DataError

from .batching import BATCH_CELLS, BATCH_CHARACTERS, BATCH_ROWS, Parsed, make_batch, unify
from .magic import HEAD, foreign
from .options import Batch, Reader, SourceFile, SourceOptions
from .repair import Refusal, mend
from .storage import open_bytes, reaching


class Parquet(Reader):
    """Every cell that is text is checked: Parquet promises UTF-8, and some writers do not keep the promise."""

    VERSION = 2  # 2: views of text inside nested columns; decimals may be labels
    noun = "row"

    def columns(self, file: SourceFile, options: SourceOptions) -> list[str]:
        return list(self.schema([file], options).names)

    def schema(self, files: Sequence[SourceFile], options: SourceOptions) -> pa.Schema:
        return unify([_schema(file) for file in files], files)

    def batches(self, file: SourceFile, options: SourceOptions, schema: pa.Schema) -> Iterator[Batch]:
        own = _schema(file)
        present = set(own.names)
        wanted = pa.schema([field for field in schema if field.name in present])
        repaired: Counter[str] = Counter()
        row, first = 1, True
        with _damage(file), open_bytes(file.uri) as stream, pq.ParquetFile(stream) as parquet:
            size = _batch_rows(parquet, len(own))
            for batch in parquet.iter_batches(size, columns=wanted.names):
                parsed: Parsed[None] = Parsed(numbers=list(range(row, row + batch.num_rows)))
                row += batch.num_rows
                first = False
                yield _clean(_cast(batch, wanted, file), parsed, options, repaired)
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
    with open_bytes(file.uri) as stream:
        found = foreign(stream.read(HEAD))
    if found and found[0] != "a Parquet file":
        return DataError(f"expected a Parquet file, found {found[0]}", where=file.uri, fix=found[1])
    problem = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"expected a whole Parquet file of {file.size:,} bytes, found a damaged or cut one: {problem}",
        where=file.uri,
        fix="write or upload it again, or set source.format to what it is",
    )


def _schema(file: SourceFile) -> pa.Schema:
    with _damage(file), open_bytes(file.uri) as stream:
        schema = _read_schema(stream)
    doubled = [name for name, count in Counter(schema.names).items() if count > 1]
    if doubled:
        raise DataError(f"the column {doubled[0]!r} stands twice", where=file.uri, fix="give each column one name")
    return pa.schema([pa.field(field.name, _plain(field.type)) for field in schema])


def _read_schema(stream: BinaryIO) -> pa.Schema:
    return pq.read_schema(stream)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without what is encoding, not data."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_nested(kind):
        return _without_views(kind)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    return kind


def _without_views(kind: pa.DataType) -> pa.DataType:
    """The type with views of text and bytes inside it as these themselves: pyarrow (26.0) takes no row of such a list."""

    def inside(field: pa.Field) -> pa.Field:
        return field.with_type(_without_views(field.type))

    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return pa.string() if pa.types.is_string_view(kind) else pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([inside(kind.field(at)) for at in range(kind.num_fields)])
    if pa.types.is_map(kind):
        return pa.map_(inside(kind.key_field), inside(kind.item_field), keys_sorted=kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inside(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(inside(kind.value_field))
    return pa.list_(inside(kind.value_field)) if pa.types.is_list(kind) else kind


def _batch_rows(parquet: pq.ParquetFile, columns: int) -> int:
    """Rows a batch, so that one holds about 8 MiB by the file's own account of its (uncompressed) pages."""
    metadata = parquet.metadata
    total = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    by_size = BATCH_CHARACTERS * max(metadata.num_rows, 1) // max(total, 1)
    return int(max(1, min(BATCH_ROWS, BATCH_CELLS // max(columns, 1), by_size)))


def _cast(batch: pa.RecordBatch, wanted: pa.Schema, file: SourceFile) -> pa.Table:
    """In the wanted types. A cast to string checks no bytes, so that ``_clean`` can name the bad row."""
    table = pa.Table.from_batches([batch])
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
