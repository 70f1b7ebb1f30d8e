"""What the trainers of rankings share: histories as numbers, and the best items by their scores."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import TARGET, Floats, Ints
from augmill.tasks.trainers.contract import TrainerInputs, Training

CELLS = 1 << 22  # scores held at once: 32 MB
TOP: dict[str, Any] = {"help": "items of an answer; the built-in metrics look at the first ten"}
REPEATS: dict[str, Any] = {
    "help": "whether an item that the user already has may come next: false for films and books, true for songs and shops"
}


@dataclass(frozen=True)
class Histories:
    """The rows of one gate. ``items``: the most popular first, by real train rows; places in it are what all else holds.

    ``train``: of each training row its history and what came next; ``held``: the histories of held-out rows, without the
    items that no training row has. ``real``: how many training rows are real.
    """

    items: list[str]
    train: list[Ints]
    held: list[Ints]
    real: int

    @classmethod
    def of(cls, inputs: TrainerInputs, most: int | None = None) -> Histories:
        """``most``: items that count, all of them where None."""
        real, made, held = (_rows(t, inputs.fields) for t in (inputs.real, inputs.synthetic, inputs.evaluation))
        counts = Counter(item for row in real for item in row)
        counts.update({item: 0 for row in made for item in row})
        items = sorted(counts, key=lambda item: (-counts[item], item))[:most]
        places = {item: at for at, item in enumerate(items)}
        numbers = [
            [np.array([places[i] for i in row if i in places], np.int64) for row in rows] for rows in (real, made, held)
        ]
        return cls(items, numbers[0] + numbers[1], numbers[2], len(real))

    def loads(self, training: Training) -> Floats:
        """The weight of each training row; they sum to the number of real ones among them."""
        weights = np.bincount(training.rows, training.weights, minlength=len(self.train)).astype(np.float64)
        scale: float = np.count_nonzero(weights[: self.real]) / weights.sum()
        return weights * scale

    def blocks(self) -> list[range]:
        """Held-out rows whose scores are held at once."""
        size = max(1, CELLS // max(1, len(self.items)))
        return [range(at, min(at + size, len(self.held))) for at in range(0, len(self.held), size)]

    def answers(self, scores: Floats, block: range, top: int, repeats: bool) -> list[list[str]]:
        """``scores``: (rows of the block, items). Of equally good items the more popular one stands first."""
        if not repeats:
            for at, row in enumerate(block):
                scores[at, self.held[row]] = -np.inf
        top = min(top, len(self.items))
        least = np.partition(scores, len(self.items) - top, axis=1)[:, len(self.items) - top]
        found = []
        for at in range(len(block)):
            able = np.flatnonzero((scores[at] >= least[at]) & (scores[at] > -np.inf))
            best = able[np.argsort(-scores[at, able], kind="stable")][:top]
            found.append([self.items[place] for place in best.tolist()])
        return found


def objects(answers: list[list[str]]) -> npt.NDArray[Any]:
    """As ``Prediction.target`` holds lists."""
    found = np.empty(len(answers), object)
    found[:] = answers
    return found


def require_top(where: str, top: int) -> None:
    if not 1 <= top <= 1000:
        raise ValueError(f"trainer.{where}.top: expected 1 to 1,000, found {top}")


def _rows(table: pa.Table, fields: tuple[str, ...]) -> list[list[str]]:
    """The items of each row, what came next as the last one where that is known."""
    columns = [table[name].to_pylist() for name in fields]
    rows = [[item for items in row for item in items or ()] for row in zip(*columns, strict=True)]
    if TARGET not in table.column_names:
        return rows
    return [[*row, item] for row, item in zip(rows, table[TARGET].to_pylist(), strict=True)]
