"""States of snapshots: from attempts and log, which lie in the store, and the source's revisions; from nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from augmill.flows.provenance import code_version
from augmill.flows.units import look_at_source
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.recipe.nights import Reopen
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import parse_days, parse_duration, rank
from augmill.tasks.stages.partitions import MOST, is_partitioned
from augmill.tasks.store.attempts import Attempt, read_attempts
from augmill.tasks.store.log import Log, released_in
from augmill.tasks.store.store import Store

STATES = ("missing", "running", "interrupted", "failed", "kept", "released", "stale", "withdrawn")

View = Mapping[str, tuple[int, str]]  # partition: (rows, revision)
partitioned = is_partitioned


@dataclass(frozen=True)
class SnapshotState:
    """One of ``STATES``, and why.

    ``changed``: what differs now (source, recipe, code) from when ``basis``, the last attempt with an outcome, was made;
    by source as ``partitions.late`` has it, but for a withdrawn one any new revision. Where a rollback went back,
    ``basis`` is the attempt that made what stands, unless today's would be what was withdrawn. ``cut_short``: that
    outcome came of a deadline, or of what the world did. ``newest``: the last attempt, staged ones left out.
    ``staged``: a release that is put but not current, of an attempt later than all others.
    """

    snapshot: str
    state: str
    outcome: str | None = None
    reason: str = ""
    changed: tuple[str, ...] = ()
    release: str | None = None  # what is current, whatever the state
    staged: str | None = None
    cut_short: bool = False
    newest: Attempt | None = None
    basis: Attempt | None = None

    def to_json(self) -> dict[str, Any]:
        names = ("snapshot", "state", "outcome", "reason", "release", "staged", "cut_short")
        attempt = None if self.newest is None else self.newest.number
        return {name: getattr(self, name) for name in names} | {"changed": list(self.changed), "attempt": attempt}


def snapshots_of(
    recipe: Recipe, partitions: Collection[str], *, now: datetime, first: str | None = None, last: str | None = None
) -> list[str]:
    """The snapshots there should be, oldest first.

    Dated: from the first partition (or ``first``) to the newest complete one (or ``last``), days without rows too. By
    key: those in the source. Else ``all`` alone.
    """
    if not is_partitioned(recipe):
        return ["all"]
    calendar = recipe.partitions.calendar
    if not calendar.dated:
        within = (p for p in partitions if first is None or rank(first) <= rank(p))
        return sorted((p for p in within if last is None or rank(p) <= rank(last)), key=rank)
    begin, end = first or min(partitions, default=None), last or calendar.newest_complete(now)
    if begin is None:
        return []
    names = list(calendar.between(begin, end))
    if first is None and len(names) > MOST:
        problem = f"the source begins at {begin!r}: more than {MOST:,} snapshots up to {end}"
        raise UserError(
            problem, where="source", fix="say where to begin (--from), or correct the dates of its first rows"
        )
    return names


def snapshot_states(
    recipe: Recipe,
    store: Store,
    view: View | None,
    log: Log,
    *,
    now: datetime,
    first: str | None = None,
    last: str | None = None,
) -> list[SnapshotState]:
    """The state of each snapshot, oldest first.

    ``view`` None: the source was not looked at. Then partitions are those that were tried or released, and nothing is
    stale by source.
    """
    newest: dict[str, list[Attempt]] | None = None
    known: Collection[str] = view if view is not None else ()
    if view is None and not (first is not None and recipe.partitions.calendar.dated):
        newest = read_attempts(store, recipe.dataset, newest=True)
        known = {*newest, *log.current()} - {"all"}
    names = snapshots_of(recipe, known, now=now, first=first, last=last)
    if newest is None:
        newest = read_attempts(store, recipe.dataset, names, newest=True)
    facts = _Facts(recipe, view, log, now)
    # The last attempt tells all, unless it has no outcome or is staged: then what was before it counts too.
    older = [name for name in names if name in newest and facts.wants_older(newest[name][-1])]
    attempts = newest | (read_attempts(store, recipe.dataset, older) if older else {})
    return [facts.state(name, attempts.get(name, [])) for name in names]


class _Facts:
    """What decides every snapshot's state, looked up once."""

    def __init__(self, recipe: Recipe, view: View | None, log: Log, now: datetime) -> None:
        self.recipe, self.view, self.log, self.now = recipe, view, log, now
        self.identity = {"recipe": recipe.hash(), "code": code_version(recipe)}
        self.current, self.gone = log.current(), log.withdrawn()
        self.expired = {release for entry in log.entries for release in entry.get("expired", [])}
        self.moved = {release for entry in log.entries for release in released_in(entry).values()}

    def waits(self, attempt: Attempt) -> bool:
        """Whether it put a release that nobody made current."""
        return bool(attempt.end and attempt.end.get("pending") and attempt.end["release"] not in self.moved)

    def wants_older(self, attempt: Attempt) -> bool:
        back = (attempt.end or {}).get("release") in self.gone
        return attempt.number > 0 and (attempt.state(self.now) != "done" or self.waits(attempt) or back)

    def state(self, name: str, attempts: list[Attempt]) -> SnapshotState:
        tried = [attempt for attempt in attempts if not self.waits(attempt)]
        staged = attempts[-1].end["release"] if attempts and self.waits(attempts[-1]) and attempts[-1].end else None
        done = [attempt for attempt in tried if attempt.state(self.now) == "done"]
        basis = done[-1] if done else None
        newest = tried[-1] if tried else None
        release = self.current.get(name)
        withdrawn = self._withdrawn(name, basis)
        differs = self._differences(name, basis, any_revision=withdrawn is not None and release is None)
        if withdrawn and release is not None and differs:  # what stands was made by another attempt than the last
            basis = next((a for a in reversed(done) if not _kept(a) and (a.end or {}).get("release") == release), None)
            differs = self._differences(name, basis, any_revision=False)
        if newest is not None and withdrawn and not differs and newest.state(self.now) in ("failed", "interrupted"):
            newest = basis  # it could only have made the withdrawn release again
        state, outcome, reason = self._named(name, newest, basis, release, withdrawn, differs)
        if state == "released":
            outcome = self.log.publication(str(release)).get("outcome")
        cut_short = state in ("kept", "released", "stale") and outcome != "expired" and self._cut_short(basis)
        return SnapshotState(name, state, outcome, reason, tuple(differs), release, staged, cut_short, newest, basis)

    def _cut_short(self, basis: Attempt | None) -> bool:
        """Whether what it made may come out otherwise, and nobody has taken it back."""
        end = (basis.end if basis is not None else None) or {}
        taken_back = basis is not None and not _kept(basis) and end.get("release") in self.gone
        return bool(end.get("cut_short")) and not taken_back

    def _named(
        self,
        name: str,
        newest: Attempt | None,
        basis: Attempt | None,
        release: str | None,
        withdrawn: str | None,
        differs: dict[str, str],
    ) -> tuple[str, str | None, str]:
        """(state, outcome, reason)."""
        verb = "done" if newest is None else newest.state(self.now)
        if release is None and (lost := self._lost(name, newest, basis, withdrawn)) is not None:
            return lost
        if newest is not None and verb != "done":
            return verb, _kind(newest), _why_not_done(newest, verb)
        if basis is None and release is None:
            return "missing", None, "never run"
        end = (basis.end if basis is not None else None) or {}
        if release is None or (basis is not None and _kept(basis)):
            return "kept", end.get("outcome"), str(end.get("reason", ""))
        if differs:
            return "stale", end.get("outcome"), "; ".join(differs.values())
        back = f"{withdrawn}; back to the release before" if withdrawn else ""
        return "released", None, back or str(end.get("reason", ""))

    def _lost(
        self, name: str, newest: Attempt | None, basis: Attempt | None, withdrawn: str | None
    ) -> tuple[str, str | None, str] | None:
        """What became of the release that there was, where nothing was tried since that tells more."""
        if withdrawn is None and self._erased_since(name, newest):
            return "missing", None, "its release was erased (augmill forget) and none was made in its place"
        if newest is not None and newest.state(self.now) != "done":
            return None
        if withdrawn is not None:
            return "withdrawn", None, withdrawn
        last = self._last_move(name) or {}
        expired = last.get("kind") == "expire" if basis is None else (basis.end or {}).get("release") in self.expired
        if expired:
            return "kept", "expired", "its release was older than retain.releases keeps"
        return None

    def _withdrawn(self, name: str, basis: Attempt | None) -> str | None:
        """Why the last release that was made of it is withdrawn; None where it is not."""
        if basis is not None:
            release = (basis.end or {}).get("release")
            if _kept(basis) or release not in self.gone:
                return None
            found = next(entry for entry in reversed(self.log.entries) if release in entry.get("withdraws", []))
        else:
            last = self._last_move(name)
            if last is None or last["current"][name] is not None or last.get("kind") != "rollback":
                return None
            found = last
        return f"rolled back: {found.get('reason', '')}"

    def _last_move(self, name: str) -> dict[str, Any] | None:
        """The log's newest entry that moved the snapshot."""
        return next((entry for entry in reversed(self.log.entries) if name in entry["current"]), None)

    def _erased_since(self, name: str, newest: Attempt | None) -> bool:
        """Whether what was current of it was erased, and nothing has been tried since."""
        last = self._last_move(name)
        if last is None or last.get("kind") != "forget":
            return False
        tried = None if newest is None else (newest.end or newest.start)["time"]
        return tried is None or datetime.fromisoformat(tried) <= datetime.fromisoformat(last["time"])

    def _differences(self, name: str, basis: Attempt | None, *, any_revision: bool) -> dict[str, str]:
        """What differs now, each with the words for it."""
        found: dict[str, str] = {}
        if basis is not None and (partitions := self._moved_partitions(name, basis, any_revision)):
            more = f" and {len(partitions) - 3} more" if len(partitions) > 3 else ""
            where = "" if partitions == ["all"] else f" ({', '.join(partitions[:3])}{more})"
            found["source"] = f"the source changed{where}"
        then = basis.start if basis is not None else self.log.publication(self.current.get(name, ""))
        for key, value in self.identity.items():
            if then.get(key, value) != value:
                found[key] = {"recipe": "the recipe changed", "code": "Augmill changed"}[key]
        return found

    def _moved_partitions(self, name: str, basis: Attempt, any_revision: bool) -> list[str]:
        """The partitions whose change makes the snapshot stale."""
        then: dict[str, str] = (basis.end or {}).get("source") or {}
        if self.view is None or not then:
            return []
        rules, calendar = self.recipe.partitions, self.recipe.partitions.calendar
        start = ""
        if calendar.dated and rules.window != "all":
            start = calendar.window_start(name, parse_days(rules.window))
        inside = {p: revision for p, (_, revision) in self.view.items() if start <= p and rank(p) <= rank(name)}
        held = {p: revision for p, revision in then.items() if start <= p and rank(p) <= rank(name)}
        moved = sorted((p for p in {*inside, *held} if inside.get(p) != held.get(p)), key=rank)
        if not is_partitioned(self.recipe) or any_revision:
            return moved
        if not isinstance(rules.late, Reopen):
            return []
        day, days = calendar.first_day(name), rules.late.days
        return [p for p in moved if (day - calendar.first_day(p)).days < days]


def _kept(attempt: Attempt) -> bool:
    """Whether it left current what was; the release its end names may then be another snapshot's."""
    return (attempt.end or {}).get("action") == "keep_current"


def _kind(attempt: Attempt) -> str | None:
    """Of an error its name; of an outcome that the recipe calls a failure the outcome."""
    end = attempt.end or {}
    return str(end["outcome"]) if end.get("action") == "fail" else end.get("kind")


def _why_not_done(attempt: Attempt, verb: str) -> str:
    if attempt.end is not None:
        where = attempt.end.get("where")
        return (f"{where}: " if where else "") + str(attempt.end.get("reason") or "stopped by hand")
    if verb == "running":
        return f"since {attempt.start['time']} ({attempt.start.get('command', 'unknown command')})"
    return f"killed, or cut off: no sign of life since {attempt.beat.isoformat(timespec='seconds')}"


# --- What an outside monitor is told: that nights went wrong, or that what is current is older than it may be ---------


HEALTH_WINDOW = 31  # partitions: what happened earlier is no news to a monitor
_WRONG = ("failed", "interrupted")


def find_trouble(recipe: Recipe, store: Store, log: Log, *, now: datetime) -> str | None:
    """What an outside monitor should know: the last night went wrong, or what is current is older than it may be.

    Looks at the store alone, of dated snapshots at the last ``HEALTH_WINDOW``, and only where nothing was tried yet at
    the source, which may be why; None where all is well.
    """
    tried = _tried_lately(recipe, store, log, now)
    bad = [state for state in _due(recipe, tried, now) if state.state in _WRONG or state.outcome == "unsound_source"]
    if bad:
        last, others = bad[-1], f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        stands = f"; release {last.release} stands" if last.release else ""
        return f"{last.snapshot} {last.outcome or last.state}: {last.reason.rstrip('.')}{stands}{others}"
    stale = find_stale(recipe, store, log, now=now, tried=tried)
    if stale is None and not tried and not log.entries:
        problem = look_at_source(recipe, store, now).problem
        if isinstance(problem, DataError):
            return f"nothing has been made yet, and the source cannot be used: {problem.where}: {problem.problem}"
    return stale


def _due(recipe: Recipe, tried: list[SnapshotState], now: datetime) -> list[SnapshotState]:
    """Those that the nights look back on: of dated snapshots the last ``schedule.look_back``, else the newest."""
    calendar = recipe.partitions.calendar
    if not (is_partitioned(recipe) and calendar.dated):
        return tried[-1:]
    first = calendar.window_start(calendar.newest_complete(now), parse_days(recipe.schedule.look_back))
    return [state for state in tried if state.snapshot >= first or state is tried[-1]]


def find_stale(
    recipe: Recipe, store: Store, log: Log, *, now: datetime, tried: list[SnapshotState] | None = None
) -> str | None:
    """In words, that what is current is older than schedule.freshness allows; None where it is not."""
    limit = recipe.schedule.freshness
    release = log.newest()
    if limit is None:
        return None
    if release is None:
        return "there is no release yet"
    since = _confirmed(log, release, _tried_lately(recipe, store, log, now) if tried is None else tried)
    if now - since <= parse_duration(limit):
        return None
    hours = (now - since).total_seconds() / 3600
    return f"release {release} is {hours:,.0f} h old; schedule.freshness allows {limit}"


def _tried_lately(recipe: Recipe, store: Store, log: Log, now: datetime) -> list[SnapshotState]:
    calendar, first = recipe.partitions.calendar, None
    if is_partitioned(recipe) and calendar.dated:
        first = calendar.step(calendar.newest_complete(now), 1 - HEALTH_WINDOW)
    states = snapshot_states(recipe, store, None, log, now=now, first=first)
    return [state for state in states if state.state not in ("missing", "running")]


def _confirmed(log: Log, release: str, tried: list[SnapshotState]) -> datetime:
    """When the release was published, or made once more by a later night, which had nothing to publish then."""
    snapshot = next(snapshot for snapshot, current in log.current().items() if current == release)
    times = [log.entries[log.standing()[snapshot]]["time"]]
    for state in tried:
        end = state.basis.end if state.basis is not None else None
        if end and state.snapshot == snapshot and end.get("release") == release and end.get("arrangement"):
            times.append(end["time"])
    return max(datetime.fromisoformat(time) for time in times)
