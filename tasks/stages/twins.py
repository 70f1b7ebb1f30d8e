"""What tells twins among candidates: kept with each shard, so that settle reads few rows whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.rows.kinds import equal_keys, near_keys

VERSION = 1  # of what they hold; those of another one are made anew by settle, and no shard is judged again
TWINS = "twins.parquet"  # of a shard, beside its content: another threshold makes another one, and no other row
MOST = 1 << 13  # rows: 20 MB of what near ones are found by
_DIGEST = pa.binary(16)


def twins_of(rows: pa.Table, fields: Sequence[str], near: float) -> pa.Table:
    """Of each row a ``digest`` of what equal rows share, and ``near 0``, ...: rows that are near share one of these."""
    digests = [hashlib.blake2b(key, digest_size=16).digest() for key in equal_keys(rows, fields)]
    keys = near_keys(rows, fields, near) if near < 1 else np.empty((rows.num_rows, 0), np.uint32)
    columns = {f"near {place}": pa.array(column) for place, column in enumerate(keys.T)}
    table = pa.table({"digest": pa.array(digests, _DIGEST)} | columns)
    return table.replace_schema_metadata({"made": f"{VERSION}, {near!r}"})


def made_for(twins: pa.Schema, near: float) -> bool:
    """Whether they tell which rows are near from that threshold up."""
    return (twins.metadata or {}).get(b"made") == f"{VERSION}, {near!r}".encode()


def crowds(columns: Sequence[npt.NDArray[np.uint32]]) -> Iterator[npt.NDArray[np.int64]]:
    """Rows that share a key with another at the same place, those that hang together never apart: at most about ``MOST`` at

    once, ascending.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not columns:
        return
    rows, ones, others = len(columns[0]), list[npt.NDArray[np.int64]](), list[npt.NDArray[np.int64]]()
    for column in columns:
        order = np.argsort(column, kind="stable")
        same = np.flatnonzero(column[order[1:]] == column[order[:-1]])
        ones.append(order[same])
        others.append(order[same + 1])
    one, other = np.concatenate(ones), np.concatenate(others)
    links = coo_array((np.ones(len(one), np.bool_), (one, other)), shape=(rows, rows))
    crowd = connected_components(links, directed=False)[1]
    found = np.zeros(rows, np.bool_)
    found[one] = found[other] = True
    at = np.flatnonzero(found)
    at = at[np.argsort(crowd[at], kind="stable")]
    start = 0
    while start < len(at):
        end = min(start + MOST, len(at))
        while end < len(at) and crowd[at[end]] == crowd[at[end - 1]]:
            end += 1
        yield np.sort(at[start:end])
        start = end
