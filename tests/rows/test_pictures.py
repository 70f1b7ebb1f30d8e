"""Pictures: what is read and what is refused, what equal and near mean for them."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from drawn_pictures import drawn, hostile, photos, saved, zoomed
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from augmill.tasks.checks.relations import Relations, RelationsOptions
from augmill.tasks.contracts import Context, FitInputs, Fitted, ReadLimits
from augmill.tasks.errors import RefusedFile
from augmill.tasks.rows.kinds import KINDS, equal_keys, group_keys, id_keys
from augmill.tasks.rows.kinds.image import Image
from augmill.tasks.rows.kinds.image.decode import REMEDIES, Pixels, encode, pixels, size_of
from augmill.tasks.rows.kinds.image.near import PictureIndex
from augmill.tasks.rows.kinds.media import MEDIA, media
from augmill.testing.kinds import kind_laws

KIND = Image()
LIMITS = ReadLimits(10)


def read(files: list[bytes | None]) -> list[str | None]:
    return KIND.read(pa.chunked_array([media(files)]), "image", LIMITS)[1]


# --- Files -----------------------------------------------------------------------------------------------------------


def test_hostile_files_are_refused_row_by_row_each_with_a_remedy() -> None:
    files = hostile()
    assert len(files) == 200
    reasons = read([file for file, _ in files])
    wrong = [
        (at, reason, said)
        for at, (reason, (_, said)) in enumerate(zip(reasons, files, strict=True))
        if reason not in said
    ]
    assert not wrong
    assert (
        {"too_many_pixels", "animated", "damaged", "not_a_picture", "no_picture", "too_small"}
        <= set(reasons)
        <= {None, *REMEDIES}
    )


MEMORY = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from drawn_pictures import hostile
from augmill.tasks.errors import RefusedFile
from augmill.tasks.rows.kinds.image.decode import pixels
files = [file for file, _ in hostile()]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for file in files:
    try:
        pixels(file or b"")
    except RefusedFile:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_hostile_files_take_no_more_memory_than_the_largest_picture() -> None:
    """A picture of 25 megapixels among them is decoded up to where its file ends: 75 MB, and as much again for its copy."""
    here = str(Path(__file__).parent)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEMORY, here], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 250


@given(st.integers(0, 2**32), st.sampled_from(["PNG", "JPEG", "WEBP"]), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_file_cut_short_is_refused_or_the_same_picture(seed: int, format: str, share: float) -> None:
    file = saved(drawn(seed), format)
    try:
        found = pixels(file[: int(share * len(file))])
    except RefusedFile as refused:
        assert refused.reason in REMEDIES
    else:
        assert np.array_equal(found, pixels(file))


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x00\x00\x00\x00WEBPVP8X"]),
)
@settings(max_examples=150, deadline=None)
def test_no_bytes_at_all_break_the_reading(data: bytes, magic: bytes) -> None:
    assert read([magic + data])[0] in {None, *REMEDIES}


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_what_is_encoded_without_loss_is_decoded_as_it_was(format: str) -> None:
    picture = drawn(3)
    file = encode(picture) if format == "PNG" else saved(picture, "WEBP", lossless=True)
    assert np.array_equal(pixels(file), picture) and size_of(file) == (40, 32)
    assert np.array_equal(pixels(encode(picture[..., 0])), np.repeat(picture[..., :1], 3, axis=2))


def test_modes_become_colours_on_white() -> None:
    clear = np.dstack([drawn(1), np.zeros((32, 40), np.uint8)])
    assert (pixels(saved(Pillow.fromarray(clear), "PNG")) == 255).all()
    palette = Pillow.fromarray(drawn(1)).quantize(16)
    assert np.array_equal(pixels(saved(palette, "PNG")), np.asarray(palette.convert("RGB")))
    deep = (drawn(1)[..., 0].astype(np.uint16) << 8) + 77
    assert np.array_equal(pixels(saved(Pillow.fromarray(deep), "PNG"))[..., 1], drawn(1)[..., 0])
    bilevel = Pillow.fromarray(drawn(1)).convert("1")
    assert set(np.unique(pixels(saved(bilevel, "PNG")))) <= {0, 255}
    cmyk = pixels(saved(Pillow.fromarray(drawn(1)).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(cmyk.astype(int) - drawn(1)).mean() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_turned_as_exif_says(orientation: int, format: str) -> None:
    from PIL import ImageOps

    exif = Pillow.Exif()
    exif[0x0112] = orientation
    file = saved(drawn(5), format, exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Pillow.open(io.BytesIO(file))).convert("RGB"))
    assert np.array_equal(pixels(file), wanted)
    assert size_of(file) == (wanted.shape[1], wanted.shape[0])


def test_a_name_says_nothing_of_what_a_file_is() -> None:
    values = media([saved(drawn(1), "PNG"), b"text"], ["a.jpg", "b.png"])
    assert KIND.read(pa.chunked_array([values]), "image", LIMITS)[1] == [None, "not_a_picture"]


# --- The kind --------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["PNG", "JPEG", "WEBP", "mirror", "white", "none", "broken"])),
        max_size=7,
    )
)
@settings(max_examples=25, deadline=None)
def test_pictures_keep_all_laws_whatever_stands_in_them(rows: list[tuple[int, str]]) -> None:
    def file(seed: int, how: str) -> bytes | None:
        if how in ("PNG", "JPEG", "WEBP"):
            return saved(drawn(seed), how)
        of = {
            "mirror": encode(drawn(seed)[:, ::-1]),
            "white": encode(np.full((8, 9, 3), 255 - seed, np.uint8)),
            "broken": bytes([seed]),
        }
        return of.get(how)

    files = [file(*row) for row in rows]
    kind_laws(KIND, [photos(files), photos(files, files[::-1])])


def test_ids_and_splits_go_by_bytes_and_equality_by_pixels() -> None:
    picture = drawn(2)
    table = photos([saved(picture, "PNG"), saved(picture, "PNG", compress_level=0), saved(drawn(3), "PNG")])
    fields = table.column_names
    files = [saved(picture, "PNG"), saved(picture, "PNG", compress_level=0)]
    assert id_keys(table, fields)[:2] == [hashlib.sha256(file).digest() for file in files]
    assert group_keys(table, fields) == id_keys(table, fields)
    equal = equal_keys(table, fields)
    assert equal[0] == equal[1] != equal[2]
    texts = pa.table({"text": ["A", "a"]})
    assert group_keys(texts, ["text"]) == equal_keys(texts, ["text"])


PLANTED = {
    "recompressed": lambda picture, rng: pixels(saved(picture, "JPEG", quality=60)),
    "resized": lambda picture, rng: np.asarray(Pillow.fromarray(picture).resize((61, 47), Pillow.Resampling.BICUBIC)),
    "mirrored": lambda picture, rng: picture[:, ::-1],
    "cropped": lambda picture, rng: zoomed(picture, rng.uniform(0, 0.08), *rng.uniform(0, 1, 2)),
    "cropped and mirrored": lambda picture, rng: zoomed(picture, rng.uniform(0, 0.08), *rng.uniform(0, 1, 2))[:, ::-1],
}


@pytest.mark.parametrize("way", PLANTED)
def test_a_picture_is_found_again_and_no_other(way: str) -> None:
    rng = np.random.default_rng(1)
    pictures: list[Pixels] = [drawn(seed, 64, 56, coarse=9) for seed in range(60)]
    index = PictureIndex.build(photos([encode(picture) for picture in pictures]), 0.8)
    asked = [encode(np.ascontiguousarray(PLANTED[way](picture, rng))) for picture in pictures]
    best, _ = index.nearest(photos(asked))
    assert (best == np.arange(60)).mean() >= 0.95
    assert not ((best >= 0) & (best != np.arange(60))).any()


def test_near_does_not_hang_on_the_rows_beside_nor_on_which_is_asked() -> None:
    files = [encode(np.ascontiguousarray(zoomed(drawn(seed // 3), 0.03 * (seed % 3), 0.2, 0.9))) for seed in range(30)]
    table = photos(files)
    index = PictureIndex.build(table, 0.6)
    query, position, similarity = index.matches(table)
    whole = dict(zip(zip(query.tolist(), position.tolist(), strict=True), similarity.tolist(), strict=True))
    assert len(whole) >= 60
    assert whole == {(there, back): whole[back, there] for back, there in whole}, "similarity has no direction"
    alone = [index.matches(table.slice(row, 1)) for row in range(30)]
    assert {
        (row, at): value
        for row, (_, places, values) in enumerate(alone)
        for at, value in zip(places.tolist(), values.tolist(), strict=True)
    } == whole
    strict = PictureIndex.build(table, 0.9).matches(table)
    assert set(zip(strict[0].tolist(), strict[1].tolist(), strict=True)) == {
        pair for pair, value in whole.items() if value >= 0.9
    }


def test_pictures_without_features_are_near_none() -> None:
    """Nor by the faint noise that a compression leaves: here the same patches, a grey level apart."""
    noise = np.kron(np.random.default_rng(0).integers(0, 2, (6, 6)), np.ones((8, 8), np.int64))[..., None]
    flat = [encode(np.repeat(value + noise, 3, axis=2).astype(np.uint8)) for value in (0, 128, 250)]
    flat += [encode(np.full((32, 32, 3), value, np.uint8)) for value in (90, 255, 255)]
    query, position, similarity = PictureIndex.build(photos(flat), 0.5).matches(photos(flat))
    pairs = list(zip(query.tolist(), position.tolist(), strict=True))
    assert pairs == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 4)] and (similarity == 1).all()


def test_rows_of_two_pictures_are_as_near_as_their_less_near_one() -> None:
    same, other = encode(drawn(1)), encode(drawn(2))
    near = saved(drawn(1), "JPEG", quality=60)
    known = photos([same, same], [same, other])
    query, position, similarity = PictureIndex.build(known, 0.8).matches(photos([near], [other]))
    assert (query.tolist(), position.tolist()) == ([0], [1]) and 0.8 < similarity[0] < 1


def test_a_threshold_out_of_bounds_is_an_error() -> None:
    with pytest.raises(ValueError, match="found 0"):
        PictureIndex.build(photos([]), 0)


def test_drawings_hold_nothing_of_a_file_but_pixels() -> None:
    comment = b"<script>alert(1)</script>"
    file = saved(drawn(1, 400, 300), "JPEG", comment=comment)
    table = pa.table({"image:photo": media([file, None], ['"><script>.png', None])})
    page, nothing = KIND.draw(table)
    found = re.fullmatch(r'<img alt="" width="(\d+)" height="(\d+)" src="data:image/png;base64,[A-Za-z0-9+/=]+">', page)
    assert found and (int(found[1]), int(found[2])) == (128, 96)
    assert "<img" not in nothing and KIND.show(table)[1] == "no picture"


def test_planes_hold_pixels_between_nought_and_one() -> None:
    grey = np.repeat(drawn(1)[..., :1], 3, axis=2)
    table = photos([encode(grey), encode(grey[::-1])], [encode(drawn(2)), encode(drawn(3))])
    planes = KIND.planes(table, 16)
    assert planes.shape == (2, 6, 16, 16) and planes.dtype == np.float32
    assert planes.min() >= 0 and planes.max() <= 1 and np.array_equal(planes[:, 0], planes[:, 1])
    assert KIND.channels_of(table) == 3 and KIND.channels_of(table.select([0])) == 1
    assert np.allclose(KIND.planes(table, 16, 1)[:, 0], planes[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("column", "sure"),
    [
        (pa.array([saved(drawn(1), "PNG")] * 3), True),
        (media([saved(drawn(1), "JPEG"), None]), True),
        (pa.array([b"\x00\x01", b"\x02"]), False),
        (pa.array(["a/1.JPG", "b/2.png", None]), True),
        (pa.array(["see a.png for more", "text"]), False),
        (pa.array([1, 2]), False),
    ],
)
def test_a_column_of_pictures_is_known_by_its_files_or_names(column: pa.Array, sure: bool) -> None:
    found = KIND.sniff(pa.chunked_array([column]), "photo")
    assert found[0] == "image" and (found[1] > 0.9) == sure
    assert KINDS["image"].name == "image"


def test_a_made_picture_fits_the_users_own_column() -> None:
    values = media([encode(drawn(1))])
    for kind in (pa.binary(), pa.struct([("path", pa.string()), ("bytes", pa.binary())]), MEDIA):
        released = KIND.release(values, kind)
        assert released.type == kind and KIND.read(pa.chunked_array([released]), "image", LIMITS)[1] == [None]


def test_a_made_picture_may_be_its_parent_mirrored_but_no_held_out_picture_nor_another_one_of_train(
    tmp_path: Path,
) -> None:
    def rows(names: str, pictures: list[Pixels]) -> pa.Table:
        keys = {"row_id": list(names), "stratum": ["a"] * len(names)}
        return pa.table({**keys, "image:photo": media([encode(np.ascontiguousarray(one)) for one in pictures])})

    train, held = rows("xy", [drawn(1), drawn(2)]), rows("h", [drawn(3)])
    made = [drawn(1)[:, ::-1], drawn(1), drawn(3)[:, ::-1], drawn(2)[:, ::-1], drawn(9), drawn(3)]
    names = ["image:photo"]
    ctx = Context(seed=0, fields=tuple(names), workdir=tmp_path)
    check = Relations(RelationsOptions(parent_normalisation="fold"))
    check.fit(FitInputs(train, held, held.slice(0, 0), held.slice(0, 0), held.slice(0, 0)), ctx)
    asked = rows("uvwabc", made).append_column("parent_ids", pa.array([["x"]] * 6, pa.list_(pa.string())))
    reasons = check.judge(Fitted(tmp_path, ""), asked, ctx)["reason"].to_pylist()
    assert reasons == [None, "equals_parent", "near_heldout", "near_train", None, "in_heldout"]
