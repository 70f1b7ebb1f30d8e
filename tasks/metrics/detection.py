"""Mean average precision of boxes, as COCO measures it (Lin et al., ECCV 2014; its evaluation code is the reference).

Not a sum over pictures: precision hangs on how the predictions of all pictures rank by their score. Which prediction finds
which box does not, so that matching is done once; a resample is then a walk down the ranking with the pictures' weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from augmill.tasks.contracts import Floats, Foresight, Ints, Judged, Metric
from augmill.tasks.metrics.additive import ratio
from augmill.tasks.problems.detection import overlaps

MOST = 100  # predictions of a label in a picture that count, the surest first
RECALLS = np.linspace(0, 1, 101)  # at which precision is read
CELLS = 1 << 21  # of resamples times predictions at a time

# Before anything is trained: the standard deviation of what a picture adds to the gain of one arm over another. On canvases
# with digits, 300 held-out pictures, a gain of 9 points: 0.22 (tests/benchmarks/detection_runs.py).
DIFFERING = 0.22


@dataclass(frozen=True)
class RankedLabel:
    """The predictions of one label in all pictures, by falling score.

    ``units``: (predictions,), each one's unit; ``right``: (thresholds, predictions), whether it finds a box; ``boxes``:
    (units,), how many there are to be found.
    """

    units: Ints
    right: npt.NDArray[np.bool_]
    boxes: Floats


class MeanPrecision(Metric):
    """The mean over labels that the pictures have, and over the thresholds of overlap from which a box counts as found."""

    problems: ClassVar[tuple[str, ...]] = ("detection",)
    thresholds: ClassVar[Floats]

    def prepare(self, judged: Judged) -> list[RankedLabel]:
        truth = [_by_label(boxes) for boxes in judged.truth]
        found = [_by_label(boxes) for boxes in judged.predicted]
        names = sorted({label for boxes in truth for label in boxes})
        return [self._ranked(label, truth, found, judged) for label in names]

    def _ranked(self, label: str, truth: list[Any], found: list[Any], judged: Judged) -> RankedLabel:
        boxes, scores, units, right = np.zeros(judged.count), [np.empty(0)], [np.empty(0, np.int64)], []
        right.append(np.empty((len(self.thresholds), 0), np.bool_))
        for unit, own, said in zip(judged.units.tolist(), truth, found, strict=True):
            real, told = own.get(label, _NONE), said.get(label, _NONE)
            boxes[unit] += len(real)
            told = told[np.argsort(-told[:, 4], kind="stable")[:MOST]]
            scores.append(told[:, 4])
            units.append(np.full(len(told), unit))
            right.append(matched(told[:, :4], real[:, :4], self.thresholds))
        order = np.argsort(-np.concatenate(scores), kind="stable")
        return RankedLabel(np.concatenate(units)[order], np.concatenate(right, axis=1)[:, order], boxes)

    def values(self, prepared: Any, weights: npt.NDArray[np.float32]) -> Floats:
        """NaN where no picture that stands in a resample has a box."""
        whole = np.asarray(weights, np.float64)
        if not prepared:
            return np.full(len(whole), np.nan)
        there = [whole @ label.boxes for label in prepared]
        found = [_precisions(label, whole, each) for label, each in zip(prepared, there, strict=True)]
        return ratio(np.sum(found, axis=0), np.sum([each > 0 for each in there], axis=0, dtype=np.float64))

    def one_unit(self, judged: Judged) -> float:
        """A picture that has a label of n pictures moves that label by about 1/n, and the mean of K by 1/(K n)."""
        counts: dict[str, int] = {}
        for boxes in judged.truth:
            for label in {box["label"] for box in boxes}:
                counts[label] = counts.get(label, 0) + 1
        sizes = np.array([*counts.values()] or [1], np.float64)
        return float(np.sqrt(np.sum(1 / sizes) / max(judged.count, 1)) / len(sizes))

    def foresee(self, spread: float | None) -> Foresight:
        words = f"If the mix changes a picture's part in {self.title} by about {100 * DIFFERING:.0f} points."
        return Foresight(DIFFERING, 1.0, 0.01, words)


class Map(MeanPrecision):
    """At overlaps from 0.5 to 0.95, in steps of 0.05."""

    name: ClassVar[str] = "map"
    title: ClassVar[str] = "mAP"
    thresholds: ClassVar[Floats] = np.linspace(0.5, 0.95, 10)


class Map50(MeanPrecision):
    """At an overlap of 0.5."""

    name: ClassVar[str] = "map50"
    title: ClassVar[str] = "mAP at 0.5"
    thresholds: ClassVar[Floats] = np.array([0.5])


_NONE = np.empty((0, 5))


def _by_label(boxes: Sequence[dict[str, Any]]) -> dict[str, Floats]:
    """(boxes, 5) of each label: x, y, width, height, score; one that has no score is sure."""
    rows: dict[str, list[list[float]]] = {}
    for box in boxes:
        rows.setdefault(box["label"], []).append([*box["bbox"], box.get("score", 1.0)])
    return {label: np.array(own, np.float64) for label, own in rows.items()}


def matched(told: Floats, real: Floats, thresholds: Floats) -> npt.NDArray[np.bool_]:
    """(thresholds, told): each prediction, the surest first, takes the box that it overlaps most of those that are left."""
    right = np.zeros((len(thresholds), len(told)), np.bool_)
    if not len(told) or not len(real):
        return right
    shared = overlaps(told, real)
    for at, least in enumerate(thresholds):
        left = np.ones(len(real), np.bool_)
        for row in np.flatnonzero(shared.max(axis=1) >= least):
            own = np.where(left, shared[row], -1.0)
            best = len(own) - 1 - int(own[::-1].argmax())  # of equal overlaps the last, as COCO's code has it
            if own[best] >= least:
                left[best], right[at, row] = False, True
    return right


def _precisions(label: RankedLabel, weights: Floats, there: Floats) -> Floats:
    """(resamples,): the mean over the thresholds of a label's average precision; 0 where it has no box."""
    made = np.zeros(len(weights))
    size = max(1, CELLS // max(1, len(label.units)))
    for start in range(0, len(weights), size):
        some = slice(start, start + size)
        each = weights[some][:, label.units]
        told = np.cumsum(each, axis=1)
        made[some] = np.mean([_average(each, told, right, there[some]) for right in label.right], axis=0)
    return made


def _average(each: Floats, told: Floats, right: npt.NDArray[np.bool_], there: Floats) -> Floats:
    """(resamples,): precision read at RECALLS. ``each``: of every prediction its weight; ``told``: of all up to it.

    Precision is looked at where a prediction is right alone: behind such a one it falls until the next.
    """
    at = np.flatnonzero(right)
    if not len(at):
        return np.zeros(len(each))
    found = np.cumsum(each[:, at], axis=1)
    precision = ratio(found, told[:, at])
    np.nan_to_num(precision, copy=False)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = np.nan_to_num(ratio(found, there[:, None]))
    passed = np.searchsorted(RECALLS, recall, side="right")  # of RECALLS, those that are reached
    return np.asarray((best * np.diff(passed, axis=1, prepend=0)).sum(axis=1) / len(RECALLS))
