"""Runs a command that must not outlive who asked for it: ``python _guard.py PARENT_PID WORD...``.

The command gets a process group of its own. The group is killed when the parent is gone (a parent ended by ``kill -9``
can do nothing more), when this process is asked to end by SIGTERM, and when the command itself has ended: what it left
running in the background would hold memory that the next training needs. The exit code is the command's; 128 + n where
signal n ended it, as shells say it, 127 where it could not be started.

It imports the standard library alone and is run by its path, so that it starts in 30 ms.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

POLL_SECONDS = 0.5


def guard(parent: int, words: list[str]) -> int:
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Noted, not raised: an exception between the command's start and its assignment would leave it running.
        signal.signal(number, lambda received, _: asked.append(received))
    try:
        process = subprocess.Popen(words, start_new_session=True)
    except OSError as error:
        sys.stderr.write(f"{words[0]!r} could not be started: {error.strerror}\n")
        return 127
    while not asked and os.getppid() == parent:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
            break
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left of the group
        os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(guard(int(sys.argv[1]), sys.argv[2:]))
