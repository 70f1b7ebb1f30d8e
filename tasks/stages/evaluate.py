"""Evaluate: real rows alone, placebo and mix in; gain with an interval, on real rows nobody generated from, out."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.tasks.contracts import FIRST_PROBLEM, ROW_ID, STRATUM, TARGET, Artifact, Foresight, Problem
from augmill.tasks.gate import judge as gate
from augmill.tasks.gate.evidence import Predictions
from augmill.tasks.gate.judge import GateOptions, Question
from augmill.tasks.gate.stopping import Looks
from augmill.tasks.gate.verdict import foresight
from augmill.tasks.metrics import METRICS
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.rows.folds import deal_folds, fold_of
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.rows.kinds import KINDS, RowIndex, diversity, equal_keys, group_keys, type_of
from augmill.tasks.rows.schema import GROUP, ORIGIN, REAL, class_counts, is_number
from augmill.tasks.store.stage import Work, fetch, identity_of, stage
from augmill.tasks.store.store import Store
from augmill.tasks.trainers import TRAINERS
from augmill.tasks.validation import RELEASE_BOUNDS, ValidationOptions, validate_release

COMPARED = 5_000  # rows of each side whose diversity is measured


@dataclass(frozen=True)
class JudgeConfig:
    """What trains the arms, and what decides over them."""

    gate: GateOptions  # resolved
    trainer: str
    trainer_version: int
    trainer_options: Any
    trainer_content: dict[str, str]  # Trainer.content(), when the run began to judge
    seed: int
    fields: tuple[str, ...]
    problem: str = field(default=FIRST_PROBLEM, metadata={"later": True})  # its name
    target: str = field(default="", metadata={"later": True})  # of a target with a unit, what its column is called
    codes: dict[str, str] | None = field(default=None, metadata={"later": True})  # of extensions from outside

    @property
    def question(self) -> Question:
        return Question(PROBLEMS[self.problem], self.fields, self.target)


@dataclass(frozen=True)
class EvaluateConfig:
    judge: JudgeConfig
    validation: ValidationOptions


def foreseen(store: Store, split: Artifact, gate: GateOptions, problem: Problem) -> Foresight | None:
    """What is assumed of the gate's metric before anything is trained; of a target that is a value, from its spread."""
    metric, spread = METRICS[str(gate.metric)], None
    if problem.target is not None and is_number(problem.target):
        values = pq.read_table(fetch(store, split, "train.parquet"), columns=[TARGET])[TARGET]
        spread = float(pc.stddev(values).as_py() or 0.0)
    return foresight(metric, spread)


def release_metrics(
    train: pa.Table, held_out: pa.Table, ledger: dict[str, Any], fields: tuple[str, ...]
) -> dict[str, float]:
    """Numbers of the release to be, for its Great Expectations suite; counts but for the two shares."""
    held, whole = set(equal_keys(held_out, fields)), [name for name in fields if _is_whole(name)]
    made = train.filter(pc.not_equal(train[ORIGIN], REAL))
    delivered = sum(row["delivered"] for row in ledger["rows"])
    target = sum(ledger["targets"].values())
    return {
        "rows": train.num_rows,
        "missing_classes": len(set(ledger["targets"]) - set(train[STRATUM].unique().to_pylist())),
        "leaked_rows": sum(key in held for key in equal_keys(made, fields)),
        "duplicate_rows": train.num_rows - len(train[ROW_ID].unique()),
        # Of fields whose kind lets no value be missing; the name is of when there was one kind.
        "null_texts": sum(table[name].null_count for table in (train, held_out) for name in whole),
        "accepted_share": sum(ledger["accepted"].values()) / delivered if delivered else 0.0,
        "shortfall_share": sum(ledger["shortfall"].values()) / target if target else 0.0,
    }


def _is_whole(name: str) -> bool:
    """Whether the field's kind asks for a value in every row."""
    asked = KINDS[type_of(name)].expectations(name, 0.0)
    return any(each["type"].endswith("to_not_be_null") for each in asked)


def predict(
    work: Work, config: JudgeConfig, split: Artifact, mixed: Artifact, held_out: list[pa.Table], looks: Looks | None
) -> list[Predictions]:
    """What the arms over a mix predict for each table of held-out rows.

    Finished trainings rest in the store's scratch space, so that a killed run pays for none twice.
    """
    rows = work.read(mixed, "mix.parquet")
    identity = hash_json(identity_of((config, split, mixed)))
    return gate.predict(
        work.read(mixed, "real.parquet"),
        rows.filter(pc.not_equal(rows[ORIGIN], REAL)),
        held_out,
        TRAINERS[config.trainer](config.trainer_options),
        config.question,
        runs=config.gate.seeds,
        seed=config.seed,
        workdir=work.site.store.local_scratch(work.site.place(f"trainer-{identity[:16]}")),
        scores=config.gate.needs_scores,
        looks=looks,
        progress=lambda done, total: work.tell(done, total, "trainings"),
    )


@stage("evaluate", version=4)
def evaluate(work: Work, config: EvaluateConfig, split: Artifact, mixed: Artifact, settled: Artifact) -> None:
    """evidence.json: the gate's verdict and numbers, the release's metrics and what their suite says; predictions too."""
    how, rows = config.judge, work.read(mixed, "mix.parquet")
    synthetic, real = rows.filter(pc.not_equal(rows[ORIGIN], REAL)), work.read(mixed, "real.parquet")
    validation, test = (work.read(split, f"{name}.parquet") for name in ("validation", "test"))
    gate.require_focus(validation, how.gate, how.question.problem)
    looks = gate.looks(validation[STRATUM].unique().to_pylist(), how.gate, how.question, how.seed)
    predicted = predict(work, how, split, mixed, [validation, *([test] if test.num_rows else [])], looks)
    counts = {"real": real.num_rows, "synthetic": synthetic.num_rows}
    found = gate.judge(predicted, how.gate, how.question, how.seed, **counts)
    work.write(predicted[0].to_table(), "predictions.parquet")
    work.write_json(predicted[0].about(), "predictions.json")
    ledger = work.read_json(settled, "ledger.json")
    columns = [ROW_ID, STRATUM, *how.fields]
    held_out = pa.concat_tables([validation.select(columns), test.select(columns)])
    metrics = release_metrics(rows, held_out, ledger, how.fields)
    checked = validate_release(metrics, RELEASE_BOUNDS, config.validation) if config.validation.enabled else None
    work.rows = validation.num_rows
    work.write_json(
        {
            **found,
            "options": asdict(how.gate),
            "release_metrics": metrics,
            "release_validation": checked,
            "diversity": diversity(synthetic.slice(0, COMPARED), real.slice(0, COMPARED), how.fields),
        },
        "evidence.json",
    )


# --- Folds: where the validation rows are too few to show a gain, every train row judges once too (law 6) -------------
# The whole path runs inside each fold: a generator that had seen a fold's held-out rows would look 24 points better on
# TREC than it is. What is released is not made from the folds: they only measure.


@dataclass(frozen=True)
class FoldConfig:
    """Which of how many folds is held out. ``near``: as splits.near."""

    number: int
    folds: int
    seed: int
    near: float
    fields: tuple[str, ...]
    problem: str = field(default=FIRST_PROBLEM, metadata={"later": True})  # its name
    codes: dict[str, str] | None = field(default=None, metadata={"later": True})  # of extensions from outside


def fold_numbers(rows: pa.Table, config: FoldConfig) -> list[int]:
    """The fold of each row: dealt out within its stratum by the hash of what equal rows share, so that small ones spread.

    Rows of one group share a fold, by the hash of the group alone, so a fold may be empty; a row without a group goes
    by itself.
    """
    grouped = GROUP in rows.column_names
    salt = f"{config.seed}\x1ffold\x1f".encode()
    points = [hashlib.sha256(salt + key).digest() for key in group_keys(rows, config.fields)]
    if grouped:
        return [fold_of(point, config.folds) for point in points]
    found: list[int] = deal_folds(rows[STRATUM].to_pylist(), points, config.folds).tolist()
    return found


@stage("fold", version=4)
def split_fold(work: Work, config: FoldConfig, split: Artifact) -> None:
    """A split artifact whose validation is one fold of the train rows, and whose train is the rest of them.

    Rows that are too near one of the fold leave its train. The snapshot's own validation and test rows are kept out of
    it: fold rows join them as rows to judge by, so what stood near them left train before.
    """
    rows, exclude = (work.read(split, f"{name}.parquet") for name in ("train", "exclude"))
    held = pa.array(np.array(fold_numbers(rows, config)) == config.number)
    validation, train = rows.filter(held), rows.filter(pc.invert(held))
    index = RowIndex.build(validation, config.fields, config.near)
    best, _ = index.nearest(train)
    train = train.filter(pa.array(best < 0))
    held_out = {name: work.read(split, f"{name}.parquet") for name in ("validation", "test")}
    others = pa.concat_tables([table.select(exclude.column_names) for table in (*held_out.values(), exclude)])
    made = {"train": train, "validation": validation, "test": rows.slice(0, 0), "exclude": others}
    for name, table in made.items():
        work.write(table, f"{name}.parquet")
    unlabelled = work.read(split, "unlabelled.parquet")
    best, _ = index.nearest(unlabelled)
    work.write(unlabelled.filter(pa.array(best < 0)), "unlabelled.parquet")
    work.rows = rows.num_rows
    classes = {name: class_counts(made[name][STRATUM]) for name in ("train", "validation", "test")}
    counted = {"rows": {name: t.num_rows for name, t in made.items()}, "classes": classes}
    lacks = PROBLEMS[config.problem].lacks(train)
    work.write_json({**counted, "lacks": lacks[0] if lacks else None}, "summary.json")


def can_judge(summary: dict[str, Any]) -> bool:
    """Whether a fold, by its summary.json, has rows to judge by, and rows enough to train on."""
    return summary["rows"]["validation"] > 0 and summary["lacks"] is None


@stage("predict_fold", version=2)
def predict_fold(work: Work, config: JudgeConfig, split: Artifact, mixed: Artifact) -> None:
    """predictions.parquet: a held-out row of the fold a line, what each training of each arm predicted for it."""
    validation = work.read(split, "validation.parquet")
    (found,) = predict(work, config, split, mixed, [validation], None)
    work.rows = validation.num_rows
    work.write(found.to_table(), "predictions.parquet")
    work.write_json(found.about(), "predictions.json")


@stage("judge_folds", version=4)
def judge_folds(work: Work, config: JudgeConfig, evaluated: Artifact, predicted: list[Artifact]) -> None:
    """evidence.json as the evaluate stage writes it, the folds' held-out rows judging beside validation.

    ``folds`` in it: how many judged, which may be fewer than were asked for (see ``can_judge``).
    """
    parts = [
        Predictions.from_table(work.read(part, "predictions.parquet"), work.read_json(part, "predictions.json"))
        for part in (evaluated, *predicted)
    ]
    before = work.read_json(evaluated, "evidence.json")
    found = gate.judge_pooled(parts, config.gate, config.question, config.seed, before)
    work.rows = found["rows"]["validation"]
    work.write_json({**before, **found, "folds": len(predicted)}, "evidence.json")
