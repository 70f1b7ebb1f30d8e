"""The three arms of the gate: real rows alone, the placebo (real rows repeated to the mix's counts), the mix.

Each run draws anew four fifths of the added rows of each class: of the synthetic rows for the mix, of the copies for
the placebo. So runs tell how much hangs on which rows happened to be drawn, and the placebo is dealt with exactly as
the mix is. The added rows' total weight per class is kept, whatever was drawn. Real rows always weigh what they
weigh: perturbing them (a Bayesian bootstrap) would judge the arms at a smaller effective sample, where a generator
that remembers train rows without naming them as parents wins back what the perturbation took (docs/decisions.md).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.rows.randomness import stream_key, uniforms
from augmill.tasks.trainers.contract import Problem, Training

ARMS = ("real", "placebo", "mix")
KEPT = 0.8  # of the added rows, per run

Ints = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


def trainings(problem: Problem, seed: int, runs: int) -> list[Training]:
    """``runs`` trainings of each arm, run by run. Tables may carry a ``weight`` column (default 1)."""
    real_strata, strata = (np.array(t["stratum"].to_pylist(), dtype=object) for t in (problem.real, problem.synthetic))
    real_weights, weights = _weights(problem.real), _weights(problem.synthetic)
    real_keys, keys = _keys(problem.real, seed), _keys(problem.synthetic, seed)
    base = np.arange(problem.real.num_rows, dtype=np.int64)
    made: list[Training] = []
    for run in range(runs):
        added: dict[str, list[tuple[Ints, Weights]]] = {"real": [], "placebo": [], "mix": []}
        for stratum in problem.labels:
            mine, own = np.flatnonzero(strata == stratum), np.flatnonzero(real_strata == stratum)
            if not len(mine):
                continue
            total = float(weights[mine].sum())
            kept = mine[_draw(uniforms(keys[mine], 1, stream=run)[:, 0], len(mine))]
            added["mix"].append((kept + len(base), weights[kept] * (total / weights[kept].sum())))
            if len(own):
                copies = own[_copies(real_keys[own], len(mine), run)]
                added["placebo"].append((copies, np.full(len(copies), total / len(copies))))
        # torch and numpy's RandomState take seeds of 32 bits at most
        run_seed = stream_key("gate", seed, run) & 0x7FFFFFFF
        for arm in ARMS:
            rows = np.concatenate([base, *(rows for rows, _ in added[arm])])
            load = np.concatenate([real_weights, *(load for _, load in added[arm])])
            made.append(Training(arm, run, run_seed, rows, load))
    return made


def _draw(draws: Weights, count: int) -> Ints:
    """Positions of the KEPT share with the smallest draws, at least one, in order."""
    kept = max(1, round(KEPT * count))
    return np.sort(np.argsort(draws, kind="stable")[:kept]).astype(np.int64)


def _copies(keys: Ints, count: int, run: int) -> Ints:
    """Positions (repeated) of a class's rows: ``count`` copies dealt out evenly, the rest drawn, then as ``_draw``."""
    whole, rest = divmod(count, len(keys))
    draws = uniforms(keys, whole + 2, stream=run)
    copies = np.full(len(keys), whole, dtype=np.int64)
    copies[np.argsort(draws[:, -1], kind="stable")[:rest]] += 1
    rows = np.repeat(np.arange(len(keys), dtype=np.int64), copies)
    ordinal = np.arange(len(rows)) - np.repeat(np.cumsum(copies) - copies, copies)
    return rows[_draw(draws[rows, ordinal], len(rows))]


def _weights(table: pa.Table) -> Weights:
    if "weight" not in table.column_names:
        return np.ones(table.num_rows)
    return np.asarray(table["weight"].to_numpy(), dtype=np.float64)


def _keys(table: pa.Table, seed: int) -> Ints:
    """A row's draws hang on its id, not its place: tomorrow's gate draws the same rows where they are still there."""
    return np.array([stream_key("gate", seed, row_id) >> 1 for row_id in table["row_id"].to_pylist()], dtype=np.int64)
