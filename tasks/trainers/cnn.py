"""A small convolutional network, for pictures and sound: every training takes the same number of steps, whatever its rows.

It sees each row as planes of numbers (``planes`` of its kind): a picture's colours, a sound's log-mel spectrogram. It does
not augment while it trains, as trainers elsewhere do: what the gate measures is what the rows bring, and a trainer that
makes such rows itself would hide it. It chooses nothing either: a number of steps chosen in each arm would not be equal.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import Ints
from augmill.tasks.rows.kinds import kinds_of
from augmill.tasks.trainers.contract import Prediction, Trainer, TrainerInputs, Training
from augmill.tasks.trainers.logistic import log_odds
from augmill.tasks.trainers.tuning import THREADS, learnt, require_threads, torch_content, torch_side_by_side

if TYPE_CHECKING:
    import torch

BLOCK = 512  # rows that are turned into planes, or predicted, at a time
WARM = 0.2  # share of the steps in which the learning rate rises
Planes = npt.NDArray[np.uint8]  # (rows, channels, side, side): a quarter of the memory of floats


class Planar(Protocol):
    """A kind whose rows can be seen as planes."""

    def planes(self, columns: pa.Table, side: int) -> npt.NDArray[np.float32]:
        """(rows, channels, side, side), 0 to 1: the channels of all fields one after the other."""


@dataclass(frozen=True)
class CnnOptions:
    width: int = field(
        default=16, metadata={"help": "channels of the first layer; later ones have two and four times as many"}
    )
    net: Literal["plain", "residual"] = field(
        default="plain",
        metadata={"help": "`plain`: four layers; `residual`: seven, three times as dear"},
    )
    norm: Literal["batch", "group"] = field(
        default="batch",
        metadata={"help": "what activations are normalised by: the batch, or groups of channels of each row"},
    )
    side: int = field(default=32, metadata={"help": "pixels that pictures and spectrograms are resized to, each way"})
    steps: int = field(default=400, metadata={"help": "steps of every training of every arm"})
    batch: int = field(default=64, metadata={"help": "rows of a step"})
    learning_rate: float = field(
        default=0.003, metadata={"help": "at its highest: it rises for a fifth of the steps, then falls"}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "weight decay of AdamW"})
    threads: int = field(default=0, metadata=THREADS)

    def __post_init__(self) -> None:
        bounds = [
            ("width", self.width in range(4, 257, 4), "a multiple of 4 from 4 to 256"),
            ("side", 8 <= self.side <= 512, "8 to 512"),
            ("steps", 1 <= self.steps <= 1_000_000, "1 to 1,000,000"),
            ("batch", 2 <= self.batch <= 4096, "2 to 4,096"),
            ("learning_rate", 0 < self.learning_rate <= 1, "above 0, at most 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
        ]
        for name, holds, expected in bounds:
            if not holds:
                raise ValueError(f"trainer.cnn.{name}: expected {expected}, found {getattr(self, name)}")
        require_threads("trainer.cnn", self.threads)


class CnnTrainer(Trainer):
    """Four or seven convolutions, global average, AdamW; several trainings side by side, each in one thread.

    Rows weigh in the loss. With the same number of threads, which is one, a training gives the same numbers again. What
    is finished rests in ``workdir``.
    """

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[Any]] = CnnOptions
    kinds: ClassVar[tuple[str, ...]] = ("image", "audio")
    problems: ClassVar[tuple[str, ...]] = ("classification", "regression")
    scores: ClassVar[bool] = True  # of classes

    def content(self) -> dict[str, str]:
        return torch_content()

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        rows = _Views(inputs, self.options.side)
        yield from torch_side_by_side(
            lambda training: _rested(rows, training, self.options, workdir), trainings, self.options.threads, workdir
        )


class _Views:
    """What all trainings of one gate share. ``truth``: of training rows a class's place, or the target less its mean, in

    standard deviations, ``middle`` and ``spread``, of the real ones.
    """

    def __init__(self, inputs: TrainerInputs, side: int) -> None:
        tables, real = (inputs.real, inputs.synthetic, inputs.evaluation), inputs.real.num_rows
        planes = np.concatenate([_planes(table.select(list(inputs.fields)), side) for table in tables])
        # Planes that no real row has anything new in, as two of the three of a grey picture.
        new = [at for at in range(planes.shape[1]) if not any(_same(planes[:real], at, other) for other in range(at))]
        count = real + inputs.synthetic.num_rows
        self.train, self.evaluation = planes[:count, new], planes[count:, new]
        self.truth, self.classes, self.middle, self.spread = learnt(inputs), len(inputs.classes), 0.0, 1.0
        if not self.classes:
            known = self.truth[:real]
            self.middle, self.spread = float(known.mean()), float(known.std()) or 1.0
            self.truth = ((self.truth - self.middle) / self.spread).astype(np.float32)
        # Of real rows, over all arms.
        scaled = [self.train[:real, at].astype(np.float64) / 255 for at in range(len(new))]
        self.means = [float(each.mean()) for each in scaled]
        self.deviations = [float(each.std()) or 1.0 for each in scaled]
        self.content = [_hash(array) for array in (self.train, self.evaluation, self.truth)]

    def tensor(self, planes: Planes) -> torch.Tensor:
        """Normalised; channels lie last in memory, which makes a step a third faster."""
        import torch

        values = torch.from_numpy(planes).float().div_(255)
        shape = (1, -1, 1, 1)
        values = values.sub_(torch.tensor(self.means).view(shape)).div_(torch.tensor(self.deviations).view(shape))
        return values.contiguous(memory_format=torch.channels_last)


def _planes(rows: pa.Table, side: int) -> Planes:
    """Of all kinds, one after the other."""
    made = []
    for start in range(0, max(rows.num_rows, 1), BLOCK):
        block = rows.slice(start, BLOCK)
        parts = [cast(Planar, kind).planes(block.select(own), side) for kind, own in kinds_of(rows.column_names)]
        made.append(np.rint(np.concatenate(parts, axis=1) * 255).astype(np.uint8))
    return np.concatenate(made)


def _same(planes: Planes, at: int, other: int) -> bool:
    return all(
        np.array_equal(planes[start : start + BLOCK, at], planes[start : start + BLOCK, other])
        for start in range(0, len(planes), BLOCK)
    )


def _hash(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


# --- One training --------------------------------------------------------------------------------------------------------


def _rested(rows: _Views, training: Training, options: CnnOptions, workdir: Path) -> Prediction:
    """What an earlier attempt found, where it did."""
    from safetensors.numpy import load_file, save_file

    own = training.merged()
    told = {name: value for name, value in asdict(options).items() if name != "threads"}
    parts = [CnnTrainer.VERSION, told, rows.content, _hash(own.rows), _hash(own.weights), own.seed]
    path = workdir / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.safetensors"
    if not path.exists():
        attempt = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        save_file(_train(rows, own, options), attempt)
        attempt.replace(path)
    found = load_file(path)
    return Prediction(found["target"], found.get("scores"))


def _train(rows: _Views, training: Training, options: CnnOptions) -> dict[str, npt.NDArray[Any]]:
    """``training``: each row once. Returns ``target`` and, of classes, ``scores``."""
    import torch

    torch.set_num_threads(1)  # of this thread; sums are then taken in one order
    numbers = torch.Generator().manual_seed(training.seed % (1 << 63))
    known = np.unique(rows.truth[training.rows]) if rows.classes else np.empty(0, np.int64)
    network = make_network(rows.train.shape[1], max(rows.classes, 1), options, numbers)
    weights = torch.from_numpy((training.weights / training.weights.mean()).astype(np.float32))
    truth = torch.from_numpy(rows.truth[training.rows])
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(options.steps):
        while len(order) < options.batch:  # each row once before any comes again
            order = torch.cat([order, torch.randperm(len(truth), generator=numbers)])
        some, order = order[: options.batch], order[options.batch :]
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate * pace(step, options.steps)
        made = network(rows.tensor(rows.train[training.rows[some.numpy()]]))
        optimiser.zero_grad()
        torch.autograd.backward((_losses(made, truth[some], rows.classes) * weights[some]).mean())
        optimiser.step()
    network.eval()
    with torch.inference_mode():
        found = [
            network(rows.tensor(rows.evaluation[start : start + BLOCK]))
            for start in range(0, len(rows.evaluation), BLOCK)
        ]
    return _found(torch.cat(found).double().numpy() if found else np.empty((0, max(rows.classes, 1))), known, rows)


def pace(step: int, steps: int) -> float:
    """The share of the highest learning rate: up in a fifth of the steps, then down, by half a cosine each."""
    done = (step + 1) / steps
    return 0.5 - 0.5 * math.cos(math.pi * (done / WARM if done < WARM else (1 - done) / (1 - WARM)))


def _losses(made: torch.Tensor, truth: torch.Tensor, classes: int) -> torch.Tensor:
    from torch.nn import functional

    if classes:
        return functional.cross_entropy(made, truth, reduction="none")
    return functional.mse_loss(made[:, 0], truth, reduction="none")


def _found(made: npt.NDArray[np.float64], known: Ints, rows: _Views) -> dict[str, npt.NDArray[Any]]:
    """``known``: the classes that training rows have; of others nothing was learnt."""
    if not rows.classes:
        return {"target": rows.middle + rows.spread * made[:, 0]}
    odds = np.full(made.shape, -np.inf)
    odds[:, known] = log_odds(made[:, known])
    return {"target": known[made[:, known].argmax(axis=1)], "scores": odds}


def make_network(channels: int, outputs: int, options: CnnOptions, numbers: torch.Generator) -> torch.nn.Module:
    """Its weights are drawn from ``numbers`` (He et al., ICCV 2015)."""
    from torch import nn

    width = options.width

    def conv(before: int, after: int, stride: int = 1, pool: int = 1) -> list[nn.Module]:
        norm = nn.BatchNorm2d(after) if options.norm == "batch" else nn.GroupNorm(4, after)
        # The maximum is taken first, which makes a step a third faster than to normalise four times as much.
        smaller = [nn.MaxPool2d(pool, ceil_mode=True)] if pool > 1 else []
        return [nn.Conv2d(before, after, 3, stride, 1, bias=False), *smaller, norm]

    layers: list[nn.Module] = []
    before = channels
    if options.net == "plain":
        for after, pool in ((width, 2), (2 * width, 2), (4 * width, 2), (4 * width, 1)):
            layers += [*conv(before, after, pool=pool), nn.ReLU()]
            before = after
    else:
        layers, before = [*conv(channels, width), nn.ReLU()], width
        for after in (width, 2 * width, 4 * width):
            layers += [_residual(nn.Sequential(*conv(before, after, 2), nn.ReLU(), *conv(after, after)), before, after)]
            before = after
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, outputs))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=numbers)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return network


def _residual(body: torch.nn.Module, before: int, after: int) -> torch.nn.Module:
    """relu(body(x) + x at half the size), through a layer of 1 x 1."""
    from torch import nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.way = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(before, after, 1))

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return nn.functional.relu(self.body(values) + self.way(values))

    return Residual()
