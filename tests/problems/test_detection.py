"""Boxes as people write them: read in each layout, refused with a reason, and given back in the type they came in."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from boxed import DETECTION, box
from pictured import drawn, file_of, value
from PIL import Image

from augmill.tasks.problems.classification import Labels
from augmill.tasks.problems.detection import NOTHING
from augmill.tasks.rows.kinds.media import MEDIA

TWO = [box(1, 2, 3, 4, "cat"), box(5.5, 6, 7, 8, "7")]


def read(value: Any) -> Any:
    return DETECTION.reader(Labels()).read(value)


@pytest.mark.parametrize(
    "said",
    [
        TWO,
        json.dumps(TWO),
        [{"box": each["bbox"], "category": each["label"], "area": 12, "id": 3} for each in TWO],
        {"bbox": [each["bbox"] for each in TWO], "category": [each["label"] for each in TWO], "id": [1, 2]},
        [box(1, 2, 3, 4, " cat "), {"bbox": (5.5, 6, 7, 8), "category_id": 7}],
    ],
)
def test_boxes_are_read_in_every_layout(said: Any) -> None:
    assert read(said).value == TWO and read(said).reason == ""


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (None, "no_target"),
        ("cat", "not_boxes"),
        ("[" * 100_000, "not_boxes"),
        (3, "not_boxes"),
        ({"bbox": [[1, 2, 3, 4]], "category": []}, "not_boxes"),
        ({"label": "cat"}, "not_boxes"),
        (["cat"], "not_boxes"),
        ([{"label": "cat"}], "box_not_four_numbers"),
        ([box("1", 2, 3, 4)], "box_not_four_numbers"),  # type: ignore[arg-type]
        ([box(True, 2, 3, 4)], "box_not_four_numbers"),
        ([{"bbox": [1, 2, 3], "label": "cat"}], "box_not_four_numbers"),
        ([{"bbox": "[1, 2, 3, 4]", "label": "cat"}], "box_not_four_numbers"),
        ([box(1, float("nan"), 3, 4)], "box_not_finite"),
        ([box(1, 2, float("inf"), 4)], "box_not_finite"),
        ([box(10**400, 2, 3, 4)], "box_not_finite"),
        ([box(1, 2, 0, 4)], "box_empty"),
        ([box(1, 2, 3, -4)], "box_empty"),
        ([box(0.1, 0.2, 0.3, 0.4)], "box_empty"),
        ([{"bbox": [1, 2, 3, 4]}], "box_unlabelled"),
        ([box(1, 2, 3, 4, " ")], "box_unlabelled"),
        (json.dumps([box(1, 2, 3, 4, "half \ud800")]), "box_unlabelled"),
        ([{"bbox": [1, 2, 3, 4], "label": 2.5}], "box_unlabelled"),
        ([box(1, 2, 3, 4, NOTHING)], "label_reserved"),
    ],
)
def test_what_is_no_box_is_refused_with_a_reason(said: Any, reason: str) -> None:
    found = read(said)
    assert (found.reason, found.stratum) == (reason, None) and reason in DETECTION.remedies


def test_a_box_outside_of_its_picture_is_refused_as_it_is_seen() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # lies on a side: 24 wide and 20 high in the file, 20 wide and 24 high as it is seen
    files = [file_of(drawn(1)), file_of(drawn(1), "JPEG", exif=turned.tobytes()), b"no picture"]
    fields = pa.table({"image:a": pa.array([value(file) for file in files], MEDIA)})
    low = [box(0, 20, 4, 4)]
    assert DETECTION.misfits(fields, [low, low, low]) == ["box_outside", None, None]
    wide = [box(20, 0, 4.5, 4)]  # half a pixel beyond: rounded
    assert DETECTION.misfits(fields, [wide, wide, []]) == [None, "box_outside", None]
    assert DETECTION.misfits(fields.slice(0, 1), [[box(-2, 0, 9, 9)]]) == ["box_outside"]


def strata(rows: list[list[str]], train: list[list[str]]) -> list[str]:
    held, known = (
        pa.array([[box(1, 2, 3, 4, label) for label in own] for own in each], DETECTION.target)
        for each in (rows, train)
    )
    found: list[str] = DETECTION.stratum(held, DETECTION.fit_strata(pa.table({"target": known}))).to_pylist()
    return found


def test_a_stratum_is_the_rarest_label_by_train_pictures() -> None:
    train = [["cat", "cat", "dog"], ["cat", "bird"], ["cat", "fish"], ["dog"], []]
    assert strata(train, train) == ["dog", "bird", "fish", "dog", NOTHING]
    assert strata([["fish", "bird"], ["cat", "zebra"], ["cat"]], train) == ["bird", "zebra", "cat"]
    assert strata([["b", "a"]], []) == ["a"]


def test_train_pictures_without_any_box_teach_nothing() -> None:
    rows = [pa.table({"target": pa.array(own, DETECTION.target)}) for own in ([[], []], [[], TWO])]
    assert DETECTION.lacks(rows[0]) is not None and DETECTION.lacks(rows[1]) is None


def test_labels_that_differ_in_case_are_doubted() -> None:
    (said,) = DETECTION.doubts(Labels(), set(), {"Cat": 3, "cat": 2, "dog": 1}, (0, 0), pa.string())
    assert "'Cat' and 'cat'" in said


ITEM = pa.struct([("id", pa.int64()), ("bbox", pa.list_(pa.float32())), ("category", pa.int64())])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (DETECTION.target, [box(1, 2, 3, 4, "3")]),
        (pa.string(), '[{"bbox": [1.0, 2.0, 3.0, 4.0], "label": "3"}]'),
        (pa.list_(ITEM), [{"id": None, "bbox": [1, 2, 3, 4], "category": 3}]),
        (
            pa.struct([("bbox", pa.list_(pa.list_(pa.int64()))), ("category", pa.list_(pa.string()))]),
            {"bbox": [[1, 2, 3, 4]], "category": ["3"]},
        ),
    ],
)
def test_made_boxes_come_in_the_users_own_type(kind: pa.DataType, expected: Any) -> None:
    rows = pa.table({"target": pa.array([[box(1, 2, 3, 4, "3")], [], None], DETECTION.target)})
    found = DETECTION.column(rows, {}, kind)
    assert found.type == kind and found[0].as_py() == expected and found[2].as_py() is None
    again = [read(value).value for value in found.to_pylist()[:2]]
    assert again == [[box(1, 2, 3, 4, "3")], []]


def test_boxes_are_told_in_a_line() -> None:
    assert DETECTION.tell([*TWO, TWO[0]]) == "1 7, 2 cat" and DETECTION.tell([]) == NOTHING
