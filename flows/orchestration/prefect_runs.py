"""Stages as Prefect runs.

Results and arguments never pass through Prefect: a task is a closure that keeps its outcome here, so nothing is
pickled or persisted, and a Prefect server that dies takes nothing with it. What Prefect holds is telemetry; the
store's manifests are the truth. A task run costs 5 ms.
"""

from __future__ import annotations

import logging
import threading
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast

from augmill.flows.orchestration.logs import api_answers, drop_client_records
from augmill.flows.orchestration.orchestrate import Orchestrator, PlainOrchestrator, interruptible, log_retry
from augmill.tasks.boundary.retries import NEVER, RetryPolicy, may_retry
from augmill.tasks.contracts import DeadlineExceeded
from augmill.tasks.rows.kinds.text import visible

T = TypeVar("T")
_log = logging.getLogger("augmill")


class PrefectOrchestrator(Orchestrator):
    """Prefect 3 against the API that ``prefect_server`` found or started."""

    def __init__(self) -> None:
        super().__init__()
        self._lost = threading.Event()
        self._plain = PlainOrchestrator()
        self._plain.stopping, self._plain._stop_callbacks = self.stopping, self._stop_callbacks

    @property
    def recording(self) -> bool:
        return not self._lost.is_set()

    def report(self, error: Exception) -> None:
        """Takes note of an error of Prefect's own. If the API is gone, the run goes on without it and says so once."""
        _log.debug("Prefect: %s: %s", type(error).__name__, error)
        if self.recording and not api_answers():
            self._lost.set()
            _log.warning("Prefect's API does not answer (%s); this run goes on without it.", type(error).__name__)
            drop_client_records()

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
        if not self.recording:
            raise Abort("the API is gone")  # ends the engine without another 4 s of requests to it
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
