"""What pictures look like, each decoded once for all who ask."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.errors import RefusedFile
from augmill.tasks.rows.kinds.image.decode import Pixels, encode, is_grey, pixel_digest, pixels, resized
from augmill.tasks.rows.kinds.media import files_of

SIDE = 48  # pixels of the small picture by which pictures are compared, whatever their shape
_KEPT = 1 << 13  # looks that are kept: about 60 MB
_BESIDE = 64
_FINE = 256  # pixels of a side on which sharpness is measured, at most

Floats32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Appearance:
    """One picture. ``key``: what pictures of the same pixels share; ``small``: (SIDE, SIDE, 3)."""

    key: bytes
    width: int
    height: int
    grey: bool
    sharpness: float
    small: Pixels

    @property
    def brightness(self) -> float:
        """0 to 255."""
        return float(self.small.mean())


_known: dict[bytes, Appearance] = {}


def look(data: bytes | None) -> Appearance:
    """Of a file; one that is refused, or missing, looks white, and its key is of its bytes."""
    digest = hashlib.sha256(data or b"").digest()
    found = _known.get(digest)
    if found is None:
        if len(_known) >= _KEPT:
            _known.clear()
        found = _known[digest] = _seen(data or b"", digest)
    return found


def files_in(column: pa.ChunkedArray | pa.Array) -> Iterator[bytes | None]:
    """The bytes of each value of a column of ``MEDIA``, of which a few at once are held beside it."""
    for start in range(0, len(column), _BESIDE):
        yield from files_of(column.slice(start, _BESIDE))


def looks(column: pa.ChunkedArray | pa.Array) -> Iterator[Appearance]:
    """Of each value of a column of ``MEDIA``."""
    return map(look, files_in(column))


def _seen(data: bytes, digest: bytes) -> Appearance:
    try:
        picture = pixels(data)
    except RefusedFile as refused:
        white = np.full((SIDE, SIDE, 3), 255, np.uint8)
        return Appearance(f"{refused.reason}\n".encode() + digest, 0, 0, True, 0.0, white)
    height, width = picture.shape[:2]
    small = resized(picture, SIDE, SIDE)
    return Appearance(pixel_digest(picture), width, height, is_grey(picture), _sharpness(picture), small)


def luminance(pictures: npt.NDArray[Any]) -> Floats32:
    """(..., 3) to (...), 0 to 255 (Rec. 601)."""
    found: Floats32 = pictures.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return found


def _sharpness(picture: Pixels) -> float:
    """Variance of the Laplacian of the picture's luminance."""
    height, width = picture.shape[:2]
    if max(height, width) > _FINE:
        scale = _FINE / max(height, width)
        picture = resized(picture, max(3, round(width * scale)), max(3, round(height * scale)))
    grey = luminance(picture)
    inner = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(inner.var())


def thumbnail(data: bytes | None, side: int) -> bytes | None:
    """A PNG of at most so many pixels a side, with nothing of the file but its pixels; None where it is refused."""
    try:
        picture = pixels(data or b"")
    except RefusedFile:
        return None
    height, width = picture.shape[:2]
    if max(height, width) > side:
        scale = side / max(height, width)
        picture = resized(picture, max(1, round(width * scale)), max(1, round(height * scale)))
    return encode(picture)
