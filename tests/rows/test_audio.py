"""Sounds: what is refused and why, what is equal and near, and what is said of them."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from drawn_sounds import RATE, Wave, file_of, sounds, wav, word
from hypothesis import given, settings
from hypothesis import strategies as st

from augmill.tasks.contracts import ReadLimits
from augmill.tasks.errors import RefusedFile
from augmill.tasks.rows.kinds import KINDS, RowIndex, near_groups
from augmill.tasks.rows.kinds.audio import Audio, decode, encode, istft, samples, stft
from augmill.tasks.rows.kinds.audio.decode import REMEDIES, SECONDS, at_rate
from augmill.tasks.rows.kinds.audio.features import planes
from augmill.tasks.rows.kinds.audio.heard import prints
from augmill.tasks.rows.kinds.audio.melspectrogram import MELS, log_mel, mel_filters
from augmill.tasks.rows.kinds.audio.near import similarity
from augmill.tasks.rows.kinds.media import RELEASED, files_of

KIND = Audio()
HELD_OUT = 0.8  # similarity to a held-out row from which the check `relations` refuses
WORDS = [word(seed) for seed in range(24)]


def reason(data: bytes | None) -> str | None:
    _, reasons = KIND.read(sounds([data])["audio:clip"], "audio", ReadLimits(10))
    return reasons[0]


def headed(
    size: int, *, format: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16, data: bytes = b""
) -> bytes:
    """A WAV file whose header says of its data what one likes."""
    step = channels * bits // 8
    about = struct.pack(
        "<4sIHHIIHH", b"fmt ", 16, format, channels, rate, (rate * step) & 0xFFFFFFFF, step & 0xFFFF, bits
    )
    body = b"WAVE" + about + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", min(len(body), 0xFFFFFFFF)) + body


def floats(*values: float) -> bytes:
    wave = np.concatenate([WORDS[0], np.array(values, np.float32)])
    return headed(4 * len(wave), format=3, bits=32, data=wave.astype("<f4").tobytes())


# --- Files that are no sound --------------------------------------------------------------------------------------------


def damaged() -> dict[str, tuple[bytes | None, set[str]]]:
    """A hundred files, each with the reasons that it may be refused for."""
    found: dict[str, tuple[bytes | None, set[str]]] = {
        "null": (None, {"no_audio"}),
        "no byte": (b"", {"empty"}),
        "text named .wav": (b"where is my new card", {"not_audio"}),
        "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(200), {"not_audio"}),
        "AVI": (b"RIFF" + struct.pack("<I", 100) + b"AVI " + bytes(96), {"not_audio"}),
        "zeros": (bytes(5000), {"not_audio"}),
        "no sample": (headed(0), {"empty"}),
        "one sample": (headed(2, data=b"\x00\x40"), {"too_short"}),
        "4 GB in a header": (headed(0xFFFFFFF0, data=bytes(2000)), {"truncated"}),
        "2 GB in a header": (headed(0x7FFFFFFE, data=bytes(2000)), {"truncated"}),
        "silence": (wav(np.zeros(4000, np.float32)), {"silent"}),
        "nearly silence": (wav(np.full(4000, 0.0005, np.float32)), {"silent"}),
        "1 Hz": (headed(20_000, rate=1, data=bytes(20_000)), {"bad_rate"}),
        "4 GHz": (headed(20_000, rate=0xFFFFFFFF, data=bytes(20_000)), {"bad_rate", "not_audio", "truncated"}),
        "no rate": (headed(20_000, rate=0, data=bytes(20_000)), {"bad_rate", "not_audio", "truncated"}),
        "9 channels": (headed(18_000, channels=9, data=b"\x00\x40" * 9000), {"too_many_channels"}),
        "no channel": (headed(18_000, channels=0, data=bytes(18_000)), {"not_audio", "truncated"}),
        "65535 channels": (
            headed(18_000, channels=65535, data=bytes(18_000)),
            {"not_audio", "truncated", "too_many_channels"},
        ),
        "NaN": (floats(float("nan")), {"not_finite"}),
        "infinity": (floats(float("inf")), {"not_finite"}),
        "minus infinity": (floats(-float("inf"), 0.0), {"not_finite"}),
        "three minutes": (file_of(np.tile(WORDS[0], 400)[: 150 * RATE], RATE, "FLAC"), {"too_long"}),
        "half an hour of nothing in 40 kB": (file_of(np.zeros(1800 * RATE, np.float32), RATE, "FLAC"), {"too_long"}),
        "AIFF": (file_of(WORDS[0], RATE, "AIFF"), {"not_audio"}),
        "AU": (file_of(WORDS[0], RATE, "AU"), {"not_audio"}),
    }
    whole = {format: file_of(WORDS[1], RATE, format) for format in ("WAV", "FLAC", "OGG", "MP3")}
    for format, data in whole.items():
        for share in np.linspace(0.02, 0.97, 15):
            cut = {"truncated", "not_audio", "empty", "too_short"}
            found[f"{format} cut to {share:.2f}"] = (data[: int(share * len(data))], cut)
    rng = np.random.default_rng(0)
    for turn in range(15):
        found[f"noise {turn}"] = (rng.integers(0, 256, 3000, np.uint8).tobytes(), {"not_audio", *REMEDIES})
    return found


DAMAGED = damaged()


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_or_hostile_file_is_refused_with_its_reason(name: str) -> None:
    data, reasons = DAMAGED[name]
    assert reason(data) in reasons


def test_a_hundred_such_files_are_refused_row_by_row_in_bounded_memory(tmp_path: Path) -> None:
    assert len(DAMAGED) >= 100
    nothing = np.zeros((60 * 192_000, 8), np.int16)
    (tmp_path / "claims.wav").write_bytes(headed(0xFFFFFFFF, channels=8, rate=192_000, data=bytes(1000)))
    (tmp_path / "eight.flac").write_bytes(file_of(nothing, 192_000, "FLAC"))
    code = """if True:
        import resource, sys
        from pathlib import Path
        from augmill.tasks.errors import RefusedFile
        from augmill.tasks.rows.kinds.audio.decode import decode
        import scipy.signal
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for path in map(Path, sys.argv[1:]):
            try:
                decode(path.read_bytes())
            except RefusedFile as refused:
                print(refused.reason)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, sorted(tmp_path.iterdir()))], capture_output=True, text=True, check=True
    )
    *reasons, grown = done.stdout.split()
    assert reasons == ["too_short", "silent"]
    assert int(grown) < 200  # MiB; all samples in eight channels are 352, one channel 44, twice while it is joined


def test_192_kHz_in_eight_channels_are_a_sound() -> None:
    wave = np.stack([word(seed, 192_000, 0.2) for seed in range(8)], axis=1)
    sound = decode(wav(wave, 192_000))
    assert (sound.rate, sound.channels, len(sound.mono)) == (192_000, 8, 38_400)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_a_stream_that_could_not_say_its_length_is_read_to_its_end(size: int) -> None:
    data = (32767 * WORDS[0]).astype("<i2").tobytes()
    assert len(samples(headed(size, data=data))[0]) == len(WORDS[0])


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["WAV", "FLAC", "OGG", "MP3"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=12),
)
def test_a_file_with_changed_bytes_is_refused_or_a_sound_within_bounds(
    format: str, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(file_of(WORDS[2], RATE, format))
    for share, value in changes:
        data[int(share * len(data))] = value
    try:
        sound = decode(bytes(data))
    except RefusedFile as refused:
        assert refused.reason in REMEDIES
        return
    assert np.isfinite(sound.mono).all() and len(sound.mono) <= SECONDS[1] * sound.rate
    table = sounds([bytes(data)])
    assert len(KIND.equal(table)) == len(KIND.features(table).transform(table)) == 1


def test_rows_without_a_reason_keep_their_files_and_names() -> None:
    table = sounds([wav(WORDS[0]), b"", wav(WORDS[1])])
    values, reasons = KIND.read(table["audio:clip"].cast(RELEASED), "audio", ReadLimits(1))
    assert reasons == [None, "empty", None]
    assert files_of(values) == files_of(table["audio:clip"])
    assert KIND.release(values, RELEASED).equals(table["audio:clip"].combine_chunks().cast(RELEASED))


# --- Writing, and spectra ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "format, subtype", [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")]
)
def test_what_is_written_is_read_again(format: str, subtype: str) -> None:
    wave = np.stack(WORDS[:1] * 2, axis=1)
    data = encode(wave, RATE, format, subtype)
    assert data == encode(wave.copy(), RATE, format, subtype)
    again, rate = samples(data)
    assert rate == RATE and np.abs(again - WORDS[0]).max() < 2**-15
    assert encode(again, RATE, format, subtype) == encode(WORDS[0], RATE, format, subtype)


@pytest.mark.parametrize("format, subtype", [("OGG", "VORBIS"), ("WAV", "FLOAT"), ("WAV", "DOUBLE")])
def test_formats_that_hold_the_time_are_not_written(format: str, subtype: str) -> None:
    with pytest.raises(ValueError, match="time"):
        encode(WORDS[0], RATE, format, subtype)


@pytest.mark.parametrize("window, hop", [(512, 128), (256, 64), (250, 125)])
def test_a_spectrum_turned_back_is_the_sound(window: int, hop: int) -> None:
    spectrum = stft(WORDS[3], window, hop)
    whole = len(WORDS[3]) // hop * hop - window
    assert np.abs(istft(spectrum, window, hop, len(WORDS[3])) - WORDS[3])[:whole].max() < 1e-5


def test_a_tone_is_in_its_own_band() -> None:
    """The middles of the bands, computed here from HTK's formula."""
    middles = 700 * (10 ** (np.linspace(*2595 * np.log10(1 + np.array([60, 8000]) / 700), MELS + 2)[1:-1] / 2595) - 1)
    for hertz in (200, 440, 1000, 3000):
        tone = np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000).astype(np.float32)
        loudest = log_mel(tone, 16_000)[20:80].mean(axis=0).argmax()
        assert abs(int(loudest) - int(np.abs(middles - hertz).argmin())) <= 1
    assert np.allclose(mel_filters(MELS, 512, 16_000, 60, 8000).sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("rate", [4000, 7999, 16_000, 44_101, 48_000, 191_999])
def test_a_resampled_sound_lasts_as_long_and_keeps_its_tone(rate: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    made = at_rate(tone, rate, 8000)
    assert abs(len(made) - 8000) <= 8
    assert abs(int(np.abs(np.fft.rfft(made[:8000])).argmax()) - 440) <= 1


# --- Equal and near ------------------------------------------------------------------------------------------------------


def mixed(wave: Wave, decibels: float, seed: int) -> Wave:
    noise = np.random.default_rng(seed).standard_normal(len(wave))
    return (wave + noise * np.sqrt((wave**2).mean()) * 10 ** (-decibels / 20)).astype(np.float32)


def trimmed(wave: Wave, start: float, stop: float) -> Wave:
    return wave[int(start * len(wave)) : len(wave) - int(stop * len(wave))]


TWINS: dict[str, Callable[[Wave], bytes]] = {
    "MP3": lambda wave: file_of(wave, RATE, "MP3"),
    "OGG": lambda wave: file_of(wave, RATE, "OGG"),
    "16 kHz": lambda wave: wav(at_rate(wave, RATE, 16_000), 16_000),
    "6 kHz": lambda wave: wav(at_rate(wave, RATE, 6_000), 6_000),
    "quieter": lambda wave: wav(wave * np.float32(0.2)),
    "8 % less at the start": lambda wave: wav(trimmed(wave, 0.08, 0)),
    "8 % less at the end": lambda wave: wav(trimmed(wave, 0, 0.08)),
    "4 % less at both": lambda wave: wav(trimmed(wave, 0.04, 0.04)),
    "noise at 30 dB": lambda wave: wav(mixed(wave, 30, 1)),
    "in stereo, as FLAC": lambda wave: file_of(np.stack([wave, wave], axis=1), RATE, "FLAC"),
}


@pytest.mark.parametrize("name", TWINS)
def test_planted_twins_are_found_and_nothing_else(name: str) -> None:
    index = RowIndex.build(sounds([wav(wave) for wave in WORDS]), ("audio:clip",), HELD_OUT)
    query, position, _ = index.matches(sounds([TWINS[name](wave) for wave in WORDS]))
    assert set(query[query != position].tolist()) == set()
    assert len(query) >= 0.95 * len(WORDS)


def test_other_words_are_not_near() -> None:
    index = RowIndex.build(sounds([wav(wave) for wave in WORDS]), ("audio:clip",), 0.5)
    query, position, near = index.matches(sounds([wav(wave) for wave in WORDS]))
    assert query.tolist() == position.tolist() == list(range(len(WORDS))) and set(near) == {1.0}


def test_twins_share_a_key() -> None:
    keys = KIND.near_keys(sounds([wav(wave) for wave in WORDS]), HELD_OUT)
    for twin in TWINS.values():
        others = KIND.near_keys(sounds([twin(wave) for wave in WORDS]), HELD_OUT)
        assert (keys == others).any(axis=1).mean() >= 0.95


def test_the_same_samples_in_another_file_are_equal_and_of_another_id() -> None:
    table = sounds([wav(WORDS[0]), encode(WORDS[0], RATE, "FLAC"), wav(WORDS[0], 16_000)])
    assert KIND.equal(table)[0] == KIND.equal(table)[1] != KIND.equal(table)[2]
    assert len(set(KIND.id(table))) == 3


def test_names_of_files_change_nothing_but_what_is_shown() -> None:
    data = [wav(WORDS[0])]
    one, other = sounds(data), pa.table({"audio:clip": sounds([b"", *data])["audio:clip"].slice(1)})
    assert KIND.id(one) == KIND.id(other) and KIND.equal(one) == KIND.equal(other)
    assert KIND.show(one) == ["0.wav, " + KIND.show(other)[0].removeprefix("1.wav, ")]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(WORDS[:4]), st.sampled_from(sorted(TWINS))), min_size=2, max_size=6))
def test_similarity_is_the_same_both_ways_and_whatever_stands_beside(drawn: list[tuple[Wave, str]]) -> None:
    files = [TWINS[name](wave) for wave, name in drawn]
    table = sounds(files)
    own = prints(table)[0]
    found = {(q, p): s for q, p, s in zip(*(a.tolist() for a in KIND.near(table, 0.5).matches(table)), strict=True)}
    first = {each.equal: at for at, each in reversed(list(enumerate(own)))}
    for (query, position), near in found.items():
        assert near == similarity(own[position], own[query]) == similarity(own[query], own[position])
        assert position == first[own[position].equal]
    assert near_groups(table, ("audio:clip",), 0.5).tolist() == KIND.groups(table, 0.5).tolist()


# --- What is said of sounds ----------------------------------------------------------------------------------------------


def test_a_sound_is_shown_in_one_line_and_drawn_with_a_player() -> None:
    table = sounds([wav(word(1, seconds=0.42)), b"nothing"])
    assert KIND.show(table) == ["0.wav, 0.42 s, 8 kHz", "1.wav, no sound"]
    drawn = KIND.draw(table)
    assert drawn is not None and drawn[1] == ""
    assert re.fullmatch(r'<span class="sound"><svg .*</svg><audio controls .*></audio></span>', drawn[0])
    assert "script" not in drawn[0] and KIND.draw(table) == drawn


def test_what_is_drawn_of_a_long_sound_is_bounded() -> None:
    table = sounds([wav(np.tile(word(1, 44_100), 60), 44_100)])
    drawn = KIND.draw(table)
    assert drawn is not None and len(drawn[0]) < 450_000  # 10 s at 16 kHz, 16 bits, packed


def test_a_profile_counts_clipping_and_silence() -> None:
    loud = np.clip(WORDS[0] * 4, -1, 1)
    half = np.concatenate([WORDS[0], np.zeros(len(WORDS[0]), np.float32)])
    profile = KIND.profile(sounds([wav(loud), wav(half), wav(WORDS[1], 16_000)]))
    assert profile["rates"] == {"16000": 1, "8000": 2}
    assert sum(count for clipped, count in profile["clipping"].items() if clipped != "none") == 1
    assert any(float(share) >= 0.5 for share in profile["silence"])


def test_planes_are_pictures_of_spectra_whatever_stands_beside() -> None:
    table = sounds([wav(wave) for wave in WORDS[:3]])
    found = planes(table, 32)
    assert found.shape == (3, 1, 32, 32) and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1 and found.std() > 0.1
    assert np.array_equal(planes(table.slice(1, 1), 32)[0], found[1])
    assert (
        np.abs(planes(sounds([wav(WORDS[0] * np.float32(0.3))]), 32)[0] - found[0]).max() < 0.05
    )  # loudness is not seen


def test_a_column_of_sounds_is_guessed_from_its_files() -> None:
    assert KIND.sniff(sounds([wav(WORDS[0]), None])["audio:clip"], "clip")[1] > 0.9
    assert KIND.sniff(sounds([b"\x89PNG"])["audio:clip"], "clip")[1] == 0.0
    assert KIND.sniff(pa.chunked_array([["a.wav"]]), "clip")[1] == 0.0
    assert KINDS["audio"].name == "audio"


def test_wave_files_of_the_standard_library_are_read() -> None:
    import wave

    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((32767 * WORDS[0]).astype("<i2").tobytes())
    assert np.abs(samples(buffer.getvalue())[0] - WORDS[0]).max() < 1e-4
