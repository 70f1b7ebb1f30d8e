"""What every generator promises, found through the dict."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from generating import ROWS, UNLABELLED, Bench, ask, fields_of, options_of, table

from augmill.tasks.contracts import FitInputs
from augmill.tasks.errors import DeadlineExceeded, UserError
from augmill.tasks.generators import GENERATORS
from augmill.tasks.rows.kinds import candidate_schema
from augmill.testing import GENERATOR_LAWS

NAMES = [name for name, kind in GENERATORS.items() if set(kind.kinds) != {"audio"}]  # those: test_speech.py
OF_TEXTS = [name for name in NAMES if fields_of(name) == ("text",)]
STRATA = ["refund", "track", "中文"] * 8


@pytest.fixture(scope="module", params=NAMES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("law", GENERATOR_LAWS, ids=lambda law: law.__name__)
def test_it_keeps_the_laws_of_generators(law: Callable[[Bench], None], bench: Bench) -> None:
    law(bench)


def test_of_the_classes_that_train_has_a_third_is_delivered(bench: Bench) -> None:
    assert bench.sample(ask(STRATA))["reason"].null_count > len(STRATA) / 3


def test_a_pseudo_labelled_row_is_its_parent(tmp_path: Path) -> None:
    bench = Bench("self_training", tmp_path)
    texts = {row_id: text for row_id, _, text, *_ in UNLABELLED}
    for row in bench.sample(ask(STRATA)).to_pylist():
        assert [texts[parent] for parent in row["parent_ids"]] == [row["text"]] * (row["reason"] is None)


@pytest.mark.parametrize("name", OF_TEXTS)
def test_pairs_have_both_texts(name: str, tmp_path: Path) -> None:
    rows = Bench(name, tmp_path, fields=("text", "text_b")).sample(ask(STRATA))
    assert rows.schema == candidate_schema(("text", "text_b"))
    delivered = [row for row in rows.to_pylist() if row["reason"] is None]
    assert len(delivered) > len(STRATA) / 3
    assert all(row["text"] and row["text_b"] for row in delivered)


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
