"""What may be a store's root, and what a store's refusal means: whether waiting helps, and what to do about it."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, InvalidPathError, PermissionDeniedError, UnauthenticatedError
from obstore.store import ObjectStore

from augmill.tasks.contracts import StoreError, StoreRefused, UserError
from augmill.tasks.sources.storage import is_key

LONGEST_NAME = 255  # bytes, on the file systems there are
LONGEST_PATH = 3_500  # bytes: Linux has 4,096, and a store's own names lie below
REMOTE_SCHEMES = ("s3://", "gs://", "az://")

# What waiting cannot cure, by what the operating system calls it in obstore's message.
_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
_HOPELESS = dict.fromkeys(_FULL, "free some space; the run resumes where it stopped") | {
    "Read-only file system": "give a store that can be written (run.store)",
    "Permission denied": "let this user write to the store, or give another one (run.store)",
    "Not a directory": "give a store whose path is a directory (run.store)",
    "169.254.169.254": "no credentials were found: set AWS_..., GOOGLE_... or AZURE_..., or give the machine a role",
    "metadata.google.internal": "no credentials were found: set GOOGLE_..., or give the machine a role",
    "The specified bucket does not exist": "create the bucket, or give another one (run.store)",
    "The specified container does not exist": "create the container, or give another one (run.store)",
}

_SAYS = dict.fromkeys(
    ("169.254.169.254", "metadata.google.internal"), "the machine's metadata service gave no credentials"
)


def explain(error: Exception, where: str) -> StoreError:
    """obstore's or the system's error in our words. ``where`` names the object."""
    text = str(error).split("\n\nDebug source:")[0]
    for sign, fix in _HOPELESS.items():
        if sign in text:
            return StoreRefused(_SAYS.get(sign, sign.lower()), where=where, fix=fix)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | InvalidPathError | PermissionError):
        return StoreRefused(text, where=where, fix="check the credentials and the bucket's policy")
    return StoreError(text, where=where, fix="run it again; what is done is kept")


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
    raise StoreError("others put it at once, again and again", where=key, fix="run it again; what is done is kept")


def _stands(backend: ObjectStore, key: str) -> bool:
    try:
        obstore.head(backend, key)
    except FileNotFoundError:
        return False
    return True


def require_root(root: str) -> None:
    """Raises UserError for what can be no store's root; looks at nothing."""
    if root.startswith(REMOTE_SCHEMES):
        if "?" in root or "@" in root.split("/")[2]:
            problem = "the store's address holds credentials"  # and is not repeated: it would stand in logs and reports
            fix = "give them by environment variables (AWS_..., GOOGLE_..., AZURE_...) or an instance role"
            raise UserError(problem, where="run.store", fix=fix)
        if not is_key(root.split("//", 1)[1]):
            problem = f"{root[:200]!r} is no place in a bucket: `.`, `..`, an empty part or a control character"
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
        raise UserError(f"nobody knows whose home {root!r} begins with", where="run.store", fix=fix)
    longest = max(map(len, os.fsencode(root).split(b"/")))
    if longest > LONGEST_NAME or len(os.fsencode(root)) > LONGEST_PATH:
        raise UserError("file name too long", where="run.store", fix=fix)
    if not root.strip() or "\0" in root:
        raise UserError(f"{root!r} is no directory", where="run.store", fix=fix)
