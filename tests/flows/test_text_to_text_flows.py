"""Questions and dialogues from source to release: answers kept, types kept, opened by what trains on them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from chat_server import Act, Seen, as_answer, chat_server
from dated import inline_workers
from running import Run, check_again, run
from tiny_chat import data_of, endpoint, instruct_model

from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.rows.kinds.dialogue import TURNS

__all__ = ["inline_workers"]
pytestmark = pytest.mark.usefixtures("inline_workers")
NAMES = ("Alder", "Brisk", "Corvo", "Dune", "Elbo", "Fable", "Gorse", "Haven", "Iris", "Jolt")
FACTS = {
    "built of": ("tin", "oak", "pale glass"),
    "found in": ("the north hall", "a wet cellar"),
    "run by": ("Ada", "Tom"),
}
WAYS = ("What is the {n} {a}?", "Tell me, the {n} is {a} what?", "Do you know what the {n} is {a}?")
ROWS = [
    (way.format(n=name, a=about), f"{known[at % len(known)]}, {name}")
    for at, name in enumerate(NAMES)
    for about, known in FACTS.items()
    for way in WAYS
]


def recipe_of(folder: Path, **changes: Any) -> Recipe:
    document: dict[str, Any] = {
        "dataset": "facts",
        "source": {"path": str(folder / "rows.jsonl")},
        "columns": {"inputs": {"question": "text"}, "target": {"answer": "text"}},
        "splits": {"validation": 0.3, "test": 0.2},
        "target": {"multiply": 1.5},
        "generators": [{"use": "rules"}],
        "validation": {"enabled": True},
        "gate": {"seeds": 3, "resamples": 200, "rule": "not_worse", "margin": 100.0},
        "run": {"orchestrator": "none", "threads": 1, "store": str(folder / "store")},
    }
    return build_recipe(document | changes, base=folder)


def write_lines(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def released(ran: Run) -> pa.Table:
    return pa.concat_tables([pq.read_table(ran.folder / split) for split in ("train", "validation", "test")])


def test_a_question_that_was_edited_has_its_parents_answer_and_the_report_shows_both(tmp_path: Path) -> None:
    write_lines(tmp_path, [{"question": question, "answer": answer} for question, answer in ROWS])
    ran = run(recipe_of(tmp_path))
    check_again(ran)
    assert ran.result["arrangement"] == "mix" and set(ran.result) >= {"release", "new"}
    rows = released(ran)
    real = rows.filter(pc.equal(rows["aug_origin"], "real"))
    answers = dict(zip(real["aug_row_id"].to_pylist(), real["answer"].to_pylist(), strict=True))
    assert sorted(zip(real["question"].to_pylist(), real["answer"].to_pylist(), strict=True)) == sorted(set(ROWS))
    made = ran.synthetic()
    assert len(made) > 15 and all(row["answer"] == answers[row["aug_parent_ids"][0]] for row in made)
    page = next((tmp_path / "store/private/reports").rglob("index.html")).read_text()
    assert "ROUGE-L" in page and "chrF" in page and made[0]["answer"] in page


COPYING = """
import sys, pyarrow.parquet as pq, pyarrow as pa
train, held, _, out = sys.argv[1:]
rows, asked = pq.read_table(train), pq.read_table(held)
known = [(set(text.split()), answer) for text, answer in zip(rows["text"].to_pylist(), rows["target"].to_pylist())]
said = [max(known, key=lambda one: len(one[0] & set(text.split())))[1] for text in asked["text"].to_pylist()]
pq.write_table(pa.table({"row": range(len(said)), "target": said}), out)
"""


def test_a_program_of_the_users_own_answers_in_texts(tmp_path: Path) -> None:
    write_lines(tmp_path, [{"question": question, "answer": answer} for question, answer in ROWS])
    (tmp_path / "train.py").write_text(COPYING)
    command = f"{sys.executable} {tmp_path / 'train.py'} {{train}} {{eval}} {{seed}} {{predictions}}"
    ran = run(recipe_of(tmp_path, trainer={"use": "command", "command": command}))
    page = next((tmp_path / "store/private/reports").rglob("index.html")).read_text()
    assert ran.result["arrangement"] == "mix" and "ROUGE-L" in page


def reword(seen: Seen, number: int) -> Act:
    (shown,) = data_of(seen.body["messages"])
    count = int(re.search(r"exactly (\d+) objects", seen.body["messages"][0]["content"])[1])  # type: ignore[index]
    rows = []
    for at in range(count):
        *before, last = shown["messages"]
        said = f"{('Please', 'Quick one', 'So')[at % 3]}: {last['content'].lower()} ({seen.body['seed'] % 1000 + at})"
        rows.append({"messages": [*before, {"role": "user", "content": said}]})
    return Act(body=as_answer(json.dumps(rows)))


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_dialogues_are_released_as_chat_templates_read_them(tmp_path: Path, format: str) -> None:
    system = {"role": "system", "content": "Be brief."}
    rows = [
        {
            "messages": [system, {"role": "user", "content": ask}, {"role": "assistant", "content": reply}],
            "source": "me",
        }
        for ask, reply in ROWS
    ]
    rows += [{"messages": [{"role": "wizard", "content": "hm"}], "source": "me"}, {"messages": [], "source": "me"}]
    write_lines(tmp_path, rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with chat_server(reword) as server:
        ran = run(
            recipe_of(
                tmp_path,
                source={"path": str(tmp_path / f"rows.{format}"), "dialogue": "messages"},
                columns={"inputs": {"messages": "dialogue"}, "target": {"reply": "text"}},
                generators=[{"use": "chat", "write": "questions", **endpoint(server)}],
            )
        )
    assert ran.result["arrangement"] == "mix"
    found = released(ran)
    assert found.schema.field("messages").type == TURNS and found.schema.field("reply").type == pa.string()
    made = ran.synthetic()
    assert len(made) > 15 and {tuple(turn["role"] for turn in row["messages"]) for row in made} == {("system", "user")}
    real = {row["aug_row_id"]: row for row in found.to_pylist() if row["aug_origin"] == "real"}
    assert len(real) == len(set(ROWS))
    for row in made:
        parent = real[row["aug_parent_ids"][0]]
        assert row["reply"] == parent["reply"] and row["messages"][0] == system and row["source"] is None
    page = next((tmp_path / "store/private/reports").rglob("index.html")).read_text()
    assert "<div><b>system</b> Be brief.</div><div><b>user</b> " in page and "system: Be brief. | user:" not in page
    _open(ran, len(found.filter(pc.equal(found["aug_split"], "train"))))


def _open(ran: Run, rows: int) -> None:
    from datasets import load_dataset
    from transformers import AutoTokenizer

    files = sorted(map(str, (ran.folder / "train").glob("*.parquet")))
    train = load_dataset("parquet", data_files=files, split="train", cache_dir=str(ran.folder.parents[3] / "cache"))
    assert len(train) == rows
    tokenizer = AutoTokenizer.from_pretrained(instruct_model())
    for row in list(train)[:5]:
        whole = [*row["messages"], {"role": "assistant", "content": row["reply"]}]
        text = tokenizer.apply_chat_template(whole, tokenize=False)
        assert text.endswith(f"<|assistant|>{row['reply']}<|end|>") and row["messages"][-1]["content"] in text
