"""A causal language model as it is fitted: loaded with its tokenizer, given tokens for labels, kept, loaded again."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augmill.tasks.contracts import Fitted
from augmill.tasks.errors import UserError
from augmill.tasks.generators.lm.models import load_model, quiet

END = "<|end|>"


@dataclass(frozen=True)
class Pretrained:
    """A loaded model with its ``tokenizers.Tokenizer``; ``end`` and ``start`` are None where the model has no such."""

    model: Any
    tokenizer: Any
    start: int | None
    end: int | None


def load_pretrained(path: Path, *, trust_remote_code: bool, allow_pickle: bool) -> Pretrained:
    """Loads a causal LM in float32 with its fast tokenizer. Raises UserError where the directory holds none."""
    model, tokenizer = load_model(path, "causal", trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    if not tokenizer.is_fast:
        raise UserError(
            "the tokenizer has no tokenizer.json", where=f"model {path}", fix="use a model with a fast tokenizer"
        )
    return Pretrained(model, tokenizer.backend_tokenizer, tokenizer.bos_token_id, tokenizer.eos_token_id)


def add_tokens(model: Any, tokenizer: Any, tokens: dict[str, str]) -> dict[str, int]:
    """Gives each of ``tokens`` (token -> a text that says what it means) an id and a place in the embeddings.

    A new input vector is the mean of the vectors of its text's tokens (of all tokens, where the text is empty), and
    a new output vector the mean of all. Returns the ids.
    """
    import torch
    from tokenizers import AddedToken

    meanings = {token: tokenizer.encode(text, add_special_tokens=False).ids for token, text in tokens.items()}
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    ids: dict[str, int] = {token: tokenizer.token_to_id(token) for token in tokens}
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if tokenizer.get_vocab_size() > model.get_input_embeddings().num_embeddings:
        resize(model, tokenizer.get_vocab_size())
    new = list(ids.values())
    old = [index for index in range(min(new)) if index not in ids.values()]
    with torch.no_grad():
        weights = model.get_input_embeddings().weight
        mean = weights[old].mean(dim=0)
        for token, index in ids.items():
            weights[index] = weights[meanings[token]].mean(dim=0) if meanings[token] else mean
        if not tied:
            output = model.get_output_embeddings().weight
            output[new] = output[old].mean(dim=0)
    return ids


def resize(model: Any, vocabulary: int) -> None:
    """Gives the model's embeddings and its head so many rows: the first of those it has, and new ones."""
    takes = inspect.signature(model.resize_token_embeddings).parameters  # MobileBERT's has no such option
    model.resize_token_embeddings(vocabulary, **({"mean_resizing": False} if "mean_resizing" in takes else {}))


def banned_tokens(model: Any, tokenizer: Any, end: int) -> list[int]:
    """Ids that stand for no text (special tokens but ``end``, places of the embeddings that no token has), sorted."""
    special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    empty = {
        index for index in range(model.config.get_text_config().vocab_size) if tokenizer.id_to_token(index) is None
    }
    return sorted((special | empty) - {end})


def save(model: Any, tokenizer: Any, plan: dict[str, Any], directory: Path) -> dict[str, Path]:
    """Writes the model, its tokenizer and ``lm.json``: the same weights make the same bytes, wherever they came from."""
    model.save_pretrained(directory, max_shard_size="1000GB")
    (directory / "generation_config.json").unlink(missing_ok=True)  # defaults of `generate`, which is not used
    config_path = directory / "config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config.pop("transformers_version", None)  # the patch release is no part of what was fitted
    for name, value in (("config.json", config), ("lm.json", plan)):
        text = json.dumps(value, sort_keys=True, ensure_ascii=False)
        (directory / name).write_text(text, encoding="utf-8")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(directory / "tokenizer.json"))
    return {str(path.relative_to(directory)): path for path in sorted(directory.rglob("*")) if path.is_file()}


def load_fitted(fitted: Fitted, device: str, *, trust_remote_code: bool) -> tuple[Any, Any]:
    """(model on ``device`` in float32, tokenizer) of a fit artifact."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            fitted.path, dtype=torch.float32, use_safetensors=True, trust_remote_code=trust_remote_code
        )
    return model.to(device).eval(), Tokenizer.from_file(str(fitted.path / "tokenizer.json"))
