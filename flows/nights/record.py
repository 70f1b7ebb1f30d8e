"""What the store knows of backfills: each one's plan, written before its first snapshot runs, and its end.

private/backfills/<dataset>/<id>/plan.json  put-if-absent, sealed
                                 end.json   when every line has been answered; without it the same command goes on
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from augmill.flows.nights.plan import BackfillPlan, PlannedSnapshot
from augmill.flows.nights.states import SnapshotState
from augmill.flows.provenance import code_version
from augmill.tasks.errors import CorruptObject, UserError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.store.attempts import Attempt, read_attempts
from augmill.tasks.store.log import Log
from augmill.tasks.store.store import Store

SHOWN = 10  # backfills that a message names


def backfill_key(dataset: str, backfill: str, name: str) -> str:
    return f"private/backfills/{dataset}/{backfill}/{name}"


def write_plan(store: Store, plan: BackfillPlan) -> None:
    store.write_sealed(backfill_key(plan.dataset, plan.id, "plan.json"), plan.to_json())


def write_end(store: Store, plan: BackfillPlan, body: dict[str, Any]) -> None:
    store.write_sealed(backfill_key(plan.dataset, plan.id, "end.json"), body)


def unfinished(store: Store, dataset: str) -> Iterator[BackfillPlan]:
    """The backfills that have no end, newest first."""
    names: dict[str, set[str]] = {}
    for key in store.list_keys(f"private/backfills/{dataset}"):
        backfill, name = key.split("/")[-2:]
        names.setdefault(backfill, set()).add(name)
    for backfill in sorted(names, reverse=True):  # their names begin with the time
        if "plan.json" not in names[backfill] or "end.json" in names[backfill]:
            continue
        key = backfill_key(dataset, backfill, "plan.json")
        body = store.read_sealed(key)
        if body is None:
            raise CorruptObject(
                "the plan of an unfinished backfill is damaged", where=key, fix="run it again: it makes a new plan"
            )
        plan = BackfillPlan.from_json(body)
        if plan.kind == "backfill":
            yield plan


def known(store: Store, dataset: str) -> list[str]:
    """Every backfill and night of which there is a plan, newest first."""
    keys = store.list_keys(f"private/backfills/{dataset}")
    return sorted({key.split("/")[-2] for key in keys if key.endswith("/plan.json")}, reverse=True)


def published_by(store: Store, log: Log, backfill: str) -> set[int]:
    """The numbers of the log's entries by which a backfill made releases current.

    An earlier version named it in the log only where all were switched together: then its attempts tell.
    """
    entries = {number: entry for number, entry in enumerate(log.entries) if entry.get("kind") == "release"}
    named = {number for number, entry in entries.items() if entry.get("backfill") == backfill}
    if named:
        return named
    for snapshot, attempts in read_attempts(store, log.dataset).items():
        for attempt in attempts:
            end = attempt.end or {}
            if attempt.start.get("backfill") != backfill or not end.get("new"):
                continue
            numbers = [n for n, entry in entries.items() if entry["current"].get(snapshot) == end["release"]]
            named |= set(numbers[-1:])
    return named


def find_backfill(store: Store, dataset: str, name: str) -> str:
    """The one backfill whose id begins with ``name``. Raises UserError, which names the newest ones."""
    all_of_them = known(store, dataset)
    hits = [name] if name in all_of_them else [each for each in all_of_them if each.startswith(name)]
    if len(hits) != 1:
        named = hits or all_of_them
        newest, more = ", ".join(named[:SHOWN]) or "none yet", len(named) - SHOWN
        fix = f"known, newest first: {newest}" + (f" and {more:,} more" if more > 0 else "")
        problem = f"{name!r} could mean {len(hits)} backfills" if hits else f"there is no backfill {name!r}"
        raise UserError(f"{problem} of {dataset!r}", where="--backfill", fix=fix)
    return hits[0]


def left_to_do(store: Store, recipe: Recipe, states: Iterable[SnapshotState], now: datetime) -> dict[str, BackfillPlan]:
    """By snapshot: the newest of the unfinished backfills whose command still makes it, or switches to what it staged.

    One that was planned for another recipe, or by another version, is none: its command gives it up.
    """
    left: dict[str, BackfillPlan] = {}
    plans = [plan for plan in unfinished(store, recipe.dataset) if plan.is_of(recipe.hash(), code_version(recipe))]
    lines = [(plan, {line.snapshot: line for line in plan.lines}) for plan in plans]
    for state in states:
        attempts = [attempt for attempt in (state.basis, state.newest) if attempt is not None]
        for plan, by in lines:
            line = by.get(state.snapshot)
            if line is not None and answered(plan, line, attempts, now)[0] != "done":
                left.setdefault(state.snapshot, plan)
    return left


def answered(
    plan: BackfillPlan, line: PlannedSnapshot, attempts: Sequence[Attempt], now: datetime
) -> tuple[str, Attempt | None]:
    """What became of one line since it was planned: ``done`` with its attempt, ``running`` elsewhere, or ``due``.

    Another's attempt answers it too, where recipe and code were the plan's and its release does not wait for a switch.
    """
    later = [attempt for attempt in attempts if attempt.number > line.known]
    for attempt in reversed(later):
        alike = (attempt.start.get("recipe"), attempt.start.get("code")) == (plan.recipe, plan.code)
        waits = bool((attempt.end or {}).get("pending")) and not is_own(plan, attempt)
        if attempt.state(now) == "done" and alike and not waits:
            return "done", attempt
    alive = [a for a in later if a.state(now) == "running"]
    return ("running", alive[-1]) if alive else ("due", None)


def is_own(plan: BackfillPlan, attempt: Attempt) -> bool:
    return attempt.start.get("backfill") == plan.id
