"""Where a language model comes from and how a fitted one is kept: directories, hub ids, safetensors."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augmill.tasks.contracts import Fitted, UserError, WorldError

END = "<|end|>"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What a causal LM needs, without the copies for other frameworks that many repositories carry.
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class Pretrained:
    """A loaded model with its ``tokenizers.Tokenizer``; ``end`` and ``start`` are None where the model has no such."""

    model: Any
    tokenizer: Any
    start: int | None
    end: int | None


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers and the hub client from printing, warning or reporting usage while the block runs."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging

    verbosity, bars, hub_bars = (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        not are_progress_bars_disabled(),
    )
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()


def find_model(name: str, revision: str, *, trust_remote_code: bool, allow_pickle: bool) -> Path:
    """The local directory of a model: ``name`` itself, or the pinned snapshot of a hub id.

    Raises UserError where neither is there, WorldError where the hub could not be reached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(
            "expected the directory of a model, found a file", where=f"model {name}", fix="name its directory"
        )
    if not _HUB_ID.fullmatch(name) or not revision:
        raise UserError(
            "expected `scratch`, a local directory, or a hub id with a revision; found no such directory"
            + ("" if revision else " and no revision"),
            where=f"model {name}",
            fix="check the path (relative to the recipe), or set `revision` to the 40-digit commit of the hub model",
        )
    if not _COMMIT.fullmatch(revision):
        raise UserError(
            f"revision {revision!r} can move; expected the 40-digit hash of a commit",
            where=f"model {name}",
            fix="copy the hash from the model's page on the hub, under Files, History",
        )
    patterns = _HUB_FILES + ["*.py"] * trust_remote_code + ["pytorch_model*.bin"] * allow_pickle
    return _download(name, revision, patterns)


def _download(name: str, revision: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"model {name} at {revision}"
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    try:
        found: str = snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=offline)
        return Path(found)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            "the hub knows no such model or revision, or it is not open to you",
            where=where,
            fix="check both on the hub; for a gated model log in with `hf auth login`",
        ) from error
    except LocalEntryNotFoundError as error:
        kind = UserError if offline else WorldError
        why = "HF_HUB_OFFLINE is set" if offline else "the hub could not be reached"
        raise kind(
            f"{why}, and the model is not in the local cache",
            where=where,
            fix="download it once with `hf download`, or set `model` to a local directory",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise WorldError(f"the download failed: {error}", where=where, fix="run again later") from error


def check_files(path: Path, allow_pickle: bool) -> bool:
    """Whether the weights are safetensors. Raises UserError where the directory holds no loadable model."""
    where = f"model {path}"
    if not (path / "config.json").is_file():
        raise UserError("config.json is missing", where=where, fix="name the directory that save_pretrained wrote")
    if any(path.glob("*.safetensors")):
        return True
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
    if not pickles:
        raise UserError(
            "the weights are missing: expected model.safetensors (or its shards)",
            where=where,
            fix="download or copy them beside config.json; with git, `git lfs pull`",
        )
    if not allow_pickle:
        raise UserError(
            f"the weights are pickle files only ({', '.join(pickles)}), which can run code when they are read",
            where=where,
            fix="save the model with save_pretrained(safe_serialization=True), or set `allow_pickle: true` "
            "if you trust its source",
        )
    return False


def load_pretrained(path: Path, *, trust_remote_code: bool, allow_pickle: bool) -> Pretrained:
    """Loads a causal LM in float32 with its fast tokenizer. Raises UserError where the directory holds none."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    safe = check_files(path, allow_pickle)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=torch.float32,
            use_safetensors=safe,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().split("\n")[0]
        raise UserError(
            f"this is no causal language model that transformers can load: {first}",
            where=f"model {path}",
            fix="expected config.json, model.safetensors and tokenizer.json of one causal LM; a model with code of "
            "its own also needs `trust_remote_code: true`",
        ) from error
    if report["missing_keys"]:
        raise UserError(
            f"weights are missing, such as {min(report['missing_keys'])}: this is not (all of) a causal LM",
            where=f"model {path}",
            fix="use a model whose architecture ends in ForCausalLM or LMHeadModel, with all its files",
        )
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
        model.resize_token_embeddings(tokenizer.get_vocab_size(), mean_resizing=False)
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
