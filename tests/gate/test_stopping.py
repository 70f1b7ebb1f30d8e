"""A gate that ends early says what its runs show, rarely other than all runs would, and no more often what is false."""

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

from augmill.tasks.gate import judge as gate
from augmill.tasks.gate.evidence import ARMS, PAIRS, Predictions, Yardsticks, measure
from augmill.tasks.gate.interval import Replicates, Spread, by_run, interval, resample
from augmill.tasks.gate.judge import GateOptions, Question, evaluate
from augmill.tasks.gate.stopping import CERTAIN, FIRST, Look, standing
from augmill.tasks.gate.verdict import Rule
from augmill.tasks.metrics import METRICS
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.trainers import Prediction, Trainer, TrainerInputs, Training

LABELS = Question(PROBLEMS["classification"], ("text",), "label")
RULE = Rule("superior", 0.0, 0.5, 0.95)


class Counting(Trainer):
    """Right on most rows: of the mix on more, by ``ahead``, of some runs on a row or two more than of others."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[Any]] = float
    trained: ClassVar[list[tuple[str, int]]] = []
    closed: ClassVar[bool] = False

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        rows = inputs.evaluation.num_rows
        truth = np.array([inputs.classes.index(text) for text in inputs.evaluation["text"].to_pylist()])
        Counting.trained, Counting.closed = [], False
        try:
            for training in trainings:
                Counting.trained.append((training.arm, training.run))
                right = 0.6 + (self.options if training.arm == "mix" else 0.0)
                hard = np.random.default_rng(0).random(rows) + 0.002 * np.random.default_rng(training.seed).normal()
                yield Prediction(np.where(hard < right, truth, (truth + 1) % len(inputs.classes)))
        finally:
            Counting.closed = True


def rows(prefix: str, count: int) -> pa.Table:
    labels = [str(at % 4) for at in range(count)]
    return pa.table({"row_id": [f"{prefix}{at:04d}" for at in range(count)], "stratum": labels, "text": labels})


MADE = rows("s", 40).append_column("parent_ids", pa.array([[]] * 40, pa.list_(pa.string())))


def judge(ahead: float, **options: Any) -> Any:
    chosen = GateOptions(**{"seeds": 8, "resamples": 300} | options)
    return evaluate(
        rows("r", 40),
        MADE,
        rows("v", 300),
        Counting(ahead),
        chosen,
        LABELS,
        seed=1,
        workdir=Path(),
        test=rows("t", 200),
    )


@pytest.mark.parametrize(
    ("ahead", "verdict", "ended"),
    [(0.2, "published", "clear"), (-0.2, "harmful", "clear"), (0.0, "inconclusive", "hopeless")],
)
def test_a_gate_ends_where_the_rest_could_change_nothing_and_says_so(ahead: float, verdict: str, ended: str) -> None:
    found = judge(ahead)
    assert (found["verdict"], found["ended"], found["seeds_asked"]) == (verdict, ended, 8)
    assert FIRST <= found["seeds"] < 8
    assert f"ended after {found['seeds']} of 8 trainings of each arm" in found["reason"]
    assert len(Counting.trained) == 3 * found["seeds"] and Counting.closed
    assert len(found["validation"]["arms"]["mix"]["chosen"]) == found["seeds"]


def test_what_an_early_end_publishes_is_what_a_gate_of_so_many_runs_would() -> None:
    found = judge(0.2)
    asked = judge(0.2, seeds=found["seeds"], early=False)
    for split in ("validation", "test"):
        assert found[split] == asked[split]
    assert found["verdict"] == asked["verdict"] and found["best_real"] == asked["best_real"]


def test_without_early_and_at_the_last_run_nothing_is_said_of_an_end() -> None:
    found = judge(0.2, early=False)
    assert (found["seeds"], found["ended"]) == (8, None) and "ended" not in found["reason"]
    assert judge(0.2, seeds=3)["ended"] is None and len(Counting.trained) == 9


def test_under_not_worse_the_bar_is_the_margin() -> None:
    """Two arms that are alike: what is left is the doubt of two rows in 300, 0.78 points."""
    wide, narrow = (judge(0.0, rule="not_worse", margin=margin) for margin in (0.8, 0.7))
    assert (wide["verdict"], wide["ended"]) == ("published", "clear")
    assert (narrow["verdict"], narrow["ended"]) == ("inconclusive", "hopeless")


spreads = st.builds(
    lambda gain, rows, between, doubt, runs: Spread(
        gain, (rows + between) ** 0.5, (rows + between) ** 0.5, doubt, rows + between, between, runs
    ),
    st.floats(-10, 10),
    st.floats(1e-6, 4),
    st.floats(0, 4),
    st.floats(0, 1),
    st.integers(FIRST, 9),
)


@given(spreads, st.floats(-3, 3))
def test_what_is_proven_early_is_proven_by_the_interval_that_is_shown_and_what_is_hopeless_is_not(
    found: Spread, bar: float
) -> None:
    shown = found.low(found.quantile(1.6448536))
    claim = standing(found, bar, 10, 0.95)
    assert claim != "proven" or shown > bar
    assert claim != "hopeless" or shown <= bar + 1e-6
    # the more runs there are to come, the less is settled
    if standing(found, bar, 1000, 0.95) != "open":
        assert claim in ("proven", "hopeless")


@given(st.floats(0.1, 4), st.integers(FIRST, 9))
def test_a_claim_without_variance_between_runs_is_settled_at_the_first_look(rows: float, runs: int) -> None:
    for gain in (-1.0, 0.5, 1.7, 3.0):
        found = Spread(gain * rows**0.5, rows**0.5, rows**0.5, 0.0, rows, 0.0, runs)
        assert standing(found, 0.0, 10, 0.95) == ("proven" if gain > 1.645 else "hopeless")


def claim(gain: float, apart: float = 0.01) -> Spread:
    return Spread(gain, 1.0, 1.0, 0.0, 1.0, apart, 5)


UP, DOWN, NOTHING, CLOSE = claim(9.0), claim(-9.0), claim(0.0), claim(2.0, 0.5)


@pytest.mark.parametrize(
    ("look", "ended"),
    [
        (Look(UP, UP, CLOSE), "clear"),  # what is published hangs on no arm of real rows
        (Look(UP, CLOSE, NOTHING), None),
        (Look(UP, DOWN, NOTHING), "clear"),
        (Look(DOWN, UP, CLOSE), None),  # what is released instead is open
        (Look(NOTHING, NOTHING, NOTHING), "hopeless"),
        (Look(NOTHING, NOTHING, UP), "hopeless"),
        (Look(NOTHING, NOTHING, CLOSE), None),
        (Look(UP, UP, NOTHING, (NOTHING, NOTHING)), "clear"),
        (
            Look(UP, UP, NOTHING, (NOTHING, replace(CLOSE, gain=-2.0))),
            None,
        ),  # a loss over all labels is not out of reach
        (Look(UP, UP, NOTHING, (NOTHING, DOWN)), "clear"),
        (Look(NOTHING, NOTHING, NOTHING, (NOTHING, replace(CLOSE, gain=-2.0))), None),
    ],
)
def test_a_gate_ends_only_where_its_verdict_and_what_is_released_instead_stand(look: Look, ended: str | None) -> None:
    assert look.ending(10, RULE) == ended


def test_looks_one_by_one_find_what_a_single_look_finds() -> None:
    options = GateOptions(seeds=10, resamples=200).resolved(LABELS.problem)
    rng = np.random.default_rng(3)
    settled = 0
    for number in range(20):
        mix, placebo = bench_gate.arms_without_effect("accuracy", 100, 10, 0.1, rng, better=0.2)
        found = bench_gate.predictions(mix, placebo)
        going = gate.looks((), options, LABELS, number)
        assert going is not None
        for runs in range(1, 10):
            alone = gate.looks((), options, LABELS, number)
            assert alone is not None
            ended = going.ending(bench_gate.first_runs(found, runs))
            assert ended == alone.ending(bench_gate.first_runs(found, runs))
            settled += ended is not None
    assert 20 < settled < 140


def plain_measure(predictions: Predictions, by: Yardsticks, least: int, count: int, seed: int) -> dict[str, Any]:
    """Every resample of the rows at once, rows as they are, a stratum's rows alone: the definition."""
    judged = {arm: predictions.judged(arm) for arm in ARMS}
    drawn = resample(len(predictions.stratum), predictions.runs, count, seed)
    found: dict[str, Any] = {}

    def gains(metric: Any, of: dict[str, Any], units: Any) -> dict[str, Any]:
        made = {arm: Replicates.over(by_run(metric, runs, units), drawn.runs) for arm, runs in of.items()}
        steps = {arm: max(metric.one_unit(run) for run in runs) for arm, runs in of.items()}
        return {
            f"{a}-{b}": interval(
                made[a].values - made[b].values,
                made[a].runs - made[b].runs,
                0.95,
                max(steps[a], steps[b]),
                by.gauge(metric),
            ).to_json()
            for a, b in PAIRS
        }

    for name, metric in by.overall.items():
        found[name] = gains(metric, judged, drawn.units)
    for place in np.unique(predictions.stratum):
        at = np.flatnonzero(predictions.stratum == place)
        if len(at) >= least:
            of = {
                arm: [
                    replace(r, truth=r.truth[at], predicted=r.predicted[at], units=np.arange(len(at)), count=len(at))
                    for r in runs
                ]
                for arm, runs in judged.items()
            }
            found[predictions.strata[place]] = gains(by.stratum, of, drawn.units[:, at])
    return found


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 80), st.integers(1, 4), st.floats(0, 0.9))
def test_rows_folded_into_lines_measure_as_the_rows_do(
    seed: int, classes: int, count: int, runs: int, noise: float
) -> None:
    """Classes of one row, predictions of no class, all alike, none alike."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=count)
    steady = np.where(rng.random(count) < 0.7, truth, rng.integers(-1, classes, size=count))
    arms = {
        arm: np.where(rng.random((runs, count)) < noise, rng.integers(-1, classes, (runs, count)), steady)
        for arm in ARMS
    }
    predictions = Predictions(tuple(f"c{at}" for at in range(classes)), truth, arms, {arm: [{}] * runs for arm in ARMS})
    by = Yardsticks({n: METRICS[n] for n in ("accuracy", "macro_f1")}, {}, METRICS["accuracy"], None, "")
    measured = measure(predictions, by, confidence=0.95, min_rows_per_class=5, resamples=50, seed=seed)
    plain = plain_measure(predictions, by, 5, 50, seed)
    for pair, part in measured["comparisons"].items():
        for name in by.overall:
            assert part["gains"][name] == pytest.approx(plain[name][pair], abs=2e-4, nan_ok=True)
        for each in part["per_class"]:
            assert each["judged"] == (each["label"] in plain)
            if each["judged"]:
                assert {k: each[k] for k in ("gain", "low", "high")} == pytest.approx(
                    plain[each["label"]][pair], abs=2e-4
                )  # type: ignore[literal-required]


@pytest.mark.parametrize(
    ("held", "spread"),
    [(60, 0.1), pytest.param(400, 0.15, marks=pytest.mark.slow), pytest.param(400, 1.0, marks=pytest.mark.slow)],
)
def test_mixes_without_effect_are_found_better_early_no_more_often_than_stated(held: int, spread: float) -> None:
    """Three standard deviations of a count of 400 above (1 - confidence) / CERTAIN, since six counts are looked at, whose

    200 resamples are rough; and no more than 1 / CERTAIN times what all runs find, give or take three gates.
    """
    found = bench_gate.simulate_early("accuracy", 400, held, 10, spread)
    stated = 0.05 / CERTAIN
    most = 400 * stated + 3 * (400 * stated * (1 - stated)) ** 0.5
    for claim in ("better", "worse"):
        assert found[f"{claim} early"] <= min(most, found[f"{claim} all"] / CERTAIN + 3), found
    assert found["differ"] <= 12, found


def test_a_claim_that_other_runs_may_yet_reach_is_open() -> None:
    """A gain of 0.2 where runs make up nine tenths of a variance of 1: the runs to come may well bring 0.5."""
    assert standing(Spread(0.2, 1.0, 1.0, 0.0, 1.0, 0.9, 3), 0.0, 10, 0.95) == "open"
    assert standing(Spread(0.2, 1.0, 1.0, 0.0, 1.0, 0.001, 3), 0.0, 10, 0.95) == "hopeless"
