"""What is said of source rows and columns that cannot be used: how many, where the first stands, what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa

from augmill.tasks.contracts import Problem
from augmill.tasks.errors import DataError, UnsoundSource, UserError
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.problems.classification import Labels
from augmill.tasks.recipe.sections import Columns, Publish, Refuse
from augmill.tasks.rows.calendar import is_number
from augmill.tasks.rows.kinds import KINDS
from augmill.tasks.rows.names import SHOWN, nearest
from augmill.tasks.sources import SourceFile, SourceOptions, describe_file, doubt_file, read_batches, sample_rows
from augmill.tasks.sources.delimited import DELIMITERS

MAY_BE_BYTES = ("columns.id", "columns.group")  # which are compared, never read
CONFLICT = "conflicting_label"  # refuse.conflicts: equal rows under several labels

# What to do about most refused rows, by their reason; where none is named, to repair the source. Kinds and problems know
# what to do about the reasons that they give themselves.
REMEDIES = {
    "ragged": "quote cells that contain the delimiter, or correct source.delimiter; if every row ends in an extra delimiter, "
    "end the header with one too",
    "bad_quoting": "close every quote, or set source.quote: none if quotes are ordinary characters",
    "bad_json": "write one JSON object a line, or correct source.format",
    "not_an_object": "write one JSON object a line",
    "invalid_encoding": "set source.encoding to the file's encoding, or auto",
    "cell_too_long": "shorten those cells, or raise source.max_cell_bytes",
    "no_such_file": "put the file where it is named, relative to the table's own directory, or correct the name",
    "outside_source": "put the files into the source's directory, and name them relative to the table's own",
    "file_too_large": "make those files smaller, or raise source.max_file_bytes",
    "no_user": "check source.events.user, and leave out events without a user",
    "no_item": "check source.events.item, and leave out events without an item",
    "bad_time": "check source.events.time: every cell has to be a number or a timestamp",
    "bad_value": "check source.events.value: every cell has to be a number, or empty",
    "too_few_events": "lower source.events.min_events, or leave such users out",
    "bad_sample": "name each file once; in a tar pack plain files alone",
    "unknown_split": "check splits.column and splits.names, or the patterns of splits.files",
    CONFLICT: "give equal rows one label, or set refuse.conflicts",
    "duplicate_id": "check columns.id: each value must be unique; without it ids are made from the inputs",
    "no_partition": "check columns.partition: a row without a value belongs to no snapshot",
    "bad_partition": "check columns.partition, partitions.pattern and partitions.every: the value is not a valid partition",
    "no_id": "check columns.id: each row needs one; without it ids are made from the inputs",
}


def remedy(reason: str, default: str = "repair the source") -> str:
    """What to do about rows that are refused for this reason."""
    parts = [REMEDIES, *(kind.remedies for kind in KINDS.values()), *(each.remedies for each in PROBLEMS.values())]
    return next((part[reason] for part in parts if reason in part), default)


def require_columns(
    columns: Columns, split: str | None, names: Sequence[str], file: SourceFile, how: SourceOptions
) -> None:
    """Raises UserError where the recipe names a column that no file has: with the nearest one, or the right delimiter."""
    # First what others may be made of.
    wanted: dict[str, str | None] = {"source.dialogue": how.dialogue, **columns.named, "splits.column": split}
    for key, name in wanted.items():
        if name is None or name in names:
            continue
        fix = f"correct {key}"
        if file.format == "csv" and len(names) == 1:
            used = describe_file(file, how)["delimiter"]
            other = next((mark for mark in DELIMITERS if mark != used and mark in names[0]), None)
            instead = f" to {other!r}" if other else ""
            fix = f"set source.delimiter{instead}: read with {used!r}, the file has one column only"
        hint = nearest(name, names)
        if (doubt := doubt_file(file, how)) is not None:
            hint, fix = f"{hint}; {doubt.problem}", doubt.fix
        raise UserError(f"there is no column {name!r}; {hint}", where=f"{file.name} ({key})", fix=fix)


def require_rows(file: SourceFile, how: SourceOptions) -> None:
    """Raises DataError where no row can be read, with the reason of the first."""
    if sample_rows(file, how, 1):
        return
    first = next((row for batch in read_batches(file, how) for row in batch.refused), None)
    if first is None:
        raise DataError("it has columns but no rows", where=file.name, fix="give a file with rows")
    problem = f"no row can be read; the first one is refused: {first.reason}, {first.detail}"
    raise DataError(problem, where=f"{file.name} {first.location}", fix=remedy(first.reason, "repair the file"))


def require_header(file: SourceFile, how: SourceOptions, otherwise: str) -> None:
    """Raises DataError where a CSV's header is in doubt: for who is about to guess by names.

    ``otherwise``: what to do where the first row holds names after all.
    """
    doubt = doubt_file(file, how) if file.format == "csv" else None
    if doubt is not None:
        fix = f"{doubt.fix}; if they are names, {otherwise}"
        raise DataError(doubt.problem, where=file.name, fix=fix)


def _shape(name: str) -> str:
    return "".join("0" if mark.isdigit() else "a" if mark.isalpha() else mark for mark in name)


def require_alike(name: str, as_of: str) -> None:
    """Raises UserError unless both are numbers, or ``as_of`` is written as the partition ``name``: only then is the order

    of strings theirs.
    """
    if _shape(name) == _shape(as_of) or (is_number(name) and is_number(as_of)):
        return
    problem = f"{as_of!r} is not written like the column's {name!r}; they are compared as strings"
    fix = f"write it as {name!r}; numbers within names must all have the same length in the source, as in v007"
    raise UserError(problem, where="--as-of (columns.partition)", fix=fix)


class NoRowUpTo(UserError):
    """The source begins later."""


def no_row_upto(as_of: str, first: str) -> NoRowUpTo:
    problem = f"there is no row from {as_of!r} or before; the first one is from {first!r}"
    return NoRowUpTo(problem, where="--as-of", fix="give a later one, written as in columns.partition")


def too_many_partitions(column: str, most: int, file: SourceFile) -> UserError:
    problem = f"column {column!r} holds more than {most:,} different values, too many for partitions"
    fix = "set partitions.every to day, week or month, or name a coarser column"
    return UserError(problem, where=f"{file.name} (columns.partition)", fix=fix)


def require_plain(
    columns: Columns,
    schema: pa.Schema,
    file: SourceFile,
    how: SourceOptions,
    of: str = "",
    learnt: Problem | None = None,
) -> None:
    """Raises DataError where a column that the recipe names holds lists or objects, a field or target what its type

    cannot be, or a partition bytes. Their JSON or bytes would be taken for words, and nothing that is generated goes back
    into a column of another type. Columns that the schema lacks are left alone, and the target of a problem that learns
    lists or objects (``learnt``).
    """
    lists = learnt is not None and learnt.target is not None and pa.types.is_nested(learnt.target)
    for key, name in columns.named.items():
        if name is None or name not in schema.names or (lists and name == columns.answer):
            continue
        field = schema.field(name)
        inside = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
        kind = "lists or objects" if b"json" in (field.metadata or {}) else str(field.type)
        bytes_of = pa.types.is_binary(inside) or pa.types.is_fixed_size_binary(inside)
        type = columns.types.get(name)
        # A kind whose values are nested takes lists and structs as they are, or their JSON, as it says.
        if type is not None and pa.types.is_nested(KINDS[type].arrow(type)) and KINDS[type].takes(inside, type):
            continue
        if type is not None and pa.types.is_nested(inside) and KINDS[type].takes(inside, type):
            continue
        if kind != str(field.type) or pa.types.is_nested(inside) or (bytes_of and key not in MAY_BE_BYTES):
            doubt = doubt_file(file, how)
            hint, fix = (f"; {doubt.problem}", doubt.fix) if doubt else ("", "give a column of plain values")
            raise DataError(f"column {name!r} holds {kind}, not plain values{hint}", where=f"{of}{key}", fix=fix)
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if type is not None and not KINDS[type].takes(plain, type):
            fix = f"give a column of {type}s" + (f", or name it in source.{type}" if hasattr(how, type) else "")
            raise DataError(f"column {name!r} holds {kind}, not {type}", where=f"{of}{key}", fix=fix)


def require_fit(
    publish: Publish, focus: Sequence[str], problem: Problem, names: Sequence[str], held_out: Sequence[str]
) -> None:
    """Raises UserError for what would fail only hours later: a copied column or focus label that is not there, a

    prefix that is taken. ``names``: the source's columns; ``held_out``: the strata of validation rows.
    """
    for at, name in enumerate(publish.copy):
        if name not in names:
            found = f"there is no column {name!r}; {nearest(name, names)}"
            raise UserError(found, where=f"publish.copy[{at}]", fix=f"correct publish.copy[{at}]")
    if clash := next((name for name in names if name.startswith(publish.prefix)), None):
        raise UserError(
            f"the source's column {clash!r} begins with the prefix {publish.prefix!r} of the added columns",
            where="publish.prefix",
            fix="choose another prefix, such as `syn_`",
        )
    for label in focus:
        if problem.stratum_named(label, held_out) is None:
            found = f"no validation row is labelled {label!r}; {nearest(label, held_out)}"
            raise UserError(found, where="gate.focus", fix="correct gate.focus, or hold out rows of that class")


def counted(refused: Sequence[dict[str, str]]) -> str:
    """``no_label 3, ragged 1``, or ``no rows``."""
    counts = Counter(item["reason"] for item in refused)
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items())) or "no rows"


def _first(refused: Sequence[dict[str, str]]) -> str:
    first = refused[0]
    detail = f": {first['detail']}" if first["detail"] else ""
    return f"{first['file']} {first['location']} ({first['reason']}{detail})"


def _remedy(refused: Sequence[dict[str, str]]) -> str:
    (reason, _), *_ = Counter(item["reason"] for item in refused).most_common(1)
    return remedy(reason)


class NoPartition(DataError):
    """No row of a source that is cut stands in any partition."""


def no_partition(files: Sequence[str], counts: Mapping[str, int], first: dict[str, str] | None) -> NoPartition:
    """``counts``: all refused rows by reason; ``first``: one of them. None where there is no row at all."""
    if first is None:
        return NoPartition("expected rows, found only columns", where=_of(files), fix="give files with rows")
    reason = max(counts, key=lambda name: counts[name])
    every = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
    problem = f"no row has a partition: with this one, all {sum(counts.values()):,} are refused ({every})"
    return NoPartition(problem, where=_first([first]), fix=remedy(reason))


def _of(files: Sequence[str]) -> str:
    return files[0] if len(files) == 1 else f"{len(files):,} files"


def no_usable_row(files: Sequence[str], names: Sequence[str], refused: Sequence[dict[str, str]]) -> DataError:
    """Files without a row, or with refused ones only."""
    if not refused:
        shown = ", ".join(names[:SHOWN])
        return DataError(f"expected rows, found only columns: {shown}", where=_of(files), fix="give files with rows")
    return DataError(
        f"with this one, all {len(refused):,} rows are refused ({counted(refused)})",
        where=_first(refused),
        fix=_remedy(refused),
    )


def require_sound(labels: Labels, refuse: Refuse, refused: Sequence[dict[str, str]], read: int) -> None:
    """Stops before any generation: DataError at an unknown label, UnsoundSource past the share of refused rows."""
    unknown = [item for item in refused if item["reason"] == "unknown_label"]
    if unknown and labels.unknown == "stop":
        first = unknown[0]
        raise DataError(
            f"{first['detail']} is not among labels.declared ({len(unknown):,} such rows)",
            where=f"{first['file']} {first['location']}",
            fix="declare it, add an alias, or set labels.unknown",
        )
    faulty = [item for item in refused if item["reason"] not in ("retired_label", CONFLICT)]  # they leave as asked
    if len(faulty) > refuse.max_share * read:
        raise UnsoundSource(
            f"with this one, {len(faulty):,} of {read:,} rows are refused ({counted(faulty)}): more than refuse.max_share "
            f"({refuse.max_share:g}) allows",
            where=_first(faulty),
            fix=f"{_remedy(faulty)}; or allow a larger share (refuse.max_share)",
        )
