"""Runs a command that must not outlive who asked for it: ``python _guard.py PARENT_PID WORD...``.

All that descends from the command is killed when the parent is gone (a parent ended by ``kill -9`` can do nothing more),
when this process is asked to end by SIGTERM, and when the command itself has ended: what it left running in the
background would hold memory that the next training needs. On Linux this process is the one that orphans fall to
(``PR_SET_CHILD_SUBREAPER``), so ``setsid`` and double forks lead nowhere else; elsewhere the command's process group is
killed. The exit code is the command's; 128 + n where signal n ended it, as shells say it, 127 where it could not be
started.

It imports the standard library alone and is run by its path, so that it starts in 30 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

POLL_SECONDS = 0.5
KILL_SECONDS = 10.0  # until what cannot be killed (another user's, one stuck in the kernel) is left alone
_PR_SET_CHILD_SUBREAPER = 36


def guard(parent: int, words: list[str]) -> int:
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Noted, not raised: an exception between the command's start and its assignment would leave it running.
        signal.signal(number, lambda received, _: asked.append(received))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        process = subprocess.Popen(words, start_new_session=True)
    except OSError as error:
        sys.stderr.write(f"{words[0]!r} could not be started: {error.strerror}\n")
        return 127
    while not asked and os.getppid() == parent:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
            break
        _bury(process.pid)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left of the group
        os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    until = time.monotonic() + KILL_SECONDS
    while (left := _descendants(os.getpid())) and time.monotonic() < until:
        # All are stopped first: one that forks faster than it is killed would never be done with.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        _bury(0)
        time.sleep(0.01)
    return 128 - code if code < 0 else code


def _descendants(root: int) -> list[int]:
    """The living ones; none where there is no /proc."""
    parents: dict[int, int] = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib would double the start-up time
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{int(name)}/stat", "rb") as stat:  # noqa: PTH123
                    state, parent = stat.read().rpartition(b")")[2].split()[:2]
                if state not in (b"Z", b"X"):
                    parents[int(name)] = int(parent)
    found: set[int] = set()
    level = {root}
    while level := {pid for pid, parent in parents.items() if parent in level} - found:
        found |= level
    return sorted(found)


def _bury(command: int) -> None:
    """Takes the exit codes of orphans that fell to this process; that of ``command`` is left to who waits for it.

    None fall to it but on Linux; Python on macOS has no ``waitid`` before 3.13.
    """
    while hasattr(os, "waitid"):
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid == command:
            return
        os.waitpid(ended.si_pid, 0)


if __name__ == "__main__":
    sys.exit(guard(int(sys.argv[1]), sys.argv[2:]))
