"""Sound: what is drawn for each row, and how it is done."""

from __future__ import annotations

from collections.abc import Sequence

from augmill.tasks.contracts import Ints
from augmill.tasks.generators.transforms.options import TransformsOptions


def require(options: TransformsOptions) -> None:
    """Raises UserError where soundfile or audiomentations is missing, or an amount names no transformation of sound."""


class Sounds:
    """``Medium`` of sound."""

    def __init__(self, options: TransformsOptions) -> None:
        self.options = options

    def transform(self, files: Sequence[Sequence[bytes]], seeds: Ints, attempt: int) -> list[list[bytes] | None]:
        raise NotImplementedError
