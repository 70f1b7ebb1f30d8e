"""The gate publishes what helps, refuses what does not, and says how sure it is."""

import json
from pathlib import Path

import bench_gate
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.contracts import Judged
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.gate.evidence import Evidence
from augmill.tasks.gate.interval import Interval, Replicates, Resamples, by_run, interval, resample
from augmill.tasks.gate.judge import GateOptions, Question, evaluate
from augmill.tasks.gate.verdict import (
    Gains,
    Rule,
    best_real,
    decide,
    explain,
    half_width,
    rows_needed,
    smallest_visible_gain,
)
from augmill.tasks.metrics import METRICS
from augmill.tasks.metrics.classification import foresee_rows
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.trainers.tfidf import TfidfOptions, TfidfTrainer

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "nrst"]
OPTIONS = GateOptions(seeds=5, resamples=1000)
LABELS = Question(PROBLEMS["classification"], ("text",), "label")


def rows(prefix: str, count: int, seed: int, classes: int = 4) -> pa.Table:
    """Texts of 6 words; each is one of its class's own ten with probability 0.35."""
    rng = np.random.default_rng(seed)
    labels = [str(position % classes) for position in range(count)]
    own = {str(c): WORDS[10 * c : 10 * c + 10] for c in range(classes)}
    texts = [" ".join(rng.choice(own[label] if rng.random() < 0.35 else WORDS) for _ in range(6)) for label in labels]
    return pa.table({"row_id": [f"{prefix}{i:04d}" for i in range(count)], "stratum": labels, "text": texts})


def made(table: pa.Table, parents: list[list[str]] | None = None) -> pa.Table:
    return table.append_column("parent_ids", pa.array(parents or [[]] * len(table), pa.list_(pa.string())))


def copies(real: pa.Table, times: int) -> pa.Table:
    repeated = pa.concat_tables([real] * times)
    ids = pa.array([f"s{position:04d}" for position in range(len(repeated))])
    return made(repeated.set_column(0, "row_id", ids), [[row_id] for row_id in repeated["row_id"].to_pylist()])


REAL, HELD, TEST = rows("r", 32, 1), rows("v", 300, 2), rows("t", 300, 3)


def judge(synthetic: pa.Table, options: GateOptions = OPTIONS, real: pa.Table = REAL, **more: pa.Table) -> Evidence:
    return evaluate(
        real,
        synthetic,
        more.pop("held", HELD),
        TfidfTrainer(TfidfOptions()),
        options,
        LABELS,
        seed=1,
        workdir=Path(),
        **more,
    )


def test_rows_that_help_are_published_and_test_agrees() -> None:
    found = judge(made(rows("s", 240, 7)), test=TEST)
    assert found["verdict"] == "published" and found["rows_needed"] is None
    assert found["test"] is not None and found["test"]["comparisons"]["mix-real"]["gains"]["accuracy"]["low"] > 0


def test_shuffled_labels_are_harmful() -> None:
    synthetic = rows("s", 160, 7)
    labels = np.random.default_rng(0).permutation(synthetic["stratum"].to_pylist())
    found = judge(made(synthetic.set_column(1, "stratum", pa.array(labels.tolist()))))
    assert found["verdict"] == "harmful" and "proven to lose" in found["reason"]


def test_copies_of_train_rows_are_no_better_than_the_placebo() -> None:
    found = judge(copies(REAL, 3))
    gain = found["validation"]["comparisons"]["mix-placebo"]["gains"]["accuracy"]
    assert found["verdict"] == "inconclusive" and gain["low"] < 0 < gain["high"]
    assert found["best_real"] == "real" and (found["rows_needed"] or 0) > 300


def test_evidence_is_plain_json_and_hangs_on_no_order_of_rows() -> None:
    synthetic = made(rows("s", 40, 7))
    order = np.random.default_rng(0).permutation

    def shuffled(table: pa.Table) -> pa.Table:
        return table.take(order(len(table)))

    first = judge(synthetic, test=TEST)
    again = judge(shuffled(synthetic), real=shuffled(REAL), held=shuffled(HELD), test=shuffled(TEST))
    assert json.dumps(first, allow_nan=False) == json.dumps(again, allow_nan=False)


def test_the_test_split_decides_nothing() -> None:
    synthetic = made(rows("s", 40, 7))
    labels = TEST["stratum"].to_pylist()
    upside_down = TEST.set_column(1, "stratum", pa.array(labels[1:] + labels[:1]))
    with_test, with_other, without = judge(synthetic, test=TEST), judge(synthetic, test=upside_down), judge(synthetic)
    assert with_test["validation"] == with_other["validation"] == without["validation"]
    assert with_test["verdict"] == with_other["verdict"] == without["verdict"]
    assert with_test["test"] != with_other["test"] and without["test"] is None


def test_progress_counts_every_training() -> None:
    heard: list[tuple[int, int]] = []
    judge(made(rows("s", 20, 7)), GateOptions(seeds=3, resamples=200), progress=lambda *now: heard.append(now))  # type: ignore[arg-type]
    assert heard == [(done, 9) for done in range(1, 10)]


def test_a_class_with_few_held_out_rows_is_not_judged() -> None:
    few = pa.concat_tables([HELD.filter(pa.compute.not_equal(HELD["stratum"], "3")), HELD.filter(
        pa.compute.equal(HELD["stratum"], "3")).slice(0, 19)])  # fmt: skip
    found = judge(made(rows("s", 40, 7)), held=few)
    judged = {row["label"]: row for row in found["validation"]["comparisons"]["mix-real"]["per_class"]}
    assert [judged[label]["judged"] for label in "0123"] == [True, True, True, False]
    assert judged["3"]["n"] == 19 and judged["3"]["gain"] is None and judged["0"]["gain"] is not None


def test_what_cannot_be_judged_is_said() -> None:
    synthetic = made(rows("s", 40, 7))
    with pytest.raises(DataError, match="synthetic"):
        judge(synthetic.slice(0, 0))
    with pytest.raises(DataError, match="held-out"):
        judge(synthetic, held=HELD.slice(0, 0))
    with pytest.raises(DataError, match="at least two classes"):
        judge(synthetic, real=rows("r", 8, 1, classes=1))
    with pytest.raises(UserError, match="focus label"):
        judge(synthetic, GateOptions(seeds=3, resamples=200, focus=("9",)))


def test_focus_judges_the_f1_of_its_labels() -> None:
    found = judge(made(rows("s", 160, 7)), GateOptions(seeds=3, resamples=500, focus=("1",)))
    classes = {row["label"]: row for row in found["validation"]["arms"]["mix"]["per_class"]}
    assert found["judged_by"] == "focus_f1"
    assert found["validation"]["arms"]["mix"]["focus_f1"] == pytest.approx(classes["1"]["f1"])


UP, DOWN, WIDE, NONE = Interval(2, 1, 3), Interval(-2, -3, -1), Interval(0, -1, 1), Interval(0.1, -0.2, 0.4)


@pytest.mark.parametrize(
    ("real", "placebo", "guards", "rule", "verdict"),
    [
        (UP, UP, (), Rule("superior", 0, 0.5, 0.95), "published"),
        (UP, UP, (), Rule("superior", 1, 0.5, 0.95), "inconclusive"),  # the bound must exceed the bar, not reach it
        (UP, WIDE, (), Rule("superior", 0, 0.5, 0.95), "inconclusive"),
        (WIDE, UP, (), Rule("superior", 0, 0.5, 0.95), "inconclusive"),
        (UP, DOWN, (), Rule("superior", 0, 0.5, 0.95), "harmful"),
        (DOWN, UP, (), Rule("superior", 0, 0.5, 0.95), "harmful"),
        (NONE, NONE, (), Rule("superior", 0, 0.5, 0.95), "inconclusive"),
        (NONE, NONE, (), Rule("not_worse", 0, 0.5, 0.95), "published"),
        (NONE, WIDE, (), Rule("not_worse", 0, 0.5, 0.95), "inconclusive"),
        (DOWN, DOWN, (), Rule("not_worse", 0, 0.5, 0.95), "harmful"),
        (UP, UP, (WIDE, WIDE), Rule("superior", 0, 0.5, 0.95), "published"),
        (UP, UP, (WIDE, DOWN), Rule("superior", 0, 0.5, 0.95), "harmful"),
    ],
)
def test_verdicts(real: Interval, placebo: Interval, guards: tuple[Interval, ...], rule: Rule, verdict: str) -> None:
    assert decide(Gains(real, placebo, WIDE, guards), rule) == verdict


def test_an_inconclusive_gate_says_how_many_rows_it_takes_or_that_these_would_do() -> None:
    rule = Rule("superior", 0, 0.5, 0.95)
    hopeful, close = Interval(1, -1, 3), Interval(-0.2, -0.4, 0.1)
    wide = explain("inconclusive", "real", Gains(hopeful, hopeful, NONE), rule, 100)
    narrow = explain("inconclusive", "real", Gains(close, close, NONE), rule, 5000)
    # half a width of 2 points at 100 rows: 400 would halve it to the gain of 1, and power takes (1 + 0.84/1.64)^2 more
    assert wide.rows_needed == pytest.approx(400 * (1 + 0.8416 / 1.6449) ** 2, abs=1) and "915" in wide.reason
    assert narrow.rows_needed is None and "it takes" not in narrow.reason and "0.3 points would show" in narrow.reason


def test_the_placebo_must_be_proven_before_it_replaces_plain_rows() -> None:
    assert (best_real(UP), best_real(WIDE), best_real(DOWN)) == ("placebo", "real", "real")


def bounds(truth: np.ndarray, arm: np.ndarray, reference: np.ndarray, drawn: Resamples) -> dict[str, Interval]:
    classes = int(truth.max()) + 1
    names, units = tuple(map(str, range(classes))), np.arange(len(truth))
    found = {}
    for metric in (METRICS["accuracy"], METRICS["macro_f1"]):
        judged = [[Judged(truth, run, None, units, len(truth), names) for run in runs] for runs in (arm, reference)]
        a, b = (Replicates.over(by_run(metric, runs, drawn.units), drawn.runs) for runs in judged)
        found[metric.name] = interval(a.values - b.values, a.runs - b.runs, 0.95, metric.one_unit(judged[0][0]))
    return found


def generators_without_effect(count: int, held: int, runs: int, spread: float, seed: int):  # type: ignore[no-untyped-def]
    """(truth, mix, placebo) predictions of two arms that are equally good on the population of rows.

    A row is hard or easy (sd 1.5), an arm has luck with a row whatever the run (0.3), a run with all rows (spread) and
    with one row (0.3); right where the sum is positive.
    """
    rng = np.random.default_rng(seed)
    for _ in range(count):
        truth = rng.integers(4, size=held)
        base = 1 + 1.5 * rng.normal(size=held)
        arms = []
        for _ in range(2):
            score = base + 0.3 * rng.normal(size=held)
            score = score + spread * rng.normal(size=(runs, 1)) + 0.3 * rng.normal(size=(runs, held))
            arms.append(np.where(score > 0, truth, (truth + 1) % 4))
        yield truth, arms[0], arms[1]


@pytest.mark.parametrize(
    ("held", "runs", "spread"), [(150, 6, 0.2), pytest.param(400, 5, 0.15, marks=pytest.mark.slow)]
)
def test_a_thousand_generators_without_effect_are_published_no_more_often_than_stated(
    held: int, runs: int, spread: float
) -> None:
    """The worst case for the rule: real alone is far behind, so that the mix need only beat the placebo by luck."""
    drawn = resample(held, runs, 200, 0)
    lows = {"accuracy": 0, "macro_f1": 0}
    for truth, mix, placebo in generators_without_effect(1000, held, runs, spread, seed=1):
        for metric, found in bounds(truth, mix, placebo, drawn).items():
            lows[metric] += found.low > 0
    # 50 of 1,000 stated; 64 is two standard deviations of a count of 1,000 at 5 % above
    assert max(lows.values()) <= 64, lows


def test_an_interval_over_many_rows_is_as_wide_as_the_normal_one_for_paired_differences() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=2000)
    arms = [np.tile(np.where(rng.random(2000) < 0.8, truth, 1 - truth), (4, 1)) for _ in range(2)]
    difference = 1.0 * (arms[0][0] == truth) - (arms[1][0] == truth)
    found = bounds(truth, arms[0], arms[1], resample(2000, 4, 2000, 0))["accuracy"]
    assert (found.high - found.low) / 2 == pytest.approx(164.5 * difference.std() / 2000**0.5, rel=0.06)


def test_few_wins_are_no_proof_and_no_difference_is_no_certainty() -> None:
    truth = np.zeros(100, dtype=np.int64)
    truth[50:] = 1
    drawn = resample(100, 3, 1000, 0)
    same = np.tile(truth, (3, 1))

    def loses(count: int) -> np.ndarray:
        worse = same.copy()
        worse[:, :count] = 1 - worse[:, :count]
        return worse

    assert bounds(truth, same, loses(3), drawn)["accuracy"].low < 0  # sign test: p = 0.125
    assert bounds(truth, same, loses(8), drawn)["accuracy"].low > 0  # p = 0.004
    equal = bounds(truth, same, same, drawn)["accuracy"]
    assert equal.low < -1 and equal.high > 1


@pytest.mark.parametrize("runs", [2, 3, 10])
def test_the_variance_over_few_runs_is_unbiased(runs: int) -> None:
    """The mean of R runs varies by s^2 / R; with R draws of R runs it would seem to by a factor (R - 1) / R less."""
    scores = np.random.default_rng(runs).normal(size=runs)
    means = resample(1, runs, 40_000, 0).runs @ scores
    assert means.var() == pytest.approx(scores.var(ddof=1) / runs, rel=0.03)


def test_few_runs_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    resampled = rng.normal(0, 0.01, 2000)
    difference = np.concatenate([[0.02], 0.02 + resampled])
    alike, apart = np.array([0.02, 0.0201, 0.0199]), np.array([0.02, 0.0373, 0.0027])
    narrow, wide = (interval(difference, gains, 0.95, 1e-4) for gains in (alike, apart))
    assert narrow.low == pytest.approx(100 * (0.02 - 0.01645), abs=0.1)
    assert wide.low == pytest.approx(100 * (0.02 - 0.0292), abs=0.2)  # Student's t with 2 degrees of freedom


@pytest.mark.slow
@pytest.mark.parametrize("name", bench_gate.SETS)
def test_a_second_draw_of_the_placebo_is_published_no_more_often_than_stated(name: str) -> None:
    """A/A over 100 gates a set, each with rows of its own; bench_gate found 0 of 800 at the default 10 seeds."""
    if not bench_gate.SHARED.exists():
        pytest.skip("needs the real sets under AUGMILL_SHARED")
    rows = bench_gate.read(name)
    options = GateOptions(seeds=3, resamples=300)
    found = [bench_gate.judge(rows, "aa", number, 100, options, test=0) for number in range(100)]
    # Nominal is 5 %: more than 10 of 100 would come with a chance of 1 %.
    assert sum(evidence["verdict"] == "published" for evidence in found) <= 10
    assert sum(evidence["verdict"] == "harmful" for evidence in found) <= 20


@given(st.integers(20, 100_000), st.floats(0.3, 0.99), st.floats(0.6, 0.99))
def test_the_smallest_visible_gain_and_the_rows_it_needs_are_inverse(
    held: int, accuracy: float, confidence: float
) -> None:
    seen = foresee_rows(accuracy)
    visible = smallest_visible_gain(held, seen, confidence)
    assert visible > half_width(held, seen, confidence)
    assert smallest_visible_gain(2 * held, seen, confidence) < visible
    assert rows_needed(visible, seen, confidence) == pytest.approx(held, rel=1e-6, abs=1)


@pytest.mark.parametrize(
    "wrong", [{"seeds": 2}, {"confidence": 1.0}, {"min_gain": -1.0}, {"margin": -0.1}, {"resamples": 10}]
)
def test_options_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"gate\.\w+: expected"):
        GateOptions(**wrong)  # type: ignore[arg-type]
