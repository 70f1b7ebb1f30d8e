"""Generated tokens per second: our batched loop, batched ``generate``, one ``generate`` call per row. Same weights.

    python tests/benchmarks/bench_decode.py [--models scratch,gpt2,DIR] [--device cuda:0] [--repeats 5]

Every row is continued by the same number of tokens (no end token), sampled with temperature 0.9, top-k 50 and top-p
0.95. Repeats take turns, so that a slow minute of the machine hits all ways alike; medians, and each row's ratio to the
last. Imports neither Prefect nor polars: runs on a bare GPU machine, with the repository's root on the path.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from augmill.tasks.generators.lm.decode import Grammar, Sampling, decode, torch_threads
from augmill.tasks.generators.lm.load import load_pretrained
from augmill.tasks.generators.lm.models import quiet
from augmill.tasks.generators.lm.train import scratch_model
from augmill.tasks.rows.randomness import uniforms

SAMPLING = Sampling(temperature=0.9, top_k=50, top_p=0.95, min_p=0.0, repetition_penalty=1.0)
END = 0  # banned in both, so that no row ends early


def open_model(name: str) -> Any:
    """``scratch``: the default of causal_lm; ``gpt2``: GPT-2's shape with random weights; else a directory."""
    torch.manual_seed(0)
    if name == "scratch":
        return scratch_model(1000, 128, END, layers=2, hidden=128, heads=4)
    if name == "gpt2":
        return scratch_model(50257, 1024, END, layers=12, hidden=768, heads=12)
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


def generate(model: Any, prompts: torch.Tensor, steps: int) -> None:
    with torch.inference_mode():
        made = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), do_sample=True, max_new_tokens=steps,
            min_new_tokens=steps, temperature=SAMPLING.temperature, top_k=SAMPLING.top_k, top_p=SAMPLING.top_p,
            pad_token_id=END, eos_token_id=None, suppress_tokens=[END],
        )  # fmt: skip
    assert made.shape[1] == prompts.shape[1] + steps


def measure(way: Callable[[], None], rows: int, steps: int, device: torch.device) -> float:
    started = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return rows * steps / (time.perf_counter() - started)


def bench(name: str, arguments: argparse.Namespace) -> list[str]:
    device = torch.device(arguments.device)
    model = open_model(name).to(device).eval()
    prompts = torch.randint(1, 500, (arguments.rows, 2), device=device)
    alone = min(arguments.alone, arguments.rows)
    steps = arguments.steps

    def row_by_row() -> None:
        for row in range(alone):
            generate(model, prompts[row : row + 1], steps)

    ways: dict[str, tuple[Callable[[], None], int]] = {
        "one `generate` a row": (row_by_row, alone),
        f"`generate`, batch {arguments.rows}": (lambda: generate(model, prompts, steps), arguments.rows),
        f"our loop, batch {arguments.rows}": (
            lambda: our_loop(model, prompts, steps, arguments.threads),
            arguments.rows,
        ),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(arguments.repeats + 1):
        for way, (run, rows) in ways.items():
            rate = measure(run, rows, steps, device)
            if repeat:  # the first is warm-up
                rates[way].append(rate)
    medians = {way: statistics.median(found) for way, found in rates.items()}
    base = medians[f"our loop, batch {arguments.rows}"]
    return [f"| {name} | {way} | {rate:,.0f} | {base / rate:.1f} |" for way, rate in medians.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="scratch,gpt2", help="scratch, gpt2 or directories, by commas")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--alone", type=int, default=16, help="rows of the way that takes one call a row")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    where = torch.cuda.get_device_name(arguments.device) if arguments.device.startswith("cuda") else platform.machine()
    print(f"{where}, {arguments.threads} threads; torch {torch.__version__}, transformers {transformers.__version__}")
    print("\n| model | way | tokens/s | our loop is faster by |\n|---|---|---:|---:|")
    with quiet():
        for name in arguments.models.split(","):
            print("\n".join(bench(name, arguments)))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
