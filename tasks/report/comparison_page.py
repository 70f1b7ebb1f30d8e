"""The comparison as a Markdown table, a plot (SVG that stands alone) and one self-contained HTML page."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from augmill.tasks.gate.interval import Interval
from augmill.tasks.report.charts import apart, points, ticks
from augmill.tasks.report.comparison import Line
from augmill.tasks.report.report import environment
from augmill.tasks.rows.kinds.text import PAGE, cut, visible

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


def told(gain: Interval | None) -> str:
    return "" if gain is None else f"{points(gain.gain)} [{points(gain.low)}, {points(gain.high)}]"


def row_of(line: Line) -> list[str]:
    """A line's cells under HEADER. The verdicts are counts over seeds; a seed without any row is noted beside them."""
    verdicts = " ".join(str(line.verdicts.get(name, 0)) for name in VERDICTS)
    if nothing := sum(line.verdicts.values()) - sum(line.verdicts.get(name, 0) for name in VERDICTS):
        verdicts += f" (no row: {nothing})"
    placebo = line.gains.get("placebo-real")
    return [
        line.dataset,
        f"{line.train:,}",
        line.generator,
        str(line.seeds),
        f"{line.acceptance:.0%}",
        "" if line.distinct_2 is None else f"{line.distinct_2:.2f}",
        f"{line.accuracy['real']:.1f}" if line.accuracy else "",
        points(placebo.gain) if placebo else "",
        told(line.gains.get("mix-real")),
        told(line.gains.get("mix-placebo")),
        "" if line.validation is None else points(line.validation),
        verdicts,
        told(line.gains.get("published-better")),
        _short(line.rows_a_second),
        _short(line.seconds_a_row),
        _short(line.cost_a_row),
    ]


def _short(value: float | None) -> str:
    """Two significant digits, and whole numbers with their thousands set apart."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{float(f'{value:.2g}'):g}"


def table(lines: Sequence[Line]) -> str:
    """The table in Markdown; the columns that no line fills are left out."""
    names, rows = _filled(lines)
    rules = ["---:" if name in NUMBERS else "---" for name in names]
    shown = [[re.sub(r"([|`])", r"\\\1", html.escape(visible(cell), quote=False)) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [names, rules, *shown]) + "\n"


def _filled(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    rows = [row_of(line) for line in lines]
    kept = [at for at in range(len(HEADER)) if any(row[at] for row in rows)]
    return [HEADER[at] for at in kept], [[row[at] for at in kept] for row in rows]


def plot(lines: Sequence[Line]) -> Markup:
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


def _of(lines: Sequence[Line], dataset: str) -> list[Line]:
    return [line for line in lines if line.dataset == dataset and line.curve]


class _Axes:
    """Pixels of a panel: ratios on a logarithmic scale, since twice as many rows is the same step anywhere."""

    def __init__(self, lines: Sequence[Line]) -> None:
        ratios = [point[0] for line in lines for point in line.curve]
        gains = [end for line in lines for _, mix, placebo in line.curve for end in (mix.low, mix.high, placebo.gain)]
        self.first, self.last = math.log2(min(ratios)) - 0.15, math.log2(max(ratios)) + 0.15
        margin = 0.06 * max(max(gains) - min(gains), 1.0)
        self.low, self.high = min(0.0, *gains) - margin, max(0.0, *gains) + margin
        self.ratios = [2.0**step for step in range(math.ceil(self.first), math.floor(self.last) + 1)]

    def x(self, ratio: float) -> float:
        return LEFT + (WIDE - LEFT - RIGHT) * (math.log2(ratio) - self.first) / (self.last - self.first)

    def y(self, gain: float) -> float:
        return TOP + (HIGH - TOP - BOTTOM) * (self.high - gain) / (self.high - self.low)


def _panel(dataset: str, lines: Sequence[Line], colours: dict[str, str]) -> str:
    axes = _Axes(lines)
    drawn = f'<text x="{LEFT}" y="20" font-weight="600" fill="#191d23">{escape(dataset)}</text>'
    drawn += _grid(axes)
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


def _grid(axes: _Axes) -> str:
    end = WIDE - RIGHT
    drawn = ""
    for gain in ticks(axes.low, axes.high):
        colour = "#5b6470" if gain == 0 else "#e2e6eb"
        drawn += f'<line x1="{LEFT}" x2="{end}" y1="{axes.y(gain):.1f}" y2="{axes.y(gain):.1f}" stroke="{colour}"/>'
        drawn += f'<text x="{LEFT - 6}" y="{axes.y(gain) + 4:.1f}" text-anchor="end" fill="#5b6470">{gain:g}</text>'
    for ratio in axes.ratios:
        drawn += f'<text x="{axes.x(ratio):.1f}" y="{HIGH - BOTTOM + 16}" text-anchor="middle" fill="#5b6470">{ratio:g}</text>'
    words = "synthetic rows per real row; points of accuracy over real rows alone"
    return drawn + f'<text x="{LEFT}" y="{HIGH - 8}" fill="#5b6470" font-size="11">{words}</text>'


def _placebo(lines: Sequence[Line]) -> list[tuple[float, float]]:
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
    return name if len(name) <= LETTERS else f"{cut(name, LETTERS - 1)}\u2026"


def page(lines: Sequence[Line], about: dict[str, Any]) -> str:
    """``about``: ``title``, ``command``, ``left`` ([generator, seed, reason] of cells that could not be made)."""
    names, rows = _filled(lines)
    drawn = plot(lines) if any(line.curve for line in lines) else ""
    rendered: str = (
        environment()
        .get_template("comparison.html")
        .render(names=names, rows=rows, numbers=NUMBERS, plot=drawn, about=about, worst=_worst(lines), lines=lines)
    )
    return visible(rendered, keep=PAGE)


def _worst(lines: Sequence[Line]) -> list[Line]:
    """Where what would have been published is worse than the better baseline by its whole interval."""
    return [line for line in lines if (gain := line.gains.get("published-better")) and gain.high < 0]
