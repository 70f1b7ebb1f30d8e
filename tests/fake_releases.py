"""Releases of no rows, for tests of what names releases: whole by every checksum, and told apart by a word."""

from __future__ import annotations

import functools
import itertools
from typing import Any

from augmill.tasks.rows.hashing import canonical_json, hash_json
from augmill.tasks.store.store import Store, release_key


@functools.cache
def _made(word: str, dataset: str) -> tuple[str, bytes]:
    """(id, manifest.json). Where the word begins with hexadecimal digits, its release's id does so too."""
    first = word.split(" ", maxsplit=1)[0]
    beginning = first if set(first) <= set("0123456789abcdef") else ""
    for nonce in itertools.count():
        manifest: dict[str, Any] = {
            **{"format": 1, "dataset": dataset, "snapshot": "all", "arrangement": "mix", "recipe": f"{word} {nonce}"},
            **{"inputs": {}, "ledger": None, "files": {}},
            "counts": {split: {"rows": 0, "synthetic": 0, "classes": {}} for split in ("train", "validation", "test")},
        }
        if (release := hash_json(manifest)[:16]).startswith(beginning):
            return release, canonical_json(manifest)
    raise AssertionError


def id_of(word: str, dataset: str = "tiny") -> str:
    """The id of the fake release of that word."""
    return _made(word, dataset)[0]


def put_fake(store: Store, word: str, dataset: str = "tiny") -> str:
    """Puts it; returns its id."""
    release, manifest = _made(word, dataset)
    store.put(release_key(dataset, release, "manifest.json"), manifest)
    return release
