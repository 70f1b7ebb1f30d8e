"""Generators compared: what a cell (a set, a generator, a seed) measures on test rows, and cells put together.

A cell keeps, for every training, which test rows it got right: a bit a row, so that cells of many seeds can be pooled
in one paired bootstrap later, without their rows, texts or labels.
"""

from __future__ import annotations

import base64
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import STRATUM, DataError
from augmill.tasks.gate.arms import ARMS
from augmill.tasks.gate.evidence import Predictions
from augmill.tasks.gate.interval import Floats, Interval, interval, resample
from augmill.tasks.metrics.classification import counts, f1
from augmill.tasks.recipe.sections import Target
from augmill.tasks.rows.randomness import stream_key
from augmill.tasks.stages.targets import targets_for

CONFIDENCE = 0.95  # of each bound, as the gate's
RESAMPLES = 2000

Cell = Mapping[str, Any]  # plain JSON, as flows/compare.py writes it
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


def measured(test: Predictions, ratio: float | None, synthetic: int) -> dict[str, Any]:
    """What a cell keeps of one ratio's trainings: which test rows each got right, and each arm's mean macro-F1.

    ``ratio``: what was asked for; None: the recipe's own target.
    """
    size = len(test.labels)
    held = np.unique(test.truth)
    scores = {arm: [f1(*counts(test.truth, run, size))[held].mean() for run in test.arms[arm]] for arm in ARMS}
    return {
        "ratio": ratio,
        "synthetic": synthetic,
        "right": {arm: [pack(run == test.truth) for run in test.arms[arm]] for arm in ARMS},
        "macro_f1": {arm: round(100 * float(np.mean(scores[arm])), 4) for arm in ARMS},
    }


def accuracies(cells: Sequence[Cell], point: Callable[[Cell], Mapping[str, Any] | None], arm: str) -> Floats:
    """Shares of right predictions by (cell, test row): the mean over that cell's trainings."""
    out = []
    for cell in cells:
        found = point(cell)
        assert found is not None
        right = found["right"][cell["released"] if arm == "published" else arm]
        out.append(np.mean([unpack(text, cell["rows"]["test"]) for text in right], axis=0))
    return np.array(out, dtype=np.float64)


def gain(over: Floats, under: Floats, name: str) -> Interval:
    """Points of accuracy, by a paired bootstrap over test rows and seeds; both of shape (seeds, rows).

    A cell is drawn as one: its trainings share their train rows and their generator. ``name`` seeds the draws.
    """
    difference = over - under
    seeds, rows = difference.shape
    drawn = resample(rows, seeds, RESAMPLES, stream_key("compare", name))
    of_rows = (np.asarray(drawn.rows, dtype=np.float64) / rows) @ difference.T
    others = (of_rows * drawn.runs).sum(axis=1)
    return interval(np.concatenate([[difference.mean()], others]), difference.mean(axis=1), CONFIDENCE, 1 / rows)


@dataclass(frozen=True)
class Line:
    """One line of the table: a generator on a set, over its seeds. Accuracies in percent, gains in points.

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
    accuracy: dict[str, float]
    gains: dict[str, Interval]
    validation: float | None
    better: str
    verdicts: dict[str, int]
    curve: tuple[tuple[float, Interval, Interval], ...]  # (ratio, mix over real, placebo over real)
    rows_a_second: float | None
    seconds_a_row: float | None
    cost_a_row: float | None


def lines(cells: Sequence[Cell]) -> list[Line]:
    """The table: cells of one set and one generator make a line, in the order in which they first come.

    Raises DataError where the cells of a line were measured on different test rows.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell["dataset"], cell["generator"]), []).append(cell)
    return [_line(dataset, name, sorted(of, key=lambda c: c["seed"])) for (dataset, name), of in groups.items()]


def _line(dataset: str, name: str, cells: list[Cell]) -> Line:
    judged = [cell for cell in cells if cell["points"]]
    if len({(cell["rows"]["test"], cell["heldout"]) for cell in judged}) > 1:
        problem = f"the cells of {name} on {dataset} were measured on different test rows"
        raise DataError(problem, where="compare", fix="compare them apart, or with given splits (splits.files)")
    accuracy: dict[str, float] = {}
    gains: dict[str, Interval] = {}
    better = "real"
    if judged:
        by_arm = {arm: accuracies(judged, _target, arm) for arm in (*ARMS, "published")}
        accuracy = {arm: round(100 * float(found.mean()), 2) for arm, found in by_arm.items()}
        better = max(("real", "placebo"), key=lambda arm: accuracy[arm])
        for over, under in (("mix", "real"), ("mix", "placebo"), ("placebo", "real"), ("published", better)):
            pair = f"{over}-{'better' if over == 'published' else under}"
            gains[pair] = gain(by_arm[over], by_arm[under], f"{dataset} {name}")
    asked, sound = (sum(cell["ledger"][key] for cell in cells) for key in ("asked", "sound"))
    return Line(
        dataset=dataset,
        generator=name,
        seeds=len(cells),
        train=round(float(np.mean([cell["rows"]["train"] for cell in cells]))),
        asked=asked,
        acceptance=sound / asked if asked else 0.0,
        accepted=sum(cell["ledger"]["accepted"] for cell in cells),
        distinct_2=_mean([cell["diversity"]["distinct_2"] for cell in judged]),
        new_2=_mean([cell["diversity"]["new_2"] for cell in judged]),
        accuracy=accuracy,
        gains=gains,
        validation=_mean([cell["validation"]["mix-real"]["gain"] for cell in judged]),
        better=better,
        verdicts=dict(sorted(Counter(str(cell["outcome"]) for cell in cells).items())),
        curve=_curve(judged, f"{dataset} {name}"),
        **_spent(cells),
    )


def _target(cell: Cell) -> Mapping[str, Any] | None:
    return next((point for point in cell["points"] if point["ratio"] is None), None)


def _curve(cells: list[Cell], name: str) -> tuple[tuple[float, Interval, Interval], ...]:
    """Gains by the ratio of synthetic to real rows that was reached, over the cells that have that ratio."""
    asked = dict.fromkeys(point["ratio"] for cell in cells for point in cell["points"])
    found = []
    for ratio in asked:

        def point(cell: Cell, ratio: float | None = ratio) -> Mapping[str, Any] | None:
            return next((p for p in cell["points"] if p["ratio"] == ratio), None)

        having = [cell for cell in cells if point(cell) is not None]
        reached = float(np.mean([(point(cell) or {})["synthetic"] / cell["rows"]["train"] for cell in having]))
        by_arm = {arm: accuracies(having, point, arm) for arm in ARMS}
        pairs = [gain(by_arm[arm], by_arm["real"], f"{name} {ratio}") for arm in ("mix", "placebo")]
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
