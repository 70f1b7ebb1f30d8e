"""The trainers `transitions` and `ease`: equal to their plain definitions, and never an item that the user has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from drawn_histories import HISTORY_FIELDS, users

from augmill.tasks.contracts import Judged
from augmill.tasks.gate.evidence import trainings
from augmill.tasks.metrics import METRICS
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.trainers import TRAINERS, Prediction, TrainerInputs, Training, ease
from augmill.testing import TRAINER_LAWS, TrainerBench

NAMES = ("transitions", "ease")


def rows(found: list[dict[str, Any]]) -> pa.Table:
    columns = {
        "row_id": [each["user"] for each in found],
        "stratum": ["1: all"] * len(found),
        "target": [each["next"] for each in found],
        HISTORY_FIELDS[0]: [each["history"] for each in found],
    }
    return pa.table(columns, schema=real_schema(HISTORY_FIELDS, pa.string()))


def inputs(
    train: list[dict[str, Any]], held: list[dict[str, Any]], made: list[dict[str, Any]] | None = None
) -> TrainerInputs:
    made = made or []
    parents = pa.array([["u000"]] * len(made), pa.list_(pa.string()))
    asked = rows(held).drop_columns(["stratum", "target"])
    return TrainerInputs(
        rows(train), rows(made).append_column("parent_ids", parents), asked, HISTORY_FIELDS, PROBLEMS["ranking"]
    )


USERS = inputs(users(60), users(40, 100), users(12, 200))


def training(count: int, weights: list[float] | None = None, rows: list[int] | None = None) -> Training:
    places = np.arange(count) if rows is None else np.array(rows)
    return Training("real", 0, 1, places, np.array(weights or [1.0] * len(places)))


def predict(name: str, given: TrainerInputs, how: Training, folder: Path, **options: Any) -> list[list[str]]:
    trainer = TRAINERS[name](TRAINERS[name].Options(**options))
    (found,) = trainer.predict(given, [how], folder)
    answers: list[list[str]] = found.target.tolist()
    return answers


def ndcg(answers: list[list[str]], held: list[dict[str, Any]]) -> float:
    truth = np.array([each["next"] for each in held], object)
    found = np.empty(len(answers), object)
    found[:] = answers
    judged = Judged(truth, found, None, np.arange(len(truth)), len(truth))
    metric = METRICS["ndcg"]
    return float(metric.values(metric.prepare(judged), np.ones((1, len(truth)), np.float32))[0])


@pytest.mark.parametrize("law", TRAINER_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_laws_of_trainers(law: Callable[[TrainerBench], None], name: str, tmp_path: Path) -> None:
    law(TrainerBench(TRAINERS[name](TRAINERS[name].Options()), tmp_path, inputs=USERS))


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_what_chance_does_not_know(name: str, tmp_path: Path) -> None:
    found = ndcg(predict(name, USERS, training(60), tmp_path, top=10), users(40, 100))
    assert found > {"transitions": 0.6, "ease": 0.4}[name]  # at random among 30 items 0.15


@pytest.mark.parametrize("name", NAMES)
def test_no_item_that_a_user_has_is_ranked_unless_items_repeat(name: str, tmp_path: Path) -> None:
    held = [set(each["history"]) for each in users(40, 100)]
    plain = predict(name, USERS, training(60), tmp_path, top=30)
    assert not any(own & set(ranked) for own, ranked in zip(held, plain, strict=True))
    assert all(len(ranked) == len(set(ranked)) == 30 - len(own) for own, ranked in zip(held, plain, strict=True))
    again = predict(name, USERS, training(60), tmp_path, top=30, repeats=True)
    assert all(len(ranked) == 30 for ranked in again)


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_two_is_a_row_twice_and_scale_counts_for_nothing(name: str, tmp_path: Path) -> None:
    weighed = training(60, [2.0 if at % 5 else 1.0 for at in range(60)])
    copied = training(60, rows=[*range(60), *(at for at in range(60) if at % 5)])
    tripled = dataclasses.replace(weighed, weights=weighed.weights * 3)
    first = predict(name, USERS, weighed, tmp_path)
    assert first == predict(name, USERS, copied, tmp_path) == predict(name, USERS, tripled, tmp_path)
    assert first != predict(name, USERS, training(60), tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_user_of_whom_nothing_is_known_gets_what_is_popular(name: str, tmp_path: Path) -> None:
    train = [{"user": f"u{at}", "history": ["a", "b"][: 1 + at % 2], "next": "c"} for at in range(9)]
    held = [{"user": "v", "history": ["never seen"], "next": "c"}]
    assert predict(name, inputs(train, held), training(9), tmp_path) == [["a", "c", "b"]]


def test_transitions_are_those_of_the_plain_definition(tmp_path: Path) -> None:
    train, held = users(30), users(10, 100)
    window, decay, popularity = 3, 0.7, 0.5
    counts: dict[str, dict[str, float]] = {}
    often: dict[str, int] = {}
    for each in train:
        items = [*each["history"], each["next"]]
        for at, item in enumerate(items):
            often[item] = often.get(item, 0) + 1
            for apart in range(1, window + 1):
                if at + apart < len(items):
                    own = counts.setdefault(item, {})
                    own[items[at + apart]] = own.get(items[at + apart], 0) + decay ** (apart - 1)
    wanted = []
    for each in held:
        scores = dict.fromkeys(often, 0.0)
        for age, item in enumerate(reversed(each["history"])):
            own = counts.get(item, {})
            for after, count in own.items():
                scores[after] += decay**age * count / sum(own.values()) ** popularity
        able = [item for item in scores if item not in each["history"]]
        wanted.append(sorted(able, key=lambda item: (-round(scores[item], 9), -often[item], item))[:5])
    found = predict("transitions", inputs(train, held), training(30), tmp_path, window=3, decay=0.7, top=5)
    assert found == wanted


def test_ease_is_the_same_by_users_as_by_items_and_solves_its_problem() -> None:
    """Least squares with the diagonal kept at zero: of every other item's column alone, by numpy (Steck, 2019)."""
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    held, train = (csr_matrix((rng.random((count, 8)) < 0.4).astype(float)) for count in (5, 20))
    weights, l2 = rng.uniform(0.5, 2, 20), 3.0
    weighed = train.multiply(np.sqrt(weights)[:, None]).tocsr()
    wanted = np.zeros((8, 8))
    dense = weighed.toarray()
    for item in range(8):
        others = [at for at in range(8) if at != item]
        part = dense[:, others]
        wanted[others, item] = np.linalg.solve(part.T @ part + l2 * np.eye(7), part.T @ dense[:, item])
    for how in (ease._by_items, ease._by_rows):
        project, diagonal = how(weighed, l2)
        scores = project(held) / -diagonal
        lacks = held.toarray() == 0
        assert scores[lacks] == pytest.approx((held @ wanted)[lacks])


def test_rare_items_beyond_the_bound_are_not_known(tmp_path: Path) -> None:
    found = predict("ease", USERS, training(60), tmp_path, max_items=5, top=30)
    assert len({item for ranked in found for item in ranked}) <= 5


def test_synthetic_rows_count_and_add_no_order(tmp_path: Path) -> None:
    both = list(
        TRAINERS["transitions"](TRAINERS["transitions"].Options()).predict(USERS, trainings(USERS, 0, 1), tmp_path)
    )
    assert all(isinstance(each, Prediction) for each in both)
    mix = training(72, rows=[*range(72)])
    assert predict("transitions", USERS, mix, tmp_path) != predict("transitions", USERS, training(60), tmp_path)


@pytest.mark.parametrize("options", [{"window": 0}, {"decay": 0.0}, {"popularity": 2.0}, {"top": 0}, {"threads": -1}])
def test_an_option_out_of_bounds_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"trainer\.transitions\.{next(iter(options))}"):
        TRAINERS["transitions"].Options(**options)
