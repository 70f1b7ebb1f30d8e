"""SIGKILL at any store operation loses nothing and repeats nothing: the next run ends with an undisturbed one's bytes.

A fresh interpreter per kill would cost 2 s of imports, so one that has imported everything but done nothing forks
a child per kill (no thread runs yet that a fork could lose).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from augmill.tasks.stages.publish import CRASH_POINTS

HERE = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be: a kill leaves the same there, and 600 runs need not wait for a disk's fsync."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="augmill-kills-") as made:
        yield Path(made)


def run_kills(directory: Path, *arguments: object) -> list[dict]:
    directory.mkdir(exist_ok=True)
    done = subprocess.run(
        # One thread: a fork keeps none of the others.
        [sys.executable, str(HERE / "crash_zygote.py"), str(directory), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_kills(found: list[dict]) -> None:
    for kill in found:
        assert kill["first"] == -signal.SIGKILL, kill
        assert kill["second"] == 0, kill
        assert kill["equal"], kill
        assert kill["entries"] == 1, kill
        assert not kill["remade"], kill


def test_a_kill_at_any_store_operation_is_made_good_by_the_next_run(folder: Path) -> None:
    found = run_kills(folder, 5, random.Random(1).randrange(2**31))
    assert len(found) == 5
    check_kills(found)


@pytest.mark.slow
def test_three_hundred_seeded_kills_are_made_good(folder: Path) -> None:
    with ThreadPoolExecutor(2) as pool:  # each waits for a process of its own
        halves = pool.map(lambda seed: run_kills(folder / str(seed), 150, seed), (7, 8))
        found = [kill for half in halves for kill in half]
    assert len(found) == 300
    assert len({(kill["operation"], kill["phase"]) for kill in found}) > 100
    check_kills(found)


@pytest.mark.slow
def test_a_kill_at_any_point_of_the_publish_protocol_leaves_the_old_release_or_the_new_one_whole(folder: Path) -> None:
    found = run_kills(folder, "points")
    points = [kill["point"] for kill in found]
    assert list(dict.fromkeys(points)) == list(CRASH_POINTS)  # every one that is listed is met, in this order
    assert points.count("file") == 6  # three splits, order, labels, card
    for kill in found:
        assert (kill["first"], kill["second"]) == (-signal.SIGKILL, 0), kill
        assert kill["old"] == (kill["point"] != "published"), kill
        assert kill["wrong"] == [] and kill["equal"] and kill["entries"] == 2, kill
