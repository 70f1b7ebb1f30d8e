"""Batched decoding from an encoder-decoder model: by sampling, with the noise of a row its own, or by beams.

A row hangs on its own source alone. A source is padded to a width that its own length alone decides, so that a batch
holds sources of many lengths and a row is the same bits in any; a batch is whole tiles on one thread (``lm.decode``).
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
from augmill.tasks.generators.lm.decode import TILE, Sampling, draw_rows, fill_tiles, tile_of, torch_threads

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Ints = npt.NDArray[np.int64]
PAD = -1  # a place of a source that nothing attends to
NARROWEST = 16
Outcome = list[int] | None  # the tokens before the last mark; None where that did not come within the bound


@dataclass(frozen=True)
class Frame:
    """Where a target begins (decoder start, forced tokens), and the ids that stand in none."""

    start: tuple[int, ...]
    banned: tuple[int, ...]


def width_of(length: int, most: int) -> int:
    """Tokens that a source of ``length`` is padded to: 16, 32, 64 and so on, above it, but no more than ``most``."""
    width = NARROWEST
    while width <= length:
        width *= 2
    return max(length, min(width, most))


def pad_rows(rows: Sequence[Sequence[int]], most: int) -> Ints:
    """(rows, width) with ``PAD`` behind each; all are of one width."""
    width = width_of(max(map(len, rows)), most)
    return np.array([[*row, *[PAD] * (width - len(row))] for row in rows], dtype=np.int64)


class Decoder:
    """The decoder of a model at work on one batch: encoded sources, what was computed so far, the next logits.

    ``sources``: (rows, width), with ``PAD`` behind those that are shorter. Rows are filled up to whole tiles with
    copies of the first.
    """

    def __init__(self, model: Any, sources: Ints, frame: Frame, copies: int = 1) -> None:
        import torch

        self.model, self.frame = model, frame
        self.rows, self.tile = len(sources), tile_of(model)
        ids = torch.from_numpy(sources[fill_tiles(self.rows, self.tile)]).to(model.device)
        # Without padding no mask at all: a mask of ones would be dropped in some batches, and another kernel be taken.
        self.mask = (ids != PAD).long() if (sources == PAD).any() else None
        ids = ids.masked_fill(ids == PAD, getattr(model.config, "pad_token_id", None) or 0)
        encoded = model.get_encoder()(input_ids=ids, attention_mask=self.mask).last_hidden_state
        self.encoded = encoded.repeat_interleave(copies, dim=0)
        self.mask = None if self.mask is None else self.mask.repeat_interleave(copies, dim=0)
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
            attention_mask=self.mask,
            decoder_input_ids=ids,
            past_key_values=self.past,
            use_cache=True,
        )
        self.past = output.past_key_values
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits.index_fill(1, self.banned, -torch.inf).scatter(
            1, marks[:, None], logits.gather(1, marks[:, None])
        )

    def select(self, lines: torch.Tensor) -> None:
        """Goes on with these lines, in this order; a line may stand more than once."""
        self.encoded = self.encoded[lines]
        self.mask = None if self.mask is None else self.mask[lines]
        self.past.batch_select_indices(lines)


class Targets:
    """Targets under way, as ``draw_rows`` asks for them: each says its marks in their order, and ends with the last."""

    def __init__(self, decoder: Decoder, marks: Sequence[Sequence[int]]) -> None:
        import torch

        self.decoder, self.device, self.tile = decoder, decoder.model.device, decoder.tile
        own = [marks[row] for row in fill_tiles(decoder.rows, self.tile).tolist()]
        self.count = torch.tensor([len(part) for part in own], device=self.device)
        self.order = _table([[*part, part[-1]] for part in own]).to(self.device)  # one more, for those that are whole
        self.said, self.ids = torch.zeros_like(self.count), decoder.start()
        self.following = self.order[:, 0]

    def logits(self, live: torch.Tensor, step: int) -> torch.Tensor:
        self.following = self.order[live, self.said[live]]
        return self.decoder.logits(self.ids, self.following)

    def take(self, chosen: torch.Tensor, live: torch.Tensor, step: int) -> torch.Tensor:
        self.said[live] += (self.said[live] < self.count[live]) & (chosen == self.following)
        self.ids = chosen[:, None]
        return self.said[live] < self.count[live]

    def keep(self, kept: torch.Tensor) -> None:
        self.ids = self.ids[kept]
        self.decoder.select(kept)


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

    with torch.inference_mode():
        work = Targets(Decoder(model, sources, frame), marks)
        tokens = draw_rows(work, noise, sampling, check_time=check_time)
    whole = (work.said == work.count)[: len(sources)].tolist()
    found = zip(tokens.tolist(), whole, strict=True)
    return [[token for token in row if token >= 0][:-1] if done else None for row, done in found]


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
    sources: Sequence[Sequence[int]],
    run: Callable[[list[int]], list[T]],
    batch: int,
    most: int,
    ctx: Context,
    who: str,
) -> list[T]:
    """What ``run`` makes of the sources at these places, all of one width (``most``: see ``width_of``); on a CPU one

    thread a part. Sources that fill their width are apart from those that need padding.

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

    groups: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
    for at, source in enumerate(sources):
        width = width_of(len(source), most)
        groups[width, len(source) == width].append(at)
    lanes = ctx.threads if ctx.device == "cpu" else 1
    parts = []
    for _, places in sorted(groups.items(), reverse=True):  # the widest first, so that lanes end together
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
