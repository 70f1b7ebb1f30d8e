"""Batched decoding from an encoder-decoder model: by sampling, with the noise of a row its own, or by beams.

A row hangs on its own source alone. The rows of a batch have one source length, so the encoder needs no padding, which
would change the order of its sums; a batch is a whole number of tiles and runs on one thread (``_lm_decode``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from augmill.tasks.contracts import Context
from augmill.tasks.errors import DeadlineExceeded, WorldError
from augmill.tasks.generators.lm.decode import TILE, Sampling, draw, penalise, torch_threads

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Ints = npt.NDArray[np.int64]
Outcome = list[int] | None  # the tokens before the last mark; None where that did not come within the bound


@dataclass(frozen=True)
class Frame:
    """Where a target begins (decoder start, forced tokens), and the ids that stand in none."""

    start: tuple[int, ...]
    banned: tuple[int, ...]


class Decoder:
    """The decoder of a model at work on one batch: encoded sources, what was computed so far, the next logits.

    ``sources``: (rows, source length). Rows are filled up to whole tiles with copies of the first.
    """

    def __init__(self, model: Any, sources: Ints, frame: Frame, copies: int = 1) -> None:
        import torch

        self.model, self.frame = model, frame
        self.rows = len(sources)
        fill = np.concatenate([np.arange(self.rows), np.zeros(_tiles(self.rows) - self.rows, dtype=np.int64)])
        ids = torch.from_numpy(sources[fill]).to(model.device)
        encoded = model.get_encoder()(input_ids=ids).last_hidden_state
        self.encoded = encoded.repeat_interleave(copies, dim=0)
        self.banned = torch.tensor(frame.banned, dtype=torch.int64, device=model.device)
        self.past: Any = None

    def __len__(self) -> int:
        return len(self.encoded)

    def start(self) -> torch.Tensor:
        """The first input: the frame's start for every line of the batch."""
        import torch

        return torch.tensor([self.frame.start] * len(self), dtype=torch.int64, device=self.model.device)

    def logits(self, ids: torch.Tensor, marks: torch.Tensor) -> torch.Tensor:
        """(lines, vocabulary) in float32 after the tokens ``ids`` (lines, new tokens).

        Banned ones are -inf, but for the mark that a line may say next: ``marks`` (lines,).
        """
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.encoded),
            decoder_input_ids=ids,
            past_key_values=self.past,
            use_cache=True,
        )
        self.past = output.past_key_values
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits.index_fill(1, self.banned, -torch.inf).scatter(
            1, marks[:, None], logits.gather(1, marks[:, None])
        )

    def keep(self, alive: torch.Tensor) -> torch.Tensor:
        """The lines to go on with, those that are alive first: finished ones leave the batch, in whole tiles."""
        import torch

        size = _tiles(int(alive.sum()))
        if size >= len(self):
            return torch.arange(len(self), device=alive.device)
        kept = torch.argsort(~alive, stable=True)[:size]
        self.select(kept)
        return kept

    def select(self, lines: torch.Tensor) -> None:
        """Goes on with these lines, in this order; a line may stand more than once."""
        self.encoded = self.encoded[lines]
        self.past.batch_select_indices(lines)


def sample(
    model: Any,
    sources: Ints,
    marks: Sequence[Sequence[int]],
    noise: npt.NDArray[np.float64],
    frame: Frame,
    sampling: Sampling,
    check_time: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """One target per source, a uniform of ``noise`` (rows, most new tokens) a token. ``check_time`` may raise.

    ``marks``: the special tokens of each target, which it says in this order; with the last it is whole.
    """
    import torch

    rows, steps = noise.shape
    with torch.inference_mode():
        decoder = Decoder(model, sources, frame)
        size, device = len(decoder), model.device
        fill = [at if at < rows else 0 for at in range(size)]
        uniform = torch.from_numpy(noise[fill]).to(device)
        count = torch.tensor([len(marks[at]) for at in fill], device=device)
        order = _table([[*marks[at], marks[at][-1]] for at in fill]).to(device)  # one more, for those that are whole
        tokens = torch.full((size, steps), -1, dtype=torch.int64, device=device)
        live, ids = torch.arange(size, device=device), decoder.start()
        said = torch.where(live < rows, 0, count)  # what fills the tile is nobody's row
        for step in range(steps):
            check_time()
            following = order[live, said[live]]
            logits = decoder.logits(ids, following)
            if sampling.repetition_penalty != 1.0 and step:
                seen = tokens[live, :step].clamp(min=0)  # below are those that are whole
                logits = penalise(logits, seen, -1, sampling.repetition_penalty)
            chosen = draw(logits, uniform[live, step], sampling)
            going = said[live] < count[live]
            tokens[live, step] = torch.where(going, chosen, -1)
            said[live] += going & (chosen == following)
            alive = said[live] < count[live]
            if not alive.any():
                break
            kept = decoder.keep(alive)
            live, ids = live[kept], chosen[kept, None]
    found = zip(tokens[:rows].tolist(), (said == count)[:rows].tolist(), strict=True)
    return [[token for token in row if token >= 0][:-1] if whole else None for row, whole in found]


def search(
    model: Any,
    sources: Ints,
    marks: Sequence[Sequence[int]],
    steps: int,
    beams: int,
    frame: Frame,
    check_time: Callable[[], None] = lambda: None,
) -> list[list[list[int]]]:
    """Up to ``beams`` targets per source, the likeliest per token first; a source is done when it has that many.

    The same as ``generate(num_beams=beams, num_return_sequences=beams, early_stopping=True)`` row by row, where that
    finds as many whole targets; rows of different length do not wait for each other's padding. ``marks``: as ``sample``.
    """
    import torch

    with torch.inference_mode():
        decoder = Decoder(model, sources, frame, copies=beams)
        hunts = [_Hunt(beams, marks[at if at < decoder.rows else 0]) for at in range(len(decoder) // beams)]
        live = list(range(len(hunts)))
        for hunt in hunts[decoder.rows :]:
            hunt.done = True
        ids = decoder.start()
        for _ in range(steps):
            check_time()
            following = torch.tensor([mark for at in live for mark in hunts[at].marks_next()], device=model.device)
            logits = decoder.logits(ids, following)
            values, tokens = logits.topk(min(2 * beams, logits.shape[-1]))
            chances = (values.double() - torch.logsumexp(logits, dim=-1, keepdim=True).double()).cpu().numpy()
            options = tokens.cpu().numpy()
            lines, new = [], []
            for place, at in enumerate(live):
                part = slice(place * beams, (place + 1) * beams)
                for beam, token in hunts[at].advance(chances[part], options[part]):
                    lines.append(place * beams + beam)
                    new.append(token)
            if all(hunts[at].done for at in live):
                break
            going = sorted(range(len(live)), key=lambda place: hunts[live[place]].done)
            kept = going[: _tiles(sum(not hunts[at].done for at in live))]
            picked = [place * beams + beam for place in kept for beam in range(beams)]
            live = [live[place] for place in kept]
            decoder.select(torch.tensor([lines[line] for line in picked], device=model.device))
            ids = torch.tensor([[new[line]] for line in picked], device=model.device)
    return [hunt.best() for hunt in hunts[: decoder.rows]]


@dataclass(frozen=True)
class _Beam:
    """A target under way: its log-probability, its tokens, how many of its marks it has said."""

    score: float
    tokens: tuple[int, ...]
    said: int


class _Hunt:
    """The beams of one source: targets under way, and those that are whole with their log-probability per token."""

    def __init__(self, beams: int, marks: Sequence[int]) -> None:
        self.beams, self.marks, self.done = beams, marks, False
        self.under_way = [_Beam(-np.inf if at else 0.0, (), 0) for at in range(beams)]
        self.whole: list[tuple[float, list[int]]] = []

    def marks_next(self) -> list[int]:
        return [self.marks[beam.said] for beam in self.under_way]

    def advance(self, chances: npt.NDArray[np.float64], tokens: Ints) -> list[tuple[int, int]]:
        """Takes a step; ``chances`` and ``tokens``: (beams, likeliest tokens). Returns (beam, token) of each new beam."""
        if self.done:
            return [(at, self.marks[-1]) for at in range(self.beams)]
        scores = np.array([beam.score for beam in self.under_way])[:, None] + chances
        ranked = np.argsort(-scores, axis=None, kind="stable")[: 2 * self.beams]
        steps: list[tuple[int, int]] = []
        under_way: list[_Beam] = []
        for rank, flat in enumerate(ranked.tolist()):
            at, place = divmod(flat, scores.shape[1])
            score, token, beam = float(scores[at, place]), int(tokens[at, place]), self.under_way[at]
            said = beam.said + (token == self.marks[beam.said])
            if said == len(self.marks):
                if rank < self.beams and np.isfinite(score):  # what ranks lower would crowd out longer targets
                    self.whole.append((score / (len(beam.tokens) + 1), list(beam.tokens)))
            elif len(steps) < self.beams:
                steps.append((at, token))
                under_way.append(_Beam(score, (*beam.tokens, token), said))
        while len(steps) < self.beams:  # a vocabulary smaller than the beams
            steps.append((0, self.marks[-1]))
            under_way.append(_Beam(-np.inf, (), 0))
        self.under_way, self.done = under_way, len(self.whole) >= self.beams
        return steps

    def best(self) -> list[list[int]]:
        return [tokens for _, tokens in sorted(self.whole, key=lambda item: -item[0])[: self.beams]]


def in_parts(
    sources: Sequence[Sequence[int]], run: Callable[[list[int]], list[T]], batch: int, ctx: Context, who: str
) -> list[T]:
    """What ``run`` makes of the sources at these places, all of one length; on a CPU one thread a part.

    Splits a part that does not fit the device's memory (``repeatable`` is not promised there).
    """
    import torch

    def attempt(part: list[int]) -> list[T]:
        try:
            return run(part)
        except torch.OutOfMemoryError as error:
            if len(part) == 1:
                raise WorldError("one row does not fit the device's memory", where=who) from error
            ctx.log.warning("%s: out of memory at %d rows, continuing with half", who, len(part))
        torch.cuda.empty_cache()
        return attempt(part[: len(part) // 2]) + attempt(part[len(part) // 2 :])

    groups: defaultdict[int, list[int]] = defaultdict(list)
    for at, source in enumerate(sources):
        groups[len(source)].append(at)
    lanes = ctx.threads if ctx.device == "cpu" else 1
    parts = []
    for _, places in sorted(groups.items(), reverse=True):  # the longest first, so that lanes end together
        size = max(1, min(batch, _tiles(-(-len(places) // lanes))))
        parts += [places[start : start + size] for start in range(0, len(places), size)]
    found: dict[int, T] = {}
    with torch_threads(1) if ctx.device == "cpu" else nullcontext(), ThreadPoolExecutor(lanes) as pool:
        for part, made in zip(parts, pool.map(attempt, parts), strict=True):
            found |= dict(zip(part, made, strict=True))
            ctx.tell(len(found), len(sources), "rows")
    return [found[at] for at in range(len(sources))]


def require_time(ctx: Context, who: str) -> Callable[[], None]:
    """A function that raises DeadlineExceeded once the time is over: a row must not depend on how much there was."""

    def check() -> None:
        if ctx.out_of_time():
            raise DeadlineExceeded("the model ran out of time", where=who, fix="raise run.shard_minutes")

    return check


def _table(rows: list[list[int]]) -> torch.Tensor:
    """(rows, longest row), filled up with zeros."""
    import torch

    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=torch.int64)


def _tiles(rows: int) -> int:
    return -(-rows // TILE) * TILE
