"""The log: what is current, one sealed entry after another, put-if-absent (law 8).

An entry's ``kind``: release, rollback, forget and expire move what is current; tag moves nothing (``current`` is {}).
"""

from __future__ import annotations

import getpass
import hashlib
import re
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from augmill.tasks.errors import ConflictError, StoreRefused, UserError
from augmill.tasks.rows.calendar import rank
from augmill.tasks.rows.hashing import seal
from augmill.tasks.store.releases import require_whole
from augmill.tasks.store.shapes import cleaned
from augmill.tasks.store.store import Store, log_key, release_key


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

    def named(self) -> set[str]:
        """Every release that an entry speaks of, whether it is current, withdrawn or made again."""
        return {release for entry in self.entries for release in released_in(entry).values() if release}

    def withdrawn(self) -> set[str]:
        """Releases that a rollback named and that were not published again on purpose since."""
        names: set[str] = set()
        for entry in self.entries:
            names -= {release for release in entry["current"].values() if release is not None and entry.get("forced")}
            names |= set(entry.get("withdraws", []))
        return names

    def standing(self) -> dict[str, int]:
        """snapshot: the number of the entry that published what is current; a rollback brings an earlier one back."""
        published: dict[tuple[str, str | None], int] = {}
        for number, entry in enumerate(self.entries):
            if entry.get("kind") == "rollback":
                continue
            for snapshot, release in entry["current"].items():
                # What forget made again stands in place of what it erased: it is undone with that one's publication.
                before = (
                    published.get((snapshot, old)) for old, new in entry.get("replaced", {}).items() if new == release
                )
                published[snapshot, release] = min((at for at in before if at is not None), default=number)
        return {snapshot: published[snapshot, release] for snapshot, release in self.current().items()}

    def publication(self, release: str) -> dict[str, Any]:
        """What the log says of how it came to be: the newest entry that published it, as it concerns this release.

        A rollback only brings it back, and says nothing of its numbers. Empty where the log does not name it.
        """
        entries = (entry for entry in reversed(self.entries) if entry.get("kind") != "rollback")
        found = next((entry for entry in entries if release in released_in(entry).values()), None)
        return {} if found is None else entry_of(found, release)

    def tags(self) -> dict[str, str]:
        """tag: the release that it keeps."""
        found: dict[str, str] = {}
        for entry in self.entries:
            if entry.get("kind") == "tag":
                found.pop(entry["tag"], None)
                found |= {entry["tag"]: entry["release"]} if entry["release"] is not None else {}
        return found

    def newest(self, as_of: str | None = None) -> str | None:
        """The release a reader gets: of the newest snapshot, or of the newest one up to ``as_of``.

        ``all`` holds every row there was, later ones too: it is as of no date. Beside dated snapshots it is the newest
        only where it was published after every one of them that stands.
        """
        state = self.current()
        everything = state.pop("all", None)
        dated = {s: r for s, r in state.items() if as_of is None or rank(s) <= rank(as_of)}
        if as_of is None and everything is not None:
            at = self.standing()
            if all(at[snapshot] < at["all"] for snapshot in dated):
                return everything
        return dated[max(dated, key=rank)] if dated else None


def read_log(store: Store, dataset: str) -> Log:
    """Raises StoreRefused where an entry is corrupt or malformed, or the chain is broken: a log is never mended."""
    log, published = Log(dataset), set[tuple[str, str]]()
    keys = store.list_keys(log_key(dataset, 0).rpartition("/")[0])
    for key, raw in zip(keys, store.get_all(keys), strict=True):
        body = store.unsealed(key, raw)
        if body is None:
            raise StoreRefused("the log entry's checksum is wrong", where=key, fix="restore the file from a backup")
        number = len(log.entries)
        if key != log_key(dataset, number) or body["previous"] != log.head:
            problem = f"the log's chain is broken at entry {number}"
            raise StoreRefused(problem, where=key, fix="restore it from a backup")
        moves = {(snapshot, release) for snapshot, release in released_in(body).items() if release is not None}
        if body["kind"] == "rollback" and (unknown := sorted(moves - published)):
            problem = f"it goes back to release {unknown[0][1]} of snapshot {unknown[0][0]!r}, which no entry published"
            raise StoreRefused(problem, where=key, fix="restore it from a backup")
        published |= moves
        log.entries.append(body)
    return log


def released_in(entry: dict[str, Any]) -> dict[str, str | None]:
    """snapshot: the release that the entry speaks of; one that a tag alone keeps is made again by forget, not current."""
    return {**entry["current"], **entry.get("made", {})}


def entry_of(entry: dict[str, Any], release: str | None) -> dict[str, Any]:
    """The entry as it concerns one release: where several switched together, each has its own reason and numbers."""
    snapshot = next((name for name, current in released_in(entry).items() if current == release), "")
    own: dict[str, Any] = entry.get("snapshots", {}).get(snapshot, {})
    return entry | own


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

    Every release that the entry makes current, or keeps by a tag, is verified first, all its files: CorruptObject.
    """
    commit = secrets.token_hex(8)  # so that a PUT whose answer was lost is known again
    whole: set[str] = set()
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
        body = cleaned(body)  # who reads it on a terminal is not to be led by a label, a path or a recipe's name
        named = {*released_in(body).values(), body["release"] if body.get("kind") == "tag" else None}
        for release in sorted(release for release in named if release is not None and release not in whole):
            require_whole(store, dataset, release)
            whole.add(release)
        standing = store.write_sealed(log_key(dataset, number), body)
        if standing["commit"] == commit:
            return body, True
    raise ConflictError("50 others wrote the log first", where=f"{dataset} log", fix="run it again")


def _actor() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user id in this container
        return "unknown"


def rollback(
    store: Store, dataset: str, *, to: str | None, reason: str, command: str, entries: Collection[int] | None = None
) -> dict[str, Any]:
    """Undoes the newest publication that stands, or makes the release ``to`` current again; returns the entry.

    ``entries``: numbers of publications to undo instead, in one entry, as ``undone_of`` says.

    A publication is undone as a whole: each snapshot that it moved gets back what was current before, or nothing (None)
    where there was nothing, as long as another snapshot keeps a release. What is replaced is withdrawn. Raises UserError
    where there is nothing to go back to.
    """

    def change(log: Log) -> dict[str, Any]:
        state = log.current()
        if not state:
            raise UserError(f"{dataset!r} has no release", where="rollback", fix="augmill releases shows what there is")
        if entries is not None:
            moves, _ = undone_of(store, log, entries)
        else:
            moves = _undone(log) if to is None else _back_to(log, to)
        for target in filter(None, moves.values()):
            if store.size(release_key(dataset, target, "manifest.json")) is None:
                problem = f"release {target} is gone from the store"
                raise UserError(problem, where="rollback", fix="name another with --to")
        gone = [state[snapshot] for snapshot in moves]
        return {"current": moves, "withdraws": gone, "reason": reason, "kind": "rollback"}

    entry, _ = append(store, dataset, change, command=command)
    assert entry is not None
    return entry


def _undone(log: Log) -> dict[str, str | None]:
    """snapshot: what it gets back when the newest publication that stands is undone."""
    state, standing = log.current(), log.standing()
    last = max(standing.values())
    undone = sorted(snapshot for snapshot, number in standing.items() if number == last)
    gone = log.withdrawn() | {state[snapshot] for snapshot in undone}
    moves = {snapshot: _before(log, snapshot, last, gone) for snapshot in undone}
    if len(undone) == len(state) and not any(moves.values()):
        raise _nothing_earlier(log, undone[0])
    return moves


def undone_of(store: Store, log: Log, entries: Collection[int]) -> tuple[dict[str, str | None], dict[str, str]]:
    """(snapshot: what it gets back when these publications are undone, snapshot: why it is left alone instead).

    Left alone is what something else changed since. Raises UserError where nothing is left to undo, or no snapshot
    would keep a release.
    """
    state, standing = log.current(), log.standing()
    moved: dict[str, int] = {}
    for number in sorted(entries):
        moved |= {name: moved.get(name, number) for name in log.entries[number]["current"]}
    undone = {name: first for name, first in moved.items() if standing.get(name) in entries}
    left = {name: _since(log, name) for name in sorted(moved) if name not in undone}
    gone = log.withdrawn() | {state[name] for name in undone}
    moves = {name: _before(log, name, first, gone) for name, first in sorted(undone.items())}
    for name, back in [*moves.items()]:
        if back is not None and store.size(release_key(log.dataset, back, "manifest.json")) is None:
            left[name] = f"release {back}, which was current before, is gone from the store"
            del moves[name]
    if not moves:
        told = "; ".join(f"{name}: {why}" for name, why in [*left.items()][:3]) or "it published nothing"
        raise UserError(f"nothing of it can be undone: {told}", where="rollback", fix="augmill releases shows the log")
    if len(moves) == len(state) and not any(moves.values()):
        raise _nothing_earlier(log, next(iter(moves)))
    return moves, left


def _since(log: Log, snapshot: str) -> str:
    """What the log's newest entry that moved the snapshot did to it."""
    entry = next(entry for entry in reversed(log.entries) if snapshot in entry["current"])
    release, kind = entry["current"][snapshot], entry.get("kind", "release")
    now = f"{release} was made current" if release else "its release was taken away"
    return f"{now} since (entry {entry['number']}, {kind})"


def _before(log: Log, snapshot: str, number: int, gone: set[str]) -> str | None:
    """What was current before that entry; where it was withdrawn, what was before its own publication, and so on."""
    while True:
        earlier = list(enumerate(log.entries[:number]))
        release = next((e["current"][snapshot] for _, e in reversed(earlier) if snapshot in e["current"]), None)
        if release is None or release not in gone:
            return release
        number = max(at for at, e in earlier if e.get("kind") != "rollback" and e["current"].get(snapshot) == release)


def _back_to(log: Log, to: str) -> dict[str, str | None]:
    """The snapshot whose release begins with ``to``, and that release."""
    moves = [(s, r) for entry in log.entries for s, r in entry["current"].items() if r is not None]
    state = log.current()
    snapshot = next((s for s, r in reversed(moves) if r.startswith(to)), "")
    if snapshot not in state:
        raise UserError(f"no release {to!r} in {log.dataset!r}", where="rollback", fix="augmill releases shows them")
    gone = log.withdrawn() | {state[snapshot]}
    earlier = dict.fromkeys(r for s, r in reversed(moves) if s == snapshot)
    hits = [r for r in earlier if r not in gone and r.startswith(to)]
    if len(hits) > 1:
        raise UserError(f"{to!r} names {len(hits)} releases ({', '.join(hits)})", where="--to", fix="give more of it")
    if not hits:
        raise _nothing_earlier(log, snapshot)
    return {snapshot: hits[0]}


def _nothing_earlier(log: Log, snapshot: str) -> UserError:
    problem = "there is no earlier release that was not withdrawn"
    return UserError(problem, where=f"{log.dataset} {snapshot}", fix="augmill releases shows what there is")


def tag(
    store: Store, dataset: str, name: str, release: str | None, *, reason: str, command: str
) -> dict[str, Any] | None:
    """Names a release, which is then kept whatever its age; None takes the name away. None where it is so already.

    Raises UserError for what is no name, for one that is taken, and for a release that is not there.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        problem = f"expected 1 to 64 letters, digits, `.`, `_` and `-`; found {name!r}"
        raise UserError(problem, where="NAME", fix="give the tag a plain name, such as model-7")

    def change(log: Log) -> dict[str, Any] | None:
        held = log.tags().get(name)
        if held == release:
            if release is None:
                known = ", ".join(log.tags()) or "none yet"
                raise UserError(f"there is no tag {name!r} in {dataset!r}", where="NAME", fix=f"known: {known}")
            return None
        if held is not None and release is not None:  # who reads by the tag, or counts on it, would not be told
            raise UserError(f"the tag {name!r} names {held} already", where="NAME", fix="delete it first (--delete)")
        if release is not None and store.size(release_key(dataset, release, "manifest.json")) is None:
            raise UserError(f"release {release} is gone from the store", where="--release", fix="augmill releases")
        return {"current": {}, "kind": "tag", "tag": name, "release": release, "reason": reason}

    return append(store, dataset, change, command=command)[0]
