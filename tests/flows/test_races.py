"""Two publishers at once on one snapshot, on a disk and in a bucket: one wins, the other is told, the log stays whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from buckets import s3_server
from fake_releases import put_fake

from augmill.tasks.errors import ConflictError
from augmill.tasks.stages.publish import commit_releases
from augmill.tasks.store.log import read_log
from augmill.tasks.store.store import Store

RACES, LOG = 100, 10  # races in all, and as many after one another in each log: a longer one takes longer to read
# A process with a store of its own. A line in: dataset, expected release, release; a line out: what became of it.
PUBLISHER = """
import json, sys
from augmill.tasks.errors import ConflictError
from augmill.tasks.stages.publish import commit_releases
from augmill.tasks.store.store import Store
store = Store(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    dataset, expected, release = json.loads(line)
    try:
        appended = commit_releases(
            store, dataset, {"2026-10-01": (expected, release)}, entry={"reason": "race"}, command=sys.argv[2]
        )
        print("won" if appended else "already published", flush=True)
    except ConflictError as error:
        print(f"conflict {error.problem}", flush=True)
"""


class Publisher:
    def __init__(self, root: str, name: str) -> None:
        command = [sys.executable, "-c", PUBLISHER, root, name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.read() == "ready"

    def send(self, *message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "store")
        return
    with s3_server("races"):
        yield "s3://races/store"


@pytest.fixture
def two(root: str) -> Iterator[tuple[Publisher, Publisher]]:
    both = Publisher(root, "a"), Publisher(root, "b")
    yield both
    for publisher in both:
        publisher.close()


def race(two: tuple[Publisher, Publisher], dataset: str, expected: str | None, releases: tuple[str, str]) -> list[str]:
    for publisher, release in zip(two, releases, strict=True):
        publisher.send(dataset, expected, release)
    return [publisher.read() for publisher in two]


@pytest.mark.slow
def test_of_two_publishers_of_one_snapshot_exactly_one_wins_and_the_other_is_told(
    two: tuple[Publisher, Publisher], root: str
) -> None:
    store = Store(root)
    winners: dict[str, list[str]] = {}
    by: dict[str, list[str]] = {}
    for number in range(RACES):
        dataset = f"race{number // LOG}"
        won = winners.setdefault(dataset, [])
        left, right = (put_fake(store, f"{name} {number}", dataset) for name in "ab")
        said = race(two, dataset, won[-1] if won else None, (left, right))
        assert sorted(word.split()[0] for word in said) == ["conflict", "won"], said
        won.append((left, right)[said.index("won")])
        by.setdefault(dataset, []).append("ab"[said.index("won")])
        assert f"another run published {won[-1]} " in max(said, key=len)
    for dataset, won in winners.items():
        log = read_log(store, dataset)  # raises where the chain is broken
        assert [entry["current"] for entry in log.entries] == [{"2026-10-01": release} for release in won]
        assert [entry["command"] for entry in log.entries] == by[dataset]


def test_two_publishers_of_one_release_make_one_entry(two: tuple[Publisher, Publisher], root: str) -> None:
    releases = [put_fake(Store(root), f"release {number}", "same") for number in range(20)]
    for before, release in zip([None, *releases], releases, strict=False):
        said = race(two, "same", before, (release, release))
        assert sorted(said) == ["already published", "won"]
    assert [entry["current"]["2026-10-01"] for entry in read_log(Store(root), "same").entries] == releases


def test_a_publisher_that_comes_late_is_refused(tmp_path: Path) -> None:
    """One that slept through its lease: what it saw at its start is no longer current."""
    store = Store(str(tmp_path))
    first, late = put_fake(store, "first", "late"), put_fake(store, "late", "late")
    moves = {"2026-10-01": (None, first)}
    assert commit_releases(store, "late", moves, entry={"reason": ""}, command="the other")
    with pytest.raises(ConflictError, match=f"another run published {first}"):
        commit_releases(store, "late", {"2026-10-01": (None, late)}, entry={"reason": ""}, command="late")
    assert read_log(store, "late").current() == {"2026-10-01": first}
