"""Edits of one text, drawn from given random numbers: what the `rules` generator is made of.

Texts in scripts that set no blanks between words (Chinese, Japanese, Thai, ...) are edited by characters, and the
thesaurus's phrases are matched in them as well. A character is a grapheme cluster, so that no emoji, flag or vowel sign is
torn apart. Placeholders, tags, addresses and mentions move whole.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, chain, pairwise
from logging import Logger
from pathlib import Path
from typing import Any, Literal

from augmill.tasks.errors import UserError
from augmill.tasks.rows.kinds.text import CJK, canonical
from augmill.tasks.rows.shown import CLUSTER, JOINERS, has_clusters

Operation = Literal["synonym", "insert", "swap", "delete", "punctuation"]
Token = tuple[str, str, str]  # punctuation before, word, punctuation (and, in Chinese, white space) after
MARKS = (".", ";", "?", ":", "!", ",")  # AEDA's six
MAX_EDITS = 256  # a text of 10 MB would otherwise ask for 160,000 edits
# Scripts without blanks between words, beside Chinese and Japanese. Lists of their words are large, and of no use to the
# others: they are edited by characters, and the fit says so.
SCRIPTS = {
    "Thai": "\u0e01-\u0e3a\u0e40-\u0e5b",
    "Lao": "\u0e81-\u0edf",
    "Tibetan": "\u0f00-\u0fff",
    "Burmese": "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f",
    "Khmer": "\u1780-\u17ff",
    "Tai": "\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf",
}
_UNSPACED = CJK + "".join(SCRIPTS.values())
_IDEOGRAPH = re.compile(f"[{_UNSPACED}]")
_UNSPACED_TOKEN = re.compile(rf"[{_UNSPACED}]\s*|[^\s{_UNSPACED}]+\s*")
_LETTERS = "A-Za-z\u00c0-\u024f\u0370-\u052f"  # of addresses; `寄到ann@x.org谢谢` holds one
_NEAR = f"{_LETTERS}0-9_"  # what may not stand beside `%s` or `@user`
_URL_PART = rf"[!#-;=?-~{_LETTERS}]"
_WHOLE = "|".join(
    (
        r"\{\{[^{}]{1,100}\}\}|\{%[^%]{1,100}%\}|\$?\{[^{}\s]{0,100}\}",  # {{ name }}, {% if %}, ${HOME}, {name}
        rf"%\([\w.]+\)[-#0+ ]*[\d.]*[a-zA-Z]|(?<![{_NEAR}%])%[-#0+]*\d*(?:\.\d+)?[a-zA-Z](?![{_NEAR}%])",  # %(name)s, %.2f
        r"<([A-Za-z][A-Za-z0-9]*)\b[^<>]{0,200}>[^<>]{0,200}</\1>|</?[A-Za-z][^<>]{0,200}>",  # <b>now</b>, <br>
        r"\[[A-Z][A-Z0-9_]*\]",  # [EMAIL_1], [MASK]
        rf"(?<![{_LETTERS}0-9])(?:[A-Za-z][A-Za-z0-9+.-]{{1,15}}://|www\.){_URL_PART}*[{_LETTERS}0-9/=&#_~-]",
        rf"(?<![{_LETTERS}0-9])[{_LETTERS}0-9_][{_LETTERS}0-9.!#$%&'*+/=?^_`{{|}}~-]{{0,63}}@(?:[{_LETTERS}0-9-]+\.)+[{_LETTERS}]+",
        rf"(?<![{_NEAR}@])@\w[\w\p{{M}}.-]*(?<![.-])",  # @user
        rf"\#(?![{JOINERS}])[^\s#]{{0,40}}[{CJK}][^\s#]{{0,40}}\#|(?<![{_NEAR}#])\#[\p{{L}}\p{{N}}_][\w\p{{M}}]*",  # #话题#, #tag
        r"\$[A-Za-z_][A-Za-z0-9_]*",  # $HOME
    )
)
_ASCII_MARKS = "".join(mark for mark in map(chr, range(128)) if not mark.isalnum())
_MENTION, _LINK = re.compile(r"[@#]\w+$"), re.compile(r"(?:://|www\.)[!-~]*$", re.IGNORECASE)
_LATIN = re.compile(rf"[^\W{_UNSPACED}]|[@#]")  # what may run together with its like in a text without blanks
_HINTS = re.compile(r"[{<%@#$]|://|www\.|\[[A-Z]", re.IGNORECASE)  # what one of these holds
_BLANK_WITHIN = ("{{", "{%", "<")  # where one may hold a blank


@dataclass(slots=True)  # not frozen, as below
class PhraseSite:
    """Where a phrase of the thesaurus stands (``length`` tokens from ``start``) and what may stand there instead."""

    start: int
    length: int
    choices: tuple[str, ...]


@dataclass(slots=True)  # not frozen, which takes a microsecond more of the eight that a text takes
class Sentence:
    """A text taken apart: ``glue.join(lead + core + trail)`` over the tokens gives its canonical form back."""

    text: str
    tokens: list[Token]
    pieces: list[str]  # each token as one
    glue: str
    words: list[int]  # the tokens that hold a word
    sites: list[PhraseSite]
    choices: list[str]  # of all sites
    edits: int  # how many words a row differs in
    draws: int  # random numbers an edit takes at most
    operations: list[Operation]  # those that can change this text
    bounds: list[float]  # their cumulative weights
    mixed: bool  # whether words may run together that stood apart: `iPhone的Mac` without its character


@dataclass(frozen=True)
class Thesaurus:
    """Phrase (folded words) -> what may replace it, and the number of words of the longest phrase."""

    choices: dict[tuple[str, ...], tuple[str, ...]]
    longest: int

    @cached_property
    def begins(self) -> set[str]:
        """The first words of its phrases."""
        return {phrase[0] for phrase in self.choices if phrase}


@cache
def _atoms() -> tuple[Any, Any, Any]:
    """Finds what moves whole; that, or one character; a blank that a mark stands on, which sets no words apart."""
    import regex

    whole = regex.compile(_WHOLE)
    return whole, regex.compile(f"(?:{_WHOLE})[{JOINERS}]*|{CLUSTER}"), regex.compile(f" [{JOINERS}]")


@cache
def _loose() -> dict[str, Any]:
    """By the glue: finds texts whose characters would join others if they were moved; those are left as they are."""
    import regex

    first = rf"^[{JOINERS}\p{{GCB=V}}\p{{GCB=T}}]"
    last = r"\u200d(?!\p{ExtPict})|[\p{GCB=Prepend}\p{GCB=L}\p{GCB=V}\p{GCB=T}]"
    odd_flag = r"(?<!\p{RI})(?:\p{RI}\p{RI})*\p{RI}(?!\p{RI})"
    return {" ": regex.compile(first), "": regex.compile(f"{first}|{last}|{odd_flag}")}


def holds_whole(text: str) -> bool:
    """Whether a text holds a placeholder, a tag, an address, a mention: what is moved whole and never written anew."""
    return _HINTS.search(text) is not None and _atoms()[0].search(text) is not None


def split_words(text: str) -> tuple[list[Token], str]:
    """The tokens (before, word, after) of a canonical text, and what joins them: a space, or nothing (Chinese)."""
    if text.isascii() and _HINTS.search(text) is None:  # the same as below, in a third of the time
        return [("", word, "") if word.isalnum() else _strip_ascii(word) for word in text.split(" ") if word], " "
    glue = "" if _IDEOGRAPH.search(text) else " "  # one is enough: in "iPhone 的公司，好" most letters are Latin
    if not glue and _is_plain(text):
        found = _UNSPACED_TOKEN.findall(text)
        return [("", token, "") if token.isalnum() else _strip_marks(token) for token in found], glue
    if not glue or any(mark in text for mark in _BLANK_WITHIN) or _is_marked_blank(text):
        return [_strip_marks(atoms) for atoms in _group_atoms(text, glue)], glue
    return [_strip_token(token) for token in text.split(" ") if token], glue


def _is_plain(text: str) -> bool:
    """Whether every code point of the text is a character, and none of them belongs to what moves whole."""
    return _HINTS.search(text) is None and not has_clusters(text)


def _is_marked_blank(text: str) -> bool:
    return has_clusters(text) and _atoms()[2].search(text) is not None


def _group_atoms(text: str, glue: str) -> list[list[str]]:
    """Tokens as the two plain ways of ``split_words`` have them, each in its characters and what moves whole."""
    groups: list[list[str]] = [[]]
    ended = False  # whether only white space may follow in this token
    for atom in _find_atoms(text):
        if atom == " ":
            groups[-1] += [] if glue else [atom]
            ended = True
            continue
        alone = not glue and (_IDEOGRAPH.match(atom) is not None or _is_whole(atom))
        if ended or alone:
            groups.append([])
        groups[-1].append(atom)
        ended = alone
    return [group for group in groups if group]


def _find_atoms(text: str) -> list[str]:
    return [match.group() for match in _atoms()[1].finditer(text)]


def _is_whole(atom: str) -> bool:
    return len(atom) > 1 and _HINTS.search(atom) is not None and _atoms()[0].fullmatch(atom) is not None


def _strip_token(token: str) -> Token:
    if token.isalnum():
        return "", token, ""
    return _strip_marks(token if _is_plain(token) else _find_atoms(token))


def _strip_ascii(token: str) -> Token:
    """``_strip_marks`` of a token without anything that moves whole."""
    rest = token.lstrip(_ASCII_MARKS)
    word = rest.rstrip(_ASCII_MARKS)
    return token[: len(token) - len(rest)], word, rest[len(word) :]


def _strip_marks(token: str | list[str]) -> Token:
    # By Unicode category and not by \W, and by an atom's first code point: vowel signs of Indic scripts are no \w.
    start, end = 0, len(token)
    while start < end and unicodedata.category(token[start][0])[0] in "PSZCM" and not _is_whole(token[start]):
        start += 1
    while end > start and unicodedata.category(token[end - 1][0])[0] in "PSZCM" and not _is_whole(token[end - 1]):
        end -= 1
    return "".join(token[:start]), "".join(token[start:end]), "".join(token[end:])


def tell_scripts(columns: Iterable[Iterable[str | None]], who: str, log: Logger) -> None:
    """Says at the fit which of SCRIPTS the train rows hold, because their words are not found."""
    left, found = {name: re.compile(f"[{span}]") for name, span in SCRIPTS.items()}, set[str]()
    for text in chain.from_iterable(columns):
        if text and not text.isascii():
            found |= {name for name in left.keys() - found if left[name].search(text)}
    if found:
        log.warning(
            "%s: train rows hold %s, which puts no spaces between words; such texts are edited by characters, not by words",
            who,
            ", ".join(sorted(found)),
        )


def _match_key(word: str) -> str:
    if word.isascii():  # the same, in a fifth of the time
        return word.lower()
    return unicodedata.normalize("NFKC", word).casefold().replace("’", "'")


def phrase_key(phrase: str) -> tuple[str, ...]:
    return tuple(_match_key(core) for _, core, _ in split_words(canonical(phrase))[0] if core)


def read_thesaurus(path: Path) -> list[list[str]]:
    """The groups of a thesaurus file, sorted, without repetitions.

    Raises UserError where the file cannot be read as UTF-8 CSV, or a group has fewer than two different phrases.
    """
    groups: set[tuple[str, ...]] = set()
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, skipinitialspace=True)
            for line in reader:
                cells = [canonical(cell) for cell in line if canonical(cell)]
                if not cells or cells[0].startswith("#"):
                    continue
                phrases = {phrase_key(cell): cell for cell in reversed(cells)}
                if () in phrases:
                    raise UserError(
                        f"expected words or phrases, separated by commas; found {phrases[()]!r}, which holds no word",
                        where=f"{path.name}, line {reader.line_num}",
                        fix="remove it: emoji and punctuation are never replaced",
                    )
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
            fix="name a UTF-8 CSV file with one group of synonyms per line",
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


def find_sites(tokens: list[Token], thesaurus: Thesaurus, *, across: bool = False) -> list[PhraseSite]:
    """Phrases of the thesaurus in a text, longest first, left to right, without overlap.

    ``across``: with punctuation between their words too (`St. Louis`).
    """
    keys = [_match_key(core) for _, core, _ in tokens]
    sites: list[PhraseSite] = []
    choices_of, longest, begins, free = thesaurus.choices, thesaurus.longest, thesaurus.begins, 0
    for start, key in enumerate(keys):
        if start < free or key not in begins:
            continue
        for size in range(min(longest, len(keys) - start), 0, -1):
            choices = choices_of.get(tuple(keys[start : start + size]))
            if choices and (size == 1 or across or not _are_apart(tokens[start : start + size])):
                sites.append(PhraseSite(start, size, choices))
                free = start + size
                break
    return sites


def _are_apart(tokens: list[Token]) -> bool:
    """Whether punctuation stands between some of the words."""
    return any((before[2] + after[0]).strip() for before, after in pairwise(tokens))


def prepare(text: str | None, thesaurus: Thesaurus, weights: Mapping[Operation, float], strength: float) -> Sentence:
    """Takes a text apart and notes which of the weighted operations can change it."""
    text = canonical(text or "")
    tokens, glue = split_words(text)
    loose = has_clusters(text) and _loose()[glue].search(text)
    cores = [core for _, core, _ in tokens]
    words = [at for at, core in enumerate(cores) if core]
    sites = find_sites(tokens, thesaurus) if thesaurus.choices else []
    can: tuple[tuple[Operation, bool], ...] = (
        ("synonym", bool(sites)),
        ("insert", bool(sites)),
        ("swap", len(words) > 1 and len(set(cores) - {""}) > 1),
        ("delete", len(words) > 1),
        ("punctuation", bool(words)),
    )
    operations = [name for name, applies in can if applies and not loose and weights.get(name, 0) > 0]
    edits = min(max(1, int(strength * len(words))), MAX_EDITS)
    return Sentence(
        text=text,
        tokens=tokens,
        pieces=["".join(token) for token in tokens],
        glue=glue,
        words=words,
        sites=sites,
        choices=[choice for site in sites for choice in site.choices],
        edits=edits,
        draws=2 + 2 * max(edits, min(len(words) // 3, MAX_EDITS) if "punctuation" in operations else 1),
        operations=operations,
        bounds=list(accumulate([weights[name] for name in operations])),
        mixed=not glue and _LATIN.search(text) is not None,
    )


def run_together(before: str, after: str) -> bool:
    """Whether a reader could not tell where ``before`` ends: Latin meets Latin or `%s`, a mention a word, a link `(a)`."""
    if not before or not after or before[-1] == " ":
        return False
    latin, first = _is_latin(before[-1]), after[0]
    if first.isalnum():
        if _is_latin(first) and (latin or _is_link(before)):
            return True
        tail = before[-64:]
        return ("@" in tail or "#" in tail) and _MENTION.search(tail) is not None
    return (latin and first in "%@#") or (first in "{<%[$@#(/" and _is_link(before))


@cache
def _is_latin(character: str) -> bool:
    """Whether it is a letter or a digit of words that spaces set apart."""
    return character.isalnum() and not _IDEOGRAPH.match(character)


def _is_link(text: str) -> bool:
    return ("/" in text or "." in text) and _LINK.search(text[-256:]) is not None


def _join(sentence: Sentence, pieces: list[str]) -> str:
    if not sentence.mixed:
        return sentence.glue.join(pieces)
    text = ""
    for piece in pieces:
        text += f" {piece}" if run_together(text, piece) else piece
    return text


def _match_case(phrase: str, original: str) -> str:
    if holds_whole(phrase):
        return phrase
    if original.isupper() and sum(letter.isalpha() for letter in original) > 1:
        return phrase.upper()
    return phrase[0].upper() + phrase[1:] if original[0].isupper() else phrase


def _pick(draw: float, items: int) -> int:
    return int(draw * items)  # draw < 1, so the result is below items


def _replace_synonyms(sentence: Sentence, draws: list[float]) -> str:
    pieces, sites = list(sentence.pieces), list(sentence.sites)
    chosen: list[tuple[int, PhraseSite, str]] = []
    for at in range(min(sentence.edits, len(sites))):
        site = sites.pop(_pick(draws[2 * at + 1], len(sites)))
        chosen.append((site.start, site, site.choices[_pick(draws[2 * at + 2], len(site.choices))]))
    for start, site, phrase in sorted(chosen, key=lambda item: -item[0]):
        span = sentence.tokens[start : start + site.length]
        cased = _match_case(phrase, sentence.glue.join([core for _, core, _ in span]))
        pieces[start : start + site.length] = [span[0][0] + cased + span[-1][2]]
    return _join(sentence, pieces)


def _insert_synonyms(sentence: Sentence, draws: list[float]) -> str:
    pieces, choices = list(sentence.pieces), sentence.choices
    for at in range(sentence.edits):
        phrase = choices[_pick(draws[2 * at + 2], len(choices))]
        apart = "" if sentence.glue or _IDEOGRAPH.search(phrase) else " "
        pieces.insert(_pick(draws[2 * at + 1], len(pieces)), phrase + apart)
    return _join(sentence, pieces)


def _swap_words(sentence: Sentence, draws: list[float]) -> str:
    pieces, tokens, words = list(sentence.pieces), sentence.tokens, sentence.words
    count = len(words)
    moved: dict[int, str] = {}
    for at in range(1, 2 * sentence.edits, 2):
        place = int(draws[at] * count)
        i, j = words[place], words[(place + 1 + int(draws[at + 1] * (count - 1))) % count]
        moved[i], moved[j] = moved.get(j, tokens[j][1]), moved.get(i, tokens[i][1])
    for at, word in moved.items():
        before, _, after = tokens[at]
        pieces[at] = before + word + after
    return _join(sentence, pieces)


def _delete_words(sentence: Sentence, draws: list[float]) -> str:
    pieces, words = list(sentence.pieces), list(sentence.words)
    gone = [words.pop(int(draws[at] * len(words))) for at in range(1, 1 + min(sentence.edits, len(words) - 1))]
    for at in sorted(gone, reverse=True):
        del pieces[at]
    return _join(sentence, pieces)


def _add_punctuation(sentence: Sentence, draws: list[float]) -> str:
    pieces, words = list(sentence.pieces), list(sentence.words)
    most = max(1, min(len(words) // 3, MAX_EDITS))  # AEDA: between one mark and one for every third word
    spots = [words.pop(_pick(draws[2 * at + 2], len(words))) for at in range(1 + _pick(draws[1], most))]
    for at, spot in sorted(enumerate(spots), key=lambda item: -item[1]):
        pieces.insert(spot, MARKS[_pick(draws[2 * at + 3], len(MARKS))])
    return _join(sentence, pieces)


# Of the numbers the first has chosen the operation.
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
    return _EDITS[operation](sentence, draws).strip()
