"""The example that ships: its gate publishes what carries knowledge and refuses what does not, and test agrees in sign."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from running import SPLITS, Run, check_again, check_ledger, check_no_leak, check_readers, folded, run

from augmill.tasks.recipe.recipe import load_recipe

EXAMPLE = Path(__file__).parents[1] / "infra" / "examples" / "support"


def evidence(ran: Run) -> dict[str, Any]:
    (key,) = (key for key in ran.store.list_keys("private/manifests/evaluate") if key.endswith(".json"))
    manifest = ran.store.read_sealed(key)
    assert manifest is not None
    entry = manifest["files"]["evidence.json"]
    found: dict[str, Any] = json.loads(ran.store.fetch_object(entry["sha256"], entry["size"]).read_text())
    return found


@pytest.mark.slow
def test_the_example_publishes_its_mix_under_prefect(
    tmp_path: Path, prefect_api: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run(load_recipe(EXAMPLE / "recipe.yaml", store=str(tmp_path / "store")))
    assert (ran.result["outcome"], ran.result["arrangement"]) == ("published", "mix")
    found = evidence(ran)
    for comparison in found["test"]["comparisons"].values():
        assert comparison["gains"][found["judged_by"]]["gain"] > 0
    ledger, counts = check_ledger(ran), ran.manifest["counts"]
    real = {name: count - ledger["accepted"].get(name, 0) for name, count in counts["train"]["classes"].items()}
    filled = {name: count + ledger["shortfall"][name] for name, count in counts["train"]["classes"].items()}
    assert set(filled.values()) == {max(real.values())}
    check_no_leak(ran)
    check_readers(ran, tmp_path / "cache")
    capsys.readouterr()
    check_again(ran)
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("fit", "generate", "settle"))]
    assert len(shown) > 8 and all(line.endswith("unchanged, from the store") for line in shown)


@pytest.mark.slow
def test_a_generator_that_knows_nothing_new_is_refused_and_the_dirt_is_dealt_with(tmp_path: Path) -> None:
    ran = run(load_recipe(EXAMPLE / "recipe_word_deletion.yaml", store=str(tmp_path / "store")), orchestrator="none")
    assert ran.result["outcome"] in ("harmful", "inconclusive")
    assert (ran.result["action"], ran.manifest["counts"]["train"]["synthetic"]) == ("best_real", 0)
    check_ledger(ran)
    check_no_leak(ran)
    with (EXAMPLE / "intents.csv").open(encoding="utf-8", newline="") as stream:
        given = list(csv.DictReader(stream))
    released = {row["id"]: row for split in SPLITS for row in ran.rows(split)}
    held_out = {folded(row["text"]) for row in given if row["split"] != "train"}
    left = [row for row in given if row["id"] not in released]
    leaked = [
        row for row in left if row["split"] == "train" and folded(row["text"]) in held_out and row["text"].strip()
    ]
    rare = [row for row in left if row["intent"] in ("spam", "track_parcle")]
    empty = [row for row in left if not row["text"].strip()]
    assert (len(leaked), len(rare), len(empty)) == (5, 2, 3) and len(left) == 10
    assert sum(row["text"].startswith("\ufeff") for row in given) == 9
    for row in given:
        if row["id"] in released:
            kept = {name: released[row["id"]][name] for name in row}
            assert kept == row | {"text": row["text"].removeprefix("\ufeff")}
