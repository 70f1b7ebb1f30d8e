"""What every generator promises, found through the dict."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pyarrow as pa
import pytest
from generating import ROWS, UNLABELLED, Bench, ask, fields_of, options_of, part, rows_of, table

from augmill.tasks.contracts import FitInputs
from augmill.tasks.errors import DeadlineExceeded, UserError
from augmill.tasks.generators import GENERATORS
from augmill.tasks.rows.kinds import candidate_schema

NAMES = list(GENERATORS)
OF_TEXTS = [name for name in NAMES if fields_of(name) == ("text",)]
STRATA = ["refund", "track", "中文"] * 8


@pytest.fixture(scope="module", params=NAMES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(request.param, tmp_path_factory.mktemp(request.param))


def test_every_asked_row_is_answered_in_order_with_a_row_or_a_reason(bench: Bench) -> None:
    asked = ask([*STRATA, "unheard of"])
    rows = bench.sample(asked)
    fields = bench.context.fields
    assert rows.schema == candidate_schema(fields)
    assert rows["ordinal"].to_pylist() == asked.ordinals.tolist()
    assert rows["asked"].to_pylist() == asked.strata
    assert rows["seed"].to_pylist() == asked.seeds.tolist()
    for row in rows.to_pylist():
        assert (row["reason"] is None) == any(row[name] for name in fields)
        assert row["reason"] is not None or row["stratum"] in {"refund", "track", "中文"}
    assert rows["reason"][-1].as_py() is not None
    assert rows["reason"].null_count > len(STRATA) / 3
    assert bench.sample(ask([])).schema == rows.schema


def test_a_row_depends_on_its_own_request_alone(bench: Bench) -> None:
    asked = ask(STRATA)
    whole = bench.sample(asked)
    halves = [bench.sample(part(asked, at)) for at in (list(range(5)), list(range(5, len(asked))))]
    assert pa.concat_tables(halves).combine_chunks().equals(whole.combine_chunks())
    backwards = bench.sample(part(asked, list(range(len(asked)))[::-1]), threads=2)
    assert backwards.to_pylist()[::-1] == whole.to_pylist()


def test_fields_that_are_no_identity_change_no_row(bench: Bench) -> None:
    asked = ask(STRATA)
    whole = bench.sample(asked)
    free = [item for item in dataclasses.fields(bench.generator.options) if item.metadata.get("identity") is False]
    for item in free:
        assert item.metadata["why"]
        for value in (1, 3, 1000) if isinstance(item.default, int | float) else ():
            assert bench.sample(asked, **{item.name: value}).equals(whole)


def test_other_seeds_give_other_rows_unless_there_are_only_so_many(bench: Bench) -> None:
    fields = list(bench.context.fields)
    made = (bench.sample(ask(STRATA, key=key), seed=key).select(fields).to_pylist() for key in (1, 2))
    first, second = ([str(row) for row in rows] for rows in made)
    assert (first == second) == bench.generator.finite
    if not bench.generator.finite:
        assert len(set(first)) > len(first) / 2


def test_parents_are_train_rows_of_the_class(bench: Bench) -> None:
    strata = {row_id: stratum for row_id, stratum, *_ in ROWS}
    if bench.generator.origin == "pseudo_labelled":  # the row itself, which had no class
        texts = {row_id: text for row_id, _, text, *_ in UNLABELLED}
        for row in bench.sample(ask(STRATA)).to_pylist():
            assert [texts[parent] for parent in row["parent_ids"]] == [row["text"]] * (row["reason"] is None)
        return
    for row in bench.sample(ask(STRATA)).to_pylist():
        assert all(strata[parent] == row["stratum"] for parent in row["parent_ids"])


@pytest.mark.parametrize("name", NAMES)
def test_fitting_twice_in_any_order_of_rows_gives_the_same_files_and_all_of_them_are_named(
    name: str, tmp_path: Path
) -> None:
    rows = rows_of(fields_of(name))
    first, second = (Bench(name, tmp_path / place, rows=turned) for place, turned in (("a", rows), ("b", rows[::-1])))
    assert sorted(first.files) == sorted(
        path.relative_to(first.directory).as_posix() for path in first.directory.rglob("*") if path.is_file()
    )
    for file, path in first.files.items():
        assert path.suffix in {".json", ".arrow", ".safetensors"}
        assert path.read_bytes() == second.files[file].read_bytes(), file


@pytest.mark.parametrize("name", OF_TEXTS)
def test_pairs_have_both_texts(name: str, tmp_path: Path) -> None:
    rows = Bench(name, tmp_path, fields=("text", "text_b")).sample(ask(STRATA))
    assert rows.schema == candidate_schema(("text", "text_b"))
    delivered = [row for row in rows.to_pylist() if row["reason"] is None]
    assert len(delivered) > len(STRATA) / 3
    assert all(row["text"] and row["text_b"] for row in delivered)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_generator_promises_is_declared_and_its_options_are_explained(name: str) -> None:
    kind = GENERATORS[name]
    assert isinstance(kind.VERSION, int) and isinstance(kind.repeatable, bool) and isinstance(kind.finite, bool)
    assert kind.labels in ("asked", "own") and kind.normalisation in ("canonical", "fold")
    assert kind.kinds and kind.problems and isinstance(kind.kinds, tuple) and isinstance(kind.problems, tuple)
    assert kind.Options.__dataclass_params__.frozen
    assert all(item.metadata["help"] for item in dataclasses.fields(kind.Options))


@pytest.mark.parametrize("name", ["causal_lm", "masked_lm", "seq2seq"])
def test_the_deadline_ends_a_training_and_a_decoding(name: str, tmp_path: Path) -> None:
    bench = Bench(name, tmp_path / "a")
    past = dataclasses.replace(bench.context, workdir=tmp_path, deadline=time.monotonic())
    train = table(ROWS, past.fields)
    empty = train.slice(0, 0)
    with pytest.raises(DeadlineExceeded):
        bench.generator.fit(FitInputs(train, empty, empty, empty, empty), past)
    with pytest.raises(DeadlineExceeded):
        bench.generator.sample(bench.fitted, ask(STRATA), past)


@pytest.mark.parametrize("name", NAMES)
def test_before_a_fit_a_text_column_that_is_not_there_is_refused_and_one_that_is_there_is_not(
    name: str, tmp_path: Path
) -> None:
    kind = GENERATORS[name]
    options, fields = options_of(name, tmp_path), ("text", "text_b") if name in OF_TEXTS else fields_of(name)
    kind(kind.Options(**options)).preflight(fields)
    if "change" in {item.name for item in dataclasses.fields(kind.Options)}:
        second = kind(kind.Options(**options, change="text_b"))
        second.preflight(fields)
        with pytest.raises(UserError, match="`change: text_b` names no text column of this dataset; found text"):
            second.preflight(("text",))
