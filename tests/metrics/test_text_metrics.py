"""ROUGE-L is rouge-score's and chrF sacrebleu's wherever these know the writing; and what the packages get wrong is right."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.contracts import Judged
from augmill.tasks.metrics import METRICS
from augmill.tasks.metrics.texts import common_length, rouge_l

WORDS = st.lists(
    st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "A", "U.S.", "don't", "x_y", "7", "3.5", "--"]), max_size=12
)
LINES = WORDS.map(" ".join) | st.text(string.printable, max_size=40)
ANY_TEXT = st.text(st.sampled_from("abc d\u00e9\u00fc\u6211\u7684\u5305\U0001f642\t\n."), max_size=30)


def judged(truth: list[str], predicted: list[str]) -> Judged:
    arrays: list[Any] = [np.empty(len(truth), dtype=object) for _ in range(2)]
    arrays[0][:], arrays[1][:] = truth, predicted
    return Judged(*arrays, None, np.arange(len(truth)), len(truth))


def value(name: str, truth: list[str], predicted: list[str]) -> float:
    metric, rows = METRICS[name], judged(truth, predicted)
    return float(metric.values(metric.prepare(rows), np.ones((1, len(truth)), np.float32))[0])


def longest(one: list[str], other: list[str]) -> int:
    """The plain table."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, word in enumerate(one):
        for j, said in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if word == said else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@given(st.lists(st.sampled_from("abcd"), max_size=80), st.lists(st.sampled_from("abcd"), max_size=80))
def test_the_longest_common_subsequence_is_that_of_the_plain_table(one: list[str], other: list[str]) -> None:
    assert common_length(one, other) == longest(one, other)


@given(LINES, LINES)
def test_rouge_l_is_rouge_scores(truth: str, predicted: str) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=False)
    if not any(map(str.isalnum, truth)) or not any(map(str.isalnum, predicted)):
        return  # texts without a word: it has 0 for equal ones too
    assert rouge_l(truth, predicted) == pytest.approx(scorer.score(truth, predicted)["rougeL"].fmeasure)


@pytest.mark.parametrize("texts", [LINES, ANY_TEXT], ids=["ascii", "any"])
@given(data=st.data())
def test_chrf_over_all_rows_is_sacrebleus(texts: Any, data: st.DataObject) -> None:
    chrf = pytest.importorskip("sacrebleu.metrics").CHRF()
    pairs = data.draw(st.lists(st.tuples(texts, texts), min_size=1, max_size=6))
    truth, predicted = ([pair[at] for pair in pairs] for at in range(2))
    assert 100 * value("chrf", truth, predicted) == pytest.approx(chrf.corpus_score(predicted, [truth]).score)


def test_known_values() -> None:
    assert value("rouge_l", ["the cat sat on the mat"], ["the mat sat"]) == pytest.approx(2 * 2 / 9)
    assert value("exact_match", ["In Paris.", "7", "no"], ["in paris", "8", "No!"]) == pytest.approx(2 / 3)
    assert value("rouge_l", ["a b", "c"], ["a b", "d"]) == pytest.approx(0.5)
    assert value("chrf", ["abc", "x"], ["abc", "x"]) == pytest.approx(1)


def test_chinese_counts_by_characters_and_a_text_without_words_is_right_where_it_is_equal() -> None:
    assert rouge_l("我的包裹在哪里", "包裹在哪") == pytest.approx(2 * 4 / 11)
    assert rouge_l("Straße 5", "STRASSE 5") == 1 and rouge_l("?!", "?!") == 1 and rouge_l("?!", "!") == 0
    assert rouge_l("a", "") == 0
