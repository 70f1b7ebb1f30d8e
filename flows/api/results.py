"""What the calls give: small frozen dataclasses, shown in a few lines or as a notebook's HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from augmill.display import Grid, Place, lines, page
from augmill.published import SPLITS, Release, counted

DECIDED = {"published": "Published", "harmful": "Not published", "inconclusive": "Not published"}


@dataclass(frozen=True, repr=False)
class CheckResult:
    """What a recipe means for its data. ``augmill.check`` gives it.

    Attributes
    ----------
    dataset, snapshot
        Names; the snapshot is ``as_of``, or ``all``.
    rows
        Rows of each split: ``train``, ``validation``, ``test``.
    classes
        A dict per class (or bin of targets): ``label``, ``train``, ``validation``, ``test``, ``target``, and ``judged``,
        whether the gate can judge it by itself.
    target
        How many synthetic rows are to be accepted.
    visible_gain, unit
        The smallest true gain that the held-out rows would show, four times in five, as an estimate until a first run
        has measured; None where nothing is known beforehand. In points, or in the unit of a regression's target.
    seconds
        How long a first run takes, roughly, without the parts that nobody can know beforehand (a model's fit).
    warnings
        What is likely wrong with the source.
    next
        What to do.
    facts
        All that ``augmill check --json`` says.
    """

    dataset: str
    snapshot: str
    rows: Mapping[str, int]
    classes: tuple[Mapping[str, Any], ...]
    target: int
    visible_gain: float | None
    unit: str
    seconds: float
    warnings: tuple[str, ...]
    next: str
    facts: Mapping[str, Any]

    @property
    def _head(self) -> str:
        return f"{self.dataset}: {self.target:,} rows to make"

    @property
    def _strata(self) -> str:
        return "classes" if self.facts["rows"]["learnt"]["type"] == "label" else "bins"

    def _told(self) -> list[tuple[str, Any]]:
        gain = None if self.visible_gain is None else f"roughly {self.visible_gain:g} {self.unit} or more would show"
        splits = ", ".join(f"{name} {self.rows[name]:,}" for name in SPLITS)
        warned = [("warning", warning) for warning in self.warnings]
        return [("rows", splits), (self._strata, len(self.classes)), ("gain", gain), *warned, ("next", self.next)]

    def __repr__(self) -> str:
        return lines("CheckResult", self._head, self._told())

    def _repr_html_(self) -> str:
        columns = ("label", "train", "target", "validation", "test")
        rows = [tuple(each[name] for name in columns) for each in self.classes]
        return page(self._head, "", self._told(), Grid(columns, rows))


@dataclass(frozen=True, repr=False)
class RunResult:
    """How a run ended. ``augmill.run`` gives it.

    Attributes
    ----------
    outcome
        ``published``, ``harmful``, ``inconclusive``, ``not_produced`` or ``unsound_source`` (README, "How it ends").
    headline, reason
        What was proven, in a sentence; and with which numbers.
    action
        What followed: ``publish``, ``best_real``, ``keep_current`` or ``fail``, as the recipe says.
    dataset, snapshot
        Names; the snapshot is ``as_of``, or ``all``.
    release
        What to train on now; None where nothing is current.
    new
        Whether this run published it; False where the same release was current before.
    report
        Where the report is, a path or an address; None where it could not be written.
    warnings
        What is likely wrong with the source.
    next
        What to do.
    facts
        All that the last line of ``augmill run`` says.
    """

    outcome: str
    headline: str
    reason: str
    action: str
    dataset: str
    snapshot: str
    release: Release | None
    new: bool
    report: str | None
    warnings: tuple[str, ...]
    next: str
    facts: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether what the recipe asked for was carried out, whatever the outcome: False only for the action ``fail``."""
        return self.action != "fail"

    @property
    def _head(self) -> str:
        decided = f"{DECIDED[self.outcome]}. " if self.outcome in DECIDED else ""
        return f"{decided}{self.headline}"

    def _told(self) -> list[tuple[str, Any]]:
        kept = "" if self.release is None else self.release.id + ("" if self.new else " (it was current before)")
        warned = [("warning", warning) for warning in self.warnings]
        place = "" if self.release is None else self.release.location
        told = [("dataset", self.dataset), ("snapshot", self.snapshot), ("release", kept), ("location", place)]
        return [*told, *warned, ("report", self.report and Place(self.report)), ("next", self.next)]

    def __repr__(self) -> str:
        return lines("RunResult", self._head, [("reason", self.reason), *self._told()])

    def _repr_html_(self) -> str:
        grids = [] if self.release is None else [counted(self.release)]
        return page(self._head, self.reason, self._told(), *grids)


@dataclass(frozen=True, repr=False)
class Judgement:
    """Whether rows made anywhere help. ``augmill.judge`` gives it.

    Attributes
    ----------
    outcome
        ``published``, as a run would, ``harmful`` or ``inconclusive``.
    headline, reason
        What was proven, in a sentence; and with which numbers.
    metric, unit
        By what was judged, and the unit of its gains.
    scores
        The metric on the rows that judge: of ``real`` (real rows alone), ``placebo`` (the same, repeated to the mix's
        class counts) and ``mix`` (with synthetic rows).
    gains
        ``mix-real``, ``mix-placebo`` and further pairs: ``gain``, with its bounds ``low`` and ``high``.
    rows
        How many counted: ``real``, ``synthetic``, ``validation``.
    left
        Rows that were left out before, by part and reason: copies of what judges, above all.
    caveat
        What makes the gain look larger than it is; None where nothing is known to.
    report
        Where the report was written, if asked for.
    next
        What to do.
    facts
        All that the last line of ``augmill judge`` says.
    """

    outcome: str
    headline: str
    reason: str
    metric: str
    unit: str
    scores: Mapping[str, float]
    gains: Mapping[str, Mapping[str, float]]
    rows: Mapping[str, int]
    left: Mapping[str, Mapping[str, int]]
    caveat: str | None
    report: str | None
    next: str
    facts: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether a run would publish these rows. Under ``rule="not_worse"`` that is no proof that they help."""
        return self.outcome == "published"

    def _told(self) -> list[tuple[str, Any]]:
        counts = ", ".join(f"{name} {count:,}" for name, count in self.rows.items())
        left = {reason: count for of in self.left.values() for reason, count in of.items() if count}
        gone = ", ".join(f"{reason} {count:,}" for reason, count in left.items())
        told = [("rows", counts), ("left out", gone), ("caveat", self.caveat)]
        return [*told, ("report", self.report and Place(self.report)), ("next", self.next)]

    def __repr__(self) -> str:
        return lines("Judgement", self.headline, [("reason", self.reason), *self._told()])

    def _repr_html_(self) -> str:
        from augmill.flows.judge import arm_rows

        heads = ("trained on", self.metric, "over real rows alone", "over the placebo")
        return page(self.headline, self.reason, self._told(), Grid(heads, arm_rows(dict(self.facts))))


@dataclass(frozen=True, repr=False)
class Comparison:
    """Which generator gains what. ``augmill.compare`` gives it.

    Attributes
    ----------
    dataset
        Its name.
    generators
        A dict per generator, over its seeds: ``generator``, ``seeds``, ``asked``, ``accepted``, ``scores`` by arm,
        ``gains`` by pair (``gain``, ``low``, ``high``), ``verdicts`` by outcome, and what it cost.
    cells
        One per generator and seed, as ``augmill compare`` writes them to cells.jsonl.
    left
        ``(generator, seed, reason)`` of the cells that could not be made.
    report
        Where report.html was written, if asked for.
    """

    dataset: str
    generators: tuple[Mapping[str, Any], ...]
    cells: tuple[Mapping[str, Any], ...]
    left: tuple[tuple[str, int, str], ...]
    report: str | None

    def _rows(self) -> list[tuple[Any, ...]]:
        return [
            (
                line["generator"],
                line["seeds"],
                line["accepted"],
                *(_gain(line, pair) for pair in ("mix-real", "mix-placebo")),
                ", ".join(f"{outcome} {count}" for outcome, count in line["verdicts"].items()),
            )
            for line in self.generators
        ]

    def _told(self) -> list[tuple[str, Any]]:
        left = [("left out", f"{name}, seed {seed}: {reason}") for name, seed, reason in self.left]
        return [*left, ("report", self.report and Place(self.report))]

    @property
    def _head(self) -> str:
        return f"Generators on {self.dataset}"

    @property
    def _measured_on(self) -> str:
        from augmill.flows.cli.compare import measured_on

        return measured_on(self.cells)

    def __repr__(self) -> str:
        rows = [(name, f"{real} over real rows; {verdicts}") for name, _, _, real, _, verdicts in self._rows()]
        return lines("Comparison", self._head, [*rows, ("rows", self._measured_on), *self._told()])

    def _repr_html_(self) -> str:
        heads = ("generator", "seeds", "accepted", "over real rows alone", "over the placebo", "outcomes")
        return page(self._head, self._measured_on, self._told(), Grid(heads, self._rows()))


def _gain(line: Mapping[str, Any], pair: str) -> str:
    from augmill.tasks.gate.gauge import Gauge

    if (gain := line["gains"].get(pair)) is None:
        return "not measured"
    gauge = Gauge(**line["gauge"])
    decimals = gauge.decimals(gain["gain"], gain["low"], gain["high"])
    one, low, high = (f"{gain[name]:+,.{decimals}f}" for name in ("gain", "low", "high"))
    return f"{one} ({low} to {high}) {gauge.unit}"
