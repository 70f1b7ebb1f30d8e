"""Answers found again: the nearest row's, the heavier of equally near ones, whatever the order of the rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from augmill.tasks.problems import PROBLEMS
from augmill.tasks.trainers import TRAINERS, TrainerInputs, Training
from augmill.testing import TRAINER_LAWS, TrainerBench

FACTS = {"the old mill": "oak", "the north tower": "grey stone", "the ferry": "tin and rope", "the well": "brick"}
WAYS = ("what is {} made of", "tell me the material of {}", "of what did they build {}")


def rows(prefix: str, ways: tuple[str, ...]) -> pa.Table:
    pairs = [(way.format(thing), answer) for way in ways for thing, answer in FACTS.items()]
    columns = {"row_id": [f"{prefix}{at}" for at in range(len(pairs))], "stratum": ["1: all"] * len(pairs)}
    texts, answers = zip(*pairs, strict=True)
    return pa.table({**columns, "target": pa.array(answers, pa.large_string()), "text": list(texts)})


def inputs(real: pa.Table | None = None) -> TrainerInputs:
    made = rows("s", WAYS[1:2])
    made = made.append_column("parent_ids", pa.array([["r0"]] * len(made), pa.list_(pa.string())))
    held = rows("v", WAYS[2:]).select(["row_id", "text"])
    return TrainerInputs(rows("r", WAYS[:1]) if real is None else real, made, held, ("text",), PROBLEMS["text_to_text"])


def predict(given: TrainerInputs, rows: Any, weights: Any, **options: Any) -> list[str]:
    training = Training("mix", 0, 1, np.asarray(rows), np.asarray(weights, dtype=np.float64))
    trainer = TRAINERS["retrieval"](TRAINERS["retrieval"].Options(**options))
    (found,) = trainer.predict(given, [training], Path())
    return found.target.tolist()


@pytest.mark.parametrize("law", TRAINER_LAWS, ids=lambda law: law.__name__)
def test_it_keeps_the_laws_of_trainers(law: Callable[[TrainerBench], None], tmp_path: Path) -> None:
    law(TrainerBench(TRAINERS["retrieval"](TRAINERS["retrieval"].Options()), tmp_path, inputs=inputs()))


@pytest.mark.parametrize("neighbours", [1, 3, 20])
def test_a_question_in_other_words_finds_its_answer(neighbours: int) -> None:
    assert predict(inputs(), range(8), np.ones(8), neighbours=neighbours) == list(FACTS.values())


def test_only_rows_of_the_training_are_asked() -> None:
    assert set(predict(inputs(), [1, 5], [1, 1])) == {"grey stone"}


@pytest.mark.parametrize("neighbours", [1, 2])
def test_of_equally_near_rows_the_heaviest_answers_and_then_the_first_by_id(neighbours: int) -> None:
    real = pa.concat_tables([rows("r", WAYS[:1]), rows("a", WAYS[:1])])
    wrong = pa.array(["right"] * 4 + ["wrong"] * 4, pa.large_string())
    given = inputs(real.set_column(2, "target", wrong))
    assert set(predict(given, range(8), [1.0] * 4 + [0.9] * 4, neighbours=neighbours)) == {"right"}
    assert set(predict(given, range(8), [0.9] * 4 + [1.0] * 4, neighbours=neighbours)) == {"wrong"}
    assert set(predict(given, range(8), [1.0] * 8, neighbours=neighbours)) == {"wrong"}  # a0 before r0
