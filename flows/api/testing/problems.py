"""The laws of problems, over some values of a target's column, good ones and bad."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from augmill.tasks.contracts import ANY, TARGET, Problem, ReadTarget
from augmill.tasks.metrics import METRICS


def each_value_is_read_or_refused_with_a_reason(problem: Problem, values: Sequence[Any], rules: Any = None) -> None:
    found = _read(problem, values, rules)
    assert any(not each.reason for each in found), "none of the values is a target"
    for value, each in zip(values, found, strict=True):
        assert bool(each.reason) == (each.stratum is None), f"{value!r}: a stratum, or a reason for having none"
        assert not each.reason or each.reason in problem.remedies, f"{value!r}: no remedy for {each.reason}"


def a_value_is_read_the_same_whatever_came_before_it(
    problem: Problem, values: Sequence[Any], rules: Any = None
) -> None:
    there, back = _read(problem, values, rules), _read(problem, values[::-1], rules)[::-1]
    assert [each.stratum for each in there] == [each.stratum for each in back], (
        "read in another order, a stratum differs"
    )
    assert [each.reason for each in there] == [each.reason for each in back], "read in another order, a reason differs"


def strata_follow_from_targets(problem: Problem, values: Sequence[Any], rules: Any = None) -> None:
    if problem.target is None:
        return  # the stratum says it all
    good = [each for each in _read(problem, values, rules) if not each.reason]
    targets = pa.array([each.value for each in good], problem.target)
    fitted = problem.fit_strata(pa.table({TARGET: targets}))
    assert problem.fits_strata or not fitted, "it fits strata and does not say so (`fits_strata`)"
    found = problem.stratum(targets, fitted)
    assert found.null_count == 0 and len(found) == len(good), "a stratum for every target"
    if not problem.fits_strata:
        assert found.to_pylist() == [each.stratum for each in good], "read and computed strata differ"


def its_metrics_serve_it(problem: Problem, values: Sequence[Any], rules: Any = None) -> None:
    focus = [problem.focus_metric] if problem.focus_metric else []
    for name in dict.fromkeys([problem.metric, *problem.metrics, problem.stratum_metric, *focus]):
        assert {problem.name, ANY} & set(METRICS[name].problems), f"the metric {name} is of no {problem.name}"
    assert problem.metric in problem.metrics, "the metric that judges is among those that are reported"


def _read(problem: Problem, values: Sequence[Any], rules: Any) -> list[ReadTarget]:
    reader = problem.reader(rules)
    return [reader.read(value) for value in values]


PROBLEM_LAWS: tuple[Callable[..., None], ...] = (
    each_value_is_read_or_refused_with_a_reason,
    a_value_is_read_the_same_whatever_came_before_it,
    strata_follow_from_targets,
    its_metrics_serve_it,
)
