"""Multinomial logistic regression by L-BFGS over the rows' inner products.

Ridge-penalised weights lie in the span of the rows, W = X'A, so the model is fitted as A: one number a row and class,
however many features there are (BANKING77 at 50 rows per class: 7,500 rows for 33,000 features). A step costs one product
with X X'; line searches cost none. scipy's L-BFGS-B spends nine tenths of the time on bounds that there are none of, and
scikit-learn's solver is built on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from augmill.tasks.rows.randomness import uniforms

Matrix = npt.NDArray[np.floating[Any]]
Product = Callable[[Matrix], Matrix]  # A -> X X'A

# 2 to 20 pairs take as many steps within a tenth of another; more cost more a step.
HISTORY = 5
# Points of a line that are looked at, and the share of the slope at which it is flat: a quarter fewer steps than with the
# first point that gains anything. 0.1 and 0.5 took more time.
TRIED, FLAT = 3, 0.3
STEPS = 200
# Relative gain in the loss at which to stop, twice in a row (the first step from a good start is short): past where
# predictions change (they agree with scikit-learn's at 1e-6 on 99 % of rows and more, see the tests), and well above the
# 1e-7 of float32 sums.
ENOUGH = 1e-5
# Columns of more rows than this share are kept as an array: a product takes 15 % less time (0.2, 0.1: 2 to 4 %
# more).
COMMON = 0.15
# Rows up to which X X' is kept as a matrix. BANKING77 at 513 rows: made in 12 ms, and a product then takes 0.5 ms (by the
# sparse features 1.3); at 1,000 rows 46, 1.9 (2.7); at 2,000 rows 170, 8.8 (5.6). A choice takes some 50 products.
DENSE_ROWS = 768


class Regressed(NamedTuple):
    """``model``: (columns + 1, outputs), intercepts last; ``classes``: what the outputs stand for, none for numbers.

    ``dual``: (rows + 1, outputs), the model by rows and its intercepts, from which another fit of these rows may start.
    """

    model: Matrix
    classes: npt.NDArray[np.int64]
    dual: Matrix | None


# (labels, weights, ascending C, start) -> for each C the least of C * sum(weights * loss) + |W|^2 / 2
Fit = Callable[[npt.NDArray[Any], npt.NDArray[np.float64], Sequence[float], Regressed | None], Iterator[Regressed]]


def solver(features: Any) -> Fit:
    """A fit of these rows, (rows, columns), CSR or an array of float32, by log-loss; the intercepts are not penalised.

    Rows may weigh nothing. ``start``: found before for the same rows, such as with other weights. Each C begins where the
    last one ended and a line search further on, in the direction it went: rows that are fitted grow surer with C.
    """
    product, project = _products(features)

    def fit(
        labels: npt.NDArray[Any], weights: npt.NDArray[np.float64], cs: Sequence[float], start: Regressed | None = None
    ) -> Iterator[Regressed]:
        classes = np.unique(labels[weights > 0])
        target = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
        of_classes = _of_two(product) if len(classes) == 2 else product
        point, moved = _vector(of_classes, _begin(start, classes, weights)), None
        for c in cs:
            loss = _Loss(of_classes, target, (c * weights).astype(np.float32)[:, None])
            begin = loss.at(point)
            further = None if moved is None else _search(loss, begin, moved, 1.0)
            found = minimise(loss, further or begin)
            point, moved = found, found - point
            yield Regressed(np.vstack([project(found[0, :-1]), found[0, -1:]]), classes, found[0])

    return fit


def _begin(start: Regressed | None, classes: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> Matrix:
    """What ``start`` knows of these classes and of the rows that weigh anything."""
    begin = np.zeros((len(weights) + 1, len(classes)), dtype=np.float32)
    if start is not None and start.dual is not None:
        known = np.isin(classes, start.classes)
        begin[:, known] = start.dual[:, np.searchsorted(start.classes, classes[known])]
        begin[:-1][weights == 0] = 0
    return begin


def _products(features: Any) -> tuple[Product, Product]:
    """A -> X X'A and A -> X'A.

    Of a sparse X, equal columns (n-grams that always come together) stand as one that is so much longer: inner products
    stay, and a quarter of BANKING77's numbers goes.
    """
    if isinstance(features, np.ndarray):
        return lambda dual: features @ (features.T @ dual), lambda dual: features.T @ dual
    # Equal in 106 bits of a random sum over the rows: equal columns.
    sums = np.ascontiguousarray(features.T @ uniforms(np.arange(features.shape[0]), 2)).view(np.complex128)[:, 0]
    _, first, place, count = np.unique(sums, return_index=True, return_inverse=True, return_counts=True)
    length = np.sqrt(count).astype(np.float32)
    ahead = features[:, first]
    ahead.data *= length[ahead.indices]
    common = np.bincount(ahead.indices, minlength=len(first)) > COMMON * features.shape[0]
    full, rest = ahead[:, common].toarray(), ahead[:, ~common]
    back = rest.T.tocsr()  # half the time of a product with the transpose of a CSR matrix

    def project(dual: Matrix) -> Matrix:
        merged = np.empty((len(first), dual.shape[1]), dtype=np.float32)
        merged[common], merged[~common] = full.T @ dual, back @ dual
        return (merged / length[:, None])[place]

    if features.shape[0] <= DENSE_ROWS:
        gram = (ahead @ ahead.T.tocsr()).toarray()
        return lambda dual: gram @ dual, project
    return lambda dual: rest @ (back @ dual) + full @ (full.T @ dual), project


def _of_two(product: Product) -> Product:
    """Of two classes one is the other's opposite, and a product with a vector takes a third of the time of one with two."""

    def both(dual: Matrix) -> Matrix:
        one = product(np.ascontiguousarray(dual[:, 1]))
        return np.stack([-one, one], axis=1)

    return both


def log_odds(scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Of each class against all others, from logits of the same shape, (rows, classes): the probabilities' own order,

    without the ties that these have near 0 and 1. Capped at 690, where a class is the only one.
    """
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    share = np.exp(shifted)
    rest = share.sum(axis=1, keepdims=True) - share
    top = np.arange(len(scores)), scores.argmax(axis=1)
    share[top] = 0.0
    rest[top] = share.sum(axis=1)  # of the likeliest class the difference above would be rounded to nothing
    odds: npt.NDArray[np.float64] = shifted - np.log(np.maximum(rest, 1e-300))
    return odds


# --- The minimum ------------------------------------------------------------------------------------------------------
# A vector of the space is kept as two arrays of (rows + 1, classes): its coordinates, the intercepts in the last row, and
# the product of X X' with them (of the intercepts: themselves). An inner product is then one of arrays, and what is added
# up needs no new product.


class _Place(NamedTuple):
    """``slopes``: the gradient's coordinates."""

    point: Matrix
    value: float
    slopes: Matrix


def _vector(product: Product, dual: Matrix) -> Matrix:
    found = np.empty((2, *dual.shape), dual.dtype)
    found[:, -1], found[0, :-1], found[1, :-1] = dual[-1], dual[:-1], product(dual[:-1])
    return found


@dataclass(frozen=True)
class _Loss:
    product: Product
    target: npt.NDArray[np.int64]
    scale: Matrix  # (rows, 1)

    def at(self, point: Matrix) -> _Place:
        own = (np.arange(len(self.target)), self.target)
        share = point[1, :-1] + point[1, -1]
        share -= share.max(axis=1, keepdims=True)
        likely = share[own]
        np.exp(share, out=share)
        total = (share @ np.ones_like(share[0]))[:, None]  # a product: a quarter of the time of a sum
        value = float((self.scale[:, 0] * (np.log(total[:, 0]) - likely)).sum(dtype=np.float64))
        share *= self.scale / total
        share[own] -= self.scale[:, 0]
        slopes = np.empty_like(point[0])
        slopes[-1] = np.ones_like(share[:, 0]) @ share
        np.add(point[0, :-1], share, out=slopes[:-1])
        return _Place(point, value + 0.5 * float(np.vdot(point[0, :-1], point[1, :-1])), slopes)


def minimise(loss: _Loss, place: _Place) -> Matrix:
    """L-BFGS (Nocedal, Math. Comp. 1980); the point it stopped at."""
    gradient = _vector(loss.product, place.slopes)
    history: deque[tuple[Matrix, Matrix, float]] = deque(maxlen=HISTORY)
    idle = 0
    for _ in range(STEPS):
        direction = _direction(gradient, history)
        slope = _dot(gradient, direction)
        step = 1.0 if history else min(1.0, 1 / max(-slope, 1e-12) ** 0.5)
        further = _search(loss, place, direction, step)
        if further is None:  # the gradient is down to rounding
            break
        there = _vector(loss.product, further.slopes)
        moved, turned = further.point - place.point, np.subtract(there, gradient, out=gradient)
        if (curvature := _dot(moved, turned)) > 0:
            history.append((moved, turned, 1 / curvature))
        gained = place.value - further.value
        place, gradient = further, there
        idle = idle + 1 if gained <= ENOUGH * max(abs(place.value), 1.0) else 0
        if idle == 2:
            break
    return place.point


def _search(loss: _Loss, place: _Place, direction: Matrix, step: float) -> _Place | None:
    """Near the least along a direction, by secants of the slope, which need no product; None where it is not downhill."""
    slope = float(np.vdot(place.slopes, direction[1]))
    if slope >= 0:
        return None
    best = None
    for tried in range(20):
        point = direction * direction.dtype.type(step)
        point += place.point
        there = loss.at(point)
        if there.value <= (place.value + 1e-4 * step * slope if best is None else best.value):
            best = there
        rise = float(np.vdot(there.slopes, direction[1]))
        if best is not None and (tried + 1 >= TRIED or abs(rise) <= FLAT * -slope):
            break
        step *= min(max(slope / min(slope - rise, -1e-30), 0.1), 10.0)
    return best


def _direction(gradient: Matrix, history: deque[tuple[Matrix, Matrix, float]]) -> Matrix:
    """Minus the inverse Hessian's estimate times the gradient, by the two-loop recursion."""
    found, shares = -gradient, []
    for moved, turned, inverse in reversed(history):
        shares.append(inverse * _dot(moved, found))
        _add(found, -shares[-1], turned)
    if history:
        moved, turned, inverse = history[-1]
        found *= found.dtype.type(1 / (inverse * _dot(turned, turned)))
    for (moved, turned, inverse), share in zip(history, reversed(shares), strict=True):
        _add(found, share - inverse * _dot(turned, found), moved)
    return found


def _add(found: Matrix, times: float, other: Matrix) -> None:
    """In place, without an array between: half the time."""
    from scipy.linalg.blas import saxpy

    saxpy(other.reshape(-1), found.reshape(-1), a=times)


def _dot(one: Matrix, other: Matrix) -> float:
    return float(np.vdot(one[0], other[1]))
