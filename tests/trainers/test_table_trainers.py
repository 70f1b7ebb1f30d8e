"""The trainers `boosting` and `linear`: rows that are not text alone, labels and numbers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from augmill.tasks.contracts import Judged
from augmill.tasks.gate.evidence import trainings
from augmill.tasks.metrics import METRICS
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.trainers import TRAINERS, Prediction, TrainerInputs, Training
from augmill.tasks.trainers.boosting import BoostingOptions
from augmill.tasks.trainers.linear import LinearOptions

FIELDS = ("number:size", "number:age", "category:colour", "timestamp:day")
NAMES = ("boosting", "linear")
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def table(prefix: str, count: int, seed: int, task: str) -> pa.Table:
    """``size`` and a red ``colour`` tell the label and the target; ``age`` has gaps and tells nothing, nor does ``day``."""
    rng = np.random.default_rng(seed)
    size, red = rng.normal(size=count), rng.random(count) < 0.4
    worth = 2 * size + 2 * red + rng.normal(size=count) / 2
    problem = PROBLEMS[task]
    cells: dict[str, Any] = {
        "row_id": [f"{prefix}{at:04d}" for at in range(count)],
        "stratum": ["high" if each > 0.5 else "low" for each in worth],
        "number:size": size,
        "number:age": pa.array(rng.random(count), mask=rng.random(count) < 0.2),
        "category:colour": ["Red" if each else str(rng.choice(["blue", "green"])) for each in red],
        "timestamp:day": [FIRST + timedelta(days=int(day)) for day in rng.integers(0, 300, count)],
    }
    if problem.target is not None:
        target = pa.array(100 + 10 * worth)
        fitted = {"edges": [90.0, 110.0]}
        cells |= {"target": target, "stratum": problem.stratum(target, fitted)}
    schema = real_schema(FIELDS, problem.target)
    return pa.table({name: cells[name] for name in schema.names}, schema=schema)


def parented(rows: pa.Table, parents: list[list[str]] | None = None) -> pa.Table:
    return rows.append_column("parent_ids", pa.array(parents or [[]] * rows.num_rows, pa.list_(pa.string())))


def inputs(task: str = "classification", train: int = 150, made: int = 60) -> TrainerInputs:
    real, held = table("r", train, 0, task), table("v", 300, 2, task)
    classes = () if PROBLEMS[task].target is not None else ("high", "low", "unseen")
    made_rows = parented(table("s", made, 1, task))
    return TrainerInputs(real, made_rows, held.select(["row_id", *FIELDS]), FIELDS, PROBLEMS[task], classes)


def held_truth(task: str) -> Any:
    held = table("v", 300, 2, task)
    return held["target"].to_numpy() if task == "regression" else np.array(held["stratum"].to_pylist())


def predict(name: str, given: TrainerInputs, planned: list[Training], **options: Any) -> list[Prediction]:
    return list(TRAINERS[name](TRAINERS[name].Options(**options)).predict(given, planned, Path()))


def said(found: Prediction) -> tuple[bytes, bytes, dict[str, Any]]:
    return found.target.tobytes(), b"" if found.scores is None else found.scores.tobytes(), found.chosen


@pytest.mark.parametrize("name", NAMES)
def test_labels_of_tables_are_learnt_and_scores_rank_the_rows(name: str) -> None:
    given, truth = inputs(), held_truth("classification")
    for found in predict(name, given, trainings(given, 3, 1)):
        assert np.mean(np.array(given.classes)[found.target] == truth) > 0.85
        places = np.array([given.classes.index(label) for label in truth])
        judged = Judged(places, found.target, found.scores, np.arange(300), 300, given.classes)
        auc = METRICS["auc"]
        assert auc.values(auc.prepare(judged), np.ones((1, 300), np.float32))[0] > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_learnt(name: str) -> None:
    given, truth = inputs("regression"), held_truth("regression")
    for found in predict(name, given, trainings(given, 3, 1)):
        assert found.scores is None and found.target.dtype == np.float64
        assert np.abs(found.target - truth).mean() < 0.5 * np.abs(truth - truth.mean()).mean()


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("name", NAMES)
def test_no_byte_hangs_on_how_many_trainings_run_at_a_time_or_in_which_order(name: str, task: str) -> None:
    given = inputs(task)
    planned = trainings(given, 3, 2)
    alone = [said(found) for found in predict(name, given, planned, threads=1)]
    assert alone == [said(found) for found in predict(name, given, planned, threads=3)]
    assert alone[::-1] == [said(found) for found in predict(name, given, planned[::-1], threads=2)]
    assert alone[2] == said(predict(name, given, planned[2:3])[0])
    with_first = zip(planned[:3], planned[3:], strict=True)
    assert alone[3:] == [said(predict(name, given, [*pair])[1]) for pair in with_first]


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_three_is_three_copies_and_only_shares_of_the_weight_count(name: str, task: str) -> None:
    given = inputs(task)
    base = np.arange(given.real.num_rows)
    weights = np.where(base < 40, 3.0, 1.0)
    weighed = Training("mix", 0, 7, base, weights)
    copied = replace(weighed, rows=np.repeat(base, weights.astype(int)), weights=np.ones(int(weights.sum())))
    heavier = replace(weighed, weights=4 * weights)
    plain = replace(weighed, weights=np.ones(len(base)))
    one, two, four, other = (said(found) for found in predict(name, given, [weighed, copied, heavier, plain]))
    assert one == two == four != other


@pytest.mark.parametrize("name", NAMES)
def test_a_class_that_no_training_row_has_is_never_predicted_and_ranks_last(name: str) -> None:
    given = inputs()
    (found,) = predict(name, given, [training for training in trainings(given, 3, 1) if training.arm == "real"])
    place = given.classes.index("unseen")
    assert found.scores is not None and np.isneginf(found.scores[:, place]).all()
    assert np.isfinite(np.delete(found.scores, place, axis=1)).all() and place not in found.target


@pytest.mark.parametrize("name", NAMES)
def test_a_training_of_one_class_predicts_it(name: str) -> None:
    given = inputs()
    rows = np.array([at for at, stratum in enumerate(given.real["stratum"].to_pylist()) if stratum == "low"])
    (found,) = predict(name, given, [Training("real", 0, 7, rows, np.ones(len(rows)))])
    assert set(found.target.tolist()) == {given.classes.index("low")}
    assert not np.isnan(found.scores).any()


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("name", NAMES)
def test_missing_and_new_values_are_no_obstacle(name: str, task: str) -> None:
    """A column without any value, one with the same everywhere, and held-out rows that have nothing train has."""
    given = inputs(task)
    nothing = pa.nulls(given.real.num_rows, pa.float64())
    at = given.real.column_names.index("number:age")
    real = given.real.set_column(at, "number:age", nothing).set_column(
        at + 1, "category:colour", pa.array(["red"] * given.real.num_rows)
    )
    columns = {"row_id": given.evaluation["row_id"]}
    columns |= {field: pa.nulls(300, given.evaluation[field].type) for field in FIELDS}
    columns["category:colour"] = pa.array(["violet", None] * 150)
    changed = replace(given, real=real, evaluation=pa.table(columns))
    for found in predict(name, changed, trainings(changed, 3, 1)):
        assert np.isfinite(found.target).all() and len(set(found.target.tolist())) <= 2


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_copies_of_held_rows_do_not_help_to_choose(name: str, named: bool) -> None:
    """With labels drawn at random, only a copy in the fold's training can tell a held row's label."""
    given = inputs(train=200)
    labels = pa.array(np.random.default_rng(1).choice(["high", "low"], 200))
    real = given.real.set_column(given.real.column_names.index("stratum"), "stratum", labels)
    ids = real["row_id"].to_pylist()
    made = parented(
        real.set_column(real.column_names.index("row_id"), "row_id", pa.array([f"s{each}" for each in ids])),
        [[each] if named else [] for each in ids],
    )
    given = replace(given, real=real, synthetic=made)
    whole = Training("mix", 0, 7, np.arange(400), np.ones(400))
    (found,) = predict(name, given, [whole])
    if name == "boosting":
        assert found.chosen["cv_log_loss"] > 0.65 and found.chosen["trees"] < 30
    else:
        assert found.chosen["cv_accuracy"] < 0.62


def test_few_rows_get_few_trees_and_without_folds_there_is_no_choice() -> None:
    given = inputs(train=60)
    planned = trainings(given, 3, 1)[:1]
    (chosen,), (all_of_them,) = predict("boosting", given, planned), predict("boosting", given, planned, folds=0)
    trees = chosen.chosen["trees"]
    assert trees < 200 and all_of_them.chosen == {"trees": 200}
    (as_many,) = predict("boosting", given, planned, folds=0, iterations=trees)
    assert said(as_many)[:2] == said(chosen)[:2] != said(all_of_them)[:2]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_linear_predicts_as_scikit_learn_does_on_the_same_features(task: str) -> None:
    from sklearn.linear_model import LogisticRegression, Ridge

    from augmill.tasks.rows.kinds import KINDS

    given = inputs(task)
    (found,) = predict("linear", given, trainings(given, 3, 1)[:1], cs=(0.5,))
    learnt = KINDS["number"].features(given.real.select(list(FIELDS)))
    train, held = (learnt.transform(rows.select(list(FIELDS))) for rows in (given.real, given.evaluation))
    if task == "classification":
        model = LogisticRegression(C=0.5, max_iter=10_000, tol=1e-8).fit(train, given.real["stratum"].to_pylist())
        assert np.mean(model.predict(held) == np.array(given.classes)[found.target]) >= 0.99
    else:
        values = given.real["target"].to_numpy()
        model = Ridge(alpha=2.0).fit(train, values)
        assert np.allclose(model.predict(held), found.target, rtol=1e-3)


def mixed(task: str) -> TrainerInputs:
    """A word tells half of what there is to know, a number the other half."""
    rng = np.random.default_rng(5)

    def rows(prefix: str, count: int) -> pa.Table:
        good, size = rng.random(count) < 0.5, rng.normal(size=count)
        words = rng.choice(["the parcel", "this order", "my card"], count)
        texts = [f"{word} is {'fine' if each else 'broken'}" for word, each in zip(words, good, strict=True)]
        worth = 2.0 * good - 1 + size
        made = {"row_id": [f"{prefix}{at}" for at in range(count)], "stratum": np.where(worth > 0, "a", "b")}
        made |= {"target": worth} if task == "regression" else {}
        return pa.table(made | {"text": texts, "number:size": size})

    real, made, held = rows("r", 120), parented(rows("s", 30)), rows("v", 200)
    classes = ("a", "b") if task == "classification" else ()
    return TrainerInputs(real, made, held, ("text", "number:size"), PROBLEMS[task], classes)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_texts_and_tables_are_learnt_together(task: str) -> None:
    given = mixed(task)
    for found in predict("linear", given, trainings(given, 3, 1)):
        if task == "classification":
            truth = np.array([given.classes.index(label) for label in given.evaluation["stratum"].to_pylist()])
            assert np.mean(found.target == truth) > 0.9
        else:
            assert np.abs(found.target - given.evaluation["target"].to_numpy()).mean() < 0.35


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        *((BoostingOptions, {name: 0}) for name in ("iterations", "learning_rate", "leaves")),
        *((BoostingOptions, wrong) for wrong in ({"folds": 1}, {"l2": -1.0}, {"l2": float("inf")}, {"threads": -1})),
        *((LinearOptions, wrong) for wrong in ({"cs": ()}, {"cs": (0.0,)}, {"folds": 1}, {"threads": 300})),
    ],
)
def test_options_out_of_bounds_are_refused(options: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        options(**wrong)
