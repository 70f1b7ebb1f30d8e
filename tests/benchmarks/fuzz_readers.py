"""Damaged files through the fast and the slow reader of CSV and JSON Lines. Prints a table; exits with 1 at a difference.

    python tests/benchmarks/fuzz_readers.py [--files 10000] [--seed 1] [--only NUMBER] [--seen digests.txt]

The slow reader is the definition: lines by TextIOWrapper, records by csv and json. Both are given the same file and
must give the same columns and types, rows, places, refused rows with their words and repairs, or the same error.
Blocks are of 64 bytes to 256 KiB, so that the two take turns within a file. ``--seen`` appends a line with the hash of what
each file gave, Parquet's too: run by two versions of Augmill, the two lists must be equal.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_inputs import BYTES, PIECES, SOURCE_KEYS, Draw
from machine import markdown

from augmill.tasks.errors import AugmillError
from augmill.tasks.sources import SourceOptions, delimited, lines, list_files, read_batches, scan_schema

SLOW_TO_MAKE = ("giant", "packed", "keys", "lines", "random", "zeros")  # one file in 20 has one of them
TEXTS = (
    "refund my order", "café au lait", "退款 请", "naïve 😀", 'said "no"', "two\nlines", "a,b;c|d\te", "'it'", "", " ", "x" * 90,
)  # fmt: skip
NUMBERS = (0, 1, -7, 2**31, 2**53, 2**53 + 1, -(2**63), 2**63 - 1, 2**63, 10**30)
FLOATS = (0.5, -0.0, 1.0, 1e22, 9007199254740993.0, 1e-320, 3.25)
# Put between lines, or into them.
CELLS = (
    b'"a"b,c\n', b'a""b,c\n', b'"a ""b"" c",d\n', b'"', b'""', b'"a\n\nb",c\n', b"\n\n", b"\r\n", b"\r", b" \n", b",\n",
    b'x, "y"\n',
)  # fmt: skip
OBJECTS = (
    b'{"a":1}{"a":2}\n', b'{"a":\n1}\n', b'{"text":"x","text":"y"}\n', b'{"f":-0}\n', b'{"f":NaN}\n', b'{"f":1e999}\n', b"\n",
    b'{"text":"\\u0000"}\n', b'{"text":"\\ufeffx"}\n', b'{"text":"\\ud800"}\n', b'{"text":"\\ud83d\\ude00"}\n', b"[]\n",
    b'{"f":18446744073709551617}\n', b'{"n":1.0}\n', b'{"n":"1"}\n', b"{}\n", b"null\n", b'{"more":null}\n',
    b'{"\\u0061":1}\n', b'{"a":1},\n', b'{"a":[1}\n{"b":2]}\n', b'{"text":"tab\there"}\n', b'{"text":{"a":[1]}}\n',
    b'{"text":"a\\u2028b\xe2\x80\xa8c"}\n', b'{"f":9007199254740993}\n', b' {"n":3} \r\n', b'{"text":"\\\\u0000"}\n',
)  # fmt: skip


@dataclass
class Damaged:
    """A file, how it is read, in blocks of how many bytes, and what was done to it."""

    name: str
    content: bytes
    options: dict[str, Any]
    block: int
    kinds: list[str] = field(default_factory=list)


def damaged_file(seed: int, number: int, parquet: bool = False) -> Damaged:
    draw = Draw(f"readers {seed}/{number}")
    kind = draw.choice(("csv", "jsonl", "parquet") if parquet else ("csv", "jsonl"))
    rows = [_row(draw) for _ in range(draw.choice((0, 1, 3, 40, 300)))]
    content = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}[kind](draw, rows)
    made = Damaged(f"rows.{kind}", content, {}, draw.choice((64, 300, 2_000, 16_000, 256 << 10)), [kind])
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        name, made.content = _changed(draw, kind, made.content)
        made.kinds.append(name)
    if draw.random() < 0.1:
        made.name, made.content = f"{made.name}.gz", gzip.compress(made.content, 1, mtime=0)
        if draw.random() < 0.5:
            made.content = BYTES[draw.choice(("cut", "flipped"))](draw, made.content)
    for key in draw.sample(sorted(SOURCE_KEYS.keys() - {"format", "hive"}), draw.choice((0, 0, 0, 1, 2))):
        made.options[key] = draw.choice(SOURCE_KEYS[key])
    if draw.random() < 0.05:
        made.options["skip_lines"] = draw.choice((1, 5))
    return made


def _row(draw: Draw) -> dict[str, Any]:
    row: dict[str, Any] = {
        "text": " ".join(draw.choices(TEXTS, (9, 4, 4, 2, 1, 0.3, 1, 1, 1, 1, 1), k=draw.choice((0, 1, 3)))),
        "label": draw.choice(("refund", "track", "lost card")),
        "n": draw.choice(NUMBERS[:4]),
    }
    if draw.random() < 0.3:
        row["f"] = draw.choice((*FLOATS, *NUMBERS[:3]))
    if draw.random() < 0.3:
        row["flag"] = draw.choice((True, False, None))
    if draw.random() < 0.01:
        row["n"] = draw.choice((*NUMBERS, "seven", None, [1], 0.5))
    return row


def _csv(draw: Draw, rows: list[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    names = ["text", "label", "n", "f", "flag"][: draw.choice((1, 2, 5, 5))]
    how = csv.QUOTE_ALL if draw.random() < 0.2 else csv.QUOTE_MINIMAL
    ends = draw.choice(("\n", "\n", "\r\n"))
    writer = csv.writer(out, delimiter=draw.choice(",,,;\t|"), quoting=how, lineterminator=ends)
    writer.writerow(names)
    writer.writerows([row.get(name) for name in names] for row in rows)
    return out.getvalue().encode("utf-8", "surrogatepass")


def _jsonl(draw: Draw, rows: list[dict[str, Any]]) -> bytes:
    how: dict[str, Any] = {"ensure_ascii": draw.random() < 0.3, "separators": draw.choice((None, (",", ":")))}
    if draw.random() < 0.1:
        rows = [{**row, "inner": {"a": [1]}} for row in rows]
    return b"".join(json.dumps(row, **how).encode() + draw.choice((b"\n", b"\n", b"\r\n")) for row in rows)


def _parquet(draw: Draw, rows: list[dict[str, Any]]) -> bytes:
    columns: dict[str, Any] = {"text": pa.array([row["text"] for row in rows], pa.string())}
    columns["label"] = pa.array([row["label"] for row in rows], pa.string())
    columns["at"] = pa.array(range(len(rows)), pa.int64())
    if draw.random() < 0.3:
        raw = [draw.choice((b"ok", b"\xff", b"\xef\xbb\xbfx", b"a\x00")) for _ in rows]
        columns["raw"] = pa.array(raw, pa.binary()).view(pa.string())
    if draw.random() < 0.3:
        columns["list"] = pa.array([[row["text"]] for row in rows], pa.list_(pa.string()))
    out = io.BytesIO()
    codec, size = draw.choice(("none", "zstd", "snappy")), draw.choice((7, 1000))
    dictionary, version = draw.random() < 0.5, draw.choice(("1.0", "2.0"))
    pq.write_table(
        pa.table(columns),
        out,
        compression=codec,
        row_group_size=size,
        use_dictionary=dictionary,
        data_page_version=version,
    )
    return out.getvalue()


def _changed(draw: Draw, kind: str, content: bytes) -> tuple[str, bytes]:
    own = {"csv": CELLS, "jsonl": OBJECTS}.get(kind, ())
    what = draw.choice(("own", "own", "piece", "bytes")) if own else "bytes"
    if what == "own":
        at = content.split(b"\n")
        for _ in range(draw.choice((1, 1, 4))):
            at.insert(draw.randrange(len(at) + 1), draw.choice(own).removesuffix(b"\n"))
        return "a line put in", b"\n".join(at)
    if what == "piece":
        piece, times = draw.choice((*PIECES, *own)), draw.choice((1, 1, 5))
        for _ in range(times):
            at_byte = draw.randrange(len(content) + 1)
            content = content[:at_byte] + piece + content[at_byte:]
        return "bytes put in", content
    rare = draw.random() < 0.05
    name = draw.choice([each for each in sorted(BYTES) if (each in SLOW_TO_MAKE) == rare])
    return name, BYTES[name](draw, content)


@contextlib.contextmanager
def reading(block: int, fast: bool) -> Iterator[None]:
    """With blocks of so many bytes, or by the slow reader alone."""
    before = lines.BLOCK, lines.BLOCK_CODEC, delimited.WIDE
    lines.BLOCK, lines.BLOCK_CODEC, delimited.WIDE = block, lines.BLOCK_CODEC if fast else "", 0
    try:
        yield
    finally:
        lines.BLOCK, lines.BLOCK_CODEC, delimited.WIDE = before


def everything(file: Path, options: dict[str, Any]) -> dict[str, Any]:
    """All that a reader gives for a file: what it read, or how it failed."""
    found: dict[str, Any] = {}
    try:
        chosen = SourceOptions(path=str(file), **options)
        (source,) = list_files(chosen)
        schema = scan_schema([source], chosen)
        found["schema"] = [(each.name, str(each.type), repr(each.metadata)) for each in schema]
        batches = list(read_batches(source, chosen, schema=schema))
        table = pa.concat_tables([batch.table for batch in batches])
        found["rows"] = repr(table.cast(pa.schema([_as_bytes(each) for each in table.schema])).to_pylist())
        found["places"] = [place for batch in batches for place in batch.locations.to_pylist()]
        found["refused"] = [(row.location, row.reason, row.detail) for batch in batches for row in batch.refused]
        found["repaired"] = dict(sum((Counter(batch.repaired) for batch in batches), Counter()))
    except AugmillError as error:
        said = str(error).replace(str(file.parent), "")
        # Both are looked at when a batch ends, and the fast reader's end elsewhere: the counts are of that moment.
        if "different keys in" in said or "rows are refused; the last" in said:
            said = re.sub(r"[\d,]+", "", said)
        found["error"] = [type(error).__name__, said]
    except ValueError as error:  # of the options
        found["error"] = [type(error).__name__, str(error)]
    return found


def _as_bytes(each: pa.Field) -> pa.Field:
    """What is no UTF-8 has no Python string; a refused cell of Parquet may not have been one."""
    return pa.field(each.name, pa.binary()) if pa.types.is_string(each.type) else each


def compare(file: Damaged, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the fast and the slow reader give."""
    path = folder / file.name
    path.write_bytes(file.content)
    try:
        with reading(file.block, fast=True):
            fast = everything(path, file.options)
        with reading(file.block, fast=False):
            return fast, everything(path, file.options)
    finally:
        path.unlink()


def _digests(seed: int, numbers: range, folder: Path, sink: Path) -> None:
    """A line a file. In children: a damaged Parquet file may end a process, from within pyarrow (26.0)."""
    at = numbers.start
    while at < numbers.stop:
        child = os.fork()
        if not child:
            for number in range(at, numbers.stop):
                _append_digest(seed, number, folder, sink)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        done = int(sink.read_text(encoding="utf-8").splitlines()[-1].split()[0]) + 1 if sink.exists() else at
        if status:
            with sink.open("a", encoding="utf-8") as out:
                out.write(f"{done} died\n")
        at = done + bool(status)


def _append_digest(seed: int, number: int, folder: Path, sink: Path) -> None:
    file = damaged_file(seed, number, parquet=True)
    path = folder / file.name
    path.write_bytes(file.content)
    said = json.dumps(everything(path, file.options), default=str)
    with sink.open("a", encoding="utf-8") as out:
        out.write(f"{number} {'+'.join(file.kinds)} {hashlib.sha256(said.encode()).hexdigest()[:16]}\n")
    path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description="Damaged files through the fast and the slow reader.")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one file, by its number, with both results")
    parser.add_argument("--seen", type=Path, help="append what this version gives, as a hash a file; compare nothing")
    given = parser.parse_args()
    numbers = range(given.files) if given.only is None else range(given.only, given.only + 1)
    with tempfile.TemporaryDirectory(prefix="augmill-readers-") as folder:
        if given.seen is not None:
            _digests(given.seed, numbers, Path(folder), given.seen)
            return
        ends, differ = Counter[tuple[str, str]](), list[int]()
        for number in numbers:
            file = damaged_file(given.seed, number)
            fast, slow = compare(file, Path(folder))
            ends[
                file.kinds[0], "an error" if "error" in slow else "refused rows" if slow["refused"] else "all rows"
            ] += 1
            if fast != slow:
                differ.append(number)
                print(
                    f"{number} ({', '.join(file.kinds)}, {file.options}, block {file.block}) differs", file=sys.stderr
                )
                for key in sorted(key for key in {*fast, *slow} if fast.get(key) != slow.get(key)):
                    for name, found in (("fast", fast), ("slow", slow)):
                        print(f"  {key}, {name}: {str(found.get(key))[:600]}", file=sys.stderr)
    names = ("all rows", "refused rows", "an error")
    kinds = sorted({kind for kind, _ in ends})
    print(markdown(["file", *names], [[kind, *(f"{ends[kind, name]:,}" for name in names)] for kind in kinds]))
    print(f"\n{sum(ends.values()):,} files, {len(differ):,} differ")
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
