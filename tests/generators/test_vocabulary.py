"""A pretrained model's vocabulary cut to what its rows need: the same tokens, the same logits, every text still possible."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from generating import ROWS, Bench, ask
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from augmill.tasks.errors import UserError
from augmill.tasks.generators.lm import vocabulary
from augmill.tasks.generators.lm.load import Pretrained
from augmill.tasks.generators.lm.train import train_tokenizer
from augmill.tasks.generators.lm.vocabulary import trim

TEXTS = [text for _, _, first, second in ROWS for text in (first, second)]
UNUSED = [AddedToken(f"<unused{at}>", special=True) for at in range(400)]
DIRTY = ["", "   ", "été 🎉\u200d👩", "<eos> is text", "\x00\ufffd", "aaaaaaaaaa", "naïve\n\n\nlines", "中文没有空格"]


@cache
def fallback_tokenizer() -> Tokenizer:
    """As Gemma's: words with a mark for the space, unknown characters by bytes, special tokens first."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_previous")
    parts: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts)
    special = ["<eos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    layout = json.loads(tokenizer.to_str())
    layout["added_tokens"] = layout["added_tokens"][:1]  # bytes are tokens like others
    tokenizer = Tokenizer.from_str(json.dumps(layout))
    tokenizer.add_special_tokens(UNUSED)
    return tokenizer


@cache
def byte_tokenizer() -> Tokenizer:
    tokenizer = train_tokenizer(TEXTS, ["<eos>"], 900)
    tokenizer.add_special_tokens(UNUSED)
    return tokenizer


KINDS = {"bytes": byte_tokenizer, "fallback": fallback_tokenizer}


def small_model(size: int, *, tied: bool = True) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8,
        num_key_value_heads=1, bos_token_id=0, eos_token_id=[0, size - 1], pad_token_id=0, tie_word_embeddings=tied,
    )  # fmt: skip
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return Gemma3ForCausalLM(config).eval()


def pretrained(kind: str, *, tied: bool = True) -> Pretrained:
    tokenizer = Tokenizer.from_str(KINDS[kind]().to_str())
    tokenizer.encode_special_tokens = True
    return Pretrained(small_model(tokenizer.get_vocab_size(), tied=tied), tokenizer, None, 0)


def names(tokenizer: Any, text: str) -> list[str]:
    found: list[str] = tokenizer.encode(text, add_special_tokens=False).tokens
    return found


WORDS = st.sampled_from(sorted({word for text in TEXTS for word in text.split()}))
LINES = st.one_of(st.lists(WORDS, max_size=6).map(" ".join), st.sampled_from(DIRTY), st.text(max_size=8))


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(LINES, max_size=5))
@settings(max_examples=25, deadline=None)
def test_seen_texts_keep_their_tokens_and_every_text_can_be_written(kind: str, texts: list[str]) -> None:
    base = pretrained(kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "COMMONEST", 5)
        cut = trim(base, texts)
    assert cut.tokenizer.get_vocab_size() < base.tokenizer.get_vocab_size()
    for text in texts:
        assert names(cut.tokenizer, text) == names(base.tokenizer, text)
    for text in DIRTY[:4]:  # never seen, perhaps: by bytes
        ids = cut.tokenizer.encode(text, add_special_tokens=False).ids
        whole = base.tokenizer.encode(text, add_special_tokens=False).ids
        assert cut.tokenizer.decode(ids) == base.tokenizer.decode(whole)


@pytest.mark.parametrize("tied", [True, False])
def test_the_logits_of_what_is_kept_are_those_of_the_whole_model(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "COMMONEST", 5)
    whole, base = pretrained("bytes", tied=tied), pretrained("bytes", tied=tied)
    cut = trim(base, TEXTS[:3])
    for text in TEXTS[:3]:
        rows = [part.tokenizer.encode(text, add_special_tokens=False).ids for part in (whole, cut)]
        tokens = [cut.tokenizer.id_to_token(at) for at in range(cut.tokenizer.get_vocab_size())]
        with torch.inference_mode():
            full, less = (part.model(torch.tensor([row])).logits for part, row in zip((whole, cut), rows, strict=True))
        assert torch.allclose(full[..., [whole.tokenizer.token_to_id(token) for token in tokens]], less, atol=1e-5)
    assert cut.end == cut.tokenizer.token_to_id("<eos>") and cut.model.config.eos_token_id == [cut.end]
    assert cut.model.config.vocab_size == len(tokens)


def test_a_small_vocabulary_stays_and_a_model_that_hangs_on_the_numbers_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = train_tokenizer(TEXTS, ["<eos>"], 900)
    small = Pretrained(small_model(tokenizer.get_vocab_size()), tokenizer, None, 0)
    assert trim(small, TEXTS) is small  # most of it is among the commonest
    base = pretrained("bytes")
    monkeypatch.setattr(vocabulary, "COMMONEST", 5)
    shrink = vocabulary._shrink
    monkeypatch.setattr(vocabulary, "_shrink", lambda model, kept, number: shrink(model, kept[::-1], number))
    with pytest.raises(UserError, match="keep_tokens: all"):
        trim(base, TEXTS[:2])


def test_a_fit_writes_rows_with_the_tokens_that_it_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedTokenizerFast

    monkeypatch.setattr(vocabulary, "COMMONEST", 5)
    base = pretrained("fallback")
    base.model.save_pretrained(tmp_path / "model")
    PreTrainedTokenizerFast(tokenizer_object=base.tokenizer, eos_token="<eos>").save_pretrained(tmp_path / "model")
    rows = ROWS[:8]
    options = {"model": str(tmp_path / "model"), "epochs": 20, "batch_size": 4, "learning_rate": 0.01}
    cut = Bench("causal_lm", tmp_path / "cut", rows=rows, **options)
    whole = Bench("causal_lm", tmp_path / "whole", rows=rows, **options, keep_tokens="all")
    sizes = [json.loads((bench.directory / "config.json").read_text())["vocab_size"] for bench in (cut, whole)]
    assert sizes[0] < sizes[1] / 2
    assert cut.sample(ask([rows[0][1]] * 8)).num_rows == 8
