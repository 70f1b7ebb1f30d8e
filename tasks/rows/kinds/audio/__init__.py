"""Sound files: WAV, FLAC, OGG, MP3."""

from augmill.tasks.rows.kinds.audio.decode import Samples, Sound, Track, at_rate, decode, encode, samples, track
from augmill.tasks.rows.kinds.audio.kind import Audio
from augmill.tasks.rows.kinds.audio.melspectrogram import istft, stft

__all__ = [
    "Audio",
    "Samples",
    "Sound",
    "Track",
    "at_rate",
    "decode",
    "encode",
    "istft",
    "samples",
    "stft",
    "track",
]
