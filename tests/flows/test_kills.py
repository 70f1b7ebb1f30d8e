"""`kill -9` through the command line: no process stays, nothing that stood is made again, the next run's bytes are equal.

The thirty kills that docs/measured.md reports come from the same code: tests/benchmarks/kill_runs.py.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from chain import public_bytes

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from kill_runs import Command, Kill, kill_runs, manifests, moments, processes_of

from augmill.tasks.store.log import read_log
from augmill.tasks.store.store import Store


def check_kills(found: list[Kill]) -> None:
    for kill in found:
        assert kill.good, kill
    assert sum(kill.killed for kill in found) > len(found) / 2
    assert len(found) == 1 or len({kill.finished for kill in found}) > 1


def test_the_moments_of_kills_are_seeded_and_spread_over_the_run() -> None:
    drawn = list(moments(10, 5.0, seed=3))
    assert drawn == list(moments(10, 5.0, seed=3)) != list(moments(10, 5.0, seed=4))
    assert all(part / 2 <= moment < (part + 1) / 2 for part, moment in enumerate(drawn))


@pytest.mark.slow
def test_five_killed_runs_are_made_good(tmp_path: Path) -> None:
    check_kills(list(kill_runs(tmp_path, 5, seed=11)))


@pytest.mark.slow
def test_a_killed_run_under_prefect_is_made_good(tmp_path: Path) -> None:
    check_kills(list(kill_runs(tmp_path, 1, seed=12, orchestrator="prefect")))


def kill_workers(mark: str) -> int:
    """SIGKILL to every worker process of the run; how many there were."""
    killed = 0
    for process in processes_of(mark):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if "augmill.tasks.workers" in process.cmdline():
                process.kill()
                killed += 1
    return killed


@pytest.mark.slow
def test_a_run_outlives_the_death_of_its_workers(tmp_path: Path) -> None:
    """All are killed while the label check is fitted, and again among the shards: what they had is tried again."""
    command = Command.prepare(tmp_path)
    command.run(tmp_path / "undisturbed")
    with tempfile.TemporaryFile() as errors:
        process = command.start(tmp_path / "killed", "workers", errors)
        for done in (8, 11):  # ingest, gather, split, fit and four checks; the last check, the plan and a shard
            while len(manifests(tmp_path / "killed")) < done:
                assert process.poll() is None
                time.sleep(0.01)
            assert kill_workers("workers") >= 1
        assert process.wait(timeout=120) == 0
        errors.seek(0)
        said = errors.read().decode()
    assert "a worker died during its shard (signal 9" in said and "Traceback" not in said
    assert public_bytes(tmp_path / "killed") == public_bytes(tmp_path / "undisturbed")
    assert len(read_log(Store(str(tmp_path / "killed")), "tiny").entries) == 1
    assert not processes_of("workers")


@pytest.mark.slow
def test_two_runs_at_once_end_in_one_release(tmp_path: Path) -> None:
    command, store = Command.prepare(tmp_path), tmp_path / "both"
    with tempfile.TemporaryFile() as errors:
        both = [command.start(store, "both", errors) for _ in range(2)]
        ended = [process.wait(timeout=120) for process in both]
        errors.seek(0)
        assert (ended, b"Traceback" in errors.read()) == ([0, 0], False)
    command.run(tmp_path / "undisturbed")
    assert public_bytes(store) == public_bytes(tmp_path / "undisturbed")
    assert len(read_log(Store(str(store)), "tiny").entries) == 1
