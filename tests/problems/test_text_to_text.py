"""Texts as targets: what is read, what a bin is, what is told of one."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.contracts import TARGET, ReadLimits
from augmill.tasks.problems import PROBLEMS, problem_learning

PROBLEM = PROBLEMS["text_to_text"]


def test_a_text_to_be_learnt_is_of_this_problem_alone() -> None:
    assert problem_learning("text") == "text_to_text"


def test_what_is_no_text_or_longer_than_the_recipe_allows_is_refused_with_its_reason() -> None:
    reader = PROBLEM.reader(None)
    reader.limits = ReadLimits(10)
    reasons = [reader.read(value).reason for value in ("ten chars!", "eleven chars", "", " \n", None, 3, True, ["a"])]
    wrong = ["target_not_a_text"] * 3
    assert reasons == ["", "target_too_long", "no_target", "no_target", "no_target", *wrong]
    assert set(filter(None, reasons)) <= set(PROBLEM.remedies)


@given(st.lists(st.text(min_size=1, max_size=60), min_size=2, max_size=300))
def test_each_bin_of_train_rows_has_some_and_names_sort_by_length(texts: list[str]) -> None:
    target = pa.array(texts, pa.large_string())
    fitted = PROBLEM.fit_strata(pa.table({TARGET: target}))
    strata = PROBLEM.stratum(target, fitted).to_pylist()
    assert len(set(strata)) == len(fitted["edges"]) + 1 <= 4
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    assert [strata[at] for at in order] == sorted(strata)


def test_a_target_is_told_on_one_line_and_cut() -> None:
    assert PROBLEM.tell("one\n  two") == "one two"
    told = PROBLEM.tell("word " * 200)
    assert len(told) <= 300 and told.endswith("…")


def test_a_bin_of_one_length_is_called_by_it() -> None:
    def texts(lengths: list[int]) -> pa.Array:
        return pa.array(["x" * length for length in lengths], PROBLEM.target)

    fitted = PROBLEM.fit_strata(pa.table({"target": texts([1] * 20 + [77] * 40 + [78] * 20 + [90] * 20)}))
    found = PROBLEM.stratum(texts([1, 77, 78, 90]), fitted).to_pylist()
    assert found == ["1: below 77 characters", "2: 77 characters", *["3: from 78 characters"] * 2]
