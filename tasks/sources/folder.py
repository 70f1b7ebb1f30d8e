"""A directory of pictures or sounds, read as one: a row a file, its label the directory in which it lies.

Hive partitions (``day=2026-10-01/cat/1.png``) are source files of their own, so that a night reads what is new alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any

import pyarrow as pa

from augmill.tasks.errors import DataError
from augmill.tasks.rows.kinds.media import RELEASED

from .batching import BATCH_ROWS
from .listing import Entry
from .members import BATCH_BYTES, in_parts, read_files, too_large
from .options import Batch, Member, Reader, RefusedRow, SourceFile, SourceOptions

FOLDER = "folder"
WHOLE = "."  # what a directory without partitions is called in its own place
PICTURES = "avif bmp gif heic jfif jpe jpeg jpg png tif tiff webp"
SOUNDS = "aif aifc aiff au flac m4a mp3 oga ogg opus wav"
ENDINGS = frozenset(f"{PICTURES} {SOUNDS}".split())
# What stands beside pictures and is none; no directory is taken for another thing because of them.
_BESIDE = {"thumbs.db", "ehthumbs.db", "desktop.ini", "readme", "license", "licence", "credits", "checksums", "md5sums"}
_SCHEMA = pa.schema([("file", RELEASED), ("label", pa.string())])

_log = logging.getLogger("augmill")


class Folder(Reader):
    """Columns ``file`` and ``label``: the last directory on the way to the file that is no partition, if there is one."""

    VERSION = 1
    noun = "file"

    def columns(self, file: SourceFile, options: SourceOptions) -> list[str]:
        return list(_SCHEMA.names)

    def schema(self, files: Sequence[SourceFile], options: SourceOptions) -> pa.Schema:
        return _SCHEMA

    def batches(self, file: SourceFile, options: SourceOptions, schema: pa.Schema) -> Iterator[Batch]:
        asked, first = "file" in schema.names, True
        refused, kept = list[RefusedRow](), list[Member]()
        for member in file.members:
            large = too_large(member, options)
            if member.reason or large:
                refused.append(
                    RefusedRow(member.name, member.reason or "file_too_large", large or "its name is no UTF-8")
                )
            else:
                kept.append(member)
        for part in in_parts([member.size * asked for member in kept], BATCH_ROWS):
            yield _batch(kept[part], options, schema, refused)
            first, refused = False, []
        if first:
            yield _batch([], options, schema, refused)

    def sample(self, file: SourceFile, options: SourceOptions, count: int) -> list[dict[str, Any]]:
        """The first files, of ``BATCH_BYTES`` together at most."""
        size, few = 0, list[Member]()
        for member in islice(file.members, count):
            size += member.size
            if few and size > BATCH_BYTES:
                break
            few.append(member)
        found = self.batches(replace(file, members=tuple(few)), options, _SCHEMA)
        return [row for batch in found for row in batch.table.to_pylist()]


def _batch(members: list[Member], options: SourceOptions, schema: pa.Schema, refused: list[RefusedRow]) -> Batch:
    names = [member.name for member in members]
    columns: dict[str, Any] = {}
    if "file" in schema.names:
        columns["file"] = pa.StructArray.from_arrays(
            [pa.array(read_files(members), pa.binary()), pa.array(names, pa.string())], fields=list(RELEASED)
        )
    columns["label"] = pa.array([label_of(name, options) for name in names], pa.string())
    table = pa.table([columns[name] for name in schema.names], names=schema.names)
    return Batch(table, pa.array(names, pa.string()), refused, names=names)


def label_of(name: str, options: SourceOptions) -> str | None:
    parts = name.split("/")[:-1]
    return next((part for part in reversed(parts) if options.hive is False or "=" not in part), None)


# --- Which files it holds ----------------------------------------------------------------------------------------------


def is_media_file(name: str) -> bool:
    return name.rpartition(".")[2].lower() in ENDINGS


def is_beside(name: str) -> bool:
    base = name.rsplit("/", 1)[-1].lower()
    return base in _BESIDE or base.partition(".")[0] in _BESIDE


def is_folder(names: Sequence[str]) -> bool:
    """Whether a directory with these files holds pictures or sounds, and nothing else but what often lies beside them."""
    return any(map(is_media_file, names)) and not beside_media(names)


def beside_media(names: Sequence[str]) -> list[str]:
    """Where some files are pictures or sounds, those that are none and do not often lie beside them."""
    others = [name for name in names if not is_media_file(name)]
    return [name for name in others if not is_beside(name)] if len(others) < len(names) else []


def list_folder(
    entries: Sequence[Entry], root: str, partition_of: Callable[[str], dict[str, str]], where: str
) -> list[SourceFile]:
    """The files of each partition as one source file. Raises DataError where none is a picture or sound.

    ``partition_of``: the hive partition of a file, by its name. What is no picture or sound is left out, and said.
    """
    shown = [entry for entry in entries if is_shown(entry.name)]
    chosen = sorted((entry for entry in shown if is_media_file(entry.name)), key=lambda entry: entry.name)
    if not chosen:
        problem = f"expected pictures or sounds, found {', '.join(entry.name for entry in shown[:3]) or 'nothing'}"
        raise DataError(problem, where=where, fix=f"files are known by their endings: {PICTURES} {SOUNDS}")
    if others := [entry.name for entry in shown if not is_media_file(entry.name)]:
        _warn_of_others(root, len(others), tuple(others[:5]))
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[Member]] = {}
    partitions: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {}
    for entry in chosen:
        directory = entry.name.rpartition("/")[0]
        if directory not in partitions:
            found = partition_of(entry.name)
            own = "/".join(part for part in directory.split("/") if part.partition("=")[0] in found and "=" in part)
            partitions[directory] = own or WHOLE, tuple(found.items())
        groups.setdefault(partitions[directory], []).append(_member(entry))
    return [
        SourceFile(f"{root}/{name}", name, FOLDER, "none", sum(m.size for m in own), dict(found), members=tuple(own))
        for (name, found), own in groups.items()
    ]


def _member(entry: Entry) -> Member:
    """A name that is no UTF-8 can stand in no table."""
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        shown = entry.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return Member(shown, entry.uri, entry.size, entry.stamp, "invalid_encoding")
    return Member(entry.name, entry.uri, entry.size, entry.stamp)


def is_shown(name: str) -> bool:
    """As everywhere, but that cameras name pictures ``_DSC0001.jpg``, and others annotations ``_annotations.coco.json``."""
    *above, base = name.split("/")
    return not base.startswith(".") and not any(
        p.startswith(".") or (p.startswith("_") and "=" not in p) for p in above
    )


@cache  # a run lists its source more than once
def _warn_of_others(root: str, count: int, names: tuple[str, ...]) -> None:
    more = f" and {count - len(names):,} more" if count > len(names) else ""
    _log.warning("%r: left out, since neither picture nor sound: %s%s", root, ", ".join(map(repr, names)), more)


def divide(file: SourceFile, key: Callable[[str], str | None]) -> list[SourceFile]:
    """A directory's files by what their names say, as source files of their own; any other source file as it is."""
    if file.format != FOLDER:
        return [file]
    groups: dict[str | None, list[Member]] = {}
    for member in file.members:
        groups.setdefault(key(member.name), []).append(member)
    return [
        replace(
            file,
            uri=file.uri if said is None else f"{file.uri}/{said}",
            name=file.name if said is None else f"{file.name}/{said}",
            size=sum(member.size for member in own),
            members=tuple(own),
        )
        for said, own in groups.items()
    ]
