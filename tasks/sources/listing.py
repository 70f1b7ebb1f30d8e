"""What stands under a path, glob, directory or object store prefix, local or remote."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from glob import has_magic
from pathlib import Path
from typing import Any, cast

from augmill.tasks.errors import ConflictError, UserError
from augmill.tasks.rows.names import nearest

from .options import Member, SourceFile
from .patterns import glob_pattern
from .storage import ask, connect, is_remote, reaching, split_uri

# What makes a directory a table whose Parquet files are not all its rows.
_TABLE_LOG = re.compile(r"(?:^|/)(_delta_log|\.hoodie)(?:/|$)|(?:^|/)metadata/[^/]+\.(metadata\.json)$")
_TABLES = {"_delta_log": "a Delta table", ".hoodie": "a Hudi table", "metadata.json": "an Iceberg table"}

MAX_FILES = 200_000  # twenty years of hourly files

# The two parts of Augmill's own store (tasks/store/store.py), and what only a store has there. What lies beside is not its own.
_STORE_PARTS = ("private", "public")
_OF_STORE = {
    "private/manifests/*/*.json": r"private/manifests/[^/]+/[0-9a-f]{64}\.json",
    "private/attempts/*/*/*/*.json": r"private/attempts/[^/]+/[^/]+/[0-9]{8}/(?:start|beat|end)\.json",
    "public/*/_log/*.json": r"public/[^/]+/_log/[0-9]{8}\.json",
}
_IN_STORE = re.compile(rf"(?:(.*)/)?(?:{'|'.join(_OF_STORE.values())})")


@dataclass(frozen=True)
class Entry:
    uri: str
    name: str  # relative to the root
    size: int
    stamp: str


@dataclass(frozen=True)
class Listing:
    root: str
    entries: list[Entry]
    single: bool = False  # the path names this very file: its name is not judged
    table: str = ""  # a kind of table whose log lies beside the files


def is_hidden(name: str) -> bool:
    """As Spark and Hive have it: `.x` and `_x` are no data (_SUCCESS, _temporary, .crc), `_day=1` is a partition."""
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in name.split("/"))


# What programs leave beside a file, or write before it is whole: locks of office programs and others, checksums,
# half a download or upload, an editor's copies.
_LEFTOVER = re.compile(
    r"~\$.*|#.*#|.*~|.*\.(?:lock|lck|crc|tmp|temp|part|partial|crdownload|download|filepart|_copying_|swp|swo|bak|orig|rej)",
    re.IGNORECASE | re.DOTALL,
)


def is_leftover(name: str) -> bool:
    return _LEFTOVER.fullmatch(name.rsplit("/", 1)[-1]) is not None


def _of_store(name: str, is_store: Callable[[str], bool]) -> bool:
    """Whether ``name`` lies in a part of a store. ``is_store``: of a directory, relative to the root as the name is."""
    parts = name.split("/")
    return any(part in _STORE_PARTS and is_store("/".join(parts[:at])) for at, part in enumerate(parts))


def _is_store(directory: Path) -> bool:
    found = (hit.relative_to(directory).as_posix() for pattern in _OF_STORE for hit in directory.glob(pattern))
    return any(_IN_STORE.fullmatch(name) for name in found)


def _names_store(parts: Sequence[str]) -> bool:
    """Whether a glob means to read releases: it says so itself, in so many words."""
    return not {*_STORE_PARTS}.isdisjoint(parts)


def _nearest(name: str, names: Iterable[str], otherwise: str = "") -> str:
    present = sorted({other for other in names if other})
    return nearest(name, present, otherwise) if present else "its directory is empty or does not exist"


def list_local(path: str) -> Listing:
    given = Path(os.path.expanduser(path))  # noqa: PTH111 - leaves a user who is not there as written
    try:
        if os.path.realpath(given) == given.absolute().anchor:  # walking it would take minutes
            raise UserError("this is the whole file system", where=path, fix="name the directory of the data")
        if given.is_file():
            root = given.parent
            return Listing(str(root), [_entry(given, root)], single=True, table=_local_table([given], root))
        if given.is_dir():
            root, paths = given, _walk(given)
        elif given.exists():
            raise UserError(
                "expected a file or directory, found a device or pipe", where=path, fix="write it to a file"
            )
        elif has_magic(str(given)):
            parts = given.parts
            fixed = next(index for index, part in enumerate(parts) if has_magic(part))
            root = Path(*parts[:fixed])
            is_store = cache(lambda name: not _names_store(parts[fixed:]) and _is_store(root / name))
            found = root.glob("/".join(parts[fixed:]))
            hits = _bounded((hit for hit in found if not _of_store(hit.relative_to(root).as_posix(), is_store)), root)
            paths = [inner for hit in hits for inner in (_walk(hit) if hit.is_dir() else [hit])]
        else:
            paths = []
        if not paths:
            raise _missing_local(given, path)
        paths = sorted(set(paths))
        _refuse_leaving(paths, root)
        return Listing(str(root), [_entry(item, root) for item in paths], table=_local_table(paths, root))
    except PermissionError as error:
        raise UserError(
            "cannot be read: permission denied", where=str(error.filename), fix="grant read access"
        ) from error
    except OSError as error:  # too long a name, a link that leads to itself
        problem = f"cannot be read: {error.strerror or error}"
        raise UserError(problem, where=path[:200], fix="correct source.path") from error


def _missing_local(given: Path, path: str) -> UserError:
    if given.is_dir():
        return UserError("expected files, found an empty directory", where=path, fix="correct source.path")
    links = [above for above in (given, *given.parents) if above.is_symlink() and not above.exists()]
    if links:
        problem = f"{str(links[-1])!r} is a link that leads nowhere, or to itself"
        return UserError(problem, where=path, fix="repair the link, or correct source.path")
    parent = next((above for above in given.parents if above.is_dir()), Path())
    missing = given.relative_to(parent).parts[0] if parent in given.parents else given.name
    # All that lies in a directory far above the file helps nobody.
    otherwise = "" if parent == given.parent else "and nothing with a similar name"
    hint = _nearest(missing, (item.name for item in parent.iterdir()), otherwise)
    return UserError(f"there is no {missing!r} in {parent}; {hint}", where=path, fix="correct source.path")


def _bounded(paths: Iterable[Path], root: Path) -> Iterator[Path]:
    """Raises UserError where there are more than a source can have: somebody's home, say."""
    for count, path in enumerate(paths):
        if count == MAX_FILES:
            problem = f"there are more than {MAX_FILES:,} files in it"
            raise UserError(problem, where=str(root), fix="name the directory of the data (source.path)")
        yield path


def _walk(root: Path) -> list[Path]:
    """Regular files below ``root``, and links: ``_refuse_leaving`` judges those. Neither hidden directories are entered,

    nor what a store of Augmill's holds.
    """

    def every() -> Iterator[Path]:
        for directory, inner, names in os.walk(root):
            inner[:] = [name for name in inner if not is_hidden(name)]
            if not {*_STORE_PARTS}.isdisjoint(inner) and _is_store(Path(directory)):
                inner[:] = [name for name in inner if name not in _STORE_PARTS]
            yield from (Path(directory) / name for name in names)
            yield from (link for name in inner if (link := Path(directory) / name).is_symlink())

    return [item for item in _bounded(every(), root) if item.is_symlink() or item.is_file()]


def _refuse_leaving(paths: list[Path], root: Path) -> None:
    """Raises UserError for a link to outside of ``root``; drops linked directories inside, which are walked anyway."""
    inside = root.resolve()
    holds = cache(lambda directory: directory.resolve().is_relative_to(inside))  # once for all files in it
    for item in paths:
        link = item.is_symlink()
        if link and not item.exists():
            problem = "a link leads nowhere, or to itself"
            raise UserError(problem, where=str(item), fix="remove it, or put the file in its place")
        if not (item.resolve().is_relative_to(inside) if link else holds(item.parent)):
            raise UserError(
                f"a link leads out of {root}", where=str(item), fix="copy the file into the directory, or name it alone"
            )
    paths[:] = [item for item in paths if item.is_file()]


def _entry(path: Path, root: Path) -> Entry:
    status = path.stat()
    return Entry(str(path), path.relative_to(root).as_posix(), status.st_size, local_stamp(status))


def local_stamp(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"


def remote_stamp(meta: Any) -> str:
    """Quotes stand around an e_tag in some answers of a store and not in others."""
    return str(meta.get("e_tag") or f"{meta['last_modified'].isoformat()}-{meta['size']}").strip('"')


def is_settled(file: SourceFile | Member, now_ns: int) -> bool:
    """Whether another change would give another stamp: a clock may show one time twice within its grain (2 s on FAT)."""
    local = re.fullmatch(r"(-?[0-9]+)-[0-9]+-[0-9]+", file.stamp)
    return (
        is_remote(file.uri) or file.stamp.startswith("delta-")
        if local is None
        else int(local[1]) < now_ns - 2_000_000_000
    )


def require_unchanged(file: SourceFile) -> None:
    """Raises ConflictError where the file is no longer the one that was listed (and hashed since)."""
    if (
        not file.stamp or file.format == "delta"
    ):  # a table's files are written once; those of a directory tell themselves
        return
    if is_remote(file.uri):
        import obstore

        bucket, key = split_uri(file.uri)
        stamp = remote_stamp(ask(file.uri, lambda: obstore.head(connect(bucket), key)))
    else:
        with reaching(file.uri):
            stamp = local_stamp(Path(file.uri).stat())
    if stamp != file.stamp:
        fix = "run it again once nothing is being written there; writers should rename finished files into place"
        raise ConflictError("the file changed while it was read", where=file.uri, fix=fix)


def _table_roots(root: str) -> list[str]:
    """The directories above the files that may be a table's root: partitions (``k=v``) and ``data`` lie below it."""
    roots = [root]
    while "=" in (last := roots[-1].rsplit("/", 1)[-1]) or last == "data":
        if "/" not in roots[-1]:
            break
        roots.append(roots[-1].rsplit("/", 1)[0])
    return roots


def _local_table(paths: list[Path], root: Path) -> str:
    top = Path(_table_roots(str(root.absolute()))[-1])
    own = {item.parent for item in paths}
    directories = {
        above for it in own for above in (it.absolute(), *it.absolute().parents) if above.is_relative_to(top)
    }
    for directory in sorted(directories):
        if (directory / "_delta_log").is_dir():
            return _TABLES["_delta_log"]
        if (directory / ".hoodie").is_dir():
            return _TABLES[".hoodie"]
        if any((directory / "metadata").glob("*.metadata.json")):
            return _TABLES["metadata.json"]
    return ""


def list_remote(path: str) -> Listing:
    """A listing that is cut in the middle begins anew."""
    return ask(path, lambda: _list_remote(path))


def _list_remote(path: str) -> Listing:
    import obstore

    bucket, key = split_uri(path)
    store = connect(bucket)
    if key and not key.endswith("/"):
        try:
            meta = obstore.head(store, key)
        except FileNotFoundError:
            pass
        else:
            root = key.rpartition("/")[0]
            entry = _remote_entry(bucket, root, cast(dict[str, Any], meta))
            return Listing(f"{bucket}/{root}", [entry], single=True, table=_remote_table(store, root, []))
    fixed, pattern, named = key.rstrip("/"), None, False
    if has_magic(key):
        parts = key.split("/")
        at = next(index for index, part in enumerate(parts) if has_magic(part))
        fixed, named = "/".join(parts[:at]), _names_store(parts[at:])
        try:
            pattern = glob_pattern(key)
        except ValueError as error:
            raise UserError(str(error), where=path, fix="correct source.path") from error
    objects = [meta for chunk in obstore.list(store, fixed or None) for meta in chunk]
    if not named:
        objects = _outside_stores(objects, fixed)
    hits = [meta for meta in objects if pattern is None or pattern.fullmatch(meta["path"])]
    if not hits:
        above = fixed.rpartition("/")[0] if pattern is None else fixed
        beside = obstore.list_with_delimiter(store, above or None)
        names = [*beside["common_prefixes"], *(meta["path"] for meta in beside["objects"])]
        hint = _nearest(key.rstrip("/"), names)
        raise UserError(f"there is nothing at this address; {hint}", where=path, fix="correct source.path")
    table = _remote_table(store, fixed, [meta["path"] for meta in objects])
    return Listing(
        f"{bucket}/{fixed}", [_remote_entry(bucket, fixed, cast(dict[str, Any], m)) for m in hits], table=table
    )


def _outside_stores(objects: list[Any], root: str) -> list[Any]:
    """Without what a store of Augmill's holds that lies below ``root``."""
    below = len(root) + 1 if root else 0
    names = [str(meta["path"])[below:] for meta in objects]
    stores = {found[1] or "" for name in names if (found := _IN_STORE.fullmatch(name))}
    return [meta for meta, name in zip(objects, names, strict=True) if not _of_store(name, stores.__contains__)]


def _remote_entry(bucket: str, root: str, meta: dict[str, Any]) -> Entry:
    key = str(meta["path"])
    name = key[len(root) + 1 :] if root else key
    return Entry(f"{bucket}/{key}", name, int(meta["size"]), remote_stamp(meta))


def _remote_table(store: Any, root: str, keys: list[str]) -> str:
    """The kind of table whose log stands among ``keys`` or under the directories above ``root``."""
    import obstore

    listed = list(keys)
    for directory in _table_roots(root):
        for below in ("_delta_log", ".hoodie", "metadata"):
            prefix = f"{directory}/{below}" if directory else below
            listed += [meta["path"] for meta in next(iter(obstore.list(store, prefix)), [])]
    marks = (_TABLE_LOG.search(key) for key in listed)
    mark = next((mark for mark in marks if mark), None)
    return _TABLES[mark.group(1) or mark.group(2)] if mark else ""
