"""Logistic or ridge regression on rows of any kind: ridge strength chosen a few times for each arm, as in ``tfidf``.

The first trainings of an arm choose (``tuning.CHOOSING``); the others take turns with their choices, and start from their
models. Choosing in each took three quarters of a gate.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
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
from augmill.tasks.trainers.logistic import Fit, Matrix, Regressed, log_odds, solver
from augmill.tasks.trainers.tuning import THREADS, Descent, learnt, require_threads, train_side_by_side

COPIED = (
    20_000  # train rows from which on folds weigh others nothing instead of copying theirs: slower, but half the memory
)
STEPS = 10_000  # of scikit-learn's L-BFGS at most; it takes about 100

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

    VERSION: ClassVar[int] = 4
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

    def fit(
        labels: npt.NDArray[Any], weights: npt.NDArray[np.float64], cs: Sequence[float], start: Regressed | None
    ) -> Iterator[Regressed]:
        used = np.flatnonzero(weights)
        classes = np.unique(labels[used])
        if len(classes) == 1:
            yield from [Regressed(np.zeros((features.shape[1] + 1, 1)), classes, None)] * len(cs)
            return
        found, two = LogisticRegression(max_iter=STEPS, warm_start=True), len(classes) == 2
        if start is not None and np.array_equal(start.classes, classes):
            found.coef_, found.intercept_ = start.model[:-1, two:].T.copy(), start.model[-1, two:].copy()
        for c in cs:
            found.set_params(C=c).fit(features[used].astype(np.float64), labels[used], weights[used])
            model = np.vstack([found.coef_.T, found.intercept_])
            yield Regressed(np.hstack([np.zeros_like(model), model]) if two else model, classes, None)

    return fit


def _scikit_ridge(features: Any) -> Fit:
    from sklearn.linear_model import Ridge

    def fit(
        values: npt.NDArray[Any], weights: npt.NDArray[np.float64], cs: Sequence[float], start: Regressed | None
    ) -> Iterator[Regressed]:
        used = np.flatnonzero(weights)
        for c in cs:
            found = Ridge(alpha=1 / c).fit(features[used].astype(np.float64), values[used], weights[used])
            yield Regressed(np.append(found.coef_, found.intercept_)[:, None], np.empty(0, np.int64), None)

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
            strength, told, start = self._choose(training, weights)
        else:
            strength, told, start = lead.strength, lead.prediction.chosen, lead.fitted
        at = self._rows(weights)
        scaled = weights[at] * (self.descent.real / weights.sum())
        if start is not None and start.dual is not None:
            start = start._replace(dual=start.dual[np.append(at, len(weights))])
        (found,) = self._fit_of(at)(self.truth[at], scaled, [strength], start)
        prediction = self._predict(found, {"C": strength, **told})
        return _Trained(prediction, strength, _Duals(self).add(found, at).mean() or found)

    def _rows(self, weights: npt.NDArray[np.float64]) -> Ints:
        """Those that weigh anything; of many rows all, or all real ones, which are not copied then."""
        if len(weights) <= COPIED:
            return np.flatnonzero(weights)
        real = self.descent.real
        return np.arange(len(weights) if weights[real:].any() else real)

    def _fit_of(self, at: Ints) -> Fit:
        """Of these rows, in order; of all, and of all real ones, made once."""
        if len(at) not in (self.descent.real, len(self.truth)) or at[-1] >= len(at):
            return self.solved_by(self.features[at])
        with self._preparing:
            if len(at) not in self._fits:
                self._fits[len(at)] = self.solved_by(self.features[: len(at)])
            return self._fits[len(at)]

    def _predict(self, found: Regressed, told: dict[str, float]) -> Prediction:
        scores = _scores(self.evaluation, found)
        if not self.classes:
            return Prediction(self.middle + self.spread * scores[:, 0], None, told)
        odds = np.full((len(scores), self.classes), -np.inf)  # of a class that no training row has
        odds[:, found.classes] = log_odds(scores)
        return Prediction(found.classes[scores.argmax(axis=1)], odds, told)

    def _choose(
        self, training: Training, weights: npt.NDArray[np.float64]
    ) -> tuple[float, dict[str, float], Regressed | None]:
        """The C with the best cross-validated accuracy, or squared error, over real rows (the smaller on a tie), how good

        it is, and where a fit of all rows may start; the least C where there is nothing to choose.
        """
        real, cs = self.descent.real, sorted(self.options.cs)
        folds = min(self.options.folds, real)
        if len(cs) == 1 or folds < 2:
            return cs[0], {}, None
        fold = self.descent.folds(training.seed, folds)
        merits, duals = np.zeros(len(cs)), [_Duals(self) for _ in cs]
        for held in range(folds):
            inside = (weights > 0) & self.descent.without(fold, held)
            scaled = np.where(inside, weights * (np.count_nonzero(inside[:real]) / weights[inside].sum()), 0.0)
            at, asked = self._rows(scaled), np.flatnonzero(fold == held)
            outside = self.features[asked]
            for position, found in enumerate(self._fit_of(at)(self.truth[at], scaled[at], cs, None)):
                merits[position] += self._merit(_scores(outside, found), found.classes, self.truth[asked])
                duals[position].add(found, at)
        best = int(merits.argmax())
        start = duals[best].mean()
        if self.classes:
            return cs[best], {"cv_accuracy": round(float(merits[best] / real), 4)}, start
        return cs[best], {"cv_rmse": float(f"{self.spread * (-merits[best] / real) ** 0.5:.4g}")}, start

    def _merit(self, scores: Matrix, classes: Ints, truth: npt.NDArray[Any]) -> float:
        if self.classes:
            return float(np.count_nonzero(classes[scores.argmax(axis=1)] == truth))
        return -float(((scores[:, 0] - truth) ** 2).sum())


class _Duals:
    """What fits of some rows each say of every row, in the mean; they start another from near its end."""

    def __init__(self, design: _Design) -> None:
        self.rows, self.classes = len(design.truth), design.classes
        self.sum: Matrix | None = None
        self.times = np.zeros((self.rows + 1, 1), dtype=np.float32)

    def add(self, found: Regressed, at: Ints) -> _Duals:
        if found.dual is not None:
            if self.sum is None:
                self.sum = np.zeros((self.rows + 1, self.classes), dtype=np.float32)
            places = np.append(at, self.rows)
            self.sum[places[:, None], found.classes] += found.dual
            self.times[places] += 1
        return self

    def mean(self) -> Regressed | None:
        if self.sum is None:
            return None
        return Regressed(np.empty((0, 0)), np.arange(self.classes), self.sum / np.maximum(self.times, 1))


def _scores(rows: Any, found: Regressed) -> Matrix:
    """Shape (rows, outputs)."""
    return np.asarray(rows @ found.model[:-1] + found.model[-1])
