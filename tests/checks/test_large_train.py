"""A train split that is not held at once: what is learnt from it is what the plain definitions say, and the same files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checking import Bench, candidates, real, sentences
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.checks import base, length, relations
from augmill.tasks.checks.label_consistency import _spread
from augmill.tasks.contracts import Context, FitInputs
from augmill.tasks.generators import GENERATORS
from augmill.tasks.rows import parts
from augmill.tasks.rows.folds import deal_folds
from augmill.tasks.rows.kinds import equal_keys
from augmill.tasks.rows.parts import MAPPED, in_files
from augmill.tasks.store import stage

ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.text("xyZ 一", max_size=4)), min_size=1, max_size=40)
CHECKED = ("relations", "length", "label_consistency", "garbage", "label_set")


@given(rows=ROWS, folds=st.integers(1, 6), size=st.sampled_from([1, 3, 1 << 15]))
def test_folds_are_dealt_by_the_hashes_of_the_rows_whatever_is_read_at_once(
    rows: list[tuple[str, str]], folds: int, size: int
) -> None:
    table = real(rows)
    digests = [hashlib.sha256(key).digest() for key in equal_keys(table, ("text",))]
    strata = table["stratum"].to_pylist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "SLICE", size)
        found = base.fold_numbers(table, ("text",), folds).tolist()
    assert found == deal_folds(strata, list(zip(digests, strata, strict=True)), folds).tolist()


@given(rows=ROWS, size=st.sampled_from([1, 3, 1 << 15]))
def test_the_first_row_that_equals_each_is_the_first_with_its_key(rows: list[tuple[str, str]], size: int) -> None:
    table, keys = real(rows), equal_keys(real(rows), ("text",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relations, "slices", lambda whole: (whole.slice(at, size) for at in range(0, len(whole), size)))
        found = relations._first_equal(relations._digests_by(table, ("text",))["fold"]).tolist()
    assert found == [keys.index(key) for key in keys]


@given(
    known=st.sets(st.text(max_size=3), max_size=30),
    asked=st.lists(st.text(max_size=3) | st.none(), max_size=30),
    few=st.sampled_from([0, 100]),
    width=st.sampled_from([1, 3, 1 << 30]),
)
def test_a_name_is_found_at_its_place_however_many_there_are_and_where_hashes_collide(
    known: set[str], asked: list[str], few: int, width: int
) -> None:
    names = sorted(known)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relations, "FEW", few)
        patch.setattr(relations, "_hashes", lambda of: np.array([hash(one) % width for one in of], np.int64))
        found = relations._Names(pa.chunked_array([names[:7], names[7:]], pa.string())).find(asked).tolist()
    assert found == [names.index(name) if name in known else -1 for name in asked]


@given(strata=st.lists(st.sampled_from("abcd"), min_size=1, max_size=60), most=st.integers(1, 70))
def test_rows_are_chosen_evenly_over_each_class(strata: list[str], most: int) -> None:
    share, chosen = min(1.0, most / len(strata)), list[int]()
    for name in set(strata):
        rows = [at for at, of in enumerate(strata) if of == name]
        count = min(len(rows), max(2, int(share * len(rows))))
        chosen += [rows[at * len(rows) // count] for at in range(count)]
    assert _spread(pa.array(strata), most).tolist() == sorted(chosen)


@given(
    texts=st.lists(st.text("ab ", max_size=9), min_size=1, max_size=20),
    bounds=st.dictionaries(
        st.sampled_from(["characters", "words"]), st.tuples(st.integers(1, 4), st.integers(2, 8)).map(sorted)
    ),
)
def test_a_text_is_refused_for_the_first_unit_that_it_breaks(texts: list[str], bounds: dict[str, list[int]]) -> None:
    def plain(text: str) -> str | None:
        if not text:
            return "empty"
        lengths = {"characters": len(text), "words": text.count(" ") + 1}
        for unit, (low, high) in bounds.items():
            if not low <= lengths[unit] <= high:
                return "too_short" if lengths[unit] < low else "too_long"
        return None

    found = length.refused(length.measure(texts, spaced=True), bounds)
    assert [length.REASONS[at] for at in found.tolist()] == [plain(text) for text in texts]


VALUES = st.lists(
    st.tuples(st.text(max_size=3) | st.none(), st.integers(-3, 3) | st.none(), st.binary(max_size=3), st.booleans()),
    max_size=30,
)


@given(rows=VALUES, cut=st.integers(1, 9), offset=st.integers(0, 5))
def test_a_table_in_files_is_the_table(rows: list[tuple[Any, ...]], cut: int, offset: int) -> None:
    schema = pa.schema([("text", pa.string()), ("number", pa.int32()), ("file", pa.binary()), ("is", pa.bool_())])
    table = pa.table(list(zip(*rows, strict=True)) if rows else [[]] * 4, schema=schema).slice(offset)
    found = in_files((table.slice(at, cut) for at in range(0, table.num_rows, cut)), schema)
    assert found.equals(table)
    found.validate(full=True)
    assert found.take(pa.array(range(found.num_rows), pa.int64())).equals(table)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", CHECKED)
def test_a_check_writes_the_same_files_and_says_the_same_of_a_train_split_that_it_reads_in_parts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, held = [*sentences(40), *sentences(3)], sentences(4, seed=1)
    asked = candidates(sentences(20, seed=2), [["r1"], ["r2", "gone"], []] * 20)
    whole = Bench(name, tmp_path / "whole", real(rows), held_out=real(held, prefix="h"))
    said = whole.judge(asked).to_pylist()
    for module in (base, relations):
        monkeypatch.setattr(module, "SLICE", 7)
    monkeypatch.setattr(relations, "FEW", 0)
    part = in_files((real(rows).slice(at, 11) for at in range(0, len(rows), 11)), real(rows).schema)
    apart = Bench(name, tmp_path / "parts", part, held_out=real(held, prefix="h"))
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    assert apart.judge(asked).to_pylist() == said
    assert json.loads((next((tmp_path / "whole").rglob("check.json"))).read_text())["abstains"] in (True, False)


def test_parents_of_a_large_train_split_are_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one record batch: what a generator's rows hang on is its artifact's content."""
    rows = real([*sentences(40), ("fee", "x")])
    none = rows.slice(0, 0)
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
        context = Context(0, ("text",), tmp_path / folder)
        rules = GENERATORS["rules"]
        rules(rules.Options()).fit(FitInputs(rows, none, none, none, none), context)
        monkeypatch.setattr(parts, "MAPPED", 0)
        monkeypatch.setattr(parts, "PART_ROWS", 7)
    assert MAPPED > 0 and files_of(tmp_path / "whole") == files_of(tmp_path / "parts")


def test_a_fits_inputs_are_the_rows_of_the_split_whether_they_are_read_into_memory_or_into_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = real(sentences(40), second=["b"] * 120).append_column("user.n", pa.array(range(120)))
    pq.write_table(rows, tmp_path / "train.parquet", row_group_size=50)
    columns = ["row_id", "stratum", "text", "text_b"]
    whole = stage._read_inputs(tmp_path / "train.parquet", columns)
    monkeypatch.setattr(stage, "MAPPED", 0)
    monkeypatch.setattr(parts, "PART_ROWS", 7)
    found = stage._read_inputs(tmp_path / "train.parquet", columns)
    assert found.schema.equals(whole.schema, check_metadata=True) and found.equals(rows.select(columns))
    assert [column.num_chunks for column in found.columns] == [1] * 4
