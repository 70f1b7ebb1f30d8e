"""Which column is what, from names and the first rows: a start for ``augmill init``, never used by a run."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from decimal import Decimal
from itertools import chain
from typing import Any

import pyarrow as pa

from augmill.tasks.rows.kinds.media import is_media

from .folder import FOLDER
from .options import SourceFile, SourceOptions

ROWS = 2000
FILES_LOOKED_AT = 20  # pictures or sounds, of these rows
IDENTIFIER = re.compile(r"(^|_)(ids?|uuid|guid|key|idx|index)($|_)|^column_1$")
_DATE = re.compile(r"(^|_)(date|day|dt|time|timestamp|created|updated|at|month)($|_)")
_DAY = re.compile(r"(19|20)\d\d([-/.]?W?\d{1,2}){0,2}([T ].*)?")  # not the seconds since 1970
_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?")
_SECOND = re.compile(r"_?(b|2)$")

# What people call the label: such a name as a whole, a grade as a whole, the first as a part, what else sorts rows.
LABEL = r"labels?|cls|gold|gold_label|class|category|intent|target|sentiment|topic|tag|y|coarse_label|emotion|stance"
GRADE = r"score|ratings?|stars?|star_rating|overall|polarity|spam|toxicity|class_(index|label|name)|is_\w+"
_SORT = r"type|kind|genre|product|priority|queue|department|division|team|group|severity|reason"
# Measures, people and places: no labels, however few values there are.
_NO_LABEL = re.compile(
    r"(^|_)(numerator|denominator|counts?|num|number|length|len|age|price|votes?|likes|ups|useful|funny|cool|confidence"
    r"|probability|name|user|author|country|state|city|location|url|link|website|title|summary|subject|split|fold|lang"
    r"|language|version|year|hour|status|state)($|_)"
)
_TEXT = (
    r"texts?|sentence|utterance|question|query|content|body|message|review|document|comment|tweet|post|description|premise"
    r"|hypothesis|instruction|prompt|phrase|narrative|complaint|transcript|feedback|email|abstract|article"
)
_OF_A_TEXT = rf"((comment|review|question|tweet|full|clean|raw|input|email|message)_(text|body|content))|{_TEXT}"
_HEADLINE = r"title|subject|summary|headline|heading"
# What is derived from a text, or says something about it.
_NO_TEXT = re.compile(
    r"(^|_)(ids?|uuid|parse|counts?|length|len|num|lang|language|type|name|user|author|url|link|image|image_url|address|file"
    r"|filename|path|location|date|time|at|created|version|tokens|hash|label|labels)($|_)"
)


def guess_columns(file: SourceFile, options: SourceOptions) -> dict[str, Any]:
    """{"text": [names], "label": name or None, "id": name or None, "date": [names], "ask": [questions],

    "why": {name: reason}}. text: by name first, then the longest strings; two of them where the second is named as the
    other half of a pair. label: by name first, then few distinct values. id: distinct in every row and named so. date:
    ISO dates. ask: where a person may mean another column than the one that was chosen.
    """
    from . import read_schema

    rows = first_rows(file, options)
    names = [name for name in read_schema(file, options) if not any(isinstance(row.get(name), dict) for row in rows)]
    values = {name: [row[name] for row in rows if row.get(name) not in (None, "")] for name in names}
    why: dict[str, str] = {}
    dates = [name for name in names if _is_date(name, values[name])]
    why |= dict.fromkeys(dates, "holds ISO dates")
    rest = [name for name in names if name not in dates and values[name]]
    identifier = next(
        (n for n in rest if IDENTIFIER.search(snaked(n)) and _distinct(values[n]) == len(values[n]) > 1), None
    )
    if identifier is not None:
        why[identifier] = "named as an id and distinct in every row"
    rest = [name for name in rest if name != identifier]
    label = _guess_label(rest, values, why)
    texts = _guess_texts([name for name in rest if name != label], values, why)
    ask = [*_ask_label(label, rest, values), *_ask_text(texts, [name for name in rest if name != label], values)]
    return {"text": texts, "label": label, "id": identifier, "date": dates, "ask": ask, "why": why}


def first_rows(file: SourceFile, options: SourceOptions) -> list[dict[str, Any]]:
    """The first rows with the partition's values; of a directory rows from all over it; files of the first few alone."""
    from . import SOURCES, sample_rows

    if file.format in ("csv", "jsonl"):
        return sample_rows(file, options, ROWS)
    if file.format == FOLDER:
        file = replace(file, members=file.members[:: max(1, len(file.members) // ROWS)])
    reader = SOURCES[file.format]()
    schema = reader.schema([file], options)
    plain = pa.schema([field for field in schema if not is_media(field.type)])
    if len(plain) == len(schema):
        return sample_rows(file, options, ROWS)
    rows: list[dict[str, Any]] = []
    for batch in reader.batches(file, options, plain) if len(plain) else ():
        rows += [row | file.partition for row in batch.table.slice(0, ROWS - len(rows)).to_pylist()]
        if len(rows) >= ROWS:
            break
    few = replace(file, members=file.members[:FILES_LOOKED_AT])
    files = next(reader.batches(few, options, pa.schema([field for field in schema if is_media(field.type)])))
    for at, row in enumerate(files.table.slice(0, FILES_LOOKED_AT).to_pylist()):
        rows[at : at + 1] = [(rows[at] if at < len(rows) else dict(file.partition)) | row]
    return rows


def is_usual_name(name: str) -> bool:
    """Whether this is what people call a column of texts, labels, ids or dates."""
    snake = snaked(name.strip())
    whole = f"{LABEL}|{GRADE}|{_SORT}|{_OF_A_TEXT}|{_HEADLINE}|ids?|date|time|name|user|author|split|lang|language"
    return re.fullmatch(rf"({whole})(_?(\d|[ab]))?", snake) is not None or snake.endswith("_id")


def _is_label(value: Any) -> bool:
    """As ingest takes labels: texts, truth values and whole numbers, also those that are written 1.0."""
    if isinstance(value, float | Decimal):
        return math.isfinite(value) and value == int(value)
    return isinstance(value, str | int)


def snaked(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[\W]+", "_", name).strip("_").lower()


def _distinct(values: list[Any]) -> int:
    return len(set(map(str, values)))


def _is_date(name: str, values: list[Any]) -> bool:
    if not values:
        return False
    kinds = {type(value).__name__ for value in values}
    if kinds <= {"date", "datetime", "Timestamp"}:
        return True
    return bool(all(isinstance(v, str) and _ISO_DATE.fullmatch(v) for v in values)) or (
        bool(_DATE.search(snaked(name)))
        and all(isinstance(v, str) and len(v) <= 32 and _DAY.fullmatch(v) for v in values)
    )


def _label_rank(name: str) -> int:
    """0: named as a label; 1: as a grade; 2: as a label among other words; 3: as what sorts rows; 4: no telling name."""
    snake = snaked(name)
    if re.fullmatch(LABEL, snake):
        return 0
    if re.fullmatch(GRADE, snake):
        return 1
    if _NO_LABEL.search(snake):
        return 5
    if re.search(rf"(^|_)({LABEL})\d?($|_)", snake):
        return 2
    return 3 if re.search(rf"(^|_)({_SORT})($|_)", snake) else 4


def _guess_label(names: list[str], values: dict[str, list[Any]], why: dict[str, str]) -> str | None:
    most = max((len(values[name]) for name in names), default=0)

    def few(name: str) -> bool:
        distinct = _distinct(values[name])
        return all(map(_is_label, values[name])) and distinct <= max(2, len(values[name]) // 2) and distinct <= 1000

    def order(name: str) -> tuple[Any, ...]:
        distinct, rank = _distinct(values[name]), _label_rank(name)
        sparse = 2 * len(values[name]) < most
        return (
            distinct < 2,
            sparse,
            rank,
            bool(IDENTIFIER.search(snaked(name))) and rank > 1,
            distinct,
            names.index(name),
        )

    named = [n for n in names if _label_rank(n) < 3 and (few(n) or (len(values[n]) < 20 and _label_rank(n) != 1))]
    candidates = named or [name for name in names if few(name) and not text_rank(name) < 2]
    if not candidates:
        return None
    label = min(candidates, key=order)
    counted = f"{_distinct(values[label])} distinct values in {len(values[label])} rows"
    why[label] = f"named as a label, {counted}" if named else counted
    return label


def _ask_label(label: str | None, names: list[str], values: dict[str, list[Any]]) -> list[str]:
    """Whether the chosen one of several 0/1 columns is meant: that is how several labels a row are written."""
    flags = [name for name in names if set(map(str, values[name])) <= {"0", "1", "False", "True", "0.0", "1.0"}]
    if label not in flags or len(flags) < 2 or _label_rank(label) == 0:
        return []
    shown = ", ".join(flags[:6]) + (f" and {len(flags) - 6} more" if len(flags) > 6 else "")
    return [
        f"{len(flags)} columns hold only 0 and 1 ({shown}): is {label!r} the label? Name another with --label. Several "
        "labels per row are not supported; make one column of them, for example in pandas: "
        'df["label"] = df[FLAGS].idxmax(axis=1).where(df[FLAGS].any(axis=1), "none")'
    ]


def text_rank(name: str) -> int:
    """0: named as a text; 1: as a text among other words; 2: as a headline; 3: no telling name; 4: as something else."""
    snake = snaked(name)
    if re.fullmatch(rf"({_OF_A_TEXT})(_?(\d|[ab]))?", snake):
        return 0
    if _NO_TEXT.search(snake):
        return 4
    if re.search(rf"(^|_)({_TEXT})\d?($|_)", snake):
        return 1
    return 2 if re.search(rf"(^|_)({_HEADLINE})\d?($|_)", snake) else 3


def _length(values: list[Any]) -> float:
    return sum(map(len, values)) / len(values)


def _guess_texts(names: list[str], values: dict[str, list[Any]], why: dict[str, str]) -> list[str]:
    strings = [name for name in names if all(isinstance(value, str) for value in values[name])]
    strings = [name for name in strings if any(map(str.isalpha, chain.from_iterable(values[name])))]  # no digits alone
    if not strings:
        return []

    def order(name: str) -> tuple[Any, ...]:
        return text_rank(name), -_length(values[name]), names.index(name)

    best = min(map(text_rank, strings))
    pool = [name for name in strings if text_rank(name) == best]
    seconds = [name for name in pool if _is_second(name, pool)]
    text = min([name for name in pool if name not in seconds] or pool, key=order)
    pair = [name for name in seconds if name != text and 0.2 < _length(values[name]) / _length(values[text]) < 5]
    chosen = [text, *pair[:1]]
    said = {0: "named as a text, ", 1: "named as a text, ", 2: "named as a headline, "}.get(best, "")
    why |= {name: f"{said}{_length(values[name]):.0f} characters on average" for name in chosen}
    return chosen


def _is_second(name: str, names: list[str]) -> bool:
    """Whether the name is that of the other half of a pair."""
    snake = snaked(name)
    if snake == "hypothesis" or not _SECOND.search(snake):
        return snake == "hypothesis"
    stem = _SECOND.sub("", snake)
    return any(re.fullmatch(rf"{re.escape(stem)}(_?[a1])?", snaked(other)) for other in names if other != name)


def _ask_text(texts: list[str], names: list[str], values: dict[str, list[Any]]) -> list[str]:
    """Whether another column, a headline say, is to be read with the one that was chosen."""
    others = [
        name
        for name in names
        if name not in texts and text_rank(name) <= 2 and all(isinstance(value, str) for value in values[name])
    ]
    if len(texts) != 1 or not others or text_rank(texts[0]) > 2:
        return []
    return [
        f"{others[0]!r} may be read too: --text {_quoted(others[0])} --text {_quoted(texts[0])} takes the two as a pair"
    ]


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else f'"{name}"'
