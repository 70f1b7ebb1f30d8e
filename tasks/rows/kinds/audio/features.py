"""Sounds as numbers: statistics of log-mel spectra for regressions, pictures of them for networks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import Featurizer
from augmill.tasks.rows.kinds.audio.decode import RefusedSound, Samples, decode
from augmill.tasks.rows.kinds.audio.melspectrogram import DEPTH, MELS, log_mel
from augmill.tasks.rows.kinds.media import files_of

THIRDS = 3  # parts of a sound in time
_LEAST = 1e-3  # of a standard deviation: a feature that hardly differs over the train rows says nothing


class SoundFeatures(Featurizer):
    """Of each third of a sound's log-mel spectrum mean, standard deviation and mean step over time of every band, and the

    logarithm of its seconds; standardised by the train rows.
    """

    def __init__(self, train: pa.Table) -> None:
        found = _statistics(train).astype(np.float64)
        self.middle = found.mean(axis=0) if len(found) else np.zeros(found.shape[1])
        self.spread = found.std(axis=0) if len(found) else np.ones(found.shape[1])
        self.spread[self.spread < _LEAST] = 1.0

    def transform(self, columns: pa.Table) -> npt.NDArray[np.float32]:
        made: npt.NDArray[np.float32] = ((_statistics(columns) - self.middle) / self.spread).astype(np.float32)
        return made


def spectra(column: pa.ChunkedArray) -> Iterator[tuple[Samples, float]]:
    """(log-mel spectrum, seconds) of each sound; of a file that is none, one frame of nothing."""
    for data in files_of(column):
        try:
            sound = decode(data)
            yield log_mel(sound.mono, sound.rate), len(sound.mono) / sound.rate
        except RefusedSound:
            yield np.full((1, MELS), -DEPTH, np.float32), 0.0


def planes(columns: pa.Table, side: int) -> npt.NDArray[np.float32]:
    """(rows, fields, side, side), 0 to 1: log-mel spectra, low bands first, each resized to its whole length."""
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


def _statistics(columns: pa.Table) -> npt.NDArray[np.float32]:
    width = THIRDS * 3 * MELS + 1
    made = np.zeros((columns.num_rows, columns.num_columns * width), np.float32)
    for at, column in enumerate(columns.columns):
        for row, (spectrum, seconds) in enumerate(spectra(column)):
            made[row, at * width : (at + 1) * width] = _of_one(spectrum, seconds)
    return made


def _of_one(spectrum: Samples, seconds: float) -> Samples:
    edges = np.linspace(0, len(spectrum), THIRDS + 1).astype(int)
    found = []
    for start, stop in pairwise(edges):
        part = spectrum[min(start, len(spectrum) - 1) : max(stop, start + 1)]
        steps = np.abs(np.diff(part, axis=0)).mean(axis=0) if len(part) > 1 else np.zeros(MELS, np.float32)
        found += [part.mean(axis=0), part.std(axis=0), steps]
    return np.concatenate([*found, [np.float32(np.log(seconds + 0.01))]]).astype(np.float32)
