"""The same gate for numbers, for scores, for units of several rows, and for trainers that take no weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import bench_gate
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.contracts import Judged
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.gate import judge as gate
from augmill.tasks.gate.evidence import ARMS, Predictions, trainings
from augmill.tasks.gate.gauge import POINTS, Gauge
from augmill.tasks.gate.interval import Interval
from augmill.tasks.gate.judge import GateOptions, Question, evaluate, pool
from augmill.tasks.gate.verdict import Gains, Rule, decide, explain, headline, proven, sight, true_effect
from augmill.tasks.metrics import METRICS
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.problems.classification import Classification
from augmill.tasks.report import render_report, report_markdown, report_table
from augmill.tasks.trainers import Prediction, TfidfOptions, TfidfTrainer, Trainer, TrainerInputs, Training

NUMBERS, LABELS = PROBLEMS["regression"], PROBLEMS["classification"]
PRICE = Question(NUMBERS, ("text",), "price")
QUICK = GateOptions(seeds=6, resamples=300)


class Slope(Trainer):
    """A line through the first word, which is a number."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[Any]] = type(None)
    problems: ClassVar[tuple[str, ...]] = ("regression",)

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        assert inputs.classes == () and inputs.evaluation.column_names == ["row_id", "text"]
        tables = [
            np.array([float(text) for text in part["text"].to_pylist()]) for part in (inputs.real, inputs.synthetic)
        ]
        inside, held = np.concatenate(tables), np.array([float(text) for text in inputs.evaluation["text"].to_pylist()])
        target = np.concatenate([part["target"].to_numpy() for part in (inputs.real, inputs.synthetic)])
        for training in trainings:
            slope, start = np.polyfit(inside[training.rows], target[training.rows], 1, w=np.sqrt(training.weights))
            yield Prediction(slope * held + start, chosen={"slope": round(float(slope), 6)})


def numbers(prefix: str, count: int, seed: int, noise: float = 3.0, scale: float = 1.0) -> pa.Table:
    rng = np.random.default_rng(seed)
    found = np.round(rng.uniform(0, 10, count), 3)
    target = scale * (2 * found + noise * rng.normal(size=count))
    strata = NUMBERS.stratum(pa.array(target), {"edges": [5.0 * scale, 15.0 * scale]})
    columns = {"row_id": [f"{prefix}{at:04d}" for at in range(count)], "stratum": strata, "target": target}
    return pa.table({**columns, "text": [str(value) for value in found]})


def made(table: pa.Table) -> pa.Table:
    return table.append_column("parent_ids", pa.array([[]] * len(table), pa.list_(pa.string())))


def judge_numbers(synthetic: pa.Table, options: GateOptions = QUICK, **more: Any) -> Any:
    real, held = more.pop("real", numbers("r", 6, 1, noise=12)), more.pop("held", numbers("v", 200, 2, noise=0.5))
    return evaluate(real, made(synthetic), held, Slope(None), options, PRICE, seed=1, workdir=Path(), **more)


def test_a_gain_in_error_is_positive_and_in_the_targets_unit() -> None:
    found = judge_numbers(numbers("s", 200, 7), test=numbers("t", 200, 3, noise=0.5))
    arms, gain = found["validation"]["arms"], found["validation"]["comparisons"]["mix-real"]["gains"]["mae"]
    assert found["verdict"] == "published" and found["judged_by"] == "mae" and found["unit"] == "price"
    assert arms["mix"]["mae"] < arms["real"]["mae"]
    assert gain["gain"] == pytest.approx(arms["real"]["mae"] - arms["mix"]["mae"], rel=1e-4) and gain["low"] > 0
    assert found["metrics"]["mae"] == {"name": "mae", "title": "MAE", "better": "less", "scale": 1.0, "unit": "price"}
    assert found["metrics"]["r2"]["unit"] == "points" and set(found["metrics"]) == {"mae", "rmse", "r2"}
    assert "price (MAE; +" in found["reason"] and found["reason"].startswith(
        "The mix is proven to gain more than 0 price (MAE)"
    )
    assert headline(found["verdict"], found) == "The synthetic rows help: a gain is proven."


def test_numbers_that_mislead_are_harmful_and_the_words_say_so() -> None:
    worse = numbers("s", 300, 7)
    worse = worse.set_column(2, "target", pa.array(20 - worse["target"].to_numpy()))
    found = judge_numbers(worse, real=numbers("r", 60, 1))
    assert (
        found["verdict"] == "harmful" and "proven to lose: against the real rows alone the gain is -" in found["reason"]
    )


@given(st.sampled_from([1e-6, 0.01, 1.0, 1e5]))
def test_a_verdict_does_not_hang_on_the_unit_of_the_target(scale: float) -> None:
    plain, scaled = (
        judge_numbers(
            numbers("s", 60, 7, scale=by), real=numbers("r", 12, 1, scale=by), held=numbers("v", 80, 2, scale=by)
        )
        for by in (1.0, scale)
    )
    assert plain["verdict"] == scaled["verdict"] and plain["rows_needed"] == scaled["rows_needed"]
    for pair in ("mix-real", "mix-placebo"):
        one, other = (found["validation"]["comparisons"][pair]["gains"]["mae"] for found in (plain, scaled))
        assert other["gain"] == pytest.approx(scale * one["gain"], rel=1e-4)
        assert other["low"] == pytest.approx(scale * one["low"], rel=1e-4)


def test_a_stratum_of_numbers_has_the_problems_own_metric() -> None:
    found = judge_numbers(numbers("s", 60, 7))
    rows = found["validation"]["arms"]["mix"]["per_class"]
    assert [set(row) for row in rows] == [{"label", "n", "mae"}] * 3 and found["stratum"] == "bin"
    gains = found["validation"]["comparisons"]["mix-real"]["per_class"]
    before = found["validation"]["arms"]["real"]["per_class"]
    for row, old, gain in zip(rows, before, gains, strict=True):
        assert gain["judged"] == (row["n"] >= 20)
        assert not gain["judged"] or gain["gain"] == pytest.approx(old["mae"] - row["mae"], rel=1e-4)
    json.dumps(found, allow_nan=False)


def test_min_gain_and_margin_are_in_the_metrics_unit() -> None:
    rows = numbers("s", 200, 7)
    assert judge_numbers(rows, replace(QUICK, min_gain=100.0))["verdict"] != "published"
    lax = judge_numbers(numbers("s", 6, 8), replace(QUICK, rule="not_worse", margin=5.0))
    assert lax["verdict"] == "published" and "lose at most 5" in lax["reason"]
    points = judge_numbers(rows, replace(QUICK, metric="r2", min_gain=0.5))
    assert points["unit"] == "points" and points["options"]["margin"] == 0.5


@pytest.mark.parametrize(
    ("problem", "options", "said"),
    [
        (
            LABELS,
            {"metric": "mae"},
            r"gate.metric: classification is judged by accuracy, [^;]*; mae is for regression$",
        ),
        (LABELS, {"metric": "acuracy"}, r"gate.metric: .*did you mean 'accuracy'"),
        (LABELS, {"min_gain": 101.0}, r"gate.min_gain: expected between 0 and 100 points"),
        (NUMBERS, {"focus": ("a",)}, r"gate.focus: regression has no labels"),
        (
            NUMBERS,
            {"rule": "not_worse"},
            r"gate.margin: expected for the rule not_worse, since mae is in the target's own unit",
        ),
    ],
)
def test_options_that_do_not_fit_the_problem_are_refused(problem: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GateOptions(**options).resolved(problem)


def test_options_resolve_to_what_they_were() -> None:
    plain = GateOptions().resolved(LABELS)
    assert (plain.metric, plain.margin) == ("accuracy", 0.5) and plain.resolved(LABELS) == plain
    assert GateOptions().resolved(NUMBERS).metric == "mae" and GateOptions().resolved(NUMBERS).margin is None
    assert GateOptions(min_gain=5000.0).resolved(NUMBERS).min_gain == 5000


# --- Scores -----------------------------------------------------------------------------------------------------------


def labelled(prefix: str, count: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    labels = ["ab"[at % 3 == 0] for at in range(count)]
    words = {"a": ["left", "port", "low"], "b": ["right", "starboard", "high"]}
    texts = [
        " ".join(rng.choice([*words[label], "ship", "sea", "deck", *words["ab"[label == "a"]][:1]], 4))
        for label in labels
    ]
    return pa.table({"row_id": [f"{prefix}{at:03d}" for at in range(count)], "stratum": labels, "text": texts})


@pytest.mark.parametrize("metric", ["auc", "average_precision"])
def test_scores_of_the_built_in_trainer_are_ranked(metric: str) -> None:
    options, question = replace(QUICK, metric=metric), Question(LABELS, ("text",))
    tables = (labelled("r", 10, 1), made(labelled("s", 60, 2)), labelled("v", 150, 3))
    found = evaluate(*tables, TfidfTrainer(TfidfOptions(cs=(10.0,))), options, question, seed=1, workdir=Path())
    scores = {arm: found["validation"]["arms"][arm] for arm in ARMS}
    assert found["judged_by"] == metric and found["unit"] == "points"
    assert all(50 < scores[arm][metric] <= 100 for arm in ARMS) and scores["mix"][metric] > scores["real"][metric]
    assert set(found["validation"]["comparisons"]["mix-real"]["gains"]) == {"accuracy", "macro_f1", metric}


class Silent(TfidfTrainer):
    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        yield from (replace(found, scores=None) for found in super().predict(inputs, trainings, workdir))


def test_a_metric_of_scores_refuses_a_trainer_that_gives_none() -> None:
    options, question = replace(QUICK, metric="auc"), Question(LABELS, ("text",))
    tables = (labelled("r", 10, 1), made(labelled("s", 6, 2)), labelled("v", 20, 3))
    with pytest.raises(UserError, match="gives no scores"):
        evaluate(*tables, Silent(TfidfOptions()), options, question, seed=1, workdir=Path())


def test_rows_that_say_nothing_of_the_metric_are_refused() -> None:
    options, question = replace(QUICK, metric="auc"), Question(LABELS, ("text",))
    held = labelled("v", 30, 3)
    held = held.filter(pa.compute.equal(held["stratum"], "a"))
    with pytest.raises(DataError, match="AUC says nothing of these 20 held-out rows"):
        evaluate(
            labelled("r", 10, 1), made(labelled("s", 6, 2)), held, TfidfTrainer(TfidfOptions()), options, question,
            seed=1, workdir=Path(),
        )  # fmt: skip


@pytest.mark.parametrize("question", [PRICE, Question(LABELS, ("text",))])
def test_predictions_travel_as_a_table_and_pool_over_folds(question: Question) -> None:
    tables = (
        [numbers(prefix, 30, at) for at, prefix in enumerate("rsvw")]
        if question is PRICE
        else [labelled(prefix, 30, at) for at, prefix in enumerate("rsvw")]
    )
    trainer: Trainer = Slope(None) if question is PRICE else TfidfTrainer(TfidfOptions(cs=(10.0,)))
    parts = gate.predict(
        tables[0], made(tables[1]), tables[2:], trainer, question,
        runs=2, seed=1, workdir=Path(), scores=question is not PRICE,
    )  # fmt: skip
    for part in parts:
        again = Predictions.from_table(part.to_table(), json.loads(json.dumps(part.about())))
        assert again.to_table().equals(part.to_table()) and again.strata == part.strata
    whole = pool(parts)
    assert len(whole.stratum) == 60 and whole.judged("mix")[0].count == 60
    # As if the folds' rows had been judged together by these trainings.
    for name in ("mae",) if question is PRICE else ("accuracy", "auc"):
        values = [
            METRICS[name].values(METRICS[name].prepare(run), np.ones((1, 60), np.float32))[0]
            for run in whole.judged("mix")
        ]
        truth = np.concatenate([part.truth for part in parts])
        told = np.concatenate([part.arms["mix"] for part in parts], axis=1)
        if name == "mae":
            assert values == pytest.approx(np.abs(told - truth).mean(axis=1))
        elif name == "accuracy":
            assert values == pytest.approx((told == truth).mean(axis=1))
        else:
            assert all(0.4 < value <= 1 for value in values)


class Ways(Classification):
    """A word, to be found among several answers."""

    target: ClassVar[pa.DataType | None] = pa.string()
    answer: ClassVar[pa.DataType | None] = pa.list_(pa.string())

    def lacks(self, train: pa.Table) -> None:
        return None


class Guess(Trainer):
    """The commonest words, or what it was given."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[Any]] = type(None)

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        for _ in trainings:
            found = np.empty(inputs.evaluation.num_rows, dtype=object)
            found[:] = [["b"], [], ["a", "c"]] * (len(found) // 3) if self.options is None else self.options
            yield Prediction(found)


def words(prefix: str, count: int = 6) -> pa.Table:
    columns = {"row_id": [f"{prefix}{at}" for at in range(count)], "stratum": ["all"] * count}
    return pa.table({**columns, "target": ["a", "b", "c"] * (count // 3), "text": ["x"] * count})


def test_answers_that_are_no_numbers_travel_as_a_table_and_pool_over_folds() -> None:
    question = Question(Ways(), ("text",), "word")
    tables = [words("r"), made(words("s")), [words("v"), words("w", 3)]]
    parts = gate.predict(*tables, Guess(None), question, runs=2, seed=1, workdir=Path())
    for part in parts:
        again = Predictions.from_table(part.to_table(), json.loads(json.dumps(part.about())))
        assert again.to_table().equals(part.to_table()) and again.judged("mix")[0].predicted.tolist()[1] == []
    whole = pool(parts)
    assert whole.to_table().schema.field("real.1").type == pa.list_(pa.string())
    assert whole.judged("real")[1].truth.tolist() == ["a", "b", "c"] * 3
    assert whole.judged("real")[1].predicted.tolist() == [["b"], [], ["a", "c"]] * 3
    for guess, said in [(3.5, "something else"), (["\ud800"], "something else"), (None, r"nothing for 9 row\(s\)")]:
        with pytest.raises(UserError, match=rf"expected the trainer to predict list<item: string>, found {said}"):
            gate.predict(*tables, Guess([guess] * 9), question, runs=2, seed=1, workdir=Path())


def test_a_fold_that_lacks_a_class_pools_with_one_that_has_it() -> None:
    def part(strata: tuple[str, ...], truth: list[int]) -> Predictions:
        scores = np.arange(3.0 * len(truth) * len(strata)).reshape(3, len(truth), len(strata))
        arms, chosen = dict.fromkeys(ARMS, np.array([truth] * 3)), dict.fromkeys(ARMS, [{}] * 3)
        return Predictions(strata, np.array(truth), arms, chosen, scores=dict.fromkeys(ARMS, scores))

    whole = pool([part(("a", "c"), [0, 1]), part(("a", "b", "c"), [1, 2])])
    assert whole.strata == ("a", "b", "c") and whole.stratum.tolist() == [0, 2, 1, 2]
    assert whole.arms["mix"][0].tolist() == [0, 2, 1, 2]
    assert whole.scores is not None and whole.scores["mix"].shape == (3, 4, 3)
    assert np.isneginf(whole.scores["mix"][0, :2, 1]).all() and np.isfinite(whole.scores["mix"][0, 2:]).all()


# --- Units, and trainers without weights ----------------------------------------------------------------------------------


class OfImages(Classification):
    """Several rows are of one image, whose name stands before the dash."""

    def units(self, rows: pa.Table) -> pa.Array:
        return pa.array([row_id.partition("-")[0] for row_id in rows["row_id"].to_pylist()])


def boxes(prefix: str, images: int, each: int) -> pa.Table:
    ids = [f"{prefix}{image}-{at}" for image in range(images) for at in range(each)]
    return pa.table({"row_id": ids, "stratum": ["ab"[at % 2] for at in range(len(ids))], "text": ids})


def test_the_rows_of_one_unit_are_drawn_and_judged_together() -> None:
    question = Question(OfImages(), ("text",))
    real, synthetic = boxes("r", 10, 2), made(boxes("s", 20, 2))
    inputs = TrainerInputs(real, synthetic, real, ("text",), question.problem, ("a", "b"))
    for training in trainings(inputs, 3, 4, ("mix",)):
        drawn = training.rows[training.rows >= 20] - 20
        names = [synthetic["row_id"][int(at)].as_py() for at in drawn]
        kept = {name.partition("-")[0] for name in names if name.endswith("0")}
        assert len(kept) == 16  # four fifths of the images, in each stratum those with the smallest draws
        assert kept == {name.partition("-")[0] for name in names if name.endswith("1")}
    (found,) = gate.predict(
        real,
        synthetic,
        [boxes("v", 15, 4)],
        TfidfTrainer(TfidfOptions(cs=(1.0,))),
        question,
        runs=3,
        seed=1,
        workdir=Path(),
    )
    judged = found.judged("mix")[0]
    assert judged.count == 15 and len(judged.units) == 60 and np.bincount(judged.units).tolist() == [4] * 15
    assert Predictions.from_table(found.to_table(), found.about()).units == found.units


@given(st.lists(st.floats(0.05, 3.0), min_size=1, max_size=40))
def test_copies_stand_as_often_as_the_weights_say(weights: list[float]) -> None:
    training = Training("mix", 0, 1, np.arange(len(weights)), np.array(weights))
    copied = training.copied()
    assert set(copied.weights) <= {1.0} and abs(len(copied.rows) - sum(weights)) <= 0.5 + 1e-6
    for row, weight in enumerate(weights):
        assert abs(np.count_nonzero(copied.rows == row) - weight) < 1
    merged = training.merged()
    assert merged.rows.tolist() == training.rows.tolist() and merged.weights == pytest.approx(weights)


def test_a_trainer_without_weights_gets_rows_as_copies() -> None:
    seen: list[Training] = []

    class Unweighted(Slope):
        weights: ClassVar[bool] = False

        def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
            seen.extend(trainings)
            return super().predict(inputs, trainings, workdir)

    evaluate(
        numbers("r", 20, 1), made(numbers("s", 50, 2)), numbers("v", 30, 3), Unweighted(None), QUICK, PRICE,
        seed=1, workdir=Path(),
    )  # fmt: skip
    for training in seen:
        assert set(training.weights) == {1.0}
        assert len(training.rows) == pytest.approx(20 if training.arm == "real" else 70, abs=1)


# --- The words -----------------------------------------------------------------------------------------------------------

MAE = Gauge.of(METRICS["mae"], "price")
UP, WIDE = Interval(0.42, 0.1, 0.74), Interval(-0.013, -0.06, 0.022)


def test_what_is_said_of_a_gain_in_another_unit() -> None:
    gains, rule = Gains(UP, UP, WIDE), Rule("superior", 0.05, 0, 0.95, MAE)
    assert decide(gains, rule) == "published"
    assert (
        proven("published", rule, gains) == "The synthetic rows help: a gain of more than 0.05 price (MAE) is proven."
    )
    assert (
        "the gain is +0.420 price (MAE; +0.100 to +0.740) on 500 held-out rows"
        in explain("published", "real", gains, rule, 500).reason
    )
    open_ = explain("inconclusive", "real", Gains(WIDE, WIDE, WIDE), rule, 500, 0.01, "bin").reason
    assert (
        "where a true gain of 0.121 price (MAE) would show" in open_
        and "For a true gain of 0.0600 price (MAE) it takes" in open_
    )
    assert explain("harmful", "placebo", Gains(WIDE, WIDE, UP), rule, 9, 0.01, "bin").reason.endswith(
        "Real rows repeated (or weighted) to the mix's bin counts are proven to beat them as they are."
    )
    lax = Rule("not_worse", 0, 0.05, 0.95, MAE)
    assert (
        sight(lax, -0.02)
        == "a mix with a true loss of 0.0200 price (MAE) would be proven to lose at most 0.05 price (MAE)"
    )
    assert true_effect(0.0, MAE) == "neither a true gain nor a true loss"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.4237, "0.424"), (0.42, "0.420"), (12.0, "12.0"), (12345.6, "12,346"), (0.00012345, "0.000123"), (0.0, "0.0")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert MAE.shown(value) == shown


def test_json_has_six_digits_of_a_unit_and_four_places_of_points() -> None:
    assert MAE.tidy(1234567.8) == 1234570.0 and MAE.tidy(0.000123456789) == 0.000123457
    assert POINTS.tidy(1.23456789) == 1.2346


def test_the_report_speaks_the_unit_and_the_word_of_the_problem() -> None:
    found = judge_numbers(numbers("s", 60, 7), test=numbers("t", 60, 3))
    strata = [row["label"] for row in found["validation"]["arms"]["mix"]["per_class"]]
    evidence: Any = {
        "dataset": "flats", "snapshot": "all", "outcome": found["verdict"], "reason": found["reason"], "gate": found,
        "released": "mix", "next_action": "Train.", "train": dict.fromkeys(strata, 2),
    }  # fmt: skip
    page, text, (row, *_) = render_report(evidence), report_markdown(evidence), report_table(evidence)
    gain = found["validation"]["comparisons"]["mix-real"]["gains"]["mae"]["gain"]
    for said in (page, text):
        assert "Gains in MAE, in the unit of price, on real rows" in said and "test MAE (price)" in said
        assert "Bin by bin" in said and "rarest bin first" in said and "gain in MAE" in said and "R²" in said
        assert f"{gain:+.2f}" in said
        assert not re.search(r"points|classes|recall|F1", re.sub(r"(?s)<style>.*</style>|<[^>]+>", "", said))
    assert {"mae_real", "mae_mix", "mae_gain", "mae_low", "mae_high_over_placebo"} <= set(row)


# --- How often what does not help is found to ------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["auc", "mae", "rmse"])
def test_arms_that_are_equally_good_are_told_apart_no_more_often_than_stated(metric: str) -> None:
    """5 % of 400 are 20; 32 come with a chance of half a percent. bench_gate prints the table."""
    assert bench_gate.simulate(metric, 400, 100, 3, 0.2) <= 32


def test_the_simulation_finds_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = bench_gate.arms_without_effect

    def helped(*args: Any) -> list[list[Judged]]:
        one, other = plain(*args)
        return [[replace(run, predicted=run.truth + 0.7 * (run.predicted - run.truth)) for run in one], other]

    monkeypatch.setattr(bench_gate, "arms_without_effect", helped)
    assert bench_gate.simulate("mae", 50, 150, 6, 0.2) > 40
