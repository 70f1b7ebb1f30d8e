"""Lets a teacher decide a row's class. For generators with ``label_by: teacher`` or ``label_by: agree``.

A model that was asked for a class writes rows of others; so do edits that change a meaning. The teacher learns from the
snapshot's own train rows and its unlabelled ones (tasks/problems/semi_supervised.py). ``teacher``: a row is of the class that
the teacher tells, where it is sure, and leaves where it is not. ``agree``: a row leaves where the two differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.checks.base import CHECK_FILE, joined_texts, require, verdicts, write_check
from augmill.tasks.contracts import ROW_ID, STRATUM, Check, Context, FitInputs, Fitted
from augmill.tasks.problems import FILE, MEMBERS, Learner, Teacher, Teaching, teach


@dataclass(frozen=True)
class TeacherOptions:
    """``keep`` is a share of real rows and not a probability, so that it means the same at 2 classes and at 150."""

    label_by: Literal["teacher", "agree"] = field(
        default="agree",
        metadata={"help": "set to the generator's own `label_by`"},
    )
    keep: float = field(
        default=0.7,
        metadata={
            "help": "teacher: refuse a row as `unsure` if the teacher is less sure of it than of this share of the "
            "unlabelled rows it assigns to the class (of the train rows if none are unlabelled)"
        },
    )
    confidence: float = field(
        default=0.0, metadata={"help": "teacher: refuse a row as `unsure` below this probability, whatever `keep` is"}
    )
    members: dict[Learner, float] = field(
        default_factory=lambda: dict(MEMBERS),
        metadata={"help": "the weight of each learner's vote, as in self_training; learners not named here have none"},
    )
    rounds: int = field(default=6, metadata={"help": "rounds in which `bayes` learns from the unlabelled rows (EM)"})
    balance: float = field(
        default=0.0,
        metadata={
            "help": "how far the classes' shares among the unlabelled rows are pulled towards those in train (0 to 1)"
        },
    )
    max_rows: int = field(
        default=20_000, metadata={"help": "maximum number of unlabelled rows the teacher learns from"}
    )

    def __post_init__(self) -> None:
        require("keep", self.keep, 0, 1)
        require("confidence", self.confidence, 0, 1)
        Teaching(self.members, self.rounds, self.balance, self.max_rows)  # raises where it is out of bounds


class TeacherCheck(Check):
    """Reasons: ``other_class`` (agree), ``unsure`` (teacher). Score: the probability of the class that the row ends up with.

    It is asked for by name, so it does not abstain for refusing many rows. Every row keeps its class if there is only
    one, or if the teacher is right no more often than naming the largest class would be. Without unlabelled rows it
    learns from train alone.
    """

    VERSION: ClassVar[int] = 2
    Options: ClassVar[type[TeacherOptions]] = TeacherOptions

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        train = inputs.train.sort_by(ROW_ID)
        strata = [str(stratum) for stratum in train[STRATUM].to_pylist()]
        if len(set(strata)) < 2:
            return write_check(ctx, abstains=True, real_refused=0.0, why="abstains: train has one class only")
        options: TeacherOptions = self.options
        how = Teaching(options.members, options.rounds, options.balance, options.max_rows)
        free = joined_texts(inputs.unlabelled.sort_by(ROW_ID), ctx.fields)
        teacher, held_out = teach(joined_texts(train, ctx.fields), strata, free, how, seed=ctx.seed, tell=ctx.tell)
        told = held_out.argmax(axis=1)
        labels = np.array([teacher.strata.index(stratum) for stratum in strata])
        accuracy, chance = float((told == labels).mean()), float(np.bincount(labels).max() / len(labels))
        bounds = _bounds(teacher.probabilities(free) if free else held_out, options)
        unsure = float((held_out.max(axis=1) < bounds[told]).mean())
        why = (
            f"right on {accuracy:.1%} of the real rows it was not fitted on (the largest class: {chance:.1%}), "
            f"unsure of {unsure:.1%}; it learnt from {len(strata):,} labelled and {len(free):,} unlabelled rows"
        )
        weak = accuracy <= chance
        files = write_check(
            ctx,
            abstains=weak,
            real_refused=1 - accuracy,
            why=f"abstains, and rows keep their class: {why}" if weak else why,
            accuracy=round(accuracy, 6),
            unsure=round(unsure, 6),
            least_confidence={name: round(float(b), 6) for name, b in zip(teacher.strata, bounds, strict=True)},
        )
        return files | teacher.save(ctx.workdir)

    def judge(self, fitted: Fitted, candidates: pa.Table, ctx: Context) -> pa.Table:
        learnt, count = fitted.read_json(CHECK_FILE), candidates.num_rows
        if learnt["abstains"] or not (fitted.path / FILE).exists():
            return verdicts([None] * count, [None] * count)
        teacher = fitted.get("teacher", lambda: Teacher.load(fitted.path))
        chances = teacher.probabilities(joined_texts(candidates, ctx.fields))
        told = chances.argmax(axis=1)
        named = [teacher.strata[at] for at in told]
        if self.options.label_by == "agree":
            column = {name: at for at, name in enumerate(teacher.strata)}
            claimed = [str(stratum) for stratum in candidates[STRATUM].to_pylist()]
            scores = [
                float(row[column[own]]) if own in column else 0.0 for row, own in zip(chances, claimed, strict=True)
            ]
            return verdicts([None if a == b else "other_class" for a, b in zip(named, claimed, strict=True)], scores)
        bounds = np.array([learnt["least_confidence"][name] for name in teacher.strata])
        sure = chances.max(axis=1)
        made = verdicts([None if ok else "unsure" for ok in sure >= bounds[told]], sure)
        return made.append_column(STRATUM, pa.array(named, pa.string()))


def _bounds(chances: npt.NDArray[np.float64], options: TeacherOptions) -> npt.NDArray[np.float64]:
    """The least confidence by class, shape (classes,); a class that no row is told to be of has that of all rows."""
    told, sure = chances.argmax(axis=1), chances.max(axis=1)
    bounds = [
        np.quantile(own if len(own := sure[told == at]) else sure, 1 - options.keep) for at in range(chances.shape[1])
    ]
    result: npt.NDArray[np.float64] = np.maximum(bounds, options.confidence)
    return result
