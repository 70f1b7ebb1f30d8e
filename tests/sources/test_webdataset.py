"""Tars of samples: what is a row, and what damage or tricks do."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import put, read

from augmill.tasks.errors import DataError
from augmill.tasks.sources import SourceOptions, list_files, read_batches, webdataset
from augmill.testing import SOURCE_LAWS, SourceBench

FILES = [("a/1.jpg", b"one"), ("a/1.cls", b"3\n"), ("a/2.jpg", b"two"), ("a/2.cls", b"4"), ("b.v2/3.cls", b"5")]


def tar(files: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT, **more: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in more.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def media(name: str, data: bytes) -> dict[str, Any]:
    return {"bytes": data, "path": name}


ROWS = [
    {"__key__": "a/1", "jpg": media("a/1.jpg", b"one"), "cls": "3"},
    {"__key__": "a/2", "jpg": media("a/2.jpg", b"two"), "cls": "4"},
    {"__key__": "b.v2/3", "jpg": None, "cls": "5"},
]


@pytest.mark.parametrize("law", SOURCE_LAWS, ids=lambda law: law.__name__)
def test_a_tar_keeps_the_laws_of_readers(tmp_path: Path, law: Any) -> None:
    law(SourceBench("webdataset", put(tmp_path / "x.tar", tar(FILES)), ROWS))


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar", "x.tar.zst"])
def test_a_compressed_tar_is_read_by_name_or_first_bytes(tmp_path: Path, name: str) -> None:
    import pyarrow as pa

    packed = pa.compress(tar(FILES), codec="zstd", asbytes=True) if name.endswith("zst") else gzip.compress(tar(FILES))
    assert read(put(tmp_path / name, packed)).table.to_pylist() == ROWS


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names_stand_in_headers_of_their_own(tmp_path: Path, form: int) -> None:
    names = ["d/" * 90 + "猫.png", "x" * 150 + ".png", "plain.png"]
    found = read(put(tmp_path / "x.tar", tar([(name, name.encode()) for name in names], form))).table
    assert [(row["png"]["path"], row["png"]["bytes"].decode()) for row in found.to_pylist()] == [(n, n) for n in names]


def test_the_keys_of_json_are_columns_with_types(tmp_path: Path) -> None:
    rows = [{"age": 3, "tags": ["a"]}, {"age": 4, "ok": True}]
    files = [
        each
        for at, row in enumerate(rows)
        for each in ((f"{at}.json", json.dumps(row).encode()), (f"{at}.wav", b"x"), (f"{at}.npy", b"\x00"))
    ]
    files += [("2.json", b'{"age": "old"}'), ("3.json", b"[1]"), ("4.json", b"{"), ("5.json", b"")]
    found = read(put(tmp_path / "x.tar", tar(files)))
    assert found.table.column_names == ["__key__", "wav", "npy", "age", "tags", "ok"]
    assert found.table.select(["age", "tags", "ok", "npy"]).to_pylist() == [
        {"age": "3", "tags": '["a"]', "ok": None, "npy": b"\x00"},
        {"age": "4", "tags": None, "ok": True, "npy": b"\x00"},
        {"age": "old", "tags": None, "ok": None, "npy": None},
    ]
    assert found.reasons == [("sample 4", "not_an_object"), ("sample 5", "bad_json"), ("sample 6", "bad_json")]
    clash = put(tmp_path / "y.tar", tar([("1.json", b'{"jpg": 1}'), ("1.jpg", b"x")]))
    with pytest.raises(DataError, match="a key 'jpg'"):
        read(clash)


def test_names_lead_nowhere_and_what_makes_no_row_is_refused(tmp_path: Path) -> None:
    files = [("../up.png", b"x"), ("/etc/abs.png", b"x"), ("a/../../b.png", b"x"), ("README", b"x")]
    files += [("t.png", b"1"), ("t.png", b"2"), ("u.txt", b"\xff"), ("big.png", b"12345678"), ("ok.png", b"y")]
    files += [(".hidden.png", b"x"), ("__MACOSX/._ok.png", b"x")]
    found = read(put(tmp_path / "in/x.tar", tar(files)), max_file_bytes=7)
    assert [row["__key__"] for row in found.table.to_pylist()] == ["ok"]
    reasons = ["outside_source"] * 3 + ["bad_sample", "bad_sample", "invalid_encoding", "file_too_large"]
    assert [reason for _, reason in found.reasons] == reasons
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "x.tar"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    whole = tar([("ok.png", b"x")])
    odd = tar([("odd.png", b"")], type=kind, linkname="/etc/passwd")
    found = read(put(tmp_path / "x.tar", odd[:512] + whole))
    assert found.reasons == [("sample 1", "bad_sample")]
    assert found.table["__key__"].to_pylist() == ["ok"]


def test_a_tar_cut_anywhere_is_damaged_never_shorter(tmp_path: Path) -> None:
    whole = tar(FILES)
    end = len(whole.rstrip(b"\0"))
    end += -end % 512
    for size in [1, 100, 511, 512, 513, 1023, 1024, 1500, 2048, 2560, end - 512, end - 1, end]:
        for packed in (False, True):
            path = put(tmp_path / f"{size}{packed}.tar", gzip.compress(whole[:size]) if packed else whole[:size])
            with pytest.raises(DataError, match=r"damaged or cut|found"):
                read(path)
    cut = put(tmp_path / "cut.tar.gz", gzip.compress(whole)[:-20])
    with pytest.raises(DataError, match="cut short or damaged"):
        read(cut)
    with pytest.raises(DataError, match="empty file"):
        list_files(SourceOptions(path=str(put(tmp_path / "empty.tar", b""))))


def test_damage_is_told_with_its_place(tmp_path: Path) -> None:
    whole = bytearray(tar(FILES))
    whole[1024 + 148] ^= 0xFF  # the checksum of the second header
    with pytest.raises(DataError, match=r"byte 1,024.*after 'a/1\.jpg'"):
        read(put(tmp_path / "x.tar", bytes(whole)))
    with pytest.raises(DataError, match="joined"):
        read(put(tmp_path / "y.tar", tar(FILES) + tar(FILES)))
    with pytest.raises(DataError, match="expected a tar, found a zip archive"):
        read(put(tmp_path / "z.tar", b"PK\x03\x04" + bytes(2000)))


def test_sizes_that_lie_take_no_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x.png")
    header.size = 1 << 60
    with pytest.raises(DataError, match="cut short"):
        read(put(tmp_path / "x.tar", header.tobuf(tarfile.GNU_FORMAT) + bytes(2048)))
    header = tarfile.TarInfo("x.png")
    header.size, header.type = 1 << 30, tarfile.XHDTYPE
    with pytest.raises(DataError, match="a name of"):
        read(put(tmp_path / "y.tar", header.tobuf(tarfile.GNU_FORMAT) + bytes(2048)))


@given(
    st.lists(
        st.tuples(
            st.text("abé/", min_size=1, max_size=4), st.sampled_from(["png", "cls", "seg.png"]), st.binary(max_size=9)
        ),
        max_size=12,
    )
)
def test_each_file_of_a_sound_tar_is_in_a_row_or_refused(parts: list[tuple[str, str, bytes]]) -> None:
    files = [(f"{at // 2}{key.replace('/', 'x')}.{name}", data) for at, (key, name, data) in enumerate(parts)]
    samples = {}
    for name, _ in files:
        samples.setdefault(name.partition(".")[0], set()).add(name.partition(".")[2])
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / "x.tar", tar(files))
        found = read(path)
    taken = {row["__key__"]: row for row in found.table.to_pylist()}
    assert len(taken) + len(found.refused) == len(samples)
    for name, data in files:
        key, _, ending = name.partition(".")
        if key in taken and ending != "cls":
            assert taken[key][ending] == media(name, data)


def test_any_flipped_byte_gives_rows_or_a_data_error(tmp_path: Path) -> None:
    whole, rng = tar(FILES, tarfile.GNU_FORMAT), random.Random(4)
    for at in range(200):
        broken = bytearray(whole)
        broken[rng.randrange(4096)] ^= 1 << rng.randrange(8)
        path = put(tmp_path / f"{at}.tar", bytes(broken))
        try:
            found = read(path)
        except DataError:
            continue
        assert found.table.num_rows + len(found.refused) <= len(FILES)


def test_a_tar_is_read_in_batches_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "BATCH_BYTES", 100)
    options = SourceOptions(path=str(put(tmp_path / "x.tar", tar([(f"{at}.png", bytes(40)) for at in range(10)]))))
    (file,) = list_files(options)
    assert [batch.table.num_rows for batch in read_batches(file, options)] == [3, 3, 3, 1]
