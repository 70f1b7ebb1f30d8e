"""What is known of a file once it was decoded: what tells equal and near ones, and what a profile counts.

Kept for the files heard last, since ingest, split, checks and settle ask for the same ones one after the other.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.errors import RefusedFile
from augmill.tasks.rows.kinds.audio.decode import Samples, Sound, at_rate, decode
from augmill.tasks.rows.kinds.audio.melspectrogram import below_loudest, stft
from augmill.tasks.rows.kinds.media import files_of

# Narrow bands, in which a voice's single harmonics stand: by them takes of one word by one speaker differ (median cosine
# 0.69 on FSDD, 0.94 at most), and a compressed, resampled, cut or noisy twin hardly does (0.98 and more). With mel bands
# of usual width takes reach 0.99.
RATE = 8_000  # Hz: telephones have no more
WINDOW, HOP = 512, 64  # samples: 64 ms and 8 ms
LOW, BANDS, BINS = 6, 92, 2  # from 94 Hz on 92 bands of two bins each, to 2,970 Hz
DEPTH = 7.0  # natural logarithms (30 dB) below the loudest cell: what is below is noise at a ratio of 30 dB
SECONDS = 10.0  # of a longer sound the middle
SEGMENTS, GROUPED = 4, 2  # of the sketch: parts in time, bands taken together
SKETCH = SEGMENTS * (BANDS // GROUPED - 1)
KEPT = 1 << 26  # 64 MiB of spectra: 20,000 sounds of half a second
_FRAME = 0.02  # seconds, of what is looked at for silence
_QUIET = 0.01  # of the loudest frame's level: 40 dB below it

Codes = npt.NDArray[np.uint8]
Sketched = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Print:
    """What a sound is found again by. ``equal``: what equal ones share; ``spectrum``: (frames, ``BANDS``), 0 to 255;

    ``sketch``: (``SKETCH``,), the spectrum's outline. A file that is no sound has no frames.
    """

    equal: bytes
    seconds: float
    spectrum: Codes
    sketch: Sketched


@dataclass(frozen=True)
class Heard:
    """``level``: dB of full scale, of all samples; ``silence``: share of 20 ms frames 40 dB below the loudest one.

    ``clipped``: share of samples.
    """

    print: Print
    rate: int
    channels: int
    level: float
    silence: float
    clipped: float


class _Memory:
    """Files heard last, by their hash, as far as ``KEPT`` goes."""

    def __init__(self) -> None:
        self.files: OrderedDict[bytes, Heard] = OrderedDict()
        self.bytes = 0

    def hear(self, data: bytes | None) -> Heard:
        key = hashlib.sha256(data or b"").digest()
        found = self.files.get(key)
        if found is None:
            found = self.files[key] = _hear(data, key)
            self.bytes += found.print.spectrum.nbytes + 1000
            while self.bytes > KEPT and len(self.files) > 1:
                self.bytes -= self.files.popitem(last=False)[1].print.spectrum.nbytes + 1000
        return found


_MEMORY = _Memory()


def heard(columns: pa.Table) -> list[list[Heard]]:
    """Of each field the files of all rows."""
    return [[_MEMORY.hear(data) for data in files_of(column)] for column in columns.columns]


def prints(columns: pa.Table) -> list[list[Print]]:
    return [[each.print for each in field] for field in heard(columns)]


def _hear(data: bytes | None, key: bytes) -> Heard:
    try:
        sound = decode(data)
    except RefusedFile:  # made rows may hold anything; they are equal to their copies, and near to nothing
        nothing = Print(b"file " + key, 0.0, np.zeros((0, BANDS), np.uint8), np.zeros(SKETCH, np.int8))
        return Heard(nothing, 0, 0, -120.0, 1.0, 0.0)
    level = 10 * np.log10(np.mean(np.square(sound.mono), dtype=np.float64) + 1e-12)
    spectrum = _spectrum(sound)
    found = Print(b"sound" + sound.digest, len(sound.mono) / sound.rate, spectrum, _sketch(spectrum))
    return Heard(found, sound.rate, sound.channels, float(level), _silence(sound), sound.clipped)


def _silence(sound: Sound) -> float:
    frame = max(1, int(_FRAME * sound.rate))
    whole = len(sound.mono) // frame * frame
    if not whole:
        return 0.0
    levels = np.sqrt(np.mean(np.square(sound.mono[:whole].reshape(-1, frame)), axis=1))
    return float(np.mean(levels < _QUIET * levels.max()))


def _spectrum(sound: Sound) -> Codes:
    most = int(SECONDS * sound.rate)
    start = max(0, (len(sound.mono) - most) // 2)
    mono = at_rate(sound.mono[start : start + most], sound.rate, RATE)
    power: Samples = np.square(np.abs(stft(mono, WINDOW, HOP)))
    bands = power[:, LOW : LOW + BANDS * BINS].reshape(len(power), BANDS, BINS).mean(axis=2)
    return np.round((below_loudest(bands, DEPTH) / DEPTH + 1) * 255).astype(np.uint8)


@cache
def _segments(frames: int) -> npt.NDArray[np.float64]:
    """(segments, frames): weights of overlapping triangles, which a cut of a few percent moves little."""
    middles = (np.arange(SEGMENTS)[:, None] + 0.5) * frames / SEGMENTS
    weights = np.maximum(0.0, 1 - np.abs(np.arange(frames) + 0.5 - middles) / (1.5 * frames / SEGMENTS))
    found: npt.NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return found


def _sketch(spectrum: Codes) -> Sketched:
    """Differences of neighbouring bands, so that what all voices share falls away: other sounds' cosines lie around 0."""
    bands = spectrum.reshape(len(spectrum), BANDS // GROUPED, GROUPED).mean(axis=2)
    steps = np.diff(_segments(len(spectrum)) @ bands, axis=1)
    steps -= steps.mean()
    most = np.abs(steps).max()
    made: Sketched = np.round(steps.ravel() * (127 / most if most else 0.0)).astype(np.int8)
    return made
