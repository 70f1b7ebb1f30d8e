"""The user's own columns: how inputs are read, which columns are kept as they came, and how a row is given back."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import USER_PREFIX, Kind, Problem, ReadLimits
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.recipe.sections import Columns
from augmill.tasks.rows.kinds import KINDS, kinds_of


def versions_of(columns: Columns, problem: str) -> dict[str, int | str] | None:
    """What reads the rows: the kinds and the problem, but for the versions that identities do not hold (``unsaid``).

    And what the kinds decode with, major.minor. ``problem``: as ``Recipe.learnt``.
    """
    readers: list[Kind | Problem] = [*(kind for kind, _ in kinds_of(columns.fields)), PROBLEMS[problem]]
    shipped = {each.name: each.VERSION for each in readers if each.unsaid != each.VERSION}
    decoders = {name: _version(name) for kind, _ in kinds_of(columns.fields) for name in kind.libraries}
    return {**shipped, **decoders, **(codes_of(columns, problem) or {})} or None


def _version(package: str) -> str:
    """Of a package that is not there none: whoever decodes says what to install."""
    try:
        return ".".join(importlib.metadata.version(package).split(".")[:2])
    except importlib.metadata.PackageNotFoundError:
        return ""


def files_named(columns: Columns) -> list[str]:
    """The inputs whose values are files: where they hold names, the files lie beside the table."""
    return [name for name, type in columns.types.items() if KINDS[type].files]


def codes_of(columns: Columns, problem: str) -> dict[str, str] | None:
    """The code from outside that says what these rows are, by name, for identities; None where all of it ships."""
    return {**(KINDS.codes(*columns.types.values()) or {}), **(PROBLEMS.codes(problem) or {})} or None


def read_fields(table: pa.Table, columns: Columns, limits: ReadLimits) -> tuple[pa.Table, list[str | None]]:
    """(the inputs as fields, why each row is refused); of several reasons the one that sorts first counts."""
    arrays: dict[str, Any] = {}
    reasons: list[str | None] = [None] * table.num_rows
    for name, field in zip(columns.sources, columns.fields, strict=True):
        type = columns.types[name]
        arrays[field], found = KINDS[type].read(table[name], type, limits)
        if any(found):
            reasons = [min(filter(None, pair), default=None) for pair in zip(reasons, found, strict=True)]
    return pa.table(arrays), reasons


def taken_over(columns: Columns, problem: Problem) -> set[str]:
    """The source's columns whose values stand in a field, or in the stratum, bit by bit; all others are kept as they came.

    A number of any type is a field of float64, so its column is kept too, for the release to give real values back.
    """
    own = {name for name, type in columns.types.items() if KINDS[type].verbatim}
    return own if problem.target is not None else own | {columns.answer}


def give_back(
    rows: pa.Table, schema: pa.Schema, columns: Columns, problem: Problem, values: Mapping[str, Any]
) -> dict[str, Any]:
    """The columns of ``schema`` in its order and types: of real rows what came, of made ones what was made.

    ``values``: as ``TargetReader.values``. Raises DataError where a target does not fit its column's type.
    """
    fields = dict(zip(columns.sources, columns.fields, strict=True))
    arrays: dict[str, Any] = {}
    for field in schema:
        kept = f"{USER_PREFIX}{field.name}"
        if field.name in fields:
            type = columns.types[field.name]
            made = KINDS[type].release(rows[fields[field.name]].combine_chunks(), field.type)
        elif field.name == columns.answer:
            made = problem.column(rows, values, field.type)
        else:
            arrays[field.name] = rows[kept].cast(field.type)
            continue
        arrays[field.name] = pc.coalesce(rows[kept].cast(field.type), made) if kept in rows.column_names else made
    return arrays
