"""``augmill schema``: the JSON Schema on stdout, and the reference that is docs/recipe.md."""

from __future__ import annotations

import dataclasses
import json

import jsonschema
from commands import augmill

from augmill.tasks.checks import CHECKS
from augmill.tasks.generators import GENERATORS
from augmill.tasks.recipe.recipe import Recipe, not_identity
from augmill.tasks.trainers import TRAINERS


def test_the_schema_is_printed_whole_and_alone() -> None:
    ended = augmill("schema")
    assert ended.code == 0 and not ended.err
    schema = json.loads(ended.out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert list(schema["properties"]) == [*(item.name for item in dataclasses.fields(Recipe)), "extends"]
    *shipped, _ = schema["properties"]["generators"]["items"]["anyOf"]
    assert [choice["properties"]["use"]["const"] for choice in shipped] == list(GENERATORS)
    document = {
        "dataset": "x",
        "source": {"path": "x"},
        "columns": {"text": "t", "label": "l"},
        "target": {"balance": "max"},
    }
    takes = jsonschema.Draft202012Validator(schema).is_valid
    for use, known in (("rules", True), ("package.module:Class", True), ("rulez", False)):
        assert takes(document | {"generators": [{"use": use, "own": 1} if ":" in use else {"use": use}]}) == known, use
    assert takes(document | {"generators": [{"use": "rules"}], "checks": {"package:Class": {"own": 1}}})
    assert not takes(document | {"generators": [{"use": "rules"}], "checks": {"lenght": {}}})


def test_the_reference_has_every_key_and_says_why_some_change_no_row() -> None:
    text = augmill("schema", "--markdown").out
    keys = {item.name for item in dataclasses.fields(Recipe)}
    for kind in (*GENERATORS.values(), *CHECKS.values(), *TRAINERS.values()):
        keys |= {item.name for item in dataclasses.fields(kind.Options)}
    assert [key for key in keys if f"| `{key}` |" not in text] == []
    assert all(why in text for why in not_identity().values())
    assert all(line.count(" | ") == 4 for line in text.splitlines() if line.startswith("| `"))
