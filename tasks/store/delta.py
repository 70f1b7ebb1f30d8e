"""A dataset as a Delta table beside its releases, for readers that know Delta. All of it follows from the log.

``public/<dataset>/delta`` holds copies of its own: VACUUM removes what a table does not know, so a table must not share
files with releases, nor releases with it. After each log entry the table holds the newest release, whole: one commit an
entry, with the entry's number as Delta's transaction version, so that a second try finds it done. An entry that changes
another snapshot than the newest is a commit without files. Readers go back in time by version; ``history()`` says which
release and snapshot each version is.

The least and greatest values of columns, which Delta notes of each file by default, are left out: they would outlive erased
rows in the table's log.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.tasks.errors import CorruptObject, DataError, StoreError, StoreRefused, UserError
from augmill.tasks.store.log import Log, read_log
from augmill.tasks.store.releases import require_whole
from augmill.tasks.store.store import Store, delta_key, release_key

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable


# --- Arrow tables in the types that Delta has, without a value changed on the way -------------------------------------


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
            fix="give it as a string or as a number in the source, or set publish.format to parquet",
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
    strings = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    alike = any(any(test(own) for test in group) and any(test(kind) for test in group) for group in (numbers, strings))
    if not alike and own.id != kind.id and not (pa.types.is_nested(own) and pa.types.is_nested(kind)):
        return None
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return None


# --- The table --------------------------------------------------------------------------------------------------------


APP = "augmill"  # Delta's application id: its transaction version is the number of a log entry
_NO_STATISTICS = {"delta.dataSkippingNumIndexedCols": "0"}


def require_deltalake() -> None:
    """Raises UserError where the extra is not installed: before the night's work, not after it."""
    try:
        import deltalake  # noqa: F401
    except ImportError:
        raise UserError(
            "`format: delta` needs the library deltalake, which is not installed here",
            where="publish.format",
            fix="pip install 'augmill[delta]', or set publish.format to parquet",
        ) from None


def delta_uri(store: Store, dataset: str) -> str:
    """Where readers find the table."""
    return f"{store.root.rstrip('/')}/{delta_key(dataset)}"


def has_delta(store: Store, dataset: str) -> bool:
    return bool(store.list_keys(f"{delta_key(dataset)}/_delta_log"))


def sync_delta(store: Store, dataset: str) -> int:
    """Commits what the table lacks of the log, entry by entry; returns the table's version.

    Several may call it at once: who is second to a number finds it done. Raises UserError without the library, DataError
    for a column that Delta has no type for, CorruptObject for a release that is gone or rotted, StoreError otherwise.
    """
    require_deltalake()
    log = read_log(store, dataset)
    last = len(log.entries) - 1
    while True:
        table = _open(store, dataset)
        done = _done(table)
        if done > last:
            raise StoreRefused(
                f"the Delta table holds log entry {done}, but the log ends at {last}",
                where=delta_uri(store, dataset),
                fix="restore the log, or remove the table: the next run writes it again",
            )
        number = _next(store, log, done, table is None)
        if number is None:
            if table is None:
                raise StoreError("there is no release to write", where=delta_uri(store, dataset), fix="augmill run")
            return int(table.version())
        _commit(store, log, number, table)


def vacuum_delta(store: Store, dataset: str, hours: int, *, dry: bool = False) -> list[str]:
    """Removes the files of versions replaced more than ``hours`` ago (0: of all but the newest), and what kills left.

    Returns their keys; ``dry``: that alone. Whoever reads an old version then is told that its files are gone. To erase
    rows: ``sync_delta`` first.
    """
    require_deltalake()
    table = _open(store, dataset)
    if table is None:
        return []
    with _explained(delta_uri(store, dataset)):
        gone = table.vacuum(retention_hours=hours, full=True, dry_run=dry, enforce_retention_duration=False)
    return [f"{delta_key(dataset)}/{name}" for name in gone]


def _open(store: Store, dataset: str) -> DeltaTable | None:
    """The table; None where there is none. ``is_deltatable`` and ``history`` would hold the GIL while they wait."""
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    uri = delta_uri(store, dataset)
    with _explained(uri):
        try:
            return DeltaTable(uri, storage_options=_storage(store))
        except TableNotFoundError:
            return None


def _storage(store: Store) -> dict[str, str]:
    """What the environment does not say: that S3 is able to put if absent, and an endpoint without TLS."""
    options = {"conditional_put": "etag"} if store.root.startswith("s3://") else {}
    if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["allow_http"] = "true"
    return options


def _done(table: DeltaTable | None) -> int:
    """The number of the last log entry in the table; -1 where there is none."""
    found = None if table is None else table.transaction_version(APP)
    return -1 if found is None else int(found)


def _next(store: Store, log: Log, done: int, fresh: bool) -> int | None:
    """The next entry to commit. A table that is not there yet begins at the first one whose release still stands."""
    for number in range(done + 1, len(log.entries)):
        release = _newest(log, number)
        if not fresh or (release is not None and _stands(store, log.dataset, release)):
            return number
    if fresh and (release := log.newest()) is not None:
        raise CorruptObject(f"release {release} is gone", where=release_key(log.dataset, release), fix="run it again")
    return None


def _newest(log: Log, number: int) -> str | None:
    """The release that a reader got after that entry."""
    return Log(log.dataset, log.entries[: number + 1]).newest()


def _stands(store: Store, dataset: str, release: str) -> bool:
    return store.size(release_key(dataset, release, "manifest.json")) is not None


def _commit(store: Store, log: Log, number: int, table: DeltaTable | None) -> None:
    """One log entry as one commit; where another process was first with it, nothing."""
    from deltalake import CommitProperties, Transaction

    release = _newest(log, number)
    state = Log(log.dataset, log.entries[: number + 1]).current()
    about = {
        "log_number": str(number),
        "release": release or "",
        "snapshot": next((name for name, of in state.items() if of == release), ""),
    }
    # No retries of Delta's own: it would put a second commit with the same number on top of the first.
    properties = CommitProperties(
        custom_metadata=about, max_commit_retries=0, app_transactions=[Transaction(APP, number)]
    )
    try:
        with _explained(delta_uri(store, log.dataset)):
            _write(store, log, release, table, properties)
    except StoreError:
        if _done(_open(store, log.dataset)) < number:
            raise


def _write(store: Store, log: Log, release: str | None, table: DeltaTable | None, properties: CommitProperties) -> None:
    from deltalake import write_deltalake

    if table is None:
        assert release is not None
        rows, _ = as_delta(read_release(store, log.dataset, release), None)
        uri = delta_uri(store, log.dataset)
        if store.local is not None:
            (store.local / delta_key(log.dataset)).mkdir(parents=True, exist_ok=True)
        write_deltalake(
            uri, rows, mode="error", name=log.dataset, description="The newest release of Augmill's log, whole.",
            configuration=_NO_STATISTICS, storage_options=_storage(store), commit_properties=properties,
        )  # fmt: skip
        return
    schema = pa.schema(table.schema().to_arrow())
    if release is None:  # all was withdrawn
        write_deltalake(table, schema.empty_table(), mode="overwrite", commit_properties=properties)
    elif _standing(store, log.dataset, table.version()) == release or (
        release != log.newest() and not _stands(store, log.dataset, release)
    ):
        table.create_write_transaction([], "append", table.schema(), commit_properties=properties)
    else:
        rows, grown = as_delta(read_release(store, log.dataset, release), schema)
        how: Any = "merge" if grown else "overwrite"
        write_deltalake(table, rows, mode="overwrite", schema_mode=how, commit_properties=properties)


def _standing(store: Store, dataset: str, version: int) -> str | None:
    """The release that the version's commit names; None where another program made it (or it is in a checkpoint only)."""
    key = f"{delta_key(dataset)}/_delta_log/{version:020d}.json"
    try:
        actions = [json.loads(line) for line in (store.get(key) or b"").splitlines()]
        return next((action["commitInfo"].get("release") for action in actions if "commitInfo" in action), None)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise StoreRefused("the Delta table's commit is rotted", where=key, fix="restore it from a backup") from error


def read_release(store: Store, dataset: str, release: str) -> pa.Table:
    """All rows of a release: train, validation, test. Raises CorruptObject where a file is gone or rotted."""
    manifest = require_whole(store, dataset, release)
    parts = []
    for split in ("train", "validation", "test"):
        for name in sorted(manifest["files"]):
            if name.startswith(f"{split}/"):
                raw = _sound(store, release_key(dataset, release, name), manifest["files"][name]["sha256"])
                parts.append(pq.read_table(pa.BufferReader(raw)))
    return pa.concat_tables(parts)


def _sound(store: Store, key: str, sha256: str) -> bytes:
    raw = store.get(key)
    if raw is None or hashlib.sha256(raw).hexdigest() != sha256:
        raise CorruptObject("the file is gone, or its checksum is wrong", where=key, fix="run the recipe again")
    return raw


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turns what deltalake raises into the exception tree."""
    from deltalake.exceptions import DeltaError

    try:
        yield
    except (DeltaError, OSError) as error:
        problem = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise StoreError(
            f"the Delta table could not be read or written: {problem}", where=uri, fix="run it again"
        ) from error
