"""Blocks of whole lines in which nothing is odd, parsed by pyarrow: the same rows as our own readers give, or None.

pyarrow says neither where a bad row stands nor reads on behind it, and it takes what is no CSV or JSON (a quote that
closes early, NaN, two objects on a line). So whatever it might read otherwise is looked for beforehand, in the bytes,
and whatever it refuses is read again by our own readers, which say why. Both give the same rows, refusals and lines:
tests/benchmarks/fuzz_readers.py compares them on damaged files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.json

Numbers = npt.NDArray[np.int64]

_LF, _CR, _OPEN, _CLOSE = b"\n\r{}"
# Escapes of NUL and U+FEFF, which `mend` may strip or refuse; surrogates that are no pair pyarrow refuses itself.
_ODD_ESCAPE = re.compile(rb"\\u(?:0000|[fF][eE][fF][fF])")
_MINUS_ZERO = re.compile(rb"-0[\s,}]")  # an integer, which has no sign; pyarrow makes it -0.0 among floats
EXACT = 2**53  # from here on a float may stand for another integer


@dataclass(frozen=True)
class CleanRows:
    """The rows of a block; ``numbers``: of the lines, from 0, on which they begin; ``lines``: of the whole block."""

    table: pa.Table
    numbers: Numbers
    lines: int
    nulls: int = 0  # of JSON, as often as the word stands there

    def behind(self, lines: int) -> CleanRows:
        """With the numbers, from 1, that the lines have behind so many others."""
        return CleanRows(self.table, self.numbers + lines + 1, self.lines, self.nulls)


def _is_plain_text(block: bytes) -> bool:
    """Whether it is UTF-8 in which ``mend`` has nothing to do, with no CR but before an LF."""
    if b"\x00" in block or (b"\r" in block and block.count(b"\r") != block.count(b"\r\n")):
        return False
    if block.isascii():
        return True
    try:
        return "\ufeff" not in block.decode()  # in a str it is found 600 times faster than its bytes are
    except UnicodeDecodeError:
        return False


def _ended(block: bytes) -> bytes:
    """With the line feed that a file's last line may lack."""
    return block if block.endswith(b"\n") else block + b"\n"


@dataclass(frozen=True)
class CleanCells:
    """Parses blocks of a CSV; ``names``: of all its columns; ``wanted``: those to keep; ``limit``: bytes of a row."""

    names: list[str]
    wanted: list[str]
    delimiter: str
    quote: str  # or "none"
    limit: int
    options: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        quote = False if self.quote == "none" else self.quote
        parse = pa.csv.ParseOptions(
            delimiter=self.delimiter if self.delimiter.isascii() else ",", quote_char=quote, newlines_in_values=True
        )
        convert = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(self.wanted, pa.string()),
            include_columns=self.wanted,
            null_values=[""],
            strings_can_be_null=True,
            check_utf8=False,  # it was
        )
        object.__setattr__(self, "options", {"parse_options": parse, "convert_options": convert})

    def parse(self, block: bytes) -> CleanRows | None:
        """The rows of ``block``, which begins where a row does; None where our own reader must look."""
        block = _ended(block)
        if not self.wanted or not self.delimiter.isascii() or not _is_plain_text(block):
            return None
        ends = self._row_ends(block)
        if ends is None:
            return None
        row_ends, line_ends = ends
        starts = np.concatenate([[0], row_ends[:-1] + 1])
        lengths = row_ends - starts
        if int(lengths.max()) > self.limit:
            return None
        filled = lengths > 1
        if not filled.all():
            filled |= (lengths == 1) & (np.frombuffer(block, np.uint8)[starts] != _CR)
        numbers = (np.arange(len(starts)) if row_ends is line_ends else np.searchsorted(line_ends, starts))[filled]
        if not len(numbers):
            return None
        read = pa.csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=self.names)
        try:
            table = pa.csv.read_csv(pa.BufferReader(block), read_options=read, **self.options)
        except pa.ArrowInvalid:  # more or fewer cells than the header
            return None
        return CleanRows(table, numbers, len(line_ends)) if table.num_rows == len(numbers) else None

    def _row_ends(self, block: bytes) -> tuple[Numbers, Numbers] | None:
        """(where rows end, where lines do), the same array where no quoted cell spans lines; None for odd quotes."""
        marks = np.frombuffer(block, np.uint8)
        line_ends = np.flatnonzero(marks == _LF)
        if self.quote == "none" or self.quote.encode() not in block:
            return line_ends, line_ends
        quote = ord(self.quote)
        quotes = np.flatnonzero(marks == quote)
        if len(quotes) % 2:
            return None  # the last row goes on behind the block
        opening, closing = quotes[::2], quotes[1::2]
        # Outside of quotes one opens at a cell's beginning and closes at its end; a pair within stands for itself.
        before, after = marks[opening - (opening > 0)], marks[closing + 1]
        begins = (before == ord(self.delimiter)) | (before == _LF) | (before == quote)
        ends = (after == ord(self.delimiter)) | (after == _LF) | (after == _CR) | (after == quote)
        if not begins.all() or not ends.all():
            return None
        outside = np.searchsorted(quotes, line_ends) % 2 == 0
        return (line_ends if outside.all() else line_ends[outside]), line_ends


def parse_objects(block: bytes, fields: Mapping[str, pa.Field], limit: int) -> CleanRows | None:
    """The objects of a block of JSON Lines, whose keys are all among ``fields`` and whose values are of those types.

    None where our own reader must look; also for -0 and for numbers past 2**53 among floats. ``limit``: bytes of a line.
    """
    block = _ended(block)
    if not _is_plain_text(block):
        return None
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    marks = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(marks == _LF)
    # Every line is whole objects, since between `}` and `{` no value goes on; with as many rows as lines each is one.
    is_lines = block.startswith(b"{") and (marks[ends - 1] == _CLOSE).all() and (marks[ends[:-1] + 1] == _OPEN).all()
    if not is_lines or int(np.diff(ends, prepend=-1).max()) > limit or _ODD_ESCAPE.search(block):
        return None
    try:
        table = pa.json.read_json(
            pa.BufferReader(block),
            read_options=pa.json.ReadOptions(use_threads=False, block_size=max(len(block) + 1, 64)),
            parse_options=pa.json.ParseOptions(
                explicit_schema=pa.schema(list(fields.values())), unexpected_field_behavior="error"
            ),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != len(ends) or not all(_is_exact(column, block) for column in table.columns):
        return None
    nulls = block.count(b"null") if any(column.null_count for column in table.columns) else 0
    return CleanRows(table, np.arange(len(ends)), len(ends), nulls)


def _is_exact(column: pa.ChunkedArray, block: bytes) -> bool:
    """Of floats, whether each is what Python makes of its text, and no integer among them was rounded."""
    if not pa.types.is_floating(column.type):
        return True
    values = column.drop_null().to_numpy()
    if not bool((np.abs(values) < EXACT).all()):  # not of NaN and infinities either, which are no JSON
        return False
    return not bool((np.signbit(values) & (values == 0)).any()) or not _MINUS_ZERO.search(block)
