"""What the readers share: the size of a batch, its assembly, and one schema for several files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.errors import DataError

from .clean import CleanRows, Numbers
from .options import Batch, RefusedRow, SourceFile
from .repair import Refusal

R = TypeVar("R")

# A batch ends at whichever comes first. 8 Mi characters are at most 32 MiB as Python strings; a million cells
# keep 10,000 columns at 100 rows a batch.
BATCH_ROWS = 16_384
BATCH_CELLS = 1_000_000
BATCH_CHARACTERS = 8 << 20

# A file is given up where more rows than this are refused, and more than every second one: each is kept with its place.
REFUSED = 250_000


@dataclass
class Tally:
    """How many rows of a file were taken and refused so far."""

    file: SourceFile
    taken: int = 0
    refused: int = 0

    def add(self, taken: int, refused: int, last: str) -> None:
        """Raises DataError where most rows are refused, and they are many. ``last``: one of them, with its reason."""
        self.taken, self.refused = self.taken + taken, self.refused + refused
        if self.refused > max(REFUSED, self.taken):
            raise DataError(
                f"{self.refused:,} of the first {self.taken + self.refused:,} rows are refused; the last: {last}",
                where=self.file.uri,
                fix="repair the file, or correct source.format, source.delimiter or source.encoding",
            )


@dataclass
class Parsed(Generic[R]):
    """Rows parsed and refused so far, with the numbers of the lines (or rows) where they stand."""

    rows: list[R] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    refused: list[tuple[int, Refusal]] = field(default_factory=list)


def join_clean(pieces: Iterator[CleanRows | Parsed[R]], limit: int) -> Iterator[CleanRows | Parsed[R]]:
    """The same rows in the same order; blocks that follow each other are one, up to a batch of ``limit`` rows."""
    held: list[CleanRows] = []
    rows = size = 0
    for piece in pieces:
        clean = isinstance(piece, CleanRows)
        if held and (not clean or rows + len(piece.numbers) > limit or size > BATCH_CHARACTERS):
            yield _joined(held)
            held, rows, size = [], 0, 0
        if not isinstance(piece, CleanRows):
            yield piece
            continue
        held.append(piece)
        rows, size = rows + len(piece.numbers), size + piece.table.nbytes
    if held:
        yield _joined(held)


def _joined(pieces: list[CleanRows]) -> CleanRows:
    table = pa.concat_tables([piece.table for piece in pieces]).combine_chunks()
    return CleanRows(table, np.concatenate([piece.numbers for piece in pieces]), 0)


def make_batch(
    table: pa.Table,
    noun: str,
    numbers: Sequence[int] | Numbers,
    refused: Sequence[tuple[int, Refusal]],
    repaired: Counter[str],
    bad: dict[int, Refusal] | None = None,
) -> Batch:
    """A batch without the rows ``bad`` (index in ``table`` -> why). Takes the counts out of ``repaired``."""
    refused = list(refused)
    if bad:
        refused += [(int(numbers[index]), refusal) for index, refusal in bad.items()]
        kept = [index for index in range(len(numbers)) if index not in bad]
        table, numbers = table.take(pa.array(kept, pa.int64())), [numbers[index] for index in kept]
    places = pc.binary_join_element_wise(noun, pa.array(numbers, pa.int64()).cast(pa.string()), " ")
    counts = dict(sorted(repaired.items()))
    repaired.clear()
    rows = [RefusedRow(f"{noun} {number}", *refusal) for number, refusal in sorted(refused)]
    return Batch(table, places, rows, counts)


def unify(schemas: Sequence[pa.Schema], files: Sequence[SourceFile]) -> pa.Schema:
    """Columns of all files, in order of first appearance; numbers widen, null gives way to any type.

    Raises DataError, naming the first file that does not fit those before it.
    """
    merged = schemas[0]
    for schema, file in zip(schemas[1:], files[1:], strict=True):
        if schema.equals(merged):
            continue
        try:
            merged = pa.unify_schemas([merged, schema], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            changed = [n for n in schema.names if n in merged.names and schema.field(n).type != merged.field(n).type]
            raise DataError(
                f"the type of a column ({', '.join(changed)}) clashes with earlier files: {error}",
                where=file.uri,
                fix="write all files with the same types",
            ) from error
    return merged
