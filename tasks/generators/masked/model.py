"""A masked language model as it is fitted: how a row is written for it, tokens for the labels, what may be drawn where.

A row is `[CLS] <label> text [SEP]`, a pair `[CLS] <label> text [SEP] text [SEP]`, as the model's own tokenizer frames
one text and two. Each label has a token of its own, which begins as the mean of its words' vectors: it is one place
whatever the label is called, two labels that share a word stay apart, and no text can be taken for it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import STRATUM, Fitted
from augmill.tasks.errors import UserError
from augmill.tasks.generators.lm.decode import lower
from augmill.tasks.generators.lm.load import add_tokens, banned_tokens
from augmill.tasks.generators.lm.models import quiet
from augmill.tasks.generators.lm.rewriting import Source
from augmill.tasks.generators.masked.text import BLANK, KEPT
from augmill.tasks.generators.seq2seq import LABEL_WORDS
from augmill.tasks.rows.kinds.text import CJK, canonical

if TYPE_CHECKING:
    from augmill.tasks.generators.masked.options import MaskedLMOptions

BETWEEN = "<|between|>"
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_UNSPACED = f"[{CJK}]"
_UNUSED = re.compile(r"madeupword\d+")  # places that RoBERTa keeps free, no special tokens
_MARKS = ("##", "Ġ", "▁")  # WordPiece goes on with a word; byte-level BPE and SentencePiece begin one
_PLAN = ("labels", "frame", "mask", "pad", "bound", "lead")


@dataclass
class Filler:
    """A model with its tokenizer, and how rows are written for it."""

    model: Any
    tokenizer: Any  # of the library tokenizers
    labels: dict[str, int]
    frame: dict[str, list[int]]  # tokens before the label (`first`), `between` two texts, after the row (`last`)
    mask: int
    pad: int
    bound: int  # tokens of a row
    lead: str = ""  # stands before a text, so that its first word is written as any other

    def plan(self) -> dict[str, Any]:
        """All but the model and its tokenizer, as JSON."""
        return {name: getattr(self, name) for name in _PLAN}

    @classmethod
    def load(cls, fitted: Fitted, device: str, options: MaskedLMOptions) -> Filler:
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModelForMaskedLM

        with quiet():
            model = AutoModelForMaskedLM.from_pretrained(
                fitted.path, dtype=torch.float32, use_safetensors=True, trust_remote_code=options.trust_remote_code
            )
        model = lower(model.to(device).eval(), options.decode_precision)
        tokenizer = Tokenizer.from_file(str(fitted.path / "tokenizer.json"))
        tokenizer.encode_special_tokens = True
        return cls(model, tokenizer, **fitted.read_json("masked_lm.json")["filler"])

    @cached_property
    def kinds(self) -> npt.NDArray[np.int64]:
        """The kind of each token; a masked place gets only tokens of the kind of the one that stood there.

        So a word gives way to a word, a piece that goes on with one to such a piece, a number to a number, a Chinese
        character to a character. ``KEPT`` and ``BLANK`` are never masked and never drawn.
        """
        vocabulary = self.model.config.get_text_config().vocab_size
        banned = set(banned_tokens(self.model, self.tokenizer, -1))
        names = [None if at in banned else self.tokenizer.id_to_token(at) for at in range(vocabulary)]
        said = self.tokenizer.decode_batch([[] if name is None else [at] for at, name in enumerate(names)])
        kinds = np.array([_kind(name, text) for name, text in zip(names, said, strict=True)], dtype=np.int64)
        counts = Counter(kinds.tolist())
        return np.where(
            [counts[kind] > 1 for kind in kinds.tolist()], kinds, np.minimum(kinds, KEPT)
        )  # alone: no other

    def encode(self, text: str) -> Encoded:
        found = self.tokenizer.encode(self.lead + text, add_special_tokens=False)
        shift = len(self.lead)
        return Encoded(found.ids, [(max(0, first - shift), max(0, last - shift)) for first, last in found.offsets])

    def write(self, label: str, texts: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
        """(the row's tokens, where each text begins in them)."""
        row, starts = [*self.frame["first"], self.labels[label]], []
        for at, ids in enumerate(texts):
            row += self.frame["between"] if at else []
            starts.append(len(row))
            row += ids
        return [*row, *self.frame["last"]], starts

    def say(self, tokens: list[int]) -> str:
        """A word by its tokens."""
        text: str = self.tokenizer.decode(tokens).strip()
        return text.removeprefix("##")


@dataclass(frozen=True)
class Encoded:
    """A text's tokens, and the characters of each: (first, behind the last)."""

    ids: list[int]
    offsets: list[tuple[int, int]]


def prepare(rows: pa.Table, source: Source | None, options: MaskedLMOptions, fields: tuple[str, ...]) -> Filler:
    """The model to train, with tokens for the labels. ``source``: None to make one from scratch."""
    names = {label: f"<|label:{at}|>" for at, label in enumerate(sorted(set(rows[STRATUM].to_pylist())))}
    filler = _from_pretrained(source, names, options) if source else _from_scratch(rows, names, options, fields)
    filler.tokenizer.encode_special_tokens = True  # a user's text that holds `[MASK]` is text
    return filler


def _from_scratch(rows: pa.Table, names: dict[str, str], options: MaskedLMOptions, fields: tuple[str, ...]) -> Filler:
    from transformers import BertConfig, BertForMaskedLM

    texts = (canonical(text or "") for name in fields for text in rows[name].to_pylist())
    tokenizer = word_tokenizer(texts, [*SPECIALS, *names.values()], options.vocabulary)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=4 * options.hidden,
        max_position_embeddings=options.max_length,
        # BERT's 0.02 at its width of 768; at 64 that is too little for a label to be learnt in some hundred steps.
        initializer_range=0.5 / options.hidden**0.5,
        pad_token_id=0,
    )
    labels = {label: tokenizer.token_to_id(name) for label, name in names.items()}
    frame = {"first": [2], "between": [3], "last": [3]}
    return Filler(BertForMaskedLM(config), tokenizer, labels, frame, mask=4, pad=0, bound=options.max_length)


def word_tokenizer(texts: Iterable[str], specials: Sequence[str], vocabulary: int) -> Any:
    """A WordPiece (Devlin 2019) of whole words, the most frequent first, and of every character for other words.

    Words rather than pieces: what is drawn in place of a word is then a word. And the library's own trainer of WordPiece
    numbers the pieces differently in each process. Rare characters may exceed ``vocabulary``.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    split = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_UNSPACED), "isolated"), pre_tokenizers.BertPreTokenizer()]
    )
    counts = Counter(word for text in texts for word, _ in split.pre_tokenize_str(text))
    characters = sorted({character for word in counts for character in word})
    pieces = [*specials, *characters, *(f"##{character}" for character in characters)]
    ranked = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if len(word) > 1]
    pieces += ranked[: max(0, vocabulary - len(pieces))]
    ids = {piece: at for at, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer


def _from_pretrained(source: Source, names: dict[str, str], options: MaskedLMOptions) -> Filler:
    """Raises UserError where the tokenizer has no mask token, or is none of the fast ones."""
    model, outer = source.load()
    where = f"model {source.model}"
    if not outer.is_fast:
        raise UserError("the tokenizer has no tokenizer.json", where=where, fix="use a model with a fast tokenizer")
    if outer.mask_token_id is None:
        raise UserError(
            "the tokenizer has no mask token",
            where=where,
            fix="use a masked language model, such as a BERT or a RoBERTa",
        )
    tokenizer = outer.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    words = {name: LABEL_WORDS.sub(" ", label).strip() for label, name in names.items()}
    frame = _frame(tokenizer)
    ids = add_tokens(model, tokenizer, words | ({} if frame["between"] else {BETWEEN: ""}))
    frame["between"] = frame["between"] or [ids[BETWEEN]]
    labels = {label: ids[name] for label, name in names.items()}
    _require_forward(model, list(ids.values()), where)
    pad = outer.mask_token_id if outer.pad_token_id is None else outer.pad_token_id
    bound = min(options.max_length, outer.model_max_length, _positions(model) or options.max_length)
    return Filler(model, tokenizer, labels, frame, outer.mask_token_id, pad, bound, _lead(tokenizer))


def _require_forward(model: Any, tokens: list[int], where: str) -> None:
    """Raises UserError: transformers 5.23 enlarges some heads wrongly, such as DeBERTa-v2's with `legacy: false`."""
    import torch

    try:
        with torch.inference_mode():
            model(input_ids=torch.tensor([tokens]))
    except RuntimeError as error:
        raise UserError(
            f"a {type(model).__name__} no longer runs once it has tokens for the labels ({error})",
            where=where,
            fix="use another model; BERT, RoBERTa, DeBERTa, ALBERT, ELECTRA and ModernBERT are known to work",
        ) from error


def _frame(tokenizer: Any) -> dict[str, list[int]]:
    """What the tokenizer puts before a text, between two, and after them."""
    pair = tokenizer.encode("a", "a")
    texts = [at for at, special in enumerate(pair.special_tokens_mask) if not special]
    inner = [at for at in range(texts[0], texts[-1]) if pair.special_tokens_mask[at]]
    parts = {
        "first": pair.ids[: texts[0]],
        "between": [pair.ids[at] for at in inner],
        "last": pair.ids[texts[-1] + 1 :],
    }
    return {name: list(ids) for name, ids in parts.items()}


def _lead(tokenizer: Any) -> str:
    """A space, where the tokenizer writes a word at a text's beginning otherwise than after a space (RoBERTa)."""
    for word in ("the", "a", "I"):
        plain, spaced = (tokenizer.encode(text, add_special_tokens=False).ids for text in (word, f" {word}"))
        if len(spaced) == 1:
            return " " if plain != spaced else ""
    return ""


def _positions(model: Any) -> int | None:
    """The tokens that the model has places for; RoBERTa's begin behind its padding."""
    import torch

    count: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for part in model.modules():
        if count and isinstance(part, torch.nn.Embedding) and part.num_embeddings == count and part.padding_idx:
            return count - part.padding_idx - 1
    return count


def _kind(name: str | None, said: str) -> int:
    """The kind of a token by its name in the vocabulary and what it says alone."""
    if name is None or _UNUSED.fullmatch(name):
        return KEPT
    at = next((at for at, mark in enumerate(_MARKS, 1) if name.startswith(mark) and name != mark), 0)
    text = (said.removeprefix("##") if at == 1 else said).strip()
    if not text:
        return BLANK
    if at != 1 and unicodedata.category(text[0])[0] == "M":  # a vowel sign would join what stands before the word
        return KEPT
    if not any(unicodedata.category(character)[0] in "LN" for character in text):  # marks alone: U+FE0F is one
        return KEPT
    if any(unicodedata.category(character)[0] not in "LMN" for character in text):  # U+FFFD too: a part of a character
        return KEPT
    return 3 * at + (0 if text.isdigit() else 1 if re.fullmatch(f"{_UNSPACED}+", text) else 2)
