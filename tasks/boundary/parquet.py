"""Somebody else's Parquet in bounded memory: what it would unpack to is told from its pages before a value is decoded.

The footer's own account may lie, and a page of some bytes can stand for gigabytes: runs of one value, a dictionary's
value repeated, texts that share their beginnings. The header of a page cannot lie: a decoder stops at the size and the
count that it names.
"""

from __future__ import annotations

import io
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.tasks.errors import DataError

FOOTER = 64 << 20  # bytes: 600,000 column chunks
PAGE = 128 << 20  # bytes, unpacked: most writers make 1 MiB, DuckDB up to 95 MiB
DEPTH = 64  # levels of a nested column: Arrow's conversion recurses
COLUMNS = 100_000
MAX_ITEMS = 1_000_000  # in any list of the footer
STEP = 8 << 20  # bytes to decode at once
Sizes = dict[str, npt.NDArray[np.int64]]  # by column: the bytes of each row's cell
_HEADER = 16 << 20  # bytes of one page's header, as Arrow has it
_DICTIONARY_PAGE = 2
_PLACES = {2, 8}  # encodings of texts: places in a dictionary;
_DELTA_LENGTH, _DELTA = 6, 7  # lengths first; only what a text does not share with the last one
_WIDTH = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8, "BYTE_ARRAY": 4}


# A small file that unpacks to more than this, and to more than 200 times its own size, is refused as a decompression
# bomb. Texts shrink to a third or a tenth, logs to a fiftieth.
UNPACKED = 128 << 20  # bytes
UNPACKED_RATIO = 200


@dataclass
class Unpacked:
    """How many bytes a file of ``size`` bytes has unpacked to so far."""

    uri: str
    size: int
    count: int = 0

    def add(self, count: int) -> None:
        """Raises DataError past what a file of this size may unpack to."""
        self.count += count
        most = max(UNPACKED, UNPACKED_RATIO * self.size)
        if self.count > most:
            raise DataError(
                f"a file of {self.size:,} bytes unpacks to more than {most:,}: a decompression bomb is like this",
                where=self.uri,
                fix="check where it comes from; if it is sound, leave out columns and rows that repeat one value",
            )


@dataclass
class Chunk:
    """One column of one row group: sizes in bytes, as the headers of its pages have them."""

    path: str
    width: int  # of one decoded value; of a text what points to it
    nested: bool
    is_text: bool
    pages: int = 0  # all of them, unpacked
    largest: int = 0
    values: int = 0
    longest: int = 0  # text of a dictionary whose texts are repeated as they are read
    encodings: set[int | None] = field(default_factory=set)
    dictionary: bool = False
    viewed: bool = False  # within a view of a list, which Arrow (26.0) casts to none without dictionaries

    @property
    def keeps_dictionary(self) -> bool:
        """Whether Arrow can read its texts as a dictionary and places in it, so that none is repeated.

        Where a writer gave its dictionary up half way, as for texts of which each stands once, Arrow would put all texts
        of the row group into one, before the first batch: 126 MB where 12 do.
        """
        return self.is_text and self.dictionary and not self.viewed and self.encodings <= _PLACES


def check_footer(stream: BinaryIO, uri: str) -> None:
    """Raises DataError for a footer that is too large, or of a schema too deep. What is no Parquet Arrow says itself."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 8))
    tail = stream.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] == b"PAR1" and length > FOOTER:
        fix = "write it with fewer columns, larger row groups and less metadata"
        raise DataError(f"its footer has {length:,} bytes; at most {FOOTER:,} are read", where=uri, fix=fix)
    if tail[4:] == b"PAR1" and length <= size - 12:
        stream.seek(size - 8 - length)
        _check_schema(stream.read(length), uri)
    stream.seek(0)


def _check_schema(footer: bytes, uri: str) -> None:
    try:
        found = ((number, value) for number, value, _ in _fields(footer, 0, 0) if number >= 2)
        number, elements = next(found, (0, None))
    except (IndexError, ValueError, RecursionError) as error:
        raise _damaged("its footer cannot be read", uri) from error
    if number != 2 or not isinstance(elements, list):
        raise _damaged("its footer does not begin with a schema", uri)
    if len(elements) > COLUMNS:
        problem = f"expected at most {COLUMNS:,} columns, found {len(elements):,}"
        raise DataError(problem, where=uri, fix="write only the columns that are needed")
    above: list[int] = []  # how many children each group still waits for
    for element in elements:
        while above and above[-1] <= 0:
            above.pop()
        if above:
            above[-1] -= 1
        if isinstance(element, dict) and (element.get(5) or 0) > 0:
            above.append(element[5])
        if len(above) > DEPTH:
            raise DataError(f"its columns are nested more than {DEPTH} deep", where=uri, fix="write flat columns")


class ReadOnce(io.RawIOBase):
    """A stream whose columns are kept from their measuring to their decoding: in a bucket each jump costs 8 MiB.

    Arrow asks for a column's bytes in one piece, and then they are its own: no more is held than it would hold itself.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.size, self.at = stream, stream.seek(0, 2), 0
        self.start, self.raw = 0, b""  # the column that is being measured
        self.kept: dict[int, bytes] = {}
        self.room = self.size

    def forget(self) -> None:
        self.kept, self.room = {}, self.size

    def keep(self, start: int, end: int) -> None:
        """Columns that overlap are together larger than the file: no more than its size is kept."""
        self.start, self.raw = start, b""
        if end - start <= self.room:
            self.stream.seek(start)
            self.raw = self.kept[start] = self.stream.read(end - start)
            self.room -= len(self.raw)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = (0, self.at, self.size)[whence] + offset
        return self.at

    def read(self, count: int = -1) -> bytes:
        inside = self.at - self.start
        if 0 <= inside <= inside + count <= len(self.raw):
            data = self.raw[inside : inside + count]
        elif count == len(self.kept.get(self.at, b"")) > 0:
            data = self.kept.pop(self.at)
        else:
            self.stream.seek(self.at)
            data = self.stream.read(count)
        self.at += len(data)
        return data


def measure(stream: ReadOnce, parquet: pq.ParquetFile, group: int, names: set[str], unpacked: Unpacked) -> list[Chunk]:
    """The columns of one row group, those of ``names`` with all that is nested in them; ``unpacked`` counts them.

    Raises DataError for a page too large, columns that need too much at once, and what is no page.
    """
    size, uri, metadata, chunks = stream.size, unpacked.uri, parquet.metadata.row_group(group), []
    viewed = {field.name for field in parquet.schema_arrow if "list_view<" in str(field.type)}
    for index in range(metadata.num_columns):
        about = parquet.schema.column(index)
        parts = about.path.split(".")
        if names.isdisjoint(".".join(parts[:end]) for end in range(1, len(parts) + 1)):
            continue
        chunk = _measure_column(stream, metadata.column(index), about, size, uri)
        chunk.viewed = parts[0] in viewed
        # Repeated texts are counted as they are read, but for those beside which others are told apart.
        longest = chunk.longest if chunk.encodings & {_DELTA, _DELTA_LENGTH} else 0
        unpacked.add(max(chunk.pages, chunk.values * (chunk.width + 4 * chunk.nested + longest)))
        chunks.append(chunk)
    stream.raw = b""
    at_once = sum(chunk.largest for chunk in chunks)
    if at_once > max(2 * PAGE, 20 * size):
        problem = f"one page of each column unpacks to {at_once:,} bytes, in a file of {size:,}"
        raise DataError(problem, where=uri, fix="write it with smaller pages; a decompression bomb is like this")
    return chunks


def _measure_column(
    stream: ReadOnce, column: pq.ColumnChunkMetaData, about: pq.ColumnSchema, size: int, uri: str
) -> Chunk:
    start = column.data_page_offset
    if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < start:
        start = column.dictionary_page_offset
    end = start + column.total_compressed_size
    if not 0 <= start <= end <= size:
        raise _damaged(f"column {about.path!r} lies at bytes {start:,} to {end:,} of {size:,}", uri)
    stream.keep(start, end)
    kind = about.physical_type
    width = about.length if kind == "FIXED_LEN_BYTE_ARRAY" else _WIDTH[kind]
    chunk = Chunk(about.path, width, about.max_repetition_level > 0, kind == "BYTE_ARRAY")
    texts: tuple[bytes, dict[int, Any]] = (b"", {})
    while start < end:
        where = f"{uri} byte {start:,}"
        header, length = _page_header(stream, start, end, where)
        unpacked, stored, data = header[2], header[3], header.get(5) or header.get(8) or {}
        _require_small(unpacked, chunk, where)
        stream.seek(start + length)
        start += length + stored
        if header[1] == _DICTIONARY_PAGE:
            chunk.dictionary, texts = True, (stream.read(stored) if chunk.is_text else b"", header)
        else:
            chunk.values += data.get(1, 0)
            chunk.encodings.add(encoding := data.get(4 if 8 in header else 2))
            if encoding == _DELTA and chunk.is_text:
                _require_small(data.get(1, 0) * width, chunk, where)
                unpacked = max(unpacked, _told_apart(stream.read(stored), header, column.compression, about, where))
                _require_small(unpacked, chunk, where)
        chunk.pages += unpacked
        chunk.largest = max(chunk.largest, unpacked)
    if texts[0] and not chunk.keeps_dictionary:
        chunk.longest = _longest(_inflate(texts[0], texts[1][2], column.compression, uri))
    return chunk


def _require_small(unpacked: int, chunk: Chunk, where: str) -> None:
    if unpacked > PAGE:
        raise DataError(
            f"a page of column {chunk.path!r} unpacks to {unpacked:,} bytes; at most {PAGE:,} are read",
            where=where,
            fix="write it with smaller pages (1 MiB is usual); a decompression bomb is like this",
        )


def _damaged(problem: str, where: str) -> DataError:
    return DataError(f"the Parquet file is damaged or cut: {problem}", where=where, fix="write or upload it again")


# --- reading ------------------------------------------------------------------------------------------------------------


def _open(stream: BinaryIO | ReadOnce, **more: Any) -> pq.ParquetFile:
    limits = {"thrift_string_size_limit": FOOTER, "thrift_container_size_limit": MAX_ITEMS}
    return pq.ParquetFile(stream, pre_buffer=False, **limits, **more)  # column by column, as ``ReadOnce`` has them


def plain_schema(stream: BinaryIO, uri: str) -> pa.Schema:
    """The columns, in types without what is encoding. Raises DataError for one that appears twice, and for a bomb."""
    check_footer(stream, uri)
    schema = _open(stream).schema_arrow
    doubled = [name for name, count in Counter(schema.names).items() if count > 1]
    if doubled:
        raise DataError(f"the column {doubled[0]!r} appears twice", where=uri, fix="give each column its own name")
    return pa.schema([pa.field(field.name, _plain(field.type)) for field in schema])


def damaged(error: Exception, uri: str, size: str = "") -> DataError:
    problem = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"expected a whole Parquet file{size}, found a damaged or cut one: {problem}",
        where=uri,
        fix="write or upload it again, or set its format to what it is",
    )


def read_parquet(path: Path, columns: Sequence[str]) -> pa.Table:
    """These columns of a small file, whole; an empty table of all that it has, where one of them is not there.

    Raises DataError where it is damaged or a decompression bomb, OSError where it cannot be opened.
    """
    with path.open("rb") as stream:
        try:
            schema = plain_schema(stream, str(path))
            if not set(columns) <= set(schema.names):
                return schema.empty_table()
            wanted = pa.schema([schema.field(name) for name in dict.fromkeys(columns)])
            read, parts = Unpacked(str(path), stream.seek(0, 2)), [wanted.empty_table()]
            for table, sizes in read_tables(stream, str(path), wanted.names):
                read.add(sum(int(each.sum()) for each in sizes.values()))
                parts.append(
                    pa.table([table[name].cast(wanted.field(name).type) for name in wanted.names], schema=wanted)
                )
        except (pa.ArrowException, OSError) as error:
            raise damaged(error, str(path)) from error
    return pa.concat_tables(parts)


def read_tables(
    stream: BinaryIO, uri: str, names: list[str], most_rows: int = 16_384, most_cells: int = 1_000_000
) -> Iterator[tuple[pa.Table, Sizes]]:
    """The rows as they are stored, some at a time: a text that a dictionary repeats stands in the dictionary alone.

    With the bytes of each cell as it will be. Raises DataError for a decompression bomb, and what pyarrow raises.
    """
    once = ReadOnce(stream)
    held = Unpacked(uri, once.size)
    plain, keeping = _open(once), dict[frozenset[str], pq.ParquetFile]()
    for group in range(plain.metadata.num_row_groups):
        if plain.metadata.row_group(group).num_rows == 0:  # has no pages
            continue
        once.forget()
        chunks = measure(once, plain, group, set(names), held)
        kept = frozenset(chunk.path for chunk in chunks if chunk.keeps_dictionary)
        if kept not in keeping:  # for most files once
            keeping = {kept: _open(once, metadata=plain.metadata, read_dictionary=sorted(kept))}
        rows = left = plain.metadata.row_group(group).num_rows
        _require_whole(chunks, rows)
        for batch in keeping[kept].iter_batches(
            _step(chunks, rows, most_rows, most_cells), row_groups=[group], columns=names
        ):
            table = pa.Table.from_batches([batch])
            columns = zip(names, table.columns, strict=True)
            yield table, {name: decoded_bytes(column.chunk(0)) for name, column in columns}
            left -= table.num_rows
        if left:
            raise pa.ArrowInvalid(f"{left:,} of {rows:,} rows are not there")


def _require_whole(chunks: Sequence[Chunk], rows: int) -> None:
    """Raises ArrowInvalid where the pages hold other rows than the footer says; of lists nobody knows before they are read."""
    for chunk in chunks:
        if not chunk.nested and chunk.values != rows:
            raise pa.ArrowInvalid(f"column {chunk.path!r} holds {chunk.values:,} values for {rows:,} rows")


def _step(chunks: Sequence[Chunk], rows: int, most_rows: int, most_cells: int) -> int:
    """Rows to decode at once, for about 8 MiB: before the texts of dictionaries are repeated, and at worst 128 after."""
    sizes = (chunk.width * chunk.values + chunk.pages * (not chunk.keeps_dictionary) for chunk in chunks)
    by_size = STEP * rows // max(sum(sizes), 1)
    by_longest = PAGE // max(sum(chunk.longest for chunk in chunks), 1)  # as many only where all are the longest one
    return int(max(1, min(most_rows, most_cells // max(len(chunks), 1), by_size, by_longest)))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without what is encoding, not data."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    return _plain_inside(kind)


# Views of lists stay such: pyarrow (26.0) casts them to lists wrongly.
_LISTS = (
    (pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list),
    (pa.types.is_list_view, pa.list_view), (pa.types.is_large_list_view, pa.large_list_view),
)  # fmt: skip


def _plain_inside(kind: pa.DataType) -> pa.DataType:
    """Of lists, maps and structs: without dictionaries and views of text, to which no dictionary can be cast."""

    def inside(field: pa.Field) -> pa.Field:
        is_encoded = pa.types.is_dictionary(field.type) or "_view" in str(field.type)
        return field.with_type(_plain(field.type) if is_encoded else _plain_inside(field.type))

    if pa.types.is_struct(kind):
        return pa.struct([inside(field) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(inside(kind.key_field), inside(kind.item_field), kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inside(kind.value_field), kind.list_size)
    for is_one, make in _LISTS:
        if is_one(kind):
            return make(inside(kind.value_field))
    return kind


def decoded_bytes(array: pa.Array) -> npt.NDArray[np.int64]:
    """Bytes that each value would take without its dictionary, with all that is nested in it."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return decoded_bytes(array.storage)
    if pa.types.is_nested(kind):
        return _nested_bytes(array)
    if pa.types.is_dictionary(kind):
        sizes = np.append(decoded_bytes(array.dictionary), 0)
        places = array.indices.cast(pa.int64()).fill_null(len(sizes) - 1)
        return np.asarray(sizes[places.to_numpy(zero_copy_only=False)])
    if is_text(kind) or any(
        check(kind) for check in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    ):
        plain = array.cast(pa.large_binary()) if "_view" in str(kind) else array
        return np.asarray(pc.binary_length(plain).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False))
    return np.full(len(array), 0 if pa.types.is_null(kind) else max(1, kind.bit_width // 8), np.int64)


def _nested_bytes(array: pa.Array) -> npt.NDArray[np.int64]:
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        inner = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        return np.asarray(decoded_bytes(inner).reshape(len(array), kind.list_size).sum(axis=1, dtype=np.int64))
    if pa.types.is_struct(kind):
        sizes: npt.NDArray[np.int64] = np.zeros(len(array), np.int64)
        for part in array.flatten():
            sizes += decoded_bytes(part)
        return sizes
    ends = np.concatenate([[0], np.cumsum(decoded_bytes(array.values))])  # a list or map; Parquet has no others
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        starts, counts = array.offsets.to_numpy(), array.sizes.to_numpy()
        return np.asarray(ends[starts + counts] - ends[starts])
    return np.asarray(np.diff(ends[array.offsets.to_numpy()]))


def is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


# --- texts that Arrow would repeat itself -------------------------------------------------------------------------------


def _inflate(raw: bytes, size: int, codec: str, where: str) -> bytes:
    if codec == "UNCOMPRESSED":
        return raw
    try:
        return bytes(pa.decompress(raw, size, {"LZ4": "lz4_raw"}.get(codec, codec.lower()), asbytes=True))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(f"a page does not unpack: {error}", where) from error


_LENGTH = struct.Struct("<I")


def _longest(texts: bytes) -> int:
    """Bytes of the longest text in a dictionary's page: four bytes of length before each."""
    at, longest, last, read = 0, 0, len(texts) - 4, _LENGTH.unpack_from
    while at <= last:
        (length,) = read(texts, at)
        longest, at = max(longest, length), at + 4 + length
    return min(longest, len(texts))


def _told_apart(raw: bytes, header: dict[int, Any], codec: str, about: pq.ColumnSchema, where: str) -> int:
    """Bytes of all texts of a page, each of which names how many it shares with the one before, and its own rest."""
    if 8 in header:  # levels, not packed, then the values
        levels = header[8].get(5, 0) + header[8].get(6, 0)
        raw, at = raw[levels:], 0
        if header[8].get(7, True):
            raw = _inflate(raw, header[2] - levels, codec, where)
    else:
        raw, at = _inflate(raw, header[2], codec, where), 0
        for level in (about.max_repetition_level, about.max_definition_level):
            at += 4 + int.from_bytes(raw[at : at + 4], "little") if level else 0
    try:
        shared, at = _sum_of_deltas(raw, at, header)
        own, at = _sum_of_deltas(raw, at, header)
    except (IndexError, ValueError) as error:
        raise _damaged("the lengths of its texts cannot be read", where) from error
    return shared + own


def _sum_of_deltas(raw: bytes, at: int, header: dict[int, Any]) -> tuple[int, int]:
    """(the sum of a sequence of lengths, where it ends), from the encoding DELTA_BINARY_PACKED."""
    block, at = _varint(raw, at)
    parts, at = _varint(raw, at)
    count, at = _varint(raw, at)
    value, at = _signed(raw, at)
    most = (header.get(8) or header.get(5) or {}).get(1, 0)
    if not 0 < parts <= block <= 1 << 16 or count > most:
        raise ValueError("no block of lengths")
    total, left, size = max(0, value), count - 1, block // parts
    while left > 0:
        least, at = _signed(raw, at)
        widths, at = raw[at : at + parts], at + parts
        for width in widths:
            if left <= 0:
                break
            bits = np.unpackbits(np.frombuffer(raw, np.uint8, size * width // 8, at), bitorder="little")
            steps = bits.reshape(size, width).astype(np.float64) @ (2.0 ** np.arange(width))
            values = value + np.cumsum(steps[:left] + least)
            total, value = total + int(np.maximum(values, 0).sum()), int(values[-1])
            left, at = left - size, at + size * width // 8
    return total, at


# --- Thrift's compact protocol, as far as Parquet uses it ---------------------------------------------------------------


def _page_header(stream: ReadOnce, start: int, end: int, where: str) -> tuple[dict[int, Any], int]:
    """(the header's fields by number, its length). 1: kind; 2, 3: bytes, unpacked and stored; 5, 7, 8: about values."""
    much = 512
    while True:
        stream.seek(start)
        raw = stream.read(min(much, end - start))
        try:
            found, length = _struct(raw, 0, 0)
            about = (found.get(number, {}).get(1, 0) for number in (5, 8))
            if min(found[1], found[2], found[3], *about) < 0:
                raise ValueError("a size below zero")
            return found, length
        except IndexError as error:
            if len(raw) < much or much >= _HEADER:
                raise _damaged("a page's header is cut", where) from error
            much *= 32
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise _damaged("a page's header cannot be read", where) from error


def _struct(raw: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    found = {}
    for number, value, after in _fields(raw, at, depth):
        found[number], at = value, after
    return found, at


def _fields(raw: bytes, at: int, depth: int) -> Iterator[tuple[int, Any, int]]:
    """(number, value, where the next begins) of each field, then of the end (0). Bytes come as None.

    Raises IndexError at the end of ``raw``, ValueError for what is no struct.
    """
    number = 0
    while head := raw[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _signed(raw, at)
        if head & 15 in (1, 2):
            value: Any = head & 15 == 1
        else:
            value, at = _value(raw, at, head & 15, depth)
        yield number, value, at
    yield 0, None, at + 1


def _value(raw: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if depth > 16:
        raise ValueError("nested too deeply")
    if kind in (1, 2, 3):
        return raw[at], at + 1
    if kind in (4, 5, 6):
        return _signed(raw, at)
    if kind in (7, 8):
        length, at = (8, at) if kind == 7 else _varint(raw, at)
        if at + length > len(raw):
            raise IndexError("cut")
        return None, at + length
    if kind in (9, 10):
        head, at = raw[at], at + 1
        count, at = _varint(raw, at) if head >> 4 == 15 else (head >> 4, at)
        values = []
        for _ in range(count):
            value, at = _value(raw, at, head & 15, depth + 1)
            values.append(value)
        return values, at
    if kind == 12:
        return _struct(raw, at, depth + 1)
    raise ValueError(f"no type {kind}")


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte, at = raw[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("too long a number")


def _signed(raw: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(raw, at)
    return value >> 1 ^ -(value & 1), at
