"""Which files a source stands for: sorted, each with format, compression and hive partition, safe to read as such."""

from __future__ import annotations

import logging
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from augmill.tasks.errors import DataError, UserError

from .boxes import COCO, VOC, is_coco, is_voc, list_coco, list_voc
from .delta import is_delta, list_delta
from .folder import FOLDER, beside_media, is_folder, is_shown, list_folder
from .listing import Entry, is_hidden, is_leftover, list_local, list_remote
from .magic import HEAD, foreign
from .options import Compression, Format, SourceFile, SourceOptions
from .storage import is_remote, open_bytes

FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tar": "webdataset",
    ".tgz": "webdataset",
}
COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}

_TABLES = "CSV, JSON Lines or Parquet, or a directory of pictures or sounds"

_log = logging.getLogger("augmill")


def list_files(options: SourceOptions) -> list[SourceFile]:
    """The source's files, sorted by name.

    Hidden files (``_x``, ``.x``) are skipped, what programs leave beside files (locks, half downloads, an editor's
    copies), what a store of Augmill's below the path holds, and, with a warning, empty files where others are not; a
    file or a kind of file that the path itself names is read. Raises UserError for a path that is not there (naming
    the nearest), links out of the directory, mixed formats, Delta, Iceberg or Hudi tables read as plain Parquet;
    DataError where all files are empty.
    """
    if options.format == "delta" or (options.format == "auto" and is_delta(options.path)):
        return list_delta(options)
    if options.version is not None:
        fix = "name the table's own directory, or leave source.version out"
        raise UserError("source.version is set, but this is not a Delta table", where=options.path, fix=fix)
    found = (list_remote if is_remote(options.path) else list_local)(options.path)
    entries = [entry for entry in found.entries if found.single or not is_hidden(entry.name)]
    if not (found.single or is_leftover(options.path)):
        entries = [entry for entry in entries if not is_leftover(entry.name)]
    if found.table and (options.format == "parquet" or any(_format_of(e.name) == "parquet" for e in entries)):
        raise UserError(
            f"this directory is {found.table}: its Parquet files hold rows that were deleted or replaced",
            where=found.root,
            fix="read the table itself: its directory as source.path, with format auto or delta"
            if "Delta" in found.table
            else "export the table's current rows to plain Parquet and read those",
        )
    shown = [entry for entry in found.entries if is_shown(entry.name)]
    if options.format == COCO or (options.format == "auto" and not found.single and is_coco(shown)):
        return list_coco(shown, options.path)
    if options.format == VOC or (options.format == "auto" and not found.single and is_voc(shown)):
        return list_voc(shown, found.root, options.path)
    alone = options.format == "auto" and not found.single and is_folder([entry.name for entry in entries])
    if options.format == FOLDER or alone:
        files = list_folder(found.entries, found.root, lambda name: _partition(name, found.root, options), options.path)
        return _partitioned(files, options)
    chosen = _choose(entries, options, found.single)
    filled = [(entry, kind) for entry, kind in chosen if entry.size]
    if not filled:
        names = ", ".join(entry.name for entry, _ in chosen[:3])
        raise DataError(f"expected rows, found an empty file: {names}", where=options.path, fix="write the file again")
    if len(filled) < len(chosen):
        _warn_of_empty(found.root, tuple(entry.name for entry, _ in chosen if not entry.size))
    files = [_source_file(entry, kind, found.root, options) for entry, kind in filled]
    return _partitioned(files, options)


def _partitioned(files: list[SourceFile], options: SourceOptions) -> list[SourceFile]:
    """Sorted by name. Raises UserError where there should be partitions, and are none."""
    if options.hive is True and not all(file.partition for file in files):
        raise UserError(
            "expected key=value directories (hive: true), found none",
            where=options.path,
            fix="set source.hive to auto, or give the directory above them",
        )
    return sorted(files, key=lambda file: file.name)


@cache  # a run lists its source more than once
def _warn_of_empty(root: str, names: tuple[str, ...]) -> None:
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    _log.warning("%r: skipped, since empty (0 bytes): %s%s", root, ", ".join(map(repr, names[:5])), more)


def _source_file(entry: Entry, kind: Format, root: str, options: SourceOptions) -> SourceFile:
    suffix = Path(entry.name).suffix.lower()
    compression = COMPRESSIONS.get(suffix, "none") if options.compression == "auto" else options.compression
    partition = _partition(entry.name, root, options)
    return SourceFile(entry.uri, entry.name, kind, compression, entry.size, partition, entry.stamp)


def _partition(name: str, root: str, options: SourceOptions) -> dict[str, str]:
    """What the ``key=value`` directories say on the way to a file, from above the root on."""
    if options.hive is False:
        return {}
    above = root.rstrip("/").split("/")
    start = len(above)
    while start and "=" in above[start - 1]:
        start -= 1
    parts = [*above[start:], *name.split("/")[:-1]]
    pairs = (part.split("=", 1) for part in parts if "=" in part)
    return {unquote(key): unquote(value) for key, value in pairs}


def _format_of(name: str) -> Format | None:
    path = Path(name.lower())
    return FORMATS.get(Path(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix)


def _foreign(entry: Entry) -> tuple[str, str] | None:
    with open_bytes(entry.uri) as stream:
        return foreign(stream.read(HEAD))


def _choose(entries: list[Entry], options: SourceOptions, single: bool) -> list[tuple[Entry, Format]]:
    """The files to read, each with its format. Raises UserError where that cannot be told."""
    kinds = [_format_of(entry.name) for entry in entries]
    if options.format != "auto":
        kind: Format = options.format
        alike = [entry for entry, own in zip(entries, kinds, strict=True) if own == kind]
        anonymous = [entry for entry, own in zip(entries, kinds, strict=True) if own is None]
        chosen = entries if single else alike or anonymous
        if chosen:
            return [(entry, kind) for entry in chosen]
    known = [(entry, kind) for entry, kind in zip(entries, kinds, strict=True) if kind is not None]
    known = [each for each in known if each[1] != "webdataset"] or known  # beside tables tars are something else
    counts = Counter(kind for _, kind in known)
    if options.format == "auto" and not known and not single and (others := beside_media([e.name for e in entries])):
        problem = f"found pictures or sounds, and beside them {', '.join(others[:5])}"
        raise UserError(problem, where=options.path, fix="set source.format: folder to leave these out, or move them")
    if options.format != "auto" or not known:
        wanted = _TABLES if options.format == "auto" else options.format
        if entries and (other := _foreign(entries[0])) is not None:
            problem = f"expected {wanted}, found {other[0]}"
            raise UserError(problem, where=entries[0].uri, fix=other[1])
        names = (
            ", ".join(entry.name for entry in entries[:5])
            or "nothing but hidden files (`_x`, `.x`) and leftovers (`x~`, `x.part`)"
        )
        raise UserError(
            f"expected {wanted}, found {names}",
            where=options.path,
            fix=f"set source.format, or use one of the endings {' '.join(FORMATS)} (and .gz, .zst)",
        )
    if len(counts) > 1:
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        raise UserError(
            f"found files of several formats: {found}", where=options.path, fix="set source.format, or a glob"
        )
    return known
