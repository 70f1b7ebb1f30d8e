"""``augmill judge``: rows made anywhere are judged as a run's are; copies of what judges never count."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest
from chain import WORDS
from commands import augmill, fingerprint, refused

from augmill.flows.columns import Asked
from augmill.flows.judge import read_rows

FILLER = [f"word{at}" for at in range(400)]


def write(path: Path, rows: list[tuple[str, str]], head: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([head, *rows])
    return path


def draw(count: int, seed: int, *, strength: int = 1) -> list[tuple[str, str]]:
    """Rows with ``strength`` telling words among filler: a few of them teach little, many teach much."""
    rng = random.Random(seed)
    rows = []
    for at in range(count):
        label = list(WORDS)[at % 3]
        words = rng.choices(WORDS[label], k=strength) + rng.choices(FILLER, k=6)
        rng.shuffle(words)
        rows.append((" ".join(words), label))
    return rows


def shuffled(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    labels = list(WORDS)
    return [(text, labels[(labels.index(label) + 1) % 3]) for text, label in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    write(folder / "real.csv", draw(30, 1))
    write(folder / "validation.csv", draw(300, 2))
    write(folder / "few.csv", draw(30, 5))
    write(folder / "little.csv", draw(12, 10))
    write(folder / "good.csv", draw(300, 3))
    write(folder / "wrong.csv", shuffled(draw(300, 4)))
    return folder


def judge(folder: Path, made: str, *more: object, real: str = "real.csv", validation: str | None = "validation.csv"):  # type: ignore[no-untyped-def]
    held = ["--validation", folder / validation] if validation else []
    return augmill("judge", "--real", folder / real, "--synthetic", folder / made, *held, "--seeds", 3, *more)


@pytest.mark.parametrize(
    ("made", "validation", "outcome"),
    [
        ("good.csv", "validation.csv", "published"),
        ("wrong.csv", "validation.csv", "harmful"),
        ("little.csv", "few.csv", "inconclusive"),
    ],
)
def test_rows_are_judged_for_what_they_are(folder: Path, made: str, validation: str, outcome: str) -> None:
    as_json = ["--json"] if outcome == "harmful" else []
    ended = judge(folder, made, "--exit-code", f"{outcome}=20", *as_json, validation=validation)
    assert (ended.out.count("\n") == 1) == bool(as_json)
    assert ended.code == 20 and ended.last["outcome"] == outcome, ended.out
    rows = ended.last["rows"]
    assert ended.last["read"]["synthetic"]["taken"] == rows["synthetic"] + sum(ended.last["left"]["synthetic"].values())


def test_copies_of_held_out_rows_are_left_out_and_counted(folder: Path) -> None:
    held_out = draw(300, 2)
    write(folder / "cheating.csv", [*held_out[:120], *draw(60, 6, strength=0)])
    ended = judge(folder, "cheating.csv")
    assert ended.code == 0 and ended.last["outcome"] != "published"
    assert ended.last["left"]["synthetic"]["in_heldout"] == 120 and ended.last["rows"]["synthetic"] <= 60
    assert "in_heldout 120" in ended.out
    write(folder / "copies.csv", held_out)
    refused(judge(folder, "copies.csv"), 3, ["--synthetic", "in_heldout 300"])


def test_copies_of_real_rows_prove_nothing(folder: Path) -> None:
    write(folder / "again.csv", draw(30, 1))
    refused(judge(folder, "again.csv"), 3, ["--synthetic", "in_train"])


def test_the_report_is_written_and_nothing_else(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = fingerprint(folder)
    ended = judge(folder, "good.csv", "--report", tmp_path / "page.html")
    assert ended.last["report"] == str(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "The synthetic rows help: a gain is proven." in page and "<script src" not in page
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"] and fingerprint(folder) == before


@pytest.mark.slow
def test_without_validation_rows_a_part_of_the_real_ones_judges_and_it_says_so(folder: Path) -> None:
    write(folder / "many.csv", draw(200, 7))
    ended = judge(folder, "good.csv", real="many.csv", validation=None)
    rows = ended.last["rows"]
    assert ended.code == 0 and rows["real"] + rows["validation"] + sum(ended.last["left"]["train"].values()) == 200
    assert "--validation names rows" in ended.out.replace("\n ", "")


def test_what_is_missing_is_named(folder: Path) -> None:
    write(folder / "other.csv", draw(30, 8), head=("body", "tag"))
    refused(judge(folder, "good.csv", "--label", "lable"), 2, ["real.csv (--real)", "did you mean 'label'"])
    refused(judge(folder, "other.csv", "--text", "text"), 2, ["other.csv (--synthetic)", "'text'", "body, tag"])
    refused(judge(folder, "nothing.csv"), 2, ["nothing.csv"])
    refused(judge(folder, "good.csv", "--trainer", "tfid"), 2, ["--trainer", "did you mean 'tfidf'"])
    refused(judge(folder, "good.csv", "--rule", "best"), 2, ["--rule", "superior or not_worse"])
    refused(judge(folder, "good.csv", "--min-gain", "nan"), 2, ["min_gain"])
    refused(judge(folder, "good.csv", "--report", folder / "no" / "page.html"), 2, ["--report"])
    write(folder / "one.csv", [(text, "refund") for text, _ in draw(30, 9)])
    refused(judge(folder, "good.csv", real="one.csv"), 3, ["--real", "two classes"])
    copied = judge(folder, "good.csv", real="validation.csv")
    refused(
        copied,
        3,
        ["--real", "300 of 300 train rows were left out: 300 are also in validation", "--validation rows that are"],
    )


def test_rows_to_judge_by_of_a_label_that_no_real_row_has_leave_counted(folder: Path) -> None:
    write(folder / "odd.csv", [*draw(60, 2), *((f"{text} strange", "odd") for text, _ in draw(5, 12))])
    left = judge(folder, "good.csv", validation="odd.csv").last["left"]
    assert left["validation"] == {"no_train_rows": 5} and left["train"] == {}


def test_labels_that_are_only_spelt_otherwise_are_matched_and_told(folder: Path) -> None:
    for name, spelt in (
        ("zeros", {"refund": "0", "track": "1", "login": "2"}),
        ("floats", {"refund": "0.0", "track": "1.0 ", "login": "2"}),
    ):
        rows = draw(30, 1) if name == "zeros" else draw(60, 3)
        write(folder / f"{name}.csv", [(text, spelt[label]) for text, label in rows])
    ended = judge(folder, "floats.csv", real="zeros.csv", validation=None)
    assert ended.last["read"]["synthetic"]["read_as"] == {"0.0": "0", "1.0 ": "1"}
    assert "unknown_label" not in ended.last["left"]["synthetic"]
    assert "labels read as in the real rows: '0.0' as '0'" in ended.out
    write(folder / "upper.csv", [(text, label.upper()) for text, label in draw(60, 3)])
    assert judge(folder, "upper.csv").last["read"]["synthetic"]["read_as"]["REFUND"] == "refund"


def test_labels_of_another_kind_are_refused_and_both_sides_named(folder: Path) -> None:
    write(
        folder / "strange.csv",
        [(text, {"refund": "neg", "track": "pos", "login": "neu"}[label]) for text, label in draw(60, 3)],
    )
    refused(judge(folder, "strange.csv"), 3, ["'neg', 'neu', 'pos'", "'login', 'refund', 'track'", "--synthetic"])


def test_a_title_above_the_header_is_passed_over_and_told(folder: Path, tmp_path: Path) -> None:
    """There is no recipe to set source.skip_lines in."""
    path = tmp_path / "titled.csv"
    path.write_text(f"Export of October\n\n{(folder / 'real.csv').read_text()}")
    titled = read_rows(str(path), "--real", str(tmp_path / "a"), Asked())
    plain = read_rows(str(folder / "real.csv"), "--real", str(tmp_path / "b"), Asked())
    assert titled.rows.equals(plain.rows) and plain.rows.num_rows == 30
    assert titled.about["skip_lines"] == 2 and "skip_lines" not in plain.about
