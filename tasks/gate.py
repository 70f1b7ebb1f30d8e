"""The gate: trains the three arms, measures the gains on held-out rows, and says whether the mix may be published.

What an interval speaks of: training on *these* train rows and *these* accepted rows, judged on new rows from where the
held-out rows came; the doubt it holds is that of held-out rows, of which added rows are drawn, and of the training's
own seeds. Whether another sample of train rows would gain as much is not asked: nobody will train on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from augmill.tasks.arms import ARMS, trainings
from augmill.tasks.contracts import DataError, UserError, real_schema
from augmill.tasks.evidence import Evidence, Predictions, SplitEvidence, measure
from augmill.tasks.interval import Ints
from augmill.tasks.randomness import stream_key
from augmill.tasks.trainers.contract import Problem, Trainer
from augmill.tasks.verdict import Gains, Rule, best_real, decide, explain


@dataclass(frozen=True)
class GateOptions:
    rule: Literal["superior", "not_worse"] = field(
        default="superior",
        metadata={"help": "superior: both lower bounds above `min_gain`; not_worse: both above minus `margin`"},
    )
    margin: float = field(default=0.5, metadata={"help": "points that the rule not_worse lets the mix lose"})
    min_gain: float = field(default=0.0, metadata={"help": "points the mix must gain at least, for the rule superior"})
    metric: Literal["accuracy", "macro_f1"] = field(default="accuracy", metadata={"help": "what the gate judges by"})
    focus: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "labels that matter: the gate then judges the mean F1 of these (recall alone would reward "
            "predicting them everywhere), and still refuses a mix proven to lose in `metric` over all labels"
        },
    )
    seeds: int = field(
        default=10,
        metadata={"help": "trainings of each arm; each has its own seed and draws its own placebo and mix. At least 3"},
    )
    confidence: float = field(
        default=0.95,
        metadata={"help": "that the true gain lies above the lower bound, and likewise below the upper one"},
    )
    min_heldout_per_class: int = field(
        default=20, metadata={"help": "classes with fewer held-out rows are reported as not judged"}
    )
    resamples: int = field(default=2000, metadata={"help": "bootstrap resamples of held-out rows and seeds"})

    def __post_init__(self) -> None:
        bounds = [
            ("margin", self.margin >= 0, "0 or more"),
            ("min_gain", self.min_gain >= 0, "0 or more (rule: not_worse allows a loss)"),
            ("seeds", self.seeds >= 3, "at least 3"),
            ("confidence", 0.5 < self.confidence < 1, "above 0.5 and below 1"),
            ("min_heldout_per_class", self.min_heldout_per_class >= 1, "at least 1"),
            ("resamples", self.resamples >= 200, "at least 200"),
        ]
        for name, holds, expected in bounds:
            if not holds:
                raise ValueError(f"gate.{name}: expected {expected}, found {getattr(self, name)}")


def evaluate(
    real: pa.Table,
    synthetic: pa.Table,
    heldout: pa.Table,
    trainer: Trainer,
    options: GateOptions,
    *,
    seed: int,
    fields: tuple[str, ...],
    workdir: Path,
    test: pa.Table | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evidence:
    """Trains each arm ``options.seeds`` times, predicts ``heldout`` and ``test`` in one go, and decides by ``heldout``.

    Tables hold ``row_id, stratum, *fields``; ``synthetic`` also ``parent_ids``; the first two may hold ``weight``.
    ``progress`` hears (trainings done, trainings in all). Raises DataError where there is nothing to train on or to
    judge by, UserError where ``focus`` names a label that no held-out row has.
    """
    splits = [_sorted(heldout), *([_sorted(test)] if test is not None and test.num_rows else [])]
    problem = _problem(_sorted(real), _sorted(synthetic), splits, fields)
    _refuse_unsound(problem, splits[0], options)
    planned = trainings(problem, seed, options.seeds)
    predicted: dict[str, list[Ints]] = {arm: [] for arm in ARMS}
    chosen: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for done, (training, prediction) in enumerate(
        zip(planned, trainer.predict(problem, planned, workdir), strict=True)
    ):
        predicted[training.arm].append(prediction.labels)
        chosen[training.arm].append(prediction.chosen)
        progress(done + 1, len(planned))
    measured = []
    for split, columns in _cut(splits):
        arms = {arm: np.stack(labels)[:, columns] for arm, labels in predicted.items()}
        found = measure(
            Predictions(problem.labels, _positions(split, problem.labels), arms, chosen),
            focus=options.focus,
            confidence=options.confidence,
            min_rows_per_class=options.min_heldout_per_class,
            resamples=options.resamples,
            seed=stream_key("bootstrap", seed),
        )
        measured.append(found)
    return _evidence(problem, measured, options)


def _cut(splits: list[pa.Table]) -> list[tuple[pa.Table, slice]]:
    """Each split with its place among the evaluation rows."""
    ends = np.cumsum([split.num_rows for split in splits]).tolist()
    return [(split, slice(end - split.num_rows, end)) for split, end in zip(splits, ends, strict=True)]


def _positions(split: pa.Table, labels: tuple[str, ...]) -> Ints:
    index = {label: position for position, label in enumerate(labels)}
    return np.array([index[label] for label in split["stratum"].to_pylist()], dtype=np.int64)


def _sorted(table: pa.Table) -> pa.Table:
    return table.sort_by("row_id")


def _problem(real: pa.Table, synthetic: pa.Table, splits: list[pa.Table], fields: tuple[str, ...]) -> Problem:
    schema = real_schema(fields)
    evaluation = pa.concat_tables([split.select(schema.names).cast(schema) for split in splits])
    labels = {label for table in (real, synthetic, evaluation) for label in table["stratum"].unique().to_pylist()}
    return Problem(real, synthetic, evaluation, fields, tuple(sorted(labels)))


def _refuse_unsound(problem: Problem, heldout: pa.Table, options: GateOptions) -> None:
    for name, table in (("real train", problem.real), ("synthetic", problem.synthetic), ("held-out", heldout)):
        if not table.num_rows:
            raise DataError(
                f"expected {name} rows to judge with, found none", where="gate", fix="check the splits' shares"
            )
    if len(problem.real["stratum"].unique()) < 2:
        raise DataError("expected two or more classes in train, found one", where="gate", fix="check the label column")
    held = set(heldout["stratum"].unique().to_pylist())
    if missing := [label for label in options.focus if label not in held]:
        raise UserError(
            f"expected held-out rows of every focus label, found none of {missing}",
            where="gate.focus",
            fix=f"name labels among {sorted(held)[:20]}",
        )


def _evidence(problem: Problem, measured: list[SplitEvidence], options: GateOptions) -> Evidence:
    validation = measured[0]
    judged_by = "focus_f1" if options.focus else options.metric
    gains = Gains.of(validation["comparisons"], judged_by, options.metric)
    rule = Rule(options.rule, options.min_gain, options.margin, options.confidence)
    verdict, better = decide(gains, rule), best_real(gains.placebo_real)
    summary = explain(verdict, better, gains, rule, validation["rows"])
    return {
        "verdict": verdict,
        "reason": summary.reason,
        "best_real": better,
        "judged_by": judged_by,
        "options": asdict(options),
        "seeds": options.seeds,
        "draws": options.seeds,  # each seed draws its own placebo and its own mix
        "rows": {
            "real": problem.real.num_rows,
            "synthetic": problem.synthetic.num_rows,
            "validation": validation["rows"],
            "test": measured[1]["rows"] if len(measured) > 1 else 0,
        },
        "smallest_visible_gain": summary.smallest_visible_gain,
        "rows_needed": summary.rows_needed,
        "validation": validation,
        "test": measured[1] if len(measured) > 1 else None,
    }
