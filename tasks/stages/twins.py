"""What tells twins among candidates: kept with each shard, so that settle reads few rows whole."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.rows.kinds import equal_keys, near_keys

TWINS = "twins.parquet"  # of a shard, beside its content: another threshold makes another one, and no other row
_DIGEST = pa.binary(16)


def twins_of(rows: pa.Table, fields: Sequence[str], near: float) -> pa.Table:
    """Of each row a ``digest`` of what equal rows share, and ``near 0``, ...: rows that are near share one of these."""
    digests = [hashlib.blake2b(key, digest_size=16).digest() for key in equal_keys(rows, fields)]
    keys = near_keys(rows, fields, near) if near < 1 else np.empty((rows.num_rows, 0), np.uint32)
    columns = {f"near {place}": pa.array(column) for place, column in enumerate(keys.T)}
    table = pa.table({"digest": pa.array(digests, _DIGEST)} | columns)
    return table.replace_schema_metadata({"near": repr(near)})


def made_for(twins: pa.Schema, near: float) -> bool:
    """Whether they tell which rows are near from that threshold up."""
    return (twins.metadata or {}).get(b"near") == repr(near).encode()


def crowded(keys: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """(rows, keys): which rows share a key with another at the same place."""
    import polars as pl

    found = np.zeros(len(keys), np.bool_)
    for column in keys.T:
        found |= pl.Series(column).is_duplicated().to_numpy()
    return found
