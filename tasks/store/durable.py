"""Writes into a local store: whole, atomic, on the disk when they return; and what is private readable by its owner alone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import obstore
from obstore.store import ObjectStore

PRIVATE = "private"
STAGING = f"{PRIVATE}/staging"


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
        make_private(self.root, staged)
        make_private(self.root, key)
        obstore.put(self.backend, staged, value)
        try:
            if is_private(key):
                (self.root / staged).chmod(0o600)
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


def is_private(key: str) -> bool:
    return key.startswith(f"{PRIVATE}/")


def make_private(root: Path, key: str) -> None:
    """The directories above a private key, for their owner alone whatever the umask; of a public one obstore makes them."""
    path = root
    for part in key.split("/")[:-1] if is_private(key) else ():
        path /= part
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            path.chmod(0o700)  # a umask may have taken from it


def close_private(root: Path) -> None:
    """What earlier versions left open: rows and samples below ``private/`` are nobody else's business."""
    path = root / PRIVATE
    with contextlib.suppress(OSError):  # not there yet, another user's, or on a disk that cannot be written
        if path.stat().st_mode & 0o777 != 0o700:
            path.chmod(0o700)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
