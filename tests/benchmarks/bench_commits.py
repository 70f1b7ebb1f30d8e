"""Rows a processor second of a few fixed workloads, commit by commit: measured, kept in a table, drawn.

    python tests/benchmarks/bench_commits.py                      draws docs/pictures/speed.svg from docs/speed.tsv
    python tests/benchmarks/bench_commits.py --measure all        measures this commit first, and adds its lines
    python tests/benchmarks/bench_commits.py --measure check rerun --checkout ../before [--repeats 5] [--dry-run]

A workload is a command as a user gives it, so that old commits can be measured too: ``--checkout`` is a working tree with
its own .venv. Seconds are of processor time, of the command and all processes below it, which a busy machine stretches by
a fifth at most; the median of ``--repeats``. Python's compiled files are there, as after an installation. ``gate`` needs
the shared data sets.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from bench_stages import write_rows, write_text
from machine import machine_line, markdown

from augmill.tasks.report.charts import ticks

ROOT = Path(__file__).parents[2]
TABLE, PICTURE = ROOT / "docs" / "speed.tsv", ROOT / "docs" / "pictures" / "speed.svg"
HEADER = ("date", "commit", "what", "rows", "cpu_s", "rows_per_s")
EXAMPLE = "infra/examples/support/recipe.yaml"
ROWS = 1_108  # of the example
TEXTS = 5_000  # rows of `texts`, which a run is to double
HELD_OUT = 40  # rows of each class of BANKING77 in validation and test together
CLASSES, PER_CLASS = 77, 10


@dataclass(frozen=True)
class Workload:
    """``what`` it is; ``rows`` that it goes through, 1 for a command without any; ``again``: in the store of one run."""

    what: str
    rows: int
    arguments: Callable[[Path], list[str]]
    again: bool = False


def _example(folder: Path) -> list[str]:
    return ["run", EXAMPLE, "--store", str(folder / "store"), "--orchestrator", "none"]


def _texts(folder: Path) -> list[str]:
    parts = write_text(folder / "rows.csv", TEXTS, random.Random(0))
    document = {
        **parts,
        "dataset": "texts",
        "source": {"path": str(folder / "rows.csv")},
        "splits": {"validation": 0.1, "test": 0.1},
        "target": {"multiply": 2.0},
        "gate": {"seeds": 3},
    }
    return _run_of(document, folder)


def _gate(folder: Path) -> list[str]:
    write_rows(folder, PER_CLASS, CLASSES)
    document = {
        "dataset": "banking77",
        "source": {"path": str(folder / "*.jsonl")},
        "columns": {"text": "text", "label": "label"},
        "splits": {"files": {name: f"{name}.jsonl" for name in ("train", "validation", "test")}},
        "target": {"multiply": 2.0},
        "generators": [{"use": "rules"}],
    }
    return _run_of(document, folder)


def _language_model(folder: Path) -> list[str]:
    sizes = ["generators.0.use=causal_lm", "generators.0.max_steps=60", "gate.seeds=3", "target.balance=mean"]
    changes = [part for size in sizes for part in ("--set", size)]
    (folder / "recipe.yaml").write_text(
        (ROOT / EXAMPLE).read_text(encoding="utf-8").replace("    thesaurus: thesaurus.csv\n", ""), encoding="utf-8"
    )
    shutil.copy(ROOT / EXAMPLE.replace("recipe.yaml", "intents.csv"), folder)
    return ["run", str(folder / "recipe.yaml"), *_example(folder)[2:], *changes]


def _run_of(document: dict[str, object], folder: Path) -> list[str]:
    (folder / "recipe.yaml").write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    return ["run", str(folder / "recipe.yaml"), *_example(folder)[2:]]


WORKLOADS = {
    "help": Workload("augmill --help", 1, lambda folder: ["--help"]),
    "check": Workload("augmill check, the example", ROWS, lambda folder: ["check", EXAMPLE, *_example(folder)[2:4]]),
    "example": Workload("augmill run, the example", ROWS, _example),
    "rerun": Workload("the same again, nothing changed", ROWS, _example, again=True),
    "texts": Workload("rules on 5,000 texts, 3 seeds", 2 * TEXTS, _texts),
    "gate": Workload("BANKING77, 10 a class, 10 seeds", CLASSES * (2 * PER_CLASS + HELD_OUT), _gate),
    "causal_lm": Workload("causal_lm on the example", ROWS, _language_model),
}


# --- Measuring --------------------------------------------------------------------------------------------------------


def measure(name: str, checkout: Path, repeats: int) -> float:
    """Processor seconds of the workload there, the median; the first time, which fills caches, does not count."""
    own = checkout / ".venv" / "bin" / "augmill"
    command = own if own.exists() else Path(sys.executable).with_name("augmill")
    work, spent = WORKLOADS[name], []
    with tempfile.TemporaryDirectory(prefix="augmill-speed-") as directory:
        folder = Path(directory)
        environment = os.environ | {"PYTHONPYCACHEPREFIX": str(folder / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
        arguments = [str(command), *work.arguments(folder)]
        for _ in range(1 + repeats):
            if not work.again:
                shutil.rmtree(folder / "store", ignore_errors=True)
            before = _children()
            subprocess.run(arguments, cwd=checkout, env=environment, check=True, capture_output=True)
            spent.append(_children() - before)
    return statistics.median(spent[1:])


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def commit_of(checkout: Path) -> tuple[str, str]:
    """(date, short id) of what is checked out there; a ``+`` where files differ from it."""

    def git(*arguments: str) -> str:
        asked = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "flows", "tasks")
    return git("show", "-s", "--format=%cs"), git("rev-parse", "--short=9", "HEAD") + ("+" if changed else "")


# --- The table and its picture ----------------------------------------------------------------------------------------


def read_table(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def write_table(path: Path, lines: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, HEADER, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def keep(lines: list[dict[str, str]]) -> None:
    """Both files, which a test holds together."""
    write_table(TABLE, lines)
    PICTURE.write_text(draw(lines), encoding="utf-8")


WIDE, HIGH, LEFT, TOP, GAP = (
    330,
    96,
    64,
    34,
    70,
)  # a panel, what is left of it and above it, and between two rows of them
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #444; } .name { font-weight: 600; fill: #111; }
.rule { stroke: #ddd; } .line { fill: none; stroke: #2563eb; stroke-width: 1.5; } .dot { fill: #2563eb; }
@media (prefers-color-scheme: dark) { text { fill: #bbb; } .name { fill: #eee; } .rule { stroke: #444; } }
"""


def draw(lines: list[dict[str, str]]) -> str:
    """A panel for each workload, rows a processor second (from 0 up) against its commits, in the table's order, as SVG."""
    found: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        found.setdefault(line["what"], []).append(line)
    panels = [_panel(what, own, place) for place, (what, own) in enumerate(found.items())]
    width, height = 2 * (LEFT + WIDE) + 20, -(-len(panels) // 2) * (TOP + HIGH + GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Rows a processor second by commit">\n<style>{STYLE}</style>\n{"".join(panels)}</svg>\n'
    )


def _panel(what: str, lines: list[dict[str, str]], place: int) -> str:
    left, top = place % 2 * (LEFT + WIDE) + LEFT, place // 2 * (TOP + HIGH + GAP) + TOP
    values = [float(line["rows_per_s"]) for line in lines]
    most = 1.15 * max(values)
    step = (WIDE - 60) / max(1, len(lines) - 1)
    points = [(left + at * step, top + HIGH * (1 - value / most)) for at, value in enumerate(values)]
    unit = "rows" if int(lines[-1]["rows"]) > 1 else "commands"
    parts = [f'<text class="name" x="{left - LEFT + 8}" y="{top - 14}">{escape(what)}: {unit} a CPU second</text>']
    for tick in ticks(0, most, 4):
        y = top + HIGH * (1 - tick / most)
        parts.append(f'<path class="rule" d="M{left} {y:.1f}h{WIDE - 40}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,.10g}</text>')
    parts.append(f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
    for (x, y), line in zip(points, lines, strict=True):
        told = escape(f"{line['commit']}, {line['date']}: {line['rows_per_s']} a second, {line['cpu_s']} s")
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{told}</title></circle>')
    shown = range(0, len(lines), max(1, -(-len(lines) // 4)))  # as many as have room
    for at in {*shown, len(lines) - 1} if len(lines) > 1 else shown:
        x = points[at][0]
        parts += [
            f'<text x="{x:.1f}" y="{top + HIGH + 16 + 13 * row}" text-anchor="middle">{escape(word)}</text>'
            for row, word in enumerate((lines[at]["commit"], lines[at]["date"]))
        ]
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Rows a processor second of fixed workloads, commit by commit.")
    parser.add_argument("--measure", nargs="+", choices=[*WORKLOADS, "all"], default=[], help="these, and add them")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="the working tree that is measured")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dry-run", action="store_true", help="print, and write nothing")
    given = parser.parse_args()
    checkout, lines = given.checkout.resolve(), read_table(TABLE)
    names = list(WORKLOADS) if "all" in given.measure else given.measure
    if names:
        print(f"{machine_line()}\n", file=sys.stderr)
    for name in names:
        work, seconds = WORKLOADS[name], measure(name, checkout, given.repeats)
        new = (*commit_of(checkout), work.what, str(work.rows), f"{seconds:.2f}", f"{work.rows / seconds:.4g}")
        print("\t".join(new), file=sys.stderr, flush=True)
        lines = [line for line in lines if (line["commit"], line["what"]) != new[1:3]]
        lines.append(dict(zip(HEADER, new, strict=True)))
        if not given.dry_run:  # at once: the next may take minutes
            keep(lines)
    if not names and not given.dry_run:
        keep(lines)
    print(markdown(HEADER, [[line[name] for name in HEADER] for line in lines]))


if __name__ == "__main__":
    main()
