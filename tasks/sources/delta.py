"""Delta tables: the files of one version as its log has them, without the rows that were deleted since they were written.

Globbing a table's Parquet would read deleted and replaced rows too. The log is read by deltalake (extra ``delta``), the
files by the reader of Parquet. A version is resolved once, when the source is listed; what counts for identity are its
files and deletion vectors, so that a version without new rows is no new source. Columns that the table is partitioned by
come as text, like those of ``key=value`` directories.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from augmill.tasks.errors import DataError, StoreError, UserError

from .columnar import Parquet
from .options import Batch, Reader, SourceFile, SourceOptions
from .storage import ask, connect, is_remote, split_uri

if TYPE_CHECKING:
    from deltalake import DeltaTable

LOG = "_delta_log"
# Features of the protocol that change nothing, or what is heeded here. Names of columns that differ from those in the
# files (column mapping) are not.
_FEATURES = {"deletionVectors", "timestampNtz", "typeWidening", "v2Checkpoint", "vacuumProtocolCheck", "columnMapping"}


class Delta(Reader):
    """A file of a table: Parquet, without the rows that its deletion vector names."""

    VERSION = 2  # as Parquet's
    noun = "row"

    def columns(self, file: SourceFile, options: SourceOptions) -> list[str]:
        return Parquet().columns(file, options)

    def schema(self, files: Sequence[SourceFile], options: SourceOptions) -> pa.Schema:
        return Parquet().schema(files, options)

    def batches(self, file: SourceFile, options: SourceOptions, schema: pa.Schema) -> Iterator[Batch]:
        for batch in Parquet().batches(file, options, schema):
            yield _without_deleted(batch, file.kept) if file.kept else batch

    def sample(self, file: SourceFile, options: SourceOptions, count: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for batch in self.batches(file, options, self.schema([file], options)):
            rows += batch.table.slice(0, count - len(rows)).to_pylist()
            if len(rows) >= count:
                break
        return rows


def _without_deleted(batch: Batch, kept: bytes) -> Batch:
    def stands(location: str) -> bool:
        at = int(location.removeprefix("row ")) - 1
        return at >= 8 * len(kept) or bool(kept[at // 8] >> at % 8 & 1)

    mask = pa.array([stands(location) for location in batch.locations.to_pylist()], pa.bool_())
    refused = [row for row in batch.refused if stands(row.location)]
    return Batch(batch.table.filter(mask), batch.locations.filter(mask), refused, batch.repaired)


def is_delta(path: str) -> bool:
    """Whether the path is the root of a Delta table."""
    if not is_remote(path):
        try:
            return (Path(path).expanduser() / LOG).is_dir()
        except OSError:  # a path that may not be read, or is none: listing it says so
            return False
    import obstore

    bucket, key = split_uri(path.rstrip("/"))
    if has_magic(key):
        return False
    return bool(ask(path, lambda: next(iter(obstore.list(connect(bucket), f"{key}/{LOG}".lstrip("/"))), [])))


def list_delta(options: SourceOptions) -> list[SourceFile]:
    """The files of the table's version (``options.version``, else the newest), as old as they are.

    A later append so adds rows at the end, and a new label shifts no id. Raises UserError for no table, no such version,
    and what of the protocol is not read here; DataError where a file is gone or there is no row.
    """
    path = options.path.rstrip("/") or options.path
    if not is_delta(path):
        problem = f"expected a Delta table, found no {LOG} in it"
        raise UserError(problem, where=options.path, fix="name the table's own directory, or correct source.format")
    root = "/".join(split_uri(path)) if is_remote(path) else str(Path(path).expanduser().absolute())
    with _explained(root):
        table = _open(root, options.version)
        _require_readable(table, root)
        actions = _actions(table)
        vectors = pa.table(table.deletion_vectors()).to_pylist()
    kept = {_name(row["filepath"], root): _packed(row["selection_vector"]) for row in vectors}
    actions.sort(key=lambda action: (action["modification_time"], action["path"]))
    files = [_source_file(action, root, table.version(), kept) for action in actions]
    if not files:
        raise DataError("expected rows, found an empty table", where=root, fix="write rows into it")
    return files


def _open(root: str, version: int | None) -> DeltaTable:
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise UserError(
            "this is a Delta table, and deltalake, the library that reads its log, is not installed",
            where=root,
            fix="pip install 'augmill[delta]', or export the table's current rows to plain Parquet",
        ) from None
    # Such as MinIO in one's own network; as the store has it.
    http = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    settings = {"allow_http": "true"} if http else None
    try:
        return DeltaTable(root, version=version, storage_options=settings)
    except DeltaError:
        if version is None:
            raise
        newest = DeltaTable(root, storage_options=settings).version()
        raise UserError(
            f"there is no version {version}; the newest is {newest}",
            where=root,
            fix="correct source.version, or leave it out; old versions disappear when the table's log is cleaned up",
        ) from None


def _actions(table: DeltaTable) -> list[dict[str, Any]]:
    """path, size_bytes, modification_time and partition of each file; not the statistics, which are large."""
    found = pa.table(table.get_add_actions())
    names = ("path", "size_bytes", "modification_time")
    values = found["partition"].to_pylist() if "partition" in found.column_names else [{}] * found.num_rows
    return [row | {"partition": value} for row, value in zip(found.select(names).to_pylist(), values, strict=True)]


def _require_readable(table: DeltaTable, root: str) -> None:
    protocol, mapping = table.protocol(), table.metadata().configuration.get("delta.columnMapping.mode", "none")
    unknown = sorted(set(protocol.reader_features or []) - _FEATURES)
    if mapping != "none":
        unknown.append(f"column mapping by {mapping}")
    if unknown:
        raise UserError(
            f"the table uses features that Augmill cannot read: {', '.join(unknown)}",
            where=root,
            fix="write a copy without them, or export its current rows to plain Parquet",
        )


def _name(uri: str, root: str) -> str:
    """The file's place in the table, of an address as the library gives it."""
    plain = uri.removeprefix("file://")
    return plain.removeprefix(root).lstrip("/")


def _packed(keep: Sequence[bool]) -> bytes:
    """A bit a row, the lowest first; rows beyond the end stand, so the last byte is filled with ones."""
    mask = pa.array([*keep, *[True] * (-len(keep) % 8)], pa.bool_())
    return bytes(mask.buffers()[1])[: len(mask) // 8]


def _source_file(action: dict[str, Any], root: str, version: int, kept: dict[str, bytes]) -> SourceFile:
    name = unquote(action["path"])
    if "://" in name or name.startswith("/") or ".." in name.split("/"):
        fix = "copy the whole table (a shallow clone holds only addresses)"
        raise UserError(f"a file of the table lies outside of it: {name}", where=root, fix=fix)
    if not is_remote(root):
        found = Path(root, name)
        if not found.is_file():
            problem = f"version {version} needs a file that is gone, perhaps removed by a VACUUM: {name}"
            raise DataError(problem, where=root, fix="read a newer version (source.version), or restore the file")
        if not found.resolve().is_relative_to(Path(root).resolve()):
            raise UserError("a link leads out of the table", where=str(found), fix="copy the file into the table")
    partition = {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in action["partition"].items()
        if value is not None
    }
    mask = kept.get(name, b"")
    deleted = hashlib.sha256(mask).hexdigest()[:16] if mask else "none"
    stamp = f"delta-{action['size_bytes']}-{action['modification_time']}-{deleted}"
    return SourceFile(
        f"{root}/{name}", name, "delta", "none", action["size_bytes"], partition, stamp, kept=mask, version=version
    )


@contextmanager
def _explained(root: str) -> Iterator[None]:
    """Turns what deltalake raises into the exception tree."""
    try:
        yield
    except (UserError, DataError):
        raise
    except OSError as error:
        raise StoreError("the table's log could not be fetched", where=root, fix="try again") from error
    except Exception as error:
        from deltalake.exceptions import DeltaError

        if not isinstance(error, DeltaError):
            raise
        problem = str(error).splitlines()[0][:300]
        raise DataError(f"the table's log cannot be read: {problem}", where=root, fix="restore its log") from error
