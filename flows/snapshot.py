"""What one run knows of the snapshot it makes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from augmill.tasks.contracts import Artifact
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.store.stage import fetch
from augmill.tasks.store.store import Store


@dataclass
class Snapshot:
    """What one run has made so far; what is missing was not reached."""

    recipe: Recipe
    name: str
    expected: str | None  # the release of this snapshot that was current when the run began
    standing: str | None = None  # what a reader as of this snapshot gets until there is a new one
    ingested: Artifact | None = None
    split: Artifact | None = None
    checks: dict[str, Artifact] = field(default_factory=dict)
    settled: Artifact | None = None
    weighed: list[Artifact] = field(
        default_factory=list
    )  # plan.policy: adaptive: the weights, measurement by measurement
    mixed: Artifact | None = None
    evidence: dict[str, Any] | None = None
    shards: list[Artifact] = field(default_factory=list)
    drift: dict[str, Any] = field(default_factory=dict)  # of its rows, since those its generators were fitted on
    source: dict[str, str] = field(default_factory=dict)  # the revision of each partition that it holds
    # Of the Delta tables it was read from (source, unlabelled): of this run, since files stand in many versions.
    source_versions: dict[str, int] = field(default_factory=dict)


def read_json(store: Store, artifact: Artifact, name: str) -> Any:
    return json.loads(fetch(store, artifact, name).read_text(encoding="utf-8"))
