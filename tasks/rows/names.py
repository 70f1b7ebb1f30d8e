"""Names of values, and of what stands in recipes: what they mean, and what was meant by one that is not there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

SHOWN = 32  # names in a message: all sections of a recipe (28), all options of chat (31)


def nearest(name: str, present: Sequence[str], otherwise: str = "") -> str:
    """``did you mean 'text'?``, whatever the case; where none is near ``otherwise``, or what there is."""
    folded = {other.casefold(): other for other in reversed(present)}
    key = name.casefold()
    holding = [other for other in folded if key in re.split(r"[\W_]+", other)]  # comment_text for text, not threat
    close = holding[-1:] if key not in folded and holding else difflib.get_close_matches(key, folded, n=1, cutoff=0.6)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    rest = f" and {len(present) - SHOWN:,} more" if len(present) > SHOWN else ""
    return otherwise or f"there are: {', '.join(present[:SHOWN])}{rest}"


_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,99})(?:\.0*)?")  # not 010: a code's zeros are its own


def name_of(value: Any) -> str:
    """A source's value as the string by which it is named and counted: true and false in lower case, integers plainly."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def name_meant(name: Any, like: Any) -> str:
    """What a recipe's name for a value means, as ``name_of`` gives it, among values of the type of ``like``.

    Among strings the one that is written so (010 is no 10), among truth values any spelling of true and false, among
    whole numbers any of the number (1.0 is 1).
    """
    said = name_of(name)
    if isinstance(like, bool):
        return said.lower() if said.lower() in ("true", "false") else said
    number = _WHOLE.fullmatch(said) if isinstance(like, int) else None
    return number[1] if number else said


def spelt_otherwise(names: Iterable[Any]) -> bool:
    """Whether one of them is found among values by what it means alone, as 1.0 and True are."""
    return any(name_meant(name, like) != name_of(name) for name in names for like in (0, True))
