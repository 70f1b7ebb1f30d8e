"""The graph that Prefect shows of a run is the way its data took, and no other; its names tell runs and tasks apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chain import recipe_document, tiny_recipe, write_rows
from dated import day, write_days
from recorded import asking, flow_runs, graph, recording_session, task_runs

from augmill.flows.augment import augment
from augmill.flows.flow import call_flow
from augmill.flows.run import parameters_of, shared
from augmill.tasks.recipe.recipe import Recipe, load_recipe

pytestmark = pytest.mark.slow

CHECKS = ("garbage", "label_consistency", "label_set", "length", "relations")
Graph = dict[str, dict[str, list[str]]]


def small_recipe(folder: Path, dataset: str, **changes: Any) -> Recipe:
    rows = folder / "rows.csv"
    if not rows.exists():
        write_rows(rows, 90)
    run = {"orchestrator": "none", "shard_rows": 1000, "store": str(folder / dataset)} | changes.pop("run", {})
    return tiny_recipe(rows, dataset=dataset, run=run, **changes)


def record(recipe: Recipe, as_of: str | None = None) -> tuple[Any, dict[str, Any]]:
    """(the newest flow run of that snapshot, its task runs by name)."""
    session = recording_session(recipe)
    with shared(session):
        call_flow(session, augment, **parameters_of(recipe), as_of=as_of)
    with asking() as client:
        run = flow_runs(client, f"{as_of or 'all'} {recipe.dataset}")[-1]
        return run, task_runs(client, run, last="publish")


def shards_of(tasks: dict[str, Any], place: str = "") -> list[int]:
    """How many shards each round had."""
    numbers = [re.fullmatch(rf"{place}generate (\d+)\.(\d+)", name) for name in tasks]
    rounds = [int(found[1]) for found in numbers if found is not None]
    return [rounds.count(number) for number in range(1, max(rounds) + 1)]


def produced(shards: Sequence[Sequence[str]], *, place: str = "", split: str = "split", weighed: int = -1) -> Graph:
    """Fits and rounds; ``shards``: of each round and shard the generator; ``weighed``: after so many rounds (adaptive)."""
    plan = "plan" if weighed < 0 else "plan_adaptive"
    checks = [f"{place}fit_check {name}" for name in CHECKS]
    fits = sorted({f"{place}fit {generator}" for of in shards for generator in of})
    expected: Graph = {name: {"split": [split]} for name in [*checks, *fits]}
    made: list[str] = []
    for number, generators in enumerate([*shards, ()], start=1):  # the last plan finds that every class has its target
        before = {"settled": [f"{place}settle {number - 1}"]} if number > 1 else {}
        expected[f"{place}{plan} {number}"] = {"split": [split], **before}
        if weighed > 0 and number > 1:
            expected[f"{place}{plan} {number}"]["weighed"] = [f"weigh {min(number - 1, weighed)}"]
            if number - 1 <= weighed:
                expected[f"weigh {number - 1}"] = {"split": [split], **before}
        for shard, generator in enumerate(generators):
            made.append(f"{place}generate {number}.{shard}")
            planned = [f"{place}{plan} {number}"]
            expected[made[-1]] = {"planned": planned, "fitted": [f"{place}fit {generator}"], "checks": checks}
        if generators:
            expected[f"{place}settle {number}"] = {"shards": sorted(made), **before}
    return expected


def around(settled: str, evaluated: str = "evaluate") -> Graph:
    """What stands before and behind the rounds."""
    return {
        "ingest": {},
        "gather": {"units": ["ingest"]},
        "split": {"rows": ["gather"]},
        "mix": {"split": ["split"], "settled": [settled]},
        "evaluate": {"split": ["split"], "mixed": ["mix"], "settled": [settled]},
        "release": {
            "rows": ["gather"],
            "split": ["split"],
            "mixed": ["mix"],
            "settled": [settled],
            "evaluated": [evaluated],
        },
        "put": {"built": ["release"]},
        "publish": {"released": ["put"]},
    }


def in_fold(number: int, folds: int, shards: Sequence[Sequence[str]]) -> Graph:
    """The whole path inside one fold, on its own rows."""
    place = f"fold {number} "
    split = f"{place}of {folds}"
    return produced(shards, place=place, split=split) | {
        split: {"split": ["split"]},
        f"{place}mix": {"split": [split], "settled": [f"{place}settle {len(shards)}"]},
        f"{place}predict_fold": {"split": [split], "mixed": [f"{place}mix"]},
    }


def require_distinct(names: Sequence[str]) -> None:
    """No two of them have the same first two words; those in a fold, or of another night, behind its name."""
    first = [re.sub(r"^(fold \d+ |[\d-]{10} )?(\S+ ?\S*).*", r"\1\2", name) for name in names]
    assert len({*first}) == len(names), sorted(first)


def test_rounds_folds_and_a_second_run_have_exactly_the_edges_of_their_data(prefect_api: str, tmp_path: Path) -> None:
    recipe = small_recipe(
        tmp_path,
        "rounds",
        target={"per_class": 40},
        settle={"near": 0.7},
        generators=[{"use": "rules", "operations": {"swap": 1.0}}],
        gate={"seeds": 3, "resamples": 200, "folds": 2},
        run={"shard_rows": 50},
    )
    run, tasks = record(recipe)
    shards = [["rules"] * count for count in shards_of(tasks)]
    assert len(shards) >= 2 and max(map(len, shards)) >= 2, "two rounds, and one of several shards"
    expected = produced(shards) | around(f"settle {len(shards)}", "judge_folds")
    for number in (1, 2):
        expected |= in_fold(number, 2, [["rules"] * count for count in shards_of(tasks, f"fold {number} ")])
    predicted = ["fold 1 predict_fold", "fold 2 predict_fold"]
    expected["judge_folds"] = {"evaluated": ["evaluate"], "predicted": predicted}
    assert graph(tasks) == expected
    require_distinct(list(tasks))
    assert sorted(run.tags) == ["augmill", "rounds"] and {tuple(task.tags) for task in tasks.values()} == {()}
    again, reused = record(recipe)
    assert again.id != run.id and graph(reused) == expected


def test_adaptive_weights_stand_between_the_rounds(prefect_api: str, tmp_path: Path) -> None:
    recipe = small_recipe(
        tmp_path,
        "adaptive",
        generators=[{"use": "rules", "operations": {"swap": 1.0}}, {"use": "interpolate"}],
        plan={"policy": "adaptive", "rounds": 2, "seeds": 2},
        target={"per_class": 40},
    )
    _, tasks = record(recipe)
    shards = [["rules", "interpolate"][:count] for count in shards_of(tasks)]
    assert len(shards) >= 2
    assert graph(tasks) == produced(shards, weighed=1) | around(f"settle {len(shards)}")
    require_distinct(list(tasks))


def test_what_is_fitted_on_another_nights_rows_comes_from_these(prefect_api: str, tmp_path: Path) -> None:
    columns = {"text": "text", "label": "label", "partition": "day"}
    write_days(tmp_path / "rows.csv", 5)
    recipe = small_recipe(
        tmp_path, "refit", columns=columns, partitions={"every": "day"}, refit={"every": "7d"}, target={"per_class": 20}
    )
    run, tasks = record(recipe, day(4))
    shards = [["rules"] * count for count in shards_of(tasks)]
    expected = produced(shards) | around(f"settle {len(shards)}")
    then, now = day(3), day(4)  # the calendar's grid decides
    expected |= {
        "fit rules": {"split": [f"{then} split"]},
        f"{then} ingest": {},
        f"{then} gather": {"units": [f"{then} ingest"]},
        f"{then} split": {"rows": [f"{then} gather"]},
        f"profile {then}": {"rows": [f"{then} gather"]},
        f"profile {now}": {"rows": ["gather"]},
    }
    assert graph(tasks) == expected
    require_distinct(list(tasks))
    assert run.name.split()[0] == now


# Until a recipe knows where it came from (``Recipe.origin``) this fails: it is for after that merge.
def test_parameters_are_whole_addresses(prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of the command line can be started again from what Prefect shows of it, wherever one stands."""
    import yaml

    write_rows(tmp_path / "rows.csv")
    document = recipe_document(Path("rows.csv"), dataset="placed", target={"balance": 1})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document | {"run": {"store": "beside"}}))
    monkeypatch.chdir(tmp_path)
    run, _ = record(load_recipe("recipe.yaml", store="stored"))
    assert run.parameters == {
        "recipe": f"{tmp_path}/recipe.yaml",
        "store": f"{tmp_path}/stored",
        "as_of": None,
        "set": None,
    }
