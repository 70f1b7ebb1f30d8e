"""Attempts: what was tried for each snapshot, in the store. From these and the log alone follows every snapshot's state.

private/attempts/<dataset>/<snapshot>/<8 digits>/start.json  put-if-absent: the claim of that number
                                                 beat.json   overwritten by its owner alone while it lives
                                                 end.json    put-if-absent: how it ended
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from augmill.tasks.contracts import StoreError
from augmill.tasks.hashing import seal
from augmill.tasks.store import Store

BEAT_SECONDS = 20.0
LEASE = timedelta(seconds=120)  # without a beat for so long its owner counts as dead, wherever it ran

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


def attempts_key(dataset: str, snapshot: str = "") -> str:
    return f"private/attempts/{dataset}/{folder_of(snapshot)}" if snapshot else f"private/attempts/{dataset}"


def folder_of(snapshot: str) -> str:
    """A directory's name for a snapshot: its own where it is plain, else a hash: a partition may be named ``../x``."""
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", snapshot) and not snapshot.endswith(".")
    return snapshot if plain else f"_{hashlib.sha256(snapshot.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"


@dataclass(frozen=True)
class Attempt:
    """One try at one snapshot. ``end`` is None while it runs, and for ever where it was killed."""

    snapshot: str
    number: int
    start: dict[str, Any]
    beat: datetime
    end: dict[str, Any] | None = None

    def state(self, now: datetime) -> str:
        """``running``, ``interrupted``, ``failed`` (it ended by an error) or ``done`` (it ended by an outcome)."""
        if self.end is None:
            return "running" if now - self.beat < LEASE else "interrupted"
        return "failed" if self.end["outcome"] in ("error", "interrupted") else "done"


def begin(store: Store, dataset: str, snapshot: str, about: dict[str, Any], *, now: Clock = utc_now) -> Attempt:
    """Claims the next number for the snapshot. ``about`` says what is to be done (command, recipe, code)."""
    token = secrets.token_hex(8)
    base = attempts_key(dataset, snapshot)
    number = 1 + max(
        (int(key.split("/")[-2]) for key in store.list_keys(base) if key.endswith("start.json")), default=-1
    )
    for following in range(number, number + 100):
        moment = now()
        body = {"snapshot": snapshot, "token": token, "time": moment.isoformat(timespec="seconds"), **about}
        standing = store.write_sealed(f"{base}/{following:08d}/start.json", body)
        if standing["token"] == token:
            return Attempt(snapshot, following, body, moment)
    raise StoreError("100 others began the same snapshot first", where=base, fix="run it again")


def finish(store: Store, dataset: str, attempt: Attempt, body: dict[str, Any]) -> None:
    """Says how it ended; the first word stands."""
    key = f"{attempts_key(dataset, attempt.snapshot)}/{attempt.number:08d}/end.json"
    store.write_sealed(key, {"time": utc_now().isoformat(timespec="seconds"), **body})


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


def read_attempts(store: Store, dataset: str, snapshot: str | None = None) -> dict[str, list[Attempt]]:
    """Every attempt by snapshot, oldest first."""
    found: dict[str, dict[int, set[str]]] = {}
    for key in store.list_keys(attempts_key(dataset, snapshot or "")):
        folder, number, name = key.split("/")[-3:]
        found.setdefault(folder, {}).setdefault(int(number), set()).add(name)
    attempts: dict[str, list[Attempt]] = {}
    for folder, numbers in found.items():
        for at, names in sorted(numbers.items()):
            read = _read(store, f"{attempts_key(dataset)}/{folder}/{at:08d}", at, names)
            if read is not None:
                attempts.setdefault(read.snapshot, []).append(read)
    return attempts


def _read(store: Store, base: str, number: int, names: set[str]) -> Attempt | None:
    """None where the start is gone or rotted: then nobody can say what was tried."""
    start = store.read_sealed(f"{base}/start.json")
    if start is None:
        return None
    end = store.read_sealed(f"{base}/end.json") if "end.json" in names else None
    beat = store.read_sealed(f"{base}/beat.json") if "beat.json" in names and end is None else None
    return Attempt(start["snapshot"], number, start, datetime.fromisoformat((beat or start)["time"]), end)
