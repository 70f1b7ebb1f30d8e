"""The store: the only module that knows paths. One root on a local disk, S3, GCS or Azure, reached through obstore.

private/objects/<ab>/<sha256>             every file, named by its content
private/manifests/<stage>/<identity>.json what a finished stage gave; written last, put-if-absent
private/aside/...                         what was found corrupt, kept for a look, never read again
private/scratch/<rib>/...                 a rib's own space
private/reports/<name>/...                reports and Data Docs, which may hold samples of rows
public/<dataset>/_log/<8 digits>.json     the log
public/<dataset>/releases/<id>/...        releases
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
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
from augmill.tasks.hashing import canonical_json, hash_file

REMOTE_SCHEMES = ("s3://", "gs://", "az://")

# What waiting cannot cure, by what the operating system calls it in obstore's message.
_HOPELESS = {
    "No space left on device": "free some space; the run resumes where it stopped",
    "Read-only file system": "give a store that can be written (run.store)",
    "Permission denied": "let this user write to the store, or give another one (run.store)",
    "Not a directory": "give a store whose path is a directory (run.store)",
    "Disk quota exceeded": "free some space; the run resumes where it stopped",
    "File too large": "free some space; the run resumes where it stopped",
}


def object_key(sha256: str) -> str:
    return f"private/objects/{sha256[:2]}/{sha256}"


def manifest_key(stage: str, identity: str) -> str:
    return f"private/manifests/{stage}/{identity}.json"


def release_key(dataset: str, release: str, name: str = "") -> str:
    return f"public/{dataset}/releases/{release}/{name}".rstrip("/")


def log_key(dataset: str, number: int) -> str:
    return f"public/{dataset}/_log/{number:08d}.json"


def seal(body: dict[str, Any]) -> bytes:
    """A JSON document that carries its own checksum, so that a flipped bit is seen on read."""
    return canonical_json({"body": body, "sha256": hashlib.sha256(canonical_json(body)).hexdigest()})


def unseal(raw: bytes) -> dict[str, Any] | None:
    """The body, or None where the document is not what was sealed."""
    try:
        document = json.loads(raw)
        body = document["body"]
        sealed = document["sha256"] == hashlib.sha256(canonical_json(body)).hexdigest()
    except (ValueError, KeyError, TypeError):
        return None
    return cast("dict[str, Any]", body) if sealed else None


class Store:
    """Objects, sealed documents, releases. Every error names the object.

    Raises UserError for a root that cannot be a store, StoreRefused where waiting cannot help, StoreError otherwise.
    """

    def __init__(self, root: str, *, backend: ObjectStore | None = None) -> None:
        self.root = root
        self.local: Path | None = None if root.startswith(REMOTE_SCHEMES) else Path(root).expanduser().absolute()
        self._verified: set[str] = set()
        self._lock = threading.Lock()
        self._downloads: tempfile.TemporaryDirectory[str] | None = None
        self.backend = backend or self._open()

    def _open(self) -> ObjectStore:
        if self.local is None:
            plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
            retry = {"max_retries": 8, "retry_timeout": timedelta(seconds=120)}  # obstore's backoff is jittered
            opened: ObjectStore = from_url(self.root, retry_config=retry, client_options={"allow_http": plain})  # type: ignore[call-overload]
            return opened
        if "://" in self.root:
            raise UserError(
                f"a store is a local directory or one of {', '.join(REMOTE_SCHEMES)}; found {self.root.split(':')[0]}://",
                where="run.store",
                fix="give a directory, or a bucket this machine's credentials can write",
            )
        try:
            self.local.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreRefused(
                f"the store's directory cannot be made: {error.strerror}", where=str(self.local), fix="see run.store"
            ) from error
        return cast("ObjectStore", LocalStore(self.local))

    def _explain(self, error: Exception, key: str) -> StoreError:
        text = str(error).split("\n\nDebug source:")[0]
        for sign, fix in _HOPELESS.items():
            if sign in text:
                return StoreRefused(sign.lower(), where=f"{self.root}: {key}", fix=fix)
        if isinstance(error, PermissionDeniedError | UnauthenticatedError | InvalidPathError | PermissionError):
            return StoreRefused(text, where=f"{self.root}: {key}", fix="check the credentials and the bucket's policy")
        return StoreError(text, where=f"{self.root}: {key}", fix="run it again; what is done is kept")

    # --- bytes -----------------------------------------------------------------------------------------------------

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
            obstore.put(self.backend, key, value)
        except (BaseError, OSError) as error:
            raise self._explain(error, key) from error
        self._sync(key)

    def put_if_absent(self, key: str, value: bytes) -> bool:
        """True where this call wrote it. After an error whose PUT may have succeeded, the caller looks again."""
        try:
            obstore.put(self.backend, key, value, mode="create")
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            if self.get(key) == value:  # the PUT succeeded and its answer was lost
                return True
            raise self._explain(error, key) from error
        self._sync(key)
        return True

    def _sync(self, key: str) -> None:
        if self.local is None:
            return
        for path in (self.local / key, (self.local / key).parent):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def size(self, key: str) -> int | None:
        try:
            return int(obstore.head(self.backend, key)["size"])
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise self._explain(error, key) from error

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
                    self._downloads = tempfile.TemporaryDirectory(prefix="augmill-objects-")
            path = Path(self._downloads.name) / sha256
            if not path.exists():
                self._download(key, path)
        if sha256 in self._verified and path.exists():
            return path
        if not path.exists():
            raise CorruptObject("the object is gone", where=f"{self.root}: {key}", fix="run it again: it is made anew")
        if path.stat().st_size != size or hash_file(path) != sha256:
            self.move_aside(key)
            if self.local is None:
                path.unlink()
            raise CorruptObject(
                "the checksum is wrong; the object was moved aside",
                where=f"{self.root}: {key}",
                fix="run it again: it is made anew",
            )
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
