"""Columns of tables are guessed right on sets as they are found, and texts stay texts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from reading import only
from test_guess import SETS, SHARED, write_set

from augmill.tasks.sources import SourceOptions, guess_columns, list_files
from augmill.tasks.sources.guess_table import guess_target, reads_as_table, sniff_columns, target_type

ADULT = (
    "age,workclass,fnlwgt,education,education_num,marital_status,occupation,relationship,race,sex,capital_gain,"
    "capital_loss,hours_per_week,native_country,income"
)


def told(path: Path) -> tuple[bool, dict[str, Any], tuple[str, str] | None]:
    """(whether it reads as a table, its columns, its target)."""
    options = SourceOptions(path=str(path))
    file = list_files(options)[0]
    guess = guess_columns(file, options)
    found = sniff_columns(file, options, guess["id"])
    return reads_as_table(guess["text"], found), found, guess_target(found, [])


def write(path: Path, head: str, row: str, count: int = 200) -> Path:
    """``row``: an f-string's body with ``at``, ``pick`` and ``real``."""
    drawn = random.Random(7)
    lines = [
        row.format(
            at=at, a=drawn.choice("abc"), n=drawn.randrange(30), x=round(drawn.gauss(0, 1), 4), f=drawn.randrange(2)
        )
        for at in range(count)
    ]
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


@pytest.mark.parametrize("name", SETS)
def test_sets_with_a_text_stay_texts(tmp_path: Path, name: str) -> None:
    table, _, _ = told(write_set(tmp_path / "a.csv", SETS[name][0]))
    assert not table


@pytest.mark.parametrize(
    ("head", "row", "target", "kind", "inputs"),
    [
        ("size,colour,income", "{x},{a},{n}", "income", "number", {"size": "number", "colour": "category"}),
        ("class,x,y_position", "{a},{x},{x}", "class", "label", {"x": "number", "y_position": "number"}),
        (
            "colour,seen,amount",
            "{a},2026-01-02 10:{n:02},{x}",
            "amount",
            "number",
            {"colour": "category", "seen": "timestamp"},
        ),
        (
            "SalePrice,LotArea,Street",
            "1{n}50,{n},{a}",
            "SalePrice",
            "number",
            {"LotArea": "number", "Street": "category"},
        ),
        ("Survived,Age,Name", "{f},{n},Mr. Owen {at}", "Survived", "label", {"Age": "number"}),
        ("height,gap,passed", "{x},?,{f}", "passed", "label", {"height": "number"}),
    ],
)
def test_inputs_and_target_are_those_that_people_would_name(
    tmp_path: Path, head: str, row: str, target: str, kind: str, inputs: dict[str, str]
) -> None:
    table, found, guessed = told(write(tmp_path / "a.csv", head, row))
    assert table and guessed is not None
    name, why = guessed
    assert (name, target_type(found[name])) == (target, kind)
    assert "distinct values in 200 rows" in why
    assert {each: of.type for each, of in found.items() if each != target and not of.left} == inputs


@pytest.mark.parametrize(
    ("column", "cell", "why"),
    [
        ("customer_id", "{n}", "named as an id"),
        ("ticket", "5{at:03}", "it counts the rows"),
        ("flat", "F{at}", "almost every value is different"),
        ("country", "DE", "only one value"),
        ("empty", "", "it holds no value"),
    ],
)
def test_what_says_nothing_of_a_row_is_left_out_with_its_reason(
    tmp_path: Path, column: str, cell: str, why: str
) -> None:
    _, found, _ = told(write(tmp_path / "a.csv", f"{column},x,kind", f"{cell},{{x}},{{a}}"))
    assert found[column].left == why


def test_values_that_no_column_can_hold_are_left_out_and_no_failure(tmp_path: Path) -> None:
    lines = [
        f'{{"mixed": {(1, """ "a" """)[at % 2]}, "inner": {{"b": 1}}, "x": {at % 7}.5, "kind": "{"ab"[at % 2]}"}}'
        for at in range(50)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    file, options = only(tmp_path / "a.jsonl")
    found = sniff_columns(file, options, None)
    assert found["inner"].left == "it holds no plain values" and not found["x"].left and not found["kind"].left


def test_nothing_is_a_table_without_an_input_beside_the_target(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n" + "".join(f"{at},{at * 7}\n" for at in range(50)))
    assert not told(tmp_path / "a.csv")[0]


def test_adult_is_read_as_people_read_it(tmp_path: Path) -> None:
    if not (SHARED / "data/adult").is_dir():
        pytest.skip("the shared sets are not here (AUGMILL_SHARED)")
    body = (SHARED / "data/adult/adult.data").read_text().splitlines()[:3000]
    (tmp_path / "adult.csv").write_text("\n".join([ADULT, *body]) + "\n")
    table, found, guessed = told(tmp_path / "adult.csv")
    assert table and guessed is not None and guessed[0] == "income"
    numbers = {"age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week"}
    assert {name for name, of in found.items() if of.type == "number"} == numbers
    assert not [name for name, of in found.items() if of.left]
