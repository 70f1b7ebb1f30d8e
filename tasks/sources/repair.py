"""Characters that do not belong into a text: found, stripped or refused as the options say."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

from .options import SourceOptions

# Stands for a line too long to be kept (lines.py). Decoders with surrogateescape make U+DC80 to U+DCFF only, so
# no file can spell it.
OVERLONG = "\udbff"
_SURROGATE = re.compile("[\ud800-\udfff]")
_ODD = re.compile("[\x00\ufeff\ud800-\udfff]")


class Refusal(NamedTuple):
    """Why a row is refused: one of ``options.REASONS``, and what was found."""

    reason: str
    detail: str


def is_odd(text: str) -> bool:
    """Whether ``mend`` may change or refuse ``text`` for its characters; 40 ns for ASCII."""
    return "\x00" in text or (not text.isascii() and _ODD.search(text) is not None)


def mend(text: str, options: SourceOptions, repaired: Counter[str]) -> str | Refusal:
    """The text as the options want it, or why its row is refused; counts what it strips in ``repaired``."""
    if OVERLONG in text:
        return Refusal("cell_too_long", "the line is longer than 16 MiB")
    found = _SURROGATE.search(text)
    if found:
        code = ord(found.group())
        what = f"byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"half of a surrogate pair (U+{code:04X})"
        return Refusal("invalid_encoding", f"{what} at character {found.start() + 1}")
    if "\x00" in text:
        if options.nul == "refuse_row":
            return Refusal("nul", f"NUL at character {text.index(chr(0)) + 1}")
        text, repaired["nul"] = text.replace("\x00", ""), repaired["nul"] + 1
    if "\ufeff" in text and options.bom != "keep":
        if options.bom == "refuse":
            return Refusal("bom", f"U+FEFF at character {text.index(chr(0xFEFF)) + 1}")
        text, repaired["bom"] = text.replace("\ufeff", ""), repaired["bom"] + 1
    limit = options.max_cell_bytes
    if len(text) * 4 > limit and (size := len(text.encode())) > limit:
        return Refusal("cell_too_long", f"{size:,} bytes, at most {limit:,} are allowed")
    return text


def mend_values(value: Any, options: SourceOptions, repaired: Counter[str]) -> Any:
    """``mend`` for every text in a JSON value, keys too; a Refusal as soon as one is refused."""
    if isinstance(value, str):
        return mend(value, options, repaired)
    if isinstance(value, list):
        items = [mend_values(item, options, repaired) for item in value]
        return next((item for item in items if isinstance(item, Refusal)), items)
    if isinstance(value, dict):
        keys = [mend(key, options, repaired) for key in value]
        items = [mend_values(item, options, repaired) for item in value.values()]
        refusal = next((item for item in (*keys, *items) if isinstance(item, Refusal)), None)
        return refusal or dict(zip(keys, items, strict=True))
    return value
