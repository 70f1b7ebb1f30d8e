"""Spans of words taken out of a text for a model to fill in, as a model's tokens, and the filled text back.

Two layouts. ``sentinel`` (T5: Raffel et al., "Exploring the Limits of Transfer Learning", JMLR 2020): every span has a
token of its own, and the target says only what stood in the spans, each closed by the next span's token. ``mask``
(BART: Lewis et al., ACL 2020; BART-span of Kumar et al., "Data Augmentation using Pre-trained Transformer Models",
LifeLongNLP 2020): one mask token for a span, however long, and the target is the whole text. Words are those of
``_edits``: characters in Chinese and Japanese.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from augmill.tasks.generators._edits import split_words
from augmill.tasks.rows.kinds.text import canonical

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
