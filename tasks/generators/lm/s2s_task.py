"""What a sample asks of a sequence-to-sequence model: targets for sources, parents rewritten; and pairs to learn from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import STRATUM, Context, DataError, Request
from augmill.tasks.generators._parents import Parents, changed_fields, draw_fields
from augmill.tasks.generators.lm.decode import Sampling
from augmill.tasks.generators.lm.encoder_decoder import Frame, Outcome, in_parts, require_time, sample, search
from augmill.tasks.generators.lm.train_pairs import Example
from augmill.tasks.rows.kinds.text import canonical
from augmill.tasks.rows.randomness import uniforms

if TYPE_CHECKING:
    from augmill.tasks.generators.lm.rewriting import Rewriter

Ints = npt.NDArray[np.int64]
Made = tuple[str | None, str | None]  # a text, or why there is none


@dataclass(frozen=True)
class Decoding:
    """How a target is found: by sampling where ``beams`` is 0, else by beams."""

    sampling: Sampling
    beams: int
    batch: int
    max_length: int


@dataclass(frozen=True)
class Task:
    """One call of ``sample``: how targets are found, on which device and by when, for whom."""

    decoding: Decoding
    ctx: Context
    who: str

    def targets(
        self,
        model: Any,
        frame: Frame,
        sources: list[list[int]],
        marks: list[tuple[int, ...]],
        seeds: Ints,
        stream: int,
        steps: int,
    ) -> list[Outcome]:
        """A target of at most ``steps`` tokens per source (``marks``: see ``sample``), by its own seed's ``stream``.

        Sampled; or, by beams, a source is searched once and the seed picks one of its beams.
        """
        ask = require_time(self.ctx, self.who)

        def draw(part: list[int]) -> list[Outcome]:
            lines = np.array([sources[at] for at in part], dtype=np.int64)
            noise = uniforms(seeds[part], steps, stream=stream)
            return sample(model, lines, [marks[at] for at in part], noise, frame, self.decoding.sampling, ask)

        if not self.decoding.beams:
            drawn = in_parts(sources, draw, self.decoding.batch, self.ctx, self.who)
            self._count(sum(steps if row is None else len(row) + 1 for row in drawn))
            return drawn
        asked = [(tuple(source), own) for source, own in zip(sources, marks, strict=True)]
        places = {source: at for at, source in enumerate(dict.fromkeys(asked))}
        distinct = list(places)

        def hunt(part: list[int]) -> list[list[list[int]]]:
            lines = np.array([distinct[at][0] for at in part], dtype=np.int64)
            return search(model, lines, [distinct[at][1] for at in part], steps, self.decoding.beams, frame, ask)

        batch = max(1, self.decoding.batch // self.decoding.beams)
        found = in_parts([source for source, _ in distinct], hunt, batch, self.ctx, self.who)
        self._count(sum(len(row) + 1 for beams in found for row in beams))
        picks = uniforms(seeds, 1, stream=stream)[:, 0].tolist()
        chosen = [found[places[source]] for source in asked]
        return [beams[int(pick * len(beams))] if beams else None for beams, pick in zip(chosen, picks, strict=True)]

    def _count(self, tokens: int) -> None:
        self.ctx.usage["tokens"] = self.ctx.usage.get("tokens", 0) + tokens


def check_decoding(options: Any, bounds: dict[str, tuple[float, float]]) -> None:
    """Raises ValueError where a number of the options is out of bounds: those given, and those of the decoding."""
    bounds = bounds | {
        "max_length": (4, 1 << 20), "beams": (0, 64), "temperature": (0.01, 10), "top_k": (1, 1 << 20),
        "top_p": (0.01, 1), "min_p": (0, 1), "repetition_penalty": (1, 10), "decode_batch": (1, 65536),
    }  # fmt: skip
    for name, (low, high) in bounds.items():
        value = getattr(options, name)
        if not low <= value <= high:  # also refuses NaN
            raise ValueError(f"{name}: expected a number from {low} to {high}; found {value}")


def rewrite_parents(
    parents: Parents,
    request: Request,
    change: str,
    rewrite: Callable[[list[str], list[int], int], list[Made]],
    fields: tuple[str, ...],
) -> list[tuple[list[str] | None, str | None]]:
    """(texts, None) or (None, reason) per requested row: its parent, the chosen texts rewritten.

    ``rewrite(texts, places, field)``: a text, or why there is none, for each of ``texts``, asked for the rows at
    ``places``; ``field``: which of the text columns they are of.
    """
    rows, numbers = parents.draw(request).tolist(), uniforms(request.seeds, 2)[:, 1].tolist()
    allowed = changed_fields(change, fields, "change")
    kept: list[list[str] | None] = []
    jobs: defaultdict[int, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        texts = [canonical(parents.table[name][row].as_py() or "") for name in fields] if row >= 0 else None
        kept.append(texts)
        for name in draw_fields(change, allowed, texts, numbers[at]) if texts else []:
            jobs[name].append(at)
    made = [list(texts) if texts else None for texts in kept]
    reasons: list[str | None] = ["no_parent" if texts is None else None for texts in kept]
    for name, ats in jobs.items():
        for at, (text, why) in zip(ats, rewrite([(kept[at] or [])[name] for at in ats], ats, name), strict=True):
            reasons[at] = reasons[at] or why
            if text is not None:
                (made[at] or [""] * len(fields))[name] = text
    for at, texts in enumerate(made):
        reasons[at] = reasons[at] or ("unchanged" if texts == kept[at] else None)
    return [(None if why else texts, why) for texts, why in zip(made, reasons, strict=True)]


class Pairs:
    """What a paraphrase model learns from where it is asked to: a row, said as another row of its class."""

    def __init__(self, rows: pa.Table, rewriter: Rewriter, bound: int, fields: tuple[str, ...], change: str) -> None:
        forced = rewriter.frame.start[1:]
        self.groups: list[list[Example]] = []  # (source, target) of the rows that may stand for each other
        for at in changed_fields(change, fields, "seq2seq"):
            found: dict[str, list[Example]] = {}
            for stratum, text in zip(rows[STRATUM].to_pylist(), rows[fields[at]].to_pylist(), strict=True):
                source, target = rewriter.encode(text or ""), rewriter.encode_target(text or "")
                if (text or "").strip() and max(len(source), len(target) + len(forced) + 1) <= bound:
                    found.setdefault(stratum, []).append((source, target))
            self.groups += [group for group in found.values() if len(group) > 1]
        self.count = sum(map(len, self.groups))
        if not self.count:
            raise DataError(
                f"expected a class with two train rows of at most {bound} tokens, found none",
                where="seq2seq",
                fix="raise `max_length`, or leave `epochs` at 0",
            )

    def draw(self, rng: np.random.Generator) -> list[Example]:
        """Every row once, with another one of its class."""
        out = []
        for group in self.groups:
            steps = rng.integers(1, len(group), len(group)).tolist()
            out += [
                (row[0], group[(at + step) % len(group)][1])
                for at, (row, step) in enumerate(zip(group, steps, strict=True))
            ]
        return out
