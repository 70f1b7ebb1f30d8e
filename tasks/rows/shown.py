"""How text from outside is shown: what no reader could see is written out, and no character is torn apart."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


# A page and a Markdown file have lines; the joiners (Persian, emoji) and the wide spaces turn and hide nothing there.
PAGE = "\n\t\u00a0\u202f\u3000\u200c\u200d"


def visible(text: str, keep: str = "") -> str:
    """The text with what no reader could see written out: control, bidi and zero-width characters, line ends.

    As JSON writes them (``\\u202e``; two of these beyond the basic plane), so a line of JSON stays one of the same value.
    ``keep``: characters that stay as they are.
    """
    if text.isprintable():
        return text
    shown = (
        c if c.isprintable() or c in keep or _joins_emoji(text, at) else _written_out(c) for at, c in enumerate(text)
    )
    return "".join(shown)


def _joins_emoji(text: str, at: int) -> bool:
    """Whether the character is the joiner within an emoji of several: without it a family would be four people."""
    if text[at] != "\u200d" or not 0 < at < len(text) - 1:
        return False
    before, after = unicodedata.category(text[at - 1]), unicodedata.category(text[at + 1])
    return after == "So" and (before in ("So", "Sk") or text[at - 1] == "\ufe0f")


def _written_out(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    codes = "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
    return _SHORT.get(character, codes)


# A grapheme cluster (UAX 29), with the few combining marks that it leaves alone, such as Burmese's vowel sign aa.
JOINERS = r"\u200d\p{M}\p{GCB=Extend}\p{GCB=SpacingMark}"
# Flags are taken in pairs first: for each `\X` looks back over the whole run, and 80,000 of them took 11 s.
CLUSTER = rf"(?:\p{{RI}}\p{{RI}}(?![{JOINERS}])|\X[{JOINERS}]*)"


@cache
def _clusters() -> tuple[Any, Any]:
    """Finds what may join its neighbour to one character; and those. Loaded when the first text beyond ASCII is seen."""
    import regex

    joining = "".join(rf"\p{{GCB={name}}}" for name in ("Prepend", "RI", "L", "V", "T"))
    return regex.compile(rf"[\r{JOINERS}{joining}]"), regex.compile(CLUSTER)


def has_clusters(text: str) -> bool:
    """Whether a character of the text may be of several code points: an emoji with U+FE0F, a flag, a vowel sign."""
    return not text.isascii() and _clusters()[0].search(text) is not None


def clusters(text: str) -> list[str]:
    """What a reader calls characters: grapheme clusters. None but a text's first begins with a joiner or a mark."""
    return _clusters()[1].findall(text) if has_clusters(text) else list(text)


def count_characters(text: str) -> int:
    return len(_clusters()[1].findall(text)) if has_clusters(text) else len(text)


def cut(text: str, most: int) -> str:
    """The text's beginning, at most ``most`` code points of it, that tears no character apart."""
    if len(text) <= most:
        return text
    return "".join(clusters(text[: most + 1])[:-1]) or text[:most]


# A page of ours fetches nothing and runs nothing, whatever a row could still do to it.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'"
)
