"""Whether the process that began something still runs: gone is only what is known to be."""

from __future__ import annotations

import subprocess
import sys

import pytest

from augmill.tasks.boundary import processes
from augmill.tasks.boundary.processes import is_gone, this_process


def test_a_process_that_proc_hides_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hidepid, /proc shows nobody another user's processes."""
    if not this_process():
        pytest.skip("needs /proc")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began, shown = processes._began(child.pid), processes._began

    def hidden(pid: int) -> int:
        if pid == child.pid:
            raise FileNotFoundError(pid)
        return shown(pid)

    monkeypatch.setattr(processes, "_began", hidden)
    owner = this_process() | {"pid": child.pid, "began": began}
    assert not is_gone(owner)
    child.communicate(b"\n")
    assert is_gone(owner) and not is_gone(owner | {"pid": 10**30})
