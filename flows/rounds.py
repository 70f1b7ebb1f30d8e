"""Producing: generators and checks fitted, candidates asked for in rounds until every class has its target."""

from __future__ import annotations

import copy
import time

from augmill.flows.outcome import CutShort, NothingToMake, NotProduced
from augmill.flows.policy import Policy
from augmill.flows.refits import split_to_fit
from augmill.flows.snapshot import Snapshot, read_json
from augmill.flows.steps import OutOfTime, Steps
from augmill.tasks.contracts import Artifact, AugmillError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.stages.extensions import check_config, checks_of, generator_config
from augmill.tasks.stages.fit import fit, fit_check
from augmill.tasks.stages.plan import cut_shards
from augmill.tasks.stages.settle import SettleConfig, settle
from augmill.tasks.stages.targets import nothing_to_make, targets_for
from augmill.tasks.stages.x_generate import SetAsideConfig, ShardConfig, set_aside


def produce(snapshot: Snapshot, steps: Steps) -> None:
    """Fits generators and checks, then asks in rounds until every class has its target or the bounds end it."""
    recipe, split_rows = snapshot.recipe, snapshot.split
    assert split_rows is not None
    counts = read_json(steps.site.store, split_rows, "summary.json")["classes"]["train"]
    if nothing_to_make(recipe.target, counts, recipe.mix.max_ratio) is not None:
        return  # fitting a model takes hours
    generators = {choice.use: generator_config(choice, recipe) for choice in recipe.generators}
    taught = any(choice.label_by != "generator" for choice in recipe.generators)
    names = [name for name in recipe.checks if name != "teacher" or taught]
    checks = {name: check_config(name, recipe.checks[name], recipe) for name in names}
    judges = {choice.use: checks_of(choice, checks) for choice in recipe.generators}
    try:
        learnt = split_to_fit(snapshot, steps)
        fitted = {name: steps.in_worker(fit, config, learnt, what=name) for name, config in generators.items()}
        snapshot.checks = {n: steps.in_worker(fit_check, config, split_rows, what=n) for n, config in checks.items()}
    except AugmillError as error:
        if not (error.retryable or isinstance(error, OutOfTime)):
            raise
        raise CutShort(f"a generator could not be fitted: {error.problem}") from error
    known = known_classes(steps, learnt, list(counts)) if learnt != split_rows else None
    policy, settled_by = Policy(snapshot, steps, known), dict[str, float]()
    targets, asked = targets_for(recipe.target, counts, recipe.mix.max_ratio), {n: dict[str, int]() for n in generators}
    for number in range(1, recipe.refill.max_rounds + 1):
        segments = policy.plan(number)
        if not segments and settled_by in ({}, policy.shares):
            return
        if steps.site.deadline is not None and time.monotonic() >= steps.site.deadline:
            raise CutShort("the run's deadline came before every class had its target")
        configs = [
            ShardConfig(generators[name], judges[name], tuple(part), tuple(counts), recipe.validation)
            for part in cut_shards(segments, recipe.run.shard_rows)
            for name in (part[0]["generator"],)
        ]
        inputs = [[fitted[c.generator.rib], *(snapshot.checks[check.rib] for check in c.checks)] for c in configs]
        shards = steps.run_shards(configs, inputs, recipe.run, round_number=number)
        snapshot.shards += require_valid(steps, configs, shards, recipe)
        for part in segments:
            asked[part["generator"]][part["stratum"]] = part["start"] + part["count"]
        before = [snapshot.settled] if snapshot.settled else []
        settled_by = policy.shares
        config = SettleConfig(recipe.settle, targets, settled_by, recipe.columns.fields, copy.deepcopy(asked))
        snapshot.settled = steps.do(settle, config, snapshot.shards, before, what=str(number))


def not_asked(snapshot: Snapshot, steps: Steps) -> NotProduced:
    """Why no row was asked for: the target is met, or what lacks rows came after the generators were fitted."""
    recipe = snapshot.recipe
    assert snapshot.split is not None
    counts = read_json(steps.site.store, snapshot.split, "summary.json")["classes"]["train"]
    met = nothing_to_make(recipe.target, counts, recipe.mix.max_ratio)
    if met is not None:
        return NothingToMake(met)
    return NotProduced(
        "the classes that lack rows came after the generators were fitted (refit); nothing was asked for"
    )


def known_classes(steps: Steps, learnt: Artifact, names: list[str]) -> tuple[str, ...]:
    """Those of the classes that generators fitted on another night's rows can be asked for."""
    fitted_to = read_json(steps.site.store, learnt, "summary.json")["classes"]["train"]
    return tuple(name for name in names if name in fitted_to)


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
