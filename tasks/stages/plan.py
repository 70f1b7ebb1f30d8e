"""Plan: targets and what is settled so far in, shard specs out: ranges of ordinals per generator and class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from augmill.tasks.contracts import Artifact
from augmill.tasks.recipe.sections import Plan, Refill, Target
from augmill.tasks.stages.targets import split_target, targets_for
from augmill.tasks.store.stage import Work, stage

FIRST_ASK = 1.3  # on the real sets most generators lose a quarter of their rows to the checks
MAX_ASK = 4.0  # a round asks at most this many times what is missing


@dataclass(frozen=True)
class PlanConfig:
    target: Target
    refill: Refill
    shares: dict[str, float]  # generator: its share of each class's target
    max_ratio: float | None = None  # mix.max_ratio
    known: tuple[str, ...] | None = None  # the classes that the generators were fitted to; None: all of the snapshot's


def ask(missing: int, asked: int, eligible: int) -> int:
    """Rows to ask for: what is missing over the share that proved eligible so far, at most 4 times what is missing."""
    rate = eligible / asked if asked else 1 / FIRST_ASK
    return min(math.ceil(missing / max(rate, 1 / MAX_ASK)), math.ceil(MAX_ASK * missing))


Streams = dict[str, dict[str, dict[str, Any]]]


def plan_round(
    config: PlanConfig, targets: dict[str, int], accepted: dict[str, int], streams: Streams
) -> list[dict[str, Any]]:
    """What to ask in the next round: ``[{generator, stratum, start, count}]``; empty when nothing more is to be asked.

    ``streams[generator][class]`` holds ``asked``, ``eligible`` (accepted or surplus) and ``stopped`` (it is dry, as
    settle has it). What a class lacks is split over its generators that have not stopped, by share; a class that
    came after they were fitted is not asked for: it is a shortfall until they are fitted again.
    """
    segments = []
    for name, target in targets.items():
        missing = target - accepted.get(name, 0)
        seen = {g: streams.get(g, {}).get(name, {"asked": 0, "eligible": 0, "stopped": False}) for g in config.shares}
        known = config.known is None or name in config.known
        active = {g: share for g, share in config.shares.items() if known and not seen[g]["stopped"]}
        free = math.ceil(config.refill.max_asked * target) - sum(part["asked"] for part in seen.values())
        if missing <= 0 or not active:
            continue
        for generator, part in split_target(missing, active).items():
            count = min(ask(part, seen[generator]["asked"], seen[generator]["eligible"]), free)
            if count > 0:
                free -= count
                start = seen[generator]["asked"]
                segments.append({"generator": generator, "stratum": name, "start": start, "count": count})
    return _in_order(segments, config.shares)


def _in_order(segments: list[dict[str, Any]], generators: Iterable[str]) -> list[dict[str, Any]]:
    order = {generator: index for index, generator in enumerate(generators)}
    return sorted(segments, key=lambda segment: (order[segment["generator"]], segment["stratum"]))


@dataclass(frozen=True)
class AdaptiveConfig:
    plan: Plan
    base: PlanConfig  # its shares are the recipe's
    number: int  # of the round, from 1


def due(plan: Plan, number: int, target: int) -> int:
    """How much of a target is to be there after so many rounds: ``explore`` of it, then even steps up to all."""
    return math.ceil(target * min(1.0, plan.explore + (1 - plan.explore) * (number - 1) / (plan.rounds - 1)))


def plan_adaptive_round(
    config: AdaptiveConfig,
    weights: dict[str, float],
    targets: dict[str, int],
    accepted: dict[str, int],
    streams: Streams,
) -> list[dict[str, Any]]:
    """As ``plan_round``, by weights that move. Each generator is asked for what it lacks of its part of the due rows.

    What it gave beyond its part, while little was known of it, counts for no other: settle prefers rows within the
    parts, so a generator found wanting gives way. A stopped one's part goes to the others. After ``plan.rounds``, and
    where no generator lacks anything, only what a class as a whole still misses is asked for.
    """
    base = replace(config.base, shares=weights)
    segments = []
    for name, target in targets.items() if config.number <= config.plan.rounds else ():
        seen = {g: streams.get(g, {}).get(name, {"asked": 0, "eligible": 0, "stopped": False}) for g in weights}
        known = base.known is None or name in base.known
        active = {g: weight for g, weight in weights.items() if known and not seen[g]["stopped"]}
        if not active:
            continue
        lacks = {
            g: max(0, part - seen[g]["eligible"])
            for g, part in split_target(due(config.plan, config.number, target), weights).items()
        }
        left = split_target(sum(rows for g, rows in lacks.items() if g not in active), active)
        free = math.ceil(base.refill.max_asked * target) - sum(part["asked"] for part in seen.values())
        for generator in active:
            lack = lacks[generator] + left[generator]
            count = min(ask(lack, seen[generator]["asked"], seen[generator]["eligible"]), free) if lack else 0
            if count > 0:
                free -= count
                start = seen[generator]["asked"]
                segments.append({"generator": generator, "stratum": name, "start": start, "count": count})
    if not segments:
        return plan_round(base, targets, accepted, streams)
    return _in_order(segments, weights)


def cut_shards(segments: list[dict[str, Any]], shard_rows: int) -> list[list[dict[str, Any]]]:
    """Segments cut and packed, in order, into shards of at most ``shard_rows`` rows of one generator.

    Where the cuts fall changes no row (law 3).
    """
    shards: list[list[dict[str, Any]]] = []
    free = 0
    for piece in _pieces(segments, shard_rows):
        same = shards and shards[-1][0]["generator"] == piece["generator"]
        if not same or piece["count"] > free:
            shards.append([])
            free = shard_rows
        shards[-1].append(piece)
        free -= piece["count"]
    return shards


def _pieces(segments: list[dict[str, Any]], limit: int) -> Iterator[dict[str, Any]]:
    for segment in segments:
        for start in range(0, segment["count"], limit):
            count = min(limit, segment["count"] - start)
            yield segment | {"start": segment["start"] + start, "count": count}


def join_segments(segments: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same ordinals in the same order; ranges that follow one another are one."""
    joined: list[dict[str, Any]] = []
    for part in segments:
        last = joined[-1] if joined else None
        if last and part == last | {"start": last["start"] + last["count"], "count": part["count"]}:
            joined[-1] = last | {"count": last["count"] + part["count"]}
        else:
            joined.append(part)
    return joined


@stage("plan", version=1)
def plan(work: Work, config: PlanConfig, split: Artifact, settled: list[Artifact]) -> None:
    """Writes plan.json: the targets and this round's segments. ``settled``: the previous round's, or none."""
    counts = work.read_json(split, "summary.json")["classes"]["train"]
    targets = targets_for(config.target, counts, config.max_ratio)
    ledger = _ledger(work, settled)
    _write(work, targets, plan_round(config, targets, ledger["accepted"], ledger["streams"]))


@stage("plan_adaptive", version=1)
def plan_adaptive(
    work: Work, config: AdaptiveConfig, split: Artifact, settled: list[Artifact], weighed: list[Artifact]
) -> None:
    """As ``plan``. ``weighed``: the newest weights, or none before anything was measured: then the shares are."""
    counts = work.read_json(split, "summary.json")["classes"]["train"]
    targets = targets_for(config.base.target, counts, config.base.max_ratio)
    weights = work.read_json(weighed[0], "weights.json")["weights"] if weighed else config.base.shares
    weights = {name: weights[name] for name in config.base.shares}
    ledger = _ledger(work, settled)
    _write(work, targets, plan_adaptive_round(config, weights, targets, ledger["accepted"], ledger["streams"]))


def _ledger(work: Work, settled: list[Artifact]) -> Any:
    return work.read_json(settled[0], "ledger.json") if settled else {"accepted": {}, "streams": {}}


def _write(work: Work, targets: dict[str, int], segments: list[dict[str, Any]]) -> None:
    work.rows = sum(segment["count"] for segment in segments)
    work.write_json({"targets": targets, "segments": segments}, "plan.json")
