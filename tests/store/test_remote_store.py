"""Source and store in a bucket: the release of a disk, the second run without work, a corrupt object made again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from buckets import s3_server
from chain import public_bytes, recipe_document, write_rows
from obstore.store import from_url
from running import Run, run

from augmill.tasks.recipe.recipe import build_recipe
from augmill.tasks.store.releases import verify_release
from augmill.tasks.store.store import LookingStore, Store


@pytest.fixture
def endpoint() -> Iterator[str]:
    with s3_server("data", "mill") as address:
        yield address


def go(source: str, store: str, base: Path) -> Run:
    changes = {"gate": {"seeds": 3, "resamples": 200, "rule": "not_worse", "margin": 100.0}}
    document = recipe_document(Path("unused"), **changes) | {"source": {"path": source}}
    document["run"] |= {"store": store, "workers": 2}
    return run(build_recipe(document, base=base))


def public_objects(ran: Run) -> dict[str, bytes]:
    keys = [key for key in ran.store.list_keys("public") if "/_log/" not in key and "provenance" not in key]
    return {key.removeprefix("public/"): ran.store.get(key) or b"" for key in keys}


@pytest.mark.slow
def test_a_bucket_holds_the_release_that_a_disk_holds_and_is_resumed_alike(endpoint: str, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv", rows=90)
    obstore.put(from_url("s3://data"), "in/rows.csv", rows)
    local = go(str(rows), str(tmp_path / "store"), tmp_path)
    remote = go("s3://data/in/rows.csv", "s3://mill/store", tmp_path)
    assert remote.result["arrangement"] == "mix"
    assert remote.result["location"].startswith("s3://mill/store/public/tiny/releases/")
    assert public_objects(remote) == public_bytes(tmp_path / "store")
    assert local.result["release"] == remote.result["release"]
    assert verify_release(remote.store, "tiny", remote.result["release"]) == []
    again = go("s3://data/in/rows.csv", "s3://mill/store", tmp_path)
    assert (again.worked, again.result["new"]) == (0, False)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "stage"), [("bucket", "release"), ("disk", "generate")])  # the latter by a worker
def test_objects_that_rot_are_made_again_in_the_same_run(endpoint: str, tmp_path: Path, kind: str, stage: str) -> None:
    rows = write_rows(tmp_path / "rows.csv", rows=90)
    root = "s3://mill/store" if kind == "bucket" else str(tmp_path / "store")
    first = go(str(rows), root, tmp_path)
    for key in first.store.list_keys("private/objects"):
        content = first.store.get(key) or b""
        obstore.put(first.store.backend, key, content[:-1] + bytes([content[-1] ^ 1]))
    for key in first.store.list_keys(f"private/manifests/{stage}"):
        obstore.delete(first.store.backend, key)
    again = go(str(rows), root, tmp_path)
    assert (
        again.worked > 5
        and again.result["outcome"] == "published"
        and again.result["release"] == first.result["release"]
    )
    assert first.store.list_keys("private/aside")


def test_a_look_at_a_bucket_changes_nothing_in_it(endpoint: str, tmp_path: Path) -> None:
    store = Store("s3://mill/looked")
    store.put("private/x/a", b"1")
    (tmp_path / "file").write_bytes(b"content")
    standing = store.put_object(tmp_path / "file")
    before = store.list_files("private")
    looking = LookingStore("s3://mill/looked")
    assert looking.get("private/x/a") == b"1" and looking.fetch_object(*standing).read_bytes() == b"content"
    assert looking.put_if_absent("private/x/b", b"2") and not looking.put_if_absent("private/x/a", b"3")
    looking.move_aside("private/x/a")
    assert looking.get("private/x/a") is None and "private/x/b" in looking.list_keys("private")
    assert store.list_files("private") == before
