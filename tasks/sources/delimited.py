"""CSV and similar files: cells between delimiters, one header line, quotes around what holds a delimiter or a line end.

Blocks without anything odd are pyarrow's (clean.py). All others are parsed by Python's own csv module, line by line:
pyarrow neither says where a bad row stood nor reads on after it in all cases.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa

from augmill.tasks.errors import DataError

from .batching import BATCH_CELLS, BATCH_CHARACTERS, BATCH_ROWS, Parsed, join_clean, make_batch, unify
from .clean import CleanCells, CleanRows
from .doubts import Doubt, cut_rows, doubt_header
from .lines import LineBlocks, find_encoding, open_lines, read_lines
from .options import Batch, Reader, SourceFile, SourceOptions
from .repair import Refusal, is_odd, mend

DELIMITERS = (",", "\t", ";", "|")
RECORD_LIMIT = 16 << 20  # characters; a quoted field still open after so many is taken for a stray quote
MAX_COLUMNS = 20_000  # as many as JSON Lines may have keys
_SEP = re.compile(r'"?sep=([^\s\w"\'\ufeff]|\t)"?[\r\n]*', re.IGNORECASE)  # Excel's own: the line before the header
# Bytes of a block for each column, at most MOST_WIDE together: pyarrow takes 2 us a column and block.
WIDE, MOST_WIDE = 512, 4 << 20
REPLAY_LIMIT = 1 << 30  # characters parsed again after stray quotes, over a whole file


class Dialect(NamedTuple):
    """How one file is read, and why: what ``augmill check`` reports."""

    codec: str
    codec_why: str
    delimiter: str
    delimiter_why: str
    skip: int  # lines before the header: source.skip_lines, and Excel's `sep=;`


class Record(NamedTuple):
    """``line``: where it begins; ``size``: characters; its cells, or why it is refused."""

    line: int
    size: int
    row: list[str] | Refusal


class _Lines:
    """Physical lines for csv.reader. Keeps those of the current record, so that a stray quote costs one line.

    ``number``: lines taken so far; ``size``: characters of the current record; ``odd``: ``mend`` must see it.
    """

    def __init__(self, source: LineBlocks) -> None:
        self.source, self.back, self.taken = source, deque[str](), list[str]()
        self.number = self.size = self.replayed = 0
        self.odd = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.back.popleft() if self.back else next(self.source.given)
        self.taken.append(line)
        self.number += 1
        self.size += len(line)
        if is_odd(line):
            self.odd = True
        if self.size > RECORD_LIMIT and len(self.taken) > 1:
            raise csv.Error("a quoted cell is not closed")
        return line

    def begin(self) -> None:
        self.taken.clear()
        self.size, self.odd = 0, False

    def undo(self) -> None:
        """Gives back all lines of the current record but its first."""
        again = self.taken[1:]
        self.back.extendleft(reversed(again))
        self.number -= len(again)
        self.replayed += self.size - len(self.taken[0]) if self.taken else 0


class Delimited(Reader):
    """Cells are strings, null where empty; blank lines are skipped; the header must name every column once."""

    VERSION = 1
    noun = "line"

    def columns(self, file: SourceFile, options: SourceOptions) -> list[str]:
        return _Open(file, options).header

    def schema(self, files: Sequence[SourceFile], options: SourceOptions) -> pa.Schema:
        return unify([pa.schema([(n, pa.string()) for n in self.columns(file, options)]) for file in files], files)

    def batches(self, file: SourceFile, options: SourceOptions, schema: pa.Schema) -> Iterator[Batch]:
        opened = _Open(file, options)
        places = {name: index for index, name in enumerate(opened.header)}
        wanted = [(places[name], name) for name in schema.names if name in places]
        limit = max(1, min(BATCH_ROWS, BATCH_CELLS // len(opened.header)))
        first = True
        for piece in join_clean(opened.pieces([name for _, name in wanted], limit), limit):
            first = False
            if isinstance(piece, CleanRows):
                yield make_batch(piece.table, "line", piece.numbers, [], opened.repaired)
            else:
                yield _batch(piece, wanted, opened.repaired)
        if first:
            yield _batch(Parsed(), wanted, opened.repaired)

    def sample(self, file: SourceFile, options: SourceOptions, count: int) -> list[dict[str, Any]]:
        opened = _Open(file, options)
        good = (
            record.row
            for record in opened.records([])
            if isinstance(record, Record) and not isinstance(record.row, Refusal)
        )
        return [
            {name: cell or None for name, cell in zip(opened.header, row, strict=True)} for row in islice(good, count)
        ]


def _batch(parsed: Parsed[list[str]], wanted: list[tuple[int, str]], repaired: Counter[str]) -> Batch:
    columns = list(zip(*parsed.rows, strict=True)) if parsed.rows else None
    arrays = {
        name: pa.array([cell or None for cell in columns[index]] if columns else [], pa.string())
        for index, name in wanted
    }
    return make_batch(pa.table(arrays), "line", parsed.numbers, parsed.refused, repaired)


class _Open:
    """One CSV file whose header has been read; ``records`` goes on behind it."""

    def __init__(self, file: SourceFile, options: SourceOptions) -> None:
        self.file, self.options = file, options
        self.repaired: Counter[str] = Counter()
        self.dialect = find_dialect(file, options)
        # A limit for the whole process; no cell can reach it, since a record cannot.
        csv.field_size_limit(4 * RECORD_LIMIT)
        self.header = self._header()

    @contextmanager
    def _reading(self) -> Iterator[tuple[_Lines, Iterator[list[str]]]]:
        with open_lines(self.file, self.options, self.dialect.codec, newline="") as source:
            lines = _Lines(source)
            lines.number = sum(1 for _ in islice(source, self.dialect.skip))
            yield lines, csv.reader(lines, **_csv_arguments(self.options, self.dialect.delimiter))

    def _header(self) -> list[str]:
        with self._reading() as (_, reader):
            try:
                cells = next((row for row in reader if row), None)
            except csv.Error as error:
                raise self._bad_header(f"the header cannot be parsed: {error}") from error
        if cells is None:
            found = "nothing after the lines of source.skip_lines" if self.options.skip_lines else "an empty file"
            raise self._bad_header(f"expected a header line, found {found}")
        if len(cells) > MAX_COLUMNS:
            problem = f"expected at most {MAX_COLUMNS:,} columns, found {len(cells):,}"
            raise DataError(problem, where=self._where(), fix="write the data as rows below one line of names")
        names = []
        for index, cell in enumerate(cells):
            name = mend(cell, self.options, Counter())
            if isinstance(name, Refusal):
                raise self._bad_header(f"the name of column {index + 1} is refused: {name.reason}, {name.detail}")
            names.append(name or f"column_{index + 1}")  # pandas writes its index under an empty name
        doubled = [name for name, count in Counter(names).items() if count > 1]
        if doubled:
            raise self._bad_header(f"the column {doubled[0]!r} appears twice in the header")
        return names

    def _bad_header(self, problem: str) -> DataError:
        return DataError(problem, where=self._where(), fix="give each column its own name in the header")

    def _where(self) -> str:
        return f"{self.file.uri} line {self.dialect.skip + 1}"

    def pieces(self, wanted: list[str], limit: int) -> Iterator[CleanRows | Parsed[list[str]]]:
        """The rows behind the header in the file's order: blocks by pyarrow where all is as it should be, others ours."""
        parsed: Parsed[list[str]] = Parsed()
        characters = 0
        for record in self.records(wanted):
            if isinstance(record, CleanRows):
                if parsed.numbers or parsed.refused:
                    yield parsed
                    parsed, characters = Parsed(), 0
                yield record
                continue
            if isinstance(record.row, Refusal):
                parsed.refused.append((record.line, record.row))
            else:
                parsed.rows.append(record.row)
                parsed.numbers.append(record.line)
            characters += record.size
            if len(parsed.rows) >= limit or characters >= BATCH_CHARACTERS or len(parsed.refused) >= BATCH_ROWS:
                yield parsed
                parsed, characters = Parsed(), 0
        if parsed.rows or parsed.refused:
            yield parsed

    def records(self, wanted: list[str]) -> Iterator[CleanRows | Record]:
        """Each record behind the header, or a block of them with the columns ``wanted``; without any, records only."""
        width, limit = len(self.header), self.options.max_cell_bytes // 4
        clean = CleanCells(self.header, wanted, self.dialect.delimiter, self.options.quote, self.options.max_cell_bytes)
        behind_header = False
        with self._reading() as (lines, reader):
            while True:
                if wanted and behind_header and not lines.back and (block := lines.source.ahead()):
                    rows = clean.parse(block)
                    if rows is not None:
                        lines.source.skip()
                        yield rows.behind(lines.number)
                        lines.number += rows.lines
                    if rows is not None or lines.source.narrow():
                        continue
                lines.begin()
                start = lines.number + 1
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield self._unpaired(lines, start, error)
                    continue
                if not row:
                    continue
                if not behind_header:
                    behind_header = True
                    lines.source.widen(min(WIDE * width, MOST_WIDE))
                elif len(row) == width and not lines.odd and lines.size <= limit:
                    yield Record(start, lines.size, row)
                else:
                    yield Record(start, lines.size, self._judge(row, lines))

    def _unpaired(self, lines: _Lines, start: int, error: csv.Error) -> Record:
        """The record's first line, refused; what follows it is read again."""
        taken = len(lines.taken)
        lines.undo()
        if lines.replayed > REPLAY_LIMIT:
            raise self._unbalanced(start) from error
        detail = f"{error}" + (f"; the quote would close {taken - 1} lines on" if taken > 1 else "")
        return Record(start, lines.size, Refusal("bad_quoting", detail))

    def _judge(self, row: list[str], lines: _Lines) -> list[str] | Refusal:
        cells = [mend(cell, self.options, self.repaired) for cell in row]
        refusal = next((cell for cell in cells if isinstance(cell, Refusal)), None)
        if refusal:
            return refusal
        if len(row) != len(self.header):
            span = f" over {len(lines.taken)} lines" if len(lines.taken) > 1 else ""
            more = ", the last one empty" if len(row) == len(self.header) + 1 and not row[-1] else ""
            return Refusal("ragged", f"expected {len(self.header)} cells, found {len(row)}{span}{more}")
        return [cell for cell in cells if not isinstance(cell, Refusal)]

    def _unbalanced(self, line: int) -> DataError:
        return DataError(
            "too many records of this file open a quote and never close it",
            where=f"{self.file.uri} line {line}",
            fix='set source.quote to "none" if quotes are plain text, or write the file again',
        )


def _csv_arguments(options: SourceOptions, delimiter: str) -> dict[str, Any]:
    if options.quote == "none":
        return {"delimiter": delimiter, "quoting": csv.QUOTE_NONE, "strict": True}
    return {"delimiter": delimiter, "quotechar": options.quote, "strict": True}


def find_dialect(file: SourceFile, options: SourceOptions) -> Dialect:
    """Codec and delimiter, as given or found. Raises DataError where the encoding cannot be told."""
    codec, why = find_encoding(file, options)
    head, skip = _head(file, options, codec, options.skip_lines), options.skip_lines
    named = _SEP.fullmatch(head[0]) if head else None
    if named is not None:
        head, skip = head[1:], skip + 1
    if options.delimiter is not None:
        return Dialect(codec, why, options.delimiter, "set by the recipe", skip)
    if named is not None:
        return Dialect(codec, why, named[1], f"named in line {skip}", skip)
    return Dialect(codec, why, guess_delimiter(head, options), "found in the first rows", skip)


def _head(file: SourceFile, options: SourceOptions, codec: str, skip: int) -> list[str]:
    """The first 200 lines behind those to skip, or fewer long ones."""
    lines = read_lines(file, options, codec, newline="")
    head: list[str] = []
    for line in islice(lines, skip, skip + 200):
        head.append(line)
        if sum(map(len, head)) >= 1 << 20:
            break
    lines.close()  # type: ignore[attr-defined]
    return head


def doubt_delimited(file: SourceFile, options: SourceOptions) -> Doubt | None:
    """Why the header may be none, or stand further down."""
    dialect = find_dialect(file, options)
    lines = _head(file, options, dialect.codec, dialect.skip)
    marks = dict.fromkeys([dialect.delimiter, *(() if options.delimiter else DELIMITERS)])
    arguments = [_csv_arguments(options, mark) | {"strict": False} for mark in marks]
    return doubt_header([cut_rows(lines, dialect.skip + 1, how) for how in arguments], options.skip_lines)


def guess_delimiter(lines: list[str], options: SourceOptions) -> str:
    """The delimiter by which most of the first 200 lines have as many cells as the header, and that more than one.

    A comma where there is none: a file of one column.
    """
    best, chosen = (0.0, 1), ","
    for delimiter in DELIMITERS:
        arguments = _csv_arguments(options, delimiter) | {"strict": False}
        try:
            widths = [len(row) for row in csv.reader(lines, **arguments) if row]
        except csv.Error:
            continue
        score = (sum(width == widths[0] for width in widths) / len(widths), widths[0]) if widths else (0.0, 0)
        if score[1] > 1 and score > best:
            best, chosen = score, delimiter
    return chosen
