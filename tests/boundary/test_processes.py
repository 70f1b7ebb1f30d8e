"""Processes: whether the one that began something still runs, and how ours imports."""

from __future__ import annotations

import gc
import subprocess
import sys
from contextlib import ExitStack

import pytest

from augmill.tasks.boundary import processes
from augmill.tasks.boundary.processes import importing, is_gone, this_process


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


def test_the_garbage_collector_rests_while_modules_are_imported_and_is_as_before_afterwards() -> None:
    with pytest.raises(ImportError), importing():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    one, other = ExitStack(), ExitStack()  # two threads: the one that began ends first
    one.enter_context(importing())
    other.enter_context(importing())
    one.close()
    other.close()
    assert gc.isenabled()
    gc.disable()  # somebody else's decision stays theirs
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
