"""Batched sampling from a causal language model, with the noise of a row its own.

``transformers.generate`` draws one number stream per batch, so a row depends on its neighbours, and its top-p sorts the
whole vocabulary at every step. Here a row takes its own uniforms, one a step, and the candidates are cut to the top k
first (docs/decisions.md, "Decoding").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from augmill.tasks.generators.lm.utf8 import Characters

if TYPE_CHECKING:
    import torch

# Matrix products of MKL take another summation order for the rows left over from blocks of 4. With one thread and a
# batch that is a multiple of 4, the logits of a row are the same bits at every batch size (measured on GPT-2 and Llama
# shapes, float32, AVX-512); at other sizes they differ by 1e-6, which flips a token in about one draw in a million.
# 8 leaves room for other kernels.
TILE = 8


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn: temperature, then repetition penalty (Keskar 2019), top-k, top-p within k, min-p."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float


@dataclass(frozen=True)
class Grammar:
    """What a row is made of: ``fields`` texts, each closed by the token ``end``; ``banned`` token ids never stand in one.

    ``characters``: keeps a row UTF-8; None where the texts are ASCII, or no token is a part of a character.
    """

    end: int
    fields: int
    banned: tuple[int, ...]
    characters: Characters | None = None


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Runs the block with torch's thread count set to ``count``, then puts the old one back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def draw(logits: torch.Tensor, noise: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """One token per row by the inverse of the cumulative distribution at ``noise``.

    ``logits``: (rows, vocabulary); ``noise``: (rows,) float64 in [0, 1). Returns (rows,) int64. The sums are float64,
    so that they do not round where the logits of two machines agree.
    """
    import torch

    values, ids = logits.topk(min(sampling.top_k, logits.shape[-1]))
    weights = torch.softmax(values.double() / sampling.temperature, dim=-1)
    cumulative = weights.cumsum(dim=-1)
    keep = (cumulative - weights < sampling.top_p) & (weights >= sampling.min_p * weights[:, :1])
    last = keep.sum(dim=-1, keepdim=True) - 1  # candidates stand in falling order, so the kept ones are a prefix
    reach = noise[:, None] * cumulative.gather(1, last)
    chosen = torch.minimum((cumulative <= reach).sum(dim=-1, keepdim=True), last)
    return ids.gather(1, chosen)[:, 0]


def penalise(logits: torch.Tensor, seen: torch.Tensor, end: int, penalty: float) -> torch.Tensor:
    """Divides positive logits of the tokens in ``seen`` (rows, steps) by ``penalty``, multiplies negative ones.

    ``end`` is spared: a row of two texts has to draw it twice.
    """
    import torch

    scores = logits.gather(1, seen)
    scores = torch.where(scores > 0, scores / penalty, scores * penalty)
    return logits.scatter(1, seen, torch.where(seen == end, logits.gather(1, seen), scores))


def decode(
    model: Any,
    prompts: npt.NDArray[np.int64],
    noise: npt.NDArray[np.float64],
    grammar: Grammar,
    sampling: Sampling,
    check_time: Callable[[], None] = lambda: None,
    finished: Callable[[int], None] = lambda rows: None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Continues each prompt until its row is whole or the noise is used up.

    ``prompts``: (rows, prompt length), all of one length, so nothing is padded; ``noise``: (rows, most new tokens).
    Returns the tokens (rows, most new tokens), -1 where none was drawn, and whether each row is whole. What stands
    after the end of a whole row is meaningless. Finished rows leave the batch: they cost nothing. ``check_time`` is
    called at each step, and may raise; ``finished`` is told how many rows have left the batch.
    """
    import torch

    device = model.device
    rows, steps = noise.shape
    size = _tiles(rows)
    fill = np.concatenate([np.arange(rows), np.zeros(size - rows, dtype=np.int64)])  # rows beyond repeat the first
    tokens = torch.full((size, steps), -1, dtype=torch.int64, device=device)
    ends = torch.zeros(size, dtype=torch.int64, device=device)
    ends[rows:] = grammar.fields
    banned = torch.tensor(grammar.banned, dtype=torch.int64, device=device)
    uniform = torch.from_numpy(noise[fill]).to(device)
    ids = torch.from_numpy(prompts[fill]).to(device)
    live, past = torch.arange(size, device=device), None
    rule = _Rule(grammar.characters, size, device)
    with torch.inference_mode():
        for step in range(steps):
            check_time()
            output = model(input_ids=ids, past_key_values=past, use_cache=True)
            past = output.past_key_values
            logits = output.logits[:, -1].float().index_fill(1, banned, -torch.inf)
            if sampling.repetition_penalty != 1.0 and step:
                logits = penalise(logits, tokens[live, :step], grammar.end, sampling.repetition_penalty)
            chosen = draw(rule.mask(logits, live), uniform[live, step], sampling)
            rule.go_on(chosen, live)
            tokens[live, step] = chosen
            ends[live] += chosen == grammar.end
            alive = ends[live] < grammar.fields
            if not alive.any():
                break
            live, ids = _drop_finished(live, chosen, alive, past)
            finished(max(0, rows - len(live)))
    finished(rows)
    return tokens[:rows].cpu().numpy(), (ends[:rows] >= grammar.fields).cpu().numpy()


class _Rule:
    """Where each of ``rows`` rows stands within a character, on the model's device."""

    def __init__(self, characters: Characters | None, rows: int, device: Any) -> None:
        import torch

        self.states = torch.zeros(rows, dtype=torch.int64, device=device)
        self.tables: tuple[torch.Tensor, torch.Tensor] | None = None
        if characters is not None:
            refused, following = torch.from_numpy(~characters.allowed), torch.from_numpy(characters.following)
            self.tables = refused.to(device), following.to(device)

    def mask(self, logits: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
        return logits if self.tables is None else logits.masked_fill(self.tables[0][self.states[live]], float("-inf"))

    def go_on(self, chosen: torch.Tensor, live: torch.Tensor) -> None:
        if self.tables is not None:
            self.states[live] = self.tables[1][self.states[live], chosen].long()


def _drop_finished(
    live: torch.Tensor, chosen: torch.Tensor, alive: torch.Tensor, past: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows that stay, in whole tiles, and the next token of each; ``past`` is cut to them in place."""
    import torch

    size = _tiles(int(alive.sum()))
    if size < len(live):
        kept = torch.argsort(~alive, stable=True)[:size]
        live, chosen = live[kept], chosen[kept]
        past.batch_select_indices(kept)
    return live, chosen[:, None]


def _tiles(rows: int) -> int:
    return -(-rows // TILE) * TILE
