"""Garbage: rows whose characters are unlike the train rows'."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from checking import Bench, candidates, real, sentences, shared_rows
from hypothesis import example, given, settings
from hypothesis import strategies as st

from augmill.tasks.checks.garbage import CharacterModel, clean, measure
from augmill.tasks.rows.kinds.text import canonical
from augmill.tasks.rows.shown import clusters

LETTERS = "abcdefghijklmnopqrstuvwxyz "


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench("garbage", tmp_path, real(sentences(30)))


def test_sentences_like_the_train_rows_pass(bench: Bench) -> None:
    assert not bench.learnt["abstains"]
    assert bench.reasons(candidates(sentences(30, seed=8))) == [None] * 90


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("жук лежал у дороги и жужжал", "unseen_characters"),
        ("please tell me why a fee was chaaaaaaaaaaaaaaaarged", "repeated_character"),
        ("the fee the fee the fee the fee the fee the fee the fee the fee", "repetition"),
        ("h%o& ^w* (t)o# @c! ~h$ +a= {n} [g] |e< ;p: /i? '\"", "symbols"),
        ("qzxv jkwq vvkx zzqj xkcd wqpz bvnm", "improbable_characters"),
    ],
)
def test_each_kind_of_garbage_is_refused(bench: Bench, text: str, reason: str) -> None:
    found = bench.reasons(candidates([("fee", text)]))[0]
    assert found is not None
    # A text can be garbage in several ways at once; what is removed must be caught by its own statistic.
    if reason in {"repeated_character", "repetition"}:
        assert found == reason


def test_random_letters_are_refused_and_shuffled_words_are_not(bench: Bench) -> None:
    draw = random.Random(1)
    noise = [("fee", "".join(draw.choices(LETTERS, k=40))) for _ in range(50)]
    words = [(stratum, " ".join(draw.sample(text.split(), len(text.split())))) for stratum, text in sentences(10)]
    assert None not in bench.reasons(candidates(noise))
    assert bench.reasons(candidates(words)) == [None] * 30


def test_the_score_passes_one_where_a_row_is_refused(bench: Bench) -> None:
    answer = bench.judge(candidates([("fee", "zzzzzzzzzzzzzzzz"), *sentences(5)])).to_pylist()
    assert [row["score"] > 1 for row in answer] == [row["reason"] is not None for row in answer]
    assert answer[0]["score"] > 1


@pytest.mark.parametrize("name", ["trec_kumar", "snips", "sst2_kumar", "banking77", "clinc150"])
def test_at_most_two_percent_of_the_public_sets_held_out_rows_are_refused(name: str, tmp_path: Path) -> None:
    train, test = shared_rows(name, "train", 10), shared_rows(name, "test", None)[:500]
    bench = Bench("garbage", tmp_path, real(train))
    refused = [reason for reason in bench.reasons(candidates(test)) if reason]
    assert not bench.learnt["abstains"]
    assert len(refused) <= 0.02 * len(test)


def test_chinese_rows_pass_and_mojibake_of_them_does_not(tmp_path: Path) -> None:
    train, test = shared_rows("fewclue_tnews", "train_0", None), shared_rows("fewclue_tnews", "test_public", 10)
    bench = Bench("garbage", tmp_path, real(train))
    assert sum(reason is not None for reason in bench.reasons(candidates(test))) <= 0.02 * len(test)
    broken = [(stratum, text.encode("utf-8").decode("latin-1")) for stratum, text in test]
    assert sum(reason is not None for reason in bench.reasons(candidates(broken))) >= 0.95 * len(test)


def test_a_character_of_several_code_points_counts_as_one(tmp_path: Path) -> None:
    """Marks and joiners are no symbols; an emoji said seven times is a loop; a heap of accents is no text."""
    bench = Bench("garbage", tmp_path, real(sentences(30) + [("fee", f"नमस्ते दुनिया {word} ❤️") for word in "abcdef"]))
    stuck = "thanks a lot " + "❤️" * 30
    heap = "".join(letter + "\u0336\u0321\u0347\u035a" for letter in "please tell me why")
    found = bench.reasons(candidates([("fee", text) for text in ("नमस्ते दुनिया", stuck, heap)]))
    assert found[0] is None and found[1] == "repeated_character" and found[2] is not None


def slowly(text: str) -> tuple[float, float, float]:
    """(longest run, share of 4-grams that stand before, share of symbols) of a clean text, character by character."""
    marks = clusters(text)
    run = longest = 1
    for before, mark in pairwise(marks):
        run = run + 1 if mark == before and mark != " " else 1
        longest = max(longest, run)
    grams = ["".join(marks[at : at + 4]) for at in range(len(marks) - 3)]
    again = 1 - len(set(grams)) / len(grams) if len(marks) >= 12 else 0.0
    symbols = sum(not (mark[0].isalnum() or mark[0] == " ") for mark in marks) / len(marks)
    return longest, again, symbols


@given(
    st.lists(
        st.text(st.sampled_from("ab AZ.!é中国ßﬁ\u0301🙂\u200d👩\ufe0f🇩🇪\x1f\t"), max_size=40), min_size=1, max_size=6
    )
)
@example(texts=["a" * 14, "a" * 14])
@settings(deadline=None)
def test_texts_measured_together_have_the_statistics_of_each_by_itself(texts: list[str]) -> None:
    made = clean([canonical(text) for text in texts])
    assert made == [canonical(text).casefold() or "\ufffd" for text in texts]
    model = CharacterModel.of(["please tell me", "é中 why a fee was charged", "it is AB.!"])
    found = measure(made, model, 3.0)
    for at, text in enumerate(made):
        longest, again, symbols = slowly(text)
        assert (found["run"][at], found["symbols"][at]) == (longest, pytest.approx(symbols))
        assert found["repeated"][at] == pytest.approx(again)
        assert {name: value[at] for name, value in found.items()} == {
            name: pytest.approx(value[0], rel=1e-12) for name, value in measure([text], model, 3.0).items()
        }


@given(st.lists(st.text(st.sampled_from("abc é中"), min_size=1, max_size=20), min_size=1, max_size=6))
@settings(deadline=None)
def test_the_surprise_of_pairs_is_that_of_their_counts(texts: list[str]) -> None:
    train = ["abc cab", "中é a", "bbb"]
    pairs = Counter(pair for text in train for pair in pairwise(f"\n{text}"))
    seconds, firsts = (Counter[str]() for _ in range(2))
    for (first, second), count in pairs.items():
        seconds[second] += count
        firsts[first] += count

    def bits(first: str, second: str) -> float:
        alone = (seconds[second] + 0.1) / (seconds.total() + 0.1 * len(seconds) + 1)
        return -math.log2((pairs[first, second] + 2 * alone) / (firsts[first] + 2))

    found = measure(texts, CharacterModel.of(train), 3.0)
    for at, text in enumerate(texts):
        own = [bits(first, second) for first, second in pairwise(f"\n{text}")]
        assert found["surprise"][at] == pytest.approx((sum(own) + 8 * 3.0) / (len(text) + 8))
        assert found["unseen"][at] == pytest.approx(sum(mark not in seconds for mark in text) / len(text))


def test_two_emoji_of_several_code_points_are_two_characters_whatever_stands_in_other_rows(bench: Bench) -> None:
    text = "please tell me why 👩🏽🙏🏽👩🏽🙏🏽👩🏽🙏🏽👩🏽🙏🏽"
    alone = bench.judge(candidates([("fee", text)])).to_pylist()
    among = bench.judge(candidates([("fee", "hm 🙏🏽"), ("fee", "hm 👩🏽"), ("fee", text)])).to_pylist()
    assert alone == among[2:]
    found = measure(["👩🏽🙏🏽" * 7], CharacterModel.of(["a b"]), 3.0)
    assert (found["run"][0], found["repeated"][0]) == (1, pytest.approx(1 - 2 / 11))
