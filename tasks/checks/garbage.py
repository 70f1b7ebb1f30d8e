"""Refuses rows whose characters are unlike those of train: noise, wrong script, mojibake, loops of a stuck model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.checks.base import (
    CHECK_FILE,
    abstention,
    fold_numbers,
    require,
    text_fields,
    verdicts,
    write_check,
    write_json,
)
from augmill.tasks.contracts import ANY, Check, Context, FitInputs, Fitted
from augmill.tasks.rows.kinds.text import canonical, prepared
from augmill.tasks.rows.segments import Lookup, ranges, sort_rows
from augmill.tasks.rows.shown import clusters, has_clusters

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MODEL = "characters.json"
FOLDS = 5
_BLOCK = 1 << 13  # rows measured at once: 15 MB of codes at 50 characters a row
_START = "\n"  # before each text; no canonical text holds it
_APART, _FIELD = "\x1e", "\x1f"  # texts that are case folded as one; the fields of one text
_PRIOR = 8  # characters of average surprise added to each text, so that short ones are not judged by two letters

# Statistic -> (reason, least upper bound). The floors keep a small or very clean train set from refusing what any
# reader would let pass: "!!!" is a run of 3, "5.30?" is 40 % symbols.
STATISTICS = {
    "surprise": ("improbable_characters", 4.0),  # bits per character
    "unseen": ("unseen_characters", 0.1),
    "run": ("repeated_character", 6.0),
    "repeated": ("repetition", 0.3),
    "symbols": ("symbols", 0.4),
}


@dataclass(frozen=True)
class GarbageOptions:
    """Upper bounds: the train rows' quantile, plus ``slack`` times its distance from their median."""

    quantile: float = field(
        default=0.005, metadata={"help": "share of train rows above a bound before the slack is added"}
    )
    slack: float = field(default=0.5, metadata={"help": "slack, in distances between the median and the quantile"})
    max_real_refused: float = field(
        default=0.1, metadata={"help": "abstain if more than this share of real rows would be refused"}
    )
    max_rows: int = field(
        default=20_000, metadata={"help": "maximum number of train rows the statistics are learnt from"}
    )

    def __post_init__(self) -> None:
        require("quantile", self.quantile, 0, 0.2)
        require("slack", self.slack, 0, 100)
        require("max_real_refused", self.max_real_refused, 0, 1)
        require("max_rows", self.max_rows, 10, 10**9)


@dataclass(frozen=True)
class CharacterModel:
    """Counts of character pairs (first << 21 | second, ascending) and of second characters (ascending)."""

    pairs: Ints
    pair_counts: Ints
    characters: Ints
    counts: Ints

    @classmethod
    def of(cls, texts: Sequence[str]) -> CharacterModel:
        return cls.count(*np.unique(_Codes.of(texts).pairs, return_counts=True))

    @classmethod
    def count(cls, pairs: Ints, counts: Ints) -> CharacterModel:
        characters, inverse = np.unique(pairs & 0x1FFFFF, return_inverse=True)
        totals = np.bincount(inverse, weights=counts, minlength=len(characters)).astype(np.int64)
        return cls(pairs, counts, characters, totals)

    def bits(self, pairs: Ints) -> Floats:
        """Surprise of each pair's second character: a bigram model that leans on the unigram model by 2 counts."""
        tables = self._tables
        first, second = tables.firsts.find(pairs >> 21), tables.characters.find(pairs & 0x1FFFFF)
        together = tables.together[tables.pairs.find(pairs)] + 2 * tables.alone[second]
        result: Floats = -np.log2(together / (tables.totals[first] + 2))
        return result

    @cached_property
    def _tables(self) -> _Tables:
        firsts, inverse = np.unique(self.pairs >> 21, return_inverse=True)
        counts = _and_none(self.counts)
        return _Tables(
            pairs=Lookup(self.pairs),
            together=_and_none(self.pair_counts),
            firsts=Lookup(firsts),
            totals=_and_none(np.bincount(inverse, weights=self.pair_counts, minlength=len(firsts))),
            characters=Lookup(self.characters),
            alone=(counts + 0.1) / (self.counts.sum() + 0.1 * len(self.counts) + 1),
        )

    def knows(self, characters: Ints) -> npt.NDArray[np.bool_]:
        return self._tables.characters.find(characters) >= 0


@dataclass(frozen=True)
class _Tables:
    """What is known of pairs, of their first and of their second characters; the last place, -1, is of all others."""

    pairs: Lookup
    together: Floats
    firsts: Lookup
    totals: Floats
    characters: Lookup
    alone: Floats


def _and_none(counts: npt.NDArray[Any]) -> Floats:
    return np.append(counts, 0).astype(np.float64)


@dataclass(frozen=True)
class _Codes:
    """Texts as code points, end to end, and the one before each, which is ``_START`` where a text begins.

    ``lengths``: of each text; ``distinct``: the code points, ascending; ``ranks``: the place of each among them.
    """

    first: Ints
    second: Ints
    lengths: Ints
    distinct: Ints
    ranks: Ints

    @classmethod
    def of(cls, texts: Sequence[str]) -> _Codes:
        whole = _START + _START.join(texts)
        codes = np.frombuffer(whole.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)
        inside = np.flatnonzero(codes != ord(_START))
        second = codes[inside]
        ranks = np.zeros(int(codes.max()) + 1, np.int64)
        ranks[second] = 1
        distinct = np.flatnonzero(ranks)
        ranks[distinct] = np.arange(len(distinct))
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        return cls(codes[inside - 1], second, lengths, distinct, ranks[second])

    @property
    def starts(self) -> Ints:
        starts: Ints = np.cumsum(self.lengths) - self.lengths
        return starts

    @property
    def pairs(self) -> Ints:
        return (self.first << 21) | self.second


def clean(texts: Sequence[str]) -> list[str]:
    """What is measured: canonical, case folded; an empty text becomes one unknown character, so that it has a value.

    ``texts``: canonical already, fields apart.
    """
    whole = _APART.join([canonical(text) if _FIELD in text else text for text in texts])  # no canonical text holds it
    return [text or "\ufffd" for text in whole.casefold().split(_APART)] if texts else []


def measure(texts: Sequence[str], model: CharacterModel, mean_bits: float) -> dict[str, Floats]:
    """The statistics of each clean text."""
    parts = [_measure(texts[start : start + _BLOCK], model, mean_bits) for start in range(0, len(texts), _BLOCK)]
    return {name: np.concatenate([np.empty(0), *(part[name] for part in parts)]) for name in STATISTICS}


def _as_read(texts: Sequence[str]) -> tuple[list[str], dict[int, str]]:
    """The texts with each character that is several code points as one of a private plane; and those by their number."""
    names: dict[str, str] = {}
    out = list(texts)
    for at, text in enumerate(texts):
        if not text.isascii() and has_clusters(text):
            found = clusters(text)
            for part in found:
                if len(part) > 1:
                    names.setdefault(part, chr(0xF0000 + len(names) % 0xFFFE))
            out[at] = "".join(names.get(part, part) for part in found)
    return out, {ord(name): part for part, name in names.items()}


def _measure(texts: Sequence[str], model: CharacterModel, mean_bits: float) -> dict[str, Floats]:
    """Surprise and what is unseen by code points, so that a heap of accents is noise; the others as a reader counts."""
    codes = _Codes.of(texts)
    unseen = ~model.knows(codes.distinct)
    bits = np.add.reduceat(model.bits(codes.pairs), codes.starts)
    counted = {
        "surprise": (bits + _PRIOR * mean_bits) / (codes.lengths + _PRIOR),
        "unseen": np.add.reduceat(unseen[codes.ranks], codes.starts, dtype=np.float64) / codes.lengths,
    }
    texts, names = _as_read(texts)
    codes = _Codes.of(texts) if names else codes
    first = [names.get(code, chr(code))[0] for code in codes.distinct.tolist()]
    symbol = np.array([not (character.isalnum() or character == " ") for character in first])
    place = np.arange(len(codes.second))
    run = place - np.maximum.accumulate(np.where(codes.second == codes.first, 0, place)) + 1
    run[codes.second == ord(" ")] = 1
    return counted | {
        "run": np.maximum.reduceat(run, codes.starts).astype(np.float64),
        "repeated": _repeated(texts, codes),
        "symbols": np.add.reduceat(symbol[codes.ranks], codes.starts, dtype=np.float64) / codes.lengths,
    }


def _repeated(texts: Sequence[str], codes: _Codes) -> Floats:
    """The share of a text's 4-grams that stand in it before; 0 of short ones: "bye bye" is no loop."""
    long = codes.lengths >= 12
    sizes, bits = codes.lengths[long] - 3, len(codes.distinct).bit_length()
    if 4 * bits < 64:
        at = ranges(codes.starts[long], sizes)
        keys = np.zeros(len(at), np.int64)
        for ahead in range(4):
            keys = (keys << bits) | codes.ranks[at + ahead]
        keys = sort_rows(keys, sizes)
        new = np.ones(len(keys), np.bool_)
        new[1:] = keys[1:] != keys[:-1]
        new[np.cumsum(sizes) - sizes] = True
        distinct = np.add.reduceat(new, np.cumsum(sizes) - sizes, dtype=np.int64) if len(sizes) else sizes
    else:  # more characters in a block than there are ideographs
        chosen = [text for text, is_long in zip(texts, long.tolist(), strict=True) if is_long]
        distinct = np.array([len({text[i : i + 4] for i in range(len(text) - 3)}) for text in chosen], np.int64)
    result = np.zeros(len(texts))
    result[long] = 1 - distinct / sizes
    return result


def learn(values: dict[str, Floats], options: GarbageOptions) -> dict[str, float]:
    """The upper bound of each statistic."""
    bounds = {}
    for name, (_, least) in STATISTICS.items():
        high = float(np.quantile(values[name], 1 - options.quantile, method="higher"))
        bounds[name] = round(max(least, high + options.slack * (high - float(np.median(values[name])))), 6)
    return bounds


def cross_fitted(texts: Sequence[str], folds: Ints, mean_bits: float) -> dict[str, Floats]:
    """Each text measured with a model of the other folds' texts."""
    values = {name: np.zeros(len(texts)) for name in STATISTICS}
    for fold in np.unique(folds):
        inside, outside = np.flatnonzero(folds == fold).tolist(), np.flatnonzero(folds != fold).tolist()
        model = CharacterModel.of([texts[at] for at in (outside if len(outside) else inside)])
        for name, part in measure([texts[at] for at in inside], model, mean_bits).items():
            values[name][inside] = part
    return values


class Garbage(Check):
    """Reasons: ``improbable_characters``, ``unseen_characters``, ``repeated_character``, ``repetition``, ``symbols``.

    Score: the largest statistic relative to its bound; above 1 the row is refused.
    """

    VERSION: ClassVar[int] = 3
    Options: ClassVar[type[GarbageOptions]] = GarbageOptions
    problems: ClassVar[tuple[str, ...]] = (ANY,)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        train = _sample(inputs.train, self.options.max_rows)
        texts, folds = _clean_texts(train, ctx), fold_numbers(train, ctx.fields, FOLDS)
        model = CharacterModel.of(texts)
        mean_bits = round(float(model.bits(_Codes.of(texts).pairs).mean()), 6)
        values = cross_fitted(texts, folds, mean_bits)
        refused = np.zeros(len(texts), dtype=bool)
        for fold in np.unique(folds):
            rest = folds != fold if (folds != fold).any() else folds == fold
            bounds = learn({name: value[rest] for name, value in values.items()}, self.options)
            for name, bound in bounds.items():
                refused |= (folds == fold) & (values[name] > bound)
        abstains, why = abstention(float(refused.mean()), self.options.max_real_refused)
        pairs = {
            chr(pair >> 21) + chr(pair & 0x1FFFFF): count
            for pair, count in zip(model.pairs.tolist(), model.pair_counts.tolist(), strict=True)
        }
        files = write_check(
            ctx,
            abstains=abstains,
            real_refused=float(refused.mean()),
            why=why,
            bounds=learn(values, self.options),
            mean_bits=mean_bits,
        )
        return files | {MODEL: write_json(ctx, MODEL, pairs)}

    def judge(self, fitted: Fitted, candidates: pa.Table, ctx: Context) -> pa.Table:
        learnt = fitted.read_json(CHECK_FILE)
        model = fitted.get("model", lambda: _load(fitted.read_json(MODEL)))
        values = measure(_clean_texts(candidates, ctx), model, learnt["mean_bits"])
        ratios = np.stack([values[name] / learnt["bounds"][name] for name in STATISTICS], axis=1)
        names = [reason for reason, _ in STATISTICS.values()]
        worst = ratios.max(axis=1, initial=0.0)
        passes = (worst <= 1) | learnt["abstains"]
        which = ratios.argmax(axis=1)
        return verdicts([None if ok else names[at] for ok, at in zip(passes, which, strict=True)], worst)


def _clean_texts(rows: pa.Table, ctx: Context) -> list[str]:
    return clean(prepared(rows.select(text_fields(ctx.fields))).id)


def _sample(train: pa.Table, most: int) -> pa.Table:
    """Every k-th row by row_id, so that at most ``most`` are left; the order of the rows does not count."""
    order = pc.sort_indices(train["row_id"])
    return train.take(order.take(pa.array(range(0, len(order), max(1, -(-len(order) // most))), pa.int64())))


def _load(pairs: dict[str, int]) -> CharacterModel:
    keys = np.array([ord(pair[0]) << 21 | ord(pair[1]) for pair in pairs], np.int64)
    order = np.argsort(keys)
    return CharacterModel.count(keys[order], np.fromiter(pairs.values(), np.int64, len(pairs))[order])
