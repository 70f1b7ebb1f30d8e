"""The built-in trainer: TF-IDF and multinomial logistic regression, fast enough to be trained hundreds of times.

Ridge-penalised weights lie in the span of the training rows, so the model is fitted on the Cholesky factor of the
rows' Gram matrix: at most as many dense columns as there are rows instead of tens of thousands of sparse ones
(BANKING77 at 10 rows per class: 770 columns for 28,000 features), with the same minimum. A real row's coordinates
lie in the first columns, so that the arms without synthetic rows fit on a smaller square.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from augmill.tasks.rows.randomness import stream_key, uniforms
from augmill.tasks.trainers.contract import Prediction, Trainer, TrainerInputs, Training
from augmill.tasks.trainers.features import Sparse, text_features
from augmill.tasks.trainers.logistic import Floats, fit, log_odds

# Beyond this many training rows the features are sketched to as many columns (a factor of 4,096 rows is 64 MiB
# and takes 2 s; inner products of a sketch this wide are off by 1.6 % of the rows' lengths).
EXACT_ROWS = 4096
JITTER = 1e-4  # exact copies make the Gram matrix singular; rows have length about 1.4


@dataclass(frozen=True)
class TfidfOptions:
    cs: tuple[float, ...] = field(
        default=(1.0, 10.0, 100.0),
        metadata={"help": "inverse ridge strengths to choose from; the loss is scaled to the number of real rows"},
    )
    folds: int = field(
        default=3, metadata={"help": "folds of the real train rows that choose among `cs`, per training"}
    )
    threads: int = field(
        default=0,
        metadata={"help": "trainings at a time; 0: one a core", "identity": False, "why": "each is computed alone"},
    )

    def __post_init__(self) -> None:
        if not self.cs or any(not 0 < c < math.inf for c in self.cs):
            raise ValueError(f"trainer.tfidf.cs: expected positive numbers, found {self.cs}")
        if not 2 <= self.folds <= 20:
            raise ValueError(f"trainer.tfidf.folds: expected 2 to 20, found {self.folds}")
        if not 0 <= self.threads <= 256:
            raise ValueError(f"trainer.tfidf.threads: expected 0 to 256, found {self.threads}")


@dataclass(frozen=True)
class _Rows:
    """What all trainings of one gate share."""

    coordinates: Floats  # (training rows, columns)
    factor: Floats | None  # the Cholesky factor, where the coordinates are exact
    features: Sparse  # (training rows, features), or the sketch
    evaluation: Sparse
    labels: npt.NDArray[np.int64]  # of training rows
    classes: int
    real: int
    ids: npt.NDArray[np.int64]  # one key per real row, from its row_id
    child: npt.NDArray[np.int64]  # descent: synthetic position, real position
    parent: npt.NDArray[np.int64]
    orphans: npt.NDArray[np.bool_]  # synthetic rows that name no parents


class TfidfTrainer(Trainer):
    """Chooses C inside each training by cross-validation over real rows.

    The descendants of a held fold leave that fold's training. A synthetic row that names no parents may descend from
    any real row, so it takes no part in choosing: with rows that a model remembers, the choice would go to the C that
    remembers best (0.7 to 1.3 points lost on SNIPS and TREC at 10 rows per class).
    """

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[Any]] = TfidfOptions
    scores: ClassVar[bool] = True

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        from threadpoolctl import threadpool_limits

        workers = self.options.threads or os.cpu_count() or 1
        # One BLAS thread each: sums are then taken in one order whatever the machine's cores.
        with threadpool_limits(limits=1), ThreadPoolExecutor(workers) as pool:
            rows = _prepare(inputs)
            yield from pool.map(lambda training: self._train(rows, training), trainings)

    def _train(self, rows: _Rows, training: Training) -> Prediction:
        weights = np.bincount(training.rows, training.weights, minlength=len(rows.labels)).astype(np.float64)
        columns = rows.coordinates.shape[1]
        if rows.factor is not None and not weights[rows.real :].any():
            columns = rows.real
        chosen, cv = _choose(rows, training, weights, columns, self.options)
        used = np.flatnonzero(weights)
        scale = rows.real / weights.sum()
        model, classes = fit(rows.coordinates[used, :columns], rows.labels[used], weights[used] * scale, chosen)
        scores = _scores(rows, model, columns)
        told = {"C": chosen} | ({} if cv is None else {"cv_accuracy": round(cv, 4)})
        odds = np.full((len(scores), rows.classes), -np.inf)  # of a class that no training row has
        odds[:, classes] = log_odds(scores)
        return Prediction(classes[scores.argmax(axis=1)], odds, told)


def _prepare(inputs: TrainerInputs) -> _Rows:
    train = [[*_texts(inputs.real, name), *_texts(inputs.synthetic, name)] for name in inputs.fields]
    held = [_texts(inputs.evaluation, name) for name in inputs.fields]
    features, evaluation = text_features(train, held, inputs.real.num_rows)
    index = {label: position for position, label in enumerate(inputs.classes)}
    strata = inputs.real["stratum"].to_pylist() + inputs.synthetic["stratum"].to_pylist()
    ids = inputs.real["row_id"].to_pylist()
    positions = {row_id: position for position, row_id in enumerate(ids)}
    named = [parents or [] for parents in inputs.synthetic["parent_ids"].to_pylist()]
    descent = [
        (child, positions[parent]) for child, parents in enumerate(named) for parent in parents if parent in positions
    ]
    pairs = np.array(descent, dtype=np.int64).reshape(-1, 2)
    coordinates, factor, features, evaluation = _coordinates(features, evaluation)
    return _Rows(
        coordinates,
        factor,
        features,
        evaluation,
        np.array([index[label] for label in strata], dtype=np.int64),
        len(index),
        len(ids),
        np.array([stream_key(row_id) >> 1 for row_id in ids], dtype=np.int64),
        pairs[:, 0],
        pairs[:, 1],
        np.array([not parents for parents in named], dtype=np.bool_),
    )


def _texts(table: Any, name: str) -> list[str]:
    return [text or "" for text in table[name].to_pylist()]


def _coordinates(features: Sparse, evaluation: Sparse) -> tuple[Floats, Floats | None, Sparse, Sparse]:
    """Dense coordinates with the features' inner products: exact up to EXACT_ROWS rows, else a signed count sketch

    (Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009).
    """
    from scipy.sparse import csr_matrix

    rows, columns = features.shape
    if rows <= EXACT_ROWS:
        gram = (features @ features.T).toarray().astype(np.float64)
        factor = np.linalg.cholesky(gram + JITTER * np.eye(rows)).astype(np.float32)
        return factor, factor, features, evaluation
    draw = uniforms(np.arange(columns, dtype=np.int64), 2)
    bucket, sign = (draw[:, 0] * EXACT_ROWS).astype(np.int64), np.where(draw[:, 1] < 0.5, -1, 1).astype(np.float32)
    sketch = csr_matrix((sign, (np.arange(columns), bucket)), shape=(columns, EXACT_ROWS))
    features, evaluation = (features @ sketch).tocsr(), (evaluation @ sketch).tocsr()
    return features.toarray(), None, features, evaluation


def _choose(
    rows: _Rows, training: Training, weights: npt.NDArray[np.float64], columns: int, options: TfidfOptions
) -> tuple[float, float | None]:
    """The C with the best cross-validated accuracy over real rows (the smaller on a tie), and that accuracy;

    None where there is nothing to choose.
    """
    folds = min(options.folds, rows.real)
    if len(options.cs) == 1 or folds < 2:
        return sorted(options.cs)[0], None
    fold = _folds(rows, training.seed, folds)
    hits = np.zeros(len(options.cs))
    for held in range(folds):
        keep = weights > 0
        keep[: rows.real] &= fold != held
        keep[rows.real :] &= ~rows.orphans
        keep[rows.real + rows.child[fold[rows.parent] == held]] = False
        used, asked = np.flatnonzero(keep), np.flatnonzero(fold == held)
        inside, labels = rows.coordinates[used, :columns], rows.labels[used]
        scaled = weights[used] * (np.count_nonzero(used < rows.real) / weights[used].sum())
        model = None
        for position, c in enumerate(sorted(options.cs)):
            model, classes = fit(inside, labels, scaled, c, model)
            scores = rows.coordinates[asked, :columns] @ model[:-1] + model[-1]
            hits[position] += np.count_nonzero(classes[scores.argmax(axis=1)] == rows.labels[asked])
    best = int(hits.argmax())
    return sorted(options.cs)[best], float(hits[best] / rows.real)


def _folds(rows: _Rows, seed: int, folds: int) -> npt.NDArray[np.int64]:
    """The fold of each real row: dealt out within its class in an order drawn from the seed and its row_id."""
    draw = uniforms(rows.ids ^ np.int64(seed), 1)[:, 0]
    labels = rows.labels[: rows.real]
    order = np.lexsort((draw, labels))
    fold = np.empty(rows.real, dtype=np.int64)
    fold[order] = np.arange(rows.real) % folds  # classes follow one another, so small ones spread over folds too
    return fold


def _scores(rows: _Rows, model: Floats, columns: int) -> Floats:
    """Scores of the evaluation rows, shape (evaluation rows, classes), through the weights on the features."""
    from scipy.linalg import solve_triangular

    if rows.factor is None:
        return np.asarray(rows.evaluation @ model[:-1] + model[-1])
    dual = solve_triangular(rows.factor[:columns, :columns], model[:-1], lower=True, trans="T", check_finite=False)
    return np.asarray(rows.evaluation @ (rows.features[:columns].T @ dual) + model[-1])
