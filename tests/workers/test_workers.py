"""Worker processes: the death or hang of one costs its shard only, errors keep their kind, and none outlives its parent.

What a worker says of its job before the answer (how far it is, what it warns of) is heard, and puts nothing off.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from chain import tiny_recipe, write_rows

from augmill.flows.units import gather_source
from augmill.tasks.boundary.retries import may_retry
from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import Artifact
from augmill.tasks.errors import AugmillError, CorruptObject, DeadlineExceeded, UserError, WorkerDied
from augmill.tasks.generators import GENERATORS
from augmill.tasks.recipe.recipe import build_recipe
from augmill.tasks.stages.extensions import FitConfig, is_light
from augmill.tasks.stages.fit import fit, fit_check
from augmill.tasks.stages.jobs import pack
from augmill.tasks.stages.split import prepare_split, split
from augmill.tasks.store.stage import Site, read_manifest
from augmill.tasks.store.store import Store
from augmill.tasks.workers.pool import TELL_SECONDS, Messages, Worker, WorkerPool, find_devices, worker_pool

slow = pytest.mark.slow  # a worker takes seconds to start


class Bench:
    """A store with a split in it, and jobs over it for a pool of one worker."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        recipe = tiny_recipe(write_rows(directory / "rows.csv"))
        self.store = Store(str(directory / "store"))
        site = Site(self.store)
        self.split = split(site, prepare_split(recipe), gather_source(site, recipe), [])
        self.pool = WorkerPool(["cpu"], 1)
        self.seed = 0

    def job(self, seed: int | None = None, **options: Any) -> dict[str, Any]:
        """A fit of ``rules`` that was not run before; a thesaurus that cannot be read to its end never ends."""
        self.seed += 1
        kind = GENERATORS["rules"]
        options = {"operations": {"swap": 1.0}} | options
        config = FitConfig(
            "rules", kind.VERSION, kind.Options(**options), self.seed if seed is None else seed, ("text",), 0
        )
        return pack(fit, config, [self.split])

    def run(self, job: dict[str, Any], seconds: float = 60.0) -> tuple[Artifact, bool]:
        artifact, events = self.pool.run(self.store.root, job, seconds=seconds)
        return artifact, events[-1].reused

    @property
    def pid(self) -> int:
        return self.pool.started[-1].process.pid

    def endless(self) -> Endless:
        return Endless(self.directory / f"{time.monotonic_ns()}.fifo")


class Endless:
    """A thesaurus that a worker reads and reads, until it is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def wait_for_reader(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                self.handle = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
                return
            except OSError:  # nobody reads yet
                time.sleep(0.02)
        raise AssertionError("no worker came to read")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("bench"))
    yield made
    made.pool.close(kill=True)


def ends_within(pid: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:  # ended, and not yet collected by init
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def run_endless(bench: Bench, pool: WorkerPool | None = None, seconds: float = 60.0) -> Future[Any]:
    """A job that will not end, once a worker is in the middle of it."""
    endless = bench.endless()
    job = bench.job(thesaurus=str(endless.path))
    executor = ThreadPoolExecutor(1)
    future = executor.submit((pool or bench.pool).run, bench.store.root, job, seconds=seconds)
    endless.wait_for_reader()
    executor.shutdown(wait=False)
    return future


@slow
def test_a_worker_gives_the_artifact_that_stands_in_the_store_and_knows_it_again(bench: Bench) -> None:
    job = bench.job()
    artifact, reused = bench.run(job)
    assert not reused
    assert read_manifest(bench.store, artifact)["content"] == artifact.content
    pid = bench.pid
    assert bench.run(job) == (artifact, True)
    assert bench.pid == pid


@slow
def test_how_far_a_job_is_is_heard_before_its_answer(bench: Bench) -> None:
    kind, told = CHECKS["label_consistency"], list[tuple[int, int | None, str]]()
    config = FitConfig("label_consistency", kind.VERSION, kind.Options(), 0, ("text",), 0)
    job = pack(fit_check, config, [bench.split])
    artifact, _ = bench.pool.run(bench.store.root, job, seconds=120, tell=lambda *how: told.append(how))
    assert artifact.key.startswith("fit_check/")
    assert told[0] == (0, 6, "trainings") and told == sorted(told)
    assert bench.run(bench.job())[0].key.startswith("fit/")  # nothing of the one job is left for the next


@slow
def test_what_an_extension_warns_of_in_a_worker_is_logged_by_the_run(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.csv")
    rows.write_text(rows.read_text(encoding="utf-8").replace("refund", "ขอเงินคืน"), encoding="utf-8")
    site, recipe = Site(bench.store), tiny_recipe(rows)
    thai = split(site, prepare_split(recipe), gather_source(site, recipe), [])
    bench.run(bench.job() | {"inputs": [thai.to_json()]})
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said.startswith("rules: train rows hold Thai")
    assert "Thai" not in capfd.readouterr().err  # past the run's logs, and through a live line


def test_a_worker_that_tells_and_tells_is_killed_at_its_deadline_all_the_same() -> None:
    worker, told, going = Worker("cpu", 1), list[tuple[Any, ...]](), threading.Event()
    own = worker.connection  # whose end it would see
    here, there = socket.socketpair()
    worker.connection, other = Connection(here.detach()), Connection(there.detach())

    def tell() -> None:
        done = 0
        while not going.wait(0.01):
            done += 1
            with contextlib.suppress(OSError):
                other.send_bytes(json.dumps({"told": [done, None, "rows"]}).encode())

    teller = threading.Thread(target=tell)
    teller.start()
    started = time.monotonic()
    try:
        with pytest.raises(DeadlineExceeded):
            worker.run({}, 1.5, lambda *how: told.append(how))
    finally:
        going.set()
        teller.join()
        other.close()
        own.close()
    assert 1.5 <= time.monotonic() - started < 30
    assert told[:2] == [(1, None, "rows"), (2, None, "rows")]
    assert worker.process.returncode == -signal.SIGKILL


def test_a_worker_tells_four_times_a_second_at_most_and_nothing_after_its_job() -> None:
    here, there = socket.socketpair()
    ours, theirs = Connection(here.detach()), Connection(there.detach())
    messages, began = Messages(theirs), time.monotonic()
    messages.tell(0, 9, "rows")  # no job yet
    with messages.heard(), ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(lambda: [messages.tell(np.int64(at), None, "rows") for at in range(20_000)])  # type: ignore[arg-type]
    most = 1 + (time.monotonic() - began) / TELL_SECONDS
    messages.next = 0.0
    messages.tell(9, 9, "rows")
    theirs.close()
    heard = []
    with contextlib.suppress(EOFError):
        while True:
            heard.append(json.loads(ours.recv_bytes())["told"])
    ours.close()
    assert 1 <= len(heard) <= most
    assert all(total is None and unit == "rows" for _, total, unit in heard)


def test_a_warning_whose_words_do_not_fit_costs_no_shard(capfd: pytest.CaptureFixture[str]) -> None:
    """As with every handler of logging, which says so on stderr; an extension's own mistake is not its shard's."""
    here, there = socket.socketpair()
    ours, theirs = Connection(here.detach()), Connection(there.detach())
    messages = Messages(theirs)
    with messages.heard():
        for words, given in (("%d rows", "many"), ("%s rows", "many")):
            messages.handle(logging.LogRecord("augmill", logging.WARNING, "", 1, words, (given,), None))
    assert json.loads(ours.recv_bytes()) == {"warned": "many rows"} and not ours.poll()
    assert "Logging error" in capfd.readouterr().err
    ours.close()
    theirs.close()


def test_an_error_of_whoever_looks_on_costs_the_worker_and_leaves_no_answer_for_the_next_job() -> None:
    worker = Worker("cpu", 1)
    own = worker.connection
    here, there = socket.socketpair()
    worker.connection, other = Connection(here.detach()), Connection(there.detach())
    other.send_bytes(json.dumps({"told": [1, 2, "rows"]}).encode())

    def closed(done: int, total: int | None, unit: str) -> None:
        raise BrokenPipeError("the terminal is gone")

    with pytest.raises(BrokenPipeError):
        worker.run({}, 60, closed)
    other.close()
    own.close()
    assert worker.process.returncode == -signal.SIGKILL


@slow
def test_a_killed_worker_can_be_retried_and_the_pool_goes_on(bench: Bench) -> None:
    future = run_endless(bench)
    os.kill(bench.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match=r"a worker died during its shard \(signal 9; .*memory") as told:
        future.result(120)
    assert may_retry(told.value)
    dead = bench.pid
    assert not bench.run(bench.job())[1]
    assert bench.pid != dead


@slow
def test_a_worker_that_hangs_is_killed_at_the_deadline_and_the_pool_goes_on(bench: Bench) -> None:
    bench.run(bench.job())
    started = time.monotonic()
    future = run_endless(bench, seconds=1.5)
    pid = bench.pid
    with pytest.raises(DeadlineExceeded, match=r"killed after 2 s\n  What to do: raise run\.shard_minutes") as told:
        future.result(120)
    assert may_retry(told.value)
    assert 1.5 <= time.monotonic() - started < 60
    assert not psutil.pid_exists(pid)
    bench.run(bench.job())


@slow
def test_a_worker_that_died_between_two_shards_costs_nothing(bench: Bench) -> None:
    bench.run(bench.job())
    os.kill(bench.pid, signal.SIGKILL)
    bench.pool.started[-1].process.wait(60)
    bench.run(bench.job())


@slow
def test_the_death_of_one_of_two_workers_is_not_felt_by_the_other(bench: Bench) -> None:
    with worker_pool(["cpu", "cpu"], 1) as pool:
        stuck = run_endless(bench, pool)
        doomed = pool.started[0]
        other = pool.run(bench.store.root, bench.job(), seconds=60)
        doomed.process.kill()
        with pytest.raises(WorkerDied):
            stuck.result(10)
        assert not other[1][-1].reused
        assert len({worker.process.pid for worker in pool.started}) == 2


@slow
def test_an_error_of_the_shard_keeps_its_kind_and_message_and_is_not_retried(bench: Bench) -> None:
    bench.run(bench.job())
    pid = bench.pid
    with pytest.raises(UserError, match=r"gone\.csv: the thesaurus could not be read .*\n  What to do: ") as told:
        bench.run(bench.job(thesaurus=str(bench.directory / "gone.csv")))
    assert not may_retry(told.value)
    assert (told.value.exit_code, "Traceback" in str(told.value)) == (2, False)
    assert bench.pid == pid and bench.pool.started[-1].alive()


@slow
def test_a_defect_in_a_shard_is_told_in_one_line_and_not_retried(bench: Bench) -> None:
    job = bench.job()
    job["stage"] = "no such stage"
    with pytest.raises(AugmillError, match=r"KeyError: 'no such stage'") as told:
        bench.run(job)
    assert not may_retry(told.value)
    assert (told.value.exit_code, "Traceback" in str(told.value)) == (1, False)


@slow
def test_a_corrupt_input_is_told_by_name_and_left_to_the_flow(bench: Bench) -> None:
    job = bench.job()
    job["inputs"][0]["key"] = "split/" + "0" * 64
    with pytest.raises(CorruptObject, match="the manifest is gone") as told:
        bench.run(job)
    assert not may_retry(told.value)  # a shard tried again would miss it again: whoever made it has to run


@slow
def test_ctrl_c_does_not_reach_a_worker(bench: Bench) -> None:
    bench.run(bench.job())
    pid = bench.pid
    assert os.getpgid(pid) != os.getpgid(0)  # the terminal signals the parent's group
    os.kill(pid, signal.SIGINT)
    bench.run(bench.job())
    assert bench.pid == pid


@slow
@pytest.mark.parametrize("busy", [True, False], ids=["in a shard", "idle"])
def test_a_worker_ends_with_its_killed_parent(bench: Bench, busy: bool) -> None:
    endless = bench.endless()
    job = bench.job(thesaurus=str(endless.path)) if busy else bench.job()
    code = """
import json, sys, threading, time
from augmill.tasks.workers import WorkerPool
pool, (store, job) = WorkerPool(["cpu"], 1), json.loads(sys.argv[1])
thread = threading.Thread(target=pool.run, args=(store, job), kwargs={"seconds": 600}, daemon=True)
thread.start()
while not pool.started:
    time.sleep(0.01)
if sys.argv[2] == "idle":
    thread.join()
print(pool.started[0].process.pid, flush=True)
time.sleep(600)
"""
    arguments = [json.dumps([bench.store.root, job]), "busy" if busy else "idle"]
    parent = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    if busy:
        endless.wait_for_reader()
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert ends_within(pid, 3.5)


@slow
def test_a_worker_whose_parent_is_gone_ends_without_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    """Its answer has nobody to go to: the next run finds in the store what it wrote."""
    worker = Worker("cpu", 1)
    worker.connection.send_bytes(b"{}")  # read whole before the end of the connection is seen
    worker.connection.close()
    assert worker.process.wait(60) == 0
    assert capfd.readouterr().err == ""


@slow
def test_a_pool_ends_its_workers_at_once_when_its_block_ends_by_an_error(bench: Bench) -> None:
    pids: list[int] = []
    with pytest.raises(KeyboardInterrupt), worker_pool(["cpu"], 1) as pool:
        stuck = run_endless(bench, pool)
        pids.append(pool.started[0].process.pid)
        raise KeyboardInterrupt
    assert not psutil.pid_exists(pids[0])
    with pytest.raises(AugmillError):
        stuck.result(10)
    with pytest.raises(WorkerDied, match="the run is ending"):
        pool.run(bench.store.root, bench.job(), seconds=1)


@slow
def test_a_pool_that_ends_well_leaves_no_process(bench: Bench) -> None:
    with worker_pool(["cpu"], 1) as pool:
        pool.run(bench.store.root, bench.job(), seconds=60)
        pid = pool.started[0].process.pid
    assert not psutil.pid_exists(pid)


def environment(worker: Worker) -> dict[str, str]:
    path, raw = Path(f"/proc/{worker.process.pid}/environ"), b""
    for _ in range(100):  # on a busy machine it is still empty right after the start
        raw = path.read_bytes()
        if raw:
            break
        time.sleep(0.05)
    return dict(item.split("=", 1) for item in raw.decode().split("\0") if "=" in item)


def test_threads_and_device_are_pinned_before_the_process_starts() -> None:
    worker = Worker("cuda:3", 2)
    try:
        found = environment(worker)
        assert {found[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS", "RAYON")} == {"2"}
        assert (found["POLARS_MAX_THREADS"], found["TOKENIZERS_PARALLELISM"]) == ("2", "false")
        # The process sees one GPU, which is its first.
        assert (found["CUDA_VISIBLE_DEVICES"], found["CUDA_DEVICE_ORDER"], worker.device) == (
            "3",
            "PCI_BUS_ID",
            "cuda:0",
        )
    finally:
        worker.kill()


def test_there_is_a_worker_per_device_unless_told_otherwise() -> None:
    assert find_devices(("cuda:0", "cuda:1"), 0) == ["cuda:0", "cuda:1"]
    assert find_devices(("cuda:0", "cuda:1"), 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert find_devices(("cpu",), 2) == ["cpu", "cpu"]


def test_where_no_generator_runs_a_model_each_core_has_a_worker_and_what_was_asked_for_counts() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert find_devices((), 0, light=True) == ["cpu"] * min(cores, 8)
    assert find_devices((), 3, light=True) == ["cpu"] * 3
    assert find_devices(("cuda:0",), 0, light=True) == ["cuda:0"]
    document = {"dataset": "d", "source": {"path": "x.csv"}, "target": {"per_class": 1}}
    document |= {"columns": {"text": "text", "label": "label"}}
    for uses, light in ((["rules"], True), (["rules", "causal_lm"], False)):
        made = build_recipe(document | {"generators": [{"use": use} for use in uses]}, base=Path())
        assert is_light(made) is light, uses


def test_a_worker_that_is_free_is_asked_before_another_is_started() -> None:
    pool = WorkerPool(["cuda:0", "cuda:1"], 1)
    first = pool.free.get()
    assert first[0] == "cuda:0"
    pool.free.put(first)
    assert pool.free.get() is first


def test_a_pool_of_one_serves_many_threads_and_loses_no_place_by_failures() -> None:
    pool = WorkerPool(["cpu"], 1)
    failed: list[Exception] = []

    def call() -> None:
        try:
            pool.run("/nowhere", {}, seconds=0.0)
        except AugmillError as error:
            failed.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [type(error) for error in failed] == [DeadlineExceeded] * 3
    assert pool.free.qsize() == 1
