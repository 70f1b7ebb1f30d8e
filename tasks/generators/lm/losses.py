"""What a language model is asked in a training, and how far off it was: mean cross entropy per target, in nats.

An example is (what is read, what is to be said): for a causal and for a masked model a token or ``IGNORED`` for each place
of the row, for an encoder-decoder a target. The head of a model is its largest matrix product, so it is taken where
something is to be said and nowhere else.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

IGNORED = -100  # where nothing is to be said
Example = tuple[list[int], list[int]]
_HOOKING = threading.Lock()  # torch numbers hooks by a plain counter: two threads could be given one number
Ints = npt.NDArray[np.int64]


def count_targets(examples: Sequence[Example]) -> int:
    return sum(token != IGNORED for _, wanted in examples for token in wanted)


def causal_loss(model: Any, batch: Sequence[Example]) -> torch.Tensor:
    """Each token after those before it."""
    # Padding stands after a row's end, where causal attention cannot see it; its id is free.
    ids, wanted = _pad([row for row, _ in batch], 0), _pad([said for _, said in batch], IGNORED)
    asked = wanted[:, 1:] != IGNORED
    places = _tensor(np.flatnonzero(np.pad(asked, ((0, 0), (0, 1)))), model)
    logits = logits_at(model, places, input_ids=_tensor(ids, model), use_cache=False)
    return _cross_entropy(logits, wanted[:, 1:][asked])


def mask_loss(model: Any, batch: Sequence[Example], pad: int) -> torch.Tensor:
    """What stood in the masked places of a row."""
    ids, wanted = _pad([row for row, _ in batch], pad), _pad([said for _, said in batch], IGNORED)
    seen = _pad([[1] * len(row) for row, _ in batch], 0)
    places = _tensor(np.flatnonzero(wanted != IGNORED), model)
    logits = logits_at(model, places, input_ids=_tensor(ids, model), attention_mask=_tensor(seen, model))
    return _cross_entropy(logits, wanted[wanted != IGNORED])


def pair_loss(model: Any, batch: Sequence[Example], start: Sequence[int], pad: int) -> torch.Tensor:
    """A target for a source; ``start``: what the decoder is given before it."""
    ids, seen = _pad([source for source, _ in batch], pad), _pad([[1] * len(source) for source, _ in batch], 0)
    given = _pad([[*start, *target[:-1]] for _, target in batch], pad)
    wanted = _pad([[IGNORED] * (len(start) - 1) + target for _, target in batch], IGNORED)
    places = _tensor(np.flatnonzero(wanted != IGNORED), model)
    logits = logits_at(
        model, places, input_ids=_tensor(ids, model), attention_mask=_tensor(seen, model),
        decoder_input_ids=_tensor(given, model), use_cache=False,
    )  # fmt: skip
    return _cross_entropy(logits, wanted[wanted != IGNORED])


def logits_at(model: Any, places: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """(places, vocabulary) logits of the model at ``places``, counted through the batch row after row.

    Models differ in what they do around the head (T5 scales before it, Gemma 2 caps after it), so their own code runs,
    and the head finds fewer rows in its input. A model whose head is no module of its own gives all, of which these are
    taken. Threads may ask one model side by side.
    """
    own = threading.get_ident()

    def take(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (inputs[0].flatten(0, -2)[places], *inputs[1:]) if threading.get_ident() == own else None

    hook = None
    if has_head(model):
        with _HOOKING:
            hook = model.get_output_embeddings().register_forward_pre_hook(take)
    try:
        logits: torch.Tensor = model(**inputs).logits
    finally:
        if hook is not None:
            hook.remove()
    return logits if logits.dim() == 2 else logits.flatten(0, 1)[places]


def has_head(model: Any) -> bool:
    """Whether its last matrix is a module of its own, so that it can be taken at some places only."""
    import torch

    return isinstance(model.get_output_embeddings(), torch.nn.Linear)


def _cross_entropy(logits: torch.Tensor, wanted: Ints) -> torch.Tensor:
    import torch

    return torch.nn.functional.cross_entropy(logits.float(), torch.from_numpy(wanted).to(logits.device))


def _pad(rows: Sequence[Sequence[int]], fill: int) -> Ints:
    """(rows, the longest row's length), filled up behind each row."""
    out = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out


def _tensor(numbers: Ints, model: Any) -> torch.Tensor:
    import torch

    return torch.from_numpy(numbers).to(model.device)
