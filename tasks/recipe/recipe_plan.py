"""The recipe's section on how a class's target is split over its generators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from augmill.tasks.recipe.sections import check, option


@dataclass(frozen=True)
class Plan:
    """How a class's target is split over several generators."""

    policy: Literal["shares", "adaptive"] = option(
        "shares",
        "shares: by each generator's `share`; adaptive: round by round, by what passed the checks and by what helped on "
        "parts of train that the measuring classifier did not see",
    )
    explore: float = option(
        0.25, "adaptive: the part of each target that the first round asks for, split by `share`, to learn from"
    )
    rounds: int = option(
        3, "adaptive: rounds until the whole target is asked for; weights are measured between them, then stay"
    )
    floor: float = option(
        0.1, "adaptive: the part of each target that is split by `share` whatever was measured, so that none is starved"
    )
    seeds: int = option(3, "adaptive: trainings per generator and part of train, each with its own draw of rows")

    def __post_init__(self) -> None:
        check(0 < self.explore < 1, "explore: a share between 0 and 1")
        check(2 <= self.rounds <= 100, "rounds: between 2 and 100")
        check(0 < self.floor <= 1, "floor: more than 0, at most 1")
        check(2 <= self.seeds <= 100, "seeds: between 2 and 100")
