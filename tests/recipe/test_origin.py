"""Where a recipe is read from: a file, a bucket or its own text; what it names is the same place wherever it is read."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
import yaml
from buckets import s3_server
from chain import recipe_document, write_rows
from commands import augmill, refused, write_recipe
from obstore.store import from_url

from augmill.tasks.errors import AugmillError, StoreSilent, UserError
from augmill.tasks.recipe.layers import text_of
from augmill.tasks.recipe.origin import MAX_BYTES, name_of
from augmill.tasks.recipe.recipe import load_recipe, recipe_edited

ADDRESS = "s3://recipes/team/nights/recipe.yaml"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server("recipes") as address:
        yield address


def written(path: str, store: str | None = "s3://recipes/store", **changes: Any) -> str:
    """A recipe's text over rows at ``path``."""
    run = {"orchestrator": "none"} | ({"store": store} if store else {})
    return str(yaml.safe_dump(recipe_document(Path(path)) | {"source": {"path": path}, "run": run} | changes))


def put(text: str | bytes, address: str = ADDRESS) -> str:
    bucket, _, key = address.removeprefix("s3://").partition("/")
    obstore.put(from_url(f"s3://{bucket}"), key, text.encode() if isinstance(text, str) else text)
    return address


def test_a_recipe_is_the_same_whether_read_from_a_file_a_bucket_or_its_text(endpoint: str, tmp_path: Path) -> None:
    text = written(str(write_rows(tmp_path / "rows.csv")))
    (tmp_path / "recipe.yaml").write_text(text)
    found = [load_recipe(tmp_path / "recipe.yaml"), load_recipe(put(text)), load_recipe(text)]
    assert found[0] == found[1] == found[2]
    assert len({recipe.hash() for recipe in found}) == 1
    assert [recipe.origin for recipe in found] == [str(tmp_path / "recipe.yaml"), ADDRESS, text]
    assert [name_of(recipe.origin) for recipe in found] == ["recipe.yaml", ADDRESS, "tiny"]


def test_the_origin_is_no_key_of_the_document_and_travels_with_the_recipe(tmp_path: Path) -> None:
    text = written(str(tmp_path / "rows.csv"))
    with pytest.raises(UserError, match="unknown key 'origin'"):
        load_recipe(f"{text}origin: here\n")
    recipe = load_recipe(text)
    assert pickle.loads(pickle.dumps(recipe)).origin == text
    assert text not in repr(recipe)


def test_a_relative_path_of_a_file_gives_an_absolute_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load_recipe("recipe.yaml").origin == str(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("rows.csv", "s3://recipes/team/nights/rows.csv"),
        ("./in/*.csv", "s3://recipes/team/nights/in/*.csv"),
        ("../shared/day=*/", "s3://recipes/team/shared/day=*"),
        (".", "s3://recipes/team/nights"),
        ("gs://others/rows.csv", "gs://others/rows.csv"),
    ],
)
def test_rows_that_a_recipe_in_a_bucket_names_lie_beside_it(endpoint: str, path: str, leads_to: str) -> None:
    more = {"unlabelled": {"path": path}, "splits": {"heldout_exclude": [path]}}
    recipe = load_recipe(put(written(path, **more)))
    assert recipe.unlabelled is not None
    assert (recipe.source.path, recipe.unlabelled.path, recipe.splits.heldout_exclude) == (
        leads_to,
        leads_to,
        (leads_to,),
    )


def test_a_recipe_at_the_top_of_its_bucket_names_rows_beside_it(endpoint: str) -> None:
    recipe = load_recipe(put(written("in/rows.csv"), "s3://recipes/top.yaml"))
    assert recipe.source.path == "s3://recipes/in/rows.csv"


LOCAL = {
    "source.path": {"source": {"path": "rows.csv"}},
    "unlabelled.path": {"unlabelled": {"path": "more.csv"}},
    "splits.heldout_exclude.0": {"splits": {"heldout_exclude": ["held.csv"]}},
    "validation.source": {"validation": {"source": "suite.yaml"}},
    "generators.0.thesaurus": {"generators": [{"use": "rules", "thesaurus": "words.txt"}]},
    "generators.0.path": {"generators": [{"use": "replay", "path": "made.jsonl"}]},
    "generators.0.model": {"generators": [{"use": "causal_lm", "model": "models/deep/gpt"}]},
    "generators.0.log_dir": {"generators": [{"use": "causal_lm", "log_to": "tensorboard", "log_dir": "losses"}]},
    "run.store": {"run": {"store": "store"}},
    "run.store by default": {"run": {}},
}


@pytest.mark.parametrize("key", LOCAL)
def test_relative_paths_in_a_text_are_refused_by_name(tmp_path: Path, key: str) -> None:
    text = written(str(tmp_path / "rows.csv"), **LOCAL[key])
    with pytest.raises(UserError, match="relative path") as caught:
        load_recipe(text)
    assert (
        caught.value.where.startswith("the recipe's text line ")
        and f"({key.split(maxsplit=1)[0]})" in caught.value.where
    )
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("key", [key for key in LOCAL if not key.startswith(("source", "unlabelled", "splits"))])
def test_local_files_of_a_recipe_in_a_bucket_are_refused_by_name(endpoint: str, key: str) -> None:
    with pytest.raises(UserError, match="relative path") as caught:
        load_recipe(put(written("rows.csv", **LOCAL[key])))
    assert caught.value.where.startswith(f"{ADDRESS} line ") and f"({key.split(maxsplit=1)[0]})" in caught.value.where


def test_rows_outside_the_bucket_are_refused(endpoint: str) -> None:
    with pytest.raises(UserError, match="relative path"):
        load_recipe(put(written("../../../rows.csv")))


def test_a_given_store_and_absolute_paths_and_hub_names_are_taken(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("big, large\n")
    generators = [
        {"use": "rules", "thesaurus": str(words)},
        {"use": "causal_lm", "model": "someone/model-1.5", "revision": "0" * 40},
    ]
    recipe = load_recipe(written(str(tmp_path / "rows.csv"), store=None, generators=generators), store="here")
    assert recipe.run.store == str(Path("here").absolute())
    assert recipe.generators[0].options.thesaurus == str(words)
    assert recipe.generators[1].options.model == "someone/model-1.5"


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("dataset: tiny\nsource: [\n", ("the recipe's text line", "not valid YAML")),
        (written("/rows.csv", sorce={}), ("the recipe's text line", "(sorce)", "did you mean 'source'")),
        ("a: 1\n" + "#" * MAX_BYTES, ("the recipe's text:", "at most 250,000 bytes")),
        ("a: \udcff\n", ("the recipe's text:", "not UTF-8 at byte 3")),
        ("s3://recipes/nothing.yaml", ("s3://recipes/nothing.yaml:", "cannot be read: there is no such file")),
        ("https://example.org/recipe.yaml", ("the recipe's address:", "https:// addresses cannot be read")),
        ("s3://key:s3cret@recipes/recipe.yaml", ("the recipe's address:", "credentials")),
        ("nul\0.yaml", ("cannot be read",)),
    ],
)
def test_an_origin_that_gives_no_recipe_is_named_shortly(endpoint: str, where: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(where)
    message = str(caught.value)
    assert all(word in message for word in words) and "What to do: " in message, message
    assert len(message) < 400 and "s3cret" not in message


def test_an_object_too_large_to_be_a_recipe_is_refused(endpoint: str) -> None:
    with pytest.raises(UserError, match="at most 250,000 bytes"):
        load_recipe(put(b"#" * (MAX_BYTES + 1)))


def test_an_edited_file_is_seen_a_gone_one_too_and_a_text_cannot_be_edited(endpoint: str, tmp_path: Path) -> None:
    text = written(str(tmp_path / "rows.csv"))
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    local, remote, inline = load_recipe(path), load_recipe(put(text)), load_recipe(text)
    assert not any(map(recipe_edited, (local, remote, inline)))
    path.write_text(text)  # anew, with the same bytes
    put(text)
    assert not any(map(recipe_edited, (local, remote, inline)))
    path.write_text(f"{text}# a comment\nschedule: {{cron: 0 4 * * *}}\n")
    put(f"{text}# a comment\n")
    assert not any(map(recipe_edited, (local, remote, inline)))  # it would make the same rows
    path.write_text(f"{text}seed: 7\n")
    put(f"{text}seed: [\n")
    assert recipe_edited(local) and recipe_edited(remote) and not recipe_edited(inline)
    path.unlink()
    obstore.delete(from_url("s3://recipes"), "team/nights/recipe.yaml")
    assert recipe_edited(local) and recipe_edited(remote)


def test_a_bucket_that_does_not_answer_is_waited_for_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from augmill.tasks.boundary.retries import PATIENCE

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "test")
    PATIENCE.renew(0.2)
    with pytest.raises(AugmillError) as caught:
        load_recipe(ADDRESS)
    assert isinstance(caught.value, StoreSilent) and ADDRESS in str(caught.value)


def test_commands_take_an_address_and_a_text(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    obstore.put(from_url("s3://recipes"), "team/nights/rows.csv", write_rows(tmp_path / "rows.csv"))
    address = put(written("rows.csv", store=None, target={"per_class": 4}))
    refused(augmill("run", address), 2, ["--store", "run.store"])
    store = tmp_path / "store"
    ended = augmill("run", address, "--store", store)
    assert ended.code == 0, ended.err
    assert Path(ended.last["location"]).is_relative_to(store)
    for command in ("check", "path", "status", "releases", "gc", "show"):
        looked = augmill(command, address, "--store", store)
        assert looked.code == 0, looked.err
    assert augmill("path", address, "--store", "store").out.strip() == ended.last["location"]
    text = written(str(tmp_path / "rows.csv"), store=str(store), target={"per_class": 4})
    assert augmill("path", text).out.strip() == ended.last["location"]


def test_a_recipes_text_ends_in_a_line_break_so_that_it_is_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbf{dataset: tiny}")
    assert text_of(path) == "{dataset: tiny}\n"
