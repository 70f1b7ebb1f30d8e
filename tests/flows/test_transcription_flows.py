"""Sound to text from source to release: strings of tones, heard by `ctc`, made anew by `transforms`; what the gate, the

report and the release say of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from commands import augmill
from running import SPLITS, Run, run
from toned import string_of_tones

from augmill.tasks.recipe.recipe import Recipe, load_recipe
from augmill.tasks.store.store import release_key

FILES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def strings(folder: Path, split: bool = True) -> Path:
    """80 strings of tones, as `datasets` writes them."""
    made = [string_of_tones(at) for at in range(80)]
    columns: dict[str, Any] = {
        "audio": pa.array([{"bytes": file, "path": f"{at}.wav"} for at, (_, file) in enumerate(made)], FILES),
        "sentence": [text for text, _ in made],
    }
    if split:
        columns["split"] = [("train", "train", "validation", "test")[at % 4] for at in range(80)]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "strings.parquet")
    return folder / "strings.parquet"


def recipe(folder: Path, **changes: Any) -> Recipe:
    document: dict[str, Any] = {
        "dataset": "strings",
        "source": {"path": str(strings(folder))},
        "columns": {"inputs": {"audio": "audio"}, "target": {"sentence": "text"}},
        "splits": {"column": "split"},
        "target": {"per_class": 50},
        "generators": [{"use": "transforms"}],
        "trainer": {"use": "ctc", "width": 16, "steps": 30, "batch": 8, "learning_rate": 0.02},
        "gate": {"seeds": 3, "rule": "not_worse", "margin": 100},
        "run": {"store": str(folder / "store"), "orchestrator": "none"},
        **changes,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return load_recipe(folder / "recipe.yaml")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(recipe(tmp_path_factory.mktemp("strings")), orchestrator="none")


def test_a_transcript_goes_along_from_the_parent_into_the_release(ran: Run) -> None:
    assert (ran.result["outcome"], ran.result["arrangement"]) == ("published", "mix"), ran.result
    rows = [row for split in SPLITS for row in ran.rows(split)]
    real = {row["aug_row_id"]: row for row in rows if row["aug_origin"] == "real"}
    made = [row for row in rows if row["aug_origin"] == "synthetic"]
    came = dict(reversed(string_of_tones(at)) for at in range(80))
    assert {(row["audio"]["bytes"], row["sentence"]) for row in real.values()} <= set(came.items()) and len(real) > 70
    assert made and not {row["audio"]["bytes"] for row in made} & set(came)
    for row in made:
        (parent,) = row["aug_parent_ids"]
        assert real[parent]["aug_split"] == "train" and row["sentence"] == real[parent]["sentence"]


def test_the_release_opens_as_sounds_with_texts(ran: Run, tmp_path: Path) -> None:
    import datasets

    assert ran.store.local is not None
    folder = ran.store.local / release_key("strings", str(ran.result["release"]))
    assert "automatic-speech-recognition" in (folder / "README.md").read_text(encoding="utf-8")
    opened = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert isinstance(opened["train"].features["audio"], datasets.Audio)
    assert opened["train"].features["sentence"].dtype in ("string", "large_string")


def test_init_finds_sounds_and_transcripts_in_what_check_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = augmill("init", strings(tmp_path, split=False), "--out", "recipe.yaml")
    assert ended.code == 0, ended.err
    written = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert written["columns"]["inputs"] == {"audio": "audio"} and written["columns"]["target"] == {"sentence": "text"}
    assert load_recipe(tmp_path / "recipe.yaml").problem.name == "transcription"
    checked = augmill("check", "recipe.yaml")
    assert checked.code == 0 and "80 rows read: 80 used, 0 refused" in checked.out, checked.err + checked.out
