"""Masked places filled one after another, in batches of rows padded to one width, with the noise of a row its own.

One after another, from left to right: filled at once, two neighbours would not know of each other, and the pieces of one
word would make no word. A row takes as many steps of the model as it has masks; finished rows leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import STRATUM, Context
from augmill.tasks.errors import DataError
from augmill.tasks.generators._parents import changed_fields, draw_fields
from augmill.tasks.generators.lm.decode import TILE, Sampling, draw_rows, fill_tiles, tile_of
from augmill.tasks.generators.lm.encoder_decoder import PAD, in_parts, pad_rows, require_time
from augmill.tasks.generators.lm.losses import IGNORED, Example, has_head, logits_at
from augmill.tasks.generators.masked.model import Filler
from augmill.tasks.generators.masked.text import MOST, Protection, Taken, Unit, draw_units, put_words, take_apart
from augmill.tasks.rows.randomness import uniforms

if TYPE_CHECKING:
    import torch

    from augmill.tasks.generators.masked.options import MaskedLMOptions


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

    longest = 1 if has_head(filler.model) else max(len(job.row) for job in jobs)
    batch = min(filling.batch, max(TILE, FLOATS // (longest * len(filler.kinds)) // TILE * TILE))
    made = in_parts([jobs[at].row for at in order], run, batch, filler.bound, ctx, "masked_lm")
    ctx.usage["tokens"] = ctx.usage.get("tokens", 0) + sum(map(len, made))
    found = dict(zip(order, made, strict=True))
    return [found[at] for at in range(len(jobs))]


def _fill(filler: Filler, jobs: list[Job], seeds: Ints, filling: Filling, ask: Any) -> list[list[int]]:
    """``jobs``: rows of one width."""
    import torch

    counts = [len(job.places) for job in jobs]
    with torch.inference_mode():
        work = _Places(filler, jobs, filling.may_stay)
        made = draw_rows(work, uniforms(seeds, max(counts), stream=2), filling.sampling, check_time=ask)
    return [row[:count] for row, count in zip(made.tolist(), counts, strict=True)]


class _Places:
    """The masked places of a batch of rows, as ``draw_rows`` asks for them: one of each row a step."""

    def __init__(self, filler: Filler, jobs: list[Job], may_stay: bool) -> None:
        import torch

        self.filler, self.may_stay = filler, may_stay
        self.device, self.tile = filler.model.device, tile_of(filler.model)
        lines = [jobs[at] for at in fill_tiles(len(jobs), self.tile).tolist()]
        most = max(len(job.places) for job in jobs)
        self.ids = torch.from_numpy(pad_rows([job.row for job in lines], filler.bound)).to(self.device)
        self.seen = (self.ids != PAD).long()
        self.padded = bool((self.ids == PAD).any())
        self.ids.masked_fill_(self.ids == PAD, filler.pad)
        self.places, self.was = (
            torch.tensor([[*part, *part[-1:] * (most - len(part))] for part in parts], device=self.device)
            for parts in ([job.places for job in lines], [job.was for job in lines])
        )
        self.counts = torch.tensor([len(job.places) for job in lines], device=self.device)
        self.kinds = torch.from_numpy(filler.kinds).to(self.device)

    def logits(self, live: torch.Tensor, step: int) -> torch.Tensor:
        import torch

        ids, mask = self.ids[live], self.seen[live] if self.padded else None
        places = torch.arange(len(ids), device=self.device) * ids.shape[1] + self.places[live, step]
        logits = logits_at(self.filler.model, places, input_ids=ids, attention_mask=mask).float()
        old = self.was[live, step]
        logits = logits.masked_fill(self.kinds != self.kinds[old][:, None], -torch.inf)
        return logits if self.may_stay else logits.scatter(1, old[:, None], -torch.inf)

    def take(self, chosen: torch.Tensor, live: torch.Tensor, step: int) -> torch.Tensor:
        self.ids[live, self.places[live, step]] = chosen  # of a finished row nothing is asked any more
        return self.counts[live] > step + 1

    def keep(self, kept: torch.Tensor) -> None:
        """Nothing is kept between steps but the rows themselves."""


# --- Rows taken apart for a masked language model: which words are masked, what is to be said, the row with other -----


Row = tuple[Taken, ...]


class WordMasking:
    """Takes rows apart, and draws which of their words are masked."""

    def __init__(self, filler: Filler, options: MaskedLMOptions, phrases: list[str], fields: tuple[str, ...]) -> None:
        self.filler, self.options = filler, options
        self.allowed = changed_fields(options.change, fields, "masked_lm")
        self.protection = Protection(options.protect_names, options.protect_numbers, phrases)
        self.numbers = 1 + MOST * len(fields)
        self._kinds: list[int] = filler.kinds.tolist()

    def take(self, texts: list[str | None]) -> Row:
        return tuple(take_apart(text or "", self.filler.encode, self._kinds, self.protection) for text in texts)

    def draw(self, row: Row, numbers: list[float]) -> list[list[Unit]]:
        """The words of each text that are masked, by ``numbers`` in [0, 1)."""
        out: list[list[Unit]] = [[] for _ in row]
        able = ["x" if text.units else "" for text in row]
        for at in draw_fields(self.options.change, self.allowed, able, numbers[0]):
            out[at] = draw_units(row[at], numbers[1 + at * MOST :][:MOST], self.options.mask_share)
        return out

    def job(self, label: str, row: Row, units: list[list[Unit]]) -> Job:
        tokens, starts = self.filler.write(label, [text.ids for text in row])
        places = [
            start + at for start, taken in zip(starts, units, strict=True) for unit in taken for at in unit.places
        ]
        was = [tokens[at] for at in places]
        for at in places:
            tokens[at] = self.filler.mask
        return Job(tokens, places, was)

    def read(self, row: Row, units: list[list[Unit]], tokens: list[int]) -> list[str]:
        """The texts with the drawn tokens in the masked places."""
        made, done = [], 0
        for text, taken in zip(row, units, strict=True):
            words = []
            for unit in taken:
                words.append(self.filler.say(tokens[done : done + len(unit.places)]))
                done += len(unit.places)
            made.append(put_words(text, taken, words))
        return made


def fitting_rows(rows: pa.Table, masking: WordMasking, ctx: Context) -> tuple[pa.Table, list[Row]]:
    """The rows that can be parents, as a table and taken apart. Raises DataError where there are none."""
    columns = [rows[name].to_pylist() for name in ctx.fields]
    taken = [masking.take(list(texts)) for texts in zip(*columns, strict=True)]
    keep, bound, long = [], masking.filler.bound, 0
    for label, row in zip(rows[STRATUM].to_pylist(), taken, strict=True):
        length = len(masking.filler.write(label, [text.ids for text in row])[0])
        keep.append(length <= bound and any(row[at].units for at in masking.allowed))
        long += length > bound
    if not any(keep):
        raise DataError(
            f"expected train rows of at most {bound} tokens with a word to mask; of {len(keep)}, {long} are longer and the "
            "others have none",
            where="masked_lm",
            fix="raise `max_length` for the longer ones; for the others protect fewer words, or use a model whose tokenizer "
            "knows the texts' script",
        )
    if not all(keep):
        ctx.log.warning(
            "masked_lm: %d of %d train rows have no word to mask, or are too long", keep.count(False), len(keep)
        )
    return rows.filter(pa.array(keep)), [row for row, kept in zip(taken, keep, strict=True) if kept]


def draw_examples(labels: list[str], rows: list[Row], masking: WordMasking, rng: np.random.Generator) -> list[Example]:
    """Every row with words masked at random, as they will be when it is a parent, and what stood there."""
    numbers = rng.random((len(rows), masking.numbers)).tolist()
    out = []
    for label, row, own in zip(labels, rows, numbers, strict=True):
        job = masking.job(label, row, masking.draw(row, own))
        said = dict(zip(job.places, job.was, strict=True))
        out.append((job.row, [said.get(at, IGNORED) for at in range(len(job.row))]))
    return out
