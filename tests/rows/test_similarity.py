"""Near-duplicates: the sketches only propose, so what is found must be what exact Jaccard says."""

from __future__ import annotations

import random
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augmill.tasks.rows.kinds.text import equal, near, shingles
from augmill.tasks.rows.kinds.text.near import TextIndex, jaccard, near_duplicate_groups
from augmill.tasks.rows.kinds.text.sketches import PERMUTATIONS, RECALL, Sketches, choose_bands, verify

WORDS = [
    "the",
    "my",
    "card",
    "bank",
    "late",
    "lost",
    "when",
    "will",
    "it",
    "come",
    "help",
    "refund",
    "fee",
    "rate",
    "twice",
]
TEXTS = st.lists(st.text(alphabet="ab é中国!\x1f.,", max_size=14), max_size=12)
LONG = st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), max_size=16)


def sentences(count: int, seed: int = 0) -> list[str]:
    """Random sentences, a third of them an edit of an earlier one."""
    draw = random.Random(seed)
    made: list[str] = []
    for _ in range(count):
        if made and draw.random() < 0.35:
            words = draw.choice(made).split()
            words[draw.randrange(len(words))] = draw.choice(WORDS)
        else:
            words = draw.choices(WORDS, k=draw.randint(3, 20))
        made.append(" ".join(words))
    return made


def overlap(a: set[str], b: set[str]) -> float:
    """``jaccard`` of texts whose shingles are made once, for the comparisons of all with all."""
    return len(a & b) / len(a | b)


def brute_force_groups(texts: list[str], threshold: float) -> list[bool]:
    kept: list[set[str]] = []
    mask = []
    for text in texts:
        grams = shingles(text)
        mask.append(all(overlap(grams, other) < threshold for other in kept))
        kept += [grams] if mask[-1] else []
    return mask


@given(TEXTS | LONG, TEXTS | LONG, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
@settings(max_examples=150, deadline=None)
def test_matches_never_report_a_similarity_that_exact_jaccard_does_not(
    a: list[str], b: list[str], least: float
) -> None:
    query, position, similarity = TextIndex.build(b, least).matches(a)
    for row, at, value in zip(query, position, similarity, strict=True):
        assert value == jaccard(a[row], b[at]) >= least
    assert (np.diff(query) >= 0).all()


@given(TEXTS, st.sampled_from([0.5, 0.8, 1.0]))
@settings(max_examples=100, deadline=None)
def test_a_text_equal_when_folded_is_always_found_at_its_first_position(texts: list[str], least: float) -> None:
    index = TextIndex.build(texts, least)
    first = [[equal(text) for text in texts].index(equal(text)) for text in texts]
    best, similarity = index.nearest([text.upper() if text.isascii() else text for text in texts])
    assert best.tolist() == first
    assert (similarity == 1).all()


@pytest.mark.parametrize("least", [0.6, 0.8, 0.95])
def test_recall_against_all_pairs_is_near_one(least: float) -> None:
    queries = sentences(150, seed=1) + sentences(300)[:100]
    distinct = list(dict.fromkeys(sentences(300)))
    left, right = [shingles(text) for text in queries], [shingles(text) for text in distinct]
    truth = {(q, i) for q, a in enumerate(left) for i, b in enumerate(right) if overlap(a, b) >= least}
    query, position, _ = TextIndex.build(distinct, least).matches(queries)
    found = set(zip(query.tolist(), position.tolist(), strict=True))
    assert len(truth) > 90
    assert found <= truth
    assert len(found) >= 0.99 * len(truth)


def test_nearest_takes_the_most_similar_and_of_equals_the_first() -> None:
    index = TextIndex.build(
        ["where is my new card now", "where is my new card", "Where is my new card?", "zzzzzz"], 0.5
    )
    best, similarity = index.nearest(["where is my new card!", "where is my new card no", "quite another thing", ""])
    assert best.tolist() == [1, 0, -1, -1]
    assert similarity[0] == 1
    assert similarity[1] == jaccard("where is my new card no", "where is my new card now")
    assert similarity[2:].tolist() == [0, 0]


@pytest.mark.parametrize("least", [0.7, 0.95])
def test_groups_keep_exactly_what_the_greedy_rule_keeps(least: float) -> None:
    texts = sentences(300, seed=2)
    kept = near_duplicate_groups(texts, least)
    assert kept.tolist() == brute_force_groups(texts, least)
    assert 0 < kept.sum() < len(texts)


def templated(count: int, numbers: int, seed: int) -> list[str]:
    """One long sentence with an order number in it: any two rows are 0.91 similar or more, one digit apart 0.95."""
    draw = random.Random(seed)
    before = "hello, i would like to know from you where exactly the parcel of my last order with the number"
    after = (
        "is at this moment, and on which day of this or the next week it will be delivered to my home address, thanks"
    )
    return [f"{before} {draw.randrange(numbers):05d} {after}" for _ in range(count)]


@pytest.mark.parametrize("least", [0.9, 0.95])
def test_rows_of_one_template_are_kept_as_the_greedy_rule_keeps_them(least: float) -> None:
    texts = list(dict.fromkeys(templated(250, 1000, seed=5)))
    kept = near_duplicate_groups(texts, least)
    assert kept.tolist() == brute_force_groups(texts, least)
    assert 0 < kept.sum() < len(texts)


def test_thousands_of_rows_of_one_template_are_not_compared_pair_by_pair() -> None:
    texts = templated(3000, 10**5, seed=6)
    started = time.process_time()
    kept = near_duplicate_groups(texts, 0.95)
    assert time.process_time() - started < 8  # 0.6 s; 50 s where each row is verified against all that share a band
    assert 0 < kept.sum() < len(texts)


@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.8, 0.95]), st.sampled_from([1, 50, 1 << 22]))
@settings(max_examples=30, deadline=None)
def test_pairs_and_crowds_leave_the_same_rows(seed: int, least: float, held: int) -> None:
    """Few candidate pairs are looked at all at once, in pieces of any size; many by their rarest hashes."""
    distinct = list(dict.fromkeys(map(equal, sentences(60, seed))))
    sketches = Sketches.of(distinct, least)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "_PAIRS", held)
        patch.setattr(near, "_PAIRS_A_ROW", 10**9)
        by_pairs = near._kept(sketches, least)
        patch.setattr(near, "_PAIRS_A_ROW", -1)
        assert by_pairs.tolist() == near._kept(sketches, least).tolist()


@given(TEXTS | LONG, st.sampled_from([0.5, 0.8, 0.95]))
@settings(max_examples=60, deadline=None)
def test_rows_that_groups_find_near_share_a_key(texts: list[str], least: float) -> None:
    keys, index = near.near_keys(texts, least), TextIndex.build(texts, least)
    query, position, _ = index.matches(texts)
    assert keys.shape == (len(texts), choose_bands(least)[0])
    assert (keys[query] == keys[position]).any(axis=1).all()


@pytest.mark.parametrize("least", [0.7, 0.95])
def test_rows_that_are_near_and_not_equal_share_a_key(least: float) -> None:
    texts = sentences(300, seed=2) + templated(100, 1000, seed=5)
    keys = near.near_keys(texts, least)
    query, position, similarity = TextIndex.build(texts, least).matches(texts)
    assert (similarity < 1).sum() > 10
    assert (keys[query] == keys[position]).any(axis=1).all()


def test_a_row_near_only_to_a_dropped_row_is_kept() -> None:
    chain = ["abcdefghijklmnopqrst", "abcdefghijklmnopqrstuvw", "abcdefghijklmnopqrstuvwxyz"]
    assert [jaccard(chain[0], chain[1]) >= 0.8, jaccard(chain[1], chain[2]) >= 0.8] == [True, True]
    assert jaccard(chain[0], chain[2]) < 0.8
    assert near_duplicate_groups(chain, 0.8).tolist() == [True, False, True]


def test_a_collapse_to_one_sample_leaves_one_row() -> None:
    assert near_duplicate_groups(["The same again."] * 5000 + ["the SAME, again"], 0.95).sum() == 1


def test_chinese_near_duplicates_are_found_by_characters() -> None:
    index = TextIndex.build(["文登区这些公路及危桥将进入封闭施工，请注意绕行！"], 0.7)
    best, _ = index.nearest(["今日文登区这些公路及危桥将进入封闭施工,请注意绕行", "孩子跟谁睡，就是谁的孩子"])
    assert best.tolist() == [0, -1]


def test_a_saved_index_answers_as_before_and_saves_the_same_bytes(tmp_path: Path) -> None:
    texts = sentences(120, seed=3)
    index = TextIndex.build(texts, 0.8)
    files = index.save(tmp_path, "held")
    again = TextIndex.load(tmp_path, "held")
    before = {name: path.read_bytes() for name, path in files.items()}
    assert {name: path.read_bytes() for name, path in again.save(tmp_path, "held").items()} == before
    for one, other in zip(index.matches(texts[:50]), again.matches(texts[:50]), strict=True):
        assert (one == other).all()


def test_empty_indexes_and_empty_queries_match_nothing() -> None:
    empty, full = TextIndex.build([], 0.8), TextIndex.build(["some text"], 0.8)
    assert empty.nearest(["some text"])[0].tolist() == [-1]
    assert full.nearest([])[0].tolist() == []
    assert near_duplicate_groups([], 0.9).tolist() == []


def test_a_text_does_not_match_differently_in_another_batch() -> None:
    texts = sentences(200, seed=4)
    index = TextIndex.build(texts[:100], 0.6)
    together, _ = index.nearest(texts[100:])
    alone = [int(index.nearest([text])[0][0]) for text in texts[100:]]
    assert together.tolist() == alone


def test_of_a_templates_texts_the_nearest_is_the_best_of_all_and_a_few_pairs_are_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [f"please tell me why my card payment {n % 7} was declined at the shop today {n}" for n in range(300)]
    index, queries = TextIndex.build(texts[:150], 0.6), texts[140:]
    query, position, similarity = index.matches(queries)
    assert len(query) > 10_000
    best = [min((-s, p) for q, p, s in zip(query, position, similarity, strict=True) if q == at) for at in range(160)]
    held: list[int] = []

    def counted(*given: Any) -> Any:
        held.append(len(given[1]))
        return verify(*given)

    monkeypatch.setattr(near, "_PAIRS", 1000)
    monkeypatch.setattr(near, "verify", counted)
    monkeypatch.setattr(TextIndex, "matches", None)  # which holds all pairs: 24 bytes each, a few times over
    found = index.nearest(queries)
    assert list(zip(-found[1], found[0], strict=True)) == best
    assert len(held) > 5 and max(held) <= 2000


@pytest.mark.parametrize("least", [0.3, 0.5, 0.8, 0.9, 0.95, 1.0])
def test_bands_keep_the_stated_recall_at_the_threshold(least: float) -> None:
    bands, rows = choose_bands(least)
    assert bands * rows <= PERMUTATIONS
    assert 1 - (1 - least**rows) ** bands >= RECALL


@pytest.mark.parametrize("wrong", [0.0, -1.0, 1.5])
def test_a_threshold_outside_its_range_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="Jaccard threshold"):
        TextIndex.build(["x"], wrong)


@given(TEXTS | LONG, TEXTS | LONG, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
@settings(max_examples=100, deadline=None)
def test_no_row_that_is_near_is_passed_over_before_its_sketch_is_made(a: list[str], b: list[str], least: float) -> None:
    quick, slow = TextIndex.build(b, least), TextIndex.build(b, least)
    slow._possible = lambda hashed: np.arange(len(hashed.sizes))  # type: ignore[method-assign]
    for one, other in zip(quick.matches(a), slow.matches(a), strict=True):
        assert one.tolist() == other.tolist()


@pytest.mark.parametrize("least", [0.8, 0.9, 0.95])
def test_queries_of_a_template_find_what_they_find_when_all_that_share_a_band_are_compared(
    least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*templated(300, 1000, seed=7), *sentences(100, seed=8)]
    queries = [*templated(100, 1000, seed=9), *(text + " now" for text in rows[:20]), *sentences(50, seed=10)]
    index = TextIndex.build(rows, least)
    monkeypatch.setattr(near, "_CROWDED", 10**9)
    slow = index.matches(queries)
    monkeypatch.setattr(near, "_CROWDED", 3)
    quick = index.matches(queries)
    assert len(slow[0]) > 100
    for one, other in zip(quick, slow, strict=True):
        assert one.tolist() == other.tolist()


def test_queries_of_one_template_are_not_compared_with_all_rows_of_it() -> None:
    index, queries = TextIndex.build(templated(3000, 10**5, seed=11), 0.95), templated(1000, 10**5, seed=12)
    started = time.process_time()
    found = index.matches(queries)
    assert time.process_time() - started < 6  # 0.3 s; 12 s where each is verified against all that share a band
    assert len(found[0]) > 0


@given(TEXTS | LONG, TEXTS | LONG, st.sampled_from([0.5, 0.8, 0.95, 1.0]), st.sampled_from([1, 3, 64]))
@settings(max_examples=100, deadline=None)
def test_an_index_in_mapped_files_finds_what_one_in_memory_finds(
    a: list[str], b: list[str], least: float, crowded: int
) -> None:
    held, texts = TextIndex.build(b, least), [equal(text) for text in b]
    mapped = TextIndex.build_parts((texts[start : start + 5] for start in range(0, len(texts), 5)), least)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        files = [index.save(Path(folder), name) for index, name in ((held, "held"), (mapped, "mapped"))]
        assert files[0]["held.arrow"].read_bytes() == files[1]["mapped.arrow"].read_bytes()
        patch.setattr(near, "LARGE", -1)
        loaded = TextIndex.load(Path(folder), "held")
        patch.setattr(near, "_CROWDED", crowded)
        for other in (mapped, loaded):
            assert other._sketches.values is None  # it lies in files
            for asked in (other.matches, held.matches), (other.nearest, held.nearest):
                for one, known in zip(asked[0](a), asked[1](a), strict=True):
                    assert one.tolist() == known.tolist()


def test_a_large_index_holds_few_bytes_a_row() -> None:
    draw = random.Random(3)
    texts = (["".join(draw.choices("abcdefghij klm", k=120)) for _ in range(500)] for _ in range(40))
    tracemalloc.start()
    index = TextIndex.build_parts(texts, 0.8)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(index) == 20_000
    assert held < 100 * len(index)  # 1,400 bytes where all is in memory
