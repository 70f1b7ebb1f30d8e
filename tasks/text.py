"""What equal text means here: the normalisations, and character n-grams. And how text is shown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable

_SPACE = re.compile(r"\s+")
_NOT_WORD = re.compile(r"[\W_]+")


def canonical(text: str) -> str:
    """NFC, white space folded and stripped: what two copies of one text share."""
    return _SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip()


def fold(text: str) -> str:
    """NFKC, case and punctuation folded away: what a reader would call the same sentence. Joined fields stay apart."""
    parts = [_NOT_WORD.sub(" ", unicodedata.normalize("NFKC", part).casefold()).strip() for part in text.split("\x1f")]
    return "\x1f".join(parts) if any(parts) else ""


NORMALISATIONS: dict[str, Callable[[str], str]] = {"canonical": canonical, "fold": fold}


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
    return "".join(c if c.isprintable() or c in keep else _written_out(c) for c in text)


def _written_out(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    codes = "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
    return _SHORT.get(character, codes)


def join_fields(texts: Iterable[str | None]) -> str:
    """The text columns of one row as one string, for hashing and comparing (U+001F between them, and nowhere else)."""
    return "\x1f".join((text or "").replace("\x1f", " ") for text in texts)


def shingles(text: str, size: int = 5) -> set[str]:
    """Character n-grams of the folded text; a text shorter than ``size`` is its own single shingle."""
    folded = fold(text) or text.strip()
    if len(folded) <= size:
        return {folded}
    return {folded[start : start + size] for start in range(len(folded) - size + 1)}


_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")  # kana, CJK ideographs; no Hangul


def is_unspaced(texts: Iterable[str]) -> bool:
    """Whether most letters are Chinese or Japanese, where words are not set apart by spaces."""
    joined = "".join(texts)
    letters = sum(character.isalnum() for character in joined)
    return letters > 0 and len(_UNSPACED.findall(joined)) > letters / 2
