"""One snapshot, source to release: ingest, split, fit, rounds of generation, mix, evaluate, publish."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from augmill.flows.mirror import mirror_delta, require_mirrors
from augmill.flows.outcome import CutShort, NothingToMake, NotProduced, Outcome, judge_evidence, none_accepted
from augmill.flows.provenance import provenance
from augmill.flows.rounds import not_asked, produce
from augmill.flows.snapshot import Snapshot, read_json
from augmill.flows.source import read_source
from augmill.flows.steps import Steps
from augmill.tasks.boundary.retries import COMMIT, STORE
from augmill.tasks.contracts import Artifact
from augmill.tasks.errors import UnsoundSource
from augmill.tasks.gate.verdict import folds_for
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.report import totals
from augmill.tasks.stages.evaluate import (
    EvaluateConfig,
    FoldConfig,
    JudgeConfig,
    can_judge,
    evaluate,
    judge_folds,
    predict_fold,
    split_fold,
)
from augmill.tasks.stages.mix import MixConfig, arrange_real, mix
from augmill.tasks.stages.publish import ReleaseConfig, build_release, commit_releases, put_release
from augmill.tasks.store.log import read_log
from augmill.tasks.trainers import TRAINERS


def augment(
    recipe: Recipe,
    steps: Steps,
    *,
    as_of: str | None,
    command: str,
    republish: bool,
    staged: bool = False,
    backfill: str | None = None,
) -> tuple[Outcome, Snapshot]:
    """Runs the whole path and publishes what the outcome calls for. Raises AugmillError where nothing can be said.

    ``staged``: the release is put but not made current; ``Outcome.pending`` holds what the log is to say. ``backfill``:
    which one it belongs to; the log names it.
    """
    name = as_of or "all"
    require_mirrors(recipe)
    for choice in recipe.generators:
        choice.build().preflight(recipe.columns.fields)
    log = read_log(steps.site.store, recipe.dataset)
    expected = log.current().get(name)
    snapshot = Snapshot(recipe, name, expected, expected or (log.newest(as_of) if as_of else None))
    try:
        read_source(snapshot, steps, as_of)
    except UnsoundSource as error:
        action = recipe.outcomes.unsound_source
        if snapshot.standing is None and action == "keep_current":
            raise  # there is nothing to keep
        reason = f"{error.where}: {error.problem}. What to do: {error.fix}"
        return Outcome("unsound_source", action, reason, release=snapshot.standing), snapshot
    try:
        produce(snapshot, steps)
        outcome = judge_evidence(prove(snapshot, steps), recipe)
    except NotProduced as error:
        cut_short = isinstance(error, CutShort) or steps.cut_short
        met = isinstance(error, NothingToMake)
        outcome = Outcome("not_produced", recipe.outcomes.not_produced, str(error), cut_short=cut_short, met=met)
    done = publish(
        snapshot, steps, outcome, command=command, republish=republish, staged=staged, backfill=backfill
    )  # fmt: skip
    return done, snapshot


def prove(snapshot: Snapshot, steps: Steps) -> dict[str, Any]:
    """Mixes what was accepted and measures it on held-out real rows. Raises NotProduced where there is nothing to prove."""
    recipe = snapshot.recipe
    snapshot.mixed = mix_accepted(snapshot, steps)
    assert snapshot.split is not None and snapshot.settled is not None
    config = EvaluateConfig(**how_to_judge(recipe), validation=recipe.validation)
    evaluated = steps.do(evaluate, config, snapshot.split, snapshot.mixed, snapshot.settled)
    rows = read_json(steps.site.store, snapshot.split, "summary.json")["rows"]["validation"]
    folds = folds_for(recipe.gate.folds, rows, recipe.gate.min_gain, recipe.gate.confidence)
    if folds:
        evaluated = judge_in_folds(snapshot, steps, evaluated, folds)
    snapshot.evidence = read_json(steps.site.store, evaluated, "evidence.json")
    checked = snapshot.evidence["release_validation"]
    if checked is not None and not checked["success"]:
        raise NotProduced(f"the release's metrics failed their expectations: {'; '.join(checked['problems'])}")
    return snapshot.evidence


def how_to_judge(recipe: Recipe) -> dict[str, Any]:
    """What evaluation and folds have in common: the gate, and the trainer with all that can change its answers."""
    trainer = recipe.trainer
    return {
        "gate": recipe.gate,
        "trainer": trainer.use,
        "trainer_version": TRAINERS[trainer.use].VERSION,
        "trainer_options": trainer.options,
        "trainer_content": TRAINERS[trainer.use](trainer.options).content(),
        "seed": recipe.seed,
        "fields": recipe.columns.fields,
    }


def judge_in_folds(snapshot: Snapshot, steps: Steps, evaluated: Artifact, folds: int) -> Artifact:
    """The whole path inside each fold; their held-out rows together judge. Raises NotProduced where a fold makes none."""
    recipe = snapshot.recipe
    assert snapshot.split is not None
    judge_config = JudgeConfig(**how_to_judge(recipe))
    predicted = []
    for number in range(folds):
        fold_config = FoldConfig(number, folds, recipe.splits.seed, recipe.splits.near, recipe.columns.fields)
        inside = dataclasses.replace(steps, label=f"{steps.label} fold {number + 1}")
        part = Snapshot(recipe, snapshot.name, None)
        part.split = inside.do(split_fold, fold_config, snapshot.split, what=f"{number + 1} of {folds}")
        if not can_judge(read_json(steps.site.store, part.split, "summary.json")):
            continue
        produce(part, inside)
        part.mixed = mix_accepted(part, inside)
        predicted.append(inside.do(predict_fold, judge_config, part.split, part.mixed))
    return steps.do(judge_folds, judge_config, evaluated, predicted)


def mix_accepted(snapshot: Snapshot, steps: Steps) -> Artifact:
    """Real and accepted rows put together. Raises NotProduced where there is none to put, or too few were accepted."""
    recipe = snapshot.recipe
    assert snapshot.split is not None
    if snapshot.settled is None:
        raise not_asked(snapshot, steps)
    ledger = read_json(steps.site.store, snapshot.settled, "ledger.json")
    short = {name: count for name, count in ledger["shortfall"].items() if count}
    if short and recipe.refill.on_shortfall == "refuse":
        found = ", ".join(f"{name} lacks {count:,}" for name, count in list(short.items())[:5])
        raise NotProduced(f"{len(short)} class(es) could not be filled ({found}) and refill.on_shortfall is refuse")
    if not sum(ledger["accepted"].values()):
        raise NotProduced(none_accepted(totals(ledger)))
    mix_config = MixConfig(recipe.mix, recipe.publish.copy, recipe.columns.fields, recipe.seed)
    return steps.do(mix, mix_config, snapshot.split, snapshot.settled)


def publish(
    snapshot: Snapshot,
    steps: Steps,
    outcome: Outcome,
    *,
    command: str,
    republish: bool,
    staged: bool = False,
    backfill: str | None = None,
) -> Outcome:
    """One immutable release and one log entry, as the outcome's action says."""
    recipe, store = snapshot.recipe, steps.site.store
    if outcome.action in ("keep_current", "fail"):
        return dataclasses.replace(outcome, release=snapshot.standing)
    if snapshot.mixed is None:
        outcome = dataclasses.replace(outcome, arrangement="real")
    built = _build(snapshot, steps, outcome)
    with steps.progress.stage("publish") as shown:
        name, tags = f"publish {steps.label}", steps.tags
        released_by = provenance(snapshot, steps, command)
        put = functools.partial(put_release, store, recipe.dataset, built, released_by)
        release = steps.orchestrator.call(put, name=name, retry=STORE, tags=tags)
        entry = log_entry(outcome, recipe) | ({} if backfill is None else {"backfill": backfill})
        if staged:
            shown.note = f"{release}, staged"
            pending = {"snapshot": snapshot.name, "release": release, "expected": snapshot.expected, "entry": entry}
            return dataclasses.replace(outcome, release=release, pending=pending)
        commit = functools.partial(
            commit_releases, store, recipe.dataset, {snapshot.name: (snapshot.expected, release)},
            entry=entry, command=command, force=republish,
        )  # fmt: skip
        appended = steps.orchestrator.call(commit, name=name, retry=COMMIT, tags=tags)
        version = mirror_delta(store, recipe.dataset, wanted=True) if recipe.publish.format == "delta" else None
        shown.note = release if appended else f"{release}, already published"
    return dataclasses.replace(outcome, release=release, appended=appended, delta=version)


def _build(snapshot: Snapshot, steps: Steps, outcome: Outcome) -> Artifact:
    """The release's files as an artifact."""
    recipe = snapshot.recipe
    assert snapshot.ingested is not None and snapshot.split is not None
    config = ReleaseConfig(
        recipe.dataset,
        snapshot.name,
        outcome.arrangement,
        recipe.publish.prefix,
        recipe.columns,
        recipe.hash(),
        recipe.task,
        outcome.proven if outcome.arrangement == "mix" else "",
    )
    mixed = snapshot.mixed or _real_alone(snapshot, steps)
    ledger = [snapshot.settled] if snapshot.settled else []
    return steps.do(build_release, config, snapshot.ingested, snapshot.split, mixed, ledger)


def log_entry(outcome: Outcome, recipe: Recipe) -> dict[str, Any]:
    """What the log says of a release: why, with which numbers, approved by which rule."""
    return {
        "reason": outcome.reason,
        "outcome": outcome.name,
        "arrangement": outcome.arrangement,
        "recipe": recipe.hash(),
        "verdict": outcome.numbers,
        "approved_by": f"rule {recipe.gate.rule}" if outcome.name == "published" else f"outcomes.{outcome.name}",
    }


def _real_alone(snapshot: Snapshot, steps: Steps) -> Artifact:
    """The training set where nothing was produced: real rows and their order."""
    recipe = snapshot.recipe
    config = MixConfig(recipe.mix, recipe.publish.copy, recipe.columns.fields, recipe.seed)
    assert snapshot.split is not None
    return steps.do(arrange_real, config, snapshot.split)
