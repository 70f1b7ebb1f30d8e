"""The exception tree: what the user did wrong, what the data did wrong, what the world did wrong. Only the last is retried."""

from __future__ import annotations

import errno
from typing import ClassVar


class AugmillError(Exception):
    """What was expected, what was found, where, and what to do about it.

    ``exit_code`` is what the command line returns (README, "How it ends").
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, problem: str, *, where: str = "", fix: str = "") -> None:
        self.problem, self.where, self.fix = problem, where, fix
        super().__init__(problem, where, fix)

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        fix = f"\n  What to do: {self.fix}" if self.fix else ""
        return f"{where}{self.problem}{fix}"


class UserError(AugmillError):
    """What the user did wrong: the recipe, a path, an option."""

    exit_code = 2


class DataError(AugmillError):
    """What the data did wrong: a file that cannot be read, rows past the refused share, one class only."""

    exit_code = 3


class NoRows(DataError):
    """A file without a row from which its columns could be known."""


class RefusedFile(DataError):
    """A row's file that is no picture or sound to learn from. ``reason``: one of its kind's remedies; the kind tells the row."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnsoundSource(DataError):
    """The source can be read but not trusted: too many refused rows, a class that vanished."""


class WorldError(AugmillError):
    """What the world did wrong: disk, network, a killed process. The only kind that is retried."""

    exit_code = 4
    retryable = True


class StoreError(WorldError):
    """The store could not be read or written; names the object."""


class StoreRefused(StoreError):
    """The store refuses for a reason that waiting cannot cure (permission, read-only, full)."""

    retryable = False


class StoreSilent(StoreError):
    """The store, or the source, did not answer for as long as a run waits (run.store_patience)."""

    retryable = False  # it was waited for already


def world_error(error: OSError | MemoryError) -> WorldError:
    """What the operating system refused, in our words. A full disk is not tried again: waiting does not empty it."""
    if isinstance(error, MemoryError):
        return WorldError(
            f"out of memory: {error}", where="memory", fix="use smaller shards (run.shard_rows), or a larger machine"
        )
    where, said = str(error.filename or "the store, or the directory for temporary files"), error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        again = "free some space; the run resumes where it stopped"
        return StoreRefused(f"no space is left ({said})", where=where, fix=again)
    return WorldError(f"{type(error).__name__}: {said}", where=where, fix="run it again; what is finished is kept")


class CorruptObject(WorldError):
    """A stored file's checksum is wrong. It was moved aside; the flow runs again, and its stage makes it anew."""

    retryable = False  # the stage that reads it would only miss it: whoever made it has to run


class WorkerDied(WorldError):
    """A worker process ended without an answer."""


class DeadlineExceeded(WorldError):
    """A worker was killed at its deadline."""


class ConflictError(WorldError):
    """Another run published, or a file of the source changed, while this one ran."""

    retryable = False


class LedgerError(AugmillError):
    """The ledger does not add up: a defect of Augmill, never published."""

    exit_code = 5


def exit_code_of(error: BaseException) -> int:
    """What the command line would end with for it; what is neither ours nor the operating system's is a defect."""
    if isinstance(error, OSError | MemoryError):
        return WorldError.exit_code
    return error.exit_code if isinstance(error, AugmillError) else AugmillError.exit_code
