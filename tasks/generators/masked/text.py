"""Texts as a masked language model's tokens: which words may give way, which stay, and the text with others in place.

Words are those of ``_edits``: characters in Chinese, Thai and the like. What is not masked stays as it was written, to the
letter, whatever the tokenizer folds away (case, accents, spaces).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augmill.tasks.errors import UserError
from augmill.tasks.generators._edits import Thesaurus, Token, find_sites, holds_whole, phrase_key, split_words
from augmill.tasks.rows.kinds.text import canonical

MOST = 64  # words of one text that are masked at most: each costs a step of the model
KEPT, BLANK = -1, -2  # kinds of tokens that never give way: punctuation and special ones; white space alone
_ENDS = ".!?:。！？：…"  # after these a capital says nothing
_SHORTENED = {
    "mr",
    "mrs",
    "ms",
    "dr",
    "st",
    "prof",
    "sr",
    "jr",
    "vs",
    "no",
    "mt",
    "ft",
    "gen",
    "sen",
    "rep",
    "rev",
    "capt",
    "sgt",
}
_INNER_CAPITAL = re.compile(r"[a-z][A-Z]")
_TITLE = 3  # words behind the first from which on a text may be a title: in fewer, most may be names


@dataclass(frozen=True)
class Unit:
    """A word that may give way (or several that share a token): its tokens' places, its characters in the text."""

    places: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Taken:
    """A canonical text taken apart. ``words``: how many there are, those that stay too."""

    text: str
    ids: tuple[int, ...]
    units: tuple[Unit, ...]
    words: int


class Protection:
    """Which words are never masked: placeholders, addresses; names, numbers, listed words and phrases (in any case)."""

    def __init__(self, names: bool, numbers: bool, phrases: Sequence[str]) -> None:
        self.names, self.numbers = names, numbers
        keys = {key for key in map(phrase_key, phrases) if key}
        self.listed = Thesaurus(dict.fromkeys(keys, ("",)), max(map(len, keys), default=0))

    def of(self, tokens: list[Token]) -> set[int]:
        """The places of those words."""
        # `'s`, apart from its word, as some sets have it: another word there would make none that anybody writes.
        found = {
            at for at, (before, core, _) in enumerate(tokens) if before.endswith(("'", "\u2019")) and len(core) < 3
        }
        found |= {at for at, (_, core, _) in enumerate(tokens) if holds_whole(core)}
        found |= _names(tokens) if self.names else set()
        if self.numbers:
            found |= {at for at, (_, core, _) in enumerate(tokens) if any(map(str.isdigit, core))}
        for site in find_sites(tokens, self.listed, across=True):
            found |= set(range(site.start, site.start + site.length))
        return found


def read_phrases(path: Path) -> list[str]:
    """One word or phrase a line; `#` starts a comment line. Raises UserError where the file cannot be read as UTF-8."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the words to protect could not be read ({error})",
            where=path.name,
            fix="name a UTF-8 text file with one word or phrase per line",
        ) from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def take_apart(text: str, encode: Callable[[str], Any], kinds: Sequence[int], protection: Protection) -> Taken:
    """``encode`` gives the tokens of a text (``ids``, ``offsets`` into it); ``kinds``: of each token of the vocabulary.

    A word of which a token may not give way (`don't`, where its apostrophe is one) stays.
    """
    text = canonical(text)
    tokens, glue = split_words(text)
    stay, encoding = protection.of(tokens), encode(text)
    ids, spans = encoding.ids, encoding.offsets
    groups: list[tuple[list[int], int, int, bool]] = []  # places, first and last character, whether it stays
    end = 0
    for at, (before, core, after) in enumerate(tokens):
        start, stop = end + len(before), end + len(before) + len(core)
        end = stop + len(after) + len(glue)
        touched = [place for place, (first, last) in enumerate(spans) if first < stop and last > start]
        places = [place for place in touched if kinds[ids[place]] != BLANK]
        if not core or not places:
            continue
        if groups and groups[-1][0][-1] >= places[0]:  # a token that holds parts of two words
            shared = groups.pop()
            places, start = sorted({*shared[0], *places}), shared[1]
            groups.append((places, start, stop, shared[3] or at in stay))
        else:
            groups.append((places, start, stop, at in stay))
    units = [
        Unit(tuple(places), start, stop)
        for places, start, stop, stays in groups
        if not stays and all(kinds[ids[place]] >= 0 for place in places)
    ]
    return Taken(text, tuple(ids), tuple(units), sum(bool(core) for _, core, _ in tokens))


def draw_units(taken: Taken, numbers: Sequence[float], share: float) -> list[Unit]:
    """``share`` of the text's words, at least one, of those that may give way; ``numbers``: a uniform for each."""
    count = min(max(1, round(share * taken.words)), len(taken.units), len(numbers))
    order = list(range(len(taken.units)))
    for at, number in enumerate(numbers[:count]):
        pick = at + int(number * (len(order) - at))
        order[at], order[pick] = order[pick], order[at]
    return [taken.units[at] for at in sorted(order[:count])]


def put_words(taken: Taken, units: Sequence[Unit], words: Sequence[str]) -> str:
    """The text with other words in the places of ``units``."""
    parts, end = [], 0
    for unit, word in zip(units, words, strict=True):
        parts += [taken.text[end : unit.start], word]
        end = unit.stop
    return canonical("".join([*parts, taken.text[end:]]))


def _names(tokens: list[Token]) -> set[int]:
    """Words with a capital that no sentence begins with; none where most such words have one (a title, capitals only).

    Those with a capital behind a small letter (`iPhone`) wherever they stand. The dot of `Mr.` or of an initial ends no
    sentence.
    """
    inner, begins = [], True
    for at, (before, core, after) in enumerate(tokens):
        if core and not begins:
            inner.append(at)
        shortened = after == "." and (core.casefold() in _SHORTENED or (len(core) == 1 and core.isupper()))
        if core:
            begins = not shortened and any(mark in _ENDS for mark in after)
        else:
            begins = begins or any(mark in _ENDS for mark in before)
    found = {at for at in inner if tokens[at][1][0].isupper()}
    found = set() if len(inner) >= _TITLE and 2 * len(found) > len(inner) else found
    return found | {at for at, (_, core, _) in enumerate(tokens) if _INNER_CAPITAL.search(core)}
