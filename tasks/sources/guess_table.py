"""Which columns of a table are inputs, of which type, and which is learnt: for ``augmill init`` and ``judge``, not for runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import ReadLimits
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.problems.classification import Labels
from augmill.tasks.rows.kinds import KINDS
from augmill.tasks.rows.kinds.media import RELEASED, is_media

from .folder import FOLDER
from .guess import FILES_LOOKED_AT, GRADE, IDENTIFIER, LABEL, first_rows, snaked, text_rank
from .members import name_files, read_files, too_large
from .options import SourceFile, SourceOptions

# What people call what is to be learnt, beside a label or a grade: as the whole name, or as its last word.
_OUTCOME = (
    r"outcome|response|result|income|salary|wages?|prices?|rents?|costs?|value|sales|revenue|demand|charges|churn(ed)?|fraud"
    r"|default(ed)?|survived|fail(s|ed|ure)?|diagnosis|species|variety|quality|approved|converted|clicked|medv|mpg|progression"
)
CLASSES = 10  # different whole numbers: up to so many are taken for classes, more for amounts
REPEATED = 2  # times that a category's value stands on average, at least, where the column is to say anything
MOST_CLASSES = 1000
SHORT = 40  # characters on average: what is named as a name, an address or a place, and is no longer, is no text
LOOKED_AT = 100  # lists or objects that a problem is asked about
COUNTED = 20  # rows from which whole numbers in even steps count them


@dataclass(frozen=True)
class Sniffed:
    """A column's first rows. ``type``: as ``columns.inputs`` has it; ``left``: why it is no input, or an empty text.

    ``known``: rows with a value; ``length``: of these, characters on average; ``whole``: all are whole numbers;
    ``learns``: as ``columns.target`` has it, where lists or objects are what a problem learns.
    """

    type: str
    known: int
    distinct: int
    whole: bool
    length: float
    left: str
    learns: str = ""


def sniff_columns(file: SourceFile, options: SourceOptions, identifier: str | None) -> dict[str, Sniffed]:
    """Every column by the kind that is surest of it. ``identifier``: the column of ids, if there is one."""
    from . import read_schema

    rows, found = first_rows(file, options), dict[str, Sniffed]()
    for name in read_schema(file, options):
        values = [row.get(name) for row in rows]
        if learns := _learns(values):
            found[name] = Sniffed("text", len(values), len(values), False, 0.0, "it holds no plain values", learns)
            continue
        files = _files_named(file, options, name, values)
        found[name] = _sniff(name, values, identifier) if files is None else _sniff_files(name, files)
    return found


def _learns(values: list[Any]) -> str:
    """What a problem calls these lists or objects, or the JSON of some, where it reads most of them; else nothing."""
    known = [value for value in values if value is not None][:LOOKED_AT]
    if not known or not all(isinstance(v, list | dict) or str(v).lstrip()[:1] in ("[", "{") for v in known):
        return ""
    for problem in dict.fromkeys(PROBLEMS.values()):
        if problem.target is not None and pa.types.is_nested(problem.target):
            reader = problem.reader(Labels())
            if sum(not reader.read(value).reason for value in known) * 2 > len(known):
                return problem.types[0]
    return ""


def _files_named(file: SourceFile, options: SourceOptions, name: str, values: list[Any]) -> pa.ChunkedArray | None:
    """The first values' files, where most of these texts name one that lies beside the table."""
    texts = [value for value in values if isinstance(value, str) and value][:FILES_LOOKED_AT]
    if not any("." in text for text in texts) or file.format == FOLDER:
        return None
    (own,) = name_files([file], options, [name], most=FILES_LOOKED_AT)
    there = [m for m in own.members if not m.reason and not too_large(m, options)]
    if not there or 2 * len(there) < len(own.members):
        return None
    rows = [{"bytes": data, "path": m.name} for m, data in zip(there, read_files(there), strict=True)]
    return pa.chunked_array([pa.array(rows, RELEASED)])


def _sniff_files(name: str, files: pa.ChunkedArray) -> Sniffed:
    """A column of files by the kind that is surest of them."""
    kinds = [kind for kind in dict.fromkeys(KINDS.values()) if kind.files]
    known = len(files) - files.null_count
    type, sure = max((kind.sniff(files, name) for kind in kinds), key=lambda found: found[1], default=("text", 0.0))
    left = "" if sure and known else "it holds no value" if not known else "its files are neither pictures nor sounds"
    return Sniffed(type if not left else "text", known, known, False, 0.0, left)


def _sniff(name: str, values: list[Any], identifier: str | None) -> Sniffed:
    try:
        column = pa.chunked_array([pa.array(values)])
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return Sniffed("text", 0, 0, False, 0.0, "its values are of several types")
    if is_media(column.type):
        return _sniff_files(name, column)
    kinds = [kind for kind in dict.fromkeys(KINDS.values()) if not kind.files]  # names of files that are not there
    if pa.types.is_nested(column.type):
        kinds = [kind for kind in kinds if any(kind.takes(column.type, type) for type in kind.types)]
        if not kinds:
            return Sniffed("text", 0, 0, False, 0.0, "it holds no plain values")
    type, sure = max((kind.sniff(column, name) for kind in kinds), key=lambda found: found[1])
    if not sure:
        return Sniffed(type, 0, 0, False, 0.0, "it holds no value")
    if pa.types.is_nested(column.type) and sure <= 0.5:
        known = len(column) - column.null_count
        return Sniffed(type, known, known, False, 0.0, "nothing says what is to be learnt of it")
    found, _ = KINDS[type].read(column, type, ReadLimits(10**9))
    found = found.drop_null()
    distinct = len(set(map(str, found.to_pylist()))) if pa.types.is_nested(found.type) else len(found.unique())
    numbers = found.to_numpy(zero_copy_only=False) if pa.types.is_floating(found.type) else np.empty(0)
    whole = len(numbers) > 0 and bool((numbers == np.rint(numbers)).all())
    length = sum(len(str(value)) for value in values if value is not None) / max(1, len(found))
    left = _left(name, type, found, numbers if whole else np.empty(0), distinct, identifier)
    if not left and type == "text":
        left = "it holds texts" if length > SHORT else "almost every value is different"
    return Sniffed(type, len(found), distinct, whole, length, left)


def _left(name: str, type: str, found: pa.Array, whole: Any, distinct: int, identifier: str | None) -> str:
    if name == identifier or IDENTIFIER.search(snaked(name)):
        return "named as an id"
    if distinct < 2:
        return "only one value" if distinct else "it holds no value"
    if len(whole) >= COUNTED and len(np.unique(np.diff(whole))) == 1:
        return "it counts the rows"
    if type == "category" and REPEATED * distinct > max(len(found), 2 * REPEATED):
        return "almost every value is different"
    return ""


# What people call a text and what is to be answered to it, the surest name first; and what is read along with a question.
_ASKED = ("question", "query", "prompt", "instruction", "user_message", "input", "source", "src")
_ANSWERED = ("answer", "response", "reply", "completion", "output", "target", "translation", "tgt")
_ALONG = ("context", "passage")


def guess_pair(columns: Mapping[str, Sniffed]) -> tuple[list[str], str] | None:
    """(texts, the text to be answered to them), by name; None where there are no such columns of differing texts."""

    def first(names: Sequence[str]) -> str | None:
        there = {snaked(name): name for name, found in columns.items() if _is_free_text(found)}
        return next((there[name] for name in names if name in there), None)

    asked, answered = first(_ASKED), first(_ANSWERED)
    if asked is None or answered is None:
        return None
    along = first(_ALONG)
    return [asked, *([along] if along else [])], answered


def _is_free_text(found: Sniffed) -> bool:
    """Texts, no names: most differ, or they have more than a word or two."""
    texts = found.type in ("text", "category") and found.known > 0
    return texts and (2 * found.distinct > found.known or found.length > SHORT)


def guess_dialogue(columns: Mapping[str, Sniffed]) -> str | None:
    """The first column of dialogues."""
    return next((name for name, found in columns.items() if found.type == "dialogue" and not found.left), None)


def reads_as_table(texts: Sequence[str], columns: Mapping[str, Sniffed]) -> bool:
    """Whether the rows are better read as a table than by ``texts``, which are the best that there are for texts."""
    others = [name for name, found in columns.items() if name not in texts and not found.left]
    return len(others) >= 2 and not any(_is_text(name, columns[name]) for name in texts)


def _is_text(name: str, found: Sniffed) -> bool:
    rank = text_rank(name)
    return rank < 3 or (found.type == "text" and (rank == 3 or found.length > SHORT))


def best_files(columns: Mapping[str, Sniffed]) -> str | None:
    """The column of files to learn from: the one that most rows have, of these the first; None where there is none."""
    able = [name for name, found in columns.items() if KINDS[found.type].files and not found.left]
    return max(able, key=lambda name: (columns[name].known, -able.index(name)), default=None)


def target_type(found: Sniffed) -> str:
    """``label``, ``number``, or what a problem calls lists or objects that it learns."""
    if found.learns:
        return found.learns
    return "number" if found.type == "number" and not (found.whole and found.distinct <= CLASSES) else "label"


def guess_target(columns: Mapping[str, Sniffed], taken: Sequence[str]) -> tuple[str, str] | None:
    """(the column to learn, why), by name or as the last one that can be learnt; None where none can. ``taken``: inputs."""
    able = [
        name
        for name, found in columns.items()
        if name not in taken and (found.learns or (not found.left and _is_learnable(found)))
    ]
    if not able:
        return None
    best = min(able, key=lambda name: (not columns[name].learns, _target_rank(name), -able.index(name)))
    if columns[best].learns:
        return best, f"holds {columns[best].learns}"
    named = "named as a target" if _target_rank(best) < 3 else ""
    last = "the last column" if best == [*columns][-1] else "the last column that can be learnt"
    return best, f"{named or last}, {columns[best].distinct:,} distinct values in {columns[best].known:,} rows"


def is_class(name: str, found: Sniffed) -> bool:
    """Whether whole numbers beside files are classes, however many, as their name says: a directory's, a tar's ``cls``."""
    return found.whole and _target_rank(name) == 0


def is_labelled(columns: Mapping[str, Sniffed]) -> bool:
    """Whether a column that can be learnt is named as a label."""
    return any(_target_rank(name) == 0 and not found.left and _is_learnable(found) for name, found in columns.items())


def _is_learnable(found: Sniffed) -> bool:
    few = found.distinct <= min(MOST_CLASSES, max(2, found.known // 2))
    return found.type != "timestamp" and (target_type(found) == "number" or few)


def _target_rank(name: str) -> int:
    """0: named as a label; 1: as a grade or an outcome; 2: with such a last word; 3: no telling name."""
    whole = snaked(name)
    if re.fullmatch(LABEL, whole):
        return 0
    if re.fullmatch(f"{GRADE}|{_OUTCOME}", whole):
        return 1
    return 2 if re.search(rf"_({LABEL}|{_OUTCOME})$", whole) else 3
