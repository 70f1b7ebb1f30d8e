"""What a check says of a row's class or target is the row's from then on, and its stratum follows."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.contracts import STRATUM, TARGET
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.stages.generate import as_judged

REGRESSION, CLASSES = PROBLEMS["regression"], PROBLEMS["classification"]
FITTED = {"edges": [10.0, 20.0]}
NUMBERS = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(NUMBERS, NUMBERS | st.none()), min_size=1))
def test_a_target_that_a_check_gives_counts_and_its_bin_follows(rows: list[tuple[float, float | None]]) -> None:
    own, given_ = zip(*rows, strict=True)
    delivered = pa.table({STRATUM: pa.array(["1: below 10"] * len(rows)), TARGET: pa.array(own, pa.float64())})
    verdicts = pa.table({"reason": pa.nulls(len(rows), pa.string()), TARGET: pa.array(given_, pa.float64())})
    judged = as_judged(delivered, verdicts, REGRESSION, FITTED)
    wanted = [mine if other is None else other for mine, other in rows]
    assert judged[TARGET].to_pylist() == wanted
    assert judged[STRATUM].to_pylist() == REGRESSION.stratum(pa.array(wanted, pa.float64()), FITTED).to_pylist()


def test_a_class_that_a_check_gives_counts_and_a_silent_check_changes_nothing() -> None:
    delivered = pa.table({STRATUM: ["a", "b"], "text": ["x", "y"]})
    silent = pa.table({"reason": pa.nulls(2, pa.string()), "score": pa.nulls(2, pa.float64())})
    assert as_judged(delivered, silent, CLASSES, {}) == delivered
    told = silent.append_column(STRATUM, pa.array([None, "a"], pa.string()))
    assert as_judged(delivered, told, CLASSES, {})[STRATUM].to_pylist() == ["a", "a"]
