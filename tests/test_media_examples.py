"""The examples of pictures and sounds, source to release: what stands in it, and what the gate finds."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from examples import RATE, SHAPES, SIDE, SOUNDS, draw_shape, make_sound
from PIL import Image
from running import SPLITS, Run, check_ledger, run

from augmill.tasks.recipe.recipe import load_recipe
from augmill.tasks.store.store import release_key

EXAMPLES = Path(__file__).parents[1] / "infra" / "examples"


def ran(name: str, folder: Path, *changes: str) -> Run:
    recipe = load_recipe(EXAMPLES / name / "recipe.yaml", store=str(folder / "store"), changes=changes)
    return run(recipe, orchestrator="none")


QUICK = ("gate.seeds=3", "gate.rule=not_worse", "gate.margin=100", "trainer.steps=20")


def test_pictures_go_from_directories_to_a_release_that_opens(tmp_path: Path) -> None:
    import datasets

    found = ran("shapes", tmp_path, *QUICK)
    assert found.result["arrangement"] == "mix"
    check_ledger(found)
    came = {path.read_bytes() for path in (EXAMPLES / "shapes/pictures").rglob("*.png")}
    rows = [row for split in SPLITS for row in found.rows(split)]
    real = [row for row in rows if row["aug_origin"] == "real"]
    made = [row for row in rows if row["aug_origin"] == "synthetic"]
    assert {row["file"]["bytes"] for row in real} == came and len(real) == 540
    assert all(row["file"]["path"].endswith(".png") for row in real)
    assert len(made) == 360 and not {row["file"]["bytes"] for row in made} & came
    by_id = {row["aug_row_id"]: row for row in real}
    for row in made:
        (parent,) = row["aug_parent_ids"]
        assert by_id[parent]["label"] == row["label"] and by_id[parent]["aug_split"] == "train"
        assert Image.open(io.BytesIO(row["file"]["bytes"])).size == (SIDE, SIDE)
    assert found.store.local is not None
    folder = found.store.local / release_key("shapes", str(found.result["release"]))
    opened = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert isinstance(opened["train"].features["file"], datasets.Image)
    assert opened["train"][0]["file"].size == (SIDE, SIDE)


def test_sounds_go_from_parquet_to_a_release_that_opens(tmp_path: Path) -> None:
    found = ran("sounds", tmp_path, *QUICK)
    assert found.result["arrangement"] == "mix"
    check_ledger(found)
    came = {clip["bytes"] for clip in pq.read_table(EXAMPLES / "sounds/sounds.parquet")["clip"].to_pylist()}
    rows = [row for split in SPLITS for row in found.rows(split)]
    made = [row for row in rows if row["aug_origin"] == "synthetic"]
    assert {row["clip"]["bytes"] for row in rows if row["aug_origin"] == "real"} <= came
    assert len(made) == 200 and not {row["clip"]["bytes"] for row in made} & came
    assert all(soundfile.info(io.BytesIO(row["clip"]["bytes"])).samplerate == RATE for row in made)
    assert found.store.local is not None
    file = next((found.store.local / release_key("sounds", str(found.result["release"])) / "train").glob("*.parquet"))
    told = json.loads(pq.read_schema(file).metadata[b"huggingface"])
    assert told["info"]["features"] == {"clip": {"_type": "Audio"}}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shapes", "sounds"])
def test_the_gate_publishes_what_transforms_bring(name: str, tmp_path: Path) -> None:
    found = ran(name, tmp_path)
    assert (found.result["outcome"], found.result["arrangement"]) == ("published", "mix")


def test_the_examples_are_what_the_program_makes() -> None:
    """The first ones of each; pixels and samples, since files hang on the encoder's version."""
    rng = np.random.default_rng(7)
    for shape in SHAPES[:1]:
        for at in range(3):
            drawn = draw_shape(shape, rng)
            with Image.open(EXAMPLES / f"shapes/pictures/train/{shape}/{at:02}.png") as picture:
                assert np.array_equal(np.asarray(picture), drawn)
    rng = np.random.default_rng(7)
    first = pq.read_table(EXAMPLES / "sounds/sounds.parquet")["clip"][0].as_py()["bytes"]
    samples, _ = soundfile.read(io.BytesIO(first), dtype="float32")
    assert np.abs(samples - make_sound(SOUNDS[0], rng)).max() < 1 / 2**14
