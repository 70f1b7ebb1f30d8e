"""Drift: how far the real rows of one window moved from those of another; and which window a generator is fitted on by it.

A profile counts what a row set looks like, in several ways: by label, and as the kinds of its fields see it; the drift
between two profiles is, for each way, the total variation distance of the two shares, half the sum of |p - q| (0: alike,
1: nothing in common); the largest counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from augmill.tasks.contracts import STRATUM, Artifact
from augmill.tasks.rows import kinds
from augmill.tasks.rows.schema import class_counts, distance
from augmill.tasks.store.stage import Work, stage

Counts = Mapping[str, int]
Profile = Mapping[str, Counts]


def profile_of(rows: pa.Table, fields: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """The counts of a table of real rows: how many of each label, and what their kinds say of them."""
    return {"labels": dict(sorted(class_counts(rows[STRATUM]).items())), **kinds.profile(rows, fields)}


def drift(now: Profile, then: Profile, fields: tuple[str, ...]) -> dict[str, float]:
    """The distance in each way, and the ``largest``; to six digits, so that no sum's last bit decides."""
    ways = {"labels": distance(now["labels"], then["labels"]), **kinds.drift(now, then, fields)}
    found = {way: round(value, 6) for way, value in ways.items()}
    return {**found, "largest": max(found.values())}


def reference(
    names: Iterable[str], profile: Callable[[str], Profile | None], limit: float, fields: tuple[str, ...]
) -> str | None:
    """The last of the names, in their order, whose profile lies further than ``limit`` from the reference before it.

    The first with a profile is the first reference; None where there is none. A function of the profiles alone: every
    prefix of the names has the same references, so nothing hangs on which nights were run.
    """
    standing: tuple[str, Profile] | None = None
    for name in names:
        found = profile(name)
        if found is not None and (standing is None or drift(found, standing[1], fields)["largest"] > limit):
            standing = name, found
    return standing[0] if standing else None


@dataclass(frozen=True)
class DriftConfig:
    fields: tuple[str, ...]
    codes: dict[str, str] | None = field(default=None, metadata={"later": True})  # of extensions from outside


@stage("profile", version=1)
def profile(work: Work, config: DriftConfig, ingested: Artifact) -> None:
    """profile.json of a window's real rows, whatever their split."""
    rows = work.read(ingested, columns=[STRATUM, *config.fields])
    work.rows = rows.num_rows
    work.write_json(profile_of(rows, config.fields), "profile.json")
