"""Logistic or ridge regression on rows of any kind: ridge strength chosen in each training, as in ``tfidf``.

Ridge-penalised weights lie in the span of the training rows. Where features outnumber the rows, the model is fitted on
the Cholesky factor of the rows' Gram matrix: as many dense columns as there are rows instead of tens of thousands of
sparse ones (BANKING77 at 10 rows per class: 770 columns for 28,000 features), with the same minimum. A real row's
coordinates lie in the first columns, so that the arms without synthetic rows fit on a smaller square.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import ANY, Ints
from augmill.tasks.rows.kinds import kinds_of
from augmill.tasks.trainers.contract import Prediction, Trainer, TrainerInputs, Training
from augmill.tasks.trainers.logistic import log_odds
from augmill.tasks.trainers.tuning import THREADS, Descent, learnt, require_threads, train_side_by_side

EXACT_ROWS = 4096  # training rows up to which a factor is made: 64 MiB and 2 s at so many
JITTER = 1e-4  # exact copies make the Gram matrix singular; rows have length about 1.4 and more
STEPS = 10_000  # of scikit-learn's L-BFGS at most; it takes about 100

Matrix = npt.NDArray[np.floating[Any]]
# (rows, their targets, weights, C, the model of a smaller C or None) -> the model, (columns + 1, outputs), intercepts last,
# that minimises C * sum(weights * loss) + |W|^2 / 2; and the classes that its outputs stand for, none for numbers.
Fit = Callable[[Any, npt.NDArray[Any], npt.NDArray[np.float64], float, Any], tuple[Matrix, Ints]]


class Strengths(Protocol):
    """Options of a regression that chooses its strength."""

    @property
    def cs(self) -> tuple[float, ...]: ...
    @property
    def folds(self) -> int: ...
    @property
    def threads(self) -> int: ...


def require_strengths(where: str, options: Strengths) -> None:
    """Raises ValueError where one is out of bounds."""
    if not options.cs or any(not 0 < c < math.inf for c in options.cs):
        raise ValueError(f"{where}.cs: expected positive numbers, found {options.cs}")
    if not 2 <= options.folds <= 20:
        raise ValueError(f"{where}.folds: expected 2 to 20, found {options.folds}")
    require_threads(where, options.threads)


@dataclass(frozen=True)
class LinearOptions:
    cs: tuple[float, ...] = field(
        default=(0.01, 0.1, 1.0, 10.0),
        metadata={"help": "inverse ridge strengths to choose from; the loss is scaled to the number of real rows"},
    )
    folds: int = field(
        default=3, metadata={"help": "folds of the real train rows, by which each training chooses among `cs`"}
    )
    threads: int = field(default=0, metadata=THREADS)

    def __post_init__(self) -> None:
        require_strengths("trainer.linear", self)


class LinearTrainer(Trainer):
    """Logistic regression for labels, ridge regression for numbers (both scikit-learn's), on rows of any kind.

    Features are each kind's own (``Kind.features``), learnt from the real train rows. Chooses its strength inside each
    training by cross-validation over real rows.
    """

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[Any]] = LinearOptions
    kinds: ClassVar[tuple[str, ...]] = (ANY,)
    problems: ClassVar[tuple[str, ...]] = ("classification", "regression")
    scores: ClassVar[bool] = True  # of classes

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        fit = _fit_logistic if inputs.classes else _fit_ridge
        yield from regress(inputs, trainings, self.options, _coordinates, fit)


def _fit_logistic(
    inside: Any, labels: npt.NDArray[Any], weights: npt.NDArray[np.float64], c: float, start: Any
) -> tuple[Matrix, Ints]:
    """In float64: in float32 its line search gives up early."""
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(labels)
    if len(classes) == 1:
        return np.zeros((inside.shape[1] + 1, 1)), classes
    found = LogisticRegression(C=c, max_iter=STEPS).fit(inside.astype(np.float64), labels, weights)
    model = np.vstack([found.coef_.T, found.intercept_])
    return (np.hstack([np.zeros_like(model), model]) if len(classes) == 2 else model), classes


def _fit_ridge(
    inside: Any, values: npt.NDArray[Any], weights: npt.NDArray[np.float64], c: float, start: Any
) -> tuple[Matrix, Ints]:
    from sklearn.linear_model import Ridge

    found = Ridge(alpha=1 / c).fit(inside.astype(np.float64), values, weights)
    return np.append(found.coef_, found.intercept_)[:, None], np.empty(0, np.int64)


@dataclass(frozen=True)
class Coordinates:
    """Rows as a model sees them: arrays, or scipy CSR matrices where there is no factor, float32.

    ``factor``: the Cholesky factor of the Gram matrix of ``features``, which the coordinates then are.
    """

    rows: Any  # (training rows, columns)
    factor: npt.NDArray[np.float32] | None
    features: Any  # (training rows, features), or the rows again
    evaluation: Any  # (evaluation rows, features)


def factored(features: Any, evaluation: Any) -> Coordinates:
    """``features``: CSR, of at most EXACT_ROWS rows."""
    gram = (features @ features.T).toarray().astype(np.float64)
    factor = np.linalg.cholesky(gram + JITTER * np.eye(len(gram))).astype(np.float32)
    return Coordinates(factor, factor, features, evaluation)


def _coordinates(inputs: TrainerInputs) -> Coordinates:
    """Dense where all kinds' features are; else sparse; a factor in the stead of sparse ones where it is quicker.

    With logistic regression on BANKING77's texts it is up to 4,000 rows (1.4 times; 5 to 10 times at 800); ridge
    regression on sparse features is a matter of 0.1 s.
    """
    from scipy import sparse

    fields = list(inputs.fields)
    train = pa.concat_tables([inputs.real.select(fields), inputs.synthetic.select(fields)])
    made: list[list[Any]] = [[], []]
    for kind, own in kinds_of(fields):
        featurizer = kind.features(inputs.real.select(own))
        for parts, table in zip(made, (train, inputs.evaluation), strict=True):
            part = featurizer.transform(table.select(own))
            parts.append(np.nan_to_num(part) if isinstance(part, np.ndarray) else part)
    if all(isinstance(part, np.ndarray) for part in made[0]):
        features, evaluation = (np.hstack(parts).astype(np.float32, copy=False) for parts in made)
        return Coordinates(features, None, features, evaluation)
    features, evaluation = (
        sparse.hstack([sparse.csr_matrix(part) for part in parts], format="csr", dtype=np.float32) for parts in made
    )
    if inputs.classes and train.num_rows <= min(EXACT_ROWS, features.shape[1]):
        return factored(features, evaluation)
    return Coordinates(features, None, features, evaluation)


# --- What all trainings of one gate share, and one training -------------------------------------------------------------


@dataclass(frozen=True)
class _Design:
    at: Coordinates
    truth: npt.NDArray[
        Any
    ]  # of training rows: a class's place; or the target, in standard deviations of the real rows'
    classes: int  # 0: numbers are learnt
    middle: float  # of real rows' targets
    spread: float
    descent: Descent
    fit: Fit
    options: Strengths


def regress(
    inputs: TrainerInputs,
    trainings: list[Training],
    options: Strengths,
    coordinates: Callable[[TrainerInputs], Coordinates],
    fit: Fit,
) -> Iterator[Prediction]:
    """As ``Trainer.predict``."""
    import sklearn.linear_model  # noqa: F401 - brings scipy's own BLAS, which is limited only if it is there
    from threadpoolctl import threadpool_limits

    # One BLAS thread each: sums are then taken in one order whatever the machine's cores.
    with threadpool_limits(limits=1):
        design = _design(inputs, coordinates(inputs), fit, options)
        yield from train_side_by_side(lambda training: _train(design, training), trainings, options.threads)


def _design(inputs: TrainerInputs, at: Coordinates, fit: Fit, options: Strengths) -> _Design:
    truth, descent = learnt(inputs), Descent.of(inputs)
    if inputs.classes:
        return _Design(at, truth, len(inputs.classes), 0.0, 1.0, descent, fit, options)
    middle, spread = float(truth[: descent.real].mean()), float(truth[: descent.real].std()) or 1.0
    return _Design(at, (truth - middle) / spread, 0, middle, spread, descent, fit, options)


def _train(design: _Design, training: Training) -> Prediction:
    at, real = design.at, design.descent.real
    weights = np.bincount(training.rows, training.weights, minlength=len(design.truth)).astype(np.float64)
    columns = at.rows.shape[1]
    if at.factor is not None and not weights[real:].any():
        columns = real
    chosen, told = _choose(design, training, weights, columns)
    used = np.flatnonzero(weights)
    scaled = weights[used] * (real / weights.sum())
    model, classes = design.fit(at.rows[used, :columns], design.truth[used], scaled, chosen, None)
    scores = _scores(at, model, columns)
    told = {"C": chosen, **told}
    if not design.classes:
        return Prediction(design.middle + design.spread * scores[:, 0], None, told)
    odds = np.full((len(scores), design.classes), -np.inf)  # of a class that no training row has
    odds[:, classes] = log_odds(scores)
    return Prediction(classes[scores.argmax(axis=1)], odds, told)


def _choose(
    design: _Design, training: Training, weights: npt.NDArray[np.float64], columns: int
) -> tuple[float, dict[str, float]]:
    """The C with the best cross-validated accuracy, or squared error, over real rows (the smaller on a tie), and how

    good it is; the least C where there is nothing to choose.
    """
    real, cs = design.descent.real, sorted(design.options.cs)
    folds = min(design.options.folds, real)
    if len(cs) == 1 or folds < 2:
        return cs[0], {}
    fold = design.descent.folds(training.seed, folds)
    merits = np.zeros(len(cs))
    for held in range(folds):
        used = np.flatnonzero((weights > 0) & design.descent.without(fold, held))
        asked = np.flatnonzero(fold == held)
        inside, truth, outside = design.at.rows[used, :columns], design.truth[used], design.at.rows[asked, :columns]
        scaled = weights[used] * (np.count_nonzero(used < real) / weights[used].sum())
        model = None
        for position, c in enumerate(cs):
            model, classes = design.fit(inside, truth, scaled, c, model)
            scores = outside @ model[:-1] + model[-1]
            merits[position] += _merit(scores, classes, design.truth[asked])
    best = int(merits.argmax())
    if design.classes:
        return cs[best], {"cv_accuracy": round(float(merits[best] / real), 4)}
    return cs[best], {"cv_rmse": float(f"{design.spread * (-merits[best] / real) ** 0.5:.4g}")}


def _merit(scores: Any, classes: Ints, truth: npt.NDArray[Any]) -> float:
    if len(classes):
        return float(np.count_nonzero(classes[scores.argmax(axis=1)] == truth))
    return -float(((scores[:, 0] - truth) ** 2).sum())


def _scores(at: Coordinates, model: Matrix, columns: int) -> Matrix:
    """Scores of the evaluation rows, shape (evaluation rows, outputs), through the weights on the features."""
    from scipy.linalg import solve_triangular

    if at.factor is None:
        return np.asarray(at.evaluation @ model[:-1] + model[-1])
    dual = solve_triangular(at.factor[:columns, :columns], model[:-1], lower=True, trans="T", check_finite=False)
    return np.asarray(at.evaluation @ (at.features[:columns].T @ dual) + model[-1])
