"""Spectra over time, in numpy: short-time Fourier transforms, mel filters, and back.

One sound at a time, so that its numbers never hang on what lies beside it. Mel scale: O'Shaughnessy, "Speech
Communication" (1987), as HTK has it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from augmill.tasks.rows.kinds.audio.decode import Samples, at_rate

RATE = 16_000  # Hz, of what features and planes are made of
WINDOW = 512  # samples: 32 ms, and as many points of the transform
HOP = 160  # samples: 10 ms
MELS = 64
DEPTH = 8.0  # natural logarithms (35 dB) below the loudest cell, where quiet ends: what is below is the room's noise
_LOWEST = 60.0  # Hz


@cache
def hann(window: int) -> Samples:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)


def stft(mono: Samples, window: int, hop: int) -> npt.NDArray[np.complex64]:
    """(frames, window / 2 + 1); frame i is centred on sample i * hop, beyond the ends there is silence."""
    padded = np.pad(mono, window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    return np.fft.rfft(frames * hann(window), axis=1).astype(np.complex64)


def istft(spectrum: npt.NDArray[np.complex64], window: int, hop: int, length: int) -> Samples:
    """The samples of what ``stft`` gives, the least-squares ones where it was changed (Griffin and Lim 1984).

    ``hop`` divides ``window``.
    """
    parts, count = window // hop, len(spectrum)
    frames = np.fft.irfft(spectrum, window, axis=1).astype(np.float32) * hann(window)
    made: Samples = np.zeros((count + parts - 1, hop), np.float32)
    weights = np.zeros_like(made)
    square = np.square(hann(window)).reshape(parts, hop)
    for part in range(parts):
        made[part : part + count] += frames[:, part * hop : (part + 1) * hop]
        weights[part : part + count] += square[part]
    made /= np.maximum(weights, 1e-6)
    found = made.ravel()[window // 2 :][:length]
    return np.pad(found, (0, length - len(found)))


@cache
def mel_filters(mels: int, window: int, rate: int, low: float, high: float) -> Samples:
    """(window / 2 + 1, mels): triangles evenly spaced in mel, each with weights that add up to 1."""

    def mel(hertz: npt.NDArray[np.float64] | float) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = 2595.0 * np.log10(1.0 + np.asarray(hertz) / 700.0)
        return found

    edges = np.linspace(mel(low), mel(high), mels + 2)
    at = mel(np.arange(window // 2 + 1) * rate / window)[:, None]
    rise = (at - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - at) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0.0, np.minimum(rise, fall))
    narrow = weights.sum(axis=0) == 0  # narrower than a step of the transform: the step nearest to its middle
    weights[np.abs(at - edges[1:-1]).argmin(axis=0)[narrow], np.flatnonzero(narrow)] = 1.0
    made: Samples = (weights / weights.sum(axis=0)).astype(np.float32)
    return made


def log_mel(mono: Samples, rate: int, mels: int = MELS) -> Samples:
    """(frames, mels) at ``RATE``, natural logarithms of power, from -``DEPTH`` to 0 at the loudest cell: without loudness."""
    power = np.abs(stft(at_rate(mono, rate, RATE), WINDOW, HOP)) ** 2
    return below_loudest(power @ mel_filters(mels, WINDOW, RATE, _LOWEST, RATE / 2), DEPTH)


def below_loudest(power: Samples, depth: float) -> Samples:
    """Logarithms of power against the loudest cell, no lower than -``depth``."""
    found = np.log(np.maximum(power, power.max() * np.exp(-depth) + 1e-20))
    made: Samples = (found - found.max()).astype(np.float32)
    return made
