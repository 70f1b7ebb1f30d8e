"""Sound files: WAV, FLAC, OGG, MP3."""

from augmill.tasks.rows.kinds.audio.decode import RefusedSound, Sound, decode, encode, samples
from augmill.tasks.rows.kinds.audio.kind import Audio
from augmill.tasks.rows.kinds.audio.melspectrogram import istft, stft

__all__ = ["Audio", "RefusedSound", "Sound", "decode", "encode", "istft", "samples", "stft"]
