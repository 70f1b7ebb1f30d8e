"""Forgetting rows: the list that keeps them out, releases made again without them, and the rest removed.

In this order, so that a kill anywhere is made good by the same command: the list (from then on no run takes the rows);
the snapshots that are kept, made again and staged; one log entry that makes them current; the files, releases first.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from augmill.flows.releases.gc import (
    TOMBSTONE,
    Dataset,
    artifact_of,
    delete_release,
    find_garbage,
    unnamed_objects,
)
from augmill.flows.releases.holding import Holdings, find_rows
from augmill.flows.releases.retention import Attempts, named, running
from augmill.flows.run import Session, open_session, parameters_of
from augmill.tasks.boundary.processes import sweep_temporary
from augmill.tasks.errors import AugmillError, ConflictError, DataError, UserError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.store.attempts import LEASE, read_attempts, utc_now
from augmill.tasks.store.delta import has_delta, sync_delta, vacuum_delta
from augmill.tasks.store.erasure import read_erased, write_erased
from augmill.tasks.store.log import Log, append
from augmill.tasks.store.store import Store, release_key
from augmill.tasks.workers import WATCH_SECONDS


def forget(
    recipe: Recipe,
    ids: list[str],
    *,
    reason: str,
    command: str,
    rebuild: bool = True,
    orchestrator: str | None = None,
    verbose: bool = False,
) -> dict[str, Any]:
    """Everything, in order; returns what was done. Raises AugmillError; then the same command again goes on."""
    store, temporary = Store(recipe.run.store), sweep_temporary()
    found = find_rows(store, recipe, ids)
    require_known(store, found)
    parts = [found.part, *found.others]
    require_quiet(parts, store)
    _outlive_workers(parts)
    request = write_erased(store, recipe.dataset, found.ids)
    require_quiet(parts, store)  # whoever began before the list stood may hold the rows
    made = make_again(recipe, found, command, orchestrator, verbose=verbose) if rebuild else {}
    plan = found.to_json(rebuild=rebuild)
    carry_out(store, found, made, request=request, reason=reason, command=command)
    found = find_rows(store, recipe, ids)
    if found.holding:
        raise ConflictError(
            f"{len(found.holding)} release(s) hold the rows again: {', '.join(sorted(found.holding)[:5])}",
            where=recipe.dataset,
            fix="run the same command again",
        )
    require_quiet(parts, store)
    released = {snapshot: pending["release"] for snapshot, pending in made.items()}
    removed = clear(store, recipe, found)
    temporary += sweep_temporary()
    return {"outcome": "forgotten", **plan, "made": released, "removed": removed, "temporary": temporary}


def require_known(store: Store, found: Holdings) -> None:
    """Raises UserError where none of the ids stands anywhere (a wrong column, another dataset), or one is a made row's."""
    if made := sorted(found.made - found.source):
        more = f" and {len(made) - 3:,} more" if len(made) > 3 else ""
        raise UserError(
            f"{', '.join(map(repr, made[:3]))}{more} is a synthetic row, not a source row: no run could leave it out",
            where="--rows",
            fix="give the ids of its parents; `augmill explain ROW_ID` shows them",
        )
    erased = read_erased(store, found.part.name)
    if not (found.source or any(erased.holds(row_id) for row_id in found.ids)):
        raise UserError(
            f"none of the {len(found.ids)} id(s) is in a release or an artifact of {found.part.name!r}",
            where="--rows",
            fix="give aug_row_id of real rows, one per line, or the column that holds them (--column)",
        )


def require_quiet(parts: Iterable[Dataset], store: Store) -> None:
    """Raises ConflictError while a snapshot runs: it may hold the rows in what it is about to write."""
    for part in parts:
        for attempt in running(read_attempts(store, part.name), utc_now()):
            raise ConflictError(
                f"snapshot {attempt.snapshot!r} is being made; what it writes may hold the rows",
                where=part.name,
                fix="wait until it ends, or stop it (on another machine: and wait two minutes); then run the same command again",
            )


def _outlive_workers(parts: Iterable[Dataset]) -> None:
    """The workers of a run that was killed a moment ago end within a second: until then they may write rows."""
    now = utc_now()
    tries = [attempt for part in parts for of in part.attempts.values() for attempt in of if attempt.end is None]
    if any(now - attempt.beat < LEASE for attempt in tries):
        time.sleep(2 * WATCH_SECONDS)


def make_again(
    recipe: Recipe, found: Holdings, command: str, orchestrator: str | None, *, verbose: bool
) -> dict[str, dict[str, Any]]:
    """snapshot -> its release without the rows, put but not current yet, with what the log is to say of it.

    Each is a whole run, so it is judged anew. Raises AugmillError where one cannot be made.
    """
    made: dict[str, dict[str, Any]] = {}
    if not found.again:
        return made
    how: dict[str, Any] = {"staged": True, "about": {"forget": True}, "by_morning": False}
    with open_session(recipe, command=command, orchestrator=orchestrator, verbose=verbose, **how) as session:
        for name in found.again:
            made[name] = _make_again(session, None if name == "all" else name)["pending"]
    return made


def _make_again(session: Session, as_of: str | None) -> dict[str, Any]:
    """The snapshot without the rows, staged. Raises what the run raised, told as what it means for the request."""
    from augmill.flows.augment import augment  # what those who only look at releases do not need
    from augmill.flows.flow import call_flow

    try:
        result = call_flow(session, augment, **parameters_of(session.recipe), as_of=as_of)
    except AugmillError as error:
        raise _stopped(type(error), as_of, error.problem, error.where, error.fix) from error
    if "pending" not in result:
        raise _stopped(DataError, as_of, str(result["reason"]), session.recipe.dataset, "correct that")
    return result


def _stopped(kind: type[AugmillError], as_of: str | None, why: str, where: str, fix: str) -> AugmillError:
    return kind(
        f"snapshot {as_of or 'all'!r} cannot be made again without the rows, and nothing was removed yet: {why}",
        where=where,
        fix=f"{fix or 'correct that'}; then run the same command again. Or add --no-rebuild, which removes everything that "
        "holds the rows and makes nothing in its place",
    )


def carry_out(
    store: Store, found: Holdings, made: dict[str, dict[str, Any]], *, request: str, reason: str, command: str
) -> None:
    """The log entry, then the files. ``made``: snapshot -> the staged release that takes the place of what held them."""
    dataset = found.part.name
    new = {snapshot: str(pending["release"]) for snapshot, pending in made.items()}
    made_again = {r: new[h.snapshot] for r, h in found.holding.items() if h.names and h.snapshot in new}
    replaced = {old: new for old, new in made_again.items() if old != new}
    erased = sorted(found.holding.keys() - {old for old, new in made_again.items() if old == new})
    about = {
        snapshot: pending["entry"] | {"reason": f"{reason}; made again without the rows: {pending['entry']['reason']}"}
        for snapshot, pending in made.items()
    }

    def change(log: Log) -> dict[str, Any] | None:
        current = {s: new.get(s) for s, release in log.current().items() if release in erased}
        logged = any(entry.get("request") == request for entry in log.entries)
        fresh = [release for release in erased if not any(release in e.get("erased", []) for e in log.entries)]
        if logged and not current and not fresh:
            return None
        other = sum(release in replaced for release in found.other_recipe)
        counts = {**found.counted(), "releases": len(erased), "made_again": len(replaced), "other_recipe": other}
        entry = {"kind": "forget", "current": current, "replaced": replaced, "erased": erased, "counts": counts}
        return {**entry, "made": new, "snapshots": about, "reason": reason, "request": request}

    append(store, dataset, change, command=command)
    _move_tags(store, dataset, command)
    for release in erased:
        note = {"erased": True, "replaced_by": replaced.get(release), "reason": reason}
        store.put(release_key(dataset, release, TOMBSTONE), json.dumps(note, sort_keys=True).encode())
        delete_release(store, dataset, release)


def _move_tags(store: Store, dataset: str, command: str) -> None:
    """A tag of an erased release goes to what was made in its place, or away where nothing was."""
    while True:

        def change(log: Log) -> dict[str, Any] | None:
            replaced: dict[str, str] = {}
            erased: set[str] = set()
            for entry in log.entries:
                replaced |= entry.get("replaced", {})
                erased |= set(entry.get("erased", []))
            for tag, release in log.tags().items():
                if release in erased:
                    why = f"forget: {release} was erased"
                    return {"kind": "tag", "current": {}, "tag": tag, "release": replaced.get(release), "reason": why}
            return None

        if append(store, dataset, change, command=command)[0] is None:
            return


def clear(store: Store, recipe: Recipe, found: Holdings) -> dict[str, int]:
    """Removes every private file that may hold the rows: what no clean attempt names. ``found`` is of after the switch."""
    now = utc_now()
    clean = {
        snapshot: [attempt for attempt in tries if (snapshot, attempt.number) not in found.tainted]
        for snapshot, tries in found.part.attempts.items()
    }
    needed = named(clean, set(found.part.releases), None, now, everything=False)
    needed -= found.artifacts.keys()
    for other in found.others:
        needed |= named(other.attempts, set(), None, now, everything=True)
    removed = {"artifacts": 0, "objects": 0, "others": 0}
    for key in store.list_keys("private/manifests"):
        if artifact_of(key) not in needed:
            store.delete(key)
            removed["artifacts"] += 1
    for item in unnamed_objects(store, store.list_keys("private/manifests"), lambda _: True):
        store.delete(item.key)
        removed["objects"] += 1
    for key in dict.fromkeys(_beside(store, recipe.dataset, clean)):
        store.delete(key)
        removed["others"] += 1
    if has_delta(store, recipe.dataset):
        sync_delta(store, recipe.dataset)
        removed["others"] += len(vacuum_delta(store, recipe.dataset, 0))
    store.tidy("private/scratch")
    store.tidy(f"private/reports/{recipe.dataset}")
    if store.local is None:
        shutil.rmtree(store.local_scratch(""), ignore_errors=True)
    return removed


def _beside(store: Store, dataset: str, clean: Attempts) -> list[str]:
    """What may repeat rows beside the artifacts: reports of other than clean attempts, leftovers, scratch space."""
    # From `private/` on: the store may have been given by another path, or moved.
    reports = {
        "private/reports/" + attempt.end["report"].partition("private/reports/")[2].rsplit("/", 1)[0]
        for tries in clean.values()
        for attempt in tries
        if attempt.end is not None and attempt.end.get("report")
    }
    keys = [key for where in ("private/aside", "private/staging", "private/scratch") for key in store.list_keys(where)]
    keys += [k for k in store.list_keys(f"private/reports/{dataset}") if "/".join(k.split("/")[:4]) not in reports]
    keys += [item.key for item in find_garbage(store, grace=timedelta(0)).others]
    return keys
