"""Why a file's columns are not those one expects, and how to mend it: for messages and `augmill init`, never for rows.

Each function looks at the beginning of a file, already decoded; what is a sound table is never in doubt.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from .guess import is_usual_name

MOST_SKIPPED = 30  # lines of titles and notes above a header
SENTENCE = 4  # words of a cell that is no name and no category, at least
SAME_WIDTH = 0.8  # of the rows from the header on, at least, have as many cells
_NUMBER = re.compile(r"[+-]?(\d[\d,. ]*|\d*\.\d+)([eE][+-]?\d+)?%?")
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OBJECT = re.compile(r'\s*\{\s*"([^"\\]{1,100})"\s*:\s*(\[)?')

Row = tuple[int, list[str]]  # the line on which it begins, from 1, and its cells


@dataclass(frozen=True)
class Doubt:
    """``skip``: lines above the header, where leaving them out is all that is needed."""

    problem: str
    fix: str
    skip: int = 0


def cut_rows(lines: list[str], first: int, arguments: dict[str, Any]) -> list[Row]:
    """Rows that are not blank; ``first``: the number of the first line. Those before a quote that does not pair."""
    reader, rows, start = csv.reader(lines, **arguments), list[Row](), first
    try:
        for row in reader:
            if row:
                rows.append((start, row))
            start = first + reader.line_num
    except csv.Error:
        pass  # the reader itself says where
    return rows


def doubt_header(tables: list[list[Row]], skipped: int) -> Doubt | None:
    """``tables``: the file's first rows by each delimiter that it may have, the one it is read with first."""
    rows = tables[0]
    if not rows:
        return None
    line, header = rows[0]
    if header[0].lstrip()[:2] in ('{"', "[{", "[", "{"):
        return Doubt(f"line {line} looks like JSON, not like a CSV's header", "set source.format: jsonl")
    for table in tables:
        at = _find_header(table)
        if at:
            stands, names = table[at]
            shown = ", ".join(name or '""' for name in names[:6])
            return Doubt(
                f"the header seems to be on line {stands} ({shown}), below a title or notes",
                f"set source.skip_lines: {stands - 1}, or remove the lines above it",
                stands - 1,
            )
    body = [row for _, row in rows[1:]]
    if len(body) > 1 and _is_data(header, body):
        return Doubt(
            f"line {line} looks like a row, not like the names of columns: {', '.join(header[:6])[:120]}",
            f"write a line of {len(header)} names above it, such as {_names(header)}"
            + (", or correct source.skip_lines" if skipped else ""),
        )
    return None


def _names(row: list[str]) -> str:
    names = ["text", "label"] if any(len(cell.split()) >= SENTENCE for cell in row) else []
    return ",".join([*names, *(f"column_{at}" for at in range(len(names) + 1, len(row) + 1))][: len(row)][:5])


def _find_header(rows: list[Row]) -> int:
    """The index of the row that is the header, where lines of other widths, or of one cell, stand above it; else 0."""
    widths = Counter(len(row) for _, row in rows)
    width = widths.most_common(1)[0][0] if rows else 0
    first = rows[0][1] if rows else []
    title = len(first) < width or (bool(first[0].strip()) and not any(cell.strip() for cell in first[1:]))
    if width < 2 or not title:
        return 0
    for at, (_, row) in enumerate(rows[: MOST_SKIPPED + 1]):
        if at == 0 or len(row) != width or not all(cell.strip() for cell in row[1:]):
            continue
        body = [other for _, other in rows[at + 1 :]]
        alike = sum(len(other) == width for other in body)
        if not row[0].strip() and at == 0:
            continue
        if len(body) > 1 and alike >= SAME_WIDTH * len(body) and not _holds_values(row) and not _is_data(row, body):
            return at
    return 0


def _holds_values(row: list[str]) -> bool:
    return any(_is_value(cell) for cell in row)


def _is_value(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell.strip()) or _DATE.fullmatch(cell.strip()))


def _is_data(header: list[str], body: list[list[str]]) -> bool:
    """Whether the row is one of values: a cell stands again, twice at least, in its own column, or a number stands

    above numbers beside a cell of a sentence's length. Numbers from 0 or 1 on are the names that pandas gives.
    """
    cells = [cell.strip() for cell in header]
    given = [cell for cell in cells if cell]
    if given in ([str(at) for at in range(len(given))], [str(at) for at in range(1, len(given) + 1)]):
        return False
    body = [[cell.strip() for cell in row] for row in body if [cell.strip() for cell in row] != cells]
    again = numbers = False
    for at, cell in enumerate(cells):
        column = [row[at] for row in body if at < len(row) and row[at]]
        if cell and column.count(cell) >= 2:
            again = True
        elif is_usual_name(cell):
            return False
        numbers |= _is_value(cell) and len(column) > 1 and all(map(_is_value, column))
    return again or (numbers and any(len(cell.split()) >= SENTENCE for cell in cells))


def doubt_json(text: str) -> Doubt | None:
    """Of a file's beginning: an array, or JSON over several lines, where one object a line is expected."""
    start = text.lstrip("\ufeff \t\r\n")
    if start.startswith("["):
        return Doubt("expected one JSON object a line, found a JSON array", _jq(".[]"))
    found = _OBJECT.match(start)
    if not found:
        return None
    try:
        value, end = json.JSONDecoder().raw_decode(start)
    except (ValueError, RecursionError):
        value, end = None, len(start)
    if "\n" not in start[:end].rstrip():
        return None
    if isinstance(value, dict) and (inner := _doubt_single(value)) is not None:
        return inner
    if value is None and found[2]:  # it ends further on
        return Doubt(_wrapper(found[1]), _jq(f"{_path(found[1])}[]"))
    return Doubt("expected one JSON object a line, found objects over several lines", _jq("."))


def doubt_objects(rows: list[dict[str, Any]]) -> Doubt | None:
    """Of the first objects: all rows inside one of them, or fields inside fields."""
    if len(rows) == 1 and (single := _doubt_single(rows[0])) is not None:
        return single
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if row.get(name) not in (None, [], {})]
        if values and all(map(_is_chat, values)):
            role, content, who = ("role", "content", "user") if "role" in values[0][0] else ("from", "value", "human")
            said = f'[{_path(name)}[] | select(.{role} == "{who}") | .{content}] | join("\\n")'
            return Doubt(
                f"column {name!r} holds chat messages, not texts",
                "write the text to be read into a column of its own, for example what the user says: "
                + _jq(f". + {{text: ({said})}}"),
            )
    inner = {
        (name, key): None
        for row in rows
        for name, value in row.items()
        if isinstance(value, dict)
        for key, part in value.items()
        if not isinstance(part, list | dict)
    }
    if not inner:
        return None
    made = ", ".join(f"{_key(f'{name}_{key}')}: {_path(name, key)}" for name, key in list(inner)[:6])
    names = list(dict.fromkeys(name for name, _ in inner))
    return Doubt(
        f"column {names[0]!r} holds objects, whose fields are not columns ({', '.join(f'{n}.{k}' for n, k in list(inner)[:6])})",
        f"write their fields as columns: {_jq(f'. + {{{made}}}')}",
    )


def _doubt_single(row: dict[str, Any]) -> Doubt | None:
    """Of the only object of a file."""
    lists = [name for name, value in row.items() if isinstance(value, list) and value]
    tables = [name for name in lists if all(isinstance(item, dict) for item in row[name]) and not _is_chat(row[name])]
    if tables:
        most = max(tables, key=lambda name: len(row[name]))
        return Doubt(_wrapper(most), _jq(f"{_path(most)}[]"))
    objects = [value for value in row.values() if isinstance(value, dict) and value]
    whole = len(objects) == len(row) > 1
    if (len(lists) == len(row) > 1) or (whole and all(key.isdecimal() for part in objects for key in part)):
        return Doubt(
            "expected one JSON object a line, found one object of whole columns",
            "write its rows, for example in Python: pandas.read_json(FILE).to_json(OUT, orient='records', lines=True)",
        )
    if whole and len({tuple(part) for part in objects}) == 1:
        return Doubt("expected one JSON object a line, found all rows under their ids in one object", _jq(".[]"))
    return None


def _is_chat(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(part, dict) and ({"role", "content"} <= set(part) or {"from", "value"} <= set(part))
            for part in value
        )
    )


def _wrapper(name: str) -> str:
    return f"expected one JSON object a line, found all rows in one object, under {name!r}"


def _jq(expression: str) -> str:
    return f"jq -c '{expression}' FILE > rows.jsonl"


def _key(name: str) -> str:
    return name if _PLAIN_KEY.fullmatch(name) else json.dumps(name).replace("'", "\\u0027")


def _path(*names: str) -> str:
    parts = [f".{name}" if _PLAIN_KEY.fullmatch(name) else f"[{_key(name)}]" for name in names]
    return "".join(parts) if parts[0].startswith(".") else "." + "".join(parts)
