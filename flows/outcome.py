"""How a run ended, in words and numbers, and what is released because of it (DESIGN, law 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from augmill.tasks.errors import AugmillError
from augmill.tasks.gate.verdict import headline
from augmill.tasks.recipe.recipe import Recipe

NEXT = {
    "published": "Train on the new release.",
    "harmful": "Look at the accepted samples in the report, then change the generator, its options or the checks.",
    "inconclusive": "Give more held-out rows, or let the train rows judge too (gate.folds). Another rule asks for less: "
    "gate.rule: not_worse publishes rows that gain nothing, or lose up to gate.margin points.",
    "not_produced": "Fix what the reason names: a bound, the model or the checks. Until then the same command ends the "
    "same way.",
    "unsound_source": "Fix the source; the current release stays.",
}
CAUSES = 3  # why rows were not accepted, the commonest
MET = "Raise the target (target, mix.max_ratio) if more rows are wanted; the release holds the real ones."
CUT_SHORT = "The same command goes on where this run stopped; so does the next night."


def none_accepted(ledger: Mapping[str, Any]) -> str:
    """Why not: the commonest causes in the ledger's totals (``comparison.totals``)."""
    causes = sorted(ledger["lost"].items(), key=lambda item: (-item[1], item[0]))[:CAUSES]
    told = ", ".join(f"{count:,} {cause}" for cause, count in causes)
    return f"no generated row was accepted. Of {ledger['asked']:,} asked for: {told}"


class NotProduced(AugmillError):
    """Nothing that could be proven was generated, though the source is sound."""


class NothingToMake(NotProduced):
    """The target asks for no row: nothing failed."""


class CutShort(NotProduced):
    """By a deadline, or by what the world did: another try goes on from there, and may end otherwise."""


@dataclass(frozen=True)
class Outcome:
    """``name``: published, harmful, inconclusive, not_produced or unsound_source; ``action``: what followed.

    ``headline``: what was proven. ``cut_short``: not produced for want of time or of the world's help, so that another
    try may end otherwise.
    """

    name: str
    action: str
    reason: str
    arrangement: str = "real"
    release: str | None = None
    appended: bool = False
    delta: int | None = None  # the version of the Delta table; None where it is behind the log
    pending: dict[str, Any] | None = None  # of a staged release: the log entry that makes it current
    numbers: dict[str, Any] = field(default_factory=dict)
    cut_short: bool = False
    met: bool = False  # not produced because the target asks for nothing
    proven: str = ""  # where there is a verdict

    @property
    def headline(self) -> str:
        """What was proven, in a sentence; or why there was nothing to prove."""
        if self.met:
            return "Nothing to make: the target is met."
        return self.proven or headline(self.name, None)

    @property
    def next(self) -> str:
        """What to do."""
        if self.met:
            return MET
        said = CUT_SHORT if self.cut_short else NEXT[self.name]
        return (
            said
            if self.numbers.get("unit", "points") == "points"
            else said.replace("gate.margin points", "gate.margin")
        )

    def to_json(self, recipe: Recipe, snapshot: str, report: str | None) -> dict[str, Any]:
        """The last line of stdout."""
        return {
            "outcome": self.name,
            "headline": self.headline,
            "action": self.action,
            "reason": self.reason,
            "dataset": recipe.dataset,
            "snapshot": snapshot,
            "release": self.release,
            "arrangement": self.arrangement if self.action in ("publish", "best_real") else None,
            "new": self.appended,
            **({} if self.pending is None else {"pending": self.pending}),
            **({"delta": self.delta} if recipe.publish.format == "delta" else {}),
            **({"cut_short": True} if self.cut_short else {}),
            **({"nothing_to_make": True} if self.met else {}),
            "report": report,
            "next": self.next,
        }


def judge_evidence(evidence: dict[str, Any], recipe: Recipe) -> Outcome:
    """The gate's verdict as an outcome with its action."""
    verdict = evidence["verdict"]
    comparisons = evidence["validation"]["comparisons"]
    judged_by = evidence["judged_by"]
    numbers = {name: part["gains"][judged_by] for name, part in comparisons.items()}
    numbers |= {
        "judged_by": judged_by,
        "unit": evidence.get("unit", "points"),
        "seeds": evidence["seeds"],
        "seeds_asked": evidence["seeds_asked"],
        "heldout_rows": evidence["rows"]["validation"],
    }
    proven = headline(verdict, evidence)
    if verdict == "published":
        return Outcome(verdict, "publish", evidence["reason"], "mix", numbers=numbers, proven=proven)
    action = recipe.outcomes.harmful if verdict == "harmful" else recipe.outcomes.inconclusive
    return Outcome(verdict, action, evidence["reason"], evidence["best_real"], numbers=numbers, proven=proven)
