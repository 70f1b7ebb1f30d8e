"""The trainer `cnn`: it learns pictures, in equal steps, alike whatever trains beside it, and what is finished rests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pictured import PICTURE_FIELDS, drawn, file_of, value

from augmill.tasks.gate.evidence import trainings
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.trainers import Prediction, TrainerInputs, Training, cnn
from augmill.tasks.trainers.cnn import CnnOptions, CnnTrainer
from augmill.testing import TRAINER_LAWS, TrainerBench

QUICK = CnnOptions(width=8, side=16, steps=60, batch=24, learning_rate=0.01, threads=1)


def rows(prefix: str, count: int, key: int, task: str) -> pa.Table:
    """A lying or a standing bar; the target is how bright the picture is."""
    columns: dict[str, Any] = {
        "row_id": [f"{prefix}{at}" for at in range(count)],
        "stratum": ["lying" if at % 2 == 0 else "standing" for at in range(count)],
        "target": [float(at % 7) for at in range(count)],
    }
    dimmed = [drawn(1000 * key + at, at % 2, (16, 16)) // 2 + np.uint8(18 * (at % 7)) for at in range(count)]
    plain = [drawn(1000 * key + at, at % 2, (16, 16)) for at in range(count)]
    columns[PICTURE_FIELDS[0]] = [value(file_of(each)) for each in (dimmed if task == "regression" else plain)]
    schema = real_schema(PICTURE_FIELDS, PROBLEMS[task].target)
    return pa.table({name: columns[name] for name in schema.names}, schema)


def inputs(task: str = "classification", made: int = 8) -> TrainerInputs:
    parents = pa.array([["r0"]] * made, pa.list_(pa.string()))
    synthetic = rows("s", made, 2, task).append_column("parent_ids", parents)
    held = rows("v", 60, 3, task).select(["row_id", *PICTURE_FIELDS])
    classes = ("lying", "standing", "unseen") if task == "classification" else ()
    return TrainerInputs(rows("r", 40, 1, task), synthetic, held, PICTURE_FIELDS, PROBLEMS[task], classes)


def predict(given: TrainerInputs, planned: list[Training], folder: Path, **options: Any) -> list[Prediction]:
    return list(CnnTrainer(dataclasses.replace(QUICK, **options)).predict(given, planned, folder))


def training(rows: list[int], weights: list[float] | None = None, seed: int = 5) -> Training:
    return Training("real", 0, seed, np.array(rows), np.array(weights or [1.0] * len(rows)))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> TrainerBench:
    options = dataclasses.replace(QUICK, steps=10)
    return TrainerBench(CnnTrainer(options), tmp_path_factory.mktemp("cnn"), inputs=inputs())


@pytest.mark.parametrize("law", TRAINER_LAWS, ids=lambda law: law.__name__)
def test_it_keeps_the_laws_of_trainers(law: Callable[[TrainerBench], None], bench: TrainerBench) -> None:
    law(bench)


@pytest.mark.parametrize("net", ["plain", "residual"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_it_learns_classes_and_their_scores_rank_rows(net: str, norm: str, tmp_path: Path) -> None:
    (found,) = predict(inputs(), [training(list(range(40)))], tmp_path, net=net, norm=norm)
    truth = np.arange(60) % 2
    assert (found.target == truth).mean() > 0.9
    assert found.scores is not None and (found.scores[:, 2] == -np.inf).all(), "no training row is of that class"
    assert (found.scores.argmax(axis=1) == found.target).all()


def test_it_learns_numbers_in_their_own_unit(tmp_path: Path) -> None:
    (found,) = predict(inputs("regression"), [training(list(range(40)))], tmp_path, steps=150)
    truth = np.arange(60) % 7
    assert np.corrcoef(found.target, truth)[0, 1] > 0.9 and np.abs(found.target - truth).mean() < 1.0


def test_a_row_that_weighs_nothing_teaches_nothing_and_copies_are_weights(tmp_path: Path) -> None:
    given = inputs()
    real, doubled = list(range(40)), list(range(20))
    planned = [
        training(real + doubled),
        training(real, [2.0] * 20 + [1.0] * 20),
        training(real, [4.0] * 20 + [2.0] * 20),
        training(real, [0.0] * 20 + [1.0] * 20),
        training(real[20:]),
        training(real),
    ]
    copies, weights, scaled, without, alone, even = (
        found.scores for found in predict(given, planned, tmp_path, steps=8)
    )
    assert np.array_equal(copies, weights) and np.array_equal(weights, scaled) and np.array_equal(without, alone)
    assert not np.array_equal(weights, even), "weights count"


def test_every_training_of_every_arm_takes_as_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    known = cnn.pace
    monkeypatch.setattr(cnn, "pace", lambda step, steps: taken.append(step) or known(step, steps))
    given = inputs()
    predict(given, trainings(given, 0, 1), tmp_path, steps=7)
    assert taken == list(range(7)) * 3


def test_seeds_differ_and_the_same_training_gives_the_same_numbers_beside_others(tmp_path: Path) -> None:
    given, seeds = inputs(), (1, 2, 1, 3)
    planned = [training(list(range(40)), seed=seed) for seed in seeds]
    before = torch.get_num_threads()
    apart = [predict(given, [each], tmp_path / f"{at}", steps=8)[0].scores for at, each in enumerate(planned)]
    beside = [each.scores for each in predict(given, planned, tmp_path / "beside", steps=8, threads=3)]
    assert all(np.array_equal(one, other) for one, other in zip(apart, beside, strict=True))
    assert np.array_equal(apart[0], apart[2]) and not np.array_equal(apart[0], apart[1])
    assert torch.get_num_threads() == before


def test_a_finished_training_is_not_made_again_and_another_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, made = inputs(), []
    known = cnn._train
    monkeypatch.setattr(cnn, "_train", lambda *given: made.append(given[1].seed) or known(*given))
    planned = [training(list(range(40)), seed=seed) for seed in (1, 2, 3)]
    trainer = CnnTrainer(dataclasses.replace(QUICK, steps=4))
    started = trainer.predict(given, planned, tmp_path)
    first = next(started)
    started.close()
    assert made == [1]
    again = list(trainer.predict(given, planned, tmp_path))
    assert made == [1, 2, 3]
    assert np.array_equal(again[0].scores, first.scores) and np.array_equal(again[0].target, first.target)
    predict(given, planned[:1], tmp_path, steps=4, threads=2)
    assert made == [1, 2, 3], "how many train at once changes nothing"
    predict(given, planned[:1], tmp_path, steps=5)
    predict(dataclasses.replace(given, evaluation=given.evaluation.slice(1)), planned[:1], tmp_path, steps=4)
    assert made == [1, 2, 3, 1, 1]


def test_a_grey_picture_is_one_plane_and_a_coloured_one_three(tmp_path: Path) -> None:
    given = inputs()
    assert cnn._Views(given, 16).train.shape == (48, 3, 16, 16)
    grey = [value(file_of(drawn(at, at % 2, (16, 16), 1))) for at in range(40)]
    real = given.real.set_column(2, given.real.schema.field(2), pa.array(grey, given.real.schema.field(2).type))
    assert cnn._Views(dataclasses.replace(given, real=real), 16).train.shape == (48, 1, 16, 16)
