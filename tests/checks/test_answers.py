"""What the check `answers` refuses: a question again, and lengths that no real answer has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import TARGET
from augmill.testing import CHECK_LAWS, CheckBench


def answered(pairs: list[tuple[str, str]]) -> pa.Table:
    columns = {"row_id": [f"r{at}" for at in range(len(pairs))], "stratum": ["1: all"] * len(pairs)}
    questions, answers = zip(*pairs, strict=True)
    return pa.table({**columns, TARGET: pa.array(answers, pa.large_string()), "text": list(questions)})


REAL = [(f"what is thing {at} made of", ("oak", "grey stone", "tin and rope")[at % 3]) for at in range(60)]


def bench(folder: Path, pairs: list[tuple[str, str]] | None = None) -> CheckBench:
    kind = CHECKS["answers"]
    return CheckBench(kind(kind.Options()), folder, rows=answered(pairs or REAL))


@pytest.mark.parametrize("law", CHECK_LAWS, ids=lambda law: law.__name__)
def test_it_keeps_the_laws_of_checks(law: Callable[[CheckBench], None], tmp_path: Path) -> None:
    law(bench(tmp_path / "fitted"))


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("what is the mast made of", "pine", None),
        ("what is the mast made of", "What is the mast made of?", "repeats_question"),
        ("now what the mast is of", "what the mast is of", "repeats_question"),
        ("is the mast of pine or oak, do you know", "pine", None),  # stands in the question, and is little of it
        ("what is it", "o", "too_short"),
        ("what is it", "oak " * 20, "too_long"),
        ("what is it", "?", "too_short"),
    ],
)
def test_what_is_refused(tmp_path: Path, question: str, answer: str, reason: str | None) -> None:
    assert bench(tmp_path).reasons(answered([(question, answer)])) == [reason]


def test_it_abstains_where_real_answers_repeat_their_questions(tmp_path: Path) -> None:
    found = bench(tmp_path, [(f"say thing {at}", f"say thing {at}") for at in range(30)])
    assert found.learnt["abstains"] and found.reasons(answered([("a b", "a b")])) == [None]
