"""What judges a recipe's rows serves them, or the recipe is refused with what does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from augmill.tasks.errors import UserError
from augmill.tasks.recipe.recipe import Recipe, build_recipe, json_schema

COMMAND = "train {train} {eval} {seed} {predictions}"
PRICED = {"inputs": {"text": "text"}, "target": {"price": "number"}}
LABELLED = {"text": "text", "label": "label"}


def recipe(columns: dict[str, Any] = LABELLED, use: str = "replay", **more: Any) -> Recipe:
    document = {
        "dataset": "judges",
        "source": {"path": "rows.csv"},
        "columns": columns,
        "target": {"per_class": 5},
        "generators": [{"use": use, "path": "made.csv"} if use == "replay" else {"use": use}],
    }
    return build_recipe(document | more, base=Path("/data"))


def test_a_recipe_of_labels_is_judged_as_it_was() -> None:
    found, named = recipe(), recipe(gate={"metric": "accuracy", "margin": 0.5}, trainer={"use": "tfidf"})
    assert (found.gate.metric, found.gate.margin, found.trainer.use) == ("accuracy", 0.5, "tfidf")
    assert found.hash() == named.hash() and recipe(gate={"metric": "auc"}).hash() != found.hash()


def test_a_recipe_of_numbers_is_judged_by_their_error() -> None:
    found = recipe(PRICED, trainer={"command": COMMAND}, gate={"min_gain": 2500.0})
    assert (found.gate.metric, found.gate.margin, found.gate.min_gain) == ("mae", None, 2500.0)
    assert recipe(PRICED, trainer={"command": COMMAND}, gate={"metric": "r2"}).gate.margin == 0.5


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"gate": {"metric": "rmse"}}, "classification is judged by accuracy, macro_f1, auc, average_precision"),
        ({"gate": {"margin": 150.0}}, "expected between 0 and 100 points, found 150"),
        ({"columns": PRICED, "trainer": {"use": "tfidf"}}, "tfidf"),
        (
            {"columns": PRICED, "trainer": {"command": COMMAND}, "gate": {"metric": "accuracy"}},
            "judged by mae, rmse, r2",
        ),
        ({"columns": PRICED, "trainer": {"command": COMMAND}, "gate": {"focus": ["a"]}}, "no labels to focus on"),
        (
            {"columns": PRICED, "trainer": {"command": COMMAND}, "gate": {"rule": "not_worse"}},
            "mae is in the target's own unit; there is no default",
        ),
        (
            {"columns": PRICED, "trainer": {"command": COMMAND}, "plan": {"policy": "adaptive"}},
            "adaptive measures generators by",
        ),
    ],
)
def test_what_does_not_serve_is_refused_with_its_place_and_what_does(more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        recipe(**more)
    assert said in error.value.problem and error.value.where.startswith("recipe line") and error.value.fix


def test_the_schema_names_every_metric() -> None:
    from augmill.tasks.metrics import METRICS

    shipped, outside = json_schema()["$defs"]["GateOptions"]["properties"]["metric"]["anyOf"]
    assert {*METRICS, None} == {*shipped["enum"]}
    assert re.fullmatch(outside["pattern"], "package.module:Median") and not re.search(outside["pattern"], "acuracy")
