"""transforms on pictures with boxes: boxes stay on what they name, and a row hangs on its seed alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from boxed import DETECTION, boxed_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from pictured import PICTURE_FIELDS, file_of, pixels_of, value
from PIL import Image

from augmill.tasks.contracts import TARGET, Context, FitInputs, Fitted, Request
from augmill.tasks.generators.transforms import Transforms, TransformsOptions
from augmill.tasks.generators.transforms.boxes import cut, hidden, move_boxes
from augmill.tasks.generators.transforms.image import NAMES, Drawn, transformed
from augmill.tasks.problems.detection import NOTHING
from augmill.tasks.rows.kinds.image.decode import size_of
from augmill.testing import GENERATOR_LAWS, GeneratorBench

STILL = dict.fromkeys(NAMES, 0.0)


def bench_of(folder: Path, rows: pa.Table | None = None, **options: Any) -> GeneratorBench:
    given = boxed_rows(14, empty=True) if rows is None else rows
    return GeneratorBench(Transforms(TransformsOptions(**options)), folder, rows=given)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> GeneratorBench:
    return bench_of(tmp_path_factory.mktemp("boxes"), mosaic=0.3, policy="strong", flip="horizontal")


@pytest.mark.parametrize("law", GENERATOR_LAWS, ids=lambda law: law.__name__)
def test_it_keeps_the_laws_of_generators(law: Callable[[GeneratorBench], None], bench: GeneratorBench) -> None:
    law(bench)


def test_made_boxes_lie_in_the_picture_and_their_rarest_label_is_what_was_asked(bench: GeneratorBench) -> None:
    rows = bench.sample(bench.strata)
    done = rows.filter(pa.compute.is_null(rows["reason"]))
    strata = DETECTION.stratum(done[TARGET].combine_chunks(), DETECTION.fit_strata(bench.train))
    assert strata.to_pylist() == done["stratum"].to_pylist() and set(strata.to_pylist()) == {*bench.strata}
    assert done.num_rows > 0.8 * rows.num_rows
    for row in done.to_pylist():
        width, height = size_of(row[PICTURE_FIELDS[0]]["bytes"])
        for box in row[TARGET]:
            x, y, wide, high = box["bbox"]
            assert min(x, y) >= 0 and min(wide, high) >= 1 and x + wide <= width + 1e-6 and y + high <= height + 1e-6
        assert (row["stratum"] == NOTHING) == (not row[TARGET]) and 1 <= len(row["parent_ids"]) == len(
            {*row["parent_ids"]}
        )


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**63 - 1),
    st.integers(4, 30),
    st.integers(4, 26),
    st.integers(6, 12),
    st.sampled_from(["none", "both"]),
)
def test_a_box_goes_where_its_object_goes(seed: int, left: int, top: int, side: int, flip: str) -> None:
    """Of a disc, which fills the ellipse of its box: what is bright in the end spans the moved box, to a pixel or two."""
    down, across = np.meshgrid(
        np.arange(48) + 0.5 - top - side / 2, np.arange(56) + 0.5 - left - side / 2, indexing="ij"
    )
    pixels = np.where((down**2 + across**2 <= side**2 / 4)[..., None], 255, 0).astype(np.uint8).repeat(3, axis=2)
    options = TransformsOptions(
        amounts=STILL | {"rotate": 30, "scale": 0.3, "shear": 15, "shift": 0.1, "crop": 0.2}, flip=flip
    )  # type: ignore[arg-type]
    seeds, rows = np.array([seed]), np.array([0])
    drawn = Drawn(options, seeds, 0, still=("elastic",))
    bright = transformed(pixels[None], drawn, rows, seeds, 0)[0, ..., 0] > 127
    moved = move_boxes(np.array([[left, top, side, side]], np.float64), drawn, 0, 56, 48)[0]
    kept, share = cut(moved, 56, 48)
    if share < 0.999 or min(moved[:2]) < 2 or moved[0] + moved[2] > 54 or moved[1] + moved[3] > 46:
        return  # at the edge the last pixels are drawn out
    rows_seen, columns_seen = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    seen = [columns_seen[0], rows_seen[0], columns_seen[-1] + 1, rows_seen[-1] + 1]
    said = [kept[0], kept[1], kept[0] + kept[2], kept[1] + kept[3]]
    assert np.abs(np.array(seen) - said).max() <= 1.7, (seen, said)


def flat(colour: int, boxes: list[dict[str, Any]], size: tuple[int, int] = (60, 80)) -> dict[str, Any]:
    pixels = np.full((*size, 3), colour, np.uint8)
    for box in boxes:
        x, y, wide, high = (int(number) for number in box["bbox"])
        pixels[y : y + high, x : x + wide] = 250 if box["label"] == "lamp" else 5
    return {"picture": value(file_of(pixels)), "boxes": boxes}


def two_kinds() -> pa.Table:
    """One picture with a rare lamp on grey, nine with a common hole, which is dark."""
    lamp, hole = (
        {"bbox": [30.0, 20.0, 14.0, 10.0], "label": "lamp"},
        {"bbox": [10.0, 30.0, 12.0, 12.0], "label": "hole"},
    )
    scenes = [flat(90, [lamp]), *(flat(100 + at, [hole]) for at in range(9))]
    columns = {
        "row_id": [f"r{at}" for at in range(10)],
        "stratum": ["lamp"] + ["hole"] * 9,
        TARGET: pa.array([each["boxes"] for each in scenes], DETECTION.target),
        PICTURE_FIELDS[0]: pa.array(
            [each["picture"] for each in scenes], boxed_rows(1).schema.field(PICTURE_FIELDS[0]).type
        ),
    }
    return pa.table(columns)


def test_rare_objects_are_pasted_into_pictures_that_lack_them(tmp_path: Path) -> None:
    rows = bench_of(tmp_path, two_kinds(), paste=1, amounts=STILL).sample(["lamp"] * 40).to_pylist()
    grounds = [row["parent_ids"][0] for row in rows]
    assert len({*grounds}) == 10, "every picture may lie under it"
    for row in rows:
        assert row["reason"] is None and "r0" in row["parent_ids"]
        pixels = pixels_of(row[PICTURE_FIELDS[0]]["bytes"]).astype(int)[..., 0]
        for box in row[TARGET]:
            x, y, wide, high = (round(number) for number in box["bbox"])
            inside = np.median(pixels[y + 1 : y + high - 1, x + 1 : x + wide - 1])
            assert inside > 180 if box["label"] == "lamp" else inside < 40, (row["parent_ids"], box)


def test_common_objects_alone_get_nothing_rarer(tmp_path: Path) -> None:
    rows = bench_of(tmp_path, two_kinds(), paste=2, amounts=STILL).sample(["hole"] * 20).to_pylist()
    assert {box["label"] for row in rows for box in row[TARGET]} == {"hole"}
    assert all("r0" not in row["parent_ids"] for row in rows)


def test_a_box_that_is_hidden_or_cut_off_goes_and_is_counted(tmp_path: Path) -> None:
    assert hidden([0, 0, 10, 10], [5, 0, 10, 10]) == 0.5 and hidden([0, 0, 10, 10], [20, 0, 10, 10]) == 0
    assert cut(np.array([-5.0, 0, 10, 10]), 40, 40) == ([0, 0, 5, 10], 0.5)
    bench = bench_of(tmp_path, two_kinds(), paste=0, amounts=STILL | {"shift": 0.9}, visible=0.9)
    rows = bench.sample(["hole"] * 30)
    lost = bench.context.usage["boxes_dropped"]
    assert lost > 5 and rows["reason"].null_count < 30


def test_without_anything_to_do_nothing_is_made(tmp_path: Path) -> None:
    rows = bench_of(tmp_path, two_kinds(), paste=0, amounts=STILL).sample(["hole"] * 3)
    assert rows["reason"].to_pylist() == ["unchanged"] * 3


def test_a_mosaic_has_four_pictures(tmp_path: Path) -> None:
    rows = bench_of(tmp_path, two_kinds(), paste=0, mosaic=1.0, amounts=STILL).sample(["hole"] * 10).to_pylist()
    for row in rows:
        assert row["reason"] is None and 2 <= len(row["parent_ids"]) <= 4 and row[TARGET]
        picture = Image.open(io.BytesIO(row[PICTURE_FIELDS[0]]["bytes"]))
        assert picture.size == (80, 60)
        pixels = np.asarray(picture.convert("L")).astype(int)
        for box in row[TARGET]:
            x, y, wide, high = (round(number) for number in box["bbox"])
            assert np.median(pixels[y + 1 : y + high - 1, x + 1 : x + wide - 1]) < 40


@pytest.mark.parametrize("bad", [{"paste": -1}, {"mosaic": 1.5}, {"visible": -0.1}])
def test_options_out_of_bounds_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))}: expected"):
        TransformsOptions(**bad)


def test_strata_are_those_of_the_snapshot_not_those_of_the_rows_that_are_left(tmp_path: Path) -> None:
    """By the pictures that are left both labels are equally rare, and `disc` would come first by name."""
    rows = boxed_rows(12).filter(pa.array([at % 2 == 1 for at in range(12)]))
    rows = rows.set_column(rows.column_names.index("stratum"), "stratum", pa.array(["square"] * 6))
    generator, none = Transforms(TransformsOptions()), rows.slice(0, 0)
    ctx = Context(0, PICTURE_FIELDS, tmp_path, target=DETECTION.target)
    generator.fit(FitInputs(rows, none, none, none, none, {"order": ["square", "disc"]}), ctx)
    request = Request(["square"] * 8, np.arange(8), np.arange(8) + 5)
    made = generator.sample(Fitted(tmp_path, ""), request, ctx)
    assert made["reason"].null_count == 8, made["reason"].to_pylist()
    assert all("square" in {box["label"] for box in boxes} for boxes in made[TARGET].to_pylist())
