"""``augmill init`` on questions with answers, on sources with translations, and on dialogues."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from commands import augmill

QUESTIONS = [f"what does part number {at} of the {('mill', 'ferry', 'tower')[at % 3]} weigh" for at in range(60)]
ANSWERS = [f"part {at} weighs {3 * at + 2} stone" for at in range(60)]


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


DIALOGUES = [{"messages": talk(*pair), "id": f"d{at}"} for at, pair in enumerate(zip(QUESTIONS, ANSWERS, strict=True))]


def pairs(asked: str, answered: str) -> list[dict[str, Any]]:
    return [{asked: one, answered: other} for one, other in zip(QUESTIONS, ANSWERS, strict=True)]


@pytest.mark.parametrize(
    ("rows", "columns", "source"),
    [
        (pairs("question", "answer"), ({"question": "text"}, {"answer": "text"}), {}),
        (pairs("source", "target"), ({"source": "text"}, {"target": "text"}), {}),
        (pairs("Prompt", "Completion"), ({"Prompt": "text"}, {"Completion": "text"}), {}),
        (DIALOGUES, ({"messages": "dialogue"}, {"reply": "text"}), {"dialogue": "messages"}),
    ],
    ids=["questions", "translations", "prompts", "dialogues"],
)
@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_init_finds_what_is_asked_and_what_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], columns: Any, source: Any, format: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if format == "jsonl":
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    ended = augmill("init", f"rows.{format}", "--out", "recipe.yaml")
    assert ended.code == 0, ended.err
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert (recipe["columns"]["inputs"], recipe["columns"]["target"]) == columns
    assert recipe["source"] == {"path": f"rows.{format}"} | source and recipe["generators"] == [{"use": "rules"}]
    named = re.findall(r"^# trainer: (\w+) ", (tmp_path / "recipe.yaml").read_text(), re.MULTILINE)
    assert not named, "no other trainer serves texts that are learnt"
    checked = augmill("check", "recipe.yaml")
    assert checked.code == 0 and "60 rows read: 60 used, 0 refused" in checked.out, checked.err


def test_a_few_short_answers_are_still_labels(tmp_path: Path) -> None:
    rows = [{"question": question, "answer": ("yes", "no")[at % 2]} for at, question in enumerate(QUESTIONS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = augmill("init", tmp_path / "rows.jsonl", "--out", tmp_path / "recipe.yaml")
    assert ended.code == 0, ended.err
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["columns"] == {"text": "question", "label": "answer"}
