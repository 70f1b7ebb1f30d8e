"""Kinds of fields, a file or a folder each, and whole rows: what equal and near mean, how rows are read and shown."""

from augmill.tasks.rows.kinds.whole import (
    KINDS,
    RowIndex,
    candidate_schema,
    diversity,
    equal_keys,
    group_keys,
    id_keys,
    kinds_of,
    near_groups,
    real_schema,
    schema_of,
    show,
    stems,
    type_of,
)

__all__ = [
    "KINDS",
    "RowIndex",
    "candidate_schema",
    "diversity",
    "equal_keys",
    "group_keys",
    "id_keys",
    "kinds_of",
    "near_groups",
    "real_schema",
    "schema_of",
    "show",
    "stems",
    "type_of",
]
