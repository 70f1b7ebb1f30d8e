"""What an export is, and what exports share: names of files, and values as JSON."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from augmill.tasks.contracts import ANY, Problem
from augmill.tasks.rows.parts import read_parts

# By a file's first bytes; MP3 is what begins with a tag or a frame.
_BEGINNINGS = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpg",
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"ID3": "mp3",
    b"\xff": "mp3",
}
_AT_ONCE = 256  # rows that are Python values at once
_IN_RIFF = {b"WEBP": "webp", b"WAVE": "wav"}


@dataclass(frozen=True)
class Exported:
    """A release, by its Parquet files. ``splits``: that of each split which has rows; ``file``: the column of files.

    ``answer``: the target's column; ``classes``: what labels are called, by their value; empty where none are learnt.
    """

    splits: Mapping[str, Path]
    file: str
    answer: str
    prefix: str
    problem: Problem
    classes: Mapping[Any, str]

    def rows(self, split: str) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """(the row's file, its other columns), in the release's order; a part of the Parquet file is held at once."""
        for part in read_parts(self.splits[split]):
            for row in (row for few in part.to_batches(_AT_ONCE) for row in few.to_pylist()):
                value = row.pop(self.file)
                yield value["bytes"] if isinstance(value, dict) else value, row

    def stem(self, row: Mapping[str, Any]) -> str:
        """What a row's files are called: by the sha256 of its id, so that names are safe and sort as the release does.

        128 bits of it, in which no two differing ids will ever agree.
        """
        return hashlib.sha256(row[f"{self.prefix}row_id"].encode()).hexdigest()[:32]

    def added(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Of the added columns those that a training step or a look back at the Parquet file needs; none is ever null."""
        return {f"{self.prefix}{name}": row[f"{self.prefix}{name}"] for name in ("row_id", "origin", "weight")}


class Export(ABC):
    """A layout. The same rows give the same bytes, or ``VERSION`` counts up."""

    VERSION: ClassVar[int]
    # What it serves, as ``Generator`` has it; of every row's columns one holds files.
    kinds: ClassVar[tuple[str, ...]] = (ANY,)
    problems: ClassVar[tuple[str, ...]] = (ANY,)
    needs: ClassVar[str]  # the same in words

    @abstractmethod
    def write(self, folder: Path, release: Exported) -> None:
        """Writes all files of the layout below the empty ``folder``, without ever holding a split."""


def ending_of(file: bytes) -> str:
    """What files of this format end in, by the first bytes; ``bin`` where they are none of a picture or sound."""
    if file[:4] == b"RIFF":
        return _IN_RIFF.get(file[8:12], "bin")
    return next((ending for beginning, ending in _BEGINNINGS.items() if file.startswith(beginning)), "bin")


def to_json(value: Any) -> bytes:
    """In one line. Bytes are base64, times as in ISO 8601, decimals texts; JSON has no NaN and no infinity: null."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
