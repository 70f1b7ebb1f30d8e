"""Fits a sequence-to-sequence model to (source, target) tokens: the scratch model and the training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from augmill.tasks.contracts import Tell, tell_nobody

if TYPE_CHECKING:
    import torch

IGNORED = -100  # what cross entropy leaves out
Example = tuple[list[int], list[int]]


@dataclass(frozen=True)
class PairSchedule:
    """How long and how fast: AdamW (Loshchilov 2019), linear warm-up over 5 % of the steps, then a cosine."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float


def train_tokenizer(texts: Sequence[str], specials: Sequence[str], vocabulary: int) -> Any:
    """A BPE over characters with ``specials`` as its first ids; it may exceed ``vocabulary`` by rare characters.

    Characters and not bytes: a source is a train row, so none is unknown, and no part of one can be said.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=list(specials), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def scratch_model(vocabulary: int, pad: int, end: int, *, layers: int, hidden: int, heads: int) -> Any:
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
    draw_examples: Callable[[np.random.Generator], list[Example]],
    start: Sequence[int],
    pad: int,
    schedule: PairSchedule,
    rng: np.random.Generator,
    check_time: Callable[[], None],
    measure: Callable[[Any, list[Example], Sequence[int], int], torch.Tensor] | None = None,
    tell: Tell = tell_nobody,
) -> dict[str, Any]:
    """Trains ``model`` in place. ``draw_examples`` is asked anew for each epoch: a row has other spans each time.

    ``start``: what the decoder is given before a target. ``measure``: the loss by (model, batch, start, pad), for
    models that are no encoder-decoders. Returns the record: steps, mean loss per token by epoch.
    """
    import torch

    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]  # norms and biases do not decay
    groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98))
    record: dict[str, Any] = {"steps": 0, "train_loss": []}
    model.train()
    while record["steps"] < schedule.steps:
        losses = []
        for batch in _batches(draw_examples(rng), schedule.batch_size, rng):
            check_time()
            tell(record["steps"], schedule.steps, "steps")
            for group in optimiser.param_groups:
                group["lr"] = schedule.learning_rate * _rate(record["steps"], schedule.steps)
            loss = (measure or loss_of)(model, batch, start, pad)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
            record["steps"] += 1
            if record["steps"] >= schedule.steps:
                break
        record["train_loss"].append(round(sum(losses) / len(losses), 4))
    model.eval()
    return record


def loss_of(model: Any, batch: list[Example], start: Sequence[int], pad: int) -> torch.Tensor:
    """Mean cross entropy per target token, in nats."""
    import torch

    lead = len(start)
    ids = np.full((len(batch), max(len(source) for source, _ in batch)), pad, dtype=np.int64)
    seen = np.zeros_like(ids)
    given = np.full((len(batch), lead - 1 + max(len(target) for _, target in batch)), pad, dtype=np.int64)
    wanted = np.full(given.shape, IGNORED, dtype=np.int64)
    for line, (source, target) in enumerate(batch):
        ids[line, : len(source)], seen[line, : len(source)] = source, 1
        given[line, : lead - 1 + len(target)] = [*start, *target[:-1]]
        wanted[line, lead - 1 : lead - 1 + len(target)] = target
    tensors = [torch.from_numpy(part).to(model.device) for part in (ids, seen, given, wanted)]
    logits = model(
        input_ids=tensors[0], attention_mask=tensors[1], decoder_input_ids=tensors[2], use_cache=False
    ).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tensors[3].flatten(), ignore_index=IGNORED)


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _batches(examples: list[Example], size: int, rng: np.random.Generator) -> list[list[Example]]:
    """Every example once, in a random order, sources of like length together (less padding)."""
    order = rng.permutation(len(examples))
    pools = [order[start : start + 16 * size] for start in range(0, len(order), 16 * size)]
    ranked = [at for pool in pools for at in sorted(pool, key=lambda at: (len(examples[at][0]), at))]
    chunks = [ranked[start : start + size] for start in range(0, len(ranked), size)]
    return [[examples[at] for at in chunks[place]] for place in rng.permutation(len(chunks))]
