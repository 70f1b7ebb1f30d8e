"""The tables that travel between stages: names and types of their columns, and what is asked of them everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# Columns of ingested rows beside contracts.real_schema and ``user.*``.
SPLIT = "given_split"
GROUP = "group"
PARTITION = "partition"
POSITION = "position"

# Of a unit of the source: its refused rows, and where each of its rows stands.
UNIT_REFUSED = pa.schema([(name, pa.string()) for name in ("file", "location", "reason", "detail", "row", "partition")])
PLACES = pa.schema([("file", pa.string()), ("location", pa.string())])

PART_BYTES = 32 << 20  # of rows that are read part by part, unpacked: some hundred pictures

ORIGIN, REAL = "origin", "real"  # any other origin (contracts.Generator.origin) is of a row that was added
SCORES = pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))

# What a training row carries beside its own columns; null in real rows but for the weight.
TRAINING_COLUMNS = [
    (ORIGIN, pa.string()),
    ("generator", pa.string()),
    ("parent_ids", pa.list_(pa.string())),
    ("seed", pa.int64()),
    ("weight", pa.float64()),
    ("scores", SCORES),
]


def class_counts(stratum: pa.ChunkedArray) -> dict[str, int]:
    """Rows per class, by class name."""
    counts = pc.value_counts(stratum)
    return dict(sorted((str(item["values"]), int(item["counts"])) for item in counts.to_pylist()))


def distance(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """Total variation distance of the shares; 1 where only one of them counts anything."""
    totals = sum(one.values()), sum(other.values())
    if not all(totals):
        return float(any(totals))
    keys = sorted(one.keys() | other.keys())
    return sum(abs(one.get(key, 0) / totals[0] - other.get(key, 0) / totals[1]) for key in keys) / 2


def rows_at_once(about: pq.FileMetaData, most: int) -> int:
    """Rows of a Parquet file that are held at once: ``most``, and as many as have about ``PART_BYTES``."""
    size: int = sum(about.row_group(at).total_byte_size for at in range(about.num_row_groups))
    return max(1, min(most, PART_BYTES * int(about.num_rows) // max(size, 1)))


def as_training(rows: pa.Table) -> pa.Table:
    """Real rows with the columns of a training row: origin ``real``, weight 1, the others null."""
    values = {ORIGIN: REAL, "weight": 1.0}
    for name, kind in TRAINING_COLUMNS:
        rows = rows.append_column(name, pa.repeat(pa.scalar(values.get(name), kind), rows.num_rows))
    return rows


def id_within(partition: str | None, stem: str) -> str:
    """The id of a row without an id column: the hash of its texts, in a partitioned source of its partition too."""
    if partition is None:
        return stem
    return hashlib.sha256(f"{partition}\x1f{stem}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


# --- Files as values: a struct of ``bytes`` and ``path`` as the library datasets has them, or bytes alone -------------


def is_media(kind: pa.DataType) -> bool:
    """Whether a source's column of that type holds files: bytes alone, or a struct that has them."""
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and is_bytes(kind.field(at).type)
    return is_bytes(kind)


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def titles(column: pa.ChunkedArray | pa.Array) -> list[str | None]:
    """What to call each value of a column for which ``is_media`` holds: the file's name, else its hash and size."""
    inside = pa.types.is_struct(column.type)
    files = (pc.struct_field(column, "bytes") if inside else column).to_pylist()
    named = inside and column.type.get_field_index("path") >= 0
    names = pc.struct_field(column, "path").to_pylist() if named else [None] * len(files)
    return [name or (None if file is None else _digest(file)) for name, file in zip(names, files, strict=True)]


def with_titles(table: pa.Table) -> pa.Table:
    """The table with what files are called instead of the files."""
    for at, field in enumerate(table.schema):
        if is_media(field.type):
            table = table.set_column(at, field.name, pa.array(titles(table.column(at)), pa.string()))
    return table


def _digest(file: bytes) -> str:
    return f"sha256 {hashlib.sha256(file).hexdigest()[:16]} ({len(file):,} bytes)"
