"""Sounds drawn from numbers, like short words: a gliding tone with overtones, through two resonances that move."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.rows.kinds.audio import encode
from augmill.tasks.rows.kinds.media import media

RATE = 8000
Wave = npt.NDArray[np.float32]


def word(seed: int, rate: int = RATE, seconds: float = 0.0) -> Wave:
    """A sound of its own for each seed: about half a second unless said."""
    rng = np.random.default_rng(seed)
    seconds = seconds or float(rng.uniform(0.35, 0.7))
    time = np.arange(int(seconds * rate)) / rate
    along = np.linspace(0, 1, 6)

    def curve(low: float, high: float) -> Any:
        return np.interp(time / seconds, along, rng.uniform(low, high, 6))

    pitch = curve(90, 240)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    first, second = curve(300, 900), curve(900, 2600)
    made = np.zeros(len(time))
    for overtone in range(1, 30):
        at = overtone * pitch
        loud = sum(np.exp(-(((at - middle) / 150) ** 2)) for middle in (first, second)) + 0.02
        made += np.where(at < 0.45 * rate, loud * np.sin(overtone * phase), 0.0)
    made *= np.clip(np.minimum(time, seconds - time) / 0.03, 0, 1) * curve(0.4, 1.0)
    made += 0.002 * rng.standard_normal(len(time))
    return (0.5 * made / np.abs(made).max()).astype(np.float32)


def wav(wave: Wave, rate: int = RATE) -> bytes:
    return encode(wave, rate)


def file_of(wave: Wave, rate: int, format: str, **how: Any) -> bytes:
    """Any format that libsndfile writes."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=format, **how)
    return buffer.getvalue()


def sounds(files: Sequence[bytes | None], name: str = "audio:clip") -> pa.Table:
    return pa.table({name: media(files, [f"{at}.wav" for at in range(len(files))])})
