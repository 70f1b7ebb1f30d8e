"""Attempts: each number is claimed once, whoever begins at once; what was tried is read back whatever rotted around it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from buckets import s3_server
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.errors import StoreError
from augmill.tasks.store.attempts import (
    LEASE,
    Attempt,
    attempts_key,
    beating,
    begin,
    finish,
    folder_of,
    read_attempts,
    utc_now,
)
from augmill.tasks.store.store import Store

NOW = datetime(2026, 11, 25, 4, 0, tzinfo=UTC)
DONE: dict[str, Any] = {"outcome": "published", "release": "00" * 8}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def only(store: Store, snapshot: str = "all") -> Attempt:
    (attempt,) = read_attempts(store, "tiny", snapshot)[snapshot]
    return attempt


def document(store: Store, attempt: Attempt, name: str) -> Path:
    assert store.local is not None
    return store.local / attempts_key("tiny", attempt.snapshot) / f"{attempt.number:08d}" / f"{name}.json"


def rot(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=300))
def test_any_name_is_one_harmless_folder(name: str) -> None:
    folder = folder_of(name)
    assert "/" not in folder and "\\" not in folder and folder.strip(". ") and len(folder) <= 64 and folder.isascii()
    assert folder_of("2026-W40") == "2026-W40"
    assert folder == name or folder[0] == "_"  # and no plain name begins so: two names never share a folder by chance


@pytest.mark.parametrize("name", ["../x", "a/b", "CON", "nul.txt", "x" * 300, "\N{SNOWMAN}\U0001f600", "a."])
def test_a_snapshot_of_any_name_is_begun_ended_and_read_back(store: Store, name: str) -> None:
    attempt = begin(store, "tiny", name, {"command": "x"})
    finish(store, "tiny", attempt, DONE)
    begin(store, "tiny", "2026-01-01", {})
    assert folder_of(name) != name
    assert [(a.snapshot, a.end is not None) for a in read_attempts(store, "tiny")[name]] == [(name, True)]
    assert read_attempts(store, "tiny", name).keys() == read_attempts(store, "tiny", [name]).keys() == {name}
    assert store.local is not None
    assert {path.name for path in store.local.iterdir()} == {"private"}


def race(store: Store, dataset: str) -> None:
    gate = threading.Barrier(8)

    def claim(_: int) -> int:
        gate.wait()
        return begin(store, dataset, "2026-01-01", {}).number

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(claim, range(8))) == list(range(8))
    assert Counter(a.number for a in read_attempts(store, dataset)["2026-01-01"]) == Counter(range(8))


def test_eight_that_begin_at_once_get_eight_numbers(store: Store) -> None:
    for turn in range(5):
        race(store, f"d{turn}")


def test_so_they_do_in_a_bucket() -> None:
    with s3_server("mill"):
        race(Store("s3://mill/store"), "tiny")


class Deaf(Store):
    """A store whose next write succeeds and is then answered by an error, as a time-out after a PUT is."""

    deaf = True

    def _write(self, key: str, value: bytes | Path, *, overwrite: bool) -> None:
        super()._write(key, value, overwrite=overwrite)
        if self.deaf:
            self.deaf = False
            raise OSError("timed out")


def test_a_claim_whose_answer_was_lost_is_known_as_ones_own(store: Store) -> None:
    deaf = Deaf(store.root)
    assert begin(deaf, "tiny", "all", {}).number == 0
    assert not deaf.deaf and len(read_attempts(store, "tiny")["all"]) == 1


@pytest.mark.parametrize("name", ["start", "end"])
def test_a_rotted_document_frees_no_number(store: Store, name: str) -> None:
    first = begin(store, "tiny", "all", {"recipe": "a"})
    finish(store, "tiny", first, DONE)
    rot(document(store, first, name))
    read_attempts(store, "tiny")
    second = begin(store, "tiny", "all", {"recipe": "b"})
    finish(store, "tiny", second, {"outcome": "error"})
    assert second.number == 1
    newest = read_attempts(store, "tiny")["all"][-1]
    assert newest.start["recipe"] == "b" and newest.end is not None and newest.end["outcome"] == "error"


def test_one_that_ended_is_told_whole_without_its_start(store: Store) -> None:
    attempt = begin(store, "tiny", "all", {"recipe": "a"})
    finish(store, "tiny", attempt, DONE)
    rot(document(store, attempt, "start"))
    read = only(store)
    assert read.start == attempt.start and read.end is not None
    assert DONE.items() <= read.end.items() and "start" not in read.end


def test_one_whose_end_rotted_counts_as_killed(store: Store) -> None:
    attempt = begin(store, "tiny", "all", {})
    finish(store, "tiny", attempt, DONE)
    rot(document(store, attempt, "end"))
    assert only(store).state(utc_now() + LEASE) == "interrupted"


def test_without_start_and_end_nobody_can_say_and_what_is_not_ours_is_passed_over(store: Store) -> None:
    first, second = begin(store, "tiny", "all", {}), begin(store, "tiny", "all", {})
    rot(document(store, second, "start"))
    document(store, first, "start").with_name(".DS_Store").touch()
    document(store, first, "start").parents[1].joinpath("notes").mkdir()
    document(store, first, "start").parents[1].joinpath("notes", "start.json").touch()
    assert [a.number for a in read_attempts(store, "tiny")["all"]] == [0]
    assert [a.number for a in read_attempts(store, "tiny", newest=True)["all"]] == [0]


@pytest.mark.parametrize(
    ("end", "age", "state"),
    [
        (None, 0, "running"),
        (None, 119, "running"),
        (None, 120, "interrupted"),
        ("interrupted", 0, "interrupted"),
        ("error", 0, "failed"),
        ("harmful", 9999, "done"),
    ],
)
def test_states_follow_from_beat_and_end(end: str | None, age: int, state: str) -> None:
    attempt = Attempt("all", 0, {}, NOW - timedelta(seconds=age), None if end is None else {"outcome": end})
    assert attempt.state(NOW) == state


def test_an_outcome_that_the_recipe_calls_a_failure_is_one() -> None:
    ends = {"fail": "failed", "keep_current": "done", "best_real": "done"}
    for action, state in ends.items():
        assert Attempt("all", 0, {}, NOW, {"outcome": "harmful", "action": action}).state(NOW) == state


def test_an_owner_whose_clock_runs_ahead_does_not_outlive_itself(store: Store) -> None:
    begin(store, "tiny", "all", {}, now=lambda: utc_now() + timedelta(hours=9))
    assert only(store).state(utc_now()) == "running"
    assert only(store).state(utc_now() + LEASE) == "interrupted"


def test_it_beats_while_it_lives_and_through_a_store_that_fails(store: Store) -> None:
    class Failing(Store):
        puts = 0

        def put(self, key: str, value: bytes | Path) -> None:
            self.puts += 1
            if self.puts == 1:
                raise StoreError("storm", where=key)
            super().put(key, value)

    past = utc_now() - timedelta(hours=1)
    attempt = begin(store, "tiny", "all", {}, now=lambda: past)
    assert only(store).state(utc_now()) == "interrupted"
    failing = Failing(store.root)
    with beating(failing, "tiny", attempt, every=0.01):
        while failing.puts < 3:
            time.sleep(0.01)
        assert only(store).state(utc_now()) == "running"
    beats = failing.puts
    time.sleep(0.05)
    assert failing.puts == beats  # and no longer


@given(st.dictionaries(st.sampled_from(["2026-01-01", "../x", "b"]), st.lists(st.booleans(), min_size=1, max_size=3)))
def test_the_newest_is_the_last_of_all_and_costs_one_read_where_it_ended(
    tmp_path_factory: pytest.TempPathFactory, tries: dict[str, list[bool]]
) -> None:
    class Counting(Store):
        gets = 0

        def get(self, key: str) -> bytes | None:
            self.gets += 1
            return super().get(key)

    store = Counting(str(tmp_path_factory.mktemp("s")))
    for snapshot, ends in tries.items():
        for ended in ends:
            attempt = begin(store, "tiny", snapshot, {})
            if ended:
                finish(store, "tiny", attempt, DONE)
    every = read_attempts(store, "tiny")
    assert {snapshot: [a.end is not None for a in attempts] for snapshot, attempts in every.items()} == tries
    store.gets = 0
    newest = read_attempts(store, "tiny", newest=True)
    assert newest == {snapshot: attempts[-1:] for snapshot, attempts in every.items()}
    assert store.gets == len(tries)
