"""One schema for units of a source that were read apart: numbers widen, null gives way, types that clash are named."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import DataError


def unify_units(
    window: Sequence[pa.Schema], every: Sequence[pa.Schema], where: Sequence[str], *, as_text: bool
) -> pa.Schema:
    """The columns of ``every`` unit in order of first appearance, typed as those of the ``window`` ask.

    Columns and types that only units outside of the window have count too, where they do not clash: a release's schema
    only grows (DESIGN, "The row"), and what was written years ago stops no night. ``where``: names the window's units;
    ``as_text``: numbers give way to texts, as in one file of JSON Lines.
    Raises DataError naming the column, its units and both types.
    """
    types: dict[str, pa.Field] = {}
    first: dict[str, str] = {}
    for schema, place in zip(window, where, strict=True):
        for field in schema:
            known = types.get(field.name)
            found = field if known is None else _wider(known, field, as_text)
            if found is None:
                assert known is not None
                raise DataError(
                    f"column {field.name!r} holds {field.type} here and {known.type} in {first[field.name]}",
                    where=place,
                    fix="write all partitions with the same types",
                )
            if known is None or not found.type.equals(known.type):
                first[field.name] = place
            types[field.name] = found
    for schema in every:
        for field in schema:
            known = types.get(field.name)
            types[field.name] = field if known is None else _wider(known, field, as_text) or known
    names = dict.fromkeys(field.name for schema in every for field in schema)
    return pa.schema([types[name] for name in names])


def _wider(one: pa.Field, other: pa.Field, as_text: bool) -> pa.Field | None:
    """A field that holds the values of both; None where their types clash."""
    if one.type.equals(other.type):
        return one if one.metadata == other.metadata else one.remove_metadata()
    for narrow, wide in ((one, other), (other, one)):
        if pa.types.is_null(narrow.type) or (as_text and _is_plain(narrow.type) and pa.types.is_string(wide.type)):
            return wide
    try:
        return pa.unify_schemas([pa.schema([one]), pa.schema([other])], promote_options="permissive").field(0)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None


def _is_plain(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind))


def cast_column(column: pa.ChunkedArray, field: pa.Field, where: str) -> pa.ChunkedArray:
    """In the field's type. Raises DataError where a value does not fit (an integer past 2**53 among floats)."""
    try:
        return pc.cast(column, field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:  # the latter: texts where all others are null
        problem = f"column {field.name!r} does not fit {field.type}, its type in other partitions: {error}"
        raise DataError(problem, where=where, fix="write all partitions with the same types") from error
