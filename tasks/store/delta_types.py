"""Arrow tables in the types that Delta has, without a value changed on the way."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import DataError

# Delta's integers are signed: deltalake would write an 8 bit one as int8 and fail at 200.
_INSTEAD = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.null(): pa.string(),  # inside a list or struct; whole columns of it are left out
}


def as_delta(rows: pa.Table, standing: pa.Schema | None) -> tuple[pa.Table, bool]:
    """The rows in types that Delta has, and whether the table's columns may stay as they are (new ones are added).

    Delta casts silently: 1.5 written into a column of integers became 1. So each column is cast here, into the table's
    type where no value changes by it; where one would, the table takes the new types (False).
    """
    # A column of nulls without a type comes once it has one.
    typed = [name for name in rows.column_names if not pa.types.is_null(rows.schema.field(name).type)]
    columns = {name: _plain(name, rows[name]) for name in typed}
    if standing is None:
        return pa.table(columns), True
    fitted = {}
    for name, column in columns.items():
        kind = standing.field(name).type if name in standing.names else column.type
        cast = _fit(column, kind)
        if cast is None:
            return pa.table(columns), False
        fitted[name] = cast
    return pa.table(fitted), True


def _plain(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = _delta_type(name, column.type)
    return column if kind == column.type else pc.cast(column, options=pc.CastOptions(kind, allow_time_truncate=True))


def _delta_type(name: str, kind: pa.DataType) -> pa.DataType:
    """The least type of Delta's that holds every value; of a time stamp, its microseconds. Raises DataError."""
    if pa.types.is_time(kind) or pa.types.is_duration(kind) or pa.types.is_decimal256(kind):
        raise DataError(
            f"the column {name!r} is {kind}, for which Delta has no type",
            where="publish.format",
            fix="give it as text or as a number in the source, or set publish.format to parquet",
        )
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_delta_type(name, kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_delta_type(name, kind.key_type), _delta_type(name, kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _delta_type(name, field.type)) for field in kind.fields])
    if pa.types.is_dictionary(kind):
        return _delta_type(name, kind.value_type)
    return pa.timestamp("us", kind.tz) if pa.types.is_timestamp(kind) else _INSTEAD.get(kind, kind)


def _fit(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    """The column in the table's type; None where that is another kind of value, or a value would change."""
    own = column.type
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    alike = any(any(test(own) for test in group) and any(test(kind) for test in group) for group in (numbers, texts))
    if not alike and own.id != kind.id and not (pa.types.is_nested(own) and pa.types.is_nested(kind)):
        return None
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return None
