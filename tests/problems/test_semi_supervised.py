"""The teacher: unlabelled text makes it better, it is the same when read again, and what it says hangs on the text alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chain import WORDS

from augmill.tasks.problems.semi_supervised import MEMBERS, Learner, Teacher, Teaching, teach

HOW = Teaching(MEMBERS, rounds=6, balance=0.0, max_rows=20_000)


def drawn(count: int, seed: int, pure: float = 0.7) -> tuple[list[str], list[str]]:
    """(texts, classes): seven words each, ``pure`` of them of its own class."""
    rng = np.random.default_rng(seed)
    names, texts, strata = sorted(WORDS), [], []
    for at in range(count):
        classes = [names[at % 3] if rng.random() < pure else names[rng.integers(3)] for _ in range(7)]
        texts.append(" ".join(rng.choice(WORDS[name]) for name in classes))
        strata.append(names[at % 3])
    return texts, strata


def right(teacher: Teacher, texts: list[str], strata: list[str]) -> float:
    found = teacher.probabilities(texts).argmax(axis=1)
    return float(np.mean([teacher.strata[at] == name for at, name in zip(found, strata, strict=True)]))


def test_unlabelled_text_makes_it_better() -> None:
    """Three rows a class name few words; which words go with these stands in the unlabelled text."""
    test = drawn(300, 9)
    gains = []
    for seed in range(5):
        texts, strata = drawn(9, 100 + seed)
        free = drawn(400, 200 + seed)[0]
        gains.append(right(teach(texts, strata, free, HOW, seed=0)[0], *test))
        gains[-1] -= right(teach(texts, strata, [], HOW, seed=0)[0], *test)
    assert np.mean(gains) > 0.04 and min(gains) > -0.02, gains


def test_what_it_says_hangs_on_the_text_alone_and_survives_being_written(tmp_path: Path) -> None:
    texts, strata = drawn(18, 1)
    teacher, _ = teach(texts, strata, drawn(90, 2)[0], HOW, seed=0)
    strange = [*drawn(20, 3)[0], "", "!!!", "请问包裹在哪里", "x" * 3000, "money\x1fback"]
    whole = teacher.probabilities(strange)
    assert np.allclose(whole.sum(axis=1), 1) and (whole >= 0).all()
    teacher.save(tmp_path)
    again = Teacher.load(tmp_path)
    for at, text in enumerate(strange):
        assert (again.probabilities([text]) == whole[at]).all(), text
    assert again.probabilities([]).shape == (0, 3)


def test_a_held_out_answer_is_that_of_a_teacher_that_did_not_have_the_row() -> None:
    """Labels that are noise are told no better than chance, though every text is among those learnt from."""
    texts = drawn(120, 4)[0]
    strata = np.random.default_rng(0).permutation(["a", "b"] * 60).tolist()
    teacher, held_out = teach(texts, strata, [], HOW, seed=0)
    found = [teacher.strata[at] for at in held_out.argmax(axis=1)]
    assert 0.3 < np.mean([a == b for a, b in zip(found, strata, strict=True)]) < 0.7
    assert right(teacher, texts, strata) > 0.9


def test_a_class_in_no_other_fold_is_never_told_and_no_error() -> None:
    texts, strata = drawn(17, 5)
    teacher, held_out = teach([*texts, "quite another thing"], [*strata, "rare"], drawn(60, 6)[0], HOW, seed=0)
    assert teacher.strata == ["login", "rare", "refund", "track"]
    assert held_out.shape == (18, 4) and held_out[-1, 1] < 1e-6


@pytest.mark.parametrize("member", sorted(MEMBERS))
def test_each_learner_is_as_sure_as_it_is_right(member: Learner) -> None:
    texts, strata = drawn(30, 12, pure=0.6)
    teacher, _ = teach(texts, strata, drawn(300, 13, pure=0.6)[0], Teaching({member: 1.0}, 6, 0.0, 999), seed=0)
    fresh, own = drawn(300, 14, pure=0.6)
    accuracy, sure = right(teacher, fresh, own), teacher.probabilities(fresh).max(axis=1).mean()
    assert abs(sure - accuracy) < 0.06, (accuracy, sure)


def test_a_learner_that_is_proven_worse_loses_its_vote() -> None:
    """Nine rows prove little, 300 what there is to prove; the best keeps its whole weight."""
    texts, strata = drawn(300, 7, pure=0.5)
    both = {"logistic": 1.0, "bayes": 1.0}
    for rows, least in ((300, 0.0), (9, 0.6)):
        teacher, _ = teach(texts[:rows], strata[:rows], [], Teaching(both, 6, 0.5, 100), seed=0)
        assert max(teacher.members.values()) == 1.0  # the best keeps its own
        assert min(teacher.members.values()) >= least


def test_full_balance_brings_class_shares_to_those_of_the_labelled_rows() -> None:
    texts, strata = drawn(30, 8)
    free = [*drawn(60, 10)[0], *[text for text, name in zip(*drawn(600, 11), strict=True) if name == "refund"]]
    shares = {}
    for balance in (0.0, 1.0):
        teacher, _ = teach(texts, strata, free, Teaching({"logistic": 1.0}, 6, balance, 10**6), seed=0)
        shares[balance] = teacher.probabilities(free).mean(axis=0)[teacher.strata.index("refund")]
    assert shares[0.0] > shares[1.0] > 1 / 3


@pytest.mark.parametrize("member", sorted(MEMBERS))
@pytest.mark.parametrize("texts", [["a", "b"], ["退款", "包裹"], ["!!!", "???"], ["same", "same"]])
def test_the_fewest_rows_are_no_error_for_any_learner(member: Learner, texts: list[str]) -> None:
    teacher, held_out = teach(texts, ["x", "y"], [], Teaching({member: 1.0}, 6, 0.5, 100), seed=0)
    assert held_out.shape == (2, 2) and teacher.probabilities(["a b", ""]).shape == (2, 2)
