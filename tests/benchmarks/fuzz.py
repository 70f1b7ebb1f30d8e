"""Malformed recipes and source files through `augmill check`, in process. Prints a table; exits with 1 at a finding.

    python tests/benchmarks/fuzz.py [--count 50000] [--seed 1] [--only NUMBER] [--out findings.jsonl]

Half are recipes (every section and key, mutated as a tree and as text), half are files of rows (CSV, JSON Lines,
Parquet, packed or not). Each must end well or with an AugmillError that says what to do. A finding is: any other
exception; more than 5 s of processor time (or 60 s of clock); a write, a process or a connection outside the directory
for temporary files; more than 400 MB of further memory; the death of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import psutil

SECONDS = 5.0  # of processor time: the machine's other work is not the input's
CLOCK = 60.0
START = 120.0  # seconds in which a worker may import
MEMORY = 400 * 2**20
ADDRESSES = 6 * 2**30  # bytes of address space beyond what the imports took: a bound on any one allocation
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
NAMELESS = getattr(os, "O_TMPFILE", 0)
CHANGES = (
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.truncate",
    "os.chmod",
    "shutil.rmtree",
)
STARTS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "socket.getaddrinfo",
)


# --- inside a worker ----------------------------------------------------------------------------------------------------


class Watch:
    """An audit hook: what Python code writes, starts or calls while an input is tried."""

    def __init__(self, root: Path) -> None:
        self.allowed = (str(root / "tmp"), str(root / "in" / "store"), "/dev/null")
        self.seen: list[str] | None = None
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is None:
            return
        if event == "open":
            path, mode, flags = arguments
            changes = (mode and set(mode) & set("wax+")) or (mode is None and (flags or 0) & WRITES)
            if mode is None and NAMELESS and (flags or 0) & NAMELESS == NAMELESS:
                changes = 0  # a file that nobody sees and that is gone when it is closed
            if changes and not self._allowed(path):
                self.seen.append(f"open {path!r}")
        elif event in CHANGES:
            at = (
                arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
            )  # relative to an open directory
            base = Path(f"/proc/self/fd/{at}" if at >= 0 else ".")
            there = event == "os.mkdir" and Path(arguments[0]).is_dir()  # then it only fails
            if not there and not all(self._allowed(base / part) for part in arguments if isinstance(part, str)):
                self.seen.append(f"{event} {arguments!r}"[:300])
        elif event in STARTS:
            self.seen.append(f"{event} {arguments!r}"[:300])

    def _allowed(self, path: Any) -> bool:
        if isinstance(path, int):  # a descriptor that was opened before
            return True
        return os.path.realpath(os.fsdecode(path)).startswith(self.allowed)


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time of change, every directory."""
    found = {str(path): path.lstat() for path in root.rglob("*")}
    return {name: (0, 0) if S_ISDIR(at.st_mode) else (at.st_size, at.st_mtime_ns) for name, at in found.items()}


def lay_out(root: Path, made: Any) -> Path:
    folder = root / "in"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in made.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "recipe.yaml").write_bytes(made.recipe)
    return folder / "recipe.yaml"


def attempt(recipe: Path, as_of: str | None, as_json: bool) -> tuple[str, str]:
    """(how it ended, what is wrong with that): ``ok``, the kind of an AugmillError, or a traceback."""
    from augmill.flows.cli.check import check
    from augmill.tasks.errors import AugmillError

    try:
        check(str(recipe), as_of=as_of, as_json=as_json)
    except AugmillError as error:
        str(error).encode("utf-8", "backslashreplace")
        return type(error).__name__, "" if error.fix and error.problem else f"no fix: {error!r}"
    except Exception as error:  # noqa: BLE001 - any other is what is looked for
        return type(error).__name__, "\n".join(line[:200] for line in traceback.format_exc().splitlines()[-40:])
    return "ok", ""


def peak() -> int:
    """Bytes that this process held at most since ``fresh_peak``."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def fresh_peak() -> int:
    """What is held now, from which the peak begins anew: making an input, or the one before, may have taken more."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak()


def try_one(root: Path, watch: Watch, seed: int, number: int) -> dict[str, Any]:
    from fuzz_inputs import make_input

    made = make_input(seed, number)
    recipe = lay_out(root, made)
    before, held = tree(root), fresh_peak()
    watch.seen, started = [], time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        outcome, wrong = attempt(recipe, made.as_of, number % 3 == 0)
    seconds, seen = time.process_time() - started, watch.seen
    watch.seen = None
    grown = peak() - held
    problems = [wrong] if wrong else []
    if seen:
        problems.append(f"touched: {seen[:5]}")
    if tree(root) != before:
        problems.append(f"files changed: {sorted(set(tree(root).items()) ^ set(before.items()))[:5]}")
        shutil.rmtree(root / "tmp", ignore_errors=True)
        (root / "tmp").mkdir()
    if seconds > SECONDS:
        problems.append(f"{seconds:.1f} s of processor time")
    if grown > MEMORY:
        problems.append(f"{grown / 2**20:.0f} MiB more memory")
    told = {"number": number, "outcome": outcome, "kinds": made.kinds, "problems": problems}
    return told | {"seconds": seconds, "grown": grown}


def warm_up(root: Path) -> None:
    """A sound recipe with everything imported, so that no input is charged for it."""
    from chain import recipe_document, write_rows

    recipe = root / "in" / "recipe.yaml"
    recipe.parent.mkdir()
    recipe.write_text(json.dumps(recipe_document(write_rows(root / "in" / "rows.csv"))))
    with contextlib.redirect_stdout(io.StringIO()):
        outcome, wrong = attempt(recipe, None, True)
    assert outcome == "ok", wrong


def serve(root: Path, seed: int) -> None:
    """A number on each line of stdin; a line of JSON per input on stdout."""
    answers = os.fdopen(os.dup(1), "w")
    faulthandler.enable()
    warm_up(root)
    watch = Watch(root)
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES, used + ADDRESSES))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(try_one(root, watch, seed, int(line))), file=answers, flush=True)


# --- outside ------------------------------------------------------------------------------------------------------------


class Worker:
    """A process that tries inputs; killed and replaced where one hangs or dies."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.root = Path(tempfile.mkdtemp(dir=directory))
        for name in ("tmp", "home", "cwd"):
            (self.root / name).mkdir()
        own = {"TMPDIR": self.root / "tmp", "HOME": self.root / "home", "OMP_NUM_THREADS": 1, "POLARS_MAX_THREADS": 1}
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        own |= {"PYTHONPATH": f"{Path(__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), "--serve", str(self.root), "--seed", str(seed)],
            env=os.environ | {name: str(value) for name, value in own.items()},
            cwd=self.root / "cwd",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.seen = psutil.Process(self.process.pid)
        if self._line(START, START) != "ready":
            raise RuntimeError(f"the worker did not start:\n{self.stop()}")

    def _line(self, seconds: float, clock: float) -> str | None:
        """One line; "" where the process ended, None where it took too long."""
        assert self.process.stdout is not None
        started, used = time.monotonic(), self._cpu()
        while not select.select([self.process.stdout], [], [], 0.25)[0]:
            if self._cpu() - used > seconds + 1 or time.monotonic() - started > clock:
                return None
        return self.process.stdout.readline().rstrip("\n")

    def _cpu(self) -> float:
        try:
            return sum(self.seen.cpu_times()[:2])
        except psutil.Error:
            return 0.0

    def ask(self, number: int) -> dict[str, Any]:
        """What became of the input; ``dead`` where the process has to be replaced."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        line = self._line(SECONDS, CLOCK)
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        how = "hung" if line is None else "died"
        if line is None:
            self.process.send_signal(6)  # faulthandler says where it is
        problems = [f"{how}: {self.stop().partition('Extension modules')[0][-2500:]}"]
        return {
            "number": number,
            "outcome": how,
            "kinds": [],
            "problems": problems,
            "dead": True,
            "seconds": 0,
            "grown": 0,
        }

    def stop(self) -> str:
        """Ends it; what it said on stderr."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace")
        self.errors.close()
        return said


def fuzz(numbers: Iterator[int], seed: int) -> Iterator[dict[str, Any]]:
    """What became of each input, in order."""
    with tempfile.TemporaryDirectory(prefix="augmill-fuzz-") as directory:
        worker = Worker(Path(directory), seed)
        try:
            for number in numbers:
                answer = worker.ask(number)
                yield answer
                if answer.get("dead"):
                    worker = Worker(Path(directory), seed)
        finally:
            if worker.process.returncode is None:
                worker.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one input, by its number, with what is wrong")
    parser.add_argument("--out", type=Path, help="a line of JSON per finding")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.seed)
        return 0
    numbers = range(arguments.count) if arguments.only is None else [arguments.only]
    outcomes: Counter[str] = Counter()
    found, longest, largest, started = 0, 0.0, 0.0, time.monotonic()
    for answer in fuzz(iter(numbers), arguments.seed):
        outcomes[answer["outcome"]] += 1
        longest, largest = max(longest, answer["seconds"]), max(largest, answer["grown"] / 2**20)
        if answer["problems"]:
            found += 1
            print(f"{answer['number']} {' '.join(answer['kinds'])}\n  " + "\n  ".join(answer["problems"]), flush=True)
            if arguments.out:
                with arguments.out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(answer) + "\n")
        elif arguments.only is not None:
            print(json.dumps(answer))
    print(
        f"| inputs | {' | '.join(name for name, _ in outcomes.most_common())} | findings | longest: s | largest: MiB |"
    )
    counts = " | ".join(f"{n:,}" for _, n in outcomes.most_common())
    print(f"| {outcomes.total():,} | {counts} | {found} | {longest:.1f} | {largest:.0f} |")
    print(f"seed {arguments.seed}, {time.monotonic() - started:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
