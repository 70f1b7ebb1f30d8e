"""EASE: a linear model of which items go together, in closed form (Steck, "Embarrassingly shallow autoencoders", WWW 2019)."""

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
class EaseOptions:
    l2: float = field(
        default=200.0, metadata={"help": "ridge penalty; the loss is scaled to the number of real rows in a training"}
    )
    max_items: int = field(
        default=10_000,
        metadata={
            "help": "items that are known, the most popular ones; the memory of a training grows with their square"
        },
    )
    top: int = field(default=10, metadata=TOP)
    repeats: bool = field(default=False, metadata=REPEATS)
    threads: int = field(default=1, metadata=THREADS)

    def __post_init__(self) -> None:
        if not 0 < self.l2 < math.inf:
            raise ValueError(f"trainer.ease.l2: expected a number above 0, found {self.l2}")
        if not 2 <= self.max_items <= 50_000:
            raise ValueError(f"trainer.ease.max_items: expected 2 to 50,000, found {self.max_items}")
        require_top("ease", self.top)
        require_threads("trainer.ease", self.threads)


class EaseTrainer(Trainer):
    """Knows which items users have, and nothing of their order; judge by ``transitions`` where order tells something."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[Any]] = EaseOptions
    kinds: ClassVar[tuple[str, ...]] = ("items",)
    problems: ClassVar[tuple[str, ...]] = ("ranking",)

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        from threadpoolctl import threadpool_limits

        histories = Histories.of(inputs, self.options.max_items)
        train, held = (_sets(rows, len(histories.items)) for rows in (histories.train, histories.held))
        with threadpool_limits(limits=1, user_api="blas"):  # so that sums are taken in one order
            yield from train_side_by_side(
                lambda training, lead: _train(histories, train, held, training, self.options),
                trainings,
                self.options.threads,
            )


def _sets(rows: list[Ints], items: int) -> Any:
    """(rows, items), 1 where a row has an item."""
    from scipy.sparse import csr_matrix

    own = [np.unique(row) for row in rows]
    places = np.repeat(np.arange(len(own)), [len(row) for row in own])
    cells = np.concatenate([np.empty(0, np.int64), *own])
    return csr_matrix((np.ones(len(cells)), (places, cells)), (len(own), items))


def _train(histories: Histories, train: Any, held: Any, training: Training, options: EaseOptions) -> Prediction:
    """With P the inverse of X'WX + l2, an item j that a user x lacks scores -(xP)_j / P_jj."""
    loads = histories.loads(training)
    used = np.flatnonzero(loads)
    weighed = train[used].multiply(np.sqrt(loads[used])[:, None]).tocsr()
    few = len(used) < len(histories.items)
    project, diagonal = (_by_rows if few else _by_items)(weighed, options.l2)
    answers = list[list[str]]()
    for block in histories.blocks():
        scores = project(held[block.start : block.stop]) / -diagonal
        answers += histories.answers(scores, block, options.top, options.repeats)
    return Prediction(objects(answers))


def _by_items(weighed: Any, l2: float) -> tuple[Any, Floats]:
    """(x to xP, the diagonal of P)."""
    gram = (weighed.T @ weighed).toarray()
    gram[np.diag_indices_from(gram)] += l2
    inverse = np.linalg.inv(gram)
    return (lambda rows: rows @ inverse), np.diag(inverse).copy()


def _by_rows(weighed: Any, l2: float) -> tuple[Any, Floats]:
    """The same by the matrix of rows (Woodbury), where there are fewer of them: P = (1 - Y'(YY' + l2)^-1 Y) / l2."""
    from scipy.linalg import cholesky, solve_triangular

    kernel = (weighed @ weighed.T).toarray()
    kernel[np.diag_indices_from(kernel)] += l2
    lower = cholesky(kernel, lower=True)
    whitened = solve_triangular(lower, weighed.toarray(), lower=True)

    def project(rows: Any) -> Floats:
        across = solve_triangular(lower, (weighed @ rows.T).toarray(), lower=True).T
        found: Floats = (rows.toarray() - across @ whitened) / l2
        return found

    return project, (1 - (whitened**2).sum(axis=0)) / l2
