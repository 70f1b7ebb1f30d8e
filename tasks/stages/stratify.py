"""Stratify: a split in, the same rows out with the strata that another night's train rows gave.

Where generators are fitted on an earlier window, that window's bins are what they can be asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from augmill.tasks.contracts import STRATUM, TARGET, Artifact
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.problems.strata import STRATA, restratify
from augmill.tasks.rows.schema import class_counts
from augmill.tasks.store.stage import Work, stage

TABLES = ("train", "validation", "test")


@dataclass(frozen=True)
class StratifyConfig:
    problem: str  # its name
    version: int
    codes: dict[str, str] | None = field(default=None, metadata={"later": True})  # of extensions from outside


@stage("stratify", version=1)
def stratify(work: Work, config: StratifyConfig, split: Artifact, learnt: Artifact) -> None:
    """The files of ``split``, by the bins of ``learnt``'s train rows."""
    problem, fitted = PROBLEMS[config.problem], work.read_json(learnt, STRATA)
    summary = work.read_json(split, "summary.json")
    for name in (*TABLES, "exclude", "unlabelled", "held_back"):
        rows = work.read(split, f"{name}.parquet")
        rows = restratify(rows, problem, fitted) if TARGET in rows.column_names else rows
        work.write(rows, f"{name}.parquet")
        if name in TABLES:
            summary["classes"][name] = class_counts(rows[STRATUM])
    work.rows = sum(summary["rows"].values())
    work.write_json(fitted, STRATA)
    work.write_json(summary, "summary.json")
