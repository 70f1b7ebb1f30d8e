"""The trainer `detector`: it finds what is drawn, in equal steps, alike whatever trains beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from boxed import DETECTION, boxed_rows
from pictured import PICTURE_FIELDS

from augmill.tasks.contracts import TARGET, Judged
from augmill.tasks.gate.evidence import trainings
from augmill.tasks.metrics import METRICS
from augmill.tasks.trainers import Prediction, TrainerInputs, Training
from augmill.tasks.trainers.detector import DetectorOptions, DetectorTrainer
from augmill.testing import TRAINER_LAWS, TrainerBench

QUICK = DetectorOptions(width=8, side=32, steps=4, batch=8, learning_rate=0.01, threads=1)


def inputs(train: int = 12, made: int = 4, held: int = 10) -> TrainerInputs:
    parents = pa.array([["r000"]] * made, pa.list_(pa.string()))
    synthetic = boxed_rows(made, "s", 100, empty=True).append_column("parent_ids", parents)
    evaluation = boxed_rows(held, "v", 200).select(["row_id", *PICTURE_FIELDS])
    return TrainerInputs(boxed_rows(train), synthetic, evaluation, PICTURE_FIELDS, DETECTION)


def predict(given: TrainerInputs, planned: list[Training], folder: Path, **options: float) -> list[Prediction]:
    return list(DetectorTrainer(dataclasses.replace(QUICK, **options)).predict(given, planned, folder))


def training(count: int, weights: list[float] | None = None, seed: int = 5) -> Training:
    return Training("real", 0, seed, np.arange(count), np.array(weights or [1.0] * count))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> TrainerBench:
    return TrainerBench(DetectorTrainer(QUICK), tmp_path_factory.mktemp("detector"), inputs=inputs())


@pytest.mark.parametrize("law", TRAINER_LAWS, ids=lambda law: law.__name__)
def test_it_keeps_the_laws_of_trainers(law: Callable[[TrainerBench], None], bench: TrainerBench) -> None:
    law(bench)


def test_it_finds_what_is_drawn(tmp_path: Path) -> None:
    given = inputs(train=60, held=30)
    (found,) = predict(given, [training(60)], tmp_path, steps=120)
    truth = boxed_rows(30, "v", 200)[TARGET].to_numpy(zero_copy_only=False)
    truth = np.array([list(boxes) for boxes in truth] + [None], dtype=object)[:-1]
    judged = Judged(truth, found.target, None, np.arange(30), 30)
    metric = METRICS["map50"]
    assert metric.values(metric.prepare(judged), np.ones((1, 30), np.float32))[0] > 0.6


def test_a_training_is_the_same_beside_others_and_from_what_rests(tmp_path: Path) -> None:
    given, before = inputs(), torch.get_num_threads()
    planned = trainings(given, 0, 1)
    alone = [predict(given, [each], tmp_path / str(at))[0].target.tolist() for at, each in enumerate(planned)]
    beside = [each.target.tolist() for each in predict(given, planned, tmp_path / "beside", threads=2)]
    assert beside == alone and torch.get_num_threads() == before
    assert [each.target.tolist() for each in predict(given, planned, tmp_path / "beside")] == alone
    assert predict(given, [training(12, seed=6)], tmp_path)[0].target.tolist() != alone[0]


def test_a_row_that_weighs_twice_is_not_a_row_that_weighs_once(tmp_path: Path) -> None:
    given = inputs()
    even, odd = predict(given, [training(12), training(12, [5.0] + [1.0] * 11)], tmp_path)
    assert even.target.tolist() != odd.target.tolist()


def test_answers_lie_in_their_pictures_the_surest_first(tmp_path: Path) -> None:
    (found,) = predict(inputs(), [training(12)], tmp_path)
    assert any(len(boxes) > 1 for boxes in found.target)
    for boxes in found.target:
        scores = [box["score"] for box in boxes]
        assert scores == sorted(scores, reverse=True)
        for box in boxes:
            x, y, wide, high = box["bbox"]
            assert 0 <= x < x + wide <= 40 + 1e-6 and 0 <= y < y + high <= 32 + 1e-6


@pytest.mark.parametrize("bad", [{"width": 6}, {"side": 30}, {"steps": 0}, {"batch": 1}, {"learning_rate": 0.0}])
def test_options_out_of_bounds_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"trainer.detector.{next(iter(bad))}: expected"):
        DetectorOptions(**bad)  # type: ignore[arg-type]
