"""Ranges: cells that no train row could hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from checking import TABLE_FIELDS, Bench, people, with_cells

from augmill.tasks.rows.kinds import real_schema


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench("ranges", tmp_path_factory.mktemp("ranges"), people(500))


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({}, None),
        ({"age": 19.0}, "out_of_range"),
        ({"age": 61.0}, "out_of_range"),
        ({"age": 33.5}, "fraction"),
        ({"age": None}, "missing"),
        ({"rate": None}, None),
        ({"rate": 33.0}, "out_of_range"),
        ({"town": "Ulm"}, None),
        ({"town": "ulm"}, "unknown_category"),
        ({"town": "Rom"}, "unknown_category"),
        ({"town": None}, None),
        ({"hired": datetime(2025, 12, 31, 23, tzinfo=UTC)}, "out_of_range"),
        ({"hired": datetime(2026, 1, 9, 5, tzinfo=UTC)}, None),
        ({"hired": None}, "missing"),
        ({"age": 19.0, "town": "Rom"}, "out_of_range"),  # in the order of the fields
    ],
)
def test_what_train_rows_do_not_hold_is_refused(bench: Bench, cells: dict[str, Any], reason: str | None) -> None:
    row = with_cells(people(500).slice(3, 1), **cells)
    assert bench.reasons(row) == [reason]


def test_the_score_is_the_share_of_cells_in_order(bench: Bench) -> None:
    rows = [with_cells(people(1), **cells) for cells in ({}, {"age": 1.0}, {"age": 1.0, "town": "Rom"})]
    assert bench.judge(pa.concat_tables(rows))["score"].to_pylist() == [1.0, 0.75, 0.5]


def test_train_rows_pass_and_few_other_real_ones_do_not(bench: Bench) -> None:
    assert not bench.learnt["abstains"] and 0 < bench.learnt["real_refused"] < 0.05
    assert bench.reasons(people(500)) == [None] * 500
    fresh = bench.reasons(people(2000, seed=3))
    assert np.mean([reason is not None for reason in fresh]) == pytest.approx(bench.learnt["real_refused"], abs=0.02)


def test_leeway_is_a_share_of_the_interquartile_range(tmp_path: Path) -> None:
    train = people(500)
    bench = Bench("ranges", tmp_path, train, leeway=0.5)
    age = train["number:age"].to_numpy()
    room = 0.5 * np.subtract(*np.quantile(age, [0.75, 0.25], method="nearest"))
    edges = [age.max() + np.floor(room), age.max() + np.floor(room) + 1, age.min() - np.floor(room)]
    rows = pa.concat_tables([with_cells(train.slice(0, 1), age=edge) for edge in edges])
    assert bench.reasons(rows) == [None, "out_of_range", None]
    moment = datetime(2026, 11, 10, tzinfo=UTC)
    assert bench.reasons(with_cells(train.slice(0, 1), hired=moment)) == [None]
    assert bench.reasons(with_cells(train.slice(0, 1), hired=moment + timedelta(days=300))) == ["out_of_range"]


def test_it_abstains_for_a_column_that_real_rows_never_repeat(tmp_path: Path) -> None:
    """Names of which each row has its own, and a number that a tenth of the rows have alone."""
    train = people(200)
    names = pa.array([f"town {at}" for at in range(200)])
    bench = Bench(
        "ranges", tmp_path, train.set_column(train.column_names.index("category:town"), "category:town", names)
    )
    columns = bench.learnt["columns"]
    assert [name for name, column in columns.items() if column["abstains"]] == ["category:town"]
    assert columns["category:town"]["real_refused"] == 1
    assert not bench.learnt["abstains"] and bench.learnt["real_refused"] < 0.1
    assert "category:town" in bench.learnt["why"]
    assert bench.reasons(with_cells(train.slice(0, 1), town="Rom", age=35.0)) == [None]
    assert bench.reasons(with_cells(train.slice(0, 1), town="Rom", age=99.0)) == ["out_of_range"]


def test_columns_that_together_would_refuse_too_much_are_not_all_judged(tmp_path: Path) -> None:
    """Each of 40 columns refuses a few of 60 rows; all of them, most."""
    rng = np.random.default_rng(0)
    fields = tuple(f"number:x{at}" for at in range(40))
    columns = {"row_id": [f"r{at}" for at in range(60)], "stratum": ["a", "b"] * 30}
    train = pa.table(columns | {name: rng.normal(size=60) for name in fields}, real_schema(fields))
    bench = Bench("ranges", tmp_path, train, fields=fields)
    judged = [name for name, column in bench.learnt["columns"].items() if not column["abstains"]]
    assert 1 <= len(judged) < 20
    assert 0 < bench.learnt["real_refused"] <= 0.1


def test_a_target_is_judged_last(tmp_path: Path) -> None:
    train = people(300, target=True)
    bench = Bench("ranges", tmp_path, train)
    row = train.slice(0, 1)
    rows = [with_cells(row, target=1e6), with_cells(row, target=None), with_cells(row, target=1e6, age=1.0), row]
    assert bench.reasons(pa.concat_tables(rows)) == ["target_out_of_range", "target_out_of_range", "out_of_range", None]


def test_a_column_without_any_value_in_train_takes_none(tmp_path: Path) -> None:
    train = with_cells(people(100), rate=None, town=None)
    bench = Bench("ranges", tmp_path, train)
    row = train.slice(0, 1)
    rows = [row, with_cells(row, rate=0.0), with_cells(row, town="Ulm")]
    assert bench.reasons(pa.concat_tables(rows)) == [None, "out_of_range", "unknown_category"]


def test_no_rows_are_no_error(tmp_path: Path) -> None:
    bench = Bench("ranges", tmp_path, people(5).slice(0, 0), fields=TABLE_FIELDS)
    assert bench.judge(people(3)).num_rows == 3
