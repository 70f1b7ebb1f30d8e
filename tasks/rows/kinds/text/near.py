"""Near-duplicates: MinHash-LSH finds candidates, exact Jaccard over character 5-grams decides.

Texts are compared as ``normal.equal`` has them, so that case, width and punctuation do not count.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.rows.kinds.text.normal import equal, shingles
from augmill.tasks.rows.segments import ranges, sort_rows

# --- MinHash sketches of texts as sets of character 5-grams, and the exact Jaccard similarity of candidate pairs ------
# Broder, "On the resemblance and containment of documents" (SEQUENCES 1997); b-bit sketches: Li and Koenig, "b-bit
# minwise hashing" (WWW 2010). The signatures are numpy's own: at 45 shingles a row they take 3 us, as rensa's do, whose
# matrix can be read out only as Python lists (25 us a row more), and no other package's version can change which rows
# are found (tests/benchmarks/bench_minhash.py).


Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Word = TypeVar("Word", np.int64, np.uint64)

SIZE = 5  # characters in a shingle
PERMUTATIONS = 128
RECALL = 0.998  # least chance that a pair exactly at the threshold becomes a candidate
BLOCK = 1 << 14  # rows hashed at once; below 2**16, so that row and 48-bit hash share one sortable word
_PAD = "\x1e"  # fills short texts; no text compared here ends with it: folding and stripping remove it
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
        bands, _ = choose_bands(threshold)
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
            band_keys[block] = _band_keys(minima, threshold)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        return Sketches(values[:end], offsets, sizes, band_keys, bits)


def _band_keys(minima: npt.NDArray[np.uint32], threshold: float) -> Words:
    bands, rows = choose_bands(threshold)
    banded = minima[:, : bands * rows].reshape(-1, bands, rows).astype(np.uint64)
    return _mix(np.einsum("ijk,k->ij", banded, _MULTIPLIERS[:rows]))


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
        self._only: _Hashed | None = None

    @classmethod
    def of(cls, texts: Sequence[str]) -> Queries:
        return cls([equal(text) for text in texts])

    def blocks(self) -> Iterator[tuple[int, _Hashed]]:
        """(place of the first, hashes) of ``BLOCK`` keys each; those of a single block are kept."""
        if self._only is None and 0 < len(self.keys) <= BLOCK:
            self._only = _Hashed(self.keys)
        for start in range(0, len(self.keys), BLOCK):
            yield start, self._only or _Hashed(self.keys[start : start + BLOCK])


class _Hashed:
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
        return Sketches(self.values, self.offsets[rows], self.sizes[rows], _band_keys(minima, threshold), bits)


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


def _distinct(words: npt.NDArray[Word]) -> npt.NDArray[Word]:
    """Ascending, each once. numpy's own ``unique`` (2.4) hashes: 3.1 s for 4 million, where sorting takes 0.03 to 0.3."""
    ordered: npt.NDArray[Word] = np.sort(words)
    once: npt.NDArray[Word] = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
    return once


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
    table = a.values[ranges(a.offsets[lefts], a.sizes[lefts])] | (places << np.uint64(48))
    sizes_a, sizes_b = a.sizes[rows_a], b.sizes[rows_b]
    right = b.values[ranges(b.offsets[rows_b], sizes_b)] | (
        np.repeat(which.astype(np.uint64), sizes_b) << np.uint64(48)
    )
    found = table[np.minimum(np.searchsorted(table, right), len(table) - 1)] == right
    shared = np.add.reduceat(found, np.cumsum(sizes_b) - sizes_b, dtype=np.int64)
    result: Floats = shared / (sizes_a + sizes_b - shared)
    return result


# --- Near-duplicates --------------------------------------------------------------------------------------------------


_PAIRS = 1 << 22  # candidate pairs held at once: 64 MiB
_PAIRS_A_ROW = 100  # of candidates: 0.1 us each, beside 100 us for a row among crowds
_CROWDED = 64  # rows that share a band with a query, from which on they are looked for by their rare hashes
_LOW44 = np.uint64((1 << 44) - 1)
_Spans = tuple[Ints, Ints, Ints, Ints]  # queries; where among rows those begin and end that each may be near; the rows


def jaccard(a: str, b: str, size: int = SIZE) -> float:
    """Shared share of the two texts' character n-grams, in [0, 1]; exact."""
    x, y = shingles(a, size), shingles(b, size)
    return len(x & y) / len(x | y)


@dataclass
class TextIndex:
    """Texts to be found again, exactly or nearly. Of texts equal when folded only the first can be found.

    ``threshold``: least Jaccard similarity that counts as near.
    """

    threshold: float
    _first: dict[str, int]
    _sketches: Sketches = field(repr=False)
    _rows: Ints = field(repr=False)
    _sorted: list[tuple[Words, Ints]] = field(repr=False)

    @classmethod
    def build(cls, texts: Sequence[str] | Queries, threshold: float) -> TextIndex:
        """Raises: ValueError where the threshold is not in (0, 1]."""
        keys = _asked(texts)
        positions = np.unique(keys.inverse, return_index=True)[1].tolist()
        return cls._of(dict(zip(keys.keys, positions, strict=True)), threshold)

    @classmethod
    def _of(cls, first: dict[str, int], threshold: float) -> TextIndex:
        sketches = Sketches.of(list(first), threshold)
        orders = [np.argsort(column, kind="stable") for column in sketches.keys.T]
        ranked = [(column[order], order) for column, order in zip(sketches.keys.T, orders, strict=True)]
        return cls(threshold, first, sketches, np.fromiter(first.values(), np.int64, len(first)), ranked)

    def __len__(self) -> int:
        return len(self._first)

    def exact(self, texts: Sequence[str]) -> Ints:
        """Position of the first indexed text equal to each text when folded; -1 where there is none."""
        return np.fromiter((self._first.get(equal(text), -1) for text in texts), np.int64, len(texts))

    def matches(self, texts: Sequence[str] | Queries) -> tuple[Ints, Ints, Floats]:
        """All pairs at or above the threshold: (query, position in the index, similarity), in that order.

        Equal texts are always found, others with a chance of ``RECALL`` or better.
        """
        asked = _asked(texts)
        found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)), *self._near(asked)]
        query, position, similarity = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.lexsort((position, query))
        query, position, similarity = query[order], position[order], similarity[order]
        counts = np.bincount(query, minlength=len(asked.keys))[asked.inverse]
        spread = ranges(np.searchsorted(query, asked.inverse), counts)
        return np.repeat(np.arange(len(asked.inverse)), counts), position[spread], similarity[spread]

    def nearest(self, texts: Sequence[str] | Queries) -> tuple[Ints, Floats]:
        """Best match of each text: (position, similarity), (-1, 0.0) where none reaches the threshold.

        Of equally similar texts the one that stands first is taken. Of a thousand texts of one template all pairs are
        near: only the best one of each is held.
        """
        asked = _asked(texts)
        best, value = np.full(len(asked.keys), -1, np.int64), np.zeros(len(asked.keys))
        for query, position, similarity in self._near(asked):
            order = np.lexsort((position, -similarity, query))
            hit, at = np.unique(query[order], return_index=True)
            best[hit], value[hit] = position[order][at], similarity[order][at]
        return best[asked.inverse], value[asked.inverse]

    def _near(self, asked: Queries) -> Iterator[tuple[Ints, Ints, Floats]]:
        """All pairs at or above the threshold in pieces, all those of a query in one: (query, position, similarity)."""
        for start, hashed in asked.blocks():
            possible = self._possible(hashed)
            sketches = hashed.sketches(possible, self.threshold)
            for queries, rows in self._candidates(sketches):
                near, similarity = verify(sketches, queries, self._sketches, rows, self.threshold)
                yield possible[queries[near]] + start, self._rows[rows[near]], similarity[near]

    def _possible(self, hashed: _Hashed) -> Ints:
        """The rows whose hashes are known to the index in a share that lets one be near: of no other a sketch is made.

        Exact: what two rows share is never more than what one of them shares with all.
        """
        known = self._known[(hashed.values & np.uint64(len(self._known) - 1)).astype(np.int64)]
        shared = np.add.reduceat(known, hashed.offsets, dtype=np.int64) if len(known) else np.empty(0, np.int64)
        return np.flatnonzero(shared >= self.threshold * hashed.sizes - 1e-9)

    @cached_property
    def _known(self) -> Bools:
        """Whether the index has a hash, by its last bits: others that end alike count too, so a row more may be looked at."""
        values = self._sketches.values
        size = 1 << min(23, max(10, (8 * len(values)).bit_length()))
        known = np.zeros(size, np.bool_)
        known[(values & np.uint64(size - 1)).astype(np.int64)] = True
        return known

    def _candidates(self, sketches: Sketches) -> Iterator[tuple[Ints, Ints]]:
        """Distinct (query, row) pairs that share a band, all those of a query in one piece.

        Of a query whose bands are crowded, as those of one template are, only pairs that could be near.
        """

        def by_band(queries: Ints) -> list[_Spans]:
            keys = sketches.keys[queries].T
            return [
                (queries, *_spans(ranked, own), rows) for own, (ranked, rows) in zip(keys, self._sorted, strict=True)
            ]

        def by_rare_hash(queries: Ints) -> list[_Spans]:
            few, more = _rare_hashes(sketches, queries, self._rare.rarity, self.threshold)
            known = (self._rare.more, self._rare.few)  # of two near rows the smaller shares one of few with the other
            return [
                (queries[own.places], *_spans(rows.words, own.words), rows.places)
                for own, rows in zip((few, more), known, strict=True)
            ]

        queries = np.arange(len(sketches.sizes))
        spans = by_band(queries)
        crowded = np.sum([high - low for _, low, high, _ in spans], axis=0) > _CROWDED
        if not crowded.any():
            yield from self._pairs(queries, by_band, spans)
            return
        yield from self._pairs(queries[~crowded], by_band)
        for query, row in self._pairs(queries[crowded], by_rare_hash):
            shared = (sketches.keys[query] == self._sketches.keys[row]).any(axis=1)
            yield query[shared], row[shared]

    def _pairs(
        self, queries: Ints, find: Callable[[Ints], list[_Spans]], known: list[_Spans] | None = None
    ) -> Iterator[tuple[Ints, Ints]]:
        """The distinct pairs of the spans that ``find`` gives; at most ``_PAIRS`` at once, however long these are."""
        spans = find(queries) if known is None else known
        total = sum(int((high - low).sum()) for _, low, high, _ in spans)
        if total > _PAIRS and len(queries) > 1:
            half = len(queries) // 2
            yield from self._pairs(queries[:half], find)
            yield from self._pairs(queries[half:], find)
        elif total:
            words = [
                np.repeat(of, high - low) * len(self) + rows[ranges(low, high - low)] for of, low, high, rows in spans
            ]
            pairs = _distinct(np.concatenate(words))
            yield pairs // len(self), pairs % len(self)

    @cached_property
    def _rare(self) -> _Rare:
        rarity = _Rarity.of(self._sketches.values)
        few, more = _rare_hashes(self._sketches, np.arange(len(self)), rarity, self.threshold)
        return _Rare(rarity, few.ascending(), more.ascending())

    def save(self, directory: Path, name: str) -> dict[str, Path]:
        """Writes ``name.arrow`` and ``name.json``; returns file name -> path. Sketches are made anew by ``load``."""
        table = pa.table({"key": pa.array(list(self._first), pa.string()), "position": pa.array(self._rows)})
        files = {f"{name}.arrow": directory / f"{name}.arrow", f"{name}.json": directory / f"{name}.json"}
        with pa.OSFile(str(files[f"{name}.arrow"]), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        files[f"{name}.json"].write_text(json.dumps({"threshold": self.threshold}) + "\n", encoding="utf-8")
        return files

    @classmethod
    def load(cls, directory: Path, name: str) -> TextIndex:
        with pa.OSFile(str(directory / f"{name}.arrow"), "rb") as source:
            table = pa.ipc.open_file(source).read_all()
        meta = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
        keys, positions = table["key"].to_pylist(), table["position"].to_pylist()
        return cls._of(dict(zip(keys, positions, strict=True)), meta["threshold"])


def _spans(ranked: Words, wanted: Words) -> tuple[Ints, Ints]:
    """Where each wanted value begins and ends among the ranked ones. Asked in their order: memory is read once through."""
    low, order = np.empty(len(wanted), np.int64), np.argsort(wanted)
    low[order] = np.searchsorted(ranked, wanted[order])
    high, found = low.copy(), low < len(ranked)
    found[found] = ranked[low[found]] == wanted[found]
    high[found] = np.searchsorted(ranked, wanted[found], side="right")
    return low, high


def _asked(texts: Sequence[str] | Queries) -> Queries:
    return texts if isinstance(texts, Queries) else Queries.of(texts)


def near_duplicate_groups(texts: Sequence[str], threshold: float) -> Bools:
    """Keep mask, shape of ``texts``, which stand in order of priority: a row is kept where no kept row before it

    is equal when folded or has a Jaccard similarity of ``threshold`` or more.
    """
    first: dict[str, int] = {}
    for position, text in enumerate(texts):
        first.setdefault(equal(text), position)
    sketches = Sketches.of(list(first), threshold)
    keep = np.zeros(len(texts), dtype=bool)
    keep[np.fromiter(first.values(), np.int64, len(first))[_kept(sketches, threshold)]] = True
    return keep


def near_keys(texts: Sequence[str] | Queries, threshold: float) -> npt.NDArray[np.uint32]:
    """(texts, bands): near texts share a key of one band; 32 bits of it, which few that are not near share."""
    asked = _asked(texts)
    made = (hashed.sketches(np.arange(len(hashed.sizes)), threshold).keys for _, hashed in asked.blocks())
    keys = np.concatenate([np.empty((0, choose_bands(threshold)[0]), np.uint64), *made])
    return keys.astype(np.uint32)[asked.inverse]  # the lower half


def _kept(sketches: Sketches, threshold: float) -> Bools:
    """Greedy choice among distinct rows; only those that share a band with another row need a look."""
    runs = [_runs(column) for column in sketches.keys.T]
    if sum(int((sizes * (sizes - 1) // 2).sum()) for _, sizes in runs) > _PAIRS_A_ROW * len(sketches.sizes):
        return _kept_of_crowds(sketches, threshold)
    near: dict[int, list[int]] = {}
    for pairs in _pairs(runs, len(sketches.sizes)):
        before, after = pairs // len(sketches.sizes), pairs % len(sketches.sizes)
        found = verify(sketches, after, sketches, before, threshold)[0]
        for row, other in zip(after[found].tolist(), before[found].tolist(), strict=True):
            near.setdefault(row, []).append(other)
    kept = np.ones(len(sketches.sizes), dtype=bool)
    for row in sorted(near):
        kept[row] = not kept[near[row]].any()
    return kept


def _runs(column: Words) -> tuple[Ints, Ints]:
    """(rows that share their word with another, word by word and ascending within one; how many share each)."""
    order = np.argsort(column, kind="stable")
    ranked = column[order]
    starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(ranked)), bool), ranked[1:] != ranked[:-1]]))
    sizes = np.diff(starts, append=len(ranked))
    return order[np.repeat(sizes > 1, sizes)], sizes[sizes > 1]


def _pairs(runs: list[tuple[Ints, Ints]], rows: int) -> Iterator[Ints]:
    """Pairs of rows that share a band, as ``earlier * rows + later``; at most about ``_PAIRS`` at once, each once among these."""
    held: list[Ints] = []
    for order, sizes in runs:
        left = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(order)) - 1  # how many of its run come after each
        step, at = 1, np.flatnonzero(left > 0)
        while len(at):
            held.append(order[at] * rows + order[at + step])
            step += 1
            at = at[left[at] >= step]
            if sum(map(len, held)) > _PAIRS:
                yield _distinct(np.concatenate(held))
                held = []
    if held:
        yield _distinct(np.concatenate(held))


def _kept_of_crowds(sketches: Sketches, threshold: float) -> Bools:
    """As ``_kept``. Rows of one template share bands by the thousand, and the pairs would be more than can be looked at.

    So candidates are looked up by their rarest hashes first, which loses none that is near (prefix filter: Xiao et al.,
    "Efficient similarity joins for near duplicate detection", WWW 2008): two near rows share one of the first few of the
    smaller row and the first few more of the larger one.
    """
    kept = np.ones(len(sketches.sizes), dtype=bool)
    crowded = np.zeros(len(kept), dtype=bool)
    for column in sketches.keys.T:
        _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        crowded |= counts[inverse] > 1
    rows = np.flatnonzero(crowded)
    smaller: defaultdict[int, list[int]] = defaultdict(list)  # kept rows by their first few hashes
    larger: defaultdict[int, list[int]] = defaultdict(list)  # by their first few more
    for row, (few, more) in zip(rows.tolist(), _prefixes(sketches, rows, threshold), strict=True):
        found = [*(smaller.get(word, ()) for word in more), *(larger.get(word, ()) for word in few)]
        before = set(chain.from_iterable(found))
        if before:
            near = np.fromiter(sorted(before), np.int64, len(before))
            near = near[(sketches.keys[near] == sketches.keys[row]).any(axis=1)]
            if len(near):
                kept[row] = not verify(sketches, np.full(len(near), row), sketches, near, threshold)[0].any()
        if kept[row]:
            for word in few:
                smaller[word].append(row)
            for word in more:
                larger[word].append(row)
    return kept


def _prefixes(sketches: Sketches, rows: Ints, threshold: float) -> Iterator[tuple[list[int], list[int]]]:
    """Of each row its rarest hashes: as few as it needs beside a larger row, and as many as beside a smaller one."""
    rarity = _Rarity.of(sketches.values)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        few, more = (part.by_row(len(block)) for part in _rare_hashes(sketches, block, rarity, threshold))
        yield from zip(few, more, strict=True)


def _rare_hashes(sketches: Sketches, rows: Ints, rarity: _Rarity, threshold: float) -> tuple[_Placed, _Placed]:
    """Of each row its rarest hashes, rarest first: as few as it needs beside a larger row, more beside a smaller one."""
    sizes = sketches.sizes[rows]
    words = sort_rows(rarity.ranked(sketches.values[ranges(sketches.offsets[rows], sizes)]), sizes)
    counts = [_first_hashes(sizes, share) for share in (2 * threshold / (1 + threshold), threshold)]
    few, more = (
        _Placed(words[ranges(np.cumsum(sizes) - sizes, own)], np.repeat(np.arange(len(rows)), own)) for own in counts
    )
    return few, more


def _first_hashes(sizes: Ints, share: float) -> Ints:
    """How many of a row's hashes hold one that a row with this share of them has too."""
    counts: Ints = sizes - np.ceil(share * sizes - 1e-9).astype(np.int64) + 1
    return counts


@dataclass(frozen=True)
class _Rarity:
    """How often hashes occur, in powers of two, by their remainder.

    Roughly is enough: any fixed order of the hashes gives the same rows, one that puts rare ones first the fewest.
    """

    powers: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, values: Words) -> _Rarity:
        size = 1 << min(23, max(16, len(values).bit_length() - 3))
        counts = np.zeros(size, np.int64)
        for start in range(0, len(values), size):
            counts += np.bincount((values[start : start + size] % np.uint64(size)).astype(np.int64), minlength=size)
        return cls(np.log2(counts + 1, dtype=np.float32).astype(np.uint8))

    def ranked(self, values: Words) -> Words:
        """The hashes as words that stand in this order, rare ones first."""
        ranks = self.powers[values % np.uint64(len(self.powers))].astype(np.uint64)
        words: Words = (ranks << np.uint64(44)) | (values & _LOW44)
        return words


@dataclass(frozen=True)
class _Placed:
    """Hashes, and the place of the row that has each."""

    words: Words
    places: Ints

    def ascending(self) -> _Placed:
        order = np.argsort(self.words, kind="stable")
        return _Placed(self.words[order], self.places[order])

    def by_row(self, rows: int) -> list[list[int]]:
        ends = np.cumsum(np.bincount(self.places, minlength=rows))[:-1]
        return [part.tolist() for part in np.split(self.words, ends)]


@dataclass(frozen=True)
class _Rare:
    """The rare hashes of an index's rows."""

    rarity: _Rarity
    few: _Placed
    more: _Placed
