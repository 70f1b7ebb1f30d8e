"""Writes into a local store: whole, atomic, and on the disk when they return."""

from __future__ import annotations

import os
from pathlib import Path

import obstore
from obstore.store import ObjectStore

STAGING = "private/staging"


class DurableWriter:
    """Puts files under ``root`` by way of ``private/staging``: obstore stages beside the target, where a kill would

    leave half a file in a release's directory, for every reader that opens directories.
    """

    def __init__(self, root: Path, backend: ObjectStore) -> None:
        self.root, self.backend = root, backend
        self._durable: set[Path] = set()  # directories whose own entry is known to be on the disk

    def write(self, key: str, value: bytes | Path, *, overwrite: bool) -> None:
        """Raises what obstore raises; AlreadyExistsError where something stands there and ``overwrite`` is false."""
        staged = f"{STAGING}/{os.urandom(8).hex()}"
        obstore.put(self.backend, staged, value)
        try:
            _fsync(self.root / staged)
            obstore.rename(self.backend, staged, key, overwrite=overwrite)
        except BaseException:
            (self.root / staged).unlink(missing_ok=True)
            raise
        self._sync_directories(self.root / key)

    def _sync_directories(self, path: Path) -> None:
        made: list[Path] = []
        for directory in path.parents:
            _fsync(directory)
            if directory == self.root or directory in self._durable:
                break
            made.append(directory)  # perhaps for this file: it lasts once its parent is synced, which is next
        self._durable.update(made)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
