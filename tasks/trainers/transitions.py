"""What follows what: a Markov model over a window, as the sequential rules of Ludewig and Jannach (UMUAI 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from augmill.tasks.contracts import Floats, Ints
from augmill.tasks.trainers._items import REPEATS, TOP, Histories, objects, require_top
from augmill.tasks.trainers.contract import Prediction, Trainer, TrainerInputs, Training
from augmill.tasks.trainers.tuning import THREADS, require_threads, train_side_by_side


@dataclass(frozen=True)
class TransitionsOptions:
    window: int = field(default=5, metadata={"help": "how many items later one still counts as what follows"})
    decay: float = field(
        default=0.8,
        metadata={"help": "what each item between costs a transition, and each later item an earlier one of a history"},
    )
    popularity: float = field(
        default=0.5,
        metadata={"help": "how far an item's transitions are divided by how many it has: 0 not at all, 1 in full"},
    )
    top: int = field(default=10, metadata=TOP)
    repeats: bool = field(default=False, metadata=REPEATS)
    threads: int = field(default=0, metadata=THREADS)

    def __post_init__(self) -> None:
        bounds = [
            ("window", 1 <= self.window <= 1000, "1 to 1,000"),
            ("decay", 0 < self.decay <= 1, "above 0, at most 1"),
            ("popularity", 0 <= self.popularity <= 1 and math.isfinite(self.popularity), "0 to 1"),
        ]
        for name, holds, expected in bounds:
            if not holds:
                raise ValueError(f"trainer.transitions.{name}: expected {expected}, found {getattr(self, name)}")
        require_top("transitions", self.top)
        require_threads("trainer.transitions", self.threads)


class TransitionsTrainer(Trainer):
    """Scores what followed a history's items in train rows, the last items counting most; else by popularity.

    Nothing is chosen: on MovieLens (all 610 users, two splits) windows of 5 to 10 and a decay of 0.8 were best, and a
    window of 1, a plain Markov chain, lost a third of NDCG@10.
    """

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[Any]] = TransitionsOptions
    kinds: ClassVar[tuple[str, ...]] = ("items",)
    problems: ClassVar[tuple[str, ...]] = ("ranking",)

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        histories = Histories.of(inputs)
        pairs = _Pairs.of(histories.train, self.options)
        asked = _asked(histories, self.options.decay)
        yield from train_side_by_side(
            lambda training, lead: _train(histories, pairs, asked, training, self.options),
            trainings,
            self.options.threads,
        )


@dataclass(frozen=True)
class _Pairs:
    """Transitions within the window: in which row, from which item to which, and what each counts."""

    row: Ints
    before: Ints
    after: Ints
    value: Floats

    @classmethod
    def of(cls, rows: list[Ints], options: TransitionsOptions) -> _Pairs:
        flat = np.concatenate([np.empty(0, np.int64), *rows])
        owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        found = []
        for apart in range(1, min(options.window, len(flat) - 1) + 1):
            same = np.flatnonzero(owner[:-apart] == owner[apart:])
            value = np.full(len(same), options.decay ** (apart - 1))
            found.append((owner[same], flat[same], flat[same + apart], value))
        empty = np.empty(0, np.int64)
        row, before, after, value = (
            np.concatenate(part) for part in zip((empty, empty, empty, np.empty(0)), *found, strict=True)
        )
        return cls(row, before, after, value)


def _asked(histories: Histories, decay: float) -> Any:
    """(held-out rows, items): how much each item of a history counts."""
    from scipy.sparse import csr_matrix

    rows = np.repeat(np.arange(len(histories.held)), [len(row) for row in histories.held])
    ages = [np.arange(len(row))[::-1] for row in histories.held]
    items = np.concatenate([np.empty(0, np.int64), *histories.held])
    values = decay ** np.concatenate([np.empty(0, np.int64), *ages]).astype(np.float64)
    return csr_matrix((values, (rows, items)), (len(histories.held), len(histories.items)))


def _train(
    histories: Histories, pairs: _Pairs, asked: Any, training: Training, options: TransitionsOptions
) -> Prediction:
    from scipy.sparse import csr_matrix

    values = histories.loads(training)[pairs.row] * pairs.value
    used, count = np.flatnonzero(values), len(histories.items)
    follows = csr_matrix((values[used], (pairs.before[used], pairs.after[used])), (count, count))
    totals = np.asarray(follows.sum(axis=1)).ravel()
    scale = np.where(totals > 0, np.where(totals > 0, totals, 1.0) ** -options.popularity, 0.0)
    follows.data *= np.repeat(scale, np.diff(follows.indptr))
    answers = list[list[str]]()
    for block in histories.blocks():
        scores = (asked[block.start : block.stop] @ follows).toarray()
        answers += histories.answers(scores, block, options.top, options.repeats)
    return Prediction(objects(answers))
