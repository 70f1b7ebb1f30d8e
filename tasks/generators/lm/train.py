"""Fits a causal language model to labelled rows: the scratch tokenizer and model, and the training loop."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

SELECT_SHARE = 0.1
# Below 20 rows the select loss moves more by chance than by training.
SELECT_MIN_ROWS = 20
IGNORED = -100  # what cross entropy leaves out


@dataclass(frozen=True)
class TrainingSchedule:
    """How long and how fast to train: AdamW (Loshchilov 2019), linear warm-up over 5 % of the steps, then a cosine.

    A step takes ``accumulate`` parts of ``batch_size`` rows.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    patience: int
    accumulate: int = 1
    precision: str = "float32"


@dataclass
class ModelTraining:
    """A training under way: all that decides how it goes on, beside the rows and the schedule.

    ``order`` is the state of ``rng`` at the beginning of the epoch, ``losses`` what the epoch's steps so far have lost:
    an epoch broken off goes on behind as many batches of the same order.
    """

    model: Any
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    rng: np.random.Generator
    record: dict[str, Any] = field(default_factory=lambda: {"steps": 0, "train_loss": [], "select_loss": []})
    losses: list[float] = field(default_factory=list)
    order: dict[str, Any] = field(default_factory=dict)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    best_loss: float = math.inf
    waited: int = 0

    def weights(self) -> dict[str, torch.Tensor]:
        """What is trained, by name; a matrix that two places share stands once."""
        return {name: part.detach() for name, part in self.model.named_parameters() if part.requires_grad}


def _nothing(training: ModelTraining) -> None:
    """What a hook does that nobody needs."""


@dataclass(frozen=True)
class Hooks:
    """What happens around the steps of a training; any of it may raise.

    ``begin`` may put the training where another one was broken off. ``after_step`` finds the step's gradients still
    there. What ``extra_loss`` gives is added to a step's loss.
    """

    begin: Callable[[ModelTraining], None] = _nothing
    before_step: Callable[[ModelTraining], None] = _nothing
    after_step: Callable[[ModelTraining], None] = _nothing
    after_epoch: Callable[[ModelTraining], None] = _nothing
    extra_loss: Callable[[], Any] = float


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
    schedule: TrainingSchedule,
    rng: np.random.Generator,
    hooks: Hooks = Hooks(),
) -> ModelTraining:
    """Trains ``model`` in place on token rows; the first ``prompt`` tokens of each are given, not learnt.

    The loss is the mean over the tokens of a batch. After each epoch the loss on ``select`` is measured; the best
    weights are kept, and ``patience`` epochs without a better one end the training. Without select rows all steps are
    taken and the last weights stay. Returns the training; its record: steps, losses by epoch.
    """
    import torch

    scaler = torch.amp.GradScaler(model.device.type, enabled=schedule.precision == "float16")
    training = ModelTraining(model, _optimiser(model, schedule), scaler, rng)
    hooks.begin(training)
    record, per_step = training.record, schedule.batch_size * schedule.accumulate
    while record["steps"] < schedule.steps and (not select or training.waited < schedule.patience):
        _epoch(training, rows, prompt, schedule, hooks)
        steps, losses = len(training.losses), training.losses
        record["train_loss"].append(round(sum(losses) / steps, 4))
        training.losses = []
        # Nothing to judge by, or a last epoch cut short by the step budget.
        if select and steps >= -(-len(rows) // per_step) / 2:
            _judge(training, evaluate(model, select, prompt, schedule))
        hooks.after_epoch(training)
    with torch.no_grad():
        for name, weight in training.weights().items():
            if training.best:
                weight.copy_(training.best[name])
    model.eval()
    return training


def _epoch(
    training: ModelTraining, rows: list[list[int]], prompt: int, schedule: TrainingSchedule, hooks: Hooks
) -> None:
    """Every row once, or as many as the step budget still allows."""
    training.model.train()
    training.order = dict(training.rng.bit_generator.state)
    done, record = len(training.losses), training.record
    for at, batch in enumerate(_batches(rows, schedule.batch_size * schedule.accumulate, training.rng)):
        if at < done:
            continue
        if record["steps"] >= schedule.steps:
            break
        hooks.before_step(training)
        training.losses.append(_step(training, batch, prompt, schedule, hooks))
        record["steps"] += 1


def _judge(training: ModelTraining, loss: float) -> None:
    """Keeps the weights where the loss on ``select`` is the best so far."""
    training.record["select_loss"].append(round(loss, 4))
    training.waited += 1
    if loss < training.best_loss:
        training.best_loss, training.waited = loss, 0
        training.best = {name: weight.clone() for name, weight in training.weights().items()}


def _step(
    training: ModelTraining, batch: list[list[int]], prompt: int, schedule: TrainingSchedule, hooks: Hooks
) -> float:
    """One step of the optimiser; the loss before it. Each part of the batch counts by its tokens."""
    import torch

    model, optimiser, scaler = training.model, training.optimiser, training.scaler
    for group in optimiser.param_groups:
        group["lr"] = schedule.learning_rate * _rate(training.record["steps"], schedule.steps)
    optimiser.zero_grad()
    whole, total = sum(len(row) - prompt for row in batch), 0.0
    for start in range(0, len(batch), schedule.batch_size):
        part = batch[start : start + schedule.batch_size]
        share = sum(len(row) - prompt for row in part) / whole
        loss = (_loss(model, part, prompt, schedule.precision) + hooks.extra_loss()) * share
        scaler.scale(loss).backward()
        total += float(loss.detach())
    scaler.unscale_(optimiser)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimiser)
    scaler.update()
    hooks.after_step(training)
    return total


def evaluate(model: Any, rows: list[list[int]], prompt: int, schedule: TrainingSchedule) -> float:
    """The mean loss per token over ``rows``, in nats."""
    import torch

    model.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(rows), schedule.batch_size):
            batch = rows[start : start + schedule.batch_size]
            tokens = sum(len(row) - prompt for row in batch)
            total += float(_loss(model, batch, prompt, schedule.precision)) * tokens
            count += tokens
    return total / count


def _optimiser(model: Any, schedule: TrainingSchedule) -> torch.optim.Optimizer:
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.dim() >= 2]
    vectors = [parameter for parameter in trained if parameter.dim() < 2]  # norms and biases do not decay
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


def _loss(model: Any, batch: list[list[int]], prompt: int, precision: str) -> torch.Tensor:
    import torch

    length = max(map(len, batch))
    # Padding stands after a row's end, where causal attention cannot see it; its id is free.
    ids = np.zeros((len(batch), length), dtype=np.int64)
    wanted = np.full((len(batch), length), IGNORED, dtype=np.int64)
    for line, row in enumerate(batch):
        ids[line, : len(row)] = row
        wanted[line, prompt : len(row)] = row[prompt:]
    dtype = getattr(torch, precision)
    with torch.autocast(model.device.type, dtype) if precision != "float32" else nullcontext():
        logits = model(input_ids=torch.from_numpy(ids).to(model.device), use_cache=False).logits[:, :-1]
    targets = torch.from_numpy(wanted[:, 1:].copy()).to(model.device)
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
