"""Randomness is a function of (key, counter): known values, and no dependence on how much is drawn at once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.rows.randomness import philox, row_seeds, stream_key, uniforms


def words(*values: int) -> tuple:
    return tuple(np.array([value], dtype=np.uint64) for value in values)


def test_philox_gives_the_known_answers_of_random123() -> None:
    full = 0xFFFFFFFF
    known = {
        ((0, 0, 0, 0), (0, 0)): "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ((full,) * 4, (full,) * 2): "408f276d 41c83b0e a20bc7c6 6d5451fd",
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
        ): "d16cfe09 94fdcceb 5001e420 24126ea1",
    }
    for (counter, key), answer in known.items():
        assert " ".join(f"{int(word[0]):08x}" for word in philox(words(*counter), words(*key))) == answer


@given(st.integers(0, 2**64 - 1), st.integers(1, 40), st.integers(1, 40))
def test_a_row_draws_the_same_numbers_whatever_else_is_drawn(key: int, rows: int, draws: int) -> None:
    seeds = row_seeds(key, np.arange(rows, dtype=np.int64))
    everything = uniforms(seeds, draws + 3)
    alone = np.concatenate([uniforms(seeds[index : index + 1], draws) for index in range(rows)])
    assert np.array_equal(everything[:, :draws], alone)
    assert (row_seeds(key, np.array([rows - 1], dtype=np.int64)) == seeds[-1]).all()
    assert ((everything >= 0) & (everything < 1)).all()


def test_streams_of_one_seed_are_independent() -> None:
    seeds = row_seeds(7, np.arange(2000, dtype=np.int64))
    first, second = uniforms(seeds, 1, stream=0)[:, 0], uniforms(seeds, 1, stream=1)[:, 0]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.08
    assert abs(first.mean() - 0.5) < 0.03
    assert len(np.unique(seeds)) == len(seeds)


def test_a_key_tells_parts_apart_however_they_are_cut() -> None:
    assert stream_key("ab", "c") != stream_key("a", "bc") != stream_key("abc")
    assert stream_key(1, "x") == stream_key(1, "x")
