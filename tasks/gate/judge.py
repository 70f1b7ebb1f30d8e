"""The gate: trains the three arms, measures the gains on held-out rows, and says whether the mix may be published.

What an interval speaks of: training on *these* train rows and *these* accepted rows, judged on new rows from where the
held-out rows came; the doubt it holds is that of held-out rows, of which added rows are drawn, and of the training's
own seeds. Whether another sample of train rows would gain as much is not asked: nobody will train on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import ANY, ROW_ID, STRATUM, TARGET, Ints, Problem
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.gate.evidence import (
    ARMS,
    Evidence,
    Predictions,
    SplitEvidence,
    Yardsticks,
    measure,
    trainings,
    values_of,
)
from augmill.tasks.gate.gauge import Gauge
from augmill.tasks.gate.stopping import Looks
from augmill.tasks.gate.verdict import Gains, Rule, best_real, decide, explain, told_runs
from augmill.tasks.metrics import METRICS
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.rows.names import nearest
from augmill.tasks.rows.randomness import stream_key
from augmill.tasks.rows.schema import is_number
from augmill.tasks.trainers import Prediction, Trainer, TrainerInputs

MARGIN = 0.5  # points


@dataclass(frozen=True)
class GateOptions:
    rule: Literal["superior", "not_worse"] = field(
        default="superior",
        metadata={
            "help": "superior: both lower bounds are above `min_gain`; not_worse: both are above minus `margin`, which "
            "proves no gain"
        },
    )
    margin: float | None = field(
        default=None,
        metadata={
            "help": "what the rule not_worse lets the mix lose, in the metric's unit: points (default 0.5); for `mae` and"
            " `rmse` the target's own unit, without a default"
        },
    )
    min_gain: float = field(
        default=0.0,
        metadata={
            "help": "what the mix must gain at least under the rule superior, in the metric's unit: points, or the "
            "target's"
        },
    )
    metric: str | None = field(
        default=None,
        metadata={
            "help": "what the gate judges by. Classification: accuracy (default), macro_f1; auc and average_precision "
            "(each class against the others, averaged), which need a trainer that gives scores. Regression: mae "
            "(default), rmse, r2"
        },
    )
    focus: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "labels that matter: the gate then judges by their mean F1 (recall alone would reward predicting them"
            " everywhere), and still refuses a mix proven to lose in `metric` over all labels"
        },
    )
    seeds: int = field(
        default=10,
        metadata={"help": "trainings of each arm, at least 3; each has its own seed and draws its own placebo and mix"},
    )
    confidence: float = field(
        default=0.95,
        metadata={"help": "confidence that the true gain is above the lower bound, and likewise below the upper one"},
    )
    min_heldout_per_class: int = field(
        default=20, metadata={"help": "classes with fewer held-out rows are reported as not judged"}
    )
    folds: Literal["auto"] | int = field(
        default=0,
        metadata={
            "help": "let the train rows judge too: the whole path runs this many times, each time without one part of "
            "them; these parts and the validation rows decide. `auto`: 5 if the validation rows alone cannot show"
            " a gain of `min_gain`, or of 2 points; 0: never"
        },
    )
    resamples: int = field(default=2000, metadata={"help": "bootstrap resamples of held-out rows and seeds"})
    early: bool = field(
        default=True,
        metadata={
            "later": True,
            "help": "end before `seeds` trainings of each arm, from the third on, where the others could hardly change what"
            " the gate says; where folds judge, all are trained",
        },
    )

    def __post_init__(self) -> None:
        bounds = [
            ("margin", 0 <= (self.margin or 0) < float("inf"), "0 or more"),
            ("min_gain", 0 <= self.min_gain < float("inf"), "0 or more (rule: not_worse allows a loss)"),
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

    def resolved(self, problem: Problem) -> GateOptions:
        """With the problem's own metric, and a margin, where none is given. Raises ValueError where one does not fit."""
        name = self.metric or problem.metric
        missing = METRICS.problem_of(name)
        if missing or not {problem.name, ANY} & set(METRICS[name].problems):
            fit = (known for known, metric in METRICS.items() if {problem.name, ANY} & set(metric.problems))
            known = list(dict.fromkeys([*problem.metrics, *fit]))
            hint = missing if missing.startswith("the metric") else nearest(name, known, f"there is no {name}")
            hint = hint if missing else f"{name} is for {' and '.join(METRICS[name].problems)}"
            raise ValueError(f"gate.metric: {problem.name} is judged by {', '.join(known)}; {hint}")
        if self.focus and problem.focus_metric is None:
            raise ValueError(f"gate.focus: {problem.name} has no labels to focus on")
        if METRICS[name].unit != "points":
            if self.margin is None and self.rule == "not_worse":
                said = f"expected for the rule not_worse, since {name} is in the target's own unit"
                raise ValueError(f"gate.margin: {said}; there is no default")
            return replace(self, metric=name)
        margin = MARGIN if self.margin is None else self.margin
        for key, value in (("margin", margin), ("min_gain", self.min_gain)):
            if value > 100:
                raise ValueError(f"gate.{key}: expected between 0 and 100 points, found {value}")
        return replace(self, metric=name, margin=margin)

    @property
    def needs_scores(self) -> bool:
        """Of resolved options: whether the trainer has to say how sure it is."""
        return METRICS[str(self.metric)].needs_scores


@dataclass(frozen=True)
class Question:
    """What is learnt, from which fields, and what the column that is learnt is called, for the words."""

    problem: Problem
    fields: tuple[str, ...]
    target: str = ""


def evaluate(
    real: pa.Table,
    synthetic: pa.Table,
    heldout: pa.Table,
    trainer: Trainer,
    options: GateOptions,
    question: Question,
    *,
    seed: int,
    workdir: Path,
    test: pa.Table | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evidence:
    """Trains each arm ``options.seeds`` times, predicts ``heldout`` and ``test`` in one go, and decides by ``heldout``.

    Tables hold ``kinds.real_schema(fields, problem.target)``; ``synthetic`` also ``parent_ids``; the first two may hold
    ``weight``. ``progress`` hears (trainings done, trainings in all). Raises DataError where there is nothing to train on
    or to judge by, UserError where ``focus`` names a label that no held-out row has.
    """
    options = options.resolved(question.problem)
    require_focus(heldout, options, question.problem)
    splits = [heldout, *([test] if test is not None and test.num_rows else [])]
    early = looks(heldout[STRATUM].unique().to_pylist(), options, question, seed)
    predicted = predict(
        real, synthetic, splits, trainer, question, runs=options.seeds, seed=seed, workdir=workdir,
        scores=options.needs_scores, looks=early, progress=progress,
    )  # fmt: skip
    return judge(predicted, options, question, seed, real=real.num_rows, synthetic=synthetic.num_rows)


def judge(
    predicted: list[Predictions], options: GateOptions, question: Question, seed: int, *, real: int, synthetic: int
) -> Evidence:
    """The evidence of what was predicted for the validation rows, which decide, and for the test rows, if any.

    ``options``: resolved.
    """
    measured = [_measure(part, options, question, seed) for part in predicted]
    return _conclude(measured, predicted[0], options, question, real=real, synthetic=synthetic)


def looks(held: Collection[str], options: GateOptions, question: Question, seed: int) -> Looks | None:
    """What may end the gate early; None where it trains all runs. ``held``: strata of the rows that decide;

    ``options``: resolved.
    """
    if not options.early:
        return None
    metric, problem = METRICS[str(options.metric)], question.problem
    deciding, guard = metric, None
    if options.focus and problem.focus_metric:
        named = tuple(dict.fromkeys(problem.stratum_named(name, held) or name for name in options.focus))
        deciding, guard = METRICS[problem.focus_metric].only(named), metric
    rule = Rule.of(options, Gauge.of(deciding, question.target))
    return Looks(deciding, guard, rule, options.seeds, options.resamples, stream_key("looks", seed), question.target)


def predict(
    real: pa.Table,
    synthetic: pa.Table,
    splits: list[pa.Table],
    trainer: Trainer,
    question: Question,
    *,
    runs: int,
    seed: int,
    workdir: Path,
    arms: Sequence[str] = ARMS,
    scores: bool = False,
    looks: Looks | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Predictions]:
    """Trains each arm ``runs`` times, or fewer where ``looks`` at the first split says so; what each predicts for each

    split, its rows sorted by id. With ``scores``, those too.

    Whoever judges by held-out rows does it through here: the gate, its folds, a comparison, and on parts of train what
    weighs generators. Raises DataError where there is nothing to train on or to judge by, UserError where the trainer
    does not do its part.
    """
    _refuse_unsound(real, synthetic, splits[0], question.problem)
    splits = [split.sort_by(ROW_ID) for split in splits]
    inputs = _inputs(real.sort_by(ROW_ID), synthetic.sort_by(ROW_ID), splits, question)
    strata = _strata(inputs, splits)
    planned = trainings(inputs, seed, runs, arms)
    planned = planned if trainer.weights else [training.copied() for training in planned]
    found: dict[str, list[Prediction]] = {arm: [] for arm in arms}
    types, ended = _value_types(question.problem), None
    cut = [
        (
            rows,
            _places(split, strata),
            values_of(split[TARGET]) if question.problem.target else None,
            _units(split, question.problem),
        )
        for split, rows in _cut(splits)
    ]

    def told(rows: slice, places: Ints, values: Any, units: tuple[str, ...] | None) -> Predictions:
        arms = {arm: np.stack([each.target[rows] for each in of]) for arm, of in found.items()}
        chosen = {arm: [each.chosen for each in of] for arm, of in found.items()}
        scored = {arm: np.stack([np.asarray(each.scores)[rows] for each in of]) for arm, of in found.items() if scores}
        return Predictions(strata, places, arms, chosen, values, units, scored or None, ended, types)

    with _closing(trainer.predict(inputs, planned, workdir)) as predictions:
        for done, (training, prediction) in enumerate(zip(planned, predictions, strict=True)):
            _refuse_unfit(prediction, inputs, scores)
            found[training.arm].append(_small(prediction, inputs, scores))
            progress(done + 1, len(planned))
            if looks is not None and training.arm == arms[-1] and (ended := looks.ending(told(*cut[0]))):
                break
    return [told(*part) for part in cut]


def _value_types(problem: Problem) -> tuple[pa.DataType, pa.DataType] | None:
    """Of targets and of predictions, where they are values and no numbers."""
    if problem.target is None or is_number(problem.target):
        return None
    return problem.target, problem.answer or problem.target


@contextlib.contextmanager
def _closing(predictions: Iterator[Prediction]) -> Iterator[Iterator[Prediction]]:
    """What trains no further is told so: a generator ends its threads. A trainer may give any iterator."""
    try:
        yield predictions
    finally:
        if isinstance(predictions, Generator):
            predictions.close()


def _small(prediction: Prediction, inputs: TrainerInputs, scores: bool) -> Prediction:
    """Without what nobody asks for, places of classes in four bytes."""
    target = prediction.target.astype(np.int32) if inputs.classes else prediction.target
    return replace(prediction, target=target, scores=prediction.scores if scores else None)


def pool(parts: list[Predictions]) -> Predictions:
    """The held-out rows of several folds as one set; run r of the whole is run r of every fold."""
    strata = tuple(sorted({label for part in parts for label in part.strata}))
    moves = [np.array([strata.index(label) for label in part.strata] + [-1], dtype=np.int64) for part in parts]
    moved = list(zip(parts, moves, strict=True))

    def joined(arm: str) -> Any:
        of_classes = parts[0].values is None
        return np.concatenate([move[p.arms[arm]] if of_classes else p.arms[arm] for p, move in moved], axis=1)

    return Predictions(
        strata,
        np.concatenate([move[part.stratum] for part, move in moved]),
        {arm: joined(arm) for arm in ARMS},
        {
            arm: [{"folds": list(of_run)} for of_run in zip(*(p.chosen[arm] for p in parts), strict=True)]
            for arm in ARMS
        },
        None if parts[0].values is None else np.concatenate([p.values for p in parts if p.values is not None]),
        None if parts[0].units is None else tuple(unit for part in parts for unit in part.units or ()),
        None if parts[0].scores is None else {arm: _spread(moved, arm, len(strata)) for arm in ARMS},
        types=parts[0].types,
    )


def _spread(moved: list[tuple[Predictions, Ints]], arm: str, width: int) -> Any:
    """The scores of folds side by side; of a class that a fold does not know nothing is surer than anything else."""
    found = []
    for part, move in moved:
        assert part.scores is not None
        runs, rows, _ = part.scores[arm].shape
        wide = np.full((runs, rows, width), -np.inf)
        wide[:, :, move[:-1]] = part.scores[arm]
        found.append(wide)
    return np.concatenate(found, axis=1)


def judge_pooled(
    parts: list[Predictions], options: GateOptions, question: Question, seed: int, before: Evidence
) -> Evidence:
    """The evidence of folds: their held-out rows together decide; what ``before`` says of the test rows is kept."""
    measured = [_measure(pool(parts), options, question, seed), *([before["test"]] if before["test"] else [])]
    rows = before["rows"]
    return _conclude(measured, parts[0], options, question, real=rows["real"], synthetic=rows["synthetic"])


def _measure(predictions: Predictions, options: GateOptions, question: Question, seed: int) -> SplitEvidence:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):  # sums are then taken in one order whatever the cores; the products are small
        return measure(
            predictions,
            _yardsticks(predictions, options, question),
            confidence=options.confidence,
            min_rows_per_class=options.min_heldout_per_class,
            resamples=options.resamples,
            seed=stream_key("bootstrap", seed),
        )


def _yardsticks(predictions: Predictions, options: GateOptions, question: Question) -> Yardsticks:
    problem, strata = question.problem, predictions.strata
    names = dict.fromkeys([*problem.metrics, str(options.metric)])
    focusing = METRICS[problem.focus_metric] if problem.focus_metric else None
    named = tuple(dict.fromkeys(problem.stratum_named(name, strata) or name for name in options.focus))
    held = {strata[place] for place in np.unique(predictions.stratum)}
    focus = [focusing.only(named)] if focusing and held & set(named) else []
    return Yardsticks(
        {name: METRICS[name] for name in names},
        {metric.name: metric for metric in focus},
        METRICS[problem.stratum_metric],
        focusing,
        question.target,
    )


def _cut(splits: list[pa.Table]) -> list[tuple[pa.Table, slice]]:
    """Each split with its place among the evaluation rows."""
    ends = np.cumsum([split.num_rows for split in splits]).tolist()
    return [(split, slice(end - split.num_rows, end)) for split, end in zip(splits, ends, strict=True)]


def _places(split: pa.Table, strata: tuple[str, ...]) -> Ints:
    index = {label: position for position, label in enumerate(strata)}
    return np.array([index[label] for label in split[STRATUM].to_pylist()], dtype=np.int64)


def _units(split: pa.Table, problem: Problem) -> tuple[str, ...] | None:
    """None where each row is a unit, as most are."""
    units = problem.units(split).to_pylist()
    return None if len(set(units)) == len(units) else tuple(units)


def _inputs(real: pa.Table, synthetic: pa.Table, splits: list[pa.Table], question: Question) -> TrainerInputs:
    names = [ROW_ID, *question.fields]
    schema = pa.schema([real_schema(question.fields).field(name) for name in names])
    evaluation = pa.concat_tables([split.select(names).cast(schema) for split in splits])
    inputs = TrainerInputs(real, synthetic, evaluation, question.fields, question.problem)
    return inputs if question.problem.target is not None else replace(inputs, classes=_strata(inputs, splits))


def _strata(inputs: TrainerInputs, splits: list[pa.Table]) -> tuple[str, ...]:
    tables = (inputs.real, inputs.synthetic, *splits)
    return tuple(sorted({label for table in tables for label in table[STRATUM].unique().to_pylist()}))


def require_focus(heldout: pa.Table, options: GateOptions, problem: Problem) -> None:
    """Raises UserError where a focus label has no held-out row. To be asked of all rows that judge, not of a fold."""
    held = set(heldout[STRATUM].unique().to_pylist())
    if missing := [label for label in options.focus if problem.stratum_named(label, held) is None]:
        raise UserError(
            f"expected held-out rows of every focus label, found none of {missing}",
            where="gate.focus",
            fix=f"name labels among {sorted(held)[:20]}",
        )


def _refuse_unsound(real: pa.Table, synthetic: pa.Table, heldout: pa.Table, problem: Problem) -> None:
    for name, table in (("real train", real), ("synthetic", synthetic), ("held-out", heldout)):
        if not table.num_rows:
            raise DataError(
                f"expected {name} rows to judge with, found none", where="gate", fix="check the splits' shares"
            )
    if lacks := problem.lacks(real):
        raise DataError(lacks[0], where="gate", fix=lacks[1])


def _refuse_unfit(prediction: Prediction, inputs: TrainerInputs, scores: bool) -> None:
    if types := _value_types(inputs.problem):
        problem, fix = f"expected the trainer to predict {types[1]}, found", "let it predict what the problem asks for"
        try:
            found = pa.array(prediction.target, types[1])
        except (ValueError, TypeError) as error:  # Arrow's own, and what UTF-8 cannot say
            raise UserError(f"{problem} something else ({error})", where="trainer", fix=fix) from error
        if found.null_count:
            raise UserError(f"{problem} nothing for {found.null_count:,} row(s)", where="trainer", fix=fix)
    elif not inputs.classes and not np.isfinite(prediction.target).all():
        raise DataError(
            "the trainer predicted something that is not a number", where="trainer", fix="check its train rows"
        )
    if not scores:
        return
    if prediction.scores is None:
        fix = "judge by another metric (gate.metric), or let the trainer write scores (docs/recipe.md, Trainers)"
        raise UserError("the trainer gives no scores, by which the metric ranks rows", where="gate.metric", fix=fix)
    if np.isnan(prediction.scores).any():
        raise DataError("the trainer gave a score that is not a number", where="trainer", fix="check its train rows")


def _conclude(
    measured: list[SplitEvidence],
    predicted: Predictions,
    options: GateOptions,
    question: Question,
    *,
    real: int,
    synthetic: int,
) -> Evidence:
    """The verdict by the first split; a second one (test) is reported and decides nothing."""
    validation, metric = measured[0], str(options.metric)
    known = {name: METRICS[name] for name in dict.fromkeys([*question.problem.metrics, metric])}
    judged_by = metric
    if options.focus and question.problem.focus_metric:
        focused = METRICS[question.problem.focus_metric].only(())
        known, judged_by = known | {focused.name: focused}, focused.name
    gauges = {name: Gauge.of(each, question.target) for name, each in known.items()}
    found = validation["comparisons"]["mix-real"]["gains"]
    if dumb := [gauges[name].title for name in (judged_by, metric) if found[name]["gain"] is None]:
        problem = f"{dumb[0]} says nothing of these {validation['rows']:,} held-out rows: they are too alike"
        raise DataError(problem, where="gate.metric", fix="hold out more rows, or judge by another metric")
    gains = Gains.of(validation["comparisons"], judged_by, metric)
    rule = Rule.of(options, gauges[judged_by])
    verdict, better = decide(gains, rule), best_real(gains.placebo_real)
    score = float(validation["arms"]["real"][judged_by])
    stratum = question.problem.stratum_word
    summary = explain(verdict, better, gains, rule, validation["rows"], gauges[judged_by].point(score), stratum)
    return {
        "verdict": verdict,
        "reason": f"{summary.reason}{told_runs(predicted.runs, options.seeds, predicted.ended)}",
        "best_real": better,
        "judged_by": judged_by,
        "unit": gauges[judged_by].unit,
        "metrics": {name: gauge.to_json() for name, gauge in gauges.items()},
        "stratum": stratum,
        "options": asdict(options),
        "seeds": predicted.runs,
        "seeds_asked": options.seeds,
        "ended": predicted.ended,
        "draws": predicted.runs,  # each seed draws its own placebo and its own mix
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
