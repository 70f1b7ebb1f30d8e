"""Generated tokens per processor second: our batched loop, batched ``generate``, one ``generate`` call per row, and the

matrix products alone. Same weights, same sampling.

    python tests/benchmarks/bench_decode.py [--models scratch,5m,gpt2,bart,ending,DIR] [--device cuda:0]
        [--repeats 5] [--llama-cpp DIR]

Every row is continued by the same number of tokens (no end token), sampled with temperature 0.9, top-k 50 and top-p
0.95. ``bart`` rewrites sources of 4 to 40 tokens, and so does ``ending``, whose targets end at random: a token behind
its row's end is of no use. Repeats take turns, so that a slow minute of the machine hits all ways alike; medians, and
how much faster the loop is in the precision that ``auto`` chooses. On a GPU, seconds of the clock. Imports neither
Prefect nor polars: runs on a bare GPU machine, with the repository's root on the path.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
import transformers

from augmill.tasks.contracts import Context
from augmill.tasks.generators.lm.decode import Grammar, Sampling, decode, lower, torch_threads
from augmill.tasks.generators.lm.encoder_decoder import Frame, in_parts, pad_rows, sample
from augmill.tasks.generators.lm.load import load_pretrained
from augmill.tasks.generators.lm.models import quiet
from augmill.tasks.generators.lm.train import scratch_model
from augmill.tasks.rows.randomness import uniforms

SAMPLING = Sampling(temperature=0.9, top_k=50, top_p=0.95, min_p=0.0, repetition_penalty=1.0)
END = 0  # banned in all, so that no row ends early
SHAPES = {"scratch": (1000, 2, 128, 4), "5m": (1000, 6, 256, 8), "gpt2": (50257, 12, 768, 12)}
Ways = dict[str, tuple[Callable[[], Any], int]]  # what is timed, and of how many rows


def open_model(name: str) -> Any:
    """A shape with random weights (vocabulary, layers, width, heads), BART's base shape, or a directory."""
    torch.manual_seed(0)
    if name in SHAPES:
        vocabulary, layers, hidden, heads = SHAPES[name]
        return scratch_model(vocabulary, 1024, END, layers=layers, hidden=hidden, heads=heads)
    if name in ("bart", "ending"):
        model = transformers.BartForConditionalGeneration(transformers.BartConfig(vocab_size=8000, encoder_layers=6,
            decoder_layers=6, d_model=256, encoder_ffn_dim=1024, decoder_ffn_dim=1024, encoder_attention_heads=8,
            decoder_attention_heads=8, forced_eos_token_id=None))  # fmt: skip
        # No row ends, or one of 16 or so at each token.
        model.final_logits_bias[0, 2] = 1.0 if name == "ending" else -1e9
        return model
    return load_pretrained(Path(name), trust_remote_code=False, allow_pickle=False).model


def our_loop(model: Any, prompts: torch.Tensor, steps: int, threads: int) -> None:
    """As CausalLM._decode: on a CPU one thread a part, on a GPU one part."""
    lanes = threads if model.device.type == "cpu" else 1
    noise = uniforms(np.arange(len(prompts)), steps)
    grammar = Grammar(END, 1, (END,))
    parts = np.array_split(np.arange(len(prompts)), lanes)
    ids = prompts.cpu().numpy()

    def run(part: Any) -> None:
        tokens, _ = decode(model, ids[part], noise[part], grammar, SAMPLING)
        assert (tokens >= 0).all()

    if lanes == 1:
        run(parts[0])
        return
    with torch_threads(1), ThreadPoolExecutor(lanes) as pool:
        list(pool.map(run, parts))


def generate(
    model: Any, prompts: torch.Tensor, steps: int, mask: torch.Tensor | None = None, end: int | None = None
) -> int:
    """How many useful tokens: those of a row up to its ``end``."""
    with torch.inference_mode():
        made = model.generate(
            prompts, attention_mask=torch.ones_like(prompts) if mask is None else mask, do_sample=True,
            max_new_tokens=steps, min_new_tokens=steps if end is None else None, temperature=SAMPLING.temperature,
            top_k=SAMPLING.top_k, top_p=SAMPLING.top_p, pad_token_id=END, eos_token_id=end, suppress_tokens=[END],
        )  # fmt: skip
    if end is None:
        assert made.shape[1] >= steps
        return len(prompts) * steps
    ended = made[:, 1:] == end
    return int((ended.cumsum(1) - ended.long() == 0).sum())


def products(model: Any, rows: int, steps: int) -> Callable[[], None]:
    """To be timed: every matrix of the decoder times a batch of vectors in bfloat16, and the head's, once a step."""
    matrices = [part for name, part in model.named_parameters() if part.dim() == 2 and "wpe" not in name]
    weights = [part.detach().to(torch.bfloat16) for part in matrices]  # GPT-2's stand the other way round
    turned = [not isinstance(model, transformers.GPT2LMHeadModel) or at == 0 for at in range(len(weights))]
    parts = [weight if turn else weight.T.contiguous() for weight, turn in zip(weights, turned, strict=True)]
    given = {part.shape[1]: torch.randn(rows, part.shape[1], device=model.device).bfloat16() for part in parts}

    def run() -> None:
        with torch.inference_mode(), torch_threads(1):  # two would wait for each other by spinning
            for _ in range(steps):
                for part in parts:
                    torch.nn.functional.linear(given[part.shape[1]], part)

    return run


def causal_ways(model: Any, arguments: argparse.Namespace) -> Ways:
    prompts = torch.randint(1, 500, (arguments.rows, 2), device=model.device)
    alone, steps, rows = min(arguments.alone, arguments.rows), arguments.steps, arguments.rows
    auto = lower(copy.deepcopy(model), "auto")

    def row_by_row() -> None:
        for row in range(alone):
            generate(model, prompts[row : row + 1], steps)

    ways: Ways = {
        "one `generate` a row": (row_by_row, alone),
        f"`generate`, batch {rows}": (lambda: generate(model, prompts, steps), rows),
        f"our loop, float32, batch {rows}": (lambda: our_loop(model, prompts, steps, arguments.threads), rows),
        f"matrix products alone, bfloat16, batch {rows}": (products(model, rows, steps), rows),
    }
    for precision in ("f32", "bf16") if arguments.llama_cpp else ():
        path = Path(arguments.llama_cpp) / f"{precision}.gguf"
        llama_cpp.write_gguf(model, precision, path)
        run = llama_cpp.way(path, prompts, steps, arguments.threads, SAMPLING)
        ways[f"llama.cpp, {precision}, batch {rows}"] = run, rows
    return ways | {f"our loop, auto, batch {rows}": (lambda: our_loop(auto, prompts, steps, arguments.threads), rows)}


def seq2seq_ways(model: Any, arguments: argparse.Namespace, ending: bool) -> Ways:
    """Sources of mixed lengths, padded to the longest for ``generate``; and targets too where they are ``ending``."""
    rows, steps, rng = arguments.rows, arguments.steps, np.random.default_rng(0)
    sources = [rng.integers(3, 8000, length).tolist() for length in rng.integers(4, 40, rows)]
    padded = torch.from_numpy(pad_rows(sources, max(map(len, sources))))
    mask = (padded >= 0).long()
    context = Context(seed=0, fields=("text",), workdir=Path(), threads=arguments.threads)
    noise = uniforms(np.arange(rows), steps)
    auto = lower(copy.deepcopy(model), "auto")

    def ours(model: Any) -> int:
        def run(part: list[int]) -> list[Any]:
            lines = pad_rows([sources[at] for at in part], 1024)
            return sample(model, lines, [(2,)] * len(part), noise[part], Frame((2,), (END, 1)), SAMPLING)

        made = in_parts(sources, run, 256, 1024, context, "bench")
        return sum(steps if row is None else len(row) + 1 for row in made)

    end = 2 if ending else None
    return {
        f"padded `generate`, batch {rows}": (lambda: generate(model, padded.clamp(min=1), steps, mask, end), rows),
        f"our loop, float32, batch {rows}": (lambda: ours(model), rows),
        f"our loop, auto, batch {rows}": (lambda: ours(auto), rows),
    }


def spent(device: torch.device) -> float:
    """Processor seconds of this process; on a GPU seconds of the clock."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def bench(name: str, arguments: argparse.Namespace) -> list[str]:
    device = torch.device(arguments.device)
    model = open_model(name).to(device).eval()
    pairs = name in ("bart", "ending")
    ways = seq2seq_ways(model, arguments, name == "ending") if pairs else causal_ways(model, arguments)
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(arguments.repeats + 1):
        for way, (run, rows) in ways.items():
            started = spent(device)
            made = run() or rows * arguments.steps
            if repeat:  # the first is warm-up
                rates[way].append(made / (spent(device) - started))
    medians = {way: statistics.median(found) for way, found in rates.items()}
    base = list(medians.values())[-1]
    return [f"| {name} | {way} | {rate:,.0f} | {base / rate:.2f} |" for way, rate in medians.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="scratch,5m,gpt2,bart,ending", help="shapes or directories, by commas")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--alone", type=int, default=16, help="rows of the way that takes one call a row")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--llama-cpp", metavar="DIR", help="GPT-2's shapes by llama.cpp too, written into DIR as GGUF")
    arguments = parser.parse_args()
    if arguments.llama_cpp and not llama_cpp.is_there():
        parser.error(llama_cpp.INSTALL)
    torch.set_num_threads(arguments.threads)
    where = torch.cuda.get_device_name(arguments.device) if arguments.device.startswith("cuda") else platform.machine()
    print(f"{where}, {arguments.threads} threads; torch {torch.__version__}, transformers {transformers.__version__}")
    print("\n| model | way | tokens a processor second | our loop is faster by |\n|---|---|---:|---:|")
    with quiet():
        for name in arguments.models.split(","):
            print("\n".join(bench(name, arguments)))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
