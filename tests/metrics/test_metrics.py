"""Metrics as functions of weights: a weight of two is a row that stands twice, and all ones are the metric itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import metrics as theirs

from augmill.tasks.contracts import ANY, Judged, Metric
from augmill.tasks.metrics import METRICS
from augmill.tasks.problems import PROBLEMS
from augmill.testing import METRIC_LAWS, drawn_predictions

CLASSES = tuple("abc")
# Of classes and numbers; those of lists and objects have files of their own.
NAMES = [name for name, each in METRICS.items() if {"classification", "regression"} & {*each.problems}] + ["focus_f1"]


def metric(name: str) -> Metric:
    return METRICS["macro_f1"].only(("a", "c")) if name == "focus_f1" else METRICS[name]


def judged(truth: Any, predicted: Any, scores: Any = None, units: Any = None) -> Judged:
    places = np.arange(len(truth)) if units is None else np.asarray(units)
    count = int(places.max()) + 1
    return Judged(np.asarray(truth), np.asarray(predicted), scores, places, count, CLASSES)


def values(name: str, rows: Judged, weights: Any) -> np.ndarray:
    return metric(name).values(metric(name).prepare(rows), np.atleast_2d(np.asarray(weights, dtype=np.float32)))


def whole(name: str, rows: Judged) -> float:
    return float(values(name, rows, np.ones(rows.count))[0])


@st.composite
def predictions(draw: st.DrawFn, name: str) -> Judged:
    """3 to 25 rows; scores with ties; two classes at least."""
    count = draw(st.integers(3, 25))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    if "text_to_text" in metric(name).problems:
        words = np.array(["left", "right", "far left", "a b c d", "é ü 我的包"], dtype=object)
        truth = rng.choice(words, count)
        return judged(truth, np.where(rng.random(count) < 0.5, truth, rng.choice(words, count)))
    if "regression" in metric(name).problems:
        truth = np.round(rng.normal(10, 3, count), 2)
        assume(len(set(truth)) > 1)
        return judged(truth, np.round(truth + rng.normal(0, 2, count), 2))
    truth = rng.integers(0, 3, count)
    assume(len(set(truth)) > 1)
    scores = np.round(rng.normal(0, 1, (count, 3)) + np.eye(3)[truth], draw(st.sampled_from([0, 1, 6])))
    return judged(truth, np.where(rng.random(count) < 0.1, -1, scores.argmax(axis=1)), scores)


def taken(rows: Judged, at: np.ndarray) -> Judged:
    scores = None if rows.scores is None else rows.scores[at]
    return judged(rows.truth[at], rows.predicted[at], scores)


@pytest.mark.parametrize("name", NAMES)
@given(st.data())
def test_a_weight_of_two_is_a_row_that_stands_twice(name: str, data: st.DataObject) -> None:
    rows = data.draw(predictions(name))
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=rows.count, max_size=rows.count)))
    assume(weights.sum() > 0)
    repeated = taken(rows, np.repeat(np.arange(rows.count), weights))
    # Which classes count is asked of all rows, so those that a resample lacks must not differ.
    classes = "classification" in metric(name).problems
    assume(not classes or set(repeated.truth.tolist()) == set(rows.truth.tolist()))
    assert values(name, rows, weights)[0] == pytest.approx(whole(name, repeated), nan_ok=True)


@pytest.mark.parametrize("law", METRIC_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", NAMES)
@given(st.data())
def test_it_keeps_the_laws_of_metrics(name: str, law: Callable[[Metric, Judged], None], data: st.DataObject) -> None:
    law(metric(name), data.draw(predictions(name)))


@pytest.mark.parametrize("law", METRIC_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", METRICS)
def test_the_predictions_that_the_suite_draws_are_such_as_metrics_meet(
    name: str, law: Callable[[Metric, Judged], None]
) -> None:
    for rows in drawn_predictions(METRICS[name]):
        law(METRICS[name], rows)


@pytest.mark.parametrize("name", NAMES)
@given(st.data())
def test_one_that_is_right_everywhere_has_the_best_value(name: str, data: st.DataObject) -> None:
    rows = data.draw(predictions(name))
    scores = None if rows.scores is None else np.eye(3)[rows.truth]
    if name == "focus_f1":
        assume({0, 2} & set(rows.truth.tolist()))
    best = whole(name, judged(rows.truth, rows.truth, scores))
    assert best == pytest.approx(0 if metric(name).better == "less" else 1)


@given(predictions("auc"), st.integers(0, 2**32 - 1))
def test_areas_are_scikit_learns_with_weights_and_ties(rows: Judged, seed: int) -> None:
    weights = np.random.default_rng(seed).integers(0, 4, rows.count)
    areas, precisions = [], []
    for place in np.unique(rows.truth):
        own = rows.truth == place
        if weights[own].sum() == 0 or weights[~own].sum() == 0:
            continue
        areas.append(theirs.roc_auc_score(own, rows.scores[:, place], sample_weight=weights))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of thresholds that no weight reaches
            precisions.append(theirs.average_precision_score(own, rows.scores[:, place], sample_weight=weights))
    assume(areas)
    assert values("auc", rows, weights)[0] == pytest.approx(np.mean(areas))
    assert values("average_precision", rows, weights)[0] == pytest.approx(np.mean(precisions))


@given(predictions("accuracy"))
def test_accuracy_and_f1_are_scikit_learns(rows: Judged) -> None:
    present = np.unique(rows.truth)
    assert whole("accuracy", rows) == pytest.approx(theirs.accuracy_score(rows.truth, rows.predicted))
    ours = theirs.f1_score(rows.truth, rows.predicted, labels=present, average="macro", zero_division=0)
    assert whole("macro_f1", rows) == pytest.approx(ours)
    focus = [place for place in (0, 2) if place in present]
    if focus:
        ours = theirs.f1_score(rows.truth, rows.predicted, labels=focus, average="macro", zero_division=0)
        assert whole("focus_f1", rows) == pytest.approx(ours)


@given(predictions("mae"), st.integers(0, 2**32 - 1))
def test_errors_are_scikit_learns_with_weights(rows: Judged, seed: int) -> None:
    weights = np.random.default_rng(seed).integers(0, 4, rows.count)
    assume(len(set(rows.truth[weights > 0])) > 1)
    for name, function in (
        ("mae", theirs.mean_absolute_error),
        ("rmse", theirs.root_mean_squared_error),
        ("r2", theirs.r2_score),
    ):
        assert values(name, rows, weights)[0] == pytest.approx(
            function(rows.truth, rows.predicted, sample_weight=weights)
        )


def test_known_values() -> None:
    rows = judged(
        [0, 0, 1, 1, 2], [0, 1, 1, -1, 2], np.array([[3, 0, 0], [1, 2, 0], [0, 3, 1], [2, 1, 0], [0, 0, 9.0]])
    )
    assert whole("accuracy", rows) == pytest.approx(3 / 5)
    assert whole("macro_f1", rows) == pytest.approx((2 / 3 + 2 / 4 + 1) / 3)
    assert whole("focus_f1", rows) == pytest.approx((2 / 3 + 1) / 2)
    # a: 3, 1 against 0, 2, 0: five of six pairs; b: 3, 1 against 0, 2, 0: five of six; c: six of six
    assert whole("auc", rows) == pytest.approx((5 / 6 + 5 / 6 + 1) / 3)
    assert whole("average_precision", rows) == pytest.approx(((1 + 2 / 3) / 2 * 2 + 1) / 3)
    numbers = judged([1.0, 2.0, 3.0, 6.0], [1.0, 4.0, 3.0, 2.0])
    assert whole("mae", numbers) == pytest.approx(1.5)
    assert whole("rmse", numbers) == pytest.approx(5**0.5)
    assert whole("r2", numbers) == pytest.approx(1 - 20 / 14)


def test_where_the_rows_say_nothing_a_metric_says_so() -> None:
    one = judged([0, 0], [0, 1], np.array([[1, 0, 0], [0, 1, 0.0]]))
    assert np.isnan(whole("auc", one)) and np.isnan(whole("average_precision", one))
    assert np.isnan(whole("r2", judged([2.0, 2.0], [1.0, 3.0])))
    two = judged([0, 1], [0, 1], np.array([[1, 0, 0], [0, 1, 0.0]]))
    assert np.isnan(values("auc", two, [[2, 0], [1, 1]])).tolist() == [True, False]
    assert np.isnan(values("accuracy", two, [[0, 0]])).all()


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_how_it_is_read(name: str) -> None:
    found = METRICS[name]
    assert found.name == name and found.problems and found.title is not None
    assert (found.unit == "points") == (found.scale == 100)
    assert (found.better == "less") == (found.unit != "points" or name in ("wer", "cer"))  # rates of errors
    seen = found.foresee(2.0)
    assert seen is not None and seen.deviation > 0 and seen.step > 0 and seen.worth > 0 and seen.words.endswith(".")


@pytest.mark.parametrize("name", NAMES)
@given(st.data())
def test_what_one_unit_moves_a_metric_by_is_about_what_it_says(name: str, data: st.DataObject) -> None:
    """The root of the mean square, over the units that are there, of what twice their weight would change."""
    rows = data.draw(predictions(name))
    assume(rows.count >= 12 and np.isfinite(whole(name, rows)))
    if name == "focus_f1":
        assume({0, 2} <= set(rows.truth.tolist()))
    twice = np.ones((rows.count, rows.count)) + np.eye(rows.count)
    moved = float(np.sqrt(np.nanmean((values(name, rows, twice) - whole(name, rows)) ** 2)))
    step = metric(name).one_unit(rows)
    assert moved <= 4 * step


@given(predictions("macro_f1"))
def test_each_class_alone_is_the_metric_over_that_class_only(rows: Judged) -> None:
    each = METRICS["macro_f1"].each(rows)
    for place in np.unique(rows.truth):
        alone = METRICS["macro_f1"].only((CLASSES[place],))
        assert each[place] == pytest.approx(alone.values(alone.prepare(rows), np.ones((1, rows.count), np.float32))[0])


@pytest.mark.parametrize("problem", sorted({problem.name: problem for problem in PROBLEMS.values()}))
def test_a_problem_names_metrics_that_serve_it(problem: str) -> None:
    found = PROBLEMS[problem]
    named = {found.metric, found.stratum_metric, *found.metrics, *filter(None, [found.focus_metric])}
    assert {found.metric, found.stratum_metric} <= set(found.metrics)
    for name in named & set(METRICS):  # a problem from outside, which another test registered, brings its own
        assert {problem, ANY} & set(METRICS[name].problems), name
    if found.focus_metric is not None:
        assert METRICS[found.focus_metric].only(("a",)).name not in METRICS, "it is asked for by gate.focus alone"
