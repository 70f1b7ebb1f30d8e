"""What a trainer is: rows and weights in, predicted targets out. The gate keeps metrics and interval to itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import Problem


@dataclass(frozen=True)
class TrainerInputs:
    """The rows of one gate. A training names its rows by position in ``real`` followed by ``synthetic``.

    ``real`` and ``synthetic`` hold ``kinds.real_schema(fields, problem.target)`` at least, ``synthetic`` also
    ``parent_ids``; ``evaluation`` holds ``row_id`` and the fields, and no target. ``classes``: every stratum there is,
    sorted, where a row's stratum is what is learnt; else none, and the column TARGET is.
    """

    real: pa.Table
    synthetic: pa.Table
    evaluation: pa.Table
    fields: tuple[str, ...]
    problem: Problem
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Training:
    """One training of one arm. ``rows`` may name a row several times (copies); ``weights`` is per entry of ``rows``.

    Trainings of one ``run`` share their ``seed`` over the arms, so that the arms are compared in pairs.
    """

    arm: str
    run: int
    seed: int
    rows: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]

    def merged(self) -> Training:
        """The same with each row once, at the weight of all its copies."""
        loads: npt.NDArray[np.float64] = np.bincount(self.rows, self.weights).astype(np.float64)
        rows = np.flatnonzero(loads)
        return replace(self, rows=rows, weights=loads[rows])

    def copied(self) -> Training:
        """The same without weights: each entry stands as often as it weighs, what is left over going to the next."""
        ends = np.floor(np.cumsum(self.weights) + 0.5 + 1e-9)  # a sum of tenths is a little short of its whole number
        rows = np.repeat(self.rows, np.diff(ends, prepend=0.0).astype(np.int64))
        return replace(self, rows=rows, weights=np.ones(len(rows)))


@dataclass(frozen=True)
class Prediction:
    """``target[i]``: what evaluation row i was predicted to be. int64, a position in ``TrainerInputs.classes`` or -1

    for none of them; where there are none float64, or plain Python values of ``Problem.answer`` (dtype object), where a
    target is no number. ``scores``: (rows, classes), where the trainer says so: of each class
    a number that is the larger, the surer it is. ``chosen``: what the trainer chose by itself (hyper-parameters), for
    the report; plain JSON.
    """

    target: npt.NDArray[Any]
    scores: npt.NDArray[np.float64] | None = None
    chosen: dict[str, Any] = field(default_factory=dict)


class Trainer(ABC):
    """Options are a frozen stdlib dataclass, ``Options``. A prediction depends on its own training and on

    one of the first runs of its arm alone: what an arm chooses (hyper-parameters, where to start) it may choose there.
    """

    VERSION: ClassVar[int]
    Options: ClassVar[type[Any]]
    # What it serves: it learns from all fields of these kinds (ANY: whatever they are), for these problems.
    kinds: ClassVar[tuple[str, ...]] = ("text",)
    problems: ClassVar[tuple[str, ...]] = ("classification",)
    weights: ClassVar[bool] = True  # whether it weighs rows; to one that does not rows come as copies, each of weight 1
    scores: ClassVar[bool] = False  # whether its predictions have ``scores``, which some metrics need

    def __init__(self, options: Any) -> None:
        self.options = options

    def content(self) -> dict[str, str]:
        """What a training hangs on that neither options nor rows hold, by name: a part of the identity of its results."""
        return {}

    @abstractmethod
    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        """One prediction per training, in order, each as it is asked for: who asks may stop early, and close the iterator.

        ``workdir`` is kept between attempts: finished work may rest there.
        """
