"""Values of tables: how a source's column is read as numbers, categories or timestamps, and given back in its own type.

What is read decides row ids, so it is frozen as they are: which texts are missing values, numbers and timestamps, and
that a decimal's value is the float nearest to it, as of the same number in a CSV file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import Floats, Ints
from augmill.tasks.errors import DataError

NUMBER, CATEGORY, TIMESTAMP = "number", "category", "timestamp"
ARROW = {NUMBER: pa.float64(), CATEGORY: pa.string(), TIMESTAMP: pa.timestamp("us", tz="UTC")}

# What stands for no value once blanks at the ends are gone. Not "None": to many questions it is an answer.
MISSING = frozenset(("", "?", "-", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT", "NULL", "null"))
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?")
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?)(?: ?(Z|[+-][0-9]{2}:?[0-9]{2}))?)?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Years 1 to 9999, in microseconds since 1970: what Python can show.
FIRST = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
LAST = (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC) - _EPOCH) // _MICROSECOND
_PER_UNIT = {"s": 10**6, "ms": 10**3, "us": 1}
_DAY = 86_400 * 10**6

Reasons = list[str | None]
Mask = npt.NDArray[np.bool_]


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_moment(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def is_numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """As one array, without dictionaries."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def read_column(column: pa.ChunkedArray, type: str, max_chars: int) -> tuple[pa.Array, Reasons]:
    """As ``Kind.read``: (values of ``ARROW[type]``, why each row is refused)."""
    array = plain(column)
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), ARROW[type]), [None] * len(array)
    if type == CATEGORY:
        return _by_value(array.cast(pa.string()), ARROW[type], lambda text: _category(text, max_chars))
    if type == TIMESTAMP:
        return _moments(array) if is_moment(array.type) else _by_value(array, ARROW[type], _timestamp)
    if is_text(array.type) or pa.types.is_decimal(array.type):
        # Arrow's own cast of a decimal misses the nearest float where its scale is large.
        return _by_value(array.cast(pa.string()), ARROW[type], _number)
    return _floats(array)


def _by_value(
    texts: pa.Array, kind: pa.DataType, read: Callable[[str], tuple[Any, str | None]]
) -> tuple[pa.Array, Reasons]:
    """Reads each different text once; one that is missing is null."""
    encoded = texts.cast(pa.string()).dictionary_encode()
    stripped = [text.strip() for text in encoded.dictionary.to_pylist()]
    found = [(None, None) if text in MISSING else read(text) for text in stripped]
    values = pa.array([value for value, _ in found], kind).take(encoded.indices)
    if not any(reason for _, reason in found):
        return values, [None] * len(texts)
    return values, pa.array([reason for _, reason in found], pa.string()).take(encoded.indices).to_pylist()


def _category(text: str, max_chars: int) -> tuple[str | None, str | None]:
    return (text, None) if len(text) <= max_chars else (None, "too_long")


def _number(text: str) -> tuple[float | None, str | None]:
    if not _NUMBER.fullmatch(text):
        return None, "infinite_number" if text.strip("+-").lower() in ("inf", "infinity") else "not_a_number"
    number = float(text)
    return (number, None) if math.isfinite(number) else (None, "infinite_number")


def _timestamp(text: str) -> tuple[int | None, str | None]:
    """Microseconds since 1970; without a zone as UTC."""
    found = _TIMESTAMP.fullmatch(text)
    if not found:
        return None, "not_a_timestamp"
    day, time, zone = found.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{time or '00:00'}{zone or 'Z'}")
    except ValueError:  # 30 February
        return None, "not_a_timestamp"
    since = (moment - _EPOCH) // _MICROSECOND
    return (since, None) if FIRST <= since <= LAST else (None, "not_a_timestamp")


def _floats(array: pa.Array) -> tuple[pa.Array, Reasons]:
    """Whole numbers beyond 2**53 as the nearest float."""
    numbers = array.cast(pa.float64(), safe=False)
    numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    return _refused(numbers, pc.fill_null(pc.is_inf(numbers), False), "infinite_number")


def _moments(array: pa.Array) -> tuple[pa.Array, Reasons]:
    """Timestamps of any unit, without a zone as UTC, and dates; below a microsecond cut off."""
    kind = array.type
    if pa.types.is_date32(kind):
        unit, since = _DAY, array.cast(pa.int32()).cast(pa.int64())
    else:
        unit, since = _PER_UNIT.get("ms" if pa.types.is_date64(kind) else kind.unit, 0), array.cast(pa.int64())
    given = pc.fill_null(since, 0).to_numpy(zero_copy_only=False)
    far = (given < FIRST // unit) | (given > LAST // unit) if unit else np.zeros(len(given), np.bool_)
    micro = np.where(far, 0, given) * unit if unit else given // 1000  # nanoseconds reach from 1677 to 2262
    moments = pa.array(micro, pa.int64(), mask=array.is_null().to_numpy(zero_copy_only=False)).view(ARROW[TIMESTAMP])
    return _refused(moments, pa.array(far), "not_a_timestamp")


def _refused(values: pa.Array, bad: pa.Array, reason: str) -> tuple[pa.Array, Reasons]:
    if not pc.any(bad).as_py():
        return values, [None] * len(values)
    reasons = pc.if_else(bad, pa.scalar(reason), pa.scalar(None, pa.string()))
    return pc.if_else(bad, pa.scalar(None, values.type), values), reasons.to_pylist()


# --- and back --------------------------------------------------------------------------------------------------------


def known(values: pa.Array) -> tuple[Floats, Mask]:
    """(numbers, with 0.0 for those that are missing; which are). NaN is missing too."""
    floats = values.to_numpy(zero_copy_only=False).astype(np.float64)
    missing = np.isnan(floats)
    return np.where(missing, 0.0, floats), missing


def micros(values: pa.Array) -> tuple[Ints, Mask]:
    """(microseconds since 1970, with 0 for those that are missing; which are)."""
    since = pc.fill_null(values.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    return since, values.is_null().to_numpy(zero_copy_only=False)


def release_column(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Values in the user's own type: what it cannot hold as the nearest that it can; nulls stay.

    Texts are written so that they are read back as the same value. Raises DataError where a category is no value of the
    type.
    """
    if pa.types.is_null(kind):
        return pa.nulls(len(values))
    if pa.types.is_dictionary(kind):
        return release_column(values, kind.value_type).dictionary_encode().cast(kind)
    if pa.types.is_floating(values.type):
        return _numbers_as(values, kind)
    if pa.types.is_timestamp(values.type):
        return _moments_as(values, kind)
    try:
        return values.cast(kind)
    except pa.ArrowInvalid as error:
        problem = f"a generated category does not fit its column, which holds {kind}: {error}"
        raise DataError(problem, where="columns.inputs", fix="give the column as texts in the source") from error


def _numbers_as(values: pa.Array, kind: pa.DataType) -> pa.Array:
    numbers, missing = known(values)
    if is_text(kind):
        return _mapped(numbers, missing, written, kind)
    if pa.types.is_decimal(kind):
        return _mapped(numbers, missing, lambda number: _decimal(number, kind.precision, kind.scale), kind)
    if pa.types.is_integer(kind):
        within = np.iinfo(kind.to_pandas_dtype())
        # The float next to 2**63 - 1 is 2**63, which is one too many.
        high = float(within.max) if int(float(within.max)) <= within.max else np.nextafter(float(within.max), 0.0)
        whole = np.clip(np.rint(numbers), float(within.min), high).astype(kind.to_pandas_dtype())
        return pa.array(whole, kind, mask=missing)
    most = float(np.finfo(kind.to_pandas_dtype()).max)
    return pa.array(np.clip(numbers, -most, most).astype(kind.to_pandas_dtype()), kind, mask=missing)


def _decimal(number: float, precision: int, scale: int) -> Decimal:
    """Of the shortest decimal that is read as this number."""
    with localcontext(prec=precision + abs(scale) + 2):
        most = Decimal(10**precision - 1).scaleb(-scale)
        within = max(-most, min(most, Decimal(repr(number))))
        return within.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_EVEN)


def _mapped(values: npt.NDArray[Any], missing: Mask, write: Callable[[Any], Any], kind: pa.DataType) -> pa.Array:
    distinct, place = np.unique(values, return_inverse=True)
    made = pa.array([write(value) for value in distinct.tolist()], kind)
    return made.take(pa.array(place, pa.int64(), mask=missing))


def written(number: float) -> str:
    """The shortest text that is read back as this number; whole ones without a point."""
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def written_moment(since: int) -> str:
    """ISO 8601 in UTC, without a zone; the day alone at midnight."""
    moment = (_EPOCH + since * _MICROSECOND).replace(tzinfo=None)
    return moment.isoformat() if since % _DAY else moment.date().isoformat()


def _moments_as(values: pa.Array, kind: pa.DataType) -> pa.Array:
    since, missing = micros(values)
    if is_text(kind):
        return _mapped(since, missing, written_moment, kind)
    if pa.types.is_date32(kind):
        return pa.array((since // _DAY).astype(np.int32), pa.int32(), mask=missing).view(kind)
    if pa.types.is_date64(kind):
        return pa.array(since // _DAY * 86_400_000, pa.int64(), mask=missing).view(kind)
    if kind.unit == "ns":
        least, most = -(2**63) // 1000 + 1, (2**63 - 1) // 1000
        return pa.array(np.clip(since, least, most) * 1000, pa.int64(), mask=missing).view(kind)
    return pa.array(since // _PER_UNIT[kind.unit], pa.int64(), mask=missing).view(kind)


def texts_shown(values: pa.Array) -> Sequence[str]:
    """Each value as it is shown; a missing one as ``?``."""
    if pa.types.is_floating(values.type):
        shown = _numbers_as(values, pa.string())
    else:
        shown = _moments_as(values, pa.string()) if pa.types.is_timestamp(values.type) else values
    texts: list[str] = pc.fill_null(shown, "?").to_pylist()
    return texts
