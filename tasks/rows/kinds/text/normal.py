"""What equal text means here: the two normalisations, character n-grams, how words are set apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_NOT_WORD = re.compile(r"[\W_]+")
_PLAIN = "".join(mark.lower() if mark.isalnum() else " " for mark in map(chr, range(128)))


def canonical(text: str) -> str:
    """NFC, white space folded and stripped: what two copies of one text share."""
    return " ".join(unicodedata.normalize("NFC", text).split())  # a fifth of an expression's time


def fold(text: str) -> str:
    """NFKC, case and punctuation folded away: what a reader would call the same sentence. Joined fields stay apart."""
    parts = [_fold_field(part) for part in text.split("\x1f")]
    return "\x1f".join(parts) if any(parts) else ""


def _fold_field(text: str) -> str:
    if text.isascii():  # the same, in less than half the time
        return " ".join(text.translate(_PLAIN).split())
    return _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def equal(text: str) -> str:
    """What equal rows share, of a row's texts as one: each folded, or as it is where folding leaves nothing of it.

    The one definition: of splits, folds, relations, duplicates and what is near (docs/decisions.md).
    """
    return "\x1f".join(_fold_field(part) or canonical(part) for part in text.split("\x1f"))


def join_fields(texts: Iterable[str | None]) -> str:
    """The text columns of one row as one string, for hashing and comparing (U+001F between them, and nowhere else)."""
    return "\x1f".join((text or "").replace("\x1f", " ") for text in texts)


def shingles(text: str, size: int = 5) -> set[str]:
    """Character n-grams of the folded text; a text shorter than ``size`` is its own single shingle."""
    folded = fold(text) or text.strip()
    if len(folded) <= size:
        return {folded}
    return {folded[start : start + size] for start in range(len(folded) - size + 1)}


CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # kana and ideographs; no Hangul, which has spaces
_UNSPACED = re.compile(f"[{CJK}]")


def is_unspaced(texts: Iterable[str]) -> bool:
    """Whether most letters are Chinese or Japanese, where words are not set apart by spaces."""
    joined = "".join(texts)
    letters = sum(character.isalnum() for character in joined)
    return letters > 0 and len(_UNSPACED.findall(joined)) > letters / 2
