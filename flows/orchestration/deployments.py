"""A recipe's Prefect deployments, nightly and on demand: for a work pool, or served by this process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from augmill.flows.nights.automations import TAG, ensure_automations
from augmill.flows.run import parameters_of
from augmill.flows.signals import interruptible
from augmill.tasks.errors import UserError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.names import nearest
from augmill.tasks.store.rules import require_root

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import WorkPool
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner

STOP_TIMEOUT = 60.0  # seconds; running nights have 30 to end after SIGTERM


@dataclass(frozen=True)
class Deployed:
    """What stands on the server now."""

    names: list[str]
    automations: list[str]


def recipe_deployments(
    recipe: Recipe, pool: str | None, job_variables: Mapping[str, Any] | None = None
) -> list[RunnerDeployment]:
    """``nightly/<dataset>`` and ``backfill/<dataset>``, one run of each at once; ``job_variables``: see ``deploy``.

    Parameters mean the same on every machine, and to a run that is made again from Prefect's pages: where the recipe
    stands, or its text, and its store, both absolute; and ``set``, where values were set. A worker runs in a directory of
    its own.

    A night that begins while the last one still runs waits for it, and then makes what is due by then; where
    ``catch_up`` is none it is dropped, as it would do nothing. Raises UserError for what can be no store.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

    from augmill.flows import deployed

    collision = (
        ConcurrencyLimitStrategy.CANCEL_NEW if recipe.schedule.catch_up == "none" else ConcurrencyLimitStrategy.ENQUEUE
    )
    drop = ConcurrencyLimitConfig(limit=1, collision_strategy=collision)
    night = _deployment(recipe, pool, job_variables, deployed.nightly, drop)
    night.schedules = _schedules(recipe)
    enqueue = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    return [night, _deployment(recipe, pool, job_variables, deployed.backfill, enqueue)]


def _deployment(
    recipe: Recipe, pool: str | None, job_variables: Mapping[str, Any] | None, flow: Any, limit: Any
) -> RunnerDeployment:
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    require_root(recipe.run.store)  # one with credentials would show them in the parameters
    # Any other version type, and none, asks git about whatever repository this is called in.
    simple: Any = "prefect:simple"  # the public signature names the enumeration, which is private, and takes its value
    deployment = RunnerDeployment.from_flow(
        flow,
        name=recipe.dataset,
        parameters=parameters_of(recipe),
        tags=[TAG, recipe.dataset],
        version=recipe.hash()[:16],
        version_type=simple,
        concurrency_limit=limit,
        entrypoint_type=EntrypointType.MODULE_PATH,
        job_variables=dict(job_variables or {}),
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


def deploy(recipe: Recipe, pool: str, job_variables: Mapping[str, Any] | None = None) -> Deployed:
    """Creates or updates deployments and automations; the same call again changes nothing.

    ``job_variables`` stand over the defaults of the pool's base job template, in the place of those given before.
    Raises UserError where there is no such pool, and for a variable that its jobs do not take.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            found = client.read_work_pool(pool)
        except ObjectNotFound as error:
            raise UserError(
                f"there is no work pool {pool!r}",
                where="--pool",
                fix=f"`prefect work-pool create {pool} --type process`, and a worker: `prefect worker start --pool {pool}`",
            ) from error
    if job_variables:
        require_job_variables(found, job_variables)
    made = recipe_deployments(recipe, pool, job_variables)
    nightly, *_ = [cast("UUID", deployment.apply()) for deployment in made]  # no coroutine: there is no event loop here
    return Deployed([deployment.full_name for deployment in made], ensure_automations(recipe, nightly))


def require_job_variables(pool: WorkPool, given: Mapping[str, Any]) -> None:
    """Raises UserError for a variable that the pool's base job template does not have, or has of another type.

    Prefect takes unknown ones and does nothing with them. No value is repeated: it may be a secret.
    """
    from prefect.utilities.schema_tools import validate

    schema = _job_template(pool).get("variables", {})
    known = sorted(schema.get("properties", {}))
    for name in given:
        if name not in known:
            problem = (
                f"the jobs of pool {pool.name!r} (type {pool.type}) have no variable {name!r}; {nearest(name, known)}"
            )
            where = "--image" if name == "image" else "--job-variable"
            raise UserError(problem, where=where, fix="use a variable of the pool's base job template")
    wrong = validate(dict(given), schema, ignore_required=True, allow_none_with_default=True)
    for error in wrong:
        name = ".".join(str(part) for part in error.absolute_path)
        kinds = [kind.get("type") for kind in (error.schema, *error.schema.get("anyOf", ()))]
        wanted = " or ".join(str(kind) for kind in kinds if kind) or "another value"
        raise UserError(f"expected {wanted}", where=f"--job-variable {name}", fix="give its value as JSON")


def _job_template(pool: WorkPool) -> dict[str, Any]:
    """What the pool's jobs are made from. A pool has none until its first worker starts; of a process pool it is known.

    Raises UserError.
    """
    from prefect.workers.process import ProcessWorker

    if not pool.base_job_template and pool.type == ProcessWorker.type:
        return ProcessWorker.get_default_base_job_template()
    if not pool.base_job_template:
        problem = f"the pool {pool.name!r} does not say yet which variables its jobs take"
        fix = f"start a worker first: `prefect worker start --pool {pool.name}`"
        raise UserError(problem, where="--job-variable", fix=fix)
    return pool.base_job_template


def serve(recipe: Recipe, ready: Callable[[Deployed], None]) -> None:
    """Runs what is due in processes of its own, one at a time of each kind, until SIGTERM or Ctrl-C.

    What runs then has 30 s to end; what it had finished is kept. Schedules stay: nights that were missed begin, late,
    when serving begins again, and do what ``catch_up`` says.
    """
    from prefect.runner import Runner

    runner = Runner(name=f"augmill-{recipe.dataset}", pause_on_shutdown=False)
    made = recipe_deployments(recipe, None)
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
