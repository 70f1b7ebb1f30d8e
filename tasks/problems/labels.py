"""Labels as the names by which classes are counted, and which of their spellings are likely one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from augmill.tasks.rows.kinds.text import canonical
from augmill.tasks.rows.names import name_meant


def class_among(label: Any, classes: Iterable[str]) -> str | None:
    """The class of ``classes``, of whatever type, that a name for a label means; None where there is none."""
    known = set(classes)
    return next((name for name in (name_meant(label, like) for like in ("", 0, True)) if name in known), None)


def fold_label(name: str) -> str:
    """Case and blanks folded away: what one label written twice has in common."""
    return canonical(name).casefold()


def spelling(name: str) -> str:
    """The same for labels that are likely one: also 1 and 1.0, and what differs in case or blanks alone."""
    return name_meant(fold_label(name), 0)


def labels_alike(names: Iterable[str], classes: Iterable[str]) -> dict[str, str]:
    """Those names that are no class, but another spelling of exactly one: 0.0 of 0, True of true, A of a."""
    known, spelt = set(classes), dict[str, list[str]]()
    for name in known:
        spelt.setdefault(spelling(name), []).append(name)
    near = {name: spelt.get(spelling(name), []) for name in names if name not in known}
    return {name: hits[0] for name, hits in near.items() if len(hits) == 1}
