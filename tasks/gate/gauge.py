"""How the values of a metric are read: what counts as a gain, in which unit, with how many digits, in which words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from augmill.tasks.contracts import Floats, Metric

SIGNIFICANT, SHOWN = 6, 3  # digits of a value that is not in points: in JSON, and as people read it


@dataclass(frozen=True)
class Gauge:
    """Of one metric on one target. A gain is an improvement times ``scale``, in ``unit``: ``points``, or the target's."""

    name: str
    title: str
    better: Literal["more", "less"] = "more"
    scale: float = 100.0
    unit: str = "points"

    @classmethod
    def of(cls, metric: Metric, target: str = "") -> Gauge:
        """``target``: the name of its column."""
        unit = metric.unit.replace("{target}", target or "target")
        return cls(metric.name, metric.title or metric.name, metric.better, metric.scale, unit)

    @classmethod
    def read(cls, gate: Mapping[str, Any], name: str | None = None) -> Gauge:
        """From a gate's evidence, by default of what decided; before version 3 it spoke of points and did not say so."""
        name = name or str(gate["judged_by"])
        return cls(**gate["metrics"][name]) if "metrics" in gate else cls(name, TITLES.get(name, name))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def in_points(self) -> bool:
        return self.unit == "points"

    @property
    def words(self) -> str:
        """What stands after a number: ``points``, or ``price (MAE)``."""
        return self.unit if self.in_points else f"{self.unit} ({self.title})"

    def improvement(self, difference: Floats) -> Floats:
        """Of arm less reference, unscaled."""
        return difference if self.better == "more" else -difference

    def tidy(self, value: float) -> float:
        """As JSON holds it: rounded, so that the last bits of a sum do not change a report's bytes."""
        return round(value, 4) if self.in_points else float(f"{value:.{SIGNIFICANT}g}")

    def point(self, score: float) -> float:
        """What is worth looking for, in the unit: a point, or a hundredth of what the real rows alone come to."""
        return 1.0 if self.in_points else abs(score) / 100

    def decimals(self, *values: float) -> int:
        """Of numbers that stand side by side."""
        most = max((abs(value) for value in values), default=0.0)
        if self.in_points or not most or not math.isfinite(most):
            return 1
        return min(max(SHOWN - 1 - math.floor(math.log10(most)), 0), 12)

    def shown(self, value: float, decimals: int | None = None, signed: bool = False) -> str:
        """The number alone, about SHOWN digits of it; none of noughts alone with a sign."""
        decimals = self.decimals(value) if decimals is None else decimals
        shown = f"{value:{'+' if signed else ''},.{decimals}f}"
        return shown if any(digit in shown for digit in "123456789") else shown.lstrip("+-")

    def amount(self, value: float) -> str:
        """Of what a recipe asks for, as it is written there: ``0.5 points``, ``0.5 price (MAE)``."""
        return f"{value:g} {self.words}"

    def said(self, gain: float, low: float, high: float) -> str:
        """``+1.2 points (+0.3 to +2.1)``, ``+0.42 price (MAE; +0.10 to +0.74)``."""
        decimals = self.decimals(gain, low, high)
        one, least, most = (f"{value:+,.{decimals}f}" for value in (gain, low, high))
        title = "" if self.in_points else f"{self.title}; "
        return f"{one} {self.unit} ({title}{least} to {most})"


TITLES = {"macro_f1": "macro-F1", "focus_f1": "mean F1 of the focus labels"}  # of evidence without ``metrics``
POINTS = Gauge("", "")
