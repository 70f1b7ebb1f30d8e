"""The report's pictures: pure functions from numbers to HTML with inline SVG.

Every drawing is stretched to the width it gets (``preserveAspectRatio="none"``, strokes that do not scale), with its
words in HTML beside it, so that one picture reads on a telephone, on a wide screen and on paper. Colours are classes
of the style sheet; no meaning rests on colour alone.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from augmill.tasks.rows.kinds.text import is_unspaced
from augmill.tasks.rows.shown import clusters, cut

LABEL = 27  # pixels between the flow's labels, which may take two lines on a telephone


class Effect(NamedTuple):
    """One row of a forest plot: a gain with its bounds; ``quiet`` where it decides nothing.

    ``group``: a heading above the first row of each.
    """

    label: str
    gain: float
    low: float
    high: float
    quiet: bool = False
    group: str = ""


def points(value: float, decimals: int = 1) -> str:
    """A gain, of points or of another unit, with its sign (a true minus, so that columns align): +1.2, −0.4, 0.0."""
    shown = f"{value:+,.{decimals}f}".replace("-", "\u2212")
    return shown if any(digit in shown for digit in "123456789") else shown[1:]


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers between the two, at most ``most`` of them."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if span / (step * factor) <= most - 1)
    first = math.ceil(low / step - 1e-9)
    digits = max(6, 2 - math.floor(math.log10(step)))
    return [round(place * step, digits) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _svg(inner: str, height: float, label: str, kind: str) -> Markup:
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 100 {height:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{inner}</svg>'
    )


def forest(effects: Sequence[Effect], bar: float, bar_label: str, unit: str = "points", decimals: int = 1) -> Markup:
    """Gains with intervals on one axis, a line at zero and a dashed one at ``bar``, which a lower bound must pass."""
    ends = [0.0, bar, *(value for effect in effects for value in effect[1:4])]
    margin = 0.06 * max(max(ends) - min(ends), 10.0 ** (1 - decimals))
    low, high = min(ends) - margin, max(ends) + margin

    def at(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}"

    lines = f'<path class="zero" d="M{at(0)} 0V10"/>'
    lines += f'<path class="bar" d="M{at(bar)} 0V10"/>' if bar else ""
    rows, group = [], ""
    for effect in effects:
        if effect.group != group:
            group = effect.group
            rows.append(f'<p class="group">{escape(group)}</p>')
        gain, least, most = (points(value, decimals) for value in (effect.gain, effect.low, effect.high))
        mark = f'<path class="range" d="M{at(effect.low)} 5H{at(effect.high)}"/>'
        mark += f'<path class="dot" d="M{at(effect.gain)} 5h0.001"/>'
        rows.append(
            f'<div class="effect{" quiet" if effect.quiet else ""}"><span class="name">{escape(effect.label)}</span>'
            f"{_svg(lines + mark, 10, f'{group} {effect.label}: {gain} ({least} to {most}) {unit}', 'track')}"
            f'<span class="value"><b>{gain}</b> <small>{least} to {most}</small></span></div>'
        )
    marks = "".join(f'<i style="left:{at(value)}%">{_tick(value)}</i>' for value in ticks(low, high))
    rule = f'<b style="left:{at(bar)}%"><span>{escape(bar_label)}</span></b>'
    return Markup(
        f'<div class="forest"><div class="effect above" aria-hidden="true"><span></span><div>{rule}</div></div>'
        f'{"".join(rows)}<div class="effect axis" aria-hidden="true"><span></span><div>{marks}</div>'
        f"<small>{escape(unit)}</small></div></div>"
    )


def _tick(value: float) -> str:
    return "0" if value == 0 else f"{value:+g}".replace("-", "\u2212")


def stacked(parts: Sequence[tuple[str, float]], total: float, label: str) -> Markup:
    """A horizontal bar of (class, value) parts, ``total`` wide; a part that is not zero is never invisible."""
    drawn, x = "", 0.0
    for kind, value in parts:
        width = max(100 * value / total, 0.4) if value else 0.0
        drawn += f'<rect class="{kind}" x="{x:.2f}" y="0" width="{width:.2f}" height="10"/>' if value else ""
        x += width
    return _svg(drawn, 10, label, "stack")


def dumbbell(before: float, after: float, span: tuple[float, float], label: str) -> Markup:
    """Two scores on a track over ``span``, joined by a line."""
    start, end = (100 * (value - span[0]) / (span[1] - span[0]) for value in (before, after))
    return _svg(
        f'<path class="rail" d="M0 5H100"/><path class="range" d="M{start:.2f} 5H{end:.2f}"/>'
        f'<path class="dot real" d="M{start:.2f} 5h0.001"/><path class="dot" d="M{end:.2f} 5h0.001"/>',
        10,
        label,
        "track",
    )


def histogram(real: Sequence[int], synthetic: Sequence[int], bins: int = 36) -> Markup:
    """Shares of rows by length, real as an area and synthetic as a line, over lengths up to the 99.5th percentile."""
    both = sorted([*real, *synthetic])
    top = both[min(len(both) - 1, math.ceil(0.995 * len(both)))] + 1
    step = max(1, math.ceil(top / bins))
    count = math.ceil(top / step)
    shares = []
    for values in (real, synthetic):
        held = [0] * count
        for value in values:
            held[min(value // step, count - 1)] += 1
        shares.append([each / max(1, len(values)) for each in held])
    peak = max(max(each) for each in shares)
    outlines = [_steps(each, peak) for each in shares]
    drawn = f'<path class="area real" d="M0 100{outlines[0]}L100 100Z"/>'
    drawn += f'<path class="line" d="M0 100{outlines[1]}L100 100"/>' if synthetic else ""
    told = f"Lengths in characters: {len(real):,} real rows and {len(synthetic):,} synthetic rows"
    axis = "".join(
        f'<i style="left:{100 * value / (count * step):.2f}%">{value:g}</i>' for value in ticks(0, count * step)
    )
    picture = _svg(drawn, 100, told, "area-chart")
    return Markup(f'<div class="histogram">{picture}<div class="axis" aria-hidden="true">{axis}</div></div>')


def _steps(shares: Sequence[float], peak: float) -> str:
    width = 100 / len(shares)
    tops = [100 - 96 * share / peak for share in shares]
    return "".join(f"L{place * width:.2f} {top:.2f}H{(place + 1) * width:.2f}" for place, top in enumerate(tops))


class Stream(NamedTuple):
    """An end of the flow: its name, its class of colour, its rows, and whether the rows were delivered at all."""

    label: str
    kind: str
    rows: int
    delivered: bool = True


def flow(streams: Sequence[Stream]) -> Markup:
    """Asked rows on the left, delivered ones in the middle, where each of them ended on the right (Sankey).

    ``streams``: from top to bottom, delivered ones first. Heights are proportional to rows, 1.5 px at least.
    """
    streams = [stream for stream in streams if stream.rows]
    height = max(360, LABEL * len(streams))
    asked, delivered = sum(s.rows for s in streams), sum(s.rows for s in streams if s.delivered)
    gap = min(20.0, 0.5 * height / max(1, len(streams)))
    scale = (height - gap * (len(streams) - 1)) / max(1, asked)
    drawn, left, right = "", 0.0, 0.0
    centres = []
    split = 12.0 if delivered < asked else 0.0  # what was never delivered parts from the rest
    for stream in streams:
        thick = stream.rows * scale
        shown, lower = max(thick, 1.5), left + (0.0 if stream.delivered else split)
        # A delivered row runs into the middle bar and out of it; one that was not passes below it.
        stop, go = (48, 49) if stream.delivered else (49, 49)
        drawn += _ribbon(stream.kind, (1, left), (stop, lower), thick)
        drawn += _ribbon(stream.kind, (go, lower), (99, right), thick)
        drawn += f'<rect class="{stream.kind}" x="99" y="{right:.2f}" width="1" height="{shown:.2f}"/>'
        centres.append(right + shown / 2)
        left, right = left + thick, right + shown + gap
    drawn = f'<rect class="node" x="0" y="0" width="1" height="{asked * scale:.2f}"/>{drawn}'
    drawn += f'<rect class="node" x="48" y="0" width="1" height="{delivered * scale:.2f}"/>'
    told = "; ".join(f"{stream.label}: {stream.rows:,}" for stream in streams)
    picture = _svg(drawn, height, f"{asked:,} rows asked, {delivered:,} delivered; {told}", "ribbons")
    labels = "".join(
        f'<span style="top:{100 * top / height:.2f}%"><b>{stream.rows:,}</b> {escape(stream.label)}</span>'
        for stream, top in zip(streams, apart(centres, LABEL, height), strict=True)
    )
    return Markup(
        f'<div class="flow"><div class="heads" aria-hidden="true"><span><b>{asked:,}</b> asked</span>'
        f'<span><b>{delivered:,}</b> delivered</span></div><div class="body" style="height:{height}px">{picture}'
        f'<div class="ends" aria-hidden="true">{labels}</div></div></div>'
    )


def _ribbon(kind: str, start: tuple[float, float], end: tuple[float, float], thick: float) -> str:
    (x, y), (u, v) = start, end
    middle = (x + u) / 2
    return (
        f'<path class="ribbon {kind}" d="M{x:g} {y:.2f}C{middle:g} {y:.2f} {middle:g} {v:.2f} {u:g} {v:.2f}'
        f'V{v + thick:.2f}C{middle:g} {v + thick:.2f} {middle:g} {y + thick:.2f} {x:g} {y + thick:.2f}Z"/>'
    )


def apart(centres: Sequence[float], least: float, height: float) -> list[float]:
    """The label places, in order, ``least`` apart where the height allows, moved as little as that takes."""
    least = min(least, height / max(1, len(centres)))
    placed: list[float] = []
    for centre in centres:
        placed.append(max(centre, placed[-1] + least if placed else least / 2))
    for place in range(len(placed) - 1, -1, -1):
        limit = height - least / 2 if place == len(placed) - 1 else placed[place + 1] - least
        placed[place] = min(placed[place], limit)
    return placed


def _words(text: str, unspaced: bool) -> list[str]:
    """White space, words and single other characters, in their order; without blanks between words, each character."""
    found: list[str] = []
    kind = ""
    for character in clusters(text):
        now = "space" if character.isspace() else "word" if re.match(r"\w", character) else "mark"
        if now == kind != "mark" and not (now == "word" and unspaced):
            found[-1] += character
        else:
            found.append(character)
        kind = now
    return found


def marked(text: str, other: str | None, most: int = 400) -> Markup:
    """``text``, cut at ``most`` characters, with what ``other`` does not hold in the same place marked."""
    shown = text if len(text) <= most else cut(text, most) + " \u2026"
    if not other:
        return escape(shown)
    mine, theirs = _words(shown, is_unspaced([text])), _words(cut(other, 2 * most), is_unspaced([text]))
    out = Markup("")
    matcher = difflib.SequenceMatcher(
        None, [each.casefold() for each in theirs], [each.casefold() for each in mine], False
    )
    for tag, _, _, start, end in matcher.get_opcodes():
        piece = "".join(mine[start:end])
        core = piece.strip()
        if tag == "equal" or not core:
            out += escape(piece)
            continue
        lead = piece[: piece.index(core)]
        out += Markup("{}<mark>{}</mark>{}").format(lead, core, piece[len(lead) + len(core) :])
    return out


def streams_of(totals: Mapping[str, Mapping[str, int]], most: int = 8) -> list[Stream]:
    """The flow's ends from ``{"accepted": {"": n}, "surplus": {"": n}, "rejected": {reason: n}, "undelivered": ...}``.

    Reasons beyond ``most`` share one end.
    """
    ends = [
        Stream("accepted", "accepted", sum(totals["accepted"].values())),
        Stream("surplus (sound, not needed)", "surplus", sum(totals["surplus"].values())),
    ]
    for kind, words in (("rejected", "refused: "), ("undelivered", "not delivered: ")):
        ranked = sorted(totals[kind].items(), key=lambda item: (-item[1], item[0]))
        named, rest = (ranked, []) if len(ranked) <= most else (ranked[: most - 1], ranked[most - 1 :])
        ends += [Stream(words + reason, kind, rows, kind == "rejected") for reason, rows in named]
        if rest:
            ends.append(Stream(f"{words}{len(rest)} more reasons", kind, sum(n for _, n in rest), kind == "rejected"))
    return ends
