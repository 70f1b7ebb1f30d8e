"""Generators that change the inputs of a row and keep what is to be learnt: each row has its first parent's target."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from generating import ROWS, ask, options_of, table

from augmill.tasks.contracts import Generator
from augmill.tasks.generators import GENERATORS
from augmill.tasks.rows.kinds.dialogue import TURNS
from augmill.testing import GENERATOR_LAWS, GeneratorBench

KEEPING = [
    name
    for name, kind in GENERATORS.items()
    if "text_to_text" in kind.problems and "text" in kind.kinds and name not in ("back_translation", "chat")
]


def answered() -> pa.Table:
    rows = table(ROWS, ("text",))
    target = pa.array([f"answer to {name}" for name in rows["row_id"].to_pylist()], pa.large_string())
    return rows.add_column(2, "target", target)


def _generator(name: str, folder: Path) -> Generator:
    return GENERATORS[name](GENERATORS[name].Options(**options_of(name, folder)))


@pytest.mark.parametrize("name", KEEPING)
def test_a_made_row_has_its_parents_target_and_the_laws_hold(name: str, tmp_path: Path) -> None:
    bench = GeneratorBench(_generator(name, tmp_path), tmp_path, rows=answered())
    made = bench.sample(ask(bench.strata)).to_pylist()
    delivered = [row for row in made if row["reason"] is None]
    assert len(delivered) > len(made) / 3
    for row in made:
        wanted = f"answer to {row['parent_ids'][0]}" if row["reason"] is None else None
        assert row["target"] == wanted
    for law in GENERATOR_LAWS:
        law(GeneratorBench(_generator(name, tmp_path), tmp_path / law.__name__, rows=answered()))


def test_of_a_dialogue_what_its_user_says_last_is_edited_and_all_else_stays(tmp_path: Path) -> None:
    rows = answered()
    system, before = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello there you"}
    said = rows["text"].to_pylist()
    turns = [[system, before, {"role": "user", "content": text}, {"role": "tool", "content": "42"}] for text in said]
    turns[0] = [system]  # nobody says anything
    rows = rows.drop_columns("text").append_column("dialogue:chat", pa.array(turns, TURNS))
    bench = GeneratorBench(_generator("rules", tmp_path), tmp_path / "bench", rows=rows)
    made = [row for row in bench.sample(ask(bench.strata)).to_pylist() if row["reason"] is None]
    known = dict(zip(rows["row_id"].to_pylist(), turns, strict=True))
    assert len(made) > 10
    for row in made:
        (parent,) = row["parent_ids"]
        assert [*row["dialogue:chat"][:2], row["dialogue:chat"][3]] == [*known[parent][:2], known[parent][3]]
        assert row["dialogue:chat"][2]["content"] != known[parent][2]["content"] and parent != rows["row_id"][0].as_py()
        assert row["target"] == f"answer to {parent}"
    for law in GENERATOR_LAWS:
        law(GeneratorBench(_generator("rules", tmp_path), tmp_path / law.__name__, rows=rows))
