"""What a recipe is made of: variables of the environment, recipes that it extends, and values that the command line sets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import obstore
import pytest
from buckets import s3_server
from chain import write_rows
from commands import augmill, refused
from obstore.store import from_url

from augmill.flows.cli.schema import recipe_text
from augmill.tasks.errors import UserError
from augmill.tasks.recipe.layers import MAX_DEPTH, MAX_FILES, read_document, text_of
from augmill.tasks.recipe.origin import MAX_BYTES, name_of
from augmill.tasks.recipe.recipe import LABELS, Recipe, json_schema, load_recipe, recipe_edited

RECIPE = """\
dataset: tiny
source:
  path: rows.csv
columns: {text: text, label: label}
target: {per_class: 3}
validation: {enabled: false}
gate: {seeds: 3, resamples: 200}
trainer: {use: tfidf, cs: [10.0]}
run: {orchestrator: none, shard_rows: 25}
generators:
  - use: rules
"""
SECRET = "s3cr3t-value-of-a-variable"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server("shared") as address:
        yield address


def write(directory: Path, text: str, name: str = "recipe.yaml") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "rows.csv").exists():
        write_rows(directory / "rows.csv")
    (directory / name).write_text(text, encoding="utf-8")
    return directory / name


def value_of(text: str, labels: bool = False) -> Any:
    """What a document of one key says."""
    return read_document(f"{text}\n", labels=LABELS if labels else None).value


def refusal(where: str | Path, changes: tuple[str, ...] = ()) -> UserError:
    with pytest.raises(UserError) as caught:
        load_recipe(where, changes=changes)
    assert caught.value.fix and "\n" not in caught.value.problem
    return caught.value


# --- variables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${N}", 7),
        ("'${N}'", "7"),
        ('"${N}"', "7"),
        ("${N}0", "70"),
        ("${WORD}", "a text"),
        ("[x, '${WORD}']", ["x", "a text"]),
        ("{k: '${WORD}/${N}'}", {"k": "a text/7"}),
        ("${TRUE}", True),
        ("'${TRUE}'", "true"),
        ("${NO}", "NO"),  # YAML 1.2 reads it as a text
        ("${EMPTY}", None),
        ("'${EMPTY}'", ""),
        ("${EMPTY:-8}", 8),  # as a shell's
        ("${ABSENT:-8}", 8),
        ("${ABSENT:-}", None),
        ("'${ABSENT:-a: b}'", "a: b"),
        ("${N:-8}", 7),
        ("$${N}", "${N}"),
        ("$${ABSENT:-x} ${N}", "${ABSENT:-x} 7"),
        ("${YAML}", "{a: [1]} # x"),  # no value can become anything but a value
        ("${LINES}", "a: 1\nb: 2"),
        ("${MERGE}", "<<"),
        ("${NESTED}", "${N}"),  # what a variable holds is not looked at again
        # Not variables, and read as ever: shells' other forms, other names, a dollar alone.
        ("${lower}", "${lower}"),
        ("${N%x}", "${N%x}"),
        ("${1}", "${1}"),
        ("$N", "$N"),
        ("${N", "${N"),
    ],
)
def test_a_variable_is_read_as_what_it_holds_would_be(
    monkeypatch: pytest.MonkeyPatch, written: str, value: object
) -> None:
    held = {"N": "7", "WORD": "a text", "TRUE": "true", "NO": "NO", "EMPTY": "", "YAML": "{a: [1]} # x"}
    held |= {"LINES": "a: 1\nb: 2", "MERGE": "<<", "NESTED": "${N}"}
    for name, text in held.items():
        monkeypatch.setenv(name, text)
    found = value_of(f"a: {written}")["a"]
    assert found == value and type(found) is type(value)


def test_keys_hold_no_variables_and_aliases_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N", "7")
    assert value_of("x: &x {k: '${N}'}\n'${N}': *x\nc: {<<: *x}") == {
        "x": {"k": "7"},
        "${N}": {"k": "7"},
        "c": {"k": "7"},
    }


def test_labels_that_variables_hold_are_read_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODE", "010")
    monkeypatch.setenv("ONE", "1")
    declared = "labels:\n  declared:\n  - ${CODE}\n  - ${ONE}\n  - '${ONE}'\ngate:\n  focus:\n  - ${ONE}"
    assert value_of(declared, labels=True) == {
        "labels": {"declared": ["010", 1, "1"]},
        "gate": {"focus": ["1"]},
    }


def test_a_variable_that_is_not_set_is_named_with_its_line_and_key(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, RECIPE.replace("rows.csv", "${ROWS_OF_NOBODY}")))
    assert error.where.endswith("recipe.yaml line 3 (source.path)") and "ROWS_OF_NOBODY" in error.problem
    assert "${ROWS_OF_NOBODY:-default}" in error.fix and "$${ROWS_OF_NOBODY}" in error.fix


def test_the_identity_counts_what_a_variable_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, f"{RECIPE}seed: ${{SEED_OF_TEST:-7}}\n")
    seven = load_recipe(write(tmp_path, f"{RECIPE}seed: 7\n", "seven.yaml"))
    assert load_recipe(path).hash() == seven.hash() and load_recipe(path).seed == 7
    monkeypatch.setenv("SEED_OF_TEST", "8")
    assert load_recipe(path).seed == 8 and load_recipe(path).hash() != seven.hash()


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("seed: ${V}", "seed"),
        ("task: ${V}", "task"),
        ("refuse: {max_share: '${V}'}", "refuse.max_share"),
        ("splits: '${V}'", "splits"),
        ("splits: ['${V}', 1]", "splits"),
        ("splits:\n  near: ${V}", "splits.near"),
        ("mix: {order: 'x${V}'}", "mix.order"),
        ("checks: {length: {slack: '${V}'}}", "checks"),
        ("plan: {policy: '${V}'}", "plan.policy"),
        ("labels: {rare: '${V}'}", "labels.rare"),
        ("unlabelled: {path: '~${V}/x'}", "unlabelled.path"),
        ("schedule: {timezone: '${V}'}", "schedule"),
    ],
)
@pytest.mark.parametrize("value", [SECRET, "q7", f"{SECRET}\n\"'{SECRET}", SECRET * 20, "16", "0x10", "-3.50"])
def test_no_error_shows_what_a_variable_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, key: str, value: str
) -> None:
    monkeypatch.setenv("V", value)
    path = write(tmp_path, f"{RECIPE}{line}\n")
    try:
        load_recipe(path)
    except UserError as error:
        said = str(error).replace(str(path), "")
        assert key in error.where
        assert value[:20] not in said and "${V}" in said, said
    else:
        assert key == "seed" and value in ("16", "0x10")


@pytest.mark.parametrize("held", ["a\x1bb", "a\udcffb"])
def test_what_could_not_stand_in_a_recipe_cannot_stand_in_its_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    monkeypatch.setenv("V", held)
    error = refusal(write(tmp_path, f"{RECIPE}task: ${{V}}\n"))
    assert "the variable V" in error.problem and held not in str(error)


def test_variables_do_not_make_a_recipe_endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V", "x" * 60_000)
    text = RECIPE + "splits: [" + ", ".join(["'${V}'"] * 5) + "]\n"
    assert f"{MAX_BYTES:,}" in refusal(write(tmp_path, text)).problem


def test_a_variable_between_brackets_without_quotes_is_said(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, RECIPE.replace("{per_class: 3}", "{per_class: ${N}}")))
    assert "not valid YAML" in error.problem and "quotes" in error.fix and "line 5" in error.where


@pytest.mark.parametrize("text", ["${N}", "$${N}", "$$${N} $${", "a ${N:-b}", "${n", "$"])
def test_what_looks_like_a_variable_stays_text_where_augmill_writes_a_recipe(text: str) -> None:
    found = value_of(f"a: {recipe_text([text, {text: text}])}")
    assert found == {"a": [text, {text: text}]}


def test_init_and_check_write_a_column_with_such_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = write_rows(tmp_path / "rows.csv").read_text()
    (tmp_path / "rows.csv").write_text(rows.replace("text", "${TEXT}", 1))
    ended = augmill("init", "rows.csv", "--text", "${TEXT}", "--label", "label")
    assert ended.code == 0, ended.err
    assert load_recipe("rows.yaml").columns.text == "${TEXT}"
    told = augmill("check", "rows.yaml", "--resolved")
    assert told.code == 0 and "text: $${TEXT}" in told.out.replace("'", "").replace('"', ""), told.err


# --- extends ------------------------------------------------------------------------------------------------------------


def test_sections_are_merged_lists_replaced_and_the_nearer_file_wins(tmp_path: Path) -> None:
    write(tmp_path, f"{RECIPE}seed: 1\nsplits: {{test: 0.2, near: 0.9}}\nlabels: {{retired: [a, b]}}\n", "base.yaml")
    path = write(tmp_path, "extends: base.yaml\nseed: 2\nsplits:\n  test: 0.3\nlabels: {retired: [c]}\n")
    recipe = load_recipe(path)
    assert (recipe.seed, recipe.splits.test, recipe.splits.near) == (2, 0.3, 0.9)
    assert list(recipe.labels.retired) == ["c"]
    plain = f"{RECIPE}seed: 2\nsplits: {{test: 0.3, near: 0.9}}\nlabels: {{retired: [c]}}\n"
    assert recipe.hash() == load_recipe(write(tmp_path, plain, "plain.yaml")).hash()


def test_of_several_the_later_one_wins_and_null_takes_a_value_back(tmp_path: Path) -> None:
    write(tmp_path, f"{RECIPE}seed: 1\n", "a.yaml")
    write(tmp_path, "seed: 2\ntarget: {multiply: 2, per_class: null}\n", "b.yaml")
    recipe = load_recipe(write(tmp_path, "extends: [a.yaml, b.yaml]\n"))
    assert (recipe.seed, recipe.target.multiply, recipe.target.per_class) == (2, 2, None)


def test_a_section_that_uses_another_extension_takes_over_none_of_its_options(tmp_path: Path) -> None:
    write(tmp_path, RECIPE.replace("use: tfidf, cs: [10.0]", "use: command, command: 'x'"), "base.yaml")
    recipe = load_recipe(write(tmp_path, "extends: base.yaml\ntrainer: {use: tfidf, folds: 4}\n"))
    assert (recipe.trainer.use, recipe.trainer.options.folds) == ("tfidf", 4)


def test_merge_keys_and_labels_hold_in_each_file(tmp_path: Path) -> None:
    write(tmp_path, f"{RECIPE}labels: &l {{declared: [010, NO]}}\n", "base.yaml")
    path = write(tmp_path, "extends: base.yaml\nlabels:\n  <<: {retired: [1_000]}\n  declared: [011]\n")
    labels = load_recipe(path).labels
    assert (list(labels.declared), list(labels.retired)) == (["011"], ["1_000"])
    write(tmp_path, f"{RECIPE}seed: 1\nseed: 2\n", "base.yaml")
    assert "'seed' appears twice" in refusal(path).problem and "base.yaml line 13" in refusal(path).where


def test_an_error_names_the_file_in_which_the_key_stands(tmp_path: Path) -> None:
    write(tmp_path / "team", f"{RECIPE}splits:\n  near: 7\n", "base.yaml")
    path = write(tmp_path, "# mine\nextends: team/base.yaml\nsplits:\n  validation: 0.2\n")
    assert refusal(path).where == f"{tmp_path}/team/base.yaml line 13 (splits.near)"
    write(tmp_path, "# mine\nextends: team/base.yaml\nsplits:\n  near: 8\n")
    assert refusal(path).where == f"{path} line 4 (splits.near)"
    write(tmp_path, "extends: team/base.yaml\nsplits: {near: 0.9}\ngenerators:\n- use: ruls\n")
    assert refusal(path).where == f"{path} line 4 (generators.0.use)"


def test_a_path_belongs_to_the_file_in_which_it_stands(tmp_path: Path) -> None:
    for folder in ("team", "mine"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "held.csv").write_text("text\nx\n")
        (tmp_path / folder / "words.csv").write_text("big,large\n")
    more = "splits: {heldout_exclude: [held.csv]}\n    "
    write(tmp_path / "team", RECIPE.replace("use: rules", "use: rules\n    thesaurus: words.csv"), "base.yaml")
    path = write(tmp_path / "mine", f"extends: ../team/base.yaml\n{more.strip()}\n")
    recipe = load_recipe(path, changes=["unlabelled.path=rows.csv"])
    assert Path(recipe.source.path).resolve() == tmp_path / "team" / "rows.csv"
    assert Path(recipe.generators[0].options.thesaurus).resolve() == tmp_path / "team" / "words.csv"
    assert recipe.splits.heldout_exclude == (str(tmp_path / "mine" / "held.csv"),)
    assert recipe.unlabelled is not None and recipe.unlabelled.path == str(tmp_path / "mine" / "rows.csv")
    assert recipe.run.store == str(tmp_path / "mine" / "augmill-store")  # a default is the recipe's own
    write(tmp_path / "team", f"{RECIPE}".replace("shard_rows: 25", "store: nights"), "base.yaml")
    assert Path(load_recipe(path).run.store).resolve() == tmp_path / "team" / "nights"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"recipe.yaml": "extends: recipe.yaml\n"}, ("'recipe.yaml' extends 'recipe.yaml'", "line 1 (extends)")),
        (
            {"recipe.yaml": "extends: a.yaml\n", "a.yaml": "seed: 1\nextends: ./recipe.yaml\n"},
            ("'recipe.yaml' extends 'a.yaml' extends 'recipe.yaml'", "a.yaml line 2 (extends)"),
        ),
        (
            {"recipe.yaml": "extends: nothing.yaml\n"},
            ("nothing.yaml", "cannot be read", "recipe.yaml line 1 (extends)"),
        ),
        ({"recipe.yaml": "extends: a.yaml\n", "a.yaml": "- 1\n"}, ("not a recipe", "line 1 (extends)")),
        ({"recipe.yaml": "extends: a.yaml\n", "a.yaml": ""}, ("not a recipe", "line 1 (extends)")),
        ({"recipe.yaml": "extends: a.yaml\n", "a.yaml": "b: [\n"}, ("a.yaml line 2", "not valid YAML")),
        ({"recipe.yaml": "extends: {a: b}\n"}, ("expected the path", "line 1 (extends)")),
        ({"recipe.yaml": "extends:\n"}, ("expected the path", "line 1 (extends)")),
        ({"recipe.yaml": "extends: []\n"}, ("expected the path", "line 1 (extends)")),
        ({"recipe.yaml": "extends: [a.yaml, 7]\n"}, ("expected the path", "line 1 (extends)")),
        ({"recipe.yaml": "extends: https://example.org/a.yaml\n"}, ("https:// addresses cannot be read",)),
        ({"recipe.yaml": RECIPE + "extend: a.yaml\n"}, ("did you mean 'extends'?",)),
        ({"recipe.yaml": RECIPE + "splits: {extends: a.yaml}\n"}, ("unknown key 'extends'", "line 12")),
        (
            {"recipe.yaml": "extends: 1.yaml\n"} | {f"{n}.yaml": f"extends: {n + 1}.yaml\n" for n in range(1, 20)},
            (f"more than {MAX_DEPTH}",),
        ),
        (
            {"recipe.yaml": f"extends: [{'a.yaml, ' * MAX_FILES}]\n", "a.yaml": "seed: 1\n"},
            (f"more than {MAX_FILES} files",),
        ),
        (
            {"recipe.yaml": "extends: [a.yaml, b.yaml]\n", "a.yaml": "#" * 150_000, "b.yaml": "#" * 150_000}
            | {"a.yaml": "a: 1\n" + "#" * 150_000},
            ("at most 250,000 bytes",),
        ),
    ],
)
def test_what_cannot_be_extended_is_refused_where_it_is_named(
    tmp_path: Path, files: dict[str, str], words: tuple[str, ...]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    message = str(refusal(tmp_path / "recipe.yaml"))
    assert all(word in message for word in words), message


def test_an_edited_base_is_an_edited_recipe(tmp_path: Path) -> None:
    base = write(tmp_path, f"{RECIPE}seed: 1\n", "base.yaml")
    recipe = load_recipe(write(tmp_path, "extends: base.yaml\n"), changes=["splits.seed=3"])
    inline = load_recipe(f"extends: {base}\nrun: {{store: {tmp_path}/store}}\n")
    assert not recipe_edited(recipe) and not recipe_edited(inline)
    base.write_text(f"{RECIPE}seed: 1 # as it was\n")
    assert not recipe_edited(recipe) and not recipe_edited(inline)
    base.write_text(f"{RECIPE}seed: 1\nsplits: {{seed: 4}}\n")  # which is set to another value
    assert not recipe_edited(recipe) and recipe_edited(inline)
    base.write_text(f"{RECIPE}seed: 2\n")
    assert recipe_edited(recipe) and recipe_edited(inline)
    base.unlink()
    assert recipe_edited(recipe) and recipe_edited(inline)


def test_a_text_extends_what_is_named_wholly(tmp_path: Path) -> None:
    base = write(tmp_path, RECIPE, "base.yaml")
    error = refusal(f"extends: base.yaml\nrun: {{store: {tmp_path}/store}}\n")
    assert "relative path" in error.problem and error.where == "the recipe's text line 1 (extends)"
    recipe = load_recipe(f"extends: {base}\nrun: {{store: {tmp_path}/store}}\n")
    assert recipe.source.path == str(tmp_path / "rows.csv")
    assert recipe.hash() == load_recipe(base).hash()


def test_recipes_in_a_bucket_extend_those_beside_them(endpoint: str, tmp_path: Path) -> None:
    def put(key: str, text: str) -> str:
        obstore.put(from_url("s3://shared"), key, text.encode())
        return f"s3://shared/{key}"

    put("team/base.yaml", RECIPE)
    stored = "run: {store: s3://shared/store}\n"
    recipe = load_recipe(put("team/nights/recipe.yaml", f"extends: ../base.yaml\n{stored}"))
    assert recipe.source.path == "s3://shared/team/rows.csv"  # beside the base, which names it
    local = load_recipe(write(tmp_path, "extends: s3://shared/team/base.yaml\nrun: {store: store}\n"))
    assert local.source.path == "s3://shared/team/rows.csv" and local.run.store == str(tmp_path / "store")
    assert not recipe_edited(recipe)
    put("team/base.yaml", f"{RECIPE}seed: 4\n")
    assert recipe_edited(recipe)
    relative = put("team/base.yaml", f"{RECIPE}".replace("shard_rows: 25", "store: nights"))
    assert "relative path" in refusal(write(tmp_path, f"extends: {relative}\n")).problem
    error = refusal(put("team/other.yaml", f"extends: ../../base.yaml\n{stored}"))
    assert "out of the bucket" in error.problem and error.where == "s3://shared/team/other.yaml line 1 (extends)"
    error = refusal(put("team/other.yaml", f"extends: gone.yaml\n{stored}"))
    assert "s3://shared/team/gone.yaml" in error.problem and error.where.endswith("line 1 (extends)")


def test_a_text_for_a_deployment_holds_what_is_extended_and_no_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V", SECRET)
    monkeypatch.setenv("N", "9")
    monkeypatch.setenv("BASE", "base")
    changed = RECIPE.replace("path: rows.csv", f"path: {tmp_path}/rows.csv").replace(
        "25}", f"25, store: {tmp_path}/s}}"
    )
    labels = "labels: {declared: [010, NO, 1, '1'], retired: [\"a: b\", 1_000, 12:30, 2024-01-01, ~, 1e3, 0o10, yes]}\n"
    write(tmp_path, f"{changed}seed: ${{N}}\nsplits: {{seed: 1}}\n{labels}", "base.yaml")
    path = write(tmp_path, "extends: ${BASE}.yaml\nsplits: {near: 0.7, column: '${V}'}\nlabels:\n  rare: quarantine\n")
    text = text_of(path)
    assert SECRET not in text and "${V}" in text and "extends" not in text
    assert load_recipe(text) == load_recipe(path) and load_recipe(text).seed == 9
    monkeypatch.setenv("N", "10")
    assert load_recipe(text).seed == 10


def test_the_schema_asks_a_recipe_that_extends_for_no_key() -> None:
    jsonschema.validate({"extends": ["a.yaml", "b.yaml"], "seed": 3}, json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"seed": 3}, json_schema())


# --- --set --------------------------------------------------------------------------------------------------------------


def changed(directory: Path, *changes: str) -> Recipe:
    return load_recipe(write(directory, f"{RECIPE}labels: {{declared: &l [a, b], retired: *l}}\n"), changes=changes)


def test_a_value_that_is_set_is_what_it_would_be_in_the_recipe(tmp_path: Path) -> None:
    write(tmp_path, f"{RECIPE}seed: 7\n", "seven.yaml")
    found = changed(
        tmp_path, "seed=7", "generators.0.share=0.5", "splits.near=0.7", "labels.declared.1=010", "checks.teacher=off",
        "trainer={use: tfidf, folds: 4}", "gate.focus=[NO, 1_000]", "run.devices=[cpu]", "target.per_class=",
        "target.multiply=2", "price.cpu_hour=0.1 # so little", "seed=8",
    )  # fmt: skip
    assert (found.seed, found.generators[0].share, found.splits.near) == (8, 0.5, 0.7)
    assert (list(found.labels.declared), list(found.labels.retired)) == (["a", "010"], ["a", "b"])
    assert "teacher" not in found.checks and found.trainer.options.folds == 4
    assert found.gate.focus == ("NO", "1_000") and found.run.devices == ("cpu",)
    assert (found.target.per_class, found.target.multiply, found.price.cpu_hour) == (None, 2, 0.1)
    assert (
        load_recipe(write(tmp_path, RECIPE), changes=["seed=7"]).hash() == load_recipe(f"{tmp_path}/seven.yaml").hash()
    )


def test_what_is_set_at_an_alias_is_set_there_alone() -> None:
    assert read_document("a: &a {k: 1}\nb: *a\n", ["b.k=2"]).value == {"a": {"k": 1}, "b": {"k": 2}}


def test_what_is_set_wins_over_file_and_base_and_may_hold_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("N", "9")
    write(tmp_path, f"{RECIPE}seed: 1\n", "base.yaml")
    path = write(tmp_path, "extends: base.yaml\nseed: 2\nsplits: {seed: 5}\n")
    recipe = load_recipe(path, changes=["seed=${N}", "splits.near=0.7"])
    assert (recipe.seed, recipe.splits.seed, recipe.splits.near) == (9, 5, 0.7)


@pytest.mark.parametrize(
    ("change", "where", "words"),
    [
        ("seed", "--set", "KEY=VALUE"),
        ("=7", "--set", "KEY=VALUE"),
        ("splits..near=1", "--set", "KEY=VALUE"),
        ("a\x1bb=1", "--set", "KEY=VALUE"),
        ("sede=7", "--set sede", "did you mean 'seed'?"),
        ("splits.naer=0.7", "--set splits.naer", "did you mean 'near'?"),
        ("splits={naer: 0.7}", "--set splits (splits.naer)", "did you mean 'near'?"),
        ("seed=x", "--set seed", "an integer"),
        ("seed='7'", "--set seed", "an integer"),
        ("splits.near=7", "--set splits.near", "between 0.5 and 1"),
        ("generators.1.share=2", "--set generators.1.share", "a list of 1"),
        ("generators.-1.share=2", "--set generators.-1.share", "a list of 1"),
        ("generators.rules.share=2", "--set generators.rules.share", "number them from 0"),
        ("generators.0.strenght=2", "--set generators.0.strenght", "did you mean 'strength'"),
        ("dataset.x=2", "--set dataset.x", "single value"),
        ("seed=[", "--set seed", "not valid YAML"),
        ("seed=a: b", "--set seed", "one value on one line"),
        ("seed=- 1", "--set seed", "one value on one line"),
        ("seed=1\n2", "--set seed", "one value on one line"),
        ("seed=# no", "--set seed", "one value on one line"),
        ("seed={a: 1, a: 2}", "--set seed", "appears twice"),
        ("seed=${NOT_SET_ANYWHERE}", "--set seed", "NOT_SET_ANYWHERE is not set"),
        ("seed=*x", "--set seed", "not valid YAML"),
        ("seed=\x1b", "--set seed", "not valid YAML"),
        ("seed=a\udcff", "--set seed", "not UTF-8"),
        ("extends=a.yaml", "--set extends", "only a recipe can say"),
    ],
)
def test_what_cannot_be_set_is_refused_by_its_key(tmp_path: Path, change: str, where: str, words: str) -> None:
    error = refusal(write(tmp_path, RECIPE), (change,))
    assert error.where == where and words in str(error)


def test_a_noted_command_says_what_was_set() -> None:
    assert name_of("nights/recipe.yaml", ["seed=7", "gate.focus=[a, b]"]) == (
        "recipe.yaml --set seed=7 --set 'gate.focus=[a, b]'"
    )


def test_commands_take_what_is_set(tmp_path: Path) -> None:
    path = write(tmp_path, RECIPE)
    asked = ("--set", "target.per_class=4", "--set", "run.store=nights")
    ended = augmill("run", path, *asked)
    assert ended.code == 0, ended.err
    assert ended.last["location"].startswith(f"{tmp_path}/nights/public/tiny/")
    assert augmill("path", path, *asked).out.strip() == ended.last["location"]
    told = augmill("check", path, *asked, "--resolved")
    assert "per_class: 4" in told.out and f"store: {tmp_path}/nights" in told.out
    shown = augmill("show", path, *asked)
    assert "augmill run recipe.yaml --set target.per_class=4 --set run.store=nights" in shown.out
    for command in ("status", "releases", "gc", "verify"):
        assert augmill(command, path, *asked).code == 0, command
    document = json.loads(augmill("check", path, *asked, "--json").out)
    assert document["recipe"]["target"]["per_class"] == 4
    assert "1 snapshot" in augmill("status", path, *asked).out or augmill("status", path, *asked).last["counts"]
    changed_again = augmill("status", path, *asked, "--set", "seed=3").last["counts"]
    assert changed_again == {"stale": 1}  # it is identity as any value is
    for command in ("gc", "releases", "doctor"):
        refused(augmill(command, "--set", "seed=3"), 2, ["--set", "recipe"])
