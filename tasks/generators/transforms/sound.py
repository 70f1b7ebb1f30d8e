"""Sound: what is drawn for each row from its own seed, and how it is done, one file at a time, in numpy and scipy.

Not by audiomentations: of what a recipe wants only gain and shift are functions of parameters that could be given to it,
a line of numpy each. Its noises come from numpy's global random numbers, its rooms need a simulator, its stretching other
libraries, and with librosa and numba it brings 12 packages more (docs/measured.md has its speed).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from augmill.tasks.contracts import Ints
from augmill.tasks.errors import RefusedFile, UserError
from augmill.tasks.generators.transforms.options import TransformsOptions
from augmill.tasks.rows.kinds.audio import Track, at_rate, decode, encode, istft, samples, stft, track
from augmill.tasks.rows.names import nearest
from augmill.tasks.rows.randomness import uniforms

Wave = npt.NDArray[np.float32]  # (frames, channels)

# What a policy does: of each transformation its chance, and the most of it. Speed and pitch as a share faster or higher,
# or the other way; shift and the two masks as a share of a sound's length or of its bands; noise and background as a share
# of its level (0.1 is 20 dB below it); room in seconds until an echo has fallen by 60 dB; gain in dB.
Amounts = dict[str, tuple[float, float]]
POLICIES: dict[str, Amounts] = {
    "light": {
        "speed": (0.8, 0.12),
        "pitch": (0.5, 0.12),
        "shift": (0.5, 0.06),
        "room": (0.2, 0.15),
        "time_mask": (0.1, 0.08),
        "frequency_mask": (0.2, 0.1),
        "noise": (0.6, 0.1),
        "background": (0.6, 0.1),
        "gain": (0.5, 6.0),
    },
    "strong": {
        "speed": (0.8, 0.25),
        "pitch": (0.6, 0.25),
        "shift": (0.5, 0.12),
        "room": (0.4, 0.4),
        "time_mask": (0.3, 0.15),
        "frequency_mask": (0.4, 0.2),
        "noise": (0.8, 0.3),
        "background": (0.8, 0.3),
        "gain": (0.5, 12.0),
    },
}
NAMES = tuple(POLICIES["light"])  # in the order in which they are done
PICKED = {"trivial": 1, "rand": 2}  # how many each row gets, of the strong policy's amounts
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
BOUNDS = {"speed": 0.5, "pitch": 0.5, "shift": 0.5, "time_mask": 0.5, "frequency_mask": 0.5, "room": 5.0, "gain": 60.0}
_WINDOW = 0.032  # seconds, of the transforms for masks and pitch


def require(options: TransformsOptions) -> None:
    """Raises UserError where soundfile is missing, an amount names no transformation of sound or is too large, or

    ``noise_files`` has no sound.
    """
    if importlib.util.find_spec("soundfile") is None:
        problem = "sounds are read and written by soundfile, which cannot be imported"
        raise UserError(problem, where="transforms", fix="pip install 'augmill[sound]'")
    for name, most in options.amounts.items():
        if name not in NAMES:
            raise UserError(
                f"amounts: {nearest(name, NAMES)}", where="transforms", fix=f"use some of {', '.join(NAMES)}"
            )
        if most > BOUNDS.get(name, 10.0):
            raise UserError(f"amounts.{name}: at most {BOUNDS.get(name, 10.0):g}, found {most:g}", where="transforms")
    if options.noise_files is not None and not noise_paths(options.noise_files):
        problem = f"noise_files: there is no file with a name in {', '.join(SUFFIXES)} in {options.noise_files}"
        raise UserError(problem, where="transforms", fix="name a directory of recordings of noise")


def noise_paths(directory: str) -> list[Path]:
    return sorted(path for path in Path(directory).rglob("*") if path.suffix.lower() in SUFFIXES)


class Sounds:
    """``Medium`` of sound."""

    def __init__(self, options: TransformsOptions) -> None:
        require(options)
        self.options = options
        self.chances, self.most = _amounts(options)
        self.noises = noise_paths(options.noise_files) if options.noise_files is not None else []
        if not self.noises:
            self.most[NAMES.index("background")] = 0.0

    def transform(self, files: Sequence[Sequence[bytes]], seeds: Ints, attempt: int) -> list[list[bytes] | None]:
        numbers = uniforms(seeds, 3 * len(NAMES), stream=101 + attempt)  # pictures of the same row draw others
        found: list[list[bytes] | None] = []
        for row, seed, own in zip(files, seeds.tolist(), numbers, strict=True):
            drawn = self._draw(own)
            made = [self._transformed(file, drawn, (seed, attempt)) for file in row]
            changed = any(file is not None for file in made)
            found.append([new or was for new, was in zip(made, row, strict=True)] if changed else None)
        return found

    def _draw(self, numbers: npt.NDArray[np.float64]) -> dict[str, tuple[float, float]]:
        """By name, of those that the row gets: how much, from -most to most, and where, from 0 to 1."""
        gates, levels, places = numbers.reshape(3, len(NAMES))
        if self.options.policy in PICKED:
            order = np.argsort(np.where(self.most > 0, gates, 2.0), kind="stable")
            picked = [place for place in order[: PICKED[self.options.policy]].tolist() if self.most[place] > 0]
        else:
            picked = np.flatnonzero((gates < self.chances) & (self.most > 0)).tolist()
        signed = 2 * levels - 1
        if self.options.policy == "rand":
            signed = np.where(signed < 0, -1.0, 1.0)
        return {NAMES[at]: (float(signed[at] * self.most[at]), float(places[at])) for at in sorted(picked)}

    def _transformed(self, file: bytes, drawn: dict[str, tuple[float, float]], key: tuple[int, int]) -> bytes | None:
        """None where it would equal its parent, is no sound, or is none any more."""
        try:
            parent = track(file)
            made = _written(self._changed(parent.wave, parent.rate, drawn, key), parent)
            return made if decode(made).digest != parent.digest else None
        except RefusedFile:
            return None

    def changed(self, sounds: Sequence[tuple[Wave, int]], seeds: Ints) -> list[Wave]:
        """Samples alone, (samples, rate) of one channel each, as rows with these seeds would get them."""
        numbers = uniforms(seeds, 3 * len(NAMES), stream=101)
        return [
            self._changed(mono[:, None], rate, self._draw(own), (seed, 0))[:, 0]
            for (mono, rate), own, seed in zip(sounds, numbers, seeds.tolist(), strict=True)
        ]

    def _changed(self, wave: Wave, rate: int, drawn: dict[str, tuple[float, float]], key: tuple[int, int]) -> Wave:
        loudest = max(1.0, float(np.abs(wave).max()))
        random = np.random.Generator(np.random.Philox(key=np.array(key, np.int64).view(np.uint64)))
        for name, (amount, place) in drawn.items():
            done = _Drawn(amount, place, rate, random)
            wave = self._background(wave, done) if name == "background" else _DONE[name](wave, done)
        return wave * np.float32(loudest / max(loudest, float(np.abs(wave).max())))  # never clipped anew

    def _background(self, wave: Wave, drawn: _Drawn) -> Wave:
        """A stretch of one of the user's recordings, repeated where it is shorter."""
        noise = _noise(self.noises[int(drawn.place * len(self.noises))], drawn.rate)
        start = int(drawn.random.integers(len(noise)))
        part = np.resize(np.roll(noise, -start), len(wave))
        return _added(wave, part[:, None], abs(drawn.amount))


class _Drawn(NamedTuple):
    amount: float
    place: float
    rate: int
    random: np.random.Generator


def _amounts(options: TransformsOptions) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(chance, most) of each of NAMES."""
    policy = POLICIES["light" if options.policy == "light" else "strong"]
    chances = np.array([policy[name][0] if options.amounts.get(name, 1.0) else 0.0 for name in NAMES])
    most = np.array(
        [options.amounts.get(name, min(BOUNDS.get(name, 10.0), policy[name][1] * options.strength)) for name in NAMES]
    )
    return chances, most


def _written(wave: Wave, parent: Track) -> bytes:
    """As WAV where the parent is, with its depth where that is whole numbers; else as FLAC: nothing is lost twice."""
    if parent.format not in ("WAV", "WAVEX", "RF64"):
        return encode(wave, parent.rate, "FLAC", "PCM_24" if parent.subtype == "PCM_24" else "PCM_16")
    return encode(wave, parent.rate, "WAV", "PCM_24" if parent.subtype in ("FLOAT", "DOUBLE") else parent.subtype)


@lru_cache(maxsize=32)
def _noise(path: Path, rate: int) -> Wave:
    """Raises UserError where it is no sound."""
    try:
        mono, own = samples(path.read_bytes())
    except RefusedFile as refused:
        problem = f"noise_files: {path.name} cannot be used: {refused.reason}"
        raise UserError(problem, where="transforms", fix="remove it, or record it again") from None
    return at_rate(mono, own, rate)


# --- What is done: each a function of the sound and what was drawn ------------------------------------------------------


def _faster(wave: Wave, drawn: _Drawn) -> Wave:
    """Resampled, so that pitch moves with it, in whole percent."""
    made = at_rate(wave, round(100 * (1 + drawn.amount)), 100)
    return made if len(made) >= 0.02 * drawn.rate else wave


def _higher(wave: Wave, drawn: _Drawn) -> Wave:
    """Stretched by a phase vocoder (Flanagan and Golden 1966), then resampled to the length it had; in whole percent."""
    percent = round(100 * (1 + drawn.amount))
    if percent == 100:
        return wave
    window, hop = _window(drawn.rate)
    columns = []
    for channel in wave.T:
        longer = _stretched(channel, percent / 100, window, hop)
        made = at_rate(longer, percent, 100)
        columns.append(np.pad(made, (0, max(0, len(wave) - len(made))))[: len(wave)])
    return np.stack(columns, axis=1)


def _stretched(mono: Wave, factor: float, window: int, hop: int) -> Wave:
    spectrum = stft(mono, window, hop)
    spectrum = np.vstack([spectrum, spectrum[-1:]])
    steps = np.arange(0, len(spectrum) - 1, 1 / factor)
    first = np.minimum(steps.astype(int), len(spectrum) - 2)  # the last of them may be an end that rounding left in
    share = (steps - first)[:, None]
    size = (1 - share) * np.abs(spectrum[first]) + share * np.abs(spectrum[first + 1])
    turn = 2 * np.pi * hop * np.arange(spectrum.shape[1]) / window
    phase = np.angle(spectrum)
    apart = phase[first + 1] - phase[first] - turn
    apart += turn - 2 * np.pi * np.round(apart / (2 * np.pi))
    angles = phase[:1] + np.vstack([np.zeros_like(turn)[None], np.cumsum(apart, axis=0)[:-1]])
    angles -= 2 * np.pi * np.round(angles / (2 * np.pi))
    turned = np.empty(angles.shape, np.complex64)  # by parts in float32, which takes a third of the time
    turned.real, turned.imag = size * np.cos(angles.astype(np.float32)), size * np.sin(angles.astype(np.float32))
    return istft(turned, window, hop, round(len(mono) * factor))


def _shifted(wave: Wave, drawn: _Drawn) -> Wave:
    """Later or earlier; what it leaves is silence."""
    by, made = round(drawn.amount * len(wave)), np.zeros_like(wave)
    made[max(0, by) : len(wave) + min(0, by)] = wave[max(0, -by) : len(wave) - max(0, by)]
    return made


def _in_a_room(wave: Wave, drawn: _Drawn) -> Wave:
    """Echoes that fall off evenly (Moorer 1979): the sound, and noise that decays by 60 dB over the drawn time."""
    from scipy.signal import fftconvolve

    echo = max(1, int(abs(drawn.amount) * drawn.rate))
    time = np.arange(echo) / echo
    tail = drawn.random.standard_normal(echo) * 10 ** (-3 * time)
    tail *= (0.2 + 0.6 * drawn.place) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    made = fftconvolve(wave, tail[:, None], axes=0)[: len(wave)]
    level = np.sqrt(np.mean(np.square(wave)) / (np.mean(np.square(made)) + 1e-12))
    changed: Wave = (made * level).astype(np.float32)
    return changed


def _with_noise(wave: Wave, drawn: _Drawn) -> Wave:
    """White, or pink (its power falls by 3 dB an octave)."""
    noise = drawn.random.standard_normal(wave.shape)
    if drawn.place < 0.5:
        spectrum = np.fft.rfft(noise, axis=0)
        noise = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1))[:, None], len(noise), axis=0)
    return _added(wave, noise, abs(drawn.amount))


def _added(wave: Wave, noise: npt.NDArray[np.floating], share: float) -> Wave:
    """``share``: of the sound's level, that the noise has."""
    level = np.sqrt(np.mean(np.square(wave, dtype=np.float64)) / (np.mean(np.square(noise, dtype=np.float64)) + 1e-12))
    made: Wave = (wave + share * level * noise).astype(np.float32)
    return made


def _without_a_time(wave: Wave, drawn: _Drawn) -> Wave:
    """A stretch of silence (SpecAugment, Park et al. 2019), faded so that it does not click."""
    size = round(abs(drawn.amount) * len(wave))
    start = int(drawn.place * (len(wave) - size))
    fade = max(1, min(size // 4, round(0.005 * drawn.rate)))
    slope = np.clip(np.minimum(np.arange(size) + 1, size - np.arange(size)) / fade, 0, 1)
    made = wave.copy()
    made[start : start + size] *= (1 - slope[:, None]).astype(np.float32)
    return made


def _without_a_band(wave: Wave, drawn: _Drawn) -> Wave:
    """Some neighbouring bands of a log-frequency scale, from 100 Hz up, are silent."""
    window, hop = _window(drawn.rate)
    span = np.log(drawn.rate / 200)
    low = 100 * np.exp(drawn.place * (1 - abs(drawn.amount)) * span)
    high = low * np.exp(abs(drawn.amount) * span)
    at = np.arange(window // 2 + 1) * drawn.rate / window
    kept = ((at < low) | (at >= high)).astype(np.float32)
    return np.stack([istft(stft(each, window, hop) * kept, window, hop, len(wave)) for each in wave.T], axis=1)


def _louder(wave: Wave, drawn: _Drawn) -> Wave:
    return wave * np.float32(10 ** (drawn.amount / 20))


def _window(rate: int) -> tuple[int, int]:
    """(window, hop) in samples."""
    hop = round(_WINDOW * rate / 4)
    return 4 * hop, hop


_DONE: dict[str, Callable[[Wave, _Drawn], Wave]] = {
    "speed": _faster,
    "pitch": _higher,
    "shift": _shifted,
    "room": _in_a_room,
    "time_mask": _without_a_time,
    "frequency_mask": _without_a_band,
    "noise": _with_noise,
    "gain": _louder,
}
