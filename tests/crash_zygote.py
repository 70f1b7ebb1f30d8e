"""Imports everything, then forks: one child per kill, which dies at one store operation, and one that runs again.

    python crash_zygote.py DIRECTORY KILLS SEED

prints a line of JSON per kill: which operation, how both children ended, whether the bytes are an undisturbed run's.
"""

from __future__ import annotations

import contextlib
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

from augmill.tasks.recipe import Recipe
from augmill.tasks.store import Store

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
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
