"""llama.cpp beside `bench_decode.py`'s ways: a GPT-2 written as GGUF, and its batched sampling by the same rules.

Needs packages that the project does not: `pip install --no-deps --target DIR xllamacpp gguf`, then `PYTHONPATH=DIR`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from augmill.tasks.generators.lm.decode import Sampling

INSTALL = "llama.cpp is not installed: pip install --no-deps --target DIR xllamacpp gguf; PYTHONPATH=DIR"
NAMES = {"ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
         "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}  # fmt: skip
WHOLE = {"wte.weight": "token_embd.weight", "wpe.weight": "position_embd.weight",
         "ln_f.weight": "output_norm.weight", "ln_f.bias": "output_norm.bias"}  # fmt: skip


def is_there() -> bool:
    return all(importlib.util.find_spec(name) for name in ("xllamacpp", "gguf"))


def name_of(name: str) -> str:
    """llama.cpp's name of a tensor that transformers calls ``name``, behind `transformer.`."""
    if name in WHOLE:
        return WHOLE[name]
    _, layer, rest = name.split(".", 2)
    part, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def write_gguf(model: Any, precision: str, path: Path) -> None:
    """A GPT2LMHeadModel, its matrices in ``precision`` (`f32` or `bf16`), with a vocabulary of made-up words."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"w{at}" for at in range(config.vocab_size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size)
    writer.add_token_merges(["w 1"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    half, single = gguf.GGMLQuantizationType.BF16, gguf.GGMLQuantizationType.F32
    for name, weight in model.transformer.named_parameters():
        # transformers' matrices stand the other way round, but for the embeddings.
        turned = weight.T if weight.dim() == 2 and name not in WHOLE else weight
        found = turned.detach().float().contiguous().numpy()
        kind = half if precision == "bf16" and weight.dim() == 2 and name != "wpe.weight" else single
        writer.add_tensor(name_of(name), gguf.quants.quantize(found, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def way(path: Path, prompts: torch.Tensor, steps: int, threads: int, sampling: Sampling) -> Callable[[], None]:
    """To be timed: all prompts continued by ``steps`` tokens, as many at a time as there are prompts."""
    import xllamacpp

    rows, params = prompts.tolist(), xllamacpp.CommonParams()
    params.model.path, params.n_parallel, params.warmup, params.kv_unified = str(path), len(rows), False, True
    params.n_ctx, params.n_batch, params.n_ubatch = len(rows) * 64, 2048, max(512, len(rows))
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_prompt, params.cache_ram_mib, params.verbosity = False, 0, -1
    server = xllamacpp.Server(params)

    def ask(at: int) -> None:
        asked = {
            "prompt": rows[at], "n_predict": steps, "ignore_eos": True, "cache_prompt": False, "seed": at,
            "samplers": ["top_k", "temperature", "top_p"], "top_k": sampling.top_k, "top_p": sampling.top_p,
            "temperature": sampling.temperature,
        }  # fmt: skip
        found = server.handle_completions(asked)
        found = json.loads(found) if isinstance(found, str | bytes) else found
        assert found["usage"]["completion_tokens"] == steps, found

    def run() -> None:
        with ThreadPoolExecutor(len(rows)) as pool:
            list(pool.map(ask, range(len(rows))))

    return run
