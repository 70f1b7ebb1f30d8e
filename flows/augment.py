"""One snapshot, source to release: ingest, split, fit, rounds of generation, mix, evaluate, publish."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import time
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from augmill.flows.outcome import NotProduced, Outcome, judge_evidence
from augmill.flows.provenance import provenance
from augmill.flows.steps import Steps
from augmill.tasks.contracts import Artifact, AugmillError, UnsoundSource
from augmill.tasks.evaluate import EvaluateConfig, evaluate
from augmill.tasks.fit import fit, fit_check
from augmill.tasks.folds import FoldConfig, JudgeConfig, can_judge, judge_folds, predict_fold, split_fold
from augmill.tasks.generate import SetAsideConfig, ShardConfig, set_aside
from augmill.tasks.ingest import ingest, prepare_ingest
from augmill.tasks.labels import label_text
from augmill.tasks.log import read_log
from augmill.tasks.mix import MixConfig, arrange_real, mix
from augmill.tasks.plan import PlanConfig, cut_shards, plan
from augmill.tasks.publish import ReleaseConfig, build_release, commit_release, put_release, trained_classes
from augmill.tasks.recipe import Recipe
from augmill.tasks.refusals import require_fit
from augmill.tasks.retries import COMMIT, STORE
from augmill.tasks.ribs import check_config, generator_config
from augmill.tasks.settle import SettleConfig, settle
from augmill.tasks.split import prepare_split, split
from augmill.tasks.stage import fetch
from augmill.tasks.store import Store
from augmill.tasks.targets import targets_for
from augmill.tasks.trainers import TRAINERS
from augmill.tasks.verdict import folds_for


@dataclass
class Snapshot:
    """What one run has made so far; what is missing was not reached."""

    recipe: Recipe
    name: str
    expected: str | None  # the release that was current when the run began
    ingested: Artifact | None = None
    split: Artifact | None = None
    checks: dict[str, Artifact] = field(default_factory=dict)
    settled: Artifact | None = None
    mixed: Artifact | None = None
    evidence: dict[str, Any] | None = None
    shards: list[Artifact] = field(default_factory=list)


def read_json(store: Store, artifact: Artifact, name: str) -> Any:
    return json.loads(fetch(store, artifact, name).read_text(encoding="utf-8"))


def augment(
    recipe: Recipe, steps: Steps, *, as_of: str | None, command: str, republish: bool
) -> tuple[Outcome, Snapshot]:
    """Runs the whole path and publishes what the outcome calls for. Raises AugmillError where nothing can be said."""
    name = as_of or "all"
    for choice in recipe.generators:
        choice.build().preflight()
    expected = read_log(steps.site.store, recipe.dataset).current().get(name)
    snapshot = Snapshot(recipe, name, expected)
    try:
        read_source(snapshot, steps, as_of)
    except UnsoundSource as error:
        action = recipe.outcomes.unsound_source
        if expected is None and action == "keep_current":
            raise  # there is nothing to keep
        reason = f"{error.where}: {error.problem}. What to do: {error.fix}"
        return Outcome("unsound_source", action, reason, release=expected), snapshot
    try:
        produce(snapshot, steps)
        outcome = judge_evidence(prove(snapshot, steps), recipe)
    except NotProduced as error:
        outcome = Outcome("not_produced", recipe.outcomes.not_produced, str(error))
    return publish(snapshot, steps, outcome, command=command, republish=republish), snapshot


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


def produce(snapshot: Snapshot, steps: Steps) -> None:
    """Fits generators and checks, then asks in rounds until every class has its target or the bounds end it."""
    recipe, split_rows = snapshot.recipe, snapshot.split
    assert split_rows is not None
    generators = {choice.use: generator_config(choice, recipe) for choice in recipe.generators}
    checks = {name: check_config(name, options, recipe) for name, options in recipe.checks.items()}
    try:
        fitted = {name: steps.in_worker(fit, config, split_rows, what=name) for name, config in generators.items()}
        snapshot.checks = {n: steps.in_worker(fit_check, config, split_rows, what=n) for n, config in checks.items()}
    except AugmillError as error:
        if not error.retryable:
            raise
        raise NotProduced(f"a generator could not be fitted: {error.problem}") from error
    counts = read_json(steps.site.store, split_rows, "summary.json")["classes"]["train"]
    shares = {choice.use: choice.share for choice in recipe.generators}
    ratio = recipe.mix.max_ratio
    targets, asked = targets_for(recipe.target, counts, ratio), {name: dict[str, int]() for name in generators}
    for number in range(1, recipe.refill.max_rounds + 1):
        before = [snapshot.settled] if snapshot.settled else []
        planned = steps.do(
            plan, PlanConfig(recipe.target, recipe.refill, shares, ratio), split_rows, before, what=str(number)
        )
        segments = read_json(steps.site.store, planned, "plan.json")["segments"]
        if not segments:
            return
        if steps.site.deadline is not None and time.monotonic() >= steps.site.deadline:
            raise NotProduced("the run's deadline came before every class had its target")
        configs = [
            ShardConfig(
                generators[part[0]["generator"]], tuple(checks.values()), tuple(part), tuple(counts), recipe.validation
            )
            for part in cut_shards(segments, recipe.run.shard_rows)
        ]
        inputs = [[fitted[config.generator.rib], *snapshot.checks.values()] for config in configs]
        shards = steps.run_shards(configs, inputs, recipe.run, round_number=number)
        snapshot.shards += require_valid(steps, configs, shards, recipe)
        for part in segments:
            asked[part["generator"]][part["stratum"]] = part["start"] + part["count"]
        config = SettleConfig(recipe.settle, targets, shares, recipe.columns.fields, copy.deepcopy(asked))
        snapshot.settled = steps.do(settle, config, snapshot.shards, before, what=str(number))


def require_valid(steps: Steps, configs: list[ShardConfig], shards: list[Artifact], recipe: Recipe) -> list[Artifact]:
    """The round's shards; one whose Great Expectations suite failed is set aside. Raises NotProduced past the bound."""
    kept = []
    for number, (config, shard) in enumerate(zip(configs, shards, strict=True)):
        if not shard.key.startswith("generate/"):
            kept.append(shard)
            continue
        summary = read_json(steps.site.store, shard, "validation.json")
        if summary["outcome"] in ("failed", "errored"):
            problems = "; ".join(summary["problems"])
            steps.failures.append({"shard": number, "reason": "validation", "error": problems})
            aside = SetAsideConfig(config.generator.rib, config.generator.fields, config.segments, "validation")
            shard = set_aside(steps.site, aside)  # noqa: PLW2901
        kept.append(shard)
    failed = sum(not shard.key.startswith("generate/") for shard in kept)
    if failed > recipe.run.max_failed_shards * len(kept):
        last = steps.failures[-1]
        raise NotProduced(f"{failed} of {len(kept)} shards failed; the last one: {last['error']}")
    return kept


def prove(snapshot: Snapshot, steps: Steps) -> dict[str, Any]:
    """Mixes what was accepted and measures it on held-out real rows. Raises NotProduced where there is nothing to prove."""
    recipe = snapshot.recipe
    snapshot.mixed = mix_accepted(snapshot, steps)
    assert snapshot.split is not None and snapshot.settled is not None
    trainer = recipe.trainer
    config = EvaluateConfig(
        gate=recipe.gate,
        trainer=trainer.use,
        trainer_version=TRAINERS[trainer.use].VERSION,
        trainer_options=trainer.options,
        trainer_content=TRAINERS[trainer.use](trainer.options).content(),
        seed=recipe.seed,
        fields=recipe.columns.fields,
        validation=recipe.validation,
    )
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


def judge_in_folds(snapshot: Snapshot, steps: Steps, evaluated: Artifact, folds: int) -> Artifact:
    """The whole path inside each fold; their held-out rows together judge. Raises NotProduced where a fold makes none."""
    recipe, trainer = snapshot.recipe, snapshot.recipe.trainer
    assert snapshot.split is not None
    judge_config = JudgeConfig(
        gate=recipe.gate,
        trainer=trainer.use,
        trainer_version=TRAINERS[trainer.use].VERSION,
        trainer_options=trainer.options,
        trainer_content=TRAINERS[trainer.use](trainer.options).content(),
        seed=recipe.seed,
        fields=recipe.columns.fields,
    )
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
        raise NotProduced("every class has its target already; nothing was asked for")
    ledger = read_json(steps.site.store, snapshot.settled, "ledger.json")
    short = {name: count for name, count in ledger["shortfall"].items() if count}
    if short and recipe.refill.on_shortfall == "refuse":
        found = ", ".join(f"{name} lacks {count:,}" for name, count in list(short.items())[:5])
        raise NotProduced(f"{len(short)} class(es) could not be filled ({found}) and refill.on_shortfall is refuse")
    if not sum(ledger["accepted"].values()):
        raise NotProduced("no generated row was accepted")
    mix_config = MixConfig(recipe.mix, recipe.publish.copy, recipe.columns.fields, recipe.seed)
    return steps.do(mix, mix_config, snapshot.split, snapshot.settled)


def publish(snapshot: Snapshot, steps: Steps, outcome: Outcome, *, command: str, republish: bool) -> Outcome:
    """One immutable release and one log entry, as the outcome's action says."""
    recipe, store = snapshot.recipe, steps.site.store
    assert snapshot.ingested is not None and snapshot.split is not None
    if outcome.action in ("keep_current", "fail"):
        return dataclasses.replace(outcome, release=snapshot.expected)
    if snapshot.mixed is None or outcome.arrangement != "mix":
        outcome = dataclasses.replace(outcome, arrangement=outcome.arrangement if snapshot.mixed else "real")
    mixed = snapshot.mixed or _real_alone(snapshot, steps)
    recipe_hash = recipe.hash()
    config = ReleaseConfig(
        recipe.dataset,
        snapshot.name,
        outcome.arrangement,
        recipe.publish.prefix,
        recipe.columns,
        recipe_hash,
        recipe.task,
    )
    ledger = [snapshot.settled] if snapshot.settled else []
    built = steps.do(build_release, config, snapshot.ingested, snapshot.split, mixed, ledger)
    with steps.progress.stage("publish") as shown:
        name, tags = f"publish {steps.label}", steps.tags
        released_by = provenance(recipe, steps, command)
        put = functools.partial(put_release, store, recipe.dataset, built, released_by)
        release = steps.orchestrator.call(put, name=name, retry=STORE, tags=tags)
        entry = {
            "reason": outcome.reason,
            "outcome": outcome.name,
            "arrangement": outcome.arrangement,
            "recipe": recipe_hash,
            "verdict": outcome.numbers,
            "approved_by": f"rule {recipe.gate.rule}" if outcome.name == "published" else f"outcomes.{outcome.name}",
        }
        commit = functools.partial(
            commit_release, steps.site, config, release,
            expected=snapshot.expected, entry=entry, command=command, force=republish,
        )  # fmt: skip
        appended = steps.orchestrator.call(commit, name=name, retry=COMMIT, tags=tags)
        shown.note = release if appended else f"{release}, already published"
    return dataclasses.replace(outcome, release=release, appended=appended)


def _real_alone(snapshot: Snapshot, steps: Steps) -> Artifact:
    """The training set where nothing was produced: real rows and their order."""
    recipe = snapshot.recipe
    config = MixConfig(recipe.mix, recipe.publish.copy, recipe.columns.fields, recipe.seed)
    assert snapshot.split is not None
    return steps.do(arrange_real, config, snapshot.split)
