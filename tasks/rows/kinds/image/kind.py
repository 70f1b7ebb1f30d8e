"""Pictures: the files of a row's picture columns, taken together."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import Floats, Kind, NearIndex, ReadLimits
from augmill.tasks.errors import RefusedFile
from augmill.tasks.rows.kinds.image.decode import REMEDIES, format_of, pixels, resized, size_of
from augmill.tasks.rows.kinds.image.features import PictureFeatures, nearest_cosines
from augmill.tasks.rows.kinds.image.looks import Appearance, files_in, looks, luminance, thumbnail
from augmill.tasks.rows.kinds.image.near import PictureIndex, distinct_groups
from augmill.tasks.rows.kinds.media import MEDIA, digests, files_of, from_source, is_media, media, names_of, to_release
from augmill.tasks.rows.schema import distance
from augmill.tasks.rows.shown import visible

SNIFFED = 8  # files of a column that are decoded for a guess
THUMBNAIL = 128  # pixels a side of what a report shows
ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
_WAYS = ("picture_sizes", "picture_formats", "brightness", "sharpness", "colours")


class Image(Kind):
    """``id``: the files' bytes. ``equal``: the same decoded pixels, so it hangs on the decoder's version.

    Near: 1 - 4 (1 - cosine) of brightness, once one picture is laid over the other, mirrored or not (``near.py``). At the
    default of 0.8 that is a cosine of 0.95: recompressed, resized, mirrored pictures, crops of up to 8 % and shifts of up to
    5 % are near; one turned by 8 degrees is not. Colours alone make no difference. A picture may not be missing; a file's
    name counts for nothing.
    """

    VERSION: ClassVar[int] = 1
    name: ClassVar[str] = "image"
    types: ClassVar[tuple[str, ...]] = ("image",)
    libraries: ClassVar[tuple[str, ...]] = ("pillow",)
    verbatim: ClassVar[bool] = True
    files: ClassVar[bool] = True
    feature: ClassVar[str] = "Image"
    hub: ClassVar[str] = "image"
    remedies: ClassVar[Mapping[str, str]] = REMEDIES

    def arrow(self, type: str) -> pa.DataType:
        return MEDIA

    def takes(self, kind: pa.DataType, type: str) -> bool:
        """Files, texts that name them (a source reads these before ``read`` sees them), or nothing."""
        named = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        return bool(named or is_media(kind) or pa.types.is_null(kind))

    def sniff(self, column: pa.ChunkedArray, name: str) -> tuple[str, float]:
        """By the first files, or by the endings of names."""
        if not self.takes(column.type, "image") or column.null_count == len(column):
            return "image", 0.0
        if is_media(column.type):
            files = [file for file in files_of(from_source(column.slice(0, 10 * SNIFFED))) if file]
            good = [_why_refused(file) is None for file in files[:SNIFFED]]
            return "image", 0.98 * float(np.mean(good)) if good else 0.0
        texts = [text for text in column.slice(0, 1000).to_pylist() if text]
        share = float(np.mean([text.lower().endswith(ENDINGS) for text in texts])) if texts else 0.0
        return "image", 0.97 * share

    def read(self, column: pa.ChunkedArray, type: str, limits: ReadLimits) -> tuple[pa.Array, list[str | None]]:
        """Refused, for what is decoded here once: the reasons in ``decode.REMEDIES``."""
        if not is_media(column.type):
            files: list[bytes | None] = [None] * len(column)
            return media(files), ["no_picture"] * len(column)
        values = from_source(column) if column.type != MEDIA else column
        return values.combine_chunks(), [_why_refused(file) for file in files_in(values)]

    def release(self, values: pa.Array, kind: pa.DataType) -> pa.Array:
        return to_release(values, kind)

    def id(self, columns: pa.Table) -> list[bytes]:
        return digests(columns)

    def equal(self, columns: pa.Table) -> list[bytes]:
        return [b"".join(one.key for one in row) for row in _rows(columns)]

    def near(self, columns: pa.Table, threshold: float) -> NearIndex:
        return PictureIndex.build(columns, threshold)

    def load_near(self, directory: Path, name: str) -> NearIndex:
        return PictureIndex.load(directory, name)

    def groups(self, columns: pa.Table, threshold: float) -> npt.NDArray[np.bool_]:
        return distinct_groups(columns, threshold)

    def profile(self, columns: pa.Table) -> dict[str, Any]:
        """Of all pictures: ``picture_sizes`` by the binary order of magnitude of their pixels, ``picture_formats``,

        ``brightness`` in sixteenths, ``sharpness`` (variance of the Laplacian) by its binary order of magnitude, ``colours``:
        pixels of the small pictures by what they look like: dark, light, grey, or a sixth of the circle of hues.
        """
        found: dict[str, Counter[str]] = {way: Counter() for way in _WAYS}
        for column in columns.columns:
            for file, one in zip(files_in(column), looks(column), strict=True):
                found["picture_sizes"][str((one.width * one.height).bit_length())] += 1
                found["picture_formats"][_format(file)] += 1
                found["brightness"][str(int(one.brightness) // 16)] += 1
                found["sharpness"][str(int(one.sharpness).bit_length())] += 1
                found["colours"].update(_colours(one))
        return {way: dict(sorted(counts.items())) for way, counts in found.items()}

    def drift(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
        return {way: min(1.0, distance(one[way], other[way])) for way in _WAYS}  # shares add up to a bit above 1

    def expectations(self, field: str, max_null_share: float) -> list[dict[str, Any]]:
        """Great Expectations sees a file as a dict with its bytes: it can say that one is there, and ``read`` the rest."""
        kwargs = {"column": field, "mostly": 1.0 - max_null_share}
        return [{"type": "expect_column_values_to_not_be_null", "kwargs": kwargs}]

    def features(self, train: pa.Table) -> PictureFeatures:
        return PictureFeatures(train)

    def planes(self, columns: pa.Table, side: int, channels: int = 3) -> npt.NDArray[np.float32]:
        """(rows, fields x channels, side, side), 0 to 1: every field's channels one after the other.

        ``channels``: 3, or 1 for luminance alone (``channels_of``). Whatever its shape, a picture fills the square.
        """
        made = np.empty((columns.num_rows, columns.num_columns, channels, side, side), np.float32)
        for at, column in enumerate(columns.columns):
            for row, file in enumerate(files_in(column)):
                made[row, at] = _plane(file, side, channels)
        return made.reshape(columns.num_rows, columns.num_columns * channels, side, side)

    def channels_of(self, train: pa.Table) -> int:
        """1 where every picture is grey, else 3."""
        return 1 if all(one.grey for column in train.columns for one in looks(column)) else 3

    def show(self, columns: pa.Table) -> list[str]:
        """Name, or the beginning of the file's sha256; size; format."""
        named = [names_of(column) for column in columns.columns]
        parts = [
            [_shown(*each) for each in zip(files_in(column), names, looks(column), strict=True)]
            for column, names in zip(columns.columns, named, strict=True)
        ]
        return [" | ".join(row) for row in zip(*parts, strict=True)]

    def draw(self, columns: pa.Table) -> list[str]:
        """Thumbnails of ``THUMBNAIL`` pixels a side at most, drawn anew: nothing of the files but pixels gets into a page."""
        parts = [[_drawn(file) for file in files_in(column)] for column in columns.columns]
        return ["".join(row) for row in zip(*parts, strict=True)]

    def similarities(self, made: pa.Table, real: pa.Table) -> Floats:
        return nearest_cosines(made, real)

    def diversity(self, made: pa.Table, real: pa.Table) -> dict[str, float]:
        """``distinct_pictures``: share of made rows that no other one equals; ``nearest_picture``: mean similarity of made rows

        to the real row most like each (``similarities``); ``pictures_alike``: mean similarity of made rows to each other.
        """
        found = {"distinct_pictures": round(len(set(self.equal(made))) / max(1, made.num_rows), 4)}
        if made.num_rows and real.num_rows:
            found["nearest_picture"] = round(float(nearest_cosines(made, real).max(axis=1).mean()), 4)
        if made.num_rows > 1:
            alike = nearest_cosines(made, made)
            apart = alike[~np.eye(len(alike), dtype=np.bool_)]
            found["pictures_alike"] = round(float(apart.mean()), 4)
        return found

    def sizes(self, columns: pa.Table) -> tuple[str, list[int]]:
        return "pixels", [sum(one.width * one.height for one in row) for row in _rows(columns)]


def _rows(columns: pa.Table) -> Iterator[tuple[Appearance, ...]]:
    return zip(*(looks(column) for column in columns.columns), strict=True)


def _why_refused(file: bytes | None) -> str | None:
    try:
        pixels(file or b"")
    except RefusedFile as refused:
        return refused.reason
    return None


def _format(file: bytes | None) -> str:
    try:
        return format_of(file or b"")
    except RefusedFile:
        return "none"


def _plane(file: bytes | None, side: int, channels: int) -> npt.NDArray[np.float32]:
    """(channels, side, side); white where the file is refused."""
    try:
        picture = pixels(file or b"")
    except RefusedFile:
        return np.ones((channels, side, side), np.float32)
    square = resized(picture, side, side)
    if channels == 1:
        return luminance(square)[None] / np.float32(255)
    return np.moveaxis(square, -1, 0).astype(np.float32) / np.float32(255)


def _shown(file: bytes | None, name: str | None, one: Appearance) -> str:
    if file is None:
        return "no picture"
    called = visible(name) if name else hashlib.sha256(file).hexdigest()[:12]
    return f"{called}, {one.width} x {one.height}, {_format(file)}"


def _drawn(file: bytes | None) -> str:
    data = thumbnail(file, THUMBNAIL)
    if data is None:
        return "<span>no picture</span>"
    width, height = size_of(data)
    source = base64.b64encode(data).decode("ascii")
    zoom = max(1, 64 // max(width, height))
    return f'<img alt="" width="{width * zoom}" height="{height * zoom}" src="data:image/png;base64,{source}">'


_HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")


def _colours(one: Appearance) -> Counter[str]:
    pixels = one.small.reshape(-1, 3).astype(np.int32)
    most, least = pixels.max(axis=1), pixels.min(axis=1)
    spread = np.maximum(most - least, 1)
    red, green, blue = pixels.T
    hue = np.select(
        [most == red, most == green], [(green - blue) / spread, (blue - red) / spread + 2], (red - green) / spread + 4
    )
    sixth = np.floor(hue + 0.5).astype(np.int64) % 6
    place = np.select([most < 32, least > 223, most - least < 24], [6, 7, 8], sixth)
    counts = np.bincount(place, minlength=9).tolist()
    names = (*_HUES, "dark", "light", "grey")
    return Counter({name: count for name, count in zip(names, counts, strict=True) if count})
