"""What a recipe means for its data, found by the very stages that a run uses, in a store that is thrown away."""

from __future__ import annotations

import json
import math
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from augmill.flows.mirror import require_mirrors
from augmill.tasks.boundary.processes import sweep_temporary
from augmill.tasks.contracts import Artifact
from augmill.tasks.errors import StoreError, StoreRefused
from augmill.tasks.problems.labels import labels_alike
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.stages.refusals import require_fit
from augmill.tasks.store.rules import REMOTE_SCHEMES, require_root, require_writable
from augmill.tasks.store.stage import Event, Site, fetch
from augmill.tasks.store.store import LookingStore, Store

DOUBTED = 5  # files whose header is looked at twice: those that `augmill check` shows
ACCURACY = 0.8  # of the trainer that will judge, which nobody knows before it is trained; verdict.py's default
FURTHER = 1.0  # points beyond the bar, for "how many rows would it take"


def survey(recipe: Recipe, *, as_of: str | None = None) -> dict[str, Any]:
    """Files, rows, classes, plan and what the gate can see, as JSON values. Writes nothing but a temporary directory.

    Raises as ingest and split do, and what a run would raise only hours later: a column, a focus label or a prefix
    that does not fit, a generator's file that cannot be used.
    """
    for choice in recipe.generators:
        choice.build().preflight(recipe.columns.fields)
    require_mirrors(recipe)
    events: list[Event] = []
    sweep_temporary()
    with tempfile.TemporaryDirectory(prefix="augmill-check-") as directory:
        site = Site(Store(directory), threads=recipe.run.threads, observe=events.append)
        files = _files(recipe)
        ingested, split, warning = _read(recipe, site, as_of)
        source = _json(site, ingested, "summary.json")
        names = pq.read_schema(fetch(site.store, ingested, "source.parquet")).names
        summary = _json(site, split, "summary.json")
        require_fit(recipe.publish, recipe.gate.focus, recipe.problem, names, list(summary["classes"]["validation"]))
        fitted = _fit_what_trains_nothing(recipe, site, split)
        vain = _translated_in_vain(recipe, list(summary["classes"]["train"]))
        source |= {"warnings": [*source.get("warnings", ()), *vain]} if vain else {}
    asked = plan_facts(recipe, summary["classes"]["train"])
    seconds: defaultdict[str, float] = defaultdict(float)
    for event in events:
        seconds[event.stage] += event.seconds
    return {
        "dataset": recipe.dataset,
        "snapshot": as_of or "all",
        "files": files,
        "source": source,
        "source_warning": warning,
        "splits": _split_facts(recipe, summary),
        "plan": {key: value for key, value in asked.items() if key != "targets"},
        "classes": class_facts(recipe, summary["classes"], asked["targets"]),
        "gate": gate_facts(recipe, summary["rows"]["train"], summary["rows"]["validation"]),
        "fitted": fitted,
        "measured_seconds": dict(seconds),
    }


def _json(site: Site, artifact: Artifact, name: str) -> Any:
    return json.loads(fetch(site.store, artifact, name).read_text(encoding="utf-8"))


def _files(recipe: Recipe) -> list[dict[str, Any]]:
    """Every file with its format, and the guesses of encoding and delimiter with their reasons."""
    from augmill.tasks.sources import describe_file, doubt_file, list_files

    files = list_files(recipe.source)
    found: list[dict[str, Any]] = [describe_file(file, recipe.source) | {"bytes": file.size} for file in files]
    for file, about in zip(files[:DOUBTED], found, strict=False):
        if file.format == "csv" and (doubt := doubt_file(file, recipe.source)) is not None:
            about["doubt"] = f"{doubt.problem}; {doubt.fix}"
    return found


def _read(recipe: Recipe, site: Site, as_of: str | None) -> tuple[Artifact, Artifact, str | None]:
    from augmill.flows.source import require_suite
    from augmill.flows.units import read_units, told_future
    from augmill.tasks.stages.gather import gather, prepare_gather
    from augmill.tasks.stages.ingest import prepare_ingest
    from augmill.tasks.stages.split import prepare_split, split
    from augmill.tasks.stages.unlabelled import prepare_unlabelled, unlabelled
    from augmill.tasks.store.attempts import utc_now

    require_suite(recipe)
    units = read_units(site, prepare_ingest(recipe, as_of, site.store))
    ingested = gather(site, prepare_gather(recipe, as_of), units.artifacts)
    found = [unlabelled(site, prepare_unlabelled(recipe, as_of, site.store))] if recipe.unlabelled else []
    warning = told_future(recipe, units.view(), utc_now())
    return ingested, split(site, prepare_split(recipe), ingested, found), warning


def _translated_in_vain(recipe: Recipe, classes: list[str]) -> list[str]:
    """A sentence on each generator whose `labels` make classes of a file's labels that no train row has."""
    found = []
    for choice in recipe.generators:
        names = set(getattr(choice.options, "labels", {}).values())
        if vain := sorted(names - set(classes) - labels_alike(names, classes).keys()):
            shown = ", ".join(map(repr, vain[:5]))
            found.append(f"generators ({choice.use}), labels: no train row is labelled {shown}; correct the name")
    return found


def _fit_what_trains_nothing(recipe: Recipe, site: Site, split: Artifact) -> list[str]:
    """The generators that are fitted in a moment, fitted: a thesaurus or a file that does not fit is named now."""
    from augmill.tasks.generators import GENERATORS
    from augmill.tasks.stages.extensions import generator_config
    from augmill.tasks.stages.fit import fit

    quick = [choice for choice in recipe.generators if not GENERATORS[choice.use].libraries]
    for choice in quick:
        fit(site, generator_config(choice, recipe), split)
    return [choice.use for choice in quick]


def store_facts(recipe: Recipe, as_of: str | None) -> dict[str, Any]:
    """Where the store is and what is current in it: looked at, never made or written.

    Raises UserError where it could not be written, StoreRefused for a full disk or a bucket that refuses to be read.
    Whether a bucket may be written shows when a run begins: it notes its attempt before any work.
    """
    from augmill.tasks.store.log import read_log

    root = recipe.run.store
    require_root(root)
    if root.startswith(REMOTE_SCHEMES):
        try:
            log = read_log(LookingStore(root), recipe.dataset)
        except StoreRefused:
            raise
        except StoreError as error:
            return {"root": root, "state": f"in an object store that did not answer: {error.problem}", "current": None}
        return {
            "root": root,
            "state": "in an object store that can be read",
            "current": log.current().get(as_of or "all"),
        }
    path = Path(root).expanduser().absolute()
    above = next((parent for parent in (path, *path.parents) if parent.exists()), path)
    require_writable(path, f"store {root}")
    if above != path:
        return {"root": root, "state": "not there yet; the first run makes it", "current": None}
    current = read_log(LookingStore(str(path)), recipe.dataset).current().get(as_of or "all")
    return {"root": root, "state": "there", "current": current}


def _split_facts(recipe: Recipe, summary: dict[str, Any]) -> dict[str, Any]:
    splits = recipe.splits
    how = f"column {splits.column!r}" if splits.column else "files" if splits.files else "hash of the text"
    how = f"hash of column {recipe.columns.group!r}" if recipe.columns.group and not splits.given else how
    kept = ("rows", "train_before_leaving", "held_back", "rare_classes", "excluded_texts", "unlabelled")
    return {"by": how, **{name: summary[name] for name in kept}}


def plan_facts(recipe: Recipe, counts: dict[str, int]) -> dict[str, Any]:
    """Targets, and what the first round asks: the plan stage's own functions on an empty ledger."""
    from augmill.tasks.stages.plan import AdaptiveConfig, PlanConfig, cut_shards, plan_adaptive_round, plan_round
    from augmill.tasks.stages.targets import nothing_to_make, split_target, targets_for

    targets = targets_for(recipe.target, counts, recipe.mix.max_ratio)
    shares = {choice.use: choice.share for choice in recipe.generators}
    base, adaptive = (
        PlanConfig(recipe.target, recipe.refill, shares),
        recipe.plan.policy == "adaptive" and len(shares) > 1,
    )
    if adaptive:
        segments = plan_adaptive_round(AdaptiveConfig(recipe.plan, base, 1), shares, targets, {}, {})
    else:
        segments = plan_round(base, targets, {}, {})
    parts = [split_target(target, shares) for target in targets.values()]
    first = {name: sum(s["count"] for s in segments if s["generator"] == name) for name in shares}
    return {
        "targets": targets,
        "target": sum(targets.values()),
        "nothing_to_make": nothing_to_make(recipe.target, counts, recipe.mix.max_ratio),
        "asked_at_least": {name: sum(part[name] for part in parts) for name in shares},
        "asked_first": first,
        "policy": recipe.plan.policy if adaptive else "shares",
        "explore": recipe.plan.explore if adaptive else None,
        "adaptive_rounds": recipe.plan.rounds if adaptive else None,
        "asked_at_most": sum(math.ceil(recipe.refill.max_asked * target) for target in targets.values()),
        "max_rounds": recipe.refill.max_rounds,
        "shards_first": len(cut_shards(segments, recipe.run.shard_rows)),
    }


def class_facts(recipe: Recipe, classes: dict[str, dict[str, int]], targets: dict[str, int]) -> list[dict[str, Any]]:
    """Each class, the largest first: its rows by split, its target, and whether the gate judges it by itself."""
    folds = gate_folds(recipe, sum(classes["validation"].values()))
    rows = []
    for name, train in sorted(classes["train"].items(), key=lambda item: (-item[1], item[0])):
        held = {split: classes[split].get(name, 0) for split in ("validation", "test")}
        judging = held["validation"] + (train if folds else 0)
        judged = judging >= recipe.gate.min_heldout_per_class
        rows.append({"label": name, "train": train, "target": targets[name], **held, "judged": judged})
    return rows


def gate_folds(recipe: Recipe, validation: int) -> int:
    from augmill.tasks.gate.verdict import folds_for

    return folds_for(recipe.gate.folds, validation, recipe.gate.min_gain, recipe.gate.confidence)


def gate_facts(recipe: Recipe, train: int, validation: int) -> dict[str, Any]:
    """What the held-out rows can show. ``visible``: points of true gain that are told from none, four times in five;

    ``passes``: those that pass the rule, ``sight`` in words; ``rows_needed``: for FURTHER points beyond the rule's bar;
    ``rows_for_min_gain``: rows that tell ``min_gain`` from none, where these do not.
    """
    from augmill.tasks.gate.verdict import Rule, rows_needed, sight, smallest_visible_gain

    gate = recipe.gate
    folds = gate_folds(recipe, validation)
    rows = validation + (train if folds else 0)
    rule = Rule(gate.rule, gate.min_gain, gate.margin, gate.confidence)
    bar = rule.bar
    visible = smallest_visible_gain(rows, ACCURACY, gate.confidence)
    short = 0 < gate.min_gain < visible and gate.rule == "superior"
    return {
        "rule": gate.rule,
        "bar": bar,
        "metric": gate.metric,
        "min_heldout_per_class": gate.min_heldout_per_class,
        "rows": rows,
        "folds": folds,
        "assumed_accuracy": ACCURACY,
        "visible": round(visible, 2),
        "passes": round(bar + visible, 2),
        "sight": sight(rule, bar + visible),
        "rows_needed": rows_needed(bar + FURTHER, ACCURACY, gate.confidence, bar),
        "rows_for_min_gain": rows_needed(gate.min_gain, ACCURACY, gate.confidence) if short else None,
    }
