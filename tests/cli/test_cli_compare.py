"""``augmill compare``: a table, a plot and a page of several generators; called again, it makes what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import augmill, refused, write_recipe

from augmill.flows import compare as flows_compare
from augmill.flows.cli import compare as cli_compare
from augmill.flows.compare import run_cell


def compare(recipe: Path, *more: object, generators: str = "rules,interpolate", seeds: int = 2) -> Any:
    out = recipe.parent / "comparison"
    return augmill("compare", recipe, "--generators", generators, "--seeds", seeds, "--out", out, *more)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(recipe, how the first call ended)."""
    recipe = write_recipe(tmp_path_factory.mktemp("compare"), 120, price={"cpu_hour": 3.6})
    return recipe, compare(recipe)


def test_it_compares_and_publishes_nothing(compared: Any) -> None:
    recipe, ended = compared
    assert ended.code == 0, ended.err
    assert (ended.last["outcome"], ended.last["cells"], ended.last["new"], ended.last["left"]) == ("compared", 4, 4, [])
    folder = recipe.parent / "comparison"
    cells = [json.loads(line) for line in (folder / "cells.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(cell["generator"], cell["seed"]) for cell in cells] == [
        ("rules", 0), ("interpolate", 0), ("rules", 1), ("interpolate", 1),
    ]  # fmt: skip
    table = (folder / "table.md").read_text(encoding="utf-8")
    assert table in ended.out and "| tiny | 66 | rules | 2 |" in table and "cost/row" in table
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert Path(ended.last["report"]) == folder / "report.html" and "augmill compare recipe.yaml --generators" in page
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert (folder / "plot.svg").read_text(encoding="utf-8").startswith("<svg xmlns=")
    assert not (recipe.parent / "store" / "public").exists()


def test_called_again_it_makes_what_is_missing(compared: Any) -> None:
    recipe, first = compared
    before = (recipe.parent / "comparison" / "table.md").read_bytes()
    again = compare(recipe)
    assert again.last == first.last | {"new": 0} and "from the store" in again.err
    assert (recipe.parent / "comparison" / "table.md").read_bytes() == before
    assert compare(recipe, seeds=3, generators="rules").last["new"] == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--generators", "rulez"), ["rulez", "rules"]),
        (("--generators", ",,"), ["--generators", "names no generator"]),
        (("--out", __file__), ["--out", "expected a folder, found a file"]),
        (("--ratios", "1,many"), ["--ratios", "'many'"]),
        (("--ratios", "0"), ["--ratios", "'0'"]),
        (("--seeds", "0"), ["--seeds", "found 0"]),
        (("--orchestrator", "cron"), ["--orchestrator", "cron"]),
    ],
)
def test_nonsense_is_refused_with_what_to_do(compared: Any, more: tuple[str, str], words: list[str]) -> None:
    refused(augmill("compare", compared[0], *more), 2, words)


def test_an_interrupt_leaves_the_table_of_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def one_and_no_more(*given: Any, **more: Any) -> Any:
        if made:
            raise KeyboardInterrupt
        made.append(run_cell(*given, **more))
        return made[0]

    monkeypatch.setattr(flows_compare, "run_cell", one_and_no_more)
    recipe = write_recipe(tmp_path, 120)
    with pytest.raises(KeyboardInterrupt):  # the command itself: what runs it would end this process
        cli_compare.compare(recipe, out=tmp_path / "comparison")
    (cell,) = (tmp_path / "comparison" / "cells.jsonl").read_text(encoding="utf-8").splitlines()
    assert (
        json.loads(cell)["generator"] == "rules" and "| rules | 1 |" in (tmp_path / "comparison/table.md").read_text()
    )


def test_without_any_cell_it_says_why(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, splits={"validation": 0.3, "test": 0.0})
    refused(compare(recipe, generators="rules", seeds=1), 3, ["no cell", "test rows", "splits.test"])
