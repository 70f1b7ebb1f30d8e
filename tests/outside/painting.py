"""Paints as a CSV, a recipe over them, and the package that knows what they are, built and installed as anybody's is."""

from __future__ import annotations

import contextlib
import csv
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from augmill.flows.cli.extensions import registries
from augmill.tasks.registry import code_of

PACKAGE = Path(__file__).parent / "paints"


def install(package: Path, folder: Path) -> Path:
    """The directory into which a wheel of the package was installed, as pip does it."""
    copy = folder / "source"  # a build writes beside what it builds
    shutil.copytree(package, copy)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    how = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "site"), str(copy)]
    subprocess.run([*pip, *how], check=True, capture_output=True, text=True)
    return folder / "site"


@contextlib.contextmanager
def importable(site: Path) -> Iterator[None]:
    """For this process and those that it starts; afterwards it never was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        patch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(site)):
            del sys.modules[name]
    code_of.cache_clear()
    for registry in registries():
        registry._loaded.clear()


FIRST = date(2026, 10, 1)


def day(number: int) -> str:
    return (FIRST + timedelta(days=number)).isoformat()


def write_paints(path: Path, days: int = 4, *, first: int = 140, each: int = 12) -> Path:
    """Brightness as a grade, with some noise; a name and a maker beside it; a few rows that are none, on the first day."""
    rng = random.Random(3)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "paint", "brightness", "maker", "day"])
        for at in range(first + each * (days - 1)):
            parts = [rng.randrange(256) for _ in range(3)]
            bright = (0.3 * parts[0] + 0.59 * parts[1] + 0.11 * parts[2]) / 255
            grade = min(max(round(1 + 4 * bright + rng.gauss(0, 0.3)), 1), 5)
            colour = "#" + "".join(f"{part:02x}" for part in parts)
            shown = colour.upper() if at % 3 == 0 else colour
            writer.writerow(
                [f"paint {at}", shown, grade, rng.choice("AB"), day(0 if at < first else 1 + (at - first) // each)]
            )
        writer.writerow(["red herring", "crimson", 3, "A", day(0)])
        writer.writerow(["bare wall", "", 3, "A", day(0)])
        writer.writerow(["beyond", "#ffffff", 9, "A", day(0)])
    return path


def paint_document(source: Path, store: Path, **changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "dataset": "paints",
        "source": {"path": str(source)},
        "columns": {"inputs": {"paint": "colour"}, "target": {"brightness": "grade"}},
        "splits": {"validation": 0.25, "test": 0.15},
        "target": {"per_class": 20},
        "generators": [{"use": "tint"}],
        "trainer": {"use": "neighbours", "count": 3},
        "gate": {"seeds": 3, "resamples": 200, "rule": "not_worse", "margin": 3.0},
        "run": {"orchestrator": "none", "shard_rows": 50, "store": str(store)},
    }
    return document | changes
