"""Who says a row's class: the ledger stays whole where a teacher gives rows another class than was asked for."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
from chain import WORDS, produce_and_publish, produce_snapshot, recipe_document, write_rows

from augmill.flows.rounds import Made
from augmill.tasks.errors import UserError
from augmill.tasks.recipe.recipe import Recipe, build_recipe, json_schema
from augmill.tasks.stages.extensions import check_config, checks_of
from augmill.tasks.stages.settle import verify_ledger
from augmill.tasks.store.stage import fetch, read_json
from augmill.tasks.store.store import Store, release_key

Row = dict[str, Any]


def write_free(path: Path, rows: int = 150, seed: int = 5) -> dict[str, str]:
    """Unlabelled texts as JSON lines; their true classes by text."""
    rng = np.random.default_rng(seed)
    names = sorted(WORDS)
    true = {" ".join(rng.choice(WORDS[names[at % 3]], 7)): names[at % 3] for at in range(rows)}
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in true), encoding="utf-8")
    return true


def write_mislabelled(path: Path, rows: int = 90, seed: int = 6) -> dict[str, str]:
    """A file of generated rows whose labels are wrong in every third; their true classes by text."""
    rng = np.random.default_rng(seed)
    names, true, lines = sorted(WORDS), {}, ["text,label"]
    for at in range(rows):
        text = " ".join(rng.choice(WORDS[names[at % 3]], 7))
        true[text] = names[at % 3]
        lines.append(f"{text},{names[(at + (at % 9 < 3)) % 3]}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return true


def recipe_of(directory: Path, **changes: Any) -> Recipe:
    source = write_rows(directory / "rows.csv")
    return build_recipe(recipe_document(source) | changes, base=directory)


def produced(recipe: Recipe, directory: Path) -> tuple[Made, list[Row], list[Row], Row]:
    """(what was made, accepted rows, the others, ledger)."""
    store = Store(str(directory / "store"))
    snapshot = produce_snapshot(recipe, store)
    accepted, rest = (
        pq.read_table(fetch(store, snapshot.settled, name)).to_pylist() for name in ("accepted.parquet", "rest.parquet")
    )
    return snapshot.made, accepted, rest, read_json(store, snapshot.settled, "ledger.json")


def replayed(directory: Path, label_by: str, **changes: Any) -> tuple[Recipe, dict[str, str]]:
    true = write_mislabelled(directory / "made.csv")
    entry = {"use": "replay", "path": str(directory / "made.csv"), "label_by": label_by}
    off = {"label_consistency": False}  # alone it would refuse some of the wrong ones
    return recipe_of(directory, generators=[entry], checks=off, **changes), true


def test_by_the_teacher_a_row_gets_its_class_and_the_relabel_matrix_adds_up(tmp_path: Path) -> None:
    recipe, true = replayed(tmp_path, "teacher")
    _, accepted, rest, ledger = produced(recipe, tmp_path)
    verify_ledger(ledger)
    moved = [row for row in accepted if row["asked"] != row["stratum"]]
    assert len(moved) >= 8
    assert np.mean([true[row["text"]] == row["stratum"] for row in accepted]) > 0.95
    assert all(true[row["text"]] != row["asked"] for row in moved if true[row["text"]] == row["stratum"])
    pairs = Counter((row["asked"], row["stratum"]) for row in accepted)
    assert {(item["asked"], item["final"]): item["len"] for item in ledger["relabelled"]} == pairs
    finals, asked = Counter(row["stratum"] for row in accepted), Counter(row["asked"] for row in accepted)
    assert ledger["accepted"] == finals
    assert {entry["class"]: entry["accepted"] for entry in ledger["rows"] if entry["accepted"]} == asked
    assert any(row["why"] == "teacher: unsure" for row in rest)


def test_where_both_have_to_agree_a_wrong_row_leaves_and_none_is_moved(tmp_path: Path) -> None:
    recipe, true = replayed(tmp_path, "agree")
    _, accepted, rest, ledger = produced(recipe, tmp_path)
    verify_ledger(ledger)
    assert all(row["asked"] == row["stratum"] for row in [*accepted, *rest])
    refused = [row for row in rest if row["why"] == "teacher: other_class"]
    assert len(refused) >= 15
    assert np.mean([true[row["text"]] != row["asked"] for row in refused]) > 0.9
    assert np.mean([true[row["text"]] == row["stratum"] for row in accepted]) > 0.95


def test_by_the_generator_wrong_rows_stay_and_no_teacher_is_fitted(tmp_path: Path) -> None:
    recipe, true = replayed(tmp_path, "generator")
    snapshot, accepted, _, _ = produced(recipe, tmp_path)
    assert "teacher" not in snapshot.checks
    assert np.mean([true[row["text"]] == row["stratum"] for row in accepted]) < 0.8


def test_only_the_rows_of_a_generator_that_asks_for_it_are_judged_by_the_teacher(tmp_path: Path) -> None:
    write_mislabelled(tmp_path / "made.csv")
    entries = [{"use": "rules"}, {"use": "replay", "path": str(tmp_path / "made.csv"), "label_by": "teacher"}]
    snapshot, accepted, rest, ledger = produced(recipe_of(tmp_path, generators=entries), tmp_path)
    verify_ledger(ledger)
    assert next(iter(snapshot.checks)) == "teacher"
    scored = {
        name: [
            any(score["name"] == "teacher" for score in row["scores"]) for row in accepted if row["generator"] == name
        ]
        for name in ("rules", "replay")
    }
    assert scored["rules"] and not any(scored["rules"]) and scored["replay"] and all(scored["replay"])
    assert not any(row["why"] == "teacher: unsure" for row in rest if row["generator"] == "rules")


def test_the_check_of_a_parents_class_gives_way_to_the_teacher_alone(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    checks = {name: check_config(name, options, recipe) for name, options in recipe.checks.items()}
    classes, first = {}, {}
    for label_by in ("generator", "agree", "teacher"):
        found = checks_of(dataclasses.replace(recipe.generators[0], label_by=label_by), checks)
        classes[label_by] = next(config.options.parent_class for config in found if config.extension == "relations")
        first[label_by] = found[0].extension, getattr(found[0].options, "label_by", None)
    assert classes == {"generator": "same", "agree": "same", "teacher": "any"}
    assert first == {"generator": ("length", None), "agree": ("teacher", "agree"), "teacher": ("teacher", "teacher")}


def test_edits_of_a_parent_of_another_class_are_released_under_the_teachers_class(tmp_path: Path) -> None:
    """Every word may be put in another's place, so some edits are of another class than their parent."""
    recipe = recipe_of(tmp_path, generators=[{"use": "rules", "label_by": "teacher"}], target={"per_class": 10})
    _, accepted, rest, ledger = produced(recipe, tmp_path)
    verify_ledger(ledger)
    assert accepted and all(row["parent_ids"] for row in accepted)
    assert not any(row["why"] == "relations: parent_left" for row in rest)


def test_pseudo_labelled_rows_are_released_as_such_with_their_own_row_as_parent(tmp_path: Path) -> None:
    true = write_free(tmp_path / "free.jsonl")
    changes = {"unlabelled": {"path": str(tmp_path / "free.jsonl")}, "generators": [{"use": "self_training"}]}
    recipe, store = recipe_of(tmp_path, **changes), Store(str(tmp_path / "store"))
    release, _ = produce_and_publish(recipe, store)
    assert store.local is not None
    folder = store.local / release_key(recipe.dataset, release)
    rows = pq.read_table(folder / "train").to_pylist()
    made = [row for row in rows if row["aug_origin"] == "pseudo_labelled"]
    assert len(made) > 30 and {row["aug_origin"] for row in rows} == {"real", "pseudo_labelled"}
    assert all(row["aug_generator"] == "self_training" and len(row["aug_parent_ids"]) == 1 for row in made)
    assert np.mean([true[row["text"]] == row["label"] for row in made]) > 0.95
    held = {row["text"] for name in ("validation", "test") for row in pq.read_table(folder / name).to_pylist()}
    assert not held & {row["text"] for row in made}


def test_without_unlabelled_rows_the_recipe_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="self_training learns from unlabelled rows; the recipe names none") as caught:
        recipe_of(tmp_path, generators=[{"use": "self_training"}])
    assert "unlabelled: {path: ...}" in caught.value.fix


@pytest.mark.parametrize("value", ["techer", None, 1, ["agree"]])
def test_an_unknown_labeller_is_refused_by_reader_and_schema(tmp_path: Path, value: Any) -> None:
    entries = [{"use": "rules", "label_by": value}]
    with pytest.raises(UserError, match="expected 'generator' or 'teacher' or 'agree'") as caught:
        recipe_of(tmp_path, generators=entries)
    assert "generators.0.label_by" in caught.value.where
    validator = jsonschema.Draft202012Validator(json_schema())
    document = recipe_document(tmp_path / "rows.csv")
    assert not validator.is_valid(document | {"generators": entries})
    assert validator.is_valid(document | {"generators": [{"use": "rules", "label_by": "agree"}]})


def test_a_teacher_that_is_off_cannot_label(tmp_path: Path) -> None:
    entries = [{"use": "rules", "label_by": "agree"}]
    with pytest.raises(UserError, match="needs the check `teacher`, which is off"):
        recipe_of(tmp_path, generators=entries, checks={"teacher": False})


def test_who_labels_is_part_of_what_the_recipe_says(tmp_path: Path) -> None:
    hashes = {
        label_by: recipe_of(tmp_path, generators=[{"use": "rules", "label_by": label_by}]).hash()
        for label_by in ("generator", "teacher", "agree")
    }
    assert len(set(hashes.values())) == 3
