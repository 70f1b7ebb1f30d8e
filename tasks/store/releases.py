"""Releases as they stand in the store: read and believed only where every byte is the one that was published."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from augmill.tasks.errors import CorruptObject, StoreRefused, UserError
from augmill.tasks.rows.hashing import canonical_json, hash_json
from augmill.tasks.store.shapes import PROVENANCE, RELEASE, require_shape
from augmill.tasks.store.store import Store, release_key

# Of a release's manifest; counted up when an older version could not read a new one rightly.
FORMAT = 2  # 1: rows by class and origin; 2: by the hash of their ids


def read_manifest_of(store: Store, dataset: str, release: str) -> dict[str, Any] | None:
    """A release's manifest; None where it is gone, or not the one that the release's id was made of (rotted).

    Raises StoreRefused, naming the object, where it is that one but Augmill did not write it, or a later version did.
    """
    key = release_key(dataset, release, "manifest.json")
    raw = store.get(key)
    try:
        manifest = json.loads(raw or b"")
        whole = hash_json(manifest)[:16] == release and canonical_json(manifest) == raw
    except (ValueError, RecursionError):
        return None
    if not whole:
        return None
    if isinstance(manifest, dict) and isinstance(manifest.get("format"), int) and manifest["format"] > FORMAT:
        problem = f"format {manifest['format']} of a later version; this one reads up to {FORMAT}"
        raise StoreRefused(problem, where=key, fix="use the version that wrote it, or a later one; nothing was changed")
    require_shape(manifest, RELEASE, key, "release's manifest")
    found: dict[str, Any] = manifest
    return found


def read_provenance(store: Store, dataset: str, release: str) -> dict[str, Any] | None:
    """What a release says of its making; None where it is gone or no JSON. Raises StoreRefused for another shape."""
    key = release_key(dataset, release, "provenance.json")
    try:
        found: dict[str, Any] = json.loads(store.get(key) or b"")
    except (ValueError, RecursionError):
        return None
    require_shape(found, PROVENANCE, key, "release's provenance")
    return found


def strata_word(store: Store, dataset: str, release: str) -> str:
    """What a release's counts are by: ``bins`` where a number is learnt, else ``classes``, as where it does not say."""
    found: dict[str, Any] | None = None
    with contextlib.suppress(StoreRefused):  # a word is no reason to show nothing
        found = read_provenance(store, dataset, release)
    target = ((found or {"recipe": {}})["recipe"].get("columns") or {}).get("target") or {}
    return "bins" if set(target.values()) - {"label"} else "classes"


def verify_release(store: Store, dataset: str, release: str) -> list[str]:
    """Every file against the manifest, offline; the names of the files that are wrong."""
    if store.size(release_key(dataset, release, "manifest.json")) is None:
        raise UserError(f"there is no release {release!r} of {dataset!r}", where="verify", fix="augmill releases")
    manifest = read_manifest_of(store, dataset, release)
    if manifest is None:
        return ["manifest.json"]  # what it says of the other files cannot be trusted
    files = manifest["files"]
    found = store.digests([release_key(dataset, release, name) for name in files])
    return [name for name, digest in zip(files, found, strict=True) if digest != files[name]["sha256"]]


def require_whole(store: Store, dataset: str, release: str) -> dict[str, Any]:
    """The manifest of a release all of whose files are what was published. Raises CorruptObject, naming the first wrong

    one: what becomes current, or is copied, is read by everybody.
    """
    fix = "name another release, or run its recipe again, which puts it again whole (augmill verify tells all)"
    if store.size(release_key(dataset, release, "manifest.json")) is None:
        where = release_key(dataset, release, "manifest.json")
        raise CorruptObject(f"release {release} is gone from the store", where=where, fix=fix)
    wrong = verify_release(store, dataset, release)
    manifest = read_manifest_of(store, dataset, release) if not wrong else None
    if manifest is None:
        name = wrong[0] if wrong else "manifest.json"
        more = f" ({len(wrong)} of its files are)" if len(wrong) > 1 else ""
        problem = f"the file is gone, or not what was published{more}, so nobody may be given release {release}"
        raise CorruptObject(problem, where=release_key(dataset, release, name), fix=fix)
    return manifest
