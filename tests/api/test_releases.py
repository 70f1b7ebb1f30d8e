"""Releases as frames and datasets are the rows of their Parquet files, on a disk and in a bucket; what is current is marked."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from buckets import s3_server
from chain import produce_and_publish, recipe_document, tiny_recipe, write_rows
from commands import augmill as command
from commands import write_recipe
from fake_releases import put_fake

import augmill
from augmill.tasks.errors import CorruptObject
from augmill.tasks.stages.publish import commit_releases
from augmill.tasks.store.log import rollback
from augmill.tasks.store.store import Store, release_key

WEIGHT = 0.25


def publish(folder: Path, root: str) -> augmill.Release:
    recipe = tiny_recipe(write_rows(folder / "rows.csv", 240), mix={"synthetic_weight": WEIGHT, "epochs": 2})
    produce_and_publish(recipe, Store(root))
    return augmill.releases(root)[0]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> augmill.Release:
    folder = tmp_path_factory.mktemp("releases")
    return publish(folder, str(folder / "store"))


def rows(release: augmill.Release, split: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(Path(release.location) / split).to_pylist()
    return found


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_frames_are_the_rows_of_the_files(release: augmill.Release, split: str) -> None:
    expected = rows(release, split)
    assert release.to_arrow(split).to_pylist() == expected and len(expected) == release.counts[split]["rows"]
    frame = release.to_polars(split)
    assert isinstance(frame, pl.DataFrame) and frame.to_dicts() == expected
    held = release.to_datasets()
    assert list(held) == ["train", "validation", "test"] and held[split].to_list() == expected


def test_torch_gets_rows_with_their_weights_in_an_epochs_order(release: augmill.Release) -> None:
    import torch

    expected, dataset = rows(release, "train"), release.to_torch()
    assert isinstance(dataset, torch.utils.data.Dataset) and len(dataset) == len(expected)
    assert [dataset[at]["text"] for at in range(len(dataset))] == [row["text"] for row in expected]
    assert set(dataset[0]) == {"text", "label", "aug_weight"}  # lang has gaps, since synthetic rows have none
    assert {row["aug_weight"] for row in expected} == {1.0, WEIGHT}
    assert dataset.datasets["aug_weight"].tolist() == [row["aug_weight"] for row in expected]
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=8)))
    assert len(batch["text"]) == 8 and batch["aug_weight"].shape == (8,)
    for epoch in (0, 1):
        order = pl.read_parquet(f"{release.location}/order.parquet").filter(epoch=epoch).sort("position")
        ids = release.to_torch(columns=["aug_row_id"], epoch=epoch).datasets["aug_row_id"]
        assert ids == order["aug_row_id"].to_list()
    assert release.labels == {"refund": 0, "track": 1, "login": 2}


def test_what_is_not_there_is_named(release: augmill.Release) -> None:
    for call, words in (
        (lambda: release.to_polars("trian"), "train, validation, test"),
        (lambda: release.to_torch(columns=["texts"]), "did you mean 'text'"),
        (lambda: release.to_torch(epoch=2), "0 to 1"),
        (lambda: release.to_torch("test", epoch=0), "only train rows"),
        (lambda: augmill.releases(release.store, "other"), "tiny"),
        (lambda: augmill.releases(f"{release.store}-not"), "no store"),
    ):
        with pytest.raises(augmill.UserError) as caught:
            call()
        assert words in str(caught.value)


def test_a_file_that_is_not_what_was_published_is_refused_by_name(release: augmill.Release, tmp_path: Path) -> None:
    shutil.copytree(release.store, tmp_path / "store")
    copy = augmill.releases(tmp_path / "store")[0]
    assert copy.verify() is copy and copy.id == release.id
    file = Path(copy.location) / "test/part-00000.parquet"
    shutil.copy(Path(copy.location) / "validation/part-00000.parquet", file)  # Parquet, but another
    for read in (lambda: copy.to_polars("test"), copy.verify):
        with pytest.raises(CorruptObject, match="test/part-00000"):
            read()
    assert copy.to_polars("train").height  # the others stand
    (Path(copy.location) / "manifest.json").unlink()
    with pytest.raises(augmill.WorldError, match=r"manifest\.json"):
        augmill.releases(tmp_path / "store")[0].to_polars()


def test_what_a_reader_gets_stands_first_and_is_marked(release: augmill.Release, tmp_path: Path) -> None:
    shutil.copytree(release.store, tmp_path / "store")
    recipe = write_recipe(tmp_path)
    store, second = Store(str(tmp_path / "store")), put_fake(Store(str(tmp_path / "store")), "second")
    commit_releases(store, "tiny", {"all": (release.id, second)}, entry={"reason": "t"}, command="t")

    def listed() -> list[tuple[str, bool, bool]]:
        return [(each.id, each.current, each.withdrawn) for each in augmill.releases(recipe)]

    assert listed() == [(second, True, False), (release.id, False, False)]
    rollback(store, "tiny", to=None, reason="t", command="t")
    assert listed() == [(release.id, True, False), (second, False, True)]
    assert command("path", recipe).out.strip() == augmill.releases(recipe)[0].location
    store.delete(release_key("tiny", second, "manifest.json"))
    assert "withdrawn" in repr(augmill.releases(recipe)[1])
    assert "<td" in augmill.releases(recipe)[1]._repr_html_()  # without its rows, which nobody knows any more


def test_a_recipe_without_a_release_has_none(tmp_path: Path) -> None:
    assert augmill.releases(write_recipe(tmp_path)) == [] and not (tmp_path / "store").exists()


def test_a_release_can_be_handed_to_another_process(release: augmill.Release) -> None:
    assert pickle.loads(pickle.dumps(release)) == release


def test_a_release_in_a_bucket_is_read_there(release: augmill.Release, tmp_path: Path) -> None:
    with s3_server("shelf"):
        held = publish(tmp_path, "s3://shelf/augmill")
        assert held.location == f"s3://shelf/augmill/{release_key('tiny', held.id)}" and held.id == release.id
        assert held.verify().to_polars().to_dicts() == rows(release, "train")
        assert len(held.to_torch("test")) == len(held.to_datasets()["test"]) == held.counts["test"]["rows"]
        assert json.dumps(held.labels) and "s3://shelf" in held._repr_html_()


TYPED = {"listed": pl.Datetime("us", "UTC"), "district": pl.String, "area_m2": pl.Float64, "rent": pl.Float64}


def test_columns_of_a_csv_come_in_the_recipes_types_if_asked(tmp_path: Path) -> None:
    lines = (Path(__file__).parents[2] / "infra/examples/rents/rents.csv").read_text().splitlines()[:161]
    (tmp_path / "rents.csv").write_text("\n".join(lines))
    columns = {
        "inputs": {"listed": "timestamp", "district": "category", "area_m2": "number", "built": "number"},
        "target": {"rent": "number"},
    }
    changes = {"columns": columns, "target": {"multiply": 1.2}, "generators": [{"use": "smote"}], "trainer": "linear"}
    document = recipe_document(tmp_path / "rents.csv", **changes) | {"run": {"store": str(tmp_path / "store")}}
    found = augmill.run(document, quiet=True).release
    assert found is not None
    plain, typed = found.to_polars(), found.to_polars(typed=True)
    assert {type for name, type in plain.schema.items() if not name.startswith("aug_")} == {pl.String()}
    assert {name: typed.schema[name] for name in TYPED} == TYPED and typed.columns == plain.columns
    assert typed["rent"].to_list() == [float(value) for value in plain["rent"]]
    assert typed["built"].null_count() == plain["built"].is_in(["", "NA"]).sum() + plain["built"].null_count() > 0
    assert typed.select("district", "^aug_.*$").equals(plain.select("district", "^aug_.*$"))
    assert found.to_torch(columns=["rent"], typed=True).datasets["rent"].tolist() == typed["rent"].to_list()
    assert found.to_datasets(typed=True)["test"].features["area_m2"].dtype == "float64"
    page = (Path(__file__).parents[2] / "docs/releases.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^rents = (polars.*)$", page, re.MULTILINE)
    assert eval(line, {"polars": pl, "release": found.location})["rent"].to_list() == typed["rent"].to_list()
    (Path(found.location) / "provenance.json").unlink()
    with pytest.raises(augmill.UserError, match=r"provenance\.json"):
        found.to_polars(typed=True)
    assert found.to_polars().equals(plain)


def test_bins_of_a_number_are_not_called_classes(tmp_path: Path, release: augmill.Release) -> None:
    store = shutil.copytree(release.store, tmp_path / "store")
    provenance = Path(augmill.releases(store)[0].location) / "provenance.json"
    about = {"publish": {"prefix": "aug_"}, "seed": 0, "generators": []}
    for target, word in (({"rent": "number"}, "bins"), ({"rent": "label"}, "classes"), (None, "classes")):
        provenance.write_text(json.dumps({"recipe": about | {"columns": {"target": target}}, "failures": []}))
        shown = command("show", "--store", store).out
        assert [line.split()[3] for line in shown.splitlines() if line.startswith("split ")] == [word]
        assert f">{word}</th>" in augmill.releases(store)[0]._repr_html_()


def test_a_notebook_shows_a_list_of_releases_as_a_table(release: augmill.Release) -> None:
    found = augmill.releases(release.store)
    assert isinstance(found, list) and found == [release]
    page = found._repr_html_()  # type: ignore[attr-defined]
    assert page.count("<tr>") == 2 and release.id in page and ">current<" in page
