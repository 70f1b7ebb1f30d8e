"""Directories of pictures or sounds: which files are rows, what they are called, and what is refused."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import only, put, read

from augmill.tasks.errors import ConflictError, DataError, UserError
from augmill.tasks.sources import SourceOptions, list_files, read_batches
from augmill.tasks.sources.members import BATCH_BYTES, in_parts
from augmill.testing import SOURCE_LAWS, SourceBench

PICTURES = {"cat/1.png": b"one", "cat/2.PNG": b"two", "dog/1.jpeg": b"three", "none.wav": b"four"}


def lay(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        put(root / name, data)
    return root


def rows(path: Path, **options: object) -> list[tuple[str, bytes, str | None]]:
    table = read(path, **options).table
    return [(row["file"]["path"], row["file"]["bytes"], row["label"]) for row in table.to_pylist()]


@pytest.mark.parametrize("law", SOURCE_LAWS, ids=lambda law: law.__name__)
def test_a_directory_keeps_the_laws_of_readers(tmp_path: Path, law: object) -> None:
    lay(tmp_path, PICTURES)
    labels = ["cat", "cat", "dog", None]
    expected = [
        {"file": {"bytes": data, "path": name}, "label": label}
        for (name, data), label in zip(PICTURES.items(), labels, strict=True)
    ]
    law(SourceBench("folder", tmp_path, expected))  # type: ignore[operator]


def test_a_directory_of_pictures_alone_is_one_source_file_of_rows(tmp_path: Path) -> None:
    lay(tmp_path, {**PICTURES, "Thumbs.db": b"x", "cat/README.md": b"x", ".hidden/3.png": b"x", "cat/.4.png": b"x"})
    (file,) = list_files(SourceOptions(path=str(tmp_path)))
    assert (file.name, file.format, file.size, len(file.members)) == (".", "folder", 15, 4)
    assert rows(tmp_path)[0] == ("cat/1.png", b"one", "cat")


def test_beside_a_table_pictures_are_no_rows_of_their_own(tmp_path: Path) -> None:
    lay(tmp_path, {**PICTURES, "rows.csv": b"text,label\na,b\n"})
    assert only(tmp_path)[0].format == "csv"
    assert len(rows(tmp_path, format="folder")) == 4


def test_what_is_no_picture_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lay(tmp_path, {**PICTURES, "notes.txt": b"x", "Thumbs.db": b"x"})
    with pytest.raises(UserError, match=r"beside them notes\.txt"):
        list_files(SourceOptions(path=str(tmp_path)))
    with caplog.at_level(logging.WARNING, "augmill"):
        assert len(rows(tmp_path, format="folder")) == 4
    assert "neither picture nor sound: 'Thumbs.db', 'notes.txt'" in caplog.text


def test_a_camera_s_names_are_no_hidden_ones(tmp_path: Path) -> None:
    lay(tmp_path, {"cat/_DSC0001.jpg": b"a", "_scratch/1.jpg": b"b", "_day=1/cat/2.jpg": b"c"})
    found = [member.name for file in list_files(SourceOptions(path=str(tmp_path))) for member in file.members]
    assert found == ["cat/_DSC0001.jpg", "_day=1/cat/2.jpg"]


def test_partitions_are_source_files_and_no_labels(tmp_path: Path) -> None:
    lay(
        tmp_path, {"day=2026-10-01/cat/1.png": b"a", "day=2026-10-02/cat/1.png": b"b", "cat/day=2026-10-02/2.png": b"c"}
    )
    options = SourceOptions(path=str(tmp_path))
    files = list_files(options)
    assert [(file.name, file.partition) for file in files] == [
        ("day=2026-10-01", {"day": "2026-10-01"}),
        ("day=2026-10-02", {"day": "2026-10-02"}),
    ]
    table = next(read_batches(files[1], options)).table
    assert table.select(["label", "day"]).to_pylist() == [{"label": "cat", "day": "2026-10-02"}] * 2
    assert {row[2] for row in rows(tmp_path, hive=False)} == {"cat", "day=2026-10-02"}


def test_names_of_all_alphabets_cases_and_lines_stay(tmp_path: Path) -> None:
    files = {
        "Katze é/ü 猫.png": b"a",
        "cat/a.png": b"b",
        "cat/A.png": b"c",
        "x.png/1.png": b"d",
        "two\nlines/1.png": b"e",
    }
    lay(tmp_path, files)
    found = rows(tmp_path)
    assert {name: data for name, data, _ in found} == files
    assert {label for _, _, label in found} == {"Katze é", "cat", "x.png", "two\nlines"}


def test_a_name_that_is_no_text_is_refused_alone(tmp_path: Path) -> None:
    lay(tmp_path, PICTURES)
    name = os.fsencode(tmp_path) + b"/cat/\xff.png"
    Path(os.fsdecode(name)).write_bytes(b"x")
    found = read(tmp_path)
    assert found.table.num_rows == 4
    assert found.reasons == [(r"cat/\xff.png", "invalid_encoding")]


def test_a_file_over_the_bound_is_refused_unread_and_an_empty_one_is_a_value(tmp_path: Path) -> None:
    lay(tmp_path, {**PICTURES, "cat/3.png": b""})
    found = read(tmp_path, max_file_bytes=3)
    assert found.reasons == [("dog/1.jpeg", "file_too_large"), ("none.wav", "file_too_large")]
    assert [value["bytes"] for value in found.table["file"].to_pylist()] == [b"one", b"two", b""]


def test_links_are_followed_within_the_directory_alone(tmp_path: Path) -> None:
    inside = lay(tmp_path / "in", PICTURES)
    (inside / "cat/link.png").symlink_to(inside / "dog/1.jpeg")
    (inside / "loop").symlink_to(inside)
    assert ("cat/link.png", b"three", "cat") in rows(inside)
    assert len(rows(inside)) == 5
    (inside / "cat/self.png").symlink_to(inside / "cat/self.png")
    with pytest.raises(UserError, match="leads nowhere"):
        list_files(SourceOptions(path=str(inside)))
    (inside / "cat/self.png").unlink()
    put(tmp_path / "secret.png", b"x")
    (inside / "cat/out.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match="leads out of"):
        list_files(SourceOptions(path=str(inside)))


def test_a_file_that_changes_after_it_was_listed_stops_the_reading(tmp_path: Path) -> None:
    lay(tmp_path, PICTURES)
    file, options = only(tmp_path)
    put(tmp_path / "dog/1.jpeg", b"other")
    with pytest.raises(ConflictError):
        list(read_batches(file, options))
    (tmp_path / "dog/1.jpeg").unlink()
    with pytest.raises(ConflictError):
        list(read_batches(file, options))


def test_a_directory_without_pictures_is_no_source(tmp_path: Path) -> None:
    put(tmp_path / "a.txt", b"x")
    with pytest.raises(DataError, match=r"found a\.txt"):
        list_files(SourceOptions(path=str(tmp_path), format="folder"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty directory"):
        list_files(SourceOptions(path=str(tmp_path / "empty"), format="folder"))


@given(sizes=st.lists(st.integers(0, BATCH_BYTES * 2), max_size=40), most=st.integers(1, 9))
def test_parts_are_all_rows_in_order_and_none_is_too_large(sizes: list[int], most: int) -> None:
    parts = list(in_parts(sizes, most))
    assert [at for part in parts for at in range(part.start, part.stop)] == list(range(len(sizes)))
    for part in parts:
        assert 1 <= part.stop - part.start <= most
        assert part.stop - part.start == 1 or sum(sizes[part]) <= BATCH_BYTES


def test_many_small_files_are_few_batches(tmp_path: Path) -> None:
    lay(tmp_path, {f"{at % 50}/{at}.png": b"x" * 10 for at in range(2000)})
    file, options = only(tmp_path)
    assert [batch.table.num_rows for batch in read_batches(file, options)] == [2000]
