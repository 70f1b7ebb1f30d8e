"""Small edits of real rows: EDA and AEDA.

EDA (Wei and Zou, "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks",
EMNLP 2019): synonym replacement, random insertion of a synonym, random swap, random deletion; one kind of edit a row.
AEDA (Karimi et al., "AEDA: An Easier Data Augmentation Technique for Text Classification", EMNLP Findings 2021):
random punctuation marks. Synonyms come from a thesaurus the user names: that is the only new knowledge in here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import STRATUM, Context, FitInputs, Fitted, Generator, Request
from augmill.tasks.generators._edits import (
    Operation,
    Sentence,
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
    sort_parents,
    write_parents,
)
from augmill.tasks.rows.kinds import candidate_schema
from augmill.tasks.rows.randomness import uniforms

CHUNK = 8192  # rows edited at a time
PREPARED = 1 << 14  # rows kept taken apart per process; about 5 kB each at 12 words


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


class _Editable:
    """The rows that can be edited, as ``fit`` wrote them; taken apart when first drawn. A row is a sentence a field."""

    def __init__(self, fitted: Fitted, options: RulesOptions, fields: tuple[str, ...]) -> None:
        self.parents = Parents(fitted)
        self.known = set(fitted.read_json("summary.json")["rows"])
        thesaurus = index_thesaurus(fitted.read_json("thesaurus.json"))
        columns = [self.parents.table[name].combine_chunks() for name in fields]

        def take_apart(row: int) -> tuple[Sentence, ...]:
            texts = [column[row].as_py() if row >= 0 else None for column in columns]
            return tuple(prepare(text, thesaurus, options.operations, options.strength) for text in texts)

        self.sentences = lru_cache(maxsize=PREPARED)(take_apart)  # of no row, -1: empty ones


class Rules(Generator):
    """Edits real rows of the asked class; the row's seed draws the parent from the rows that can be edited."""

    VERSION = 2
    Options = RulesOptions
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = False
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    normalisation: ClassVar[str] = "fold"  # AEDA's rows are copies once punctuation is folded away

    def preflight(self, fields: tuple[str, ...]) -> None:
        """Looks whether the text column that is to be changed is there."""
        changed_fields(self.options.change, fields, "rules")

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes ``parents.arrow`` (the train rows that can be edited), ``thesaurus.json`` and ``summary.json``."""
        options: RulesOptions = self.options
        groups = read_thesaurus(Path(options.thesaurus)) if options.thesaurus else []
        thesaurus = index_thesaurus(groups)
        train = sort_parents(inputs.train, ctx.fields)
        tell_scripts((train[name].to_pylist() for name in ctx.fields), "rules", ctx.log)
        editable = np.zeros(train.num_rows, dtype=bool)
        for name in (ctx.fields[at] for at in changed_fields(options.change, ctx.fields, "rules")):
            for row, text in enumerate(train[name].to_pylist()):
                if not editable[row]:
                    editable[row] = bool(prepare(text, thesaurus, options.operations, options.strength).operations)
        parents = train.filter(pa.array(editable))
        write_parents(parents, ctx)
        summary = {"rows": count_classes(train), "editable": count_classes(parents), "synonym_groups": len(groups)}
        for name, value in (("thesaurus.json", groups), ("summary.json", summary)):
            text = json.dumps(value, sort_keys=True, ensure_ascii=False)
            (ctx.workdir / name).write_text(text, encoding="utf-8")
        return {name: ctx.workdir / name for name in (PARENTS, "summary.json", "thesaurus.json")}

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """Rows that cannot be made: ``no_parent`` (no train row of the class), ``unchanged`` (no edit applies)."""
        options: RulesOptions = self.options
        editable = fitted.get("rules", lambda: _Editable(fitted, options, ctx.fields))
        pieces = [candidate_schema(ctx.fields).empty_table()]
        for start in range(0, len(request), CHUNK):
            part = slice(start, start + CHUNK)
            ctx.tell(start, len(request), "rows")
            chunk = Request(request.strata[part], request.ordinals[part], request.seeds[part])
            numbers = uniforms(chunk.seeds, 2)
            rows = editable.parents.draw(chunk, numbers[:, 0])
            sentences = list(zip(*map(editable.sentences, rows.tolist()), strict=True))
            texts, changed = _edit_rows(sentences, chunk.seeds, numbers[:, 1], options, ctx.fields)
            pieces.append(_to_table(editable, chunk, np.where(changed, rows, -1), texts, ctx.fields))
        return pa.concat_tables(pieces).combine_chunks()


def _edit_rows(
    sentences: list[tuple[Sentence, ...]],
    seeds: npt.NDArray[np.int64],
    which: npt.NDArray[np.float64],
    options: RulesOptions,
    fields: tuple[str, ...],
) -> tuple[list[list[str]], npt.NDArray[np.bool_]]:
    """(the edited texts by field, which rows have one that differs from before). ``sentences``: by field.

    ``which``: a number in [0, 1) a row; it draws the field where one alone is edited.
    """
    editable = changed_fields(options.change, fields, "rules")
    can = np.array([[len(sentence.operations) > 0 for sentence in sentences[name]] for name in editable], np.bool_)
    if options.change == "one":
        can &= np.cumsum(can, axis=0) - 1 == (which * can.sum(axis=0)).astype(np.int64)
    texts = [[sentence.text for sentence in column] for column in sentences]
    changed = np.zeros(len(seeds), np.bool_)
    for name, rows in zip(editable, can, strict=True):
        column, made, at = sentences[name], texts[name], np.flatnonzero(rows)
        # Rows by the power of two of the numbers they take: one long text must not make all others dear.
        takes = np.array([1 << (column[row].draws - 1).bit_length() for row in at.tolist()], np.int64)
        for draws in np.unique(takes).tolist():
            own = at[takes == draws]
            for row, numbers in zip(own.tolist(), uniforms(seeds[own], draws, stream=1 + name).tolist(), strict=True):
                text = edit(column[row], numbers)
                if text != made[row]:  # else a swap of equal words, or one that was swapped back
                    made[row], changed[row] = text, True
    return texts, changed


def _to_table(
    editable: _Editable,
    request: Request,
    rows: npt.NDArray[np.int64],
    texts: list[list[str]],
    fields: tuple[str, ...],
) -> pa.Table:
    """``rows``: each row's parent; -1 where none was made."""
    lost, strata = rows < 0, pa.array(request.strata, pa.string())
    reasons: list[str | None] = [None] * len(rows)
    for at in np.flatnonzero(lost).tolist():
        reasons[at] = "unchanged" if request.strata[at] in editable.known else "no_parent"
    columns = {
        "ordinal": request.ordinals,
        "asked": strata,
        STRATUM: strata,
        **{name: pa.array(column, pa.string(), mask=lost) for name, column in zip(fields, texts, strict=True)},
        "parent_ids": editable.parents.only_parents(rows),
        "seed": request.seeds,
        "reason": pa.array(reasons, pa.string()),
    }
    return pa.table(columns, schema=candidate_schema(fields))
