"""Carrying a plan out: so many snapshots at once and no more, limits that stop it cleanly, one switch at the end."""

from __future__ import annotations

import contextvars
import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from augmill.flows.augment import augment
from augmill.flows.estimate import price_of
from augmill.flows.flow import call_flow
from augmill.flows.mirror import mirror_delta
from augmill.flows.nights.plan import LIMITS, BackfillPlan, BackfillRequest, PlannedSnapshot, exit_code_for, next_step
from augmill.flows.nights.record import answered, is_own
from augmill.flows.run import Session, parameters_of
from augmill.flows.signals import STOP_GRACE
from augmill.tasks.boundary.retries import COMMIT, call_with_retries
from augmill.tasks.errors import ConflictError, exit_code_of
from augmill.tasks.recipe.recipe import recipe_edited
from augmill.tasks.stages.publish import commit_releases
from augmill.tasks.store.attempts import Attempt, Clock, read_attempts
from augmill.tasks.store.log import Log, read_log

_log = logging.getLogger("augmill")
SWITCHES = 5  # another run may publish one of the snapshots between our look at the log and our entry


@dataclass(frozen=True)
class LineEnd:
    """What became of one line: ``done`` or ``failed`` here, ``done elsewhere``, ``running elsewhere``; its attempt's end."""

    how: str
    end: dict[str, Any]


class BackfillRun:
    """One command's work on a plan. ``go`` runs what is due; ``result`` tells of every line, earlier commands' too."""

    def __init__(self, session: Session, plan: BackfillPlan, request: BackfillRequest, now: Clock) -> None:
        self._session, self._plan, self._request, self._now = session, plan, request, now
        self._store = session.store
        self._waiting, self._postponed = deque(plan.lines), set[str]()
        self._answers: dict[str, LineEnd] = {}
        self._began, self._spent, self._failures, self._ended = time.monotonic(), 0.0, 0, 0
        self._apart: dict[str, str] = {}  # staged, but not switched: why
        self._standing: list[str] = []  # failed, while a release of before is current
        self._entry: int | None = None
        self._stopped_by: str | None = None

    # --- running ----------------------------------------------------------------------------------------------------

    def go(self) -> None:
        """Runs the plan as far as its limits allow, and switches at the end where all is staged. Raises AugmillError."""
        if self._request.max_cost is not None:  # of the whole backfill, with what earlier commands spent on it
            tried = read_attempts(self._store, self._plan.dataset, [line.snapshot for line in self._plan.lines])
            self._spent = sum(self._price(a.end) for each in tried.values() for a in each if is_own(self._plan, a))
        most = self._request.max_active
        # One at a time runs on this thread, where Prefect can end a stage at its time limit.
        pool: Executor = _Inline() if most == 1 else ThreadPoolExecutor(most, thread_name_prefix="augmill-backfill")
        running: dict[Future[Any], PlannedSnapshot] = {}
        if self._session.api.recording:
            augment.in_prefect()  # made once, before several threads ask for it
        try:
            while True:
                while len(running) < most and (line := self._next(list(running.values()))) is not None:
                    running[pool.submit(contextvars.copy_context().run, self._one, line)] = line
                if not running:
                    break
                for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                    self._note(running.pop(future), future)
        except BaseException:  # an interrupt: the workers are killed, so the snapshots end, noted as interrupted
            self._session.stop.now()
            wait(running, timeout=STOP_GRACE)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if self._stopped_by is None and self._running_elsewhere() and self._plan.kind == "backfill":
            self._stopped_by = "running_elsewhere"  # a night has done what it can: whoever runs the rest ends it
        if self._plan.publish == "together" and self._stopped_by is None:
            call_with_retries(self._switch, COMMIT)

    def _one(self, line: PlannedSnapshot) -> dict[str, Any]:
        as_of = None if line.snapshot == "all" else line.snapshot
        return call_flow(self._session, augment, **parameters_of(self._session.recipe), as_of=as_of)

    def _next(self, running: list[PlannedSnapshot]) -> PlannedSnapshot | None:
        """The next line that is due. What others did meanwhile is not done again; what they do now is looked at last."""
        while self._waiting and self._stopped_by is None:
            line = self._waiting[0]
            if line.snapshot in self._postponed and running:
                return None
            how, attempt = self._look(line)
            if how == "due":
                self._stopped_by = self._limit(line, running)
                return None if self._stopped_by else self._waiting.popleft()
            self._waiting.popleft()
            if how == "running" and line.snapshot not in self._postponed:
                self._postponed.add(line.snapshot)
                self._waiting.append(line)
            else:
                self._settle(line, how, attempt)
        return None

    def _look(self, line: PlannedSnapshot) -> tuple[str, Attempt | None]:
        attempts = read_attempts(self._store, self._plan.dataset, line.snapshot).get(line.snapshot, [])
        return answered(self._plan, line, attempts, self._now())

    def _limit(self, line: PlannedSnapshot, running: list[PlannedSnapshot]) -> str | None:
        """Which limit forbids to start the line; what runs ends in any case."""
        request, clock = self._request, time.monotonic()
        if recipe_edited(self._session.recipe):  # the rest would be of another recipe than its plan says
            return "recipe_edited"
        if request.max_failures is not None and self._failures >= request.max_failures:
            return "max_failures"
        if request.max_hours is not None and clock - self._began >= 3600 * request.max_hours:
            return "max_hours"
        if self._session.deadline is not None and clock >= self._session.deadline:
            return "deadline"
        if request.max_cost is not None:
            ahead = sum(each.estimate.cost or 0.0 for each in [*running, line])
            if self._spent + ahead > request.max_cost or self._spent >= request.max_cost:
                return "max_cost"
        return None

    def _price(self, end: dict[str, Any] | None) -> float:
        return price_of(self._session.recipe.price, end or {}) or 0.0

    # --- what came of it --------------------------------------------------------------------------------------------

    def _note(self, line: PlannedSnapshot, future: Future[Any]) -> None:
        """One that was run here has ended. Raises an interrupt that ended it."""
        error = future.exception()
        if error is not None and not isinstance(error, Exception):
            raise error
        attempts = read_attempts(self._store, self._plan.dataset, line.snapshot).get(line.snapshot, [])
        own = next((a for a in reversed(attempts) if is_own(self._plan, a)), None)
        known = (
            {"outcome": "error", "reason": str(error), "exit_code": exit_code_of(error)} if error is not None else {}
        )
        said = known or future.result()
        end = (own.end if own is not None else None) or said  # a store that takes no more has no end of it
        failed = error is not None or end.get("action") == "fail"
        self._answers[line.snapshot] = LineEnd("failed" if failed else "done", end)
        self._failures += failed
        self._spent += self._price(end)
        self._ended += 1
        self._say(line, end)

    def _settle(self, line: PlannedSnapshot, how: str, attempt: Attempt | None) -> None:
        """One that is not run here: by another, or by an earlier command, or one of this moment, of this backfill."""
        end = (attempt.end if attempt is not None else None) or {}
        if how == "done" and attempt is not None and is_own(self._plan, attempt):
            self._answers[line.snapshot] = LineEnd("done", end)
            self._ended += 1
            return
        self._answers[line.snapshot] = LineEnd(f"{how} elsewhere", end)
        _log.info("%s is %s by another run.", line.snapshot, "done" if how == "done" else "being made")

    def _say(self, line: PlannedSnapshot, end: dict[str, Any]) -> None:
        if len(self._plan.lines) > 1:
            what = end.get("release") or "-"
            if end["outcome"] == "error":
                what = str(end["reason"]).splitlines()[0]
            count, seconds = f"{self._ended} of {len(self._plan.lines)}", end.get("seconds", 0.0)
            _log.info("%12s  %-12s %-14s %7.1f s  %s", count, line.snapshot, end["outcome"], seconds, what)

    def result(self) -> dict[str, Any]:
        """Of every line that is answered: the last line of stdout."""
        by: dict[str, dict[str, Any]] = {"done": {}, "failed": {}, "done elsewhere": {}, "running elsewhere": {}}
        for snapshot, answer in sorted(self._answers.items()):
            by[answer.how][snapshot] = answer.end
        made = {s: end for s, end in by["done"].items() if end["action"] in ("publish", "best_real")}
        left = len(self._plan.lines) - len(self._answers)
        failed = by["failed"] and self._stopped_by not in LIMITS
        switched = self._plan.publish == "each" or self._entry is not None
        return {
            "outcome": "failed" if failed else "stopped" if self._stopped_by else "done",
            "reason": self._reason(left),
            "backfill": self._plan.id,
            "done": len(by["done"]) + len(by["done elsewhere"]),
            "failed": {s: end.get("reason", end["outcome"]) for s, end in by["failed"].items()},
            **({"exit_code": exit_code_for(by["failed"].values())} if failed else {}),
            "released": {s: end["release"] for s, end in made.items() if switched and s not in self._apart},
            "kept": {s: end["outcome"] for s, end in by["done"].items() if s not in made},
            "outcomes": {s: end["outcome"] for s, end in by["done"].items()},
            "elsewhere": sorted([*by["done elsewhere"], *by["running elsewhere"]]),
            "not_switched": self._apart,
            "stopped_by": self._stopped_by,
            "log_entry": self._entry,
            "next": next_step(self._plan, self._stopped_by, bool(by["failed"])),
        }

    def _reason(self, left: int) -> str:
        if self._stopped_by == "failed":
            failed = f"{len(self._standing)} of {len(self._plan.lines)} snapshot(s) failed that have earlier releases"
            return f"{failed}; nothing was published, since readers would be left with a mixture"
        if self._stopped_by is None and (elsewhere := self._running_elsewhere()):
            return f"{elsewhere} of {len(self._plan.lines)} snapshot(s) are running elsewhere; the others are done"
        if self._stopped_by is None:
            return "every snapshot of the plan is done"
        if self._stopped_by == "running_elsewhere":
            left += self._running_elsewhere()
        waits = "; what is staged waits until the rest is done" if self._plan.publish == "together" else ""
        return f"stopped by {self._stopped_by}; {left} of {len(self._plan.lines)} snapshot(s) were not begun{waits}"

    def _running_elsewhere(self) -> int:
        return sum(answer.how == "running elsewhere" for answer in self._answers.values())

    # --- switching --------------------------------------------------------------------------------------------------

    def _switch(self) -> None:
        """What was staged becomes current in one log entry; what others published meanwhile stays, and is told.

        Not while a failed one has a release: it would stand beside the others' new ones, a mixture of two recipes.
        """
        failed = [snapshot for snapshot, answer in self._answers.items() if answer.how == "failed"]
        for _ in range(SWITCHES):
            log = read_log(self._store, self._plan.dataset)
            self._standing = [snapshot for snapshot in failed if snapshot in log.current()]
            if self._standing:
                self._stopped_by = "failed"
                return
            moves, entries = self._moves(log)
            try:
                if moves:
                    entry = self._log_entry(moves, entries)
                    commit_releases(self._store, self._plan.dataset, moves, entry=entry, command=self._session.command)
            except ConflictError:
                continue
            standing = read_log(self._store, self._plan.dataset).standing()
            self._entry = max((standing[s] for s in [*moves, *entries] if s in standing), default=None)
            wanted = self._session.recipe.publish.format == "delta"
            mirror_delta(self._store, self._plan.dataset, wanted=wanted)
            return
        raise ConflictError(
            f"others published first, {SWITCHES} times in a row", where=f"{self._plan.dataset} log", fix="run it again"
        )

    def _moves(self, log: Log) -> tuple[dict[str, tuple[str | None, str]], dict[str, dict[str, Any]]]:
        """(snapshot: (expected, release) of what is to move, snapshot: its own log entry)."""
        current, gone = log.current(), log.withdrawn()
        moves: dict[str, tuple[str | None, str]] = {}
        entries: dict[str, dict[str, Any]] = {}
        self._apart = {}
        for snapshot, answer in sorted(self._answers.items()):
            pending = answer.end.get("pending")
            if answer.how != "done" or pending is None:
                continue
            release, now = pending["release"], current.get(snapshot)
            if now == release:
                entries[snapshot] = pending["entry"]
            elif now != pending["expected"]:
                self._apart[snapshot] = f"{now or 'nothing'} was made current meanwhile"
            elif release in gone:
                self._apart[snapshot] = f"release {release} was withdrawn by a rollback"
            else:
                moves[snapshot], entries[snapshot] = (pending["expected"], release), pending["entry"]
        return moves, entries

    def _log_entry(self, moves: Collection[str], entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """One entry for all that move: what they agree on, and each one's own under ``snapshots``."""
        own = {snapshot: entries[snapshot] for snapshot in moves}

        def common(name: str) -> Any:
            values = {str(entry[name]) for entry in own.values()}
            return values.pop() if len(values) == 1 else "several"

        mode = self._plan.request["reprocess"]
        moved = f"{len(moves)} snapshots switched together"
        if len(moves) < len(entries):
            moved = f"{len(moves)} of {len(entries)} snapshots switched; the others were current already"
        return {
            "reason": f"backfill {self._plan.id} ({mode}): {moved}",
            **{name: common(name) for name in ("outcome", "arrangement", "approved_by")},
            "recipe": self._plan.recipe,
            "verdict": {},
            "backfill": self._plan.id,
            "snapshots": own,
        }


class _Inline(Executor):
    """Runs on the calling thread. An interrupt is raised, not kept."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - what an executor does: whoever waits for it is told
            future.set_exception(error)
        return future
