"""Drift: how far the real rows of one window moved from those of another; and which window a generator is fitted on by it.

A profile counts what a row set looks like, in three ways; the drift between two profiles is, for each way, the total
variation distance of the two shares, half the sum of |p - q| (0: alike, 1: nothing in common); the largest counts.

labels      rows by class
lengths     rows by the binary order of magnitude of their characters: 0, 1, 2-3, 4-7, 8-15, ...
characters  characters by script (letters: LATIN, CYRILLIC, CJK, ...) or by Unicode's general category (N, P, S, Z, ...)
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from augmill.tasks.contracts import STRATUM, Artifact
from augmill.tasks.rows.schema import class_counts
from augmill.tasks.store.stage import Work, stage

Counts = Mapping[str, int]
Profile = Mapping[str, Counts]
WAYS = ("labels", "lengths", "characters")


def profile_of(rows: pa.Table, fields: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """The counts of a table of real rows."""
    lengths: Counter[str] = Counter()
    marks: Counter[str] = Counter()
    for texts in zip(*(rows[name].to_pylist() for name in fields), strict=True):
        lengths[str(sum(map(len, texts)).bit_length())] += 1
        for text in texts:
            marks.update(text)
    kinds: Counter[str] = Counter()
    for mark, count in marks.items():
        kinds[kind_of(mark)] += count
    return {
        "labels": dict(sorted(class_counts(rows[STRATUM]).items())),
        "lengths": dict(sorted(lengths.items())),
        "characters": dict(sorted(kinds.items())),
    }


def kind_of(mark: str) -> str:
    """A letter's script, by the first word of its name; any other character's general category."""
    category = unicodedata.category(mark)[0]
    return unicodedata.name(mark, "L").split(" ")[0] if category == "L" else category


def distance(one: Counts, other: Counts) -> float:
    """Total variation distance of the shares; 1 where only one of them counts anything."""
    totals = sum(one.values()), sum(other.values())
    if not all(totals):
        return float(any(totals))
    keys = sorted(one.keys() | other.keys())
    return sum(abs(one.get(key, 0) / totals[0] - other.get(key, 0) / totals[1]) for key in keys) / 2


def drift(now: Profile, then: Profile) -> dict[str, float]:
    """The distance in each way, and the ``largest``; to six digits, so that no sum's last bit decides."""
    found = {way: round(distance(now[way], then[way]), 6) for way in WAYS}
    return {**found, "largest": max(found.values())}


def reference(names: Iterable[str], profile: Callable[[str], Profile | None], limit: float) -> str | None:
    """The last of the names, in their order, whose profile lies further than ``limit`` from the reference before it.

    The first with a profile is the first reference; None where there is none. A function of the profiles alone: every
    prefix of the names has the same references, so nothing hangs on which nights were run.
    """
    standing: tuple[str, Profile] | None = None
    for name in names:
        found = profile(name)
        if found is not None and (standing is None or drift(found, standing[1])["largest"] > limit):
            standing = name, found
    return standing[0] if standing else None


@dataclass(frozen=True)
class DriftConfig:
    fields: tuple[str, ...]


@stage("profile", version=1)
def profile(work: Work, config: DriftConfig, ingested: Artifact) -> None:
    """profile.json of a window's real rows, whatever their split."""
    rows = work.read(ingested, columns=[STRATUM, *config.fields])
    work.rows = rows.num_rows
    work.write_json(profile_of(rows, config.fields), "profile.json")
