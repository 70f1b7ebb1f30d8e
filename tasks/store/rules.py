"""What may be a store's root, and what a store's refusal means: whether waiting helps, and what to do about it."""

from __future__ import annotations

import errno
import os
import random
import time
from pathlib import Path

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import ObjectStore

from augmill.tasks.boundary.answers import plainly, refusal
from augmill.tasks.boundary.retries import can_pass
from augmill.tasks.errors import StoreError, StoreRefused, UserError
from augmill.tasks.sources.storage import is_key

LEAST_FREE = 1 << 20  # bytes: below it not even a run without a row could be noted
LONGEST_NAME = 255  # bytes, on the file systems there are
LONGEST_PATH = 3_500  # bytes: Linux has 4,096, and a store's own names lie below
REMOTE_SCHEMES = ("s3://", "gs://", "az://")

# What waiting cannot cure, by what the operating system calls it in obstore's message.
_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
_HOPELESS = dict.fromkeys(_FULL, "free some space; the run resumes where it stopped") | {
    "Read-only file system": "give a store that can be written (run.store)",
    "Permission denied": "let this user write to the store, or give another one (run.store)",
    "Not a directory": "give a store whose path is a directory (run.store)",
}


def explain(error: Exception, where: str) -> StoreError:
    """obstore's or the system's error in our words. ``where`` names the object."""
    if where.startswith(REMOTE_SCHEMES) and (refused := refusal(error, where)) is not None:
        return refused
    said = plainly(str(error))
    for sign, fix in _HOPELESS.items():
        if sign in said:
            return StoreRefused(sign.lower(), where=where, fix=fix)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | InvalidPathError | PermissionError):
        return StoreRefused(said, where=where, fix="check the credentials and the bucket's policy")
    if isinstance(error, BaseError) and not can_pass(str(error)):  # the body, which is not repeated, may say a cause
        return StoreRefused(said, where=where, fix="check the store's address, its region and the account's settings")
    return StoreError(said, where=where, fix="run it again; what is finished is kept")


def put_remote(backend: ObjectStore, key: str, value: bytes | Path, *, overwrite: bool) -> None:
    """Raises what obstore raises; AlreadyExistsError only where something stands there.

    S3 answers 409 where two put at once, and perhaps neither's stands; obstore takes that for a lost race. It is tried
    again, after a jittered wait: the two would meet again.
    """
    for delay in (0.1, 0.3, 1.0, 3.0, 0.0):
        try:
            obstore.put(backend, key, value, mode="overwrite" if overwrite else "create")
            return
        except AlreadyExistsError:
            if _stands(backend, key):
                raise
        time.sleep(delay * (0.5 + random.SystemRandom().random()))
    raise StoreError("others put it at once, again and again", where=key, fix="run it again; what is finished is kept")


def _stands(backend: ObjectStore, key: str) -> bool:
    try:
        obstore.head(backend, key)
    except FileNotFoundError:
        return False
    return True


def require_writable(root: Path, where: str) -> None:
    """Raises UserError or StoreRefused where a run could write nothing there. Leaves nothing behind, no time of change.

    ``root``: a local store, or where one is to be; of one that is there, its own directories are looked at too.
    """
    above = next((parent for parent in (root, *root.parents) if parent.exists()), root)
    inner = [root / name for name in ("private", "public", "private/staging", "private/objects", "private/manifests")]
    for directory in [above, *(path for path in inner if path.exists())]:
        if not directory.is_dir():
            raise UserError(f"{directory} is a file", where=where, fix="give a directory (run.store, --store)")
        try:
            _probe(directory)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                fix = "free some space, or give another one (run.store)"
                raise StoreRefused(f"no space is left at {directory}", where=where, fix=fix) from error
            reason = (error.strerror or str(error)).lower()
            fix = "let this user write there, or give another one (run.store)"
            raise UserError(f"{directory} may not be written: {reason}", where=where, fix=fix) from error


def _probe(directory: Path) -> None:
    """Raises OSError where no file can be made: tried, on Linux, with one that has no name and so changes no directory."""
    if directory.parts[:2] in (("/", "proc"), ("/", "sys")):  # root may, and cannot
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    if not os.access(directory, os.W_OK | os.X_OK):
        read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
        code = errno.EROFS if read_only else errno.EACCES
        raise OSError(code, os.strerror(code))
    nameless = getattr(os, "O_TMPFILE", None)
    if nameless is None:
        return
    try:
        handle = os.open(directory, nameless | os.O_WRONLY, 0o600)
        try:
            os.posix_fallocate(handle, 0, LEAST_FREE)
        finally:
            os.close(handle)
    except OSError as error:  # not on every file system, least on those that are reached over a network
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            raise


def holds(root: str, dataset: str) -> bool:
    """Whether something of the dataset stands at a local root."""
    return any((Path(root) / part / dataset).is_dir() for part in ("public", "private/attempts"))


def require_root(root: str) -> None:
    """Raises UserError for what can be no store's root; looks at nothing."""
    if root.startswith(REMOTE_SCHEMES):
        if "?" in root or "@" in root.split("/")[2]:
            problem = "the store's address holds credentials"  # and is not repeated: it would stand in logs and reports
            fix = "give them by environment variables (AWS_..., GOOGLE_..., AZURE_...) or an instance role"
            raise UserError(problem, where="run.store", fix=fix)
        if not is_key(root.split("//", 1)[1]):
            problem = f"{root[:200]!r} is not a place in a bucket: `.`, `..`, an empty part or a control character"
            fix = "give a bucket, such as s3://bucket/prefix"
            raise UserError(problem, where="run.store", fix=fix)
        return
    fix = "give a directory, or a bucket this machine's credentials can write (run.store, --store)"
    if "://" in root:
        problem = (
            f"a store is a local directory or one of {', '.join(REMOTE_SCHEMES)}; found {root.partition(':')[0]}://"
        )
        raise UserError(problem, where="run.store", fix=fix)
    if os.path.expanduser(root).startswith("~"):  # noqa: PTH111
        raise UserError(f"there is no such home directory as {root!r} begins with", where="run.store", fix=fix)
    longest = max(map(len, os.fsencode(root).split(b"/")))
    if longest > LONGEST_NAME or len(os.fsencode(root)) > LONGEST_PATH:
        raise UserError("file name too long", where="run.store", fix=fix)
    if not root.strip() or "\0" in root:
        raise UserError(f"{root!r} is no directory", where="run.store", fix=fix)
