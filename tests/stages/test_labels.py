"""Labels as a recipe and a source write them: none is turned into another, merged or left out without a word."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import augmill, refused
from hypothesis import given
from hypothesis import strategies as st
from test_ingest import Ingested

from augmill.tasks.errors import DataError
from augmill.tasks.problems.classification import LabelReader, Labels, label_array, label_warnings, named_in_vain
from augmill.tasks.problems.labels import class_among, labels_alike, spelling
from augmill.tasks.recipe.recipe import Recipe, load_recipe
from augmill.tasks.recipe.sections import Refuse
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.rows.names import name_meant
from augmill.tasks.stages.ingest import ingest, prepare_ingest
from augmill.tasks.store.stage import identity_of

RECIPE = """dataset: d
source: {path: rows.csv}
columns: {text: text, label: label}
splits: {validation: 0.3, test: 0}
target: {balance: 1}
generators: [{use: rules}]
refuse: {max_share: 1.0}
run: {orchestrator: none}
"""
THINGS = ("parcel is late", "invoice was paid twice", "router does not start")


def recipe_for(folder: Path, labels: list[str], more: str, rows: int = 90) -> Recipe:
    """The recipe with its rows: as many of each label, every text another."""
    lines = [f"{THINGS[at % 3]} {at * 7919},{labels[at % len(labels)]}" for at in range(rows)]
    (folder / "rows.csv").write_text("text,label\n" + "".join(f"{line}\n" for line in lines))
    (folder / "recipe.yaml").write_text(RECIPE + more)
    return load_recipe(folder / "recipe.yaml", store=str(folder / "store"))


def ingested(folder: Path, rows: Any, **changes: Any) -> Ingested:
    """Rows of a table in Parquet, or lines of a CSV."""
    if isinstance(rows, pa.Table):
        pq.write_table(rows, folder / "rows.parquet")
        return Ingested(folder / "rows.parquet", **changes)
    (folder / "rows.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return Ingested(folder / "rows.csv", **changes)


def classes(made: Ingested) -> dict[str, int]:
    return dict(Counter(made.column("stratum")))


# --- as they are written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quote", ["", "'", '"'])
@pytest.mark.parametrize(
    "name", ["010", "1_000", "NO", "yes", "off", "12:30", "2024-01-01", "1.0", "TRUE", "null", "~", "0x1f", "1e5"]
)
def test_a_label_in_a_recipe_is_what_is_written(tmp_path: Path, name: str, quote: str) -> None:
    written = f"{quote}{name}{quote}"
    more = f"labels: {{declared: [{written}, a], retired: [{written}], aliases: {{{written}: {written}}}}}\n"
    more += f"gate: {{focus: [{written}]}}\n"
    recipe = recipe_for(tmp_path, ["a"], more)
    assert recipe.labels == Labels((name, "a"), {name: name}, (name,)) and recipe.gate.focus == (name,)


def test_numbers_and_truth_values_of_one_spelling_stay_what_they_were(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, ["a"], "labels: {declared: [1, -2, true, false, a], aliases: {1: 2, b: true}}\n")
    assert recipe.labels == Labels((1, -2, True, False, "a"), {"1": 2, "b": True})
    assert [type(label) for label in recipe.labels.declared] == [int, int, bool, bool, str]


def test_merged_and_aliased_yaml_sections_hold_labels_as_they_are_written_too(tmp_path: Path) -> None:
    more = "labels: &a {retired: [NO, 010]}\ngate: {focus: &f [010, 1]}\n"
    text = more.replace("labels: &a", "labels: {<<: &a").replace("010]}\ngate", "010]}}\ngate")
    recipe = recipe_for(tmp_path, ["a"], text)
    assert recipe.labels.retired == ("NO", "010") and recipe.gate.focus == ("010", "1")


@pytest.mark.parametrize(
    ("labels", "data", "left"),
    [
        ("{retired: [010]}", ["010", "8", "10"], ["10", "8"]),
        ("{retired: [1_000]}", ["1_000", "1000", "x"], ["1000", "x"]),
        ("{retired: [NO]}", ["NO", "false", "DK"], ["DK", "false"]),
        ("{aliases: {norge: NO}}", ["norge", "SE", "DK"], ["DK", "NO", "SE"]),
        ("{aliases: {NO: norway}}", ["NO", "SE", "DK"], ["DK", "SE", "norway"]),
        ("{retired: [True]}", ["True", "true", "x"], ["true", "x"]),
    ],
)
def test_a_label_of_a_recipe_meets_the_label_of_the_data_that_is_written_so(
    tmp_path: Path, labels: str, data: list[str], left: list[str]
) -> None:
    recipe_for(tmp_path, data, f"labels: {labels}\n")
    found = augmill("check", tmp_path / "recipe.yaml", "--json").last
    assert sorted(row["label"] for row in found["classes"]) == left
    assert "warnings" not in found["source"]


@pytest.mark.parametrize(
    ("kind", "values", "name", "meant"),
    [
        (pa.bool_(), [True, False], "True", "true"),
        (pa.bool_(), [True, False], "TRUE", "true"),
        (pa.bool_(), [True, False], True, "true"),
        (pa.int64(), [1, 2], "1.0", "1"),
        (pa.int64(), [1, 2], 1, "1"),
        (pa.float64(), [1.0, 2.0], "1.0", "1"),
        (pa.float64(), [1.0, 2.0], "1", "1"),
        (pa.decimal128(9, 0), [1, 2], "1.0", "1"),
        (pa.string(), ["1.0", "1"], "1.0", "1.0"),
        (pa.string(), ["1.0", "1"], 1, "1"),
        (pa.string(), ["True", "true"], "True", "True"),
    ],
)
def test_a_name_meets_the_datas_own_type(
    tmp_path: Path, kind: pa.DataType, values: list[Any], name: Any, meant: str
) -> None:
    table = pa.table(
        {"text": [f"t{at}" for at in range(8)], "label": pa.array([values[at % 2] for at in range(8)], kind)}
    )
    every = set(classes(ingested(tmp_path, table)))
    assert set(classes(ingested(tmp_path, table, labels={"retired": [name]}))) == every - {meant}
    other = next(value for value in every if value != meant)
    assert set(classes(ingested(tmp_path, table, labels={"aliases": {str(name): other}}))) == {other}
    declared = ingested(tmp_path, table, labels={"declared": [name], "unknown": "quarantine"})
    assert set(classes(declared)) == {meant} and declared.summary["refused"] == {"unknown_label": 4}


def test_a_code_with_zeros_is_no_number() -> None:
    assert [name_meant("010", like) for like in ("", 0, True)] == ["010"] * 3
    assert spelling("010") != spelling("10") and class_among("010", ["10", "8"]) is None


def test_an_aliass_label_comes_in_the_type_of_its_column(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "label": pa.array([1, 2], pa.int32())})
    made = ingested(tmp_path, table, labels={"aliases": {"1": "3.0"}})
    assert made.labels["values"] == {"3": 3, "2": 2}
    with pytest.raises(DataError, match="labels do not fit"):
        ingested(tmp_path, table, labels={"aliases": {"1": "three"}})


# --- names that no row has -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["declared: [x, y, z, nobody]", "retired: [nobody]", "aliases: {nobody: x}"])
def test_a_name_that_no_row_has_is_said_and_refused_where_the_recipe_says_stop(tmp_path: Path, key: str) -> None:
    recipe_for(tmp_path, ["x", "y", "z"], f"labels: {{{key}}}\n")
    ended = augmill("check", tmp_path / "recipe.yaml")
    assert ended.code == 0 and "no row is labelled 'nobody'" in " ".join(ended.out.split()), ended.out
    ran = augmill("run", tmp_path / "recipe.yaml", "--store", tmp_path / "store")
    assert ran.code == 0 and "no row is labelled 'nobody'" in " ".join(ran.last["warnings"])
    assert "no row is labelled 'nobody'" in ran.out.split("{")[0] or "nobody" in ran.out
    assert "no row is labelled &#39;nobody&#39;" in Path(ran.last["report"]).read_text()
    declared = "" if key.startswith("declared") else "declared: [x, y, z], "
    recipe_for(tmp_path, ["x", "y", "z"], f"labels: {{{declared}{key}, unknown: stop}}\n")
    words = ["no row is labelled 'nobody'", f"labels.{key.split(':', maxsplit=1)[0]}"]
    refused(augmill("check", tmp_path / "recipe.yaml"), 3, words)


def test_a_name_that_only_an_alias_gives_is_no_mistake() -> None:
    rules = Labels(declared=("x", "new"), aliases={"old": "new"}, retired=("new",))
    assert named_in_vain(rules, ["x", "old"], pa.string()) == []
    assert named_in_vain(rules, ["x"], pa.string()) == [
        ("labels.declared", "new"),
        ("labels.aliases", "old"),
        ("labels.retired", "new"),
    ]


def test_a_label_that_comes_with_a_later_partition_refuses_no_earlier_snapshot(tmp_path: Path) -> None:
    table = pa.table({"text": list("abcd"), "label": list("xyxz"), "day": ["2024-01-01"] * 3 + ["2024-01-02"]})
    columns = {"text": "text", "label": "label", "partition": "day"}
    labels = {"declared": ["x", "y", "z"], "unknown": "stop"}
    made = ingested(tmp_path, table, as_of="2024-01-01", columns=columns, labels=labels)
    assert any("'z'" in warning for warning in made.summary["warnings"])


# --- one label in several spellings --------------------------------------------------------------------------------------

SPELT = [("a", "Refund"), ("b", "refund "), ("c", "REFUND"), ("d", "Track"), ("e", "track")]


def test_labels_that_differ_in_case_or_blanks_are_counted_and_the_fix_named(tmp_path: Path) -> None:
    (warning, other) = ingested(tmp_path, SPELT).summary["warnings"]
    assert "3 spellings: 'REFUND' (1 rows), 'Refund' (1 rows), 'refund ' (1 rows)" in warning
    assert "labels.fold: true" in warning and "labels.aliases" in warning and "'track'" in other


def test_one_beside_one_point_nought_is_counted_and_the_fix_named(tmp_path: Path) -> None:
    made = ingested(tmp_path, [("a", "1"), ("b", "1.0"), ("c", "2"), ("d", "010"), ("e", "10")])
    (warning,) = made.summary["warnings"]
    assert "'1' (1 rows), '1.0' (1 rows)" in warning and "labels.aliases" in warning and "fold" not in warning


@given(st.permutations(SPELT))
def test_folded_labels_are_one_class_whatever_the_order_of_rows(rows: list[tuple[str, str]]) -> None:
    reader = LabelReader(Labels(fold=True))
    assert {reader.read(label).stratum for _, label in rows} == {"refund", "track"}
    assert reader.values == {"refund": "refund", "track": "track"}


def test_the_recipe_spells_a_folded_class(tmp_path: Path) -> None:
    labels = {"fold": True, "declared": ["Refund", "TRACK"], "aliases": {"Trace": "track", "zz": "refund"}}
    made = ingested(tmp_path, [*SPELT, ("f", " trace"), ("g", "ZZ")], labels=labels | {"unknown": "quarantine"})
    assert classes(made) == {"Refund": 4, "TRACK": 3} and made.labels["values"] == {
        "Refund": "Refund",
        "TRACK": "TRACK",
    }
    made = ingested(
        tmp_path, [*SPELT, ("f", "ZZ")], labels={"fold": True, "aliases": {"zz": "Refund"}, "retired": ["track "]}
    )
    assert classes(made) == {"Refund": 4} and made.summary["refused"] == {"retired_label": 2}


# --- one text under several labels ---------------------------------------------------------------------------------------

TWICE = [("same text", "a"), ("Same text!", "b"), ("same  text", "a"), ("tie", "a"), ("tie", "b"), ("sole", "c")]


def test_equal_texts_under_several_labels_are_counted_and_the_fix_named(tmp_path: Path) -> None:
    made = ingested(tmp_path, TWICE)
    (warning,) = made.summary["warnings"]
    assert warning.startswith("5 equal rows (2 different ones) have several labels; refuse")
    assert made.rows.num_rows == 6


@pytest.mark.parametrize(("rule", "stay"), [("majority", ["same text", "same  text", "sole"]), ("drop", ["sole"])])
@pytest.mark.parametrize("with_id", [False, True])
def test_conflicting_rows_leave_counted_with_place_and_reason_in_any_order(
    tmp_path: Path, rule: str, stay: list[str], with_id: bool
) -> None:
    every: dict[str, str] | None = None
    for seed in range(3):
        rows = random.Random(seed).sample(TWICE, len(TWICE))
        table = pa.table(
            {"text": [t for t, _ in rows], "label": [c for _, c in rows], "key": [f"{t}|{c}" for t, c in rows]}
        )
        columns = {"text": "text", "label": "label"} | ({"id": "key"} if with_id else {})
        made = ingested(tmp_path, table, columns=columns, refuse={"conflicts": rule, "max_share": 0.0})
        assert sorted(made.column("text")) == sorted(stay)
        assert made.summary["refused"] == {"conflicting_label": len(TWICE) - len(stay)}
        for row in made.refused:
            at = int(row["location"].split()[-1]) - 1
            assert row["row"] == rows[at][0] and row["detail"] == f"label {rows[at][1]!r}"
        found = dict(zip(made.column("text"), made.column("row_id"), strict=True))
        assert every is None or not with_id or every == found
        every = found


def test_taking_conflicting_rows_out_shifts_no_id(tmp_path: Path) -> None:
    rows = [("t", "a"), ("t", "b"), ("t", "a"), ("u", "b")]
    all_ids = ingested(tmp_path, rows).column("row_id")
    assert ingested(tmp_path, rows, refuse={"conflicts": "majority"}).column("row_id") == [
        all_ids[0],
        all_ids[2],
        all_ids[3],
    ]


# --- identity ------------------------------------------------------------------------------------------------------------


def test_a_key_added_later_counts_only_where_it_is_not_its_default(tmp_path: Path) -> None:
    plain = recipe_for(tmp_path, ["a", "b"], "labels: {declared: [a, b, 1, true]}\n")
    assert identity_of(Labels()).keys() == {"declared", "aliases", "retired", "unknown", "min_rows", "rare"}
    assert identity_of(Refuse()).keys() == {"max_share", "max_chars"}
    # As version 0.1 hashed this recipe.
    assert (
        plain.hash()[:16] == "401bbd33c8e0fa81"
        and ingest.identity(prepare_ingest(plain)[0], ())[:16] == "d0752868271fb6d2"
    )
    for more in ("labels: {fold: true}\n", "refuse: {conflicts: drop}\n"):
        text = RECIPE.replace("refuse: {max_share: 1.0}\n", "") if "refuse" in more else RECIPE
        (tmp_path / "recipe.yaml").write_text(text + more)
        other = load_recipe(tmp_path / "recipe.yaml")
        (tmp_path / "recipe.yaml").write_text(text)
        same = load_recipe(tmp_path / "recipe.yaml")
        assert other.hash() != same.hash()
        assert hash_json(identity_of(prepare_ingest(other)[0])) != hash_json(identity_of(prepare_ingest(same)[0]))


# --- rows that others made -----------------------------------------------------------------------------------------------


def test_a_label_spelt_otherwise_is_the_one_class_it_can_be() -> None:
    assert labels_alike(["0.0", "True", "A", "b", "x"], ["0", "true", "a", "b"]) == {
        "0.0": "0",
        "True": "true",
        "A": "a",
    }
    assert labels_alike(["A "], ["a", "A"]) == {}  # either


def test_a_sentence_names_a_few_labels_of_many() -> None:
    found = label_warnings([("labels.retired", str(at)) for at in range(9)], {}, (0, 0))
    assert found[0].count("'") == 10 and "and 4 more" in found[0]


def test_labels_come_back_in_every_whole_type() -> None:
    big = 2**63 + 1
    assert label_array(["x"], {"x": big}, pa.uint64()).to_pylist() == [big]
    with pytest.raises(DataError):
        label_array(["x"], {"x": big}, pa.int64())
