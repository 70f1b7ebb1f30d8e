"""What a recipe says of ``transforms``: pictures' options, then sound's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Policy = Literal["light", "strong", "trivial", "rand"]
Flip = Literal["none", "horizontal", "vertical", "both"]


@dataclass(frozen=True)
class TransformsOptions:
    """How far a made picture or sound may differ from its parent."""

    policy: Policy = field(
        default="light",
        metadata={
            "help": "`light` and `strong`: each transformation by its own chance, small or large; `trivial`: one, of any "
            "strength (TrivialAugment); `rand`: two, of the same strength (RandAugment)"
        },
    )
    strength: float = field(
        default=1.0, metadata={"help": "what the policy's amounts are multiplied by: 0.5 is half as far, 2 twice"}
    )
    amounts: dict[str, float] = field(
        default_factory=dict,
        metadata={
            "help": "the most of single transformations, by name, in place of the policy's; 0 leaves one out, such as "
            "`{rotate: 30, hue: 0}`"
        },
    )
    # --- Pictures alone
    flip: Flip = field(
        default="none",
        metadata={
            "help": "mirror half of the pictures; only where a mirrored one is of the same class, which letters, digits "
            "and signs are not"
        },
    )
    format: Literal["as_parent", "png", "jpeg"] = field(
        default="as_parent",
        metadata={
            "help": "how pictures are written: as their parent is (JPEG at quality 95, all else as PNG), or all alike"
        },
    )
    # --- Pictures with boxes alone
    paste: int = field(
        default=3,
        metadata={"help": "objects of other train pictures that are pasted into one, at most; 0: none", "later": True},
    )
    mosaic: float = field(
        default=0.0,
        metadata={"help": "share of the made pictures that are put together from four", "later": True},
    )
    visible: float = field(
        default=0.3,
        metadata={"help": "a box is dropped of which a smaller share is left, cut off or covered", "later": True},
    )
    # --- Sound alone
    noise_files: str | None = field(
        default=None,
        metadata={
            "file": True,
            "help": "a directory of recordings of noise (WAV, FLAC, OGG, MP3), stretches of which are laid under sounds",
        },
    )

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 10:
            raise ValueError(f"strength: expected above 0, at most 10; found {self.strength:g}")
        if not 0 <= self.paste <= 50:
            raise ValueError(f"paste: expected 0 to 50, found {self.paste}")
        for name in ("mosaic", "visible"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0 to 1, found {getattr(self, name):g}")
        if bad := {name: value for name, value in self.amounts.items() if not 0 <= value < float("inf")}:
            raise ValueError(f"amounts: expected numbers of 0 or more; found {bad}")
