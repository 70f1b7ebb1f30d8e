"""transforms on pictures: a row is what its parent and its seed make of it, whatever stands beside it, and stays a picture."""

from __future__ import annotations

import importlib.util
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from generating import ask
from hypothesis import given, settings
from hypothesis import strategies as st
from pictured import PICTURE_FIELDS, drawn, file_of, picture_rows, pixels_of, value
from PIL import Image

from augmill.tasks.contracts import TARGET, Context, FitInputs, Fitted, Request
from augmill.tasks.errors import UserError
from augmill.tasks.generators._parents import BATCH
from augmill.tasks.generators.transforms import Transforms, TransformsOptions
from augmill.tasks.generators.transforms.image import CHOSEN, NAMES, POLICIES, Drawn, Pictures, decode
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.rows.kinds.image.decode import format_of
from augmill.tasks.rows.randomness import row_seeds

ALONE = dict.fromkeys(POLICIES["light"], 0.0)  # amounts that leave nothing of the policy
FILES = [file_of(drawn(at, at % 3, ((20, 24), (33, 17))[at % 2])) for at in range(9)]
SEEDS = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6)


def made(files: list[bytes], seeds: list[int], attempt: int = 0, **options: Any) -> list[bytes | None]:
    found = Pictures(TransformsOptions(**options)).transform([[file] for file in files], np.array(seeds), attempt)
    return [row and row[0] for row in found]


def fitted(rows: pa.Table, folder: Path, **options: Any) -> tuple[Transforms, Fitted, Context]:
    generator = Transforms(TransformsOptions(**options))
    fields = tuple(name for name in rows.column_names if ":" in name)
    target = rows.schema.field(TARGET).type if TARGET in rows.column_names else None
    folder.mkdir(exist_ok=True)
    context = Context(seed=0, fields=fields, workdir=folder, target=target)
    empty = rows.slice(0, 0)
    generator.fit(FitInputs(rows, empty, empty, empty, empty), context)
    return generator, Fitted(folder, "content"), context


def rows_of(files: list[bytes], strata: list[str] | None = None) -> pa.Table:
    columns = {
        "row_id": [f"r{at:04d}" for at in range(len(files))],
        "stratum": strata or ["a"] * len(files),
        PICTURE_FIELDS[0]: [value(file) for file in files],
    }
    return pa.table(columns, real_schema(PICTURE_FIELDS))


# --- A row hangs on its parent and its seed alone ------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(SEEDS, st.sampled_from(["light", "strong", "trivial", "rand"]), st.integers(0, 3), st.randoms())
def test_a_row_is_the_same_alone_in_any_batch_and_place_and_at_one_or_two_threads(
    seeds: list[int], policy: str, attempt: int, chance: Any
) -> None:
    """Sizes, channels and formats stand mixed."""
    shapes = [((20, 24), 3), ((20, 24), 1), ((20, 24), 4), ((64, 80), 3)]
    files = [file_of(drawn(at, at % 3, *shapes[at % len(shapes)])) for at in range(len(seeds))]
    options = {"policy": policy, "strength": 1.3, "flip": "horizontal"}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [made([file], [seed], attempt, **options)[0] for file, seed in zip(files, seeds, strict=True)]
        for threads in (1, 2):
            torch.set_num_threads(threads)
            # Five times over, so that calls are cut between threads, and at other places than before.
            assert made(5 * files, 5 * seeds, attempt, **options) == 5 * alone
            order = list(range(len(files))) * 2
            chance.shuffle(order)
            shuffled = made([files[at] for at in order], [seeds[at] for at in order], attempt, **options)
            assert shuffled == [alone[at] for at in order]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("size", "times"), [((16, 16), 40), ((150, 211), 2)])  # torch cuts at 32,768 values
def test_no_single_transformation_hangs_on_the_batch_or_on_threads(
    name: str, size: tuple[int, int], times: int
) -> None:
    policy = "strong" if name in POLICIES["strong"] else "trivial"
    most = POLICIES["strong"][name][1] if name in POLICIES["strong"] else CHOSEN[name]
    amounts = dict.fromkeys(NAMES, 0.0) | {name: most}
    many = row_seeds(4, np.arange(100))
    seeds = many[Drawn(TransformsOptions(policy=policy, amounts=amounts), many, 0).on(name)][:3].tolist()
    files = [file_of(drawn(at, at % 3, size)) for at in range(3)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [
            made([file], [seed], 0, policy=policy, amounts=amounts)[0] for file, seed in zip(files, seeds, strict=True)
        ]
        assert any(alone), "it does nothing"
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert made(times * files, times * seeds, 0, policy=policy, amounts=amounts) == times * alone
    finally:
        torch.set_num_threads(before)


def test_all_pictures_of_a_row_move_alike(tmp_path: Path) -> None:
    fields = ("image:left", "image:right")
    files = [value(file_of(drawn(at, at % 3))) for at in range(6)]
    columns = {"row_id": [str(at) for at in range(6)], "stratum": ["a"] * 6, fields[0]: files, fields[1]: files}
    generator, model, context = fitted(pa.table(columns, real_schema(fields)), tmp_path, policy="strong")
    for row in generator.sample(model, ask(["a"] * 30), context).to_pylist():
        assert row["reason"] is None and row[fields[0]] == row[fields[1]]


# --- What it makes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("policy", ["light", "strong", "trivial", "rand"])
def test_a_made_picture_has_its_parents_size_channels_and_format_and_other_pixels(channels: int, policy: str) -> None:
    formats = ["PNG"] if channels == 4 else ["PNG", "JPEG"]
    parents = [file_of(drawn(at, at % 3, (17 + at, 24), channels), formats[at % len(formats)]) for at in range(8)]
    found = made(parents, list(range(8)), policy=policy)
    assert any(found)
    for parent, child in zip(parents, found, strict=True):
        if child is not None:
            was, now = decode(parent), decode(child)
            assert was.shape == now.shape and parent[:3] == child[:3] and not np.array_equal(was, now)


def test_the_format_is_the_recipes_where_it_says_one() -> None:
    parents = [file_of(drawn(1)), file_of(drawn(2), "JPEG"), file_of(drawn(3), "WEBP"), file_of(drawn(4, channels=4))]
    assert [format_of(file or b"") for file in made(parents, [1, 2, 3, 4])] == ["PNG", "JPEG", "PNG", "PNG"]
    for format in ("png", "jpeg"):
        assert {format_of(file or b"") for file in made(parents, [1, 2, 3, 4], format=format)} == {format.upper()}


@pytest.mark.parametrize(("flip", "axis"), [("horizontal", 1), ("vertical", 0)])
def test_only_where_the_recipe_says_so_pictures_are_mirrored(flip: str, axis: int) -> None:
    assert made(FILES, list(range(9)), amounts=ALONE) == [None] * 9, "without amounts nothing moves"
    found = made(FILES * 4, list(range(36)), amounts=ALONE, flip=flip)
    assert 6 <= sum(file is not None for file in found) <= 30
    for parent, child in zip(FILES * 4, found, strict=True):
        if child is not None:
            assert np.array_equal(pixels_of(child), np.flip(pixels_of(parent), axis))


def test_what_equals_its_parent_is_drawn_anew_and_then_not_delivered(tmp_path: Path) -> None:
    rows = rows_of(FILES)
    generator, model, context = fitted(rows, tmp_path, amounts=ALONE)
    assert set(generator.sample(model, ask(["a"] * 20), context)["reason"].to_pylist()) == {"unchanged"}
    generator, model, context = fitted(rows, tmp_path / "a", amounts=ALONE, flip="horizontal")
    found = generator.sample(model, ask(["a"] * 200), context)["reason"].to_pylist()
    assert set(found) == {"unchanged", None} and found.count("unchanged") < 40, "half of them stay at the first draw"


@pytest.mark.parametrize(
    ("name", "amount", "most"),
    [("shift", 0.1, 5.0), ("rotate", 5.0, 3.0), ("scale", 0.1, 3.0), ("elastic", 0.02, 2.0)],
)
def test_a_spot_moves_no_further_than_the_amount(name: str, amount: float, most: float) -> None:
    """Of 40 pixels each way: a tenth is four, and five degrees move an edge by less than three."""
    parent = np.zeros((40, 40, 1), np.uint8)
    parent[19:21, 9:11] = 255
    child = made(
        [file_of(parent)] * 30, list(range(30)), policy="strong", amounts=dict.fromkeys(NAMES, 0.0) | {name: amount}
    )
    moved = []
    for file in filter(None, child):
        pixels = pixels_of(file)[..., 0].astype(float)
        down, across = (np.average(np.arange(40), weights=pixels.sum(axis=1 - axis)) for axis in (0, 1))
        moved.append(float(np.hypot(down - 19.5, across - 9.5)))
    assert len(moved) > 10 and max(moved) < most * 1.5 and max(moved) > most / 6


def test_a_turned_photograph_is_seen_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    file = file_of(drawn(1, 0, (20, 30)), "JPEG", exif=exif.tobytes())
    child = made([file], [1])[0]
    assert child is not None and pixels_of(child).shape == (30, 20, 3)


def test_of_sixteen_bits_the_higher_eight_count() -> None:
    grey = np.arange(400, dtype=np.uint16).reshape(20, 20) * 160
    written = io.BytesIO()
    Image.fromarray(grey).save(written, "PNG")
    assert np.array_equal(decode(written.getvalue())[..., 0], grey >> 8)


# --- Parents -------------------------------------------------------------------------------------------------------------


def test_parents_are_drawn_evenly_from_all_batches_of_the_stratum(tmp_path: Path) -> None:
    count = 2 * BATCH + 10
    files = [file_of(drawn(at, 0, (8, 8), 1)) for at in range(count)]
    strata = ["b" if at % 4 == 0 else "a" for at in range(count)]
    rows = rows_of(files, strata).take(pa.array(np.random.default_rng(0).permutation(count)))
    generator, model, context = fitted(rows, tmp_path)
    found = generator.sample(model, ask(["a", "b"] * 600), context).to_pylist()
    own = dict(zip(rows["row_id"].to_pylist(), rows["stratum"].to_pylist(), strict=True))
    drawn_ids = Counter(row["parent_ids"][0] for row in found)
    assert all(own[row["parent_ids"][0]] == row["stratum"] for row in found)
    assert len(drawn_ids) > 0.8 * count and max(drawn_ids.values()) < 40
    generator, model, context = fitted(rows, tmp_path / "mirrored", amounts=ALONE, flip="horizontal")
    by_id = dict(zip(rows["row_id"].to_pylist(), rows[PICTURE_FIELDS[0]].to_pylist(), strict=True))
    for row in generator.sample(model, ask(["a", "b"] * 20), context).to_pylist():
        if row["reason"] is None:
            parent = pixels_of(by_id[row["parent_ids"][0]]["bytes"])
            assert np.array_equal(pixels_of(row[PICTURE_FIELDS[0]]["bytes"]), np.flip(parent, 1)), "another's file"


def test_in_a_regression_the_target_is_the_parents(tmp_path: Path) -> None:
    table = rows_of(FILES).add_column(2, TARGET, pa.array([at / 7 for at in range(9)]))
    generator, model, context = fitted(table, tmp_path)
    known = dict(zip(table["row_id"].to_pylist(), table[TARGET].to_pylist(), strict=True))
    found = generator.sample(model, ask(["a"] * 30 + ["nobody"]), context).to_pylist()
    assert [row[TARGET] for row in found] == [
        known[row["parent_ids"][0]] if row["reason"] is None else None for row in found
    ]


# --- What is refused -----------------------------------------------------------------------------------------------------


def test_an_amount_of_a_transformation_that_there_is_not_is_refused_by_the_nearest_name() -> None:
    generator = Transforms(TransformsOptions(amounts={"rotatte": 3.0}))
    with pytest.raises(UserError, match="rotate"):
        generator.preflight(PICTURE_FIELDS)
    Transforms(TransformsOptions(amounts={"rotate": 3.0})).preflight(PICTURE_FIELDS)
    for bad in ({"strength": 0.0}, {"amounts": {"hue": -1.0}}):
        with pytest.raises(ValueError, match="expected"):
            TransformsOptions(**bad)


def test_a_library_that_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "kornia" else found(name))
    with pytest.raises(UserError, match="kornia") as raised:
        Transforms(TransformsOptions()).preflight(PICTURE_FIELDS)
    assert "augmill[images]" in str(raised.value.fix)


def test_the_order_of_asking_and_the_size_of_pieces_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pa.table(
        dict(zip(("row_id", "stratum", *PICTURE_FIELDS), map(list, zip(*picture_rows(), strict=True)), strict=True)),
        real_schema(PICTURE_FIELDS),
    )
    generator, model, context = fitted(rows, tmp_path)
    asked: Request = ask(["refund", "track", "中文", "nobody"] * 9)
    whole = generator.sample(model, asked, context)
    from augmill.tasks.generators.transforms import generator as module

    monkeypatch.setattr(module, "BYTES", 3000)
    monkeypatch.setattr(module, "ROWS", 5)
    assert generator.sample(model, asked, context).equals(whole)
