"""Fits a causal language model to labelled rows: the scratch tokenizer and model, and the training loop."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

SELECT_SHARE = 0.1
# Below 20 rows the select loss moves more by chance than by training.
SELECT_MIN_ROWS = 20
IGNORED = -100  # what cross entropy leaves out


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: AdamW (Loshchilov 2019), linear warm-up over 5 % of the steps, then a cosine."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    patience: int


def is_select(text: str) -> bool:
    """Whether a train row belongs to the part that only decides when to stop (a tenth, by the hash of its text)."""
    digest = hashlib.sha256(b"select\x00" + text.encode()).digest()
    return int.from_bytes(digest[:8], "big") < SELECT_SHARE * 2**64


def train_tokenizer(texts: Sequence[str], specials: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE (Radford 2019) with ``specials`` as its first ids: every Unicode text can be written with it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def scratch_model(vocabulary: int, positions: int, end: int, *, layers: int, hidden: int, heads: int) -> Any:
    """A GPT-2 with random weights from torch's current generator.

    GPT-2 rather than Llama: at this size the count of operations decides, and it has about half as many per layer.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=positions,
        n_embd=hidden,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu_pytorch_tanh",
        bos_token_id=end,
        eos_token_id=end,
    )
    return GPT2LMHeadModel(config)


def train(
    model: Any,
    rows: list[list[int]],
    select: list[list[int]],
    prompt: int,
    schedule: Schedule,
    rng: np.random.Generator,
    check_time: Callable[[], None],
) -> dict[str, Any]:
    """Trains ``model`` in place on token rows; the first ``prompt`` tokens of each are given, not learnt.

    The loss is the mean over the tokens of a batch. After each epoch the loss on ``select`` is measured; the best
    weights are kept, and ``patience`` epochs without a better one end the training. Without select rows all steps are
    taken and the last weights stay. Returns the record of the training: steps, losses by epoch.
    """

    optimiser = _optimiser(model, schedule)
    record: dict[str, Any] = {"steps": 0, "train_loss": [], "select_loss": []}
    best, best_loss, waited = None, math.inf, 0
    per_epoch = -(-len(rows) // schedule.batch_size)
    while record["steps"] < schedule.steps and (not select or waited < schedule.patience):
        model.train()
        losses = []
        for batch in _batches(rows, schedule.batch_size, rng):
            check_time()
            rate = schedule.learning_rate * _rate(record["steps"], schedule.steps)
            losses.append(_step(model, optimiser, batch, prompt, rate))
            record["steps"] += 1
            if record["steps"] >= schedule.steps:
                break
        record["train_loss"].append(round(sum(losses) / len(losses), 4))
        if not select or len(losses) < per_epoch / 2:
            continue  # nothing to judge by, or a last epoch cut short by the step budget
        loss_now = evaluate(model, select, prompt, schedule.batch_size)
        record["select_loss"].append(round(loss_now, 4))
        waited += 1
        if loss_now < best_loss:
            best_loss, waited = loss_now, 0
            best = {name: value.detach().clone() for name, value in model.state_dict().items()}
    if best is not None:
        model.load_state_dict(best)
    model.eval()
    return record


def _step(model: Any, optimiser: Any, batch: list[list[int]], prompt: int, rate: float) -> float:
    """One step of the optimiser; the loss before it."""
    import torch

    for group in optimiser.param_groups:
        group["lr"] = rate
    loss = _loss(model, batch, prompt)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def evaluate(model: Any, rows: list[list[int]], prompt: int, batch_size: int) -> float:
    """The mean loss per token over ``rows``, in nats."""
    import torch

    model.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            tokens = sum(len(row) - prompt for row in batch)
            total += float(_loss(model, batch, prompt)) * tokens
            count += tokens
    return total / count


def _optimiser(model: Any, schedule: Schedule) -> torch.optim.Optimizer:
    import torch

    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]  # norms and biases do not decay
    groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98))


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _batches(rows: list[list[int]], size: int, rng: np.random.Generator) -> Iterator[list[list[int]]]:
    """Every row once, in a random order, rows of like length together (a fifth less padding)."""
    order = rng.permutation(len(rows))
    pools = [order[start : start + 16 * size] for start in range(0, len(order), 16 * size)]
    sorted_rows = [index for pool in pools for index in sorted(pool, key=lambda index: (len(rows[index]), index))]
    chunks = [sorted_rows[start : start + size] for start in range(0, len(sorted_rows), size)]
    for chunk in rng.permutation(len(chunks)):
        yield [rows[index] for index in chunks[chunk]]


def _loss(model: Any, batch: list[list[int]], prompt: int) -> torch.Tensor:
    import torch

    length = max(map(len, batch))
    # Padding stands after a row's end, where causal attention cannot see it; its id is free.
    ids = np.zeros((len(batch), length), dtype=np.int64)
    wanted = np.full((len(batch), length), IGNORED, dtype=np.int64)
    for line, row in enumerate(batch):
        ids[line, : len(row)] = row
        wanted[line, prompt : len(row)] = row[prompt:]
    logits = model(input_ids=torch.from_numpy(ids).to(model.device), use_cache=False).logits[:, :-1]
    targets = torch.from_numpy(wanted[:, 1:].copy()).to(model.device)
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
