"""Attempts and releases as runs leave them, without the runs: what states are told from."""

from __future__ import annotations

import itertools
from datetime import timedelta
from pathlib import Path
from typing import Any

from chain import tiny_recipe
from fake_releases import put_fake

from augmill.flows.provenance import code_version
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.stages.publish import commit_releases
from augmill.tasks.store.attempts import Attempt, begin, finish, utc_now
from augmill.tasks.store.log import read_log
from augmill.tasks.store.store import Store

_numbers = itertools.count()


def dated(*, schedule: Any = None, **partitions: Any) -> Recipe:
    """A recipe by day; its source need not be there."""
    columns = {"text": "text", "label": "label", "partition": "day"}
    more = {} if schedule is None else {"schedule": schedule}
    return tiny_recipe(Path("/rows.csv"), columns=columns, partitions={"every": "day"} | partitions, **more)


RECIPE = dated()


def begun(store: Store, snapshot: str, *, ago: timedelta = timedelta(), **about: Any) -> Attempt:
    head = {"command": "augmill run", "recipe": RECIPE.hash(), "code": code_version(RECIPE)} | about
    return begin(store, "tiny", snapshot, head, now=lambda: utc_now() - ago)


def tried(store: Store, snapshot: str, outcome: str = "published", *, about: Any = None, **end: Any) -> str | None:
    """An attempt that ended so, as flows/run.py leaves it; the release that it made current, or put (``pending``)."""
    attempt = begun(store, snapshot, **(about or {}))
    before = read_log(store, "tiny").current().get(snapshot)
    body: dict[str, Any] = {"outcome": outcome, "reason": f"{outcome} it is", "release": before, "arrangement": None}
    if outcome == "error":
        body |= {"kind": "DataError", "where": "source", "next": "mend it"}
    elif end.get("action", "publish") == "publish":
        release = put_fake(store, f"{(number := next(_numbers)) % 256:02x} {number}")
        body |= {"action": "publish", "release": release, "arrangement": "mix", "source": {}}
        entry = {"reason": "it helps", "outcome": outcome, "recipe": attempt.start["recipe"]}
        if "pending" in end:
            end["pending"] = {"release": release, "expected": before, "entry": entry} | end["pending"]
        else:
            commit_releases(store, "tiny", {snapshot: (before, release)}, entry=entry, command="test")
    finish(store, "tiny", attempt, body | end)
    return body["release"]
