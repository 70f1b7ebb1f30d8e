"""What kinds of media share: a value is the file's bytes as they came, with the name that the user's data have for it.

As ``datasets`` writes its features Image and Audio, so that a release opens everywhere. Ids, splits and hashes go by the
bytes: decoded pixels and samples move with a decoder's version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.rows.schema import is_media as is_media  # noqa: PLC0414 - a part of what media are

# Inside the pipeline. Large, since all pictures of a split in one array pass 2 GiB soon.
MEDIA = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
# In a release, and of a source's column whose texts name files.
RELEASED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def media(files: Sequence[bytes | None], names: Sequence[str | None] | None = None) -> pa.StructArray:
    """Values of type ``MEDIA``. ``names``: None where nobody has named them, as of made rows; a null file is a null value."""
    paths = [None] * len(files) if names is None else names
    missing = pa.array([file is None for file in files], pa.bool_())
    arrays = [pa.array(files, pa.large_binary()), pa.array(paths, pa.string())]
    return pa.StructArray.from_arrays(arrays, fields=list(MEDIA), mask=missing)


def files_of(column: pa.ChunkedArray | pa.Array) -> list[bytes | None]:
    """The bytes of each value."""
    found: list[bytes | None] = pc.struct_field(column, "bytes").to_pylist()
    return found


def names_of(column: pa.ChunkedArray | pa.Array) -> list[str | None]:
    """What the user's data call each file."""
    found: list[str | None] = pc.struct_field(column, "path").to_pylist()
    return found


def from_source(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A source's column for which ``is_media`` holds, as ``MEDIA``."""
    if not pa.types.is_struct(column.type):
        return pa.chunked_array([media(column.to_pylist())], MEDIA)
    names = [None] * len(column) if column.type.get_field_index("path") < 0 else names_of(column)
    return pa.chunked_array([media(files_of(column), names)], MEDIA)


def to_release(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """``MEDIA`` in the user's own type: bytes alone, or a struct. Names stay where the type has a place for them."""
    if not pa.types.is_struct(kind):
        return pc.struct_field(values, "bytes").cast(kind)
    parts = [
        pc.struct_field(values, field.name).cast(field.type)
        if values.type.get_field_index(field.name) >= 0 and not pa.types.is_null(field.type)
        else pa.nulls(len(values), field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(parts, fields=list(kind), mask=values.is_null())


def digests(columns: pa.Table) -> list[bytes]:
    """Of each row, the sha256 of each of its files one after the other; of a null, of nothing."""
    each = [[hashlib.sha256(file or b"").digest() for file in files_of(column)] for column in columns.columns]
    return [b"".join(row) for row in zip(*each, strict=True)]
