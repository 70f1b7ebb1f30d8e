"""What a trainer is: rows and weights in, predicted labels out. The gate keeps metrics and interval to itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa


@dataclass(frozen=True)
class Problem:
    """The rows of one gate. A training names its rows by position in ``real`` followed by ``synthetic``.

    Tables hold ``row_id, stratum, *fields``; ``synthetic`` also ``parent_ids``. ``labels``: every stratum of the
    three tables, sorted. A trainer never looks at the strata of ``evaluation``.
    """

    real: pa.Table
    synthetic: pa.Table
    evaluation: pa.Table
    fields: tuple[str, ...]
    labels: tuple[str, ...]


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


@dataclass(frozen=True)
class Prediction:
    """``labels[i]``: position in ``Problem.labels`` of what evaluation row i was predicted to be, -1 for none of them.

    ``chosen``: what the trainer chose by itself (hyper-parameters), for the report; plain JSON.
    """

    labels: npt.NDArray[np.int64]
    chosen: dict[str, Any] = field(default_factory=dict)


class Trainer(ABC):
    """Options are a frozen stdlib dataclass, ``Options``. A prediction depends on its own training alone."""

    VERSION: ClassVar[int]
    Options: ClassVar[type[Any]]

    def __init__(self, options: Any) -> None:
        self.options = options

    def content(self) -> dict[str, str]:
        """What a training hangs on that neither options nor rows hold, by name: a part of the identity of its results."""
        return {}

    @abstractmethod
    def predict(self, problem: Problem, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        """One prediction per training, in order. ``workdir`` is kept between attempts: finished work may rest there."""
