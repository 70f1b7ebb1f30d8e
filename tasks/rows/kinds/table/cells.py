"""Rows of tables as bytes, for ``id`` and ``equal``, and as counts, for drift."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import Floats, Ints
from augmill.tasks.rows.kinds.table.values import Mask, is_text, known, micros
from augmill.tasks.rows.kinds.text import canonical
from augmill.tasks.rows.schema import distance

BATCH = 1 << 16  # rows encoded at once
_NULL = pa.scalar(b"\x00", pa.binary())


def encode(columns: pa.Table, exact: bool) -> list[bytes]:
    """The cells of each row one after the other, in the order of the columns, whose names do not count. Frozen.

    A cell is one zero byte where its value is missing; ``n`` and a big-endian float64, -0.0 as 0.0; ``t`` and big-endian
    microseconds since 1970 (int64); ``c``, the length of the text in UTF-8 (int64, big-endian), and the text. A cell
    tells its own length, so that none runs into the next one.

    ``exact``: texts as ``canonical`` has them; else numbers with six significant digits, moments to the second, texts
    as ``folded`` has them.
    """
    rows: list[bytes] = []
    for batch in columns.to_batches(max_chunksize=BATCH):
        cells = [_cells(column, exact) for column in batch.columns]
        rows += pc.binary_join_element_wise(*cells, pa.scalar(b"", pa.binary())).to_pylist()
    return rows


def folded(text: str) -> str:
    """NFKC, case and blanks folded away: what a reader would call the same category."""
    return " ".join(unicodedata.normalize("NFKC", canonical(text)).casefold().split())


def _cells(column: pa.Array, exact: bool) -> pa.Array:
    if is_text(column.type):
        return _texts(column, canonical if exact else folded)
    if pa.types.is_floating(column.type):
        numbers, missing = known(column)
        return _fixed(b"n", numbers + 0.0 if exact else six_digits(numbers), ">f8", missing)
    since, missing = micros(column)
    return _fixed(b"t", since if exact else since // 1_000_000, ">i8", missing)


def _texts(column: pa.Array, write: Callable[[str], str]) -> pa.Array:
    encoded = column.dictionary_encode()
    texts = [write(text).encode("utf-8", "replace") for text in encoded.dictionary.to_pylist()]
    cells = pa.array([b"c" + len(text).to_bytes(8, "big") + text for text in texts], pa.binary())
    return pc.fill_null(cells.take(encoded.indices), _NULL)


def _fixed(tag: bytes, values: Floats | Ints, dtype: str, missing: Mask) -> pa.Array:
    cells = np.empty(len(values), np.dtype([("tag", "S1"), ("value", dtype)]))
    cells["tag"], cells["value"] = tag, values
    packed = pa.Array.from_buffers(pa.binary(9), len(cells), [None, pa.py_buffer(cells.tobytes())])
    return pc.if_else(pa.array(missing), _NULL, packed.cast(pa.binary()))


def six_digits(numbers: Floats) -> Floats:
    """Each number with six significant digits, as decimals are rounded: on every machine the same float."""
    distinct, place = np.unique(numbers, return_inverse=True)
    rounded = np.array([float(f"{number:.5e}") for number in distinct.tolist()], np.float64)
    return rounded[place] + 0.0


# --- Profiles: counts that lie in bins which hang on no data, so that any two can be compared ------------------------------

BINS = 16  # of a number's histogram at most, as long as powers of two alone do not need more
MANTISSA = 20  # bits of a number that a bin may have in common, at most
COMMON = 50  # categories that are counted by name
_SHARE = 52  # bits of a float64 after the exponent


def profile_column(column: pa.Array) -> dict[str, Any]:
    """``nulls``, and of numbers ``bins`` (see ``_bins``), ``bits``, ``least``, ``most``, ``mean``, ``std`` and whether all

    are ``whole``; of categories ``values``, rows of the commonest ones, and ``rest``; of timestamps rows by ``months``.
    """
    if is_text(column.type):
        counted = pc.value_counts(column.drop_null()).to_pylist()
        ranked = sorted(((item["values"], item["counts"]) for item in counted), key=lambda pair: (-pair[1], pair[0]))
        rest = sum(count for _, count in ranked[COMMON:])
        return {"nulls": column.null_count, "values": dict(sorted(ranked[:COMMON])), "rest": rest}
    if pa.types.is_timestamp(column.type):
        since, missing = micros(column)
        return {"nulls": int(missing.sum()), "months": _months(since[~missing])}
    numbers, missing = known(column)
    missing |= np.isinf(numbers)
    return {"nulls": int(missing.sum()), **_number_profile(numbers[~missing] + 0.0)}


def _number_profile(numbers: Floats) -> dict[str, Any]:
    if not len(numbers):
        return {"bits": MANTISSA, "bins": {}, "least": None, "most": None, "mean": None, "std": None, "whole": False}
    scale = float(np.abs(numbers).max()) or 1.0
    # fsum gives the same in any order of rows; divided first, so that nothing overflows.
    mean = math.fsum((numbers / len(numbers)).tolist())
    spread = math.fsum((((numbers / scale - mean / scale) ** 2) / len(numbers)).tolist())
    bits, bins = _bins(numbers)
    return {
        "bits": bits,
        "bins": bins,
        "least": float(numbers.min()),
        "most": float(numbers.max()),
        "mean": mean,
        "std": scale * math.sqrt(spread),
        "whole": bool((numbers == np.rint(numbers)).all()),
    }


def _months(since: Ints) -> dict[str, int]:
    """Rows by month, such as 2026-10."""
    months, counts = np.unique(since.astype("M8[us]").astype("M8[M]"), return_counts=True)
    return dict(zip(np.datetime_as_string(months).tolist(), counts.tolist(), strict=True))


def _bins(numbers: Floats) -> tuple[int, dict[str, int]]:
    """(bits, rows by bin): numbers that share sign, power of two and the first ``bits`` bits after it, by the end next to

    zero. The most bits that give few bins: years fall apart as well as incomes, and bins of fewer bits hold whole bins.
    """
    bits = MANTISSA
    edges, counts = np.unique(_edge(numbers, bits), return_counts=True)
    while bits and len(edges) > BINS:
        bits -= 1
        edges, place = np.unique(_edge(edges, bits), return_inverse=True)
        counts = np.bincount(place, weights=counts).astype(np.int64)
    return bits, {repr(edge): count for edge, count in zip(edges.tolist(), counts.tolist(), strict=True)}


def _edge(numbers: Floats, bits: int) -> Floats:
    kept = numbers.view(np.int64) & ~np.int64((1 << (_SHARE - bits)) - 1)
    return kept.view(np.float64) + 0.0


def drift_column(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Total variation distance of two profiles of one column, missing values as one more bin."""
    return distance(_counts(one, other), _counts(other, one))


def _counts(profile: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, int]:
    """The bins of a profile as those of another one can be compared with them."""
    counts = {"nulls": profile["nulls"]}
    if "bins" in profile:
        bits = min(profile["bits"], beside["bits"])
        for edge, count in profile["bins"].items():
            name = repr(float(_edge(np.array([float(edge)]), bits)[0]))
            counts[name] = counts.get(name, 0) + count
    elif "months" in profile:
        counts |= profile["months"]
    else:  # a category that the other profile may have among its rest counts as rest
        counts["rest"] = profile["rest"]
        for name, count in profile["values"].items():
            key = f"={name}" if name in beside["values"] or not beside["rest"] else "rest"
            counts[key] = counts.get(key, 0) + count
    return counts
