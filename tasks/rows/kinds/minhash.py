"""MinHash sketches of texts as sets of character 5-grams, and the exact Jaccard similarity of candidate pairs.

Broder, "On the resemblance and containment of documents" (SEQUENCES 1997); b-bit sketches: Li and Koenig, "b-bit
minwise hashing" (WWW 2010). The signatures are numpy's own: at 45 shingles a row they take 3 us, as rensa's do, whose
matrix can be read out only as Python lists (25 us a row more), and no other package's version can change which rows
are found (tests/benchmarks/bench_minhash.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

SIZE = 5  # characters in a shingle
PERMUTATIONS = 128
RECALL = 0.998  # least chance that a pair exactly at the threshold becomes a candidate
BLOCK = 1 << 14  # rows hashed at once; below 2**16, so that row and 48-bit hash share one sortable word
_PAD = "\x1e"  # fills short texts; no text compared here ends with it: folding and stripping remove it
_LOW48 = np.uint64((1 << 48) - 1)
# Odd, so that a product modulo 2**64 permutes; from a fixed seed, so that every machine draws the same ones.
_MULTIPLIERS = np.random.Generator(np.random.Philox(5)).integers(0, 1 << 63, PERMUTATIONS, np.uint64) | np.uint64(1)


@dataclass(frozen=True)
class Sketches:
    """Rows as sets: row i is ``values[offsets[i]:][:sizes[i]]``, its distinct shingle hashes, ascending.

    ``keys`` (rows, bands): one hash per LSH band; ``bits`` (rows, PERMUTATIONS): a byte of each minimum.
    """

    values: Words
    offsets: Ints
    sizes: Ints
    keys: Words
    bits: npt.NDArray[np.uint8]

    @staticmethod
    def of(keys: Sequence[str], threshold: float) -> Sketches:
        """Sketches of comparison keys, for pairs from ``threshold`` up."""
        bands, rows = choose_bands(threshold)
        # Room for all shingles, also those that stand twice in a row: lists put together at the end take twice as much.
        values = np.empty(sum(max(1, len(key) - SIZE + 1) for key in keys), np.uint64)
        sizes = np.empty(len(keys), np.int64)
        band_keys = np.empty((len(keys), bands), np.uint64)
        bits = np.empty((len(keys), PERMUTATIONS), np.uint8)
        end = 0
        for start in range(0, len(keys), BLOCK):
            block = slice(start, min(start + BLOCK, len(keys)))
            flat, sizes[block] = _shingle_hashes(keys[block])
            values[end : end + len(flat)] = flat
            end += len(flat)
            minima = _minima(flat, sizes[block])
            bits[block] = minima & np.uint32(0xFF)
            banded = minima[:, : bands * rows].reshape(-1, bands, rows).astype(np.uint64)
            band_keys[block] = _mix((banded * _MULTIPLIERS[:rows]).sum(axis=2, dtype=np.uint64))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        return Sketches(values[:end], offsets, sizes, band_keys, bits)


def choose_bands(threshold: float) -> tuple[int, int]:
    """(bands, rows per band): the most selective split of the permutations that keeps ``RECALL`` at the threshold.

    Raises: ValueError where the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"a Jaccard threshold lies above 0 and not above 1, found {threshold}")
    for rows in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return PERMUTATIONS, 1


def _mix(words: Words) -> Words:
    """The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): every bit depends on every bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _shingle_hashes(keys: Sequence[str]) -> tuple[Words, Ints]:
    """Distinct 48-bit shingle hashes of each key, ascending within a row, and how many each row has (one at least).

    Two different shingles of a pair of texts share a hash with a chance of about 1e-10: "exact" means up to that.
    """
    padded = [key if len(key) >= SIZE else key + _PAD * (SIZE - len(key)) for key in keys]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    lengths = np.fromiter((len(key) for key in padded), np.int64, len(padded))
    starts_here = np.ones(len(codes), dtype=bool)
    ends = np.cumsum(lengths)
    for back in range(1, SIZE):
        starts_here[ends - back] = False
    hashes = np.zeros(len(codes) - SIZE + 1, np.uint64)
    for shift in range(SIZE):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[shift : shift + len(hashes)]
    rows = np.repeat(np.arange(len(padded), dtype=np.uint64), lengths - SIZE + 1)
    words = np.sort((rows << np.uint64(48)) | (_mix(hashes[starts_here[: len(hashes)]]) >> np.uint64(16)))
    words = words[np.concatenate([[True], words[1:] != words[:-1]])]
    return words & _LOW48, np.bincount((words >> np.uint64(48)).astype(np.int64), minlength=len(padded))


def _minima(flat: Words, lengths: Ints) -> npt.NDArray[np.uint32]:
    """MinHash signatures, shape (rows, PERMUTATIONS): upper halves of the least product of each multiplier."""
    result = np.empty((len(lengths), PERMUTATIONS), np.uint32)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    for start in range(0, len(lengths), 2048):  # so that a block's products stay in the cache: 3 us a row against 6
        stop = min(start + 2048, len(lengths))
        block = flat[offsets[start] : offsets[stop]]
        product = np.empty_like(block)
        for column, multiplier in enumerate(_MULTIPLIERS):
            np.multiply(block, multiplier, out=product)
            result[start:stop, column] = np.minimum.reduceat(product, offsets[start:stop] - offsets[start]) >> 32
    return result


def ranges(starts: Ints, counts: Ints) -> Ints:
    """Concatenation of ``arange(starts[i], starts[i] + counts[i])``."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def verify(a: Sketches, rows_a: Ints, b: Sketches, rows_b: Ints, threshold: float) -> tuple[Bools, Floats]:
    """Which candidate pairs reach the threshold, and the exact similarity of those that do (0 elsewhere).

    Size and sketch rule most pairs out first; four standard errors of leeway lose 3 pairs in 100,000.
    """
    sizes_a, sizes_b = a.sizes[rows_a], b.sizes[rows_b]
    maybe = np.minimum(sizes_a, sizes_b) >= threshold * np.maximum(sizes_a, sizes_b)
    leeway = 4 * np.sqrt(threshold * (1 - threshold) / PERMUTATIONS)
    chosen = np.flatnonzero(maybe)
    equal = np.concatenate(
        [np.empty(0)]
        + [
            (a.bits[rows_a[part]] == b.bits[rows_b[part]]).mean(axis=1)
            for part in (chosen[start : start + BLOCK] for start in range(0, len(chosen), BLOCK))
        ]
    )
    chosen = chosen[equal >= threshold - leeway]
    similarity = np.zeros(len(rows_a))
    for start in range(0, len(chosen), BLOCK):
        part = chosen[start : start + BLOCK]
        similarity[part] = _exact(a, rows_a[part], b, rows_b[part])
    return similarity >= threshold, similarity


def _exact(a: Sketches, rows_a: Ints, b: Sketches, rows_b: Ints) -> Floats:
    """Exact Jaccard of up to 2**16 pairs: each hash of a right row is looked up among those of its left row.

    Pairs come by left row, so that few of these stand in the table: a sixth of the time that sorting both takes.
    """
    lefts, which = np.unique(rows_a, return_inverse=True)
    places = np.repeat(np.arange(len(lefts), dtype=np.uint64), a.sizes[lefts])
    table = a.values[ranges(a.offsets[lefts], a.sizes[lefts])] | (places << np.uint64(48))
    sizes_a, sizes_b = a.sizes[rows_a], b.sizes[rows_b]
    right = b.values[ranges(b.offsets[rows_b], sizes_b)] | (
        np.repeat(which.astype(np.uint64), sizes_b) << np.uint64(48)
    )
    found = table[np.minimum(np.searchsorted(table, right), len(table) - 1)] == right
    shared = np.add.reduceat(found, np.cumsum(sizes_b) - sizes_b, dtype=np.int64)
    result: Floats = shared / (sizes_a + sizes_b - shared)
    return result
