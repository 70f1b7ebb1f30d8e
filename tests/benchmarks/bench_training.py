"""Processor seconds of a training step of `causal_lm`: from scratch against transformers' Trainer, and of a LoRA step of a
pretrained model against its matrix products alone.

    python tests/benchmarks/bench_training.py [--models scratch,DIR] [--rows FILE] [--steps 40] [--repeats 5]
        [--options '{"precision": "bfloat16"}']

`scratch`: the default model and batch, useful tokens (no padding) per processor second; the Trainer has the same rows,
weights and batch size. DIR (`shared/models/get_models.sh`): steps of 8 rows of 24 tokens with an adapter of rank 8. The
products are those of each layer and its backward pass in the step's precision, and of the head where something is to be
said. One thread; the ways take turns; medians. Steps are taken from what a fit tells, without the first two.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import transformers

from augmill.tasks.contracts import ROW_ID, STRATUM, Context, FitInputs
from augmill.tasks.generators.causal.generator import CausalLM, CausalLMOptions
from augmill.tasks.generators.causal.options import SCRATCH, Adapter
from augmill.tasks.generators.lm.decode import torch_threads
from augmill.tasks.generators.lm.models import quiet

LINES, LENGTH = 8, 24  # rows of a LoRA step, and the tokens of each
AROUND = 3  # start, label, end
WARM = 2  # steps


def spent() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def fit(options: dict[str, Any], texts: list[str], folder: Path) -> tuple[list[float], dict[str, Path]]:
    """(processor seconds of each step but the last, the fit's files)."""
    strata = [str(at % 8) for at in range(len(texts))]
    table = pa.table({ROW_ID: [f"{at:06d}" for at in range(len(texts))], STRATUM: strata, "text": texts})
    told: list[float] = []
    context = Context(0, ("text",), folder, tell=lambda done, total, unit: told.append(spent()))
    none = table.slice(0, 0)
    files = CausalLM(CausalLMOptions(**options)).fit(FitInputs(table, none, none, none, none), context)
    return [after - before for before, after in pairwise(told)][WARM:], files


def trainer_rate(files: dict[str, Path], rows: list[list[int]], options: CausalLMOptions) -> float:
    """Useful tokens per processor second of transformers' Trainer, with its defaults."""
    config = transformers.AutoConfig.from_pretrained(files["config.json"].parent)
    model = transformers.AutoModelForCausalLM.from_config(config)
    told: list[tuple[float, int]] = []
    seen = 0

    def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        nonlocal seen
        told.append((spent(), seen))
        lines = [line["input_ids"] for line in batch]
        seen += sum(map(len, lines))
        longest = max(map(len, lines))

        def padded(fill: int) -> torch.Tensor:
            return torch.tensor([line + [fill] * (longest - len(line)) for line in lines])

        mask = torch.tensor([[1] * len(line) + [0] * (longest - len(line)) for line in lines])
        return {"input_ids": padded(0), "labels": padded(-100), "attention_mask": mask}

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, per_device_train_batch_size=options.batch_size, max_steps=options.max_steps, learning_rate=3e-3,
            report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        data: Any = [{"input_ids": row} for row in rows]
        transformers.Trainer(model, arguments, train_dataset=data, data_collator=collate).train()
    (first, before), (last, after) = told[WARM], told[-1]
    return (after - before) / (last - first)


def bench_scratch(texts: list[str], arguments: argparse.Namespace) -> list[str]:
    options = {"max_steps": arguments.steps} | arguments.options
    rates: dict[str, list[float]] = {"our loop": [], "Trainer": []}
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            steps, files = fit(options, texts, Path(folder))
            rows = encode_again(files, texts)
            made = CausalLMOptions(**options)
            each = made.batch_size * sum(map(len, rows)) / len(rows)
            rates["our loop"].append(each / statistics.mean(steps))
            rates["Trainer"].append(trainer_rate(files, rows, made))
    medians = {way: statistics.median(found) for way, found in rates.items()}
    return [
        f"| scratch | {way} | {rate:,.0f} tokens/s | {rate / medians['Trainer']:.2f} |" for way, rate in medians.items()
    ]


def encode_again(files: dict[str, Path], texts: list[str]) -> list[list[int]]:
    """The rows as the fit has them, by its own tokenizer: label, text, end."""
    from tokenizers import Tokenizer

    tokenizer, plan = Tokenizer.from_file(str(files["tokenizer.json"])), json.loads(files["lm.json"].read_text())
    label = next(iter(plan["labels"].values()))
    return [
        [*plan["start"], label, *tokenizer.encode(text, add_special_tokens=False).ids, plan["end"]] for text in texts
    ]


def lines_of(directory: str, texts: list[str]) -> list[str]:
    """Texts of so many tokens that their row has ``LENGTH``."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory).backend_tokenizer
    words, found, line = " ".join(texts).split(), [], ""
    for word in words:
        longer = f"{line} {word}".strip()
        count = len(tokenizer.encode(longer, add_special_tokens=False).ids)
        if count == LENGTH - AROUND:
            found.append(longer)
        line = longer if count < LENGTH - AROUND else ""
    return found[: 10 * LINES]


def products(files: dict[str, Path], dtype: torch.dtype) -> float:
    """Processor seconds of a step's matrix products: forward, and backward to the inputs of frozen weights."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.from_pretrained(files["config.json"].parent)
        )
    head = model.get_output_embeddings()
    shapes: dict[tuple[int, int, int], int] = {}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            places = LINES * (LENGTH - AROUND + 1 if module is head else LENGTH)
            shape = (places, *module.weight.shape)
            shapes[shape] = shapes.get(shape, 0) + 1
    return sum(count * _product(*shape, dtype) for shape, count in shapes.items())


def _product(places: int, outputs: int, inputs: int, dtype: torch.dtype) -> float:
    weight, given, back = (
        torch.randn(shape).to(dtype) for shape in ((outputs, inputs), (places, inputs), (places, outputs))
    )
    found = []
    for _ in range(8):
        started = spent()
        for _ in range(4):
            torch.nn.functional.linear(given, weight)
            back @ weight
        found.append((spent() - started) / 4)
    return statistics.median(found[1:])


def bench_adapter(directory: str, texts: list[str], arguments: argparse.Namespace) -> list[str]:
    lines = lines_of(directory, texts)
    found: dict[str, list[float]] = {"a LoRA step": [], "its matrix products": []}
    options = {"model": directory, "adapter": Adapter(), "batch_size": LINES, "max_steps": 10} | arguments.options
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            steps, files = fit(options, lines, Path(folder))
            found["a LoRA step"].append(statistics.median(steps))
            dtype = getattr(torch, options.get("precision", "float32"))
            found["its matrix products"].append(products(files, dtype))
    medians = {way: statistics.median(times) for way, times in found.items()}
    name = Path(directory).name
    return [
        f"| {name} | {way} | {time:.3f} s | {time / medians['its matrix products']:.2f} |"
        for way, time in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=SCRATCH, help="scratch, or directories, by commas")
    parser.add_argument(
        "--rows", type=Path, default=Path("../shared/data/banking77/train.jsonl"), help="JSON Lines with `text`"
    )
    parser.add_argument("--steps", type=int, default=40, help="of a training from scratch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--options", type=json.loads, default={}, help="more options of causal_lm, as JSON")
    arguments = parser.parse_args()
    texts = [json.loads(line)["text"] for line in arguments.rows.read_text(encoding="utf-8").splitlines()[:1000]]
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, options {arguments.options}")
    print("\n| model | way | processor time | ratio |\n|---|---|---:|---:|")
    with quiet(), torch_threads(1):
        for name in arguments.models.split(","):
            bench = bench_scratch(texts, arguments) if name == SCRATCH else bench_adapter(name, texts, arguments)
            print("\n".join(bench), flush=True)


if __name__ == "__main__":
    main()
