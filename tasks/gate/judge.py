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

from augmill.tasks.errors import DataError, UserError
from augmill.tasks.gate.evidence import ARMS, Evidence, Predictions, SplitEvidence, measure, trainings
from augmill.tasks.gate.interval import Ints
from augmill.tasks.gate.verdict import Gains, Rule, best_real, decide, explain
from augmill.tasks.problems.labels import class_among
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.rows.randomness import stream_key
from augmill.tasks.trainers import Problem, Trainer


@dataclass(frozen=True)
class GateOptions:
    rule: Literal["superior", "not_worse"] = field(
        default="superior",
        metadata={
            "help": "superior: both lower bounds above `min_gain`; not_worse: both above minus `margin`, which proves no gain"
        },
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
    folds: Literal["auto"] | int = field(
        default=0,
        metadata={
            "help": "let the train rows judge too: this many times the whole path runs without one part of them, and that "
            "part, with the validation rows, decides. `auto`: 5 where the validation rows alone cannot show a gain of "
            "`min_gain`, or of 2 points; 0: never"
        },
    )
    resamples: int = field(default=2000, metadata={"help": "bootstrap resamples of held-out rows and seeds"})

    def __post_init__(self) -> None:
        bounds = [
            ("margin", 0 <= self.margin <= 100, "between 0 and 100 points"),
            ("min_gain", 0 <= self.min_gain <= 100, "between 0 and 100 points (rule: not_worse allows a loss)"),
            ("seeds", 3 <= self.seeds <= 1000, "3 to 1000"),
            ("confidence", 0.5 < self.confidence < 1, "above 0.5 and below 1"),
            ("min_heldout_per_class", 1 <= self.min_heldout_per_class <= 10**9, "at least 1"),
            (
                "folds",
                self.folds in ("auto", 0) or (isinstance(self.folds, int) and 2 <= self.folds <= 20),
                "0 or 2 to 20",
            ),
            ("resamples", 200 <= self.resamples <= 100_000, "200 to 100,000"),
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
    require_focus(heldout, options)
    splits = [heldout, *([test] if test is not None and test.num_rows else [])]
    predicted = predict(
        real, synthetic, splits, trainer, options, seed=seed, fields=fields, workdir=workdir, progress=progress
    )
    return judge(predicted, options, seed, real=real.num_rows, synthetic=synthetic.num_rows)


def judge(predicted: list[Predictions], options: GateOptions, seed: int, *, real: int, synthetic: int) -> Evidence:
    """The evidence of what was predicted for the validation rows, which decide, and for the test rows, if any."""
    return _conclude([_measure(part, options, seed) for part in predicted], options, real=real, synthetic=synthetic)


def predict(
    real: pa.Table,
    synthetic: pa.Table,
    splits: list[pa.Table],
    trainer: Trainer,
    options: GateOptions,
    *,
    seed: int,
    fields: tuple[str, ...],
    workdir: Path,
    runs: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Predictions]:
    """Trains each arm ``runs`` times (None: ``options.seeds``); what each predicts for each split, its rows sorted by id.

    Raises DataError where there is nothing to train on or to judge by.
    """
    _refuse_unsound(real, synthetic, splits[0])
    splits = [_sorted(split) for split in splits]
    problem = _problem(_sorted(real), _sorted(synthetic), splits, fields)
    planned = trainings(problem, seed, runs or options.seeds)
    predicted: dict[str, list[Ints]] = {arm: [] for arm in ARMS}
    chosen: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for done, (training, prediction) in enumerate(
        zip(planned, trainer.predict(problem, planned, workdir), strict=True)
    ):
        predicted[training.arm].append(prediction.labels)
        chosen[training.arm].append(prediction.chosen)
        progress(done + 1, len(planned))
    return [
        Predictions(
            problem.labels,
            _positions(split, problem.labels),
            {arm: np.stack(labels)[:, columns] for arm, labels in predicted.items()},
            chosen,
        )
        for split, columns in _cut(splits)
    ]


def pool(parts: list[Predictions]) -> Predictions:
    """The held-out rows of several folds as one set; run r of the whole is run r of every fold."""
    labels = tuple(sorted({label for part in parts for label in part.labels}))
    moves = [np.array([labels.index(label) for label in part.labels] + [-1], dtype=np.int64) for part in parts]
    return Predictions(
        labels,
        np.concatenate([move[part.truth] for move, part in zip(moves, parts, strict=True)]),
        {
            arm: np.concatenate([move[part.arms[arm]] for move, part in zip(moves, parts, strict=True)], axis=1)
            for arm in ARMS
        },
        {
            arm: [{"folds": list(of_run)} for of_run in zip(*(p.chosen[arm] for p in parts), strict=True)]
            for arm in ARMS
        },
    )


def judge_pooled(parts: list[Predictions], options: GateOptions, seed: int, before: Evidence) -> Evidence:
    """The evidence of folds: their held-out rows together decide; what ``before`` says of the test rows is kept."""
    measured = [_measure(pool(parts), options, seed), *([before["test"]] if before["test"] else [])]
    return _conclude(measured, options, real=before["rows"]["real"], synthetic=before["rows"]["synthetic"])


def _measure(predictions: Predictions, options: GateOptions, seed: int) -> SplitEvidence:
    return measure(
        predictions,
        focus=tuple(dict.fromkeys(class_among(name, predictions.labels) or name for name in options.focus)),
        confidence=options.confidence,
        min_rows_per_class=options.min_heldout_per_class,
        resamples=options.resamples,
        seed=stream_key("bootstrap", seed),
    )


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


def require_focus(heldout: pa.Table, options: GateOptions) -> None:
    """Raises UserError where a focus label has no held-out row. To be asked of all rows that judge, not of a fold."""
    held = set(heldout["stratum"].unique().to_pylist())
    if missing := [label for label in options.focus if class_among(label, held) is None]:
        raise UserError(
            f"expected held-out rows of every focus label, found none of {missing}",
            where="gate.focus",
            fix=f"name labels among {sorted(held)[:20]}",
        )


def _refuse_unsound(real: pa.Table, synthetic: pa.Table, heldout: pa.Table) -> None:
    for name, table in (("real train", real), ("synthetic", synthetic), ("held-out", heldout)):
        if not table.num_rows:
            raise DataError(
                f"expected {name} rows to judge with, found none", where="gate", fix="check the splits' shares"
            )
    if len(real["stratum"].unique()) < 2:
        raise DataError("expected two or more classes in train, found one", where="gate", fix="check the label column")


def _conclude(measured: list[SplitEvidence], options: GateOptions, *, real: int, synthetic: int) -> Evidence:
    """The verdict by the first split; a second one (test) is reported and decides nothing."""
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
            "real": real,
            "synthetic": synthetic,
            "validation": validation["rows"],
            "test": measured[1]["rows"] if len(measured) > 1 else 0,
        },
        "smallest_visible_gain": summary.smallest_visible_gain,
        "rows_needed": summary.rows_needed,
        "validation": validation,
        "test": measured[1] if len(measured) > 1 else None,
    }
