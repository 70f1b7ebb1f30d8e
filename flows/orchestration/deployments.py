"""A recipe's Prefect deployments, nightly and on demand: for a work pool, or served by this process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from augmill.flows.nights.automations import TAG, ensure_automations
from augmill.flows.orchestration.orchestrate import interruptible
from augmill.tasks.errors import UserError
from augmill.tasks.recipe.recipe import Recipe

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner

STOP_TIMEOUT = 60.0  # seconds; running nights have 30 to end after SIGTERM


@dataclass(frozen=True)
class Deployed:
    """What stands on the server now."""

    names: list[str]
    automations: list[str]


def recipe_deployments(recipe: Recipe, path: Path, pool: str | None) -> list[RunnerDeployment]:
    """``nightly/<dataset>`` and ``backfill/<dataset>``, one run of each at once; parameters are two addresses.

    ``path`` and the store are made absolute: a worker runs in a directory of its own.

    A night that begins while the last one still runs waits for it, and then makes what is due by then; where
    ``catch_up`` is none it is dropped, as it would do nothing.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

    from augmill.flows import deployed

    collision = (
        ConcurrencyLimitStrategy.CANCEL_NEW if recipe.schedule.catch_up == "none" else ConcurrencyLimitStrategy.ENQUEUE
    )
    night = _deployment(
        recipe, path, pool, deployed.nightly, ConcurrencyLimitConfig(limit=1, collision_strategy=collision)
    )
    night.schedules = _schedules(recipe)
    enqueue = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    return [night, _deployment(recipe, path, pool, deployed.backfill, enqueue)]


def _deployment(recipe: Recipe, path: Path, pool: str | None, flow: Any, limit: Any) -> RunnerDeployment:
    from prefect._internal.versioning import VersionType
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    store = recipe.run.store
    if "://" not in store:
        store = str(Path(store).expanduser().absolute())
    deployment = RunnerDeployment.from_flow(
        flow,
        name=recipe.dataset,
        parameters={"recipe": str(path.absolute()), "store": store},
        tags=[TAG, recipe.dataset],
        version=recipe.hash()[:16],
        version_type=VersionType.SIMPLE,  # else it asks git about whatever repository this is called in
        concurrency_limit=limit,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.work_pool_name = pool  # None, said aloud: takes one that was served from a pool out of it
    return deployment


def _schedules(recipe: Recipe) -> list[Any]:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    # day_or: as cron itself reads a day of month beside a day of week
    cron = CronSchedule(cron=recipe.schedule.cron, timezone=recipe.schedule.timezone, day_or=True)
    return [DeploymentScheduleCreate(schedule=cron, active=True)]


@contextmanager
def standing_api(*, own: bool) -> Iterator[str]:
    """The configured API, which must answer; without one, where ``own``, a server that stands as long as the body runs.

    Raises UserError where there would be none, ServerUnavailable where it does not answer.
    """
    from prefect.settings import PREFECT_API_URL

    from augmill.flows.orchestration.server import prefect_server

    url = PREFECT_API_URL.value()
    if not url and not own:
        raise UserError(
            "no Prefect server is configured, and a deployment needs one that stays",
            where="PREFECT_API_URL",
            fix="`prefect server start`, then set PREFECT_API_URL to its address with /api; or use `augmill serve`",
        )
    with prefect_server(standing=True) as address:
        yield address


def deploy(recipe: Recipe, path: Path, pool: str) -> Deployed:
    """Creates or updates deployments and automations; the same call again changes nothing. Raises UserError."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound as error:
            raise UserError(
                f"there is no work pool {pool!r}",
                where="--pool",
                fix=f"`prefect work-pool create {pool} --type process`, and a worker: `prefect worker start --pool {pool}`",
            ) from error
    made = recipe_deployments(recipe, path, pool)
    nightly, *_ = [cast("UUID", deployment.apply()) for deployment in made]  # no coroutine: there is no event loop here
    return Deployed([deployment.full_name for deployment in made], ensure_automations(recipe, nightly))


def serve(recipe: Recipe, path: Path, ready: Callable[[Deployed], None]) -> None:
    """Runs what is due in processes of its own, one at a time of each kind, until SIGTERM or Ctrl-C.

    What runs then has 30 s to end; what it had finished is kept. Schedules stay: nights that were missed begin, late,
    when serving begins again, and do what ``catch_up`` says.
    """
    from prefect.runner import Runner

    runner = Runner(name=f"augmill-{recipe.dataset}", pause_on_shutdown=False)
    made = recipe_deployments(recipe, path, None)
    nightly, *_ = [cast("UUID", runner.add_deployment(deployment)) for deployment in made]
    deployed = Deployed([deployment.full_name for deployment in made], ensure_automations(recipe, nightly))
    with running(runner):
        ready(deployed)
        with interruptible():
            threading.Event().wait()


@contextmanager
def running(runner: Runner) -> Iterator[None]:
    """The runner polls and executes while the body runs; on leaving it cancels what runs, and is waited for.

    In a thread of its own, because on the main thread it would take SIGTERM for itself and end the process from inside
    the handler.
    """
    from contextvars import copy_context

    loop = asyncio.new_event_loop()
    problem: list[BaseException] = []

    def work() -> None:
        try:
            loop.run_until_complete(runner.start())
        except BaseException as error:  # noqa: BLE001 - raised again below, on the main thread
            problem.append(error)

    thread = threading.Thread(target=copy_context().run, args=(work,), daemon=True, name="augmill-runner")
    thread.start()
    try:
        yield
    finally:
        _stop(runner, loop, thread)
        if not thread.is_alive():
            loop.close()
    if problem:
        raise problem[0]


def _stop(runner: Runner, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Asks until it has heard: a runner that is still starting cannot be stopped."""
    until = time.monotonic() + STOP_TIMEOUT
    asked: Future[None] | None = None
    while thread.is_alive() and time.monotonic() < until:
        if runner.started and (asked is None or (asked.done() and asked.exception() is not None)):
            asked = asyncio.run_coroutine_threadsafe(runner.astop(), loop)
        thread.join(timeout=0.2)
