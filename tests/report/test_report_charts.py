"""The report's pictures: right, in order and inside their frame for any numbers."""

from __future__ import annotations

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.report.charts import (
    Effect,
    Stream,
    apart,
    dumbbell,
    flow,
    forest,
    histogram,
    marked,
    points,
    stacked,
    streams_of,
    ticks,
)


@given(st.floats(-200, 200), st.floats(0.001, 400))
def test_ticks_are_few_and_inside(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert len(found) <= 7
    assert all(low - 1e-5 <= value <= low + span + 1e-5 for value in found)


@given(st.lists(st.tuples(st.integers(0, 10**7), st.booleans()), max_size=18))
def test_the_flow_keeps_its_labels_in_order_and_inside(ends: list[tuple[int, bool]]) -> None:
    streams = [Stream(f"end {place}", "rejected", rows, kind) for place, (rows, kind) in enumerate(ends)]
    shown = sum(rows > 0 for rows, _ in ends)
    tops = [float(top) for top in re.findall(r"top:([\d.]+)%", flow(streams))]
    assert len(tops) == shown and tops == sorted(tops)
    assert all(0 <= top <= 100 for top in tops)


@given(st.lists(st.floats(0, 500), max_size=20))
def test_labels_stand_apart(centres: list[float]) -> None:
    placed = apart(sorted(centres), 20, 500)
    assert all(second - first >= 20 - 1e-6 for first, second in itertools.pairwise(placed))
    assert all(10 - 1e-6 <= each <= 490 + 1e-6 for each in placed)


@given(st.text("ab ,\u3042<", max_size=40), st.text("ab ,\u3042<", max_size=40))
def test_marking_changes_no_character(text: str, other: str) -> None:
    assert re.sub(r"</?mark>", "", marked(text, other)) == str(marked(text, None))


def test_labels_are_text_not_markup() -> None:
    hostile = '"><b>x'
    drawn = [
        forest([Effect(hostile, 1.0, 0.5, 1.5, group=hostile)], 0.5, hostile),
        flow([Stream(hostile, "rejected", 3)]),
        stacked([("real", 1)], 1, hostile),
        dumbbell(1, 2, (0, 10), hostile),
        marked(hostile, "x"),
    ]
    assert all(hostile not in each and "<b>x" not in each for each in drawn)


def test_charts_stand_at_the_edges() -> None:
    assert points(-0.04) == "0.0" and points(-1.25) in ("\u22121.2", "\u22121.3")
    assert "nan" not in forest([Effect("a", 0.0, 0.0, 0.0)], 0.0, "min_gain 0.0")
    assert "nan" not in histogram([5], []) and "nan" not in histogram([5, 5, 900000], [0])
    assert flow([]) and streams_of({"accepted": {}, "surplus": {}, "rejected": {}, "undelivered": {}})


def test_an_emoji_is_marked_and_cut_whole() -> None:
    assert str(marked("hi 👨‍👩‍👧‍👦 नमस्ते you", "hi नमस्ते you")) == "hi <mark>👨‍👩‍👧‍👦</mark> नमस्ते you"
    assert str(marked("ab❤️‍🔥cd", None, 4)) == "ab \u2026"
