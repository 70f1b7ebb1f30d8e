"""The three arms: same counts, same weights, drawn by row and not by place."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augmill.tasks.gate.evidence import KEPT, trainings
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.trainers.contract import TrainerInputs, Training

SIZES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=4)


def problem(sizes: list[tuple[int, int]], weight: float | None = None) -> TrainerInputs:
    """Classes of (real, synthetic) rows."""
    real = [(f"r{c}-{i}", str(c)) for c, (count, _) in enumerate(sizes) for i in range(count)]
    made = [(f"s{c}-{i}", str(c)) for c, (_, count) in enumerate(sizes) for i in range(count)]
    tables = []
    for rows in (real, made):
        columns = {"row_id": [r for r, _ in rows], "stratum": [c for _, c in rows], "text": [r for r, _ in rows]}
        tables.append(pa.table(columns))
    synthetic = tables[1].append_column("parent_ids", pa.array([[]] * len(made), pa.list_(pa.string())))
    if weight is not None:
        synthetic = synthetic.append_column("weight", pa.array([weight] * len(made)))
    classes = tuple(str(c) for c in range(len(sizes)))
    return TrainerInputs(tables[0], synthetic, tables[0], ("text",), PROBLEMS["classification"], classes)


def added(task: TrainerInputs, training: Training, label: int) -> tuple[int, float]:
    """(entries, their weight) that the arm adds to a class."""
    strata = np.array(task.real["stratum"].to_pylist() + task.synthetic["stratum"].to_pylist())
    more = np.arange(len(training.rows)) >= task.real.num_rows
    mine = more & (strata[training.rows] == str(label))
    return int(mine.sum()), float(training.weights[mine].sum())


@given(SIZES, st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_the_placebo_has_the_mixs_rows_and_weight_in_every_class(sizes: list[tuple[int, int]], seed: int) -> None:
    task = problem(sizes, weight=0.5)
    for real, placebo, mix in zip(*[iter(trainings(task, seed, 3))] * 3, strict=True):
        assert [real.arm, placebo.arm, mix.arm] == ["real", "placebo", "mix"]
        assert real.rows.tolist() == list(range(task.real.num_rows)) and set(real.weights) == {1.0}
        assert real.seed == placebo.seed == mix.seed
        assert max(placebo.rows) < task.real.num_rows
        for label, (_, count) in enumerate(sizes):
            expected = max(1, round(KEPT * count))
            for arm in (placebo, mix):
                assert added(task, arm, label) == (expected, pytest.approx(0.5 * count))


@given(SIZES, st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_no_real_row_is_repeated_more_often_than_dealing_out_evenly_gives(
    sizes: list[tuple[int, int]], seed: int
) -> None:
    task = problem(sizes)
    strata = task.real["stratum"].to_pylist()
    for training in trainings(task, seed, 2):
        if training.arm == "placebo":
            times = np.bincount(training.rows, minlength=task.real.num_rows) - 1
            for row, repeats in enumerate(times):
                real, made = sizes[int(strata[row])]
                assert repeats <= -(-made // real)


def test_runs_draw_different_rows_and_the_same_seed_draws_the_same() -> None:
    task = problem([(7, 20), (5, 11)])
    first, again, other = (trainings(task, seed, 4) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        assert a.rows.tolist() == b.rows.tolist() and a.weights.tolist() == b.weights.tolist() and a.seed == b.seed
    for arm in ("placebo", "mix"):
        drawn = {tuple(training.rows) for training in [*first, *other] if training.arm == arm}
        assert len(drawn) == 8


def test_a_classs_draws_do_not_hang_on_the_other_classes() -> None:
    small, large = problem([(7, 20)]), problem([(7, 20), (5, 11)])

    def drawn(task: TrainerInputs) -> list[list[str]]:
        ids = task.real["row_id"].to_pylist() + task.synthetic["row_id"].to_pylist()
        chosen = [[ids[row] for row in training.rows] for training in trainings(task, 5, 3)]
        return [[name for name in names if name[1] == "0"] for names in chosen]

    assert drawn(small) == drawn(large)
