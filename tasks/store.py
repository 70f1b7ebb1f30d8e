"""The store: the only module that knows paths. One root on a local disk, S3, GCS or Azure, reached through obstore.

private/objects/<ab>/<sha256>             every file, named by its content
private/manifests/<stage>/<identity>.json what a finished stage gave; written last, put-if-absent
private/aside/...                         what was found corrupt, kept for a look, never read again
private/scratch/<rib>/...                 a rib's own space
private/staging/<random>                  a file on its way (local disks only); what a kill leaves here, nobody reads
private/reports/<name>/...                reports and Data Docs, which may hold samples of rows
public/<dataset>/_log/<8 digits>.json     the log
public/<dataset>/releases/<id>/...        releases
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, ObjectStore, from_url

from augmill.tasks.contracts import CorruptObject, Scratch, StoreError, StoreRefused, UserError
from augmill.tasks.durable import DurableWriter
from augmill.tasks.hashing import hash_file, seal, unseal

REMOTE_SCHEMES = ("s3://", "gs://", "az://")

# What waiting cannot cure, by what the operating system calls it in obstore's message.
_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
_HOPELESS = dict.fromkeys(_FULL, "free some space; the run resumes where it stopped") | {
    "Read-only file system": "give a store that can be written (run.store)",
    "Permission denied": "let this user write to the store, or give another one (run.store)",
    "Not a directory": "give a store whose path is a directory (run.store)",
    "The specified bucket does not exist": "create the bucket, or give another one (run.store)",
    "The specified container does not exist": "create the container, or give another one (run.store)",
}


def object_key(sha256: str) -> str:
    return f"private/objects/{sha256[:2]}/{sha256}"


def manifest_key(stage: str, identity: str) -> str:
    return f"private/manifests/{stage}/{identity}.json"


def release_key(dataset: str, release: str, name: str = "") -> str:
    return f"public/{dataset}/releases/{release}/{name}".rstrip("/")


def log_key(dataset: str, number: int) -> str:
    return f"public/{dataset}/_log/{number:08d}.json"


def require_root(root: str) -> None:
    """Raises UserError for what can be no store's root; looks at nothing."""
    if root.startswith(REMOTE_SCHEMES):
        if "?" in root or "@" in root.split("/")[2]:
            problem = "the store's address holds credentials"  # and is not repeated: it would stand in logs and reports
            fix = "give them by environment variables (AWS_..., GOOGLE_..., AZURE_...) or an instance role"
            raise UserError(problem, where="run.store", fix=fix)
        return
    fix = "give a directory, or a bucket this machine's credentials can write (run.store, --store)"
    if "://" in root:
        problem = (
            f"a store is a local directory or one of {', '.join(REMOTE_SCHEMES)}; found {root.partition(':')[0]}://"
        )
        raise UserError(problem, where="run.store", fix=fix)
    if not root.strip() or "\0" in root:
        raise UserError(f"{root!r} is no directory", where="run.store", fix=fix)


class Store:
    """Objects, sealed documents, releases. Every error names the object.

    Raises UserError for a root that cannot be a store, StoreRefused where waiting cannot help, StoreError otherwise.
    """

    def __init__(self, root: str, *, backend: ObjectStore | None = None) -> None:
        self.root = root
        self.local: Path | None = None if root.startswith(REMOTE_SCHEMES) else Path(root).expanduser().absolute()
        self._verified: set[str] = set()
        self._lock = threading.Lock()
        self._downloads: Path | None = None
        self.backend = backend or self._open()
        self._writer = None if self.local is None else DurableWriter(self.local, self.backend)

    def _open(self) -> ObjectStore:
        require_root(self.root)
        if self.local is None:
            plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
            retry = {"max_retries": 8, "retry_timeout": timedelta(seconds=120)}  # obstore's backoff is jittered
            options: dict[str, Any] = {"retry_config": retry, "client_options": {"allow_http": plain}}
            try:
                return from_url(self.root, **options)
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
        return cast("ObjectStore", LocalStore(self.local))

    def _explain(self, error: Exception, key: str) -> StoreError:
        text = str(error).split("\n\nDebug source:")[0]
        for sign, fix in _HOPELESS.items():
            if sign in text:
                return StoreRefused(sign.lower(), where=f"{self.root}: {key}", fix=fix)
        if isinstance(error, PermissionDeniedError | UnauthenticatedError | InvalidPathError | PermissionError):
            return StoreRefused(text, where=f"{self.root}: {key}", fix="check the credentials and the bucket's policy")
        return StoreError(text, where=f"{self.root}: {key}", fix="run it again; what is done is kept")

    def get(self, key: str) -> bytes | None:
        try:
            return bytes(obstore.get(self.backend, key).bytes())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise self._explain(error, key) from error

    def put(self, key: str, value: bytes | Path) -> None:
        """Writes whole or not at all, over what stands there; durable on a local disk when it returns."""
        try:
            self._write(key, value, overwrite=True)
        except (BaseError, OSError) as error:
            raise self._explain(error, key) from error

    def put_if_absent(self, key: str, value: bytes) -> bool:
        """True where this call wrote it. After an error whose PUT may have succeeded, the caller looks again."""
        try:
            self._write(key, value, overwrite=False)
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            if self.get(key) == value:  # the PUT succeeded and its answer was lost
                return True
            raise self._explain(error, key) from error
        return True

    def _write(self, key: str, value: bytes | Path, *, overwrite: bool) -> None:
        if self._writer is not None:
            self._writer.write(key, value, overwrite=overwrite)
        else:
            obstore.put(self.backend, key, value, mode="overwrite" if overwrite else "create")

    def size(self, key: str) -> int | None:
        try:
            return int(obstore.head(self.backend, key)["size"])
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise self._explain(error, key) from error

    def holds(self, key: str, sha256: str, size: int) -> bool:
        """Whether that content stands there: by its size and, on a local disk, its checksum."""
        return self.size(key) == size and (self.local is None or hash_file(self.local / key) == sha256)

    def list_keys(self, prefix: str) -> list[str]:
        """Every key under the prefix, sorted."""
        try:
            return sorted(item["path"] for chunk in obstore.list(self.backend, prefix) for item in chunk)
        except FileNotFoundError:
            return []
        except (BaseError, OSError) as error:
            raise self._explain(error, prefix) from error

    def move_aside(self, key: str) -> None:
        """Takes a corrupt object out of the way; where another process did so first, there is nothing left to do."""
        try:
            obstore.rename(self.backend, key, f"private/aside/{key}.{os.urandom(4).hex()}")
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise self._explain(error, key) from error

    # --- objects: files named by their sha256 ----------------------------------------------------------------------

    def put_object(self, path: Path) -> tuple[str, int]:
        """(sha256, bytes) of a file that now stands in the store."""
        sha256, size = hash_file(path), path.stat().st_size
        if self.size(object_key(sha256)) != size:
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
                for chunk in obstore.get(self.backend, key).stream():
                    stream.write(chunk)
        except FileNotFoundError as error:
            raise CorruptObject("the object is gone", where=f"{self.root}: {key}", fix="run it again") from error
        except (BaseError, OSError) as error:
            raise self._explain(error, key) from error
        part.replace(path)

    # --- sealed documents: manifests, log entries ------------------------------------------------------------------

    def read_sealed(self, key: str) -> dict[str, Any] | None:
        """The document's body; None where there is none, or where it was corrupt (then it was moved aside)."""
        raw = self.get(key)
        if raw is None:
            return None
        body = unseal(raw)
        if body is None:
            self.move_aside(key)
        return body

    def write_sealed(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        """Puts the document if there is none; returns the one that stands, ours or the winner's."""
        for _ in range(3):
            if self.put_if_absent(key, seal(body)):
                return body
            standing = self.read_sealed(key)
            if standing is not None:
                return standing
        raise StoreError("a document could be neither written nor read", where=f"{self.root}: {key}")

    def local_scratch(self, name: str) -> Path:
        """A directory on this machine that outlives the run: in the store where it is local, else in a cache."""
        base = self.local / "private" / "scratch" if self.local is not None else Path.home() / ".cache" / "augmill"
        path = base / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def scratch(self, rib: str) -> Scratch:
        return _StoreScratch(self, f"private/scratch/{rib}")

    def iter_log(self, dataset: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number, body) of each entry in order. Raises StoreRefused at a corrupt one: a log is never mended."""
        for key in self.list_keys(f"public/{dataset}/_log"):
            raw = self.get(key)
            body = unseal(raw) if raw is not None else None
            if body is None:
                raise StoreRefused("the log entry's checksum is wrong", where=key, fix="restore the file from a backup")
            yield int(Path(key).stem), body

    def datasets(self) -> list[str]:
        return sorted({key.split("/")[1] for key in self.list_keys("public")})


class _StoreScratch(Scratch):
    def __init__(self, store: Store, prefix: str) -> None:
        self.store, self.prefix = store, prefix

    def get(self, key: str) -> bytes | None:
        return self.store.get(f"{self.prefix}/{key}")

    def put_if_absent(self, key: str, value: bytes) -> bool:
        return self.store.put_if_absent(f"{self.prefix}/{key}", value)
