"""Near-duplicates: MinHash-LSH finds candidates, exact Jaccard over character 5-grams decides (tasks/rows/kinds/minhash.py).

Texts are compared folded (text.fold), so that case, width and punctuation do not count.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.rows.kinds.minhash import BLOCK, SIZE, Bools, Floats, Ints, Sketches, Words, ranges, verify
from augmill.tasks.rows.kinds.text import fold, shingles

_PAIRS = 1 << 22  # candidate pairs held at once: 64 MiB
_LOW44, _LOW50 = np.uint64((1 << 44) - 1), np.uint64((1 << 50) - 1)


def jaccard(a: str, b: str, size: int = SIZE) -> float:
    """Shared share of the two texts' character n-grams, in [0, 1]; exact."""
    x, y = shingles(a, size), shingles(b, size)
    return len(x & y) / len(x | y)


def comparison_key(text: str) -> str:
    """What is compared: the folded text, or the text itself where folding leaves nothing (only punctuation)."""
    return fold(text) or text.strip()


@dataclass
class NearIndex:
    """Texts to be found again, exactly or nearly. Of texts equal when folded only the first can be found.

    ``threshold``: least Jaccard similarity that counts as near.
    """

    threshold: float
    _first: dict[str, int]
    _sketches: Sketches = field(repr=False)
    _rows: Ints = field(repr=False)
    _sorted: list[tuple[Words, Ints]] = field(repr=False)

    @classmethod
    def build(cls, texts: Sequence[str], threshold: float) -> NearIndex:
        """Raises: ValueError where the threshold is not in (0, 1]."""
        first: dict[str, int] = {}
        for position, text in enumerate(texts):
            first.setdefault(comparison_key(text), position)
        return cls._of(first, threshold)

    @classmethod
    def _of(cls, first: dict[str, int], threshold: float) -> NearIndex:
        sketches = Sketches.of(list(first), threshold)
        orders = [np.argsort(column, kind="stable") for column in sketches.keys.T]
        ranked = [(column[order], order) for column, order in zip(sketches.keys.T, orders, strict=True)]
        return cls(threshold, first, sketches, np.fromiter(first.values(), np.int64, len(first)), ranked)

    def __len__(self) -> int:
        return len(self._first)

    def exact(self, texts: Sequence[str]) -> Ints:
        """Position of the first indexed text equal to each text when folded; -1 where there is none."""
        return np.fromiter((self._first.get(comparison_key(text), -1) for text in texts), np.int64, len(texts))

    def matches(self, texts: Sequence[str]) -> tuple[Ints, Ints, Floats]:
        """All pairs at or above the threshold: (query, position in the index, similarity), in that order.

        Equal texts are always found, others with a chance of ``RECALL`` or better.
        """
        distinct: dict[str, int] = {}
        inverse = np.fromiter((distinct.setdefault(comparison_key(t), len(distinct)) for t in texts), np.int64)
        found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
        keys = list(distinct)
        for start in range(0, len(keys), BLOCK):
            sketches = Sketches.of(keys[start : start + BLOCK], self.threshold)
            for queries, rows in self._candidates(sketches, np.arange(len(sketches.sizes))):
                near, similarity = verify(sketches, queries, self._sketches, rows, self.threshold)
                found.append((queries[near] + start, self._rows[rows[near]], similarity[near]))
        query, position, similarity = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.lexsort((position, query))
        query, position, similarity = query[order], position[order], similarity[order]
        counts = np.bincount(query, minlength=len(distinct))[inverse] if len(texts) else np.empty(0, np.int64)
        spread = ranges(np.searchsorted(query, inverse), counts)
        return np.repeat(np.arange(len(texts)), counts), position[spread], similarity[spread]

    def nearest(self, texts: Sequence[str]) -> tuple[Ints, Floats]:
        """Best match of each text: (position, similarity), (-1, 0.0) where none reaches the threshold.

        Of equally similar texts the one that stands first is taken.
        """
        query, position, similarity = self.matches(texts)
        order = np.lexsort((position, -similarity, query))
        hit, at = np.unique(query[order], return_index=True)
        best, value = np.full(len(texts), -1, np.int64), np.zeros(len(texts))
        best[hit], value[hit] = position[order][at], similarity[order][at]
        return best, value

    def _candidates(self, sketches: Sketches, queries: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Distinct (query, row) pairs that share a band; at most ``_PAIRS`` at once, however crowded a band is."""
        spans = [
            (np.searchsorted(ranked, keys[queries]), np.searchsorted(ranked, keys[queries], side="right"))
            for keys, (ranked, _) in zip(sketches.keys.T, self._sorted, strict=True)
        ]
        total = sum(int((high - low).sum()) for low, high in spans)
        if total > _PAIRS and len(queries) > 1:
            half = len(queries) // 2
            yield from self._candidates(sketches, queries[:half])
            yield from self._candidates(sketches, queries[half:])
        elif total:
            words = [
                np.repeat(queries, high - low) * len(self) + order[ranges(low, high - low)]
                for (low, high), (_, order) in zip(spans, self._sorted, strict=True)
            ]
            pairs = np.unique(np.concatenate(words))
            yield pairs // len(self), pairs % len(self)

    def save(self, directory: Path, name: str) -> dict[str, Path]:
        """Writes ``name.arrow`` and ``name.json``; returns file name -> path. Sketches are made anew by ``load``."""
        table = pa.table({"key": pa.array(list(self._first), pa.string()), "position": pa.array(self._rows)})
        files = {f"{name}.arrow": directory / f"{name}.arrow", f"{name}.json": directory / f"{name}.json"}
        with pa.OSFile(str(files[f"{name}.arrow"]), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        files[f"{name}.json"].write_text(json.dumps({"threshold": self.threshold}) + "\n", encoding="utf-8")
        return files

    @classmethod
    def load(cls, directory: Path, name: str) -> NearIndex:
        with pa.OSFile(str(directory / f"{name}.arrow"), "rb") as source:
            table = pa.ipc.open_file(source).read_all()
        meta = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
        keys, positions = table["key"].to_pylist(), table["position"].to_pylist()
        return cls._of(dict(zip(keys, positions, strict=True)), meta["threshold"])


def near_duplicate_groups(texts: Sequence[str], threshold: float) -> Bools:
    """Keep mask, shape of ``texts``, which stand in order of priority: a row is kept where no kept row before it

    is equal when folded or has a Jaccard similarity of ``threshold`` or more.
    """
    first: dict[str, int] = {}
    for position, text in enumerate(texts):
        first.setdefault(comparison_key(text), position)
    sketches = Sketches.of(list(first), threshold)
    keep = np.zeros(len(texts), dtype=bool)
    keep[np.fromiter(first.values(), np.int64, len(first))[_kept(sketches, threshold)]] = True
    return keep


def _kept(sketches: Sketches, threshold: float) -> Bools:
    """Greedy choice among distinct rows; only those that share a band with another row need a look.

    Rows of one template share bands by the thousand. So candidates are looked up by their rarest hashes first, which
    loses none that is near (prefix filter: Xiao et al., "Efficient similarity joins for near duplicate detection",
    WWW 2008): two near rows share one of the first few of the smaller row and the first few more of the larger one.
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
    rarity, size = _rarity(sketches.values)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        sizes = sketches.sizes[block]
        values = sketches.values[ranges(sketches.offsets[block], sizes)]
        places = np.repeat(np.arange(len(block), dtype=np.uint64), sizes)
        ranks = rarity[values % size].astype(np.uint64)
        words = np.sort((places << np.uint64(50)) | (ranks << np.uint64(44)) | (values & _LOW44))
        more = _first_hashes(sizes, threshold)
        few = _first_hashes(sizes, 2 * threshold / (1 + threshold))
        chosen = words[ranges(np.cumsum(sizes) - sizes, more)] & _LOW50
        for prefix, least in zip(np.split(chosen, np.cumsum(more)[:-1]), few.tolist(), strict=True):
            yield prefix[:least].tolist(), prefix.tolist()


def _first_hashes(sizes: Ints, share: float) -> Ints:
    """How many of a row's hashes hold one that a row with this share of them has too."""
    counts: Ints = sizes - np.ceil(share * sizes - 1e-9).astype(np.int64) + 1
    return counts


def _rarity(values: Words) -> tuple[npt.NDArray[np.uint8], np.uint64]:
    """(how often hashes occur, in powers of two, by their remainder; the divisor).

    Roughly is enough: any fixed order of the hashes gives the same rows, one that puts rare ones first the fewest.
    """
    size = 1 << min(23, max(16, len(values).bit_length() - 3))
    counts = np.zeros(size, np.int64)
    for start in range(0, len(values), size):
        counts += np.bincount((values[start : start + size] % np.uint64(size)).astype(np.int64), minlength=size)
    return np.log2(counts + 1, dtype=np.float32).astype(np.uint8), np.uint64(size)
