"""What the tests of sources share: files written by hand, and all of what is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from augmill.tasks.sources import RefusedRow, SourceFile, SourceOptions, list_files, read_batches


class Read(NamedTuple):
    table: pa.Table
    locations: list[str]
    refused: list[RefusedRow]
    repaired: dict[str, int]

    @property
    def reasons(self) -> list[tuple[str, str]]:
        return [(row.location, row.reason) for row in self.refused]


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def only(path: Path | str, **options: Any) -> tuple[SourceFile, SourceOptions]:
    chosen = SourceOptions(path=str(path), **options)
    (file,) = list_files(chosen)
    return file, chosen


def read(path: Path | str, columns: list[str] | None = None, needed: tuple[str, ...] = (), **options: Any) -> Read:
    file, chosen = only(path, **options)
    batches = list(read_batches(file, chosen, columns, needed=needed))
    repaired: dict[str, int] = {}
    for batch in batches:
        assert len(batch.locations) == batch.table.num_rows
        for name, count in batch.repaired.items():
            repaired[name] = repaired.get(name, 0) + count
    return Read(
        pa.concat_tables([batch.table for batch in batches]),
        [place for batch in batches for place in batch.locations.to_pylist()],
        [row for batch in batches for row in batch.refused],
        repaired,
    )
