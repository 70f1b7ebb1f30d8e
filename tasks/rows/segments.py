"""Arrays of many short rows end to end: sorted row by row, counted, found again; without a loop over rows."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Word = TypeVar("Word", np.int64, np.uint64)

# Rows of a matrix up to 256 wide are sorted in registers: 1.5 ns a number, where numpy's sort of all of them takes 40.
_WIDTHS = np.array([64, 128, 256, np.iinfo(np.int64).max])
_MIXER = np.uint64(0x9E3779B97F4A7C15)


def ranges(starts: Ints, counts: Ints) -> Ints:
    """Concatenation of ``arange(starts[i], starts[i] + counts[i])``."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def sort_rows(values: npt.NDArray[Word], sizes: Ints) -> npt.NDArray[Word]:
    """The values with each row of them ascending: row i is the next ``sizes[i]``."""
    made = np.empty_like(values)
    starts, widths = np.cumsum(sizes) - sizes, _WIDTHS[np.searchsorted(_WIDTHS, sizes)]
    for width in np.unique(widths).tolist():
        rows = np.flatnonzero(widths == width)
        if width > _WIDTHS[-2]:
            for row in rows.tolist():
                part = slice(starts[row], starts[row] + sizes[row])
                made[part] = np.sort(values[part])
            continue
        own = sizes[rows]
        at = slice(None) if len(rows) == len(sizes) else ranges(starts[rows], own)
        places = ranges(np.arange(0, len(rows) * width, width), own)
        padded = np.full(len(rows) * width, np.iinfo(values.dtype).max, values.dtype)
        padded[places] = values[at]
        padded.reshape(-1, width).sort(axis=1)
        made[at] = padded[places]
    return made


class Lookup:
    """Distinct integers (0 or more) to be found again by their place; open addressing, all asked at once."""

    def __init__(self, keys: Ints) -> None:
        bits = max(4, (3 * len(keys)).bit_length())
        self._shift, self._mask = np.uint64(64 - bits), (1 << bits) - 1
        self._keys = np.full(1 << bits, -1, np.int64)
        self._places = np.full(1 << bits, -1, np.int32)
        left, slots = np.arange(len(keys)), self._slots(keys)
        while len(left):
            free = left[self._keys[slots[left]] < 0]
            self._places[slots[free]] = free  # of several that want one slot the last gets it
            won = free[self._places[slots[free]] == free]
            self._keys[slots[won]] = keys[won]
            left = left[self._keys[slots[left]] != keys[left]]
            slots[left] = (slots[left] + 1) & self._mask

    def _slots(self, keys: Ints) -> Ints:
        return ((keys.astype(np.uint64) * _MIXER) >> self._shift).astype(np.int64)

    def find(self, keys: Ints) -> npt.NDArray[np.int32]:
        """The place of each; -1 where it is none of them."""
        slots = self._slots(keys)
        there = self._keys[slots]
        found = np.where(there == keys, self._places[slots], np.int32(-1))
        left = np.flatnonzero((there != keys) & (there >= 0))
        slots = slots[left]
        while len(left):
            slots = (slots + 1) & self._mask
            there = self._keys[slots]
            hit = there == keys[left]
            found[left[hit]] = self._places[slots[hit]]
            more = ~hit & (there >= 0)
            left, slots = left[more], slots[more]
        return found
