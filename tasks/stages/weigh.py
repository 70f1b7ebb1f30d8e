"""Weigh: what each generator's rows have shown so far in, its part of what is still to be asked for out.

A classifier judges parts of train that it was not trained on (law 6: validation is the gate's). Each part in turn is
``select``, hash-made; the classifier learns from the rest with a generator's rows, and with as many repeated real rows
instead (the placebo). A generator was fitted on all of train, so one that repeats what it saw would look good: its rows
with a parent in the part, and those near a row of the part, take no part in judging there.

Weights are exponential in what was measured (Hedge: Freund and Schapire, JCSS 1997), with a part that is split by
``share`` alone (Auer, Cesa-Bianchi, Freund and Schapire, "The nonstochastic multiarmed bandit problem", SIAM J.
Computing 2002). Differences between generators are shrunk towards none (James and Stein 1961), and vanish where they
are no larger than chance makes them: with few rows to judge by, the shares stand.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import FIRST_PROBLEM, ROW_ID, STRATUM, Artifact, Tell, tell_nobody
from augmill.tasks.gate.evidence import Predictions
from augmill.tasks.gate.judge import Question, predict
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.recipe.sections import Plan
from augmill.tasks.rows.folds import fold_of
from augmill.tasks.rows.kinds import RowIndex, group_keys
from augmill.tasks.rows.schema import GROUP, class_counts
from augmill.tasks.store.stage import Work, stage
from augmill.tasks.trainers import QUICK

PARTS = 5
MOST = 800  # train rows that are looked at: five parts of TREC's 60 rows take 3 s a generator, of 800 rows about 20 s
FEWEST = 20  # rows to judge by; with fewer nothing is measured
PROBLEM = PROBLEMS[FIRST_PROBLEM]
TEMPERATURES = np.geomspace(0.25, 4.0, 17)
RATE = 0.5  # of what was measured, in standard errors
CAREFUL = 2.0  # differences below this many times what chance makes of them count for nothing
COST = 0.5  # a generator half of whose rows fail the checks gets 0.7 of the weight
FINEST = 0.25  # points; a standard error below it says no more

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WeighConfig:
    plan: Plan
    shares: dict[str, float]  # generator: its share in the recipe
    fields: tuple[str, ...]
    near: float  # as splits.near
    seed: int


def parts_of(train: pa.Table, fields: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """The part of each row, by the hash of its group or its fields: equal rows and rows of one group stay together."""
    named = train[GROUP].is_valid().to_pylist() if GROUP in train.column_names else [False] * train.num_rows
    keys = zip(group_keys(train, fields), named, strict=True)
    digests = [
        hashlib.sha256(b"select\x00" + (b"group\x1f" if grouped else b"") + key).digest() for key, grouped in keys
    ]
    return np.array([fold_of(digest, PARTS) for digest in digests], dtype=np.int64)


def measure(
    train: pa.Table, made: Mapping[str, pa.Table], config: WeighConfig, tell: Tell = tell_nobody
) -> tuple[dict[str, Floats], int]:
    """Points of probability that each generator's rows add to the right label, over the placebo: (trainings, rows

    judged); and how many rows judged. Of a generator without rows nothing is measured.
    """
    columns = [ROW_ID, STRATUM, *config.fields]
    order = np.argsort([hashlib.sha256(row_id.encode()).digest() for row_id in train[ROW_ID].to_pylist()])
    train = train.take(pa.array(np.sort(order[:MOST])))
    parts, train = parts_of(train, config.fields), train.select(columns)
    found: dict[str, list[Predictions | None]] = {name: [] for name, rows in made.items() if rows.num_rows}
    rows_judged: list[int] = []
    for part in range(PARTS):
        inside = train.filter(pa.array(parts != part))
        known = inside[STRATUM].unique()
        judged = train.filter(pc.and_(pa.array(parts == part), pc.is_in(train[STRATUM], known)))
        if not judged.num_rows or len(known) < 2:
            continue
        rows_judged.append(judged.num_rows)
        index = RowIndex.build(judged, config.fields, config.near)
        for at, (name, parts_found) in enumerate(found.items()):
            tell(part * len(found) + at, PARTS * len(found), "measurements")
            rows = usable(made[name], inside, judged, index, config)
            parts_found.append(_predict(inside, rows, judged, config) if rows.num_rows else None)
    if sum(rows_judged) < FEWEST:
        return {}, sum(rows_judged)
    return {name: _gains(of, rows_judged, config.plan.seeds) for name, of in found.items()}, sum(rows_judged)


def _predict(inside: pa.Table, rows: pa.Table, judged: pa.Table, config: WeighConfig) -> Predictions:
    """What the placebo and the mix say of the rows that judge."""
    arms, runs, question = ("placebo", "mix"), config.plan.seeds, Question(PROBLEM, config.fields)
    (found,) = predict(
        inside, rows, [judged], QUICK, question, runs=runs, seed=config.seed, workdir=Path(), arms=arms, scores=True
    )
    return found


def usable(made: pa.Table, inside: pa.Table, judged: pa.Table, index: RowIndex, config: WeighConfig) -> pa.Table:
    """The rows that may teach where ``judged`` judges: at most one per real row of their class, drawn by their seeds."""
    held = set(judged[ROW_ID].to_pylist())
    free = class_counts(inside[STRATUM])
    near = index.nearest(made)[0] >= 0
    parents, strata = made["parent_ids"].to_pylist(), made[STRATUM].to_pylist()
    kept = []
    for at in np.lexsort((made["ordinal"].to_numpy(), made["seed"].to_numpy())).tolist():
        if not near[at] and free.get(strata[at], 0) and held.isdisjoint(parents[at] or ()):
            free[strata[at]] -= 1
            kept.append(at)
    rows = made.take(pa.array(sorted(kept), pa.int64()))
    keys = zip(rows["generator"].to_pylist(), rows["asked"].to_pylist(), rows["ordinal"].to_pylist(), strict=True)
    ids = pa.array(["\x1f".join(map(str, key)) for key in keys], pa.string())
    return rows.select([STRATUM, *config.fields, "parent_ids"]).append_column(ROW_ID, ids)


def _gains(parts: list[Predictions | None], rows_judged: list[int], runs: int) -> Floats:
    """Points of probability of the right label, mix less placebo; 0 in a part where the generator had no row to add."""
    rows = [np.zeros((runs, count)) for count in rows_judged]
    measured = [(at, found) for at, found in enumerate(parts) if found is not None]
    for arm, sign in (("placebo", -100.0), ("mix", 100.0)):
        right = _right([found for _, found in measured], arm)
        for (at, _), part in zip(measured, right, strict=True):
            rows[at] += sign * part
    return np.concatenate(rows, axis=1)


def _right(parts: list[Predictions], arm: str) -> list[Floats]:
    """The probability of the right label at the arm's best temperature, so that no arm gains by being more cautious."""
    best: tuple[float, list[Floats]] = (-math.inf, [])
    scored = [(-np.logaddexp(0, -part.scores[arm]), part.stratum) for part in parts if part.scores is not None]
    for temperature in TEMPERATURES:
        right = []
        for logs, labels in scored:
            scaled = logs / temperature
            share = np.exp(scaled - scaled.max(axis=2, keepdims=True))
            right.append((share / share.sum(axis=2, keepdims=True))[:, np.arange(len(labels)), labels])
        fitting = sum(float(np.log(np.maximum(part, 1e-6)).sum()) for part in right)
        best = max(best, (fitting, right), key=lambda found: found[0])
    return best[1]


def deviation(gains: Floats) -> float:
    """The standard error of the mean of (trainings, rows): that of the rows, and that of the trainings' own draws."""
    runs, rows = gains.shape
    return math.sqrt(gains.mean(axis=0).var(ddof=1) / rows + gains.mean(axis=1).var(ddof=1) / runs)


def weigh_all(
    shares: dict[str, float], accepted: dict[str, tuple[int, int]], gains: dict[str, Floats], floor: float
) -> dict[str, Any]:
    """``weights`` by generator, summing to 1, with the numbers behind them.

    ``accepted``: (asked, passed) by generator. ``gains``: as ``measure`` gives them; generators are compared row by
    row, in pairs, for the rows that judge are the same for all.
    """
    middle = np.mean(list(gains.values()), axis=0) if gains else 0.0
    relative = {name: (float((part - middle).mean()), deviation(part - middle)) for name, part in gains.items()}
    ahead = {name: mean / max(error, FINEST) for name, (mean, error) in relative.items()}
    free, found = len(ahead) - 1, sum(value**2 for value in ahead.values())
    # Q of independent measurements is found * free / (free + 1), and free on average where all are equal.
    trust = max(0.0, 1 - CAREFUL * (free + 1) / found) if free > 0 and found else 0.0
    exponents = {
        name: math.log(share)
        + COST * math.log(_rate(*accepted.get(name, (0, 0))))
        + RATE * trust * ahead.get(name, 0.0)
        for name, share in shares.items()
    }
    top, total = max(exponents.values()), sum(shares.values())
    raw = {name: math.exp(value - top) for name, value in exponents.items()}
    mixed = {n: (1 - floor) * raw[n] / sum(raw.values()) + floor * share / total for n, share in shares.items()}
    return {
        "weights": {name: max(1e-4, round(weight, 4)) for name, weight in mixed.items()},
        "trust": round(trust, 3),
        "gains": {n: {"gain": round(float(g.mean()), 2), "error": round(deviation(g), 2)} for n, g in gains.items()},
    }


def _rate(asked: int, passed: int) -> float:
    return (passed + 1) / (asked + 2)


@stage("weigh", version=2)
def weigh(work: Work, config: WeighConfig, split: Artifact, settled: Artifact) -> None:
    """weights.json: each generator's weight, and what it hangs on. Rows: those that judged."""
    columns = ["generator", "asked", "ordinal", "seed", STRATUM, *config.fields, "parent_ids"]
    rest = work.read(settled, "rest.parquet")
    surplus = rest.filter(pc.equal(rest["status"], "surplus")).select(columns)
    passed = pa.concat_tables([work.read(settled, "accepted.parquet", columns=columns).select(columns), surplus])
    made = {name: passed.filter(pc.equal(passed["generator"], name)) for name in config.shares}
    gains, judged = measure(work.read(split, "train.parquet"), made, config, work.tell)
    streams = work.read_json(settled, "ledger.json")["streams"]
    counts = {
        name: (sum(part["asked"] for part in of.values()), sum(part["eligible"] for part in of.values()))
        for name, of in streams.items()
    }
    found = weigh_all(config.shares, counts, gains, config.plan.floor)
    rows = {name: {"asked": asked, "passed": eligible} for name, (asked, eligible) in sorted(counts.items())}
    work.rows = judged
    work.write_json({**found, "judged": judged, "rows": rows}, "weights.json")
