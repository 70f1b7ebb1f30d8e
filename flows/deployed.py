"""The flows that Prefect deployments run, by module entrypoint (`augmill deploy`, `augmill serve`)."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Failed

from augmill.flows.nights import flows as runs
from augmill.flows.nights.paging import watched
from augmill.flows.orchestration.orchestrate import Terminated, interruptible
from augmill.flows.start import run_recipe
from augmill.tasks.errors import AugmillError
from augmill.tasks.recipe.origin import name_of
from augmill.tasks.recipe.recipe import load_recipe
from augmill.tasks.rows.kinds.text import visible

Ended = dict[str, Any] | State[Any]


def _run_name() -> str:
    return visible(Path(name_of(str(flow_run.parameters["recipe"]))).stem)


@flow(name="augment", flow_run_name=_run_name, persist_result=False)
def augment(recipe: str, store: str | None = None, as_of: str | None = None) -> Ended:
    """One snapshot, source to release. ``recipe``: a YAML file on the worker's machine, an address, or the text itself.

    Returns what the last line of ``augmill run`` says. An AugmillError makes the flow run Failed, with its message: a
    returned state, unlike a raised error, is not pickled to the worker's disk.
    """

    def work() -> Ended:
        loaded = load_recipe(recipe, store=store)
        result = run_recipe(loaded, as_of=as_of, command=f"deployment {name_of(recipe)}")
        return Failed(message=visible(result["reason"], keep="\n")) if result["action"] == "fail" else result

    return _ending(work)


@flow(name="nightly", flow_run_name=_run_name, persist_result=False)
def nightly(recipe: str, store: str | None = None) -> Ended:
    """What is due in the look-back window; then pages and notes, where the recipe names a webhook.

    After an outage the server starts every run that it missed, late: each knows when it should have begun.
    """

    def work() -> Ended:
        since = datetime.now(UTC)
        loaded = load_recipe(recipe, store=store)
        with watched(loaded, since):
            result = runs.nightly(loaded, scheduled=flow_run.scheduled_start_time, command="deployment nightly")
        return _told(result)

    return _ending(work)


@flow(name="backfill", flow_run_name=_run_name, persist_result=False)
def backfill(
    recipe: str,
    store: str | None = None,
    first: str | None = None,
    last: str | None = None,
    reprocess: Literal["missing", "failed", "changed-data", "changed-recipe", "all"] = "missing",
    max_active: int = 1,
    order: Literal["oldest", "newest"] = "oldest",
    publish: Literal["each", "together"] | None = None,
    max_failures: int | None = None,
    max_cost: float | None = None,
    max_hours: float | None = None,
) -> Ended:
    """``augmill backfill`` with the same options: from ``first`` up to and with ``last``."""

    def work() -> Ended:
        request = runs.BackfillRequest(
            first=first,
            last=last,
            reprocess=reprocess,
            max_active=max_active,
            order=order,
            publish=publish,
            max_failures=max_failures,
            max_cost=max_cost,
            max_hours=max_hours,
        )
        loaded = load_recipe(recipe, store=store)
        return _told(runs.backfill(loaded, request, command="deployment backfill"))

    return _ending(work)


@flow(name="augmill-doctor", persist_result=False)
def probe() -> None:
    """What ``augmill doctor`` schedules: that it runs is all it proves."""


def _told(result: dict[str, Any]) -> Ended:
    """The flow run's end: Failed where snapshots failed, so that Prefect's own views show it."""
    if failed := result.get("failed"):
        told = [f"{snapshot} failed: {reason}" for snapshot, reason in list(failed.items())[:3]]
        more = [f"{len(failed) - 3} more failed"] if len(failed) > 3 else []
        return Failed(message=visible("; ".join([*told, *more, result["next"]])))
    return result


def _ending(work: Callable[[], Ended]) -> Ended:
    """Stops as a run on the command line does, then hands Prefect its own signal: it knows who sent it, and why."""
    try:
        with interruptible():
            return work()
    except Terminated:
        raise TerminationSignal(signal=signal.SIGTERM) from None
    except AugmillError as error:
        return Failed(message=visible(str(error), keep="\n"))
