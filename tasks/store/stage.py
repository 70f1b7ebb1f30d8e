"""One decorator for every stage: identity -> look up -> run -> commit. This, not the orchestrator, is how reruns resume."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from glob import has_magic
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.tasks.contracts import USER_PREFIX, Artifact, FitInputs, Tell, tell_nobody
from augmill.tasks.errors import CorruptObject, UserError
from augmill.tasks.registry import blaming
from augmill.tasks.rows.hashing import TableHasher, canonical_json, hash_file, hash_json, hash_path, hash_table
from augmill.tasks.rows.parts import MAPPED, in_files, read_parts
from augmill.tasks.rows.schema import is_bytes
from augmill.tasks.store.store import Store, manifest_key

C = TypeVar("C")

PARQUET: dict[str, Any] = {"compression": "zstd", "compression_level": 3}
ROW_GROUP = 122_880  # rows; DuckDB's own size. Smaller ones cost bytes, larger ones are not read side by side

GROUP_BYTES = 64 << 20  # of files in a group's rows, such as pictures, from which on it is closed: readers hold a group


def group_end(table: pa.Table) -> int:
    """Rows of the first row group of a table, which hangs on the rows alone; 0 where they do not fill one."""
    ends = [ROW_GROUP] if table.num_rows >= ROW_GROUP else []
    leaves = [leaf for column in table.columns for leaf in _leaves(column) if is_bytes(leaf.type)]
    if leaves:
        sizes = np.sum([pc.fill_null(pc.binary_length(leaf), 0).to_numpy() for leaf in leaves], axis=0)
        at = int(np.searchsorted(np.cumsum(sizes), GROUP_BYTES))
        ends += [at + 1] if at < table.num_rows else []
    return min(ends, default=0)


def _leaves(column: pa.ChunkedArray) -> Iterator[pa.ChunkedArray]:
    if pa.types.is_struct(column.type):
        for at in range(column.type.num_fields):
            yield from _leaves(pc.struct_field(column, [at]))
    else:
        yield column


def identity_of(value: Any) -> Any:
    """The part of a configuration that changes rows, as JSON.

    Dataclass fields with ``metadata["identity"] is False`` are left out, and those with ``metadata["later"]`` that have
    their default: they were added to a section that had identities without them. A field with ``metadata["file"]``
    stands for the content it names, never for its path; ``metadata["identity_name"]`` is the name that counts, so that
    a field may be renamed.
    """
    if isinstance(value, Artifact):  # its key and its manifest's hash hold how it was cut and written
        return value.content
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        out: dict[str, Any] = {}
        for item in dataclasses.fields(value):
            if item.metadata.get("identity") is False:
                continue
            part = getattr(value, item.name)
            if item.metadata.get("later") and part == item.default:
                continue
            name = item.metadata.get("identity_name", item.name)
            out[name] = _content_of(part) if item.metadata.get("file") else identity_of(part)
        return out
    if isinstance(value, dict):
        return {str(key): identity_of(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [identity_of(part) for part in value]
    if isinstance(value, Path):
        raise TypeError(f"a path is no identity: {value}")
    return value


def _content_of(named: Any) -> Any:
    """What stands under a path, a glob, or each of several; a name that is no local path (a hub id) as it is."""
    if isinstance(named, list | tuple):
        return [_content_of(part) for part in named]
    if not isinstance(named, str) or not named:  # an empty path would be the working directory
        return named
    path = Path(named)
    try:
        if path.exists():
            return {"content": hash_path(path)}
        found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))) if has_magic(named) else []
        return [{"content": hash_path(hit)} for hit in found] or named
    except OSError as error:
        problem = f"what the recipe names cannot be read: {error.strerror}"
        raise UserError(
            problem, where=str(error.filename or named), fix="correct the path, or grant read access"
        ) from error


@dataclass(frozen=True)
class Event:
    """What a stage did, for progress and reports; telemetry, never an input."""

    stage: str
    key: str
    rows: int
    reused: bool
    seconds: float
    usage: dict[str, int] = field(default_factory=dict)  # what it spent beside time: tokens


@dataclass(frozen=True)
class Site:
    """Where stages run: the store, and what they may use of this machine. Nothing here changes rows."""

    store: Store
    device: str = "cpu"
    threads: int = 1
    deadline: float | None = None
    observe: Callable[[Event], None] = lambda event: None
    dataset: str = ""  # whose scratch space is used: each is kept as long as its own recipe says
    tell: Tell = tell_nobody  # hears how far the stage is

    def place(self, name: str) -> str:
        return f"{self.dataset}/{name}" if self.dataset else name


@dataclass
class Work:
    """One run of a stage: reads its input artifacts, writes its own files into ``directory``."""

    site: Site
    directory: Path
    rows: int = 0
    meta: dict[str, Any] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)

    def tell(self, done: int, total: int | None, unit: str) -> None:
        """Says how far the stage is, to whoever looks on; ``total`` None where nobody knows it."""
        self.site.tell(done, total, unit)

    def path(self, artifact: Artifact, name: str) -> Path:
        """A local, verified, read-only file of an artifact."""
        return fetch(self.site.store, artifact, name)

    def read(self, artifact: Artifact, name: str = "rows.parquet", columns: list[str] | None = None) -> pa.Table:
        return pq.read_table(self.path(artifact, name), columns=columns)

    def parts(self, artifact: Artifact, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """As ``read``, of a table that is not held at once."""
        return read_parts(self.path(artifact, name), columns)

    def read_json(self, artifact: Artifact, name: str) -> Any:
        return json.loads(self.path(artifact, name).read_text(encoding="utf-8"))

    def write(self, table: pa.Table, name: str = "rows.parquet") -> None:
        """Writes a table that is already in its total order, and notes its canonical content."""
        if any(is_bytes(leaf.type) for column in table.columns for leaf in _leaves(column)):
            with self.writing(table.schema, name) as take:
                take(table)
            return
        pq.write_table(table, self.directory / name, row_group_size=ROW_GROUP, **PARQUET)
        self.contents[name] = hash_table(table)

    @contextlib.contextmanager
    def writing(self, schema: pa.Schema, name: str) -> Iterator[Callable[[pa.Table], None]]:
        """As ``write``, of a table that comes part by part, in its total order; held is what a row group lacks."""
        hasher, held = TableHasher(schema), schema.empty_table()

        with pq.ParquetWriter(self.directory / name, schema, **PARQUET) as writer:

            def take(part: pa.Table) -> None:
                nonlocal held
                hasher.update(part)
                held = pa.concat_tables([held, part])
                start = 0
                while rows := group_end(held.slice(start)):
                    writer.write_table(held.slice(start, rows).combine_chunks(), row_group_size=ROW_GROUP)
                    start += rows
                if start:
                    held = held.slice(start).combine_chunks()  # else it keeps what it was cut from

            yield take
            if held.num_rows or not hasher.rows:
                writer.write_table(held.combine_chunks(), row_group_size=ROW_GROUP)
        self.contents[name] = hasher.hexdigest()

    def write_json(self, value: Any, name: str) -> None:
        (self.directory / name).write_bytes(canonical_json(value))

    def note(self, value: Any, name: str) -> None:
        """Writes JSON beside the artifact that is no part of its content: what depends on how shards were cut."""
        self.write_json(value, name)
        self.notes.add(name)

    def empty_directory(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir()
        return path


def read_manifest(store: Store, artifact: Artifact) -> dict[str, Any]:
    """As this process saw it last: it is written once. One that is moved aside or made anew is read again."""
    key = manifest_key(*artifact.key.split("/"))
    body = store.seen.get(key) or store.read_sealed(key)
    if body is None:
        raise CorruptObject("the manifest is gone", where=artifact.key, fix="run it again: it is made anew")
    store.see(key, body)
    return body


def fetch(store: Store, artifact: Artifact, name: str) -> Path:
    """A local file of an artifact. A corrupt one is moved aside with its manifest, so that the stage runs again.

    So are its other corrupt files: the stage is then run once, and not once for each.
    """
    files = read_manifest(store, artifact)["files"]
    try:
        return store.fetch_object(files[name]["sha256"], files[name]["size"])
    except CorruptObject:
        stage, identity = artifact.key.split("/")
        for entry in files.values():
            with contextlib.suppress(CorruptObject):
                store.fetch_object(entry["sha256"], entry["size"])
        store.move_aside(manifest_key(stage, identity))
        raise


def read_json(store: Store, artifact: Artifact, name: str) -> Any:
    return json.loads(fetch(store, artifact, name).read_text(encoding="utf-8"))


def fetch_directory(store: Store, artifact: Artifact, directory: Path) -> Path:
    """All files of an artifact as links in one directory, for what wants to open a directory (a model)."""
    for name in read_manifest(store, artifact)["files"]:
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to(fetch(store, artifact, name))
    return directory


STAGE_VERSIONS: dict[str, int] = {}  # of every stage that has been imported


class Stage(Generic[C]):
    """A stage: a plain function ``(work, config, *artifacts)`` with a name and a version.

    Called with a Site it returns the Artifact, running only where the store has none of that identity.
    """

    def __init__(self, run: Callable[..., None], name: str, version: int) -> None:
        self.run, self.name, self.version = run, name, version
        self.__name__, self.__doc__ = name, run.__doc__
        STAGE_VERSIONS[name] = version

    def identity(self, config: C, inputs: tuple[Any, ...]) -> str:
        return hash_json(
            {"stage": self.name, "version": self.version, "config": identity_of(config), "inputs": identity_of(inputs)}
        )

    def __call__(self, site: Site, config: C, *inputs: Artifact | list[Artifact]) -> Artifact:
        started = time.monotonic()
        artifact = look_up(site.store, self.name, self.identity(config, inputs))
        if artifact is None:
            return self.make(site, config, *inputs)
        site.observe(Event(self.name, artifact.key, artifact.rows, True, time.monotonic() - started))
        return artifact

    def make(self, site: Site, config: C, *inputs: Artifact | list[Artifact]) -> Artifact:
        """The Artifact, without a look whether it stands in the store: for who has looked."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"augmill-{self.name}-") as directory:
            work = Work(site, Path(directory))
            with blaming():
                self.run(work, config, *inputs)
            artifact = commit(work, self.name, self.identity(config, inputs))
        usage = work.meta.get("usage", {})
        site.observe(Event(self.name, artifact.key, artifact.rows, False, time.monotonic() - started, usage))
        return artifact


def stage(name: str, *, version: int) -> Callable[[Callable[..., None]], Stage[Any]]:
    """Makes a stage of a function ``(work, config, *artifacts) -> None``.

    ``version`` counts up whenever the same inputs give other bytes (tests/test_versions.py holds it to that).
    """
    return lambda run: Stage(run, name, version)


def look_up(store: Store, name: str, identity: str) -> Artifact | None:
    """The finished artifact of that identity, where its manifest and every file still stand whole."""
    key = manifest_key(name, identity)
    body = store.read_sealed(key)
    if body is None:
        return None
    from augmill.tasks.store.store import object_key

    if any(store.size(object_key(entry["sha256"])) != entry["size"] for entry in body["files"].values()):
        store.move_aside(key)
        return None
    store.see(key, body)
    return _artifact(name, identity, body)


def _artifact(name: str, identity: str, body: dict[str, Any]) -> Artifact:
    digest = hashlib.sha256(canonical_json(body)).hexdigest()
    return Artifact(f"{name}/{identity}", body["rows"], digest, body["content"])


def _files(directory: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            yield path.relative_to(directory).as_posix(), path


def commit(work: Work, name: str, identity: str) -> Artifact:
    """Files first, each under its sha256; the manifest last. The loser of a race adopts the winner's."""
    files: dict[str, dict[str, Any]] = {}
    for file_name, path in _files(work.directory):
        sha256, size = work.site.store.put_object(path)
        content = work.contents.get(file_name) or hash_file(path)
        files[file_name] = {"sha256": sha256, "size": size, "content": content}
    if not files:
        raise UserError(f"stage {name} wrote no file")
    body = {
        "stage": name,
        "identity": identity,
        "rows": work.rows,
        "content": hash_json({n: entry["content"] for n, entry in files.items() if n not in work.notes}),
        "files": files,
        "meta": work.meta,
    }
    standing = work.site.store.write_sealed(manifest_key(name, identity), body)
    work.site.store.see(manifest_key(name, identity), standing)
    return _artifact(name, identity, standing)


def load_inputs(work: Work, artifact: Artifact, *, held_out: bool) -> FitInputs:
    """The split artifact as an extension's inputs; without ``held_out`` the held-out tables are empty (law 6).

    The user's further columns, of which there may be thousands, stay on the disk: no fit may know them.
    """
    tables = {}
    for name in ("train", "validation", "test", "exclude", "unlabelled"):
        path = work.path(artifact, f"{name}.parquet")
        known = pq.read_schema(path)
        columns = [column for column in known.names if not column.startswith(USER_PREFIX)]
        empty = not held_out and name not in ("train", "unlabelled")
        schema = pa.schema([known.field(column) for column in columns])
        tables[name] = schema.empty_table() if empty else _read_inputs(path, columns)
    return FitInputs(**tables)


def _read_inputs(path: Path, columns: list[str]) -> pa.Table:
    """The rows, where they are many in memory that the system may take back."""
    about = pq.read_metadata(path)
    if sum(about.row_group(at).total_byte_size for at in range(about.num_row_groups)) < MAPPED:
        return pq.read_table(path, columns=columns)
    known = pq.read_schema(path)
    return in_files(read_parts(path, columns), pa.schema([known.field(name) for name in columns], known.metadata))
