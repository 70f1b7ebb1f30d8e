"""What every check promises, found through the dict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from checking import TABLE_FIELDS, Bench, candidates, people, real, sentences, with_cells

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import ANY, VERDICT_SCHEMA
from augmill.testing import CHECK_LAWS

NAMES = list(CHECKS)
OF_TEXTS, OF_TABLES = ([name for name in NAMES if {kind, ANY} & set(CHECKS[name].kinds)] for kind in ("text", "table"))


@pytest.mark.parametrize("law", CHECK_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", OF_TEXTS)
def test_it_keeps_the_laws_of_checks(law: Callable[[Bench], None], name: str, tmp_path: Path) -> None:
    law(Bench(name, tmp_path / "fitted", real(sentences(12)), held_out=real(sentences(4, seed=9), prefix="h")))


@pytest.mark.parametrize("name", OF_TEXTS)
def test_pairs_are_judged_by_both_fields(name: str, tmp_path: Path) -> None:
    rows = sentences(10)
    pairs = real(rows, second=[text for _, text in rows[::-1]])
    bench = Bench(name, tmp_path, pairs, fields=("text", "text_b"))
    table = candidates(rows[:5]).append_column("text_b", pairs["text_b"].slice(5, 5))
    assert bench.judge(table).num_rows == 5


@pytest.mark.parametrize("name", OF_TABLES)
def test_rows_of_a_table_get_a_verdict_each_that_depends_on_the_row_alone(name: str, tmp_path: Path) -> None:
    bench = Bench(name, tmp_path / "a", people(60), held_out=people(9, seed=2))
    drawn = people(20, seed=1)
    empty = with_cells(drawn.slice(0, 1), **dict.fromkeys(("age", "rate", "town", "hired")))
    far = with_cells(drawn.slice(0, 1), age=1e300, town="nowhere", stratum="nobody")
    rows = pa.concat_tables([drawn, people(60).slice(0, 9), people(9, seed=2), empty, far])
    rows = rows.append_column("parent_ids", pa.array([["r0-0"]] * rows.num_rows, pa.list_(pa.string())))
    together = bench.judge(rows)
    assert together.schema == VERDICT_SCHEMA
    alone = [bench.judge(rows.slice(at, 1)).to_pylist()[0] for at in range(rows.num_rows)]
    assert together.to_pylist() == alone
    assert bench.judge(rows.slice(0, 0)).num_rows == 0
    assert 0 <= bench.learnt["real_refused"] <= 1 and bench.learnt["why"]
    again = Bench(name, tmp_path / "b", people(60), held_out=people(9, seed=2))
    assert {file: path.read_bytes() for file, path in bench.files.items()} == {
        file: path.read_bytes() for file, path in again.files.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_texts_and_numbers_are_judged_by_what_a_check_serves(name: str, tmp_path: Path) -> None:
    rows = sentences(20)
    mixed = real(rows)
    for column in TABLE_FIELDS:
        mixed = mixed.append_column(column, people(len(rows))[column])
    bench = Bench(name, tmp_path, mixed, fields=("text", *TABLE_FIELDS))
    asked = mixed.append_column("parent_ids", pa.array([[]] * len(rows), pa.list_(pa.string())))
    assert bench.judge(asked).num_rows == len(rows)


@pytest.mark.parametrize("name", NAMES)
def test_options_are_frozen_and_explained(name: str) -> None:
    kind = CHECKS[name]
    assert kind.kinds and kind.problems and isinstance(kind.kinds, tuple) and isinstance(kind.problems, tuple)
    options = kind.Options()
    assert options.__dataclass_params__.frozen
    assert all(item.metadata["help"] for item in dataclasses.fields(options))


@pytest.mark.parametrize("name", NAMES)
def test_an_option_out_of_bounds_names_itself(name: str) -> None:
    for item in dataclasses.fields(CHECKS[name].Options):
        if item.type in ("float", "int"):
            with pytest.raises(ValueError, match=item.name):
                CHECKS[name].Options(**{item.name: -1})
