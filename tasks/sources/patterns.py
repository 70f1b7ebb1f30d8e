"""Expressions and globs over names of files, matched in time linear in the name.

Python's own engine backtracks: ``^(([a-z])+.)+[A-Z]$`` takes 43 s over a name of 26 letters, and twice that for each
letter more. RE2 never does.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

# What `\w`, `\d` and `\s` mean to Python in a text; to RE2 they are of ASCII alone.
_CLASSES = {"w": r"\pL\pN_", "d": r"\p{Nd}", "s": r"\s\pZ\x1c-\x1f\x85"}
# What is read as one: an escaped character, an open repetition, a bracket, or any other character.
_TOKEN = re.compile(r"\\.|\{,(?=[0-9]+\})|\[\^?\]?|.", re.DOTALL)


@cache
def name_pattern(pattern: str) -> Any:
    """The expression, compiled; it has ``search`` and ``groups`` as Python's own has.

    It means what Python's means, but that `\\b`, and `\\W`, `\\D` and `\\S` within brackets, are of ASCII. Raises
    ValueError for what is no expression, and for what no linear engine can match: looking around, back references,
    possessive and atomic groups, more than 1,000 repetitions.
    """
    import re2

    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression ({error})") from error
    try:
        return re2.compile(_translated(pattern), _options())
    except re2.error as error:
        said = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        problem = f"cannot be matched in linear time ({said})"
        raise ValueError(
            f"{problem}; write it without look-around, back references or flags other than i, m, s"
        ) from None


def found_in(name: str, pattern: str) -> str | None:
    """What the expression's one group holds where it is first found in the name; None where it is not."""
    found = name_pattern(pattern).search(name.encode("utf-8", "replace").decode())  # a name may be no text
    return None if found is None else found[1]


def _options() -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False  # they are raised
    return options


def _translated(pattern: str) -> str:
    """The expression in RE2's words."""
    out, inside = list[str](), False
    for token in _TOKEN.findall(pattern):
        if token[0] == "\\":
            out.append(_escaped(token, inside))
        elif inside:
            inside = not token.endswith("]")
            out.append(rf"\{token[0]}{token[1:]}" if token[0] == "[" else token)  # of a class, not `[:alpha:]`
        else:
            inside = token[0] == "["
            out.append("{0," if token == "{," else token)
    return "".join(out)


def _escaped(token: str, inside: bool) -> str:
    mark = token[1:]
    if mark in _CLASSES:
        return _CLASSES[mark] if inside else f"[{_CLASSES[mark]}]"
    if mark.lower() in _CLASSES and not inside:
        return f"[^{_CLASSES[mark.lower()]}]"
    return r"\z" if mark == "Z" else token


def glob_pattern(key: str) -> Any:
    """A glob over keys, for ``fullmatch``: ``*`` and ``?`` stay within one part, ``**/`` spans any number.

    Raises ValueError for a bracket that is none, such as ``[z-a]``.
    """
    import re2

    known = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    out = []
    for piece in re.split(r"(\*\*/|\*+|\?|\[[^\]]+\])", key):
        bracket = piece.startswith("[") and len(piece) > 2
        out.append(known.get(piece) or (piece.replace("[!", "[^") if bracket else re2.escape(piece)))
    try:
        return re2.compile("".join(out), _options())
    except re2.error as error:
        raise ValueError(f"{key!r} is not a glob: a range in brackets runs from low to high, as in [0-9]") from error
