"""What is read from a store is checked before it is used or printed: every command refuses what Augmill did not write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Ended, augmill, fingerprint, write_recipe
from fake_releases import put_fake
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.errors import CorruptObject, StoreRefused
from augmill.tasks.rows.hashing import canonical_json, hash_json, seal, unseal
from augmill.tasks.stages.publish import commit_releases
from augmill.tasks.store import log as logs
from augmill.tasks.store.log import read_log
from augmill.tasks.store.releases import FORMAT, read_manifest_of, require_whole, verify_release
from augmill.tasks.store.shapes import LINE, LINES, cleaned, require_document
from augmill.tasks.store.store import Store, log_key, release_key

LAST = log_key("tiny", 0)
ODD = ["../../..", "/etc", "a\\b", "\x1b[2Jx", "x" * 16, "0" * 15, 7, None, True, [], {}, ["0" * 16]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a recipe, and a store that one run filled; and that run's release."""
    folder = tmp_path_factory.mktemp("stored") / "copy"
    folder.mkdir()
    ended = augmill("run", write_recipe(folder))
    assert ended.code == 0, ended.err
    return folder, str(ended.last["release"])


@pytest.fixture
def folder(built: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of it, whose recipe names the copy's store."""
    shutil.copytree(built[0], tmp_path / "copy")
    write_recipe(tmp_path / "copy")
    (tmp_path / "ids.txt").write_text("0123\n")
    return tmp_path / "copy"


def every_command(folder: Path) -> dict[str, Callable[[], Ended]]:
    recipe, store, at = folder / "recipe.yaml", folder / "store", ["--store", folder / "store"]
    lines: dict[str, list[Any]] = {
        "releases": ["releases", *at],
        "show": ["show", *at],
        "verify": ["verify", *at],
        "verify all": ["verify", "--all", *at],
        "path": ["path", recipe],
        "audit": ["audit", "0", *at],
        "explain": ["explain", "row", *at],
        "diff": ["diff", "0", "1", *at],
        "rollback": ["rollback", "--reason", "r", *at],
        "tag": ["tag", "gold", *at],
        "gc": ["gc", *at],
        "gc delete": ["gc", recipe, "--delete", "--grace", "1m"],
        "forget": ["forget", recipe, "--rows", folder.parent / "ids.txt", "--reason", "r"],
        "status": ["status", recipe],
        "backfill": ["backfill", recipe, "--dry-run"],
        "run": ["run", recipe, "--store", store],
    }
    return {name: lambda line=line: augmill(*line) for name, line in lines.items()}  # type: ignore[misc]


def rewrite(store: Path, key: str, change: Callable[[dict[str, Any]], object]) -> str:
    """The sealed document with other content, its seal whole: as somebody writes it who may write to the store."""
    body = unseal((store / key).read_bytes())
    assert body is not None
    change(body)
    (store / key).write_bytes(seal(body))
    return key


def all_refuse(folder: Path, key: str, *, but: tuple[str, ...] = ()) -> None:
    """Each command names the object, ends with a documented code, says nothing raw, and touches nothing beside the store."""
    beside = fingerprint(folder.parent)
    outside = {name: state for name, state in beside.items() if not name.startswith("copy/store/")}
    for name, call in every_command(folder).items():
        if name in but:
            continue
        ended = call()
        assert ended.code in (2, 3, 4), (name, ended.err)
        assert key in ended.err + ended.out, (name, ended.err)
        assert "defect" not in ended.err and not set(ended.err + ended.out) & {"\x1b", "\x07"}, (name, ended.err)
    after = fingerprint(folder.parent)
    assert {name: state for name, state in after.items() if not name.startswith("copy/store/")} == outside


def set_current(value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda body: body["current"].update(all=value)


@pytest.mark.parametrize(
    "change",
    [
        set_current("../../.."),
        set_current(7),
        lambda body: body["current"].update({"\x1b[31m": "0" * 16}),
        lambda body: body.pop("current"),
        lambda body: body.update(current=["all"]),
        lambda body: body.update(actor="\x1b]0;root\x07"),
        lambda body: body.update(verdict={"gain": "\x1b[2J"}),
        lambda body: body.update(kind="rollback"),
        lambda body: body.update(kind="tag", tag="gold"),
        lambda body: body.update(time="yesterday"),
        lambda body: body.update(withdraws=["../../x"]),
    ],
    ids=["path", "number", "name", "no current", "list", "actor", "verdict", "unpublished", "tag", "time", "withdraws"],
)
def test_every_command_refuses_a_log_that_augmill_did_not_write(folder: Path, change: Any) -> None:
    all_refuse(folder, rewrite(folder / "store", LAST, change))


@pytest.mark.parametrize(
    "name", ["../../../../../outside.txt", "/etc/hostname", "a\\..\\b", "train/\x1b[2J", "", "a//b", "./a"]
)
def test_a_release_whose_manifest_names_a_file_outside_is_refused_by_name(folder: Path, name: str) -> None:
    store = Store(str(folder / "store"))
    old = str(read_log(store, "tiny").newest())
    manifest = json.loads(store.get(release_key("tiny", old, "manifest.json")) or b"")
    manifest["files"] = {name: manifest["files"]["labels.json"]}
    release = hash_json(manifest)[:16]
    key = release_key("tiny", release, "manifest.json")
    shutil.copytree(folder / "store" / release_key("tiny", old), folder / "store" / release_key("tiny", release))
    store.put(key, canonical_json(manifest))
    rewrite(folder / "store", LAST, set_current(release))
    (folder.parent / "outside.txt").write_text("stays")
    # These look at no file of a release; gc counts what lies in its directory.
    all_refuse(
        folder,
        key,
        but=("releases", "path", "audit", "diff", "rollback", "gc", "gc delete", "status", "run", "backfill", "forget"),
    )
    refused = augmill("path", folder / "recipe.yaml", "--verify")
    assert refused.code == 4 and key in refused.err
    assert (folder.parent / "outside.txt").read_text() == "stays"


@pytest.mark.parametrize("name", ["manifest.json", "provenance.json"])
def test_a_release_that_says_nothing_of_itself_is_no_defect(folder: Path, name: str) -> None:
    release = str(read_log(Store(str(folder / "store")), "tiny").newest())
    path = folder / "store" / release_key("tiny", release, name)
    for said in (b"{}", b"[]", b"7", b"\xff", b"[" * 100_000, b'{"recipe": []}'):
        path.write_bytes(said)
        for line in (["show"], ["audit", release], ["explain", "row"], ["diff", release, release], ["tag", "gold"]):
            ended = augmill(*line, "--store", folder / "store")
            expected = 0 if name == "provenance.json" and line[0] in ("show", "tag") else 4
            if line[0] == "tag" and expected == 0:
                assert augmill("tag", "gold", "--delete", "--store", folder / "store").code == 0
            assert ended.code == expected, (line, said[:20], ended.err)
            assert expected == 0 or release_key("tiny", release, name) in ended.err


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("private/attempts", lambda body: body.update(time=7)),
        ("private/attempts", lambda body: body.update(artifacts=["fit/../../../x"])),
        ("private/attempts", lambda body: body.update(reason="\x1b[2J")),
        ("private/attempts", lambda body: body.pop("outcome", None)),
        ("private/manifests/split", lambda body: body.update(files={"../x": {"sha256": "0" * 64, "size": 1}})),
        ("private/manifests/settle", lambda body: body.update(files={"a": {"sha256": "../../x", "size": 1}})),
        ("private/manifests/ingest", lambda body: body.pop("rows")),
    ],
)
def test_private_documents_that_augmill_did_not_write_are_refused_by_name(
    folder: Path, where: str, change: Any
) -> None:
    (path, *_) = sorted((folder / "store" / where).rglob("end.json" if "attempts" in where else "*.json"))
    key = rewrite(folder / "store", path.relative_to(folder / "store").as_posix(), change)
    for name in ("gc", "gc delete", "run", "forget", "verify all", "status"):
        if name in ("run", "status") and "manifests" in where and name == "status":
            continue
        if name == "run" and "attempts" in where:
            continue
        ended = every_command(folder)[name]()
        assert ended.code in (2, 3, 4) and key in ended.err + ended.out, (name, ended.code, ended.err)
        assert "defect" not in ended.err and "\x1b" not in ended.err + ended.out


@pytest.mark.parametrize("name", ["train/part-00000.parquet", "labels.json", "manifest.json"])
def test_a_rotted_release_is_not_brought_back_tagged_or_given(folder: Path, name: str) -> None:
    store, recipe = Store(str(folder / "store")), folder / "recipe.yaml"
    first = str(read_log(store, "tiny").newest())
    write_recipe(folder, publish={"prefix": "syn_"})
    assert augmill("run", recipe).code == 0
    path = folder / "store" / release_key("tiny", first, name)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(b"{}" if name == "manifest.json" else bytes(raw))
    before = (folder / "store" / "public" / "tiny" / "_log").glob("*")
    entries = len(list(before))
    for line in (["rollback", "--reason", "r"], ["tag", "gold", "--release", first]):
        ended = augmill(*line, "--store", folder / "store")
        assert ended.code == 4 and release_key("tiny", first, name) in ended.err, ended.err
    assert len(read_log(store, "tiny").entries) == entries
    write_recipe(folder)  # the first recipe again: what has rotted is put again, whole
    assert augmill("run", recipe).code == 0
    assert read_log(store, "tiny").newest() == first and augmill("path", recipe, "--verify").code == 0


def test_a_release_of_a_later_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    """By whatever reads it: an older version that meets a newer store guesses nothing."""
    store = Store(str(tmp_path))
    manifest = {"format": FORMAT + 1, "dataset": "tiny", "rows": "somewhere else"}
    release = hash_json(manifest)[:16]
    store.put(release_key("tiny", release, "manifest.json"), canonical_json(manifest))
    before = fingerprint(tmp_path)
    for read in (read_manifest_of, verify_release, require_whole):
        with pytest.raises(
            StoreRefused, match=rf"format {FORMAT + 1} of a later version; this one reads up to {FORMAT}"
        ):
            read(store, "tiny", release)
    assert fingerprint(tmp_path) == before


def test_what_rotted_between_put_and_entry_is_never_published(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    release = put_fake(store, "r1")
    store.put(release_key("tiny", release, "manifest.json"), b"{}")
    entry = {"kind": "release", "current": {"all": release}, "reason": ""}
    with pytest.raises(CorruptObject, match=rf"^{release_key('tiny', release, 'manifest.json')}: "):
        logs.append(store, "tiny", lambda log: entry, command="t")
    assert read_log(store, "tiny").entries == []


ENTRY = {
    **{"number": 0, "commit": "c", "previous": "0" * 64, "time": "2026-10-01T00:00:00+00:00", "actor": "a"},
    **{"command": "c", "kind": "release", "current": {"all": "0" * 16}, "reason": "r", "forced": False},
    **{"withdraws": ["0" * 16], "replaced": {"0" * 16: "1" * 16}, "made": {"all": "0" * 16}},
}


@given(st.sampled_from(sorted(ENTRY)), st.sampled_from(ODD))
def test_an_odd_value_anywhere_in_an_entry_is_refused_or_harmless(name: str, odd: Any) -> None:
    require_document(LAST, dict(ENTRY))
    for value in (odd, [odd], {"all": odd}, {"\x1b": odd}):
        try:
            require_document(LAST, ENTRY | {name: value})
        except StoreRefused as error:
            assert error.where == LAST and LINES.fits(str(error))
        else:  # then it is what the entry may hold
            assert type(value) is type(ENTRY[name]) and LINES.fits(json.dumps(value, ensure_ascii=False))


@given(st.recursive(st.text(), lambda part: st.lists(part) | st.dictionaries(st.just("verdict"), part)))
def test_what_is_written_to_the_log_holds_no_control_character(value: Any) -> None:
    assert LINE.fits(json.dumps(cleaned({"verdict": value}), ensure_ascii=False))
    assert cleaned(cleaned(value)) == cleaned(value)


def test_a_reason_with_escape_sequences_is_refused_before_it_stands_in_the_log(folder: Path) -> None:
    for command in (("rollback",), ("tag", "model-1")):
        ended = augmill(*command, "--store", folder / "store", "--reason", "\x1b[2Jgone")
        assert ended.code == 2 and "control characters" in ended.err and "\x1b" not in ended.err


def test_of_several_that_switch_together_one_that_rotted_keeps_all_back(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    moves: dict[str, tuple[str | None, str]] = {day: (None, put_fake(store, f"night {day}")) for day in ("1", "2", "3")}
    key = release_key("tiny", moves["2"][1], "manifest.json")
    (tmp_path / key).write_bytes((tmp_path / key).read_bytes().replace(b'"format":1', b'"format":3'))
    with pytest.raises(CorruptObject, match=f"^{key}: "):
        commit_releases(store, "tiny", moves, entry={"reason": ""}, command="t")
    assert read_log(store, "tiny").entries == []
