"""Worker processes for shards: one per device, or per core where nothing runs a model; threads pinned, models loaded once.

A Prefect task hands a spec over, waits, kills at the deadline, and raises a retryable error where the worker died: a
thread cannot be interrupted inside a blocking call, a process can. The death of one costs its shard only.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from augmill.tasks.boundary.processes import importing, own_temporary, sweep_temporary
from augmill.tasks.boundary.retries import PATIENCE
from augmill.tasks.contracts import Artifact, Tell, tell_nobody
from augmill.tasks.errors import (
    AugmillError,
    CorruptObject,
    DataError,
    DeadlineExceeded,
    LedgerError,
    StoreRefused,
    StoreSilent,
    UserError,
    WorkerDied,
    WorldError,
    world_error,
)
from augmill.tasks.rows.shown import visible
from augmill.tasks.store.stage import Event

GRACE_SECONDS = 5.0
WATCH_SECONDS = 1.0  # a worker whose parent is gone ends within so long
MOST_LIGHT = 8  # worker processes on a CPU that nobody asked for: each takes 0.2 to 0.5 GB, whatever the machine has
# Objects between two looks for cycles. At Python's 700 they took two thirds of `rules`' preparing, a fifteenth of a shard.
COLLECT_EVERY = 50_000
TELL_SECONDS = 0.25  # between two messages of a worker on how far its job is, at least
_log = logging.getLogger("augmill")


class WorkerFailed(AugmillError):
    """The shard's own code raised what nobody foresaw: a defect. Trying again would not help."""


class WorkerWorldError(WorldError):
    """The shard met a cause that can pass (store, memory); it may be tried again."""


# What a worker may end with for good, by name: its exit code is that of the same error in this process.
_NOT_RETRIED: dict[str, type[AugmillError]] = {
    kind.__name__: kind for kind in (UserError, DataError, StoreRefused, StoreSilent, LedgerError, CorruptObject)
}


def _environment(threads: int, device: str) -> dict[str, str]:
    count = str(threads)
    pinned = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), count)
    environment = os.environ | pinned | {"TOKENIZERS_PARALLELISM": "false", "POLARS_MAX_THREADS": count}
    if device.startswith("cuda:"):
        environment |= {"CUDA_VISIBLE_DEVICES": device.removeprefix("cuda:"), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return environment


class Worker:
    """One process that runs shard specs, one at a time."""

    def __init__(self, device: str, threads: int) -> None:
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "augmill.tasks.workers", str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            env=_environment(threads, device),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its workers
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        # Inside the process the one visible GPU is the first.
        self.device = "cuda:0" if device.startswith("cuda:") else device

    def run(self, job: dict[str, Any], seconds: float, tell: Tell = tell_nobody) -> dict[str, Any]:
        """The answer to one job; ``tell`` hears before it how far the job is, what it warns of is logged here.

        Raises DeadlineExceeded or WorkerDied; whatever is raised, the process is killed: its answer is nobody's.
        """
        ends = time.monotonic() + seconds
        try:
            with self._alive():
                self.connection.send_bytes(json.dumps(job).encode())
            while True:
                message = self._receive(ends, seconds)
                if "told" in message:
                    tell(*message["told"])
                elif "warned" in message:
                    _log.warning("%s", message["warned"])
                else:
                    return message
        except BaseException:
            self.kill()
            raise

    def _receive(self, ends: float, seconds: float) -> dict[str, Any]:
        """The next message; messages do not put the deadline off."""
        with self._alive():
            if self.connection.poll(max(0.0, ends - time.monotonic())):
                message: dict[str, Any] = json.loads(self.connection.recv_bytes())
                return message
        raise DeadlineExceeded(f"a shard was killed after {seconds:.0f} s", fix="raise run.shard_minutes")

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Turns the end of the connection into WorkerDied, which says how the process ended."""
        try:
            yield
        except (EOFError, OSError) as error:
            self.kill()
            code = self.process.returncode
            cause = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            hint = "; a process killed by signal 9 often ran out of memory" if code == -signal.SIGKILL else ""
            raise WorkerDied(
                f"a worker died during its shard ({cause}{hint})", fix="the shard is tried again"
            ) from error

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        if self.alive():
            self.process.kill()
        self.process.wait()
        self.connection.close()
        sweep_temporary()  # the rows that it had made

    def stop(self) -> None:
        """Closing the connection tells the worker to end; one that does not is killed."""
        self.connection.close()
        try:
            self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class WorkerPool:
    """Workers by device, started when first needed. ``run`` may be called from many threads."""

    def __init__(self, devices: list[str], threads: int) -> None:
        self.threads, self.size = threads, len(devices)
        # The one that was free last goes first: it has started, and has loaded what the next job needs.
        self.free: queue.LifoQueue[tuple[str, Worker | None]] = queue.LifoQueue()
        for device in reversed(devices):
            self.free.put((device, None))
        self.started: list[Worker] = []
        self.lock = threading.Lock()
        self.closed = False

    def run(
        self, store: str, job: dict[str, Any], *, seconds: float, tell: Tell = tell_nobody
    ) -> tuple[Artifact, list[Event]]:
        """One job: (its artifact, what its stages did, its own last). Raises WorldError or WorkerFailed.

        ``tell`` hears, on this thread and every ``TELL_SECONDS`` at most, how far it is.
        """
        device, worker = self.free.get()
        try:
            if worker is None or not worker.alive():
                worker = self._start(device)
            place = {"store": store, "device": worker.device, "threads": self.threads, "seconds": seconds}
            place["patience"] = PATIENCE.seconds
            answer = worker.run(job | place, seconds, tell)
        finally:
            self.free.put((device, worker))
        return _unpack(answer)

    def _start(self, device: str) -> Worker:
        with self.lock:
            if self.closed:
                raise WorkerDied("the run is ending")
            worker = Worker(device, self.threads)
            self.started = [other for other in self.started if other.alive()] + [worker]
        return worker

    def close(self, *, kill: bool = False) -> None:
        with self.lock:
            self.closed = True
            workers = list(self.started)
        for worker in workers:
            if kill:  # the connection is left to the thread that waits on it, which sees its end
                worker.process.kill()
                worker.process.wait()
                sweep_temporary()
            else:
                worker.stop()


def _unpack(answer: dict[str, Any]) -> tuple[Artifact, list[Event]]:
    if "artifact" in answer:
        return Artifact(**answer["artifact"]), [Event(**event) for event in answer["events"]]
    kind = WorkerWorldError if answer["retryable"] else _NOT_RETRIED.get(answer["kind"], WorkerFailed)
    error = kind(answer["problem"], where=answer["where"], fix=answer["fix"])
    if answer["trace"]:
        error.add_note(answer["trace"])  # shown with --debug only
    raise error


@contextmanager
def worker_pool(devices: list[str], threads: int) -> Iterator[WorkerPool]:
    """A pool whose processes end with the block, at once where it ends by an error."""
    pool = WorkerPool(devices, threads)
    try:
        yield pool
    except BaseException:
        pool.close(kill=True)
        raise
    pool.close()


def find_devices(asked: tuple[str, ...], workers: int, *, light: bool = False) -> list[str]:
    """One entry per worker process: the asked devices, else every CUDA device, else the CPU.

    ``light``: no job runs a model, so that no device is looked for, and each core has a process, up to ``MOST_LIGHT``.
    """
    devices = list(asked)
    if light and not devices:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return ["cpu"] * (workers or min(cores, MOST_LIGHT))
    if not devices:
        # torch takes seconds to import; the driver's own files tell whether there is a GPU at all.
        has_driver = os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg")  # noqa: PTH110
        count = 0
        if has_driver:
            import torch

            count = torch.cuda.device_count()
        devices = [f"cuda:{index}" for index in range(count)] or ["cpu"]
    return [devices[index % len(devices)] for index in range(workers or len(devices))]


# --- inside the worker process -----------------------------------------------------------------------------------------


def _watch(parent: int) -> None:
    """Ends this process when its parent is gone, even in the middle of a shard."""
    while True:
        time.sleep(WATCH_SECONDS)
        if os.getppid() != parent:
            os._exit(3)


class Messages(logging.Handler):
    """What a worker says of its job before the answer: how far it is, and what an extension warns of.

    From any thread of the job; a thread that outlives its job is not heard.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(logging.WARNING)
        self.connection, self.sending = connection, threading.Lock()
        self.next, self.open = 0.0, False

    def tell(self, done: int, total: int | None, unit: str) -> None:
        if time.monotonic() < self.next:
            return
        with self.sending:
            if (now := time.monotonic()) >= self.next:
                self.next = now + TELL_SECONDS
                self._send({"told": [int(done), None if total is None else int(total), str(unit)]})

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - an extension's arguments that do not fit its words, which cost no shard
            self.handleError(record)
            return
        with self.sending:
            self._send({"warned": message})

    def _send(self, message: dict[str, Any]) -> None:
        if self.open:
            with suppress(OSError):  # where the parent is gone, so is this process in a moment
                self.connection.send_bytes(json.dumps(message).encode())

    @contextmanager
    def heard(self) -> Iterator[None]:
        self.next, self.open = 0.0, True
        try:
            yield
        finally:
            with self.sending:
                self.open = False


def _run_job(job: dict[str, Any], tell: Tell) -> dict[str, Any]:
    with importing():
        from augmill.tasks.stages.jobs import run_job

    PATIENCE.renew(job.get("patience"), silent=True)
    try:
        artifact, events = run_job(job, tell)
    except AugmillError as error:
        return _answer(error, traceback.format_exc() if error.__cause__ is not None else "")
    except (OSError, MemoryError) as error:
        return _answer(world_error(error))
    except Exception as error:  # noqa: BLE001 - the process boundary: the parent raises it again, with its traceback
        problem, again = (
            f"a defect of Augmill: {type(error).__name__}: {error}",
            "run it again with --debug and report it",
        )
        return _answer(WorkerFailed(problem, where="worker", fix=again), traceback.format_exc())
    return {"artifact": artifact.to_json(), "events": [dataclasses.asdict(event) for event in events]}


def _answer(error: AugmillError, trace: str = "") -> dict[str, Any]:
    known = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _NOT_RETRIED), "")
    said = {"problem": error.problem, "where": error.where, "fix": error.fix}
    return {"retryable": error.retryable, "kind": known, "trace": trace, **said}


class _WrittenOut(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record), keep="\n")


def _write_out() -> None:
    """A worker writes to the run's own terminal: what an extension logs or warns of may hold what the data hold."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_WrittenOut())
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {visible(str(message))}\n"


def serve(descriptor: int, parent: int) -> None:
    """Runs jobs from the connection until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(COLLECT_EVERY)
    _write_out()
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    with own_temporary():
        _answer_jobs(Connection(descriptor))


def _answer_jobs(connection: Connection) -> None:
    messages = Messages(connection)
    logging.getLogger("augmill").addHandler(messages)
    while True:
        try:
            job = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        with messages.heard():
            answer = json.dumps(_run_job(job, messages.tell)).encode()
        try:
            connection.send_bytes(answer)
        except OSError:  # the parent was killed: nobody is left to be told; the next run finds what stands in the store
            return
