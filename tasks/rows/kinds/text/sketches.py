"""MinHash sketches of texts as sets of character 5-grams, and the exact Jaccard similarity of candidate pairs.

Broder, "On the resemblance and containment of documents" (SEQUENCES 1997); b-bit sketches: Li and Koenig, "b-bit minwise
hashing" (WWW 2010). The signatures are numpy's own: at 45 shingles a row they take 3 us, as rensa's do, whose matrix can
be read out only as Python lists (25 us a row more), and no other package's version can change which rows are found
(tests/benchmarks/bench_minhash.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from augmill.tasks.rows.kinds.text.normal import equal
from augmill.tasks.rows.parts import Spool, rest
from augmill.tasks.rows.segments import ranges, sort_rows

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
Keys = npt.NDArray[np.uint32]
Bools = npt.NDArray[np.bool_]
Word = TypeVar("Word", np.int64, np.uint64)

SIZE = 5  # characters in a shingle
PERMUTATIONS = 128
RECALL = 0.998  # least chance that a pair exactly at the threshold becomes a candidate
BLOCK = 1 << 14  # rows hashed at once; below 2**16, so that row and 48-bit hash share one sortable word
LARGE = 1 << 24  # bytes of text from which on an index lies in mapped files: in memory it would take 9 times as much
_PAD = "\x1e"  # fills short texts; no text compared here ends with it: folding and stripping remove it
# Odd, so that a product modulo 2**64 permutes; from a fixed seed, so that every machine draws the same ones.
_MULTIPLIERS = np.random.Generator(np.random.Philox(5)).integers(0, 1 << 63, PERMUTATIONS, np.uint64) | np.uint64(1)


@dataclass(frozen=True)
class Texts:
    """Texts as UTF-8 end to end: text i is ``data[starts[i]:][:lengths[i]]``."""

    data: npt.NDArray[np.uint8]
    starts: Ints
    lengths: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, rows: Ints | slice) -> list[str]:
        view, starts = self.data.data, self.starts[rows]
        ends = starts + self.lengths[rows]
        return [
            str(view[start:end], "utf-8", "surrogatepass")
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]


def write_texts(parts: Iterable[list[str]], spool: Spool) -> Texts:
    file, lengths = spool.open(), [np.empty(0, np.int32)]
    for part in parts:
        encoded = [text.encode("utf-8", "surrogatepass") for text in part]
        lengths.append(np.fromiter(map(len, encoded), np.int32, len(encoded)))
        file.write(b"".join(encoded))
        rest()
    sizes = np.concatenate(lengths)
    return Texts(spool.close(file, np.uint8), np.cumsum(sizes, dtype=np.int64) - sizes, sizes)


@dataclass(frozen=True)
class Sketches:
    """Rows as sets of distinct shingle hashes; ``sizes``: how many each has.

    ``keys`` (rows, bands): 32 bits of a hash for each LSH band, which few rows share that do not share the band;
    ``bits`` (rows, PERMUTATIONS): a byte of each minimum. Row i's hashes are ``values[offsets[i]:][:sizes[i]]``,
    ascending; where ``values`` is None they are made again of ``texts``.
    """

    sizes: Ints
    keys: Keys
    bits: npt.NDArray[np.uint8]
    values: Words | None
    offsets: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    texts: Texts | None = None

    @staticmethod
    def of(keys: Sequence[str], threshold: float) -> Sketches:
        """Sketches of comparison keys, for pairs from ``threshold`` up."""
        spool = Spool(mapped=False)
        return Sketches.of_texts(write_texts([list(keys)], spool), threshold, spool)

    @staticmethod
    def of_texts(texts: Texts, threshold: float, spool: Spool) -> Sketches:
        """Where the spool is mapped, all that is held in memory is the sizes."""
        bands, _ = choose_bands(threshold)
        sizes = np.empty(len(texts), np.int64)
        of_keys, of_bits, of_values = spool.open(), spool.open(), spool.open()
        for start in range(0, len(texts), BLOCK):
            block = slice(start, min(start + BLOCK, len(texts)))
            flat, sizes[block] = _shingle_hashes(texts.take(block))
            minima = _minima(flat, sizes[block])
            of_bits.write((minima & np.uint32(0xFF)).astype(np.uint8).data)
            of_keys.write(_band_keys(minima, threshold).data)
            if not spool.mapped:
                of_values.write(flat.data)
            rest()
        made = [spool.close(*each) for each in ((of_keys, np.uint32), (of_bits, np.uint8), (of_values, np.uint64))]
        return Sketches(
            sizes,
            made[0].reshape(-1, bands),
            made[1].reshape(-1, PERMUTATIONS),
            None if spool.mapped else made[2],
            np.cumsum(sizes) - sizes,
            texts,
        )

    def hashes(self, rows: Ints) -> Words:
        """Those of these rows, end to end."""
        if self.values is not None:
            return self.values[ranges(self.offsets[rows], self.sizes[rows])]
        assert self.texts is not None
        once, which = np.unique(rows, return_inverse=True)
        flat, sizes = _shingle_hashes(self.texts.take(once))
        return flat[ranges((np.cumsum(sizes) - sizes)[which], sizes[which])]

    def all_hashes(self) -> Iterator[Words]:
        """Block by block."""
        if self.values is not None:
            yield self.values
            return
        for start in range(0, len(self.sizes), BLOCK):
            yield self.hashes(np.arange(start, min(start + BLOCK, len(self.sizes))))


def _band_keys(minima: npt.NDArray[np.uint32], threshold: float) -> Keys:
    bands, rows = choose_bands(threshold)
    banded = minima[:, : bands * rows].reshape(-1, bands, rows).astype(np.uint64)
    return _mix(np.einsum("ijk,k->ij", banded, _MULTIPLIERS[:rows])).astype(np.uint32)  # the lower half


class Queries:
    """Texts that indexes are asked about: each distinct one is hashed once, whatever the indexes and their thresholds.

    ``keys``: the distinct comparison keys; ``inverse``: the place of each text's own among them.
    """

    def __init__(self, equal_keys: Sequence[str]) -> None:
        """``equal_keys``: the texts as ``normal.equal`` has them."""
        distinct: dict[str, int] = {}
        places = (distinct.setdefault(key, len(distinct)) for key in equal_keys)
        self.inverse = np.fromiter(places, np.int64, len(equal_keys))
        self.keys = list(distinct)
        self._only: Hashed | None = None

    @classmethod
    def of(cls, texts: Sequence[str]) -> Queries:
        return cls([equal(text) for text in texts])

    def blocks(self) -> Iterator[tuple[int, Hashed]]:
        """(place of the first, hashes) of ``BLOCK`` keys each; those of a single block are kept."""
        if self._only is None and 0 < len(self.keys) <= BLOCK:
            self._only = Hashed(self.keys)
        for start in range(0, len(self.keys), BLOCK):
            yield start, self._only or Hashed(self.keys[start : start + BLOCK])


class Hashed:
    """Rows as sets of shingle hashes; their sketches, which cost five times as much, where they are asked for."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.values, self.sizes = _shingle_hashes(keys)
        self.offsets = np.cumsum(self.sizes) - self.sizes
        self._minima = np.empty((len(keys), PERMUTATIONS), np.uint32)
        self._made = np.zeros(len(keys), np.bool_)

    def sketches(self, rows: Ints, threshold: float) -> Sketches:
        """Of these rows, in their order."""
        lacking = rows[~self._made[rows]]
        flat = self.values[ranges(self.offsets[lacking], self.sizes[lacking])]
        self._minima[lacking] = _minima(flat, self.sizes[lacking])
        self._made[lacking] = True
        minima = self._minima[rows]
        bits = (minima & np.uint32(0xFF)).astype(np.uint8)
        return Sketches(self.sizes[rows], _band_keys(minima, threshold), bits, self.values, self.offsets[rows])


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
    counts = lengths - SIZE + 1
    values = sort_rows(_mix(hashes[starts_here[: len(hashes)]]) >> np.uint64(16), counts)
    once = np.ones(len(values), dtype=bool)
    once[1:] = values[1:] != values[:-1]
    once[np.cumsum(counts) - counts] = True
    return values[once], np.add.reduceat(once, np.cumsum(counts) - counts, dtype=np.int64)


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
    table = a.hashes(lefts) | (places << np.uint64(48))
    sizes_a, sizes_b = a.sizes[rows_a], b.sizes[rows_b]
    right = b.hashes(rows_b) | (np.repeat(which.astype(np.uint64), sizes_b) << np.uint64(48))
    found = table[np.minimum(np.searchsorted(table, right), len(table) - 1)] == right
    shared = np.add.reduceat(found, np.cumsum(sizes_b) - sizes_b, dtype=np.int64)
    result: Floats = shared / (sizes_a + sizes_b - shared)
    return result
