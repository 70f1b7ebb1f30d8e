"""The kind ``items``: near rows are found exactly, lists are read as they come or as JSON, dirt is refused with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augmill.tasks.contracts import ReadLimits
from augmill.tasks.rows.kinds.items import ITEMS, Items
from augmill.testing.kinds import kind_laws

LIMITS = ReadLimits(10)
HISTORIES = st.lists(st.one_of(st.none(), st.lists(st.sampled_from("abcdefg"), max_size=8)), max_size=9)


def table(rows: list[Any], name: str = "items:seen") -> pa.Table:
    return pa.table({name: pa.array(rows, ITEMS)})


def read(column: pa.Array) -> tuple[list[Any], list[str | None]]:
    values, reasons = Items().read(pa.chunked_array([column]), "items", LIMITS)
    return values.to_pylist(), reasons


@given(HISTORIES, HISTORIES, st.sampled_from([0.5, 0.6, 0.8, 0.95, 1.0]))
def test_near_rows_are_those_of_the_plain_definition(known: list[Any], asked: list[Any], threshold: float) -> None:
    query, position, similarity = Items().near(table(known), threshold).matches(table(asked))
    wanted = {}
    for one, row in enumerate(asked):
        for at, other in enumerate(known):
            if known.index(other) < at:
                continue  # of equal rows the first alone
            both, either = set(row or ()) & set(other or ()), set(row or ()) | set(other or ())
            near = 1.0 if row == other else min(0.9999, len(both) / len(either)) if both else 0.0
            if near >= threshold:
                wanted[one, at] = near
    found = dict(zip(zip(query.tolist(), position.tolist(), strict=True), similarity.tolist(), strict=True))
    assert found == pytest.approx(wanted)


@given(HISTORIES)
@settings(max_examples=20)
def test_histories_keep_all_laws_whatever_stands_in_them(rows: list[Any]) -> None:
    kind_laws(Items(), [table(rows)])


def test_lists_of_any_width_and_their_json_are_the_same_rows() -> None:
    numbers = [[3, 1], [2]]
    columns = [
        pa.array(numbers, pa.list_(pa.int32())),
        pa.array(numbers, pa.large_list(pa.int64())),
        pa.array([["3", "1"], ["2"]], pa.list_(pa.large_string())),
        pa.array([json.dumps(row) for row in numbers]),
    ]
    for column in columns:
        assert Items().takes(column.type, "items")
        assert read(column) == ([["3", "1"], ["2"]], [None, None])
    for column in columns[:2]:
        assert Items().release(pa.array([["3", "1"], ["2"]], ITEMS), column.type).to_pylist() == numbers


def test_what_is_no_list_of_names_is_refused_with_its_reason() -> None:
    texts = ["[1, 2]", "1, 2", '{"a": 1}', "[1.5]", "[true]", '["a", [1]]', "[]", '["a", ""]', '["a", null]', None]
    wrong = [None, "not_items", "not_items", "not_items", "not_items", "not_items"]
    wrong += ["no_items", "empty_item", "empty_item", "no_items"]
    assert read(pa.array(texts))[1] == wrong
    assert read(pa.array([["short"], ["far too long a name"], [None]], ITEMS))[1] == [None, "too_long", "empty_item"]
    assert read(pa.array([["a"] * 10_001], ITEMS))[1] == ["too_many_items"]
    assert read(pa.array(["[" * 100_000, '["\\ud800"]', '["\\u00fc"]']))[1] == ["not_items", "not_items", None]
    assert set(filter(None, wrong)) | {"too_long", "too_many_items"} == set(Items.remedies)


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.list_(pa.int64(), 3), pa.list_(ITEMS), pa.int64(), pa.binary()]
)
def test_other_columns_are_not_taken(kind: pa.DataType) -> None:
    assert not Items().takes(kind, "items")


def test_a_column_of_lists_is_told_from_texts() -> None:
    for column in (pa.array([["a"], ["b"]], ITEMS), pa.array(["[1, 2]", "[3]"])):
        assert Items().sniff(pa.chunked_array([column]), "x")[1] > 0.9
    for column in (pa.array(["[1, 2]", "no list"]), pa.array([1, 2]), pa.array([[]], ITEMS)):
        assert Items().sniff(pa.chunked_array([column]), "x")[1] == 0.0


def test_items_that_run_together_are_not_the_same_row() -> None:
    rows = [["ab", "c"], ["a", "bc"], ["abc"], ["a", "b", "c"], ["1:a"], ["1", "a"]]
    assert len(set(Items().id(table(rows)))) == len(rows)
    assert (
        len(
            set(
                Items().id(pa.table({"items:a": pa.array([["a"], []], ITEMS), "items:b": pa.array([[], ["a"]], ITEMS)}))
            )
        )
        == 2
    )


def test_popular_items_are_not_looked_up(tmp_path: Path) -> None:
    """Ten thousand users who all have the same ten items and one hundred of their own: a second, not an hour."""
    rng = np.random.default_rng(0)
    rows = [[*map(str, range(10)), *(f"i{n}" for n in rng.integers(0, 10**6, 40))] for _ in range(5000)]
    index = Items().near(table(rows), 0.8)
    assert max(map(len, index.by_token.values())) < 50
    assert (index.nearest(table(rows[:50]))[0] == np.arange(50)).all()
