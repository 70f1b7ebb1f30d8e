"""Content hashes: of canonical rows (not of Parquet bytes, which hold the writer's version) and of canonical JSON."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def canonical_json(value: Any) -> bytes:
    """One byte string per value: sorted keys, no spaces, UTF-8. NaN is refused (ValueError)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def hash_json(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_path(path: Path) -> str:
    """The content of a file, or of a directory's files by relative name; read once while nothing changes."""
    if path.is_file():
        return _hash_unchanged(path, path.stat().st_mtime_ns, path.stat().st_size)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return hash_json({p.relative_to(path).as_posix(): hash_path(p) for p in files})


def seal(body: dict[str, Any]) -> bytes:
    """A JSON document that carries its own checksum, so that a flipped bit is seen on read."""
    return canonical_json({"body": body, "sha256": hashlib.sha256(canonical_json(body)).hexdigest()})


def unseal(raw: bytes) -> dict[str, Any] | None:
    """The body, or None where the document is not what was sealed."""
    try:
        document = json.loads(raw)
        body = document["body"]
        sealed = document["sha256"] == hashlib.sha256(canonical_json(body)).hexdigest()
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return cast("dict[str, Any]", body) if sealed and isinstance(body, dict) else None


@functools.lru_cache(maxsize=1024)
def _hash_unchanged(path: Path, modified: int, size: int) -> str:
    return hash_file(path)


def _plain(array: pa.Array) -> pa.Array:
    """Dictionaries decoded; maps and the other kinds of lists as lists; an extension (a UUID) as its storage."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(array.storage)
    if pa.types.is_dictionary(kind):
        return array.dictionary_decode()
    if pa.types.is_map(kind):
        return array.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
    if pa.types.is_fixed_size_list(kind):
        return array.cast(pa.list_(kind.value_type))
    return _as_list(array) if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind) else array


def _as_list(array: pa.Array) -> pa.Array:
    """A list view as a list. pyarrow's own cast (26.0) gives other values, or none, after a null or a take."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, pc.list_flatten(array), mask=pc.is_null(array))


def _valid(array: pa.Array) -> npt.NDArray[np.bool_]:
    if array.null_count == 0:
        return np.ones(len(array), np.bool_)
    return np.asarray(pc.is_valid(array).to_numpy(zero_copy_only=False))


def _spans(array: pa.Array) -> tuple[npt.NDArray[np.int64], memoryview | None] | None:
    """(bytes of each text, all texts together) as the array holds them; None for other types, and where a null has some.

    Without a kernel for either: of 4,000 columns these took two thirds of a table's hashing.
    """
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        width: Any = np.int32
    elif pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        width = np.int64
    else:
        return None
    _, offsets, data = array.buffers()
    if offsets is None or offsets.size == 0:
        return None
    ends: npt.NDArray[Any] = np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1]
    lengths = np.diff(ends).astype(np.int64)
    if array.null_count and bool(lengths[~_valid(array)].any()):
        return None
    return lengths, None if data is None else memoryview(data)[int(ends[0]) : int(ends[-1])]


class TableHasher:
    """sha256 over canonical rows, fed batch by batch; where batches begin and end changes nothing.

    Each leaf column has its own streams (validity, lengths, values), so that the hash sees one long column however
    it was cut, and so that a null differs from an empty string and ["ab"] from ["a", "b"].
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema.remove_metadata()
        self.rows = 0
        self._streams: dict[str, Any] = {}

    def _feed(self, name: str, values: Any) -> None:
        self._streams.setdefault(name, hashlib.sha256()).update(values)

    def update(self, batch: pa.RecordBatch | pa.Table) -> None:
        batches = batch.to_batches() if isinstance(batch, pa.Table) else [batch]
        for part in batches:
            self.rows += part.num_rows
            for field, column in zip(part.schema, part.columns, strict=True):
                self._column(field.name, column)

    def _column(self, path: str, array: pa.Array) -> None:
        array = _plain(array)
        kind = array.type
        self._feed(f"{path}\x00valid", _valid(array).tobytes())
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            lengths = pc.fill_null(pc.list_value_length(array), 0)
            self._feed(f"{path}\x00length", lengths.cast(pa.int64()).to_numpy(zero_copy_only=False).tobytes())
            self._column(f"{path}\x00item", pc.list_flatten(array))
        elif pa.types.is_struct(kind):
            for index, child in enumerate(array.flatten()):
                self._column(f"{path}\x00{kind.field(index).name}", child)
        elif pa.types.is_null(kind):
            pass
        else:
            self._values(path, array)

    def _values(self, path: str, array: pa.Array) -> None:
        kind = array.type
        if (spans := _spans(array)) is not None:
            lengths, data = spans
            self._feed(f"{path}\x00length", lengths.tobytes())
            if data is not None:
                self._feed(f"{path}\x00data", data)
            return
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_fixed_size_binary(kind):
            array = array.cast(pa.large_binary())
            kind = array.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            filled = pc.fill_null(array, b"").cast(pa.large_binary())
            self._feed(f"{path}\x00length", pc.binary_length(filled).to_numpy(zero_copy_only=False).tobytes())
            _, offsets, data = filled.buffers()
            ends = np.frombuffer(offsets, dtype=np.int64)[filled.offset : filled.offset + len(filled) + 1]
            if data is not None and len(ends):
                self._feed(f"{path}\x00data", memoryview(data)[int(ends[0]) : int(ends[-1])])
        elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
            zero = pa.scalar(False if pa.types.is_boolean(kind) else 0).cast(kind)
            values = pc.fill_null(array, zero).to_numpy(zero_copy_only=False)
            if pa.types.is_floating(kind):
                values = np.where(np.isnan(values), values.dtype.type(np.nan), values)  # one NaN, whatever its payload
            self._feed(f"{path}\x00data", values.tobytes())
        else:  # dates, times, decimals: their text is canonical within Arrow
            self._values(path, array.cast(pa.string()))

    def hexdigest(self) -> str:
        return hash_json(
            {
                "schema": [[field.name, str(field.type)] for field in self.schema],
                "rows": self.rows,
                "streams": {name: stream.hexdigest() for name, stream in self._streams.items()} if self.rows else {},
            }
        )


def hash_table(table: pa.Table) -> str:
    hasher = TableHasher(table.schema)
    hasher.update(table)
    return hasher.hexdigest()
