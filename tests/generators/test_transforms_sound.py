"""transforms on sounds: a row is what its parent and its seed make of it, whatever stands beside it, and stays a sound."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_sounds import RATE, Wave, file_of, sounds, wav, word
from generating import ask
from hypothesis import given, settings
from hypothesis import strategies as st

from augmill.tasks.contracts import Context, FitInputs, Fitted
from augmill.tasks.errors import UserError
from augmill.tasks.generators.transforms import Transforms, TransformsOptions
from augmill.tasks.generators.transforms.sound import NAMES, POLICIES, Sounds
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.rows.kinds.audio import Audio, decode, encode, track
from augmill.tasks.rows.kinds.media import files_of

FILES = [
    wav(word(0)),
    encode(np.stack([word(1), word(2, seconds=len(word(1)) / RATE)], axis=1), RATE, "FLAC"),
    wav(word(3, 44_100), 44_100),
    file_of(word(4), RATE, "MP3"),
    encode(word(5), RATE, "WAV", "PCM_24"),
    file_of(word(6), RATE, "OGG"),
    file_of(word(7), RATE, "WAV", subtype="FLOAT"),
    wav(word(8)),
]
ALONE = dict.fromkeys(NAMES, 0.0)  # amounts that leave nothing of the policy
POLICY = st.sampled_from(["light", "strong", "trivial", "rand"])


def made(files: list[bytes], seeds: list[int], attempt: int = 0, **options: Any) -> list[bytes | None]:
    found = Sounds(TransformsOptions(**options)).transform([[file] for file in files], np.array(seeds), attempt)
    return [row and row[0] for row in found]


def only(name: str, amount: float, wave: Wave, seed: int, **options: Any) -> Wave:
    """A sound with one transformation alone: the most of it, up or down."""
    (found,) = made([wav(wave)], [seed], policy="rand", amounts={**ALONE, name: amount}, **options)
    assert found is not None
    return track(found).wave[:, 0]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=8), POLICY, st.integers(0, 3), st.randoms())
def test_a_row_is_the_same_alone_in_any_batch_and_place(
    seeds: list[int], policy: str, attempt: int, chance: Any
) -> None:
    files = FILES[: len(seeds)]
    alone = [made([file], [seed], attempt, policy=policy)[0] for file, seed in zip(files, seeds, strict=True)]
    order = list(range(len(files))) * 2
    chance.shuffle(order)
    found = made([files[at] for at in order], [seeds[at] for at in order], attempt, policy=policy)
    assert found == [alone[at] for at in order]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, len(FILES) - 1), POLICY)
def test_a_made_sound_has_its_parents_rate_and_channels_is_no_copy_and_is_accepted(
    seed: int, at: int, policy: str
) -> None:
    (found,) = made(FILES[at : at + 1], [seed], policy=policy)
    if found is None:
        return
    parent, child = track(FILES[at]), track(found)
    assert (child.rate, child.wave.shape[1]) == (parent.rate, parent.wave.shape[1])
    assert child.format == ("WAV" if parent.format == "WAV" else "FLAC")
    assert decode(found).digest != decode(FILES[at]).digest
    assert np.abs(child.wave).max() <= max(1.0, np.abs(parent.wave).max())
    table = sounds([FILES[at], found])
    assert Audio().equal(table)[0] != Audio().equal(table)[1]


def test_another_seed_and_another_attempt_are_another_sound() -> None:
    found = [made(FILES[:1], [seed], attempt, policy="strong")[0] for seed in (1, 2) for attempt in (0, 1)]
    assert len(set(found)) == 4


def test_all_sounds_of_a_row_are_changed_alike() -> None:
    file = wav(word(9))
    (both,) = Sounds(TransformsOptions(policy="strong")).transform([[file, file]], np.array([5]), 0)
    assert both is not None and both[0] == both[1] != file


# --- What each one does --------------------------------------------------------------------------------------------------

TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


def pitch_of(wave: Wave) -> float:
    return float(np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 17)).argmax() * RATE / (1 << 17))


def test_speed_moves_length_and_pitch_and_pitch_moves_pitch_alone() -> None:
    for seed in range(8):
        faster = only("speed", 0.1, TONE, seed)
        rate = len(TONE) / len(faster)
        assert pytest.approx(0.1, abs=0.01) == abs(rate - 1)
        assert pitch_of(faster) == pytest.approx(440 * rate, rel=0.01)
        higher = only("pitch", 0.1, TONE, seed)
        assert len(higher) == len(TONE)
        assert pitch_of(higher) == pytest.approx(440 * 1.1, rel=0.01) or pitch_of(higher) == pytest.approx(
            396, rel=0.01
        )


def test_gain_and_shift_are_what_they_say() -> None:
    for seed in range(6):
        louder = only("gain", 6.0, TONE, seed)
        assert np.abs(louder).max() / 0.5 == pytest.approx(10**0.3, rel=0.01) or np.abs(louder).max() / 0.5 == (
            pytest.approx(10**-0.3, rel=0.01)
        )
        shifted = only("shift", 0.1, TONE, seed)
        assert len(shifted) == RATE
        assert np.array_equal(shifted[800:], TONE_BACK[:-800]) or np.array_equal(shifted[:-800], TONE_BACK[800:])


TONE_BACK = track(wav(TONE)).wave[:, 0]


@pytest.mark.parametrize("noise_files", [False, True])
def test_noise_is_as_loud_as_it_says(noise_files: bool, tmp_path: Path) -> None:
    (tmp_path / "street.wav").write_bytes(wav(np.random.default_rng(0).uniform(-0.3, 0.3, 3000).astype(np.float32)))
    options = {"noise_files": str(tmp_path)} if noise_files else {}
    for seed in range(6):
        noise = only("background" if noise_files else "noise", 0.1, TONE, seed, **options) - TONE_BACK
        assert np.sqrt((noise**2).mean()) / np.sqrt((TONE**2).mean()) == pytest.approx(0.1, rel=0.1)


def test_a_masked_band_and_a_masked_time_are_silent_and_the_rest_stays() -> None:
    noise = (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
    for seed in range(4):
        silent = np.abs(only("time_mask", 0.2, noise, seed)) < 1e-4
        assert 0.15 * RATE < silent.sum() < 0.25 * RATE
        before, after = (
            np.abs(np.fft.rfft(each)).reshape(-1, 1)[:4000].reshape(200, 20).mean(axis=1)
            for each in (noise, only("frequency_mask", 0.3, noise, seed))
        )
        gone = after < 0.3 * before
        assert gone.any() and np.allclose(after[~gone][5:-5], before[~gone][5:-5], rtol=0.6)


def test_an_echo_dies_away_and_the_level_stays() -> None:
    click = np.zeros(RATE, np.float32)
    click[1000] = 0.9
    for seed in range(4):
        echo = only("room", 0.3, click, seed)
        early, late = np.abs(echo[1001:1600]).max(), np.abs(echo[3300:]).max()
        assert early > 0.005 and late < 0.05 * early
        assert np.sqrt((echo**2).mean()) == pytest.approx(np.sqrt((click**2).mean()), rel=0.05)


# --- As a generator ------------------------------------------------------------------------------------------------------


def test_rows_have_parents_of_their_own_class_and_what_cannot_move_is_said(tmp_path: Path) -> None:
    files = [wav(word(seed)) for seed in range(6)]
    rows = sounds(files).rename_columns(["audio:clip"])
    table = real_schema(("audio:clip",)).empty_table()
    table = table.from_arrays(
        [[f"r{at}" for at in range(6)], ["a", "b"] * 3, rows["audio:clip"].combine_chunks()], schema=table.schema
    )
    context = Context(seed=0, fields=("audio:clip",), workdir=tmp_path)
    empty = table.slice(0, 0)
    for options, reason in ((TransformsOptions(), None), (TransformsOptions(amounts=ALONE), "unchanged")):
        generator = Transforms(options)
        generator.preflight(("audio:clip",))
        generator.fit(FitInputs(table, empty, empty, empty, empty), context)
        found = generator.sample(Fitted(tmp_path, "content"), ask(["a", "b"] * 8), context)
        assert set(found["reason"].to_pylist()) == {reason}
        if reason is None:
            for stratum, parents in zip(found["stratum"].to_pylist(), found["parent_ids"].to_pylist(), strict=True):
                assert int(parents[0][1:]) % 2 == "ab".index(stratum)
            assert len({*files_of(found["audio:clip"]), *files}) == 22


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"amounts": {"sped": 0.1}}, "speed"),
        ({"amounts": {"speed": 0.9}}, "at most 0.5"),
        ({"noise_files": "/nowhere"}, "noise_files"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_fit(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Transforms(TransformsOptions(**options)).preflight(("audio:clip",))


def test_noise_that_is_no_sound_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    with pytest.raises(UserError, match=r"bad\.wav"):
        only("background", 0.1, TONE, 0, noise_files=str(tmp_path))


def test_a_library_that_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "soundfile" else find(name))
    with pytest.raises(UserError, match="soundfile") as caught:
        Transforms(TransformsOptions()).preflight(("audio:clip",))
    assert "augmill[sound]" in caught.value.fix


def test_both_policies_know_every_transformation() -> None:
    assert set(POLICIES["light"]) == set(POLICIES["strong"]) == set(NAMES)
