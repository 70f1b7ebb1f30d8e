"""Which column is what, from names and the first rows: a start for ``augmill init``, never used by a run."""

from __future__ import annotations

import re
from typing import Any

from .options import SourceFile, SourceOptions

ROWS = 2000
_LABEL = re.compile(r"(^|_)(label|labels|class|category|intent|target|sentiment|topic|tag|y|gold|coarse_label)($|_)")
_ID = re.compile(r"(^|_)(id|uuid|guid|key|idx|index)($|_)|^column_1$")
_DATE = re.compile(r"(^|_)(date|day|dt|time|timestamp|created|updated|at|month)($|_)")
_TEXT = re.compile(
    r"(^|_)(text|sentence|utterance|question|query|content|body|message|title|premise|hypothesis|review|document)s?\d?($|_)"
)
_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?")
_PAIR = re.compile(r"(_b|_?2|hypothesis)$")


def guess_columns(file: SourceFile, options: SourceOptions) -> dict[str, Any]:
    """{"text": [names], "label": name or None, "id": name or None, "date": [names], "why": {name: reason}}.

    text: the longest strings, by name first; two of them where the second is named as the other half of a pair.
    label: few distinct values, by name first. id: distinct in every row and named so. date: ISO dates.
    """
    from . import read_schema, sample_rows

    names = read_schema(file, options)
    rows = sample_rows(file, options, ROWS)
    values = {name: [row[name] for row in rows if row.get(name) not in (None, "")] for name in names}
    why: dict[str, str] = {}
    dates = [name for name in names if _is_date(name, values[name])]
    why |= dict.fromkeys(dates, "holds ISO dates")
    rest = [name for name in names if name not in dates and values[name]]
    identifier = next((n for n in rest if _ID.search(_snake(n)) and _distinct(values[n]) == len(values[n]) > 1), None)
    if identifier is not None:
        why[identifier] = "named as an id and distinct in every row"
    rest = [name for name in rest if name != identifier]
    label = _guess_label(rest, values, why)
    texts = _guess_texts([name for name in rest if name != label], values, why)
    return {"text": texts, "label": label, "id": identifier, "date": dates, "why": why}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[\W]+", "_", name).lower()


def _distinct(values: list[Any]) -> int:
    return len(set(map(str, values)))


def _is_date(name: str, values: list[Any]) -> bool:
    if not values:
        return False
    kinds = {type(value).__name__ for value in values}
    if kinds <= {"date", "datetime", "Timestamp"}:
        return True
    return bool(all(isinstance(v, str) and _ISO_DATE.fullmatch(v) for v in values)) or (
        bool(_DATE.search(_snake(name)))
        and all(isinstance(v, str) and v[:4].isdigit() and len(v) <= 32 for v in values)
    )


def _guess_label(names: list[str], values: dict[str, list[Any]], why: dict[str, str]) -> str | None:
    def few(name: str) -> bool:
        distinct = _distinct(values[name])
        plain = all(isinstance(value, str | int | bool) for value in values[name])
        return plain and distinct <= max(2, len(values[name]) // 2) and distinct <= 1000

    named = [name for name in names if _LABEL.search(_snake(name)) and (few(name) or len(values[name]) < 20)]
    candidates = named or [name for name in names if few(name) and not _TEXT.search(_snake(name))]
    if not candidates:
        return None
    label = min(candidates, key=lambda name: (_distinct(values[name]) < 2, _distinct(values[name]), names.index(name)))
    counted = f"{_distinct(values[label])} distinct values in {len(values[label])} rows"
    why[label] = f"named as a label, {counted}" if named else counted
    return label


def _guess_texts(names: list[str], values: dict[str, list[Any]], why: dict[str, str]) -> list[str]:
    def length(name: str) -> float:
        return sum(map(len, values[name])) / len(values[name])

    strings = [name for name in names if all(isinstance(value, str) for value in values[name])]
    if not strings:
        return []
    named = [name for name in strings if _TEXT.search(_snake(name))]
    pool = named or strings
    pairs = [name for name in pool if _PAIR.search(_snake(name))]
    firsts = [name for name in pool if name not in pairs] or pool
    text = max(firsts, key=lambda name: (length(name), -names.index(name)))
    chosen = [text, *(name for name in pairs[:1] if name != text and 0.2 < length(name) / length(text) < 5)]
    why |= {n: f"{'named as a text, ' if n in named else ''}{length(n):.0f} characters on average" for n in chosen}
    return chosen
