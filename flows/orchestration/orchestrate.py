"""What runs a stage: Prefect, or plain Python (``run: {orchestrator: none}``). Both retry alike."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import queue
import signal
import threading
from abc import ABC, abstractmethod
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, Generic, NoReturn, TypeVar, cast

from augmill.flows.orchestration.api import Api, open_api
from augmill.flows.terminal import flush
from augmill.tasks.boundary.retries import NEVER, PATIENCE, RetryPolicy, call_with_retries, may_retry
from augmill.tasks.errors import AugmillError, DeadlineExceeded
from augmill.tasks.rows.kinds.text import visible

T = TypeVar("T")
Item = TypeVar("Item")
_log = logging.getLogger("augmill")

STOP_GRACE = 10.0  # seconds in which running shards may end after a stop; their workers are killed at its start


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a run as cleanly as Ctrl-C does."""


class Orchestrator(ABC):
    """Runs stage functions. ``stopping`` is set by the first interrupt; nothing is retried from then on."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._stop_callbacks: list[Callable[[], None]] = []

    @property
    def recording(self) -> bool:
        """Whether a Prefect API takes records (tasks, artifacts) at this moment."""
        return False

    def report(self, error: Exception) -> None:
        """Takes note of an error of the orchestrator's own, which must not stop the data."""
        _log.debug("%s: %s", type(error).__name__, error)

    @abstractmethod
    def run(
        self,
        body: Callable[[], T],
        *,
        name: str,
        run_name: str,
        parameters: dict[str, str] | None = None,
        tags: Sequence[str] = (),
        nested: bool = False,
    ) -> T:
        """``body()`` as one flow run. An interrupt is recorded as Cancelled and raised again.

        ``nested``: as a run of its own even inside another; then it may be called from several threads, each with a copy
        of the outer run's context (contextvars).
        """

    @abstractmethod
    def call(
        self,
        fn: Callable[..., T],
        *args: Any,
        name: str,
        retry: RetryPolicy = NEVER,
        tags: Sequence[str] = (),
        timeout: float | None = None,
    ) -> T:
        """``fn(*args)`` as one task run, retried under ``retry``; raises what the last try raised.

        ``name`` is the run's name ("fit banking@2026-11-03 rules"); its first word, the stage, is the task's.

        ``timeout`` (seconds) is per try and raises ``DeadlineExceeded``. Only Prefect on the main thread enforces it:
        a blocked thread cannot be interrupted, so shards bring their own deadline (workers are killed), and under
        ``none`` the time limit is the business of the scheduler that runs us.
        """

    def map(
        self,
        fn: Callable[[Item], T],
        items: Sequence[Item],
        *,
        limit: int,
        name: Callable[[Item], str],
        retry: RetryPolicy = NEVER,
        tags: Sequence[str] = (),
        on_done: Callable[[T], None] | None = None,
        give_up: Callable[[Item, AugmillError], T] | None = None,
    ) -> list[T]:
        """``call`` for each item, at most ``limit`` at once; the results in the items' order.

        Each runs in a thread that waits for a worker process. ``on_done`` is called on this thread as they finish.
        ``give_up(item, error)``, in the item's thread, answers for an item whose tries are used up; an error that no
        retry could cure (a defect, a mistake, a full disk) is raised instead.
        The first failure lets running items finish, starts no others, and is raised.
        """

        def one(item: Item) -> T:
            try:
                return self.call(fn, item, name=name(item), retry=retry, tags=tags)
            except AugmillError as error:
                if give_up is None or self.stopping.is_set() or not may_retry(error):
                    raise
                return give_up(item, error)

        pool = ThreadPoolExecutor(max_workers=max(1, limit), thread_name_prefix="augmill-map")
        futures: list[Future[T]] = []
        try:
            for item in items:
                futures.append(pool.submit(contextvars.copy_context().run, one, item))
            _collect(futures, on_done)
            return [future.result() for future in futures]
        except Exception:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        except BaseException:  # an interrupt: the workers are killed, so the threads that wait for them return
            self.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            wait([future for future in futures if not future.cancelled()], timeout=STOP_GRACE)
            raise
        finally:
            pool.shutdown(wait=False)

    def on_stop(self, callback: Callable[[], None]) -> None:
        """``callback`` runs at the first interrupt: for whoever holds worker processes, to kill them."""
        self._stop_callbacks.append(callback)

    def require_going(self) -> None:
        """Raises KeyboardInterrupt after the first interrupt: a snapshot in another thread begins no further stage."""
        if self.stopping.is_set():
            raise KeyboardInterrupt

    def stop(self) -> None:
        """Idempotent."""
        if not self.stopping.is_set():
            self.stopping.set()
            PATIENCE.stop()
            for callback in self._stop_callbacks:
                callback()


class PlainOrchestrator(Orchestrator):
    """Plain Python: for other schedulers, for CI, and for what is left of a run whose Prefect API went away."""

    def run(
        self,
        body: Callable[[], T],
        *,
        name: str,
        run_name: str,
        parameters: dict[str, str] | None = None,
        tags: Sequence[str] = (),
        nested: bool = False,
    ) -> T:
        with interruptible():
            try:
                return body()
            except KeyboardInterrupt:
                self.stop()
                raise

    def call(
        self,
        fn: Callable[..., T],
        *args: Any,
        name: str,
        retry: RetryPolicy = NEVER,
        tags: Sequence[str] = (),
        timeout: float | None = None,
    ) -> T:
        def attempt() -> T:
            return fn(*args)

        def told(error: Exception, tried: int, delay: float) -> None:
            log_retry(name, error, tried, retry)

        def pause(seconds: float) -> None:
            if self.stopping.wait(seconds):
                raise KeyboardInterrupt

        self.require_going()
        return call_with_retries(attempt, retry, on_retry=told, sleep=pause)


@contextlib.contextmanager
def open_orchestrator(kind: str) -> Iterator[Orchestrator]:
    """``prefect`` or ``none``; a Prefect server that does not start is a warning, not the end of the run."""
    with open_api(kind) as api:
        yield PrefectOrchestrator(api) if api.recording else PlainOrchestrator()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM raises ``Terminated`` on the main thread inside; elsewhere signals cannot be handled: no effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: object) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """SIGTERM and Ctrl-C take effect at the end of the block: for what must not be left half done. Main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        came.append(number)
        PATIENCE.stop()  # a store that does not answer would hold the block for as long

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if came:
            signal.raise_signal(came[0])


def leave(code: int) -> NoReturn:
    """Ends the process now, without waiting for threads that still sit in a long computation after an interrupt."""
    flush()
    os._exit(code)


def log_retry(name: str, error: BaseException, tried: int, policy: RetryPolicy) -> None:
    _log.warning("%s: %s\n  Try %d of %d follows.", name, str(error).splitlines()[0], tried + 1, policy.tries)


def _collect(futures: list[Future[T]], on_done: Callable[[T], None] | None) -> None:
    """Waits for all, or for the first failure, which it raises. Linear in the futures: each reports itself once."""
    finished: queue.SimpleQueue[Future[T]] = queue.SimpleQueue()
    for future in futures:
        future.add_done_callback(finished.put)
    for _ in futures:
        value = _next(finished).result()
        if on_done is not None:
            on_done(value)


def _next(finished: queue.SimpleQueue[Future[T]]) -> Future[T]:
    while True:
        # A bounded wait: an unbounded one on the main thread would not see signals on every platform.
        with contextlib.suppress(queue.Empty):
            return finished.get(timeout=0.5)


# --- Stages as Prefect runs -------------------------------------------------------------------------------------------
# Results and arguments never pass through Prefect: a task is a closure that keeps its outcome here, so nothing is
# pickled or persisted, and a Prefect server that dies takes nothing with it. What Prefect holds is telemetry; the
# store's manifests are the truth. A task run costs 5 ms.


class PrefectOrchestrator(Orchestrator):
    """Prefect 3 against the API that ``prefect_server`` found or started."""

    def __init__(self, api: Api | None = None) -> None:
        super().__init__()
        self._api = api or Api()
        self._plain = PlainOrchestrator()
        self._plain.stopping, self._plain._stop_callbacks = self.stopping, self._stop_callbacks

    @property
    def recording(self) -> bool:
        return self._api.recording

    def report(self, error: Exception) -> None:
        self._api.report(error)

    def run(
        self,
        body: Callable[[], T],
        *,
        name: str,
        run_name: str,
        parameters: dict[str, str] | None = None,
        tags: Sequence[str] = (),
        nested: bool = False,
    ) -> T:
        from prefect import Flow
        from prefect import tags as flow_tags
        from prefect.context import FlowRunContext, TagsContext
        from prefect.exceptions import Abort

        inside = FlowRunContext.get() is not None and not nested  # a deployment's flow is already running this code
        if inside or not self.recording:
            return self._plain.run(body, name=name, run_name=run_name)
        outcome: _Outcome[T] = _Outcome()

        def flow(parameters: dict[str, str]) -> Any:
            # Prefect turns SIGTERM into an exception of its own that kills the process; ours ends it as Ctrl-C does.
            # Tasks do not inherit the run's tags: each tagged task asks the API about concurrency limits first.
            with interruptible(), TagsContext(current_tags=set()), suppress(Exception, KeyboardInterrupt):
                outcome.run(body)
            return self._final_state(outcome.error)

        engine = Flow(
            flow, name=name, flow_run_name=_template(run_name), validate_parameters=False, persist_result=False
        )
        with interruptible():
            try:
                with flow_tags(*map(visible, tags)):
                    engine({key: visible(value) for key, value in (parameters or {}).items()}, return_state=True)
            except Abort:
                if self.recording:  # not ours: somebody ended the run through the API
                    raise
            except Exception as error:  # noqa: BLE001 - the body's own is in the outcome: this one is Prefect's
                self.report(error)
            if not outcome.settled:
                outcome.run(body)
            return outcome.result()

    def _final_state(self, error: BaseException | None) -> Any:
        """The flow run's state: a returned one, unlike a raised error, is neither pickled to disk nor logged with a

        traceback. None where the run completed.
        """
        from prefect.exceptions import Abort
        from prefect.states import Cancelled, Failed

        if isinstance(error, KeyboardInterrupt):
            self.stop()
        if not self._api.still_there():
            raise Abort("the API is gone")  # ends the engine without another request
        if isinstance(error, KeyboardInterrupt):
            return Cancelled(message=f"interrupted ({type(error).__name__})")
        return None if error is None else Failed(message=visible(str(error), keep="\n"))

    def call(
        self,
        fn: Callable[..., T],
        *args: Any,
        name: str,
        retry: RetryPolicy = NEVER,
        tags: Sequence[str] = (),
        timeout: float | None = None,
    ) -> T:
        self.require_going()
        if not self.recording:
            return self._plain.call(fn, *args, name=name, retry=retry)
        outcome: _Outcome[T] = _Outcome()

        def attempt() -> None:
            outcome.run(lambda: fn(*args))

        def again(task: object, run: Any, state: object) -> bool:
            error = _deadline(outcome.error, name, timeout)
            if error is None or not may_retry(error) or self.stopping.is_set():
                return False
            log_retry(name, error, run.run_count, retry)
            return True

        try:
            _task(attempt, again, name, retry, tags, timeout)()
        except Exception as error:  # noqa: BLE001 - the stage's own is in the outcome: any other is Prefect's
            if error is not outcome.error:
                self.report(error)
        if not outcome.settled:
            return self._plain.call(fn, *args, name=name, retry=retry)
        if (late := _deadline(outcome.error, name, timeout)) is not None:
            raise late from None
        return outcome.result()


class _Outcome(Generic[T]):
    """What a function did the last time it ran: nothing yet, a value, or an error."""

    def __init__(self) -> None:
        self._values: list[T] = []
        self.error: BaseException | None = None

    @property
    def settled(self) -> bool:
        return bool(self._values) or self.error is not None

    def run(self, fn: Callable[[], T]) -> None:
        self.error = None
        try:
            self._values = [fn()]
        except BaseException as error:
            self.error = error
            raise

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        return self._values[0]


def _task(
    attempt: Callable[[], None],
    again: Callable[[object, Any, object], bool],
    name: str,
    retry: RetryPolicy,
    tags: Sequence[str],
    timeout: float | None,
) -> Callable[[], None]:
    """A Prefect task whose tries are ours to allow; it keeps no result and no cache."""
    from prefect import Task
    from prefect.cache_policies import NO_CACHE

    return Task(
        attempt,
        name=name.split(" ", maxsplit=1)[0],
        task_run_name=_template(name),
        tags=[*map(visible, tags)],
        retries=retry.tries - 1,
        retry_delay_seconds=cast("list[int | float]", retry.delays()) or 0,
        retry_jitter_factor=retry.jitter,
        retry_condition_fn=again,
        timeout_seconds=timeout if threading.current_thread() is threading.main_thread() else None,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


def _template(name: str) -> str:
    """A run's name as Prefect takes it, which formats it: braces of the data are no places to fill."""
    return visible(name).replace("{", "{{").replace("}", "}}")


def _deadline(error: BaseException | None, name: str, timeout: float | None) -> BaseException | None:
    """``error``, or ``DeadlineExceeded`` in place of the CancelledError that Prefect's alarm raises in the stage."""
    if timeout is not None and isinstance(error, CancelledError):
        return DeadlineExceeded(f"{name} took longer than {timeout:g} s", fix="raise run.stage_minutes")
    return error
