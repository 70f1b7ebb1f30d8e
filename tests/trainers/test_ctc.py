"""The trainer `ctc`: it learns to write what is heard, in equal steps, alike whatever trains beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from toned import TONE_FIELDS, toned

from augmill.tasks.problems import PROBLEMS
from augmill.tasks.trainers import TrainerInputs, Training, ctc
from augmill.tasks.trainers.ctc import CtcOptions, CtcTrainer, make_network, read_greedily
from augmill.testing import TRAINER_LAWS, TrainerBench

QUICK = CtcOptions(width=24, steps=90, batch=8, learning_rate=0.02, threads=1)


def inputs(made: int = 4) -> TrainerInputs:
    parents = pa.array([["r0"]] * made, pa.list_(pa.string()))
    synthetic = toned("s", made, 200).append_column("parent_ids", parents)
    held = toned("v", 12, 100).select(["row_id", *TONE_FIELDS])
    return TrainerInputs(toned("r", 24, 0), synthetic, held, TONE_FIELDS, PROBLEMS["transcription"])


def training(rows: list[int], weights: list[float] | None = None, seed: int = 5) -> Training:
    return Training("real", 0, seed, np.array(rows), np.array(weights or [1.0] * len(rows)))


def predict(planned: list[Training], folder: Path, **options: int) -> list[list[str]]:
    trainer = CtcTrainer(dataclasses.replace(QUICK, **options))
    return [found.target.tolist() for found in trainer.predict(inputs(), planned, folder)]


@pytest.mark.parametrize("law", TRAINER_LAWS, ids=lambda law: law.__name__)
def test_it_keeps_the_laws_of_trainers(law: Callable[[TrainerBench], None], tmp_path: Path) -> None:
    law(TrainerBench(CtcTrainer(dataclasses.replace(QUICK, steps=3)), tmp_path, inputs=inputs()))


def test_it_writes_what_is_heard(tmp_path: Path) -> None:
    (found,) = predict([training(list(range(24)))], tmp_path)
    truth = toned("v", 12, 100)["target"].to_pylist()
    words = [
        (one, other)
        for said, heard in zip(truth, found, strict=True)
        for one, other in zip(said.split(), heard.split(), strict=False)
    ]
    assert np.mean([one == other for one, other in words]) > 0.8, list(zip(truth, found, strict=True))


def test_copies_are_weights_and_a_row_that_weighs_nothing_teaches_nothing(tmp_path: Path) -> None:
    rows = list(range(12))
    copies, weights, without, alone, even = predict(
        [
            training(rows + rows[:6]),
            training(rows, [2.0] * 6 + [1.0] * 6),
            training(rows, [0.0] * 6 + [1.0] * 6),
            training(rows[6:]),
            training(rows),
        ],
        tmp_path,
        steps=60,
    )
    assert copies == weights != even and without == alone


def test_a_training_gives_the_same_texts_beside_others_and_what_is_finished_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = [training(list(range(24)), seed=seed) for seed in (1, 2, 3)]
    before = torch.get_num_threads()
    apart = [predict([each], tmp_path / f"{at}", steps=40)[0] for at, each in enumerate(planned)]
    assert apart == predict(planned, tmp_path / "beside", steps=40, threads=3)
    assert torch.get_num_threads() == before
    monkeypatch.setattr(ctc, "_train", lambda *_: pytest.fail("trained again"))
    assert apart == predict(planned, tmp_path / "beside", steps=40)


def test_what_is_heard_in_a_row_does_not_hang_on_the_rows_beside_it() -> None:
    network = make_network(8, 5, 16, torch.Generator().manual_seed(1)).eval()
    torch.nn.init.normal_(network.last.weight, generator=torch.Generator().manual_seed(2))
    drawn = torch.randn((1, 8, 31), generator=torch.Generator().manual_seed(3))
    longer = torch.cat([torch.nn.functional.pad(drawn, (0, 20)), torch.randn(1, 8, 51)])
    alone, steps = network(drawn, torch.tensor([31]))
    beside, _ = network(longer, torch.tensor([31, 51]))
    assert torch.allclose(alone[0], beside[0, :, : int(steps[0])], atol=1e-5)


def test_equal_neighbours_are_one_sign_unless_a_blank_lies_between() -> None:
    assert read_greedily(np.array([0, 1, 1, 0, 1, 2, 2, 3, 3, 0, 3, 1]), ["a", "b", " "]) == "aab a"
    assert read_greedily(np.array([], np.int64), []) == ""
