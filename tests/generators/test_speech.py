"""The generator `speech`: what is said of labels and transcripts, by the system's espeak-ng and by a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from drawn_sounds import RATE, wav, word
from generating import ask
from tiny_vits import babbling_voice
from toned import TONE_FIELDS, toned

from augmill.tasks.contracts import TARGET
from augmill.tasks.errors import UserError
from augmill.tasks.generators.speech import Speech, SpeechOptions, espeak
from augmill.tasks.generators.speech.generator import SPOKEN, sorted_texts, trimmed
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.rows.kinds.audio import decode, samples
from augmill.tasks.rows.kinds.media import files_of, media
from augmill.testing import GENERATOR_LAWS, GeneratorBench

speaks = pytest.mark.skipif(shutil.which(espeak.PROGRAM) is None, reason="espeak-ng is not installed")
CLASSES = ("turn_left", "stop")


def labelled() -> pa.Table:
    """Sounds of two classes, most of them at ``RATE``."""
    files = [wav(word(at), RATE) if at else wav(word(at, 16_000), 16_000) for at in range(8)]
    columns = {
        "row_id": [f"r{at}" for at in range(8)],
        "stratum": [CLASSES[at % 2] for at in range(8)],
        TONE_FIELDS[0]: media(files),
    }
    return pa.table(columns, real_schema(TONE_FIELDS))


def bench(folder: Path, rows: pa.Table, **options: Any) -> GeneratorBench:
    return GeneratorBench(Speech(SpeechOptions(**options)), folder, rows=rows)


def new_texts(folder: Path, *lines: str) -> str:
    (folder / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    return str(folder / "texts.txt")


@speaks
@pytest.mark.parametrize("rows", [labelled, lambda: toned("r", 10, 0)], ids=["labels", "transcripts"])
@pytest.mark.parametrize("law", GENERATOR_LAWS, ids=lambda law: law.__name__)
def test_it_keeps_the_laws_of_generators(
    law: Callable[[GeneratorBench], None], rows: Callable[[], pa.Table], tmp_path: Path
) -> None:
    law(bench(tmp_path / "a", rows(), voices=("en-us", "en-gb+f2", "en-gb+m3")))


@speaks
def test_a_label_is_said_as_the_recipe_says_at_the_rate_of_the_rows_and_has_no_parents(tmp_path: Path) -> None:
    asked = ask(["turn_left", "stop"] * 3)
    found = [
        bench(tmp_path / name, labelled(), say=say).sample(asked)
        for name, say in (("a", {}), ("b", {"turn_left": "turn left"}), ("c", {"turn_left": "zebra crossing ahead"}))
    ]
    plain, same, other = (files_of(rows[TONE_FIELDS[0]]) for rows in found)
    assert plain == same and [one != two for one, two in zip(plain, other, strict=True)] == [True, False] * 3
    assert {decode(file).rate for file in plain} == {RATE}
    assert found[0]["parent_ids"].to_pylist() == [[]] * 6
    peaks = json.loads((tmp_path / "a/fitted" / SPOKEN).read_text())["peaks"]
    assert all(peaks[0] - 1e-3 <= decode(file).peak <= peaks[-1] + 1e-3 for file in plain)


@speaks
def test_of_a_transcript_the_row_is_the_parent_of_a_new_text_none_is(tmp_path: Path) -> None:
    train = toned("r", 10, 0)
    known = dict(zip(train["row_id"].to_pylist(), train[TARGET].to_pylist(), strict=True))
    lines = ("so", "mi so do mi so do so so")
    made = bench(tmp_path / "a", train, texts=new_texts(tmp_path, *lines), new=0.5, voices=("en",))
    rows = made.sample(ask(["short", "long"] * 12)).to_pylist()
    again = [row for row in rows if row["parent_ids"]]
    assert again and all(row[TARGET] == known[row["parent_ids"][0]] for row in again)
    fresh = [(row["asked"], row[TARGET]) for row in rows if not row["parent_ids"]]
    assert set(fresh) == {("short", lines[0]), ("long", lines[1])} and 6 < len(fresh) < 20


@speaks
def test_a_longer_text_is_a_longer_sound_and_phonemes_and_options_are_only_text() -> None:
    sizes = [len(espeak.speak(text, "en", 175, 50)[0]) for text in ("one", "one two three")]  # type: ignore[index]
    assert 1.4 * sizes[0] < sizes[1]
    for text in ("--version", "[[h@loU]]", "-w /tmp/x", "<speak>hi</speak>"):
        found = espeak.speak(text, "en", 175, 50)
        assert found is not None and np.abs(found[0]).max() > 0.1
    assert espeak.speak("  ", "en", 175, 50) is None


@speaks
def test_a_language_or_voice_that_nobody_has_is_refused_and_so_is_another_version(tmp_path: Path) -> None:
    for options, said in (({"language": "xx-none"}, "no voice for"), ({"voices": ("nobody",)}, "no voice 'nobody'")):
        with pytest.raises(UserError, match=said):
            bench(tmp_path / said[-4:], labelled(), **options)
    made = bench(tmp_path / "a", labelled(), voices=("en",))
    path = tmp_path / "a/fitted" / SPOKEN
    path.write_text(path.read_text().replace(espeak.version(), "0.9"))
    with pytest.raises(UserError, match=r"chosen with espeak-ng 0\.9"):
        made.sample(ask(["stop"]))


def test_without_espeak_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="apt install espeak-ng"):
        Speech(SpeechOptions()).preflight(TONE_FIELDS)


def test_a_text_is_of_the_longest_bin_that_it_reaches(tmp_path: Path) -> None:
    train = toned("r", 20, 0)
    found = sorted_texts(train, new_texts(tmp_path, "a", "do mi", "do mi so", "do mi so do mi so do mi so", "", "a"))
    assert found == {"short": ["a", "do mi"], "long": ["do mi so", "do mi so do mi so do mi so"]}
    with pytest.raises(UserError, match="has no text"):
        sorted_texts(train, new_texts(tmp_path, "", "  "))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate": (200, 100)}, "rate"),
        ({"pitch": (0, 100)}, "pitch"),
        ({"engine": "model"}, "model"),
        ({"model": "somewhere"}, "model"),
        ({"say": {"7": " "}}, "say"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SpeechOptions(**options)


def test_silence_before_and_behind_is_cut() -> None:
    loud = np.ones(1000, np.float32)
    assert len(trimmed(np.concatenate([np.zeros(5000, np.float32), loud, np.zeros(9000, np.float32)]), 1000)) == 1060


# --- A model ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("law", GENERATOR_LAWS, ids=lambda law: law.__name__)
def test_a_model_keeps_the_laws_of_generators(law: Callable[[GeneratorBench], None], tmp_path: Path) -> None:
    law(bench(tmp_path / "a", toned("r", 10, 0), engine="model", model=str(babbling_voice())))


def test_a_models_sounds_are_at_the_rate_of_the_rows_and_each_seed_has_its_own(tmp_path: Path) -> None:
    made = bench(tmp_path / "a", labelled(), engine="model", model=str(babbling_voice()))
    files = files_of(made.sample(ask(["stop"] * 4))[TONE_FIELDS[0]])
    assert len(set(files)) == 4 and None not in files
    assert {samples(file)[1] for file in files if file is not None} == {RATE}
