"""Checkpoints of a training in an extension's scratch space: after a kill it goes on from the last one, to the same weights.

A checkpoint is the sha256 of what follows and one safetensors file: weights, the optimiser's moments, the best weights so
far and the random states as tensors, the rest as JSON in its header. Two places take turns, so that one is whole at any
moment. Their key is a hash of all that decides the training: whatever stands there lies on the way of this one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from augmill.tasks.contracts import Scratch
from augmill.tasks.generators.lm.train import ModelTraining, TrainingSchedule

if TYPE_CHECKING:
    import torch

    from augmill.tasks.generators.causal.adapter import Adapted

PLACES = 2
_HASH = 32  # bytes
_log = logging.getLogger("augmill")
Tensors = dict[str, "torch.Tensor"]


def training_key(
    model: Any, rows: Sequence[list[list[int]]], schedule: TrainingSchedule, decided: dict[str, Any]
) -> str:
    """A hash of the weights, the rows, the schedule, the state of torch's generator and what else was ``decided``."""
    import torch

    digest = hashlib.sha256(json.dumps([asdict(schedule), decided], sort_keys=True).encode())
    digest.update(torch.get_rng_state().numpy().tobytes())
    for part in rows:
        lengths = np.array([len(part), *map(len, part)], dtype=np.int64)
        digest.update(lengths.tobytes() + np.array([token for row in part for token in row], dtype=np.int64).tobytes())
    for name, weight in model.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)} {weight.requires_grad}".encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


class Checkpoints:
    """The checkpoints of one training, at least ``seconds`` apart. ``adapted``: an adapter's own state goes with them."""

    def __init__(self, scratch: Scratch, key: str, seconds: float, adapted: Adapted | None = None) -> None:
        self.scratch, self.seconds, self.adapted = scratch, seconds, adapted
        self.keys = [f"training/{key}/{place}" for place in range(PLACES)]
        self.place, self.last, self.steps = 0, time.monotonic(), 0

    def restore(self, training: ModelTraining) -> None:
        """Puts the training where the furthest whole checkpoint has it; leaves it alone where there is none."""
        furthest: tuple[dict[str, Any], Tensors] | None = None
        for place, key in enumerate(self.keys):
            found = _read(self.scratch.get(key), key)
            if found is not None and (furthest is None or _steps(found) > _steps(furthest)):
                furthest, self.place = found, (place + 1) % PLACES
        if furthest is not None:
            self.steps = _steps(furthest)
            _put_back(training, *furthest, self.adapted)
            _log.info("causal_lm: training continues from a checkpoint after %d steps", self.steps)

    def save_if_due(self, training: ModelTraining) -> None:
        if time.monotonic() - self.last >= self.seconds:
            self.save(training)

    def save(self, training: ModelTraining) -> None:
        """Notes the state between two steps, unless it is noted already."""
        if training.record["steps"] == self.steps:
            return
        key = self.keys[self.place]
        self.scratch.remove(key)
        self.scratch.put_if_absent(key, _write(training, self.adapted))
        self.place, self.steps = (self.place + 1) % PLACES, training.record["steps"]
        self.last = time.monotonic()

    def clear(self) -> None:
        """After a training whose result is kept elsewhere."""
        for key in self.keys:
            self.scratch.remove(key)


def _steps(found: tuple[dict[str, Any], Tensors]) -> int:
    return int(found[0]["record"]["steps"])


def _write(training: ModelTraining, adapted: Adapted | None) -> bytes:
    import torch
    from safetensors.torch import save

    own = adapted.state() if adapted else ({}, {})
    said = {
        "record": training.record,
        "losses": training.losses,
        "order": training.order,
        "best_loss": training.best_loss,
        "waited": training.waited,
        "scaler": training.scaler.state_dict(),
        "adapter": own[0],
    }
    tensors = {f"weight.{name}": part for name, part in training.weights().items()}
    tensors |= {f"best.{name}": part for name, part in training.best.items()}
    tensors |= {f"adapter.{name}": part for name, part in own[1].items()}
    for index, moments in training.optimiser.state_dict()["state"].items():
        tensors |= {f"moment.{index}.{name}": part for name, part in moments.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if training.model.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(training.model.device)
    whole = {name: part.detach().cpu().contiguous() for name, part in tensors.items()}
    body: bytes = save(whole, metadata={"state": json.dumps(said, default=np.ndarray.tolist)})
    return hashlib.sha256(body).digest() + body


def _read(raw: bytes | None, key: str) -> tuple[dict[str, Any], Tensors] | None:
    from safetensors.torch import load

    if raw is None:
        return None
    body = raw[_HASH:]
    if hashlib.sha256(body).digest() != raw[:_HASH]:
        _log.warning("causal_lm: the checkpoint %s is damaged and ignored", key)
        return None
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    return json.loads(header["__metadata__"]["state"]), load(body)


def _put_back(training: ModelTraining, said: dict[str, Any], tensors: Tensors, adapted: Adapted | None) -> None:
    import torch

    def below(prefix: str) -> Tensors:
        return {name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)}

    device = training.model.device
    training.record, training.losses, training.order = said["record"], said["losses"], said["order"]
    training.best_loss, training.waited = said["best_loss"], said["waited"]
    training.best = {name: part.to(device) for name, part in below("best.").items()}
    kept = below("weight.")
    with torch.no_grad():
        for name, weight in training.weights().items():
            weight.copy_(kept[name])
    moments: dict[int, Tensors] = {}
    for name, part in below("moment.").items():
        index, moment = name.split(".")
        moments.setdefault(int(index), {})[moment] = part
    training.optimiser.load_state_dict(training.optimiser.state_dict() | {"state": moments})
    if said["scaler"]:
        training.scaler.load_state_dict(said["scaler"])
    if adapted:
        adapted.put_back(said["adapter"], below("adapter."))
    if training.order:
        training.rng.bit_generator.state = training.order
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], device)
