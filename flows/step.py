"""A step: a Prefect task inside a flow run, the same function with the same retries elsewhere; and the bounded map."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from augmill.flows.signals import STOP_GRACE, Stop, time_limit
from augmill.tasks.boundary.retries import RetryPolicy, call_with_retries, may_retry
from augmill.tasks.contracts import Artifact, Tell, tell_nobody
from augmill.tasks.errors import AugmillError, DeadlineExceeded
from augmill.tasks.rows.shown import visible
from augmill.tasks.stages.generate import bank_of, generate
from augmill.tasks.stages.jobs import pack
from augmill.tasks.store.stage import Event, Site, Stage, look_up

if TYPE_CHECKING:
    from prefect import Task
    from prefect.client.schemas.objects import State, TaskRun

    from augmill.flows.progress import ShownStage
    from augmill.flows.run import Run

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")
_log = logging.getLogger("augmill")


class OutOfTime(DeadlineExceeded):
    """The run's own deadline came. Trying again is for another run."""

    retryable = False


@dataclass
class StepCall(Generic[T]):
    """One call of a step: what its function gets first, and what came of it."""

    run: Run
    name: str
    shown: ShownStage | None = None
    tell: Tell = tell_nobody  # hears how far it is
    value: list[T] = field(default_factory=list)
    error: BaseException | None = None
    gave: str = ""
    reused: bool = False

    def make(
        self,
        stage: Stage[Any],
        config: Any,
        *inputs: Artifact | list[Artifact],
        words: Callable[[Artifact], str] | None = None,
    ) -> Artifact:
        """The stage's artifact, made in this process. ``words``: what it gave, instead of its number of rows."""
        with self.watched() as (site, seen):
            artifact = stage(site, config, *inputs)
        self.say(words(artifact) if words else f"{artifact.rows:,} rows", reused=seen[-1].reused)
        return artifact

    @contextlib.contextmanager
    def watched(self) -> Iterator[tuple[Site, list[Event]]]:
        """(the run's site, what stages do on it inside the block); within ``run.stage_minutes``."""
        seen: list[Event] = []

        def observe(event: Event) -> None:
            seen.append(event)
            self.run.events.append(event)

        with time_limit(self.run.stage_seconds, self.name):
            yield replace(self.run.site, observe=observe, tell=self.tell), seen

    def make_in_worker(
        self,
        stage: Stage[Any],
        config: Any,
        *inputs: Artifact,
        seconds: float | None = None,
        tell: Tell | None = None,
    ) -> Artifact:
        """The stage's artifact, from the store where it stands, else made by a worker process, killed after ``seconds``."""
        run, site, started = self.run, self.run.site, time.monotonic()
        seconds = run.stage_seconds if seconds is None else seconds
        parts: tuple[Any, ...] = (inputs[0], list(inputs[1:])) if stage is generate else inputs
        known = look_up(site.store, stage.name, stage.identity(config, parts))
        if known is not None:
            run.events.append(Event(stage.name, known.key, known.rows, True, 0.0))
            self.say("", reused=True)
            return known
        if site.deadline is not None:
            seconds = min(seconds, site.deadline - started)
            if seconds <= 0:
                raise OutOfTime(
                    "the run's deadline passed before it was made", fix="give it more time, or ask for less"
                )
        if stage is generate:
            config = replace(config, raw=run.bank(bank_of(config.generator, inputs[0].content)).pieces(config.segments))
        job = pack(stage, config, list(inputs)) | {"dataset": site.dataset}
        artifact, events = run.session.pool.run(site.store.root, job, seconds=seconds, tell=tell or self.tell)
        for event in events:
            run.events.append(event)
        self.say(f"{artifact.rows:,} rows", reused=False)
        return artifact

    def say(self, gave: str, *, reused: bool) -> None:
        """What it gave, and whether that stood in the store: for the line of progress, and the task run's state."""
        self.gave, self.reused = gave, reused
        if self.shown is not None:
            self.shown.note = ", ".join(filter(None, (gave, "unchanged, from the store" if reused else "")))


class Step(Generic[P, T]):
    """``fn(call, *artifacts, **how)``, called as ``step(run, *artifacts, **how)``.

    What is given by position are artifacts, and makes the edges of Prefect's graph; what is given by name is kept out
    of it. ``what``, a template over the latter, tells calls of one run apart.
    """

    def __init__(
        self, fn: Callable[Concatenate[StepCall[T], P], T], retry: RetryPolicy, what: str, *, shown: bool
    ) -> None:
        self.fn, self.name, self.retry, self.what, self.shown = fn, fn.__name__, retry, what, shown
        self.__doc__ = fn.__doc__
        self._task: Task[..., Any] | None = None  # made when first needed: importing Prefect takes 1.3 s

    def with_tries(self, tries: int) -> Step[P, T]:
        return Step(self.fn, replace(self.retry, tries=tries), self.what, shown=self.shown)

    def __call__(self, run: Run, *args: P.args, **kwargs: P.kwargs) -> T:
        """Raises what the last try raised; KeyboardInterrupt after an interrupt."""
        run.stop.require_going()
        name = f"{run.place} {self.name} {self.what.format(**kwargs)}".strip()
        with contextlib.nullcontext() if not self.shown else run.progress.stage(name) as shown:
            call = StepCall[T](run, name, shown, shown.tell if shown is not None else tell_nobody)
            if run.session.api.recording and _in_flow():
                return self._as_task(call, args, kwargs)
            return self._plainly(call, args, kwargs)

    def _plainly(self, call: StepCall[T], args: Any, kwargs: Any) -> T:
        stop = call.run.stop

        def pause(seconds: float) -> None:
            if stop.wait(seconds):
                raise KeyboardInterrupt

        told = functools.partial(_tell_retry, call.name, self.retry.tries)
        return call_with_retries(lambda: self.fn(call, *args, **kwargs), self.retry, on_retry=told, sleep=pause)

    def _as_task(self, call: StepCall[T], args: Any, kwargs: Any) -> T:
        """What the function gave is kept in the call: a server that dies takes nothing with it."""
        from prefect.utilities.annotations import quote

        quoted = {name: quote(value) for name, value in kwargs.items()}
        state: State[Any] | None = None
        try:
            state = self._prefect_task()(quote(call), *args, **quoted, return_state=True)
        except Exception as error:  # noqa: BLE001 - the step's own is in its call: this one is Prefect's
            call.run.session.api.report(error)
        if call.error is not None:
            raise call.error
        if state is not None and state.is_cancelled():
            raise KeyboardInterrupt
        if not call.value:
            return self._plainly(call, args, kwargs)
        return call.value[0]

    def _prefect_task(self) -> Task[..., Any]:
        if self._task is None:
            from prefect import Task
            from prefect.cache_policies import NO_CACHE

            self._task = Task(
                _guarded(self.fn),
                name=self.name,
                task_run_name=cast("Any", _run_name),
                retries=self.retry.tries - 1,
                retry_delay_seconds=cast("list[int | float]", self.retry.delays()) or 0,
                retry_jitter_factor=self.retry.jitter,
                retry_condition_fn=_again,
                cache_policy=NO_CACHE,
                persist_result=False,
            )
        return self._task


def step(
    retry: RetryPolicy, what: str = "", *, shown: bool = True
) -> Callable[[Callable[Concatenate[StepCall[Any], P], T]], Step[P, T]]:
    """Makes a step of a function. ``shown``: with a line of progress of its own."""
    return lambda fn: Step(fn, retry, what, shown=shown)


def _in_flow() -> bool:
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def _guarded(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function as Prefect runs it: an interrupt, and what it broke in another thread, is a state of its own."""

    @functools.wraps(fn)
    def attempt(call: StepCall[Any], *args: Any, **kwargs: Any) -> Any:
        from prefect.exceptions import TerminationSignal
        from prefect.states import Cancelled, Completed

        stop, call.error = call.run.stop, None
        try:
            stop.require_going()
            value = fn(call, *args, **kwargs)
        except (KeyboardInterrupt, TerminationSignal) as error:
            call.error = error  # raised again outside: who sent it, and how, tells how the run is to end
            stop.now()
            return Cancelled(message=f"interrupted ({type(error).__name__})")
        except Exception as error:
            if stop.is_set():
                return Cancelled(message="its worker was stopped")
            call.error = error
            raise
        call.value = [value]
        return Completed(
            name="Unchanged" if call.reused else "Completed", message=visible(call.gave) or None, data=value
        )

    return attempt


def _run_name(parameters: dict[str, Any]) -> str:
    return visible(parameters["call"].name)


def _again(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether Prefect is to try again."""
    error = state.data
    if not isinstance(error, Exception) or not may_retry(error):
        return False
    if task_run.run_count <= task.retries:
        _tell_retry(task_run.name, task.retries + 1, error, task_run.run_count, 0.0)
    return True


def _tell_retry(name: str, tries: int, error: BaseException, tried: int, delay: float) -> None:
    _log.warning("%s: %s\n  Try %d of %d follows.", name, str(error).splitlines()[0], tried + 1, tries)


# --- many at once -----------------------------------------------------------------------------------------------------


def map_bounded(
    work: Callable[[Item], T],
    items: Sequence[Item],
    stop: Stop,
    *,
    limit: int,
    on_done: Callable[[int, T], None] = lambda at, value: None,
    give_up: Callable[[Item, AugmillError], T] | None = None,
) -> list[T]:
    """``work`` of each item, at most ``limit`` at once; the results in the items' order.

    Each runs in a thread that waits for a worker process. ``on_done(which, value)`` is called on this thread as they finish.
    ``give_up(item, error)``, in the item's thread, answers for an item whose tries are used up; an error that no
    retry could cure (a defect, a mistake, a full disk) is raised instead. The first failure lets running items finish,
    starts no others, and is raised.
    """

    def one(item: Item) -> T:
        try:
            return work(item)
        except AugmillError as error:
            if give_up is None or stop.is_set() or not may_retry(error):
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
        stop.now()
        pool.shutdown(wait=False, cancel_futures=True)
        wait([future for future in futures if not future.cancelled()], timeout=STOP_GRACE)
        raise
    finally:
        pool.shutdown(wait=False)


def _collect(futures: list[Future[T]], on_done: Callable[[int, T], None]) -> None:
    """Waits for all, or for the first failure, which it raises. Linear in the futures: each reports itself once."""
    finished: queue.SimpleQueue[int] = queue.SimpleQueue()
    for at, future in enumerate(futures):
        future.add_done_callback(lambda _, at=at: finished.put(at))  # type: ignore[misc]
    for _ in futures:
        at = _next(finished)
        on_done(at, futures[at].result())


def _next(finished: queue.SimpleQueue[int]) -> int:
    while True:
        # A bounded wait: an unbounded one on the main thread would not see signals on every platform.
        with contextlib.suppress(queue.Empty):
            return finished.get(timeout=0.5)
