"""What is done to many short rows at once is what a loop over them does."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from augmill.tasks.rows.segments import Lookup, ranges, sort_rows

NUMBERS = st.integers(0, 2**63 - 1) | st.integers(0, 9)


@given(st.lists(st.integers(0, 300) | st.sampled_from([0, 63, 64, 65, 128, 129, 256, 257, 600]), max_size=9), NUMBERS)
@settings(deadline=None)
def test_rows_are_sorted_each_by_itself_whatever_their_lengths(sizes: list[int], seed: int) -> None:
    rows = [np.random.default_rng([seed, at]).integers(0, 2**62, size) for at, size in enumerate(sizes)]
    rows = [row if at % 3 else row % 4 for at, row in enumerate(rows)]
    for kind in (np.int64, np.uint64):
        flat = np.concatenate([np.empty(0, kind), *(row.astype(kind) for row in rows)])
        found = sort_rows(flat, np.array(sizes, np.int64))
        assert found.dtype == kind
        assert found.tolist() == [number for row in rows for number in sorted(row.tolist())]


@given(st.lists(NUMBERS, unique=True, max_size=200), st.lists(NUMBERS, max_size=200))
@settings(deadline=None)
def test_a_lookup_finds_what_a_dictionary_finds(keys: list[int], others: list[int]) -> None:
    known = {key: place for place, key in enumerate(keys)}
    asked = [*keys, *others, *keys[::-1]]
    found = Lookup(np.array(keys, np.int64)).find(np.array(asked, np.int64))
    assert found.tolist() == [known.get(key, -1) for key in asked]


def test_a_lookup_finds_keys_that_want_one_slot() -> None:
    keys = np.arange(2**20, 2**20 + 3000, dtype=np.int64) << 40
    assert Lookup(keys).find(keys).tolist() == list(range(3000))
    assert (Lookup(keys).find(keys + 1) == -1).all()


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9)), max_size=9))
def test_ranges_stand_end_to_end(parts: list[tuple[int, int]]) -> None:
    starts, counts = (np.array(part, np.int64) for part in (list(zip(*parts, strict=True)) or [(), ()]))
    assert ranges(starts, counts).tolist() == [at for start, count in parts for at in range(start, start + count)]
