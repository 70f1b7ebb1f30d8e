"""Strings of tones that a program makes, each tone a word: rows of sounds with transcripts, for tests."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from augmill.tasks.problems import PROBLEMS
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.rows.kinds.audio import encode
from augmill.tasks.rows.kinds.media import media

TONE_FIELDS = ("audio:clip",)
TONES = {"do": 400.0, "mi": 900.0, "so": 2000.0}  # Hz
RATE = 8000


def string_of_tones(seed: int) -> tuple[str, bytes]:
    """(transcript, WAV): one to four tones, each a bit off, with pauses, on a little noise."""
    rng = np.random.default_rng(seed)
    names = [str(name) for name in rng.choice(list(TONES), int(rng.integers(1, 5)))]
    parts = list[np.ndarray]()
    for name in names:
        time = np.arange(int(rng.uniform(0.14, 0.2) * RATE)) / RATE
        fade = np.clip(np.minimum(time, time[-1] - time) / 0.02, 0, 1)
        parts += [
            fade * np.sin(2 * np.pi * TONES[name] * rng.uniform(0.95, 1.05) * time),
            np.zeros(int(rng.uniform(0.05, 0.1) * RATE)),
        ]
    wave = np.concatenate(parts)
    return " ".join(names), encode((0.5 * wave + 0.003 * rng.standard_normal(len(wave))).astype(np.float32), RATE)


def toned(prefix: str, count: int, seed: int) -> pa.Table:
    """Rows with transcripts, of the strata `short` and `long`."""
    drawn = [string_of_tones(seed + at) for at in range(count)]
    texts = [text for text, _ in drawn]
    columns = {
        "row_id": [f"{prefix}{at}" for at in range(count)],
        "stratum": ["short" if len(text) < 6 else "long" for text in texts],
        "target": pa.array(texts, pa.large_string()),
        TONE_FIELDS[0]: media([file for _, file in drawn]),
    }
    schema = real_schema(TONE_FIELDS, PROBLEMS["transcription"].target)
    return pa.table({name: columns[name] for name in schema.names}, schema)
