"""Files that are values of rows: those of a directory that is read as one, and those that the texts of a table name.

They count for identity as a source's own files do: by the sha256 of what is in them, noted under their stamp. What is
read must bear the stamp that was hashed.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from augmill.tasks.boundary.retries import in_threads
from augmill.tasks.errors import ConflictError
from augmill.tasks.rows.kinds.media import RELEASED

from .listing import local_stamp, remote_stamp
from .options import Batch, Member, RefusedRow, SourceFile, SourceOptions
from .storage import ask, connect, is_key, is_remote, reaching, split_uri

BATCH_BYTES = 32 << 20  # of files in one batch, but for a larger one alone
AT_ONCE = 16  # objects asked of a bucket at once, of 30 ms each
LOOKED_AT = 256  # so many, and no more bytes than a batch has, are held while they are hashed


def read_files(members: Sequence[Member]) -> list[bytes]:
    """What is in each, in order. Raises ConflictError where one is no longer what was listed, and WorldError."""
    if not members or not is_remote(members[0].uri):
        return [_read_local(member) for member in members]
    return in_threads(_read_remote, members, AT_ONCE)


def _read_local(member: Member) -> bytes:
    with reaching(member.uri):
        try:
            with Path(member.uri).open("rb", buffering=0) as stream:
                status, data = os.fstat(stream.fileno()), b""
                if local_stamp(status) == member.stamp:
                    data = stream.readall()
        except FileNotFoundError:
            raise _changed(member) from None
    if local_stamp(status) != member.stamp or len(data) != member.size:
        raise _changed(member)
    return data


def _read_remote(member: Member) -> bytes:
    import obstore

    bucket, key = split_uri(member.uri)

    def get() -> tuple[Any, bytes]:
        found = obstore.get(connect(bucket), key)
        return found.meta, bytes(found.bytes())

    meta, data = ask(member.uri, get)
    if remote_stamp(meta) != member.stamp:
        raise _changed(member)
    return data


def _changed(member: Member) -> ConflictError:
    fix = "run it again once nothing is being written there; writers should rename finished files into place"
    return ConflictError("the file changed while it was read", where=member.uri, fix=fix)


def in_parts(sizes: Sequence[int], most_rows: int) -> Iterator[slice]:
    """Stretches of rows whose files have together about ``BATCH_BYTES``, one row at least."""
    start = held = 0
    for at, size in enumerate(sizes):
        if at > start and (held + size > BATCH_BYTES or at - start >= most_rows):
            yield slice(start, at)
            start, held = at, 0
        held += size
    if start < len(sizes):
        yield slice(start, len(sizes))


def too_large(member: Member, options: SourceOptions) -> str:
    """What to say of a file that is larger than a picture or sound may be; nothing where it is not."""
    most = options.max_file_bytes
    return f"{member.size:,} bytes, at most {most:,} are allowed" if member.size > most else ""


def hash_members(
    members: Sequence[Member], options: SourceOptions, known: Callable[[Member], str | None]
) -> Iterator[tuple[Member, str]]:
    """Each with the sha256 of what is in it, or with why it is not read. ``known``: what was noted of it before."""
    held, size = list[Member](), 0

    def read() -> Iterator[tuple[Member, str]]:
        hashes = (hashlib.sha256(data).hexdigest() for data in read_files(held))
        yield from zip(held, hashes, strict=True)
        held.clear()

    for member in members:
        reason = member.reason or (f"file_too_large:{member.size}" if too_large(member, options) else "")
        if found := reason or known(member):
            yield member, found
            continue
        held.append(member)
        size += member.size
        if len(held) >= LOOKED_AT or size >= BATCH_BYTES:
            yield from read()
            size = 0
    yield from read()


# --- Files that lie beside a table -------------------------------------------------------------------------------------


def name_files(
    files: Sequence[SourceFile], options: SourceOptions, columns: Sequence[str], most: int | None = None
) -> list[SourceFile]:
    """The source's files, those with the files that the texts of their ``columns`` name, if any.

    Names are relative to the table's directory, and lead nowhere outside of the source's. ``most``: of so many first
    rows. Raises DataError for a table that cannot be read.
    """
    from . import read_batches, sample_rows, scan_schema

    out = []
    for file in files:
        if not columns or file.members:
            out.append(file)
            continue
        schema = scan_schema([file], options)
        named = tuple(name for name in columns if name in schema.names and pa.types.is_string(schema.field(name).type))
        names: dict[str, None] = {}
        if named and most is not None:
            rows = sample_rows(file, options, most)
            names = dict.fromkeys(row[name] for row in rows for name in named if row.get(name))
        elif named:
            for batch in read_batches(file, options, list(named), schema=schema):
                texts = (text for column in batch.table.columns for text in column.unique().to_pylist())
                names |= dict.fromkeys(text for text in texts if text)
        beside = (_Bucket if is_remote(file.uri) else _Directory)(file)
        found = tuple(beside.look(name) for name in names if isinstance(name, str))
        out.append(replace(file, named=named, members=found) if named else file)
    return out


@dataclass
class _Directory:
    """Where the files lie that a table names, on a disk."""

    file: SourceFile
    above: dict[str, bool] = field(default_factory=dict)  # directory: whether it lies in the source's

    def __post_init__(self) -> None:
        uri, name = self.file.uri, self.file.name
        self.root = uri[: len(uri) - len(name)] or "."
        self.base = self.root if self.file.format == "delta" else os.path.dirname(uri)  # noqa: PTH120 - "" stays
        self.real = os.path.realpath(self.root)

    def look(self, name: str) -> Member:
        path = os.path.normpath(os.path.join(self.base, name))  # noqa: PTH118 - a Path costs 10 times more
        if "\0" in name:
            return Member(name, "", 0, "", "no_such_file")
        directory = os.path.dirname(path)  # noqa: PTH120
        if directory not in self.above:
            self.above[directory] = self._holds(directory)
        if name.startswith("/") or "://" in name or not self.above[directory]:
            return Member(name, "", 0, "", "outside_source")
        with reaching(path):
            try:
                link = stat.S_ISLNK(os.lstat(path).st_mode)
                status = os.stat(path)  # noqa: PTH116
            except PermissionError:
                raise
            except OSError:  # also too long a name, a link that leads to itself, a file on the way
                return Member(name, "", 0, "", "no_such_file")
        reason = "outside_source" if link and not self._holds(path) else ""
        reason = reason or ("" if stat.S_ISREG(status.st_mode) else "no_such_file")
        return Member(name, "", 0, "", reason) if reason else Member(name, path, status.st_size, local_stamp(status))

    def _holds(self, path: str) -> bool:
        return posixpath.commonpath([self.real, os.path.realpath(path)]) == self.real


@dataclass
class _Bucket:
    """As ``_Directory``, in an object store: each directory that a name leads to is listed once."""

    file: SourceFile
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bucket, key = split_uri(self.file.uri)
        self.root = key[: len(key) - len(self.file.name)].rstrip("/")
        self.base = self.root if self.file.format == "delta" else posixpath.dirname(key)

    def look(self, name: str) -> Member:
        key = posixpath.normpath(posixpath.join(self.base, name))
        within = not self.root or key.startswith(f"{self.root}/")
        if name.startswith("/") or "://" in name or not within or key.split("/")[0] == "..":
            return Member(name, "", 0, "", "outside_source")
        directory, _, _ = key.rpartition("/")
        if not is_key(key):
            return Member(name, "", 0, "", "no_such_file")
        if directory not in self.listed:
            self.listed[directory] = self._list(directory)
        meta = self.listed[directory].get(key)
        if meta is None:
            return Member(name, "", 0, "", "no_such_file")
        return Member(name, f"{self.bucket}/{key}", int(meta["size"]), remote_stamp(meta))

    def _list(self, directory: str) -> dict[str, Any]:
        import obstore

        uri, store = f"{self.bucket}/{directory}", connect(self.bucket)
        found = ask(uri, lambda: obstore.list_with_delimiter(store, directory or None))
        return {str(meta["path"]): meta for meta in found["objects"]}


def fill(batch: Batch, file: SourceFile, options: SourceOptions, known: dict[str, Member]) -> Iterator[Batch]:
    """The batch with files instead of their names, in parts of a bounded size; ``known``: the file's members by name.

    A row is refused whose file is not there, lies outside of the source or is too large; no name is no file.
    """
    named = [name for name in file.named if name in batch.table.column_names]
    cells = {name: batch.table[name].to_pylist() for name in named}
    bad: dict[int, RefusedRow] = {}
    sizes = [0] * batch.table.num_rows
    for column, texts in cells.items():
        for at, text in enumerate(texts):
            member = known[text] if text else None
            if member is None or at in bad:
                continue
            large = too_large(member, options)
            if reason := member.reason or ("file_too_large" if large else ""):
                said = f"column {column!r}: {text!r}{f', {large}' if large else ''}"
                bad[at] = RefusedRow(batch.locations[at].as_py(), reason, said)
            sizes[at] += member.size
    kept = [at for at in range(len(sizes)) if at not in bad]
    table, locations = batch.table.take(pa.array(kept, pa.int64())), batch.locations.take(pa.array(kept, pa.int64()))
    refused, repaired = [*batch.refused, *bad.values()], batch.repaired
    for part in in_parts([sizes[at] for at in kept], len(kept)) if kept else [slice(0, 0)]:
        rows = table.slice(part.start, part.stop - part.start)
        for name in named:
            texts = [cells[name][at] or None for at in kept[part]]
            held = [known[text] for text in texts if text]
            data = iter(read_files(held))
            files = pa.array(
                [None if text is None else {"bytes": next(data), "path": text} for text in texts], RELEASED
            )
            rows = rows.set_column(rows.column_names.index(name), pa.field(name, RELEASED), files)
        yield Batch(rows, locations.slice(part.start, part.stop - part.start), refused, repaired)
        refused, repaired = [], {}
