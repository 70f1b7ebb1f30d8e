"""Encodings are told apart, with a reason, or not at all; compressed files are read whole or refused."""

from __future__ import annotations

import codecs
import gzip
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import put, read

from augmill.tasks.errors import DataError
from augmill.tasks.sources import guess_encoding, lines

CHINESE = (
    "为何农民工每天日夜加班却没有网红在家里直播几天的收入高？\n我们的孩子在学校里学了一个新的故事，他说这是不对的。\n"
    * 20
)
FRENCH = "Où est passée ma carte ? Elle n'a pas été livrée.\nJ'ai déjà payé, où est le reçu ?\n" * 20
GERMAN = "Müller fährt über die Brücke.\nStraße größer\n" * 20


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("plain ascii\n", "utf-8"),
        (CHINESE, "utf-8"),
        (CHINESE, "gb18030"),
        (CHINESE, "utf-16"),
        (FRENCH, "utf-16-le"),
        (FRENCH, "cp1252"),
        (GERMAN, "cp1252"),
    ],
)
def test_texts_are_read_in_the_codec_they_were_written_in(tmp_path: Path, text: str, codec: str) -> None:
    content = f"text,label\n{text}".replace(",", ";").replace("\n", ";1\n").replace("text;label;1", "text;label")
    got = read(put(tmp_path / "a.csv", content.encode(codec)), delimiter=";")
    rows = [line for line in content.splitlines()[1:] if line.count(";") == 1]
    assert got.table["text"].to_pylist() == [line.split(";")[0] for line in rows]


@pytest.mark.parametrize("repeats", [1, 20])
@pytest.mark.parametrize("codec", ["cp1251", "euc_kr", "shift_jis", "euc_jp", "koi8_r"])
def test_what_cannot_be_told_is_asked_for(codec: str, repeats: int) -> None:
    russian = "Где моя карта? Я её ещё не получил.\n" * repeats
    korean = "제 카드는 어디에 있습니까? 아직 받지 못했습니다.\n" * repeats
    japanese = "カードはどこにありますか？まだ届いていません。\n" * repeats
    text = korean if codec == "euc_kr" else japanese if "j" in codec else russian
    with pytest.raises(DataError, match="encoding cannot be told"):
        guess_encoding(text.encode(codec))


def test_some_damaged_lines_do_not_make_a_utf8_file_another(tmp_path: Path) -> None:
    sample = ("né\n" * 9).encode() + b"n\xe9\n"
    codec, why = guess_encoding(sample)
    assert (codec, why.split(",")[0]) == ("utf-8", "9 of 10 lines beyond ASCII decode as UTF-8")


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_sample_cut_inside_a_character_is_still_utf8(cut: int) -> None:
    assert guess_encoding("好好😀".encode()[:-cut])[0] == "utf-8"


PARTS = st.sampled_from(
    [b"a", b"\n", b"\r", b"\r\n", "é".encode(), "好".encode(), "😀".encode(), b"\xe9", b"\xf0\x9f", b"\x85"]
)


@given(st.lists(PARTS, min_size=1, max_size=12).map(b"".join))
def test_a_sample_is_utf8_at_once_where_it_is_line_by_line(sample: bytes) -> None:
    lines = [line for line in sample.splitlines() if not line.isascii()]
    decoders = [codecs.getincrementaldecoder("utf-8")() for _ in lines]
    try:
        for line, decoder in zip(lines, decoders, strict=True):
            decoder.decode(line, final=not (line is lines[-1] and sample.endswith(line)))
        expected = bool(lines)
    except UnicodeDecodeError:
        expected = False
    try:
        found = guess_encoding(sample)[1] == "decodes as UTF-8"
    except DataError:
        found = False
    assert found == expected


@pytest.mark.parametrize("magic", [b"PAR1....", b"PK\x03\x04....", b"%PDF-1.7"])
def test_files_of_another_kind_are_named(magic: bytes) -> None:
    with pytest.raises(DataError, match="expected text in rows, found a"):
        guess_encoding(magic + os.urandom(100))


ROWS = "text,label\n" + "".join(f"row number {index},{index % 5}\n" for index in range(3000))


def compressed(kind: str) -> bytes:
    return gzip.compress(ROWS.encode()) if kind == "gz" else pa.compress(ROWS.encode(), codec="zstd", asbytes=True)


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_compressed_files_and_files_put_together_are_read_whole(tmp_path: Path, kind: str) -> None:
    got = read(put(tmp_path / f"a.csv.{kind}", compressed(kind)))
    assert got.table.num_rows == 3000
    unnamed = read(put(tmp_path / "b.csv", compressed(kind)))
    assert unnamed.table.equals(got.table)
    twice = read(put(tmp_path / f"c.csv.{kind}", compressed(kind) * 2))
    assert twice.table.num_rows == 6001  # the second part's header stands inside


@pytest.mark.parametrize("kind", ["gz", "zst"])
@pytest.mark.parametrize("lost", [1, 20, 2000])
def test_a_cut_compressed_file_is_refused_with_its_place(tmp_path: Path, kind: str, lost: int) -> None:
    path = put(tmp_path / f"a.csv.{kind}", compressed(kind)[:-lost])
    with pytest.raises(
        DataError, match=r"a\.csv\.\w+: the compressed file is cut short or damaged near byte [\d,]+ of"
    ):
        read(path)


def test_a_compressed_file_whose_sum_is_wrong_is_refused(tmp_path: Path) -> None:
    content = bytearray(compressed("gz"))
    content[-5] ^= 1
    with pytest.raises(DataError, match="cut short or damaged"):
        read(put(tmp_path / "a.csv.gz", bytes(content)))


def test_a_name_that_promises_compression_is_held_to_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected compression 'gzip', found 'none'"):
        read(put(tmp_path / "a.csv.gz", ROWS))
    assert read(tmp_path / "a.csv.gz", compression="none").table.num_rows == 3000


def test_a_decompression_bomb_stays_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_LIMIT", 1 << 20)

    zeros = gzip.compress(b"x" * (1 << 20), 9)
    path = put(tmp_path / "a.csv.gz", gzip.compress(b"text,label\n") + zeros * 48)
    tracemalloc.start()
    got = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got.reasons == [("line 2", "cell_too_long")]
    assert peak < 16 << 20  # of a line of 48 MiB; 4 MiB are looked at to tell the encoding
