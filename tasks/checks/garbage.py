"""Refuses rows whose characters are unlike those of train: noise, wrong script, mojibake, loops of a stuck model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.checks.base import (
    CHECK_FILE,
    abstention,
    fold_numbers,
    joined_texts,
    require,
    verdicts,
    write_check,
    write_json,
)
from augmill.tasks.contracts import ANY, Check, Context, FitInputs, Fitted
from augmill.tasks.rows.kinds.text import canonical
from augmill.tasks.rows.shown import clusters, has_clusters

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MODEL = "characters.json"
FOLDS = 5
_BLOCK = 1 << 13  # rows measured at once: 15 MB of codes at 50 characters a row
_START = "\n"  # before each text; no canonical text holds it
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
        pairs, _ = _pairs(texts)
        return cls.count(*np.unique(pairs, return_counts=True))

    @classmethod
    def count(cls, pairs: Ints, counts: Ints) -> CharacterModel:
        characters, inverse = np.unique(pairs & 0x1FFFFF, return_inverse=True)
        totals = np.bincount(inverse, weights=counts, minlength=len(characters)).astype(np.int64)
        return cls(pairs, counts, characters, totals)

    def bits(self, pairs: Ints) -> Floats:
        """Surprise of each pair's second character: a bigram model that leans on the unigram model by 2 counts."""
        first, second = pairs >> 21, pairs & 0x1FFFFF
        alone = (_look_up(second, self.characters, self.counts) + 0.1) / (
            self.counts.sum() + 0.1 * len(self.counts) + 1
        )
        totals = np.bincount(
            np.searchsorted(self._firsts, self.pairs >> 21), weights=self.pair_counts, minlength=len(self._firsts)
        )
        together = _look_up(pairs, self.pairs, self.pair_counts) + 2 * alone
        result: Floats = -np.log2(together / (_look_up(first, self._firsts, totals) + 2))
        return result

    @property
    def _firsts(self) -> Ints:
        return np.unique(self.pairs >> 21)


def _look_up(values: Ints, known: Ints, counts: npt.NDArray[Any]) -> Floats:
    """The count of each value, 0 where it is not known."""
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[at] == values, counts[at], 0).astype(np.float64)


def _pairs(texts: Sequence[str]) -> tuple[Ints, Ints]:
    """Neighbouring characters of all texts, each text led by ``_START``, and the number of pairs of each."""
    marked = [_START + text for text in texts] + [_START]
    codes = np.frombuffer("".join(marked).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)
    pairs = (codes[:-1] << 21) | codes[1:]
    return pairs[codes[1:] != ord(_START)], np.fromiter((len(text) for text in texts), np.int64, len(texts))


def clean(texts: Sequence[str]) -> list[str]:
    """What is measured: canonical, case folded; an empty text becomes one unknown character, so that it has a value."""
    return [canonical(text).casefold() or "\ufffd" for text in texts]


def measure(texts: Sequence[str], model: CharacterModel, mean_bits: float) -> dict[str, Floats]:
    """The statistics of each clean text."""
    parts = [_measure(texts[start : start + _BLOCK], model, mean_bits) for start in range(0, len(texts), _BLOCK)]
    return {name: np.concatenate([np.empty(0), *(part[name] for part in parts)]) for name in STATISTICS}


def _as_read(texts: Sequence[str]) -> tuple[list[str], dict[int, str]]:
    """The texts with each character that is several code points as one of a private plane; and those by their number."""
    names: dict[str, str] = {}
    out = list(texts)
    for at, text in enumerate(texts):
        if has_clusters(text):
            found = clusters(text)
            names |= {part: chr(0xF0000 + len(names) % 0xFFFE) for part in found if len(part) > 1 and part not in names}
            out[at] = "".join(names.get(part, part) for part in found)
    return out, {ord(name): part for part, name in names.items()}


def _measure(texts: Sequence[str], model: CharacterModel, mean_bits: float) -> dict[str, Floats]:
    """Surprise and what is unseen by code points, so that a heap of accents is noise; the others as a reader counts."""
    pairs, lengths = _pairs(texts)
    starts = np.cumsum(lengths) - lengths
    distinct, inverse = np.unique(pairs & 0x1FFFFF, return_inverse=True)
    unseen = _look_up(distinct, model.characters, model.counts) == 0
    counted = {
        "surprise": (np.add.reduceat(model.bits(pairs), starts) + _PRIOR * mean_bits) / (lengths + _PRIOR),
        "unseen": np.add.reduceat(unseen[inverse], starts, dtype=np.float64) / lengths,
    }
    texts, names = _as_read(texts)
    if names:
        pairs, lengths = _pairs(texts)
        starts = np.cumsum(lengths) - lengths
        distinct, inverse = np.unique(pairs & 0x1FFFFF, return_inverse=True)
    first = [names.get(code, chr(code))[0] for code in distinct.tolist()]
    symbol = np.array([not (character.isalnum() or character == " ") for character in first])
    second = pairs & 0x1FFFFF
    same = second == pairs >> 21
    place = np.arange(len(second))
    run = place - np.maximum.accumulate(np.where(same, 0, place)) + 1
    run[distinct[inverse] == ord(" ")] = 1
    grams = np.array([1 - len({t[i : i + 4] for i in range(len(t) - 3)}) / max(1, len(t) - 3) for t in texts])
    return counted | {
        "run": np.maximum.reduceat(run, starts).astype(np.float64),
        "repeated": np.where(lengths >= 12, grams, 0.0),  # "bye bye" is no loop
        "symbols": np.add.reduceat(symbol[inverse], starts, dtype=np.float64) / lengths,
    }


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

    VERSION: ClassVar[int] = 2
    Options: ClassVar[type[GarbageOptions]] = GarbageOptions
    problems: ClassVar[tuple[str, ...]] = (ANY,)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        train = _sample(inputs.train, self.options.max_rows)
        texts, folds = clean(joined_texts(train, ctx.fields)), fold_numbers(train, ctx.fields, FOLDS)
        model = CharacterModel.of(texts)
        mean_bits = round(float(model.bits(_pairs(texts)[0]).mean()), 6)
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
        values = measure(clean(joined_texts(candidates, ctx.fields)), model, learnt["mean_bits"])
        ratios = np.stack([values[name] / learnt["bounds"][name] for name in STATISTICS], axis=1)
        names = [reason for reason, _ in STATISTICS.values()]
        worst = ratios.max(axis=1, initial=0.0)
        passes = (worst <= 1) | learnt["abstains"]
        which = ratios.argmax(axis=1)
        return verdicts([None if ok else names[at] for ok, at in zip(passes, which, strict=True)], worst)


def _sample(train: pa.Table, most: int) -> pa.Table:
    """Every k-th row by row_id, so that at most ``most`` are left; the order of the rows does not count."""
    train = train.sort_by("row_id")
    step = -(-train.num_rows // most)
    return train.take(pa.array(range(0, train.num_rows, step), pa.int64())) if step > 1 else train


def _load(pairs: dict[str, int]) -> CharacterModel:
    keys = np.array([ord(pair[0]) << 21 | ord(pair[1]) for pair in pairs], np.int64)
    order = np.argsort(keys)
    return CharacterModel.count(keys[order], np.fromiter(pairs.values(), np.int64, len(pairs))[order])
