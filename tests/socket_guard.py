"""Preloads socket_guard.c into the test suite's process, by starting it anew, and so into its children."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("socket_guard.c")
LIBRARY, LOG = "AUGMILL_GUARD", "AUGMILL_GUARD_LOG"


def active() -> bool:
    return LIBRARY in os.environ


def _build() -> Path | None:
    """The library, compiled once per version of its source; None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    name = f"socket_guard-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.so"
    folder = Path(__file__).parents[1] / "build"
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        folder = Path(tempfile.mkdtemp(prefix="augmill-guard-"))
    folder.mkdir(exist_ok=True)
    library = folder / name
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}")
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(part), str(SOURCE), "-ldl"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
        part.replace(library)
    works = subprocess.run(
        [sys.executable, "-c", ""], env={"LD_PRELOAD": str(library)}, capture_output=True, check=False
    )
    return library if works.returncode == 0 and not works.stderr else None


def preload(config: pytest.Config) -> None:
    """Starts this very command again under the guard; returns where that cannot be."""
    by_itself = Path(sys.argv[0]).name in ("pytest", "py.test", "__main__.py")  # else another program's process
    if active() or not by_itself or "PYTEST_XDIST_WORKER" in os.environ or (library := _build()) is None:
        return
    handle, log = tempfile.mkstemp(prefix="augmill-guard-", suffix=".log")
    os.close(handle)
    own = {LIBRARY: str(library), LOG: log, "LD_PRELOAD": f"{library} {os.environ.get('LD_PRELOAD', '')}".strip()}
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture(in_=True)  # gives stdin, stdout and stderr back
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | own)


def noted() -> list[str]:
    """What was refused so far, a line each."""
    path = Path(os.environ.get(LOG, "/nonexistent"))
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
