"""Generators compared: what a cell (a set, a generator, a seed) measures on test rows, and cells put together.

A cell keeps, for every training, which test rows it got right: a bit a row, so that cells of many seeds can be pooled
in one paired bootstrap later, without their rows, texts or labels. Where a number is learnt it keeps by how much each
test row was missed.
"""

from __future__ import annotations

import base64
import html
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from markupsafe import Markup, escape

from augmill.tasks.contracts import STRATUM, Floats
from augmill.tasks.errors import DataError
from augmill.tasks.gate.evidence import ARMS, Predictions
from augmill.tasks.gate.gauge import Gauge
from augmill.tasks.gate.interval import Interval, interval, resample
from augmill.tasks.metrics import METRICS
from augmill.tasks.recipe.sections import Target
from augmill.tasks.report.charts import apart, points, ticks
from augmill.tasks.report.report import environment
from augmill.tasks.rows.randomness import stream_key
from augmill.tasks.rows.shown import PAGE, visible
from augmill.tasks.rows.shown import cut as cut_text
from augmill.tasks.stages.targets import targets_for

CONFIDENCE = 0.95  # of each bound, as the gate's
RESAMPLES = 2000

Cell = Mapping[str, Any]  # plain JSON, as flows/compare.py writes it
ACCURACY = Gauge.of(METRICS["accuracy"])
Bits = npt.NDArray[np.bool_]


def ratio_of(target: Target, real: dict[str, int]) -> float:
    """Synthetic rows per real row that a target asks for."""
    return sum(targets_for(target, real).values()) / max(1, sum(real.values()))


def enlarge(target: Target, real: dict[str, int], ratio: float) -> Target:
    """A target of ``ratio`` synthetic rows per real row, spread over the classes as ``target`` spreads them.

    One that fills classes up (``balance``) stays as it is: more would unbalance what it balances.
    """
    own = ratio_of(target, real)
    if target.balance is not None or ratio <= own:
        return target
    if target.multiply is not None:
        return replace(target, multiply=1 + (target.multiply - 1) * ratio / own)
    assert target.per_class is not None
    return replace(target, per_class=round(target.per_class * ratio / own))


def cut(accepted: pa.Table, wanted: Mapping[str, int]) -> pa.Table:
    """The first so many rows of each class, in settled order; all of them where there are fewer."""
    seen: Counter[str] = Counter()
    kept = []
    for at, name in enumerate(accepted[STRATUM].to_pylist()):
        seen[name] += 1
        if seen[name] <= wanted.get(name, 0):
            kept.append(at)
    return accepted.take(pa.array(kept, pa.int64()))


def cuts(
    target: Target, max_ratio: float | None, real: dict[str, int], ratios: Sequence[float]
) -> list[tuple[float | None, dict[str, int]]]:
    """(ratio, rows of each class): the target's own, whose ratio is None, then the others in its proportions."""
    own = targets_for(target, real, max_ratio)
    each = sum(own.values()) / max(1, sum(real.values()))
    found: list[tuple[float | None, dict[str, int]]] = [(None, own)]
    found += [(r, {name: round(rows * r / each) for name, rows in own.items()}) for r in sorted(set(ratios)) if each]
    return found


def totals(ledger: Mapping[str, Any]) -> dict[str, Any]:
    """``sound``: accepted rows and those that would have been, had they been needed; ``lost``: the others by cause."""
    lost: Counter[str] = Counter()
    for row in ledger["rows"]:
        lost.update(row["rejected"])
        lost.update(row["undelivered"])
    asked, accepted, surplus = (sum(row[key] for row in ledger["rows"]) for key in ("asked", "accepted", "surplus"))
    return {"asked": asked, "accepted": accepted, "sound": accepted + surplus, "lost": dict(sorted(lost.items()))}


def pack(right: Bits) -> str:
    """Bits of one training as text; 2,000 rows take about 350 characters."""
    return base64.b85encode(zlib.compress(np.packbits(right).tobytes(), 9)).decode()


def unpack(text: str, rows: int) -> Bits:
    return np.unpackbits(np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8), count=rows).astype(np.bool_)


def pack_numbers(values: Floats) -> str:
    return base64.b85encode(zlib.compress(values.astype("<f4").tobytes(), 9)).decode()


def unpack_numbers(text: str) -> Floats:
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), "<f4").astype(np.float64)


def measured(test: Predictions, ratio: float | None, synthetic: int) -> dict[str, Any]:
    """What a cell keeps of one ratio's trainings: which test rows each got right, and each arm's mean macro-F1; or

    ``missed``: by how much. ``ratio``: what was asked for; None: the recipe's own target.
    """
    about = {"ratio": ratio, "synthetic": synthetic}
    if test.values is not None:
        return about | {
            "missed": {arm: [pack_numbers(np.abs(run - test.values)) for run in test.arms[arm]] for arm in ARMS}
        }
    metric = METRICS["macro_f1"]
    everything = np.ones((1, len(test.stratum)), np.float32)
    scores = {arm: [metric.values(metric.prepare(run), everything)[0] for run in test.judged(arm)] for arm in ARMS}
    return about | {
        "right": {arm: [pack(run == test.truth) for run in test.arms[arm]] for arm in ARMS},
        "macro_f1": {arm: round(100 * float(np.mean(scores[arm])), 4) for arm in ARMS},
    }


def gauge_of(cell: Cell) -> Gauge:
    """How its scores are read. ``cell["gauge"]``: where a number is learnt."""
    return Gauge(**cell["gauge"]) if "gauge" in cell else ACCURACY


def scores_of(cells: Sequence[Cell], point: Callable[[Cell], Mapping[str, Any] | None], arm: str) -> Floats:
    """By (cell, test row), the mean over that cell's trainings: the share of right predictions, or by how much it was

    missed.
    """
    out = []
    for cell in cells:
        found = point(cell)
        assert found is not None
        kept = found["missed" if "gauge" in cell else "right"][cell["released"] if arm == "published" else arm]
        rows = cell["rows"]["test"]
        out.append(np.mean([unpack_numbers(text) if "gauge" in cell else unpack(text, rows) for text in kept], axis=0))
    return np.array(out, dtype=np.float64)


def gain(over: Floats, under: Floats, name: str, gauge: Gauge) -> Interval:
    """By a paired bootstrap over test rows and seeds; both of shape (seeds, rows).

    A cell is drawn as one: its trainings share their train rows and their generator. ``name`` seeds the draws.
    """
    difference = over - under
    seeds, rows = difference.shape
    drawn = resample(rows, seeds, RESAMPLES, stream_key("compare", name))
    of_rows = (np.asarray(drawn.units, dtype=np.float64) / rows) @ difference.T
    others = (of_rows * drawn.runs).sum(axis=1)
    step = (1.0 if gauge.in_points else float(np.maximum(over, under).mean())) / rows
    return interval(np.concatenate([[difference.mean()], others]), difference.mean(axis=1), CONFIDENCE, step, gauge)


@dataclass(frozen=True)
class ComparedGenerator:
    """One line of the table: a generator on a set, over its seeds; scores and gains as ``gauge`` has them.

    ``published``: what would have been released, against ``better``, the baseline that is the better one over all
    seeds. ``validation``: what the mix gains over real rows on validation rows, which decide, in the gate's metric;
    far from the gain on test rows where those are drawn otherwise. None where no seed had a row to measure, or where
    nothing was timed or has a price.
    """

    dataset: str
    generator: str
    seeds: int
    train: int
    asked: int
    acceptance: float
    accepted: int
    distinct_2: float | None
    new_2: float | None
    gauge: Gauge
    scores: dict[str, float]
    gains: dict[str, Interval]
    validation: float | None
    better: str
    verdicts: dict[str, int]
    curve: tuple[tuple[float, Interval, Interval], ...]  # (ratio, mix over real, placebo over real)
    rows_a_second: float | None
    seconds_a_row: float | None
    cost_a_row: float | None


def lines(cells: Sequence[Cell]) -> list[ComparedGenerator]:
    """The table: cells of one set and one generator make a line, in the order in which they first come.

    Raises DataError where the cells of a line were measured on different test rows.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell["dataset"], cell["generator"]), []).append(cell)
    return [_line(dataset, name, sorted(of, key=lambda c: c["seed"])) for (dataset, name), of in groups.items()]


def _line(dataset: str, name: str, cells: list[Cell]) -> ComparedGenerator:
    judged = [cell for cell in cells if cell["points"]]
    gauge = gauge_of(cells[0])
    if len({(cell["rows"]["test"], cell["heldout"], gauge_of(cell)) for cell in judged}) > 1:
        problem = f"the cells of {name} on {dataset} were measured on different test rows"
        raise DataError(problem, where="compare", fix="compare them separately, or with given splits (splits.files)")
    scores: dict[str, float] = {}
    gains: dict[str, Interval] = {}
    better = "real"
    if judged:
        by_arm = {arm: scores_of(judged, _target, arm) for arm in (*ARMS, "published")}
        scores = {arm: _rounded(gauge, float(found.mean())) for arm, found in by_arm.items()}
        best = max if gauge.better == "more" else min
        better = best(("real", "placebo"), key=lambda arm: scores[arm])
        for over, under in (("mix", "real"), ("mix", "placebo"), ("placebo", "real"), ("published", better)):
            pair = f"{over}-{'better' if over == 'published' else under}"
            gains[pair] = gain(by_arm[over], by_arm[under], f"{dataset} {name}", gauge)
    asked, sound = (sum(cell["ledger"][key] for cell in cells) for key in ("asked", "sound"))
    return ComparedGenerator(
        dataset=dataset,
        generator=name,
        seeds=len(cells),
        train=round(float(np.mean([cell["rows"]["train"] for cell in cells]))),
        asked=asked,
        acceptance=sound / asked if asked else 0.0,
        accepted=sum(cell["ledger"]["accepted"] for cell in cells),
        distinct_2=_mean([cell["diversity"].get("distinct_2") for cell in judged]),
        new_2=_mean([cell["diversity"].get("new_2") for cell in judged]),
        gauge=gauge,
        scores=scores,
        gains=gains,
        validation=_mean([cell["validation"]["mix-real"]["gain"] for cell in judged]),
        better=better,
        verdicts=dict(sorted(Counter(str(cell["outcome"]) for cell in cells).items())),
        curve=_curve(judged, f"{dataset} {name}"),
        **_spent(cells),
    )


def _target(cell: Cell) -> Mapping[str, Any] | None:
    return next((point for point in cell["points"] if point["ratio"] is None), None)


def _rounded(gauge: Gauge, score: float) -> float:
    return round(100 * score, 2) if gauge.in_points else gauge.tidy(gauge.scale * score)


def _curve(cells: list[Cell], name: str) -> tuple[tuple[float, Interval, Interval], ...]:
    """Gains by the ratio of synthetic to real rows that was reached, over the cells that have that ratio."""
    asked = dict.fromkeys(point["ratio"] for cell in cells for point in cell["points"])
    found = []
    for ratio in asked:

        def point(cell: Cell, ratio: float | None = ratio) -> Mapping[str, Any] | None:
            return next((p for p in cell["points"] if p["ratio"] == ratio), None)

        having = [cell for cell in cells if point(cell) is not None]
        reached = float(np.mean([(point(cell) or {})["synthetic"] / cell["rows"]["train"] for cell in having]))
        by_arm = {arm: scores_of(having, point, arm) for arm in ARMS}
        gauge = gauge_of(having[0])
        pairs = [gain(by_arm[arm], by_arm["real"], f"{name} {ratio}", gauge) for arm in ("mix", "placebo")]
        found.append((round(reached, 3), pairs[0], pairs[1]))
    return tuple(sorted(found, key=lambda point: point[0]))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _spent(cells: list[Cell]) -> dict[str, float | None]:
    """Rates of the work that was done anew; what stood in the store already tells nothing of its price.

    A row's seconds are those of its fit, its sampling and its judging, over the rows that were accepted.
    """
    spent = [cell["spent"] for cell in cells]
    sampled, sampling = (sum(part[key] for part in spent) for key in ("sampled", "sample_seconds"))
    checked, checking = (sum(part[key] for part in spent) for key in ("checked", "check_seconds"))
    accepted, asked = (sum(cell["ledger"][key] for cell in cells) for key in ("accepted", "asked"))
    fit = _mean([part["fit_seconds"] for part in spent])
    each = None
    if accepted and sampled and checked and fit is not None:
        each = (fit * len(cells) + asked * (sampling / sampled + checking / checked)) / accepted
    prices = [part["cost"] / cell["ledger"]["accepted"] for cell, part in zip(cells, spent, strict=True)
              if part["cost"] is not None and cell["ledger"]["accepted"]]  # fmt: skip
    return {
        "rows_a_second": sampled / sampling if sampled and sampling else None,
        "seconds_a_row": each,
        "cost_a_row": _mean(prices),
    }


# --- The comparison as a Markdown table, a plot (SVG that stands alone) and one self-contained HTML page --------------


HEADER = (
    "set", "train", "generator", "seeds", "sound", "distinct-2", "real", "placebo over real", "mix over real",
    "mix over placebo", "mix over real, validation", "published, inconclusive, harmful", "published over the better baseline",
    "rows/s", "s/row", "cost/row",
)  # fmt: skip
NUMBERS = {"train", "seeds", "sound", "distinct-2", "real", "mix over real, validation", "rows/s", "s/row", "cost/row"}
VERDICTS = ("published", "inconclusive", "harmful")
# Okabe and Ito's colours, which the colour-blind tell apart; each line is named at its end as well.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07d00", "#3a9bd9", "#7a4fbf", "#5c5c5c", "#8b1a1a", "#4a6b00")
COLUMNS, WIDE, HIGH = 2, 520, 300  # of panels; pixels of each
LEFT, RIGHT, TOP, BOTTOM = 46, 150, 34, 40  # of a panel, around its axes
LABEL = 13.0  # pixels between two names
LETTERS = 25  # of a name


def told(gain: Interval | None, gauge: Gauge) -> str:
    if gain is None:
        return ""
    decimals = gauge.decimals(gain.gain, gain.low, gain.high)
    one, low, high = (points(value, decimals) for value in (gain.gain, gain.low, gain.high))
    return f"{one} [{low}, {high}]" + ("" if gauge.in_points else f" {gauge.unit}")


def _alone(gain: float | None, gauge: Gauge) -> str:
    return "" if gain is None else points(gain, gauge.decimals(gain))


def row_of(line: ComparedGenerator) -> list[str]:
    """A line's cells under HEADER. The verdicts are counts over seeds; a seed without any row is noted beside them."""
    verdicts = " ".join(str(line.verdicts.get(name, 0)) for name in VERDICTS)
    if nothing := sum(line.verdicts.values()) - sum(line.verdicts.get(name, 0) for name in VERDICTS):
        verdicts += f" (no row: {nothing})"
    placebo, gauge = line.gains.get("placebo-real"), line.gauge
    return [
        line.dataset,
        f"{line.train:,}",
        line.generator,
        str(line.seeds),
        f"{line.acceptance:.0%}",
        "" if line.distinct_2 is None else f"{line.distinct_2:.2f}",
        gauge.shown(line.scores["real"]) if line.scores else "",
        _alone(placebo.gain if placebo else None, gauge),
        told(line.gains.get("mix-real"), gauge),
        told(line.gains.get("mix-placebo"), gauge),
        _alone(line.validation, gauge),
        verdicts,
        told(line.gains.get("published-better"), gauge),
        _short(line.rows_a_second),
        _short(line.seconds_a_row),
        _short(line.cost_a_row),
    ]


def _short(value: float | None) -> str:
    """Two significant digits, and whole numbers with their thousands set apart."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{float(f'{value:.2g}'):g}"


def table(lines: Sequence[ComparedGenerator]) -> str:
    """The table in Markdown; the columns that no line fills are left out."""
    names, rows = _filled(lines)
    rules = ["---:" if name in NUMBERS else "---" for name in names]
    shown = [[re.sub(r"([|`])", r"\\\1", html.escape(visible(cell), quote=False)) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [names, rules, *shown]) + "\n"


def _filled(lines: Sequence[ComparedGenerator]) -> tuple[list[str], list[list[str]]]:
    rows = [row_of(line) for line in lines]
    kept = [at for at in range(len(HEADER)) if any(row[at] for row in rows)]
    return [HEADER[at] for at in kept], [[row[at] for at in kept] for row in rows]


def plot(lines: Sequence[ComparedGenerator]) -> Markup:
    """Gain over the real rows alone against synthetic rows per real one: a panel a set, a line a generator.

    The grey line is the placebo's gain, the mean over the generators: what repeating real rows as often does.
    """
    sets = [name for name in dict.fromkeys(line.dataset for line in lines) if _of(lines, name)]
    colours = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(dict.fromkeys(x.generator for x in lines))}
    columns = min(COLUMNS, max(1, len(sets)))
    width, height = WIDE * columns, HIGH * math.ceil(len(sets) / columns)
    panels = "".join(
        f'<g transform="translate({WIDE * (at % columns)} {HIGH * (at // columns)})">'
        f"{_panel(name, _of(lines, name), colours)}</g>"
        for at, name in enumerate(sets)
    )
    said = escape(f"Gain over real rows by the ratio of synthetic to real rows: {', '.join(sets)}")
    return Markup(
        visible(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
            f'aria-label="{said}" font-family="system-ui, sans-serif" font-size="12">'
            f'<rect width="{width}" height="{height}" fill="#fff"/>{panels}</svg>',
            keep=PAGE,
        )
    )


def _of(lines: Sequence[ComparedGenerator], dataset: str) -> list[ComparedGenerator]:
    return [line for line in lines if line.dataset == dataset and line.curve]


class _Axes:
    """Pixels of a panel: ratios on a logarithmic scale, since twice as many rows is the same step anywhere."""

    def __init__(self, lines: Sequence[ComparedGenerator]) -> None:
        ratios = [point[0] for line in lines for point in line.curve]
        gains = [end for line in lines for _, mix, placebo in line.curve for end in (mix.low, mix.high, placebo.gain)]
        self.first, self.last = math.log2(min(ratios)) - 0.15, math.log2(max(ratios)) + 0.15
        margin = 0.06 * max(max(gains) - min(gains), 1.0 if lines[0].gauge.in_points else 1e-9)
        self.low, self.high = min(0.0, *gains) - margin, max(0.0, *gains) + margin
        self.ratios = [2.0**step for step in range(math.ceil(self.first), math.floor(self.last) + 1)]

    def x(self, ratio: float) -> float:
        return LEFT + (WIDE - LEFT - RIGHT) * (math.log2(ratio) - self.first) / (self.last - self.first)

    def y(self, gain: float) -> float:
        return TOP + (HIGH - TOP - BOTTOM) * (self.high - gain) / (self.high - self.low)


def _panel(dataset: str, lines: Sequence[ComparedGenerator], colours: dict[str, str]) -> str:
    axes = _Axes(lines)
    drawn = f'<text x="{LEFT}" y="20" font-weight="600" fill="#191d23">{escape(dataset)}</text>'
    drawn += _grid(axes, lines[0].gauge)
    names = [("placebo", "#87919e", _placebo(lines))]
    names += [(line.generator, colours[line.generator], [(r, g.gain) for r, g, _ in line.curve]) for line in lines]
    for at, line in enumerate(lines):
        aside = 4 * (at - (len(lines) - 1) / 2)  # bars side by side, where lines share a ratio
        drawn += "".join(
            f'<line x1="{axes.x(r) + aside:.1f}" x2="{axes.x(r) + aside:.1f}" y1="{axes.y(g.low):.1f}" '
            f'y2="{axes.y(g.high):.1f}" stroke="{colours[line.generator]}" stroke-opacity=".35" stroke-width="2.5"/>'
            for r, g, _ in line.curve
        )
    for name, colour, curve in names:
        dash = ' stroke-dasharray="5 4"' if name == "placebo" else ""
        path = " ".join(f"{axes.x(r):.1f},{axes.y(g):.1f}" for r, g in curve)
        drawn += f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        drawn += "".join(f'<circle cx="{axes.x(r):.1f}" cy="{axes.y(g):.1f}" r="3" fill="{colour}"/>' for r, g in curve)
    return drawn + _names(axes, names)


def _grid(axes: _Axes, gauge: Gauge) -> str:
    end = WIDE - RIGHT
    drawn = ""
    for gain in ticks(axes.low, axes.high):
        colour = "#5b6470" if gain == 0 else "#e2e6eb"
        drawn += f'<line x1="{LEFT}" x2="{end}" y1="{axes.y(gain):.1f}" y2="{axes.y(gain):.1f}" stroke="{colour}"/>'
        drawn += f'<text x="{LEFT - 6}" y="{axes.y(gain) + 4:.1f}" text-anchor="end" fill="#5b6470">{gain:g}</text>'
    for ratio in axes.ratios:
        drawn += f'<text x="{axes.x(ratio):.1f}" y="{HIGH - BOTTOM + 16}" text-anchor="middle" fill="#5b6470">{ratio:g}</text>'
    unit = "points of accuracy" if gauge.in_points else f"gain in {gauge.unit} ({gauge.title})"
    words = f"synthetic rows per real row; {unit} over real rows alone"
    return drawn + f'<text x="{LEFT}" y="{HIGH - 8}" fill="#5b6470" font-size="11">{escape(words)}</text>'


def _placebo(lines: Sequence[ComparedGenerator]) -> list[tuple[float, float]]:
    """The placebo's gain at each ratio, over the generators that reached about that ratio."""
    by: dict[float, list[tuple[float, float]]] = {}
    for line in lines:
        for ratio, _, placebo in line.curve:
            by.setdefault(round(math.log2(ratio), 1), []).append((ratio, placebo.gain))
    means = [np.mean(found, axis=0) for _, found in sorted(by.items())]
    return [(float(ratio), float(gain)) for ratio, gain in means]


def _names(axes: _Axes, named: Sequence[tuple[str, str, list[tuple[float, float]]]]) -> str:
    """Each line's name at the height of its end, moved apart."""
    ordered = sorted(named, key=lambda item: axes.y(item[2][-1][1]))
    heights = apart([axes.y(curve[-1][1]) for _, _, curve in ordered], LABEL, HIGH - BOTTOM + LABEL)
    return "".join(
        f'<text x="{WIDE - RIGHT + 8}" y="{height + 4:.1f}" fill="{colour}" font-size="11">{escape(_cut(name))}</text>'
        for (name, colour, _), height in zip(ordered, heights, strict=True)
    )


def _cut(name: str) -> str:
    return name if len(name) <= LETTERS else f"{cut_text(name, LETTERS - 1)}\u2026"


def page(lines: Sequence[ComparedGenerator], about: dict[str, Any]) -> str:
    """``about``: ``title``, ``command``, ``left`` ([generator, seed, reason] of cells that could not be made)."""
    names, rows = _filled(lines)
    drawn = plot(lines) if any(line.curve for line in lines) else ""
    rendered: str = (
        environment()
        .get_template("comparison.html")
        .render(names=names, rows=rows, numbers=NUMBERS, plot=drawn, about=about, worst=_worst(lines), lines=lines)
    )
    return visible(rendered, keep=PAGE)


def _worst(lines: Sequence[ComparedGenerator]) -> list[ComparedGenerator]:
    """Where what would have been published is worse than the better baseline by its whole interval."""
    return [line for line in lines if (gain := line.gains.get("published-better")) and gain.high < 0]
