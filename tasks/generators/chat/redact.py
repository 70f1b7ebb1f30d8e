"""Replaces personal data in a text by placeholders before the text leaves this machine.

The most specific kind is looked for first, and what it holds is no part of another. Patterns with a checksum where
there is one: Luhn for cards (ISO/IEC 7812), MOD 11-2 for Chinese identity numbers (GB 11643-1999), MOD 97-10 for IBANs
(ISO 13616); digits in groups count as one number only where such numbers are written in these groups. A phone number is
told by its form, and rather too much than too little is replaced: of 20 usual forms `phonenumbers` finds 4 without a
country, so it only says where an international number ends. Names and addresses are not found: who sends those decides
so (`egress.columns`).
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

Span = tuple[int, int]

_LETTERS = "A-Za-z\u00c0-\u024f\u0370-\u03ff\u0400-\u04ff"  # not Chinese: `寄到ann@x.org谢谢` holds an address
_EMAIL = re.compile(
    rf"[{_LETTERS}0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@(?:[{_LETTERS}0-9-]{{1,63}}\.){{1,8}}[{_LETTERS}]{{2,63}}"
)
_URL = re.compile(r"(?:[a-z][a-z0-9+.-]{1,15}://|(?<![a-z0-9])www\.)[!-~\u00a1-\u024f]{2,2048}", re.IGNORECASE)
_ABROAD = r"[ ]?[0-9](?:[ ()./-]{0,2}[0-9]){6,14}"
_INTERNATIONAL = re.compile(rf"(?<![0-9])\+{_ABROAD}(?![0-9])")
_PHONE = re.compile(
    rf"(?<![0-9])(?:(?:\+|00){_ABROAD}"
    r"|(?:86[ -]?)?1[3-9][0-9](?:[ -]?[0-9]{4}){2}"  # Chinese mobile
    r"|[48]00[ -]?[0-9]{3}[ -]?[0-9]{4}|[48]00[ -]?[0-9]{4}[ -]?[0-9]{3}"  # Chinese service numbers
    r"|\([0-9]{3}\)[ ]?[0-9]{3}[ .-]?[0-9]{4}|[0-9]{3}[ .-][0-9]{3}[ .-][0-9]{4}"  # North America
    r"|[2-9][0-9]{2}[2-9][0-9]{6}"  # the same without separators
    r"|\(?0[0-9]{1,4}\)?[ ./-]{0,2}[0-9]{3,8}(?:[ -]?[0-9]{2,8}){0,3}"  # national, with the trunk zero
    r")(?![0-9])"
)
_IPV4 = re.compile(r"(?<![0-9.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9]|\.[0-9])")
_IPV6 = re.compile(
    r"(?<![0-9a-z:])(?=[0-9a-f]{0,4}:[0-9a-f:]*:)"
    r"(?:[0-9a-f:]{1,38}:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-f:]{3,39})(?![0-9a-z:])",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"(?<![0-9./-])(?:(?:19|20)[0-9]{2}([./-])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12][0-9]|3[01])"
    r"|(?:0?[1-9]|[12][0-9]|3[01])([./-])(?:0?[1-9]|[12][0-9]|3[01])\2(?:19|20)[0-9]{2})(?![0-9]|[./-][0-9])"
)
_DIGITS = re.compile(r"[0-9](?:[ ./-]?[0-9])*(?:[ -]?[Xx](?![A-Za-z]))?")
_GROUP = re.compile(r"[0-9]+[Xx]?|[Xx]")
# How many digits stand together in a number as it is written. Not 8 8 nor 4 2 2, which are two orders and a date.
_CARD_GROUPS = re.compile(r"1[3-9]|4 4 4 [1-4]|4 4 4 4( [1-3])?|4 6 [45]|6 13")
_ID_GROUPS = re.compile(r"15|18|17 1|6 6 [36]|6 8 (4|3 1)|6 4 4 4|6 4 2 2 4|3 3 4 4 4|5 5 5|3( 3){4,5}")
_MOST_GROUPS = 6
_IBAN = re.compile(r"(?<![A-Za-z0-9])(?=([A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}))")
_JSON_ESCAPE = re.compile(r"""\\(?:u[0-9A-Fa-f]{4}|["\\/bfnrt])""")
_SPACES = "\u00a0\u2009\u202f\u3000"
_SAME = dict(zip("＠．＋－‐‑–—：／（）", "@.+-----:/()", strict=True)) | dict.fromkeys(_SPACES, " ")


def fold(text: str) -> str:
    """The text with every script's digits, dashes and spaces as ASCII has them, each at its place.

    Rows stand in prompts as JSON, where `\\nDE89` is no word: what JSON escapes becomes a character nobody looks for.
    """
    if "\\" in text:
        text = _JSON_ESCAPE.sub(lambda hit: "\0" * len(hit.group()), text)
    if text.isascii():
        return text
    out = []
    for char in text:
        digit = unicodedata.decimal(char, None)
        wide = chr(ord(char) - 0xFEE0) if "\uff21" <= char <= "\uff5a" else char
        out.append(_SAME.get(char, wide) if digit is None else str(digit))
    return "".join(out)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    from stdnum import luhn as check

    return bool(check.is_valid(digits))


def chinese_id(number: str) -> bool:
    """18 places by GB 11643-1999 (MOD 11-2); 15 as they were before, told by the province and the date of birth in them."""
    from stdnum.iso7064 import mod_11_2

    if len(number) == 15:
        # The checksum of a card says more than a date does.
        return re.fullmatch(
            r"[1-8][0-7][0-9]{6}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}", number
        ) is not None and not luhn(number)
    return bool(mod_11_2.is_valid(number.upper()))


def iban(number: str) -> bool:
    """MOD 97-10: the country and check digits moved to the end, letters as 10 to 35, the rest of division is 1."""
    from stdnum.iso7064 import mod_97_10

    return bool(mod_97_10.is_valid((number[4:] + number[:4]).upper()))


def _card(number: str) -> bool:
    return number.isdigit() and luhn(number)


def windows(written: re.Pattern[str], likely: str, valid: Callable[[str], bool]) -> Callable[[str], Iterator[Span]]:
    """Finds numbers among groups of digits: so many in each as ``written`` says, apart by one separator, and valid.

    In `no. 5 4111 1111 1111 1111` the card is found, in a serial number of thirty digits none is looked for. What overlaps
    with a better one is none: those come first that cut into nothing which a dash or a dot holds together, as the last
    group of `212-555-1234 4111 ...`, and of these those that begin with one of the ``likely`` digits.
    """

    def find(text: str) -> Iterator[Span]:
        ranks: tuple[list[Span], ...] = ([], [], [])
        for run in _DIGITS.finditer(text):
            groups = [group.span() for group in _GROUP.finditer(text, *run.span())]
            for first in range(len(groups)):
                for last in range(first, min(first + _MOST_GROUPS, len(groups))):
                    if _is_written(text, groups[first : last + 1], written, valid):
                        start, stop = groups[first][0], groups[last][1]
                        whole = (first == 0 or text[start - 1] == " ") and (
                            last + 1 == len(groups) or text[stop] == " "
                        )
                        ranks[2 - whole - (whole and text[start] in likely)].append((start, stop))
        found: list[Span] = []
        for spans in ranks:
            free = [span for span in spans if not _overlaps(span, found)]
            found = sorted([*found, *_side_by_side(text, free)])
        yield from found

    return find


def _side_by_side(text: str, spans: list[Span]) -> list[Span]:
    """Of spans that overlap the first, and the next behind it; one that holds digits beside these is joined to them."""
    chosen: list[Span] = []
    for start, stop in sorted(spans):
        if not chosen or start >= chosen[-1][1]:
            chosen.append((start, stop))
    if len(chosen) == len(spans):
        return chosen
    left = list(text)
    for start, stop in chosen:
        left[start:stop] = " " * (stop - start)
    beside = [span for span in spans if any(map(str.isdigit, left[span[0] : span[1]]))]
    return joined([*chosen, *beside])


def _is_written(text: str, groups: list[Span], written: re.Pattern[str], valid: Callable[[str], bool]) -> bool:
    if not written.fullmatch(" ".join(str(stop - start) for start, stop in groups)):
        return False
    parts = [text[start:stop] for start, stop in groups]
    if len(parts) > 1 and all("1900" <= part < "2100" for part in parts[:3]):
        return False  # years
    apart = {text[stop] for _, stop in groups[:-1]}
    return (len(apart) < 2 or apart <= {" ", "-"}) and valid("".join(parts))


def _overlaps(span: Span, spans: list[Span]) -> bool:
    at = bisect_left(spans, (span[1], 0))  # the first that begins behind it
    return at > 0 and spans[at - 1][1] > span[0]


def _ibans(text: str) -> Iterator[Span]:
    from stdnum import iban as check

    for run in _IBAN.finditer(text):
        at = [index for index in range(run.start(1), run.end(1)) if text[index] not in " -"]
        after = text[run.end(1) : run.end(1) + 1]
        whole = not (after.isascii() and after.isalnum())
        ends = [n for n in range(len(at), 14, -1) if (at[n] > at[n - 1] + 1 if n < len(at) else whole)]
        numbers = {length: "".join(text[index] for index in at[:length]) for length in ends}
        # What its country writes so comes before the longest that the check digits allow, one in 97 by chance.
        valid = [length for length in ends if iban(numbers[length])]
        if length := next((length for length in valid if check.is_valid(numbers[length])), next(iter(valid), 0)):
            yield at[0], at[length - 1] + 1


def _by(pattern: re.Pattern[str], keep: Callable[[str], bool] = lambda found: True) -> Callable[[str], Iterator[Span]]:
    return lambda text: (hit.span() for hit in pattern.finditer(text) if keep(hit.group()))


def _ips(text: str) -> Iterator[Span]:
    yield from _by(_IPV4, lambda found: all(int(part) < 256 for part in found.split(".")))(text)
    yield from _by(_IPV6, _is_ipv6)(text)


def _is_ipv6(found: str) -> bool:
    """Full, or with one `::`; `12:30:45` is a time, `::` alone stands for nobody."""
    groups = found.split(":")
    full = len(groups) == (7 if "." in found else 8) and all(groups)
    return full or (found.count("::") == 1 and len([group for group in groups if group]) >= 2)


def _phones(pattern: re.Pattern[str], sure: bool) -> Callable[[str], Iterator[Span]]:
    """Numbers of that form; ``sure``: only those that their country has."""

    def find(text: str) -> Iterator[Span]:
        at = 0
        while hit := pattern.search(text, at):
            start, at = hit.span()
            end = _end_of_phone(hit.group()) if text.startswith(("+", "00"), start) else 0
            if end or not sure:
                at = start + (end or at - start)
                yield start, at

    return find


def _end_of_phone(number: str) -> int:
    """Where an international number ends, by its country's rules: `+49 171 2345678 2024` before 2024. 0: nowhere."""
    import phonenumbers

    for end in sorted({group.end() for group in _GROUP.finditer(number)}, reverse=True):
        try:
            parsed = phonenumbers.parse("+" + number[:end].lstrip("+0"), None)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(parsed):
            return end
    return 0


# In this order, the most specific first: a number within an address goes with the address, a card is no phone number.
# What stands under no kind is left as it is, and is no part of another number.
FINDERS: tuple[tuple[str, Callable[[str], Iterator[Span]]], ...] = (
    ("url", _by(_URL)),
    ("email", _by(_EMAIL)),
    ("iban", _ibans),
    ("ip", _ips),
    ("", _by(_DATE)),
    ("phone", _phones(_INTERNATIONAL, sure=True)),
    ("cn_id", windows(_ID_GROUPS, "12345678", chinese_id)),
    ("card", windows(_CARD_GROUPS, "3456", _card)),
    ("phone", _phones(_PHONE, sure=False)),
)
KINDS = tuple(dict.fromkeys(kind for kind, _ in FINDERS if kind))


def joined(spans: Iterable[Span]) -> list[Span]:
    """In order, those that overlap as one."""
    whole: list[Span] = []
    for start, stop in sorted(spans):
        if whole and start < whole[-1][1]:
            whole[-1] = (whole[-1][0], max(stop, whole[-1][1]))
        else:
            whole.append((start, stop))
    return whole


class Redactor:
    """Replaces what it finds by `[KIND_1]`, `[KIND_2]`, ...; in all texts it is given the same value has one number."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.finders = [(kind, find) for kind, find in FINDERS if kind in kinds or not kind]
        self.numbers: dict[tuple[str, str], int] = {}
        self.counts: dict[str, int] = {}

    def apply(self, text: str) -> str:
        left, found = fold(text), []
        for kind, find in self.finders:
            for start, stop in joined(find(left)):
                left = f"{left[:start]}{chr(0) * (stop - start)}{left[stop:]}"
                found.append((start, stop, kind))
        parts, end = [], 0
        for start, stop, kind in sorted(found):
            parts += [text[end:start], self._placeholder(kind, text[start:stop]) if kind else text[start:stop]]
            end = stop
        return "".join([*parts, text[end:]])

    def _placeholder(self, kind: str, value: str) -> str:
        known = (kind, re.sub(r"[ -]", "", fold(value)).lower())
        if known not in self.numbers:
            self.counts[kind] = self.numbers[known] = self.counts.get(kind, 0) + 1
        return f"[{kind.upper()}_{self.numbers[known]}]"
