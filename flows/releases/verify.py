"""``verify --all``: every checksum in the store, offline. It looks and changes nothing, not even what it finds wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from augmill.tasks.boundary.retries import in_threads
from augmill.tasks.errors import StoreRefused
from augmill.tasks.store.erasure import pending_requests, told_pending
from augmill.tasks.store.log import read_log
from augmill.tasks.store.releases import verify_release
from augmill.tasks.store.store import READERS, Store, Stored, object_key, release_key

SEALED = tuple(
    f"private/{name}" for name in ("manifests", "attempts", "bank", "backfills", "erased", "sources", "compare")
)


@dataclass
class Verified:
    """How many of each kind were looked at, and what is wrong: a sentence each, with the key."""

    looked: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)  # a sentence a dataset whose erasure was begun and not ended

    def note(self, kind: str, count: int, wrong: Iterator[str]) -> None:
        self.looked[kind] = self.looked.get(kind, 0) + count
        self.wrong += wrong


def verify_store(store: Store) -> Verified:
    """Objects against their names, documents against their seals, manifests against their objects, logs, releases."""
    found = Verified()
    objects = {item.key: item for item in store.list_files("private/objects")}
    digests = zip(objects, store.digests([*objects]), strict=True)
    found.note("objects", len(objects), (key for key, digest in digests if digest != key.rsplit("/", 1)[-1]))
    for where in SEALED:
        keys = [key for key in store.list_keys(where) if key.endswith(".json")]
        bodies = dict(zip(keys, in_threads(lambda key: _sound(store, key), keys, READERS), strict=True))
        found.note("documents", len(keys), (key for key, body in bodies.items() if body is None))
        if where == "private/manifests":
            found.note("manifests", 0, _without_object(bodies, objects))
    for dataset in store.datasets():
        _verify_dataset(store, dataset, found)
    return found


def _without_object(bodies: dict[str, dict[str, object] | None], objects: dict[str, Stored]) -> Iterator[str]:
    for key, body in bodies.items():
        files = body["files"] if body is not None else {}
        assert isinstance(files, dict)
        for name, entry in files.items():
            standing = objects.get(object_key(entry["sha256"]))
            if standing is None or standing.size != entry["size"]:
                yield f"{key} ({name}: its object is {'gone' if standing is None else 'cut'})"


def _verify_dataset(store: Store, dataset: str, found: Verified) -> None:
    """The log's chain; every release whose manifest.json stands; and that what is current stands."""
    try:
        log = read_log(store, dataset)
    except StoreRefused as error:
        found.note("log entries", 0, iter([f"{error.where}: {error.problem}"]))
        return
    if count := pending_requests(store, dataset, log.entries):
        found.pending.append(f"{dataset}: {told_pending(count)}")
    prefix = f"public/{dataset}/releases"
    standing = {
        key.split("/")[3] for key in store.list_keys(prefix) if key.count("/") == 4 and key.endswith("/manifest.json")
    }
    held = dict.fromkeys(log.tags().values(), "tagged") | dict.fromkeys(log.current().values(), "current")
    gone = sorted(held.keys() - standing)
    told = (f"{release_key(dataset, name)} is {held[name]} and gone" for name in gone)
    found.note("log entries", len(log.entries), told)
    for name in sorted(standing):
        found.note("releases", 1, _wrong_in(store, dataset, name))


def _wrong_in(store: Store, dataset: str, release: str) -> Iterator[str]:
    try:
        yield from (f"{release_key(dataset, release)}/{file}" for file in verify_release(store, dataset, release))
    except StoreRefused as error:  # a manifest that Augmill did not write
        yield f"{error.where}: {error.problem}"


def _sound(store: Store, key: str) -> dict[str, object] | None:
    """The document's body; None where it is gone, rotted, or not one that Augmill writes."""
    try:
        return store.unsealed(key, store.get(key))
    except StoreRefused:
        return None
