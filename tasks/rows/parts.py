"""Tables with more rows than are held at once: read part by part, and brought into another order by way of files."""

from __future__ import annotations

import contextlib
import io
import mmap
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from augmill.tasks.rows.schema import is_number, rows_at_once

PART_ROWS = 65_536
MAPPED = 64 << 20  # bytes of a table from which on ``in_files`` puts it into files
FILES = 256  # that are open at once while rows are brought into order: many systems allow 1,024


def read_parts(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a Parquet file of ours in their order, ``PART_ROWS`` at once at most, and about 32 MiB of them."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(rows_at_once(file.metadata, PART_ROWS), columns=columns):
            part = pa.Table.from_batches([batch])
            yield part if columns is None else part.select(columns)  # else in the file's order


def in_order(parts: Iterable[pa.Table], places: npt.NDArray[np.int64], most: int) -> Iterator[pa.Table]:
    """Row i of the parts as row ``places[i]``, which are all from 0 on; about ``most`` rows are held at once.

    Each stretch of rows that follow one another in the end is gathered in a nameless file. A full disk raises OSError.
    """
    most = max(1, most, -(-len(places) // FILES))
    if len(places) <= most:
        held = list(parts)
        if held and len(places):
            yield pa.concat_tables(held).take(pa.array(np.argsort(places)))
        return
    stretches, start = places // most, 0
    with contextlib.ExitStack() as closing:
        files = [
            closing.enter_context(tempfile.TemporaryFile(prefix="augmill-")) for _ in range(-(-len(places) // most))
        ]
        writers: list[pa.ipc.RecordBatchStreamWriter] = []
        for part in parts:
            writers = writers or [pa.ipc.new_stream(pa.PythonFile(file, "w"), part.schema) for file in files]
            which = stretches[start : start + part.num_rows]
            start += part.num_rows
            sorted_rows, ends = part.take(pa.array(np.argsort(which, kind="stable"))), np.cumsum(np.bincount(which))
            for at in np.unique(which).tolist():
                first = ends[at - 1] if at else 0
                writers[at].write_table(sorted_rows.slice(first, ends[at] - first))
        for writer in writers:
            writer.close()
        rows = np.argsort(stretches, kind="stable")
        for at, file in enumerate(files):
            own = places[rows[at * most : (at + 1) * most]]
            file.seek(0)
            yield pa.ipc.open_stream(pa.PythonFile(file, "r")).read_all().take(pa.array(np.argsort(own)))
            file.close()


class Spool:
    """Arrays that are written piece by piece: in memory, or in nameless files that are mapped, so that their pages can leave

    memory. A full disk raises OSError.
    """

    def __init__(self, *, mapped: bool) -> None:
        self.mapped = mapped

    def open(self) -> IO[bytes]:
        return tempfile.TemporaryFile(prefix="augmill-") if self.mapped else io.BytesIO()

    def close(self, file: IO[bytes], kind: Any) -> npt.NDArray[Any]:
        """What was written to the file, as a flat array of this type."""
        if isinstance(file, io.BytesIO):
            return np.frombuffer(file.getbuffer(), kind) if file.tell() else np.empty(0, kind)
        with file:
            if not file.tell():
                return np.empty(0, kind)
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _mapped.add(mapped)
        return np.frombuffer(mapped, kind)


_mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def rest() -> None:
    """Gives back the memory of all pages of mapped files that were looked at; they are read again when asked for."""
    for each in list(_mapped):
        if hasattr(each, "madvise"):
            each.madvise(mmap.MADV_DONTNEED)


def in_files(parts: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """The parts as one table, each column in one piece as far as 2 GiB go, whose texts and numbers lie in mapped files.

    So it takes memory that the system may take back. Other columns are held as they are. A full disk raises OSError.
    """
    columns = [_ColumnInFiles(field.type, Spool(mapped=True)) for field in schema]
    for part in parts:
        for column, values in zip(columns, part.columns, strict=True):
            for chunk in values.chunks:
                column.add(chunk)
        rest()  # what the parts were taken from may be in files too
    return pa.table([column.close() for column in columns], schema=schema)


def kept(table: pa.Table, which: npt.NDArray[np.int64]) -> pa.Table:
    """As ``take``, of a large table into files (``in_files``)."""
    if table.nbytes < MAPPED:
        return table.take(pa.array(which))
    places = (pa.array(which[start : start + PART_ROWS]) for start in range(0, len(which), PART_ROWS))
    return in_files((table.take(part) for part in places), table.schema)


class _ColumnInFiles:
    """One column of ``in_files``."""

    def __init__(self, kind: pa.DataType, spool: Spool) -> None:
        self.kind, self.spool = kind, spool
        self.text = pa.types.is_string(kind) or pa.types.is_binary(kind)
        self.number = is_number(kind)
        self.chunks: list[pa.Array] = []
        self._start()

    def _start(self) -> None:
        self.file = self.spool.open() if self.text or self.number else None
        self.sizes, self.valid = [np.zeros(1, np.int64)], [np.zeros(0, np.bool_)]
        self.bytes = self.rows = self.nulls = 0

    def add(self, chunk: pa.Array) -> None:
        if self.file is None:
            self.chunks.append(chunk)
            return
        filled = (
            chunk
            if not chunk.null_count
            else chunk.fill_null("" if pa.types.is_string(self.kind) else b"" if self.text else 0)
        )
        data = filled.buffers()[-1]
        if self.text:
            offsets = np.frombuffer(filled.buffers()[1], np.int32)[filled.offset : filled.offset + len(filled) + 1]
            start, end = (int(offsets[0]), int(offsets[-1])) if len(filled) else (0, 0)
            if self.bytes + end - start > np.iinfo(np.int32).max:
                self._end()
                self._start()
            self.sizes.append(np.diff(offsets).astype(np.int64))
        else:
            width = self.kind.bit_width // 8
            start, end = width * filled.offset, width * (filled.offset + len(filled))
        if end > start:
            self.file.write(memoryview(data)[start:end])
        self.bytes += end - start
        self.rows += len(chunk)
        self.nulls += chunk.null_count
        self.valid.append(chunk.is_valid().to_numpy(zero_copy_only=False))

    def _end(self) -> None:
        assert self.file is not None
        valid = np.packbits(np.concatenate(self.valid), bitorder="little") if self.nulls else None
        buffers = [None if valid is None else pa.py_buffer(valid)]
        if self.text:
            buffers.append(pa.py_buffer(np.cumsum(np.concatenate(self.sizes)).astype(np.int32)))
        buffers.append(pa.py_buffer(self.spool.close(self.file, np.uint8)))
        self.chunks.append(pa.Array.from_buffers(self.kind, self.rows, buffers, self.nulls))

    def close(self) -> pa.ChunkedArray:
        if self.file is not None:
            self._end()
        return pa.chunked_array(self.chunks, self.kind)
