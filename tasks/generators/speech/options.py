"""What a recipe says of ``speech``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

WORDS_A_MINUTE = 80, 450  # what espeak-ng takes


@dataclass(frozen=True)
class SpeechOptions:
    """What is said, and by which voices."""

    engine: Literal["espeak", "model"] = field(
        default="espeak",
        metadata={
            "help": "`espeak`: the system's espeak-ng, where it is installed; `model`: the one that `model` names"
        },
    )
    say: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "how labels are said, such as `{7: seven}`; others are said as they are written, with spaces for `_`"
        },
    )
    texts: str | None = field(
        default=None,
        metadata={
            "file": True,
            "help": "for transcription: a file of new texts, one a line, which become the transcripts of made rows",
        },
    )
    new: float = field(
        default=0.5,
        metadata={"help": "share of the made rows that say a line of `texts`; others what a train row says"},
    )
    # --- espeak alone
    language: str = field(default="en", metadata={"help": "whose voices speak: `en`, `en-us`, `de`, ..."})
    voices: tuple[str, ...] = field(
        default=(),
        metadata={"help": "voices by name, such as `en-us+f3`; none: all of the language, each in 13 variants"},
    )
    rate: tuple[int, int] = field(
        default=(120, 220), metadata={"help": "slowest and fastest, in words a minute; each row draws one between"}
    )
    pitch: tuple[int, int] = field(
        default=(20, 80), metadata={"help": "lowest and highest pitch, 0 to 99; each row draws one between"}
    )
    # --- model alone
    model: str | None = field(
        default=None,
        metadata={
            "file": True,
            "hub": True,
            "help": "a text-to-waveform model of transformers (VITS, MMS): a local directory, or a hub id (with its "
            "revision)",
        },
    )
    revision: str = field(default="", metadata={"help": "40-digit commit of `model`; needed for hub ids"})
    trust_remote_code: bool = field(default=False, metadata={"help": "runs code that comes with a model"})
    allow_pickle: bool = field(
        default=False, metadata={"help": "reads weights from pickle files if there are no safetensors"}
    )

    def __post_init__(self) -> None:
        low, high = WORDS_A_MINUTE
        bounds = [
            ("new", 0 <= self.new <= 1, "0 to 1"),
            ("rate", low <= self.rate[0] <= self.rate[1] <= high, f"two numbers from {low} to {high}, the lower first"),
            ("pitch", 0 <= self.pitch[0] <= self.pitch[1] <= 99, "two numbers from 0 to 99, the lower first"),
            ("say", all(text.strip() for text in self.say.values()), "a text for every label"),
            ("language", bool(self.language.strip()), "a language's code"),
        ]
        for name, holds, expected in bounds:
            if not holds:
                raise ValueError(f"{name}: expected {expected}; found {getattr(self, name)!r}")
        if (self.engine == "model") != (self.model is not None):
            raise ValueError("model: expected with `engine: model`, and with that alone")
