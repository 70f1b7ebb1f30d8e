"""How a source is cut: which files are of which partition, what is read as one unit, and known hashes of files."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from augmill.tasks.errors import UserError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import Calendar, parse_days, rank
from augmill.tasks.rows.hashing import canonical_json, hash_json, seal
from augmill.tasks.sources import SourceFile, SourceOptions, hash_file, is_settled
from augmill.tasks.sources.folder import FOLDER, divide
from augmill.tasks.sources.members import hash_members
from augmill.tasks.sources.patterns import found_in
from augmill.tasks.stages.refusals import no_row_upto, require_alike
from augmill.tasks.store.shapes import NAME
from augmill.tasks.store.store import Store

SHA256 = 64  # hexadecimal digits; what is shorter says why a file is not read
# More in one file are no partitions but single rows; so many days are 27 years.
MOST = 10_000


@dataclass(frozen=True)
class Cut:
    """Files that are read as one. ``partition``: theirs, "" where they have none, None where it stands in the rows."""

    partition: str | None
    files: tuple[SourceFile, ...]


def is_partitioned(recipe: Recipe) -> bool:
    return recipe.columns.partition is not None or recipe.partitions.pattern is not None


def file_value(file: SourceFile, column: str | None, pattern: str | None, calendar: Calendar) -> str | None:
    """What a file's directory or name says of its partition; None where it says nothing."""
    if column is not None:
        value = file.partition.get(column)
        return _joined(file.partition, column) or value if calendar.dated and value is not None else value
    if pattern is None:
        return None
    return found_in(file.members[0].name if file.format == FOLDER else file.name, pattern)


def _joined(partition: dict[str, str], column: str) -> str | None:
    """The day, or month, of directories ``year=2026/month=10/day=24``, of which ``column`` names the last; else None."""
    wanted = {"day": ("year", "month", "day"), "month": ("year", "month")}.get(column, ())
    parts = [partition.get(name, "") for name in wanted]
    if not wanted or len(parts[0]) != 4 or not all(len(part) <= 4 and part.isdecimal() for part in parts):
        return None
    return "-".join(part.zfill(2) for part in parts)


def cut_source(files: Sequence[SourceFile], recipe: Recipe) -> list[Cut]:
    """The files of one partition together, where directories or names tell it; else each by itself, or all as one.

    In the order of the first file's name.
    """
    if not is_partitioned(recipe):
        return [Cut(None, tuple(files))]
    column, pattern = recipe.columns.partition, recipe.partitions.pattern
    if pattern is not None:
        files = [part for file in files for part in divide(file, partial(found_in, pattern=pattern))]
    groups: dict[str, list[SourceFile]] = {}
    cuts = []
    for file in files:
        value = file_value(file, column, pattern, recipe.partitions.calendar)
        if value is None and pattern is None:
            cuts.append(Cut(None, (file,)))
        else:
            name = None if value is None else recipe.partitions.calendar.name_of(value)
            groups.setdefault(name or "", []).append(file)
    cuts += [Cut(name, tuple(group)) for name, group in groups.items()]
    return sorted(cuts, key=lambda cut: cut.files[0].name)


def require_name(recipe: Recipe, as_of: str) -> None:
    """Raises UserError where no snapshot can be as of that."""
    if not is_partitioned(recipe):
        raise UserError("--as-of needs a partition column", where="columns.partition", fix="name it there")
    if not NAME.fits(as_of):  # it stands in the log, which is read on terminals
        raise UserError(f"expected {NAME.what}, found {as_of!a}", where="--as-of", fix="rename that partition")
    calendar = recipe.partitions.calendar
    if not calendar.dated:
        return
    try:
        calendar.first_day(as_of)
    except ValueError as error:
        fix = f"name the last {calendar.every} that the snapshot is to hold"
        raise UserError(str(error), where="--as-of (partitions.every)", fix=fix) from None


def cuts_upto(cuts: Sequence[Cut], recipe: Recipe, as_of: str) -> list[Cut]:
    """Without those whose directory or name says that they are later. Raises UserError where none is left."""
    require_name(recipe, as_of)
    names = sorted((cut.partition for cut in cuts if cut.partition), key=rank)
    if not recipe.partitions.calendar.dated:
        for name in names:
            require_alike(name, as_of)
    kept = [cut for cut in cuts if not cut.partition or rank(cut.partition) <= rank(as_of)]
    if not any(cut.partition != "" for cut in kept) and names:
        raise no_row_upto(as_of, names[0])
    return kept


def window_start(recipe: Recipe, as_of: str | None) -> str | None:
    """The first partition of the snapshot's window; None where it reaches back to the first one there is."""
    window = recipe.partitions.window
    if as_of is None or window == "all":
        return None
    return recipe.partitions.calendar.window_start(as_of, parse_days(window))


def hash_files(
    files: Sequence[SourceFile], listed: Sequence[SourceFile], how: SourceOptions, store: Store | None, dataset: str
) -> dict[str, str]:
    """sha256 by address; read once while nothing changes: what is known stands in the store.

    A local file that changed less than 2 s ago is not noted: another change may leave the same time and size. Of
    ``listed`` alone is anything kept. The note is a cache: made anew where it is gone or rotted. A file with members
    stands for what is in all of them, too.
    """
    key = f"private/sources/{dataset}/hashes.json"
    noted = (store.read_sealed(key) if store is not None else None) or {}
    stamps = {file.uri: file.stamp for whole in listed for file in whole.parts or (whole,) if file.stamp}
    stamps |= {member.uri: member.stamp for file in listed for member in file.members}
    known = {uri: pair for uri, pair in noted.items() if uri in stamps and pair[0] == stamps[uri]}
    found: dict[str, str] = {}
    for file in [part for whole in files for part in whole.parts or (whole,)]:
        now = time.time_ns()
        if file.stamp and file.uri in known:
            found[file.uri] = known[file.uri][1]
        elif file.stamp or not file.members:  # not a directory that is read as one
            found[file.uri] = hash_file(file, how)
            if is_settled(file, now):
                known[file.uri] = [file.stamp, found[file.uri]]
        if file.members:
            own, inside = found.get(file.uri, ""), hashlib.sha256()
            for member, digest in hash_members(file.members, how, lambda each: known.get(each.uri, ("", None))[1]):
                inside.update(canonical_json([member.name, digest]) + b"\n")
                if not member.reason and len(digest) == SHA256 and is_settled(member, now):
                    known[member.uri] = [member.stamp, digest]
            found[file.uri] = hashlib.sha256(f"{own}\n{inside.hexdigest()}".encode()).hexdigest()
    if store is not None and known != noted:
        store.put(key, seal(known))
    joined = {
        whole.uri: hash_json([[part.name, found[part.uri]] for part in whole.parts]) for whole in files if whole.parts
    }
    return found | joined
