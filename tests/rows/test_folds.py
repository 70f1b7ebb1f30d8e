"""Folds are dealt out evenly, by strata and keys alone."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.rows.folds import deal_folds, fold_of

ROWS = st.lists(st.tuples(st.sampled_from(["a", "b", "b\x00", "c"]), st.integers(0, 30)), max_size=60)
KEYS = {"number": int, "text": str, "bytes": lambda key: key.to_bytes(2, "little"), "pair": lambda key: (key % 3, key)}
FOLDS = st.integers(1, 7)


def dealt(rows: list[tuple[str, int]], folds: int, *, onward: bool = False, kind: str = "number") -> list[int]:
    found = deal_folds([name for name, _ in rows], [KEYS[kind](key) for _, key in rows], folds, onward=onward)
    return list(map(int, found))


@given(ROWS, FOLDS, st.booleans(), st.sampled_from(sorted(KEYS)))
def test_equal_keys_share_a_fold_and_the_order_of_rows_changes_none(
    rows: list[tuple[str, int]], folds: int, onward: bool, kind: str
) -> None:
    found = dealt(rows, folds, onward=onward, kind=kind)
    by_key: dict[int, int] = {}
    assert all(by_key.setdefault(key, fold) == fold for (_, key), fold in zip(rows, found, strict=True))
    assert all(0 <= fold < folds for fold in found)
    order = list(range(len(rows)))
    random.Random(folds).shuffle(order)
    assert dealt([rows[at] for at in order], folds, onward=onward, kind=kind) == [found[at] for at in order]


@given(ROWS, FOLDS, st.booleans())
def test_folds_differ_by_one_key_at_most_within_a_stratum(
    rows: list[tuple[str, int]], folds: int, onward: bool
) -> None:
    strata: dict[int, str] = {}
    for name, key in rows:
        strata[key] = min(strata.get(key, name), name)
    found = dict(zip((key for _, key in rows), dealt(rows, folds, onward=onward), strict=True))
    by_stratum = defaultdict(list)
    for key, name in strata.items():
        by_stratum[name].append(found[key])
    if onward:
        by_stratum["all"] = list(found.values())
    for numbers in by_stratum.values():
        counts = [numbers.count(fold) for fold in range(folds)]
        assert max(counts) - min(counts) <= 1


def test_small_strata_all_begin_at_the_first_fold_or_where_the_last_one_ended() -> None:
    rows = [(name, key) for name in "abcd" for key in range(ord(name) * 10, ord(name) * 10 + 2)]
    assert Counter(dealt(rows, 4)) == {0: 4, 1: 4}
    assert Counter(dealt(rows, 4, onward=True)) == {0: 2, 1: 2, 2: 2, 3: 2}


def test_numbers_are_dealt_out_in_their_order() -> None:
    found = deal_folds(np.array([1, 0, 1, 0, 1, 0]), np.array([9.0, -0.5, 2.5, 0.5, 2.25, 0.25]), 3)
    assert found.tolist() == [2, 0, 1, 2, 0, 1]


@given(st.binary(min_size=8, max_size=40), FOLDS)
def test_a_hash_alone_decides_by_its_first_eight_bytes(digest: bytes, folds: int) -> None:
    assert fold_of(digest, folds) == fold_of(digest[:8], folds) == int(digest[:8].hex(), 16) % folds
