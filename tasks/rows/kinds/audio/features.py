"""Sounds as numbers: cepstra over time for regressions, pictures of log-mel spectra for networks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import Featurizer
from augmill.tasks.errors import RefusedFile
from augmill.tasks.rows.kinds.audio.decode import Samples, decode
from augmill.tasks.rows.kinds.audio.melspectrogram import DEPTH, MELS, log_mel
from augmill.tasks.rows.kinds.media import files_of

PLACES, CEPSTRA = 8, 20  # in time, and how many coefficients at each
HEARD = 6.0  # natural logarithms (26 dB) below the loudest cell: before the first frame above it, and after the last, is rest
_LEAST = 1e-3  # of a standard deviation: a feature that hardly differs over the train rows says nothing


class SoundFeatures(Featurizer):
    """Mel cepstra (Davis and Mermelstein 1980) at eight places of what is heard of a sound, and the logarithm of its seconds;

    standardised by the train rows.
    """

    def __init__(self, train: pa.Table) -> None:
        found = _numbers(train).astype(np.float64)
        self.middle = found.mean(axis=0) if len(found) else np.zeros(found.shape[1])
        self.spread = found.std(axis=0) if len(found) else np.ones(found.shape[1])
        self.spread[self.spread < _LEAST] = 1.0

    def transform(self, columns: pa.Table) -> npt.NDArray[np.float32]:
        made: npt.NDArray[np.float32] = ((_numbers(columns) - self.middle) / self.spread).astype(np.float32)
        return made


def spectra(column: pa.ChunkedArray) -> Iterator[tuple[Samples, float]]:
    """(log-mel spectrum of what is heard, seconds) of each sound; of a file that is none, one frame of nothing."""
    for data in files_of(column):
        try:
            sound = decode(data)
            spectrum = log_mel(sound.mono, sound.rate)
            loud = np.flatnonzero(spectrum.max(axis=1) > -HEARD)
            yield spectrum[loud[0] : loud[-1] + 1], len(sound.mono) / sound.rate
        except RefusedFile:
            yield np.full((1, MELS), -DEPTH, np.float32), 0.0


def planes(columns: pa.Table, side: int) -> npt.NDArray[np.float32]:
    """(rows, fields, side, side), 0 to 1: log-mel spectra, low bands first, of what is heard, resized."""
    made = np.zeros((columns.num_rows, columns.num_columns, side, side), np.float32)
    for channel, column in enumerate(columns.columns):
        for row, (spectrum, _) in enumerate(spectra(column)):
            over_time = _averages(len(spectrum), side) @ spectrum
            made[row, channel] = (over_time @ _averages(MELS, side).T).T / DEPTH + 1
    return np.clip(made, 0.0, 1.0)


def _averages(size: int, wanted: int) -> Samples:
    """(wanted, size): weights of a resizing to other lengths, by areas, or by lines between points where it grows."""
    scale = size / wanted
    reach = max(1.0, scale)
    middles = (np.arange(wanted)[:, None] + 0.5) * scale
    weights = np.maximum(0.0, 1 - np.abs(np.arange(size) + 0.5 - middles) / reach)
    made: Samples = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return made


def _numbers(columns: pa.Table) -> npt.NDArray[np.float32]:
    width = PLACES * CEPSTRA + 1
    made = np.zeros((columns.num_rows, columns.num_columns * width), np.float32)
    for at, column in enumerate(columns.columns):
        for row, (spectrum, seconds) in enumerate(spectra(column)):
            cepstra = _averages(len(spectrum), PLACES) @ spectrum @ _cosines()
            made[row, at * width : (at + 1) * width] = [*cepstra.ravel(), np.log(seconds + 0.01)]
    return made


@cache
def _cosines() -> Samples:
    """(bands, cepstra): the first of a cosine transform, orthonormal."""
    turns = np.pi * (np.arange(MELS)[:, None] + 0.5) * np.arange(CEPSTRA) / MELS
    made: Samples = (np.cos(turns) * np.where(np.arange(CEPSTRA), np.sqrt(2 / MELS), np.sqrt(1 / MELS))).astype(
        np.float32
    )
    return made
