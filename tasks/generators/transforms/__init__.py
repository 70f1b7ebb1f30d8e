"""The field's classic transformations of pictures and sound, drawn for each row from its own seed."""

from augmill.tasks.generators.transforms.generator import Transforms
from augmill.tasks.generators.transforms.options import TransformsOptions

__all__ = ["Transforms", "TransformsOptions"]
