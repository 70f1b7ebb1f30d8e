"""Pictures as numbers for learners: histograms of gradients (Dalal and Triggs, CVPR 2005) and a small colour picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import Featurizer, Floats
from augmill.tasks.rows.kinds.image.decode import Pixels
from augmill.tasks.rows.kinds.image.looks import SIDE, Floats32, looks, luminance

CELL, BINS = 8, 9  # pixels a side of a cell; orientations, without sign
_CELLS = SIDE // CELL
_COARSE = 8  # pixels a side of the small colour picture
_BLOCK = 256  # rows at once: 25 MB


class PictureFeatures(Featurizer):
    """Of each field a block of length 1 of gradients, and one of colours (of brightness where train is grey).

    Nothing but whether train has colours is learnt.
    """

    def __init__(self, train: pa.Table) -> None:
        self.channels = [1 if all(one.grey for one in looks(column)) else 3 for column in train.columns]

    def transform(self, columns: pa.Table) -> Floats32:
        parts = [
            np.concatenate([hog(small), coarse(small, channels)], axis=1)
            for column, channels in zip(columns.columns, self.channels, strict=True)
            for small in [[one.small for one in looks(column)]]
        ]
        return np.concatenate(parts, axis=1)


def hog(pictures: Sequence[Pixels]) -> Floats32:
    """(pictures, 900): gradients in cells of 8 pixels, in blocks of 2 x 2 cells, each of length 1 and cut at 0.2.

    A row's numbers are made from its own picture, in a fixed order of operations, whatever stands beside it.
    """
    width = (_CELLS - 1) ** 2 * 4 * BINS
    made = np.empty((len(pictures), width), np.float32)
    for start in range(0, len(pictures), _BLOCK):
        grey = np.sqrt(luminance(np.stack(pictures[start : start + _BLOCK])))
        made[start : start + len(grey)] = _hog(grey)
    return made


def _hog(grey: Floats32) -> Floats32:
    padded = np.pad(grey, ((0, 0), (1, 1), (1, 1)), mode="edge")
    down, right = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1], padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    size = np.hypot(down, right)
    place = (np.arctan2(down, right) / np.pi % 1.0) * BINS  # 0 to 9: between two orientations it counts for both
    low = np.floor(place)
    share = (place - low).astype(np.float32)
    low = low.astype(np.int64) % BINS
    cells = np.zeros((len(grey), _CELLS, _CELLS, BINS), np.float32)
    for bin in range(BINS):
        part = size * np.where(low == bin, 1 - share, np.where((low + 1) % BINS == bin, share, 0)).astype(np.float32)
        cells[..., bin] = part.reshape(len(grey), _CELLS, CELL, _CELLS, CELL).sum(axis=(2, 4))
    blocks = np.concatenate([cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:]], axis=-1)
    for most in (0.2, None):
        blocks = blocks / np.sqrt((blocks**2).sum(axis=-1, keepdims=True) + 1e-3)
        blocks = np.minimum(blocks, most) if most else blocks
    return _unit(blocks.reshape(len(grey), -1))


def coarse(pictures: Sequence[Pixels], channels: int) -> Floats32:
    """(pictures, 64 x channels): the picture in 8 x 8 pixels, less the middle of the scale, of length 1."""
    made = np.empty((len(pictures), _COARSE * _COARSE * channels), np.float32)
    step = SIDE // _COARSE
    for at, small in enumerate(pictures):
        of = small.astype(np.float32) if channels == 3 else luminance(small)[..., None]
        mean = of.reshape(_COARSE, step, _COARSE, step, channels).mean(axis=(1, 3))
        made[at] = mean.reshape(-1) / np.float32(127.5) - 1
    return _unit(made)


def _unit(rows: Floats32) -> Floats32:
    lengths = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    found: npt.NDArray[np.float32] = rows / np.maximum(lengths, 1e-6)
    return found


def nearest_cosines(made: pa.Table, real: pa.Table) -> Floats:
    """(made, real): cosines of gradients and colours, 0 to 1; rows of equal pixels have 1."""
    both = PictureFeatures(real)
    ours, theirs = (both.transform(rows).astype(np.float64) for rows in (made, real))
    scale = 2 * max(1, made.num_columns)
    cosines: Floats = np.clip(ours @ theirs.T / scale, 0.0, 1.0)
    return cosines
