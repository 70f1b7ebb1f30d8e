"""Stores as nights leave them, for tests of what is kept and what goes; and a store that ends at one of its changes."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from augmill.tasks.store.store import Store

# Whatever the gate says, the mix is released: there are synthetic rows to follow.
GATE = {"seeds": 3, "resamples": 200, "rule": "not_worse", "margin": 100.0}


class Killed(BaseException):
    """As SIGKILL: nothing of ours catches it."""


class DyingStore(Store):
    """Dies at its change number ``at``: a file written, deleted or moved."""

    def __init__(self, root: str, at: int | None) -> None:
        super().__init__(root)
        self.at, self.changes = at, 0

    def _count(self) -> None:
        if self.changes == self.at:
            raise Killed
        self.changes += 1

    def put(self, key: str, value: bytes | Path) -> None:
        self._count()
        super().put(key, value)

    def put_if_absent(self, key: str, value: bytes) -> bool:
        self._count()
        return super().put_if_absent(key, value)

    def delete(self, key: str) -> None:
        self._count()
        super().delete(key)

    def move_aside(self, key: str) -> None:
        self._count()
        super().move_aside(key)


def copy_store(store: Path, target: Path) -> Store:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(store, target)
    return Store(str(target))


def keys(store: Store) -> set[str]:
    """All that stands, but the records that each run adds."""
    return {
        key
        for key in (*store.list_keys("private"), *store.list_keys("public"))
        if not key.startswith(("private/attempts/", "private/sources/")) and "/_log/" not in key
    }


def texts_in(path: Path) -> Iterator[str]:
    """Everything a file says: Parquet decoded, its metadata too; the bytes of any other."""
    raw = path.read_bytes()
    if raw[:4] == b"PAR1":
        table = pq.read_table(io.BytesIO(raw))
        yield json.dumps(table.to_pylist(), ensure_ascii=False, default=str)
        yield str(pq.read_metadata(io.BytesIO(raw)).to_dict())
    yield raw.decode("utf-8", "replace")


def files_with(root: Path, text: str) -> list[str]:
    """The files below that say it: as it is, or as JSON writes it."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and any(text in said for said in texts_in(path)):
            found.append(path.relative_to(root).as_posix())
    return found


def released(store: Store, dataset: str, release: str, split: str = "train") -> list[dict[str, Any]]:
    assert store.local is not None
    rows: list[dict[str, Any]] = pq.read_table(store.local / f"public/{dataset}/releases/{release}/{split}").to_pylist()
    return rows
