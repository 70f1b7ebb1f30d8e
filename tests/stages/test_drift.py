"""Drift between row sets: a distance with known values; and a reference that no history of runs can change."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from augmill.tasks.rows.kinds.text.kind import script_of
from augmill.tasks.rows.schema import distance
from augmill.tasks.stages.drift import drift, profile_of, reference

COUNTS = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 50), max_size=5)


def rows(*pairs: tuple[str, str]) -> pa.Table:
    return pa.table({"stratum": [label for label, _ in pairs], "text": [text for _, text in pairs]})


@given(COUNTS, COUNTS, COUNTS)
def test_the_distance_is_a_distance_from_nought_to_one(
    one: dict[str, int], two: dict[str, int], three: dict[str, int]
) -> None:
    assume(sum(one.values()) and sum(two.values()) and sum(three.values()))
    assert distance(one, one) == 0
    assert distance(one, two) <= 1 + 1e-12
    assert distance(one, two) == pytest.approx(distance(two, one))
    assert distance(one, three) <= distance(one, two) + distance(two, three) + 1e-12
    assert distance(one, {name: 3 * count for name, count in one.items()}) == pytest.approx(0)  # shares, not counts


def test_known_distances() -> None:
    assert distance({"a": 1}, {"b": 1}) == 1
    assert distance({"a": 3, "b": 1}, {"a": 1, "b": 1}) == 0.25
    assert (distance({}, {}), distance({}, {"a": 1})) == (0, 1)


def test_a_profile_counts_labels_orders_of_magnitude_and_scripts() -> None:
    found = profile_of(rows(("x", "ab 1"), ("x", "дом!"), ("y", "退款"), ("y", "")), ("text",))
    assert found["labels"] == {"x": 2, "y": 2}
    assert found["lengths"] == {"0": 1, "2": 1, "3": 2}  # 0; 2-3; 4-7 characters
    assert found["characters"] == {"CJK": 2, "CYRILLIC": 3, "LATIN": 2, "N": 1, "P": 1, "Z": 1}
    assert [script_of(mark) for mark in ("\n", "\ue000", "é")] == ["C", "C", "LATIN"]


def test_each_way_is_seen_by_its_own_measure_and_the_largest_counts() -> None:
    base = profile_of(rows(("x", "money back"), ("y", "where is it")), ("text",))
    other_mix = profile_of(rows(("x", "money back"), ("x", "where is it")), ("text",))
    longer = profile_of(rows(("x", "money back" * 9), ("y", "where is it" * 9)), ("text",))
    script = profile_of(rows(("x", "деньги нам"), ("y", "где она там")), ("text",))
    assert drift(base, base, ("text",)) == {"labels": 0, "lengths": 0, "characters": 0, "largest": 0}
    assert drift(other_mix, base, ("text",)) == {"labels": 0.5, "lengths": 0, "characters": 0, "largest": 0.5}
    assert drift(longer, base, ("text",))["lengths"] == 1 and drift(longer, base, ("text",))["labels"] == 0
    moved = drift(script, base, ("text",))
    assert moved["characters"] > 0.8 and moved["largest"] == moved["characters"] and moved["lengths"] == 0


def shares(x: float) -> dict[str, dict[str, int]]:
    """A profile whose label mix is x to 1 - x."""
    return {"labels": {"a": round(1000 * x), "b": 1000 - round(1000 * x)}, "lengths": {"3": 1}, "characters": {"Z": 1}}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.01, 0.9))
def test_a_reference_changes_where_the_limit_is_passed_and_nothing_later_changes_it(
    mixes: list[float], limit: float
) -> None:
    profiles = {f"{at:02}": shares(mix) for at, mix in enumerate(mixes)}
    names = sorted(profiles)
    before = None
    for count in range(1, len(names) + 1):
        found = reference(names[:count], profiles.get, limit, ("text",))
        assert found is not None
        if before is not None:
            moved = drift(profiles[names[count - 1]], profiles[before], ("text",))["largest"] > limit
            assert found == (names[count - 1] if moved else before)
        before = found


def test_nights_without_a_profile_are_passed_over() -> None:
    profiles = {"2": shares(0.5), "4": shares(0.9)}
    assert reference("12345", profiles.get, 0.3, ("text",)) == "4"
    assert reference("123", profiles.get, 0.3, ("text",)) == "2"
    assert reference("1", profiles.get, 0.3, ("text",)) is None
