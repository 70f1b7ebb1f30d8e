"""Tables and regressions through ``init``, ``check`` and ``judge``: the columns, what serves them, and the metric's unit."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from commands import augmill, refused

from augmill.flows.columns import Asked
from augmill.flows.judge import part_rows, read_others, read_rows
from augmill.tasks.recipe.recipe import load_recipe

EXAMPLES = Path(__file__).parents[2] / "infra/examples"


def flat(text: str) -> str:
    return " ".join(text.split())


def write_table(path: Path, count: int = 200, seed: int = 1, shift: float = 0.0) -> Path:
    """Rows with an id, a date, a constant; ``grade`` follows from ``size`` and ``colour``, ``price`` too."""
    drawn = random.Random(seed)
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["row_id", "seen", "size", "colour", "country", "grade", "price"])
        for at in range(count):
            size, colour = round(drawn.gauss(10, 3), 2), drawn.choice(["red", "blue", "?"])
            price = round(3 * size + (5 if colour == "red" else 0) + drawn.gauss(0, 2) + shift, 2)
            grade = "high" if price > 36 else "low"
            rows.writerow([f"{seed}-{at}", f"2026-01-{at % 28 + 1:02d}", size, colour, "DE", grade, price])
    return path


def write_recipe(directory: Path, *more: object) -> dict[str, Any]:
    ended = augmill("init", directory / "flats.csv", "--out", directory / "flats.yaml", "--force", *more)
    assert ended.code == 0, ended.err
    columns: dict[str, Any] = yaml.safe_load((directory / "flats.yaml").read_text())
    return columns


def test_init_writes_a_recipe_of_a_table_that_check_accepts_and_says_what_it_left_out(tmp_path: Path) -> None:
    write_table(tmp_path / "flats.csv")
    ended = augmill("init", tmp_path / "flats.csv", "--out", tmp_path / "flats.yaml")
    assert ended.code == 0 and "left out of the inputs: country (only one value)" in flat(ended.out)
    document = yaml.safe_load((tmp_path / "flats.yaml").read_text())
    assert document["columns"] == {
        "inputs": {"seen": "timestamp", "size": "number", "colour": "category", "grade": "category"},
        "target": {"price": "number"},
        "id": "row_id",
    }
    assert document["generators"] == [{"use": "resample"}] and document["target"] == {"multiply": 2.0}
    checked = augmill("check", tmp_path / "flats.yaml")
    assert checked.code == 0 and "200 rows read: 200 used, 0 refused" in checked.out
    for words in (
        "missing values: colour",
        "(cells: ?)",
        "there are no near-duplicates",
        "trainers for such rows: boosting, linear, command metrics for such rows: mae, rmse, r2",
        "not used: teacher, length, garbage (for text); answers (for text and dialogue); catalogue (for items); label_set, "
        "label_consistency (for classification)",
        "Bins of price (",
    ):
        assert words in flat(checked.out)
    assert "labels are numbers" not in checked.out


def test_every_comment_of_a_tables_starter_that_is_a_key_is_that_keys_default(tmp_path: Path) -> None:
    write_table(tmp_path / "flats.csv")
    write_recipe(tmp_path, "--full")
    lines = (tmp_path / "flats.yaml").read_text().splitlines()
    kept = [
        line for line in lines if not line.lstrip().startswith(("# ", "#partition: seen"))
    ]  # that one is found, no default
    opened = "\n".join(line.replace("#", "", 1) if line.lstrip().startswith("#") else line for line in kept)
    (tmp_path / "opened.yaml").write_text(opened + "\n")
    assert load_recipe(tmp_path / "opened.yaml") == load_recipe(tmp_path / "flats.yaml")


def test_named_columns_and_types_are_taken_as_they_are_named(tmp_path: Path) -> None:
    write_table(tmp_path / "flats.csv")
    named = ["--input", "size", "--input", "colour:category", "--target", "grade"]
    assert write_recipe(tmp_path, *named)["columns"] == {
        "inputs": {"size": "number", "colour": "category"},
        "target": {"grade": "label"},
        "id": "row_id",
    }
    document = write_recipe(tmp_path, "--label", "grade")
    assert document["columns"]["target"] == {"grade": "label"} and "price" in document["columns"]["inputs"]
    short = write_recipe(tmp_path, "--input", "colour:text", "--target", "grade:label")["columns"]
    assert short == {"text": "colour", "label": "grade", "id": "row_id"}


def test_what_names_no_column_or_type_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "flats.csv")
    monkeypatch.chdir(tmp_path)
    refused(augmill("init", "flats.csv", "--input", "sise"), 2, ["did you mean 'size'", "--input"])
    refused(augmill("init", "flats.csv", "--input", "size:nmber"), 2, ["did you mean 'number'", "COLUMN:TYPE"])
    refused(augmill("init", "flats.csv", "--target", "price:category"), 2, ["no type 'category'"])
    refused(augmill("init", "flats.csv", "--label", "grade", "--target", "price"), 2, ["give one of the two"])
    mixed = augmill("init", "flats.csv", "--input", "size", "--input", "colour:text", "--target", "grade")
    refused(mixed, 2, ["no built-in generator", "columns of one kind"])
    assert not (tmp_path / "flats.yaml").exists()


def test_a_split_column_is_no_input(tmp_path: Path) -> None:
    write_table(tmp_path / "flats.csv", 300)
    head, *rows = (tmp_path / "flats.csv").read_text().splitlines()
    parts = ("train", "train", "test", "validation")
    (tmp_path / "flats.csv").write_text(
        "\n".join([f"split,{head}", *(f"{parts[at % 4]},{row}" for at, row in enumerate(rows))]) + "\n"
    )
    document = write_recipe(tmp_path)
    assert "split" not in document["columns"]["inputs"] and document["splits"]["column"] == "split"


def test_a_set_without_a_known_ending_is_read_as_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "flats.csv").rename(tmp_path / "flats.data")
    monkeypatch.chdir(tmp_path)
    assert augmill("init", "flats.data").code == 0
    (recipe,) = tmp_path.glob("*.yaml")
    assert yaml.safe_load(recipe.read_text())["source"] == {"path": "flats.data", "format": "csv"}
    body = (tmp_path / "flats.data").read_text().split("\n", 1)[1]
    (tmp_path / "bare.data").write_text(body)
    refused(augmill("init", "bare.data"), 3, ["line 1 looks like a row", "column_1,column_2", "--input and --target"])


def test_check_says_what_serves_as_json_and_of_texts_too(tmp_path: Path) -> None:
    write_table(tmp_path / "flats.csv")
    write_recipe(tmp_path)
    rows = augmill("check", tmp_path / "flats.yaml", "--json").last["rows"]
    assert {"resample", "smote"} <= {*rows["serve"]["generators"]} and "rules" not in rows["serve"]["generators"]
    assert rows["serve"]["checks"] == ["ranges", "relations"]
    assert rows["aside"]["garbage"] == "for text" and rows["aside"]["label_set"] == "for classification"
    assert rows["exact"] == ["table"] and rows["missing"]["colour"]["cells"] == ["?"]
    assert rows["learnt"] == {"column": "price", "type": "number"}
    text = augmill("check", EXAMPLES / "support/recipe.yaml", "--store", tmp_path / "store", "--json").last["rows"]
    assert (
        text["aside"] == {"ranges": "for table", "answers": "for text_to_text", "catalogue": "for items"}
        and text["exact"] == []
        and text["missing"] == {}
    )


@pytest.mark.parametrize(("target", "unit", "metric"), [("grade", "points", "accuracy"), ("price", "price", "mae")])
def test_tables_are_judged_in_the_metrics_unit(tmp_path: Path, target: str, unit: str, metric: str) -> None:
    """Rows that lie by 20 in what they cost do harm; their report shows them as tables are shown."""
    write_table(tmp_path / "real.csv", 150, 1)
    write_table(tmp_path / "validation.csv", 200, 2)
    write_table(tmp_path / "made.csv", 150, 3, shift=20.0)
    files = [f"--{name}={tmp_path / f'{file}.csv'}" for name, file in
             (("real", "real"), ("synthetic", "made"), ("validation", "validation"))]  # fmt: skip
    inputs = ["--input", "size", "--input", "colour", "--target", target]
    page = tmp_path / "page.html"
    ended = augmill("judge", *files, *inputs, "--trainer", "linear", "--seeds", 3, "--report", page)
    assert ended.code == 0, ended.err
    found = ended.last
    assert (found["outcome"], found["judged_by"], found["unit"]) == ("harmful", metric, unit)
    assert found["numbers"]["mix-real"]["high"] < 0
    assert found["read"]["real"]["inputs"] == {"size": "number", "colour": "category"}
    assert "as in the real rows" in ended.out and "size=" in page.read_text()


def test_judged_rows_of_a_regression_fall_into_the_bins_of_train_rows(tmp_path: Path) -> None:
    write_table(tmp_path / "real.csv", 150, 1)
    write_table(tmp_path / "made.csv", 150, 3)
    asked = Asked(inputs=["size", "colour"], target="price")
    first = read_rows(str(tmp_path / "real.csv"), "--real", str(tmp_path / "a"), asked)
    read = read_others(first, str(tmp_path / "made.csv"), None, str(tmp_path / "a"), asked)
    rows = part_rows(read, str(tmp_path / "a"), seed=0)
    bins = {*rows.train["stratum"].to_pylist()}
    assert len(bins) > 2 and {*rows.synthetic["stratum"].to_pylist()} <= bins


def test_judge_refuses_what_does_not_serve_the_rows(tmp_path: Path) -> None:
    write_table(tmp_path / "real.csv", 60)
    files = ["--real", tmp_path / "real.csv", "--synthetic", tmp_path / "real.csv"]
    refused(augmill("judge", *files, "--trainer", "tfidf"), 2, ["does not serve", "boosting, linear"])
    refused(augmill("judge", *files, "--metric", "accuracy"), 2, ["--metric", "mae, rmse, r2"])
    refused(augmill("judge", *files, "--rule", "not_worse"), 2, ["--margin", "mae"])
    (tmp_path / "other.csv").write_text("size,colour\n1,red\n2,blue\n")
    other = augmill("judge", "--real", tmp_path / "real.csv", "--synthetic", tmp_path / "other.csv")
    refused(other, 2, ["lacks columns of the real rows", "price"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "unit"), [("machines", "points"), ("rents", "rent")])
def test_the_table_examples_run_and_their_reports_name_the_checks_that_stood_aside(
    tmp_path: Path, name: str, unit: str
) -> None:
    """The gate refuses both, as their pages say; the releases hold the real rows as they were."""
    recipe = EXAMPLES / name / "recipe.yaml"
    ended = augmill("run", recipe, "--store", tmp_path / "store", "--orchestrator", "none")
    assert ended.code == 0, ended.err
    assert ended.last["outcome"] in ("inconclusive", "harmful") and unit in ended.last["reason"]
    page = Path(ended.last["report"]).read_text()
    assert "stood aside: " in page and "garbage (for text)" in page
    identifier = load_recipe(recipe).columns.id
    with (EXAMPLES / name / f"{name}.csv").open(newline="") as stream:
        given = {row[identifier]: row for row in csv.DictReader(stream)}
    released = [
        row for part in Path(ended.last["location"]).glob("*/*.parquet") for row in pq.read_table(part).to_pylist()
    ]
    assert len(released) > 700
    for row in released:
        own = given[row[identifier]]
        assert {column: row[column] or "" for column in own} == own
