"""How each round's rows are split over the generators: by the recipe's shares, or by what the rounds before showed."""

from __future__ import annotations

from typing import Any

from augmill.flows.snapshot import Snapshot, read_json
from augmill.flows.steps import Steps
from augmill.tasks.contracts import Artifact
from augmill.tasks.stages.plan import AdaptiveConfig, PlanConfig, plan, plan_adaptive
from augmill.tasks.stages.weigh import WeighConfig, weigh


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
