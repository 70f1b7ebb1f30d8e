"""JSON Lines: one object per line, whose values keep their types.

A column's type is decided over the whole source, in a first pass, never by a batch:
all booleans -> bool; all integers -> int64; numbers -> double, where every integer among them is exact in one;
anything mixed, or an integer beyond 64 bits -> string, each value as its JSON text (``1``, ``true``); a column that
mostly holds lists or objects -> string of their JSON text; only nulls -> null. What is not there is null. Of a key
that stands twice in an object the last value counts, as in every common parser.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NoReturn, cast

import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.errors import DataError, NoRows
from augmill.tasks.rows.shown import cut

from .batching import BATCH_CELLS, BATCH_CHARACTERS, BATCH_ROWS, Parsed, Tally, join_clean, make_batch
from .clean import EXACT, CleanRows, parse_objects
from .doubts import Doubt, doubt_json, doubt_objects
from .lines import LineBlocks, find_encoding, open_lines, read_lines
from .options import Batch, Reader, SourceFile, SourceOptions
from .repair import OVERLONG, Refusal, is_odd, mend, mend_values

HEAD = 1 << 20  # characters in which the shape of a file that is no JSON Lines is looked for
MAX_KEYS = 20_000  # more distinct keys than this are data written as keys
MAX_CELLS = 10_000_000  # of a table of all rows and keys, where all but a thousandth of its cells are empty: the same
_JSON_TEXT = {b"json": b"text"}  # marks a string column that holds JSON text, in the schema's field metadata


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def _decode(line: str) -> Any:
    """json.loads, but NaN and infinities are errors. A line of one object, as nearly all are, takes half the time."""
    if line.startswith("{"):
        value, end = _decoder.raw_decode(line)
        if not line[end:].strip():
            return value
    return _decoder.decode(line)


@dataclass
class ColumnSeen:
    """What a column held: how many values of each Python type, and the span of its integers."""

    kinds: Counter[type] = field(default_factory=Counter)
    low: int = 0
    high: int = 0

    def add(self, values: Sequence[Any]) -> None:
        kinds = Counter(map(type, values))
        if int in kinds:
            numbers = values if len(kinds) == 1 else [value for value in values if type(value) is int]
            self.low, self.high = min(self.low, *numbers), max(self.high, *numbers)
        self.kinds += kinds

    def add_clean(self, column: pa.ChunkedArray) -> int:
        """As ``add``, of a column in the type that ``field`` gave; how many values. Whole floats may be integers in the

        file: none of them is past what a float can hold, so that it makes no difference.
        """
        count = int(len(column) - column.null_count)
        if count:
            self.kinds[_KIND[column.type.id]] += count
            if pa.types.is_integer(column.type):
                span = pc.min_max(column).as_py()
                self.low, self.high = min(self.low, span["min"]), max(self.high, span["max"])
        return count

    def field(self, name: str) -> pa.Field:
        nested = self.kinds[list] + self.kinds[dict]
        plain = {kind for kind in self.kinds if kind not in (list, dict, type(None))}
        if nested > sum(self.kinds[kind] for kind in plain):
            return pa.field(name, pa.string(), metadata=_JSON_TEXT)
        if not plain:
            return pa.field(name, pa.null())
        if plain == {bool}:
            return pa.field(name, pa.bool_())
        if plain == {int} and self.low >= -(2**63) and self.high < 2**63:
            return pa.field(name, pa.int64())
        if float in plain and plain <= {int, float} and self.low >= -EXACT and self.high <= EXACT:
            return pa.field(name, pa.float64())
        return pa.field(name, pa.string())


class JsonLines(Reader):
    """Blank lines are skipped."""

    VERSION = 1
    noun = "line"

    def columns(self, file: SourceFile, options: SourceOptions) -> list[str]:
        return list(dict.fromkeys(key for row in self.sample(file, options, 1000) for key in row))

    def schema(self, files: Sequence[SourceFile], options: SourceOptions) -> pa.Schema:
        seen = KeysSeen()
        refused: list[tuple[int, Refusal]] = []
        for file in files:
            tally = Tally(file)
            for piece in _parse(file, options, Counter(), known=seen.fields):
                if isinstance(piece, CleanRows):
                    tally.add(len(piece.numbers), 0, "")
                    seen.add_clean(piece)
                else:
                    number, why = piece.refused[-1] if piece.refused else (0, Refusal("", ""))
                    tally.add(len(piece.rows), len(piece.refused), f"line {number} ({why.reason})")
                    refused = refused or piece.refused
                    seen.add(piece.rows)
                seen.require_few(file, BATCH_ROWS)
            seen.require_few(file)
        if not seen.columns:
            if refused and (doubt := doubt_lines(files[0], options)) is not None:
                raise NoRows(doubt.problem, where=files[0].uri, fix=doubt.fix)
            found = f"line {refused[0][0]} is refused: {': '.join(refused[0][1])}" if refused else "only blank lines"
            raise NoRows(
                f"expected one JSON object a line; {found}", where=files[0].uri, fix="check the file, or source.format"
            )
        return pa.schema([column.field(name) for name, column in seen.columns.items()])

    def batches(self, file: SourceFile, options: SourceOptions, schema: pa.Schema) -> Iterator[Batch]:
        repaired: Counter[str] = Counter()
        limit = max(1, min(BATCH_ROWS, BATCH_CELLS // max(1, len(schema))))
        fields = {field.name: field for field in schema}
        known = None if any(map(_is_nested, schema)) else lambda: fields
        first = True
        for piece in join_clean(_parse(file, options, repaired, limit, known), limit):
            first = False
            if isinstance(piece, CleanRows):
                yield make_batch(piece.table.select(schema.names), "line", piece.numbers, [], repaired)
            else:
                yield _batch(piece, schema, repaired)
        if first or repaired:  # of lines at the end that turned out to be blank
            yield _batch(Parsed(), schema, repaired)

    def sample(self, file: SourceFile, options: SourceOptions, count: int) -> list[dict[str, Any]]:
        parts = _parse(file, options, Counter(), min(count, BATCH_ROWS))
        return list(islice((row for part in parts if isinstance(part, Parsed) for row in part.rows), count))


class KeysSeen:
    """The keys of a source in order of first appearance, and what each held so far."""

    def __init__(self) -> None:
        self.columns: dict[str, ColumnSeen] = {}
        self.rows = self.cells = 0
        self._fields: dict[str, pa.Field] | None = {}
        self._looked = 0, 0  # rows and values, when ``require_few`` last counted

    def fields(self) -> dict[str, pa.Field] | None:
        """The type of each key; None where a value of one must be read by our own reader."""
        if self._fields is not None and not self._fields:
            fields = {name: column.field(name) for name, column in self.columns.items()}
            self._fields = None if any(map(_is_nested, fields.values())) else fields
        return self._fields

    def add(self, rows: list[dict[str, Any]]) -> None:
        values: dict[str, list[Any]] = {}
        for row in rows:
            for name, value in row.items():
                values.setdefault(name, []).append(value)
        for name, own in values.items():
            self.columns.setdefault(name, ColumnSeen()).add(own)
        self.rows, self.cells = self.rows + len(rows), self.cells + sum(map(len, values.values()))
        self._fields = {}

    def add_clean(self, piece: CleanRows) -> None:
        """A value that is null counts as one where the text says so often enough: the count is for ``require_few`` alone."""
        table = piece.table
        self.cells += sum(self.columns[name].add_clean(table[name]) for name in table.column_names)
        self.cells += min(piece.nulls, sum(column.null_count for column in table.columns))
        self.rows += table.num_rows

    def require_few(self, file: SourceFile, rows: int = 0) -> None:
        """Raises DataError where keys seem to be data. Not looked at before so many rows more, or BATCH_CELLS values."""
        if self.rows - self._looked[0] < rows and self.cells - self._looked[1] < BATCH_CELLS:
            return
        self._looked = self.rows, self.cells
        sparse = self.rows * len(self.columns) > max(MAX_CELLS, 1000 * self.cells)
        if sparse or len(self.columns) > MAX_KEYS:
            many = f"{len(self.columns):,} different keys in {self.rows:,} rows with {self.cells:,} values"
            raise DataError(
                many if sparse else f"more than {MAX_KEYS:,} different keys",
                where=file.uri,
                fix="write data as values, with the same keys on every line",
            )


def _is_nested(field: pa.Field) -> bool:
    return bool(field.metadata and b"json" in field.metadata)


def _parse(
    file: SourceFile,
    options: SourceOptions,
    repaired: Counter[str],
    limit: int = BATCH_ROWS,
    known: Callable[[], dict[str, pa.Field] | None] | None = None,
) -> Iterator[CleanRows | Parsed[dict[str, Any]]]:
    """Objects in batches of a bounded size. ``known``: the types of all keys, with which blocks may be pyarrow's."""
    codec, _ = find_encoding(file, options)
    parsed = _Objects()
    number = 0
    with open_lines(file, options, codec, newline="\n") as lines:
        if known is not None and known():
            lines.widen()
        while True:
            if known is not None and lines.ahead():
                if parsed.rows or parsed.refused:
                    yield parsed  # what keys they have is ``known`` from here on
                    parsed = _Objects()
                if (clean := _take_block(lines, known(), options)) is not None:
                    yield clean.behind(number)
                    number += clean.lines
                    continue
            line = next(lines.given, None)
            if line is None:
                break
            number += 1
            # A blank line is told by itself: an error of json's costs ten times more.
            row = None if line.isspace() else parse_row(line, options, repaired)
            if number == 1:
                _require_no_array(line, row, file)
                lines.widen()
            if row is not None and parsed.add(number, line, row, limit):
                yield parsed
                parsed = _Objects()
    if parsed.rows or parsed.refused:
        yield parsed


def _take_block(lines: LineBlocks, fields: dict[str, pa.Field] | None, options: SourceOptions) -> CleanRows | None:
    """The objects of the next block, or of less of it, where nothing in it is odd."""
    while fields and (block := lines.ahead()):
        clean = parse_objects(block, fields, options.max_cell_bytes)
        if clean is not None:
            lines.skip()
            return clean
        if not lines.narrow():
            break
    return None


class _Objects(Parsed[dict[str, Any]]):
    cells = characters = 0

    def add(self, number: int, line: str, row: dict[str, Any] | Refusal, limit: int) -> bool:
        """Whether that is enough for a batch, of ``limit`` rows at most."""
        if isinstance(row, Refusal):
            self.refused.append((number, row))
        else:
            self.rows.append(row)
            self.numbers.append(number)
            self.cells += len(row)
        self.characters += len(line)
        full = len(self.rows) >= limit or self.cells >= BATCH_CELLS or self.characters >= BATCH_CHARACTERS
        return full or len(self.refused) >= BATCH_ROWS


def _require_no_array(line: str, row: dict[str, Any] | Refusal | None, file: SourceFile) -> None:
    if isinstance(row, Refusal) and line.lstrip().startswith("["):
        array = doubt_json("[")
        assert array is not None
        raise DataError(array.problem, where=f"{file.uri} line 1", fix=f"write JSON Lines: {array.fix}")


def doubt_lines(file: SourceFile, options: SourceOptions) -> Doubt | None:
    """Why these are not the rows one expects: no lines of objects, one object for all, or fields inside fields."""
    codec, _ = find_encoding(file, options)
    lines = read_lines(file, options, codec, newline="\n")
    head = "".join(line[:HEAD] for line in islice(lines, 2000))[:HEAD]
    lines.close()  # type: ignore[attr-defined]
    return doubt_json(head) or doubt_objects(JsonLines().sample(file, options, 100))


def parse_row(line: str, options: SourceOptions, repaired: Counter[str]) -> dict[str, Any] | Refusal | None:
    """The line's object, why it is refused, or None for a blank line."""
    odd = is_odd(line)
    if odd:
        if OVERLONG in line or ("\x00" in line and options.nul == "refuse_row"):
            return cast(Refusal, mend(line, options, repaired))
        if "\x00" in line:  # no JSON as it stands
            line, repaired["nul"] = line.replace("\x00", ""), repaired["nul"] + 1
        if options.bom == "strip":  # files put one behind the other keep the marks of the later ones
            line = line.lstrip("\ufeff")
    try:
        value = _decode(line)
    except ValueError as error:  # also an integer of more digits than Python reads
        return Refusal("bad_json", str(error)) if line.strip() else None
    except RecursionError:
        return Refusal("bad_json", "nested too deeply")
    if not isinstance(value, dict):
        return Refusal("not_an_object", f"expected an object, found {type(value).__name__}")
    if odd or "\\u" in line or len(line) * 4 > options.max_cell_bytes:
        return _mend_row(value, options, repaired)
    return value


def _mend_row(row: dict[str, Any], options: SourceOptions, repaired: Counter[str]) -> dict[str, Any] | Refusal:
    limit = options.max_cell_bytes
    for name, value in row.items():
        size = len(json.dumps(value)) if isinstance(value, list | dict) else 0
        if size > limit:
            return Refusal("cell_too_long", f"{name!r} has {size:,} bytes, at most {limit:,} are allowed")
    mended: dict[str, Any] | Refusal = mend_values(row, options, repaired)
    return mended


def _batch(parsed: Parsed[dict[str, Any]], schema: pa.Schema, repaired: Counter[str]) -> Batch:
    bad: dict[int, Refusal] = {}
    arrays = [convert([row.get(column.name) for row in parsed.rows], column, bad) for column in schema]
    table = pa.table(arrays, names=schema.names)
    return make_batch(table, "line", parsed.numbers, parsed.refused, repaired, dict(sorted(bad.items())))


def convert(values: list[Any], column: pa.Field, bad: dict[int, Refusal]) -> pa.Array:
    """The values in the column's type; those that do not fit become null, with the reason in ``bad`` by index."""
    kinds = set(map(type, values)) - {type(None)}
    if column.metadata and b"json" in column.metadata:
        return pa.array([None if v is None else json.dumps(v, ensure_ascii=False) for v in values], pa.string())
    fitting = _FITTING.get(column.type.id, set())
    if not kinds <= fitting:
        is_text = pa.types.is_string(column.type)
        values = list(values)
        for index, value in enumerate(values):
            if value is None or type(value) in fitting:
                continue
            if is_text and not isinstance(value, list | dict):
                values[index] = json.dumps(value)
                continue
            reason = "nested_value" if isinstance(value, list | dict) else "wrong_type"
            bad[index] = Refusal(reason, f"column {column.name!r}: expected {column.type}, found {_shown(value)}")
            values[index] = None
    return pa.array(values, column.type)


def _shown(value: Any) -> str:
    return cut(json.dumps(value, ensure_ascii=False), 60)


_FITTING: dict[int, set[type]] = {
    pa.bool_().id: {bool},
    pa.int64().id: {int},
    pa.float64().id: {int, float},
    pa.string().id: {str},
}
_KIND: dict[int, type] = {pa.bool_().id: bool, pa.int64().id: int, pa.float64().id: float, pa.string().id: str}
