"""Starts a run: opens the store, the orchestrator and the workers, runs the flow, writes the report and the run's record."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from augmill.flows.augment import Snapshot, augment
from augmill.flows.evidence import write_report
from augmill.flows.orchestrate import open_orchestrator
from augmill.flows.outcome import Outcome
from augmill.flows.progress import Artifacts, Progress
from augmill.flows.steps import Steps
from augmill.flows.telemetry import quiet_logging
from augmill.tasks.contracts import CorruptObject
from augmill.tasks.hashing import seal
from augmill.tasks.recipe import Recipe
from augmill.tasks.stage import Event, Site
from augmill.tasks.store import Store, release_key
from augmill.tasks.workers import find_devices, worker_pool

_log = logging.getLogger("augmill")
MENDS = 3  # a corrupt object is made again by running again; one that is corrupt thrice is a broken disk


def run_recipe(
    recipe: Recipe,
    *,
    as_of: str | None = None,
    command: str = "augmill run",
    orchestrator: str | None = None,
    republish: bool = False,
    verbose: bool = False,
) -> dict[str, Any]:
    """The whole main job; returns what the last line of stdout says. Raises AugmillError."""
    store = Store(recipe.run.store)
    kind = orchestrator or recipe.run.orchestrator
    started = time.monotonic()
    deadline = None if recipe.run.deadline_minutes is None else started + 60 * recipe.run.deadline_minutes
    devices = find_devices(recipe.run.devices, recipe.run.workers)
    events: list[Event] = []
    site = Site(store, devices[0], recipe.run.threads, deadline, events.append)
    label = f"{recipe.dataset}@{as_of or 'all'}"
    with quiet_logging(verbose), open_orchestrator(kind) as runner, worker_pool(devices, recipe.run.threads) as pool:
        runner.on_stop(lambda: pool.close(kill=True))

        def body() -> dict[str, Any]:
            with Progress() as progress:
                steps = Steps(
                    runner, site, pool, progress, Artifacts(runner), label, 60 * recipe.run.stage_minutes, events
                )
                outcome, snapshot = _mending(recipe, steps, as_of, command, republish)
                report = _report(recipe, steps, snapshot, outcome)
            result = outcome.to_json(recipe, snapshot.name, report)
            if result["arrangement"]:
                result["location"] = f"{store.root}/{release_key(recipe.dataset, str(outcome.release))}"
            _record(store, recipe, result, events, time.monotonic() - started)
            return result

        return runner.run(
            body,
            name="augment",
            run_name=label,
            parameters={"dataset": recipe.dataset, "snapshot": as_of or "all", "recipe": recipe.hash()},
            tags=["augmill", recipe.dataset],
        )


def _report(recipe: Recipe, steps: Steps, snapshot: Snapshot, outcome: Outcome) -> str | None:
    """Where the report is; None, with a warning, where it could not be written: what was published stands all the same."""
    try:
        return write_report(recipe, steps, snapshot, outcome)
    except Exception as error:  # noqa: BLE001 - whatever it is, the outcome is decided and in the log
        _log.warning("The outcome stands, but its report could not be written: %s: %s", type(error).__name__, error)
        return None


def _mending(
    recipe: Recipe, steps: Steps, as_of: str | None, command: str, republish: bool
) -> tuple[Outcome, Snapshot]:
    """The flow, run again where it met a corrupt object: it was moved aside, and its stage makes it anew."""
    found: Counter[str] = Counter()
    while True:
        try:
            return augment(recipe, steps, as_of=as_of, command=command, republish=republish)
        except CorruptObject as error:
            found[error.where] += 1
            if found[error.where] == MENDS:
                raise
            steps.failures.append({"reason": "corrupt", "error": str(error)})


def _record(store: Store, recipe: Recipe, result: dict[str, Any], events: list[Event], seconds: float) -> None:
    """What this run did, beside the log: a night that released nothing leaves a trace too."""
    now = datetime.now(UTC)
    worked = sum(not event.reused for event in events)
    body = {"time": now.isoformat(timespec="seconds"), "seconds": round(seconds, 1), "worked": worked, **result}
    store.put(f"private/runs/{recipe.dataset}/{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}.json", seal(body))
