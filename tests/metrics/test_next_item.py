"""NDCG@10 and Recall@10, against their plain definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.contracts import Judged
from augmill.tasks.metrics import METRICS

ITEMS = [f"i{at}" for at in range(14)]


def value(name: str, judged: Judged, weights: Any = None) -> float:
    metric = METRICS[name]
    given = np.ones((1, judged.count), np.float32) if weights is None else np.array([weights], np.float32)
    return float(metric.values(metric.prepare(judged), given)[0])


@given(st.lists(st.tuples(st.sampled_from(ITEMS), st.permutations(ITEMS), st.integers(0, 3)), min_size=1, max_size=9))
def test_they_are_means_over_users_by_weight(users: list[tuple[str, list[str], int]]) -> None:
    ranked = np.empty(len(users), object)
    ranked[:] = [each[1] for each in users]
    judged = Judged(np.array([each[0] for each in users], object), ranked, None, np.arange(len(users)), len(users))
    weights = [float(each[2]) for each in users]
    for name, of in (("ndcg", lambda at: 1 / math.log2(at + 2)), ("recall", lambda at: 1.0)):
        parts = [of(each[1].index(each[0])) if each[1].index(each[0]) < 10 else 0.0 for each in users]
        assert value(name, judged) == pytest.approx(np.mean(parts), abs=1e-6)
        if sum(weights):
            assert value(name, judged, weights) == pytest.approx(np.average(parts, weights=weights), abs=1e-6)
        else:
            assert math.isnan(value(name, judged, weights))


def test_a_short_or_empty_answer_is_an_answer() -> None:
    ranked = np.empty(3, object)
    ranked[:] = [["a"], [], ["b", "a"]]
    judged = Judged(np.array(["a"] * 3, object), ranked, None, np.arange(3), 3)
    assert value("recall", judged) == pytest.approx(2 / 3)
    assert value("ndcg", judged) == pytest.approx((1 + 1 / math.log2(3)) / 3)
