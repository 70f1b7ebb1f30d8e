"""How a flow begins and ends: as a Prefect run whose final state says what came of it, or as the plain function."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, ParamSpec

from augmill.flows import run as running
from augmill.flows.signals import interruptible
from augmill.tasks.errors import AugmillError
from augmill.tasks.rows.shown import visible

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import State

P = ParamSpec("P")
_log = logging.getLogger("augmill")
Result = dict[str, Any]  # what the last line of stdout says

DEPLOYED = "augmill.flows.deployed"  # stays when modules move: servers keep the name as long as a deployment stands
LISTED = 3  # snapshots that failed are named up to so many
BEGINNINGS = 3  # times that Prefect is asked to begin a run: an API under load misses one request in some thousand


class OwnFlow(Generic[P]):
    """A flow of ours: a run of Prefect's where one is recorded, and its body alone elsewhere.

    Called, it is a run of Prefect's. ``run_name``: what Prefect knows as ``flow_run_name``.
    """

    def __init__(self, body: Callable[P, Result], run_name: str | Callable[[], str], name: str | None = None) -> None:
        functools.update_wrapper(self, body)
        self.body, self._run_name, self._name = body, run_name, name
        self._flow: Flow[P, State[Any]] | None = None  # made when first needed, as the task of a step is

    def in_prefect(self) -> Flow[P, State[Any]]:
        """As Prefect's own flow. Imports Prefect (1.3 s)."""
        if self._flow is None:
            from prefect import flow

            made = flow(name=self._name, flow_run_name=self._run_name, persist_result=False)
            self._flow = made(ending(self.body))
            # What a deployment of it names as its entrypoint: there stands Prefect's flow, where the body's module has ours.
            self._flow.__module__ = DEPLOYED
        return self._flow

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        return self.in_prefect()(*args, **kwargs)


def own_flow(run_name: str | Callable[[], str]) -> Callable[[Callable[P, Result]], OwnFlow[P]]:
    """Makes a flow of ours of a function."""
    return lambda body: OwnFlow(body, run_name)


@dataclass
class _Caller:
    """The command of ours that calls a flow: what the body ended with, whatever becomes of Prefect."""

    session: running.Session
    results: list[Result] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def told(self) -> bool:
        return bool(self.results) or self.error is not None

    def result(self) -> Result:
        if self.error is not None:
            raise self.error
        return self.results[-1]


_CALLER: ContextVar[_Caller | None] = ContextVar("augmill_caller", default=None)


def ending(body: Callable[P, Result]) -> Callable[P, State[Any]]:
    """The body of a flow: its outcome, or its error, as the final state of the run.

    A returned state, unlike a raised error, is not pickled to the worker's disk. A defect is raised, with its traceback.
    """

    @functools.wraps(body)
    def end(*args: P.args, **kwargs: P.kwargs) -> State[Any]:
        # Where a flow is sent to another process, this goes along by value and ``end_with_state`` by its name: the
        # ContextVar that it refers to cannot be sent.
        return end_with_state(body, *args, **kwargs)

    # Prefect looks up what annotations name where ``end`` stands, which knows none of the body's own types.
    end.__signature__ = inspect.signature(body, eval_str=True)  # type: ignore[attr-defined]
    return end


def end_with_state(body: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> State[Any]:
    """What ``ending`` makes of a call of the body. Raises a defect, and Abort where the API is gone."""
    from prefect.context import TagsContext
    from prefect.exceptions import Abort

    caller = _CALLER.get()
    token = _CALLER.set(None)  # a sub-flow has a caller of its own
    try:
        # Tasks do not inherit the run's tags: each tagged task asks the API about concurrency limits first.
        # Prefect turns SIGTERM into an exception that kills the process; in a command of ours it ends as Ctrl-C does.
        stop, hosted = (None, True) if caller is None else (caller.session.stop, caller.session.hosted)
        with TagsContext(current_tags=set()), interruptible(stop, hosted=hosted):
            result = body(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - the caller raises it again
        if caller is not None:
            caller.error = error
        state = _failed(error, caller)
    else:
        if caller is not None:
            caller.results.append(result)
        state = _ended(result)
    finally:
        _CALLER.reset(token)
    if caller is not None and not caller.session.api.still_there():
        raise Abort("the API is gone")  # ends the engine without further requests to it
    return state


def _failed(error: BaseException, caller: _Caller | None) -> State[Any]:
    from prefect.exceptions import TerminationSignal
    from prefect.states import Cancelled, Failed

    if isinstance(error, interrupts()):
        if caller is not None:
            caller.session.stop.now()
        elif isinstance(error, TerminationSignal):
            raise error  # Prefect knows who sent it, and why
        return Cancelled(message=f"interrupted ({type(error).__name__})")
    if isinstance(error, AugmillError):
        return Failed(message=visible(str(error), keep="\n"))
    raise error


def _ended(result: Result) -> State[Any]:
    """The outcome as the state's name, what was proven or done as its message."""
    from prefect.states import Completed, Failed

    name = "Nothing to make" if result.get("nothing_to_make") else result["outcome"].replace("_", " ").capitalize()
    if failed := result.get("failed"):
        told = [f"{snapshot} failed: {reason}" for snapshot, reason in list(failed.items())[:LISTED]]
        more = [f"{len(failed) - LISTED} more failed"] if len(failed) > LISTED else []
        return Failed(name=name, message=visible("; ".join([*told, *more, result["next"]])))
    message = visible("\n".join(filter(None, (result.get("headline"), result["reason"]))), keep="\n")
    if result.get("action") == "fail":
        return Failed(name=name, message=message)
    return Completed(name=name, message=message, data=result)


def call_flow(session: running.Session, flow: OwnFlow[P], *args: P.args, **kwargs: P.kwargs) -> Result:
    """What the flow's body ends with: as a Prefect run where its API records, and alone where there is none.

    A flow that is called inside another is a run of its own within it; it may be called from several threads, each
    with a copy of the outer run's context. Raises what the body raises.
    """
    caller, said = _Caller(session), ""
    for _ in range(BEGINNINGS):
        if not session.api.still_there():
            break
        said = _begin(caller, flow.in_prefect(), *args, **kwargs)
        if caller.told:
            return caller.result()
    if session.api.recording:
        lost = "It runs without Prefect, which will have no record of it."
        _log.warning("Prefect did not run the flow %s: %s. %s", flow.in_prefect().name, said, lost)
    return _plainly(session, flow.body, *args, **kwargs)


def _begin(caller: _Caller, flow: Flow[P, State[Any]], *args: P.args, **kwargs: P.kwargs) -> str:
    """Calls the flow; the caller is told by the body, if it was run at all. Prefect's words of how it ended."""
    from prefect import tags
    from prefect.exceptions import Abort

    session, said = caller.session, ""
    token = _CALLER.set(caller)
    try:
        with tags("augmill", visible(session.recipe.dataset)):
            said = visible(str(flow(*args, return_state=True, **kwargs).message))
    except Abort:
        if session.api.recording:  # not ours: somebody ended the run through the API
            raise
    except Exception as error:  # noqa: BLE001 - the body's own is kept by the caller: this one is Prefect's
        if error is not caller.error:
            said = f"{type(error).__name__}: {visible(str(error))}"
            session.api.report(error)
    finally:
        _CALLER.reset(token)
    return said


def _plainly(session: running.Session, body: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
    with interruptible(session.stop, hosted=session.hosted):
        try:
            return body(*args, **kwargs)
        except interrupts():
            session.stop.now()
            raise


def interrupts() -> tuple[type[BaseException], ...]:
    """What ends a run from outside; Prefect's own only where somebody has imported Prefect, who alone can raise it."""
    prefects = sys.modules.get("prefect.exceptions")
    return (KeyboardInterrupt,) if prefects is None else (KeyboardInterrupt, prefects.TerminationSignal)
