"""The store: the only module that knows paths. One root on a local disk, S3, GCS or Azure, reached through obstore.

private/objects/<ab>/<sha256>             every file, named by its content
private/manifests/<stage>/<identity>.json what a finished stage gave; written last, put-if-absent
private/aside/...                         what was found corrupt, kept for a look, never read again
private/scratch/<dataset>/<extension>/...       an extension's own space
private/attempts/, backfills/, compare/   what was tried (tasks/store/attempts.py), planned and compared (flows/)
private/bank/<fit>/...                    which candidates of a fit were sampled already (tasks/stages/jobs.py)
private/erased/<dataset>/...              hashes of the rows that must not come back (tasks/store/erasure.py)
private/staging/<random>                  a file on its way (local disks only); what a kill leaves here, nobody reads
private/reports/<name>/...                reports and Data Docs, which may hold samples of rows
public/<dataset>/_log/<8 digits>.json     the log
public/<dataset>/releases/<id>/...        releases
public/<dataset>/delta/...                a Delta table with copies of its own (tasks/store/delta.py)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore

from augmill.tasks.boundary.retries import PATIENCE, in_threads
from augmill.tasks.contracts import Scratch
from augmill.tasks.errors import CorruptObject, StoreError, StoreRefused, UserError
from augmill.tasks.rows.hashing import hash_file, seal, unseal
from augmill.tasks.sources.storage import connect
from augmill.tasks.store.rules import REMOTE_SCHEMES, explain, put_remote, require_root
from augmill.tasks.store.shapes import require_document

# --- Writes into a local store: whole, atomic, on the disk when they return; and what is private readable by its ------


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


# --- The store --------------------------------------------------------------------------------------------------------


# What a run names again counts as new for gc, whose grace is longer than this; a write per file and hour costs little.
T = TypeVar("T")

RENEWED = timedelta(minutes=30)
PIECE = 1 << 20  # bytes that are handed over at least: what a connection that breaks takes with it
UNASKED = 1 << 22  # bytes up to which an object is written to a bucket without asking whether it stands there
SEEN = 4096  # manifests that a process remembers; about 5 kB each
READERS = 16  # documents asked for at once: from a bucket, 400 of 30 ms each take a second instead of twelve


@dataclass(frozen=True)
class Stored:
    """What stands under a key, without its content."""

    key: str
    size: int
    modified: datetime


def object_key(sha256: str) -> str:
    return f"private/objects/{sha256[:2]}/{sha256}"


def manifest_key(stage: str, identity: str) -> str:
    return f"private/manifests/{stage}/{identity}.json"


def release_key(dataset: str, release: str, name: str = "") -> str:
    return f"public/{dataset}/releases/{release}/{name}".rstrip("/")


def log_key(dataset: str, number: int) -> str:
    return f"public/{dataset}/_log/{number:08d}.json"


delta_key = "public/{}/delta".format  # of a dataset


class Store:
    """Objects, sealed documents, releases. Every error names the object.

    Raises UserError for a root that cannot be a store, StoreRefused where waiting cannot help, StoreError otherwise.
    """

    def __init__(self, root: str, *, backend: ObjectStore | None = None) -> None:
        self.root = root
        self.local: Path | None = None if root.startswith(REMOTE_SCHEMES) else Path(os.path.expanduser(root)).absolute()  # noqa: PTH111
        self._verified: set[str] = set()
        self.seen: dict[str, dict[str, Any]] = {}  # manifests, by key, as this process read or wrote them last
        self._lock = threading.Lock()
        self._downloads: Path | None = None
        self.backend = backend or self._open()
        self.root = (
            root if self.local is None else str(self.local)
        )  # what is printed is whole: a script may be anywhere
        self._writer = None if self.local is None else DurableWriter(self.local, self.backend)

    def _open(self) -> ObjectStore:
        require_root(self.root)
        if self.local is None:
            try:
                return cast("ObjectStore", connect(self.root))
            except (BaseError, ValueError) as error:
                problem = str(error).split("\n\nDebug source:")[0]
                fix = "give a bucket, such as s3://bucket/prefix, and the account's settings in the environment"
                raise UserError(f"{self.root!r} is no store: {problem}", where="run.store", fix=fix) from error
        try:
            self.local.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"the store's directory cannot be made: {error.strerror}"
            fix = "give a directory that is there, or can be made (run.store, --store)"
            raise StoreRefused(problem, where=str(self.local), fix=fix) from error
        close_private(self.local)
        return cast("ObjectStore", LocalStore(self.local))

    def _explain(self, error: Exception, key: str) -> StoreError:
        return explain(error, f"{self.root}: {key}")

    def _ask(self, key: str, request: Callable[[], T]) -> T:
        """What the request gives; one to a bucket is made again while the store does not answer (run.store_patience).

        Raises StoreError, but leaves alone what says that something is there, or is not.
        """

        def ask() -> T:
            try:
                return request()
            except (FileNotFoundError, AlreadyExistsError):
                raise
            except (BaseError, OSError) as error:
                raise self._explain(error, key) from error

        return ask() if self.local is not None else PATIENCE.outwait(ask)

    def get(self, key: str) -> bytes | None:
        try:
            return self._ask(key, lambda: bytes(obstore.get(self.backend, key).bytes()))
        except FileNotFoundError:
            return None

    def get_all(self, keys: Sequence[str]) -> list[bytes | None]:
        """What stands under each key."""
        return in_threads(self.get, keys, READERS)

    def put(self, key: str, value: bytes | Path) -> None:
        """Writes whole or not at all, over what stands there; durable on a local disk when it returns."""
        try:
            self._ask(key, lambda: self._write(key, value, overwrite=True))
        except FileNotFoundError as error:  # its bucket, or the store's directory, is gone
            raise self._explain(error, key) from error

    def put_if_absent(self, key: str, value: bytes) -> bool:
        """True where this call wrote it: also where its answer was lost, and what then stands there is what it put."""
        tries = 0

        def write() -> None:
            nonlocal tries
            tries += 1
            self._write(key, value, overwrite=False)

        try:
            self._ask(key, write)
        except FileNotFoundError as error:
            raise self._explain(error, key) from error
        except AlreadyExistsError:
            return tries > 1 and self.get(key) == value
        except StoreError:
            if self.get(key) == value:
                return True
            raise
        return True

    def _write(self, key: str, value: bytes | Path, *, overwrite: bool) -> None:
        if self._writer is not None:
            self._writer.write(key, value, overwrite=overwrite)
        else:
            put_remote(self.backend, key, value, overwrite=overwrite)

    def size(self, key: str) -> int | None:
        return found.size if (found := self.head(key)) else None

    def head(self, key: str) -> Stored | None:
        try:
            found = self._ask(key, lambda: obstore.head(self.backend, key))
        except FileNotFoundError:
            return None
        return Stored(key, int(found["size"]), found["last_modified"])

    def holds(self, key: str, sha256: str, size: int) -> bool:
        """Whether that content stands there, by its size and its checksum."""
        return self.size(key) == size and self.digest(key) == sha256

    def digest(self, key: str) -> str | None:
        """sha256 of what stands there, read piece by piece; None where there is nothing."""

        digest = hashlib.sha256()
        try:
            self._read(key, digest.update)
        except FileNotFoundError:
            return None
        return digest.hexdigest()

    def _read(self, key: str, take: Callable[[Any], object]) -> None:
        """Hands over what stands there, piece by piece. Where the connection breaks, another goes on from that place, and is

        borne as long as the first: what is read for longer than that, or breaks often, comes all the same.
        """
        at = 0

        def go_on() -> bool:
            """Whether all has come. Raises where nothing more came."""
            nonlocal at
            began, size = at, None
            try:
                found = obstore.get(self.backend, key, options={"range": {"offset": at}} if at else None)
                size = found.meta["size"]
                for chunk in found.stream(PIECE):
                    take(chunk)
                    at += len(chunk)
            except (BaseError, OSError):
                if at == began:
                    raise
                return at == size
            return True

        while not self._ask(key, go_on):
            pass

    def digests(self, keys: Sequence[str]) -> list[str | None]:
        """``digest`` of each."""
        return in_threads(self.digest, keys, READERS)

    def list_keys(self, prefix: str) -> list[str]:
        """Every key under the prefix, sorted."""
        return [item.key for item in self.list_files(prefix)]

    def list_files(self, prefix: str) -> list[Stored]:
        """Everything under the prefix with its size and age, sorted by key."""
        try:  # one that is cut in the middle begins anew
            found = self._ask(prefix, lambda: [item for chunk in obstore.list(self.backend, prefix) for item in chunk])
        except FileNotFoundError:
            return []
        return sorted((Stored(i["path"], i["size"], i["last_modified"]) for i in found), key=lambda item: item.key)

    def delete(self, key: str) -> None:
        """Where another process did so first, there is nothing left to do."""
        with contextlib.suppress(FileNotFoundError):
            self._ask(key, lambda: obstore.delete(self.backend, key))

    def tidy(self, prefix: str) -> None:
        """On a local disk, removes the directories below that hold nothing any more; elsewhere there are none."""
        if self.local is not None:
            for folder, _, _ in os.walk(self.local / prefix, topdown=False):
                with contextlib.suppress(OSError):  # something stands in it
                    Path(folder).rmdir()

    def move_aside(self, key: str) -> None:
        """Takes a corrupt object out of the way; where another process did so first, there is nothing left to do."""
        aside = f"private/aside/{key}.{os.urandom(4).hex()}"
        self.seen.pop(key, None)

        def move() -> None:
            if self.local is not None:
                make_private(self.local, aside)
            obstore.rename(self.backend, key, aside)
            if self.local is not None:
                (self.local / aside).chmod(0o600)

        with contextlib.suppress(FileNotFoundError):
            self._ask(key, move)

    # --- objects: files named by their sha256 ----------------------------------------------------------------------

    def put_object(self, path: Path) -> tuple[str, int]:
        """(sha256, bytes) of a file that now stands in the store, as one that is new: gc leaves it alone."""
        sha256, size = hash_file(path), path.stat().st_size
        # To ask a bucket about a small one would be one more trip, nearly always in vain: it is written over itself.
        asked = self.local is not None or size > UNASKED
        standing = self.head(object_key(sha256)) if asked else None
        if standing is None or standing.size != size or datetime.now(UTC) - standing.modified > RENEWED:
            self.put(object_key(sha256), path)
        return sha256, size

    def fetch_object(self, sha256: str, size: int) -> Path:
        """A local file with that content, checked once per process. Raises CorruptObject (moved aside) or StoreError."""
        key = object_key(sha256)
        if self.local is not None:
            path = self.local / key
        else:
            with self._lock:
                if self._downloads is None:
                    self._downloads = Path(tempfile.mkdtemp(prefix="augmill-objects-"))
                    weakref.finalize(self, shutil.rmtree, self._downloads, ignore_errors=True)
            path = self._downloads / sha256
            if not path.exists():
                self._download(key, path)
        if sha256 in self._verified and path.exists():
            return path
        where, fix = f"{self.root}: {key}", "run it again: it is made anew"
        if not path.exists():
            raise CorruptObject("the object is gone", where=where, fix=fix)
        if path.stat().st_size != size or hash_file(path) != sha256:
            self.move_aside(key)
            if self.local is None:
                path.unlink()
            raise CorruptObject("the checksum is wrong; the object was moved aside", where=where, fix=fix)
        self._verified.add(sha256)
        return path

    def _download(self, key: str, path: Path) -> None:
        part = path.with_name(f"{path.name}.{os.urandom(4).hex()}")

        try:
            with part.open("wb") as stream:
                self._read(key, stream.write)
        except FileNotFoundError as error:
            raise CorruptObject("the object is gone", where=f"{self.root}: {key}", fix="run it again") from error
        part.replace(path)

    # --- sealed documents: manifests, log entries ------------------------------------------------------------------

    def read_sealed(self, key: str) -> dict[str, Any] | None:
        """The document's body; None where there is none, or where it was corrupt (then it was moved aside)."""
        if (raw := self.get(key)) is None:
            return None
        body = self.unsealed(key, raw)
        if body is None:
            self.move_aside(key)
        return body

    def see(self, key: str, body: dict[str, Any]) -> None:
        """Remembers a document that is written once, so that it is not asked for again."""
        if len(self.seen) >= SEEN:
            self.seen.clear()
        self.seen[key] = body

    @staticmethod
    def unsealed(key: str, raw: bytes | None) -> dict[str, Any] | None:
        """The body of the document that was read; None where it is not what was sealed, or there was nothing.

        The only way from a stored document to its body. Raises StoreRefused, naming the key, for one whose seal is whole
        but that Augmill did not write (``shapes``).
        """
        body = None if raw is None else unseal(raw)
        return None if body is None else require_document(key, body)

    def write_sealed(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        """Puts the document if there is none; returns the one that stands, ours or the winner's."""
        require_document(key, body)  # what would be refused when it is read is not written
        for _ in range(3):
            if self.put_if_absent(key, seal(body)):
                return body
            if (standing := self.read_sealed(key)) is not None:
                return standing
        raise StoreError("a document could be neither written nor read", where=f"{self.root}: {key}")

    def local_scratch(self, name: str) -> Path:
        """A directory on this machine that outlives the run: in the store where it is local, else in a cache."""
        if self.local is not None:
            make_private(self.local, f"private/scratch/{name}/")
            return self.local / "private" / "scratch" / name
        base = Path.home() / ".cache" / "augmill"
        base.mkdir(parents=True, exist_ok=True)
        base.chmod(0o700)
        (path := base / name).mkdir(parents=True, exist_ok=True)
        return path

    def scratch(self, extension: str) -> Scratch:
        return _StoreScratch(self, f"private/scratch/{extension}")

    def datasets(self) -> list[str]:
        return sorted({key.split("/")[1] for key in self.list_keys("public")})


class LookingStore(Store):
    """A store to look at: what is written, moved or deleted is so for this object alone, in a directory that goes with it.

    What a stage makes is not kept, then; what the store holds of it already is read there. A local store that is not
    there yet is empty, and is not made.
    """

    def __init__(self, root: str) -> None:
        directory = tempfile.mkdtemp(prefix="augmill-look-")
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        self._own = Store(directory)
        self._gone: set[str] = set()  # what would have been moved or deleted
        require_root(root)
        there = root.startswith(REMOTE_SCHEMES) or Path(os.path.expanduser(root)).is_dir()  # noqa: PTH111
        super().__init__(root, backend=None if there else self._own.backend)

    def get(self, key: str) -> bytes | None:
        own = self._own.get(key)
        return own if own is not None or key in self._gone else super().get(key)

    def head(self, key: str) -> Stored | None:
        own = self._own.head(key)
        return own if own is not None or key in self._gone else super().head(key)

    def list_files(self, prefix: str) -> list[Stored]:
        standing = {item.key: item for item in super().list_files(prefix) if item.key not in self._gone}
        own = {item.key: item for item in self._own.list_files(prefix)}
        return sorted((standing | own).values(), key=lambda item: item.key)

    def _write(self, key: str, value: bytes | Path, *, overwrite: bool) -> None:
        if not overwrite and self.head(key) is not None:
            raise AlreadyExistsError(key)
        self._own.put(key, value)

    def digest(self, key: str) -> str | None:
        own = self._own.digest(key)
        return own if own is not None or key in self._gone else super().digest(key)

    def fetch_object(self, sha256: str, size: int) -> Path:
        own = self._own.head(object_key(sha256)) is not None
        return self._own.fetch_object(sha256, size) if own else super().fetch_object(sha256, size)

    def delete(self, key: str) -> None:
        self._own.delete(key)
        self._gone.add(key)

    def move_aside(self, key: str) -> None:
        self.seen.pop(key, None)
        self.delete(key)

    def tidy(self, prefix: str) -> None:
        """There is nothing to tidy."""

    def local_scratch(self, name: str) -> Path:
        return self._own.local_scratch(name)


class _StoreScratch(Scratch):
    def __init__(self, store: Store, prefix: str) -> None:
        self.store, self.prefix = store, prefix

    def get(self, key: str) -> bytes | None:
        return self.store.get(f"{self.prefix}/{key}")

    def put_if_absent(self, key: str, value: bytes) -> bool:
        return self.store.put_if_absent(f"{self.prefix}/{key}", value)

    def keys(self, prefix: str) -> list[str]:
        return [key.removeprefix(f"{self.prefix}/") for key in self.store.list_keys(f"{self.prefix}/{prefix}")]

    def remove(self, key: str) -> None:
        self.store.delete(f"{self.prefix}/{key}")
