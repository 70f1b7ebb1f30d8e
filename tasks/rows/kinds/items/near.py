"""Histories that share most of their items, found exactly: Jaccard's overlap from a threshold up.

Of two rows that overlap so much each has one of the other's among its rarest items (the prefix filter of AllPairs: Bayardo
et al., WWW 2007), so that rows are looked up by these alone; popular items, which most rows share, are never asked.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import Floats, Ints, NearIndex

NEAREST = 0.9999  # of rows that are not equal: the same items in another order
_POSITION, _THRESHOLD = "__position", b"threshold"
Token = tuple[int, str]  # the place of the field, the item
Keys = Callable[[pa.Table], list[bytes]]


def tokens_of(columns: pa.Table) -> list[list[Token]]:
    """The items of each row, those of different fields apart."""
    fields = [
        [[(at, item) for item in items or ()] for items in columns[name].to_pylist()]
        for at, name in enumerate(columns.column_names)
    ]
    return [[token for items in row for token in items] for row in zip(*fields, strict=True)]


def jaccard(one: AbstractSet[Token], other: AbstractSet[Token]) -> float:
    """Items that both have by those that either has; less than 1."""
    both = len(one & other)
    return min(NEAREST, both / (len(one) + len(other) - both)) if both else 0.0


class NearItems(NearIndex):
    """``columns``: the first of each of several equal rows, which stood at ``positions``; ``equal``: as ``Kind.equal``."""

    def __init__(self, columns: pa.Table, positions: Sequence[int], threshold: float, equal: Keys) -> None:
        self.columns, self.positions, self.threshold, self.equal = columns, list(positions), threshold, equal
        self.places = {key: at for at, key in enumerate(equal(columns))}
        self.rows = [frozenset(row) for row in tokens_of(columns)]
        counts = Counter(token for row in self.rows for token in row)
        ranked = sorted(counts, key=lambda token: (counts[token], token))
        self.rank = {token: at for at, token in enumerate(ranked)}  # the rarest first
        self.by_token: dict[Token, list[int]] = defaultdict(list)
        for at, row in enumerate(self.rows):
            for token in self._prefix(row):
                self.by_token[token].append(at)

    @classmethod
    def build(cls, columns: pa.Table, threshold: float, equal: Keys) -> NearItems:
        first: dict[bytes, int] = {}
        for position, key in enumerate(equal(columns)):
            first.setdefault(key, position)
        positions = list(first.values())
        return cls(columns.take(pa.array(positions, pa.int64())), positions, threshold, equal)

    def _prefix(self, row: frozenset[Token]) -> list[Token]:
        """The rarest items, one of which a row that overlaps enough must have among its own."""
        ordered = sorted(row, key=lambda token: (self.rank.get(token, -1), token))
        return ordered[: len(row) - math.ceil(self.threshold * len(row) - 1e-9) + 1]

    def _found(self, key: bytes, row: frozenset[Token]) -> dict[int, float]:
        """Similarity by place."""
        found: dict[int, float] = {}
        for at in {at for token in self._prefix(row) for at in self.by_token.get(token, ())}:
            similarity = jaccard(row, self.rows[at])
            if similarity >= self.threshold:
                found[at] = similarity
        if key in self.places:
            found[self.places[key]] = 1.0
        return found

    def matches(self, columns: pa.Table) -> tuple[Ints, Ints, Floats]:
        pairs = [
            (query, self.positions[at], similarity)
            for query, (key, row) in enumerate(zip(self.equal(columns), tokens_of(columns), strict=True))
            for at, similarity in self._found(key, frozenset(row)).items()
        ]
        pairs.sort()
        of = list(zip(*pairs, strict=True)) or [(), (), ()]
        return np.array(of[0], np.int64), np.array(of[1], np.int64), np.array(of[2], np.float64)

    def nearest(self, columns: pa.Table) -> tuple[Ints, Floats]:
        best, value = np.full(columns.num_rows, -1, np.int64), np.zeros(columns.num_rows)
        for query, position, similarity in zip(*(part.tolist() for part in self.matches(columns)), strict=True):
            if similarity > value[query]:  # of equally similar ones the first
                best[query], value[query] = position, similarity
        return best, value

    def save(self, directory: Path, name: str) -> dict[str, Path]:
        path = directory / f"{name}.arrow"
        table = self.columns.append_column(_POSITION, pa.array(self.positions, pa.int64()))
        table = table.replace_schema_metadata({_THRESHOLD: repr(self.threshold).encode()})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return {path.name: path}

    @classmethod
    def load(cls, directory: Path, name: str, equal: Keys) -> NearItems:
        with pa.OSFile(str(directory / f"{name}.arrow"), "rb") as source:
            table = pa.ipc.open_file(source).read_all()
        threshold = float(table.schema.metadata[_THRESHOLD])
        return cls(table.drop_columns([_POSITION]), table[_POSITION].to_pylist(), threshold, equal)
