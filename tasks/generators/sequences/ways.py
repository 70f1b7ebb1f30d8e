"""The ways in which a history is changed, and what of train histories they need: similar items, and what came before what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import Floats, Ints

SIMILAR, FOLLOWS = "similar.arrow", "follows.arrow"
WAYS = {"crop": 2, "mask": 2, "reorder": 2, "substitute": 1, "markov": 1}  # the least items that each needs
WINDOW = 20  # places within which two items of a history count as seen together
TOGETHER = 2  # times, at least, before two items are similar
DRAWN = 4  # predecessors tried before the Markov chain restarts, where each stands in the history already


@dataclass(frozen=True)
class Knowledge:
    """Of each item the most similar ones, the best first; and what came before it, as often as it did."""

    similar: dict[str, list[str]]
    before: dict[str, list[str]]

    @classmethod
    def load(cls, path: Path) -> Knowledge:
        return cls(*(_load(path / name) for name in (SIMILAR, FOLLOWS)))

    def change(self, way: str, items: list[str], following: str | None, draws: Floats, options: Any) -> list[str]:
        """``following``: the item after the history, if one is; ``draws``: two numbers in [0, 1) an item."""
        some = min(len(items), max(1, round(options.share * len(items))))
        if way == "crop":
            return items[min(some, len(items) - 1) :]
        if way == "mask":
            gone = set(np.argsort(draws[: len(items)], kind="stable")[: min(some, len(items) - 1)].tolist())
            return [item for at, item in enumerate(items) if at not in gone]
        if way == "reorder":
            return _reordered(items, max(2, some), draws)
        if way == "substitute":
            return self._substituted(items, some, following, draws, options)
        return self._walked(items, following, draws, options)

    def _substituted(
        self, items: list[str], some: int, following: str | None, draws: Floats, options: Any
    ) -> list[str]:
        """Items of which no similar one is left to take stay; the next item is never put before itself."""
        made, has = list(items), {*items, following}
        for at in np.argsort(draws[: len(items)], kind="stable")[:some].tolist():
            known = self.similar.get(items[at], [])
            able = [item for item in known if options.repeats or item not in has]
            if able:
                made[at] = able[int(draws[len(items) + at] * len(able))]
                has.add(made[at])
        return made

    def _walked(self, items: list[str], following: str | None, draws: Floats, options: Any) -> list[str]:
        """Backwards from what follows, or from the last item, to as long a history as the parent's; shorter where nothing

        is left to go to.
        """
        last = items[-1] if following is None else following
        made, has = [last] * (following is None), {last}
        for first, second in draws[: 2 * len(items)].reshape(-1, 2).tolist():
            if first < options.restart:
                found = [items[int(second * len(items))]]
            else:
                came = self.before.get(last, [])
                found = [came[int(second * len(came) + step) % len(came)] for step in range(min(DRAWN, len(came)))]
            last = next((item for item in found if options.repeats or item not in has), items[int(second * len(items))])
            if options.repeats or last not in has:
                made.append(last)
                has.add(last)
        return made[::-1]


def _reordered(items: list[str], some: int, draws: Floats) -> list[str]:
    start = int(draws[0] * (len(items) - some + 1))
    order = np.argsort(draws[1 : some + 1], kind="stable")
    return [*items[:start], *(items[start + at] for at in order.tolist()), *items[start + some :]]


def learn(histories: Sequence[Sequence[str]], options: Any, directory: Path) -> dict[str, Path]:
    """Writes what the ways of these options need. ``histories``: of train rows, the next item as the last one."""
    names = sorted({item for row in histories for item in row})
    places = {item: at for at, item in enumerate(names)}
    flat = np.array([places[item] for row in histories for item in row], np.int64)
    owner = np.repeat(np.arange(len(histories)), [len(row) for row in histories])
    similar = _similar(flat, owner, len(names), options.similar) if options.substitute else {}
    before = _before(flat, owner) if options.markov else {}
    return {
        name: _save({names[at]: [names[o] for o in own] for at, own in sorted(found.items())}, directory / name)
        for name, found in ((SIMILAR, similar), (FOLLOWS, before))
    }


def _similar(flat: Ints, owner: Ints, count: int, most: int) -> dict[int, list[int]]:
    """By the cosine of how often items stand within WINDOW places of each other; of equally similar ones the first."""
    from scipy.sparse import csr_matrix

    pairs = list[tuple[Ints, Ints]]()
    for apart in range(1, min(WINDOW, len(flat) - 1) + 1):
        same = np.flatnonzero(owner[:-apart] == owner[apart:])
        pairs.append((flat[same], flat[same + apart]))
    one, other = (
        np.concatenate([np.empty(0, np.int64), *side]) for side in (zip(*pairs, strict=True) if pairs else ((), ()))
    )
    ones = np.ones(2 * len(one), np.int64)
    seen = csr_matrix((ones, (np.concatenate([one, other]), np.concatenate([other, one]))), (count, count))
    seen.sum_duplicates()
    often, found = np.bincount(flat, minlength=count), dict[int, list[int]]()
    for at in range(count):
        row = slice(seen.indptr[at], seen.indptr[at + 1])
        items, together = seen.indices[row], seen.data[row]
        able = (together >= TOGETHER) & (items != at)
        items, together = items[able], together[able]
        if len(items):
            cosine = together / np.sqrt(often[at] * often[items])
            found[at] = items[np.lexsort((items, -cosine))[:most]].tolist()
    return found


def _before(flat: Ints, owner: Ints) -> dict[int, list[int]]:
    same = np.flatnonzero(owner[:-1] == owner[1:])
    order = same[np.lexsort((flat[same], flat[same + 1]))]
    items, starts = np.unique(flat[order + 1], return_index=True)
    parts = np.split(flat[order], starts[1:])
    return {int(item): part.tolist() for item, part in zip(items.tolist(), parts, strict=False)}


def _save(found: dict[str, list[str]], path: Path) -> Path:
    table = pa.table(
        {"item": pa.array([*found], pa.string()), "others": pa.array([*found.values()], pa.list_(pa.string()))}
    )
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def _load(path: Path) -> dict[str, list[str]]:
    with pa.OSFile(str(path), "rb") as source:
        table = pa.ipc.open_file(source).read_all()
    return dict(zip(table["item"].to_pylist(), table["others"].to_pylist(), strict=True))
