"""The teacher as a check: it gives rows their class or agrees with it, and refuses what it is unsure of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from checking import Bench, candidates, real, sentences

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import Context, FitInputs, Fitted

NEXT = {"card": "fee", "fee": "pin", "pin": "card"}
FRESH = sentences(25, seed=4)
WRONG = [(NEXT[stratum], text) for stratum, text in FRESH]


def judge(directory: Path, rows: list[tuple[str, str]], **options: Any) -> list[dict[str, Any]]:
    verdicts: list[dict[str, Any]] = (
        Bench("teacher", directory, real(sentences(20)), **options).judge(candidates(rows)).to_pylist()
    )
    return verdicts


def test_it_comes_before_every_check_that_looks_at_the_class() -> None:
    assert next(iter(CHECKS)) == "teacher"


def test_agree_refuses_a_row_of_another_class_and_gives_none(tmp_path: Path) -> None:
    right, wrong = (judge(tmp_path / name, rows) for name, rows in (("a", FRESH), ("b", WRONG)))
    assert "stratum" not in right[0]
    assert sum(row["reason"] is None for row in right) >= 70  # of 75
    assert sum(row["reason"] == "other_class" for row in wrong) >= 70
    assert sum(row["score"] for row in right) > 5 * sum(row["score"] for row in wrong)


def test_teacher_gives_its_class_whatever_was_claimed_and_refuses_where_it_is_unsure(tmp_path: Path) -> None:
    told = judge(tmp_path / "a", WRONG, label_by="teacher", keep=0.9)
    kept = [(row, true) for row, (true, _) in zip(told, FRESH, strict=True) if row["reason"] is None]
    assert len(kept) > 40 and sum(row["stratum"] == true for row, true in kept) >= 0.9 * len(kept)
    assert {row["reason"] for row in told} <= {None, "unsure"}
    assert [row["stratum"] for row in judge(tmp_path / "b", FRESH, label_by="teacher", keep=0.9)] == [
        row["stratum"] for row in told
    ]
    strict = judge(tmp_path / "c", WRONG, label_by="teacher", keep=0.1)
    assert sum(row["reason"] is None for row in strict) < len(kept)
    certain = judge(tmp_path / "d", WRONG, label_by="teacher", keep=1.0, confidence=0.8)
    assert all((row["reason"] is None) <= (row["score"] >= 0.8) for row in certain)


def test_how_a_row_is_labelled_is_no_part_of_what_is_fitted(tmp_path: Path) -> None:
    files = {
        label_by: Bench("teacher", tmp_path / label_by, real(sentences(6)), label_by=label_by).files
        for label_by in ("agree", "teacher")
    }
    assert all(path.read_bytes() == files["teacher"][name].read_bytes() for name, path in files["agree"].items())


def test_no_held_out_row_is_learnt_from(tmp_path: Path) -> None:
    rows = real(sentences(8))
    plain = Bench("teacher", tmp_path / "a", rows)
    other = Bench("teacher", tmp_path / "b", rows, held_out=real(sentences(9, seed=7), prefix="h"))
    assert all(path.read_bytes() == other.files[name].read_bytes() for name, path in plain.files.items())


def test_unlabelled_rows_are_learnt_from(tmp_path: Path) -> None:
    train, none = real(sentences(4)), real([])
    free = real([("", text) for _, text in sentences(25, seed=3)], prefix="u")
    found = {}
    for name, unlabelled in (("none", none), ("some", free)):
        context = Context(seed=0, fields=("text",), workdir=tmp_path / name)
        context.workdir.mkdir()
        CHECKS["teacher"](CHECKS["teacher"].Options()).fit(FitInputs(train, none, none, none, unlabelled), context)
        found[name] = Fitted(context.workdir, name).read_json("check.json")
    assert found["none"]["least_confidence"] != found["some"]["least_confidence"]
    assert "75 unlabelled rows" in found["some"]["why"]


def test_one_that_knows_no_better_than_chance_abstains_and_rows_keep_their_class(tmp_path: Path) -> None:
    """The same words under either class."""
    rows = [(stratum, f"{word} thing") for word in ("one", "two", "three", "four") for stratum in ("a", "b")]
    bench = Bench("teacher", tmp_path, real(rows), label_by="teacher")
    assert bench.learnt["abstains"] and "abstains" in bench.learnt["why"]
    answer = bench.judge(candidates(rows))
    assert answer["reason"].null_count == len(rows) and answer.column_names == ["reason", "score"]


def test_a_pair_is_told_by_both_texts(tmp_path: Path) -> None:
    rows = sentences(15)
    same = [("x", "what do you want to know")] * len(rows)
    pairs = real(
        [(stratum, text) for (stratum, _), (_, text) in zip(rows, same, strict=True)], second=[t for _, t in rows]
    )
    bench = Bench("teacher", tmp_path, pairs, fields=("text", "text_b"))
    table = candidates([(s, same[0][1]) for s, _ in FRESH]).append_column("text_b", pa.array([t for _, t in FRESH]))
    assert bench.judge(table)["reason"].null_count >= 70
