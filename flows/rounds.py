"""Producing: generators and checks fitted, candidates asked for in rounds until every class has its target."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from augmill.flows import stages
from augmill.flows.outcome import CutShort, NothingToMake, NotProduced
from augmill.flows.run import CUT_SHORT, Run
from augmill.flows.source import read_night
from augmill.flows.step import OutOfTime, map_bounded
from augmill.tasks.contracts import Artifact
from augmill.tasks.errors import AugmillError, DataError, DeadlineExceeded, UserError
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.recipe.nights import Refit
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import Calendar, parse_days
from augmill.tasks.stages.drift import DriftConfig, Profile, drift, reference
from augmill.tasks.stages.extensions import FitConfig, check_config, checks_of, generator_config
from augmill.tasks.stages.generate import (
    PaceConfig,
    RoundConfig,
    SetAsideConfig,
    ShardConfig,
    generate,
    pace,
    sample,
    set_aside,
)
from augmill.tasks.stages.plan import AdaptiveConfig, PlanConfig, cut_shards, join_segments
from augmill.tasks.stages.settle import SettleConfig
from augmill.tasks.stages.stratify import StratifyConfig
from augmill.tasks.stages.targets import nothing_to_make, targets_for
from augmill.tasks.stages.user_columns import codes_of
from augmill.tasks.stages.weigh import WeighConfig
from augmill.tasks.store.stage import Event, read_json, read_manifest
from augmill.tasks.store.store import Store

_log = logging.getLogger("augmill")
BAD = ("failed", "errored")  # outcomes of a validation
ASIDE = f"{set_aside.name}/"  # how the keys begin of what stands for a shard without rows


@dataclass(frozen=True)
class Made:
    """What was produced, as far as it came; ``missing`` says why it came no further, where there is nothing to prove."""

    drift: dict[str, Any] = field(default_factory=dict)  # of the rows, since those the generators were fitted on
    checks: dict[str, Artifact] = field(default_factory=dict)
    weighed: tuple[Artifact, ...] = ()  # plan.policy: adaptive: the weights, measurement by measurement
    shards: tuple[Artifact, ...] = ()
    settled: Artifact | None = None
    missing: NotProduced | None = None
    split: Artifact | None = None  # that of the snapshot by the strata of another night's fit, where these count


def produce(run: Run, split: Artifact, ingested: Artifact | None) -> Made:
    """Asks in rounds until every class has its target or the bounds end it: plan, generate, settle.

    ``ingested``: None inside a fold, whose generators are fitted on its own split.
    """
    made = Made()
    try:
        for made in _rounds(run, split, ingested):  # noqa: B007 - the last one counts, however it ends
            pass
    except NotProduced as error:
        return replace(made, missing=error)
    return made


def _rounds(run: Run, split: Artifact, ingested: Artifact | None) -> Iterator[Made]:
    """What was made, after each step that others may want to see."""
    recipe, made = run.recipe, Made()
    counts = train_counts(run, split)
    if nothing_to_make(recipe.target, counts, recipe.mix.max_ratio) is not None:
        return  # fitting a model takes hours
    with _cut_short():
        learnt, found = split_to_fit(run, split, ingested)
    made = replace(made, drift=found)
    if recipe.problem.fits_strata and learnt != split:
        config = StratifyConfig(recipe.learnt, recipe.problem.VERSION, PROBLEMS.codes(recipe.learnt))
        split = stages.stratify(run, split, learnt, config=config)
        made = replace(made, split=split)
    yield made
    with _cut_short():
        fitted, checks = _fit(run, split, learnt)
    made = replace(made, checks=checks)
    yield made
    counts = train_counts(run, split)
    known = known_classes(run.store, learnt, list(counts)) if learnt != split else None
    policy, settled_by = Policy(run, known), dict[str, float]()
    targets, asked = targets_for(recipe.target, counts, recipe.mix.max_ratio), {n: dict[str, int]() for n in fitted}
    for number in range(1, recipe.refill.max_rounds + 1):
        planned, made = policy.plan(number, split, made)
        yield made
        segments = read_json(run.store, planned, "plan.json")["segments"]
        if not segments and settled_by in ({}, policy.shares):
            return
        if run.out_of_time():
            raise CutShort("the run's deadline passed before every class had reached its target")
        configs = shard_configs(recipe, segments, list(counts))
        shards = generate_round(run, number, planned, configs, fitted, made.checks)
        made = replace(made, shards=made.shards + tuple(shards))
        yield made
        for part in segments:
            asked[part["generator"]][part["stratum"]] = part["start"] + part["count"]
        settled_by = policy.shares
        rows = codes_of(recipe.columns, recipe.learnt)
        settle = SettleConfig(recipe.settle, targets, settled_by, recipe.columns.fields, copy.deepcopy(asked), rows)
        before = [made.settled] if made.settled else []
        made = replace(made, settled=stages.settle(run, list(made.shards), before, number=number, config=settle))
        yield made


def train_counts(run: Run, split: Artifact) -> dict[str, int]:
    """Train rows by stratum."""
    counts: dict[str, int] = read_json(run.store, split, "summary.json")["classes"]["train"]
    return counts


@contextlib.contextmanager
def _cut_short() -> Iterator[None]:
    """What another try may cure, or the run's deadline, ends the producing and not the run."""
    try:
        yield
    except AugmillError as error:
        if not (error.retryable or isinstance(error, OutOfTime)):
            raise
        raise CutShort(f"a generator could not be fitted: {error.problem}") from error


def _fit(run: Run, split: Artifact, learnt: Artifact) -> tuple[dict[str, Artifact], dict[str, Artifact]]:
    """(the generators, fitted on ``learnt``; the checks), by name."""
    recipe = run.recipe
    fitted = {
        choice.use: stages.fit(run, learnt, name=choice.use, config=generator_config(choice, recipe))
        for choice in recipe.generators
    }
    checks = {
        name: stages.fit_check(run, split, name=name, config=config) for name, config in check_configs(recipe).items()
    }
    return fitted, checks


def check_configs(recipe: Recipe) -> dict[str, FitConfig]:
    """Of the checks that are needed: the teacher only where a generator's rows are labelled by it."""
    taught = any(choice.label_by != "generator" for choice in recipe.generators)
    names = [name for name in recipe.checks if name != "teacher" or taught]
    return {name: check_config(name, recipe.checks[name], recipe) for name in names}


def not_asked(run: Run, split: Artifact) -> NotProduced:
    """Why no row was asked for: the target is met, or what lacks rows came after the generators were fitted."""
    counts = train_counts(run, split)
    met = nothing_to_make(run.recipe.target, counts, run.recipe.mix.max_ratio)
    if met is not None:
        return NothingToMake(met)
    return NotProduced(
        "the classes that lack rows appeared after the generators were fitted (refit), so nothing was asked for"
    )


def known_classes(store: Store, learnt: Artifact, names: list[str]) -> tuple[str, ...]:
    """Those of the classes that generators fitted on another night's rows can be asked for."""
    fitted_to = read_json(store, learnt, "summary.json")["classes"]["train"]
    return tuple(name for name in names if name in fitted_to)


# --- The shards of one round ------------------------------------------------------------------------------------------


def shard_configs(recipe: Recipe, segments: list[dict[str, Any]], strata: list[str]) -> list[ShardConfig]:
    """The round's segments cut into shards, each of one generator, with the checks that judge its rows."""
    generators = {choice.use: generator_config(choice, recipe) for choice in recipe.generators}
    checks = check_configs(recipe)
    judges = {choice.use: checks_of(choice, checks) for choice in recipe.generators}
    return [
        ShardConfig(
            generators[name], judges[name], tuple(part), tuple(strata), recipe.validation, near=recipe.settle.near
        )
        for part in cut_shards(segments, recipe.run.first_rows)
        for name in (part[0]["generator"],)
    ]


def generate_round(
    run: Run,
    number: int,
    planned: Artifact,
    configs: Sequence[ShardConfig],
    fitted: dict[str, Artifact],
    checks: dict[str, Artifact],
) -> list[Artifact]:
    """Every shard's artifact, in order. One that failed for good, or whose validation failed, is set aside: its rows

    count as undelivered. Raises NotProduced where more of them are than ``run.max_failed_shards`` allows.
    """
    if not configs:
        return []
    how, before = run.recipe.run, len(run.events)
    step = stages.generate.with_tries(1 + how.shard_retries)
    total = sum(segment["count"] for config in configs for segment in config.segments)
    key = f"augmill-{run.recipe.dataset.replace('_', '-')}-round-{number}"
    for bank in run.banks.values():
        bank.refresh()  # what the round before, or another snapshot, has sampled

    with run.progress.stage(f"{run.place} generate {number}".strip(), total, "rows") as shown:
        bar = run.artifacts.bar(key, total, "rows of this round")

        def one(job: tuple[int, ShardConfig]) -> Artifact:
            shard, config = job
            own = [checks[check.extension] for check in config.checks]
            tell = shown.tell_part(shard, sum(segment["count"] for segment in config.segments))
            try:
                return step(
                    run, planned, fitted[config.generator.extension], own,
                    place=f"{number}.{shard}", config=config, seconds=60 * how.shard_minutes, tell=tell,
                )  # fmt: skip
            except OutOfTime as error:  # not tried again, and no end of the round: what stands counts
                return _give_up(run, number, job, error)

        def make(first: int, some: Sequence[ShardConfig]) -> list[Artifact]:
            def done(shard: int, artifact: Artifact) -> None:
                shown.advance(artifact.rows, part=first + shard)
                bar.advance(artifact.rows)

            return map_bounded(
                one,
                list(enumerate(some, first)),
                run.stop,
                limit=2 * run.session.pool.size,
                on_done=done,
                give_up=lambda job, error: _give_up(run, number, job, error),
            )

        head, rest = _first_shards(run, configs)
        shards = make(0, head)
        if rest:
            rest = _join_shards(run, head, shards, rest, fitted, run.events[before:])
            shards += make(len(head), rest)
        shown.note = f"{len(shards)} shards{_from_before(run.events[before:], len(shards))}"
        return _require_valid(run, number, [*head, *rest], shards)


# --- Shards of rows that take seconds: the first few of a generator show how fast it is -------------------------------


HEAD = 4  # shards of a generator by which its pace is known; in a worker's first one it also loads what it needs
SECONDS = 10.0  # that a shard of a fast generator is to take; what a kill costs
MOST_JOINED = 8  # 16,000 rows: what the checks of a shard hold of its rows together grows with them


def _first_shards(run: Run, configs: Sequence[ShardConfig]) -> tuple[list[ShardConfig], list[ShardConfig]]:
    """(the shards to begin with, those that follow once it is known how fast these were).

    All at once where the recipe says how large shards are, or where their size could decide what is set aside.
    """
    if run.recipe.run.shard_rows or run.recipe.validation.min_passed:
        return list(configs), []
    head: list[ShardConfig] = []
    rest: list[ShardConfig] = []
    seen = Counter[str]()
    for config in configs:
        seen[config.generator.extension] += 1
        (head if seen[config.generator.extension] <= HEAD else rest).append(config)
    return head, rest


def _join_shards(
    run: Run,
    head: Sequence[ShardConfig],
    made: Sequence[Artifact],
    rest: Sequence[ShardConfig],
    fitted: dict[str, Artifact],
    events: Sequence[Event],
) -> list[ShardConfig]:
    """The rest, as many together as take ``SECONDS``; as many as in the run that asked this generator first."""
    took = {event.key: event.seconds for event in events if not event.reused}
    fastest: dict[str, float] = {}
    for config, shard in zip(head, made, strict=True):
        if shard.key in took:
            sampled = read_manifest(run.store, shard)["meta"]["spent"]
            seconds = took[shard.key] + sum(took.get(key, 0.0) for key in sampled)
            name = config.generator.extension
            fastest[name] = min(seconds, fastest.get(name, seconds))
    joined: list[ShardConfig] = []
    at_once, free = dict[str, int](), 0
    for config in rest:
        name = config.generator.extension
        if free and joined[-1].generator is config.generator:
            free -= 1
            together = join_segments([*joined[-1].segments, *config.segments])
            joined[-1] = replace(joined[-1], segments=tuple(together))
            continue
        if name not in at_once:
            found = min(MOST_JOINED, int(SECONDS / max(fastest.get(name, SECONDS), 0.001))) or 1
            noted = pace(run.site, PaceConfig(config.generator, config.checks, found), fitted[name])
            at_once[name] = read_json(run.store, noted, "pace.json")["joined"]
        joined.append(config)
        free = at_once[name] - 1
    return joined


def _give_up(run: Run, number: int, job: tuple[int, ShardConfig], error: AugmillError) -> Artifact:
    """Stands in for a shard whose tries are used up: its rows are undelivered, with the reason."""
    reason = CUT_SHORT[0] if isinstance(error, DeadlineExceeded) else CUT_SHORT[1]
    run.failures.append({"round": number, "shard": job[0], "reason": reason, "error": str(error)})
    return _set_aside(run, job[1], reason)


def _set_aside(run: Run, config: ShardConfig, reason: str) -> Artifact:
    aside = SetAsideConfig(
        config.generator.extension, config.generator.fields, config.segments, reason, config.generator.problem
    )
    return set_aside(run.site, aside)


def _require_valid(run: Run, number: int, configs: Sequence[ShardConfig], shards: list[Artifact]) -> list[Artifact]:
    """The round's shards; one whose expectations failed is set aside. Great Expectations judges what is left of them."""
    kept, valid = [], []
    for at, (config, shard) in enumerate(zip(configs, shards, strict=True)):
        kept.append(shard)
        if shard.key.startswith(ASIDE):
            continue
        summary = read_json(run.store, shard, "validation.json")
        if summary["outcome"] in BAD:
            run.failures.append({"shard": at, "reason": "validation", "error": "; ".join(summary["problems"])})
            kept[-1] = _set_aside(run, config, "validation")
        elif summary["passed"]:
            valid.append(shard)
    failed = sum(shard.key.startswith(ASIDE) for shard in kept)
    if failed > run.recipe.run.max_failed_shards * len(kept):
        last = run.failures[-1]
        raise NotProduced(f"{failed} of {len(kept)} shards failed; the last one: {last['error']}")
    if valid and run.recipe.validation.enabled:
        _require_valid_round(run, number, configs[0], valid)
    return kept


def _require_valid_round(run: Run, number: int, config: ShardConfig, shards: list[Artifact]) -> None:
    of = RoundConfig(config.generator.fields, config.strata, config.validation)
    found = read_json(run.store, stages.validate(run, shards, number=number, config=of), "validation.json")
    for summary in found.values():
        if summary["outcome"] in BAD:
            problems = "; ".join(summary["problems"])
            run.failures.append({"round": number, "reason": "validation", "error": problems})
            raise NotProduced(f"the rows of round {number} failed Great Expectations: {problems}")


def _from_before(events: list[Event], shards: int) -> str:
    """What of a round did not have to be made."""
    if sum(event.reused and event.stage == generate.name for event in events) == shards:
        return ", unchanged, from the store"
    taken = sum(event.rows for event in events if event.reused and event.stage == sample.name)
    return f", {taken:,} rows sampled before" if taken else ""


# --- How each round's rows are split over the generators: by the recipe's shares, or by what the rounds before --------


class Policy:
    """Plans the rounds of one snapshot. ``shares``: by which the round that was planned last is to be settled."""

    def __init__(self, run: Run, known: tuple[str, ...] | None) -> None:
        recipe = run.recipe
        self._run = run
        self.shares = {choice.use: choice.share for choice in recipe.generators}
        self._base = PlanConfig(recipe.target, recipe.refill, self.shares, recipe.mix.max_ratio, known)
        self._adaptive = recipe.plan.policy == "adaptive" and len(self.shares) > 1

    def plan(self, number: int, split: Artifact, made: Made) -> tuple[Artifact, Made]:
        """What round ``number``, from 1, asks for: no segment where every class has its target, or nobody has more."""
        recipe, before = self._run.recipe, [made.settled] if made.settled else []
        if self._adaptive:
            if made.settled and number <= recipe.plan.rounds:
                made = self._weigh(split, made.settled, number, made)
            config = AdaptiveConfig(recipe.plan, self._base, number)
            planned = stages.plan_adaptive(self._run, split, before, list(made.weighed[-1:]), config=config)
        else:
            planned = stages.plan(self._run, split, before, number=number, config=self._base)
        return planned, made

    def _weigh(self, split: Artifact, settled: Artifact, number: int, made: Made) -> Made:
        recipe, store = self._run.recipe, self._run.store
        config = WeighConfig(recipe.plan, self._base.shares, recipe.columns.fields, recipe.splits.near, recipe.seed)
        words = lambda artifact: told(read_json(store, artifact, "weights.json"), artifact.rows)  # noqa: E731
        weighed = stages.weigh(self._run, split, settled, number=number - 1, config=config, words=words)
        weights = read_json(store, weighed, "weights.json")["weights"]
        self.shares = {name: weights[name] for name in self._base.shares}
        return replace(made, weighed=(*made.weighed, weighed))


def told(found: dict[str, Any], judged: int) -> str:
    """The weights in one line: of the largest first, the points its rows gained over repeated real ones."""
    parts = []
    for name, weight in sorted(found["weights"].items(), key=lambda item: -item[1]):
        gain = found["gains"].get(name)
        parts.append(f"{name} {weight:.0%}" + (f" ({gain['gain']:+.1f})" if gain else ""))
    return f"{', '.join(parts)}; by {judged:,} train rows"


def split_table(store: Store, recipe: Recipe, made: Made) -> list[dict[str, Any]]:
    """For the report: of each measurement and generator what had been asked and had passed, its gain, its new weight."""
    table = []
    for number, weighed in enumerate(made.weighed, 1):
        found = read_json(store, weighed, "weights.json")
        for name in (choice.use for choice in recipe.generators):
            rows = found["rows"].get(name, {"asked": 0, "passed": 0})
            gain = found["gains"].get(name, {"gain": None, "error": None})
            table.append({"round": number, "generator": name, **rows, **gain, "weight": found["weights"][name]})
    return table


# --- Refits (law 7): on which night's window a snapshot's generators are fitted, from the source and the calendar -----


Window = tuple[Artifact, Artifact]  # ingested, split


def split_to_fit(run: Run, split: Artifact, ingested: Artifact | None) -> tuple[Artifact, dict[str, Any]]:
    """(the split on which the snapshot's generators are fitted, its own or that of an earlier night as the recipe says;

    how far the rows have moved since). A snapshot of all there is, and a fold, are fitted on their own split.
    """
    recipe, calendar = run.recipe, run.recipe.partitions.calendar
    if not calendar.dated or run.as_of is None or ingested is None:
        return split, {}
    windows = _Windows(run, (ingested, split))
    name = fit_name(recipe.refit, calendar, run.name, windows) if recipe.refit.asked else run.name
    against = name if name != run.name else calendar.step(name, -1)
    then, now = windows.profile(against), windows.profile(run.name)
    assert now is not None
    return windows.split(name), {
        "fitted": name,
        "against": against,
        **(drift(now, then, recipe.columns.fields) if then else {}),
    }


def fit_name(refit: Refit, calendar: Calendar, name: str, windows: _Windows) -> str:
    """The night whose window counts: of the grid, or the last one that drifted since; else the first that can be read.

    Where history begins after the grid's night, or too few rows stood there to be split, it is the first night after
    it with enough of them: the source up to that night decides, and the last one, ``name``, always can be read.
    """
    days = refit.every if refit.every is not None else str(refit.max_age)
    nights = calendar.between(calendar.boundary(name, parse_days(days)), name)
    if refit.when_drifted is None:
        return next(night for night in nights if windows.read(night))
    found = reference(nights, windows.profile, refit.when_drifted, windows.run.recipe.columns.fields)
    assert found is not None  # the snapshot's own window has a profile
    return found


class _Windows:
    """The rows as of other nights, each read once."""

    def __init__(self, run: Run, own: Window) -> None:
        self.run = run
        self.known: dict[str, Window | None] = {run.name: own}

    def read(self, night: str) -> Window | None:
        """None where the rows of that night cannot be split: none yet, too few of a class."""
        if night not in self.known:
            try:
                self.known[night] = read_night(self.run, night)
            except (DataError, UserError) as error:  # the snapshot's own window was read: it lies in that night's rows
                _log.info("The rows as of %s are neither fitted on nor compared with: %s", night, error.problem)
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
        recipe = self.run.recipe
        config = DriftConfig(recipe.columns.fields, codes_of(recipe.columns, recipe.learnt))
        made = stages.profile(self.run, window[0], night=night, config=config)
        found: Profile = read_json(self.run.store, made, "profile.json")
        return found
