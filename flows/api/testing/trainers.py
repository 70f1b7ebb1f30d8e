"""The laws of trainers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import ANY
from augmill.tasks.gate.evidence import trainings
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.trainers import Prediction, Trainer, TrainerInputs
from augmill.testing.rows import require_declared, require_light_import


class TrainerBench:
    """A trainer, rows to train it on, and a directory. ``inputs``: yours; without them two classes that texts, or numbers, tell

    apart.
    """

    def __init__(self, trainer: Trainer, directory: Path, *, inputs: TrainerInputs | None = None) -> None:
        self.trainer, self.directory = trainer, directory
        self.inputs = two_classes(trainer) if inputs is None else inputs
        self.planned = trainings(self.inputs, 0, 1)

    def predict(self, name: str, *places: int) -> list[Prediction]:
        """Of the three arms' trainings those at the places, all of them without."""
        chosen = [self.planned[at] for at in places] or self.planned
        return list(self.trainer.predict(self.inputs, chosen, self.directory / name))


def two_classes(trainer: Trainer) -> TrainerInputs:
    """Of texts, or of numbers for a trainer that serves none."""
    field = "text" if {"text", ANY} & set(trainer.kinds) else "number:x"

    def rows(prefix: str, count: int) -> pa.Table:
        strata = ["ab"[at % 3 == 0] for at in range(count)]
        texts = [f"{'left' if stratum == 'a' else 'right'} word{at % 5}" for at, stratum in enumerate(strata)]
        cells = texts if field == "text" else [at % 5 + 3.0 * (stratum == "a") for at, stratum in enumerate(strata)]
        return pa.table({"row_id": [f"{prefix}{at}" for at in range(count)], "stratum": strata, field: cells})

    made = rows("s", 9).append_column("parent_ids", pa.array([["r0"]] * 9, pa.list_(pa.string())))
    return TrainerInputs(rows("r", 12), made, rows("v", 20), (field,), PROBLEMS["classification"], ("a", "b"))


def each_training_gets_a_prediction_of_each_row(bench: TrainerBench) -> None:
    found = bench.predict("all")
    held, classes = bench.inputs.evaluation.num_rows, len(bench.inputs.classes)
    assert len(found) == len(bench.planned), "a prediction a training"
    for prediction in found:
        _require_answers(prediction, bench.inputs)
        json.dumps(prediction.chosen, allow_nan=False)
        if prediction.scores is not None:
            assert prediction.scores.shape == (held, classes), "scores: (rows, classes)"
            assert not np.isnan(prediction.scores).any(), "a score is a number"
        assert bench.trainer.scores or prediction.scores is None, "`scores` says whether it gives some"


def _require_answers(prediction: Prediction, inputs: TrainerInputs) -> None:
    problem, found, held = inputs.problem, prediction.target, inputs.evaluation.num_rows
    assert found.shape == (held,), "a value a row"
    if inputs.classes:
        assert found.dtype == np.int64 and set(found.tolist()) <= {-1, *range(len(inputs.classes))}, (
            "int64, places in `classes`, or -1"
        )
    elif found.dtype != object:
        assert found.dtype == np.float64 and np.isfinite(found).all(), "float64, a number for every row"
    else:
        assert pa.array(found, problem.answer or problem.target).null_count == 0, "an answer for every row"


def a_prediction_depends_on_its_own_training_alone(bench: TrainerBench) -> None:
    together = bench.predict("together")
    (alone,) = bench.predict("alone", -1)
    assert alone.target.tolist() == together[-1].target.tolist(), (
        "with other trainings before it, it predicts otherwise"
    )


def its_options_are_explained(bench: TrainerBench) -> None:
    require_declared(bench.trainer)
    require_light_import(bench.trainer)


TRAINER_LAWS: tuple[Callable[[TrainerBench], None], ...] = (
    each_training_gets_a_prediction_of_each_row,
    a_prediction_depends_on_its_own_training_alone,
    its_options_are_explained,
)
