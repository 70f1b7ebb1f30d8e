"""Rows taken apart for a masked language model: which words are masked, what is to be said, the row with other words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import STRATUM, Context, DataError
from augmill.tasks.generators._parents import changed_fields, draw_fields
from augmill.tasks.generators.lm.train_pairs import IGNORED, Example
from augmill.tasks.generators.masked.model import Filler
from augmill.tasks.generators.masked.rows import Job
from augmill.tasks.generators.masked.text import MOST, Protection, Taken, Unit, draw_units, put_words, take_apart

if TYPE_CHECKING:
    from augmill.tasks.generators.masked.generator import MaskedLMOptions

Row = tuple[Taken, ...]


class Masking:
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


def fitting_rows(rows: pa.Table, masking: Masking, ctx: Context) -> tuple[pa.Table, list[Row]]:
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
            fix="raise `max_length` for the longer ones; for the others protect fewer words, or take a model whose tokenizer "
            "knows the texts' script",
        )
    if not all(keep):
        ctx.log.warning(
            "masked_lm: %d of %d train rows have no word to mask, or are too long", keep.count(False), len(keep)
        )
    return rows.filter(pa.array(keep)), [row for row, kept in zip(taken, keep, strict=True) if kept]


def draw_examples(labels: list[str], rows: list[Row], masking: Masking, rng: np.random.Generator) -> list[Example]:
    """Every row with words masked at random, as they will be when it is a parent, and what stood there."""
    numbers = rng.random((len(rows), masking.numbers)).tolist()
    out = []
    for label, row, own in zip(labels, rows, numbers, strict=True):
        job = masking.job(label, row, masking.draw(row, own))
        said = dict(zip(job.places, job.was, strict=True))
        out.append((job.row, [said.get(at, IGNORED) for at in range(len(job.row))]))
    return out
