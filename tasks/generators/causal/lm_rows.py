"""Rows as a language model's tokens, `[start] <label> text <end>` with a second `text <end>` for a pair, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from augmill.tasks.contracts import ROW_ID, STRATUM, Context, DataError
from augmill.tasks.generators.lm.load import Pretrained
from augmill.tasks.generators.lm.train import SELECT_MIN_ROWS, is_select

if TYPE_CHECKING:
    from augmill.tasks.generators.causal.options import CausalLMOptions

Tokens = list[list[int]]


class Rows:
    """Train rows in the order of their ids, so that the order of the table changes nothing."""

    def __init__(self, train: pa.Table, fields: tuple[str, ...]) -> None:
        table = train.select([ROW_ID, STRATUM, *fields]).sort_by(ROW_ID)
        self.strata: list[str] = table[STRATUM].to_pylist()
        columns = [table[name].to_pylist() for name in fields]
        self.texts = [tuple((text or "").strip() for text in row) for row in zip(*columns, strict=True)]


def encode(
    base: Pretrained, plan: dict[str, Any], rows: Rows, options: CausalLMOptions, ctx: Context
) -> tuple[Tokens, Tokens]:
    """(rows to learn from, select rows) as token ids, those within the length bound.

    Notes in ``plan`` how long a sampled row may be. Raises DataError where no row is within the bound.
    """
    bound = _bound(base, options)
    labels = [plan["labels"][stratum] for stratum in rows.strata]
    tokens = _tokens(base, plan, labels, rows)
    kept = [at for at, row in enumerate(tokens) if len(row) <= bound]
    plan["too_long"] = len(tokens) - len(kept)
    if not kept:
        raise DataError(
            f"expected train rows of at most {bound} tokens, found {len(tokens)} rows, all longer",
            where="causal_lm",
            fix="raise `max_length`, or use a model that takes longer texts",
        )
    if plan["too_long"]:
        ctx.log.warning("causal_lm: %d of %d train rows exceed %d tokens", plan["too_long"], len(tokens), bound)
    plan["max_new_tokens"] = max(len(tokens[at]) for at in kept) - len(plan["start"]) - 1
    select = {at for at in kept if options.patience and _is_select(rows.texts[at])}
    if len(select) < SELECT_MIN_ROWS:
        select = set()
    return [tokens[at] for at in kept if at not in select], [tokens[at] for at in kept if at in select]


def encode_unlabelled(
    base: Pretrained, plan: dict[str, Any], unlabelled: Rows, rows: Rows, options: CausalLMOptions
) -> Tokens:
    """Unlabelled rows within the length bound, behind the token for no label; none that a select row repeats.

    Raises DataError where no row is left.
    """
    select = {texts for texts in rows.texts if options.patience and _is_select(texts)}
    tokens = _tokens(base, plan, [plan["unlabelled"]] * len(unlabelled.texts), unlabelled)
    bound = _bound(base, options)
    kept = [
        row for row, texts in zip(tokens, unlabelled.texts, strict=True) if len(row) <= bound and texts not in select
    ]
    if not kept:
        raise DataError(
            f"expected unlabelled rows of at most {bound} tokens, found {len(tokens)} rows, all longer",
            where="causal_lm: pretrain_on",
            fix="raise `max_length`, or set `pretrain_on: none`",
        )
    return kept


def _tokens(base: Pretrained, plan: dict[str, Any], labels: list[int], rows: Rows) -> Tokens:
    tokens = []
    for label, texts in zip(labels, rows.texts, strict=True):
        row = [*plan["start"], label]
        for text in texts:
            row += [*base.tokenizer.encode(text, add_special_tokens=False).ids, plan["end"]]
        tokens.append(row)
    return tokens


def _bound(base: Pretrained, options: CausalLMOptions) -> int:
    positions: int | None = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    return min(options.max_length, positions or options.max_length)


def _is_select(texts: tuple[str, ...]) -> bool:
    return is_select("\x1f".join(texts))


def read_row(
    tokens: list[int], whole: bool, tokenizer: Any, end: int, fields: int
) -> tuple[list[str] | None, str | None]:
    """(the row's texts, None), or (None, why it cannot be delivered)."""
    if not whole:
        return None, "too_long"
    texts = []
    for _ in range(fields):
        stop = tokens.index(end)
        texts.append(tokenizer.decode(tokens[:stop], skip_special_tokens=False).strip())
        tokens = tokens[stop + 1 :]
    if not all(texts):
        return None, "empty"
    if any("\ufffd" in text for text in texts):  # what a decoder puts where bytes are no UTF-8
        return None, "undecodable"
    return texts, None
