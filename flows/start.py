"""Starts runs: opens the store, the orchestrator and the workers once; makes snapshots; notes each attempt's start and end."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from augmill.flows.augment import augment
from augmill.flows.orchestration.logs import quiet_logging
from augmill.flows.orchestration.orchestrate import Orchestrator, held_back, open_orchestrator
from augmill.flows.outcome import Outcome
from augmill.flows.progress import Artifacts, Progress
from augmill.flows.provenance import code_version
from augmill.flows.report import write_report
from augmill.flows.snapshot import Snapshot, read_json
from augmill.flows.source import MENDS, require_over
from augmill.flows.steps import Steps
from augmill.tasks.boundary.processes import own_temporary, sweep_temporary, this_process
from augmill.tasks.boundary.retries import PATIENCE
from augmill.tasks.errors import AugmillError, CorruptObject, exit_code_of
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import next_clock, parse_clock
from augmill.tasks.store.attempts import Attempt, Clock, beating, begin, finish, utc_now
from augmill.tasks.store.stage import Event, Site
from augmill.tasks.store.store import Store, release_key
from augmill.tasks.workers import WorkerPool, find_devices, worker_pool

_log = logging.getLogger("augmill")


@dataclass(frozen=True)
class Session:
    """What the snapshots of one run share. ``run_snapshot`` may be called from several threads at once."""

    recipe: Recipe
    store: Store
    orchestrator: Orchestrator
    pool: WorkerPool
    device: str
    deadline: float | None  # seconds of time.monotonic(), at which generation ends: run.deadline
    command: str


@contextmanager
def open_session(
    recipe: Recipe, *, command: str, orchestrator: str | None = None, verbose: bool, by_morning: bool = True
) -> Iterator[Session]:
    """Raises AugmillError where the store cannot be opened. ``by_morning``: whether ``run.deadline`` counts."""
    PATIENCE.renew(recipe.run.store_patience)
    store = Store(recipe.run.store)
    deadline = deadline_of(recipe) if by_morning else None
    devices = find_devices(recipe.run.devices, recipe.run.workers)
    kind = orchestrator or recipe.run.orchestrator
    sweep_temporary()
    with (
        own_temporary(),
        quiet_logging(verbose),
        open_orchestrator(kind) as runner,
        worker_pool(devices, recipe.run.threads) as pool,
    ):
        runner.on_stop(lambda: pool.close(kill=True))
        try:
            yield Session(recipe, store, runner, pool, devices[0], deadline, command)
        finally:
            PATIENCE.renew()  # what this process asks a store next was not interrupted


def deadline_of(recipe: Recipe) -> float | None:
    """When generation ends, in seconds of time.monotonic(): at the next run.deadline.

    A run that starts after this morning's has until the next one: it is too late for this morning whatever it does.
    """
    if recipe.run.deadline is None:
        return None
    now = datetime.now(UTC)
    left = next_clock(parse_clock(recipe.run.deadline), now, recipe.schedule.timezone) - now
    return time.monotonic() + left.total_seconds()


def run_recipe(
    recipe: Recipe,
    *,
    as_of: str | None = None,
    command: str = "augmill run",
    orchestrator: str | None = None,
    republish: bool = False,
    verbose: bool = False,
    now: Clock = utc_now,
) -> dict[str, Any]:
    """The whole main job; returns what the last line of stdout says. Raises AugmillError."""
    require_over(recipe, as_of, "--as-of", now=now())
    with open_session(recipe, command=command, orchestrator=orchestrator, verbose=verbose) as session:
        return session.orchestrator.run(
            lambda: run_snapshot(session, as_of, republish=republish),
            name="augment",
            run_name=f"{recipe.dataset}@{as_of or 'all'}",
            parameters={"dataset": recipe.dataset, "snapshot": as_of or "all", "recipe": recipe.hash()},
            tags=["augmill", recipe.dataset],
        )


def run_snapshot(
    session: Session,
    as_of: str | None,
    *,
    republish: bool = False,
    staged: bool = False,
    about: dict[str, Any] | None = None,
    live: bool | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """One snapshot as one attempt: what the last line of stdout says. Raises AugmillError, noted in the attempt's end.

    ``staged``: the release is put, and ``result["pending"]`` holds the log entry that would make it current.
    ``about``: further keys of the attempt's start (which backfill it belongs to). ``live``, ``quiet``: see ``Progress``.
    """
    recipe, store, started = session.recipe, session.store, time.monotonic()
    events: list[Event] = []
    head = {"command": session.command, "recipe": recipe.hash(), "code": code_version(recipe), "owner": this_process()}
    attempt: Attempt | None = None
    result: dict[str, Any] = {}
    found: dict[str, Any] = {}
    try:
        with held_back():  # an interrupt between the claim and here would leave an attempt that nobody ends
            attempt = begin(store, recipe.dataset, as_of or "all", head | (about or {}))
        with beating(store, recipe.dataset, attempt), Progress(live=live, quiet=quiet) as progress:
            steps = _steps(session, as_of, progress, events, started)
            how = {"command": session.command, "republish": republish, "staged": staged}
            outcome, snapshot = _mending(recipe, steps, as_of=as_of, backfill=(about or {}).get("backfill"), **how)
            found = {"source": snapshot.source, "source_versions": snapshot.source_versions, "drift": snapshot.drift}
            result = outcome.to_json(recipe, snapshot.name, None)  # from here on it stands, whatever interrupts
            if warnings := _warnings(session.store, snapshot):
                result["warnings"] = warnings
            if result["arrangement"]:
                result["location"] = f"{store.root}/{release_key(recipe.dataset, str(outcome.release))}"
            result["report"] = _report(recipe, steps, snapshot, outcome)
        _end(session, attempt, result | found, events, started)
    except BaseException as error:
        if attempt is not None:
            said = result | found if result else _failure(error, session.orchestrator.stopping.is_set())
            _end(session, attempt, said, events, started)
        raise
    return result


def _warnings(store: Store, snapshot: Snapshot) -> list[str]:
    """What is likely wrong with the source's labels; of a store of an older version nobody can say."""
    summary = read_json(store, snapshot.ingested, "summary.json") if snapshot.ingested else {}
    return list(summary.get("warnings", ()))


def _steps(session: Session, as_of: str | None, progress: Progress, events: list[Event], started: float) -> Steps:
    recipe = session.recipe
    ends = [session.deadline] if session.deadline is not None else []
    ends += [started + 60 * recipe.run.deadline_minutes] if recipe.run.deadline_minutes is not None else []
    site = Site(
        session.store, session.device, recipe.run.threads, min(ends, default=None), events.append, recipe.dataset
    )
    label, seconds = f"{recipe.dataset}@{as_of or 'all'}", 60 * recipe.run.stage_minutes
    artifacts = Artifacts(session.orchestrator)
    return Steps(session.orchestrator, site, session.pool, progress, artifacts, label, seconds, events)


def _failure(error: BaseException, stopping: bool) -> dict[str, Any]:
    """What a stage raises because its workers were killed for an interrupt is part of the interrupt."""
    interrupted = stopping or isinstance(error, KeyboardInterrupt)
    if isinstance(error, AugmillError) and not interrupted:
        kind = type(error).__name__
        said = {"outcome": "error", "kind": kind, "reason": error.problem, "where": error.where, "next": error.fix}
        return said | {"exit_code": error.exit_code}
    return {
        "outcome": "interrupted" if interrupted else "error",
        "kind": type(error).__name__,
        "reason": str(error)[:500],
        "where": "",
        "next": "run it again",
        **({} if interrupted else {"exit_code": exit_code_of(error)}),
    }


def _end(session: Session, attempt: Attempt, body: dict[str, Any], events: list[Event], started: float) -> None:
    """What the attempt did, for status, estimates and gc. Where the store takes no more, the attempt stays without an end."""
    worked = [event for event in events if not event.reused]
    gpu = (
        sum(event.seconds for event in worked if event.stage in ("fit", "sample")) if "cuda" in session.device else 0.0
    )
    spent: Counter[str] = Counter()
    for event in worked:
        spent.update(event.usage)
    done = {
        "seconds": round(time.monotonic() - started, 1),
        "gpu_seconds": round(gpu, 1),
        "worked": len(worked),
        "generated": sum(event.rows for event in worked if event.stage == "sample"),
        "tokens": spent["tokens"],
        "spent": dict(sorted(spent.items())),
        "artifacts": sorted({event.key for event in events}),
    }
    try:
        with held_back():
            finish(session.store, session.recipe.dataset, attempt, {**body, **done})
    except AugmillError as error:
        _log.warning("How this attempt ended could not be noted: %s", error)


def _report(recipe: Recipe, steps: Steps, snapshot: Snapshot, outcome: Outcome) -> str | None:
    """Where the report is; None, with a warning, where it could not be written: what was published stands all the same."""
    try:
        return write_report(recipe, steps, snapshot, outcome)
    except Exception as error:  # noqa: BLE001 - whatever it is, the outcome is decided and in the log
        _log.warning("The outcome stands, but its report could not be written: %s: %s", type(error).__name__, error)
        return None


def _mending(recipe: Recipe, steps: Steps, **how: Any) -> tuple[Outcome, Snapshot]:
    """The flow, run again where it met a corrupt object: it was moved aside, and its stage makes it anew."""
    found: Counter[str] = Counter()
    while True:
        try:
            return augment(recipe, steps, **how)
        except CorruptObject as error:
            found[error.where] += 1
            if found[error.where] == MENDS:
                raise
            steps.failures.append({"reason": "corrupt", "error": str(error)})
