"""Bad input: one clear message, the documented exit code, no traceback, no change to what is released, in seconds."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chain import produce_and_publish, public_bytes, tiny_recipe, write_rows
from commands import Ended, augmill, fingerprint, refused, write_recipe

from augmill.tasks.generators import GENERATORS
from augmill.tasks.store.store import Store

COMMAND = Path(sys.executable).with_name("augmill")
COLUMNS = {"text": "text", "label": "label"}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a current release of the dataset ``tiny``."""
    folder = tmp_path_factory.mktemp("released")
    produce_and_publish(tiny_recipe(write_rows(folder / "rows.csv")), Store(str(folder / "store")))
    return folder / "store"


def good_lines(directory: Path) -> list[str]:
    return write_rows(directory / "good.csv").read_text().splitlines()


def cells(lines: list[str], change: Callable[[int, list[str]], list[str]]) -> bytes:
    """The rows behind the header, each changed."""
    return "\n".join([lines[0], *(",".join(change(at, line.split(","))) for at, line in enumerate(lines[1:]))]).encode()


def relabelled(at: int, label: str, every: int) -> Callable[[int, list[str]], list[str]]:
    return lambda index, row: [row[0], label if index % every == at else row[1], row[2]]


def parquet(path: Path, labels: list[Any]) -> bytes:
    texts = [f"some words {at} and more of them" for at in range(len(labels))]
    pq.write_table(pa.table({"text": texts, "label": labels}), path)
    return path.read_bytes()


Case = tuple[str, Callable[[list[str], Path], bytes | None], dict[str, Any], int, list[str]]

# (file, its bytes from good lines, changes of the recipe, exit code, what the message must say)
CASES: dict[str, Case] = {
    "missing": ("none.csv", lambda lines, at: None, {}, 2, ["none.csv", "did you mean 'one.csv'", "source.path"]),
    "empty": ("bad.csv", lambda lines, at: b"", {}, 3, ["bad.csv", "expected rows, found an empty file"]),
    "header only": (
        "bad.csv",
        lambda lines, at: lines[0].encode() + b"\n",
        {},
        3,
        ["bad.csv", "only columns: text, label, lang"],
    ),
    "truncated gzip": (
        "bad.csv.gz",
        lambda lines, at: gzip.compress("\n".join(lines).encode())[:-60],
        {},
        3,
        ["bad.csv.gz", "cut short or damaged near byte", "write or upload it again"],
    ),
    "truncated Parquet": (
        "bad.parquet",
        lambda lines, at: parquet(at / "whole.parquet", ["a", "b"] * 30)[:-200],
        {},
        3,
        ["bad.parquet", "expected a whole Parquet file of", "damaged or cut"],
    ),
    "a Parquet file without its beginning": (
        "bad.parquet",
        lambda lines, at: parquet(at / "whole.parquet", ["a", "b"] * 30)[300:],
        {},
        3,
        ["bad.parquet", "damaged or cut"],
    ),
    "ragged rows": (
        "bad.csv",
        lambda lines, at: cells(lines, lambda index, row: [*row, "x"] if index % 4 == 2 else row),
        {},
        33,
        ["bad.csv line 4", "ragged: expected 3 cells, found 4", "15 of 60 rows", "source.delimiter", "refuse.max_share"],
    ),
    "wrong delimiter, given": (
        "bad.csv",
        lambda lines, at: "\n".join(lines).encode(),
        {"source": {"path": "bad.csv", "delimiter": ";"}},
        2,
        ["bad.csv", "no column 'text'", "source.delimiter to ','", "read with ';'"],
    ),
    "a delimiter nobody knows": (
        "bad.csv",
        lambda lines, at: "\n".join(lines).replace(",", "#").encode(),
        {},
        2,
        ["bad.csv", "no column 'text'", "text#label#lang", "set source.delimiter"],
    ),
    "invalid UTF-8": (
        "bad.csv",
        lambda lines, at: cells(lines, lambda index, row: row).replace(b"money", b"mon\xe9y"),
        {"source": {"path": "bad.csv", "encoding": "utf-8"}},
        33,
        ["bad.csv line", "invalid_encoding: byte 0xe9 at character", "source.encoding"],
    ),
    "a text column that is not there": (
        "bad.csv",
        lambda lines, at: "\n".join(lines).encode(),
        {"columns": {"text": "TXT", "label": "label"}},
        2,
        ["bad.csv (columns.text)", "did you mean 'text'"],
    ),
    "a label column that is not there": (
        "bad.csv",
        lambda lines, at: "\n".join(lines).encode(),
        {"columns": {"text": "text", "label": "category"}},
        2,
        ["bad.csv (columns.label)", "there are: text, label, lang"],
    ),
    "one class only": (
        "bad.csv",
        lambda lines, at: cells(lines, lambda index, row: [row[0], "refund", row[2]]),
        {},
        3,
        ["at least two classes", "only 'refund'", "columns.label"],
    ),
    "a class with one row": (
        "bad.csv",
        lambda lines, at: cells(lines, relabelled(7, "single", 100)),
        {},
        3,
        ["a class needs 2 train rows", "'single' has", "labels.rare: quarantine"],
    ),
    "all rows duplicates": (
        "bad.csv",
        lambda lines, at: cells(lines, lambda index, row: ["the same words", row[1], row[2]]),
        {},
        3,
        ["all train rows are equal", "(columns)"],
    ),
    "all rows of each class duplicates": (
        "bad.csv",
        lambda lines, at: cells(lines, lambda index, row: [f"the words of {row[1]}", row[1], row[2]]),
        {},
        3,
        ["a class needs 2 train rows", "'track' has 0 (of 24 rows, 1 different)"],
    ),
    "null labels": (
        "bad.csv",
        lambda lines, at: cells(lines, relabelled(3, "", 5)),
        {},
        33,
        ["bad.csv line 5 (no_label)", "12 of 60 rows", "columns.label"],
    ),
    "all labels null": (
        "bad.csv",
        lambda lines, at: cells(lines, relabelled(0, "", 1)),
        {},
        3,
        ["bad.csv line 2 (no_label)", "all 60 rows", "columns.label"],
    ),
    "fractional labels": (
        "bad.parquet",
        lambda lines, at: parquet(at / "whole.parquet", [0.5, 1.0, 2.0] * 20),
        {},
        33,
        ["bad.parquet row 1", "fractional_label: label 0.5", "20 of 60 rows", "a whole number"],
    ),
    "labels that are lists": (
        "bad.parquet",
        lambda lines, at: parquet(at / "whole.parquet", [["a"], ["b"]] * 30),
        {},
        3,
        ["'label' holds list<", "not plain values", "columns.label"],
    ),
    "NaN and infinite labels": (
        "bad.parquet",
        lambda lines, at: parquet(at / "whole.parquet", [float("nan"), float("inf"), 2.0] * 20),
        {},
        33,
        ["bad.parquet row 1", "fractional_label", "40 of 60 rows"],
    ),
    "a doubled id": (
        "bad.csv",
        lambda lines, at: "\n".join(lines).encode(),
        {"columns": COLUMNS | {"id": "lang"}},
        33,
        ["bad.csv line 3", "duplicate_id", "59 of 60 rows", "columns.id"],
    ),
    "JSON that is none, on a line": (
        "bad.jsonl",
        lambda lines, at: b"".join(
            b'{"text": "a %d", "label": "x"}\n' % at if at % 3 else b'{"text": \n' for at in range(60)
        ),
        {},
        33,
        ["bad.jsonl line 1", "bad_json", "20 of 60 rows", "one JSON object a line"],
    ),
    "a column of nested lists as text": (
        "bad.jsonl",
        lambda lines, at: b"".join(b'{"text": ["a %d"], "label": "x%d"}\n' % (n, n % 2) for n in range(60)),
        {},
        3,
        ["'text' holds lists or objects", "not plain values", "columns.text"],
    ),
    "ten thousand columns and none of them ours": (
        "bad.csv",
        lambda lines, at: ",".join(f"c{n}" for n in range(10_000)).encode() + b"\n" + b"," * 9_999 + b"\n",
        {},
        2,
        ["bad.csv (columns.text)", "no column 'text'", "and 9,968 more"],
    ),
    "a column that stands twice": (
        "bad.csv",
        lambda lines, at: "\n".join(lines).replace("lang", "text", 1).encode(),
        {},
        3,
        ["bad.csv line 1", "'text' appears twice"],
    ),
    "a network address": (
        "bad.csv",
        lambda lines, at: b"",
        {"source": {"path": "http://169.254.169.254/latest/meta-data"}},
        2,
        ["source.path", "http://", "cannot be read"],
    ),
    "a file address": (
        "bad.csv",
        lambda lines, at: b"",
        {"source": {"path": "file:///etc/passwd"}},
        2,
        ["source.path", "file://", "cannot be read"],
    ),
    "a device": ("bad.csv", lambda lines, at: b"", {"source": {"path": "/dev/zero"}}, 2, ["/dev/zero", "device or pipe"]),
    "a split nobody knows": (
        "bad.csv",
        lambda lines, at: "\n".join(lines).encode(),
        {"splits": {"column": "lang"}},
        3,
        ["bad.csv line 2 (unknown_split: split 'en')", "splits.names"],
    ),
    "an excluded file that is not there": (
        "bad.csv",
        lambda lines, at: "\n".join(lines).encode(),
        {"splits": {"heldout_exclude": ["on.csv"]}},
        2,
        ["on.csv", "did you mean 'one.csv'", "splits.heldout_exclude"],
    ),
    "two rows": (
        "bad.csv",
        lambda lines, at: "\n".join(lines[:3]).encode(),
        {},
        3,
        ["a class needs 2 train rows"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_data_is_one_message_and_changes_nothing(tmp_path: Path, released: Path, name: str) -> None:
    file, content, changes, code, words = CASES[name]
    made = content(good_lines(tmp_path), tmp_path)
    (tmp_path / "good.csv").rename(tmp_path / "one.csv")
    if made is not None:
        (tmp_path / file).write_bytes(made)
    recipe = write_recipe(tmp_path, **({"source": {"path": file}} | changes))
    before, public = fingerprint(tmp_path), fingerprint(released / "public")
    # 33: past the share of refused rows. An error for check; for a run, the current release is kept, as the recipe says.
    started = time.monotonic()
    checked = augmill("check", recipe, "--store", released)
    refused(checked, 3 if code == 33 else code, words)
    ended = augmill("run", recipe, "--store", released)
    assert time.monotonic() - started < 60
    if code == 33:
        assert ended.code == 0 and ended.last["outcome"] == "unsound_source"
        reason = ended.last["reason"].lower()
        assert all(word.lower() in reason for word in words) and ended.last["action"] == "keep_current"
    else:
        refused(ended, code, words)
        assert ended.last["reason"] == checked.last["reason"]
    assert "generate" not in ended.err and "Traceback" not in ended.err + ended.out
    assert fingerprint(tmp_path) == before and fingerprint(released / "public") == public


def peak() -> int:
    """Bytes this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.slow
def test_ten_megabytes_in_one_cell_are_one_refused_row(tmp_path: Path) -> None:
    lines = good_lines(tmp_path)
    (tmp_path / "rows.csv").write_text("\n".join([*lines, "x" * 10_000_000 + ",refund,en"]) + "\n")
    before, started = peak(), time.monotonic()
    found = json.loads(augmill("check", write_recipe(tmp_path), "--json").out)
    assert time.monotonic() - started < 60 and peak() - before < 300e6
    assert found["source"]["read"] == 61 and found["source"]["refused"] == {"cell_too_long": 1}
    assert found["source"]["examples"][0]["location"] == "line 62"
    assert "10,000,000 bytes, at most 1,000,000" in found["source"]["examples"][0]["detail"]


@pytest.mark.slow
def test_a_gzip_bomb_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """A hundred kilobytes that are 100 MB of one line."""
    lines = good_lines(tmp_path)
    with gzip.open(tmp_path / "rows.csv.gz", "wb") as stream:
        stream.write(("\n".join(lines) + "\n").encode())
        for _ in range(100):
            stream.write(b"x" * 1_000_000)
    before = peak()
    recipe = write_recipe(tmp_path, source={"path": "rows.csv.gz"}, refuse={"max_share": 0.5})
    found = json.loads(augmill("check", recipe, "--json").out)
    assert peak() - before < 300e6
    assert found["source"]["taken"] == 60 and set(found["source"]["refused"]) <= {"cell_too_long", "ragged"}


def test_labels_with_strange_names_are_harmless(tmp_path: Path) -> None:
    names = ["../../x", "CON", "x" * 300, "\U0001f600", "a/b", "a,b", "null", "{train}", "<b>"]
    lines = write_rows(tmp_path / "made.csv", 270).read_text().splitlines()[1:]
    rows = [{"text": line.split(",")[0], "label": names[at % len(names)]} for at, line in enumerate(lines)]
    data = tmp_path / "in" / "rows.jsonl"
    data.parent.mkdir()
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    before = {path for path in tmp_path.rglob("*") if "store" not in path.parts}
    store = tmp_path / "in" / "store"
    produce_and_publish(tiny_recipe(data, target={"per_class": 2}), Store(str(store)))
    (manifest,) = store.glob("public/tiny/releases/*/manifest.json")
    assert set(json.loads(manifest.read_text())["counts"]["train"]["classes"]) == set(names)
    assert {path for path in tmp_path.rglob("*") if "store" not in path.parts} == before
    assert all(len(path.name) < 100 for path in store.rglob("*"))
    checked = augmill("check", write_recipe(tmp_path / "in", source={"path": "rows.jsonl"}))
    assert checked.code == 0 and "x" * 60 not in checked.out.split("Recipe,")[0]


# --- the store ----------------------------------------------------------------------------------------------------------


def run_within(recipe: Path, limit: int) -> Ended:
    """``augmill run`` in a process that may write no file beyond ``limit`` bytes: a disk that is full for it."""
    code = "import os, resource, sys; n = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); "
    limited = [sys.executable, "-c", f"{code}os.execv(sys.argv[2], sys.argv[2:])", str(limit)]
    command = [*limited, str(COMMAND), "run", str(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def test_a_store_below_a_file_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    ended = augmill("run", recipe, "--store", tmp_path / "rows.csv" / "store")
    refused(ended, 4, ["rows.csv/store", "not a directory", "run.store"])
    refused(augmill("run", recipe, "--store", tmp_path / "rows.csv"), 4, ["rows.csv", "directory", "run.store"])


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_worker_ends_the_run_and_the_next_one_resumes(tmp_path: Path) -> None:
    """19 kB are enough for the rows, not for what the generator's fit writes in its worker process."""
    recipe = write_recipe(tmp_path, rows=400)
    ended = run_within(recipe, 19_000)
    refused(ended, 4, ["no space is left", "free some space", "resumes"])
    assert "fit rules" in ended.err and not public_bytes(tmp_path / "store")
    resumed = augmill("run", recipe)
    assert resumed.code == 0 and "unchanged, from the store" in resumed.err and resumed.last["new"] is True


def mounted(*options: str, at: Path) -> None:
    """A small tmpfs; skips the test where this user may not mount one."""
    done = subprocess.run(["mount", *options, str(at)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs to mount: {done.stderr.strip()}")


@pytest.mark.slow
def test_a_disk_that_fills_up_publishes_nothing_by_half(tmp_path: Path) -> None:
    """At whatever point the disk is full: no log entry, no torn file in what is public, and room lets it go on."""
    recipe, store = write_recipe(tmp_path, rows=400), tmp_path / "store"
    store.mkdir()
    releases = set()
    for size in ("200k", "500k"):  # in the middle; at the log entry
        mounted("-t", "tmpfs", "-o", f"size={size}", "tmpfs", at=store)
        try:
            ended = augmill("run", recipe)
            refused(ended, 4, [str(store), "no space left on device", "free some space"])
            assert not list(store.glob("public/tiny/_log/*"))
            mounted("-o", "remount,size=20m", at=store)
            resumed = augmill("run", recipe)
            assert resumed.code == 0 and "unchanged, from the store" in resumed.err
            assert augmill("verify", "--store", store).code == 0
            releases.add(resumed.last["release"])
            mounted("-o", "remount,ro", at=store)
            recipe_of_new_rows = write_recipe(tmp_path, name="other.yaml", seed=3)
            refused(augmill("run", recipe_of_new_rows), 4, [str(store), "read-only file system", "run.store"])
            assert augmill("releases", "--store", store).code == 0  # reading needs no writing
        finally:
            subprocess.run(["umount", str(store)], check=True)
    assert len(releases) == 1


# --- models -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": '{"model_type": "gpt2"}'}, ["the weights are missing", "model.safetensors"]),
        (
            {"config.json": '{"model_type": "gpt2"}', "pytorch_model.bin": "cos\nsystem\n"},
            ["pickle files only (pytorch_model.bin)", "can run code", "allow_pickle"],
        ),
    ],
    ids=["no weights", "pickle weights only"],
)
def test_a_model_directory_without_sound_weights_is_refused(
    tmp_path: Path, released: Path, files: dict[str, str], words: list[str]
) -> None:
    assert "causal_lm" in GENERATORS
    (tmp_path / "model").mkdir()
    for name, text in files.items():
        (tmp_path / "model" / name).write_text(text)
    public = fingerprint(released / "public")
    recipe = write_recipe(tmp_path, generators=[{"use": "causal_lm", "model": "model"}])
    refused(augmill("run", recipe, "--store", released), 2, [str(tmp_path / "model"), *words])
    assert fingerprint(released / "public") == public
