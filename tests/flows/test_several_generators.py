"""A recipe of several generators: each counts its rows by itself, and all of them are rows of one round."""

from __future__ import annotations

from pathlib import Path

from chain import tiny_recipe, write_rows
from running import check_ledger, run


def test_rows_of_every_generator_of_a_round_are_accepted(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        write_rows(tmp_path / "rows.csv"),
        generators=[{"use": "rules", "operations": {"swap": 1.0}}, {"use": "interpolate"}],
        gate={"seeds": 3, "resamples": 200, "rule": "not_worse", "margin": 100},
        validation={},
        run={"store": str(tmp_path / "store")},
    )
    found = run(recipe, orchestrator="none")
    assert found.result["outcome"] == "published", found.result["reason"]
    check_ledger(found)
    assert {row["aug_generator"] for row in found.rows("train")} == {None, "rules", "interpolate"}
