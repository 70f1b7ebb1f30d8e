"""COCO's and VOC's directories: found, read, and refused where they are damaged."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from reading import put

from augmill.tasks.errors import DataError, UserError
from augmill.tasks.sources import SourceOptions, list_files, read_batches
from augmill.tasks.sources.boxes import parse_xml
from augmill.testing import SOURCE_LAWS, SourceBench

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def coco(images: list[Any], annotations: list[Any], categories: Any = CATEGORIES) -> str:
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def image(id: Any, name: str) -> dict[str, Any]:
    return {"id": id, "file_name": name, "width": 9, "height": 9}


def annotation(image: Any, category: Any = 1, bbox: Any = (1, 2, 3, 4), **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": bbox} | more


def box(label: str | None, *bbox: float) -> dict[str, Any]:
    return {"bbox": list(bbox or (1.0, 2.0, 3.0, 4.0)), "label": label}


def lay(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        put(root / name, data)
    return root


def rows(root: Path, **options: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """(boxes by picture, reasons by place)."""
    given = SourceOptions(path=str(root), **options)
    found: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for file in list_files(given):
        for batch in read_batches(file, given):
            found |= {row["image"]["path"]: row["objects"] for row in batch.table.to_pylist()}
            assert all(row["image"]["bytes"] for row in batch.table.to_pylist())
            assert batch.names == batch.locations.to_pylist()
            refused |= {row.location: row.reason for row in batch.refused}
    return found, refused


def voc(*objects: tuple[str, tuple[float, ...]]) -> str:
    parts = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}"
        "</ymax></bndbox></object>"
        for name, (left, top, right, bottom) in objects
    )
    return f"<annotation><filename>x.jpg</filename>{parts}</annotation>"


@pytest.mark.parametrize("law", SOURCE_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("format", ["coco", "voc"])
def test_it_keeps_the_laws_of_readers(tmp_path: Path, law: Any, format: str) -> None:
    lay(tmp_path, {f"{name}.jpg": name.encode() for name in "abc"})
    if format == "coco":
        said = [annotation(1), annotation(1, 2, [5, 6, 7.5, 8]), annotation(3)]
        put(tmp_path / "x.json", coco([image(at + 1, f"{name}.jpg") for at, name in enumerate("abc")], said))
    else:
        lay(tmp_path, {"a.xml": voc(("cat", (2, 3, 4, 6)), ("dog", (6, 7, 12.5, 14))), "b.xml": voc()})
        put(tmp_path / "c.xml", voc(("cat", (2, 3, 4, 6))))
    boxes = [[box("cat"), box("dog", 5, 6, 7.5, 8)], [], [box("cat")]]
    expected = [
        {"image": {"bytes": name.encode(), "path": f"{name}.jpg"}, "objects": own}
        for name, own in zip("abc", boxes, strict=True)
    ]
    law(SourceBench(format, tmp_path, expected))


@pytest.mark.parametrize(
    ("json_name", "picture"),
    [
        ("train/_annotations.coco.json", "train/1.jpg"),
        ("annotations/instances_train2017.json", "train2017/1.jpg"),
        ("annotations/instances_train2017.json", "images/train2017/1.jpg"),
        ("labels.json", "images/1.jpg"),
        ("labels.json", "data/1.jpg"),
        ("data/labels.json", "1.jpg"),
    ],
)
def test_pictures_are_found_where_people_lay_them(tmp_path: Path, json_name: str, picture: str) -> None:
    lay(tmp_path, {json_name: coco([image(7, "1.jpg")], [annotation(7)]), picture: b"one", "README.md": "x"})
    assert rows(tmp_path) == ({picture: [box("cat")]}, {})


def test_captions_of_the_same_pictures_are_no_rows(tmp_path: Path) -> None:
    said = {
        "annotations/instances_val.json": coco([image(1, "1.jpg")], [annotation(1)]),
        "annotations/captions_val.json": json.dumps({"images": [image(1, "1.jpg")], "annotations": [{"image_id": 1}]}),
    }
    assert rows(lay(tmp_path, {**said, "val/1.jpg": b"one"})) == ({"val/1.jpg": [box("cat")]}, {})


def test_each_json_is_a_source_file_and_a_name_may_stand_in_both(tmp_path: Path) -> None:
    for at, split in enumerate(("train", "valid")):
        said = coco([image("x", "1.jpg")], [annotation("x", 1 + at)])
        lay(tmp_path, {f"{split}/_annotations.coco.json": said, f"{split}/1.jpg": split.encode()})
    assert rows(tmp_path) == ({"train/1.jpg": [box("cat")], "valid/1.jpg": [box("dog")]}, {})


def test_what_is_wrong_of_one_picture_refuses_that_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["good.jpg", "gone.jpg", "text.jpg", "three.jpg", "huge.jpg", "twice.jpg", "twice.jpg", "a.jpg", "b.jpg"]
    images = [image(at, name) for at, name in enumerate(names)]
    images += [image(7, "a2.jpg"), image(20, "../up.jpg"), image(21, "/etc/passwd"), image(22, "nameless.jpg")]
    said = [
        annotation(0, iscrowd=1),
        annotation(0, 2),
        annotation(1),
        annotation(2, bbox=["1", 2, 3, 4]),
        annotation(3, bbox=[1, 2, 3]),
        annotation(4, bbox=[1, 2, 10**30, 4]),
        annotation(99),
        "nothing",
        annotation(22, 55),
    ]
    files = dict.fromkeys({*names, "a2.jpg", "nameless.jpg"} - {"gone.jpg"}, b"x")
    found, refused = rows(lay(tmp_path, {**files, "x.json": coco(images, said)}))
    assert found == {"good.jpg": [box("dog")], "b.jpg": [], "nameless.jpg": [box(None)]}
    assert refused == {
        "gone.jpg": "no_such_file",
        "../up.jpg": "outside_source",
        "/etc/passwd": "outside_source",
        **dict.fromkeys(["text.jpg", "three.jpg", "huge.jpg"], "wrong_type"),
        **dict.fromkeys(["twice.jpg", "a.jpg", "a2.jpg"], "bad_sample"),
    }
    assert "2 annotations that are of no picture" in caplog.text and "1 annotations of a crowd" in caplog.text


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ('{"images": [', "not JSON, or cut short"),
        ('{"images": ' + "[" * 200_000, "not JSON, or cut short"),
        ('{"images": [], "annotations": {}}', "expected COCO's JSON"),
        ('{"images": [{"id": 1}], "annotations": []}', r"images\[0\] has no id or no file_name"),
        ('{"images": [{"id": [], "file_name": "1.jpg"}], "annotations": []}', r"images\[0\] has no id or no file_name"),
    ],
)
def test_a_damaged_json_is_one_clear_error(tmp_path: Path, said: str, problem: str) -> None:
    lay(tmp_path, {"1.jpg": b"x", "x.json": said})
    with pytest.raises(DataError, match=problem):
        list_files(SourceOptions(path=str(tmp_path)))


def test_no_json_of_cocos_is_said(tmp_path: Path) -> None:
    lay(tmp_path, {"1.jpg": b"x"})
    for format, problem in (("coco", "expected a JSON"), ("voc", "expected XML files")):
        with pytest.raises(UserError, match=problem):
            list_files(SourceOptions(path=str(tmp_path), format=format))


# --- VOC ---------------------------------------------------------------------------------------------------------------


def test_vocs_pixels_count_from_one_and_its_lists_of_names_are_no_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lay(tmp_path, {"JPEGImages/1.jpg": b"one", "JPEGImages/2.jpg": b"two", "ImageSets/Main/train.txt": "1\n"})
    lay(tmp_path, {"Annotations/1.xml": voc(("cat", (1, 1, 9, 5)))})
    with caplog.at_level(logging.WARNING):
        assert rows(tmp_path) == ({"JPEGImages/1.jpg": [box("cat", 0, 0, 9, 5)]}, {})
    assert "1 pictures without an XML file" in caplog.text


HOSTILE = """<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation><object><name>&b;</name></object></annotation>"""


def test_a_bad_xml_refuses_its_own_row(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {f"{name}.jpg": b"x" for name in "abcdef"}
    files |= {"a.xml": voc(("cat", (2, 3, 4, 6))), "b.xml": "<annotation><object>", "c.xml": HOSTILE}
    files |= {"d.xml": voc(("cat", ("x", 3, 4, 6))), "e.xml": "<a>" * 20_000, "gone.xml": voc()}  # type: ignore[arg-type]
    files |= {"f.xml": HOSTILE.encode("utf-16")}
    found, refused = rows(lay(tmp_path, files), max_cell_bytes=10_000)
    assert found == {"a.jpg": [box("cat")]}
    assert refused == {
        **{"b.jpg": "bad_xml", "c.jpg": "bad_xml", "f.jpg": "bad_xml"},
        **{"d.jpg": "wrong_type", "e.jpg": "cell_too_long", "gone.xml": "no_such_file"},
    }


def test_no_entity_of_its_own_is_read() -> None:
    with pytest.raises(ValueError, match="it has a DOCTYPE"):
        parse_xml(b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>')
    assert parse_xml(b"<a>&lt;&#65;</a>").text == "<A"


def test_a_file_that_two_names_stand_for_is_no_row_of_either(tmp_path: Path) -> None:
    said = coco([image(1, "a.jpg"), image(2, "images/a.jpg")], [annotation(1), annotation(2, 2)])
    lay(tmp_path / "coco", {"x.json": said, "images/a.jpg": b"a"})
    assert rows(tmp_path / "coco") == ({}, {"a.jpg": "bad_sample", "images/a.jpg": "bad_sample"})
    both = {"a/x.xml": voc(("cat", (1, 1, 5, 5))), "b/x.xml": voc(("dog", (2, 2, 6, 6))), "b/y.xml": voc()}
    lay(tmp_path / "voc", {**both, "images/x.jpg": b"x", "images/y.jpg": b"y"})
    found = rows(tmp_path / "voc", format="voc")
    assert found == ({"images/y.jpg": []}, {"a/x.xml": "bad_sample", "b/x.xml": "bad_sample"})


def test_a_json_may_begin_with_a_mark_of_its_encoding_and_write_ids_as_fractions(tmp_path: Path) -> None:
    said = coco([image(7, "./images/1.jpg")], [annotation(7.0, 1.0), annotation(7, 2)])
    lay(tmp_path, {"x.json": b"\xef\xbb\xbf" + said.encode(), "images/1.jpg": b"one"})
    assert rows(tmp_path) == ({"images/1.jpg": [box("cat"), box("dog")]}, {})


@pytest.mark.parametrize("categories", [7, {"1": "cat"}, [7], [{"id": [], "name": "cat"}]])
def test_categories_that_are_none_leave_boxes_without_a_label(tmp_path: Path, categories: Any) -> None:
    lay(tmp_path, {"x.json": coco([image(1, "1.jpg")], [annotation(1)], categories), "1.jpg": b"one"})
    assert rows(tmp_path) == ({"1.jpg": [box(None)]}, {})


def test_a_label_with_half_of_a_surrogate_pair_is_read(tmp_path: Path) -> None:
    lay(tmp_path, {"x.json": coco([image(1, "1.jpg")], [annotation(1)], [{"id": 1, "name": "\ud800!"}]), "1.jpg": b"1"})
    assert rows(tmp_path) == ({"1.jpg": [box("?!")]}, {})


def test_an_id_of_two_categories_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, {"x.json": coco([image(1, "1.jpg")], [], [*CATEGORIES, {"id": 1, "name": "fox"}]), "1.jpg": b"one"})
    with pytest.raises(DataError, match="two categories have the id 1: 'cat' and 'fox'"):
        rows(tmp_path)


def test_an_xml_that_is_no_annotation_is_no_picture_without_boxes(tmp_path: Path) -> None:
    lay(tmp_path, {"a.xml": "<html/>", "b.xml": voc(), "a.jpg": b"a", "b.jpg": b"b"})
    assert rows(tmp_path) == ({"b.jpg": []}, {"a.jpg": "bad_xml"})


def test_annotations_that_are_all_of_no_picture_are_one_clear_error(tmp_path: Path) -> None:
    lay(tmp_path, {"x.json": coco([image(1, "1.jpg")], [annotation("1"), annotation("1")]), "1.jpg": b"one"})
    with pytest.raises(DataError, match="none of its 2 annotations has the id of one of its images"):
        rows(tmp_path)
