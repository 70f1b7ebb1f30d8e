"""WebDataset: tars whose files of one base name are a sample, a column an extension.

``jpg``, ``png``, ``wav`` and their like are files, the keys of ``json`` are columns, what else is text is text. A tar is
read once through, and nothing is unpacked to the disk, so that a name cannot lead anywhere. tarfile ends in silence at a
header that is damaged or cut, and at the end mark of the first of two joined tars; here all of these are damage.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, BinaryIO

import pyarrow as pa

from augmill.tasks.errors import DataError
from augmill.tasks.rows.kinds.media import RELEASED

from .batching import BATCH_ROWS, make_batch, unify
from .folder import ENDINGS
from .jsonl import ColumnSeen, convert, parse_row
from .lines import open_plain
from .magic import foreign
from .members import BATCH_BYTES
from .options import Batch, Reader, SourceFile, SourceOptions
from .repair import Refusal, mend

BLOCK = 512
KEY = "__key__"  # as the library webdataset calls it
LONGEST_NAME = 1 << 20  # bytes of a header that holds a name
_TEXTS = {"txt", "text", "transcript", "caption", "cls", "cls2", "class", "label", "count", "index", "inx", "id"}
_CHUNK = 1 << 20


@dataclass
class TarSample:
    """The files of one base name that follow each other. ``refusal``: why they make no row."""

    key: str
    files: dict[str, bytes] = field(default_factory=dict)
    size: int = 0
    refusal: Refusal | None = None


class WebDataset(Reader):
    """``VERSION`` counts with what counts as a column."""

    VERSION = 1
    noun = "sample"

    def columns(self, file: SourceFile, options: SourceOptions) -> list[str]:
        return list(self.schema([file], options).names)

    def schema(self, files: Sequence[SourceFile], options: SourceOptions) -> pa.Schema:
        return unify([_schema_of(_Key(file), options) for file in files], files)

    def batches(self, file: SourceFile, options: SourceOptions, schema: pa.Schema) -> Iterator[Batch]:
        repaired, rows, numbers = Counter[str](), list[dict[str, Any]](), list[int]()
        refused, size, first = list[tuple[int, Refusal]](), 0, True
        for number, sample in enumerate(_samples(file, options, set(schema.names)), 1):
            row = _row_of(sample, options, repaired)
            if isinstance(row, Refusal):
                refused.append((number, row))
            else:
                rows.append(row)
                numbers.append(number)
            size += sample.size
            if len(numbers) + len(refused) >= BATCH_ROWS or size >= BATCH_BYTES:
                yield _batch(rows, schema, numbers, refused, repaired)
                rows, numbers, refused, size, first = [], [], [], 0, False
        if first or numbers or refused:
            yield _batch(rows, schema, numbers, refused, repaired)

    def sample(self, file: SourceFile, options: SourceOptions, count: int) -> list[dict[str, Any]]:
        """The first samples, of one batch at most."""
        batch = next(self.batches(file, options, self.schema([file], options)))
        rows: list[dict[str, Any]] = batch.table.slice(0, count).to_pylist()
        return rows


def _batch(
    rows: list[dict[str, Any]],
    schema: pa.Schema,
    numbers: list[int],
    refused: list[tuple[int, Refusal]],
    repaired: Counter[str],
) -> Batch:
    bad: dict[int, Refusal] = {}
    arrays = []
    for column in schema:
        values = [row.get(column.name) for row in rows]
        plain = pa.types.is_struct(column.type) or pa.types.is_binary(column.type)
        arrays.append(pa.array(values, column.type) if plain else convert(values, column, bad))
    return make_batch(
        pa.table(arrays, names=schema.names), "sample", numbers, refused, repaired, dict(sorted(bad.items()))
    )


def _row_of(sample: TarSample, options: SourceOptions, repaired: Counter[str]) -> dict[str, Any] | Refusal:
    """The sample's values by column."""
    if sample.refusal is not None:
        return sample.refusal
    row: dict[str, Any] = {KEY: sample.key}
    for name, data in sample.files.items():
        if _is_file(name):
            row[name] = {"bytes": data, "path": f"{sample.key}.{name}"}
        elif name == "json" or name in _TEXTS:
            value = _text(name, data, options, repaired)
            if isinstance(value, Refusal):
                return value
            row = row | value if isinstance(value, dict) else row | {name: value}
        else:
            row[name] = data
    return row


def _text(name: str, data: bytes, options: SourceOptions, repaired: Counter[str]) -> dict[str, Any] | str | Refusal:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return Refusal("invalid_encoding", f"{name!r}: not UTF-8 at byte {error.start}")
    if name != "json":
        return mend(text.strip(), options, repaired)
    found = parse_row(text, options, repaired)
    return found if found is not None else Refusal("bad_json", "'json' is empty")


def _is_file(name: str) -> bool:
    return name.rpartition(".")[2] in ENDINGS


# --- Columns -----------------------------------------------------------------------------------------------------------


class _Key:
    """A tar by what changes when it does."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.said = (file.uri, file.size, file.stamp or id(file))

    def __hash__(self) -> int:
        return hash(self.said)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.said == other.said


@lru_cache(maxsize=256)  # a pass over the tar, and a stage asks for it thrice
def _schema_of(key: _Key, options: SourceOptions) -> pa.Schema:
    """From every sample: as of JSON Lines, the types of ``json``'s keys hang on all of them."""
    columns, seen = {KEY: pa.field(KEY, pa.string())}, dict[str, ColumnSeen]()
    for sample in _samples(key.file, options, set()):
        for name, data in sample.files.items():
            if name != "json":
                kind = RELEASED if _is_file(name) else pa.string() if name in _TEXTS else pa.binary()
                columns.setdefault(name, pa.field(name, kind))
                continue
            found = _text(name, data, options, Counter())
            for inner, value in (found if isinstance(found, dict) else {}).items():
                seen.setdefault(inner, ColumnSeen()).add([value])
    if clash := next((name for name in seen if name in columns), None):
        problem = f"'json' has a key {clash!r}, as a file's extension is called"
        raise DataError(problem, where=key.file.uri, fix="give the key another name")
    return pa.schema([*columns.values(), *(column.field(name) for name, column in seen.items())])


# --- The files of a tar ------------------------------------------------------------------------------------------------


def _samples(file: SourceFile, options: SourceOptions, wanted: set[str]) -> Iterator[TarSample]:
    """``wanted``: the columns whose files are read; of others, but for ``json``, only that they are there."""
    held: TarSample | None = None
    with _opened(file, options) as tar:
        for info in tar.files():
            directory, slash, base = info.name.rpartition("/")
            if info.isdir() or base.startswith(".") or "__MACOSX" in directory:
                continue
            stem, _, name = base.partition(".")
            key, name = f"{directory}{slash}{stem}", name.lower()
            if held is not None and key != held.key:
                yield held
                held = None
            held = held or TarSample(key)
            refusal = _why_refused(info, name, held, options)
            held.refusal = held.refusal or refusal
            if refusal is None:
                held.files[name] = tar.read(info.size) if name in wanted or name == "json" else b""
                held.size += len(held.files[name])
    if held is not None:
        yield held


def _why_refused(info: tarfile.TarInfo, name: str, sample: TarSample, options: SourceOptions) -> Refusal | None:
    if info.name.startswith("/") or ".." in info.name.split("/") or "\0" in info.name:
        return Refusal("outside_source", f"{info.name!r}")
    if not info.isreg() or info.issparse():
        return Refusal("bad_sample", f"{info.name!r} is a link or device, no plain file")
    if not name or name in sample.files or name == KEY:
        return Refusal("bad_sample", f"{info.name!r} {'stands twice' if name in sample.files else 'has no extension'}")
    try:
        info.name.encode()
    except UnicodeEncodeError:
        return Refusal("invalid_encoding", f"the name {info.name!a} is no UTF-8")
    long = name == "json" or name in _TEXTS
    most = options.max_cell_bytes if long else options.max_file_bytes
    if info.size <= most:
        return None
    found = f"{info.name!r}: {info.size:,} bytes, at most {most:,} are allowed"
    return Refusal("cell_too_long" if long else "file_too_large", found)


@contextmanager
def _opened(file: SourceFile, options: SourceOptions) -> Iterator[_Tar]:
    with open_plain(file, options) as stream:
        yield _Tar(stream, file)


class _Tar:
    """One pass over a tar's files. ``at``: bytes so far; ``left``: of the last file, with what fills its block."""

    def __init__(self, stream: BinaryIO, file: SourceFile) -> None:
        self.stream, self.file, self.at, self.left = stream, file, 0, 0
        self.last = ""

    def files(self) -> Iterator[tarfile.TarInfo]:
        """Each file's header; raises DataError for a tar that is damaged, cut short, or goes on behind its end."""
        name: str | None = None
        size: int | None = None
        while (info := self._header()) is not None:
            self.left = -(-info.size // BLOCK) * BLOCK
            if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                if info.size > LONGEST_NAME:
                    raise self._damaged(f"a name of {info.size:,} bytes")
                data = self.read(info.size)
                if info.type == tarfile.GNUTYPE_LONGNAME:
                    name = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
                else:
                    said = _pax(data)
                    name = said.get("path", name)
                    size = int(said["size"]) if said.get("size", "").isdecimal() else size
            elif info.type not in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
                info.name, info.size = name or info.name, info.size if size is None else size
                self.left = -(-info.size // BLOCK) * BLOCK if info.isreg() else 0
                name = size = None
                self.last = info.name
                yield info
            self._skip(self.left)

    def _header(self) -> tarfile.TarInfo | None:
        block = self.stream.read(BLOCK)
        if len(block) < BLOCK:
            raise self._damaged("its end mark is missing" if not block and self.at else "it is cut short")
        if not any(block):
            self._require_end()
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            found = foreign(block) if not self.at else None
            if found is not None:
                raise DataError(f"expected a tar, found {found[0]}", where=self.file.uri, fix=found[1]) from error
            raise self._damaged(f"no header of a file ({error})") from error
        if info.size < 0:
            raise self._damaged(f"a file of {info.size:,} bytes")
        self.at += BLOCK
        return info

    def _require_end(self) -> None:
        while block := self.stream.read(_CHUNK):
            if any(block):
                raise self._damaged("more stands behind its end mark, as where two tars were joined")

    def read(self, size: int) -> bytes:
        """The beginning of the file whose header came last."""
        data = self.stream.read(size)
        if len(data) < size:
            raise self._damaged("it is cut short")
        self.at, self.left = self.at + size, self.left - size
        return data

    def _skip(self, size: int) -> None:
        if self.stream.seekable():
            if self.at + size > self.file.size:
                raise self._damaged("it is cut short")
            self.stream.seek(size, 1)
        else:
            left = size
            while left:
                data = self.stream.read(min(left, _CHUNK))
                if not data:
                    raise self._damaged("it is cut short")
                left -= len(data)
        self.at, self.left = self.at + size, 0

    def _damaged(self, problem: str) -> DataError:
        where = f"{self.file.uri} byte {self.at:,}"
        after = f", after {self.last!r}" if self.last else ""
        return DataError(f"the tar is damaged or cut{after}: {problem}", where=where, fix="write or upload it again")


def _pax(data: bytes) -> dict[str, str]:
    """The records ``LENGTH KEY=VALUE`` of an extended header; what is none ends them."""
    found = {}
    while data:
        length, _, rest = data.partition(b" ")
        if not length.isdigit() or len(length) > 9 or not len(length) + 2 < int(length) <= len(data):
            break
        record, data = rest[: int(length) - len(length) - 2], data[int(length) :]
        key, _, value = record.partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
    return found
