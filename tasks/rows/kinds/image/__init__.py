"""Pictures as a kind: decoding within bounds, what equal and near mean for them, and their pixels for what learns."""

from augmill.tasks.rows.kinds.image.decode import Pixels, is_grey, pixels, resized, size_of
from augmill.tasks.rows.kinds.image.kind import Image

__all__ = ["Image", "Pixels", "is_grey", "pixels", "resized", "size_of"]
