"""Real rows of the asked stratum, each moved a little: the smoothed bootstrap (Efron, Annals of Statistics 1979;

Silverman, "Density Estimation for Statistics and Data Analysis", 1986; for rare classes ROSE: Menardi and Torelli, DMKD
2014). A new row is a train row whose numbers are moved by a kernel, with a bandwidth by Silverman's rule; some of its
categories are redrawn from its stratum.

Numbers are moved on the scale of their normal scores (van der Waerden) within the stratum: there every column, however
skewed, has mean 0 and variance 1, a step is wide where values lie far apart and narrow where they lie close, and what
comes back lies between values that the stratum has. The variance that the kernel adds is taken away again (Silverman and
Young, Biometrika 1987), so that a stratum's marginals stay what they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import ANY, Context, FitInputs, Fitted, Floats, Generator, Ints, Request
from augmill.tasks.generators._tables import Cells, TableRows, keep_rows
from augmill.tasks.rows.kinds.whole import read_arrow, write_arrow

SCALES = "scales.arrow"
# A value is a mass, which stays where it is, if it is this share of its stratum's, this many rows, and this many times as
# common as the others are on average: a whole number from 1 to 10 is none. Then others may be one of the rest: after 0,
# capital gains of 7,688 and 15,024 in adult.
MASS, MASS_ROWS, MASS_TIMES = 0.1, 3, 5


@dataclass(frozen=True)
class ResampleOptions:
    """How far a row may differ from the real row that it starts from."""

    smoothing: float = field(
        default=1.0,
        metadata={
            "help": "How far numbers are moved, in bandwidths by Silverman's rule, which shrink as the number of rows grows."
        },
    )
    flip: float = field(
        default=0.1,
        metadata={"help": "The chance that a category is redrawn from the rows of its class (or bin of targets)."},
    )

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing <= 10:
            raise ValueError(f"smoothing: expected 0 to 10; found {self.smoothing:g}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip: expected 0 to 1; found {self.flip:g}")
        if not self.smoothing and not self.flip:
            raise ValueError("smoothing, flip: with both at 0 every row would be a copy")


@dataclass(frozen=True)
class _NormalScores:
    """One column of one stratum: its values, ascending, and their scores; ``masses`` have none.

    ``bandwidth``: by Silverman's rule, on the scale of scores.
    """

    values: Floats
    scores: Floats
    masses: Floats
    bandwidth: float

    def moved(self, base: Floats, smoothing: float, draws: Floats) -> Floats:
        """Unrounded; ``base`` where it is a mass or missing, or where no two values span a scale. ``draws``: in [0, 1)."""
        if len(self.values) < 2 or not smoothing:
            return base
        at = np.minimum(np.searchsorted(self.values, base), len(self.values) - 1)
        width = self.bandwidth * smoothing
        score = (self.scores[at] + width * _kernel(draws)) / np.sqrt(1 + width * width)
        low, high = self.scores[0], self.scores[-1]
        score = np.where(score < low, 2 * low - score, np.where(score > high, 2 * high - score, score))
        made: Floats = np.interp(score, self.scores, self.values)
        return np.where(self.values[at] == base, made, base)


class Resample(Generator):
    """The parent is the row that a new row starts from. In a regression the target is moved too, within its bin."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[ResampleOptions]] = ResampleOptions
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = False
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    normalisation: ClassVar[str] = "fold"
    kinds: ClassVar[tuple[str, ...]] = ("table",)
    problems: ClassVar[tuple[str, ...]] = (ANY,)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes ``parents.arrow``, ``columns.json`` and ``scales.arrow``: values and scores by stratum and column."""
        files = keep_rows(inputs.train, ctx)
        rows = TableRows(Fitted(ctx.workdir, ""))
        scales = [
            {"stratum": stratum, "column": name, **_scores(rows.cells.numbers[start : start + count, at])}
            for stratum, (start, count) in sorted(rows.ranges.items())
            for at, name in enumerate(rows.names)
        ]
        floats = pa.list_(pa.float64())
        parts = [("values", floats), ("scores", floats), ("masses", floats), ("bandwidth", pa.float64())]
        schema = pa.schema([("stratum", pa.string()), ("column", pa.string()), *parts])
        return files | {SCALES: write_arrow(pa.Table.from_pylist(scales, schema), ctx.workdir / SCALES)}

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """Not delivered: ``no_parent`` (the stratum has no row), ``unchanged`` (nothing in the row could be moved)."""
        rows = fitted.get("rows", lambda: TableRows(fitted))
        scales = fitted.get("scales", lambda: _load(fitted, rows))
        width = 1 + len(rows.names) + len(rows.categories)
        return rows.answer(request, ctx, width, lambda ranges, draws: self._make(rows, scales, ranges, draws))

    def _make(
        self, rows: TableRows, scales: dict[int, list[_NormalScores]], ranges: Ints, draws: Floats
    ) -> tuple[Cells, Ints]:
        options: ResampleOptions = self.options
        base = ranges[:, 0] + (draws[:, 0] * ranges[:, 1]).astype(np.int64)
        cells = rows.cells.take(base)
        numbers = len(rows.names)
        for start, count in np.unique(ranges, axis=0).tolist():
            own = np.flatnonzero(ranges[:, 0] == start)
            for at, scale in enumerate(scales[start]):
                was = cells.numbers[own, at]
                made = rows.rounded(at, scale.moved(was, options.smoothing, draws[own, 1 + at]))
                if len(scale.values):  # interpolated and rounded, the last bit may lie outside
                    made = np.where(made == was, was, np.clip(made, scale.values[0], scale.values[-1]))
                cells.numbers[own, at] = np.where(np.isin(made, scale.masses), was, made)  # else a mass would grow
            for at in range(len(rows.categories)):
                pool = rows.cells.codes[start : start + count, at]
                pool = pool[pool >= 0]
                chosen = own[(cells.codes[own, at] >= 0) & (draws[own, 1 + numbers + at] < options.flip)]
                part = draws[chosen, 1 + numbers + at] / options.flip if options.flip else draws[chosen, 0]
                cells.codes[chosen, at] = pool[(part * len(pool)).astype(np.int64)]
        return cells, base[:, None]


def _kernel(draws: Floats) -> Floats:
    """Uniform numbers as ones of the triangular kernel of variance 1, by arithmetic and roots, which are alike on any CPU."""
    result: Floats = np.sqrt(6) * np.where(draws < 0.5, np.sqrt(2 * draws) - 1, 1 - np.sqrt(2 - 2 * draws))
    return result


def _scores(column: Floats) -> dict[str, object]:
    """What ``scales.arrow`` holds of one column of one stratum."""
    from scipy.special import ndtri

    column = column[~np.isnan(column)]
    values, counts = np.unique(column, return_counts=True)
    mass = _masses(counts)
    own = counts[~mass]
    total = int(own.sum())
    middle = (np.cumsum(own) - own / 2) / max(total, 1)
    # Rounded, so that no artifact hangs on a library's last bits.
    return {
        "values": values[~mass],
        "scores": np.round(ndtri(middle), 9),
        "masses": values[mass],
        "bandwidth": round(0.9 * max(total, 1) ** -0.2, 9),
    }


def _masses(counts: Ints) -> npt.NDArray[np.bool_]:
    """Which of the distinct values are masses, by how often each stands."""
    mass = np.zeros(len(counts), np.bool_)
    while not mass.all():
        total, many = counts[~mass].sum(), (~mass).sum()
        others = (total - counts) / max(many - 1, 1)
        more = ~mass & (counts >= max(MASS_ROWS, MASS * total)) & (counts >= MASS_TIMES * others)
        if not more.any():
            break
        mass |= more
    return mass


def _load(fitted: Fitted, rows: TableRows) -> dict[int, list[_NormalScores]]:
    """By the stratum's first position, a scale a column."""
    table = read_arrow(fitted.path / SCALES)
    lists = [[np.array(each) for each in table[name].to_pylist()] for name in ("values", "scores", "masses")]
    scales = [_NormalScores(*parts) for parts in zip(*lists, table["bandwidth"].to_pylist(), strict=True)]
    width = len(rows.names)
    strata = table["stratum"].to_pylist()[::width] if width else []
    found = {rows.ranges[name][0]: scales[at * width : (at + 1) * width] for at, name in enumerate(strata)}
    return found or {start: [] for start, _ in rows.ranges.values()}
