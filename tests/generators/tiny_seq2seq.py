"""Tiny sequence-to-sequence models of the real classes, each with a tokenizer trained on the spot."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from generating import ROWS

from augmill.tasks.generators.lm.decode import torch_threads
from augmill.tasks.generators.lm.losses import pair_loss
from augmill.tasks.generators.lm.models import quiet
from augmill.tasks.generators.lm.train import TrainingSchedule, train, train_tokenizer

TEXTS = [text for _, _, first, second in ROWS for text in (first, second)]


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        yield


def folder() -> Path:
    """A directory that lives as long as the process."""
    holder = tempfile.TemporaryDirectory(prefix="augmill-tiny-")
    _HELD.append(holder)
    return Path(holder.name)


_HELD: list[Any] = []


def fast_tokenizer(texts: Sequence[str], *, bart: bool, vocabulary: int = 400) -> Any:
    """`<s> text </s>` with a mask token as BART has it, or `text </s>` with sentinels as T5 has it."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    more = ["<mask>"] if bart else [f"<extra_id_{at}>" for at in range(40)]
    tokenizer = train_tokenizer(texts, ["<s>", "<pad>", "</s>", "<unk>", *more], vocabulary, "characters")
    template = "<s> $A </s>" if bart else "$A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, **({"bos_token": "<s>", "mask_token": "<mask>"} if bart else {})
    )


def bart_model(tokenizer: Any, *, hidden: int = 32, std: float = 0.02) -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=len(tokenizer), d_model=hidden, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=2 * hidden, decoder_ffn_dim=2 * hidden, max_position_embeddings=96,
        dropout=0.0, init_std=std,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


def t5_model(tokenizer: Any, *, hidden: int = 32) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=len(tokenizer) + 8, d_model=hidden, d_kv=hidden // 2, d_ff=2 * hidden, num_layers=1, num_heads=2,
        pad_token_id=1, eos_token_id=2, decoder_start_token_id=1, dropout_rate=0.0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


@cache
def babbler() -> Path:
    """A BART that says a few random words of ROWS for whatever it is given; nothing is trained."""
    tokenizer, path = fast_tokenizer(TEXTS, bart=True), folder()
    with seeded():
        model = bart_model(tokenizer)
    with torch.no_grad():
        model.final_logits_bias[0, 2] = 2.0  # an end comes after a few words
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@cache
def untrained(kind: str) -> Path:
    """A BART or a T5 with random weights."""
    tokenizer, path = fast_tokenizer(TEXTS, bart=kind == "bart"), folder()
    with seeded():
        (bart_model if kind == "bart" else t5_model)(tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def teach(
    model: Any, pairs: list[tuple[list[int], list[int]]], start: Sequence[int], pad: int, steps: int, batch: int = 32
) -> float:
    """Trains on (source, target) tokens; the last loss."""
    import numpy as np

    rng = np.random.Generator(np.random.Philox(key=1))
    schedule = TrainingSchedule(steps, batch, 5e-3, 0.0)
    with seeded(), torch_threads(1):
        loss = partial(pair_loss, start=start, pad=pad)
        record = train(model, lambda _: pairs, loss, schedule, rng).record
    return float(record["train_loss"][-1])


def sentencepieces(texts: Sequence[str], path: Path) -> list[str]:
    """A SentencePiece model trained on the texts, written to ``path``; its pieces without the special ones."""
    import sentencepiece

    with path.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=stream, vocab_size=200, hard_vocab_limit=False,
            character_coverage=1.0, minloglevel=2,
        )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [model.id_to_piece(at) for at in range(len(model)) if not model.is_control(at) and not model.is_unknown(at)]


@cache
def marian(seed: int = 0) -> Path:
    """A MarianMTModel with random weights that soon ends, and its two SentencePiece models."""
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    path = folder()
    pieces = sentencepieces(TEXTS, path / "source.spm")
    (path / "target.spm").write_bytes((path / "source.spm").read_bytes())
    vocabulary = ["</s>", "<unk>", *pieces, ">>fra<<", "<pad>"]
    (path / "vocab.json").write_text(json.dumps({token: at for at, token in enumerate(vocabulary)}))
    with quiet():  # it would like a package for punctuation, which it does not use
        tokenizer = MarianTokenizer(str(path / "source.spm"), str(path / "target.spm"), str(path / "vocab.json"))
    pad = len(vocabulary) - 1
    config = MarianConfig(
        vocab_size=len(vocabulary), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=96,
        pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad, forced_eos_token_id=None, init_std=0.5,
    )  # fmt: skip
    with seeded(seed):
        model = MarianMTModel(config)
    with torch.no_grad():
        model.final_logits_bias[0, 0] = 6.0
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@cache
def m2m100() -> Path:
    """An M2M100ForConditionalGeneration with random weights, and its SentencePiece model."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration, M2M100Tokenizer

    path = folder()
    pieces = sentencepieces(TEXTS, path / "sentencepiece.bpe.model")
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *pieces]
    (path / "vocab.json").write_text(json.dumps({token: at for at, token in enumerate(vocabulary)}))
    tokenizer = M2M100Tokenizer(str(path / "vocab.json"), str(path / "sentencepiece.bpe.model"))
    config = M2M100Config(
        vocab_size=len(vocabulary) + 100 + 8, d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_position_embeddings=96, init_std=0.1,
    )  # fmt: skip
    with seeded():
        model = M2M100ForConditionalGeneration(config)
        ending = torch.randn(32)
    with torch.no_grad():  # it has no bias of its own: one by the last norm makes an end come soon
        model.model.decoder.layer_norm.bias += ending
        model.model.shared.weight[2] += 3.0 * ending / ending.dot(ending)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
