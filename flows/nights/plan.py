"""What a backfill does, why, and what that may cost: a plan that is fixed before the first snapshot runs."""

from __future__ import annotations

import dataclasses
import heapq
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from augmill.flows.estimate import BILLED, price_of
from augmill.flows.nights.states import SnapshotState
from augmill.tasks.errors import UserError
from augmill.tasks.recipe.nights import Price
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import rank
from augmill.tasks.store.attempts import Attempt

Mode = Literal["missing", "failed", "changed-data", "changed-recipe", "all"]
MODES: tuple[Mode, ...] = get_args(Mode)  # each includes those before it
ELSEWHERE = "running elsewhere"  # begins why such a snapshot is left out
NEXT = "`augmill status` lists them"
LIMITS = ("max_failures", "max_cost", "max_hours")  # what a backfill is told to stop at: an exit code of its own
# Exit codes of snapshots that failed (README, "How it ends"), the one that counts first: what is to be reported, then what
# another try may cure, then what has to be mended.
CODES = (5, 1, 4, 2, 3, 10)
LIKE = 20  # past runs that an estimate looks at: the newest ones


@dataclass(frozen=True)
class BackfillRequest:
    """What is asked for. Raises UserError.

    The first five make the plan; the limits say how much of it one command does, so that they can be raised when an
    unfinished backfill is taken up.
    """

    first: str | None = None
    last: str | None = None
    reprocess: Mode = "missing"
    order: Literal["oldest", "newest"] = "oldest"
    publish: Literal["each", "together"] | None = None
    max_active: int = 1
    max_failures: int | None = None
    max_cost: float | None = None
    max_hours: float | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        _one_of("--reprocess", self.reprocess, MODES)
        _one_of("--order", self.order, ("oldest", "newest"))
        _one_of("--publish", self.publish, ("each", "together", None))
        _within("--max-active", self.max_active, 1, 256)
        _within("--max-failures", self.max_failures, 1, 1_000_000)
        _within("--max-cost", self.max_cost, 0, 1e12)
        _within("--max-hours", self.max_hours, 0, 10_000)

    def key(self) -> dict[str, Any]:
        """What must be equal for an unfinished backfill to be taken up."""
        names = ("first", "last", "reprocess", "order", "publish")
        return {name: getattr(self, name) for name in names}


def _one_of(where: str, value: object, known: Sequence[object]) -> None:
    if value not in known:
        named = ", ".join(str(name) for name in known if name is not None)
        raise UserError(f"expected one of {named}; found {value!r}", where=where, fix="give one of them")


def _within(where: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise UserError(f"expected {low:,} to {high:,}; found {value}", where=where, fix="give a number within")


@dataclass(frozen=True)
class Estimate:
    """Of one snapshot, or of a whole plan; None where no past run tells, or nothing has a price."""

    seconds: float | None = None
    gpu_seconds: float | None = None
    tokens: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class PlannedSnapshot:
    """One snapshot of the plan. ``known``: the number of its newest attempt then, -1 where there was none."""

    snapshot: str
    state: str
    reason: str
    known: int = -1
    estimate: Estimate = Estimate()


@dataclass(frozen=True)
class BackfillPlan:
    """``left_out``: what the mode would include but for the reason given. ``lines`` stand in the order of their starts."""

    id: str
    kind: Literal["backfill", "nightly"]
    dataset: str
    time: str
    recipe: str
    code: str
    request: dict[str, Any]
    publish: str
    lines: tuple[PlannedSnapshot, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def is_of(self, recipe: str, code: str) -> bool:
        """Whether it was planned for this recipe, by this version: one that was not is given up by its command."""
        return (self.recipe, self.code) == (recipe, code)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BackfillPlan:
        lines = [PlannedSnapshot(**line | {"estimate": Estimate(**line["estimate"])}) for line in value["lines"]]
        return cls(**value | {"lines": tuple(lines)})


def least_mode(state: SnapshotState) -> Mode | None:
    """The first of ``MODES`` that runs the snapshot; None where none does.

    Where a release stands, an attempt to make it by another recipe that was killed, or failed, is no reason to do what
    the change of the recipe alone is none for.
    """
    changed = set(state.changed)
    overtaken = state.release and {"recipe", "code"} & changed
    if state.state == "running" or (state.state == "withdrawn" and not changed):
        return None
    if not overtaken and (least := _unended(state)) is not None:
        return least
    if "source" in changed:
        return "changed-data"
    return "changed-recipe" if changed else "all"


def _unended(state: SnapshotState) -> Mode | None:
    """The mode for what has no verdict yet."""
    if state.state in ("missing", "interrupted"):
        return "missing"
    # What may end otherwise: the source may be sound now. A verdict (harmful, inconclusive) is not asked for twice.
    unsound = state.state == "kept" and state.outcome == "unsound_source"
    return "failed" if state.state == "failed" or unsound or state.cut_short else None


def includes(mode: Mode, state: SnapshotState) -> bool:
    least = least_mode(state)
    return least is not None and MODES.index(least) <= MODES.index(mode)


def choose(
    states: Iterable[SnapshotState], mode: Mode, order: str, past: Past
) -> tuple[tuple[PlannedSnapshot, ...], dict[str, str]]:
    """(the lines in the order of their starts, what is left out and why). Looks at nothing but its arguments."""
    lines, left_out = [], {}
    for state in states:
        if includes(mode, state):
            known = -1 if state.newest is None else state.newest.number
            lines.append(PlannedSnapshot(state.snapshot, state.state, _why(state), known, past.of(state)))
        elif state.state == "running":
            left_out[state.snapshot] = f"{ELSEWHERE} {state.reason}"
        elif includes(mode, dataclasses.replace(state, release=None)):
            changed = " and ".join(state.changed)
            why = f"{state.state}, but its release stands and {changed} changed"
            left_out[state.snapshot] = f"{why}: --reprocess {least_mode(state)} makes it"
        elif state.state == "withdrawn" and mode == "all":
            left_out[state.snapshot] = (
                f"withdrawn ({state.reason}); neither source nor recipe nor code has changed since"
            )
    return tuple(sorted(lines, key=lambda line: rank(line.snapshot), reverse=order == "newest")), left_out


def renewed(plan: BackfillPlan, states: Iterable[SnapshotState], past: Past) -> BackfillPlan:
    """An unfinished plan with the reasons and the estimates of now; what it is compared with (``known``) stays.

    What failed since it was made comes last: the same dates would use up the limit on failures each time.
    """
    now = {state.snapshot: state for state in states}

    def failed(line: PlannedSnapshot) -> bool:
        state = now.get(line.snapshot)
        tried = state is not None and state.newest is not None and state.newest.number > line.known
        return tried and state is not None and state.state == "failed"

    def told(line: PlannedSnapshot) -> PlannedSnapshot:
        if (state := now.get(line.snapshot)) is None:
            return line
        return dataclasses.replace(line, state=state.state, reason=_why(state), estimate=past.of(state))

    return dataclasses.replace(plan, lines=tuple(told(line) for line in sorted(plan.lines, key=failed)))


def _why(state: SnapshotState) -> str:
    parts = [f"{state.outcome}: {state.reason}" if state.state == "kept" or state.cut_short else state.reason]
    if state.changed and state.state != "stale":
        parts.append(f"{' and '.join(state.changed)} changed")
    if _stands(state):
        parts = [f"{state.outcome}; nothing changed"]
    return "; ".join(part for part in parts if part)


def _stands(state: SnapshotState) -> bool:
    """Whether making it again would find everything made."""
    return state.state in ("released", "kept") and not state.changed and not state.cut_short


def switches_together(states: Iterable[SnapshotState], mode: Mode) -> bool:
    """Whether what readers have would be a mixture of two recipes, or of two versions of Augmill, on the way."""
    return any(s.release and {"recipe", "code"} & set(s.changed) and includes(mode, s) for s in states)


def next_step(plan: BackfillPlan, stopped_by: str | None, failed: bool) -> str:
    """What to do after one command's work on the plan."""
    after = {
        "max_cost": "the same command with a higher --max-cost goes on from here",
        "max_failures": "see the reasons; the same command makes the rest, then retries what failed",
        "failed": "fix what their reasons name; the same command retries those that failed, then publishes all together; "
        "with --publish each it publishes the others now",
        "recipe_edited": "the same command makes a new plan, for the recipe as it is now",
    }
    if stopped_by in after and (plan.kind == "backfill" or stopped_by != "recipe_edited"):
        return after[stopped_by]
    if stopped_by is not None:
        return "the same command goes on from here" if plan.kind == "backfill" else "the next night goes on"
    if not failed:
        return NEXT
    # What failed while a release of another recipe stood is due for the recipe; where the others are done, it is alone.
    mode = {"missing": "failed", "all": "changed-recipe"}.get(plan.request["reprocess"], plan.request["reprocess"])
    return f"see the reasons; `augmill backfill --reprocess {mode}` tries them again"


def exit_code_for(ends: Iterable[Mapping[str, Any]]) -> int:
    """Of attempts that failed: what ``augmill run`` would end with for each, and of several the first of ``CODES``."""
    codes = {10 if end.get("action") == "fail" else end.get("exit_code", 4) for end in ends}
    return min(codes, key=CODES.index)


class Past:
    """What past runs took. Snapshots that were made are like each other, and so are those where all stood already."""

    def __init__(self, attempts: Mapping[str, Sequence[Attempt]], recipe: str, price: Price, now: datetime) -> None:
        ended = [a for tried in attempts.values() for a in tried if a.end is not None]
        done = [a for a in ended if a.state(now) == "done" or (a.end or {}).get("action") == "fail"]  # to an outcome
        done.sort(key=lambda attempt: str(attempt.end and attempt.end["time"]), reverse=True)
        self._price = price
        self._made = self._middle([a for a in done if a.end and a.end["worked"]], recipe)
        self._found = self._middle([a for a in done if a.end and not a.end["worked"]], recipe)

    def of(self, state: SnapshotState) -> Estimate:
        return self._found if _stands(state) else self._made

    def _middle(self, like: list[Attempt], recipe: str) -> Estimate:
        """Medians; of this recipe's runs where there are any."""
        like = ([a for a in like if a.start.get("recipe") == recipe] or like)[:LIKE]
        if not like:
            return Estimate()
        ends = [attempt.end or {} for attempt in like]
        spent = {name: round(statistics.median(float(end.get(name, 0)) for end in ends), 1) for name in _SPENT}
        billed = {name: statistics.median(end.get("spent", {}).get(name, 0) for end in ends) for name in BILLED}
        cost = price_of(self._price, spent | billed)
        return Estimate(**spent, cost=None if cost is None else round(cost, 4))


_SPENT = ("seconds", "gpu_seconds", "tokens")


def has_price(recipe: Recipe) -> bool:
    """Whether anything that a run of this recipe takes has a price: by its `price`, or by an endpoint's own."""
    options = [choice.options for choice in recipe.generators]
    billed = any(getattr(each, "price_in", 0) or getattr(each, "price_out", 0) for each in options)
    return billed or price_of(recipe.price, {}) is not None


def total(lines: Sequence[PlannedSnapshot], max_active: int) -> tuple[Estimate, int]:
    """(of all lines: ``seconds`` until the last ends with so many at once, the rest summed; how many nobody can tell)."""
    known = [line.estimate for line in lines if line.estimate.seconds is not None]
    if not known:
        return Estimate(), len(lines)
    ends = [0.0] * max_active
    for estimate in known:
        heapq.heapreplace(ends, ends[0] + (estimate.seconds or 0.0))
    costs = [estimate.cost for estimate in known if estimate.cost is not None]
    gpu, tokens = sum(e.gpu_seconds or 0.0 for e in known), sum(e.tokens or 0.0 for e in known)
    whole = Estimate(round(max(ends), 1), round(gpu, 1), round(tokens), round(sum(costs), 4) if costs else None)
    return whole, len(lines) - len(known)
