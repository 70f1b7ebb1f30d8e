"""Every stage as a step, which is a Prefect task: how often each is tried, what its runs are called, where it runs.

``call.make`` runs in this process, within ``run.stage_minutes``; ``call.make_in_worker`` in a process that is killed at
that time. Artifacts are given by position and make the edges of Prefect's graph; all else is given by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from augmill.flows.step import StepCall, step
from augmill.flows.units import Units, read_units
from augmill.tasks.boundary.retries import COMMIT, READ, SHARD, STAGE, STORE
from augmill.tasks.contracts import Artifact, Tell
from augmill.tasks.stages import drift as _drift
from augmill.tasks.stages import evaluate as _evaluate
from augmill.tasks.stages import extensions as _extensions
from augmill.tasks.stages import fit as _fit
from augmill.tasks.stages import gather as _gather
from augmill.tasks.stages import generate as _generate
from augmill.tasks.stages import ingest as _ingest
from augmill.tasks.stages import mix as _mix
from augmill.tasks.stages import plan as _plan
from augmill.tasks.stages import publish as _publish
from augmill.tasks.stages import settle as _settle
from augmill.tasks.stages import split as _split
from augmill.tasks.stages import stratify as _stratify
from augmill.tasks.stages import unit_rows as _unit_rows
from augmill.tasks.stages import unlabelled as _unlabelled
from augmill.tasks.stages import weigh as _weigh

Many = list[Artifact]

# --- reading: what the user's source answers may change in seconds ---


@step(READ)
def ingest(call: StepCall[Units], *, units: Sequence[_unit_rows.IngestConfig]) -> Units:
    with call.watched() as (site, seen):
        read = read_units(site, units)
    fresh = sum(event.stage == _ingest.ingest.name and not event.reused for event in seen)
    files = f"{sum(len(unit.files) for unit in units):,} file(s)"
    call.say(f"{files}, {fresh:,} unit(s) new" if fresh else files, reused=not fresh)
    return read


@step(STAGE)
def gather(call: StepCall[Artifact], units: Units, *, config: _gather.GatherConfig) -> Artifact:
    return call.make(_gather.gather, config, units.artifacts)


@step(READ)
def unlabelled(call: StepCall[Artifact], *, config: _unlabelled.UnlabelledConfig) -> Artifact:
    return call.make(_unlabelled.unlabelled, config)


@step(STAGE)
def split(call: StepCall[Artifact], rows: Artifact, unlabelled: Many, *, config: _split.SplitConfig) -> Artifact:
    return call.make(_split.split, config, rows, unlabelled)


@step(STAGE)
def stratify(
    call: StepCall[Artifact], split: Artifact, learnt: Artifact, *, config: _stratify.StratifyConfig
) -> Artifact:
    return call.make(_stratify.stratify, config, split, learnt)


@step(STAGE, what="{night}")
def profile(call: StepCall[Artifact], rows: Artifact, *, night: str, config: _drift.DriftConfig) -> Artifact:
    return call.make(_drift.profile, config, rows)


# --- producing ---


@step(STAGE, what="{name}")
def fit(call: StepCall[Artifact], split: Artifact, *, name: str, config: _extensions.FitConfig) -> Artifact:
    return call.make_in_worker(_fit.fit, config, split)


@step(STAGE, what="{name}")
def fit_check(call: StepCall[Artifact], split: Artifact, *, name: str, config: _extensions.FitConfig) -> Artifact:
    return call.make_in_worker(_fit.fit_check, config, split)


@step(STAGE, what="{number}")
def plan(
    call: StepCall[Artifact], split: Artifact, settled: Many, *, number: int, config: _plan.PlanConfig
) -> Artifact:
    return call.make(_plan.plan, config, split, settled)


@step(STAGE, what="{config.number}")
def plan_adaptive(
    call: StepCall[Artifact], split: Artifact, settled: Many, weighed: Many, *, config: _plan.AdaptiveConfig
) -> Artifact:
    return call.make(_plan.plan_adaptive, config, split, settled, weighed)


@step(STAGE, what="{number}")
def weigh(
    call: StepCall[Artifact],
    split: Artifact,
    settled: Artifact,
    *,
    number: int,
    config: _weigh.WeighConfig,
    words: Callable[[Artifact], str],
) -> Artifact:
    return call.make(_weigh.weigh, config, split, settled, words=words)


@step(SHARD, what="{place}", shown=False)  # run.shard_retries: how often; run.shard_minutes: how long
def generate(
    call: StepCall[Artifact],
    planned: Artifact,
    fitted: Artifact,
    checks: Many,
    *,
    place: str,
    config: _generate.ShardConfig,
    seconds: float,
    tell: Tell,
) -> Artifact:
    return call.make_in_worker(_generate.generate, config, fitted, *checks, seconds=seconds, tell=tell)


@step(STAGE, what="{number}", shown=False)
def validate(call: StepCall[Artifact], shards: Many, *, number: int, config: _generate.RoundConfig) -> Artifact:
    return call.make(_generate.validate, config, shards)


@step(STAGE, what="{number}")
def settle(
    call: StepCall[Artifact], shards: Many, settled: Many, *, number: int, config: _settle.SettleConfig
) -> Artifact:
    return call.make(_settle.settle, config, shards, settled)


# --- proving ---


@step(STAGE)
def mix(call: StepCall[Artifact], split: Artifact, settled: Artifact, *, config: _mix.MixConfig) -> Artifact:
    return call.make(_mix.mix, config, split, settled)


@step(STAGE)
def real(call: StepCall[Artifact], split: Artifact, *, config: _mix.MixConfig) -> Artifact:
    return call.make(_mix.arrange_real, config, split)


@step(STAGE)
def evaluate(
    call: StepCall[Artifact], split: Artifact, mixed: Artifact, settled: Artifact, *, config: _evaluate.EvaluateConfig
) -> Artifact:
    return call.make(_evaluate.evaluate, config, split, mixed, settled)


@step(STAGE, what="{number} of {config.folds}")
def fold(call: StepCall[Artifact], split: Artifact, *, number: int, config: _evaluate.FoldConfig) -> Artifact:
    return call.make(_evaluate.split_fold, config, split)


@step(STAGE)
def predict_fold(
    call: StepCall[Artifact], split: Artifact, mixed: Artifact, *, config: _evaluate.JudgeConfig
) -> Artifact:
    return call.make(_evaluate.predict_fold, config, split, mixed)


@step(STAGE)
def judge_folds(
    call: StepCall[Artifact], evaluated: Artifact, predicted: Many, *, config: _evaluate.JudgeConfig
) -> Artifact:
    return call.make(_evaluate.judge_folds, config, evaluated, predicted)


@step(STAGE)
def measure(
    call: StepCall[dict[str, Any]], split: Artifact, settled: Artifact, *, cell: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    """Of a comparison, which has no stage for it: its cells are kept by their own identity."""
    return cell(call.run, split, settled)


# --- publishing ---


@step(STAGE)
def release(
    call: StepCall[Artifact],
    rows: Artifact,
    split: Artifact,
    mixed: Artifact,
    settled: Many,
    evaluated: Many,
    *,
    config: _publish.ReleaseConfig,
) -> Artifact:
    return call.make(_publish.build_release, config, rows, split, mixed, settled)


class Released:
    """The id of a release that was put; a class of its own because Prefect links no strings reliably."""

    __slots__ = ("__weakref__", "id")

    def __init__(self, name: str) -> None:
        self.id = name


@step(STORE, shown=False)
def put(call: StepCall[Released], built: Artifact, *, provenance: dict[str, Any]) -> Released:
    return Released(_publish.put_release(call.run.store, call.run.recipe.dataset, built, provenance))


@step(COMMIT, shown=False)
def publish(call: StepCall[bool], released: Released, *, entry: dict[str, Any]) -> bool:
    """Whether it was appended to the log; it was current already otherwise."""
    run = call.run
    return _publish.commit_releases(
        run.store, run.recipe.dataset, {run.name: (run.expected, released.id)},
        entry=entry, command=run.session.command, force=run.session.republish,
    )  # fmt: skip
