"""Metrics from counts agree with scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, recall_score

from augmill.tasks.metrics import METRICS
from augmill.tasks.metrics.classification import counts, recall


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_accuracy_macro_f1_and_recall_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, said = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    present = np.unique(truth)
    found = counts(truth, said, 5)
    held = tuple(part[present] for part in found)
    assert METRICS["accuracy"](*found) == pytest.approx(accuracy_score(truth, said))
    assert METRICS["macro_f1"](*held) == pytest.approx(f1_score(truth, said, labels=present, average="macro"))
    assert recall(*held) == pytest.approx(recall_score(truth, said, labels=present, average=None))


def test_a_prediction_of_no_class_counts_as_wrong_and_claims_nothing() -> None:
    right, claimed, actual = counts(np.array([0, 1, 1]), np.array([0, -1, 1]), 2)
    assert (right.tolist(), claimed.tolist(), actual.tolist()) == ([1, 1], [1, 1], [1, 2])
