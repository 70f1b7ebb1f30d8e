"""Label consistency: a classifier fitted on train rows doubts a claimed class (LAMBADA's filter)."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
from checking import Bench, candidates, people, real, sentences, shared_rows, with_cells

from augmill.tasks.checks.base import fold_numbers
from augmill.tasks.problems.classifier import Classifier, RowClassifier
from augmill.tasks.rows.kinds.text import fold

NEXT = {"card": "fee", "fee": "pin", "pin": "card"}


def shuffled(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(NEXT[stratum], text) for stratum, text in rows]


def test_shuffled_labels_are_refused_and_right_ones_pass(tmp_path: Path) -> None:
    bench = Bench("label_consistency", tmp_path, real(sentences(40)))
    fresh = sentences(30, seed=4)
    assert not bench.learnt["abstains"]
    assert bench.reasons(candidates(fresh)) == [None] * 90
    assert bench.reasons(candidates(shuffled(fresh))).count("inconsistent_label") >= 80


def test_the_score_is_the_probability_of_the_claimed_class(tmp_path: Path) -> None:
    bench = Bench("label_consistency", tmp_path, real(sentences(40)))
    text = "can you say why the card is late today"
    scores = bench.judge(candidates([(name, text) for name in NEXT]))["score"].to_pylist()
    assert abs(sum(scores) - 1) < 1e-9
    assert scores[0] > 0.8


def test_it_abstains_where_labels_have_nothing_to_do_with_the_texts(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [(draw.choice(["yes", "no"]), text) for _, text in sentences(30)]
    bench = Bench("label_consistency", tmp_path, real(rows))
    assert bench.learnt["abstains"]
    answer = bench.judge(candidates([("yes", "hello why a fee was charged"), ("no", "hello why a fee was charged")]))
    assert answer["reason"].to_pylist() == [None, None]
    assert abs(sum(answer["score"].to_pylist()) - 1) < 1e-9


def test_a_class_too_small_to_be_measured_is_not_judged(tmp_path: Path) -> None:
    rows = [*sentences(30), ("rare", "an odd thing happened")]
    bench = Bench("label_consistency", tmp_path, real(rows))
    assert bench.learnt["abstains_for"] == ["rare"]
    text = "can you say why the card is late today"
    assert bench.reasons(candidates([("rare", text), ("pin", text)])) == [None, "inconsistent_label"]


def test_best_share_scores_and_refuses_nothing(tmp_path: Path) -> None:
    bench = Bench("label_consistency", tmp_path, real(sentences(40)), keep="best_share")
    answer = bench.judge(candidates(shuffled(sentences(10, seed=4))))
    assert answer["reason"].null_count == 30
    assert np.median(answer["score"].to_pylist()) < 0.1


def test_a_saved_classifier_answers_as_the_fitted_one(tmp_path: Path) -> None:
    rows = sentences(20)
    bench = Bench("label_consistency", tmp_path, real(rows))
    texts = [fold(text) for _, text in rows]
    ordered = sorted(range(len(rows)), key=lambda at: f"r{at}")
    fitted = Classifier.fit([texts[at] for at in ordered], [rows[at][0] for at in ordered], 1)
    loaded = Classifier.load(tmp_path, bench.fitted.read_json("vocabulary.json"))
    assert np.array_equal(fitted.probabilities(texts), loaded.probabilities(texts))


def test_two_classes_give_probabilities_that_add_up_and_point_the_right_way(tmp_path: Path) -> None:
    rows = [row for row in sentences(40) if row[0] != "pin"]
    bench = Bench("label_consistency", tmp_path, real(rows))
    text = "can you say why the card is late today"
    card, fee = bench.judge(candidates([("card", text), ("fee", text)]))["score"].to_pylist()
    assert abs(card + fee - 1) < 1e-9
    assert card > 0.9


def test_rows_of_a_table_are_doubted_by_what_their_kinds_make_of_them(tmp_path: Path) -> None:
    bench = Bench("label_consistency", tmp_path, people(400))
    assert not bench.learnt["abstains"] and bench.learnt["accuracy"] > 0.9
    fresh = people(200, seed=1)
    wrong = ["young" if name == "old" else "old" for name in fresh["stratum"].to_pylist()]
    assert sum(reason is None for reason in bench.reasons(fresh)) > 180
    turned = bench.reasons(fresh.set_column(1, "stratum", pa.array(wrong)))
    assert turned.count("inconsistent_label") > 120
    both = [bench.judge(with_cells(fresh, stratum=name))["score"].to_numpy() for name in ("old", "young")]
    assert np.allclose(sum(both), 1)


def test_a_saved_classifier_of_rows_answers_as_the_fitted_one(tmp_path: Path) -> None:
    train = people(100)
    fields = tuple(name for name in train.column_names if ":" in name)
    fitted = RowClassifier.fit(train, fields, train["stratum"].to_pylist())
    fitted.save(tmp_path)
    loaded = RowClassifier.load(tmp_path, json.loads((tmp_path / "vocabulary.json").read_text(encoding="utf-8")))
    assert np.array_equal(fitted.probabilities(people(30, seed=1)), loaded.probabilities(people(30, seed=1)))


def test_it_abstains_where_labels_have_nothing_to_do_with_the_rows(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = people(300).set_column(1, "stratum", pa.array([draw.choice(["old", "young"]) for _ in range(300)]))
    assert Bench("label_consistency", tmp_path, rows).learnt["abstains"]


def test_folds_are_balanced_in_each_class_and_agree_for_equal_texts() -> None:
    rows = [*sentences(13), *sentences(13)]
    table = real(rows)
    folds = fold_numbers(table, ("text",), 5)
    assert (folds[:39] == folds[39:]).all()
    for stratum in NEXT:
        counts = np.bincount(folds[:39][[name == stratum for name, _ in rows[:39]]], minlength=5)
        assert counts.max() - counts.min() <= 1
    order = np.random.default_rng(0).permutation(len(rows))
    assert (fold_numbers(table.take(order), ("text",), 5) == folds[order]).all()


def test_it_abstains_on_trec_at_ten_rows_a_class_and_judges_at_fifty(tmp_path: Path) -> None:
    few = Bench("label_consistency", tmp_path / "few", real(shared_rows("trec_kumar", "train", 10)))
    assert few.learnt["abstains"]
    assert few.learnt["accuracy"] < 0.65
    more = Bench("label_consistency", tmp_path / "more", real(shared_rows("trec_kumar", "train", 50)))
    test = shared_rows("trec_kumar", "test", None)
    assert not more.learnt["abstains"]
    assert sum(reason is not None for reason in more.reasons(candidates(test))) <= 0.12 * len(test)
