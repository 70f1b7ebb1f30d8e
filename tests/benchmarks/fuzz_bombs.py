"""Small Parquet files that would be vast when they are read, or that lie: what pyarrow writes, and what is put together by hand.

Each has the columns text and label, and mostly a third one.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

BIG = 900_000  # bytes of a text: below source.max_cell_bytes
MANY = 2_300
BYTE_ARRAY, FIXED = 6, 7
PLAIN, RLE_DICTIONARY, DELTA = 0, 8, 7
GZIP = 2


def _table(third: Any, rows: int = MANY) -> pa.Table:
    texts = [f"the parcel of order {number} is late" for number in range(rows)]
    return pa.table({"text": texts, "label": [("refund", "track")[at % 2] for at in range(rows)], "third": third})


def _written(table: pa.Table, **more: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **({"compression": "zstd"} | more))
    return out.getvalue()


def _repeated(values: list[Any], rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(values))


def _inside(values: pa.Array, rows: int) -> pa.Array:
    """One row with all of the values in a list, the others without."""
    return pa.ListArray.from_arrays(pa.array([0, *[len(values)] * rows], pa.int32()), values)


# --- by hand: Thrift's compact protocol ---------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _signed(value: int) -> bytes:
    return varint((value << 1) ^ (value >> 63))


def struct(fields: dict[int, tuple[str, Any]]) -> bytes:
    """A struct's bytes. A field's kind: i (i32), l (i64), b (bytes), s (struct), L (a list: the kind, its items)."""
    codes, out, last = {"i": 5, "l": 6, "b": 8, "L": 9, "s": 12}, b"", 0
    for number, (kind, value) in sorted(fields.items()):
        out += bytes([number - last << 4 | codes[kind]]) + _encode(kind, value)
        last = number
    return out + b"\x00"


def _encode(kind: str, value: Any) -> bytes:
    if kind in "il":
        return _signed(value)
    if kind == "b":
        return varint(len(value)) + value
    if kind == "s":
        return struct(value)
    inner, items = value
    code = {"i": 5, "l": 6, "b": 8, "s": 12}[inner]
    return bytes([0xF0 | code]) + varint(len(items)) + b"".join(_encode(inner, item) for item in items)


def page(
    content: bytes, values: int, encoding: int = PLAIN, *, unpacked: int | None = None, dictionary: bool = False
) -> bytes:
    size = len(content) if unpacked is None else unpacked
    about = {1: ("i", values), 2: ("i", encoding), 3: ("i", 3), 4: ("i", 3)}
    head = {1: ("i", 2 if dictionary else 0), 2: ("i", size), 3: ("i", len(content))}
    last = {7: ("s", {1: about[1], 2: about[2]})} if dictionary else {5: ("s", about)}
    return struct(head | last) + content


def by_hand(
    pages: list[bytes],
    values: int,
    *,
    rows: int | None = None,
    codec: int = 0,
    optional: bool = False,
    dictionary: bool = False,
    lie: dict[int, int] | None = None,
    width: int = 0,
    schema: list[dict[int, tuple[str, Any]]] | None = None,
) -> bytes:
    """A file of one column ``text`` from its pages. ``lie``: other numbers for fields of the column's metadata."""
    body = b"PAR1" + b"".join(pages)
    count = values if rows is None else rows
    kind = FIXED if width else BYTE_ARRAY
    own = {1: kind, 4: codec, 5: values, 6: len(body) - 4, 7: len(body) - 4, 9: 4 + len(pages[0]) * dictionary}
    own |= ({11: 4} if dictionary else {}) | (lie or {})
    column: dict[int, tuple[str, Any]] = {at: ("i" if at in (1, 4) else "l", value) for at, value in own.items()}
    column |= {2: ("L", ("i", [0, 3, 8])), 3: ("L", ("b", [b"text"]))}
    group = {1: ("L", ("s", [{2: ("l", 4), 3: ("s", column)}])), 2: ("l", len(body)), 3: ("l", count)}
    leaf: dict[int, tuple[str, Any]] = {1: ("i", kind), 3: ("i", int(optional)), 4: ("b", b"text")}
    leaf |= {2: ("i", width)} if width else {6: ("i", 0)}
    columns = schema or [{4: ("b", b"schema"), 5: ("i", 1)}, leaf]
    footer = struct({1: ("i", 1), 2: ("L", ("s", columns)), 3: ("l", count), 4: ("L", ("s", [group]))})
    return body + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def _gzip(size: int, head: bytes = b"") -> bytes:
    """``head`` and ``size`` times an x, packed, without ever holding them."""
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(head)] + [packer.compress(b"x" * (1 << 20)) for _ in range(size >> 20)]
    return b"".join([*parts, packer.compress(b"x" * (size % (1 << 20))), packer.flush()])


def _packed(content: bytes) -> bytes:
    return zlib.compress(content, 9, 31)


def _lengths(first: int, second: int, count: int) -> bytes:
    """``first``, then ``count - 1`` times ``second``, in DELTA_BINARY_PACKED: blocks of 128 steps, each least + some bits."""
    out = varint(128) + varint(4) + varint(count) + _signed(first)
    step = second - first
    for block in range(-(-(count - 1) // 128)):
        if block or not step:
            out += _signed(0) + bytes(4)
            continue
        width = abs(step).bit_length()  # the first step is ``step``, the others 0
        least = min(0, step)
        steps = sum((step - least if at == 0 else -least) << width * at for at in range(128))
        out += _signed(least) + bytes([width] * 4) + steps.to_bytes(width * 16, "little")
    return out


def _dictionary_run(values: int) -> bytes:
    """Indices of a required column: ``values`` times the first one."""
    return bytes([1]) + varint(values << 1) + b"\x00"


def _nulls() -> bytes:
    levels = varint((2**31 - 1) << 1) + b"\x00"
    return by_hand([page(len(levels).to_bytes(4, "little") + levels, 2**31 - 1)], 2**31 - 1, optional=True)


def _prefixes() -> bytes:
    content = _lengths(0, BIG, MANY) + _lengths(BIG, 0, MANY)  # each text shares everything with the one before
    whole = _gzip(BIG, content)
    return by_hand([page(whole, MANY, DELTA, unpacked=len(content) + BIG)], MANY, codec=GZIP)


def _dictionary_given_up() -> bytes:
    """A dictionary's text repeated, and a last page without it, as writers do where the dictionary grows too large."""
    text = _gzip(BIG, BIG.to_bytes(4, "little"))
    last = _lengths(0, 0, 1) + _lengths(1, 0, 1) + b"y"
    pages = [
        page(text, 1, unpacked=BIG + 4, dictionary=True),
        page(_packed(_dictionary_run(MANY)), MANY, RLE_DICTIONARY, unpacked=len(_dictionary_run(MANY))),
        page(_packed(last), 1, DELTA, unpacked=len(last)),
    ]
    return by_hand(pages, MANY + 1, codec=GZIP, dictionary=True)


def _deep(levels: int) -> bytes:
    groups = [{3: ("i", 1), 4: ("b", b"g"), 5: ("i", 1)}] * levels
    leaf = {1: ("i", BYTE_ARRAY), 3: ("i", 1), 4: ("b", b"leaf"), 6: ("i", 0)}
    return by_hand([page(b"", 0)], 0, schema=[{4: ("b", b"schema"), 5: ("i", 1)}, *groups, leaf])


def _short(values: int = 3, **lie: Any) -> bytes:
    return by_hand([page(b"\x01\x00\x00\x00a" * 3, values)], 3, **lie)


BOMBS: dict[str, Callable[[], bytes]] = {
    "dictionary": lambda: _written(_table(_repeated(["x" * BIG], MANY))),
    "dictionary as text": lambda: _written(
        _table([0] * MANY).set_column(0, "text", _repeated(["late parcel " * (BIG // 12)], MANY))
    ),
    "dictionary past the limit": lambda: _written(_table(_repeated(["x" * 2_000_000], MANY))),
    "dictionary in lists": lambda: _written(_table(_inside(_repeated(["x" * BIG], MANY), MANY))),
    "dictionary of bytes": lambda: _written(_table(_repeated([b"x" * BIG], MANY))),
    "dictionary in structs": lambda: _written(
        _table(pa.StructArray.from_arrays([_repeated(["x" * BIG], MANY)], ["a"]))
    ),
    "many runs": lambda: _written(_table(_repeated(["x" * 30_000], 300_000), 300_000)),
    "wide dictionary": lambda: _written(
        pa.table({f"c{at}": _repeated(["x" * BIG], 3) for at in range(1_000)} | {"text": ["a"] * 3, "label": ["b"] * 3})
    ),
    "numbers in one list": lambda: _written(_table(_inside(pa.array([1.5]).take(pa.array([0] * 20_000_000)), 10), 10)),
    "fixed width": lambda: by_hand(
        [
            page(_gzip(BIG), 1, unpacked=BIG, dictionary=True),
            page(_packed(_dictionary_run(MANY)), MANY, RLE_DICTIONARY, unpacked=len(_dictionary_run(MANY))),
        ],
        MANY,
        codec=GZIP,
        dictionary=True,
        width=BIG,
    ),
    "shared beginnings": _prefixes,
    "dictionary given up": _dictionary_given_up,
    "one page of 2 GB": lambda: by_hand(
        [page(_gzip(300 << 20, (300 << 20).to_bytes(4, "little")), 1, unpacked=2**31 - 1)], 1, codec=GZIP
    ),
    "one page of 100 MB": lambda: by_hand(
        [page(_gzip(100 << 20, (100 << 20).to_bytes(4, "little")), 1, unpacked=(100 << 20) + 4)], 1, codec=GZIP
    ),
    "2**31 nulls": _nulls,
    "rows that are not there": lambda: _short(rows=2**40),
    "more values than there are": lambda: _short(values=2**30),
    "fewer rows than values": lambda: _short(rows=1),
    "no rows": lambda: _short(rows=-1),
    "sizes too large": lambda: _short(lie={6: 2**60, 7: 2**60}),
    "sizes below zero": lambda: _short(lie={6: -1, 7: -1}),
    "an offset outside": lambda: _short(lie={9: 2**50}),
    "an offset below zero": lambda: _short(lie={9: -5}),
    "values below zero": lambda: _short(lie={5: -3}),
    "page below zero": lambda: by_hand([page(b"\x01\x00\x00\x00a", 1, unpacked=-1)], 1),
    "deep schema": lambda: _deep(5_000),
    "a deeper schema": lambda: _deep(90_000),
    "10,000 columns": lambda: _written(
        pa.table({"text": ["a b"] * 9, "label": ["x"] * 9} | {f"c{at}": [at] * 9 for at in range(10_000)})
    ),
    "much metadata": lambda: _written(_table([0] * MANY).replace_schema_metadata({"k": "v" * 8_000_000})),
    "many row groups": lambda: _written(_table([0] * MANY), row_group_size=1),
}


@cache
def bomb(name: str) -> bytes:
    return BOMBS[name]()
