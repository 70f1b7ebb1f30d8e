"""Multinomial logistic regression by L-BFGS over the rows' inner products.

Ridge-penalised weights lie in the span of the rows, W = X'A, so the model is fitted as A: one number a row and class,
however many features there are (BANKING77 at 50 rows per class: 7,500 rows for 33,000 features). A step costs one product
with X X'; line searches cost none. scipy's L-BFGS-B spends nine tenths of the time on bounds that there are none of, and
scikit-learn's solver is built on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from augmill.tasks.rows.randomness import uniforms

Matrix = npt.NDArray[np.floating[Any]]
Product = Callable[[Matrix], Matrix]  # A -> X X'A

# 2 to 20 pairs take as many steps within a tenth of another; more cost more a step.
HISTORY = 5
STEPS = 200
# Relative gain in the loss at which to stop, twice in a row (the first step from a good start is short): past where
# predictions change (they agree with scikit-learn's at 1e-6 on 99 % of rows and more, see the tests), and well above the
# 1e-7 of float32 sums.
ENOUGH = 1e-5
# Rows up to which X X' is kept as a matrix. BANKING77 doubled: at 1,520 rows a product with it takes 5 ms (by the sparse
# features 12), at 3,750 rows 29 (26), at 7,500 rows 117 (50).
DENSE_ROWS = 2048


class Regressed(NamedTuple):
    """``model``: (columns + 1, outputs), intercepts last; ``classes``: what the outputs stand for, none for numbers.

    ``state``: what another fit of the same rows may start from.
    """

    model: Matrix
    classes: npt.NDArray[np.int64]
    state: Any


def solver(
    features: Any,
) -> Callable[[npt.NDArray[np.int64], npt.NDArray[np.float64], float, Regressed | None], Regressed]:
    """A fit of these rows, (rows, columns), CSR or an array of float32: (labels, weights, c, start) -> the least of

    c * sum(weights * log-loss) + |W|^2 / 2; the intercepts are not penalised. Rows may weigh nothing. ``start``: found
    before for the same rows, such as with a smaller ``c`` or other weights.
    """
    product, project = _products(features)

    def fit(
        labels: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], c: float, start: Regressed | None = None
    ) -> Regressed:
        classes = np.unique(labels[weights > 0])
        target = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
        loss = _Loss(
            _of_two(product) if len(classes) == 2 else product, target, (c * weights).astype(np.float32)[:, None]
        )
        begin = np.zeros((len(labels) + 1, len(classes)), dtype=np.float32)
        if start is not None and np.array_equal(start.classes, classes):
            begin = start.state
        dual = minimise(loss, begin)
        return Regressed(np.vstack([project(dual[:-1]), dual[-1:]]), classes, dual)

    return fit


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
    back = ahead.T.tocsr()  # half the time of a product with the transpose of a CSR matrix

    def project(dual: Matrix) -> Matrix:
        merged: Matrix = (back @ dual) / length[:, None]
        return merged[place]

    if features.shape[0] <= DENSE_ROWS:
        gram = (ahead @ back).toarray()
        return lambda dual: gram @ dual, project
    return lambda dual: ahead @ (back @ dual), project


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


@dataclass(frozen=True)
class _Loss:
    product: Product
    target: npt.NDArray[np.int64]
    scale: Matrix  # (rows, 1)

    def vector(self, dual: Matrix) -> Matrix:
        return np.stack([dual, np.vstack([self.product(dual[:-1]), dual[-1:]])])

    def at(self, point: Matrix) -> tuple[float, Matrix]:
        """The loss, and its slope in each row's scores."""
        own = (np.arange(len(self.target)), self.target)
        share = point[1, :-1] + point[1, -1]
        share -= share.max(axis=1, keepdims=True)
        likely = share[own]
        np.exp(share, out=share)
        total = share.sum(axis=1, keepdims=True)
        value = float((self.scale[:, 0] * (np.log(total[:, 0]) - likely)).sum(dtype=np.float64))
        share *= self.scale / total
        share[own] -= self.scale[:, 0]
        return value + 0.5 * float(np.vdot(point[0, :-1], point[1, :-1])), share

    def gradient(self, point: Matrix, slopes: Matrix) -> Matrix:
        return self.vector(np.vstack([point[0, :-1] + slopes, slopes.sum(axis=0)]))


def minimise(loss: _Loss, start: Matrix) -> Matrix:
    """L-BFGS (Nocedal, Math. Comp. 1980) with backtracking; the coordinates of the point it stopped at."""
    point = loss.vector(start)
    value, slopes = loss.at(point)
    gradient = loss.gradient(point, slopes)
    history: deque[tuple[Matrix, Matrix, float]] = deque(maxlen=HISTORY)
    idle = 0
    for _ in range(STEPS):
        direction = _direction(gradient, history)
        slope = _dot(gradient, direction)
        if slope >= 0:  # the gradient is down to rounding
            break
        step = 1.0 if history else min(1.0, 1 / max(-slope, 1e-12) ** 0.5)
        for _ in range(20):
            further = point + point.dtype.type(step) * direction
            reached, slopes = loss.at(further)
            if reached <= value + 1e-4 * step * slope:
                break
            step *= 0.5
        else:
            break
        there = loss.gradient(further, slopes)
        moved, turned = further - point, there - gradient
        if (curvature := _dot(moved, turned)) > 0:
            history.append((moved, turned, 1 / curvature))
        gained = value - reached
        point, value, gradient = further, reached, there
        idle = idle + 1 if gained <= ENOUGH * max(abs(value), 1.0) else 0
        if idle == 2:
            break
    least: Matrix = point[0]
    return least


def _direction(gradient: Matrix, history: deque[tuple[Matrix, Matrix, float]]) -> Matrix:
    """Minus the inverse Hessian's estimate times the gradient, by the two-loop recursion."""
    number = gradient.dtype.type
    found = -gradient
    shares = []
    for moved, turned, inverse in reversed(history):
        share = inverse * _dot(moved, found)
        found -= number(share) * turned
        shares.append(share)
    if history:
        moved, turned, inverse = history[-1]
        found *= number(1 / (inverse * _dot(turned, turned)))
    for (moved, turned, inverse), share in zip(history, reversed(shares), strict=True):
        found += number(share - inverse * _dot(turned, found)) * moved
    return found


def _dot(one: Matrix, other: Matrix) -> float:
    return float(np.vdot(one[0], other[1]))
