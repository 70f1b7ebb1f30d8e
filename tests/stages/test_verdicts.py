"""What a check says of a row's class or target is the row's from then on, and its stratum follows."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.contracts import STRATUM, TARGET
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.rows.schema import SCORES
from augmill.tasks.stages.generate import as_judged, put_together

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


VERDICT = st.tuples(st.none() | st.sampled_from(["", "short", "\u9000"]), st.none() | st.floats(allow_nan=False))


def row_by_row(names: list[str], verdicts: list[list[tuple[Any, Any]]], rows: int) -> dict[str, pa.Array]:
    """The definition."""
    first: list[str | None] = [None] * rows
    also: list[list[str]] = [[] for _ in first]
    scores: list[list[dict[str, Any]]] = [[] for _ in first]
    for name, found in zip(names, verdicts, strict=True):
        for row, (reason, score) in enumerate(found):
            if reason is not None and first[row] is None:
                first[row] = f"{name}: {reason}"
            elif reason is not None:
                also[row].append(f"{name}: {reason}")
            if score is not None:
                scores[row].append({"name": name, "value": score})
    kinds = {"rejected": pa.string(), "also": pa.list_(pa.string()), "scores": SCORES}
    return {name: pa.array(of, kind) for (name, kind), of in zip(kinds.items(), (first, also, scores), strict=True)}


@given(st.integers(0, 4), st.lists(st.lists(VERDICT, min_size=4, max_size=4), max_size=4), st.booleans())
def test_the_first_refusal_owns_the_row_and_the_others_are_listed(rows: int, drawn: list[Any], cut: bool) -> None:
    verdicts = [found[:rows] for found in drawn]
    names = [f"check {at}" for at in range(len(verdicts))]
    tables = []
    for found in verdicts:
        reasons, scores = zip(*found, strict=True) if found else ((), ())
        table = pa.table({"reason": pa.array(reasons, pa.string()), "score": pa.array(scores, pa.float64())})
        tables.append(pa.concat_tables([table.slice(0, 1), table.slice(1)]) if cut else table)
    made = put_together(names, tables, rows)
    for name, wanted in row_by_row(names, verdicts, rows).items():
        made[name].validate(full=True)
        assert made[name].equals(wanted), name
