"""Text: the kind, what equal and near mean for it, how words are set apart."""

from augmill.tasks.rows.kinds.text.kind import Text, joined
from augmill.tasks.rows.kinds.text.near import TextIndex, jaccard, near_duplicate_groups
from augmill.tasks.rows.kinds.text.normal import (
    CJK,
    canonical,
    canonical_texts,
    equal,
    fold,
    is_unspaced,
    join_fields,
    shingles,
    words,
)
from augmill.tasks.rows.kinds.text.prepared import prepared

__all__ = [
    "CJK",
    "Text",
    "TextIndex",
    "canonical",
    "canonical_texts",
    "equal",
    "fold",
    "is_unspaced",
    "jaccard",
    "join_fields",
    "joined",
    "near_duplicate_groups",
    "prepared",
    "shingles",
    "words",
]
