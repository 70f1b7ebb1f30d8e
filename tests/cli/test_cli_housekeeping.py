"""``gc``, ``verify --all``, ``explain``, ``audit``, ``diff``, ``forget``: what they say, and that they touch nothing unasked."""

from __future__ import annotations

import json
import os
import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from attempted import RECIPE, tried
from chain import tiny_recipe, write_rows
from commands import Ended, augmill, fingerprint, refused, write_recipe
from keeping import GATE, files_with, released

from augmill.flows.augment import run_recipe
from augmill.flows.cli.status import page
from augmill.flows.nights.states import snapshot_states
from augmill.flows.releases.gc import delete_release, find_garbage
from augmill.flows.releases.lineage import explain, makers, revision_of
from augmill.tasks.generators import GENERATORS
from augmill.tasks.rows.hashing import canonical_json, hash_json
from augmill.tasks.stages.mix import synthetic_ids
from augmill.tasks.store.attempts import utc_now
from augmill.tasks.store.delta import sync_delta
from augmill.tasks.store.erasure import write_erased
from augmill.tasks.store.log import append, read_log
from augmill.tasks.store.store import Store, delta_key


@pytest.fixture(scope="module")
def mixed(first_run: tuple[Path, Ended], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """(folder, the first run's release, the current one, which holds synthetic rows). Nobody may change what is in it."""
    folder = tmp_path_factory.mktemp("mixed") / "copy"
    shutil.copytree(first_run[0], folder)
    ended = augmill("run", write_recipe(folder, gate=GATE))
    assert ended.code == 0 and ended.last["arrangement"] == "mix"
    return folder, first_run[1].last["release"], ended.last["release"]


def table_of(store: Store, release: str, stage: str, name: str) -> pa.Table:
    """A file of one artifact of the stage that the release was made of."""
    keys = (makers(store, "tiny", release)[-1].end or {})["artifacts"]
    key = next(key for key in reversed(keys) if key.startswith(f"{stage}/"))
    entry = json.loads(store.get(f"private/manifests/{key}.json") or b"")["body"]["files"][name]
    return pq.read_table(store.fetch_object(entry["sha256"], entry["size"]))


def test_gc_only_lists_unless_told_to_delete(mixed: tuple[Path, str, str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(mixed[0] / "store", store)
    (store / "private/aside").mkdir(exist_ok=True)
    (store / "private/aside/x").write_bytes(b"rotted")
    before = fingerprint(store)
    listed = augmill("gc", "--store", store)
    assert (listed.code, listed.last["what"], fingerprint(store)) == (0, {}, before)  # younger than a day
    os.utime(store / "private/aside/x", (1, 1))
    before = fingerprint(store)
    listed = augmill("gc", "--store", store, "--grace", "1h")
    assert listed.last["what"] == {"aside": {"files": 1, "bytes": 6}} and "add --delete" in listed.out
    assert fingerprint(store) == before
    deleted = augmill("gc", "--store", store, "--grace", "1h", "--delete")
    assert deleted.last["what"] == listed.last["what"] and deleted.last["outcome"] == "deleted"
    assert not (store / "private/aside/x").exists()
    refused(augmill("gc", "--store", store, "--grace", "soon"), 2, ["soon", "24h"])
    refused(augmill("gc", "--store", tmp_path / "nowhere"), 2, ["nowhere", "run.store"])


def test_verify_all_finds_a_flipped_bit_anywhere_and_changes_nothing(
    mixed: tuple[Path, str, str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(mixed[0] / "store", store)
    assert augmill("verify", "--all", "--store", store).code == 0
    places = ("private/objects", "private/manifests", "private/attempts", "public/tiny/_log", "public/tiny/releases")
    for place in places:
        path = max((p for p in (store / place).rglob("*") if p.is_file() and p.name != "provenance.json"), key=str)
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :])
        before = fingerprint(store)
        refused(augmill("verify", "--all", "--store", store), 4, [path.name])
        assert fingerprint(store) == before
        path.write_bytes(raw)
    gone = next(path for path in (store / "private/objects").rglob("*") if path.is_file())
    gone.unlink()
    refused(augmill("verify", "--all", "--store", store), 4, ["private/manifests", "gone"])
    refused(augmill("verify", "tiny", "--all", "--store", store), 2, ["--all"])


def test_verify_all_goes_on_past_a_release_that_augmill_did_not_write(
    mixed: tuple[Path, str, str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(mixed[0] / "store", store)
    foreign = canonical_json({"dataset": "tiny\x1b[2J"})
    path = store / "public/tiny/releases" / hash_json({"dataset": "tiny\x1b[2J"})[:16] / "manifest.json"
    path.parent.mkdir()
    path.write_bytes(foreign)
    rotted = store / "public/tiny/releases" / mixed[2] / "labels.json"
    rotted.write_bytes(b"{}")
    ended = augmill("verify", "--all", "--store", store)
    refused(ended, 4, ["2 of the things checked"])
    assert f"wrong: public/tiny/releases/{path.parent.name}/manifest.json: the release's manifest" in ended.out
    assert f"wrong: public/tiny/releases/{mixed[2]}/labels.json" in ended.out


def test_what_a_tag_alone_keeps_is_no_garbage_and_missed_where_it_is_gone(
    mixed: tuple[Path, str, str], tmp_path: Path
) -> None:
    """As forget leaves it: made again for the tag, current at no time, and its attempt rotted since."""
    shutil.copytree(mixed[0] / "store", tmp_path / "store")
    store, release = Store(str(tmp_path / "store")), mixed[1]
    for key in [*store.list_keys("public/tiny/_log"), *store.list_keys("private/attempts")]:
        store.delete(key)
    made = {"kind": "forget", "current": {}, "made": {"all": release}, "reason": "asked"}
    append(store, "tiny", lambda log: made, command="test")
    tagged = {"kind": "tag", "current": {}, "tag": "kept", "release": release, "reason": ""}
    append(store, "tiny", lambda log: tagged, command="test")
    sweep = find_garbage(store, grace=timedelta(0))
    assert sweep.releases() == {"tiny": [mixed[2]]}
    delete_release(store, "tiny", release)
    refused(augmill("verify", "--all", "--store", tmp_path / "store"), 4, [f"{release} is tagged and gone"])


@pytest.mark.parametrize("raw", [b"", b"no Parquet"])
def test_forget_names_a_file_of_which_nobody_can_say_whether_it_holds_the_rows(
    mixed: tuple[Path, str, str], tmp_path: Path, raw: bytes
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(mixed[0], folder)
    part = folder / "store/public/tiny/releases" / mixed[2] / "train/part-00000.parquet"
    (folder / "ids.txt").write_text(pq.read_table(part)["aug_row_id"][0].as_py())
    part.write_bytes(raw)
    asked = ("--rows", folder / "ids.txt", "--reason", "asked", "--dry-run", "--store", folder / "store")
    ended = augmill("forget", folder / "recipe.yaml", *asked)
    refused(
        ended,
        4,
        [f"{mixed[2]}/train/part-00000.parquet", "whether it holds the rows", "then run the same command again"],
    )
    assert ended.last["kind"] == "CorruptObject"


def test_explain_follows_a_synthetic_row_to_its_parents_and_its_night(mixed: tuple[Path, str, str]) -> None:
    folder, _, release = mixed
    store = Store(str(folder / "store"))
    rows = released(store, "tiny", release)
    row = next(row for row in rows if row["aug_parent_ids"])
    ended = augmill("explain", row["aug_row_id"], "--store", folder / "store", "--json")
    found = ended.last
    assert ended.code == 0 and found["row"]["text"] == row["text"] and found["seed"] == row["aug_seed"]
    assert (found["split"], found["origin"], found["generator"]) == ("train", "synthetic", "rules")
    texts = {row["aug_row_id"]: row["text"] for row in rows}
    assert {p["row_id"]: p["row"]["text"] for p in found["parents"]} == {p: texts[p] for p in row["aug_parent_ids"]}
    assert found["scores"] == {item["name"]: item["value"] for item in row["aug_scores"]}
    assert found["made_by"]["snapshot"] == "all" and found["fit"].startswith("fit/")
    assert found["revision"] == {"version": GENERATORS["rules"].VERSION}
    shown = augmill("explain", row["aug_row_id"], "--store", folder / "store").out
    assert row["text"] in shown and all(texts[parent] in shown for parent in row["aug_parent_ids"])


def test_explain_says_why_a_row_did_not_get_in(mixed: tuple[Path, str, str]) -> None:
    folder, _, release = mixed
    store = Store(str(folder / "store"))
    rest = table_of(store, release, "settle", "rest.parquet")
    assert rest.num_rows
    for index, row_id in enumerate(synthetic_ids(rest).to_pylist()[:3]):
        found = augmill("explain", row_id, "--store", folder / "store", "--json").last
        assert found["state"] == "generated, not accepted"
        assert found["row"]["status"] == rest["status"][index].as_py()
        assert found["row"].get("why") == rest["why"][index].as_py()
    refused(augmill("explain", "no-such-row", "--store", folder / "store"), 2, ["no-such-row", "--release"])


def test_a_made_row_that_did_not_get_in_lies_beside_the_report_under_the_id_that_explain_takes(
    mixed: tuple[Path, str, str],
) -> None:
    folder, first, release = mixed
    store = Store(str(folder / "store"))
    report = Path((makers(store, "tiny", release)[-1].end or {})["report"])
    rest = pq.read_table(report.parent / "made_rows_not_accepted.parquet")
    assert rest.column_names[0] == "row_id" and rest.num_rows
    row = rest.slice(0, 1).to_pylist()[0]
    found = augmill("explain", row["row_id"], "--store", folder / "store", "--json").last
    assert found["row"]["seed"] == row["seed"] and found["row"].get("why") == row["why"]
    assert found["fit"].startswith("fit/") and found["revision"]["version"] == GENERATORS["rules"].VERSION
    assert set(re.findall("syn-[0-9a-f]{24}", report.read_text())) & set(rest["row_id"].to_pylist())  # on the page too
    # What was accepted, and then not released, because the gate did not let the mix through.
    (accepted,) = synthetic_ids(table_of(store, first, "settle", "accepted.parquet").slice(0, 1)).to_pylist()
    found = augmill("explain", accepted, "--release", first, "--store", folder / "store", "--json").last
    assert found["state"] == "accepted, but the mix was not released"


def test_a_row_is_traced_to_the_fit_it_was_made_with_among_the_runs_fits(tmp_path: Path) -> None:
    made = run_recipe(tiny_recipe(
        write_rows(tmp_path / "rows.csv"), gate=GATE, generators=[{"use": "rules"}, {"use": "interpolate"}],
        run={"orchestrator": "none", "store": str(tmp_path / "store")},
    ))  # fmt: skip
    store, of = Store(str(tmp_path / "store")), dict[str, set[str]]()
    for row in released(store, "tiny", made["release"]):
        if row["aug_generator"] and len(of.setdefault(row["aug_generator"], set())) < 3:
            of[row["aug_generator"]].add(explain(store, "tiny", made["release"], row["aug_row_id"])["fit"])
    assert {name: len(fits) for name, fits in of.items()} == {"rules": 1, "interpolate": 1}
    assert of["rules"].isdisjoint(of["interpolate"])


def test_the_revision_of_a_model_stands_beside_its_generators_version() -> None:
    options = {"model": "org/small", "revision": "a" * 40, "pivots": [{"there": "org/de", "there_revision": "b" * 40}]}
    told = revision_of({"generators": [{"use": "chat", "options": options}]}, {"chat": 3}, "chat")
    assert told == {"version": 3, "models": {"org/small": "a" * 40, "org/de": "b" * 40}}
    assert revision_of({"generators": [{"use": "rules", "options": {"seed_words": []}}]}, {}, "rules") == {}


def test_audit_tells_who_approved_with_which_numbers(mixed: tuple[Path, str, str]) -> None:
    folder, first, release = mixed
    found = augmill("audit", release[:8], "--store", folder / "store", "--json").last
    (entry,) = found["entries"]
    assert found["current"] and entry["approved_by"] == "rule not_worse" and "mix-real" in entry["verdict"]
    assert (
        entry["command"].startswith("augmill run") and found["attempts"][0]["ended"] >= found["attempts"][0]["started"]
    )
    assert found["ledger"]["accepted"] == sum(
        row["aug_origin"] == "synthetic" for row in released(Store(str(folder / "store")), "tiny", release)
    )
    old = augmill("audit", first, "--store", folder / "store")
    assert old.code == 0 and "neither current nor tagged" in old.out and "approved by outcomes." in old.out


def test_diff_counts_what_python_counts(mixed: tuple[Path, str, str]) -> None:
    folder, first, second = mixed
    store = Store(str(folder / "store"))
    found = augmill("diff", first, second, "--store", folder / "store", "--json").last
    sides: list[dict[str, Any]] = [
        {row["aug_row_id"]: row for row in released(store, "tiny", release)} for release in (first, second)
    ]
    rows = found["rows"]["train"]
    assert rows["ids"]["added"] == sorted(sides[1].keys() - sides[0].keys()) and rows["added"] > 0
    assert rows["ids"]["removed"] == sorted(sides[0].keys() - sides[1].keys()) and not found["moved"]
    assert found["recipe"]["gate.rule"] == ["superior", "not_worse"]
    back = augmill("diff", second, first, "--store", folder / "store", "--json").last
    assert back["rows"]["train"]["removed"] == rows["added"]
    same = augmill("diff", first, first, "--store", folder / "store", "--json").last
    assert not any(same["rows"]["train"][name] for name in ("added", "removed", "changed")) and not same["recipe"]


def test_a_rollback_takes_no_release_its_numbers(mixed: tuple[Path, str, str], tmp_path: Path) -> None:
    """It brings a release back; what that was measured by is what the log says of its publication."""
    shutil.copytree(mixed[0] / "store", tmp_path / "store")
    asked = ("diff", mixed[1], mixed[2], "--store", tmp_path / "store", "--json")
    before = augmill(*asked).last["metrics"]
    assert all(None not in pair for pair in before.values())
    assert augmill("rollback", "--store", tmp_path / "store", "--reason", "bad").code == 0
    assert augmill(*asked).last["metrics"] == before


def test_forget_lists_first_and_reads_ids_from_any_table(mixed: tuple[Path, str, str], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(mixed[0], folder)
    recipe = write_recipe(folder, gate=GATE)
    row = next(row for row in released(Store(str(folder / "store")), "tiny", mixed[2]) if row["aug_origin"] == "real")
    (tmp_path / "ids.txt").write_text(f"{row['aug_row_id']}\n\n")
    (tmp_path / "ids.csv").write_text(f"who,aug_row_id\nx,{row['aug_row_id']}\n")
    pq.write_table(pa.table({"id": [row["aug_row_id"]]}), tmp_path / "ids.parquet")
    before = fingerprint(folder)
    for name in ("ids.txt", "ids.csv", "ids.parquet"):
        listed = augmill("forget", recipe, "--rows", tmp_path / name, "--reason", "request 12", "--dry-run")
        assert listed.code == 0 and listed.last["made_again"] == ["all"] and mixed[2] in listed.out
    assert fingerprint(folder) == before
    refused(augmill("forget", recipe, "--rows", tmp_path / "no", "--reason", "x"), 2, ["no file"])
    wrong = augmill("forget", recipe, "--rows", tmp_path / "ids.csv", "--column", "what", "--reason", "x")
    refused(wrong, 2, ["'what'", "who, aug_row_id"])
    (tmp_path / "typo.txt").write_text("no-such-row\n")
    refused(augmill("forget", recipe, "--rows", tmp_path / "typo.txt", "--reason", "x"), 2, ["none of the 1 id"])
    refused(augmill("forget", recipe, "--rows", tmp_path / "ids.txt", "--reason", " "), 2, ["--reason", "blank"])
    (tmp_path / "half.txt").write_text(f"{row['aug_row_id']}\nno-such-row\n")
    half = augmill("forget", recipe, "--rows", tmp_path / "half.txt", "--reason", "x", "--dry-run")
    assert "1 of 2 ids stands nowhere" in half.out and half.out.startswith("1 source row(s)\n")
    assert "by today's recipe" not in half.out and half.last["unknown"] == 1
    other = augmill("forget", write_recipe(folder, gate=GATE, seed=5), "--rows", tmp_path / "ids.txt", "--reason", "x",
                    "--dry-run")  # fmt: skip
    assert "by today's recipe" in other.out and other.last["other_recipe"] == [mixed[2]]
    recipe, before = write_recipe(folder, gate=GATE), fingerprint(folder)
    write_erased(Store(str(folder / "store")), "tiny", [row["aug_row_id"]])  # as far as a forget that was killed
    assert "1 erasure(s) pending" in augmill("verify", "--all", "--store", folder / "store").out
    status = augmill("status", recipe)
    assert "1 erasure(s) pending" in status.out and status.last["erasures_pending"] == 1
    done = augmill("forget", recipe, "--rows", tmp_path / "ids.txt", "--reason", "request 12", "--no-rebuild")
    assert done.code == 0 and done.last["outcome"] == "forgotten" and done.last["made"] == {}
    assert files_with(folder / "store", row["text"]) == []
    assert "pending" not in augmill("verify", "--all", "--store", folder / "store").out
    assert augmill("status", recipe).last["erasures_pending"] == 0


@pytest.mark.parametrize(
    ("name", "raw", "more", "words"),
    [
        ("ids.parquet", b"PAR1 cut", [], ["expected Parquet"]),
        ("ids.csv", b"aug_row_id\n\xff\xfe\n", [], ["expected CSV", "decode"]),
        ("ids.csv", b'aug_row_id\n"open', [], ["expected CSV", "unexpected end"]),
        ("ids.txt", b"\xff\xfe\n", [], ["expected text in UTF-8"]),
        ("ids.txt", b"row-1\n", ["--column", "id"], ["--column", "no columns"]),
    ],
)
def test_a_file_of_ids_that_cannot_be_read_is_the_users_to_mend(
    mixed: tuple[Path, str, str], tmp_path: Path, name: str, raw: bytes, more: list[str], words: list[str]
) -> None:
    (tmp_path / name).write_bytes(raw)
    recipe = mixed[0] / "recipe.yaml"
    refused(augmill("forget", recipe, "--rows", tmp_path / name, "--reason", "x", *more), 2, words)


@pytest.mark.parametrize("kind", ["erased", "expired"])
def test_a_release_that_was_taken_away_is_told_as_such_not_as_damage(
    mixed: tuple[Path, str, str], tmp_path: Path, kind: str
) -> None:
    shutil.copytree(mixed[0] / "store", tmp_path / "store")
    store, first, second = Store(str(tmp_path / "store")), mixed[1], mixed[2]
    entry: dict[str, Any] = {"kind": "forget", "erased": [first], "replaced": {first: second}}
    entry = entry if kind == "erased" else {"kind": "expire", "expired": [first]}
    append(store, "tiny", lambda _: {"current": {}, "reason": "request 12", **entry}, command="test")
    delete_release(store, "tiny", first)
    day = read_log(store, "tiny").entries[-1]["time"][:10]
    words = [f"{first} was {kind} on {day}", f"replaced by {second}" if kind == "erased" else "retain.releases"]
    for command in (["show", "--release", first], ["explain", "row", "--release", first], ["diff", first, second]):
        refused(augmill(*command, "--store", store.root), 2, words)
    told = augmill("audit", first, "--store", store.root)
    assert told.code == 0 and all(word in told.out for word in [*words, "request 12", "approved by outcomes."])
    shutil.rmtree(tmp_path / "store/public/tiny/releases" / second)
    refused(
        augmill("show", "--store", store.root), 4, ["missing or damaged"]
    )  # of this one the log says nothing: damage


def test_a_rotten_delta_table_is_left_alone_and_the_rest_is_swept(mixed: tuple[Path, str, str], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(mixed[0], folder)
    store = Store(str(folder / "store"))
    sync_delta(store, "tiny")
    for path in (folder / "store" / delta_key("tiny") / "_delta_log").glob("*.json"):
        path.write_bytes(b"rotted")
    store.put("private/aside/x", b"rotted")
    os.utime(folder / "store/private/aside/x", (1, 1))
    ended = augmill("gc", write_recipe(folder, gate=GATE), "--grace", "1h", "--delete")
    assert ended.code == 0 and "Left alone: tiny: its Delta table" in ended.out
    assert ended.last["what"] == {"aside": {"files": 1, "bytes": 6}}


def test_status_of_an_expired_snapshot_says_how_it_is_made_again(tmp_path: Path) -> None:
    """Not what its attempt advised: that was of its verdict, and of a release that stood."""
    store = Store(str(tmp_path / "store"))
    release = tried(store, "2026-10-01", next="the old advice")
    entry = {"current": {"2026-10-01": None}, "kind": "expire", "expired": [release], "reason": "retain.releases"}
    append(store, "tiny", lambda _: entry, command="test")
    log = read_log(store, "tiny")
    states = snapshot_states(RECIPE, store, {"2026-10-01": (1, "v")}, log, now=utc_now(), last="2026-10-01")
    text = " ".join(
        " ".join("".join(text for text, _ in line) for line in page(RECIPE, log, states, None, "recipe.yaml")).split()
    )
    assert "augmill backfill recipe.yaml --from 2026-10-01 --to 2026-10-01 --reprocess all" in text
    assert "old advice" not in text
