"""The bank: which rows a fitted generator has sampled already, so that another night, or another cut, samples no row twice.

private/bank/<fit and generator>/<identity>.json  sealed, put-if-absent: an artifact of the stage `sample`, its ranges

A row is a function of (fit artifact, recipe seed, class, ordinal), so the bank's name is a hash of all but the last two.
It is a shortcut and never the truth of a repeatable generator: where it is lost, rows are sampled again, alike. Of one
that is not repeatable, the first range in the order of the keys is the truth.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any

from augmill.tasks.contracts import Artifact
from augmill.tasks.store.store import Store

Segment = dict[str, Any]  # stratum, start, count; a piece also names the artifact that holds it


def bank_key(bank: str, identity: str = "") -> str:
    return f"private/bank/{bank}/{identity}.json" if identity else f"private/bank/{bank}"


def note_in_bank(store: Store, bank: str, artifact: Artifact, segments: Iterable[Segment]) -> None:
    """Says that the artifact holds these ranges."""
    ranges = [{name: segment[name] for name in ("stratum", "start", "count")} for segment in segments]
    identity = artifact.key.partition("/")[2]
    store.write_sealed(bank_key(bank, identity), {"artifact": artifact.key, "segments": ranges})


class Coverage:
    """Which artifact holds each ordinal of one class: disjoint ranges in order; who comes first keeps what it has."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.parts: list[tuple[int, int, str]] = []

    def cut(self, start: int, end: int) -> Iterator[tuple[int, int, str | None]]:
        """The range in order, as (start, end, the artifact that holds it, or None)."""
        at = max(bisect_right(self.starts, start) - 1, 0)
        while start < end:
            if at == len(self.parts) or self.parts[at][0] >= end:
                yield start, end, None
                return
            first, last, key = self.parts[at]
            if first > start:
                yield start, first, None
                start = first
            if last > start:
                yield start, min(last, end), key
                start = min(last, end)
            at += 1

    def add(self, start: int, end: int, key: str) -> None:
        for first, last, standing in list(self.cut(start, end)):
            if standing is None:
                at = bisect_right(self.starts, first)
                self.starts.insert(at, first)
                self.parts.insert(at, (first, last, key))


def cover(pieces: Iterable[Segment]) -> dict[str, Coverage]:
    """By class, where each ordinal of the pieces stands."""
    found: dict[str, Coverage] = {}
    for piece in pieces:
        end = piece["start"] + piece["count"]
        found.setdefault(piece["stratum"], Coverage()).add(piece["start"], end, piece["artifact"])
    return found


def cut_segments(held: dict[str, Coverage], segments: Iterable[Segment]) -> tuple[list[Segment], list[Segment]]:
    """(pieces that stand in artifacts, ranges that do not), each in the order of the segments."""
    standing: list[Segment] = []
    missing: list[Segment] = []
    for segment in segments:
        end = segment["start"] + segment["count"]
        for first, last, key in held.get(segment["stratum"], Coverage()).cut(segment["start"], end):
            piece = {"stratum": segment["stratum"], "start": first, "count": last - first}
            if key is None:
                missing.append(piece)
            else:
                standing.append({**piece, "artifact": key})
    return standing, missing


class Bank:
    """What stands in one bank, as read from the store: each of its documents once, also over many rounds and nights."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.documents: dict[str, dict[str, Any]] = {}
        self.held: dict[str, Coverage] = {}
        self.lock = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        """Reads what was noted since. One that has rotted is moved aside by the store, and its rows are as if not there."""
        with self.lock:
            for key in self.store.list_keys(bank_key(self.name)):
                body = None if key in self.documents else self.store.read_sealed(key)
                if body is not None:
                    self.documents[key] = body
            self.held = cover(
                {**segment, "artifact": self.documents[key]["artifact"]}
                for key in sorted(self.documents)
                for segment in self.documents[key]["segments"]
            )

    def pieces(self, segments: Iterable[Segment]) -> tuple[Segment, ...]:
        """Those parts of the segments that stand in artifacts."""
        return tuple(cut_segments(self.held, segments)[0])
