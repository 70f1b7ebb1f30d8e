"""Labels as the names by which classes are counted, and which of their spellings are likely one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from augmill.tasks.rows.kinds.text import canonical

_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,99})(?:\.0*)?")  # not 010: a code's zeros are its own


def label_text(value: Any) -> str:
    """A label as the string by which classes are counted: true and false in lower case, integers plainly."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def class_of(label: Any, like: Any) -> str:
    """The class that a name for a label means among labels of the type of ``like``.

    Among texts the one that is written so (010 is no 10), among truth values any spelling of true and false, among
    whole numbers any of the number (1.0 is 1).
    """
    text = label_text(label)
    if isinstance(like, bool):
        return text.lower() if text.lower() in ("true", "false") else text
    number = _WHOLE.fullmatch(text) if isinstance(like, int) else None
    return number[1] if number else text


def class_among(label: Any, classes: Iterable[str]) -> str | None:
    """The class of ``classes``, of whatever type, that a name for a label means; None where there is none."""
    known = set(classes)
    return next((name for name in (class_of(label, like) for like in ("", 0, True)) if name in known), None)


def fold_label(name: str) -> str:
    """Case and blanks folded away: what one label written twice has in common."""
    return canonical(name).casefold()


def spelling(name: str) -> str:
    """The same for labels that are likely one: also 1 and 1.0, and what differs in case or blanks alone."""
    folded = fold_label(name)
    number = _WHOLE.fullmatch(folded)
    return number[1] if number else folded


def labels_alike(names: Iterable[str], classes: Iterable[str]) -> dict[str, str]:
    """Those names that are no class, but another spelling of exactly one: 0.0 of 0, True of true, A of a."""
    known, spelt = set(classes), dict[str, list[str]]()
    for name in known:
        spelt.setdefault(spelling(name), []).append(name)
    near = {name: spelt.get(spelling(name), []) for name in names if name not in known}
    return {name: hits[0] for name, hits in near.items() if len(hits) == 1}
