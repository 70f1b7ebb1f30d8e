"""Sound files as samples and back, by libsndfile (soundfile): WAV, FLAC, OGG, MP3; what is no sound is refused with a reason.

A file is read in blocks of a fixed size and mixed down as it is read, so that what it says of its own length, rate and
channels never decides how much memory it takes.
"""

from __future__ import annotations

import hashlib
import io
import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from augmill.tasks.errors import RefusedFile, UserError

Samples = npt.NDArray[np.float32]

SECONDS = 0.01, 120.0  # a sound lasts at least and at most
RATES = 4_000, 192_000  # samples a second
CHANNELS = 8
BYTES = 1 << 26  # 64 MiB: what a WAV of two minutes takes at 96 kHz, two channels, 24 bits
SILENCE = 0.001  # no sample above it (-60 dB of full scale): nothing that anyone would hear
CLIPPED = 0.999  # samples from here up count as clipped
FORMATS = {"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3"}
_BLOCK = 1 << 16  # frames: 2 MiB of 8 channels
_FINEST = 1000  # of a ratio of two rates: 44,101 to 16,000 Hz would else be filtered by 880,000 taps
# What writers put in a WAV file's header where they cannot go back to say how long it became: ffmpeg, sox, none.
_UNSAID = {0xFFFFFFFF, 0x7FFFF000, 0}
_WHOLE = {"PCM_16": (16, np.int16, 0), "PCM_24": (24, np.int32, 8)}  # bits, what holds them, by how many places higher

REMEDIES = {
    "no_audio": "fill the empty cells, or check that columns.inputs names the column of sounds",
    "empty": "record those files again: they hold no sample",
    "not_audio": "give WAV, FLAC, OGG or MP3 files, or check the column that names them",
    "truncated": "copy those files again: they end before their header says, or are damaged",
    "not_finite": "write those files again: some of their samples are no numbers",
    "too_short": f"remove those files: less than {SECONDS[0] * 1000:g} ms is no sound",
    "too_long": f"cut those files into pieces of at most {SECONDS[1]:g} s",
    "bad_rate": f"resample those files to a rate from {RATES[0]:,} to {RATES[1]:,} Hz",
    "too_many_channels": f"mix those files down to at most {CHANNELS} channels",
    "too_large": f"compress those files (FLAC, OGG) to at most {BYTES >> 20} MiB, or cut them",
    "silent": f"record those files again: no sample is above {SILENCE:g} of full scale (-60 dB)",
}


@dataclass(frozen=True)
class Sound:
    """A decoded file. ``mono``: the mean of its channels, (frames,); ``digest``: sha256 of rate, channels and samples.

    ``peak``: the greatest absolute sample of any channel; ``clipped``: the share of samples from ``CLIPPED`` up.
    """

    mono: Samples
    rate: int
    channels: int
    digest: bytes
    peak: float
    clipped: float


@dataclass(frozen=True)
class Track:
    """A file with all its channels: ``wave`` (frames, channels); ``digest`` as of ``Sound``.

    ``format`` and ``subtype``: as libsndfile has them.
    """

    wave: Samples
    rate: int
    digest: bytes
    format: str
    subtype: str


def soundfile() -> ModuleType:
    """The library. Raises UserError where it is not installed."""
    try:
        import soundfile as library
    except ImportError:
        raise UserError(
            "soundfile, the library that reads sounds, is not installed", fix="pip install 'augmill[sound]'"
        ) from None
    except OSError as error:  # its wheel has no libsndfile for this machine
        raise UserError(f"soundfile cannot load libsndfile: {error}", fix="install libsndfile") from None
    return library  # type: ignore[no-any-return]


def decode(data: bytes | None) -> Sound:
    """The samples of a file. Raises RefusedFile, and UserError where soundfile is not installed."""
    with opened(data) as file:
        _require_bounds(file)
        return _read(file, _whole_to(bytes(data or b"")))


def samples(data: bytes) -> tuple[Samples, int]:
    """(one channel, its rate in Hz); raises as ``decode``."""
    sound = decode(data)
    return sound.mono, sound.rate


def track(data: bytes) -> Track:
    """A file that ``decode`` takes, to be changed and written anew. Raises as that does."""
    sound = decode(data)  # within bounds, before all of it is held
    with opened(data) as file:
        wave = file.read(dtype="float32", always_2d=True)
        return Track(wave, sound.rate, sound.digest, file.format, file.subtype)


def opened(data: bytes | None) -> Any:
    """A ``soundfile.SoundFile`` of one of ``FORMATS``. Raises RefusedFile."""
    if data is None:
        raise RefusedFile("no_audio")
    if not data:
        raise RefusedFile("empty")
    if len(data) > BYTES:
        raise RefusedFile("too_large")
    library = soundfile()
    try:
        file = library.SoundFile(io.BytesIO(data))
    except (library.LibsndfileError, ValueError, RuntimeError):
        begun = data[:4] in (b"fLaC", b"OggS") or (data[:4] == b"RIFF" and data[8:12] == b"WAVE")
        raise RefusedFile("truncated" if begun else "not_audio") from None
    if file.format not in FORMATS:
        file.close()
        raise RefusedFile("not_audio")
    return file


def _require_bounds(file: Any) -> None:
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise RefusedFile("bad_rate")
    if file.channels > CHANNELS:
        raise RefusedFile("too_many_channels")


def _read(file: Any, whole: bool) -> Sound:
    """``whole``: whether the file ends where its own header says."""
    library, hashed = soundfile(), hashlib.sha256(struct.pack("<II", file.samplerate, file.channels))
    said, rate, most = file.frames, file.samplerate, int(SECONDS[1] * file.samplerate)
    mono, frames, peak, clipped = [], 0, 0.0, 0
    while True:
        try:
            block = file.read(_BLOCK, dtype="float32", always_2d=True)
        except (library.LibsndfileError, RuntimeError):
            raise RefusedFile("truncated") from None
        if not len(block):
            break
        loud = np.abs(block)
        peak = max(peak, float(loud.max()))
        if not np.isfinite(peak) or np.isnan(loud).any():
            raise RefusedFile("not_finite")
        frames, clipped = frames + len(block), clipped + int(np.count_nonzero(loud >= CLIPPED))
        if frames > most:
            raise RefusedFile("too_long")
        hashed.update(np.ascontiguousarray(block).data)
        mono.append(block.mean(axis=1, dtype=np.float32) if file.channels > 1 else block[:, 0])
    if not frames:
        raise RefusedFile("empty" if whole else "truncated")
    if not whole or (file.format in ("FLAC", "MP3") and frames < said):
        raise RefusedFile("truncated")
    if frames < SECONDS[0] * rate:
        raise RefusedFile("too_short")
    if peak < SILENCE:
        raise RefusedFile("silent")
    share = clipped / (frames * file.channels)
    return Sound(np.concatenate(mono), rate, file.channels, hashed.digest(), peak, share)


def _whole_to(data: bytes) -> bool:
    """Whether a WAV file has all that its header says, and an OGG file its last page. Of others the decoder knows."""
    if data[:4] == b"OggS":
        last = data.rfind(b"OggS")
        return len(data) > last + 26 and bool(data[last + 5] & 4) and _page_ends(data, last) == len(data)
    if data[:4] != b"RIFF":
        return True
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"data":
            return size in _UNSAID or at + 8 + size <= len(data)
        at += 8 + size + size % 2
    return False


def _page_ends(data: bytes, at: int) -> int:
    segments = data[at + 27 : at + 27 + data[at + 26]]
    return at + 27 + data[at + 26] + sum(segments)


def at_rate(mono: Samples, rate: int, wanted: int) -> Samples:
    """Resampled by a polyphase filter (scipy); as it is where the rates agree."""
    if rate == wanted:
        return mono
    from scipy.signal import resample_poly

    ratio = Fraction(wanted, rate).limit_denominator(_FINEST)
    up, down = ratio.numerator, ratio.denominator
    if up == down:  # within one in a thousand
        return mono
    made: Samples = resample_poly(mono, up, down, window=_lowpass(up, down)).astype(np.float32, copy=False)
    return made


@cache
def _lowpass(up: int, down: int) -> Samples:
    """The filter that ``resample_poly`` designs by itself, at every call: nine tenths of its time at short sounds."""
    from scipy.signal import firwin

    most = max(up, down)
    made: Samples = firwin(20 * most + 1, 1 / most, window=("kaiser", 5.0)).astype(np.float32)
    return made


def encode(sound: Samples, rate: int, format: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """A file of samples, (frames,) or (frames, channels), cut to -1..1. The same samples are the same bytes.

    ``format``: WAV, FLAC or MP3. Not OGG, whose streams libsndfile numbers by the clock, nor WAV's FLOAT and DOUBLE, in
    which it writes the time of day. Raises ValueError for those.
    """
    if format == "OGG" or subtype in ("FLOAT", "DOUBLE"):
        raise ValueError(f"{format} of {subtype} holds the time at which it was written")
    values: npt.NDArray[Any] = np.clip(sound, -1.0, 1.0)
    if subtype in _WHOLE:  # libsndfile would round for WAV as it does not for FLAC, and not back to what it read
        depth, kind, shift = _WHOLE[subtype]
        most = 2.0 ** (depth - 1)
        values = np.minimum(np.round(values * np.float64(most)), most - 1).astype(kind) << shift
    buffer = io.BytesIO()
    soundfile().write(buffer, values, rate, format=format, subtype=subtype)
    return buffer.getvalue()
