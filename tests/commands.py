"""The command line as a user meets it, in this process: exit code, stdout, stderr, and the last line as JSON."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from chain import recipe_document, write_rows


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> dict[str, Any]:
        """The last line of stdout, which must be one JSON object."""
        value = json.loads(self.out.rstrip("\n").rsplit("\n", 1)[-1])
        assert isinstance(value, dict)
        return value


def augmill(*arguments: object) -> Ended:
    """``augmill ARGUMENTS``, through the very function that the installed command calls."""
    from augmill.flows.cli import main

    out, err, before, debug = io.StringIO(), io.StringIO(), sys.argv, os.environ.pop("AUGMILL_DEBUG", None)
    hooks = warnings.showwarning, logging.lastResort, threading.excepthook, sys.unraisablehook
    sys.argv = ["augmill", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as ended:
                code = ended.code
    finally:
        sys.argv = before
        warnings.showwarning, logging.lastResort, threading.excepthook, sys.unraisablehook = hooks
        os.environ.pop("AUGMILL_DEBUG", None)
        if debug is not None:
            os.environ["AUGMILL_DEBUG"] = debug
    assert isinstance(code, int)
    return Ended(code, out.getvalue(), err.getvalue())


def write_recipe(directory: Path, rows: int = 60, *, name: str = "recipe.yaml", **changes: Any) -> Path:
    """A quick recipe beside its data, ``rows.csv`` (made unless ``source`` is given), with its store beside both."""
    if "source" not in changes and not (directory / "rows.csv").exists():
        write_rows(directory / "rows.csv", rows)
    run = {"orchestrator": "none", "shard_rows": 100, "store": str(directory / "store")}
    source = changes.pop("source", {"path": "rows.csv"})
    document = recipe_document(Path("rows.csv")) | {"source": source, "run": run} | changes
    path = directory / name
    path.write_text(yaml.safe_dump({key: part for key, part in document.items() if part is not None}))
    return path


def fingerprint(directory: Path) -> dict[str, tuple[int, int]]:
    """Every path below with size and time of change: equal before and after where nothing was touched."""
    return {
        path.relative_to(directory).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
    }


def refused(ended: Ended, code: int, words: Iterable[str]) -> None:
    """One clear message: the documented exit code, every word on stderr, what to do, JSON last, no traceback."""
    assert ended.code == code, f"{ended.code}\n{ended.err}"
    assert "Traceback" not in ended.err + ended.out
    for word in words:
        assert word.lower() in ended.err.lower(), f"{word!r} is not in:\n{ended.err}"
    assert sum(line.startswith("Error: ") for line in ended.err.splitlines()) == 1 and "What to do: " in ended.err, (
        ended.err
    )
    assert len(ended.err) < 1_500, f"too long to be read: {len(ended.err)} characters"
    assert ended.last["outcome"] == "error" and ended.last["reason"] and ended.last["next"]
