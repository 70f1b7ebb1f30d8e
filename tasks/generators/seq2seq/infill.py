"""Infilling: a model that is told the class fills spans of a real row of that class. What is fitted, what is asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import STRATUM, Context, Fitted, Request
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.generators._edits import split_words
from augmill.tasks.generators._parents import Parents, changed_fields, draw_fields
from augmill.tasks.generators.lm.decode import lower
from augmill.tasks.generators.lm.encoder_decoder import Frame
from augmill.tasks.generators.lm.load import add_tokens, banned_tokens
from augmill.tasks.generators.lm.losses import Example
from augmill.tasks.generators.lm.models import quiet
from augmill.tasks.generators.lm.rewriting import Source, Task, decoder_start, longest
from augmill.tasks.generators.lm.train import scratch_pair_model, train_tokenizer
from augmill.tasks.rows.kinds.text import canonical
from augmill.tasks.rows.randomness import uniforms

if TYPE_CHECKING:
    from augmill.tasks.generators.seq2seq.options import Seq2SeqOptions


# --- Spans of words taken out of a text for a model to fill in, as a model's tokens, and the filled text back ---------
# Two layouts. ``sentinel`` (T5: Raffel et al., "Exploring the Limits of Transfer Learning", JMLR 2020): every span has a
# token of its own, and the target says only what stood in the spans, each closed by the next span's token. ``mask``
# (BART: Lewis et al., ACL 2020; BART-span of Kumar et al., "Data Augmentation using Pre-trained Transformer Models",
# LifeLongNLP 2020): one mask token for a span, however long, and the target is the whole text. Words are those of
# ``_edits``: characters in Chinese and Japanese.


MAX_SPANS = 32  # of one row
Span = tuple[int, int]  # first word, word after the last


@dataclass(frozen=True)
class Words:
    """``glue.join(words)`` is the canonical text."""

    words: tuple[str, ...]
    glue: str

    @classmethod
    def of(cls, text: str | None) -> Words:
        tokens, glue = split_words(canonical(text or ""))
        return cls(tuple("".join(token) for token in tokens), glue)

    def piece(self, start: int, stop: int) -> str:
        """These words as they stand in the text, with what joins them to the word before."""
        if start >= stop:
            return ""
        return (self.glue if start else "") + self.glue.join(self.words[start:stop])


def draw_spans(count: int, numbers: Sequence[float], share: float, longest: int) -> list[Span]:
    """Spans over ``count`` words: ``share`` of them, at least one word, in spans of at most ``longest`` words.

    ``numbers``: a uniform for each span that there may be at most. Between two spans stands a word at least.
    """
    if not count:
        return []
    masked = min(max(1, round(share * count)), len(numbers) * longest)
    kept = count - masked
    spans = min(-(-masked // longest), kept + 1)
    lengths = [masked // spans + (at < masked % spans) for at in range(spans)]
    slots = list(range(kept + 1))  # a span in slot s stands after s kept words
    for at, number in enumerate(numbers[:spans]):
        pick = at + int(number * (len(slots) - at))
        slots[at], slots[pick] = slots[pick], slots[at]
    found, before = [], 0
    for slot, length in zip(sorted(slots[:spans]), lengths, strict=True):
        found.append((slot + before, slot + before + length))
        before += length
    return found


@dataclass(frozen=True)
class Layout:
    """How a row with spans taken out becomes tokens. ``fills``: the sentinels, or the mask token alone."""

    kind: Literal["sentinel", "mask"]
    fills: tuple[int, ...]
    between: int  # stands between the texts of a row
    end: int
    prefix: tuple[int, ...]  # what the model's own tokenizer puts before a text,
    suffix: tuple[int, ...]  # and after it

    def source(self, tokenizer: Any, label: int, texts: Sequence[Words], spans: Sequence[list[Span]]) -> list[int]:
        """`prefix label text ... between text ... suffix`, a fill for every span."""
        tokens, filled = [*self.prefix, label], 0
        for at, (text, taken) in enumerate(zip(texts, spans, strict=True)):
            tokens += [self.between] if at else []
            place = 0
            for start, stop in taken:
                tokens += _encode(tokenizer, text.piece(place, start))
                tokens.append(self.fills[filled if self.kind == "sentinel" else 0])
                filled, place = filled + 1, stop
            tokens += _encode(tokenizer, text.piece(place, len(text.words)))
        return [*tokens, *self.suffix]

    def lead(self) -> tuple[int, ...]:
        """What the decoder is given beside its start: the first sentinel, or what stands before every text."""
        return self.fills[:1] if self.kind == "sentinel" else self.prefix

    def marks(self, spans: Sequence[list[Span]]) -> tuple[int, ...]:
        """The special tokens of a target, in their order; the last one ends it."""
        if self.kind == "sentinel":
            return self.fills[1 : 1 + sum(map(len, spans))]
        return (*[self.between] * (len(spans) - 1), self.end)

    def target(self, tokenizer: Any, texts: Sequence[Words], spans: Sequence[list[Span]]) -> list[int]:
        """What is to be said for it: `span fill span fill` (the first fill is given), or `text between text end`."""
        if self.kind == "sentinel":
            pieces = [text.piece(*span) for text, taken in zip(texts, spans, strict=True) for span in taken]
        else:
            pieces = [text.piece(0, len(text.words)) for text in texts]
        tokens: list[int] = []
        for piece, mark in zip(pieces, self.marks(spans), strict=True):
            tokens += [*_encode(tokenizer, piece), mark]
        return tokens

    def read(
        self, tokenizer: Any, said: list[int], texts: Sequence[Words], spans: Sequence[list[Span]]
    ) -> tuple[list[str] | None, str | None]:
        """(the texts with what was said in place of their spans, None), or (None, why there are none).

        ``said``: a target without its last mark. A text without a span is its parent's, whatever was said of it.
        """
        parts = _split(said, self.marks(spans)[:-1])
        decoded = [canonical(tokenizer.decode(part, skip_special_tokens=False)) for part in parts]
        if any("\ufffd" in part for part in decoded):  # what a decoder puts where bytes are no UTF-8
            return None, "undecodable"
        fillings, made = iter(decoded), []
        for text, taken in zip(texts, spans, strict=True):
            if self.kind == "sentinel":
                made.append(_fill(text, taken, [next(fillings) for _ in taken]))
            else:
                whole = next(fillings)
                made.append(whole if taken else text.piece(0, len(text.words)))
        return (made, None) if all(made) else (None, "empty")


def _fill(text: Words, spans: list[Span], fillings: list[str]) -> str:
    """The text with each span's words replaced by its filling; an empty one leaves them out."""
    words, place = [], 0
    for (start, stop), filling in zip(spans, fillings, strict=True):
        space = " " if text.words[stop - 1].endswith(" ") else ""  # in Chinese, a Latin word's own
        words += [*text.words[place:start], *([filling + space] if filling else [])]
        place = stop
    return canonical(text.glue.join([*words, *text.words[place:]]))


def _split(tokens: list[int], marks: Sequence[int]) -> list[list[int]]:
    """The tokens before, between and after the marks, which stand in this order."""
    parts = []
    for mark in marks:
        at = tokens.index(mark)
        parts.append(tokens[:at])
        tokens = tokens[at + 1 :]
    return [*parts, tokens]


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids if text else []
    return ids


# --- Infilling --------------------------------------------------------------------------------------------------------


PAD, END, BETWEEN = "<|pad|>", "<|end|>", "<|between|>"
SENTINEL = "<extra_id_{}>"  # as T5 spells them
LABEL_WORDS = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])")  # where a label such as `AddToPlaylist` or `card_lost` splits
Rows = list[tuple[str, list[Words]]]  # class and texts
Made = tuple[list[str] | None, str | None]


@dataclass
class Infiller:
    """A model with its tokenizer, and how rows are written for it."""

    model: Any
    tokenizer: Any  # of the library tokenizers
    layout: Layout
    labels: dict[str, int]
    pad: int
    start: tuple[int, ...]  # what the decoder is given before a target
    banned: tuple[int, ...]
    bound: int  # tokens of a source
    steps: int = 0  # tokens of a target

    def plan(self) -> dict[str, Any]:
        """All but the model and its tokenizer, as JSON."""
        kept = ("labels", "pad", "start", "banned", "bound", "steps")
        return {name: getattr(self, name) for name in kept} | {"layout": asdict(self.layout)}

    @classmethod
    def load(cls, fitted: Fitted, device: str, options: Seq2SeqOptions) -> Infiller:
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModelForSeq2SeqLM

        with quiet():
            model = AutoModelForSeq2SeqLM.from_pretrained(
                fitted.path, dtype=torch.float32, use_safetensors=True, trust_remote_code=options.trust_remote_code
            )
        model = lower(model.to(device).eval(), options.decode_precision)
        tokenizer = Tokenizer.from_file(str(fitted.path / "tokenizer.json"))
        tokenizer.encode_special_tokens = True
        plan = fitted.read_json("seq2seq.json")
        layout: dict[str, Any] = {
            name: tuple(part) if isinstance(part, list) else part for name, part in plan["layout"].items()
        }
        rest = {name: plan[name] for name in ("labels", "pad", "bound", "steps")}
        start, banned = tuple(plan["start"]), tuple(plan["banned"])
        return cls(model, tokenizer, Layout(**layout), start=start, banned=banned, **rest)


def prepare(rows: pa.Table, source: Source | None, options: Seq2SeqOptions, fields: tuple[str, ...]) -> Infiller:
    """The model to train, with tokens for the labels. ``source``: None to make one from scratch."""
    names = {label: f"<|label:{at}|>" for at, label in enumerate(sorted(set(rows[STRATUM].to_pylist())))}
    infiller = _from_pretrained(source, names, options) if source else _from_scratch(rows, names, options, fields)
    # All special tokens: the marks of a row are let through one at a time, in their order.
    infiller.banned = tuple(banned_tokens(infiller.model, infiller.tokenizer, -1))
    infiller.tokenizer.encode_special_tokens = True  # a user's text that holds `<|end|>` is text
    return infiller


def _from_scratch(rows: pa.Table, names: dict[str, str], options: Seq2SeqOptions, fields: tuple[str, ...]) -> Infiller:
    texts = [canonical(text or "") for name in fields for text in rows[name].to_pylist()]
    sentinels = [SENTINEL.format(at) for at in range(MAX_SPANS + 1)]
    specials = [PAD, END, BETWEEN, *names.values(), *sentinels]
    # Characters, not bytes: a source is a train row, so none is unknown, and no part of one can be said.
    tokenizer = train_tokenizer(texts, specials, options.vocabulary, "characters")
    ids = {token: tokenizer.token_to_id(token) for token in specials}
    model = scratch_pair_model(
        tokenizer.get_vocab_size(),
        ids[PAD],
        ids[END],
        layers=options.layers,
        hidden=options.hidden,
        heads=options.heads,
    )
    fills = tuple(ids[token] for token in sentinels)
    layout = Layout("sentinel", fills, ids[BETWEEN], ids[END], (), (ids[END],))
    labels = {label: ids[name] for label, name in names.items()}
    return Infiller(model, tokenizer, layout, labels, ids[PAD], (ids[PAD], *layout.lead()), (), options.max_length)


def _from_pretrained(source: Source, names: dict[str, str], options: Seq2SeqOptions) -> Infiller:
    """Raises UserError where the tokenizer has neither sentinels nor a mask token, or is none of the fast ones."""
    model, outer = source.load()
    where = f"model {source.model}"
    if not outer.is_fast:
        raise UserError("the tokenizer has no tokenizer.json", where=where, fix="use a model with a fast tokenizer")
    tokenizer = outer.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    whole = tokenizer.encode("").ids  # what stands around a text
    end = outer.eos_token_id
    if end is None or end not in whole:
        raise UserError(
            "the tokenizer does not end texts with its end token", where=where, fix="use a T5 or a BART model"
        )
    at = whole.index(end)
    found = [tokenizer.token_to_id(SENTINEL.format(at)) for at in range(MAX_SPANS + 1)]
    sentinels = [index for index in found if index is not None]
    if len(sentinels) < 2 and outer.mask_token_id is None:
        raise UserError(
            "the model cannot fill spans: its tokenizer has neither a mask token nor `<extra_id_0>`, `<extra_id_1>`",
            where=where,
            fix="use a T5 or a BART model, or `mode: paraphrase`",
        )
    words = {name: LABEL_WORDS.sub(" ", label).strip() for label, name in names.items()}
    ids = add_tokens(model, tokenizer, words | {BETWEEN: ""})
    kind, fills = ("sentinel", sentinels) if len(sentinels) > 1 else ("mask", [outer.mask_token_id])
    layout = Layout(kind, tuple(fills), ids[BETWEEN], end, tuple(whole[:at]), tuple(whole[at:]))  # type: ignore[arg-type]
    start = (decoder_start(model, outer), *layout.lead())
    pad = end if outer.pad_token_id is None else outer.pad_token_id
    labels = {label: ids[name] for label, name in names.items()}
    return Infiller(model, tokenizer, layout, labels, pad, start, (), longest(model, options.max_length))


class SpanMasking:
    """Takes spans out of rows, as the options say."""

    def __init__(self, infiller: Infiller, options: Seq2SeqOptions, fields: tuple[str, ...]) -> None:
        self.options, self.allowed = options, changed_fields(options.change, fields, "seq2seq")
        fills = MAX_SPANS if infiller.layout.kind == "mask" else len(infiller.layout.fills) - 1
        # Spans of one text at most: those of a row have different sentinels.
        self.most = max(1, fills // (len(self.allowed) if options.change == "all" else 1))
        self.fields = len(fields)
        self.numbers = 1 + self.fields * self.most

    def spans(self, texts: Sequence[Words], numbers: Sequence[float]) -> list[list[Span]]:
        """The spans of each text; none where the row has no word in a text that may change."""
        chosen = draw_fields(self.options.change, self.allowed, [" ".join(text.words) for text in texts], numbers[0])
        out: list[list[Span]] = [[] for _ in texts]
        for at in chosen:
            own = numbers[1 + at * self.most :][: self.most]
            out[at] = draw_spans(len(texts[at].words), own, self.options.mask_share, self.options.span_words)
        return out


def fitting_rows(
    rows: pa.Table, infiller: Infiller, masking: SpanMasking, fields: tuple[str, ...], ctx: Context
) -> pa.Table:
    """The rows that can be parents: a word to change, and no longer than the bound. Sets the bound of targets.

    Raises DataError where there are none.
    """
    keep, lengths = [], [0]
    for _, texts in words_of(rows, fields):
        nothing: list[list[Span]] = [[] for _ in texts]
        length = len(infiller.layout.source(infiller.tokenizer, 0, texts, nothing))
        fits = length <= infiller.bound and any(masking.spans(texts, [0.0] * masking.numbers))
        keep.append(fits)
        lengths.append(length if fits else 0)
    if not any(keep):
        raise DataError(
            f"expected train rows of at most {infiller.bound} tokens with a word to change, found none among {len(keep)}",
            where="seq2seq",
            fix="raise `max_length`, or use a model that takes longer texts",
        )
    if not all(keep):
        ctx.log.warning("seq2seq: %d of %d train rows are left out (empty, or too long)", keep.count(False), len(keep))
    infiller.steps = min(infiller.bound - len(infiller.start), max(lengths) + MAX_SPANS + 2)
    return rows.filter(pa.array(keep))


def words_of(rows: pa.Table, fields: tuple[str, ...]) -> Rows:
    columns = [rows[name].to_pylist() for name in fields]
    texts = [[Words.of(text) for text in row] for row in zip(*columns, strict=True)]
    return list(zip(rows[STRATUM].to_pylist(), texts, strict=True))


def draw_examples(rows: Rows, infiller: Infiller, masking: SpanMasking, rng: np.random.Generator) -> list[Example]:
    """Every row with spans taken out at random, and what is to be said for it."""
    numbers = rng.random((len(rows), masking.numbers)).tolist()
    out = []
    for (stratum, texts), own in zip(rows, numbers, strict=True):
        spans, layout = masking.spans(texts, own), infiller.layout
        source = layout.source(infiller.tokenizer, infiller.labels[stratum], texts, spans)
        target = layout.target(infiller.tokenizer, texts, spans)
        if len(source) <= infiller.bound and len(target) <= infiller.steps:
            out.append((source, target))
    return out


def fill(infiller: Infiller, masking: SpanMasking, parents: Parents, request: Request, task: Task) -> list[Made]:
    """(texts, None) or (None, reason) per requested row: its parent with the spans filled anew."""
    fields = task.ctx.fields
    at = parents.draw(request)
    numbers = uniforms(request.seeds, masking.numbers, stream=1).tolist()
    made: list[Made] = [(None, "no_parent")] * len(request)
    jobs = []
    drawn = {
        row: [Words.of(parents.table[name][row].as_py()) for name in fields] for row in set(at.tolist()) if row >= 0
    }
    for place, row in enumerate(at.tolist()):
        if row < 0:
            continue
        spans = masking.spans(drawn[row], numbers[place])
        label = infiller.labels[request.strata[place]]
        source = infiller.layout.source(infiller.tokenizer, label, drawn[row], spans)
        made[place] = (None, "too_long")
        if len(source) <= infiller.bound:
            jobs.append((place, source, drawn[row], spans))
    frame = Frame(infiller.start, infiller.banned)
    seeds = request.seeds[[job[0] for job in jobs]] if jobs else request.seeds[:0]
    marks = [infiller.layout.marks(spans) for *_, spans in jobs]
    said = task.sampled(infiller.model, frame, [job[1] for job in jobs], marks, seeds, 2, infiller.steps)
    for (place, _, texts, spans), tokens in zip(jobs, said, strict=True):
        if tokens is not None:
            made[place] = infiller.layout.read(infiller.tokenizer, tokens, texts, spans)
            if made[place][0] == [text.glue.join(text.words) for text in texts]:
                made[place] = (None, "unchanged")
    return made
