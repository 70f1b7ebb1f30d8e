"""Near pictures: coarse ones propose, mirrored or not; the cosine after registration decides.

A picture is compared as brightness in 48 x 48 pixels. Its first 8 x 8 frequencies, whose signs are the perceptual hash of
Zauner ("Implementation and benchmarking of perceptual image hash functions", 2010), propose: as numbers, since a crop of
8 % leaves them a cosine of 0.67 to 0.9, by which many signs differ. Mirrored, a picture has the same frequencies, some with
the other sign, so both are looked for at once. Then windows of 90 to 100 % of the one are laid over the other, and windows
at opposite places of both over each other, which is a shift.

All vectors are whole numbers of such a length that every sum of products stays below 2**24: products of float32 are exact,
so that a similarity hangs neither on the rows beside it nor on the order of a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import Floats, Ints, NearIndex
from augmill.tasks.rows.kinds.image.looks import SIDE, Floats32, files_in, look, luminance

# Least cosine of the first frequencies: about 2 % of what a crop of 8 % makes has less, and 95 to 99 % of all pairs.
PROPOSED = 0.68
SLACK = 0.05  # by how much the cosine over few windows and frequencies may fall short of the one that decides
STEEP = 4.0  # similarity is 1 - STEEP (1 - cosine): 0.8, as for texts, is a cosine of 0.95, and 0.95 one of 0.9875
MOST = 0.9999  # of pictures that are not equal
FLAT = 1.0  # grey levels of standard deviation, below which a picture has no features to be compared by
LENGTH = 3800  # of vectors
_CELLS, _FREQUENCIES, _FIRST = 20, 10, 8  # a side: of what decides, of what is registered coarsely, of what proposes
# Shares of a side that windows leave out, and how many places each has along a side.
_FEW: tuple[tuple[float, int], ...] = ((0.04, 3), (0.08, 3))
_MANY: tuple[tuple[float, int], ...] = ((0.03, 3), (0.05, 3), (0.08, 4), (0.1, 4))
_QUERIES, _PAIRS, _SURE = 256, 2048, 64  # looked at once: 20 MB each

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Cutouts:
    """Parts of pictures, as matrices from the left and from the right; the first is the whole picture.

    ``opposite``: of each window the one at the other end of both sides; ``crossed``: where the other picture is mirrored.
    """

    of: Floats32  # (places, size, SIDE)
    rows: Ints
    columns: Ints
    opposite: Ints
    crossed: Ints

    @classmethod
    def over(cls, shares: Sequence[tuple[float, int]], basis: Floats) -> _Cutouts:
        """``basis``: (size, cells): what becomes of a side's cells."""
        places, views = [(0.0, float(SIDE))], [(0, 0)]
        opposite, crossed = [0], [0]
        for share, count in shares:
            size, at, first = SIDE * (1 - share), len(places), len(views)
            places += [(start, size) for start in np.linspace(0, SIDE - size, count)]
            for row in range(count):
                for column in range(count):
                    views.append((at + row, at + column))
                    opposite.append(first + (count - 1 - row) * count + count - 1 - column)
                    crossed.append(first + (count - 1 - row) * count + column)
        of = np.stack([basis @ _means(start, size, basis.shape[1]) for start, size in places]).astype(np.float32)
        rows, columns = (np.array(side, np.int64) for side in zip(*views, strict=True))
        return cls(of, rows, columns, np.array(opposite), np.array(crossed))

    def look(self, grey: Bytes) -> Floats32:
        """(pictures, SIDE, SIDE) to (pictures, windows, size x size), not yet of one length.

        By small products, each of one picture: one of all would hang, in its last bits, on the pictures beside it.
        """
        places, size, _ = self.of.shape
        half = np.matmul(self.of.reshape(places * size, SIDE), grey.astype(np.float32))
        half = half.reshape(len(grey), places, size, SIDE)
        seen = np.empty((len(grey), len(self.rows), size, size), np.float32)
        for window, (row, column) in enumerate(zip(self.rows, self.columns, strict=True)):
            seen[:, window] = np.matmul(half[:, row], self.of[column].T)
        return seen.reshape(len(grey), len(self.rows), size * size)


def _means(start: float, size: float, cells: int) -> Floats:
    """(cells, SIDE): the mean of the pixels under each of so many cells of a part of a side."""
    edges = start + size * np.arange(cells + 1) / cells
    pixels = np.arange(SIDE)
    under = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    under = np.maximum(under, 0.0)
    found: Floats = under / under.sum(axis=1, keepdims=True)
    return found


def _whole_numbers(vectors: Floats32, flat: float) -> npt.NDArray[np.int16]:
    """Of length LENGTH, rounded; 0 where a vector is shorter than ``flat``. The last axis is one vector."""
    lengths = np.sqrt((vectors * vectors).sum(axis=-1, keepdims=True))
    scaled = np.where(lengths < flat, 0, vectors * (LENGTH / np.maximum(lengths, 1e-6)))
    return np.rint(scaled).astype(np.int16)


@cache
def _cells() -> _Cutouts:
    return _Cutouts.over(_MANY, np.eye(_CELLS))


def cells_of(grey: Bytes) -> npt.NDArray[np.int16]:
    """(pictures, windows, 20 x 20): what decides."""
    seen = _cells().look(grey)
    return _whole_numbers(seen - seen.mean(axis=-1, keepdims=True), FLAT * _CELLS)


@cache
def _waves() -> _Cutouts:
    """The first orthonormal cosines (DCT-II) over 16 cells a side."""
    cells = 2 * _FREQUENCIES
    angles = np.pi / cells * np.arange(_FREQUENCIES)[:, None] * (np.arange(cells) + 0.5)
    basis = np.sqrt(2 / cells) * np.cos(angles)
    basis[0] /= np.sqrt(2)
    return _Cutouts.over(_FEW, basis)


def waves_of(grey: Bytes) -> npt.NDArray[np.int16]:
    """(pictures, few windows, 99): what is registered coarsely."""
    return _whole_numbers(_waves().look(grey)[..., 1:], FLAT * 2 * _FREQUENCIES)


# Places among the frequencies, of which the first one, the mean, is left out.
_ORDER = np.arange(1, _FREQUENCIES**2)
_LOW = np.flatnonzero((_ORDER // _FREQUENCIES < _FIRST) & (_ORDER % _FREQUENCIES < _FIRST))
# Of a mirrored picture the frequencies that are odd from left to right have the other sign.
_SIGNS = np.where(_ORDER % _FREQUENCIES % 2, -1, 1).astype(np.float32)


def _mirrored_waves(vectors: Floats32) -> Floats32:
    return vectors * _SIGNS


def _mirrored_cells(vectors: Floats32) -> Floats32:
    squares = vectors.reshape(*vectors.shape[:-1], _CELLS, _CELLS)
    return squares[..., ::-1].reshape(vectors.shape)


def _registered(
    ours: Floats32, theirs: Floats32, mirrored: bool, windows: _Cutouts, mirror: Callable[[Floats32], Floats32]
) -> Floats:
    """Of pairs, each as (windows, numbers): the greatest cosine of a window over the other's whole, or of opposite ones."""
    other = mirror(theirs) if mirrored else theirs
    turned = mirror(ours[:, 0]) if mirrored else ours[:, 0]
    across = other[:, windows.crossed if mirrored else windows.opposite]
    products = np.concatenate(
        [
            np.matmul(ours, other[:, 0, :, None])[..., 0],
            np.matmul(theirs, turned[..., None])[..., 0],
            np.einsum("pwn,pwn->pw", ours, across),
        ],
        axis=1,
    )
    best: Floats = products.max(axis=1).astype(np.float64) / LENGTH**2
    return best


class GreyPictures:
    """One field's pictures, as they are compared. ``keys``: what equal ones share; ``grey``: (pictures, SIDE, SIDE)."""

    def __init__(self, keys: Sequence[bytes], grey: Bytes) -> None:
        self.keys, self.grey = list(keys), grey

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> GreyPictures:
        keys, grey = list[bytes](), np.empty((len(column), SIDE, SIDE), np.uint8)
        for at, file in enumerate(files_in(column)):
            one = look(file)
            keys.append(one.key)
            grey[at] = np.rint(luminance(one.small))
        return cls(keys, grey)

    def take(self, at: Ints) -> GreyPictures:
        return GreyPictures([self.keys[row] for row in at.tolist()], self.grey[at])

    @cached_property
    def waves(self) -> npt.NDArray[np.int16]:
        """(pictures, few windows, 99)"""
        parts = [waves_of(self.grey[start : start + _QUERIES]) for start in range(0, max(1, len(self.grey)), _QUERIES)]
        return np.concatenate(parts)

    @cached_property
    def first(self) -> Floats32:
        """(pictures, 63): the first frequencies of whole pictures, in whole numbers."""
        return _whole_numbers(self.waves[:, 0, _LOW].astype(np.float32), 1.0).astype(np.float32)


def _proposed(ours: GreyPictures, theirs: GreyPictures) -> Iterator[tuple[Ints, Ints]]:
    """Pairs (query, position) whose frequencies are alike, mirrored or not, or which are equal; some queries at once."""
    odd = _SIGNS[_LOW] < 0
    known = [np.ascontiguousarray(theirs.first[:, side].T) for side in (~odd, odd)]
    places: dict[bytes, list[int]] = {}
    for place, key in enumerate(theirs.keys):
        places.setdefault(key, []).append(place)
    for start in range(0, len(ours.keys), _QUERIES):
        asked = ours.first[start : start + _QUERIES]
        even = asked[:, ~odd] @ known[0]
        even += np.abs(asked[:, odd] @ known[1])
        near = even >= PROPOSED * LENGTH**2
        for row, key in enumerate(ours.keys[start : start + _QUERIES]):
            near[row, places.get(key, [])] = True
        query, position = np.nonzero(near)
        yield query + start, position


def _similarity(ours: GreyPictures, theirs: GreyPictures, query: Ints, position: Ints, least: float) -> Floats:
    """Of each pair: 1 where they are equal, 0 where they are less alike than ``least``."""
    found = np.zeros(len(query))
    one, other = (side.keys for side in (ours, theirs))
    equal = np.fromiter((one[a] == other[b] for a, b in zip(query.tolist(), position.tolist(), strict=True)), np.bool_)
    cosine = 1 - (1 - least) / STEEP
    for mirrored in (False, True):
        left = np.flatnonzero(~equal)
        left = left[_coarse(ours, theirs, query[left], position[left], mirrored) >= cosine - SLACK]
        exact = _exact(ours, theirs, query[left], position[left], mirrored)
        found[left] = np.maximum(found[left], 1 - STEEP * (1 - exact))
    found = np.minimum(found, MOST)
    found[found < least] = 0.0
    found[equal] = 1.0
    return found


def _coarse(ours: GreyPictures, theirs: GreyPictures, query: Ints, position: Ints, mirrored: bool) -> Floats:
    """Cosines of frequencies over few windows; -1 where the whole pictures' are too far apart for any."""
    found, sign = np.full(len(query), -1.0), _SIGNS[_LOW] if mirrored else np.float32(1)
    for start in range(0, len(query), _PAIRS):
        part = slice(start, start + _PAIRS)
        whole = np.einsum("pn,pn->p", ours.first[query[part]], theirs.first[position[part]] * sign)
        at = start + np.flatnonzero(whole >= PROPOSED * LENGTH**2)
        pair = [side.waves[rows[at]].astype(np.float32) for side, rows in ((ours, query), (theirs, position))]
        found[at] = _registered(pair[0], pair[1], mirrored, _waves(), _mirrored_waves)
    return found


def _exact(ours: GreyPictures, theirs: GreyPictures, query: Ints, position: Ints, mirrored: bool) -> Floats:
    """Cosines of cells over many windows."""
    found = np.zeros(len(query))
    for start in range(0, len(query), _SURE):
        part, pair = slice(start, start + _SURE), []
        for side, rows in ((ours, query[part]), (theirs, position[part])):
            distinct, place = np.unique(rows, return_inverse=True)
            pair.append(cells_of(side.grey[distinct]).astype(np.float32)[place])
        found[part] = _registered(pair[0], pair[1], mirrored, _cells(), _mirrored_cells)
    return found


class PictureIndex(NearIndex):
    """Rows by all their pictures: as alike as the least alike of them. ``positions``: of the distinct rows."""

    def __init__(self, fields: Sequence[GreyPictures], positions: Ints, threshold: float) -> None:
        self.fields, self.positions, self.threshold = list(fields), positions, threshold

    @classmethod
    def build(cls, columns: pa.Table, threshold: float) -> PictureIndex:
        """``threshold``: least similarity that counts as near. Raises ValueError where it is not in (0, 1]."""
        if not 0 < threshold <= 1:
            raise ValueError(f"a threshold is above 0 and at most 1, found {threshold}")
        fields, first = [GreyPictures.of(column) for column in columns.columns], dict[tuple[bytes, ...], int]()
        for row, keys in enumerate(zip(*(field.keys for field in fields), strict=True)):
            first.setdefault(keys, row)
        positions = np.fromiter(first.values(), np.int64, len(first))
        return cls([field.take(positions) for field in fields], positions, threshold)

    def matches(self, columns: pa.Table) -> tuple[Ints, Ints, Floats]:
        asked = [GreyPictures.of(column) for column in columns.columns]
        found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
        for query, position in _proposed(asked[0], self.fields[0]):
            left, similarity = np.arange(len(query)), np.ones(len(query))
            for ours, theirs in zip(asked, self.fields, strict=True):
                alike = _similarity(ours, theirs, query[left], position[left], self.threshold)
                left, similarity = left[alike > 0], np.minimum(similarity, alike)[alike > 0]
            found.append((query[left], self.positions[position[left]], similarity))
        query, position, similarity = (np.concatenate(part) for part in zip(*found, strict=True))
        return query, position, similarity

    def nearest(self, columns: pa.Table) -> tuple[Ints, Floats]:
        best, value = np.full(columns.num_rows, -1, np.int64), np.zeros(columns.num_rows)
        query, position, similarity = self.matches(columns)
        order = np.lexsort((position, -similarity, query))
        hit, at = np.unique(query[order], return_index=True)
        best[hit], value[hit] = position[order][at], similarity[order][at]
        return best, value

    def save(self, directory: Path, name: str) -> dict[str, Path]:
        columns: dict[str, Any] = {"position": pa.array(self.positions)}
        for number, field in enumerate(self.fields):
            columns[f"key {number}"] = pa.array(field.keys, pa.binary())
            grey = pa.array(field.grey.reshape(-1))
            columns[f"grey {number}"] = pa.FixedSizeListArray.from_arrays(grey, SIDE * SIDE)
        table = pa.table(columns).replace_schema_metadata({"threshold": repr(self.threshold)})
        path = directory / f"{name}.pictures.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return {path.name: path}

    @classmethod
    def load(cls, directory: Path, name: str) -> PictureIndex:
        with pa.OSFile(str(directory / f"{name}.pictures.arrow"), "rb") as source:
            table = pa.ipc.open_file(source).read_all().combine_chunks()
        fields = []
        for number in range(table.num_columns // 2):
            grey = table[f"grey {number}"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            fields.append(GreyPictures(table[f"key {number}"].to_pylist(), grey.reshape(-1, SIDE, SIDE)))
        return cls(fields, table["position"].to_numpy(), float(table.schema.metadata[b"threshold"]))


def distinct_groups(columns: pa.Table, threshold: float) -> npt.NDArray[np.bool_]:
    """As ``Kind.groups``."""
    query, position, _ = PictureIndex.build(columns, threshold).matches(columns)
    before: dict[int, list[int]] = {}
    for one, other in zip(query.tolist(), position.tolist(), strict=True):
        if other < one:
            before.setdefault(one, []).append(other)
    keep = np.ones(columns.num_rows, np.bool_)
    for one in sorted(before):
        keep[one] = not keep[before[one]].any()
    return keep
