"""Rows generated elsewhere and read from a file, put through the same checks and the same gate.

Row k of class c in the file answers the request for class c with ordinal k; past the last one nothing is delivered. In a
regression a row is of the bin that its target lies in.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.csv

from augmill.tasks.boundary.parquet import read_parquet
from augmill.tasks.contracts import (
    ANY,
    ROW_ID,
    STRATUM,
    TARGET,
    Context,
    FitInputs,
    Fitted,
    Generator,
    ReadLimits,
    Request,
)
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.problems.labels import labels_alike
from augmill.tasks.rows.kinds import KINDS, candidate_schema, type_of
from augmill.tasks.rows.kinds.text import canonical
from augmill.tasks.rows.names import nearest

Row = dict[str, Any]
REFUSED = "refused"  # why a kind refuses what the row holds, or None
LIMITS = ReadLimits(max_chars=10**9)  # a length is the recipe's business, and a check's


@dataclass(frozen=True)
class ReplayOptions:
    """Which file, and what its columns mean."""

    path: str = field(metadata={"file": True, "help": "The file: .csv, .tsv, .jsonl or .parquet, in UTF-8."})
    columns: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "The file's column for each column of the rows: texts are called `text`, `text_b`, `text_c`, "
            "`text_d`, others as in the recipe; columns not named here have the same name in the file."
        },
    )
    label: str = field(default="label", metadata={"help": "The file's column that holds the label, or the target."})
    labels: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "The file's labels translated to the dataset's, if they differ (`{'4': joint_pain}`)."},
    )
    parent: str | None = field(
        default=None, metadata={"help": "The file's column that names the real row from which each row was made."}
    )
    parent_by: Literal["id", "text"] = field(
        default="id", metadata={"help": "Whether that column holds the real row's id or its (first) text."}
    )
    delimiter: str | None = field(
        default=None, metadata={"help": "The character between columns; by default a tab in .tsv, otherwise a comma."}
    )

    def __post_init__(self) -> None:
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise ValueError(f"delimiter: expected one character; found {self.delimiter!r}")


class Replay(Generator):
    """Hands out the rows of a file by class, in the file's order.

    A label that is only another spelling of one class (0.0 of 0, True of true, A of a) is that class.
    """

    VERSION = 2
    Options = ReplayOptions
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = True
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    kinds: ClassVar[tuple[str, ...]] = (ANY,)
    problems: ClassVar[tuple[str, ...]] = ("classification", "regression", "ranking")

    def preflight(self, fields: tuple[str, ...]) -> None:
        """Raises UserError where `columns` names a column that the rows do not have."""
        present = [_column_of(name) for name in fields]
        for name in self.options.columns:
            if name not in present:
                raise UserError(
                    f"`columns: {name}` names no column of the rows; found {_shorten(present)}",
                    where="replay",
                    fix="use one of these, or leave it out",
                )

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes ``rows.arrow`` (by class, then file order) and ``summary.json`` (what the file held, by reason).

        Raises UserError where file or columns are not there, DataError where the file is broken or holds no
        row of a known class.
        """
        options: ReplayOptions = self.options
        rows = _read_rows(Path(options.path), options, ctx.fields)
        strata = set(inputs.train[STRATUM].to_pylist())
        parents = _parents_of(inputs.train, options)
        kept: defaultdict[str, list[Row]] = defaultdict(list)
        skipped: Counter[str] = Counter()
        unknown: Counter[str] = Counter()
        if ctx.target is None:
            told = _told(rows, strata, options)
        else:
            told = (_like if pa.types.is_string(ctx.target) else _binned)(rows, inputs.train)
        for row in rows:
            stratum = told(row)
            if row[REFUSED]:
                skipped[row[REFUSED]] += 1
            elif stratum not in strata:
                skipped["unknown_label"] += 1
                unknown[stratum] += 1
            else:
                parent = parents.get(_parent_key(row["parent"], options)) if options.parent else None
                skipped["unknown_parent"] += options.parent is not None and parent is None
                kept[stratum].append({**row, STRATUM: stratum, "parent_ids": [parent] if parent else []})
        if not kept:
            raise DataError(
                f"expected rows labelled {_shorten(sorted(strata))}; found labels {_shorten(sorted(unknown))}",
                where=Path(options.path).name,
                fix="name the label column (`label:`), or translate its values (`labels:`)",
            )
        summary = {
            "read": len(rows),
            "empty_text": skipped["no_text"],
            "unknown_label": skipped["unknown_label"],
            "unknown_labels": dict(sorted(unknown.items(), key=lambda item: (-item[1], item[0]))[:20]),
            "unknown_parent": skipped["unknown_parent"],
            "rows": {stratum: len(kept[stratum]) for stratum in sorted(kept)},
        }
        others = {name: count for name, count in sorted(skipped.items()) if name not in (*summary, "no_text")}
        if others:
            summary[REFUSED] = others
        return _write(ctx, [row for stratum in sorted(kept) for row in kept[stratum]], summary)

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """The file's rows; ``exhausted`` where the class has fewer rows than the ordinal asks for."""
        table = fitted.get("rows", lambda: _load(fitted))
        counts: dict[str, int] = fitted.read_json("summary.json")["rows"]
        starts: dict[str, int] = {}
        for stratum in sorted(counts):
            starts[stratum] = sum(counts[name] for name in starts)
        rows = [
            starts[stratum] + ordinal if ordinal < counts.get(stratum, 0) else None
            for stratum, ordinal in zip(request.strata, request.ordinals.tolist(), strict=True)
        ]
        taken = table.take(pa.array(rows, pa.int64()))
        columns = {
            "ordinal": request.ordinals,
            "asked": request.strata,
            STRATUM: request.strata,
            **{name: taken[name].combine_chunks() for name in _held(ctx)},
            "parent_ids": [ids or [] for ids in taken["parent_ids"].to_pylist()],
            "seed": request.seeds,
            "reason": ["exhausted" if row is None else None for row in rows],
        }
        return pa.table(columns, schema=candidate_schema(ctx.fields, ctx.target))


def _held(ctx: Context) -> list[str]:
    """The columns of a row that the file gives."""
    return [*([TARGET] if ctx.target is not None else []), *ctx.fields]


def _column_of(name: str) -> str:
    """What the recipe calls a field: ``age`` of ``number:age``, ``text_b`` of ``text_b``."""
    return name.partition(":")[2] or name


def _told(rows: list[Row], strata: set[str], options: ReplayOptions) -> Callable[[Row], str]:
    """The class of a row, by its label translated and in the dataset's spelling; it may be none of ``strata``."""
    said = {str(row["label"]) for row in rows}
    translated = {name: options.labels[key] for name, key in labels_alike(said, options.labels).items()}
    translated |= options.labels
    named = {name: translated.get(name, name) for name in said}
    alike = labels_alike(named.values(), strata)
    return lambda row: alike.get(named[str(row["label"])], named[str(row["label"])])


def _binned(rows: list[Row], train: pa.Table) -> Callable[[Row], str]:
    """The stratum of a row by its target, which it gets: the last one whose least train target is not above it."""
    least: dict[str, float] = {}
    for stratum, target in zip(train[STRATUM].to_pylist(), train[TARGET].to_pylist(), strict=True):
        least[stratum] = min(target, least.get(stratum, target))
    names = sorted(least, key=lambda name: least[name])
    edges = [least[name] for name in names]
    said = pa.chunked_array([pa.array([row["label"] for row in rows])])
    values, reasons = KINDS["number"].read(said, "number", LIMITS)
    for row, value, reason in zip(rows, values.to_pylist(), reasons, strict=True):
        row[TARGET] = None if reason else value

    def told(row: Row) -> str:
        at = row[TARGET]
        return str(row["label"]) if at is None else names[max(0, bisect_right(edges, at) - 1)]

    return told


def _like(rows: list[Row], train: pa.Table) -> Callable[[Row], str]:
    """The stratum of a row by its target, which it gets, a name: that of train rows with it; of one that none has the last."""
    known = dict(zip(train[TARGET].to_pylist(), train[STRATUM].to_pylist(), strict=True))
    last = max(known.values(), default="")
    for row in rows:
        row[TARGET] = None if row["label"] in (None, "") else str(row["label"])
    return lambda row: str(row["label"]) if row[TARGET] is None else known.get(row[TARGET], last)


def _read_rows(path: Path, options: ReplayOptions, fields: tuple[str, ...]) -> list[Row]:
    """The file's rows as ``{field: value, ..., "label": value, "parent": value, REFUSED: reason}``, in order."""
    named = {name: options.columns.get(_column_of(name), _column_of(name)) for name in fields}
    wanted = {**named, "label": options.label}
    if options.parent:
        wanted["parent"] = options.parent
    table = _read_table(path, options, list(wanted.values()))
    for column in wanted.values():
        if column not in table.column_names:
            raise UserError(
                f"expected a column {column!r}; found {_shorten(table.column_names)}",
                where=path.name,
                fix=nearest(column, table.column_names, "check `columns:`, `label:` and `parent:`"),
            )
    columns = {name: table[column] for name, column in wanted.items()}
    refused: list[str | None] = [None] * table.num_rows
    for name in fields:
        type, column = type_of(name), columns[name]
        if not KINDS[type].takes(column.type, type):
            raise DataError(f"expected a {type} in column {wanted[name]!r}; found {column.type}", where=path.name)
        columns[name], reasons = KINDS[type].read(column, type, LIMITS)
        refused = [before or now for before, now in zip(refused, reasons, strict=True)]
    values = {name: column.to_pylist() for name, column in columns.items()} | {REFUSED: refused}
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def _read_table(path: Path, options: ReplayOptions, columns: list[str]) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return read_parquet(path, columns)
        if path.suffix == ".jsonl":
            return _read_json_lines(path, columns)
        if path.suffix in (".csv", ".tsv"):
            delimiter = options.delimiter or ("\t" if path.suffix == ".tsv" else ",")
            size = path.stat().st_size
            return pa.csv.read_csv(
                path,
                # A block holds the whole file: a cell that crosses the end of a block is an error.
                read_options=pa.csv.ReadOptions(block_size=max(size, 1) + 1, use_threads=False),
                parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
            )
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError("there is no such file", where=str(path), fix="correct `path:`") from error
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the file could not be read ({error})",
            where=path.name,
            fix="check that it is complete and in UTF-8, and that `delimiter:` is right",
        ) from error
    problem = f"expected .csv, .tsv, .jsonl or .parquet; found {path.suffix or 'no suffix'}"
    raise UserError(problem, where=path.name, fix="give the file the suffix of its format")


def _read_json_lines(path: Path, columns: list[str]) -> pa.Table:
    rows: list[Row] = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # also too many digits, or too deep
                raise DataError(f"expected a JSON object ({error})", where=f"{path.name}, line {number}") from error
            if not isinstance(row, dict):
                raise DataError(f"expected a JSON object; found {line[:40]!r}", where=f"{path.name}, line {number}")
            rows.append(row)
    present = [column for column in columns if any(column in row for row in rows)]
    # Labels of mixed types (1 and "1") are compared as text in the end; null stays null.
    return pa.table(
        {name: [_as_text(row.get(name)) for row in rows] for name in present},
        schema=pa.schema([(name, pa.string()) for name in present]),
    )


def _as_text(value: Any) -> str | None:
    """Lists as JSON, as kinds of lists read them."""
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return None if value is None else str(value)


def _parents_of(train: pa.Table, options: ReplayOptions) -> dict[str, str]:
    """What the parent column may hold -> row id; of equal texts the smallest id."""
    ids: list[str] = sorted(train[ROW_ID].to_pylist(), reverse=True)
    if options.parent_by == "id":
        return {row_id: row_id for row_id in ids}
    if "text" not in train.column_names:
        raise UserError("`parent_by: text` is for rows with a text", where="replay", fix="name parents by their ids")
    texts = dict(zip(train[ROW_ID].to_pylist(), train["text"].to_pylist(), strict=True))
    return {canonical(texts[row_id] or ""): row_id for row_id in ids}


def _parent_key(value: object, options: ReplayOptions) -> str:
    return canonical(str(value)) if options.parent_by == "text" else str(value)


def _shorten(names: list[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _write(ctx: Context, rows: list[Row], summary: dict[str, Any]) -> dict[str, Path]:
    types = {item.name: item.type for item in candidate_schema(ctx.fields, ctx.target)}
    schema = pa.schema([(name, types[name]) for name in (*_held(ctx), "parent_ids")])
    table = pa.Table.from_pylist(rows, schema=schema)
    paths = {name: ctx.workdir / name for name in ("rows.arrow", "summary.json")}
    with pa.OSFile(str(paths["rows.arrow"]), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table)
    text = json.dumps(summary, sort_keys=True, ensure_ascii=False)
    paths["summary.json"].write_text(text, encoding="utf-8")
    return paths


def _load(fitted: Fitted) -> pa.Table:
    with pa.memory_map(str(fitted.path / "rows.arrow")) as source:
        return pa.ipc.open_file(source).read_all().combine_chunks()
