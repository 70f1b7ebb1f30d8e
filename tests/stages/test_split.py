"""Splits are a function of the row alone; no training row repeats a held-out one; what leaves train is counted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chain import recipe_document, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from augmill.flows.units import gather_source
from augmill.tasks.errors import ConflictError, DataError, UserError
from augmill.tasks.problems.classification import Labels
from augmill.tasks.recipe.recipe import build_recipe
from augmill.tasks.recipe.sections import Splits
from augmill.tasks.rows.kinds.text import fold
from augmill.tasks.rows.kinds.text import kind as text_kind
from augmill.tasks.rows.kinds.text.near import jaccard
from augmill.tasks.stages import split as stage_split
from augmill.tasks.stages.split import SplitConfig, hold_back, prepare_split, split, split_names
from augmill.tasks.store.stage import Site, Work
from augmill.tasks.store.store import Store

WORDS = st.text("abcdeéß你 ,.!-", min_size=1, max_size=12)


def config_of(fields: tuple[str, ...] = ("text",), **splits: Any) -> SplitConfig:
    return SplitConfig(Splits(**({"validation": 0.3, "test": 0.2} | splits)), Labels(), fields, fields)


def table_of(texts: list[str], groups: list[str | None] | None = None, **columns: list[Any]) -> pa.Table:
    table = pa.table({"text": pa.array(texts, pa.string()), **columns})
    return table if groups is None else table.append_column("group", pa.array(groups, pa.string()))


class Splat:
    """ingest and split over rows of (text, label, more columns), through the stages."""

    def __init__(self, directory: Path, rows: list[dict[str, Any]], as_of: str | None = None, **changes: Any) -> None:
        source = directory / "rows.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        recipe = build_recipe(recipe_document(source) | {"refuse": {"max_share": 1.0}} | changes, base=directory)
        site = Site(Store(str(directory / "store")))
        self.config = prepare_split(recipe)
        self.artifact = split(site, self.config, gather_source(site, recipe, as_of), [])
        work = Work(site, directory)
        self.tables = {
            name: work.read(self.artifact, f"{name}.parquet")
            for name in ("train", "validation", "test", "exclude", "held_back", "unlabelled")
        }
        self.summary = work.read_json(self.artifact, "summary.json")

    def texts(self, name: str) -> list[str]:
        found: list[str] = self.tables[name]["text"].to_pylist()
        return found


def given_rows(**parts: list[tuple[str, str]]) -> list[dict[str, str]]:
    """(text, label) rows by split, for a recipe with ``splits: {column: part}``."""
    return [{"text": t, "label": label, "part": part} for part, rows in parts.items() for t, label in rows]


PLAIN = [("where is my parcel today", "a"), ("my card was charged twice", "b"), ("parcel never came", "a")]
PLAIN += [("refund the second charge", "b"), ("courier lost the box", "a"), ("cash machine kept the card", "b")]
HELD = [("the tracking page shows nothing", "a"), ("what does this fee mean", "b")]


@given(texts=st.lists(WORDS, max_size=12), more=st.lists(WORDS, max_size=6), data=st.data())
def test_a_rows_split_does_not_depend_on_the_rows_around_it(
    texts: list[str], more: list[str], data: st.DataObject
) -> None:
    config = config_of(seed=data.draw(st.integers(0, 9)))
    alone = [split_names(table_of([text]), config)[0] for text in texts]
    assert split_names(table_of(texts), config) == alone
    assert split_names(table_of(more + texts), config)[len(more) :] == alone
    chosen = data.draw(st.lists(st.sampled_from(range(len(texts))), unique=True)) if texts else []
    assert split_names(table_of([texts[i] for i in chosen]), config) == [alone[i] for i in chosen]


@given(WORDS.filter(lambda text: bool(fold(text))))
def test_texts_that_read_alike_share_their_split(text: str) -> None:
    alike = [text, text.upper(), f"  {text}!", text.replace(" ", "  "), text.replace(" ", ", "), f"\u201c{text}\u201d"]
    alike = [other for other in alike if fold(other) == fold(text)]
    assert len(set(split_names(table_of(alike), config_of()))) == 1
    groups: list[str | None] = [None] * len(alike)
    assert len(set(split_names(table_of(alike, groups), config_of()))) == 1


@given(st.lists(st.tuples(WORDS, st.sampled_from(["ann", "bob", "cy", "\x1fx"])), max_size=20))
def test_a_group_never_stands_in_two_splits(rows: list[tuple[str, str]]) -> None:
    texts, groups = [text for text, _ in rows], [group for _, group in rows]
    names = split_names(table_of(texts, [*groups]), config_of())
    assert len(set(zip(groups, names, strict=True))) == len(set(groups))
    assert names == split_names(table_of(texts[::-1], groups[::-1]), config_of())[::-1]


def test_both_texts_of_a_pair_decide_its_split() -> None:
    config = config_of(("text", "text_b"))
    pairs = table_of(["same"] * 200, text_b=[f"other {i}" for i in range(200)])
    assert len(set(split_names(pairs, config))) == 3


def test_shares_are_near_what_was_asked_and_the_seed_draws_anew() -> None:
    texts = [f"row number {index}" for index in range(20_000)]
    names = split_names(table_of(texts), config_of(validation=0.2, test=0.1))
    shares = {name: names.count(name) / len(names) for name in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.2, "test": 0.1}, abs=0.01)  # 3 sigma: 0.0085
    other = split_names(table_of(texts), config_of(validation=0.2, test=0.1, seed=1))
    both = sum(a == b == "validation" for a, b in zip(names, other, strict=True)) / len(names)
    assert both == pytest.approx(0.04, abs=0.01)


def test_a_larger_share_keeps_what_was_held_out() -> None:
    texts = table_of([f"row {index}" for index in range(2000)])
    small, large = (split_names(texts, config_of(validation=share, test=0.0)) for share in (0.1, 0.2))
    assert {i for i, name in enumerate(small) if name == "validation"} < {
        i for i, name in enumerate(large) if name == "validation"
    }


@settings(max_examples=40, deadline=None)
@given(
    held=st.lists(st.text("ab c", min_size=1, max_size=14), min_size=1, max_size=4),
    train=st.lists(st.text("ab c", min_size=1, max_size=14), max_size=8),
    near=st.sampled_from([0.5, 0.8, 1.0]),
    mapped=st.booleans(),
)
def test_train_keeps_no_row_at_or_above_the_similarity_and_loses_no_other(
    held: list[str], train: list[str], near: float, mapped: bool
) -> None:
    def rows(texts: list[str]) -> pa.Table:
        return table_of(texts, row_id=[f"{text}/{i}" for i, text in enumerate(texts)], stratum=["a"] * len(texts))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_kind, "LARGE", -1 if mapped else 1 << 24)
        kept, left = hold_back(rows(train), rows(held), rows([]).cast(rows(held).schema), config_of(near=near))
    best = [max(jaccard(text, other) for other in held) for text in train]
    assert kept["text"].to_pylist() == [text for text, value in zip(train, best, strict=True) if value < near]
    assert left["text"].to_pylist() == [text for text, value in zip(train, best, strict=True) if value >= near]
    for row in left.to_pylist():
        match = row["match"].rsplit("/", 1)[0]
        assert row["similarity"] == pytest.approx(jaccard(row["text"], match))
        assert row["reason"] == ("in_heldout" if row["similarity"] >= 1 else "near_heldout")


def test_twins_of_held_out_rows_leave_train_and_are_counted(tmp_path: Path) -> None:
    twins = [("The tracking page shows NOTHING!", "a"), ("the tracking page shows nothing.", "b")]
    near = [("what does this fee mean?! ok", "b"), ("the tracking page shows nothing x", "a")]  # 0.88 and 0.93
    parts = given_rows(train=[*PLAIN, *twins, *near], validation=HELD, test=[("is there a fee", "b")])
    made = Splat(tmp_path, parts, splits={"column": "part"})
    assert made.texts("train") == [text for text, _ in PLAIN]
    assert made.summary["held_back"] == {"in_heldout": 2, "near_heldout": 2}
    assert made.summary["train_before_leaving"] == len(PLAIN) + 4
    assert made.texts("held_back") == [text for text, _ in [*twins, *near]]
    total = sum(made.tables[name].num_rows for name in ("train", "validation", "test", "held_back"))
    assert total == len(parts) == made.artifact.rows
    assert made.summary["classes"]["train"] == {"a": 3, "b": 3}
    assert made.texts("unlabelled") == []


@pytest.mark.parametrize("part", ["validation", "test"])
def test_near_twins_of_either_held_out_split_leave_train(tmp_path: Path, part: str) -> None:
    """Of test rows too: they decide nothing, and a number measured on rows that train knows says nothing."""
    alone = {"validation": HELD, "test": [("is there a fee", "b")]}
    near = {"validation": ("the tracking page shows nothing x", "a"), "test": ("is there a fee?! x", "b")}[part]
    made = Splat(tmp_path, given_rows(train=[*PLAIN, near], **alone), splits={"column": "part", "near": 0.7})
    assert made.texts("held_back") == [near[0]]
    assert {row["reason"] for row in made.tables["held_back"].to_pylist()} == {"near_heldout"}


def test_hash_splits_are_disjoint_and_lose_nothing(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.csv", rows=200)
    recipe = build_recipe(recipe_document(source), base=tmp_path)
    site = Site(Store(str(tmp_path / "store")))
    ingested = gather_source(site, recipe)
    artifact = split(site, prepare_split(recipe), ingested, [])
    work = Work(site, tmp_path)
    ids = [
        row_id
        for name in ("train", "validation", "test", "held_back")
        for row_id in work.read(artifact, f"{name}.parquet")["row_id"].to_pylist()
    ]
    assert sorted(ids) == sorted(work.read(ingested)["row_id"].to_pylist())
    folded = [
        {fold(text) for text in work.read(artifact, f"{name}.parquet")["text"].to_pylist()}
        for name in ("train", "validation", "test")
    ]
    assert not (folded[0] & folded[1] or folded[0] & folded[2] or folded[1] & folded[2])


def test_given_splits_are_kept_under_their_own_names(tmp_path: Path) -> None:
    rows = given_rows(learn=PLAIN, dev=HELD, test=[("is there a fee", "b")])
    made = Splat(tmp_path, rows, splits={"column": "part", "names": {"learn": "train", "dev": "validation"}})
    assert [made.texts(name) for name in ("train", "validation", "test")] == [
        [text for text, _ in PLAIN],
        [text for text, _ in HELD],
        ["is there a fee"],
    ]


def test_no_training_row_repeats_a_row_of_the_excluded_files(tmp_path: Path) -> None:
    rows = given_rows(train=PLAIN, validation=HELD)

    def with_excluded(name: str, texts: list[str]) -> Splat:
        (tmp_path / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return Splat(tmp_path, rows, splits={"column": "part", "heldout_exclude": [name]})

    first = with_excluded("theirs.jsonl", ["Parcel never came?", "something else", " "])
    assert first.texts("train") == [text for text, _ in PLAIN if text != "parcel never came"]
    assert (first.summary["held_back"], first.summary["excluded_texts"]) == ({"in_heldout": 1}, 2)
    assert first.tables["held_back"]["match"].to_pylist() == ["theirs.jsonl:line 1"]
    # Its content counts, as a further file of the source would: other texts, another split.
    second = with_excluded("theirs.jsonl", ["courier lost the box"])
    assert "courier lost the box" not in second.texts("train")
    assert "parcel never came" in second.texts("train")


def test_an_excluded_file_that_changes_after_it_was_hashed_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "theirs.jsonl").write_text('{"text": "parcel never came"}\n')
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in given_rows(train=PLAIN, validation=HELD)))
    splits = {"column": "part", "heldout_exclude": ["theirs.jsonl"]}
    recipe = build_recipe(recipe_document(source, splits=splits), base=tmp_path)
    site, config = Site(Store(str(tmp_path / "store"))), prepare_split(recipe)
    (tmp_path / "theirs.jsonl").write_text('{"text": "another sentence"}\n')
    with pytest.raises(ConflictError, match=r"theirs\.jsonl: the file changed"):
        split(site, config, gather_source(site, recipe), [])


def test_a_snapshot_as_of_a_day_has_the_rows_up_to_it_and_each_keeps_its_split(tmp_path: Path) -> None:
    rows = [
        {"text": f"row {i} of {label}", "label": label, "day": f"2026-01-0{1 + i % 3}"}
        for i in range(60)
        for label in "ab"
    ]
    columns = {"text": "text", "label": "label", "partition": "day"}
    shares = {"validation": 0.3, "test": 0.2, "near": 1.0}
    where: list[dict[str, str]] = []
    for day in ("2026-01-01", "2026-01-02", None):
        (tmp_path / str(day)).mkdir()
        made = Splat(tmp_path / str(day), rows, day, columns=columns, splits=shares)
        where.append({text: name for name in ("train", "validation", "test") for text in made.texts(name)})
        assert set(where[-1]) == {row["text"] for row in rows if day is None or row["day"] <= day}
    assert where[0].items() < where[1].items() < where[2].items()


def refused(directory: Path, rows: list[dict[str, Any]], **changes: Any) -> str:
    with pytest.raises((DataError, UserError)) as told:
        Splat(directory, rows, **({"splits": {"column": "part"}} | changes))
    assert told.value.fix
    return str(told.value)


def test_what_cannot_be_learnt_or_judged_is_refused(tmp_path: Path) -> None:
    one_class = given_rows(train=[(text, "a") for text, _ in PLAIN], validation=HELD[:1])
    assert "two classes" in refused(tmp_path, one_class)
    same = given_rows(train=[("Same text.", "a"), ("same text", "b")] * 3, validation=HELD)
    assert "are equal" in refused(tmp_path, same)
    assert "no validation row" in refused(tmp_path, given_rows(train=PLAIN))
    plain = [{"text": text, "label": label} for text, label in PLAIN]
    assert "partition" in refused(tmp_path, plain, as_of="2026-01-01", splits={})
    dated = [row | {"day": "2026-01-02"} for row in plain]
    columns = {"text": "text", "label": "label", "partition": "day"}
    assert "2026-01-02" in refused(tmp_path, dated, as_of="2026-01-01", splits={}, columns=columns)


def test_a_class_with_too_few_train_rows_stops_the_run_or_leaves_every_split(tmp_path: Path) -> None:
    rows = given_rows(train=[*PLAIN, ("one of its kind", "rare")], validation=[*HELD, ("another rare thing", "rare")])
    assert "'rare' has 1" in refused(tmp_path, rows)
    made = Splat(tmp_path, rows, splits={"column": "part"}, labels={"rare": "quarantine"})
    assert made.summary["rare_classes"] == ["rare"]
    held = made.tables["held_back"].select(["text", "stratum", "reason", "match", "similarity"]).to_pylist()
    assert [tuple(row.values()) for row in held] == [
        (text, "rare", "rare_class", None, None) for text in ("one of its kind", "another rare thing")
    ]
    assert made.summary["held_back"] == {"rare_class": 2}
    assert sum(made.summary["rows"].values()) + 2 == made.artifact.rows == len(rows)
    for name in ("train", "validation", "test"):
        assert "rare" not in made.tables[name]["stratum"].to_pylist()


def test_a_class_whose_train_rows_all_repeat_held_out_ones_is_rare(tmp_path: Path) -> None:
    rows = given_rows(
        train=[*PLAIN, ("What does this fee mean?", "c"), ("what does THIS fee mean", "c")], validation=HELD
    )
    assert "'c' has 0" in refused(tmp_path, rows)


def test_where_the_same_bytes_are_read_from_is_no_identity() -> None:
    config = config_of()
    elsewhere = dataclasses.replace(config, exclude=((None, ()),))  # type: ignore[arg-type]
    assert split.identity(config, ()) == split.identity(elsewhere, ())


@pytest.mark.parametrize("rare", ["stop", "quarantine"])
def test_how_many_rows_are_read_at_once_changes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rare: str
) -> None:
    rows = [{"text": f"row {at} of this set", "label": "ab"[at % 2]} for at in range(60)]
    rows += [{"text": f"row {at} of this set!", "label": "a"} for at in range(0, 60, 3)]
    rows += [{"text": "alone in its class", "label": "c"}] if rare == "quarantine" else []
    found = []
    for at, size in enumerate((65_536, 1, 7)):
        monkeypatch.setattr(stage_split, "PART_ROWS", size)
        (tmp_path / str(at)).mkdir()
        found.append(Splat(tmp_path / str(at), rows, labels={"rare": rare, "min_rows": 2}))
        monkeypatch.setattr(text_kind, "LARGE", -1)  # and the index of what is held out lies in files
    assert found[0].artifact.content == found[1].artifact.content == found[2].artifact.content
    assert found[0].summary == found[1].summary == found[2].summary
