"""Diversity of synthetic texts against train."""

from hypothesis import given, settings
from hypothesis import strategies as st

from augmill.tasks.rows.kinds.text import shingles
from augmill.tasks.rows.kinds.text.diversity import diversity, nearest

TEXTS = st.lists(st.text("abcdef ", min_size=1, max_size=20), min_size=1, max_size=8)


def test_copies_of_train_are_near_and_hold_nothing_new() -> None:
    train = ["where is my parcel now", "please cancel my order"]
    found = diversity(train * 3, train)
    assert found == {"distinct_1": 0.2963, "new_1": 0.0, "distinct_2": 0.3333, "new_2": 0.0, "nearest": 1.0}


def test_texts_that_share_nothing_with_train_are_all_new_and_far() -> None:
    found = diversity(["quick brown foxes"], ["where is my parcel"])
    assert found == {"distinct_1": 1.0, "new_1": 1.0, "distinct_2": 1.0, "new_2": 1.0, "nearest": 0.0}


def test_chinese_is_counted_by_characters() -> None:
    assert diversity(["我要退货"], ["我要退款"])["new_1"] == 0.25


@given(TEXTS, TEXTS)
@settings(max_examples=50, deadline=None)
def test_nearest_is_the_jaccard_similarity_of_the_nearest_shingles(made: list[str], train: list[str]) -> None:
    slow = [max(len(shingles(m) & shingles(t)) / len(shingles(m) | shingles(t)) for t in train) for m in made]
    assert all(abs(a - b) < 1e-6 for a, b in zip(nearest(made, train), slow, strict=True))


def test_nothing_to_compare_gives_zero() -> None:
    assert diversity([], ["a"])["nearest"] == 0.0 and nearest(["a"], []) == [0.0]
