"""What the benchmarks share: the line that names the machine, and a meter of wall time and peak memory by stage."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from augmill.flows import progress
from augmill.flows.orchestration.api import Api
from augmill.flows.run import Run, Session, new_run
from augmill.flows.signals import Stop
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.store.store import Store
from augmill.tasks.workers import WorkerPool

EVERY = 0.05  # seconds between samples of memory
LIBRARIES = ("numpy", "pyarrow", "polars", "scikit-learn", "great-expectations", "torch", "transformers")
GIB = 2**30


def machine_line() -> str:
    """CPU, cores, memory, Python and libraries: without them a table means little."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        )
        if Path("/proc/cpuinfo").exists()
        else iter(()),
        platform.processor() or platform.machine(),
    )
    memory = psutil.virtual_memory().total / GIB
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return (
        f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}; load {os.getloadavg()[0]:.1f} at the "
        f"start; Python {platform.python_version()}, {versions}"
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain_run(
    recipe: Recipe,
    store: Store,
    pool: WorkerPool,
    shown: progress.Progress,
    as_of: str | None = None,
    api: Api | None = None,
) -> Run:
    """A run of which no attempt is noted; without Prefect where no ``api`` is given."""
    session = Session(recipe, store, api or Api(recording=False), pool, Stop(), "cpu", None, "bench")
    return new_run(session, recipe, as_of, shown)


def _resident(process: psutil.Process) -> tuple[int, int]:
    """Bytes that are resident, and those of them that are of no file."""
    found = process.memory_info()
    return found.rss, found.rss - found.shared


@dataclass
class Reading:
    """One stage: seconds of wall time; the most bytes that were resident while it ran; seconds of processor time, of all

    processes together, which a busy machine does not stretch. ``largest``: the most of one process below the driver.
    ``anonymous`` and ``largest_anonymous``: the same two without the pages of files, which the system may take back.
    """

    name: str
    seconds: float
    driver: int
    workers: int
    processor: float = 0.0
    largest: int = 0
    anonymous: int = 0
    largest_anonymous: int = 0


class Meter:
    """Samples the resident memory of this process and of the processes below it, from a thread of its own.

    Pages that processes share count in each. What a stage leaves in memory counts in the next ones too.
    """

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self._peak: tuple[int, ...] = (0,) * 5
        self._end = threading.Event()
        self._me = psutil.Process()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        workers = [(0, 0)]
        for child in self._me.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                workers.append(_resident(child))
        (own, anonymous), sizes = _resident(self._me), list(zip(*workers, strict=True))
        now = (own, sum(sizes[0]), max(sizes[0]), anonymous, max(sizes[1]))
        self._peak = tuple(map(max, self._peak, now))

    def _watch(self) -> None:
        while not self._end.wait(EVERY):
            self._sample()

    def _processor(self) -> float:
        """Seconds so far, of this process and of those below it, whether they ended or not."""
        spent = 0.0
        for process in [self._me, *self._me.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                spent += times.user + times.system + times.children_user + times.children_system
        return spent

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        self._peak = (0,) * 5
        started, spent = time.monotonic(), self._processor()
        yield
        self._sample()
        seconds, processor = time.monotonic() - started, self._processor() - spent
        driver, workers, *others = self._peak
        self.readings.append(Reading(name, seconds, driver, workers, processor, *others))

    def driver_peak(self) -> int:
        return max(reading.driver for reading in self.readings)

    def whole_peak(self) -> int:
        """Of the driver and its workers together."""
        return max(reading.driver + reading.workers for reading in self.readings)


class MeteredProgress(progress.Progress):
    """A run's own progress lines, each also a reading of the meter under the stage's name."""

    def __init__(self, meter: Meter) -> None:
        super().__init__(live=False)
        self.meter = meter

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "") -> Iterator[progress.ShownStage]:
        with self.meter.measure(name), super().stage(name, total, unit) as shown:
            yield shown
        # At once, for a run that is killed later has no table.
        print(f"{name}: {self.meter.readings[-1]}", file=sys.stderr, flush=True)
