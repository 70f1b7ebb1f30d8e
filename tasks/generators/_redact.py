"""Replaces personal data in a text by placeholders before the text leaves this machine.

Patterns with a checksum where there is one: Luhn for cards (ISO/IEC 7812), MOD 11-2 for Chinese identity numbers
(GB 11643-1999), MOD 97-10 for IBANs (ISO 13616). What has none (a phone number) is told by its form, and rather too
much than too little is replaced. Names and addresses are not found: who sends those decides so (`egress.columns`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

Span = tuple[int, int]

_LETTERS = "A-Za-z\u00c0-\u024f\u0370-\u03ff\u0400-\u04ff"  # not Chinese: `寄到ann@x.org谢谢` holds an address
_EMAIL = re.compile(
    rf"[{_LETTERS}0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@(?:[{_LETTERS}0-9-]{{1,63}}\.){{1,8}}[{_LETTERS}]{{2,63}}"
)
_URL = re.compile(r"(?:[a-z][a-z0-9+.-]{1,15}://|(?<![a-z0-9])www\.)[!-~\u00a1-\u024f]{2,2048}", re.IGNORECASE)
_PHONE = re.compile(
    r"(?<![0-9])(?:"
    r"(?:\+|00)[ ]?[0-9](?:[ ()./-]{0,2}[0-9]){6,14}"  # international
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
_DIGITS = re.compile(r"[0-9](?:[ ./-]?[0-9])*(?:[ -]?[Xx](?![A-Za-z]))?")
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
    doubled = [int(digit) * (2 if at % 2 else 1) for at, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def chinese_id(number: str) -> bool:
    """18 places by GB 11643-1999 (MOD 11-2); 15 as they were before, told by the date of birth in them."""
    if len(number) == 15:
        return number.isdigit() and 1 <= int(number[8:10]) <= 12 and 1 <= int(number[10:12]) <= 31
    if not number[:17].isdigit():
        return False
    total = sum(int(digit) * pow(2, 17 - at, 11) for at, digit in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17].upper()


def iban(number: str) -> bool:
    """MOD 97-10: the country and check digits moved to the end, letters as 10 to 35, the rest of division is 1."""
    turned = number[4:] + number[:4]  # 15 to 34 places
    return int("".join(str(int(char, 36)) for char in turned)) % 97 == 1


def _card(number: str) -> bool:
    return number.isdigit() and luhn(number)


def windows(lengths: range | tuple[int, ...], valid: Callable[[str], bool]) -> Callable[[str], Iterator[Span]]:
    """Finds parts of a run of digits that hold so many and are valid, wherever they begin; they may overlap.

    A part begins and ends at the run's ends or at a separator: in `no. 5 4111 1111 1111 1111` the card is found, in a
    serial number of thirty digits none is looked for.
    """

    def find(text: str) -> Iterator[Span]:
        for run in _DIGITS.finditer(text):
            at = [index for index in range(run.start(), run.end()) if text[index] not in " ./-"]
            starts = [place for place in range(len(at)) if not place or at[place] > at[place - 1] + 1]
            edges = {*starts, len(at)}
            for start in starts:
                for end in edges.intersection(start + length for length in lengths):
                    if valid("".join(text[index] for index in at[start:end])):
                        yield at[start], at[end - 1] + 1

    return find


def _ibans(text: str) -> Iterator[Span]:
    for run in _IBAN.finditer(text):
        at = [index for index in range(run.start(1), run.end(1)) if text[index] not in " -"]
        after = text[run.end(1) : run.end(1) + 1]
        whole = not (after.isascii() and after.isalnum())
        for length in range(len(at), 14, -1):
            ends = at[length] > at[length - 1] + 1 if length < len(at) else whole
            if ends and iban("".join(text[index] for index in at[:length])):
                yield at[0], at[length - 1] + 1
                break


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


# In this order: a number within an address goes with the address, a card is no phone number.
FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "url": _by(_URL),
    "email": _by(_EMAIL),
    "iban": _ibans,
    "cn_id": windows((15, 18), chinese_id),
    "card": windows(range(13, 20), _card),
    "ip": _ips,
    "phone": _by(_PHONE),
}


def joined(spans: Iterator[Span]) -> list[Span]:
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
        self.kinds = [kind for kind in FINDERS if kind in kinds]
        self.numbers: dict[tuple[str, str], int] = {}
        self.counts: dict[str, int] = {}

    def apply(self, text: str) -> str:
        for kind in self.kinds:
            parts, end = [], 0
            for start, stop in joined(FINDERS[kind](fold(text))):
                parts += [text[end:start], self._placeholder(kind, text[start:stop])]
                end = stop
            text = "".join([*parts, text[end:]])
        return text

    def _placeholder(self, kind: str, value: str) -> str:
        known = (kind, re.sub(r"[ -]", "", fold(value)).lower())
        if known not in self.numbers:
            self.counts[kind] = self.numbers[known] = self.counts.get(kind, 0) + 1
        return f"[{kind.upper()}_{self.numbers[known]}]"
