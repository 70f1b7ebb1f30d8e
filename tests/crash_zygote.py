"""Imports everything, then forks: one child per kill, which dies at one store operation, and one that runs again.

    python crash_zygote.py DIRECTORY KILLS SEED
    python crash_zygote.py DIRECTORY points

prints a line of JSON per kill: at which operation, or at which named point of the publish protocol, how both children
ended, whether the bytes are an undisturbed run's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from chain import produce_and_publish, public_bytes, tiny_recipe, write_rows

from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.stages import publish
from augmill.tasks.store.log import read_log
from augmill.tasks.store.releases import verify_release
from augmill.tasks.store.store import Store

T = TypeVar("T")
# What stages import inside their functions: here, once, rather than in each of 600 children (1.8 s each).
for _name in ("sklearn.linear_model", "sklearn.feature_extraction.text", "scipy.sparse", "safetensors.numpy"):
    importlib.import_module(_name)

PHASES = ("before", "middle", "after")


class DyingStore(Store):
    """Kills its process at one of its writes: before it, in the middle of it, or after it."""

    def __init__(self, root: str, at: int | None, phase: str = "before") -> None:
        super().__init__(root)
        self.at, self.phase = at, phase
        self.numbers = itertools.count()  # shards write from several threads; next() is atomic
        self.writes = 0

    def _die(self, number: int, key: str, value: bytes | Path, phase: str) -> None:
        if number != self.at or self.phase != phase:
            return
        if phase == "middle":  # what is left of a write that was cut: a part of a staged file
            assert self.local is not None
            content = value if isinstance(value, bytes) else value.read_bytes()
            target = self.local / "private" / "staging" / f"{number}#1"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    def _dying(self, key: str, value: bytes | Path, write: Callable[[], T]) -> T:
        number = next(self.numbers)
        self.writes = max(self.writes, number + 1)
        self._die(number, key, value, "before")
        self._die(number, key, value, "middle")
        wrote = write()
        self._die(number, key, value, "after")
        return wrote

    def put(self, key: str, value: bytes | Path) -> None:
        self._dying(key, value, lambda: super(DyingStore, self).put(key, value))

    def put_if_absent(self, key: str, value: bytes) -> bool:
        return self._dying(key, value, lambda: super(DyingStore, self).put_if_absent(key, value))


def dying_at(at: int | None, passed: Path) -> Callable[[str], None]:
    """Notes the points of the publish protocol that are passed, and dies at one of them."""
    numbers = itertools.count()

    def passing(point: str) -> None:
        with passed.open("a", encoding="utf-8") as stream:
            stream.write(f"{point}\n")
        if next(numbers) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return passing


def run_to_point(recipe: Recipe, root: Path, at: int | None, passed: Path) -> None:
    publish.passing = dying_at(at, passed)  # in a forked child: nobody else sees it
    run_once(recipe, Store(str(root)))


def in_child(work: Callable[[], None]) -> int:
    """The exit code of ``work`` in a forked child; minus the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        try:
            with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):  # noqa: PTH123
                work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the child's end, told by its exit code
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def manifests(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (root / "private" / "manifests").rglob("*.json")}


def one_kill(recipe: Recipe, root: Path, at: int, phase: str, expected: dict[str, bytes]) -> dict[str, object]:
    first = in_child(lambda: run_once(recipe, DyingStore(str(root), at, phase)))
    before = manifests(root)
    second = in_child(lambda: run_once(recipe, Store(str(root))))
    after = manifests(root)
    log = root / "public" / "tiny" / "_log"
    return {
        "operation": at,
        "phase": phase,
        "first": first,
        "second": second,
        "equal": public_bytes(root) == expected,
        "entries": len(list(log.iterdir())),
        "remade": sorted(name for name, stamp in before.items() if after.get(name) != stamp),
    }


def run_once(recipe: Recipe, store: Store) -> None:
    produce_and_publish(recipe, store)


def look(root: Path, said: Path) -> None:
    """Which release is current, what is wrong with it, and how many entries the log has."""
    store = Store(str(root))
    log = read_log(store, "tiny")
    current = str(log.newest())
    found = {"current": current, "wrong": verify_release(store, "tiny", current), "entries": len(log.entries)}
    said.write_text(json.dumps(found), encoding="utf-8")


def told(root: Path, said: Path) -> dict[str, object]:
    """``look`` in a child: opening a store starts threads, which a later fork would lose."""
    assert in_child(lambda: look(root, said)) == 0
    found: dict[str, object] = json.loads(said.read_text(encoding="utf-8"))
    return found


def kill_at_points(directory: Path) -> None:
    """Publishes over an older release: killed at each point in turn, looked at, and run again."""
    recipe = tiny_recipe(write_rows(directory / "rows.csv"))
    old, whole, passed, said = (directory / name for name in ("old", "whole", "passed", "said"))
    assert in_child(lambda: run_once(dataclasses.replace(recipe, seed=1), Store(str(old)))) == 0
    before = told(old, said)["current"]
    shutil.copytree(old, whole)
    assert in_child(lambda: run_to_point(recipe, whole, None, passed)) == 0
    for at, point in enumerate(passed.read_text(encoding="utf-8").split()):
        root = directory / f"killed-{at}"
        shutil.copytree(old, root)
        first = in_child(lambda at=at, root=root: run_to_point(recipe, root, at, directory / "again"))
        seen = told(root, said)
        kill = {"point": point, "first": first, "old": seen["current"] == before, "wrong": seen["wrong"]}
        second = in_child(lambda root=root: run_once(recipe, Store(str(root))))
        equal = public_bytes(root) == public_bytes(whole)
        print(json.dumps(kill | {"second": second, "equal": equal, "entries": told(root, said)["entries"]}), flush=True)


def main(directory: Path, kills: int, seed: int) -> None:
    recipe = tiny_recipe(write_rows(directory / "rows.csv"))
    undisturbed = directory / "undisturbed"
    counter = directory / "count"

    def count() -> None:
        store = DyingStore(str(undisturbed), None)
        run_once(recipe, store)
        counter.write_text(str(store.writes))

    assert in_child(count) == 0
    expected = public_bytes(undisturbed)
    total = int(counter.read_text())
    points = [(at, phase) for at in range(total) for phase in PHASES]
    rng = random.Random(seed)
    rng.shuffle(points)
    while len(points) < kills:
        points += rng.sample(points, min(len(points), kills - len(points)))
    for at, phase in points[:kills]:
        root = directory / "killed"
        shutil.rmtree(root, ignore_errors=True)
        sys.stdout.write(json.dumps(one_kill(recipe, root, at, phase, expected)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[2] == "points":
        kill_at_points(Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
