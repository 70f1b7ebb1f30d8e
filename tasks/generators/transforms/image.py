"""Pictures: what is drawn for each row, and the batched calls that do it."""

from __future__ import annotations

from collections.abc import Sequence

from augmill.tasks.contracts import Ints
from augmill.tasks.generators.transforms.options import TransformsOptions


def require(options: TransformsOptions) -> None:
    """Raises UserError where pillow or kornia is missing, or an amount names no transformation of pictures."""


class Pictures:
    """``Medium`` of pictures."""

    def __init__(self, options: TransformsOptions) -> None:
        self.options = options

    def transform(self, files: Sequence[Sequence[bytes]], seeds: Ints, attempt: int) -> list[list[bytes] | None]:
        raise NotImplementedError
