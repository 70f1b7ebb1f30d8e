"""A worker process's job as JSON and back: which stage, its config, its inputs; and a shard: sample, then judge."""

from __future__ import annotations

import dataclasses
import logging
import time
import typing
from typing import Any

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import Artifact, Tell, tell_nobody
from augmill.tasks.errors import CorruptObject, UserError
from augmill.tasks.generators import GENERATORS
from augmill.tasks.registry import Registry
from augmill.tasks.stages.extensions import FitConfig
from augmill.tasks.stages.fit import fit, fit_check
from augmill.tasks.stages.generate import SampleConfig, ShardConfig, bank_of, generate, sample
from augmill.tasks.store.bank import cover, cut_segments, note_in_bank
from augmill.tasks.store.stage import Event, Site, Stage, fetch, look_up
from augmill.tasks.store.store import Store
from augmill.tasks.validation import ValidationOptions

STAGES: dict[str, Stage[Any]] = {stage.name: stage for stage in (fit, fit_check, generate)}
STORES: dict[str, Store] = {}
_log = logging.getLogger("augmill")


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples the options were made of."""
    if isinstance(value, list):
        return tuple(_tuples(part) for part in value)
    return {key: _tuples(part) for key, part in value.items()} if isinstance(value, dict) else value


def _options(kind: Any, part: dict[str, Any]) -> Any:
    """The options that were made a dictionary of, with the sections that stand in them."""
    hints = typing.get_type_hints(kind)
    return kind(**{name: _section(hints[name], value) for name, value in part.items()})


def _section(hint: Any, value: Any) -> Any:
    """A section, or each of a list of them; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(_section(hint, part) for part in value)
    kind = _section_kind(hint) if isinstance(value, dict) else None
    return value if kind is None else _options(kind, value)


def _section_kind(hint: Any) -> Any:
    """The dataclass in a type such as ``tuple[Pivot, ...] | None``; None where there is none."""
    if dataclasses.is_dataclass(hint):
        return hint
    return next((kind for part in typing.get_args(hint) if (kind := _section_kind(part)) is not None), None)


def _fit_config(part: dict[str, Any], kinds: Registry[Any]) -> FitConfig:
    """Raises UserError where another code of the extension would run than the one whose name the rows will bear."""
    name = part["extension"]
    options, here = _options(kinds[name].Options, part["options"]), kinds.code(name)
    if here != part["code"]:
        raise UserError(
            f"this worker has a different version of it ({here or 'Augmill itself'}) than the run ({part['code']})",
            where=f"the {kinds.what} {name}",
            fix="install the same version everywhere; if it was edited during the run, run again",
        )
    return FitConfig(**(part | {"options": options}))


def _shard_config(value: dict[str, Any]) -> ShardConfig:
    return ShardConfig(
        generator=_fit_config(value["generator"], GENERATORS),
        checks=tuple(_fit_config(part, CHECKS) for part in value["checks"]),
        segments=value["segments"],
        strata=value["strata"],
        validation=ValidationOptions(**value["validation"]),
        raw=value["raw"],
        near=value["near"],
    )


def pack(stage: Stage[Any], config: FitConfig | ShardConfig, inputs: list[Artifact]) -> dict[str, Any]:
    """The job as JSON values; ``inputs``: the split for a fit; the fitted generator, then the checks, for a shard."""
    return {
        "stage": stage.name,
        "config": dataclasses.asdict(config),
        "inputs": [item.to_json() for item in inputs],
    }


def unpack(job: dict[str, Any]) -> tuple[Stage[Any], Any, list[Any]]:
    value = _tuples(job["config"])
    first, *rest = [Artifact(**part) for part in job["inputs"]]
    if job["stage"] == generate.name:
        return generate, _shard_config(value), [first, rest]
    return STAGES[job["stage"]], _fit_config(value, GENERATORS if job["stage"] == fit.name else CHECKS), [first]


def run_job(job: dict[str, Any], tell: Tell = tell_nobody) -> tuple[Artifact, list[Event]]:
    """Runs one job: (its artifact, what each stage did; the last one is the job's own). ``tell``: how far it is."""
    store = STORES.setdefault(job["store"], Store(job["store"]))
    events: list[Event] = []
    ends, dataset = time.monotonic() + job["seconds"], job.get("dataset", "")
    site = Site(store, job["device"], job["threads"], ends, events.append, dataset, tell)
    stage, config, inputs = unpack(job)
    if stage is generate:
        return run_shard(site, config, *inputs), events
    return stage(site, config, *inputs), events


def run_shard(site: Site, config: ShardConfig, fitted: Artifact, checks: list[Artifact]) -> Artifact:
    """Rows that stand in the bank are taken from there, the others sampled and noted in it; then all are judged.

    ``config.raw``: the pieces that the bank held when the shard was planned.
    """
    if look_up(site.store, generate.name, generate.identity(config, (fitted, checks))) is not None:
        return generate(site, config, fitted, checks)
    whole = require_whole(site, config.raw)
    missing = cut_segments(cover(whole), config.segments)[1]
    if missing:
        made = sample(site, SampleConfig(config.generator, tuple(missing)), fitted)
        note_in_bank(site.store, bank_of(config.generator, fitted.content), made, missing)
        whole += [{**piece, "artifact": made.key} for piece in missing]
    raw = cut_segments(cover(whole), config.segments)[0]
    return generate.make(site, dataclasses.replace(config, raw=tuple(raw)), fitted, checks)


def require_whole(site: Site, pieces: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """The pieces whose artifact still stands as it was written; the rows of the others are made anew."""
    found: list[dict[str, Any]] = []
    for key in dict.fromkeys(piece["artifact"] for piece in pieces):
        own = [piece for piece in pieces if piece["artifact"] == key]
        try:
            fetch(site.store, Artifact(key, 0, "", ""), "rows.parquet")
        except CorruptObject as error:  # gone by retention, or rotted and moved aside
            _log.info("%s; its rows are sampled again", error)
            continue
        found += own
        site.observe(Event(sample.name, key, sum(piece["count"] for piece in own), True, 0.0))
    return found
