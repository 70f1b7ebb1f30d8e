"""Edits of one text, drawn from given random numbers: what the `rules` generator is made of.

Chinese and Japanese texts are edited by characters, and the thesaurus's phrases are matched in them as well.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

from augmill.tasks.contracts import UserError
from augmill.tasks.text import canonical

Operation = Literal["synonym", "insert", "swap", "delete", "punctuation"]
Token = tuple[str, str, str]  # punctuation before, word, punctuation (and, in Chinese, white space) after
MARKS = (".", ";", "?", ":", "!", ",")  # AEDA's six
MAX_EDITS = 256  # a text of 10 MB would otherwise ask for 160,000 edits
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # kana and CJK ideographs; no Hangul, which has spaces
_IDEOGRAPH = re.compile(f"[{_UNSPACED}]")
_UNSPACED_TOKEN = re.compile(rf"[{_UNSPACED}]\s*|[^\s{_UNSPACED}]+\s*")


@dataclass(frozen=True)
class Site:
    """Where a phrase of the thesaurus stands (``length`` tokens from ``start``) and what may stand there instead."""

    start: int
    length: int
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Sentence:
    """A text taken apart: ``glue.join(lead + core + trail)`` over the tokens gives its canonical form back."""

    text: str
    tokens: tuple[Token, ...]
    glue: str
    words: tuple[int, ...]  # the tokens that hold a word
    sites: tuple[Site, ...]
    edits: int  # how many words a row differs in
    draws: int  # random numbers an edit takes at most
    operations: tuple[Operation, ...]  # those that can change this text
    bounds: tuple[float, ...]  # their cumulative weights


@dataclass(frozen=True)
class Thesaurus:
    """Phrase (folded words) -> what may replace it, and the number of words of the longest phrase."""

    choices: dict[tuple[str, ...], tuple[str, ...]]
    longest: int


def split_words(text: str) -> tuple[list[Token], str]:
    """The tokens (before, word, after) of a canonical text, and what joins them: a space, or nothing (Chinese)."""
    if _IDEOGRAPH.search(text):  # one is enough: in "iPhone 的公司，好" most letters are Latin
        return [_strip_marks(token) for token in _UNSPACED_TOKEN.findall(text)], ""
    return [_strip_marks(token) for token in text.split(" ") if token], " "


def _strip_marks(token: str) -> Token:
    # By Unicode category and not by \W: vowel signs of Indic scripts are no \w, yet part of the word.
    start, end = 0, len(token)
    while start < end and unicodedata.category(token[start])[0] in "PSZC":
        start += 1
    while end > start and unicodedata.category(token[end - 1])[0] in "PSZC":
        end -= 1
    return token[:start], token[start:end], token[end:]


def _match_key(word: str) -> str:
    return unicodedata.normalize("NFKC", word).casefold().replace("’", "'")


def phrase_key(phrase: str) -> tuple[str, ...]:
    return tuple(_match_key(core) for _, core, _ in split_words(phrase)[0] if core)


def read_thesaurus(path: Path) -> list[list[str]]:
    """The groups of a thesaurus file, sorted, without repetitions.

    Raises UserError where the file cannot be read as UTF-8 CSV, or a group has fewer than two different phrases.
    """
    groups: set[tuple[str, ...]] = set()
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, skipinitialspace=True)
            for cells in reader:
                phrases = {phrase_key(cell): canonical(cell) for cell in reversed(cells) if phrase_key(cell)}
                if not phrases or cells[0].startswith("#"):
                    continue
                if len(phrases) < 2:
                    raise UserError(
                        f"expected two or more different phrases, separated by commas; found {cells}",
                        where=f"{path.name}, line {reader.line_num}",
                        fix="complete the group, or delete the line",
                    )
                groups.add(tuple(sorted(phrases.values())))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"the thesaurus could not be read ({error})",
            where=path.name,
            fix="name a CSV file in UTF-8, one group of synonyms a line",
        ) from error
    return [list(group) for group in sorted(groups)]


def index_thesaurus(groups: list[list[str]]) -> Thesaurus:
    """For every phrase all other members of all of its groups, sorted."""
    choices: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for group in groups:
        for phrase in group:
            key = phrase_key(phrase)
            choices[key].update(other for other in group if phrase_key(other) != key)
    table = {key: tuple(sorted(others)) for key, others in choices.items()}
    return Thesaurus(table, max(map(len, table), default=0))


def find_sites(tokens: list[Token], thesaurus: Thesaurus, *, across: bool = False) -> list[Site]:
    """Phrases of the thesaurus in a text, longest first, left to right, without overlap.

    ``across``: with punctuation between their words too (`St. Louis`).
    """
    keys = [_match_key(core) for _, core, _ in tokens]
    sites: list[Site] = []
    start = 0
    while start < len(keys):
        length = 1
        for size in range(min(thesaurus.longest, len(keys) - start), 0, -1):
            span = range(start + 1, start + size)
            choices = thesaurus.choices.get(tuple(keys[start : start + size]))
            if choices and (across or not any((tokens[at - 1][2] + tokens[at][0]).strip() for at in span)):
                sites.append(Site(start, size, choices))
                length = size
                break
        start += length
    return sites


def prepare(text: str | None, thesaurus: Thesaurus, weights: Mapping[Operation, float], strength: float) -> Sentence:
    """Takes a text apart and notes which of the weighted operations can change it."""
    text = canonical(text or "")
    tokens, glue = split_words(text)
    words = [at for at, token in enumerate(tokens) if token[1]]
    sites = find_sites(tokens, thesaurus) if thesaurus.choices else []
    can: dict[Operation, bool] = {
        "synonym": bool(sites),
        "insert": bool(sites),
        "swap": len({tokens[at][1] for at in words}) > 1,
        "delete": len(words) > 1,
        "punctuation": bool(words),
    }
    operations = tuple(name for name in can if can[name] and weights.get(name, 0) > 0)
    bounds = tuple(accumulate(weights[name] for name in operations))
    edits = min(max(1, int(strength * len(words))), MAX_EDITS)
    draws = 2 + 2 * max(edits, min(len(words) // 3, MAX_EDITS) if "punctuation" in operations else 1)
    return Sentence(text, tuple(tokens), glue, tuple(words), tuple(sites), edits, draws, operations, bounds)


def _match_case(phrase: str, original: str) -> str:
    if original.isupper() and sum(letter.isalpha() for letter in original) > 1:
        return phrase.upper()
    return phrase[0].upper() + phrase[1:] if original[0].isupper() else phrase


def _pick(draw: float, items: int) -> int:
    return int(draw * items)  # draw < 1, so the result is below items


def _replace_synonyms(sentence: Sentence, draws: list[float]) -> str:
    pieces = ["".join(token) for token in sentence.tokens]
    sites = list(sentence.sites)
    chosen: list[tuple[int, Site, str]] = []
    for at in range(min(sentence.edits, len(sites))):
        site = sites.pop(_pick(draws[2 * at], len(sites)))
        chosen.append((site.start, site, site.choices[_pick(draws[2 * at + 1], len(site.choices))]))
    for start, site, phrase in sorted(chosen, key=lambda item: -item[0]):
        span = sentence.tokens[start : start + site.length]
        cased = _match_case(phrase, sentence.glue.join(core for _, core, _ in span))
        pieces[start : start + site.length] = [span[0][0] + cased + span[-1][2]]
    return sentence.glue.join(pieces)


def _insert_synonyms(sentence: Sentence, draws: list[float]) -> str:
    pieces = ["".join(token) for token in sentence.tokens]
    choices = [choice for site in sentence.sites for choice in site.choices]
    for at in range(sentence.edits):
        phrase = choices[_pick(draws[2 * at + 1], len(choices))]
        apart = "" if sentence.glue or _IDEOGRAPH.search(phrase) else " "
        pieces.insert(_pick(draws[2 * at], len(pieces)), phrase + apart)
    return sentence.glue.join(pieces)


def _swap_words(sentence: Sentence, draws: list[float]) -> str:
    tokens, words = list(sentence.tokens), sentence.words
    for at in range(sentence.edits):
        i = _pick(draws[2 * at], len(words))
        j = (i + 1 + _pick(draws[2 * at + 1], len(words) - 1)) % len(words)
        (before, first, after), (lead, second, trail) = tokens[words[i]], tokens[words[j]]
        tokens[words[i]], tokens[words[j]] = (before, second, after), (lead, first, trail)
    return sentence.glue.join("".join(token) for token in tokens)


def _delete_words(sentence: Sentence, draws: list[float]) -> str:
    words = list(sentence.words)
    for at in range(min(sentence.edits, len(words) - 1)):
        words.pop(_pick(draws[at], len(words)))
    gone = set(sentence.words) - set(words)
    return sentence.glue.join("".join(token) for at, token in enumerate(sentence.tokens) if at not in gone)


def _add_punctuation(sentence: Sentence, draws: list[float]) -> str:
    words = list(sentence.words)
    pieces = ["".join(token) for token in sentence.tokens]
    most = max(1, min(len(words) // 3, MAX_EDITS))  # AEDA: between one mark and one for every third word
    spots = [words.pop(_pick(draws[2 * at + 1], len(words))) for at in range(1 + _pick(draws[0], most))]
    for at, spot in sorted(enumerate(spots), key=lambda item: -item[1]):
        pieces.insert(spot, MARKS[_pick(draws[2 * at + 2], len(MARKS))])
    return sentence.glue.join(pieces)


_EDITS: dict[Operation, Callable[[Sentence, list[float]], str]] = {
    "synonym": _replace_synonyms,
    "insert": _insert_synonyms,
    "swap": _swap_words,
    "delete": _delete_words,
    "punctuation": _add_punctuation,
}


def edit(sentence: Sentence, draws: list[float]) -> str:
    """One edited copy; ``draws`` are ``sentence.draws`` numbers in [0, 1)."""
    operation = sentence.operations[bisect(sentence.bounds, draws[0] * sentence.bounds[-1])]
    return _EDITS[operation](sentence, draws[1:]).strip()
