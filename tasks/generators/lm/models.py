"""Where a model comes from: a local directory or a pinned hub id; safetensors, no pickle unless told, no network needed."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from augmill.tasks.errors import AugmillError, UserError, WorldError

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What a model needs, without the copies for other frameworks that many repositories carry.
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.spm", "*.txt", "*.jinja"]
Kind = Literal["causal", "masked", "seq2seq", "speech"]
# What a model of that kind is called, and how the names of its architectures end.
_NOUN = {
    "causal": "causal language model",
    "masked": "masked language model",
    "seq2seq": "sequence-to-sequence model",
    "speech": "text-to-waveform model",
}
_ENDINGS = {
    "causal": "ForCausalLM or LMHeadModel",
    "masked": "ForMaskedLM",
    "seq2seq": "ForConditionalGeneration or MTModel",
    "speech": "VitsModel, BarkModel or another one that makes waveforms",
}
_AUTO = {
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "speech": "AutoModelForTextToWaveform",
}
_COUNT = re.compile(r"(layers?|experts?|blocks?|groups?|depths?|group_num)$")
LAYERS = 128  # that a model may have whatever its weights: some share them
SPARE = 1_000_000  # parameters
INDEX = "model.safetensors.index.json"
MAX_JSON = 64 << 20  # bytes


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


def find_model(name: str, revision: str, *, trust_remote_code: bool, allow_pickle: bool, others: str = "") -> Path:
    """The local directory of a model: ``name`` itself, or the pinned snapshot of a hub id.

    ``others``: what else the option may say, for the message. Raises UserError where neither is there, WorldError where
    the hub could not be reached.
    """
    try:
        path = Path(name).expanduser()
        is_there, is_directory = path.exists(), path.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long; the home of nobody
        problem = f"expected {others}a local directory: {getattr(error, 'strerror', None) or error}"
        raise UserError(problem, where=f"model {name[:200]}", fix="correct the path") from error
    if is_directory:
        return path
    if is_there:
        raise UserError(
            "expected the directory of a model, found a file", where=f"model {name}", fix="name its directory"
        )
    if not _HUB_ID.fullmatch(name) or not revision:
        raise UserError(
            f"expected {others}a local directory, or a hub id with a revision; found no such directory"
            + ("" if revision else " and no revision"),
            where=f"model {name}",
            fix="check the path (relative to the recipe), or set `revision` to the 40-digit commit of the hub model",
        )
    if not _COMMIT.fullmatch(revision):
        raise UserError(
            f"revision {revision!r} can change; expected the 40-digit hash of a commit",
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
    _read_config(path)
    if any(path.glob("*.safetensors")) or (path / INDEX).exists():
        count_weights(path)
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


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model's directory. Raises UserError where it is none."""
    fix = "copy the file again from the model's repository"
    try:
        if path.stat().st_size > MAX_JSON:
            raise UserError(f"expected at most {MAX_JSON:,} bytes", where=str(path), fix=fix)
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problem = f"expected a JSON object, found none that can be read: {error}"
        raise UserError(problem[:300], where=str(path), fix=fix) from error
    if not isinstance(found, dict):
        raise UserError(f"expected a JSON object, found {type(found).__name__}", where=str(path), fix=fix)
    return found


def _read_config(path: Path) -> dict[str, Any]:
    if not (path / "config.json").is_file():
        raise UserError(
            "config.json is missing", where=f"model {path}", fix="name the directory that save_pretrained wrote"
        )
    return _read_json(path / "config.json")


def _weight_files(path: Path) -> list[Path]:
    """The files that the weights lie in: one, or those that the index names. Raises UserError for one that leaves it."""
    whole, index = path / "model.safetensors", path / INDEX
    if whole.exists() or not index.exists():
        return [whole] if whole.exists() else sorted(path.glob("*.safetensors"))
    named = _read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        fix = "copy the file again from the model's repository"
        raise UserError("expected weight_map: a file name for each tensor", where=str(index), fix=fix)
    for name in sorted(set(named.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            problem = f"weight_map names {name!r}; expected the names of .safetensors files beside it"
            raise UserError(problem, where=str(index), fix="do not use this model, or correct its index")
        if not (path / name).is_file():
            fix = "copy it beside the others; with git, `git lfs pull`"
            raise UserError(f"weight_map names {name!r}, which is missing", where=str(index), fix=fix)
    return [path / name for name in sorted(set(named.values()))]


def count_weights(path: Path) -> tuple[int, int]:
    """(tensors, numbers in them), by the headers alone. Raises UserError where a file's header is wrong."""
    from math import prod

    from safetensors import SafetensorError, safe_open

    tensors = numbers = 0
    for file in _weight_files(path):
        try:
            with safe_open(file, "np") as opened:  # checks that the offsets fit the shapes, each other and the file
                shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            problem = f"expected weights in safetensors, found a damaged or truncated file: {str(error)[:200]}"
            raise UserError(problem, where=str(file), fix="copy it again; with git, `git lfs pull`") from error
        tensors, numbers = tensors + len(shapes), numbers + sum(map(prod, shapes))
    return tensors, numbers


def _require_covered(path: Path, kind: Kind, trust_remote_code: bool) -> None:
    """Raises UserError where config.json describes a larger model than the weights fill, before memory is taken for it."""
    import torch
    import transformers

    tensors, numbers = count_weights(path)
    where = str(path / "config.json")
    fix = "copy config.json and the weights from the same model"
    for key, value in _counts(_read_config(path)):
        if value > max(LAYERS, tensors):
            raise UserError(f"{key} is {value:,}, but the weights hold {tensors:,} tensors", where=where, fix=fix)
    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = getattr(transformers, _AUTO[kind]).from_config(config, trust_remote_code=trust_remote_code)
    described = sum(part.numel() for part in model.parameters())
    if described > 2 * numbers + SPARE:  # heads that are not there are told by name later
        problem = f"it describes {described:,} parameters, but the weights hold {numbers:,}"
        raise UserError(problem, where=where, fix=fix)


def _counts(config: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The numbers of layers, experts and the like: each is a module, and takes memory before it has any weight."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _counts(value)
        elif isinstance(value, int | float) and _COUNT.search(key):
            yield key, int(min(value, 10**18)) if value == value else 10**18  # noqa: PLR0124 (NaN)


def load_model(path: Path, kind: Kind, *, trust_remote_code: bool, allow_pickle: bool) -> tuple[Any, Any]:
    """(the model in float32 on the CPU, its transformers tokenizer). Raises UserError where the directory holds none."""
    import torch
    import transformers

    safe = check_files(path, allow_pickle)
    try:
        if safe:
            _require_covered(path, kind, trust_remote_code)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        model, report = getattr(transformers, _AUTO[kind]).from_pretrained(
            path,
            dtype=torch.float32,
            use_safetensors=safe,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except (AugmillError, MemoryError):
        raise
    except Exception as error:  # transformers raises whatever a wrong type in a foreign file leads to
        first = f"{type(error).__name__}: {error}".strip().split("\n")[0][:300]
        raise UserError(
            f"this is no {_NOUN[kind]} that transformers can load: {first}",
            where=f"model {path}",
            fix="expected config.json, weights in safetensors and the tokenizer's files of one such model; a model with "
            "code of its own also needs `trust_remote_code: true`",
        ) from error
    _require_vocabulary(tokenizer, path)
    if report["missing_keys"]:
        raise UserError(
            f"weights are missing, such as {min(report['missing_keys'])}: this is not (all of) a {_NOUN[kind]}",
            where=f"model {path}",
            fix=f"use a model whose architecture ends in {_ENDINGS[kind]}, with all its files",
        )
    if kind == "causal":
        _require_causal(model, path)
    return model, tokenizer


def _require_vocabulary(tokenizer: Any, path: Path) -> None:
    """Raises UserError for an empty tokenizer, such as transformers makes where it finds no files."""
    if set(range(len(tokenizer))) <= set(tokenizer.all_special_ids):
        raise UserError(
            "the tokenizer's files are missing, or hold no vocabulary",
            where=f"model {path}",
            fix="expected tokenizer.json, or a vocabulary such as vocab.txt, beside config.json; copy them from the "
            "model's repository",
        )


def _require_causal(model: Any, path: Path) -> None:
    """Raises UserError for one that sees the words it is to foretell, as a BERT does that transformers loads as causal."""
    import torch

    with torch.no_grad():
        one, other = (model.eval()(torch.tensor([[0, last]]), use_cache=True) for last in (0, 1))
    if one.get("past_key_values") is None or not torch.allclose(one.logits[0, 0], other.logits[0, 0], atol=1e-3):
        raise UserError(
            "this model reads in both directions or keeps no cache, so it cannot continue a text",
            where=f"model {path}",
            fix="`masked_lm` takes such a model; here use one that generates text, such as GPT-2 or Llama",
        )
