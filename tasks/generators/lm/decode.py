"""Batched sampling from a causal language model, with the noise of a row its own.

``transformers.generate`` draws one number stream per batch, so a row depends on its neighbours, and its top-p sorts the
whole vocabulary at every step. Here a row takes its own uniforms, one a step, and the candidates are cut to the top k
first (docs/decisions.md, "Decoding").
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

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
# In bfloat16 only one row alone differs (it goes by a kernel for vectors); 2 to 64 were the same bits at widths 256, 264.
HALF_TILE = 4
# Lines leave a batch together, once they are an eighth of it: each time the whole cache of the others is copied.
SHED = 8
BY_TANH = ("GELUTanh", "NewGELUActivation", "FastGELUActivation")  # of transformers
# Below this width products in bfloat16 save less than the rest of a step costs: 1.4 times faster at 256, none at 128.
HALF_FROM = 256
Precision = Literal["auto", "float32", "bfloat16"]


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


def lower(model: Any, precision: Precision) -> Any:
    """The model with its weights in the precision of decoding, in place; ``draw`` computes in float64 in any.

    ``auto`` goes by the model's width alone, never by the machine, on which rows must not hang: bfloat16 from
    ``HALF_FROM`` up. A CPU without AVX512-BF16 or AMX computes that too, but slowly.
    """
    import torch

    width = getattr(model.config.get_text_config(), "hidden_size", 0)
    if precision == "float32" or (precision == "auto" and width < HALF_FROM):
        return model
    model = model.to(torch.bfloat16)
    if model.device.type == "cpu" and getattr(model.config, "_attn_implementation", "") == "sdpa":
        # Of one query a row: 1.0 ms as plain products, 5.4 ms as the fused kernel (128 rows, 12 heads of 64, 32 keys).
        model.set_attn_implementation("eager")
    return tabulate(model)


def tabulate(model: Any) -> Any:
    """The model in bfloat16 with its activations by the hyperbolic tangent looked up, in place, on a CPU.

    There are 65,536 numbers in bfloat16, so the bits are the same, in 0.10 ms for 0.26 (128 rows of 1,024).
    """
    import torch

    class Tabulated(torch.nn.Module):
        """What an activation gives for each number of bfloat16, by its bits as an integer from -32,768 up."""

        def __init__(self, activation: Any) -> None:
            super().__init__()
            every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(torch.bfloat16)
            with torch.no_grad():
                self.register_buffer("table", activation(every), persistent=False)

        def forward(self, numbers: torch.Tensor) -> torch.Tensor:
            places = numbers.view(torch.int16).flatten().int().add_(1 << 15)
            found: torch.Tensor = self.get_buffer("table").index_select(0, places)
            return found.view(numbers.shape)

    for part in list(model.modules()) if model.device.type == "cpu" else []:
        for name, child in part.named_children():
            if type(child).__module__ == "transformers.activations" and type(child).__name__ in BY_TANH:
                setattr(part, name, Tabulated(child))
    return model


class Drawing(Protocol):
    """A model at work on the lines of a batch: what ``draw_rows`` asks of it at each step."""

    device: Any
    tile: int  # lines come in multiples of it

    def logits(self, live: torch.Tensor, step: int) -> torch.Tensor:
        """(lines, vocabulary) in float32, -inf where a token must not be drawn. ``live``: which row each line is."""

    def take(self, chosen: torch.Tensor, live: torch.Tensor, step: int) -> torch.Tensor:
        """Takes the drawn tokens; which lines go on."""

    def keep(self, kept: torch.Tensor) -> None:
        """Goes on with these lines, in this order."""


def fill_tiles(rows: int, tile: int) -> npt.NDArray[np.int64]:
    """The row of each line: lines beyond the rows, up to a whole tile, repeat the first one."""
    return np.concatenate([np.arange(rows), np.zeros(-rows % tile, dtype=np.int64)])


def draw_rows(
    work: Drawing,
    noise: npt.NDArray[np.float64],
    sampling: Sampling,
    spared: int = -1,
    check_time: Callable[[], None] = lambda: None,
    finished: Callable[[int], None] = lambda rows: None,
) -> npt.NDArray[np.int64]:
    """The tokens (rows, steps) that ``work`` draws with its rows' own ``noise`` (rows, steps); -1 behind a row's last.

    The loop of every model here. A row ends when its work says so; finished rows leave the batch, in whole tiles, once
    they are an eighth of it. ``spared``: a token that is never penalised. ``check_time`` is called at each step, and may raise;
    ``finished`` is told how many rows have left the batch.
    """
    import torch

    rows, steps = noise.shape
    fill = fill_tiles(rows, work.tile)
    uniform = torch.from_numpy(noise[fill]).to(work.device)
    tokens = torch.full((len(fill), steps), -1, dtype=torch.int64, device=work.device)
    live = torch.arange(len(fill), device=work.device)
    going = live < rows  # what fills the tile is nobody's row
    with torch.inference_mode():
        for step in range(steps):
            check_time()
            logits = work.logits(live, step)
            if sampling.repetition_penalty != 1.0 and step:
                logits = penalise(logits, tokens[live, :step].clamp(min=0), spared, sampling.repetition_penalty)
            chosen = draw(logits, uniform[live, step], sampling)
            tokens[live, step] = torch.where(going[live], chosen, -1)
            going[live] &= work.take(chosen, live, step)
            alive = going[live]
            count = int(alive.sum())
            if not count:
                break
            size = count + -count % work.tile
            if len(live) - size >= max(1, len(live) // SHED):
                kept = torch.argsort(~alive, stable=True)[:size]
                live = live[kept]
                work.keep(kept)
            finished(max(0, rows - len(live)))
    finished(rows)
    return tokens[:rows].cpu().numpy()


def tile_of(model: Any) -> int:
    """Lines of a batch come in multiples of this, so that a row's sums are those of any other batch."""
    import torch

    return HALF_TILE if getattr(model, "dtype", None) == torch.bfloat16 else TILE


class Continuation:
    """A causal model that continues prompts: each distinct prompt is read once, then each row goes on by itself."""

    def __init__(self, model: Any, prompts: npt.NDArray[np.int64], grammar: Grammar) -> None:
        import torch

        self.model, self.device, self.tile, self.grammar = model, model.device, tile_of(model), grammar
        takes = inspect.signature(getattr(model, "forward", model)).parameters
        self.options = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}  # the head at the last place only
        distinct, which = np.unique(prompts, axis=0, return_inverse=True)
        distinct = distinct[fill_tiles(len(distinct), self.tile)]
        which = which.reshape(-1)[fill_tiles(len(prompts), self.tile)]
        self.ids = torch.from_numpy(distinct).to(self.device)
        self.which: torch.Tensor | None = torch.from_numpy(which).to(self.device)
        self.ends = torch.zeros(len(which), dtype=torch.int64, device=self.device)
        self.banned = torch.tensor(grammar.banned, dtype=torch.int64, device=self.device)
        self.rule = _Rule(grammar.characters, len(which), self.device)
        self.past: Any = None

    def logits(self, live: torch.Tensor, step: int) -> torch.Tensor:
        import torch

        output = self.model(input_ids=self.ids, past_key_values=self.past, use_cache=True, **self.options)
        self.past, logits = output.past_key_values, output.logits[:, -1]
        if self.which is not None:  # behind the prompts
            self.past.batch_select_indices(self.which)
            logits, self.which = logits[self.which], None
        return self.rule.mask(logits.float().index_fill_(1, self.banned, -torch.inf), live)

    def take(self, chosen: torch.Tensor, live: torch.Tensor, step: int) -> torch.Tensor:
        self.rule.go_on(chosen, live)
        self.ids = chosen[:, None]
        self.ends[live] += chosen == self.grammar.end
        return self.ends[live] < self.grammar.fields

    def keep(self, kept: torch.Tensor) -> None:
        self.ids = self.ids[kept]
        self.past.batch_select_indices(kept)


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
    Returns the tokens (rows, most new tokens), -1 behind a row's end, and whether each row is whole. For the rest see
    ``draw_rows``.
    """
    work = Continuation(model, prompts, grammar)
    tokens = draw_rows(work, noise, sampling, grammar.end, check_time, finished)
    return tokens, (tokens == grammar.end).sum(axis=1) >= grammar.fields


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
