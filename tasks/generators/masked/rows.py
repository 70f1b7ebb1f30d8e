"""Masked places filled one after another, in batches of rows of one length, with the noise of a row its own.

One after another, from left to right: filled at once, two neighbours would not know of each other, and the pieces of one
word would make no word. A row takes as many steps of the model as it has masks; finished rows leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from augmill.tasks.contracts import Context
from augmill.tasks.generators.lm.decode import TILE, Sampling, draw
from augmill.tasks.generators.lm.encoder_decoder import in_parts, require_time
from augmill.tasks.generators.lm.train_pairs import IGNORED, Example
from augmill.tasks.rows.randomness import uniforms

if TYPE_CHECKING:
    import torch

    from augmill.tasks.generators.masked.model import Filler

Ints = npt.NDArray[np.int64]
FLOATS = 1 << 26  # numbers that the model may put out at a time: 256 MB


@dataclass(frozen=True)
class Job:
    """A row with the mask at ``places``, in their order; ``was``: the tokens that stood there."""

    row: list[int]
    places: list[int]
    was: list[int]


@dataclass(frozen=True)
class Filling:
    """How a token is drawn: whether it may be the one that stood there, and by what sampling; rows at a time."""

    sampling: Sampling
    may_stay: bool
    batch: int


def fill(filler: Filler, jobs: Sequence[Job], seeds: Ints, filling: Filling, ctx: Context) -> list[list[int]]:
    """A token for every place of every job, by the numbers of its own seed. Raises DeadlineExceeded."""
    if not jobs:
        return []
    order = sorted(range(len(jobs)), key=lambda at: len(jobs[at].places))  # so that a batch takes few steps too many
    ask = require_time(ctx, "masked_lm")

    def run(part: list[int]) -> list[list[int]]:
        ask()
        chosen = [order[at] for at in part]
        return _fill(filler, [jobs[at] for at in chosen], seeds[chosen], filling, ask)

    longest = max(len(job.row) for job in jobs)
    batch = min(filling.batch, max(TILE, FLOATS // (longest * len(filler.kinds)) // TILE * TILE))
    made = in_parts([jobs[at].row for at in order], run, batch, ctx, "masked_lm")
    ctx.usage["tokens"] = ctx.usage.get("tokens", 0) + sum(map(len, made))
    found = dict(zip(order, made, strict=True))
    return [found[at] for at in range(len(jobs))]


def _fill(filler: Filler, jobs: list[Job], seeds: Ints, filling: Filling, ask: Any) -> list[list[int]]:
    """``jobs``: rows of one length. Filled up to whole tiles with copies of one, which are thrown away."""
    import torch

    ranked = sorted(range(len(jobs)), key=lambda at: -len(jobs[at].places))  # those with most masks stay longest
    counts = [len(jobs[at].places) for at in ranked]
    lines = [*ranked, *[ranked[-1]] * (_tiles(len(ranked)) - len(ranked))]
    device = filler.model.device
    ids = torch.tensor([jobs[at].row for at in lines], device=device)
    places, was = (
        torch.tensor([[*part, *part[-1:] * (counts[0] - len(part))] for part in parts], device=device)
        for parts in ([jobs[at].places for at in lines], [jobs[at].was for at in lines])
    )
    noise = torch.from_numpy(uniforms(seeds[lines], counts[0], stream=2)).to(device)
    kinds = torch.from_numpy(filler.kinds).to(device)
    made = torch.zeros_like(was)
    with torch.inference_mode():
        for step in range(counts[0]):
            ask()
            live = torch.arange(_tiles(sum(count > step for count in counts)), device=device)
            logits = filler.model(input_ids=ids[: len(live)]).logits[live, places[live, step]].float()
            old = was[live, step]
            logits = logits.masked_fill(kinds != kinds[old][:, None], -torch.inf)
            if not filling.may_stay:
                logits = logits.scatter(1, old[:, None], -torch.inf)
            chosen = draw(logits, noise[live, step], filling.sampling)
            made[live, step] = chosen
            ids[live, places[live, step]] = chosen  # of a finished row nothing is asked any more
    found = dict(zip(ranked, made.tolist(), strict=False))  # without what fills the tile
    return [found[at][: len(jobs[at].places)] for at in range(len(jobs))]


def mask_loss(model: Any, batch: list[Example], start: Sequence[int], pad: int) -> torch.Tensor:
    """Mean cross entropy per masked token, in nats. An example is (row, what to say at each place or ``IGNORED``)."""
    import torch

    longest = max(len(row) for row, _ in batch)
    ids = np.full((len(batch), longest), pad, dtype=np.int64)
    seen, wanted = np.zeros_like(ids), np.full(ids.shape, IGNORED, dtype=np.int64)
    for line, (row, targets) in enumerate(batch):
        ids[line, : len(row)], seen[line, : len(row)], wanted[line, : len(row)] = row, 1, targets
    given, mask, goal = (torch.from_numpy(part).to(model.device) for part in (ids, seen, wanted))
    logits, asked = model(input_ids=given, attention_mask=mask).logits, goal != IGNORED
    return torch.nn.functional.cross_entropy(logits[asked].float(), goal[asked])


def _tiles(rows: int) -> int:
    return -(-rows // TILE) * TILE
