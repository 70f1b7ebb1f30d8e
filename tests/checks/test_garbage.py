"""Garbage: rows whose characters are unlike the train rows'."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from checking import Bench, candidates, real, sentences, shared_rows

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
