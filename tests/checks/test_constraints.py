"""Constraints: rules of the user's about one row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from checking import TABLE_FIELDS, Bench, people, with_cells
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.checks.constraints import Constraints, ConstraintsOptions
from augmill.tasks.errors import UserError

RULES = ("age >= 18", "-9 <= rate <= 2 * age", "town != 'Rom' or age < 30", "hired > '2025-12-31'")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench("constraints", tmp_path_factory.mktemp("constraints"), people(200), rules=RULES)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"age": 40.0, "rate": 3.0}, None),
        ({"age": 17.0, "rate": 3.0}, "breaks_rule_1"),
        ({"age": 40.0, "rate": 80.0}, None),
        ({"age": 40.0, "rate": 80.1}, "breaks_rule_2"),
        ({"age": 17.0, "rate": 41.0}, "breaks_rule_1"),
        ({"age": 40.0, "rate": 3.0, "town": "Rom"}, "breaks_rule_3"),
        ({"age": 29.0, "rate": 3.0, "town": "Rom"}, None),
        ({"age": None, "rate": 3.0}, None),  # null breaks nothing, as in a CHECK of SQL
        ({"age": 40.0, "rate": float("nan")}, None),
    ],
)
def test_a_row_breaks_the_first_rule_that_is_false(bench: Bench, cells: dict[str, Any], reason: str | None) -> None:
    assert bench.reasons(with_cells(people(200).slice(3, 1), **cells)) == [reason]


NUMBERS = st.none() | st.integers(-5, 5)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20))
def test_a_rule_says_of_a_row_what_python_says(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[int | None, int | None]]
) -> None:
    rows = people(len(pairs))
    for at, name in enumerate(("number:age", "number:rate")):
        values = [None if pair[at] is None else float(pair[at] or 0) for pair in pairs]
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values, pa.float64()))
    rule = "age + rate > 0 and not (abs(age) == 3) or max(age, rate) in [1, 4]"
    made = Bench("constraints", tmp_path_factory.mktemp("c"), rows, rules=(rule,), max_real_refused=1)
    broken = [
        None not in pair and not eval(rule, {"age": pair[0], "rate": pair[1]}) for pair in pairs
    ]  # where a cell is empty, see below
    found = [reason is not None for reason in made.reasons(rows)]
    assert [one for one, pair in zip(found, pairs, strict=True) if None not in pair] == [
        one for one, pair in zip(broken, pairs, strict=True) if None not in pair
    ]
    assert made.learnt["real_refused"] == pytest.approx(sum(found) / len(found), abs=1e-6)


@pytest.mark.parametrize(
    ("rule", "refused"),
    [
        ("rate > 0", False),
        ("rate > 0 and age > 50", True),  # false whatever the rate is
        ("rate > 0 or age > 50", False),
        ("rate > 0 or age < 50", False),
        ("not (rate > 0)", False),
        ("rate in [1, 2]", False),
        ("rate not in [1, 2]", False),
        ("rate is not None", True),
        ("rate is None", False),
        ("min(rate, age) > 50", True),  # the least of what is known
        ("sum(rate, age) > 50", False),
    ],
)
def test_what_an_empty_cell_leaves_open_breaks_nothing(tmp_path: Path, rule: str, refused: bool) -> None:
    row = with_cells(people(9).slice(3, 1), rate=None, age=40.0)
    made = Bench("constraints", tmp_path, people(9), rules=(rule,), max_real_refused=1)
    assert made.reasons(row) == ["breaks_rule_1" if refused else None]


def test_a_rule_that_too_many_real_rows_break_is_left_out_and_said(tmp_path: Path) -> None:
    made = Bench("constraints", tmp_path, people(200), rules=("age < 21", "age >= 20"))
    assert [rule["abstains"] for rule in made.learnt["rules"]] == [True, False] and not made.learnt["abstains"]
    assert "leaves out 'age < 21' (9" in made.learnt["why"] and made.learnt["real_refused"] == 0
    assert made.reasons(with_cells(people(200).slice(3, 1), age=19.0)) == ["breaks_rule_2"]


def test_the_class_and_what_is_learnt_have_names_of_their_own(tmp_path: Path) -> None:
    first = people(200)["stratum"][0].as_py()
    made = Bench("constraints", tmp_path, people(200), rules=(f"label != '{first}' or age < 0",), max_real_refused=1)
    refused = [reason is not None for reason in made.reasons(people(200))]
    assert refused == [stratum == first for stratum in people(200)["stratum"].to_pylist()]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("age <= ", "cannot be read"),
        ("age = 3", "cannot be read"),
        ("agee > 3", "did you mean 'age'"),
        ("col('rates') > 3", "did you mean 'rate'"),
        ("age.real > 3", "has more"),
        ("open('x') > 3", "has more"),
        ("__import__('os')", "has more"),
        ("age in town", "has more"),
        ("[x for x in age]", "has more"),
        ("(lambda: age)() > 3", "has more"),
        ("age == [1, 2]", "has more"),
        ("(age, rate) < 2", "has more"),
        ("age in [-rate]", "has more"),
        ("age != None", "is None"),
        ("abs < 3", "names no column 'abs'"),
        ("col < 3", "names no column 'col'"),
        ("(" * 400 + "age" + ")" * 400, "cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_said_before_a_run(rule: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Constraints(ConstraintsOptions((rule,))).preflight(TABLE_FIELDS)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("age + 1", "expected a condition"),
        ("age > 'x'", "cannot be asked of these columns"),
        ("hired > 'soon'", "cannot be asked of these columns"),
        ("town + 1 > 2", "cannot be asked of these columns"),
        ("1 < 2", "expected a condition"),
        ("round(age, rate) > 2", "cannot be asked of these columns"),
        ("not age", "cannot be asked of these columns"),
        ("abs() > 1", "cannot be asked of these columns"),
        ("days(3) > age", "cannot be asked of these columns"),
        ("age < 1" + "0" * 30, "cannot be asked of these columns"),
        ("-" * 3000 + "age < 1", "cannot be"),
    ],
)
def test_what_does_not_fit_the_columns_is_refused(tmp_path: Path, rule: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Bench("constraints", tmp_path, people(200), rules=(rule,))


def test_columns_of_any_name_and_the_days_between_moments_can_be_asked(tmp_path: Path) -> None:
    rows = people(200).rename_columns(
        [{"number:rate": "number:net price"}.get(name, name) for name in people(1).column_names]
    )
    fields = ("number:age", "number:net price", "category:town", "timestamp:hired")
    rules = (
        "col('net price') <= age",
        "days(hired - hired) == 0",
        "round(age / 3, 1) * 3 < age + 0.2",
        "len(town) >= 3",
    )
    made = Bench("constraints", tmp_path, rows, fields=fields, rules=rules)
    assert [rule["real_refused"] for rule in made.learnt["rules"]] == [0.0] * 4


@pytest.mark.parametrize(
    ("rule", "refused"),
    [
        ("rate <= age * (1 / 2)", False),  # 0.5, not the 0 of whole numbers
        ("rate <= age * 2 ** -1", False),
        ("age < 10 ** 19", False),
        ("len(town) / 2 == 1.5", False),
        ("len(town) / (len(town) - 3) > 9", False),  # by zero: unknown
        ("(rate - rate) / (age - age) > 9", False),
        ("rate in [-1, 3]", False),
        ("rate in (-1, 2.5)", True),
    ],
)
def test_numbers_are_reckoned_as_python_does(tmp_path: Path, rule: str, refused: bool) -> None:
    row = with_cells(people(9).slice(3, 1), rate=3.0, age=40.0, town="Rom")
    made = Bench("constraints", tmp_path, people(9), rules=(rule,), max_real_refused=1)
    assert made.reasons(row) == ["breaks_rule_1" if refused else None]


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_sums_of_cents_are_what_they_are_read_as(tmp_path_factory: pytest.TempPathFactory, net: int, tax: int) -> None:
    rows = with_cells(people(1), age=net / 100, rate=tax / 100)
    rule = f"round(age + rate, 2) == {(net + tax) / 100!r}"
    made = Bench("constraints", tmp_path_factory.mktemp("c"), rows, rules=(rule,), max_real_refused=1)
    assert made.reasons(rows) == [None]
