"""Rows from a file: each one handed out once, in order, and every one that cannot be is counted."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from augmill.tasks.contracts import Context, FitInputs, Fitted, Request
from augmill.tasks.errors import AugmillError, DataError, UserError
from augmill.tasks.generators.replay import Replay, ReplayOptions
from augmill.tasks.rows.kinds import candidate_schema, real_schema

SHARED = Path(os.environ.get("AUGMILL_SHARED", "../shared"))
TRAIN = [("r1", "4", "my knee hurts"), ("r2", "5", "I have acne"), ("r0", "4", "my  knee hurts")]
MADE = [
    {"text": "the knee aches", "label": 4, "from": "my knee hurts"},
    {"text": "acne, sadly", "label": 5, "from": "I have acne"},
    {"text": 'a "sore"\nknee', "label": 4, "from": "nobody said this"},
    {"text": " ", "label": 4, "from": "my knee hurts"},
    {"text": "cough", "label": 6, "from": "I cough"},
    {"text": "no label", "label": None, "from": "I cough"},
]


def fit(
    folder: Path, *fields: str, rows: list[tuple[str, ...]] = TRAIN, **options: Any
) -> tuple[Replay, Fitted, Context]:
    fields = fields or ("text",)
    columns = map(list, zip(*rows, strict=True))
    train = pa.table(dict(zip(("row_id", "stratum", *fields), columns, strict=True)), real_schema(fields))
    work = folder / "fit"
    work.mkdir(exist_ok=True)
    generator, ctx, empty = Replay(ReplayOptions(**options)), Context(seed=0, fields=fields, workdir=work), train[:0]
    generator.fit(FitInputs(train, empty, empty, empty, empty), ctx)
    return generator, Fitted(work, "content"), ctx


def ask(strata: list[str], ordinals: list[int]) -> Request:
    return Request(strata, np.array(ordinals, dtype=np.int64), np.array(ordinals, dtype=np.int64) + 100)


def write(folder: Path, name: str) -> str:
    path, table = folder / name, pa.Table.from_pylist(MADE)
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in MADE), encoding="utf-8")
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        pa.csv.write_csv(table, path, pa.csv.WriteOptions(delimiter=delimiter))
    return str(path)


@pytest.mark.parametrize("name", ["made.csv", "made.tsv", "made.jsonl", "made.parquet"])
def test_every_row_of_a_file_is_handed_out_in_order_or_counted(tmp_path: Path, name: str) -> None:
    generator, fitted, ctx = fit(tmp_path, path=write(tmp_path, name))
    made = generator.sample(fitted, ask(["4", "5", "4", "4", "5", "9"], [1, 0, 0, 2, 1, 0]), ctx)
    assert made.schema == candidate_schema(("text",))
    assert made["text"].to_pylist() == ['a "sore"\nknee', "acne, sadly", "the knee aches", None, None, None]
    assert made["reason"].to_pylist() == [None, None, None, "exhausted", "exhausted", "exhausted"]
    assert made["seed"].to_pylist() == [101, 100, 100, 102, 101, 100]
    summary = fitted.read_json("summary.json")
    assert summary["rows"] == {"4": 2, "5": 1}
    assert (summary["read"], summary["empty_text"], summary["unknown_label"]) == (6, 1, 2)
    assert summary["read"] == sum(summary["rows"].values()) + summary["empty_text"] + summary["unknown_label"]


def test_all_formats_fit_to_the_same_bytes(tmp_path: Path) -> None:
    made = set()
    for name in ("made.csv", "made.tsv", "made.jsonl", "made.parquet"):
        fit(tmp_path, path=write(tmp_path, name))
        made.add((tmp_path / "fit/rows.arrow").read_bytes())
    assert len(made) == 1


def test_labels_and_columns_are_translated(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("a;b;same\nx;y;true\nz;w;false\nq;;true\n", encoding="utf-8")
    generator, fitted, ctx = fit(
        tmp_path,
        "text",
        "text_b",
        rows=[("r1", "1", "one", "two")],
        path=str(path),
        delimiter=";",
        columns={"text": "a", "text_b": "b"},
        label="same",
        labels={"true": "1"},
    )
    made = generator.sample(fitted, ask(["1", "1"], [0, 1]), ctx).to_pylist()
    assert [(row["text"], row["text_b"]) for row in made] == [("x", "y"), (None, None)]
    assert fitted.read_json("summary.json")["unknown_labels"] == {"false": 1}


def test_labels_that_are_only_spelt_otherwise_are_the_datasets(tmp_path: Path) -> None:
    path = tmp_path / "made.csv"
    path.write_text("text,label\nx,0.0\ny,TRUE\nz,a \nw,Old\nv,1\n", encoding="utf-8")
    rows = [(name, name, f"text {name}") for name in ("0", "true", "A", "new")]
    generator, fitted, ctx = fit(tmp_path, rows=rows, path=str(path), labels={"old": "NEW"})
    made = generator.sample(fitted, ask(["0", "true", "A", "new"], [0, 0, 0, 0]), ctx)
    assert made["text"].to_pylist() == ["x", "y", "z", "w"]
    assert fitted.read_json("summary.json")["unknown_labels"] == {"1": 1}


def test_parents_are_found_by_id_and_by_text(tmp_path: Path) -> None:
    path = write(tmp_path, "made.jsonl")
    generator, fitted, ctx = fit(tmp_path, path=path, parent="from", parent_by="text")
    made = generator.sample(fitted, ask(["4", "4", "5", "5"], [0, 1, 0, 1]), ctx)
    # r0 and r1 are the same text once white space is folded: the smaller id
    assert made["parent_ids"].to_pylist() == [["r0"], [], ["r2"], []]
    assert fitted.read_json("summary.json")["unknown_parent"] == 1
    ids = tmp_path / "ids.csv"
    ids.write_text("text,label,from\na,4,r1\nb,4,r7\n", encoding="utf-8")
    generator, fitted, ctx = fit(tmp_path, path=str(ids), parent="from")
    assert generator.sample(fitted, ask(["4", "4"], [0, 1]), ctx)["parent_ids"].to_pylist() == [["r1"], []]


def test_a_cell_may_be_larger_than_a_block(tmp_path: Path) -> None:
    path = tmp_path / "big.csv"
    path.write_text("text,label\nsmall,4\n" + "word " * 600_000 + ",4\n", encoding="utf-8")
    generator, fitted, ctx = fit(tmp_path, path=str(path))
    assert len(generator.sample(fitted, ask(["4"], [1]), ctx)["text"][0].as_py()) == 3_000_000


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("none.csv", None, {}, (UserError, "no such file")),
        ("made.txt", b"text,label\na,4\n", {}, (UserError, "expected .csv")),
        ("made.csv", b"text,lable\na,4\n", {}, (UserError, "did you mean 'lable'")),
        ("made.csv", b"text,label\na,4\n", {"parent": "origin"}, (UserError, "expected a column 'origin'")),
        ("made.csv", b"text,label\na,7\n", {}, (DataError, "found labels '7'")),
        ("made.csv", b"", {}, (DataError, "could not be read")),
        ("made.csv", b"text,label\na,4,5\n", {}, (DataError, "Expected 2 columns, got 3")),
        ("made.csv", b"text,label\n\xff\xfe,4\n", {}, (DataError, "UTF8")),
        ("made.jsonl", b'{"text": "a", "label": 4}\n{"text": ', {}, (DataError, "line 2")),
        ("made.jsonl", b"[1]\n", {}, (DataError, "line 1")),
        ("made.jsonl", b'{"text": "\xff"}\n', {}, (DataError, "could not be read")),
        ("made.parquet", b"PAR1 and no more", {}, (DataError, "damaged or cut")),
        ("made.parquet", gzip.compress(b"PAR1", mtime=0), {}, (DataError, "damaged or cut")),
    ],
)
def test_a_file_that_cannot_be_used_says_what_is_wrong(
    tmp_path: Path, name: str, content: bytes | None, options: dict[str, Any], expected: tuple[type[AugmillError], str]
) -> None:
    error, message = expected
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error) as raised:
        fit(tmp_path, path=str(tmp_path / name), **options)
    assert message in str(raised.value) and name in str(raised.value)


def test_numbers_are_no_texts(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"text": [1.5], "label": ["4"]}), tmp_path / "made.parquet")
    with pytest.raises(DataError, match="expected a text"):
        fit(tmp_path, path=str(tmp_path / "made.parquet"))


def test_a_delimiter_is_one_character() -> None:
    with pytest.raises(ValueError, match="one character"):
        ReplayOptions(path="made.csv", delimiter="||")


@pytest.mark.parametrize("method", ["AugGPT1", "KeyboardAugmentation"])
def test_published_augmentation_outputs_are_read_whole(tmp_path: Path, method: str) -> None:
    folder = SHARED / "data/auggpt_outputs"
    if not folder.exists():
        pytest.skip("AUGMILL_SHARED names no folder with auggpt_outputs")
    for dataset, classes in (("symptoms", "456"), ("amazon", ("21", "22", "23"))):
        path = folder / method / dataset / "novel_few_shot_data_search_2_2013.csv"
        rows = [(f"r{label}", label, "text") for label in classes]
        _, fitted, _ = fit(tmp_path, rows=rows, path=str(path), label="labels")
        assert fitted.read_json("summary.json")["rows"] == dict.fromkeys(classes, 14)
