"""Near-duplicates: MinHash-LSH finds candidates, exact Jaccard over character 5-grams decides (tasks/minhash.py).

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
import pyarrow as pa

from augmill.tasks.minhash import BLOCK, SIZE, Bools, Floats, Ints, Sketches, Words, ranges, verify
from augmill.tasks.text import fold, shingles

_PAIRS = 1 << 22  # candidate pairs held at once: 64 MiB


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
    """Greedy choice among distinct rows; only those that share a band with another row need a look."""
    kept = np.ones(len(sketches.sizes), dtype=bool)
    bands = sketches.keys.shape[1]
    buckets = np.full(sketches.keys.shape, -1, np.int64)
    for band, column in enumerate(sketches.keys.T):
        _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        buckets[:, band] = np.where(counts[inverse] > 1, inverse * bands + band, -1)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero((buckets >= 0).any(axis=1)):
        shared = [bucket for bucket in buckets[row].tolist() if bucket >= 0]
        before = set(chain.from_iterable(members[bucket] for bucket in shared))
        if before:
            rows = np.fromiter(sorted(before), np.int64, len(before))
            kept[row] = not verify(sketches, np.full(len(rows), row), sketches, rows, threshold)[0].any()
        if kept[row]:
            for bucket in shared:
                members[bucket].append(int(row))
    return kept
