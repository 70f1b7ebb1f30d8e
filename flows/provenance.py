"""provenance.json of a release: who made it, where, when and with what. Not hashed, and public."""

from __future__ import annotations

import dataclasses
import platform
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import Artifact
from augmill.tasks.generators import GENERATORS
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.stages.extensions import library_versions, outside_code
from augmill.tasks.store.stage import STAGE_VERSIONS, Event, Site, read_manifest
from augmill.tasks.store.store import Store
from augmill.tasks.trainers import TRAINERS

LIBRARIES = ("prefect", "torch", "transformers", "pyarrow", "polars", "great-expectations", "scikit-learn", "numpy")


def provenance(
    recipe: Recipe, site: Site, command: str, events: list[Event], failures: list[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    """JSON values. The recipe holds no secrets: they come from the environment. ``more``: further keys."""
    return {
        "command": command,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "python": platform.python_version(),
        "device": site.device,
        "versions": library_versions(LIBRARIES),
        "recipe": dataclasses.asdict(recipe),
        "generators": {choice.use: GENERATORS[choice.use].VERSION for choice in recipe.generators},
        "repeatable": {choice.use: repeatable(choice.use, site.device) for choice in recipe.generators},
        **({"outside": outside} if (outside := outside_code(recipe)) else {}),
        "stages": [dataclasses.asdict(event) for event in events],
        "failures": failures,
        **more,
    }


def spent_on(store: Store, shards: Iterable[Artifact]) -> dict[str, dict[str, int]]:
    """By generator: what it took to sample these shards' rows (tokens, requests, real rows sent), in whichever run.

    Rows of several shards that were sampled together count once. What a killed attempt sent before it could note it is
    not in it, but for the answers that it kept, which are then counted as ``cached``.
    """
    found: dict[str, dict[str, dict[str, int]]] = {}
    for shard in shards:
        if shard.key.startswith("generate/") and "spent" in (meta := read_manifest(store, shard)["meta"]):
            found.setdefault(meta["generator"], {}).update(meta["spent"])
    totals: dict[str, Counter[str]] = {name: Counter() for name in sorted(found)}
    for name, parts in found.items():
        for usage in parts.values():
            totals[name].update(usage)
    return {name: dict(sorted(total.items())) for name, total in totals.items() if total}


def repeatable(generator: str, device: str) -> bool:
    """Whether a fresh store would hold the same rows (law 3): a model's are promised on a CPU alone."""
    kind = GENERATORS[generator]
    return kind.repeatable and (not kind.libraries or device == "cpu")


# Stages that only some recipes reach; every other stage counts for all.
_REACHED: dict[str, Callable[[Recipe], bool]] = {
    "unlabelled": lambda recipe: recipe.unlabelled is not None,
    "profile": lambda recipe: recipe.refit.asked,
    "weigh": lambda recipe: recipe.plan.policy == "adaptive",
    "plan_adaptive": lambda recipe: recipe.plan.policy == "adaptive",
    **dict.fromkeys(("fold", "predict_fold", "judge_folds"), lambda recipe: recipe.gate.folds != 0),
}


def code_version(recipe: Recipe) -> str:
    """Short sha256 of the VERSIONs that can change this recipe's rows: its extensions' and its stages'.

    What it does not use does not count, so that a new extension marks no snapshot stale. Readers are left out: what
    they read otherwise is another revision of the source, which is seen by the rows themselves.
    """
    import augmill.flows.stages  # noqa: F401 - so that every stage has been imported

    taught = any(choice.label_by != "generator" for choice in recipe.generators)
    versions: dict[str, Any] = {
        "generators": {choice.use: GENERATORS[choice.use].VERSION for choice in recipe.generators},
        "checks": {name: CHECKS[name].VERSION for name in recipe.checks if name != "teacher" or taught},
        "trainer": {recipe.trainer.use: TRAINERS[recipe.trainer.use].VERSION},
        "stages": {
            name: version for name, version in STAGE_VERSIONS.items() if name not in _REACHED or _REACHED[name](recipe)
        },
    }
    outside = outside_code(recipe)
    return hash_json(versions | ({"outside": outside} if outside else {}))[:16]
