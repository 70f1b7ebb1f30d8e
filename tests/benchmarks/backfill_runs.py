"""A backfill of 60 dates over a copy of BANKING77 cut by day: killed at 20, started again in each mode, with a night in
the middle; then late rows and a changed recipe. Prints what it found.

    python tests/benchmarks/backfill_runs.py [--days 60] [--classes 8] [--kill-at 20] [--out backfill.jsonl]

A row's day is a hash of its text; 40 % stand on the first day, and a hundredth is held back to come late. plan: dates
that the dry run named. ran: attempts that then began. equal: the public bytes (provenance and log apart) are those of
the undisturbed backfill.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from chain import public_bytes
from running import read_lines, shared_set, write_lines

from augmill.tasks.store.log import read_log
from augmill.tasks.store.store import Store

AUGMILL = str(Path(sys.executable).with_name("augmill"))


class Bench:
    """The source, its recipe, and the commands over them."""

    def __init__(self, folder: Path, days: int, classes: int) -> None:
        self.folder, self.days = folder, days
        self.first = datetime.now(UTC).date() - timedelta(days=days)  # the newest complete day is the last one
        rows = read_lines(shared_set("banking77") / "train.jsonl")
        known = sorted({row["label"] for row in rows})[:classes]
        self.late: dict[date, list[dict[str, Any]]] = {}
        self.rows: dict[date, list[dict[str, Any]]] = {}
        for row in rows:
            if row["label"] not in known:
                continue
            number = int(hashlib.sha256(row["text"].encode()).hexdigest()[:12], 16)
            at = self.first + timedelta(days=0 if number % 10 < 4 else (number // 10) % days)
            held_back = (number // 1000) % 100 == 0
            (self.late if held_back else self.rows).setdefault(at, []).append(
                {"text": row["text"], "label": row["label"]}
            )
        for at, each in self.rows.items():
            self.write(at, each)

    def write(self, at: date, rows: list[dict[str, Any]]) -> None:
        path = self.folder / "source" / f"day={at.isoformat()}" / "rows.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_lines(path, rows)

    def recipe(self, **changes: Any) -> Path:
        document = {
            "dataset": "banking",
            "source": {"path": str(self.folder / "source")},
            "columns": {"text": "text", "label": "label", "partition": "day"},
            "partitions": {"every": "day", "late": {"reopen": "3d"}},
            "refit": {"every": "7d"},
            "target": {"multiply": 1.5},
            "generators": [{"use": "rules"}],
            "validation": {"enabled": False},
            "gate": {"seeds": 3, "resamples": 200},
            "run": {"orchestrator": "none"},
        } | changes
        path = self.folder / f"{hashlib.sha256(json.dumps(changes).encode()).hexdigest()[:8]}.yaml"
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return path

    def start(self, verb: str, recipe: Path, store: Path, *options: str) -> subprocess.Popen[str]:
        command = [AUGMILL, verb, str(recipe), "--store", str(store), "--json", *options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def run(self, verb: str, recipe: Path, store: Path, *options: str) -> dict[str, Any]:
        process = self.start(verb, recipe, store, *options)
        out, _ = process.communicate()
        said: dict[str, Any] = json.loads(out.splitlines()[-1])
        if process.returncode:
            raise RuntimeError(f"{verb} {options} ended with {process.returncode}: {said}")
        return said


def begun(store: Path) -> list[str]:
    """The snapshot of each attempt there is, in the order of their starts."""
    found = (store / "private/attempts/banking").rglob("start.json")
    return [path.parts[-3] for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)]


def entries(store: Path) -> int:
    return len(list((store / "public/banking/_log").glob("*.json")))


def killed_at(bench: Bench, recipe: Path, store: Path, count: int, mode: str) -> None:
    process = bench.start("backfill", recipe, store, "--reprocess", mode, "--max-active", "2")
    while entries(store) < count and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def again(
    bench: Bench, recipe: Path, store: Path, mode: str, expected: dict[str, bytes], night: bool
) -> dict[str, Any]:
    """The backfill once more over what the kill left, with a night in the middle of it where that is asked."""
    before = begun(store)
    asked = ("--reprocess", mode, "--max-active", "2")
    plan = bench.run("backfill", recipe, store, *asked, "--dry-run")["order"]
    if not night:
        done = bench.run("backfill", recipe, store, *asked)
    else:
        process, standing = bench.start("backfill", recipe, store, *asked), entries(store)
        while entries(store) < standing + 5 and process.poll() is None:
            time.sleep(0.02)
        said = bench.run("nightly", recipe, store)
        done = json.loads(process.communicate()[0].splitlines()[-1]) | {"night": list(said.get("released", {}))}
    ran = begun(store)[len(before) :]
    return {
        "what": f"killed, then {mode}" + (", a night in the middle" if night else ""),
        "plan": len(plan),
        "ran": len(ran),
        "as planned": sorted(ran) == sorted(plan),
        "equal": public_bytes(store) == expected,
        "failed": len(done["failed"]),
        **({"night": done["night"], "elsewhere": done["elsewhere"]} if night else {}),
    }


def late_rows(bench: Bench, recipe: Path, store: Path) -> dict[str, Any]:
    """Rows for three days that are released: the days that reopen are planned, made, and equal those of a fresh store."""
    days = sorted(bench.late)[-3:]
    for at in days:
        bench.write(at, bench.rows.get(at, []) + bench.late[at])
    last = bench.first + timedelta(days=bench.days - 1)
    due = sorted({d for at in days for n in range(3) if (d := at + timedelta(days=n)) <= last})
    plan = bench.run("backfill", recipe, store, "--reprocess", "changed-data", "--dry-run")["order"]
    done = bench.run("backfill", recipe, store, "--reprocess", "changed-data")
    fresh = bench.folder / "fresh"
    bench.run("backfill", recipe, fresh, "--from", due[-1].isoformat(), "--to", due[-1].isoformat())
    current = read_log(Store(str(store)), "banking").current()
    equal = read_log(Store(str(fresh)), "banking").current()[due[-1].isoformat()] == current[due[-1].isoformat()]
    return {
        "what": f"late rows on {len(days)} days",
        "plan": len(plan),
        "ran": len(done["released"]),
        "as planned": plan == [d.isoformat() for d in due] == list(done["released"]),
        "equal": equal,
    }


def changed_recipe(bench: Bench, store: Path) -> dict[str, Any]:
    """Another recipe over the last ten days: one entry switches them, one rollback undoes it."""
    other = bench.recipe(seed=1)
    first = (bench.first + timedelta(days=bench.days - 10)).isoformat()
    log, asked = Store(str(store)), ("--reprocess", "changed-recipe", "--from", first)
    before = read_log(log, "banking")
    plan = bench.run("backfill", other, store, *asked, "--dry-run")
    done = bench.run("backfill", other, store, *asked)
    after = read_log(log, "banking")
    command = [AUGMILL, "rollback", "banking", "--store", str(store), "--reason", "benchmark"]
    subprocess.run(command, check=True, capture_output=True)
    return {
        "what": "a changed recipe, ten days",
        "plan": len(plan["order"]),
        "ran": len(done["released"]),
        "as planned": list(done["released"]) == plan["order"],
        "entries": len(after.entries) - len(before.entries),
        "undone": read_log(log, "banking").current() == before.current(),
    }


def findings(folder: Path, days: int, classes: int, kill_at: int) -> Iterator[dict[str, Any]]:
    bench = Bench(folder, days, classes)
    recipe, whole = bench.recipe(), folder / "undisturbed"
    started = time.monotonic()
    done = bench.run("backfill", recipe, whole)
    seconds = round(time.monotonic() - started, 1)
    yield {"what": "undisturbed, oldest first", "ran": len(done["released"]), "seconds": seconds}
    expected = public_bytes(whole)
    for mode in ("missing", "all"):
        killed_at(bench, recipe, folder / f"killed-{mode}", kill_at, mode)
    for began, mode, night in (("missing", "missing", True), ("missing", "failed", False), ("all", "all", False)):
        store = folder / f"again-{mode}"
        shutil.copytree(folder / f"killed-{began}", store)
        started = time.monotonic()
        found = again(bench, recipe, store, mode, expected, night)
        yield found | {"seconds": round(time.monotonic() - started, 1)}
    yield late_rows(bench, recipe, whole)
    yield changed_recipe(bench, whole)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--kill-at", type=int, default=20)
    parser.add_argument("--out", type=Path, help="a line of JSON per finding")
    arguments = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory(prefix="augmill-backfill-") as folder:
        for found in findings(Path(folder), arguments.days, arguments.classes, arguments.kill_at):
            bad += not all(value for name, value in found.items() if name in ("as planned", "equal", "undone"))
            print("  ".join(f"{name}: {value}" for name, value in found.items()), flush=True)
            if arguments.out:
                with arguments.out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(found) + "\n")
    print("all good" if not bad else f"{bad} finding(s) are not as they must be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
