"""Kills `augmill run` with SIGKILL at seeded moments, runs it again, and compares. Prints a table.

    python tests/benchmarks/kill_runs.py [--kills 30] [--seed 1] [--orchestrator none] [--out kills.jsonl]

The moments are spread evenly over an undisturbed run, one drawn in each part of it, and counted from the last manifest
that stood by then, so that a busy machine is killed at the same points. killed at: in the undisturbed run. finished:
stages whose manifests stood in the store when the run died. left: processes of the run that were still there 5 s later.
remade: manifests that the second run wrote although they stood already. equal: the public bytes (provenance and log
apart) are those of the undisturbed run, and the log has one entry.
"""

from __future__ import annotations

import argparse
import bisect
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from chain import public_bytes, recipe_document, write_rows

from augmill.tasks.store.log import read_log
from augmill.tasks.store.releases import verify_release
from augmill.tasks.store.store import Store

MARK = "AUGMILL_KILL_RUN"  # every process of a run inherits it, whatever session it is in
STAGES = ("ingest", "gather", "split", "fit", "fit_check", "plan", "generate", "settle", "mix", "evaluate", "release")


@dataclass(frozen=True)
class Kill:
    """What one SIGKILL did, and what the run after it made of it."""

    moment: float  # seconds after the start of the undisturbed run
    finished: str
    published: bool  # whether the log had its entry already
    killed: bool  # False where the run had ended before the moment came
    gone_after: float  # seconds until no process of the run was left
    left: int
    remade: int
    equal: bool
    seconds: float  # of the second run

    @property
    def good(self) -> bool:
        return self.equal and not self.left and not self.remade


@dataclass(frozen=True)
class Command:
    """One recipe to be run over and over as a process of its own."""

    recipe: Path
    orchestrator: str
    environment: dict[str, str]

    @classmethod
    def prepare(cls, directory: Path, orchestrator: str = "none") -> Command:
        document = recipe_document(write_rows(directory / "rows.csv", rows=120), target={"per_class": 40})
        recipe = directory / "recipe.yaml"
        recipe.write_text(json.dumps(document | {"run": {"shard_rows": 8, "workers": 2}}), encoding="utf-8")
        home = directory / "prefect"
        inherited = {n: v for n, v in os.environ.items() if n not in ("PREFECT_API_URL", "NO_PROXY", "no_proxy")}
        quiet = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
        return cls(recipe, orchestrator, inherited | quiet)

    def start(self, store: Path, mark: str, errors: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                str(Path(sys.executable).with_name("augmill")),
                *("run", str(self.recipe), "--store", str(store), "--orchestrator", self.orchestrator),
            ],
            env=self.environment | {MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )

    def run(self, store: Path) -> Timeline:
        """Raises RuntimeError where the run does not end well."""
        started, clock = time.monotonic(), time.time()
        with tempfile.TemporaryFile() as errors:
            process = self.start(store, "whole", errors)
            if process.wait(timeout=300) != 0:
                errors.seek(0)
                raise RuntimeError(errors.read().decode(errors="replace")[-3000:])
        written = [stamp / 1e9 - clock for stamp in manifests(store).values()]
        return Timeline(time.monotonic() - started, sorted(written))


@dataclass(frozen=True)
class Timeline:
    """How long a run took, and after how long each of its manifests stood."""

    seconds: float
    written: list[float]

    def wait(self, moment: float, process: subprocess.Popen[bytes], store: Path) -> None:
        """Returns at that moment of this run, but in ``process``: after as many manifests, and as long after the last."""
        done = bisect.bisect(self.written, moment)
        while len(manifests(store)) < done and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moment - self.written[done - 1] if done else moment)


def processes_of(mark: str) -> list[psutil.Process]:
    """Every living process that carries the mark, by its environment: workers are in sessions of their own."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    return found


def seconds_until_gone(mark: str, patience: float) -> float | None:
    started = time.monotonic()
    while processes_of(mark):
        if time.monotonic() - started > patience:
            return None
        time.sleep(0.05)
    return time.monotonic() - started


def manifests(store: Path) -> dict[Path, int]:
    """Manifests in the store and when they were written."""
    found = (store / "private" / "manifests").rglob("*.json")
    return {path: path.stat().st_mtime_ns for path in found}


def moments(kills: int, seconds: float, seed: int) -> Iterator[float]:
    draw = random.Random(seed)
    for part in range(kills):
        yield seconds * (part + draw.random()) / kills


def kill_once(command: Command, store: Path, moment: float, whole: Timeline, expected: dict[str, bytes]) -> Kill:
    """SIGKILL at the moment, then one more run over what is left. Raises RuntimeError where that one fails."""
    shutil.rmtree(store, ignore_errors=True)
    mark = f"{os.getpid()}-{moment}"
    with tempfile.TemporaryFile() as errors:
        process = command.start(store, mark, errors)
        whole.wait(moment, process, store)
        killed = process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        gone = seconds_until_gone(mark, patience=5.0)
        left = processes_of(mark) if gone is None else []
        if left:
            psutil.wait_procs(left, timeout=30)
    before = manifests(store)
    published = check_what_readers_see(store)
    again = command.run(store)
    after = manifests(store)
    counts = Counter(path.parent.name for path in before)
    finished = " ".join(f"{name}{f'*{counts[name]}' if counts[name] > 1 else ''}" for name in STAGES if counts[name])
    one_entry = len(read_log(Store(str(store)), "tiny").entries) == 1
    return Kill(
        moment=moment,
        finished=finished or "nothing",
        published=published,
        killed=killed,
        gone_after=5.0 if gone is None else gone,
        left=len(left),
        remade=sum(after.get(path) != stamp for path, stamp in before.items()),
        equal=public_bytes(store) == expected and one_entry,
        seconds=again.seconds,
    )


def check_what_readers_see(store: Path) -> bool:
    """Whether something is published after a kill; what is, is whole. Raises RuntimeError where it is not."""
    opened = Store(str(store))
    release = read_log(opened, "tiny").newest()
    if release is not None and verify_release(opened, "tiny", release):
        raise RuntimeError(f"{release} is current and not whole")
    return release is not None


def kill_runs(directory: Path, kills: int, seed: int, orchestrator: str = "none") -> Iterator[Kill]:
    command = Command.prepare(directory, orchestrator)
    if orchestrator == "prefect":
        command.run(directory / "warm")  # makes the database, which takes longer than all the rest
    whole = command.run(directory / "undisturbed")
    expected = public_bytes(directory / "undisturbed")
    for moment in moments(kills, whole.seconds, seed):
        yield kill_once(command, directory / "killed", moment, whole, expected)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--orchestrator", choices=("none", "prefect"), default="none")
    parser.add_argument("--out", type=Path, help="a line of JSON per kill")
    arguments = parser.parse_args()
    print(f"{'killed at':>9}  {'gone after':>10}  {'left':>4}  {'remade':>6}  {'equal':>5}  {'rerun':>6}  finished")
    bad = 0
    with tempfile.TemporaryDirectory(prefix="augmill-kills-") as directory:
        for kill in kill_runs(Path(directory), arguments.kills, arguments.seed, arguments.orchestrator):
            bad += not kill.good
            where = kill.finished + (" published" if kill.published else "") + ("" if kill.killed else " (had ended)")
            print(
                f"{kill.moment:>7.2f} s  {kill.gone_after:>8.2f} s  {kill.left:>4}  {kill.remade:>6}  "
                f"{'yes' if kill.equal else 'NO':>5}  {kill.seconds:>4.1f} s  {where}",
                flush=True,
            )
            if arguments.out:
                with arguments.out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(dataclasses.asdict(kill)) + "\n")
    print(f"{arguments.kills} kills, {bad} not made good")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
