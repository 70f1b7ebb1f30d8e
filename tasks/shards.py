"""A job of a worker process as JSON and back: which stage, its config, its input artifacts."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import Artifact
from augmill.tasks.fit import fit, fit_check
from augmill.tasks.generate import ShardConfig, generate
from augmill.tasks.generators import GENERATORS
from augmill.tasks.ribs import FitConfig
from augmill.tasks.stage import Event, Site, Stage
from augmill.tasks.store import Store
from augmill.tasks.validation import ValidationOptions

STAGES: dict[str, Stage[Any]] = {stage.name: stage for stage in (fit, fit_check, generate)}
STORES: dict[str, Store] = {}


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples the options were made of."""
    if isinstance(value, list):
        return tuple(_tuples(part) for part in value)
    return {key: _tuples(part) for key, part in value.items()} if isinstance(value, dict) else value


def _fit_config(part: dict[str, Any], kinds: dict[str, Any]) -> FitConfig:
    return FitConfig(**(part | {"options": kinds[part["rib"]].Options(**part["options"])}))


def _shard_config(value: dict[str, Any]) -> ShardConfig:
    return ShardConfig(
        generator=_fit_config(value["generator"], GENERATORS),
        checks=tuple(_fit_config(part, CHECKS) for part in value["checks"]),
        segments=value["segments"],
        strata=value["strata"],
        validation=ValidationOptions(**value["validation"]),
    )


def pack(stage: Stage[Any], config: FitConfig | ShardConfig, inputs: list[Artifact]) -> dict[str, Any]:
    """The job as JSON values; ``inputs``: the split for a fit; the fitted generator, then the checks, for a shard."""
    return {"stage": stage.name, "config": dataclasses.asdict(config), "inputs": [item.to_json() for item in inputs]}


def unpack(job: dict[str, Any]) -> tuple[Stage[Any], Any, list[Any]]:
    value = _tuples(job["config"])
    first, *rest = [Artifact.from_json(part) for part in job["inputs"]]
    if job["stage"] == generate.name:
        return generate, _shard_config(value), [first, rest]
    return STAGES[job["stage"]], _fit_config(value, GENERATORS if job["stage"] == fit.name else CHECKS), [first]


def run_job(job: dict[str, Any]) -> tuple[Artifact, bool]:
    """Runs one job: (its artifact, whether the store had it already)."""
    store = STORES.setdefault(job["store"], Store(job["store"]))
    events: list[Event] = []
    site = Site(store, job["device"], job["threads"], time.monotonic() + job["seconds"], events.append)
    stage, config, inputs = unpack(job)
    artifact = stage(site, config, *inputs)
    return artifact, events[-1].reused
