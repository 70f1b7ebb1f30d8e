"""Self-training: unlabelled rows under the class a teacher tells, the surest part of each class, once each, by ordinal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chain import WORDS
from generating import Bench, ask
from running import read_lines, shared_set, some

from augmill.tasks.contracts import Context, FitInputs, Fitted, Request
from augmill.tasks.generators.self_training import SelfTraining, SelfTrainingOptions, spread
from augmill.tasks.rows.kinds import real_schema

Rows = list[tuple[str, str, str]]  # id, class, text


def drawn(prefix: str, count: int, seed: int) -> Rows:
    """Sentences of the three classes, one word in four of another class."""
    rng = np.random.default_rng(seed)
    names, made = sorted(WORDS), []
    for at in range(count):
        own = names[at % 3]
        words = [rng.choice(WORDS[own if rng.random() < 0.75 else names[rng.integers(3)]]) for _ in range(7)]
        made.append((f"{prefix}{at:03}", own, " ".join(words)))
    return made


def real(rows: Rows, *, labelled: bool = True) -> pa.Table:
    ids, strata, texts = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    return pa.table([ids, strata if labelled else [""] * len(ids), texts], schema=real_schema(("text",)))


class Trained:
    """A teacher's rows: all that it would hand out, class by class in the order of their ordinals."""

    def __init__(self, folder: Path, train: Rows, free: Rows, **options: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.generator = SelfTraining(SelfTrainingOptions(**options))
        self.context = Context(seed=0, fields=("text",), workdir=folder)
        none = real([])
        inputs = FitInputs(real(train), none, none, none, real(free, labelled=False))
        self.files = self.generator.fit(inputs, self.context)
        self.fitted = Fitted(folder, "content")
        self.summary = self.fitted.read_json("summary.json")
        self.true = {row_id: stratum for row_id, stratum, _ in free}

    def rows(self, each: int) -> list[dict[str, Any]]:
        strata = sorted(set(self.true.values()))
        ordinals = np.tile(np.arange(each, dtype=np.int64), len(strata))
        request = Request([name for name in strata for _ in range(each)], ordinals, ordinals)
        found: list[dict[str, Any]] = self.generator.sample(self.fitted, request, self.context).to_pylist()
        return found


TRAIN, FREE = drawn("r", 18, 1), drawn("u", 240, 2)


def test_rows_keep_their_label_far_more_often_than_chance_allows(tmp_path: Path) -> None:
    made = Trained(tmp_path, TRAIN, FREE)
    rows = [row for row in made.rows(30) if row["reason"] is None]
    right = [made.true[row["parent_ids"][0]] == row["stratum"] for row in rows]
    assert len(rows) > 80 and np.mean(right) > 0.9
    assert made.summary["accuracy"] > 0.6


def test_each_unlabelled_row_is_handed_out_once_as_it_stands_and_is_its_own_only_parent(tmp_path: Path) -> None:
    made = Trained(tmp_path, TRAIN, FREE, keep=1.0)
    rows = [row for row in made.rows(200) if row["reason"] is None]
    texts = {row_id: text for row_id, _, text in FREE}
    assert sorted(row["parent_ids"][0] for row in rows) == sorted(texts)  # every one of them, under one class
    assert all([row["text"]] == [texts[parent] for parent in row["parent_ids"]] for row in rows)
    assert made.summary["rows"] == made.summary["told"]


def test_past_the_last_row_of_a_class_it_is_exhausted(tmp_path: Path) -> None:
    made = Trained(tmp_path, TRAIN, FREE)
    for row in made.rows(200):
        there = row["ordinal"] < made.summary["rows"][row["asked"]]
        assert row["reason"] == (None if there else "exhausted") and bool(row["parent_ids"]) == there


def test_the_most_confident_part_of_each_class_is_kept_in_order_of_confidence(tmp_path: Path) -> None:
    whole = Trained(tmp_path / "a", TRAIN, FREE, keep=1.0, order="confident")
    ranked = [row["parent_ids"][0] for row in whole.rows(200) if row["stratum"] == "refund" and not row["reason"]]
    half = Trained(tmp_path / "b", TRAIN, FREE, keep=0.5, order="confident")
    kept = [row["parent_ids"][0] for row in half.rows(200) if row["stratum"] == "refund" and not row["reason"]]
    assert kept == ranked[: len(kept)] and abs(len(kept) - len(ranked) / 2) <= 0.5
    right = np.array([whole.true[row_id] == "refund" for row_id in ranked])
    assert right[: len(right) // 3].mean() > right[-len(right) // 3 :].mean()
    mixed = Trained(tmp_path / "c", TRAIN, FREE, keep=0.5)
    spread_out = [row["parent_ids"][0] for row in mixed.rows(200) if row["stratum"] == "refund" and not row["reason"]]
    assert sorted(spread_out) == sorted(kept) and spread_out != kept
    sure = Trained(tmp_path / "d", TRAIN, FREE, keep=1.0, confidence=0.6)
    assert 0 < sum(sure.summary["rows"].values()) < len(FREE)
    assert min(sure.summary["least_confidence"].values()) >= 0.6


def test_by_default_as_large_a_part_is_kept_as_the_teacher_is_right_on(tmp_path: Path) -> None:
    mislabelled = [(row_id, "refund" if at % 6 < 2 else own, text) for at, (row_id, own, text) in enumerate(TRAIN)]
    told = Trained(tmp_path, mislabelled, FREE).summary
    assert 0.4 < told["accuracy"] < 0.95
    for name, rows in told["rows"].items():
        assert abs(rows - told["accuracy"] * told["told"][name]) <= 0.5


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 64, 100])
def test_every_beginning_of_the_order_is_spread_over_the_whole(count: int) -> None:
    order = spread(count)
    assert sorted(order.tolist()) == list(range(count))
    for first in range(4, count):
        gaps = np.diff(np.concatenate([[0], np.sort(order[:first]), [count]]))
        assert gaps.max() <= 4 * count / first


def test_neither_the_order_of_rows_nor_a_held_out_row_changes_anything(tmp_path: Path) -> None:
    first = Trained(tmp_path / "a", TRAIN, FREE)
    second = Trained(tmp_path / "b", TRAIN[::-1], FREE[::-1])
    for name, path in first.files.items():
        assert path.read_bytes() == second.files[name].read_bytes(), name


def test_an_unlabelled_copy_of_a_train_row_is_left_out(tmp_path: Path) -> None:
    copies = [(f"u{at}", own, f"{text.upper()}!") for at, (_, own, text) in enumerate(TRAIN)]
    made = Trained(tmp_path, TRAIN, [*FREE, *copies], keep=1.0)
    assert made.summary["in_train"] == len(copies) and sum(made.summary["rows"].values()) == len(FREE)


def test_nothing_unlabelled_or_one_class_gives_no_row_and_no_error(tmp_path: Path) -> None:
    one = [(row_id, "refund", text) for row_id, _, text in TRAIN]
    for name, (train, free) in {"a": (TRAIN, []), "b": (one, FREE)}.items():
        made = Trained(tmp_path / name, train, free)
        rows = made.generator.sample(made.fitted, ask(["refund", "track"]), made.context)
        assert rows["reason"].to_pylist() == ["exhausted"] * 2 and made.summary["rows"] == {}


def test_options_out_of_bounds_name_themselves() -> None:
    for name, value in [("keep", 0.0), ("keep", 1.5), ("confidence", -1.0), ("balance", 2.0), ("rounds", -1)]:
        with pytest.raises(ValueError, match=name):
            SelfTrainingOptions(**{name: value})
    with pytest.raises(ValueError, match="members"):
        SelfTrainingOptions(members={"bayes": 0.0})


def test_the_two_languages_and_pairs_of_the_bench_are_told_apart(tmp_path: Path) -> None:
    bench = Bench("self_training", tmp_path, fields=("text", "text_b"), keep=1.0)
    rows = bench.sample(ask(["refund", "track", "中文"] * 30)).to_pylist()
    told = [row for row in rows if row["reason"] is None]
    assert len(told) == 36  # 12 a class: every third ordinal of 36
    assert all(row["parent_ids"][0].startswith(f"free-{row['stratum']}") for row in told)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["snips", "banking77"])
def test_it_gains_on_real_sets_at_ten_rows_a_class(name: str, tmp_path: Path) -> None:
    """By the built-in trainer on test rows, against real rows alone (to repeat them changes little; the averaged loss)."""
    from augmill.tasks.problems import PROBLEMS
    from augmill.tasks.trainers.contract import TrainerInputs, Training
    from augmill.tasks.trainers.tfidf import TfidfOptions, TfidfTrainer

    folder = shared_set(name)
    whole = [(f"u{at}", str(row["label"]), row["text"]) for at, row in enumerate(read_lines(folder / "train.jsonl"))]
    test = [
        (f"t{at}", str(row["label"]), row["text"]) for at, row in enumerate(some(read_lines(folder / "test.jsonl"), 40))
    ]
    chosen = {row["at"] for row in some([{"label": own, "at": at} for at, (_, own, _) in enumerate(whole)], 10, seed=5)}
    train = [row for at, row in enumerate(whole) if at in chosen]
    free = [row for at, row in enumerate(whole) if at not in chosen][::2]
    made = Trained(tmp_path, train, free)
    rows = [row for row in made.rows(40) if row["reason"] is None]
    synthetic = pa.table(
        {
            "row_id": [f"s{at}" for at in range(len(rows))],
            **{key: [row[key] for row in rows] for key in ("stratum", "text", "parent_ids")},
        }
    )
    labels = tuple(sorted({own for _, own, _ in whole}))
    problem = TrainerInputs(real(train), synthetic, real(test), ("text",), PROBLEMS["classification"], labels)
    counts = (len(train), len(train) + len(rows))
    trainings = [Training(arm, 0, 1, np.arange(n), np.ones(n)) for arm, n in zip(("real", "mix"), counts, strict=True)]
    predicted = TfidfTrainer(TfidfOptions(cs=(30.0,))).predict(problem, trainings, tmp_path)
    truth = np.array([labels.index(own) for _, own, _ in test])
    alone, mix = (float((made.target == truth).mean()) for made in predicted)
    assert mix > alone + 0.01
