"""Which process made an attempt, or a directory of temporary files: one that was killed on this machine is known dead at

once, not after its lease, and what it left is taken away. Standard library only.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from augmill.tasks.errors import UserError

_PROC = Path("/proc")
# augmill-<this boot>-<this process namespace>-<process>-<when it began>
_OWN = re.compile(r"augmill-([0-9a-f]{12})-([0-9a-f]{12})-(\d+)-(-?\d+)")
_UNKNOWN = 7 * 86_400.0  # seconds without a change after which a directory of another boot or container counts as left


def require_posix() -> None:
    """Raises UserError on Windows: workers inherit sockets, and processes are ended by signals, that it does not have."""
    if sys.platform == "win32":
        fix = "run it in WSL (Windows Subsystem for Linux) or in a Linux container"
        raise UserError("Augmill does not run on Windows", fix=fix)


def this_process() -> dict[str, Any]:
    """``machine`` is this boot and process namespace: a number means nothing in another container. Empty without /proc."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        machine = f"{boot} {(_PROC / 'self/ns/pid').readlink()}"
        return {"machine": machine, "pid": os.getpid(), "began": _began(os.getpid())}
    except (OSError, ValueError):
        return {}


def is_gone(owner: dict[str, Any] | None) -> bool:
    """Whether that process ran here and does so no more. False where nobody can say: then its lease decides."""
    here = this_process()
    if not owner or not here or owner["machine"] != here["machine"]:
        return False
    try:
        return _began(int(owner["pid"])) != int(owner["began"])
    except FileNotFoundError:
        return not _may_run(int(owner["pid"]))
    except (OSError, ValueError):
        return False


def _may_run(pid: int) -> bool:
    """Of one that /proc does not show: where it is mounted with hidepid, that may be another user's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _began(pid: int) -> int:
    """When the process began, in ticks since boot, which tells it from a later one of the same number; -1: a zombie."""
    fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return -1 if fields[0] == "Z" else int(fields[19])


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _names() -> tuple[str, str, int]:
    """(boot, process namespace, when this process began), as in the name of its directory."""
    here = this_process()
    boot, _, space = str(here.get("machine", "")).partition(" ")
    return _hashed(boot), _hashed(space), int(here.get("began", 0))


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """For imports of hundreds of modules: the garbage collector rests, which takes a sixth of their time and finds nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def own_temporary() -> Iterator[None]:
    """Every temporary file of this process, a library's too, lies in one directory, which ends with the block.

    Its name tells whose it is, for ``sweep_temporary``. Inside another such block, and where the directory for temporary
    files cannot be written, nothing changes.
    """
    before = tempfile.tempdir
    try:
        path = _make_own()
    except OSError:  # whoever needs a temporary file will say so
        path = None
    if path is None:
        yield
        return
    tempfile.tempdir = str(path)
    try:
        yield
    finally:
        tempfile.tempdir = before
        shutil.rmtree(path, ignore_errors=True)


def _make_own() -> Path | None:
    """This process's directory; None inside of one."""
    top = Path(tempfile.gettempdir())
    if _OWN.fullmatch(top.name) and top.is_dir():
        return None
    boot, space, began = _names()
    path = top / f"augmill-{boot}-{space}-{os.getpid()}-{began}"
    path.mkdir(mode=0o700)
    return path


def left_temporary() -> list[str]:
    """The directories of processes of this machine and user that ended without removing them (killed); rows lie in them.

    Never one of a process that lives, or of another container that shares the directory.
    """
    top = Path(tempfile.gettempdir())
    top = top.parent if _OWN.fullmatch(top.name) else top
    try:
        with os.scandir(top) as there:  # thousands may lie in it: a Path of each took 0.25 s for 23,000
            named = sorted((entry.path, name) for entry in there if (name := _OWN.fullmatch(entry.name)))
    except OSError:
        return []
    return [path for path, name in named if _is_left(Path(path), name)]


def sweep_temporary() -> list[str]:
    """Removes them; returns the paths of those that are gone."""
    found = left_temporary()
    for path in found:
        shutil.rmtree(path, ignore_errors=True)
    return [path for path in found if not Path(path).exists()]


def _is_left(path: Path, named: re.Match[str]) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return False
    here = this_process()
    if not here or _names()[:2] != (named[1], named[2]):
        return time.time() - status.st_mtime > _UNKNOWN
    return is_gone({"machine": here["machine"], "pid": named[3], "began": named[4]})
