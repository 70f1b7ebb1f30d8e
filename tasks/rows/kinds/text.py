"""What equal text means here: the normalisations, character n-grams, what a reader calls one character; how it is shown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pyarrow as pa

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


def join_fields(texts: Iterable[str | None]) -> str:
    """The text columns of one row as one string, for hashing and comparing (U+001F between them, and nowhere else)."""
    return "\x1f".join((text or "").replace("\x1f", " ") for text in texts)


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


def shingles(text: str, size: int = 5) -> set[str]:
    """Character n-grams of the folded text; a text shorter than ``size`` is its own single shingle."""
    folded = fold(text) or text.strip()
    if len(folded) <= size:
        return {folded}
    return {folded[start : start + size] for start in range(len(folded) - size + 1)}


def labels_alike(names: Iterable[str], classes: Iterable[str]) -> dict[str, str]:
    """Those names that are no class, but another spelling of exactly one: 0.0 of 0, True of true, A of a."""
    known, spelt = set(classes), dict[str, list[str]]()
    for name in known:
        spelt.setdefault(spelling(name), []).append(name)
    near = {name: spelt.get(spelling(name), []) for name in names if name not in known}
    return {name: hits[0] for name, hits in near.items() if len(hits) == 1}


CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # kana and ideographs; no Hangul, which has spaces
_UNSPACED = re.compile(f"[{CJK}]")


def is_unspaced(texts: Iterable[str]) -> bool:
    """Whether most letters are Chinese or Japanese, where words are not set apart by spaces."""
    joined = "".join(texts)
    letters = sum(character.isalnum() for character in joined)
    return letters > 0 and len(_UNSPACED.findall(joined)) > letters / 2


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
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def texts_of(table: pa.Table | pa.RecordBatch, fields: tuple[str, ...]) -> list[str]:
    """The texts of each row as one string."""
    columns = [table[name].to_pylist() for name in fields]
    return [join_fields(parts) for parts in zip(*columns, strict=True)]
