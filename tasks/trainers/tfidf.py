"""The built-in trainer for texts: TF-IDF and multinomial logistic regression, fast enough to be trained hundreds of times.

It is fitted on the Cholesky factor of the rows' Gram matrix, see linear.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from augmill.tasks.rows.randomness import uniforms
from augmill.tasks.trainers.contract import Prediction, Trainer, TrainerInputs, Training
from augmill.tasks.trainers.features import text_features
from augmill.tasks.trainers.linear import EXACT_ROWS, Coordinates, factored, regress, require_strengths
from augmill.tasks.trainers.logistic import fit
from augmill.tasks.trainers.tuning import THREADS


@dataclass(frozen=True)
class TfidfOptions:
    cs: tuple[float, ...] = field(
        default=(1.0, 10.0, 100.0),
        metadata={"help": "inverse ridge strengths to choose from; the loss is scaled to the number of real rows"},
    )
    folds: int = field(
        default=3, metadata={"help": "folds of the real train rows, by which each training chooses among `cs`"}
    )
    threads: int = field(default=0, metadata=THREADS)

    def __post_init__(self) -> None:
        require_strengths("trainer.tfidf", self)


class TfidfTrainer(Trainer):
    """Chooses C inside each training by cross-validation over real rows."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[Any]] = TfidfOptions
    scores: ClassVar[bool] = True

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        yield from regress(inputs, trainings, self.options, _coordinates, fit)


def _coordinates(inputs: TrainerInputs) -> Coordinates:
    """Dense coordinates with the features' inner products: exact up to EXACT_ROWS rows; beyond, a signed count sketch of

    as many columns (Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009), whose inner
    products are off by 1.6 % of the rows' lengths.
    """
    from scipy.sparse import csr_matrix

    train = [[*_texts(inputs.real, name), *_texts(inputs.synthetic, name)] for name in inputs.fields]
    held = [_texts(inputs.evaluation, name) for name in inputs.fields]
    features, evaluation = text_features(train, held, inputs.real.num_rows)
    rows, columns = features.shape
    if rows <= EXACT_ROWS:
        return factored(features, evaluation)
    draw = uniforms(np.arange(columns, dtype=np.int64), 2)
    bucket, sign = (draw[:, 0] * EXACT_ROWS).astype(np.int64), np.where(draw[:, 1] < 0.5, -1, 1).astype(np.float32)
    sketch = csr_matrix((sign, (np.arange(columns), bucket)), shape=(columns, EXACT_ROWS))
    features, evaluation = (features @ sketch).tocsr(), (evaluation @ sketch).tocsr()
    return Coordinates(features.toarray(), None, features, evaluation)


def _texts(table: Any, name: str) -> list[str]:
    return [text or "" for text in table[name].to_pylist()]
