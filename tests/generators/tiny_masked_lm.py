"""Tiny masked language models of the real classes, each with a tokenizer made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tiny_seq2seq import TEXTS, folder, seeded

from augmill.tasks.generators.masked.model import SPECIALS, word_tokenizer

KINDS = ("bert", "roberta", "deberta")


def bert_tokenizer(texts: Sequence[str]) -> Any:
    """A WordPiece that folds capitals and accents, as `bert-base-uncased` does; with two places it keeps free."""
    from tokenizers import normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    fold = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    folded = [fold.normalize_str(text) for text in texts]
    tokenizer = word_tokenizer(folded, SPECIALS, 1000)
    tokenizer.add_tokens(["[unused0]", "[unused1]"])
    tokenizer.normalizer, tokenizer.pre_tokenizer = fold, pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def roberta_tokenizer(texts: Sequence[str]) -> Any:
    """A byte-level BPE that writes the first word of a text otherwise than the others, as RoBERTa's does; with a
    place it keeps free.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, min_frequency=2, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([f" the a I {text}" for text in texts], trainer)
    tokenizer.add_tokens(["madeupword0000"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, specials, strict=True)))


def unigram_tokenizer(texts: Sequence[str]) -> Any:
    """As SentencePiece makes them: XLM-R, ALBERT and DeBERTa-v2 have such."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=list(SPECIALS), unk_token="[UNK]", show_progress=False
    )
    tokenizer.train_from_iterator([f" the a I {text}" for text in texts], trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def tokenizer_of(kind: str, texts: Sequence[str] = TEXTS) -> Any:
    made = {"bert": bert_tokenizer, "mobilebert": bert_tokenizer, "roberta": roberta_tokenizer}
    return made.get(kind, unigram_tokenizer)(texts)


def model_of(kind: str, tokenizer: Any, *, hidden: int = 32) -> Any:
    import transformers

    size: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": hidden, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 2 * hidden, "max_position_embeddings": 80, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    if kind == "bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(**size))
    if kind == "roberta":
        config = transformers.RobertaConfig(**size, bos_token_id=0, eos_token_id=2)
        return transformers.RobertaForMaskedLM(config)
    if kind == "mobilebert":
        narrow = {"embedding_size": 16, "intra_bottleneck_size": 16}
        return transformers.MobileBertForMaskedLM(transformers.MobileBertConfig(**size, **narrow))
    size |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    size |= {"position_buckets": 16, "type_vocab_size": 0, "legacy": kind == "deberta"}
    return transformers.DebertaV2ForMaskedLM(transformers.DebertaV2Config(**size))


@cache
def untrained(kind: str) -> Path:
    """A model with random weights."""
    tokenizer, path = tokenizer_of(kind), folder()
    with seeded():
        model_of(kind, tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
