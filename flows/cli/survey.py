"""What a recipe means for its data, found by the very stages that a run uses, in a store that is thrown away."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from augmill.flows.mirror import require_mirrors
from augmill.tasks.boundary.processes import sweep_temporary
from augmill.tasks.contracts import ANY, USER_PREFIX, Artifact, Foresight
from augmill.tasks.errors import StoreError, StoreRefused
from augmill.tasks.problems.labels import labels_alike
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.stages.refusals import require_fit
from augmill.tasks.store.rules import REMOTE_SCHEMES, require_root, require_writable
from augmill.tasks.store.stage import Event, Site, fetch
from augmill.tasks.store.store import LookingStore, Store

if TYPE_CHECKING:
    from augmill.tasks.gate.verdict import Rule
    from augmill.tasks.registry import Registry

DOUBTED = 5  # files whose header is looked at twice: those that `augmill check` shows
CELLS = 3  # that were read as no value, of a column
FURTHER = 1.0  # points beyond the bar, or what stands for them, for "how many rows would it take"


def survey(recipe: Recipe, *, as_of: str | None = None) -> dict[str, Any]:
    """Files, rows, classes, plan and what the gate can see, as JSON values. Writes nothing but a temporary directory.

    Raises as ingest and split do, and what a run would raise only hours later: a column, a focus label or a prefix
    that does not fit, a generator's file that cannot be used.
    """
    recipe.preflight()
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
        rows = row_facts(recipe, site, ingested)
        fitted, seen = _fit_what_trains_nothing(recipe, site, split), _foreseen(recipe, site.store, split)
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
        "rows": rows,
        "splits": _split_facts(recipe, summary),
        "plan": {key: value for key, value in asked.items() if key != "targets"},
        "classes": class_facts(recipe, summary["classes"], asked["targets"], seen),
        "gate": gate_facts(recipe, summary["rows"]["train"], summary["rows"]["validation"], seen),
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
    from augmill.flows.units import read_units, told_future
    from augmill.tasks.stages.gather import gather, prepare_gather
    from augmill.tasks.stages.ingest import prepare_ingest
    from augmill.tasks.stages.split import prepare_split, split
    from augmill.tasks.stages.unlabelled import prepare_unlabelled, unlabelled
    from augmill.tasks.store.attempts import utc_now
    from augmill.tasks.validation import load_suite

    load_suite(recipe.validation.source)
    units = read_units(site, prepare_ingest(recipe, as_of, site.store))
    ingested = gather(site, prepare_gather(recipe, as_of), units.artifacts)
    found = [unlabelled(site, prepare_unlabelled(recipe, as_of, site.store))] if recipe.unlabelled else []
    warning = told_future(recipe, units.view(), utc_now())
    return ingested, split(site, prepare_split(recipe), ingested, found), warning


def _foreseen(recipe: Recipe, store: Store, split: Artifact) -> Foresight | None:
    from augmill.tasks.problems import PROBLEMS
    from augmill.tasks.stages.evaluate import foreseen

    return foreseen(store, split, recipe.gate, PROBLEMS[recipe.task])


def row_facts(recipe: Recipe, site: Site, ingested: Artifact) -> dict[str, Any]:
    """What rows are made of, and what serves them. ``exact``: kinds of which nothing is near; ``missing``: of each column

    the rows without a value, and the commonest cells that were read as such; ``aside``: checks, and for what rows they are.
    """
    from augmill.tasks.checks import CHECKS
    from augmill.tasks.generators import GENERATORS
    from augmill.tasks.metrics import METRICS
    from augmill.tasks.recipe.recipe import rows_of
    from augmill.tasks.rows.kinds import is_exact
    from augmill.tasks.trainers import TRAINERS

    rows, columns = rows_of(recipe), recipe.columns
    metrics = [name for name, metric in METRICS.items() if {ANY, rows.problem} & {*metric.problems}]
    used = [choice.use for choice in recipe.generators]
    return {
        "inputs": columns.types,
        "learnt": {"column": columns.answer, "type": (columns.target or {}).get(columns.answer, "label")},
        "problem": rows.problem,
        "kinds": sorted(rows.kinds),
        "exact": is_exact(columns.fields),
        "missing": _missing(recipe, fetch(site.store, ingested, "rows.parquet")),
        "serve": {
            "generators": [*_shipped(GENERATORS, rows.served_whole), *_others(GENERATORS, *used)],
            "checks": [
                *(
                    name
                    for name in _shipped(CHECKS, rows.served_in_part)
                    if CHECKS[name].always or name in recipe.checks
                ),
                *_others(CHECKS, *recipe.checks),
            ],
            "trainers": [*_shipped(TRAINERS, rows.served_whole), *_others(TRAINERS, recipe.trainer.use)],
            "metrics": [*metrics, *_others(METRICS, str(recipe.gate.metric))],
        },
        "aside": rows.asides(),
    }


def _shipped(registry: Registry[Any], serves: Callable[[Any], bool]) -> list[str]:
    return [name for name, each in registry.items() if serves(each)]


def _others(registry: Registry[Any], *names: str) -> list[str]:
    """Those of other packages that the recipe uses."""
    return [name for name in names if name not in registry]


def _missing(recipe: Recipe, path: Path) -> dict[str, dict[str, Any]]:
    """By column, where a cell of the source was read as no value."""
    import pyarrow.compute as pc

    known, found = set(pq.read_schema(path).names), {}
    for name, field in zip(recipe.columns.sources, recipe.columns.fields, strict=True):
        if (own := f"{USER_PREFIX}{name}") not in known:
            continue
        table = pq.read_table(path, columns=[field, own])
        cells = table[own].filter(pc.is_null(table[field]))
        if len(cells):
            counts = Counter("" if cell is None else str(cell).strip() for cell in cells.to_pylist())
            found[name] = {"rows": len(cells), "cells": [cell for cell, _ in counts.most_common(CELLS)]}
    return found


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
            return {"root": root, "state": f"an object store that did not answer: {error.problem}", "current": None}
        return {
            "root": root,
            "state": "an object store that can be read",
            "current": log.current().get(as_of or "all"),
        }
    path = Path(root).expanduser().absolute()
    above = next((parent for parent in (path, *path.parents) if parent.exists()), path)
    require_writable(path, f"store {root}")
    if above != path:
        return {"root": root, "state": "not there yet; the first run creates it", "current": None}
    current = read_log(LookingStore(str(path)), recipe.dataset).current().get(as_of or "all")
    return {"root": root, "state": "exists", "current": current}


def _split_facts(recipe: Recipe, summary: dict[str, Any]) -> dict[str, Any]:
    splits = recipe.splits
    what = "the text" if recipe.columns.inputs is None else "the inputs"
    how = f"column {splits.column!r}" if splits.column else "files" if splits.files else f"hash of {what}"
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
        "shards_first": len(cut_shards(segments, recipe.run.first_rows)),
    }


def class_facts(
    recipe: Recipe, classes: dict[str, dict[str, int]], targets: dict[str, int], seen: Foresight | None
) -> list[dict[str, Any]]:
    """Each class, the largest first, or each bin in its order: rows by split, target, whether the gate judges it alone."""
    folds = gate_folds(recipe, sum(classes["validation"].values()), seen)
    rows = []
    ordered = recipe.problem.fits_strata
    for name, train in sorted(classes["train"].items(), key=lambda item: (0 if ordered else -item[1], item[0])):
        held = {split: classes[split].get(name, 0) for split in ("validation", "test")}
        judging = held["validation"] + (train if folds else 0)
        judged = judging >= recipe.gate.min_heldout_per_class
        rows.append({"label": name, "train": train, "target": targets[name], **held, "judged": judged})
    return rows


def gate_folds(recipe: Recipe, validation: int, seen: Foresight | None) -> int:
    from augmill.tasks.gate.verdict import folds_for

    return folds_for(recipe.gate.folds, validation, recipe.gate.min_gain, recipe.gate.confidence, seen)


def gate_facts(recipe: Recipe, train: int, validation: int, seen: Foresight | None) -> dict[str, Any]:
    """What the held-out rows can show, in ``unit``. ``visible``: true gain that is told from none, four times in five;

    ``passes``: what passes the rule, ``sight`` in words; ``rows_needed``: for FURTHER points beyond the rule's bar;
    ``rows_for_min_gain``: rows that tell ``min_gain`` from none, where these do not; ``assumed``: what all of these
    assume. They are null where nothing is known of the metric beforehand.
    """
    from augmill.tasks.gate.gauge import Gauge
    from augmill.tasks.gate.verdict import Rule
    from augmill.tasks.metrics import METRICS, RIGHT

    gate, folds = recipe.gate, gate_folds(recipe, validation, seen)
    rows = validation + (train if folds else 0)
    gauge = Gauge.of(METRICS[str(gate.metric)], recipe.columns.answer)
    rule = Rule.of(gate, gauge)
    return {
        "rule": gate.rule,
        "bar": rule.bar,
        "metric": gate.metric,
        "unit": gauge.unit,
        "title": gauge.title,
        "min_heldout_per_class": gate.min_heldout_per_class,
        "rows": rows,
        "folds": folds,
        "assumed_accuracy": RIGHT if seen and "accuracy" in seen.words else None,
        **_sight(rule, rows, seen),
    }


def _sight(rule: Rule, rows: int, seen: Foresight | None) -> dict[str, Any]:
    from augmill.tasks.gate.verdict import rows_needed, sight, smallest_visible_gain

    if seen is None or not rows:
        names = ("assumed", "visible", "passes", "sight", "rows_needed", "rows_for_min_gain", "further")
        return dict.fromkeys(names)
    visible = smallest_visible_gain(rows, seen, rule.confidence)
    short = 0 < rule.min_gain < visible and rule.kind == "superior"
    digits = (lambda value: round(value, 2)) if rule.gauge.in_points else rule.gauge.tidy
    further = rule.bar + FURTHER * (1.0 if rule.gauge.in_points else seen.worth)
    return {
        "assumed": seen.words,
        "visible": digits(visible),
        "passes": digits(rule.bar + visible),
        "sight": sight(rule, rule.bar + visible),
        "further": further,
        "rows_needed": rows_needed(further, seen, rule.confidence, rule.bar),
        "rows_for_min_gain": rows_needed(rule.min_gain, seen, rule.confidence) if short else None,
    }
