"""Plan: targets and what is settled so far in, shard specs out: ranges of ordinals per generator and class."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from augmill.tasks.contracts import Artifact
from augmill.tasks.recipe_sections import Refill, Target
from augmill.tasks.stage import Work, stage
from augmill.tasks.targets import split_target, targets_for

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

    ``streams[generator][class]`` holds ``asked``, ``eligible`` (accepted or surplus) and ``stopped`` (its last round
    gave nothing new). What a class lacks is split over its generators that have not stopped, by share; a class that
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
    order = {generator: index for index, generator in enumerate(config.shares)}
    return sorted(segments, key=lambda segment: (order[segment["generator"]], segment["stratum"]))


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


@stage("plan", version=1)
def plan(work: Work, config: PlanConfig, split: Artifact, settled: list[Artifact]) -> None:
    """Writes plan.json: the targets and this round's segments. ``settled``: the previous round's, or none."""
    counts = work.read_json(split, "summary.json")["classes"]["train"]
    targets = targets_for(config.target, counts, config.max_ratio)
    ledger = work.read_json(settled[0], "ledger.json") if settled else {"accepted": {}, "streams": {}}
    segments = plan_round(config, targets, ledger["accepted"], ledger["streams"])
    work.rows = sum(segment["count"] for segment in segments)
    work.write_json({"targets": targets, "segments": segments}, "plan.json")
