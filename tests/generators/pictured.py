"""Rows of pictures that a program draws, for tests of what learns from them or transforms them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
PICTURE_FIELDS = ("image:photo",)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def drawn(number: int, stripes: int = 0, size: tuple[int, int] = (20, 24), channels: int = 3) -> npt.NDArray[np.uint8]:
    """(height, width, channels): a bright bar, lying (0), standing (1) or slanting (2), on noise; another for each number."""
    noise = np.random.Generator(np.random.Philox(key=number)).integers(0, 90, (*size, channels), dtype=np.uint8)
    down, across = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    place = [down, across, (down + across) // 2][stripes] - size[stripes % 2] // 2 - number % 5 + 2
    noise[np.abs(place) <= 2] += np.uint8(150)
    if channels == 4:
        noise[..., 3] |= 128
    return noise


def file_of(pixels: npt.NDArray[np.uint8], format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, format, **options)
    return stream.getvalue()


def pixels_of(file: bytes) -> npt.NDArray[np.uint8]:
    found = np.asarray(Image.open(io.BytesIO(file)))
    return found.reshape(*found.shape[:2], -1)


def value(file: bytes) -> dict[str, Any]:
    """Of a field."""
    return {"bytes": file, "path": None}


def picture_rows(count: int = 12) -> list[tuple[Any, ...]]:
    """(row id, stratum, picture): of three strata, in two sizes, as PNG and JPEG."""
    return [
        (
            f"{stratum}-{number}",
            stratum,
            value(
                file_of(drawn(100 * at + number, at, ((20, 24), (16, 16))[number % 2]), ("PNG", "JPEG")[number % 3 > 1])
            ),
        )
        for at, stratum in enumerate(("refund", "track", "中文"))
        for number in range(count)
    ]
