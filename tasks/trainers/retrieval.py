"""The answer of the nearest training row: texts learnt by heart and found again, which takes seconds.

What it measures is whether rows cover what is asked: a question that is put in other words finds its answer only where a row
near it stands. It writes nothing of its own; what writes does so as `command`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from augmill.tasks.contracts import ROW_ID, TARGET, Ints
from augmill.tasks.rows.kinds import show
from augmill.tasks.rows.kinds.text import equal
from augmill.tasks.trainers.contract import Prediction, Trainer, TrainerInputs, Training
from augmill.tasks.trainers.features import text_features

CELLS = 1 << 25  # similarities held at once: 128 MiB


@dataclass(frozen=True)
class RetrievalOptions:
    neighbours: int = field(
        default=1,
        metadata={
            "help": "training rows that are asked: the answer of which most similarity speaks, each row's times its weight"
        },
    )

    def __post_init__(self) -> None:
        if not 1 <= self.neighbours <= 100:
            raise ValueError(f"trainer.retrieval.neighbours: expected 1 to 100, found {self.neighbours}")


class RetrievalTrainer(Trainer):
    """Nearest by the cosine of TF-IDF of words 1-2 and characters 2-5, as in `tfidf`; of equally near rows the heaviest."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[Any]] = RetrievalOptions
    kinds: ClassVar[tuple[str, ...]] = ("text", "dialogue")
    problems: ClassVar[tuple[str, ...]] = ("text_to_text",)

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        tables = (inputs.real, inputs.synthetic)
        # By id, so that of equally near rows the same one is taken whatever the order of the tables.
        ids = [name for table in tables for name in table[ROW_ID].to_pylist()]
        answers = [text for table in tables for text in table[TARGET].to_pylist()]
        texts, held = ([text for table in part for text in show(table, inputs.fields)] for part in _parts(inputs))
        train, asked = text_features([texts], [held], inputs.real.num_rows)
        orders = [_order(training.merged(), ids) for training in trainings]
        found = [np.empty((len(held), self.options.neighbours), np.int64) for _ in trainings]
        shares = [np.zeros((len(held), self.options.neighbours)) for _ in trainings]
        size = max(1, CELLS // max(1, len(texts)))
        for start in range(0, len(held), size):
            similar = np.round(
                (asked[start : start + size] @ train.T).toarray(), 5
            )  # equal up to the last bits is equal
            for at, (rows, weights) in enumerate(orders):
                part = slice(start, start + size)
                found[at][part], shares[at][part] = _nearest(similar, rows, weights, self.options.neighbours)
        for near, share in zip(found, shares, strict=True):
            yield Prediction(_answers(near, share, answers))


def _parts(inputs: TrainerInputs) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return (inputs.real, inputs.synthetic), (inputs.evaluation,)


def _order(training: Training, ids: list[str]) -> tuple[Ints, npt.NDArray[np.float64]]:
    """(the training's rows, the heaviest first, then by id; their weights)."""
    rows = training.rows
    order = sorted(range(len(rows)), key=lambda at: (-training.weights[at], ids[rows[at]]))
    return rows[order], training.weights[order]


def _nearest(
    similar: npt.NDArray[np.float32], rows: Ints, weights: npt.NDArray[np.float64], count: int
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """(the nearest rows, (asked, count), their similarity times their weight); of fewer rows the first again, for nothing."""
    own = similar[:, rows]
    near = own.argmax(axis=1)[:, None] if count == 1 else np.argsort(-own, axis=1, kind="stable")[:, :count]
    near = np.pad(near, ((0, 0), (0, count - near.shape[1])), constant_values=-1)
    share = np.where(near >= 0, np.take_along_axis(own, np.maximum(near, 0), axis=1) * weights[near], 0.0)
    return rows[np.maximum(near, 0)], share


def _answers(near: Ints, shares: npt.NDArray[np.float64], answers: list[str]) -> npt.NDArray[Any]:
    found = np.empty(len(near), dtype=object)
    for at, (rows, share) in enumerate(zip(near.tolist(), shares.tolist(), strict=True)):
        if len(rows) == 1:
            found[at] = answers[rows[0]]
            continue
        votes: dict[str, float] = {}
        first: dict[str, str] = {}
        for row, vote in zip(rows, share, strict=True):
            key = equal(answers[row])
            votes[key] = votes.get(key, 0.0) + vote
            first.setdefault(key, answers[row])
        found[at] = first[max(votes, key=lambda key: votes[key])]
    return found
