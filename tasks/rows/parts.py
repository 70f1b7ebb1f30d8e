"""Tables with more rows than are held at once: read part by part, and brought into another order by way of files."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from augmill.tasks.rows.schema import rows_at_once

PART_ROWS = 65_536
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
