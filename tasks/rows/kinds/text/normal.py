"""What equal text means here: the two normalisations, character n-grams, how words are set apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np

_NOT_WORD = re.compile(r"[\W_]+")
_PLAIN = "".join(mark.lower() if mark.isalnum() else " " for mark in map(chr, range(128)))
# Between the texts of a column that are normalised as one string. It is white space, so that no canonical text holds it.
_APART = "\x1e"
_CODE_APART = ord(_APART)
_SPACED = "".join(" " if mark.isspace() and mark != _APART else mark for mark in map(chr, range(128)))
_FOLDED = _PLAIN[:_CODE_APART] + _APART + _PLAIN[_CODE_APART + 1 :]


def canonical(text: str) -> str:
    """NFC, white space folded and stripped: what two copies of one text share."""
    return " ".join(unicodedata.normalize("NFC", text).split())  # a fifth of an expression's time


def canonical_texts(texts: Sequence[str]) -> list[str]:
    """``canonical`` of each; plain ASCII, joined in one string, in a fifth of the time."""
    return _normalised(texts, _SPACED, canonical)


def fold_texts(texts: Sequence[str]) -> list[str]:
    """``fold`` of each, of texts without U+001F; plain ASCII, joined in one string, in a tenth of the time."""
    return _normalised(texts, _FOLDED, _fold_field)


def _normalised(texts: Sequence[str], plain: str, one: Callable[[str], str]) -> list[str]:
    """``plain``: what each ASCII character becomes before spaces are folded; ``one``: the same for any text."""
    whole = _APART.join(texts)
    if not texts or (whole.isascii() and whole.count(_APART) == len(texts) - 1):
        return _squeezed(whole.translate(plain)).split(_APART) if texts else []
    quick = [text.isascii() and _APART not in text for text in texts]
    rest = iter(_normalised([text for text, is_plain in zip(texts, quick, strict=True) if is_plain], plain, one))
    return [next(rest) if is_plain else one(text) for text, is_plain in zip(texts, quick, strict=True)]


def _squeezed(whole: str) -> str:
    """ASCII texts with ``_APART`` between them: of several spaces one stays, and none at the end of a text."""
    codes = np.frombuffer(f"{_APART}{whole}{_APART}".encode("ascii"), np.uint8)
    space, end = codes == ord(" "), codes == _CODE_APART
    stays = np.ones(len(codes), np.bool_)
    stays[1:] = ~space[1:] | ~(space | end)[:-1]
    codes, space = codes[stays], space[stays]
    stays = np.ones(len(codes), np.bool_)
    stays[:-1] = ~space[:-1] | (codes[1:] != _CODE_APART)
    return codes[stays][1:-1].tobytes().decode("ascii")


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


_WORD = re.compile(f"[{CJK}]|[^\\s{CJK}]+")


def words(text: str) -> list[str]:
    """Words without case and punctuation, of Chinese and Japanese characters; a text without any is one word itself."""
    return _WORD.findall(fold(text)) or [canonical(text)]


def is_unspaced(texts: Iterable[str]) -> bool:
    """Whether most letters are Chinese or Japanese, where words are not set apart by spaces."""
    letters, unspaced, rest = 0, 0, iter(texts)
    while part := list(islice(rest, 10_000)):  # all of a large column would not fit into memory once more
        joined = "".join(part)
        letters += sum(map(str.isalnum, joined))
        unspaced += len(_UNSPACED.findall(joined))
    return letters > 0 and unspaced > letters / 2
