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
    named = [choice["properties"]["use"]["const"] for choice in schema["properties"]["generators"]["items"]["anyOf"]]
    assert named == list(GENERATORS)


def test_the_reference_has_every_key_and_says_why_some_change_no_row() -> None:
    text = augmill("schema", "--markdown").out
    keys = {item.name for item in dataclasses.fields(Recipe)}
    for kind in (*GENERATORS.values(), *CHECKS.values(), *TRAINERS.values()):
        keys |= {item.name for item in dataclasses.fields(kind.Options)}
    assert [key for key in keys if f"| `{key}` |" not in text] == []
    assert all(why in text for why in not_identity().values())
    assert all(line.count(" | ") == 4 for line in text.splitlines() if line.startswith("| `"))
