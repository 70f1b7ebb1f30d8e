"""Producing: generators and checks fitted, candidates asked for in rounds until every class has its target."""

from __future__ import annotations

import copy
import logging
import time
from typing import Any

from augmill.flows import source as reading
from augmill.flows.outcome import CutShort, NothingToMake, NotProduced
from augmill.flows.snapshot import Snapshot, read_json
from augmill.flows.steps import OutOfTime, Steps
from augmill.tasks.contracts import Artifact
from augmill.tasks.errors import AugmillError, DataError, UserError
from augmill.tasks.recipe.nights import Refit
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import Calendar, parse_days
from augmill.tasks.stages.drift import DriftConfig, Profile, drift, profile, reference
from augmill.tasks.stages.extensions import check_config, checks_of, generator_config
from augmill.tasks.stages.fit import fit, fit_check
from augmill.tasks.stages.generate import SetAsideConfig, ShardConfig, set_aside
from augmill.tasks.stages.plan import AdaptiveConfig, PlanConfig, cut_shards, plan, plan_adaptive
from augmill.tasks.stages.settle import SettleConfig, settle
from augmill.tasks.stages.targets import nothing_to_make, targets_for
from augmill.tasks.stages.weigh import WeighConfig, weigh

# --- How each round's rows are split over the generators: by the recipe's shares, or by what the rounds before --------


class Policy:
    """Plans the rounds of one snapshot. ``shares``: by which the round that was planned last is to be settled."""

    def __init__(self, snapshot: Snapshot, steps: Steps, known: tuple[str, ...] | None) -> None:
        recipe = snapshot.recipe
        self._snapshot, self._steps = snapshot, steps
        self.shares = {choice.use: choice.share for choice in recipe.generators}
        self._base = PlanConfig(recipe.target, recipe.refill, self.shares, recipe.mix.max_ratio, known)
        self._adaptive = recipe.plan.policy == "adaptive" and len(self.shares) > 1

    def plan(self, number: int) -> list[dict[str, Any]]:
        """What round ``number``, from 1, asks for; nothing where every class has its target, or nobody has more."""
        split, settled = self._snapshot.split, self._snapshot.settled
        assert split is not None
        before = [settled] if settled else []
        if self._adaptive:
            if settled and number <= self._snapshot.recipe.plan.rounds:
                self._weigh(split, settled, number)
            config = AdaptiveConfig(self._snapshot.recipe.plan, self._base, number)
            weighed = self._snapshot.weighed[-1:]
            planned = self._steps.do(plan_adaptive, config, split, before, weighed, what=str(number))
        else:
            planned = self._steps.do(plan, self._base, split, before, what=str(number))
        segments: list[dict[str, Any]] = read_json(self._steps.site.store, planned, "plan.json")["segments"]
        return segments

    def _weigh(self, split: Artifact, settled: Artifact, number: int) -> None:
        recipe, store = self._snapshot.recipe, self._steps.site.store
        config = WeighConfig(recipe.plan, self._base.shares, recipe.columns.fields, recipe.splits.near, recipe.seed)
        tell = lambda artifact: told(read_json(store, artifact, "weights.json"), artifact.rows)  # noqa: E731
        weighed = self._steps.do(weigh, config, split, settled, what=str(number - 1), tell=tell)
        self._snapshot.weighed.append(weighed)
        weights = read_json(store, weighed, "weights.json")["weights"]
        self.shares = {name: weights[name] for name in self._base.shares}


def told(found: dict[str, Any], judged: int) -> str:
    """The weights in one line: of the largest first, the points its rows gained over repeated real ones."""
    parts = []
    for name, weight in sorted(found["weights"].items(), key=lambda item: -item[1]):
        gain = found["gains"].get(name)
        parts.append(f"{name} {weight:.0%}" + (f" ({gain['gain']:+.1f})" if gain else ""))
    return f"{', '.join(parts)}; by {judged:,} train rows"


def split_table(snapshot: Snapshot, steps: Steps) -> list[dict[str, Any]]:
    """For the report: of each measurement and generator what had been asked and had passed, its gain, its new weight."""
    table = []
    for number, weighed in enumerate(snapshot.weighed, 1):
        found = read_json(steps.site.store, weighed, "weights.json")
        for name in (choice.use for choice in snapshot.recipe.generators):
            rows = found["rows"].get(name, {"asked": 0, "passed": 0})
            gain = found["gains"].get(name, {"gain": None, "error": None})
            table.append({"round": number, "generator": name, **rows, **gain, "weight": found["weights"][name]})
    return table


# --- Refits (law 7): on which night's window a snapshot's generators are fitted, from the source and the calendar -----


_log = logging.getLogger("augmill")
Window = tuple[Artifact, Artifact]  # ingested, split


def split_to_fit(snapshot: Snapshot, steps: Steps) -> Artifact:
    """The split on which the snapshot's generators are fitted: its own, or that of an earlier night as the recipe says.

    Notes in ``snapshot.drift`` how far the rows have moved since. A snapshot of all there is, and a fold, which has no
    ingested rows of its own, are fitted on their own split.
    """
    recipe, calendar = snapshot.recipe, snapshot.recipe.partitions.calendar
    assert snapshot.split is not None
    if not calendar.dated or snapshot.name == "all" or snapshot.ingested is None:
        return snapshot.split
    windows = _Windows(snapshot, steps)
    name = fit_name(recipe.refit, calendar, snapshot.name, windows) if recipe.refit.asked else snapshot.name
    against = name if name != snapshot.name else calendar.step(name, -1)
    then, now = windows.profile(against), windows.profile(snapshot.name)
    assert now is not None
    snapshot.drift = {"fitted": name, "against": against, **(drift(now, then) if then else {})}
    return windows.split(name)


def fit_name(refit: Refit, calendar: Calendar, name: str, windows: _Windows) -> str:
    """The night whose window counts: of the grid, or the last one that drifted since; else the first that can be read.

    Where history begins after the grid's night, or too few rows stood there to be split, it is the first night after
    it with enough of them: the source up to that night decides, and the last one, ``name``, always can be read.
    """
    days = refit.every if refit.every is not None else str(refit.max_age)
    nights = calendar.between(calendar.boundary(name, parse_days(days)), name)
    if refit.when_drifted is None:
        return next(night for night in nights if windows.read(night))
    found = reference(nights, windows.profile, refit.when_drifted)
    assert found is not None  # the snapshot's own window has a profile
    return found


class _Windows:
    """The rows as of other nights, each read once."""

    def __init__(self, snapshot: Snapshot, steps: Steps) -> None:
        assert snapshot.ingested is not None and snapshot.split is not None
        self.recipe, self.steps = snapshot.recipe, steps
        self.known: dict[str, Window | None] = {snapshot.name: (snapshot.ingested, snapshot.split)}

    def read(self, night: str) -> Window | None:
        """None where the rows of that night cannot be split: none yet, too few of a class."""
        if night not in self.known:
            try:
                self.known[night] = reading.read_night(self.steps, self.recipe, night)
            except (DataError, UserError) as error:  # the snapshot's own window was read: it lies in that night's rows
                _log.info("Nothing is fitted on, or compared with, the rows as of %s: %s", night, error.problem)
                self.known[night] = None
        return self.known[night]

    def split(self, night: str) -> Artifact:
        window = self.read(night)
        assert window is not None
        return window[1]

    def profile(self, night: str) -> Profile | None:
        window = self.read(night)
        if window is None:
            return None
        made = self.steps.do(profile, DriftConfig(self.recipe.columns.fields), window[0], what=night)
        found: Profile = read_json(self.steps.site.store, made, "profile.json")
        return found


# --- Rounds -----------------------------------------------------------------------------------------------------------


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
        inputs = [
            [fitted[c.generator.extension], *(snapshot.checks[check.extension] for check in c.checks)] for c in configs
        ]
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
            aside = SetAsideConfig(config.generator.extension, config.generator.fields, config.segments, "validation")
            shard = set_aside(steps.site, aside)  # noqa: PLW2901
        kept.append(shard)
    failed = sum(not shard.key.startswith("generate/") for shard in kept)
    if failed > recipe.run.max_failed_shards * len(kept):
        last = steps.failures[-1]
        raise NotProduced(f"{failed} of {len(kept)} shards failed; the last one: {last['error']}")
    return kept
