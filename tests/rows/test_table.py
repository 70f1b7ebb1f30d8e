"""Tables as a kind: what is read is given back, keys are frozen, and rows of texts and tables are found by both."""

from __future__ import annotations

import math
import tempfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from drawn_tables import FEW, tables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from augmill.tasks.contracts import ReadLimits
from augmill.tasks.errors import DataError
from augmill.tasks.rows.kinds import RowIndex, equal_keys, near_groups, show, stems, whole
from augmill.tasks.rows.kinds.table import Table
from augmill.tasks.rows.kinds.text import Text

TABLE, TEXT = Table(), Text()
UTC_MICROS = pa.timestamp("us", tz="UTC")
YEARS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999))
RECENT = st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def read(column: Any, type: str, max_chars: int = 100) -> tuple[pa.Array, list[str | None]]:
    column = column if isinstance(column, pa.Array) else pa.array(column)
    return TABLE.read(pa.chunked_array([column]), type, ReadLimits(max_chars))


def there_and_back(column: pa.Array, type: str) -> pa.Array:
    values, reasons = read(column, type)
    assert not any(reasons)
    return TABLE.release(values, column.type)


# --- Read, and given back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.int8(), st.integers(-128, 127)),
        (pa.uint32(), st.integers(0, 2**32 - 1)),
        (pa.int64(), st.integers(-(2**53), 2**53)),
        (pa.float64(), FLOATS),
        (pa.float32(), st.floats(width=32, allow_nan=False, allow_infinity=False)),
        (pa.float16(), st.floats(width=16, allow_nan=False, allow_infinity=False).map(np.float16)),
        (pa.decimal128(12, 3), st.decimals(-999_999_999, 999_999_999, places=3)),
        (pa.decimal128(38, 30), st.integers(-(10**14), 10**14).map(lambda number: Decimal(number).scaleb(-14))),
    ],
    ids=str,
)
def test_a_number_read_is_given_back(kind: pa.DataType, values: st.SearchStrategy[Any]) -> None:
    @given(st.lists(st.none() | values))
    def given_back(numbers: list[Any]) -> None:
        column = pa.array(numbers, kind)
        assert there_and_back(column, "number").equals(column)

    given_back()


@pytest.mark.parametrize("kind", [pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")], ids=str)
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
@given(moments=st.lists(st.none() | RECENT))
@settings(max_examples=15)
def test_a_moment_read_is_given_back(kind: pa.DataType, zone: str | None, moments: list[datetime | None]) -> None:
    whole = {
        "s": lambda at: at.replace(microsecond=0),
        "ms": lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000),
    }
    cut = whole.get(kind.unit, lambda at: at)
    naive = pa.array([at and cut(at) for at in moments], pa.timestamp("us")).cast(pa.timestamp(kind.unit))
    column = naive.view(pa.int64()).view(pa.timestamp(kind.unit, zone))
    assert there_and_back(column, "timestamp").equals(column)


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()], ids=str)
@given(days=st.lists(st.none() | st.dates(date(1, 1, 1), date(9999, 12, 31))))
def test_a_day_read_is_given_back(kind: pa.DataType, days: list[date | None]) -> None:
    column = pa.array(days, kind)
    assert there_and_back(column, "timestamp").equals(column)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["Sales", None, "a  b"]),
        pa.array(["Sales", None, "x", "Sales"]).dictionary_encode(),
        pa.array([True, None, False]),
        pa.array([3, None, -1], pa.int8()),
        pa.array(["Sales"], pa.large_string()),
        pa.nulls(2),
    ],
    ids=lambda column: str(column.type),
)
def test_a_category_read_is_given_back(column: pa.Array) -> None:
    assert there_and_back(column, "category").equals(column)


@given(st.lists(st.none() | FLOATS))
def test_a_number_written_as_text_reads_as_the_same_number(numbers: list[float | None]) -> None:
    values = pa.array(numbers, pa.float64())
    again, reasons = read(TABLE.release(values, pa.string()), "number")
    assert not any(reasons)
    assert again.equals(values)


@given(st.lists(st.none() | YEARS))
def test_a_moment_written_as_text_reads_as_the_same_moment(moments: list[datetime | None]) -> None:
    values = pa.array(moments, pa.timestamp("us")).cast(UTC_MICROS)
    written = TABLE.release(values, pa.string())
    again, reasons = read(written, "timestamp")
    assert not any(reasons)
    assert again.equals(values)
    assert there_and_back(written, "timestamp").equals(written)


def test_texts_of_numbers_are_written_as_people_write_them() -> None:
    values = pa.array([39.0, -0.5, 1e22, 1234567.0, 0.1, None])
    assert TABLE.release(values, pa.string()).to_pylist() == ["39", "-0.5", "1e+22", "1234567", "0.1", None]
    days = pa.array([0, 86_400_000_000 + 1_500_000, None], pa.int64()).view(UTC_MICROS)
    assert TABLE.release(days, pa.string()).to_pylist() == ["1970-01-01", "1970-01-02T00:00:01.500000", None]


def test_what_a_type_cannot_hold_is_given_as_the_nearest_that_it_can() -> None:
    values = pa.array([2.5, 3.5, 300.0, -1e300, math.nan, None])
    assert TABLE.release(values, pa.int8()).to_pylist() == [2, 4, 127, -128, None, None]
    assert TABLE.release(values, pa.uint64()).to_pylist()[2:4] == [300, 0]
    assert TABLE.release(pa.array([1e300]), pa.int64()).to_pylist()[0] > 2**63 - 2**11
    assert TABLE.release(values, pa.float32()).to_pylist()[3] == -float(np.finfo(np.float32).max)
    money = TABLE.release(pa.array([2.005, 2.006, 1e300, -1234.567]), pa.decimal128(5, 2))
    assert money.to_pylist() == [Decimal("2.00"), Decimal("2.01"), Decimal("999.99"), Decimal("-999.99")]
    far = pa.array([datetime(9000, 1, 1, tzinfo=UTC)], UTC_MICROS)
    assert TABLE.release(far, pa.timestamp("ns")).view(pa.int64()).to_pylist()[0] > 2**63 - 2**11
    before = pa.array([-1], pa.int64()).view(UTC_MICROS)
    assert TABLE.release(before, pa.date32()).to_pylist() == [date(1969, 12, 31)]


def test_a_category_that_is_no_value_of_its_column_is_said() -> None:
    with pytest.raises(DataError, match="holds bool"):
        TABLE.release(pa.array(["perhaps"]), pa.bool_())


@pytest.mark.parametrize("type", TABLE.types)
@pytest.mark.parametrize("said", [None, "", "  ", " ?", "NA ", "nan", "NULL", "-", "N/A", "\u00a0"])
def test_marks_of_missing_values_are_null_and_no_refusal(type: str, said: str | None) -> None:
    values, reasons = read(pa.array([said], pa.string()), type)
    assert (values.to_pylist(), reasons) == ([None], [None])


def test_none_is_an_answer() -> None:
    assert read(["None", "none"], "category")[0].to_pylist() == ["None", "none"]


@pytest.mark.parametrize(
    ("text", "number"),
    [(" 39 ", 39.0), ("+1.", 1.0), (".5", 0.5), ("-1e3", -1000.0), ("007", 7.0), ("1E-7", 1e-7), ("-0", 0.0)],
)
def test_texts_that_are_numbers(text: str, number: float) -> None:
    assert read([text], "number") == (pa.array([number]), [None])


@pytest.mark.parametrize("text", ["1,234", "1_000", "0x10", "12 kg", "None", "１２", "1e", "--1", "true"])
def test_texts_that_are_no_numbers(text: str) -> None:
    assert read(["1", text], "number")[1] == [None, "not_a_number"]


def test_infinite_numbers_are_refused_and_nan_is_missing() -> None:
    values, reasons = read([1.0, math.nan, math.inf, -math.inf], "number")
    assert values.to_pylist() == [1.0, None, None, None]
    assert reasons == [None, None, "infinite_number", "infinite_number"]
    assert read(["inf", "-Infinity", "1e999"], "number")[1] == ["infinite_number"] * 3


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-10-01", "2026-10-01T00:00:00+00:00"),
        (" 2026-10-01 05:30 ", "2026-10-01T05:30:00+00:00"),
        ("2026-10-01T05:30:01.25Z", "2026-10-01T05:30:01.250000+00:00"),
        ("2026-10-01T05:30:01.123456789", "2026-10-01T05:30:01.123456+00:00"),
        ("2026-10-01 05:30:00 +0200", "2026-10-01T03:30:00+00:00"),
        ("2026-10-01T05:30-01:00", "2026-10-01T06:30:00+00:00"),
    ],
)
def test_texts_that_are_moments(text: str, moment: str) -> None:
    values, reasons = read([text], "timestamp")
    assert ([value.isoformat() for value in values.to_pylist()], reasons) == ([moment], [None])


@pytest.mark.parametrize(
    "text", ["2026-02-30", "01/10/2026", "2026", "20261001", "0001-01-01T00:00+05:00", "2026-10-01T25:00", "today"]
)
def test_texts_that_are_no_moments(text: str) -> None:
    assert read([text], "timestamp")[1] == ["not_a_timestamp"]


def test_moments_that_no_calendar_shows_are_refused() -> None:
    far = pa.array([0, 10**14, -(10**14), None], pa.int64()).view(pa.timestamp("s"))
    values, reasons = read(far, "timestamp")
    assert reasons == [None, "not_a_timestamp", "not_a_timestamp", None]
    assert values.null_count == 3


def test_a_category_has_no_blanks_at_its_ends_and_a_limit() -> None:
    values, reasons = read([" Sales ", "a  b", "x" * 101, "x" * 100], "category")
    assert values.to_pylist() == ["Sales", "a  b", None, "x" * 100]
    assert reasons == [None, None, "too_long", None]
    assert set(TABLE.remedies) >= {"too_long", "not_a_number", "infinite_number", "not_a_timestamp"}


def test_a_number_has_one_id_whatever_it_was_written_in() -> None:
    columns = [
        pa.array(["0.1", "-0", "3"]),
        pa.array([Decimal("0.1"), Decimal(0), Decimal(3)], pa.decimal128(38, 30)),
        pa.array([0.1, -0.0, 3.0]),
    ]
    ids = [TABLE.id(pa.table({"number:a": read(column, "number")[0]})) for column in columns]
    assert ids[0] == ids[1] == ids[2]


# --- Keys ----------------------------------------------------------------------------------------------------------------


def test_ids_are_frozen() -> None:
    """Erasure lists hold hashes of them: bytes that change bring erased rows back."""
    rows = pa.table(
        {
            "number:age": pa.array([39.0, -0.0, None, 0.1]),
            "category:job": ["Sales", "  Cafe\u0301 \u00a0 bar ", None, "Ｓales"],
            "timestamp:hired": pa.array([1_700_000_000_123_456, -1, None, 0], pa.int64()).view(UTC_MICROS),
        }
    )
    assert [key.hex() for key in TABLE.id(rows)] == [
        "6e404380000000000063000000000000000553616c65737400060a2418202240",
        "6e0000000000000000630000000000000009436166c3a92062617274ffffffffffffffff",
        "000000",
        "6e3fb999999999999a630000000000000007efbcb3616c6573740000000000000000",
    ]
    assert stems(rows, rows.column_names)[:1] == ["08502882d04772baa075636b5926c1de"]


def test_equal_rows_have_numbers_of_six_digits_folded_categories_and_moments_of_one_second() -> None:
    rows = pa.table(
        {
            "number:a": [1.0, 1.0000004, 1.0, 1.0, 1.00001, 1.0, 1.0],
            "category:b": ["Sales rep", "Sales rep", "  sales  REP", "Ｓales rep", "Sales rep", "Sales-rep", None],
            "timestamp:c": pa.array([0, 999_999, 0, 1, 0, 0, 0], pa.int64()).view(UTC_MICROS),
        }
    )
    first, *others = TABLE.equal(rows)
    assert [key == first for key in others] == [True, True, True, False, False, False]
    assert len(set(TABLE.id(rows))) == 7


@given(st.lists(FLOATS, min_size=1))
def test_six_digits_are_those_that_are_written(numbers: list[float]) -> None:
    rounded = TABLE.equal(pa.table({"number:a": pa.array(numbers, pa.float64())}))
    assert rounded == TABLE.id(pa.table({"number:a": [float(f"{number:.6g}") for number in numbers]}))


def test_no_cell_runs_into_the_next() -> None:
    rows = pa.table({"category:a": ["ab", "a", "abc", None, "", "b"], "category:b": ["c", "bc", None, "abc", "b", ""]})
    for of in (TABLE.id, TABLE.equal):
        assert len(set(of(rows))) == 6


def test_columns_count_by_their_place_and_not_by_their_name() -> None:
    rows = pa.table({"number:a": [1.0, 2.0], "number:b": [2.0, 1.0]})
    assert TABLE.id(rows.rename_columns(["number:x", "number:y"])) == TABLE.id(rows)
    assert TABLE.id(rows.select(["number:b", "number:a"])) == TABLE.id(rows)[::-1]


# --- Profiles, features, what is shown -----------------------------------------------------------------------------------


def moved(one: pa.Array, other: pa.Array, name: str) -> float:
    return TABLE.drift(*(TABLE.profile(pa.table({name: values})) for values in (one, other)))[name]


def test_drift_sees_what_moved_and_little_else() -> None:
    random = np.random.default_rng(0)
    normal, years = random.normal(size=4000), random.integers(1990, 2020, 4000).astype(float)
    assert moved(normal[:2000], normal[2000:], "number:a") < 0.1
    assert moved(years[:2000], years[2000:], "number:a") < 0.1
    assert moved(years, years + 10, "number:a") > 0.3  # in one power of two
    assert moved(normal, normal + 1, "number:a") > 0.3
    assert moved(normal, 3 * normal, "number:a") > 0.3
    coarse, fine = [16 + step / 4 for step in range(64)], [16.5 + step for step in range(16)]
    assert TABLE.profile(pa.table({"number:a": coarse}))["number:a"]["bits"] == 4
    assert moved(coarse, fine, "number:a") == 0  # as far as both tell
    gaps = pa.array(normal, mask=np.arange(4000) % 2 == 0)
    assert moved(pa.array(normal), gaps, "number:a") == pytest.approx(0.5, abs=0.02)


def test_drift_of_categories_beyond_the_counted_ones_is_drift_of_the_rest() -> None:
    many = pa.array([f"c{number}" for number in range(60) for _ in range(100 - number)])
    assert moved(many, many, "category:a") == 0
    few = many.filter(pa.array([int(name[1:]) < 55 for name in many.to_pylist()]))
    assert 0 < moved(few, many, "category:a") < 0.1
    assert moved(pa.array(["a", "b"]), pa.array(["a", "c"]), "category:a") == 0.5
    assert moved(pa.array(["rest"]), pa.array(["nulls"]), "category:a") == 1


def test_a_profile_says_what_numbers_look_like() -> None:
    found = TABLE.profile(pa.table({"number:a": pa.array([1.0, 2.0, 3.0, None])}))["number:a"]
    assert (found["nulls"], found["least"], found["most"], found["mean"], found["whole"]) == (1, 1.0, 3.0, 2.0, True)
    assert found["std"] == pytest.approx(np.std([1, 2, 3]))
    days = pa.array([datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC), None], UTC_MICROS)
    assert TABLE.profile(pa.table({"timestamp:t": days}))["timestamp:t"] == {
        "nulls": 1,
        "months": {"2026-01": 1, "2026-02": 1},
    }


@given(tables(), tables())
def test_linear_features_are_finite_whatever_train_and_rows_are(train: pa.Table, rows: pa.Table) -> None:
    names = [name for name in train.column_names if name in rows.column_names]
    if names:
        assert np.isfinite(TABLE.features(train.select(names)).transform(rows.select(names))).all()
        assert not np.isinf(TABLE.tree_features(train.select(names)).transform(rows.select(names))).any()


def test_a_missing_number_is_in_the_middle_and_says_that_it_is_missing() -> None:
    train = pa.table({"number:a": pa.array([5.0, 6.0, 7.0, None])})
    made = TABLE.features(train).transform(train)
    assert made[1].tolist() == [*made[3].tolist()[:2], 0] == [0, 0, 0]
    assert made[3].tolist() == [0, 0, 1]
    assert np.isnan(TABLE.tree_features(train).transform(train)[3]).all()


def test_a_number_far_away_weighs_as_much_as_one_that_is_far() -> None:
    train = pa.table({"number:a": [0.0, 0.0, 0.0, 0.0, 1e300], "number:b": [-1.7e308, 1.7e308, 0.0, 1.0, 2.0]})
    made = TABLE.features(train).transform(train)
    assert np.abs(made).max() <= 5
    assert made[4, 0] > 1


def test_a_category_that_train_does_not_have_is_none_of_its_own() -> None:
    train = pa.table({"category:a": ["x"] * 5 + ["y"] * 3 + ["rare", "rarer", None]})
    rows = pa.table({"category:a": ["x", "X", "y", "rare", "rarer", None, "new"]})
    made = TABLE.features(train).transform(rows)
    assert made.tolist() == [[1, 0, 0, 0]] * 2 + [[0, 1, 0, 0]] + [[0, 0, 1, 0]] * 2 + [[0, 0, 0, 1]] + [[0, 0, 0, 0]]
    trees = TABLE.tree_features(train)
    codes = trees.transform(rows)[:, 0]
    assert codes[:5].tolist() == [0, 0, 1, 2, 3]
    assert np.isnan(codes[5:]).all()
    assert trees.categories == (4,)


def test_trees_take_more_categories_than_they_tell_apart() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    names = [f"c{number % 400}" for number in range(1200)]
    train = pa.table({"category:a": names, "number:b": [None, *map(float, range(1199))]})
    trees = TABLE.tree_features(train)
    made = trees.transform(train)
    assert trees.categories == (254, 0)
    assert np.nanmax(made[:, 0]) == 253
    model = HistGradientBoostingClassifier(categorical_features=[count > 0 for count in trees.categories], max_iter=2)
    model.fit(made, [number % 2 for number in range(1200)])


def test_moments_are_years_and_points_of_circles() -> None:
    moments = pa.array([datetime(2026, 1, 5, tzinfo=UTC) + timedelta(hours=6 * step) for step in range(28)], UTC_MICROS)
    made = TABLE.features(pa.table({"timestamp:t": moments})).transform(pa.table({"timestamp:t": moments[:2]}))
    years, rank, *circles = made[0]
    assert years < 0 and rank < 0
    assert circles == pytest.approx([0, 1, 0, 1, 0, 1])  # January, a Monday, midnight
    assert made[1][-2:].tolist() == pytest.approx([1, 0], abs=1e-6)  # six in the morning
    seconds = TABLE.tree_features(pa.table({"timestamp:t": moments})).transform(pa.table({"timestamp:t": moments[:2]}))
    assert seconds.tolist() == [[0], [6 * 3600]]


def test_a_row_is_shown_as_its_columns_and_not_escaped() -> None:
    rows = pa.table({"number:age": [39.0, None], "category:job": ["<b>\u202e", None]})
    assert TABLE.show(rows) == ["age=39, job=<b>\u202e", "age=?, job=?"]
    mixed = rows.append_column("text", pa.array(["hello", "you"]))
    assert show(mixed, ("text", "number:age"))[0] == "hello | age=39"


@pytest.mark.parametrize(
    ("values", "name", "type", "least", "most"),
    [
        ([0.5, 1.5], "x", "number", 0.9, 1),
        ([" 12", "13", "?"] * 20, "age", "category", 0.5, 0.8),
        ([str(number) for number in range(50)], "age", "number", 0.9, 1),
        (list(range(50)), "age", "number", 0.9, 1),
        (list(range(50)), "user_id", "number", 0, 0.2),
        ([1, 2, 3] * 20, "rank", "number", 0.5, 0.7),
        ([0, 1] * 20, "member", "category", 0.5, 0.8),
        ([1, 2, 3] * 20, "zip-code", "category", 0.5, 0.8),
        (["01067", "10115"] * 20, "area", "category", 0.5, 0.8),
        ([True, False], "x", "category", 0.9, 1),
        (["Sales", "Tech", "?"] * 20, "job", "category", 0.8, 1),
        (["2026-10-01", "2026-10-02 05:00"], "hired", "timestamp", 0.9, 1),
        ([date(2026, 10, 1)], "hired", "timestamp", 0.9, 1),
        ([f"where is card number {number}" for number in range(40)], "question", "category", 0, 0.1),
        (["?", ""], "x", "category", 0, 0),
        ([b"x"], "x", "category", 0, 0),
    ],
)
def test_a_column_is_guessed_by_type_values_and_name(
    values: list[Any], name: str, type: str, least: float, most: float
) -> None:
    found, sure = TABLE.sniff(pa.chunked_array([pa.array(values)]), name)
    assert found == type
    assert least <= sure <= most


def test_expectations_hold_of_tables_with_gaps_and_see_what_is_none() -> None:
    from augmill.tasks.validation.suites import run_suite

    rows = pa.table(
        {
            "number:a": pa.array([1.0, None], pa.float64()),
            "category:b": pa.array(["x", None]),
            "timestamp:c": pa.array([0, None], pa.int64()).view(UTC_MICROS),
            "number:empty": pa.nulls(2, pa.float64()),
        }
    )
    suite = [each for name in rows.column_names for each in TABLE.expectations(name, 0.0)]
    assert run_suite(rows, suite, {}, samples=False)["outcome"] == "passed"
    broken = pa.table(
        {
            "number:a": [1.0, math.inf],
            "category:b": ["x", ""],
            "timestamp:c": pa.array([0, 1]),
            "number:empty": pa.array(["1", "2"]),
        }
    )
    found = run_suite(broken, suite, {}, samples=False)["results"]
    bad = {each["kwargs"]["column"] for each in found if each["status"] != "passed"}
    assert bad == set(rows.column_names)


def test_diversity_tells_copies_from_rows_far_away() -> None:
    random = np.random.default_rng(0)
    real = pa.table({"number:a": random.normal(size=500), "number:b": random.normal(size=500)})
    away = pa.table({"number:a": random.normal(4, 1, 500), "number:b": random.normal(4, 1, 500)})
    copies, far = TABLE.diversity(real, real), TABLE.diversity(away, real)
    assert copies == {"distinct_rows": 1.0, "moved": 0.0, "distance": pytest.approx(0, abs=1e-3)}
    assert far["distance"] > 0.5
    assert far["moved"] > 0.5
    assert TABLE.diversity(real.take([0, 0, 0, 1]), real)["distinct_rows"] == 0.5


# --- Rows of texts and tables ----------------------------------------------------------------------------------------------

MIXED = ("text", "number:n", "category:c")
ORDERS = st.sampled_from(
    [MIXED, ("category:c", "text", "number:n"), ("text", "text_b", "number:n"), ("number:n", "text")]
)


@st.composite
def mixed(draw: Any) -> tuple[tuple[str, ...], pa.Table, pa.Table]:
    fields = draw(ORDERS)
    return fields, draw(tables(fields, FEW)), draw(tables(fields, FEW))


@cache
def similarity_of(one: tuple[str | None, ...], other: tuple[str | None, ...], least: float) -> float:
    """Of the texts of two rows; 0 below ``least``."""
    row, known = (pa.table({str(at): [text] for at, text in enumerate(texts)}) for texts in (one, other))
    return float(TEXT.near(known, least).nearest(row)[1][0])


def one_near(fields: tuple[str, ...], asked: pa.Table, known: pa.Table, least: float) -> dict[tuple[int, int], float]:
    """All pairs that are near, one by one: near in the texts and equal in the rest; of equal known rows the first."""
    texts, others = ([name for name in fields if name.startswith("text") == text] for text in (True, False))
    keys = equal_keys(known, fields)
    firsts = [row for row, key in enumerate(keys) if keys.index(key) == row]
    found = {}
    for query in range(asked.num_rows):
        row = asked.slice(query, 1)
        for position in firsts:
            other = known.slice(position, 1)
            if TABLE.equal(row.select(others)) == TABLE.equal(other.select(others)):
                said = [tuple(column[0].as_py() for column in part.select(texts).columns) for part in (row, other)]
                if similarity := similarity_of(said[0], said[1], least):
                    found[query, position] = similarity
    return found


@pytest.mark.parametrize("block", [3, 4096])
@given(rows=mixed(), least=st.sampled_from([0.5, 0.8, 1.0]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mixed_rows_are_near_if_their_texts_are_near_and_the_rest_is_equal(
    block: int, rows: tuple[tuple[str, ...], pa.Table, pa.Table], least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "BLOCK", block)
    fields, known, asked = rows
    wanted = one_near(fields, asked, known, least)
    index = RowIndex.build(known, fields, least)
    query, position, similarity = index.matches(asked)
    pairs = list(zip(query.tolist(), position.tolist(), strict=True))
    assert dict(zip(pairs, similarity.tolist(), strict=True)) == wanted
    assert pairs == sorted(wanted)
    best, value = index.nearest(asked)
    for row in range(asked.num_rows):
        near = max(((found, -at) for (one, at), found in wanted.items() if one == row), default=(0.0, 1))
        assert (value[row], -best[row]) == near
    with tempfile.TemporaryDirectory() as directory:
        files = index.save(Path(directory), "rows")
        assert set(files) == {path.name for path in Path(directory).iterdir()}
        loaded = RowIndex.load(Path(directory), "rows")
        for one, other in zip(loaded.matches(asked), (query, position, similarity), strict=True):
            assert one.tolist() == other.tolist()
        assert loaded.nearest(asked)[0].tolist() == best.tolist()


@given(tables(most=10), st.sampled_from([0.5, 1.0]))
@settings(max_examples=30)
def test_rows_of_tables_alone_are_found_by_equality(rows: pa.Table, least: float) -> None:
    fields = tuple(rows.column_names)
    keys = TABLE.equal(rows)
    index = RowIndex.build(rows, fields, least)
    assert index.nearest(rows)[0].tolist() == [keys.index(key) for key in keys]
    with tempfile.TemporaryDirectory() as directory:
        index.save(Path(directory), "rows")
        assert RowIndex.load(Path(directory), "rows").nearest(rows)[0].tolist() == [keys.index(key) for key in keys]


@given(mixed(), st.sampled_from([0.5, 0.8, 1.0]))
@settings(max_examples=60)
def test_of_near_mixed_rows_the_first_stays(rows: tuple[tuple[str, ...], pa.Table, pa.Table], least: float) -> None:
    fields, known, _ = rows
    near = one_near(fields, known, known, least)
    keys = equal_keys(known, fields)
    kept: list[int] = []
    for row in range(known.num_rows):
        if not any((row, keys.index(keys[other])) in near for other in kept):
            kept.append(row)
    assert np.flatnonzero(near_groups(known, fields, least)).tolist() == kept


def test_a_mixed_row_that_left_takes_none_with_it() -> None:
    chain = ["where is my new card", "where is my new card now", "where is my new card now tell"]
    rows = pa.table({"text": [*chain, chain[1]], "number:n": [1.0, 1.0, 1.0, 2.0]})
    assert near_groups(rows, ("text", "number:n"), 0.8).tolist() == [True, False, True, True]


@given(mixed())
@settings(max_examples=30)
def test_whole_rows_are_profiled_by_all_their_kinds(rows: tuple[tuple[str, ...], pa.Table, pa.Table]) -> None:
    fields, known, _ = rows
    if "text" in fields and known["text"].null_count == 0:
        found = whole.profile(known, fields)
        assert set(found) == {"lengths", "characters", *(name for name in fields if not name.startswith("text"))}
        assert set(whole.drift(found, found, fields)) == set(found)
        assert not any(whole.drift(found, found, fields).values())
