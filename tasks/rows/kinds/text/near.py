"""Near-duplicates: MinHash-LSH finds candidates, exact Jaccard over character 5-grams decides.

Texts are compared as ``normal.equal`` has them, so that case, width and punctuation do not count.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.rows.kinds.text.normal import shingles
from augmill.tasks.rows.kinds.text.sketches import (
    BLOCK,
    LARGE,
    SIZE,
    Bools,
    Floats,
    Hashed,
    Ints,
    Keys,
    Queries,
    Sketches,
    Texts,
    Word,
    Words,
    choose_bands,
    verify,
    write_texts,
)
from augmill.tasks.rows.parts import Spool, rest
from augmill.tasks.rows.segments import ranges, sort_rows

_PAIRS = 1 << 22  # candidate pairs held at once: 64 MiB
_PAIRS_A_ROW = 100  # of candidates: 0.1 us each, beside 100 us for a row among crowds
_CROWDED = 64  # rows that share a band with a query, from which on they are looked for by their rare hashes
_LONG = 8  # rows that share one band: of longer runs a crowded query looks for the rare hashes, of others at each row
_LOW44 = np.uint64((1 << 44) - 1)
_Places = npt.NDArray[np.int32]
_Spans = tuple[
    Ints, Ints, Ints, _Places
]  # queries; where among rows those begin and end that each may be near; the rows


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
    _sketches: Sketches = field(repr=False)
    _rows: Ints = field(repr=False)
    _sorted: list[tuple[Keys, _Places]] = field(repr=False)

    @classmethod
    def build(cls, texts: Sequence[str] | Queries, threshold: float) -> TextIndex:
        """Raises: ValueError where the threshold is not in (0, 1]."""
        keys, spool = _asked(texts), Spool(mapped=False)
        positions = np.unique(keys.inverse, return_index=True)[1]
        return cls._of(write_texts([keys.keys], spool), positions, threshold, spool)

    @classmethod
    def build_parts(cls, parts: Iterable[list[str]], threshold: float) -> TextIndex:
        """As ``build``, of many texts given part by part as ``normal.equal`` has them. The index lies in mapped files:

        about 400 bytes a row and the text on the disk, this twice while it is made; 24 bytes a row in memory.
        """
        given, spool, digests = Spool(mapped=True), Spool(mapped=True), [b""]

        def seen() -> Iterator[list[str]]:
            for part in parts:
                digests.append(b"".join(map(_digest, part)))
                yield part

        texts = write_texts(seen(), given)
        first = _first(np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2))
        blocks = (texts.take(first[start : start + BLOCK]) for start in range(0, len(first), BLOCK))
        return cls._of(write_texts(blocks, spool), first, threshold, spool)

    @classmethod
    def _of(cls, texts: Texts, rows: Ints, threshold: float, spool: Spool) -> TextIndex:
        sketches = Sketches.of_texts(texts, threshold, spool)
        count, bands = sketches.keys.shape
        of_ranked, of_orders = spool.open(), spool.open()
        for band in range(bands):
            column = np.ascontiguousarray(sketches.keys[:, band])
            order = np.argsort(column, kind="stable")
            of_ranked.write(column[order].data)
            of_orders.write(order.astype(np.int32).data)
            rest()
        ranked = spool.close(of_ranked, np.uint32).reshape(bands, count)
        orders = spool.close(of_orders, np.int32).reshape(bands, count)
        return cls(threshold, sketches, rows, list(zip(ranked, orders, strict=True)))

    def __len__(self) -> int:
        return len(self._rows)

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
            rest()

    def _possible(self, hashed: Hashed) -> Ints:
        """The rows whose hashes are known to the index in a share that lets one be near: of no other a sketch is made.

        Exact: what two rows share is never more than what one of them shares with all. A large index has nearly all
        hashes that occur.
        """
        if self._sketches.values is None:
            return np.arange(len(hashed.sizes))
        known = self._known[(hashed.values & np.uint64(len(self._known) - 1)).astype(np.int64)]
        shared = np.add.reduceat(known, hashed.offsets, dtype=np.int64) if len(known) else np.empty(0, np.int64)
        return np.flatnonzero(shared >= self.threshold * hashed.sizes - 1e-9)

    @cached_property
    def _known(self) -> Bools:
        """Whether the index has a hash, by its last bits: others that end alike count too, so a row more may be looked at."""
        values = self._sketches.values
        assert values is not None
        size = 1 << min(23, max(10, (8 * len(values)).bit_length()))
        known = np.zeros(size, np.bool_)
        known[(values & np.uint64(size - 1)).astype(np.int64)] = True
        return known

    def _candidates(self, sketches: Sketches) -> Iterator[tuple[Ints, Ints]]:
        """Distinct (query, row) pairs that share a band, all those of a query in one piece.

        Of a query whose bands are crowded, as those of one template are, only pairs that could be near.
        """

        def by_band(queries: Ints) -> list[_Spans]:
            found = []
            for own, (ranked, rows) in zip(sketches.keys[queries].T, self._sorted, strict=True):
                found.append((queries, *_spans(ranked, own), rows))
                rest()  # else all bands of a large index are in memory at once
            return found

        def by_rare_hash(queries: Ints) -> list[_Spans]:
            few, more = _rare_hashes(sketches, queries, self._rare.rarity, self.threshold)
            known = (self._rare.more, self._rare.few)  # of two near rows the smaller shares one of few with the other
            rare = [
                (queries[own.places], *_spans(words, own.words.astype(np.uint32)), places)
                for own, (words, places) in zip((few, more), known, strict=True)
            ]
            short = (
                (of, low, np.where(high - low > _LONG, low, high), rows) for of, low, high, rows in by_band(queries)
            )
            return [*rare, *short]

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
            rest()
            yield pairs // len(self), pairs % len(self)

    @cached_property
    def _rare(self) -> _Rare:
        """Of the rows that share a band with many."""
        rarity, crowded = _Rarity.of(self._sketches), np.zeros(len(self), np.bool_)
        for ranked, order in self._sorted:
            starts, sizes = _stretches(ranked)
            long = sizes > _LONG
            crowded[order[ranges(starts[long], sizes[long])]] = True
        rows = np.flatnonzero(crowded)
        found: list[tuple[list[Keys], list[_Places]]] = [([], []), ([], [])]
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            for (words, places), own in zip(
                found, _rare_hashes(self._sketches, block, rarity, self.threshold), strict=True
            ):
                words.append(own.words.astype(np.uint32))
                places.append(block[own.places].astype(np.int32))
        few, more = (_ascending(*each) for each in found)
        return _Rare(rarity, few, more)

    def save(self, directory: Path, name: str) -> dict[str, Path]:
        """Writes ``name.arrow`` and ``name.json``; returns file name -> path. Sketches are made anew by ``load``."""
        assert self._sketches.texts is not None
        table = pa.table({"key": _strings(self._sketches.texts), "position": pa.array(self._rows)})
        files = {f"{name}.arrow": directory / f"{name}.arrow", f"{name}.json": directory / f"{name}.json"}
        with pa.OSFile(str(files[f"{name}.arrow"]), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        files[f"{name}.json"].write_text(json.dumps({"threshold": self.threshold}) + "\n", encoding="utf-8")
        return files

    @classmethod
    def load(cls, directory: Path, name: str) -> TextIndex:
        meta = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
        with pa.memory_map(str(directory / f"{name}.arrow")) as source:
            table = pa.ipc.open_file(source).read_all()
        spool = Spool(mapped=table["key"].nbytes > LARGE)
        chunks = table["key"].chunks
        blocks = (chunk.slice(at, BLOCK).to_pylist() for chunk in chunks for at in range(0, len(chunk), BLOCK))
        # A copy: the file may be written anew while the index is in use.
        return cls._of(write_texts(blocks, spool), table["position"].to_numpy().copy(), meta["threshold"], spool)


def _strings(texts: Texts) -> pa.ChunkedArray:
    """Texts that stand end to end, without a copy; as many in a chunk as 2 GiB hold."""
    chunks: list[pa.Array] = []
    ends, start = np.concatenate([[0], np.cumsum(texts.lengths, dtype=np.int64)]), 0
    while start < len(texts) or not chunks:
        stop = int(np.searchsorted(ends, ends[start] + np.iinfo(np.int32).max, "right")) - 1
        offsets = (ends[start : stop + 1] - ends[start]).astype(np.int32)
        data = texts.data[texts.starts[start] :][: offsets[-1]] if stop > start else texts.data[:0]
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        chunks.append(pa.Array.from_buffers(pa.string(), stop - start, buffers))
        start = stop
    return pa.chunked_array(chunks)


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _first(digests: Words) -> Ints:
    """Where each that occurs stands first, ascending."""
    order = np.lexsort(digests.T)
    ranked = digests[order]
    starts = np.concatenate([np.ones(min(1, len(order)), np.bool_), (ranked[1:] != ranked[:-1]).any(axis=1)])
    return np.sort(order[starts])


def _ascending(words: list[Keys], places: list[_Places]) -> tuple[Keys, _Places]:
    """The words ascending, and the row that has each."""
    whole = np.concatenate([np.empty(0, np.uint32), *words])
    order = np.argsort(whole)
    return whole[order], np.concatenate([np.empty(0, np.int32), *places])[order]


def _stretches(ranked: npt.NDArray[Any]) -> tuple[Ints, Ints]:
    """(where each value begins among ascending ones, how often it stands there)."""
    starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(ranked)), np.bool_), ranked[1:] != ranked[:-1]]))
    return starts, np.diff(starts, append=len(ranked))


def _distinct(words: npt.NDArray[Word]) -> npt.NDArray[Word]:
    """Ascending, each once. numpy's own ``unique`` (2.4) hashes: 3.1 s for 4 million, where sorting takes 0.03 to 0.3."""
    ordered: npt.NDArray[Word] = np.sort(words)
    once: npt.NDArray[Word] = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
    return once


def _spans(ranked: Keys, wanted: Keys) -> tuple[Ints, Ints]:
    """Where each wanted value begins and ends among the ranked ones. Asked in their order: memory is read once through."""
    low, order = np.empty(len(wanted), np.int64), np.argsort(wanted)
    low[order] = np.searchsorted(ranked, wanted[order])
    high, found = low.copy(), low < len(ranked)
    found[found] = ranked[low[found]] == wanted[found]
    high[found] = np.searchsorted(ranked, wanted[found], side="right")
    return low, high


def _asked(texts: Sequence[str] | Queries) -> Queries:
    return texts if isinstance(texts, Queries) else Queries.of(texts)


def near_duplicate_groups(texts: Sequence[str] | Queries, threshold: float) -> Bools:
    """Keep mask, shape of ``texts``, which stand in order of priority: a row is kept where no kept row before it

    is equal when folded or has a Jaccard similarity of ``threshold`` or more.
    """
    asked = _asked(texts)
    keep = np.zeros(len(asked.inverse), dtype=bool)
    first = np.unique(asked.inverse, return_index=True)[1]  # places are given in order of first appearance
    keep[first[_kept(Sketches.of(asked.keys, threshold), threshold)]] = True
    return keep


def near_keys(texts: Sequence[str] | Queries, threshold: float) -> npt.NDArray[np.uint32]:
    """(texts, bands): near texts share a key of one band; 32 bits of it, which few that are not near share."""
    asked = _asked(texts)
    made = (hashed.sketches(np.arange(len(hashed.sizes)), threshold).keys for _, hashed in asked.blocks())
    keys: Keys = np.concatenate([np.empty((0, choose_bands(threshold)[0]), np.uint32), *made])
    return keys[asked.inverse]


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


def _runs(column: Keys) -> tuple[Ints, Ints]:
    """(rows that share their word with another, word by word and ascending within one; how many share each)."""
    order = np.argsort(column, kind="stable")
    _, sizes = _stretches(column[order])
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
    rarity = _Rarity.of(sketches)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        few, more = (part.by_row(len(block)) for part in _rare_hashes(sketches, block, rarity, threshold))
        yield from zip(few, more, strict=True)


def _rare_hashes(sketches: Sketches, rows: Ints, rarity: _Rarity, threshold: float) -> tuple[_Placed, _Placed]:
    """Of each row its rarest hashes, rarest first: as few as it needs beside a larger row, more beside a smaller one."""
    sizes = sketches.sizes[rows]
    words = sort_rows(rarity.ranked(sketches.hashes(rows)), sizes)
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
    def of(cls, sketches: Sketches) -> _Rarity:
        size = 1 << min(23, max(16, int(sketches.sizes.sum()).bit_length() - 3))
        counts = np.zeros(size, np.int64)
        for values in sketches.all_hashes():
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

    def by_row(self, rows: int) -> list[list[int]]:
        ends = np.cumsum(np.bincount(self.places, minlength=rows))[:-1]
        return [part.tolist() for part in np.split(self.words, ends)]


@dataclass(frozen=True)
class _Rare:
    """The rare hashes of an index's rows: 32 bits of each, ascending, and the row that has it."""

    rarity: _Rarity
    few: tuple[Keys, _Places]
    more: tuple[Keys, _Places]
