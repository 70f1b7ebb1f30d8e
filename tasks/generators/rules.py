"""Small edits of real rows: EDA and AEDA.

EDA (Wei and Zou, "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks",
EMNLP 2019): synonym replacement, random insertion of a synonym, random swap, random deletion; one kind of edit a row.
AEDA (Karimi et al., "AEDA: An Easier Data Augmentation Technique for Text Classification", EMNLP Findings 2021):
random punctuation marks. Synonyms come from a thesaurus the user names: that is the only new knowledge in here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import STRATUM, Context, FitInputs, Fitted, Generator, Request
from augmill.tasks.generators._edits import (
    Operation,
    Sentence,
    Thesaurus,
    edit,
    index_thesaurus,
    prepare,
    read_thesaurus,
    tell_scripts,
)
from augmill.tasks.generators._parents import (
    PARENTS,
    Parents,
    changed_fields,
    count_classes,
    keep_dialogues,
    keep_targets,
    sort_parents,
    spoken,
    with_dialogues,
    with_targets,
    write_parents,
)
from augmill.tasks.generators._plain import PlainTexts
from augmill.tasks.rows.kinds import candidate_schema
from augmill.tasks.rows.kinds.text import canonical_texts
from augmill.tasks.rows.parts import kept, rest
from augmill.tasks.rows.randomness import uniforms

Ints = npt.NDArray[np.int64]

CHUNK = 4096  # rows edited at a time
PREPARED = 1 << 14  # rows kept taken apart per process; about 5 kB each at 12 words
KEPT = 1 << 22  # bytes of parents' texts up to which all are prepared once per process; 17 are held for each (70 MB)


@dataclass(frozen=True)
class RulesOptions:
    """How rows are edited."""

    thesaurus: str | None = field(
        default=None,
        metadata={
            "file": True,
            "help": "CSV file with one group of interchangeable words or phrases per line (`parcel,package,delivery`); "
            "`#` starts a comment line. `synonym` and `insert` need it.",
        },
    )
    operations: dict[Operation, float] = field(
        default_factory=lambda: {"synonym": 1.0, "insert": 1.0, "swap": 1.0, "delete": 1.0},
        metadata={
            "help": "Weight of each kind of edit; each row gets one kind, drawn from those that its parent allows. "
            "`punctuation` is AEDA; the parent check refuses its rows as copies unless told otherwise."
        },
    )
    strength: float = field(
        default=0.1,
        metadata={"help": "Share of a text's words that is edited, at least one word (EDA's alpha; AEDA has its own)."},
    )
    change: Literal["one", "all", "text", "text_b", "text_c", "text_d"] = field(
        default="one",
        metadata={"help": "Which text columns of a row are edited: one, drawn at random; all; or the named one."},
    )

    def __post_init__(self) -> None:
        weights = self.operations.values()
        if not all(0 <= weight < float("inf") for weight in weights) or not sum(weights) > 0:
            raise ValueError(f"operations: expected weights of zero or more, one above zero; found {self.operations}")
        used = {name for name, weight in self.operations.items() if weight > 0}
        if unknown := sorted(used - set(get_args(Operation))):
            raise ValueError(f"operations: expected some of {list(get_args(Operation))}; found {unknown}")
        if self.thesaurus is None and used <= {"synonym", "insert"}:
            raise ValueError(f"operations: {sorted(used)} need a thesaurus; name one, or add swap or delete")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength: expected a share above 0 and at most 1; found {self.strength}")


class _Editor:
    """How texts are edited: plain ones all at once, any other by itself."""

    def __init__(self, thesaurus: Thesaurus, options: RulesOptions) -> None:
        self.thesaurus, self.weights, self.strength = thesaurus, options.operations, options.strength
        self.take_apart = lru_cache(maxsize=PREPARED)(self._take_apart)

    def _take_apart(self, text: str) -> Sentence:
        return prepare(text, self.thesaurus, self.weights, self.strength)

    def plain(self, texts: list[str]) -> PlainTexts:
        only = not self.thesaurus.choices and not self.weights.get("punctuation", 0)  # no edits but those that it has
        return PlainTexts(texts, self.weights, self.strength, wanted=only)


class _Texts:
    """Texts of one column. ``array``: in their canonical form. What of them is not plain is taken apart when it is needed."""

    def __init__(self, texts: Sequence[str | None], editor: _Editor) -> None:
        self._texts = canonical_texts([text or "" for text in texts])
        self.array = pa.array(self._texts, pa.string())
        self._take_apart = editor.take_apart
        self._plain = editor.plain(self._texts)
        # Of texts that are not plain: the numbers that an edit takes, 0 where none changes it; not known yet below.
        self._draws = np.where(self._plain.plain, self._plain.can, -1)

    def can_edit(self, which: Ints) -> npt.NDArray[np.bool_]:
        """Which of these texts any edit changes."""
        for at in np.unique(which[self._draws[which] < 0]).tolist():
            sentence = self._take_apart(self._texts[at])
            self._draws[at] = sentence.draws if sentence.operations else 0
        found: npt.NDArray[np.bool_] = self._draws[which] > 0
        return found

    def edit(self, which: Ints, seeds: Ints, stream: int) -> pa.Array:
        """An edited copy of each of these texts, which edits can change (``can_edit`` was asked)."""
        plain = self._plain.plain[which]
        made, order = [pa.array([], pa.string())], [np.empty(0, np.int64)]
        # By the power of two of the numbers they take: one long text must not make all others dear.
        for count, own in _by_size(np.flatnonzero(plain), self._plain.edits[which[plain]]):
            made.append(self._plain.edit(which[own], uniforms(seeds[own], 1 + 2 * count, stream=stream)))
            order.append(own)
        rest = np.flatnonzero(~plain)
        for count, own in _by_size(rest, self._draws[which[rest]]):
            draws = uniforms(seeds[own], count, stream=stream).tolist()
            sentences = map(self._take_apart, [self._texts[at] for at in which[own].tolist()])
            order.append(own)
            made.append(pa.array(list(map(edit, sentences, draws)), pa.string()))
        return pa.concat_arrays(made).take(pa.array(np.argsort(np.concatenate(order))))


def _by_size(rows: Ints, sizes: Ints) -> Iterator[tuple[int, Ints]]:
    """(the most that some may be, those rows), by the power of two of their sizes."""
    powers = np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64)
    for power in np.unique(powers).tolist():
        yield 1 << power, rows[powers == power]


class _Editable:
    """The rows that can be edited, as ``fit`` wrote them."""

    def __init__(self, fitted: Fitted, options: RulesOptions, fields: tuple[str, ...]) -> None:
        self.parents = Parents(fitted)
        self.known = set(fitted.read_json("summary.json")["rows"])
        self._editor = _Editor(index_thesaurus(fitted.read_json("thesaurus.json")), options)
        self._columns = [self.parents.table[name].combine_chunks() for name in fields]
        self._all: list[_Texts] = []
        if sum(column.nbytes for column in self._columns) <= KEPT:  # with an empty text behind them, of no parent
            self._all = [_Texts([*column.to_pylist(), ""], self._editor) for column in self._columns]

    def texts_of(self, rows: Ints) -> tuple[list[_Texts], Ints]:
        """(texts by field, the place of each row's among them); empty ones of no row, -1."""
        if self._all:
            return self._all, np.where(rows < 0, self.parents.table.num_rows, rows)
        distinct, own = np.unique(rows, return_inverse=True)
        at = pa.array(distinct, mask=distinct < 0)
        return [_Texts(column.take(at).to_pylist(), self._editor) for column in self._columns], own


class Rules(Generator):
    """Edits real rows of the asked class; the row's seed draws the parent from the rows that can be edited.

    Inputs alone are edited: a text that is to be learnt stays its parent's. Of a dialogue what its user says last is edited.
    """

    VERSION = 2
    Options = RulesOptions
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = False
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    kinds: ClassVar[tuple[str, ...]] = ("text", "dialogue")
    problems: ClassVar[tuple[str, ...]] = ("classification", "text_to_text")
    normalisation: ClassVar[str] = "fold"  # AEDA's rows are copies once punctuation is folded away

    def preflight(self, fields: tuple[str, ...]) -> None:
        """Looks whether the text column that is to be changed is there."""
        changed_fields(self.options.change, fields, "rules")

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes ``parents.arrow`` (the train rows that can be edited), ``thesaurus.json`` and ``summary.json``."""
        options: RulesOptions = self.options
        beside = keep_targets(inputs.train, ctx) | keep_dialogues(inputs.train, ctx)
        rows, ctx = spoken(inputs.train, ctx)
        groups = read_thesaurus(Path(options.thesaurus)) if options.thesaurus else []
        thesaurus = index_thesaurus(groups)
        train = sort_parents(rows, ctx.fields)
        starts = range(0, train.num_rows, CHUNK)
        texts = (train[name].slice(start, CHUNK).to_pylist() for name in ctx.fields for start in starts)
        tell_scripts(texts, "rules", ctx.log)
        editable, editor = np.zeros(train.num_rows, dtype=bool), _Editor(thesaurus, options)
        for name in (ctx.fields[at] for at in changed_fields(options.change, ctx.fields, "rules")):
            for start in starts:
                part = train[name].slice(start, CHUNK).to_pylist()
                editable[start : start + CHUNK] |= _Texts(part, editor).can_edit(np.arange(len(part)))
                rest()
        parents = kept(train, np.flatnonzero(editable))
        write_parents(parents, ctx)
        summary = {"rows": count_classes(train), "editable": count_classes(parents), "synonym_groups": len(groups)}
        for name, value in (("thesaurus.json", groups), ("summary.json", summary)):
            text = json.dumps(value, sort_keys=True, ensure_ascii=False)
            (ctx.workdir / name).write_text(text, encoding="utf-8")
        files = {name: ctx.workdir / name for name in (PARENTS, "summary.json", "thesaurus.json")}
        return files | beside

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """Rows that cannot be made: ``no_parent`` (no train row of the class), ``unchanged`` (no edit applies)."""
        options, whole = self.options, ctx
        _, ctx = spoken(candidate_schema(ctx.fields).empty_table(), ctx)
        editable = fitted.get("rules", lambda: _Editable(fitted, options, ctx.fields))
        pieces = [candidate_schema(ctx.fields).empty_table()]
        for start in range(0, len(request), CHUNK):
            part = slice(start, start + CHUNK)
            ctx.tell(start, len(request), "rows")
            chunk = Request(request.strata[part], request.ordinals[part], request.seeds[part])
            numbers = uniforms(chunk.seeds, 2)
            rows = editable.parents.draw(chunk, numbers[:, 0])
            texts, changed = _edit_rows(*editable.texts_of(rows), chunk.seeds, numbers[:, 1], options, ctx.fields)
            pieces.append(_to_table(editable, chunk, np.where(changed, rows, -1), texts, ctx.fields))
        return with_dialogues(with_targets(pa.concat_tables(pieces).combine_chunks(), fitted, ctx), fitted, whole)


def _edit_rows(
    texts: list[_Texts],
    own: Ints,
    seeds: Ints,
    which: npt.NDArray[np.float64],
    options: RulesOptions,
    fields: tuple[str, ...],
) -> tuple[list[pa.Array], npt.NDArray[np.bool_]]:
    """(the edited texts by field, which rows have one that differs from before).

    ``texts``: by field; ``own``: the place of each row's parent among them; ``which``: a number in [0, 1) a row, that
    draws the field where one alone is edited.
    """
    editable = changed_fields(options.change, fields, "rules")
    can = np.array([texts[name].can_edit(own) for name in editable])
    if options.change == "one":
        can &= np.cumsum(can, axis=0) - 1 == (which * can.sum(axis=0)).astype(np.int64)
    columns = [column.array.take(pa.array(own)) for column in texts]
    changed = np.zeros(len(seeds), np.bool_)
    for name, rows in zip(editable, can, strict=True):
        at = np.flatnonzero(rows)
        made = texts[name].edit(own[at], seeds[at], 1 + name)
        # Unchanged: a swap of equal words, or one that was swapped back.
        changed[at] |= pc.not_equal(made, columns[name].take(pa.array(at))).to_numpy(zero_copy_only=False)
        columns[name] = pc.replace_with_mask(columns[name], pa.array(rows), made)
    return columns, changed


def _to_table(
    editable: _Editable,
    request: Request,
    rows: Ints,
    texts: list[pa.Array],
    fields: tuple[str, ...],
) -> pa.Table:
    """``rows``: each row's parent; -1 where none was made."""
    lost, strata = pa.array(rows < 0), pa.array(request.strata, pa.string())
    reasons: list[str | None] = [None] * len(rows)
    for at in np.flatnonzero(rows < 0).tolist():
        reasons[at] = "unchanged" if request.strata[at] in editable.known else "no_parent"
    columns = {
        "ordinal": request.ordinals,
        "asked": strata,
        STRATUM: strata,
        **{name: pc.if_else(lost, None, column) for name, column in zip(fields, texts, strict=True)},
        "parent_ids": editable.parents.only_parents(rows),
        "seed": request.seeds,
        "reason": pa.array(reasons, pa.string()),
    }
    return pa.table(columns, schema=candidate_schema(fields))
