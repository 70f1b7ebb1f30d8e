"""The log: what is current, one sealed entry after another, put-if-absent (law 8)."""

from __future__ import annotations

import getpass
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from augmill.tasks.contracts import ConflictError, UserError
from augmill.tasks.hashing import seal
from augmill.tasks.store import Store, log_key, release_key


@dataclass
class Log:
    """A dataset's log as read at one moment."""

    dataset: str
    entries: list[dict[str, Any]] = field(default_factory=list)

    @property
    def head(self) -> str:
        """sha256 of the newest entry as it stands in the store; of nothing where there is none."""
        return hashlib.sha256(seal(self.entries[-1])).hexdigest() if self.entries else hashlib.sha256(b"").hexdigest()

    def current(self) -> dict[str, str]:
        """snapshot: release, after every entry."""
        state: dict[str, str] = {}
        for entry in self.entries:
            for snapshot, release in entry["current"].items():
                if release is None:
                    state.pop(snapshot, None)
                else:
                    state[snapshot] = release
        return state

    def withdrawn(self) -> set[str]:
        """Releases that a rollback named and that were not published again on purpose since."""
        names: set[str] = set()
        for entry in self.entries:
            names -= {release for release in entry["current"].values() if release is not None and entry.get("forced")}
            names |= set(entry.get("withdraws", []))
        return names

    def newest(self, as_of: str | None = None) -> str | None:
        """The release a reader gets: of the newest snapshot, or of the newest one up to ``as_of``.

        ``all`` holds every row there was, later ones too: it is as of no date. Beside dated snapshots it is the newest
        only where it was the last to change.
        """
        state = self.current()
        everything = state.pop("all", None)
        dated = {s: r for s, r in state.items() if as_of is None or s <= as_of}
        last = next((s for entry in reversed(self.entries) for s in entry["current"]), None)
        if as_of is None and everything is not None and (last == "all" or not dated):
            return everything
        return dated[max(dated)] if dated else None


def read_log(store: Store, dataset: str) -> Log:
    """Raises StoreRefused where an entry is corrupt or the chain is broken."""
    log = Log(dataset)
    for number, body in store.iter_log(dataset):
        if number != len(log.entries) or body["previous"] != log.head:
            from augmill.tasks.contracts import StoreRefused

            raise StoreRefused(
                f"the log's chain is broken at entry {number}",
                where=log_key(dataset, number),
                fix="restore it from a backup",
            )
        log.entries.append(body)
    return log


def append(
    store: Store,
    dataset: str,
    change: Callable[[Log], dict[str, Any] | None],
    *,
    command: str,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> tuple[dict[str, Any] | None, bool]:
    """Appends what ``change(log)`` gives, again over a longer log where another entry came first.

    ``change`` returns the entry's own keys (``current`` at least), or None where nothing is to be done; it raises
    ConflictError where what it would change has changed. Returns (entry or None, whether this call appended it).
    """
    commit = secrets.token_hex(8)  # so that a PUT whose answer was lost is known again
    for _ in range(50):
        log = read_log(store, dataset)
        change_of = change(log)
        if change_of is None:
            return None, False
        number = len(log.entries)
        body = {
            "number": number,
            "commit": commit,
            "previous": log.head,
            "time": now().isoformat(timespec="seconds"),
            "actor": _actor(),
            "command": command,
            **change_of,
        }
        standing = store.write_sealed(log_key(dataset, number), body)
        if standing["commit"] == commit:
            return body, True
    raise ConflictError("50 others wrote the log first", where=f"{dataset} log", fix="run it again")


def _actor() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user id in this container
        return "unknown"


def _published(log: Log) -> list[tuple[str, str]]:
    """(snapshot, release) of each entry that published one, in order."""
    return [
        (s, r) for e in log.entries if e.get("kind") != "rollback" for s, r in e["current"].items() if r is not None
    ]


def rollback(store: Store, dataset: str, *, to: str | None, reason: str, command: str) -> dict[str, Any]:
    """Makes the release before the newest change current again (or ``to``) and withdraws the one it replaces.

    Raises UserError where there is nothing to go back to.
    """

    def change(log: Log) -> dict[str, Any]:
        moves = [(s, r) for entry in log.entries for s, r in entry["current"].items() if r is not None]
        state = log.current()
        if not moves or not state:
            raise UserError(f"{dataset!r} has no release", where="rollback", fix="augmill releases shows what there is")
        snapshot = moves[-1][0] if to is None else next((s for s, r in reversed(moves) if r.startswith(to)), "")
        history = [r for s, r in moves if s == snapshot]
        if snapshot not in state:
            raise UserError(f"no release {to!r} in {dataset!r}", where="rollback", fix="augmill releases shows them")
        gone = log.withdrawn() | {state[snapshot]}
        if to is None:  # what stood before the current one was published, whatever was rolled back to since
            made = [r for s, r in _published(log) if s == snapshot]
            history = made[: len(made) - 1 - made[::-1].index(state[snapshot])]
        hits = [r for r in dict.fromkeys(reversed(history)) if r not in gone and r.startswith(to or "")]
        target = hits[0] if hits else None
        if to is not None and len(hits) > 1:
            raise UserError(
                f"{to!r} names {len(hits)} releases ({', '.join(hits)})", where="--to", fix="give more of it"
            )
        if target is None:
            raise UserError(
                "there is no earlier release that was not withdrawn",
                where=f"{dataset} {snapshot}",
                fix="augmill releases",
            )
        if store.size(release_key(dataset, target, "manifest.json")) is None:
            raise UserError(f"release {target} is gone from the store", where="rollback", fix="name another with --to")
        return {"current": {snapshot: target}, "withdraws": [state[snapshot]], "reason": reason, "kind": "rollback"}

    entry, _ = append(store, dataset, change, command=command)
    assert entry is not None
    return entry
