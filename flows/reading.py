"""Reading: the source as of a partition, split; and whether it can be trusted."""

from __future__ import annotations

import pyarrow.parquet as pq

from augmill.flows.snapshot import Snapshot, read_json
from augmill.flows.steps import Steps
from augmill.tasks.contracts import UnsoundSource
from augmill.tasks.ingest import ingest, prepare_ingest
from augmill.tasks.labels import label_text
from augmill.tasks.publish import trained_classes
from augmill.tasks.refusals import require_fit
from augmill.tasks.split import prepare_split, split
from augmill.tasks.stage import fetch


def read_source(snapshot: Snapshot, steps: Steps, as_of: str | None) -> None:
    """ingest and split. Raises UnsoundSource where the source cannot be trusted, DataError where it cannot be read."""
    recipe = snapshot.recipe
    with steps.progress.stage("source") as shown:
        config = prepare_ingest(recipe, as_of)
        shown.note = f"{len(config.files)} file(s)"
    snapshot.ingested = steps.do(ingest, config)
    snapshot.split = steps.do(split, prepare_split(recipe), snapshot.ingested)
    store = steps.site.store
    classes = read_json(store, snapshot.split, "summary.json")["classes"]
    names = pq.read_schema(fetch(store, snapshot.ingested, "source.parquet")).names
    require_fit(recipe.publish, recipe.gate.focus, names, list(classes["validation"]))
    if snapshot.expected is None:
        return
    left = {label_text(value) for value in recipe.labels.retired} | set(recipe.labels.aliases)
    before = trained_classes(store, recipe.dataset, snapshot.expected)
    vanished = sorted(before - set(classes["train"]) - left)
    if vanished:
        raise UnsoundSource(
            f"{len(vanished)} class(es) of the current release have no train rows any more: {', '.join(vanished[:5])}",
            where="source",
            fix="restore their rows, or name them in labels.retired",
        )
