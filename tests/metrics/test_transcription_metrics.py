"""Word and character error rates are jiwer's, of texts without case and punctuation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.contracts import Judged
from augmill.tasks.metrics import METRICS
from augmill.tasks.metrics.transcription import edit_distance

ITEMS = st.lists(st.sampled_from("abcd"), max_size=90)
# (said, heard, WER, CER) by jiwer 4.0.0.
KNOWN = [
    ("the cat sat on the mat", "the cat sat mat", 0.333333, 0.318182),
    ("one two three", "one two three", 0.0, 0.0),
    ("seven", "eleven seven", 1.0, 1.4),
    ("a b c d", "d c b a", 1.0, 0.571429),
    ("zero nine", "", 1.0, 1.0),
]


def value(name: str, truth: list[str], heard: list[str]) -> float:
    arrays: list[Any] = [np.empty(len(truth), dtype=object) for _ in range(2)]
    arrays[0][:], arrays[1][:] = truth, heard
    metric, rows = METRICS[name], Judged(*arrays, None, np.arange(len(truth)), len(truth))
    return float(metric.values(metric.prepare(rows), np.ones((1, len(truth)), np.float32))[0])


def least_edits(one: list[str], other: list[str]) -> int:
    """The plain table."""
    row = list(range(len(other) + 1))
    for at, item in enumerate(one, 1):
        new = [at]
        for place, met in enumerate(other, 1):
            new.append(min(row[place] + 1, new[-1] + 1, row[place - 1] + (item != met)))
        row = new
    return row[-1]


@given(ITEMS, ITEMS)
def test_the_edits_are_those_of_the_plain_table(one: list[str], other: list[str]) -> None:
    assert edit_distance(one, other) == edit_distance(other, one) == least_edits(one, other)


@pytest.mark.parametrize(("said", "heard", "wer", "cer"), KNOWN)
def test_rates_are_those_of_jiwer(said: str, heard: str, wer: float, cer: float) -> None:
    assert value("wer", [said], [heard]) == pytest.approx(wer, abs=1e-6)
    assert value("cer", [said], [heard]) == pytest.approx(cer, abs=1e-6)


def test_of_several_rows_edits_and_lengths_are_summed_as_jiwer_does() -> None:
    said, heard = [pair[0] for pair in KNOWN], [pair[1] for pair in KNOWN]
    assert value("wer", said, heard) == pytest.approx(0.5625)
    assert value("cer", said, heard) == pytest.approx(0.48214285714285715)


def test_case_width_and_punctuation_are_no_errors_and_a_character_of_chinese_is_a_word() -> None:
    assert value("wer", ["It's FIVE, o'clock."], ["it s five o clock"]) == 0
    assert value("wer", ["\u6211\u7684\u5305"], ["\u6211\u7684\u4e66"]) == pytest.approx(1 / 3)
    assert value("cer", ["\u6211\u7684\u5305"], ["\u6211\u7684\u4e66"]) == pytest.approx(1 / 5)  # spaces count


@pytest.mark.parametrize("name", ["wer", "cer"])
def test_less_is_better(name: str) -> None:
    assert METRICS[name].better == "less"
