"""Fits a language model of any kind to examples: the tokenizers and models from scratch, and the one training loop."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from augmill.tasks.contracts import Context
from augmill.tasks.generators.lm.losses import Example, count_targets

if TYPE_CHECKING:
    import torch

SELECT_SHARE = 0.1
# Below 20 rows the select loss moves more by chance than by training.
SELECT_MIN_ROWS = 20
POOL = 16  # batches whose examples are put in order of length
Draw = Callable[[np.random.Generator], Sequence[Example]]
Loss = Callable[[Any, Sequence[Example]], "torch.Tensor"]


@dataclass(frozen=True)
class TrainingSchedule:
    """How long and how fast to train: AdamW (Loshchilov 2019), linear warm-up over 5 % of the steps, then a cosine.

    A step takes ``accumulate`` parts of ``batch_size`` examples.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    patience: int = 0
    accumulate: int = 1
    precision: str = "float32"


@dataclass
class ModelTraining:
    """A training under way: all that decides how it goes on, beside the examples and the schedule.

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


def watch(ctx: Context, steps: int, check_time: Callable[[], None]) -> Hooks:
    """For a training without checkpoints: it says how far it is, and ends where ``check_time`` raises."""

    def before_step(training: ModelTraining) -> None:
        check_time()
        ctx.tell(training.record["steps"], steps, "steps")

    return Hooks(before_step=before_step)


def is_select(text: str) -> bool:
    """Whether a train row belongs to the part that only decides when to stop (a tenth, by the hash of its text)."""
    digest = hashlib.sha256(b"select\x00" + text.encode()).digest()
    return int.from_bytes(digest[:8], "big") < SELECT_SHARE * 2**64


def train_tokenizer(
    texts: Sequence[str], specials: Sequence[str], vocabulary: int, units: Literal["bytes", "characters"] = "bytes"
) -> Any:
    """A BPE with ``specials`` as its first ids.

    Over ``bytes`` (Radford 2019) every Unicode text can be written with it. Over ``characters`` only those of ``texts``,
    which may exceed ``vocabulary``, and none of its tokens is a part of a character.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    alphabet: list[str] = []
    if units == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=list(specials), initial_alphabet=alphabet,
        show_progress=False,
    )  # fmt: skip
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


def scratch_pair_model(vocabulary: int, pad: int, end: int, *, layers: int, hidden: int, heads: int) -> Any:
    """A T5 with random weights from torch's current generator; it has no bound on positions."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=vocabulary,
        d_model=hidden,
        d_kv=hidden // heads,
        d_ff=4 * hidden,
        num_layers=layers,
        num_decoder_layers=layers,
        num_heads=heads,
        dropout_rate=0.1,
        pad_token_id=pad,
        eos_token_id=end,
        decoder_start_token_id=pad,
    )
    return T5ForConditionalGeneration(config)


def train(
    model: Any,
    draw: Draw,
    loss: Loss,
    schedule: TrainingSchedule,
    rng: np.random.Generator,
    hooks: Hooks = Hooks(),
    select: Sequence[Example] = (),
) -> ModelTraining:
    """Trains ``model`` in place. ``draw`` gives the examples of an epoch: it is asked anew for each, and may use ``rng``.

    ``loss``: the mean over the targets of a batch. After each epoch that on ``select`` is measured; the best weights are
    kept, and ``patience`` epochs without a better one end the training. Without select examples all steps are taken and
    the last weights stay. Returns the training; its record: steps, losses by epoch.
    """
    import torch

    scaler = torch.amp.GradScaler(model.device.type, enabled=schedule.precision == "float16")
    training = ModelTraining(model, _optimiser(model, schedule), scaler, rng)
    hooks.begin(training)
    record, per_step = training.record, schedule.batch_size * schedule.accumulate
    while record["steps"] < schedule.steps and (not select or training.waited < schedule.patience):
        examples = _epoch(training, draw, loss, schedule, hooks)
        steps, losses = len(training.losses), training.losses
        record["train_loss"].append(round(sum(losses) / steps, 4))
        training.losses = []
        # Nothing to judge by, or a last epoch cut short by the step budget.
        if select and steps >= -(-examples // per_step) / 2:
            _judge(training, evaluate(model, select, loss, schedule))
        hooks.after_epoch(training)
    with torch.no_grad():
        for name, weight in training.weights().items():
            if training.best:
                weight.copy_(training.best[name])
    model.eval()
    return training


def _epoch(training: ModelTraining, draw: Draw, loss: Loss, schedule: TrainingSchedule, hooks: Hooks) -> int:
    """Every example once, or as many as the step budget still allows. Returns how many there are."""
    training.model.train()
    training.order = dict(training.rng.bit_generator.state)
    done, record = len(training.losses), training.record
    examples = draw(training.rng)
    for at, batch in enumerate(_batches(examples, schedule.batch_size * schedule.accumulate, training.rng)):
        if at < done:
            continue
        if record["steps"] >= schedule.steps:
            break
        hooks.before_step(training)
        training.losses.append(_step(training, batch, loss, schedule, hooks))
        record["steps"] += 1
    return len(examples)


def _judge(training: ModelTraining, loss: float) -> None:
    """Keeps the weights where the loss on ``select`` is the best so far."""
    training.record["select_loss"].append(round(loss, 4))
    training.waited += 1
    if loss < training.best_loss:
        training.best_loss, training.waited = loss, 0
        training.best = {name: weight.clone() for name, weight in training.weights().items()}


def _step(
    training: ModelTraining, batch: Sequence[Example], loss: Loss, schedule: TrainingSchedule, hooks: Hooks
) -> float:
    """One step of the optimiser; the loss before it. Each part of the batch counts by its targets."""
    import torch

    model, optimiser, scaler = training.model, training.optimiser, training.scaler
    for group in optimiser.param_groups:
        group["lr"] = schedule.learning_rate * _rate(training.record["steps"], schedule.steps)
    optimiser.zero_grad()
    whole, total = count_targets(batch), 0.0
    for start in range(0, len(batch), schedule.batch_size):
        part = batch[start : start + schedule.batch_size]
        with _precision(model, schedule):
            lost = loss(model, part)
        lost = (lost + hooks.extra_loss()) * (count_targets(part) / whole)
        scaler.scale(lost).backward()
        total += float(lost.detach())
    scaler.unscale_(optimiser)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimiser)
    scaler.update()
    hooks.after_step(training)
    return total


def evaluate(model: Any, examples: Sequence[Example], loss: Loss, schedule: TrainingSchedule) -> float:
    """The mean loss per target over ``examples``, in nats."""
    import torch

    model.eval()
    total = 0.0
    with torch.inference_mode(), _precision(model, schedule):
        for start in range(0, len(examples), schedule.batch_size):
            batch = examples[start : start + schedule.batch_size]
            total += float(loss(model, batch)) * count_targets(batch)
    return total / count_targets(examples)


def _precision(model: Any, schedule: TrainingSchedule) -> AbstractContextManager[Any]:
    import torch

    if schedule.precision == "float32":
        return nullcontext()
    return torch.autocast(model.device.type, getattr(torch, schedule.precision))


def _optimiser(model: Any, schedule: TrainingSchedule) -> torch.optim.Optimizer:
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.dim() >= 2]
    vectors = [parameter for parameter in trained if parameter.dim() < 2]  # norms and biases do not decay
    groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98), fused=True)


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _batches(examples: Sequence[Example], size: int, rng: np.random.Generator) -> Iterator[list[Example]]:
    """Every example once, in a random order, those of like length together (a fifth less padding)."""
    lengths = [(len(read), len(said)) for read, said in examples]
    order = rng.permutation(len(examples)).tolist()
    pools = [order[start : start + POOL * size] for start in range(0, len(order), POOL * size)]
    ranked = [at for pool in pools for at in sorted(pool, key=lambda at: (lengths[at], at))]
    chunks = [ranked[start : start + size] for start in range(0, len(ranked), size)]
    for chunk in rng.permutation(len(chunks)):
        yield [examples[at] for at in chunks[chunk]]
