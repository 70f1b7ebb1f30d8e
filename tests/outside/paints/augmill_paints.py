"""A kind of field, a problem, a metric, a generator, a check, a trainer and a reader, as a package of their own.

Paints, each a colour such as ``#1E90FF``, and how bright people call it, a grade from 1 to 5. Nothing here is text, a
class or a sum over rows: a colour is near another by its distance in RGB, a grade is a whole number with an order, and
the metric is a median.
"""

from __future__ import annotations

import colorsys
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import (
    ANY,
    TARGET,
    VERDICT_SCHEMA,
    Check,
    Context,
    Featurizer,
    FitInputs,
    Fitted,
    Floats,
    Generator,
    Ints,
    Judged,
    Kind,
    Metric,
    NearIndex,
    Problem,
    ReadLimits,
    ReadTarget,
    Request,
    TargetReader,
)
from augmill.tasks.rows.kinds import candidate_schema
from augmill.tasks.rows.randomness import uniforms
from augmill.tasks.rows.schema import distance
from augmill.tasks.sources import Batch, Reader, RefusedRow, SourceFile, SourceOptions, open_bytes
from augmill.tasks.trainers import Prediction, Trainer, TrainerInputs, Training

# --- The kind ---------------------------------------------------------------------------------------------------------

FAR = 64.0  # in RGB, from which on two colours have nothing in common
_COLOUR = re.compile(r"#(?:[0-9a-fA-F]{3}|[0-9a-fA-F]{6})")


def plain(colour: str) -> str:
    """``#1E9`` and ``#11ee99`` are one colour."""
    digits = colour[1:].lower()
    return "#" + ("".join(2 * mark for mark in digits) if len(digits) == 3 else digits)


def rgb(columns: pa.Table) -> Floats:
    """(rows, fields, 3), 0 to 255."""
    found = [[_parts(colour) for colour in column.to_pylist()] for column in columns.columns]
    return np.array(found, dtype=np.float64).reshape(columns.num_columns, columns.num_rows, 3).transpose(1, 0, 2)


def _parts(colour: str) -> list[int]:
    digits = plain(colour)
    return [int(digits[at : at + 2], 16) for at in (1, 3, 5)]


def likeness(ours: Floats, theirs: Floats) -> Floats:
    """(ours, theirs), 0 to 1: of the two colours that differ most."""
    apart = np.sqrt(((ours[:, None] - theirs[None]) ** 2).sum(axis=-1)).max(axis=-1)
    return np.maximum(1 - apart / FAR, 0.0)


def hue(colour: str) -> int:
    """In degrees, by sixths of the circle."""
    return 60 * int(6 * colorsys.rgb_to_hsv(*(part / 255 for part in _parts(colour)))[0])


class Colour(Kind):
    """``id``: as it is written. ``equal``: whatever the case, and however short."""

    contract: ClassVar[int] = 1
    VERSION: ClassVar[int] = 1
    name: ClassVar[str] = "colour"
    types: ClassVar[tuple[str, ...]] = ("colour",)
    remedies: ClassVar[Mapping[str, str]] = {"not_a_colour": "write colours as #1e90ff", "no_colour": "paint it"}

    def arrow(self, type: str) -> pa.DataType:
        return pa.string()

    def sniff(self, column: pa.ChunkedArray, name: str) -> tuple[str, float]:
        values = [value for value in column.slice(0, 100).to_pylist() if value]
        hits = [isinstance(value, str) and bool(_COLOUR.fullmatch(value)) for value in values]
        return "colour", float(np.mean(hits)) if hits else 0.0

    def takes(self, kind: pa.DataType, type: str) -> bool:
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))

    def read(self, column: pa.ChunkedArray, type: str, limits: ReadLimits) -> tuple[pa.Array, list[str | None]]:
        values = [str(value or "").strip() for value in column.to_pylist()]
        reasons = [None if _COLOUR.fullmatch(v) else "not_a_colour" if v else "no_colour" for v in values]
        read = [value if reason is None else None for value, reason in zip(values, reasons, strict=True)]
        return pa.array(read, pa.string()), reasons

    def id(self, columns: pa.Table) -> list[bytes]:
        rows = zip(*(column.to_pylist() for column in columns.columns), strict=True)
        return ["/".join(value or "" for value in row).encode() for row in rows]

    def equal(self, columns: pa.Table) -> list[bytes]:
        rows = zip(*(column.to_pylist() for column in columns.columns), strict=True)
        return ["/".join(map(plain, row)).encode() for row in rows]

    def near(self, columns: pa.Table, threshold: float) -> NearIndex:
        return Palette(rgb(columns), threshold)

    def load_near(self, directory: Path, name: str) -> NearIndex:
        kept = json.loads((directory / f"{name}.palette.json").read_text(encoding="utf-8"))
        return Palette(np.array(kept["rgb"], dtype=np.float64).reshape(kept["shape"]), kept["threshold"])

    def groups(self, columns: pa.Table, threshold: float) -> npt.NDArray[np.bool_]:
        alike = likeness(rgb(columns), rgb(columns)) >= threshold
        keep = np.ones(columns.num_rows, dtype=np.bool_)
        for row in range(columns.num_rows):
            keep[row] = not (alike[row, :row] & keep[:row]).any()
        return keep

    def profile(self, columns: pa.Table) -> dict[str, Any]:
        counts = Counter(str(hue(value)) for column in columns.columns for value in column.to_pylist())
        return {"hues": dict(sorted(counts.items()))}

    def drift(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
        return {"hues": distance(one["hues"], other["hues"])}

    def expectations(self, field: str, max_null_share: float) -> list[dict[str, Any]]:
        return [
            {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": field, "mostly": 1 - max_null_share}},
            {"type": "expect_column_values_to_match_regex", "kwargs": {"column": field, "regex": "^#"}},
        ]

    def features(self, train: pa.Table) -> Featurizer:
        return Channels()

    def show(self, columns: pa.Table) -> list[str]:
        rows = zip(*(column.to_pylist() for column in columns.columns), strict=True)
        return [", ".join(f"{value} (hue {hue(value)}°)" for value in row) for row in rows]

    def similarities(self, made: pa.Table, real: pa.Table) -> Floats:
        return likeness(rgb(made), rgb(real))

    def diversity(self, made: pa.Table, real: pa.Table) -> dict[str, float]:
        return {"distinct_colours": len(set(self.equal(made))) / max(made.num_rows, 1)}


class Channels(Featurizer):
    """Red, green and blue of each field, 0 to 1."""

    def transform(self, columns: pa.Table) -> Any:
        return (rgb(columns).reshape(columns.num_rows, 3 * columns.num_columns) / 255).astype(np.float32)


class Palette(NearIndex):
    """Every pair is compared."""

    def __init__(self, colours: Floats, threshold: float) -> None:
        self.colours, self.threshold = colours, threshold

    def _alike(self, columns: pa.Table) -> Floats:
        found = likeness(rgb(columns), self.colours)
        same = (self.colours[:, None] == self.colours[None]).all(axis=(2, 3)) if len(self.colours) else np.empty((0, 0))
        again = np.tril(same, -1).any(axis=1) if len(same) else np.empty(0, np.bool_)
        return np.where((found >= self.threshold) & ~again[None], found, 0.0)

    def matches(self, columns: pa.Table) -> tuple[Ints, Ints, Floats]:
        found = self._alike(columns)
        query, position = np.nonzero(found)
        return query.astype(np.int64), position.astype(np.int64), found[query, position]

    def nearest(self, columns: pa.Table) -> tuple[Ints, Floats]:
        if not len(self.colours):
            return np.full(columns.num_rows, -1, np.int64), np.zeros(columns.num_rows)
        found = self._alike(columns)
        best = found.argmax(axis=1)
        value = found[np.arange(len(found)), best]
        return np.where(value > 0, best, -1).astype(np.int64), value

    def save(self, directory: Path, name: str) -> dict[str, Path]:
        path = directory / f"{name}.palette.json"
        kept = {"rgb": self.colours.ravel().tolist(), "shape": self.colours.shape, "threshold": self.threshold}
        path.write_text(json.dumps(kept), encoding="utf-8")
        return {path.name: path}


# --- The problem, and what judges it ----------------------------------------------------------------------------------

GRADES = range(1, 6)


class GradeReader(TargetReader):
    def __init__(self) -> None:
        self.values, self.coerced = {}, 0

    def read(self, value: Any) -> ReadTarget:
        if value is None or value == "":
            return ReadTarget(None, None, "no_grade", None)
        if str(value) not in map(str, GRADES):
            return ReadTarget(None, None, "not_a_grade", None)
        return ReadTarget(_stratum(int(value)), int(value), "", str(value))


def _stratum(grade: int) -> str:
    return f"grade {grade}"


class Grading(Problem):
    """Whole numbers with an order. The stratum is the grade, whatever the rows: nothing is fitted."""

    contract: ClassVar[int] = 1
    VERSION: ClassVar[int] = 1
    name: ClassVar[str] = "grading"
    types: ClassVar[tuple[str, ...]] = ("grade",)
    target: ClassVar[pa.DataType | None] = pa.int8()
    metric: ClassVar[str] = "median_error"
    metrics: ClassVar[tuple[str, ...]] = ("median_error",)
    stratum_metric: ClassVar[str] = "median_error"
    stratum_word: ClassVar[str] = "grade"
    remedies: ClassVar[Mapping[str, str]] = {"no_grade": "grade it", "not_a_grade": "grades are 1 to 5"}

    def reader(self, rules: Any) -> TargetReader:
        return GradeReader()

    def lacks(self, train: pa.Table) -> tuple[str, str] | None:
        few = len(train[TARGET].unique()) < 2
        return ("train needs two grades", "grade more paints") if few else None

    def stratum(self, target: pa.Array, fitted: Mapping[str, Any]) -> pa.Array:
        return pa.array([_stratum(grade) for grade in target.to_pylist()], pa.string())


class MedianError(Metric):
    """The median of the absolute errors: no sum over rows holds it."""

    contract: ClassVar[int] = 1
    name: ClassVar[str] = "median_error"
    title: ClassVar[str] = "median error"
    problems: ClassVar[tuple[str, ...]] = ("grading",)
    better: ClassVar[Literal["more", "less"]] = "less"
    scale: ClassVar[float] = 1.0
    unit: ClassVar[str] = "{target}"

    def prepare(self, judged: Judged) -> tuple[Floats, Ints]:
        """(the errors in ascending order, the unit of each)."""
        apart = np.abs(np.asarray(judged.predicted, np.float64) - np.asarray(judged.truth, np.float64))
        order = np.argsort(apart, kind="stable")
        return apart[order], judged.units[order]

    def values(self, prepared: Any, weights: npt.NDArray[np.float32]) -> Floats:
        apart, units = prepared
        if not len(apart):
            return np.full(len(weights), np.nan)
        sums = np.cumsum(weights[:, units].astype(np.float64), axis=1)
        middle = (sums >= sums[:, -1:] / 2).argmax(axis=1)
        return np.where(sums[:, -1] > 0, apart[middle], np.nan)


# --- What makes paints, and what learns from them ---------------------------------------------------------------------


@dataclass(frozen=True)
class TintOptions:
    """How a paint is tinted."""

    step: int = field(default=24, metadata={"help": "how far each channel is moved at most"})
    grades: int = field(default=0, metadata={"help": "so many grades brighter than its parent a row is called"})


class Tint(Generator):
    """A train row of the asked grade, each channel moved a little."""

    contract: ClassVar[int] = 1
    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[TintOptions]] = TintOptions
    normalisation: ClassVar[str] = "fold"
    kinds: ClassVar[tuple[str, ...]] = ("colour",)
    problems: ClassVar[tuple[str, ...]] = ("grading",)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        rows = inputs.train.select(["row_id", "stratum", TARGET, *ctx.fields]).sort_by("row_id").to_pylist()
        path = ctx.workdir / "paints.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        return {path.name: path}

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        paints = fitted.read_json("paints.json")
        draws = uniforms(request.seeds, 1 + 3 * len(ctx.fields))
        rows = []
        for at, stratum in enumerate(request.strata):
            own = [paint for paint in paints if paint["stratum"] == stratum]
            known = {"ordinal": int(request.ordinals[at]), "asked": stratum, "seed": int(request.seeds[at])}
            if not own:
                rows.append({**known, "parent_ids": [], "reason": "no_paint_of_the_grade"})
                continue
            parent = own[int(draws[at, 0] * len(own))]
            moved = iter(np.rint((2 * draws[at, 1:] - 1) * self.options.step).astype(int).tolist())
            made = {name: _moved(parent[name], moved) for name in ctx.fields}
            grade = min(parent[TARGET] + self.options.grades, max(GRADES))
            told = {"stratum": stratum, TARGET: grade, "parent_ids": [parent["row_id"]], "reason": None}
            rows.append(known | told | made)
        return pa.Table.from_pylist(rows, candidate_schema(ctx.fields, ctx.target))


def _moved(colour: str, moved: Iterator[int]) -> str:
    return "#" + "".join(f"{min(max(part + next(moved), 0), 255):02x}" for part in _parts(colour))


@dataclass(frozen=True)
class NeighboursOptions:
    """Whom a paint is compared with."""

    count: int = field(default=5, metadata={"help": "neighbours that say its grade"})


class Neighbours(Trainer):
    """The mean grade of the nearest paints, by what they weigh."""

    contract: ClassVar[int] = 1
    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[NeighboursOptions]] = NeighboursOptions
    kinds: ClassVar[tuple[str, ...]] = ("colour",)
    problems: ClassVar[tuple[str, ...]] = ("grading",)

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        fields = list(inputs.fields)
        rows = pa.concat_tables([part.select([TARGET, *fields]) for part in (inputs.real, inputs.synthetic)])
        grades = rows[TARGET].to_numpy().astype(np.float64)
        alike = -np.abs(rgb(inputs.evaluation.select(fields))[:, None] - rgb(rows.select(fields))[None]).sum(
            axis=(2, 3)
        )
        for training in trainings:
            own = training.merged()
            near = np.argsort(-alike[:, own.rows], axis=1, kind="stable")[:, : self.options.count]
            yield Prediction(np.average(grades[own.rows[near]], axis=1, weights=own.weights[near]))


# --- What refuses paints ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VividOptions:
    """How grey is too grey."""

    slack: float = field(
        default=0.05, metadata={"help": "how far below the greyest train row a made one may be, 0 to 1"}
    )


class Vivid(Check):
    """Made paints that are greyer than any real one."""

    contract: ClassVar[int] = 1
    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[VividOptions]] = VividOptions
    kinds: ClassVar[tuple[str, ...]] = ("colour",)
    problems: ClassVar[tuple[str, ...]] = (ANY,)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        least = float(saturation(inputs.train.select(list(ctx.fields))).min()) if inputs.train.num_rows else 0.0
        path = ctx.workdir / "check.json"
        learnt = {"abstains": False, "real_refused": 0.0, "why": "refuses no train row", "least": least}
        path.write_text(json.dumps(learnt), encoding="utf-8")
        return {path.name: path}

    def judge(self, fitted: Fitted, candidates: pa.Table, ctx: Context) -> pa.Table:
        least = fitted.read_json("check.json")["least"] - self.options.slack
        found = saturation(candidates.select(list(ctx.fields)))
        reasons = ["too_grey" if value < least else None for value in found.tolist()]
        return pa.table({"reason": reasons, "score": found}, VERDICT_SCHEMA)


def saturation(columns: pa.Table) -> Floats:
    """(rows,): of the greyest colour of each, 0 to 1."""
    parts = rgb(columns)
    return ((parts.max(axis=2) - parts.min(axis=2)) / np.maximum(parts.max(axis=2), 1)).min(axis=1)


# --- What reads paints --------------------------------------------------------------------------------------------------


class Swatches(Reader):
    """Lines of cells between bars, the first of which names the columns. Cells are texts."""

    contract: ClassVar[int] = 1
    VERSION: ClassVar[int] = 1
    noun: ClassVar[str] = "line"

    def columns(self, file: SourceFile, options: SourceOptions) -> list[str]:
        return _cells(file)[0]

    def schema(self, files: Sequence[SourceFile], options: SourceOptions) -> pa.Schema:
        names = dict.fromkeys(name for file in files for name in _cells(file)[0])
        return pa.schema([pa.field(name, pa.string()) for name in names])

    def batches(self, file: SourceFile, options: SourceOptions, schema: pa.Schema) -> Iterator[Batch]:
        names, *rows = _cells(file)
        whole = [(at, row) for at, row in enumerate(rows, 2) if len(row) == len(names)]
        refused = [RefusedRow(f"line {at}", "ragged", "") for at, row in enumerate(rows, 2) if len(row) != len(names)]
        wanted = [field for field in schema if field.name in names]
        columns = [[row[names.index(each.name)] for _, row in whole] for each in wanted]
        yield Batch(pa.table(columns, pa.schema(wanted)), pa.array([f"line {at}" for at, _ in whole]), refused)

    def sample(self, file: SourceFile, options: SourceOptions, count: int) -> list[dict[str, Any]]:
        return next(self.batches(file, options, self.schema([file], options))).table.slice(0, count).to_pylist()


def _cells(file: SourceFile) -> list[list[str]]:
    with open_bytes(file.uri) as stream:
        lines = stream.read().decode("utf-8").splitlines()
    return [[cell.strip() for cell in line.split("|")] for line in lines]
