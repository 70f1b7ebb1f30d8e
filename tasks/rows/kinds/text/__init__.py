"""Text: the kind, what equal and near mean for it, how words are set apart."""

from augmill.tasks.rows.kinds.text.kind import Text, joined
from augmill.tasks.rows.kinds.text.normal import (
    CJK,
    canonical,
    equal,
    fold,
    is_unspaced,
    join_fields,
    shingles,
    texts_of,
)

__all__ = ["CJK", "Text", "canonical", "equal", "fold", "is_unspaced", "join_fields", "joined", "shingles", "texts_of"]
