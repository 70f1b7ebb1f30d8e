"""Logistic or ridge regression on rows of any kind: ridge strength chosen a few times for each arm, as in ``tfidf``.

The first trainings of an arm choose (``tuning.CHOOSING``); the others take turns with their choices, and start from their
models. Choosing in each took three quarters of a gate.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.boundary.processes import importing
from augmill.tasks.contracts import ANY, Ints
from augmill.tasks.rows.kinds import kinds_of
from augmill.tasks.trainers.contract import Prediction, Trainer, TrainerInputs, Training
from augmill.tasks.trainers.logistic import Matrix, Regressed, log_odds, solver
from augmill.tasks.trainers.tuning import THREADS, Descent, learnt, require_threads, train_side_by_side

COPIED = (
    20_000  # train rows from which on folds weigh others nothing instead of copying theirs: slower, but half the memory
)
STEPS = 10_000  # of scikit-learn's L-BFGS at most; it takes about 100

# (their targets, weights, C, what was found before or None) -> what minimises C * sum(weights * loss) + |W|^2 / 2
Fit = Callable[[npt.NDArray[Any], npt.NDArray[np.float64], float, Regressed | None], Regressed]
Solver = Callable[[Any], Fit]  # of rows, an array or CSR


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
        default=3,
        metadata={
            "help": "folds of the real train rows, by which the first three trainings of each arm choose among `cs`"
        },
    )
    threads: int = field(default=0, metadata=THREADS)

    def __post_init__(self) -> None:
        require_strengths("trainer.linear", self)


class LinearTrainer(Trainer):
    """Logistic regression for labels, ridge regression for numbers (both scikit-learn's), on rows of any kind.

    Features are each kind's own (``Kind.features``), learnt from the real train rows. The first three trainings of each
    arm choose their strength, by cross-validation over real rows. Sparse features are fitted by ``logistic.solver`` in
    the stead of scikit-learn's.
    """

    VERSION: ClassVar[int] = 2
    Options: ClassVar[type[Any]] = LinearOptions
    kinds: ClassVar[tuple[str, ...]] = (ANY,)
    problems: ClassVar[tuple[str, ...]] = ("classification", "regression")
    scores: ClassVar[bool] = True  # of classes

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        features, evaluation = _features(inputs)
        dense = isinstance(features, np.ndarray)
        solved_by = (_scikit_logistic if dense else solver) if inputs.classes else _scikit_ridge
        yield from regress(inputs, trainings, self.options, features, evaluation, solved_by)


def _scikit_logistic(features: Matrix) -> Fit:
    """In float64: in float32 its line search gives up early."""
    from sklearn.linear_model import LogisticRegression

    def fit(labels: npt.NDArray[Any], weights: npt.NDArray[np.float64], c: float, start: Regressed | None) -> Regressed:
        used = np.flatnonzero(weights)
        classes = np.unique(labels[used])
        if len(classes) == 1:
            return Regressed(np.zeros((features.shape[1] + 1, 1)), classes, None)
        found = LogisticRegression(C=c, max_iter=STEPS, warm_start=True)
        if start is not None and np.array_equal(start.classes, classes):
            found.coef_, found.intercept_ = start.state
        found.fit(features[used].astype(np.float64), labels[used], weights[used])
        model = np.vstack([found.coef_.T, found.intercept_])
        model = np.hstack([np.zeros_like(model), model]) if len(classes) == 2 else model
        return Regressed(model, classes, (found.coef_, found.intercept_))

    return fit


def _scikit_ridge(features: Any) -> Fit:
    from sklearn.linear_model import Ridge

    def fit(values: npt.NDArray[Any], weights: npt.NDArray[np.float64], c: float, start: Regressed | None) -> Regressed:
        used = np.flatnonzero(weights)
        found = Ridge(alpha=1 / c).fit(features[used].astype(np.float64), values[used], weights[used])
        return Regressed(np.append(found.coef_, found.intercept_)[:, None], np.empty(0, np.int64), None)

    return fit


def _features(inputs: TrainerInputs) -> tuple[Any, Any]:
    """Of train and evaluation rows, float32: arrays where all kinds' features are dense, else CSR."""
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
        dense = [np.hstack(parts).astype(np.float32, copy=False) for parts in made]
        return dense[0], dense[1]
    stacked = [
        sparse.hstack([sparse.csr_matrix(part) for part in parts], format="csr", dtype=np.float32) for parts in made
    ]
    return stacked[0], stacked[1]


# --- What all trainings of one gate share, and one training -------------------------------------------------------------


def regress(
    inputs: TrainerInputs,
    trainings: list[Training],
    options: Strengths,
    features: Any,
    evaluation: Any,
    solved_by: Solver,
) -> Iterator[Prediction]:
    """As ``Trainer.predict``. ``features``: of the training rows, real ones first; ``evaluation``: (rows, columns)."""
    with importing():
        import sklearn.linear_model  # noqa: F401 - brings scipy's own BLAS, which is limited only if it is there
    from threadpoolctl import threadpool_limits

    design = _Design(inputs, options, features, evaluation, solved_by)
    # One BLAS thread each: sums are then taken in one order whatever the machine's cores.
    with threadpool_limits(limits=1):
        for trained in train_side_by_side(design.train, trainings, options.threads):
            yield trained.prediction


class _Trained(NamedTuple):
    prediction: Prediction
    strength: float
    fitted: Regressed


class _Design:
    def __init__(
        self, inputs: TrainerInputs, options: Strengths, features: Any, evaluation: Any, solved_by: Solver
    ) -> None:
        self.options, self.features, self.evaluation, self.solved_by = options, features, evaluation, solved_by
        self.descent, self.classes = Descent.of(inputs), len(inputs.classes)
        # Of training rows a class's place; or the target, in standard deviations of the real rows' from their mean.
        self.truth, self.middle, self.spread = learnt(inputs), 0.0, 1.0
        if not self.classes:
            known = self.truth[: self.descent.real]
            self.middle, self.spread = float(known.mean()), float(known.std()) or 1.0
            self.truth = (self.truth - self.middle) / self.spread
        self._fits: dict[int, Fit] = {}
        self._preparing = threading.Lock()

    def train(self, training: Training, lead: _Trained | None) -> _Trained:
        """``lead``: the training of its arm that chose for it."""
        weights = np.bincount(training.rows, training.weights, minlength=len(self.truth)).astype(np.float64)
        if lead is None:
            strength, told = self._choose(training, weights)
        else:
            strength, told = lead.strength, lead.prediction.chosen
        at = self._rows(weights)
        scaled = weights[at] * (self.descent.real / weights.sum())
        found = self._fit_of(len(at))(self.truth[at], scaled, strength, lead.fitted if lead else None)
        return _Trained(self._predict(found, {"C": strength, **told}), strength, found)

    def _rows(self, weights: npt.NDArray[np.float64]) -> Ints:
        """All rows, or the real ones, whose arm is not slowed by the others."""
        real = self.descent.real
        return np.arange(len(weights) if weights[real:].any() else real)

    def _fit_of(self, rows: int) -> Fit:
        with self._preparing:
            if rows not in self._fits:
                self._fits[rows] = self.solved_by(self.features[:rows])
            return self._fits[rows]

    def _predict(self, found: Regressed, told: dict[str, float]) -> Prediction:
        scores = _scores(self.evaluation, found)
        if not self.classes:
            return Prediction(self.middle + self.spread * scores[:, 0], None, told)
        odds = np.full((len(scores), self.classes), -np.inf)  # of a class that no training row has
        odds[:, found.classes] = log_odds(scores)
        return Prediction(found.classes[scores.argmax(axis=1)], odds, told)

    def _choose(self, training: Training, weights: npt.NDArray[np.float64]) -> tuple[float, dict[str, float]]:
        """The C with the best cross-validated accuracy, or squared error, over real rows (the smaller on a tie), and how

        good it is; the least C where there is nothing to choose.
        """
        real, cs = self.descent.real, sorted(self.options.cs)
        folds = min(self.options.folds, real)
        if len(cs) == 1 or folds < 2:
            return cs[0], {}
        fold = self.descent.folds(training.seed, folds)
        merits = np.zeros(len(cs))
        for held in range(folds):
            inside = (weights > 0) & self.descent.without(fold, held)
            scaled = np.where(inside, weights * (np.count_nonzero(inside[:real]) / weights[inside].sum()), 0.0)
            at = self._rows(weights) if len(weights) > COPIED else np.flatnonzero(inside)
            fit = self._fit_of(len(at)) if len(weights) > COPIED else self.solved_by(self.features[at])
            asked = np.flatnonzero(fold == held)
            outside = self.features[asked]
            found = None
            for position, c in enumerate(cs):
                found = fit(self.truth[at], scaled[at], c, found)
                merits[position] += self._merit(_scores(outside, found), found.classes, self.truth[asked])
        best = int(merits.argmax())
        if self.classes:
            return cs[best], {"cv_accuracy": round(float(merits[best] / real), 4)}
        return cs[best], {"cv_rmse": float(f"{self.spread * (-merits[best] / real) ** 0.5:.4g}")}

    def _merit(self, scores: Matrix, classes: Ints, truth: npt.NDArray[Any]) -> float:
        if self.classes:
            return float(np.count_nonzero(classes[scores.argmax(axis=1)] == truth))
        return -float(((scores[:, 0] - truth) ** 2).sum())


def _scores(rows: Any, found: Regressed) -> Matrix:
    """Shape (rows, outputs)."""
    return np.asarray(rows @ found.model[:-1] + found.model[-1])
