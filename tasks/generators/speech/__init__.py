"""Text to sound: labels and transcripts that are spoken, by the system's espeak-ng or by a model."""

from augmill.tasks.generators.speech.generator import Speech
from augmill.tasks.generators.speech.options import SpeechOptions

__all__ = ["Speech", "SpeechOptions"]
