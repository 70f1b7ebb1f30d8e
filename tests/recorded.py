"""What Prefect's API has of our runs: flow runs by name, their task runs, the graph of these, their logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from chain import make_session

from augmill.flows.orchestration.api import Api
from augmill.flows.run import Session
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.store.store import Store

LATE = 30.0  # seconds: the server makes task runs of events, one or two later; more on a machine that is busy


@contextmanager
def asking() -> Iterator[Any]:
    """A client of the API that the fixture ``prefect_api`` has started."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


def recording_session(recipe: Recipe) -> Session:
    """Recorded by Prefect; workers' jobs run in this process, since a worker takes 3 s to start."""
    return replace(make_session(recipe, Store(recipe.run.store)), api=Api(recording=True))


def wait_until(holds: Callable[[], Any], seconds: float = LATE, what: Callable[[], Any] = lambda: "") -> Any:
    """What ``holds`` gives once it is true."""
    until = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < until, f"did not happen in time: {what()}"
        time.sleep(0.1)
    return found


def flow_runs(client: Any, name: str) -> list[Any]:
    """Those of that name, the oldest first."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    named = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
    found: list[Any] = client.read_flow_runs(flow_run_filter=named, sort=FlowRunSort.START_TIME_ASC)
    return found


def children_of(client: Any, parent: Any, count: int) -> list[Any]:
    """The flow runs within one, by their names; so many are waited for, since the link is recorded by an event, later."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId

    within = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent.id]))
    until = time.monotonic() + 60
    while len(found := client.read_flow_runs(flow_run_filter=within)) < count and time.monotonic() < until:
        time.sleep(0.2)
    return sorted(found, key=lambda run: run.name)


def task_runs(client: Any, flow_run: Any, last: str) -> dict[str, Any]:
    """By name, as soon as all are final, and one that is called ``last`` among them."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    def read() -> list[Any]:
        found: list[Any] = []
        of = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
        while more := client.read_task_runs(flow_run_filter=of, offset=len(found)):
            found += more
        return found

    def final() -> list[Any] | None:
        found = read()
        ended = all(task.state is not None and task.state.is_final() for task in found)
        return found if ended and last in [task.name for task in found] else None

    found = wait_until(final, what=lambda: [(task.name, task.state_name) for task in read()])
    named = {task.name: task for task in found}
    assert len(named) == len(found), sorted(task.name for task in found)
    return named


def graph(tasks: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Of each task by name: from which others each of its inputs came, sorted; inputs from no task are left out."""
    names = {task.id: name for name, task in tasks.items()}
    return {
        name: {
            given: sorted(names[part.id] for part in parts if part.input_type == "task_run")
            for given, parts in task.task_inputs.items()
            if parts
        }
        for name, task in tasks.items()
    }


def logs(client: Any, flow_run: Any) -> list[Any]:
    """The run's lines, those of its tasks among them, in their order."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import LogSort

    of = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run.id]))
    found: list[Any] = client.read_logs(of, sort=LogSort.TIMESTAMP_ASC, limit=200)
    return found
