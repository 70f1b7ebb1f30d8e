"""Many snapshots by one plan: backfills, and the nightly run, which is a backfill of what is due in its look-back window."""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from augmill.flows import run as running
from augmill.flows.flow import OwnFlow, Result, call_flow, own_flow
from augmill.flows.nights.paging import watched
from augmill.flows.nights.plan import (
    ELSEWHERE,
    NEXT,
    BackfillPlan,
    BackfillRequest,
    Mode,
    Past,
    choose,
    has_price,
    renewed,
    switches_together,
    total,
)
from augmill.flows.nights.record import answered, unfinished, write_end, write_plan
from augmill.flows.nights.run import BackfillRun
from augmill.flows.nights.states import SnapshotState, partitioned, snapshot_states
from augmill.flows.orchestration.logs import quiet_logging
from augmill.flows.provenance import code_version
from augmill.flows.units import look_at_source, require_over, require_partition
from augmill.tasks.errors import AugmillError, ConflictError, DataError, UserError
from augmill.tasks.recipe.recipe import Recipe, load_recipe
from augmill.tasks.rows.calendar import parse_days, rank
from augmill.tasks.stages.refusals import NoPartition
from augmill.tasks.store.attempts import LEASE, Clock, read_attempts, utc_now
from augmill.tasks.store.log import read_log
from augmill.tasks.store.store import LookingStore, Store

_log = logging.getLogger("augmill")

__all__ = ["BackfillPlan", "BackfillRequest", "backfill", "nightly"]

LATE = timedelta(hours=1)  # a start so much later than its time belongs to an outage (schedule.catch_up)

Show = Callable[[BackfillPlan, str], None]  # (the plan, what to say of it), before it is carried out


@dataclass(frozen=True)
class Planned:
    """A plan, what of it is still to be done, and what is to be said of it."""

    plan: BackfillPlan
    rest: BackfillPlan
    request: BackfillRequest
    note: str = ""
    now: Clock = utc_now

    def head(self) -> Result:
        return {
            "dataset": self.plan.dataset,
            "planned": len(self.rest.lines),
            "publish": self.plan.publish,
            "left_out": self.plan.left_out,
        }


# --- The flows --------------------------------------------------------------------------------------------------------


@own_flow(functools.partial(running.name_of_flow_run, "backfill"))
def backfill(
    recipe: str,
    store: str | None = None,
    first: str | None = None,
    last: str | None = None,
    reprocess: Mode = "missing",
    max_active: int = 1,
    order: Literal["oldest", "newest"] = "oldest",
    publish: Literal["each", "together"] | None = None,
    max_failures: int | None = None,
    max_cost: float | None = None,
    max_hours: float | None = None,
    set: list[str] | None = None,
) -> Result:
    """``augmill backfill`` with the same options: from ``first`` up to and with ``last``; each snapshot is a sub-flow."""
    if (planned := running.handed(Planned)) is not None:
        return carry_out(planned)
    with running.session_of(recipe, store, set, command="deployment backfill", by_morning=False) as session:
        request = BackfillRequest(
            first, last, reprocess, order, publish, max_active, max_failures, max_cost, max_hours
        )  # fmt: skip
        return carry_out(plan_backfill(session.recipe, request))


@own_flow(functools.partial(running.name_of_flow_run, "nightly"))
def nightly(recipe: str, store: str | None = None, max_active: int = 1, set: list[str] | None = None) -> Result:
    """What is due in the look-back window; then pages and notes, where the recipe names a webhook.

    After an outage the server starts every run that it missed, late: each knows when it should have begun.
    """
    if (planned := running.handed(Planned)) is not None:
        return carry_out(planned)
    from prefect.runtime import flow_run

    since, loaded = datetime.now(UTC), load_recipe(recipe, store=store, changes=set)
    with watched(loaded, since):
        if (late := too_late(loaded, flow_run.scheduled_start_time, since)) is not None:
            return late
        with running.open_session(loaded, command="deployment nightly", orchestrator="prefect"):
            return carry_out(plan_nightly(loaded, max_active=max_active))


def carry_out(planned: Planned) -> Result:
    """Makes what is due, in the session of the running command. Raises AugmillError."""
    plan, request = planned.plan, planned.request
    if not plan.lines:
        return nothing_due(planned)
    session = running.current()
    assert session is not None
    write_plan(session.store, plan)
    own = replace(session, about={"backfill": plan.id}, staged=plan.publish == "together", quiet=len(plan.lines) > 1)
    with running.shared(own):
        work = BackfillRun(own, plan, request, planned.now)
        work.go()
    result = planned.head() | work.result()
    if result["stopped_by"] is None:
        write_end(session.store, plan, result)
    return result


def nothing_due(planned: Planned) -> Result:
    left_out, then = planned.plan.left_out, NEXT
    reason = "nothing is due" if planned.plan.kind == "nightly" else f"nothing is {planned.request.reprocess}"
    if elsewhere := [snapshot for snapshot, why in left_out.items() if why.startswith(ELSEWHERE)]:
        newest = max(elsewhere, key=rank)
        others = f", and {len(elsewhere) - 1} more snapshot(s) too" if len(elsewhere) > 1 else ""
        reason += f" but what is being made: {newest} is {left_out[newest]}{others}"
        minutes = LEASE.total_seconds() / 60
        then = f"call again when that run has ended; one that was killed counts as running for {minutes:g} minutes more"
    return planned.head() | {"outcome": "nothing", "reason": reason, "next": then}


# --- The commands -----------------------------------------------------------------------------------------------------


def run_backfill(
    recipe: Recipe,
    request: BackfillRequest,
    *,
    command: str = "augmill backfill",
    orchestrator: str | None = None,
    verbose: bool = False,
    now: Clock = utc_now,
    show: Show = lambda plan, note: None,
) -> Result:
    """What the last line of stdout says. Raises AugmillError where nothing could be planned."""
    with quiet_logging(verbose, prefect_too=False):
        planned = plan_backfill(recipe, request, now=now)
        show(planned.rest, planned.note)
    if request.dry_run:
        return planned.head() | _told(planned)
    how = {"command": command, "orchestrator": orchestrator, "verbose": verbose, "by_morning": False}
    parameters = {name: value for name, value in asdict(request).items() if name != "dry_run"}
    return _call(recipe, planned, how, backfill, **parameters)


def run_nightly(
    recipe: Recipe,
    *,
    scheduled: datetime | None = None,
    now: Clock = utc_now,
    command: str = "augmill nightly",
    orchestrator: str | None = None,
    max_active: int = 1,
    dry_run: bool = False,
    verbose: bool = False,
    show: Show = lambda plan, note: None,
) -> Result:
    """The newest snapshot, and what is due in the look-back window: by morning there is something to train on.

    ``scheduled``: when it should have started (aware), where a scheduler tells. Raises AugmillError.
    """
    if (late := too_late(recipe, scheduled, now())) is not None:
        return late
    with quiet_logging(verbose, prefect_too=False):
        planned = plan_nightly(recipe, max_active=max_active, dry_run=dry_run, now=now)
        show(planned.rest, planned.note)
    if dry_run:
        return planned.head() | _told(planned)
    how = {"command": command, "orchestrator": orchestrator, "verbose": verbose}
    return _call(recipe, planned, how, nightly, max_active=max_active)


def _call(recipe: Recipe, planned: Planned, how: dict[str, Any], flow: OwnFlow[Any], **parameters: Any) -> Result:
    """The flow, with what was planned for it; where nothing is due, no server is started to say so."""
    if not planned.plan.lines:
        return nothing_due(planned)
    with running.handing(planned), running.open_session(recipe, **how) as session:
        return call_flow(session, flow, **running.parameters_of(recipe), **parameters)


# --- Planning ---------------------------------------------------------------------------------------------------------


def plan_backfill(recipe: Recipe, request: BackfillRequest, *, now: Clock = utc_now) -> Planned:
    """What the request asks for; the rest of an unfinished backfill of the same. Raises AugmillError."""
    _require(recipe, request, now())
    store = _open(recipe, request)
    plan, note = _taken_up(recipe, store, request)
    states, problem = look(recipe, store, now(), first=request.first, last=request.last)
    if isinstance(problem, NoPartition):  # each snapshot would only say so again
        raise problem
    if plan is not None:
        plan = renewed(plan, states, _past(recipe, store, now()))
    else:
        together = request.publish or ("together" if switches_together(states, request.reprocess) else "each")
        plan = _plan(recipe, store, request, states, now(), publish=together)
    if problem is not None and not plan.lines:  # nobody knows whether there is nothing to do
        raise problem
    rest = _rest(store, plan, now())
    if len(rest.lines) < len(plan.lines):
        note += f" {len(plan.lines) - len(rest.lines)} of its {len(plan.lines)} snapshots are done."
    return Planned(plan, rest, request, note.strip(), now)


def plan_nightly(recipe: Recipe, *, max_active: int = 1, dry_run: bool = False, now: Clock = utc_now) -> Planned:
    """The newest snapshot, and what is due in the look-back window.

    Due is what failed, was interrupted or cut short, and under ``catch_up: all`` what is missing; the newest goes first.
    Raises AugmillError.
    """
    moment, parted = now(), partitioned(recipe)
    request = BackfillRequest(
        reprocess="failed" if parted else "all", order="newest", max_active=max_active, dry_run=dry_run, publish="each"
    )
    store = _open(recipe, request)
    first = None
    if parted and recipe.partitions.calendar.dated:
        calendar = recipe.partitions.calendar
        first = calendar.window_start(calendar.newest_complete(moment), parse_days(recipe.schedule.look_back))
        first = min(first, calendar.newest_complete(moment))  # a look-back shorter than a partition
    states, passed = _caught_up(recipe, look(recipe, store, moment, first=first)[0])
    plan = _plan(recipe, store, request, states, moment, publish="each", kind="nightly")
    plan = replace(plan, left_out=passed | plan.left_out)
    return Planned(plan, _rest(store, plan, now()), request, "", now)


def too_late(recipe: Recipe, scheduled: datetime | None, moment: datetime) -> Result | None:
    """What is said of a night that begins long after its time, where ``schedule.catch_up`` passes such over."""
    if scheduled is None or recipe.schedule.catch_up != "none" or moment - scheduled <= LATE:
        return None
    hours = (moment - scheduled).total_seconds() / 3600
    reason = f"started {hours:.1f} h after its time, and schedule.catch_up is none"
    return {"outcome": "skipped", "reason": reason, "dataset": recipe.dataset, "next": "the next night goes on"}


def _open(recipe: Recipe, request: BackfillRequest) -> Store:
    return LookingStore(recipe.run.store) if request.dry_run else Store(recipe.run.store)


def _caught_up(recipe: Recipe, states: list[SnapshotState]) -> tuple[list[SnapshotState], dict[str, str]]:
    """(without what is missing but for the newest, unless it is to be caught up on; what that leaves out, and why).

    What was tried and did not end is looked at again whatever ``catch_up`` says.
    """
    if recipe.schedule.catch_up == "all":
        return states, {}
    passed = [state.snapshot for state in states[:-1] if state.state == "missing"]
    why = f"missing; schedule.catch_up: {recipe.schedule.catch_up} leaves it to `augmill backfill`"
    return [state for state in states if state.snapshot not in passed], dict.fromkeys(passed, why)


def look(
    recipe: Recipe, store: Store, now: datetime, *, first: str | None = None, last: str | None = None
) -> tuple[list[SnapshotState], AugmillError | None]:
    """(each snapshot's state, oldest first, none from before the source's first partition; why the source cannot be

    used). Raises AugmillError for what the world did wrong, and where there is no snapshot to tell of.
    """
    seen = look_at_source(recipe, store, now)
    problem = seen.problem
    if problem is not None and not isinstance(problem, DataError | UserError | ConflictError):
        raise problem
    if seen.warning is not None:
        _log.warning("%s.", seen.warning)
    if first is not None and seen.view:
        first = max(first, min(seen.view, key=rank), key=rank)
    log = read_log(store, recipe.dataset)
    states = snapshot_states(recipe, store, seen.view, log, now=now, first=first, last=last)
    if problem is not None and not states:
        raise problem
    if problem is not None:  # each snapshot waits for its own part of the source, or says what is wrong with it
        _log.warning("The source cannot be read as a whole, so nothing counts as changed: %s", problem)
    return [_as_planned(state, log.withdrawn()) for state in states], problem


def _as_planned(state: SnapshotState, gone: set[str]) -> SnapshotState:
    """What a plan sees: where an earlier release is back after a rollback, making it again would make what was withdrawn."""
    made = (state.basis.end or {}).get("release") if state.basis is not None else None
    if state.state == "released" and made in gone and not state.changed:
        return replace(state, state="withdrawn")
    return state


def _require(recipe: Recipe, request: BackfillRequest, now: datetime) -> None:
    """Raises UserError for what the recipe cannot answer."""
    require_partition(recipe, request.first, "--from")
    require_over(recipe, request.last, "--to", now=now)
    if request.first is not None and request.last is not None and rank(request.first) > rank(request.last):
        problem = f"{request.first} comes after {request.last}"
        raise UserError(problem, where="--from", fix="give the earlier one first; both ends are included")
    if request.max_cost is not None and not has_price(recipe):
        fix = "give price.cpu_hour, price.gpu_hour or price.million_tokens in the recipe, or price_in and price_out of chat"
        raise UserError("nothing has a price", where="--max-cost", fix=fix)


def _plan(
    recipe: Recipe,
    store: Store,
    request: BackfillRequest,
    states: list[SnapshotState],
    now: datetime,
    *,
    publish: str,
    kind: str = "backfill",
) -> BackfillPlan:
    lines, left_out = choose(states, request.reprocess, request.order, _past(recipe, store, now))
    name = f"{now.astimezone(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    return BackfillPlan(
        id=name,
        kind="nightly" if kind == "nightly" else "backfill",
        dataset=recipe.dataset,
        time=now.isoformat(timespec="seconds"),
        recipe=recipe.hash(),
        code=code_version(recipe),
        request=request.key(),
        publish=publish,
        lines=lines,
        left_out=left_out,
    )


def _past(recipe: Recipe, store: Store, now: datetime) -> Past:
    return Past(read_attempts(store, recipe.dataset, newest=True), recipe.hash(), recipe.price, now)


def _taken_up(recipe: Recipe, store: Store, request: BackfillRequest) -> tuple[BackfillPlan | None, str]:
    """The unfinished backfill of the same arguments, and what to say of it; None where recipe or code are others now."""
    alike = (plan for plan in unfinished(store, recipe.dataset) if plan.request == request.key())
    plan = next(alike, None)
    if plan is None:
        return None, ""
    if plan.is_of(recipe.hash(), code_version(recipe)):
        return plan, f"Continues the unfinished backfill {plan.id}."
    what = "the recipe" if plan.recipe != recipe.hash() else "Augmill"
    if not request.dry_run:
        write_end(store, plan, {"outcome": "given_up", "reason": f"{what} changed before it was finished"})
    return None, f"The unfinished backfill {plan.id} is given up: {what} changed since. This is a new one."


def _rest(store: Store, plan: BackfillPlan, now: datetime) -> BackfillPlan:
    """The plan without the lines that are answered already."""
    attempts = read_attempts(store, plan.dataset, [line.snapshot for line in plan.lines]) if plan.lines else {}
    lines = [line for line in plan.lines if answered(plan, line, attempts.get(line.snapshot, []), now)[0] != "done"]
    return replace(plan, lines=tuple(lines))


def _told(planned: Planned) -> Result:
    """What a dry run says."""
    rest = planned.rest
    whole, unknown = total(rest.lines, planned.request.max_active)
    return {
        "outcome": "planned",
        "reason": planned.note or f"{len(rest.lines)} snapshot(s) would run",
        "order": [line.snapshot for line in rest.lines],
        "lines": [asdict(line) for line in rest.lines],
        "total": asdict(whole) | {"unknown": unknown},
        "next": "the same command without --dry-run",
    }
