"""Which process made an attempt, so that one that was killed on this machine is known dead at once, not after its lease."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


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
        return True
    except (OSError, ValueError):
        return False


def _began(pid: int) -> int:
    """When the process began, in ticks since boot, which tells it from a later one of the same number; -1: a zombie."""
    fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return -1 if fields[0] == "Z" else int(fields[19])
