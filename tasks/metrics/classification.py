"""Accuracy, F1 and recall from counts per class, so that a bootstrap can compute them for thousands of resamples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]


def counts(truth: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], classes: int) -> tuple[Array, Array, Array]:
    """(right, predicted, actual) rows per class, each of shape (classes,). A prediction of -1 is no class at all."""
    right = np.bincount(truth[truth == predicted], minlength=classes).astype(np.float64)
    claimed = np.bincount(predicted[predicted >= 0], minlength=classes).astype(np.float64)
    return right, claimed, np.bincount(truth, minlength=classes).astype(np.float64)


def accuracy(right: Array, predicted: Array, actual: Array) -> Array:
    """Share of rows predicted right. Inputs of shape (..., classes); returns (...)."""
    total: Array = right.sum(axis=-1) / np.maximum(actual.sum(axis=-1), 1e-12)
    return total


def f1(right: Array, predicted: Array, actual: Array) -> Array:
    """F1 per class: 2 right / (predicted + actual), 0 where a class has neither. Shape (..., classes)."""
    return np.asarray(2 * right / np.maximum(predicted + actual, 1e-12))


def macro_f1(right: Array, predicted: Array, actual: Array) -> Array:
    """Mean F1 over the classes handed in (those with held-out rows). Returns shape (...)."""
    return np.asarray(f1(right, predicted, actual).mean(axis=-1))


def recall(right: Array, predicted: Array, actual: Array) -> Array:
    """Share of each class's rows predicted right; NaN where it has none. Shape (..., classes)."""
    return np.asarray(np.where(actual > 0, right / np.maximum(actual, 1e-12), np.nan))


Metric = Callable[[Array, Array, Array], Array]
