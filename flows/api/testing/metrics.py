"""The laws of metrics: a weight of two is a row that stands twice, and all ones are the metric itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import ANY, Judged, Metric
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.rows.schema import is_number

CLASSES = tuple("abc")


def drawn_predictions(metric: Metric, count: int = 20) -> Iterator[Judged]:
    """Of 3 to 25 held-out rows each: classes with scores for a metric of classification; values of the target's and the

    answer's types for one of a problem that learns texts, lists or objects; else numbers.
    """
    learns = next((PROBLEMS[name] for name in metric.problems if name in PROBLEMS.names()), None)
    for seed in range(count):
        rng = np.random.default_rng(seed)
        rows = int(rng.integers(3, 26))
        if learns is not None and learns.target is not None and not is_number(learns.target):
            truth = [_value(learns.target, rng) for _ in range(rows)]
            answers = [_answer(each, learns.answer or learns.target, rng) for each in truth]
            yield held_out(_objects(truth), _objects(answers))
            continue
        if not {"classification", ANY} & set(metric.problems):
            numbers = np.round(rng.normal(10, 3, rows), 2)
            yield held_out(numbers, np.round(numbers + rng.normal(0, 2, rows), 2))
            continue
        classes = np.concatenate([[0, 1], rng.integers(0, 3, rows - 2)])
        scores = np.round(rng.normal(0, 1, (rows, 3)) + np.eye(3)[classes], int(rng.choice([0, 1, 6])))
        yield held_out(classes, np.where(rng.random(rows) < 0.1, -1, scores.argmax(axis=1)), scores)


def _value(kind: pa.DataType, rng: np.random.Generator) -> Any:
    """Some value of an Arrow type; lists of up to four, a few texts, numbers from 1 to 9."""
    if pa.types.is_struct(kind):
        return {field.name: _value(field.type, rng) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        count = kind.list_size if pa.types.is_fixed_size_list(kind) else int(rng.integers(5))
        return [_value(kind.value_type, rng) for _ in range(count)]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return str(rng.choice([*CLASSES, "a b", "a b c d", "é ü 我的包"]))
    return float(rng.uniform(1, 9)) if pa.types.is_floating(kind) else int(rng.integers(1, 10))


def _answer(truth: Any, kind: pa.DataType, rng: np.random.Generator) -> Any:
    """Something like the truth, of the answer's type: of a list some parts are left out, and others are put in."""
    if rng.random() < 0.2:
        return _value(kind, rng)
    if pa.types.is_list(kind):
        parts = truth if isinstance(truth, list) else [truth]
        kept = [_answer(part, kind.value_type, rng) for part in parts if rng.random() < 0.7]
        return [*kept, *(_value(kind.value_type, rng) for _ in range(int(rng.integers(3))))]
    if isinstance(truth, dict):
        return {field.name: truth.get(field.name, _value(field.type, rng)) for field in kind}
    return truth


def _objects(values: list[Any]) -> Any:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def held_out(truth: Any, predicted: Any, scores: Any = None, units: Any = None) -> Judged:
    """Each row a unit of its own unless said otherwise."""
    places = np.arange(len(truth)) if units is None else np.asarray(units)
    return Judged(np.asarray(truth), np.asarray(predicted), scores, places, int(places.max()) + 1, CLASSES)


def measured(metric: Metric, rows: Judged, weights: Any) -> npt.NDArray[np.float64]:
    """(resamples,) of weights (resamples, units), or of one weight a unit."""
    return metric.values(metric.prepare(rows), np.atleast_2d(np.asarray(weights, dtype=np.float32)))


def _as_answer(truth: Any, rows: Judged) -> Any:
    """The truth as an answer: alone in a list, where answers are lists and it is none."""
    listed = isinstance(rows.predicted[0], list) and not isinstance(truth, list)
    return [truth] if listed else truth


def same(one: Any, other: Any) -> bool:
    return bool(np.allclose(one, other, rtol=1e-6, atol=1e-9, equal_nan=True))


def every_resample_is_measured_by_itself_and_its_scale_means_nothing(metric: Metric, rows: Judged) -> None:
    weights = np.random.default_rng(1).integers(0, 3, (4, rows.count))
    together = measured(metric, rows, weights)
    alone = [measured(metric, rows, row)[0] for row in weights]
    assert same(together, alone), f"four resamples at once: {together}, one by one: {alone}"
    assert same(measured(metric, rows, 3 * weights), together), "three times the weights give another value"


def the_rows_of_one_unit_are_drawn_together(metric: Metric, rows: Judged) -> None:
    units = np.sort(np.random.default_rng(rows.count).integers(0, 4, rows.count))
    units = np.unique(units, return_inverse=True)[1]
    weights = np.arange(1, units.max() + 2) % 3
    if weights.sum() == 0:
        return
    grouped = held_out(rows.truth, rows.predicted, rows.scores, units)
    found, wanted = measured(metric, grouped, weights), measured(metric, rows, weights[units])
    assert same(found, wanted), f"by unit {found}, by the rows of each unit {wanted}"


def none_is_better_than_one_that_is_right_everywhere(metric: Metric, rows: Judged) -> None:
    scores = None if rows.scores is None else np.eye(3)[rows.truth]
    one = np.ones(rows.count)
    right = _objects([_as_answer(each, rows) for each in rows.truth]) if rows.truth.dtype == object else rows.truth
    best = float(measured(metric, held_out(rows.truth, right, scores), one)[0])
    found = float(measured(metric, rows, one)[0])
    better = found < best - 1e-9 if metric.better == "less" else found > best + 1e-9
    assert not better, f"{found} is better than {best}, which is right everywhere"


def it_says_how_it_is_read(metric: Metric, rows: Judged) -> None:
    assert metric.name and metric.problems and metric.better in ("more", "less"), "name, problems, better"
    assert (metric.unit == "points") == (metric.scale == 100), "points are hundredths; other units have their own scale"
    seen = metric.foresee(2.0)
    assert seen is None or (min(seen.deviation, seen.step, seen.worth) > 0 and seen.words.endswith(".")), "foresight"


METRIC_LAWS: tuple[Callable[[Metric, Judged], None], ...] = (
    every_resample_is_measured_by_itself_and_its_scale_means_nothing,
    the_rows_of_one_unit_are_drawn_together,
    none_is_better_than_one_that_is_right_everywhere,
    it_says_how_it_is_read,
)
