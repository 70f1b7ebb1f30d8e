"""Batched decoding from an encoder-decoder model: by sampling, with the noise of a row its own, or by beams.

A row hangs on its own source alone. A source is padded to a width that its own length alone decides, so that a batch
holds sources of many lengths and a row is the same bits in any; a batch is whole tiles on one thread (``lm.decode``).
"""

from __future__ import annotations

import copy
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

    ``sources``: (rows, width), with ``PAD`` behind those that are shorter. Each distinct source is read once, by the
    encoder and by the decoder's first step; then each row goes on by itself. Lines are whole tiles: those beyond the
    rows are copies of the first.
    """

    def __init__(self, model: Any, sources: Ints, frame: Frame) -> None:
        import torch

        self.model, self.frame = model, frame
        self.rows, self.tile = len(sources), tile_of(model)
        distinct, which = np.unique(sources, axis=0, return_inverse=True)
        self.which: torch.Tensor | None = torch.from_numpy(which.reshape(-1)[fill_tiles(self.rows, self.tile)])
        ids, self.mask = _padded(model, distinct[fill_tiles(len(distinct), self.tile)])
        self.encoded = model.get_encoder()(input_ids=ids, attention_mask=self.mask).last_hidden_state
        self.banned = torch.tensor(frame.banned, dtype=torch.int64, device=model.device)
        self.past: Any = None

    def __len__(self) -> int:
        return len(self.encoded)

    def start(self) -> torch.Tensor:
        """The first input: the frame's start for every distinct source."""
        import torch

        return torch.tensor([self.frame.start] * len(self), dtype=torch.int64, device=self.model.device)

    def logits(self, ids: torch.Tensor, marks: torch.Tensor) -> torch.Tensor:
        """(lines, vocabulary) in float32 after the tokens ``ids`` (lines, new tokens).

        Banned ones are -inf, but for the mark that a line may say next: ``marks`` (lines,). The first call is given
        ``start``, and gives a line for each row.
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
        if self.which is not None:
            self.select(which := self.which.to(logits.device))
            logits, self.which = logits[which], None
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
    steps: int,
    beams: int,
    frame: Frame,
    end: int,
    check_time: Callable[[], None] = lambda: None,
) -> list[list[list[int]]]:
    """Up to ``beams`` targets per source, the likeliest per token first, by transformers' ``generate``.

    Those that do not ``end`` within ``steps`` tokens are left out. What else the model's own generation_config says
    (lengths, penalties) does not count. ``check_time`` is called at each step, and may raise.
    """
    import torch
    from transformers import GenerationConfig

    def go_on(ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        check_time()
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    plain = copy.copy(model)  # the same weights
    plain.generation_config = GenerationConfig(
        pad_token_id=end, eos_token_id=end, decoder_start_token_id=frame.start[0], do_sample=False, num_beams=beams,
        num_return_sequences=beams, early_stopping=beams > 1, max_new_tokens=steps, renormalize_logits=True,
        suppress_tokens=[token for token in frame.banned if token != end] or None,
    )  # fmt: skip
    lines = sources[fill_tiles(len(sources), tile_of(model))]
    ids, mask = _padded(model, lines)
    start = torch.tensor([frame.start] * len(lines), device=model.device)
    with torch.inference_mode():
        made = plain.generate(
            ids,
            attention_mask=torch.ones_like(ids) if mask is None else mask,
            decoder_input_ids=start,
            stopping_criteria=[go_on],
        )
    said = [line[: line.index(end)] if end in line else None for line in made[:, len(frame.start) :].tolist()]
    return [
        [line for line in said[at : at + beams] if line is not None] for at in range(0, len(sources) * beams, beams)
    ]


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


def _padded(model: Any, sources: Ints) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Token ids on the model's device, and which of them are to be seen."""
    import torch

    ids = torch.from_numpy(sources).to(model.device)
    # Without padding no mask at all: a mask of ones would be dropped in some batches, and another kernel be taken.
    mask = (ids != PAD).long() if (sources == PAD).any() else None
    return ids.masked_fill(ids == PAD, getattr(model.config, "pad_token_id", None) or 0), mask


def _table(rows: list[list[int]]) -> torch.Tensor:
    """(rows, longest row), filled up with zeros."""
    import torch

    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=torch.int64)


def _tiles(rows: int) -> int:
    return -(-rows // TILE) * TILE
