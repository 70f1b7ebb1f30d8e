"""How well a ranking of items knows the one that comes next: one relevant item a user."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from augmill.tasks.contracts import Floats, Foresight, Ints, Judged
from augmill.tasks.metrics.additive import Additive, ratio

TOP = 10  # items of a ranking that count
# Before anything is trained: the standard deviation of what a user adds to the gain of one arm over another.
# tests/benchmarks/ranking_runs.py on MovieLens, crops to substitutions of the built-in generator.
DIFFERING = {"ndcg": 0.1, "recall": 0.18}


def places(judged: Judged) -> Ints:
    """(rows,): at which place the true item stands, from 0; TOP where it is not among the first."""
    found = (list(ranked[:TOP]) for ranked in judged.predicted)
    pairs = zip(judged.truth, found, strict=True)
    return np.array([top.index(item) if item in top else TOP for item, top in pairs], np.int64)


class Ndcg(Additive):
    """NDCG@10 (Järvelin and Kekäläinen, 2002): 1 at the first place, 1 / log2(place + 1) at a later one, 0 beyond ten."""

    name: ClassVar[str] = "ndcg"
    title: ClassVar[str] = "NDCG@10"
    problems: ClassVar[tuple[str, ...]] = ("ranking",)

    def statistics(self, judged: Judged) -> Any:
        at = places(judged)
        return np.stack([np.where(at < TOP, 1 / np.log2(at + 2.0), 0.0), np.ones(len(at))], axis=1).astype(np.float32)

    def reduce(self, sums: Floats) -> Floats:
        return ratio(sums[..., 0], sums[..., 1])

    def foresee(self, spread: float | None) -> Foresight:
        return _foresee(self.name, self.title)


class Recall(Additive):
    """Recall@10: share of users whose next item is among the first ten."""

    name: ClassVar[str] = "recall"
    title: ClassVar[str] = "Recall@10"
    problems: ClassVar[tuple[str, ...]] = ("ranking",)

    def statistics(self, judged: Judged) -> Any:
        at = places(judged)
        return np.stack([at < TOP, np.ones(len(at))], axis=1).astype(np.float32)

    def reduce(self, sums: Floats) -> Floats:
        return ratio(sums[..., 0], sums[..., 1])

    def foresee(self, spread: float | None) -> Foresight:
        return _foresee(self.name, self.title)


def _foresee(name: str, title: str) -> Foresight:
    words = f"For {title}, if the mix changes a user's part in it by about {100 * DIFFERING[name]:.0f} points."
    return Foresight(DIFFERING[name], 1.0, 0.01, words)
