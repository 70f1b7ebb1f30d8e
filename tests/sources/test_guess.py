"""Columns are guessed right on sets as they are found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from reading import only, put

from augmill.tasks.sources import SourceOptions, guess_columns, list_files

SHARED = Path(os.environ.get("AUGMILL_SHARED", Path(__file__).parents[2].parent / "shared"))


def guessed(path: Path) -> dict[str, Any]:
    options = SourceOptions(path=str(path))
    out = guess_columns(list_files(options)[0], options)
    assert set(out["why"]) == {*out["text"], *filter(None, (out["label"], out["id"])), *out["date"]}
    return {key: value for key, value in out.items() if key != "why"}


@pytest.mark.parametrize(
    ("name", "text", "label"),
    [
        ("banking77/raw/train.csv", ["text"], "category"),
        ("snips/train.jsonl", ["text"], "label"),
        ("fewclue_bustm/train_few_all.jsonl", ["text", "text_b"], "label"),
        ("fewclue_tnews/train_0.jsonl", ["text"], "label"),
        ("auggpt_outputs/AugGPT1/symptoms/novel_few_shot_data_search_2_2013.csv", ["text"], "labels"),
    ],
)
def test_real_sets(name: str, text: list[str], label: str) -> None:
    if not (SHARED / "data").is_dir():
        pytest.skip("the shared sets are not here (AUGMILL_SHARED)")
    assert guessed(SHARED / "data" / name) == {"text": text, "label": label, "id": None, "date": []}


def test_ids_dates_and_labels_without_telling_names(tmp_path: Path) -> None:
    rows = "".join(f"{i},2026-01-{i % 28 + 1:02d},some longer words number {i},{'ab'[i % 2]}\n" for i in range(40))
    path = put(tmp_path / "a.csv", f"ticket_id,opened,said,kind\n{rows}")
    assert guessed(path) == {"text": ["said"], "label": "kind", "id": "ticket_id", "date": ["opened"]}


def test_an_id_that_repeats_is_none(tmp_path: Path) -> None:
    rows = "".join(f"{i // 2},some longer words number {i},{'ab'[i % 2]}\n" for i in range(40))
    assert guessed(put(tmp_path / "a.csv", f"user_id,text,label\n{rows}"))["id"] is None


def test_nothing_is_made_up(tmp_path: Path) -> None:
    file, options = only(put(tmp_path / "a.csv", "n,m\n" + "".join(f"{i},{i * 7}\n" for i in range(40))))
    assert guess_columns(file, options)["label"] is None
