"""Which tokens may follow so that a row stays UTF-8: tokens of a byte-level vocabulary are often parts of a character."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a byte of its own, in vocabularies that fall back to bytes
_MOST = 1 << 26  # cells of a table; with more, as of a large vocabulary and many characters, any UTF-8 is allowed


@dataclass(frozen=True)
class Characters:
    """``allowed[state, token]``: whether a row that stands in the middle of a character (state 0: it does not) may go on

    with the token; ``following[state, token]``: where it stands after it.
    """

    allowed: npt.NDArray[np.bool_]
    following: npt.NDArray[np.int32]


def characters_of(tokenizer: Any, vocabulary: int, end: int, banned: list[int], known: str = "") -> Characters | None:
    """The rule for a vocabulary of that size: rows of ASCII and of the characters ``known``, or of any where it is empty.

    ``end`` and special tokens stand between characters only. None where no token is a part of a character, or a row
    would be stuck in the middle of one.
    """
    written = _bytes_of(tokenizer, vocabulary)
    if written is None:
        return None
    table = _known_characters(known) if known else _any_character()
    if len(table) * vocabulary > _MOST:
        table = _any_character()
    broken = len(table) - 1
    codes = np.full((vocabulary, max(map(len, written))), -1, dtype=np.int32)
    for index, part in enumerate(written):
        codes[index, : len(part)] = list(part)
    state = np.repeat(np.arange(broken, dtype=np.int32)[:, None], vocabulary, axis=1)
    for column in codes.T:
        state = np.where(column < 0, state, table[state, np.maximum(column, 0)])
    allowed = state != broken
    allowed[1:, [not part for part in written]] = False
    allowed[:, banned] = False
    allowed[:, end] = np.arange(broken) == 0
    if not allowed.any(axis=1).all():
        return None
    return Characters(allowed, np.where(allowed, state, 0).astype(np.int32))


def _any_character() -> npt.NDArray[np.int32]:
    """(state, byte) -> state, after RFC 3629: 1 to 3 want so many bytes more, 4 to 7 follow E0, ED, F0 and F4; the last

    is that of bytes that are no UTF-8.
    """
    table = np.full((9, 256), 8, dtype=np.int32)
    table[0, :0x80] = 0
    for state, first, last, after in (
        (0, 0xC2, 0xDF, 1), (0, 0xE0, 0xE0, 4), (0, 0xE1, 0xEC, 2), (0, 0xED, 0xED, 5), (0, 0xEE, 0xEF, 2),
        (0, 0xF0, 0xF0, 6), (0, 0xF1, 0xF3, 3), (0, 0xF4, 0xF4, 7),
        (1, 0x80, 0xBF, 0), (2, 0x80, 0xBF, 1), (3, 0x80, 0xBF, 2),
        (4, 0xA0, 0xBF, 1), (5, 0x80, 0x9F, 1), (6, 0x90, 0xBF, 2), (7, 0x80, 0x8F, 2),
    ):  # fmt: skip
        table[state, first : last + 1] = after
    return table


def _known_characters(known: str) -> npt.NDArray[np.int32]:
    """The same for ASCII and these characters: a state for each beginning of one."""
    states: dict[bytes, int] = {b"": 0}
    for character in sorted(set(known)):
        code = character.encode()
        for length in range(1, len(code)):
            states.setdefault(code[:length], len(states))
    table = np.full((len(states) + 1, 256), len(states), dtype=np.int32)
    table[0, :0x80] = 0
    for beginning, state in states.items():
        if beginning:
            table[states[beginning[:-1]], beginning[-1]] = state
    for character in known:
        code = character.encode()
        table[states[code[:-1]], code[-1]] = 0
    return table


def _bytes_of(tokenizer: Any, vocabulary: int) -> list[bytes] | None:
    """What each token writes; nothing for special tokens and empty places. None where no token is a mere byte."""
    special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    tokens = [None if index in special else tokenizer.id_to_token(index) for index in range(vocabulary)]
    layout = json.loads(tokenizer.to_str())
    if '"ByteLevel"' in json.dumps([layout["pre_tokenizer"], layout["decoder"]]):
        code = byte_of_character()
        known = [None if token is None or not set(token) <= code.keys() else token for token in tokens]
        return [bytes(code[character] for character in token) if token else b"" for token in known]
    if any(token and BYTE.fullmatch(token) for token in tokens):
        found = [(token, BYTE.fullmatch(token or "")) for token in tokens]
        return [bytes([int(byte[1], 16)]) if byte else (token or "").encode() for token, byte in found]
    return None


def byte_of_character() -> dict[str, int]:
    """The printable characters by which byte-level BPE writes bytes (Radford 2019)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(others)}
