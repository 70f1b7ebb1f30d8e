"""Housekeeping: what nothing names any more, and what is past its time, found first and taken away then.

Every order of deletion is one that may be cut anywhere: a release's log entry before its files, its manifest.json
before the others; an artifact's manifest before its objects. What a kill leaves behind, the next gc finds again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from augmill.flows.releases.retention import Attempts, Limits, dropped, expired, named, running, staged
from augmill.tasks.boundary.retries import in_threads
from augmill.tasks.errors import AugmillError
from augmill.tasks.store.attempts import Clock, read_attempts, utc_now
from augmill.tasks.store.delta import has_delta, vacuum_delta
from augmill.tasks.store.log import Log, append, read_log
from augmill.tasks.store.store import READERS, Store, Stored, delta_key, object_key

TOMBSTONE = "_gone.json"  # left by forget: tells whoever pinned the release what took its place


@dataclass
class Dataset:
    """What the store says of one dataset: its log, its attempts, the files of the releases that stand in it."""

    name: str
    log: Log
    attempts: Attempts
    releases: dict[str, list[Stored]]
    expired: set[str] = field(default_factory=set)
    orphaned: set[str] = field(default_factory=set)  # put by a run that was killed before its log entry, or dropped

    @property
    def kept(self) -> set[str]:
        return self.releases.keys() - self.expired - self.orphaned


@dataclass
class Sweep:
    """What is to go. ``objects`` are counted with what the manifests that go leave unnamed."""

    datasets: list[Dataset]
    manifests: list[Stored] = field(default_factory=list)
    objects: list[Stored] = field(default_factory=list)
    others: list[Stored] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)  # sentences

    def releases(self) -> dict[str, list[str]]:
        return {
            part.name: sorted(part.expired | part.orphaned) for part in self.datasets if part.expired | part.orphaned
        }

    def counts(self) -> dict[str, dict[str, int]]:
        """files and bytes by kind."""
        kinds: dict[str, list[Stored]] = {"releases": [], "artifacts": self.manifests, "objects": self.objects}
        for part in self.datasets:
            kinds["releases"] += [item for name in part.expired | part.orphaned for item in part.releases[name]]
        for item in self.others:
            kind = item.key.split("/")[1] if item.key.startswith("private/") else "delta"
            kinds.setdefault(kind, []).append(item)
        return {kind: {"files": len(of), "bytes": sum(i.size for i in of)} for kind, of in kinds.items() if of}


def read_datasets(store: Store) -> list[Dataset]:
    """Every dataset that was published or tried. Raises StoreRefused where a log is broken: then nothing is known."""
    tried = {key.split("/")[2] for key in store.list_keys("private/attempts")}
    return [
        Dataset(name, read_log(store, name), read_attempts(store, name), _releases(store, name))
        for name in sorted(tried | set(store.datasets()))
    ]


def _releases(store: Store, dataset: str) -> dict[str, list[Stored]]:
    found: dict[str, list[Stored]] = {}
    for item in store.list_files(f"public/{dataset}/releases"):
        if item.key.rsplit("/", 1)[-1] != TOMBSTONE:
            found.setdefault(item.key.split("/")[3], []).append(item)
    return found


def find_garbage(
    store: Store, *, grace: timedelta, limits: dict[str, Limits] | None = None, now: datetime | None = None
) -> Sweep:
    """What may go. ``limits``: retention by dataset; without them nothing goes that a release in the log was made of."""
    now, limits = now or utc_now(), limits or {}
    sweep = Sweep(read_datasets(store))
    busy = {part.name: running(part.attempts, now) for part in sweep.datasets}
    for part in sweep.datasets:
        if busy[part.name]:
            sweep.left_alone.append(
                f"{part.name}: {busy[part.name][0].snapshot} is being made, so its releases are left alone"
            )
            continue
        _judge_releases(part, limits.get(part.name), grace, now)
    needed: set[str] = set()
    everything = any(busy.values())
    for part in sweep.datasets:
        needed |= named(part.attempts, part.kept, limits.get(part.name), now, everything=everything)
    if everything:
        sweep.left_alone.append("a snapshot is being made, so everything that attempts use is left alone")

    def old(item: Stored, span: timedelta = grace) -> bool:
        return now - item.modified > max(grace, span)

    needed |= _banked(store, needed, old)
    manifests = store.list_files("private/manifests")
    sweep.manifests = [item for item in manifests if old(item) and artifact_of(item.key) not in needed]
    going = {item.key for item in sweep.manifests}
    sweep.objects = unnamed_objects(store, [item.key for item in manifests if item.key not in going], old)
    sweep.others = [i for where in ("private/aside", "private/staging") for i in store.list_files(where) if old(i)]
    sweep.others += _dead_bank(store, needed, old)
    sweep.others += _old_scratch(store, sweep, limits, old)
    for name, limit in limits.items():
        for where, span in (("reports", limit.rejected), ("compare", limit.releases)):
            sweep.others += [item for item in store.list_files(f"private/{where}/{name}") if old(item, span)]
        try:
            sweep.others += _old_versions(store, name, limit.releases)
        except AugmillError as error:  # a rotten table is no reason to let the rest of the store grow
            sweep.left_alone.append(f"{name}: its Delta table; {error.problem}")
    return sweep


def _old_scratch(
    store: Store, sweep: Sweep, limits: dict[str, Limits], old: Callable[[Stored, timedelta], bool]
) -> list[Stored]:
    """Each dataset's by its own retention. What lies under no dataset's name may be any one's: it goes only where every

    dataset's retention is known, by the longest.
    """
    names = {part.name for part in sweep.datasets}
    longest = max((limit.requests for limit in limits.values()), default=None) if names <= limits.keys() else None
    found, unclaimed = [], 0
    for item in store.list_files("private/scratch") if limits else ():
        owner = item.key.split("/")[2]
        known = limits[owner].requests if owner in limits else longest
        if known is not None:
            found += [item] if old(item, known) else []
        elif owner not in names:
            unclaimed += 1
    if unclaimed:
        sweep.left_alone.append(
            f"private/scratch: {unclaimed} file(s) that may belong to any dataset: {', '.join(sorted(names))}"
        )
    return found


def _old_versions(store: Store, dataset: str, span: timedelta) -> list[Stored]:
    """Files of the Delta table that no version younger than that holds: copies of releases that are past their time."""
    if not has_delta(store, dataset):
        return []
    old = set(vacuum_delta(store, dataset, int(span.total_seconds() // 3600), dry=True))
    return [item for item in store.list_files(delta_key(dataset)) if item.key in old]


def _judge_releases(part: Dataset, limits: Limits | None, grace: timedelta, now: datetime) -> None:
    """Which releases are past their time, and which nobody can get at: their files are what a kill left."""
    pending = staged(part.attempts)
    published = {release for entry in part.log.entries for release in entry["current"].values() if release is not None}
    gone, held = dropped(part.log), {*part.log.current().values(), *part.log.tags().values()}
    for release, files in part.releases.items():
        if release in held or (release in pending and not (release in gone and gone[release] > pending[release])):
            continue  # a release that is staged waits for the entry that makes it current
        age = now - max(item.modified for item in files)
        if age > grace and (release in gone or release not in published):
            part.orphaned.add(release)
    if limits is not None:
        part.expired = expired(part.log, part.releases.keys() - part.orphaned, pending, limits, now)


def artifact_of(key: str) -> str:
    """``stage/identity`` of a manifest's key."""
    return "/".join(key.split("/")[2:4]).removesuffix(".json")


def read_documents(store: Store, keys: Iterable[str]) -> list[dict[str, Any] | None]:
    """The bodies of sealed documents; None for one that is gone or rotted, which is left where it is.

    Raises StoreRefused for one that Augmill did not write: what it needs is not known, so nothing may go.
    """

    return in_threads(lambda key: store.unsealed(key, store.get(key)), keys, READERS)


def unnamed_objects(store: Store, manifests: list[str], old: Callable[[Stored], bool]) -> list[Stored]:
    """The objects that no manifest of these names."""
    kept = {
        object_key(entry["sha256"])
        for body in read_documents(store, manifests)
        if body is not None
        for entry in body["files"].values()
    }
    return [item for item in store.list_files("private/objects") if old(item) and item.key not in kept]


def _bank(store: Store) -> dict[str, list[tuple[Stored, str]]]:
    """By folder (one fit's candidates): each entry with the artifact it names."""
    items = store.list_files("private/bank")
    folders: dict[str, list[tuple[Stored, str]]] = {}
    for item, body in zip(items, read_documents(store, [item.key for item in items]), strict=True):
        artifact = body["artifact"] if body is not None else ""
        key = artifact["key"] if isinstance(artifact, dict) else str(artifact)
        folders.setdefault(item.key.rsplit("/", 1)[0], []).append((item, key))
    return folders


def _banked(store: Store, needed: set[str], old: Callable[[Stored], bool]) -> set[str]:
    """The candidates of a fit stay together: a night that needs some of them will ask for the others."""
    folders = _bank(store).values()
    return {
        key for entries in folders if any(key in needed or not old(item) for item, key in entries) for _, key in entries
    }


def _dead_bank(store: Store, needed: set[str], old: Callable[[Stored], bool]) -> list[Stored]:
    return [item for entries in _bank(store).values() for item, key in entries if old(item) and key not in needed]


def sweep_store(store: Store, sweep: Sweep, *, grace: timedelta, command: str, now: Clock = utc_now) -> None:
    """Takes away what was found; a kill anywhere leaves a store that verifies, and the next gc does the rest."""
    for part in sweep.datasets:
        _drop_releases(store, part, command, now)
    for item in sweep.others:
        store.delete(item.key)
    for item in sweep.manifests:
        store.delete(item.key)

    # Read anew: a run may have named one of them since. Each is looked at once more right before it goes.
    def old(item: Stored) -> bool:
        return now() - item.modified > grace

    for item in unnamed_objects(store, store.list_keys("private/manifests"), old):
        standing = store.head(item.key)
        if standing is not None and old(standing):
            store.delete(item.key)


def _drop_releases(store: Store, part: Dataset, command: str, now: Clock) -> None:
    """First the log says it, then the files go. Where a run of the dataset began meanwhile, they stay for the next gc."""
    if part.expired:

        def change(log: Log) -> dict[str, Any] | None:
            gone = sorted(part.expired - {log.newest(), *log.tags().values(), *dropped(log)})
            part.expired &= {*gone, *dropped(log)}
            dates = {snapshot: None for snapshot, release in log.current().items() if release in gone}
            return {"kind": "expire", "current": dates, "expired": gone, "reason": "retain.releases"} if gone else None

        append(store, part.name, change, command=command)
    for release in sorted(part.expired | part.orphaned):
        if running(read_attempts(store, part.name), now()) or release in read_log(store, part.name).current().values():
            return
        delete_release(store, part.name, release)


def delete_release(store: Store, dataset: str, release: str) -> None:
    """manifest.json first: what has none is no release."""
    keys = store.list_keys(f"public/{dataset}/releases/{release}")
    for key in sorted(keys, key=lambda key: not key.endswith("/manifest.json")):
        if not key.endswith(f"/{TOMBSTONE}"):
            store.delete(key)
    store.tidy(f"public/{dataset}/releases/{release}")
