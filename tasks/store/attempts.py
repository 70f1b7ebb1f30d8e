"""Attempts: what was tried for each snapshot, in the store. From these and the log alone follows every snapshot's state.

private/attempts/<dataset>/<snapshot>/<8 digits>/start.json  put-if-absent: the claim of that number
                                                 beat.json   overwritten by its owner alone while it lives
                                                 end.json    put-if-absent: how it ended; repeats the start
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from augmill.tasks.boundary.processes import is_gone
from augmill.tasks.boundary.retries import in_threads
from augmill.tasks.errors import StoreError
from augmill.tasks.rows.hashing import seal
from augmill.tasks.store.shapes import cleaned
from augmill.tasks.store.store import READERS, Store

BEAT_SECONDS = 20.0
LEASE = timedelta(
    seconds=120
)  # without a beat for so long its owner counts as dead, wherever it ran; one of this machine at once

Clock = Callable[[], datetime]

_PLAIN = re.compile(r"(?!(?i:con|prn|aux|nul|com\d|lpt\d)(?:\.|$))[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(?<!\.)")
_DOCUMENT = re.compile(r"([^/]+)/(\d{8})/(start|beat|end)\.json")


def utc_now() -> datetime:
    return datetime.now(UTC)


def attempts_key(dataset: str, snapshot: str = "") -> str:
    return f"private/attempts/{dataset}/{folder_of(snapshot)}" if snapshot else f"private/attempts/{dataset}"


def folder_of(snapshot: str) -> str:
    """A directory's name for a snapshot: its own where it is plain, else a hash: a partition may be named ``../x``."""
    if _PLAIN.fullmatch(snapshot):
        return snapshot
    return f"_{hashlib.sha256(snapshot.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"


@dataclass(frozen=True)
class Attempt:
    """One try at one snapshot. ``end`` is None while it runs, and for ever where it was killed."""

    snapshot: str
    number: int
    start: dict[str, Any]
    beat: datetime
    end: dict[str, Any] | None = None

    def state(self, now: datetime) -> str:
        """``running``, ``interrupted`` (killed or stopped), ``failed`` (by an error) or ``done`` (by an outcome).

        An outcome that the recipe calls a failure (``outcomes: {harmful: fail}``) is ``failed`` too.
        """
        if self.end is None:
            alive = now - self.beat < LEASE and not is_gone(self.start.get("owner"))
            return "running" if alive else "interrupted"
        if self.end.get("action") == "fail":
            return "failed"
        return {"error": "failed", "interrupted": "interrupted"}.get(self.end["outcome"], "done")


def begin(store: Store, dataset: str, snapshot: str, about: dict[str, Any], *, now: Clock = utc_now) -> Attempt:
    """Claims the next number for the snapshot. ``about`` says what is to be done (command, recipe, code)."""
    token = secrets.token_hex(8)
    base = attempts_key(dataset, snapshot)
    taken = [number for _, number, _ in _documents(store, base)]  # by any document: a rotted start frees no number
    number = max(taken, default=-1) + 1
    for following in range(number, number + 100):
        moment = now()
        body = {"snapshot": snapshot, "token": token, "time": moment.isoformat(timespec="seconds"), **cleaned(about)}
        standing = store.write_sealed(f"{base}/{following:08d}/start.json", body)
        if standing["token"] == token:
            return Attempt(snapshot, following, body, moment)
    raise StoreError("100 others began the same snapshot first", where=base, fix="run it again")


def finish(store: Store, dataset: str, attempt: Attempt, body: dict[str, Any]) -> None:
    """Says how it ended; the first word stands."""
    key = f"{attempts_key(dataset, attempt.snapshot)}/{attempt.number:08d}/end.json"
    # With the start in it, an attempt that ended is read by one request, and a start that rots costs nothing.
    moment = utc_now().isoformat(timespec="seconds")
    store.write_sealed(key, {"time": moment, **cleaned(body), "start": attempt.start})


@contextmanager
def beating(store: Store, dataset: str, attempt: Attempt, *, every: float = BEAT_SECONDS) -> Iterator[None]:
    """Tells others, every ``every`` seconds, that the attempt lives. A beat that fails is left out: the next one counts."""
    stop = threading.Event()
    key = f"{attempts_key(dataset, attempt.snapshot)}/{attempt.number:08d}/beat.json"

    def beat() -> None:
        while not stop.wait(every):
            try:
                store.put(key, seal({"time": utc_now().isoformat(timespec="seconds")}))
            except StoreError:
                continue  # whoever looks sees an older beat, which is true

    thread = threading.Thread(target=beat, daemon=True, name="augmill-beat")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def read_attempts(
    store: Store, dataset: str, snapshots: str | Collection[str] | None = None, *, newest: bool = False
) -> dict[str, list[Attempt]]:
    """Every attempt by snapshot, oldest first. ``snapshots``: of these alone; None: of all that were ever tried.

    ``newest``: of each snapshot only the last that can be read.
    """
    one = snapshots if isinstance(snapshots, str) else ""
    wanted = None if snapshots is None or one else {folder_of(snapshot) for snapshot in snapshots}
    found: dict[str, dict[int, dict[str, datetime]]] = {}
    for folder, number, written in _documents(store, attempts_key(dataset, one)):
        if wanted is None or folder in wanted:
            found.setdefault(folder, {}).setdefault(number, {}).update(written)

    def read(folder: str) -> list[Attempt]:
        attempts: list[Attempt] = []
        for number in sorted(found[folder], reverse=True):
            attempt = _read(store, f"{attempts_key(dataset)}/{folder}/{number:08d}", number, found[folder][number])
            attempts += [attempt] if attempt is not None else []
            if newest and attempts:
                break
        return attempts[::-1]

    every = [attempt for attempts in in_threads(read, sorted(found), READERS) for attempt in attempts]
    by: dict[str, list[Attempt]] = {}
    for attempt in every:
        by.setdefault(attempt.snapshot, []).append(attempt)
    return by


def _documents(store: Store, base: str) -> Iterator[tuple[str, int, dict[str, datetime]]]:
    """(folder, number, {document: when it was written}) of each document below; what else lies there is not ours."""
    for item in store.list_files(base):
        if named := _DOCUMENT.fullmatch("/".join(item.key.split("/")[-3:])):
            yield named[1], int(named[2]), {named[3]: item.modified}


def _read(store: Store, base: str, number: int, written: dict[str, datetime]) -> Attempt | None:
    """None where start and end are gone or rotted: then nobody can say what was tried.

    A beat is as old as the store says where its owner's clock runs ahead: else a dead owner would seem to live on.
    """
    end = store.read_sealed(f"{base}/end.json") if "end" in written else None
    start = end.pop("start", None) if end is not None else None
    if start is None:
        start = store.read_sealed(f"{base}/start.json") if "start" in written else None
    if start is None:
        return None
    beat = store.read_sealed(f"{base}/beat.json") if "beat" in written and end is None else None
    at = written.get("beat" if beat is not None else "start")
    said = datetime.fromisoformat((beat or start)["time"])
    return Attempt(start["snapshot"], number, start, said if at is None else min(said, at), end)
