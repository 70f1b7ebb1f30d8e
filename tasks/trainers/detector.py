"""A small detector without anchors: every training takes the same number of steps, whatever its rows.

Of every cell of a coarse grid it says how likely the middle of an object of each label lies there (a heat map: Law and Deng,
"CornerNet", ECCV 2018; Zhou et al., "Objects as Points", 2019), and how far the object's four sides are (Tian et al.,
"FCOS", ICCV 2019). It learns from the boxes as they are and does not augment while it trains, as ``cnn`` does not.
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
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import TARGET, Floats
from augmill.tasks.problems.detection import labels_of, overlaps
from augmill.tasks.rows.kinds import kinds_of
from augmill.tasks.rows.kinds.image import size_of
from augmill.tasks.rows.kinds.media import files_of
from augmill.tasks.trainers.cnn import BLOCK, Planar, Planes, pace
from augmill.tasks.trainers.contract import Prediction, Trainer, TrainerInputs, Training
from augmill.tasks.trainers.tuning import THREADS, require_threads, torch_content, torch_side_by_side

if TYPE_CHECKING:
    import torch

CELL = 4  # pixels of the resized picture that a cell of the grid is wide
FOUND = 30  # boxes of a picture, at most, the surest
LEAST_SCORE = 0.01
APART = 0.5  # overlap from which on two boxes of one label are one
SPREAD = 0.15  # of the heat around a middle, as a share of the box's sides: a standard deviation
INSIDE = 0.4  # heat from which on a cell learns where the sides are
SIDES_WEIGHT = 2.0  # of the sides' loss beside the heat's


@dataclass(frozen=True)
class DetectorOptions:
    width: int = field(
        default=16, metadata={"help": "channels of the first layer; later ones have two and four times as many"}
    )
    side: int = field(default=64, metadata={"help": "pixels that pictures are resized to, each way: a multiple of 4"})
    steps: int = field(default=400, metadata={"help": "steps of every training of every arm"})
    batch: int = field(default=16, metadata={"help": "pictures of a step"})
    learning_rate: float = field(
        default=0.003, metadata={"help": "at its highest: it rises for a fifth of the steps, then falls"}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "weight decay of AdamW"})
    threads: int = field(default=0, metadata=THREADS)

    def __post_init__(self) -> None:
        bounds = [
            ("width", self.width in range(4, 257, 4), "a multiple of 4 from 4 to 256"),
            ("side", self.side in range(16, 1025, CELL), f"a multiple of {CELL} from 16 to 1,024"),
            ("steps", 1 <= self.steps <= 1_000_000, "1 to 1,000,000"),
            ("batch", 2 <= self.batch <= 4096, "2 to 4,096"),
            ("learning_rate", 0 < self.learning_rate <= 1, "above 0, at most 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
        ]
        for name, holds, expected in bounds:
            if not holds:
                raise ValueError(f"trainer.detector.{name}: expected {expected}, found {getattr(self, name)}")
        require_threads("trainer.detector", self.threads)


class DetectorTrainer(Trainer):
    """Seven convolutions, AdamW; several trainings side by side, each in one thread. Boxes are of the first picture of a row.

    Rows weigh in the loss. A training gives the same boxes again. What is finished rests in ``workdir``.
    """

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[Any]] = DetectorOptions
    kinds: ClassVar[tuple[str, ...]] = ("image",)
    problems: ClassVar[tuple[str, ...]] = ("detection",)

    def content(self) -> dict[str, str]:
        return torch_content()

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        scenes = _Scenes(inputs, self.options.side)
        yield from torch_side_by_side(
            lambda training: _rested(scenes, training, self.options, workdir), trainings, self.options.threads, workdir
        )


class _Scenes:
    """What all trainings of one gate share: pictures, resized, and their boxes.

    ``boxes``: of each training row (boxes, 5): left, top, right, bottom in pixels of the resized picture, and the label's
    place in ``labels``; ``sizes``: (rows, 2), width and height of each evaluation row's picture.
    """

    def __init__(self, inputs: TrainerInputs, side: int) -> None:
        tables, name = (inputs.real, inputs.synthetic, inputs.evaluation), inputs.fields[0]
        planes = np.concatenate([_planes(table.select([name]), side) for table in tables])
        self.side, count = side, inputs.real.num_rows + inputs.synthetic.num_rows
        self.train, self.evaluation = planes[:count], planes[count:]
        real = planes[: inputs.real.num_rows].astype(np.float64) / 255
        self.means = real.mean(axis=(0, 2, 3)).tolist()
        self.deviations = [float(each) or 1.0 for each in real.std(axis=(0, 2, 3))]
        truth = [*inputs.real[TARGET].to_pylist(), *inputs.synthetic[TARGET].to_pylist()]
        self.labels = sorted({label for boxes in truth for label in labels_of(boxes)})
        sizes = [size for table in tables for size in _sizes(table, name)]
        self.boxes = [self._resized(own, size) for own, size in zip(truth, sizes, strict=False)]
        self.sizes = np.array(sizes[count:], np.float64).reshape(-1, 2)
        digest = hashlib.sha256(json.dumps([self.labels, sizes]).encode())
        for array in (planes, *self.boxes):
            digest.update(np.ascontiguousarray(array).data)
        self.content = digest.hexdigest()

    def _resized(self, boxes: list[dict[str, Any]], size: tuple[int, int]) -> npt.NDArray[np.float32]:
        place = {label: at for at, label in enumerate(self.labels)}
        rows = [[*box["bbox"], place[box["label"]]] for box in boxes]
        found = np.array(rows, np.float64).reshape(-1, 5)
        found[:, 2:4] += found[:, :2]
        found[:, :4] *= np.array([self.side / side for side in 2 * size])
        return found.astype(np.float32)

    def tensor(self, planes: Planes) -> torch.Tensor:
        """Normalised; channels lie last in memory."""
        import torch

        values, shape = torch.from_numpy(planes).float().div_(255), (1, -1, 1, 1)
        values = values.sub_(torch.tensor(self.means).view(shape)).div_(torch.tensor(self.deviations).view(shape))
        return values.contiguous(memory_format=torch.channels_last)


def _planes(rows: pa.Table, side: int) -> Planes:
    ((kind, own),) = kinds_of(rows.column_names)
    blocks = [rows.slice(start, BLOCK) for start in range(0, max(rows.num_rows, 1), BLOCK)]
    made = [cast(Planar, kind).planes(block.select(own), side) for block in blocks]
    return np.concatenate([np.rint(each * 255).astype(np.uint8) for each in made])


def _sizes(rows: pa.Table, name: str) -> Iterator[tuple[int, int]]:
    """(width, height) of each row's picture, file by file."""
    for start in range(0, rows.num_rows, BLOCK):
        yield from (size_of(file or b"") for file in files_of(rows[name].slice(start, BLOCK)))


# --- One training --------------------------------------------------------------------------------------------------------


def _rested(scenes: _Scenes, training: Training, options: DetectorOptions, workdir: Path) -> Prediction:
    """What an earlier attempt found, where it did."""
    from safetensors.numpy import load_file, save_file

    own = training.merged()
    told = {name: value for name, value in asdict(options).items() if name != "threads"}
    rows = hashlib.sha256(own.rows.tobytes() + own.weights.tobytes()).hexdigest()
    parts = json.dumps([DetectorTrainer.VERSION, told, scenes.content, rows, own.seed])
    path = workdir / f"{hashlib.sha256(parts.encode()).hexdigest()[:32]}.safetensors"
    if not path.exists():
        attempt = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        save_file({"boxes": _train(scenes, own, options)}, attempt)
        attempt.replace(path)
    return Prediction(_told(load_file(path)["boxes"], scenes))


def _told(found: Floats, scenes: _Scenes) -> npt.NDArray[Any]:
    """``found``: (boxes, 7), the row and the label's place, left, top, right, bottom in shares of the picture, the score."""
    rows: list[list[dict[str, Any]]] = [[] for _ in scenes.sizes]
    for row, label, left, top, right, bottom, score in found.tolist():
        width, height = scenes.sizes[int(row)].tolist()
        bbox = [left * width, top * height, (right - left) * width, (bottom - top) * height]
        rows[int(row)].append({"bbox": bbox, "label": scenes.labels[int(label)], "score": score})
    answers = np.empty(len(rows), dtype=object)
    answers[:] = rows
    return answers


def _train(scenes: _Scenes, training: Training, options: DetectorOptions) -> Floats:
    """``training``: each row once. Returns what ``_told`` takes."""
    import torch

    torch.set_num_threads(1)  # of this thread; sums are then taken in one order
    numbers = torch.Generator().manual_seed(training.seed % (1 << 63))
    network = make_network(len(scenes.labels), options, numbers)
    weights = torch.from_numpy((training.weights / training.weights.mean()).astype(np.float32))
    goals = [_goal(scenes.boxes[row], len(scenes.labels), options.side) for row in training.rows.tolist()]
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(options.steps):
        while len(order) < options.batch:  # each row once before any comes again
            order = torch.cat([order, torch.randperm(len(goals), generator=numbers)])
        some, order = order[: options.batch], order[options.batch :]
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate * pace(step, options.steps)
        made = network(scenes.tensor(scenes.train[training.rows[some.numpy()]]))
        optimiser.zero_grad()
        torch.autograd.backward(_loss(made, [goals[at] for at in some.tolist()], weights[some]))
        optimiser.step()
    network.eval()
    found = [np.empty((0, 7))]
    with torch.inference_mode():
        for start in range(0, len(scenes.evaluation), BLOCK):
            made = network(scenes.tensor(scenes.evaluation[start : start + BLOCK]))
            found.append(_peaks(made, start, options.side))
    return np.concatenate(found)


def make_network(labels: int, options: DetectorOptions, numbers: torch.Generator) -> torch.nn.Module:
    """(pictures, 3, side, side) to (pictures, labels + 4, grid, grid): the heat of each label, and the sides' distances.

    Its weights are drawn from ``numbers`` (He et al., ICCV 2015); at first a middle is said to be rare everywhere.
    """
    from torch import nn

    width = options.width
    layers: list[nn.Module] = []
    before = 3
    for after, stride, reach in (
        (width, 2, 1), (2 * width, 1, 1), (4 * width, 2, 1), (4 * width, 1, 1), (4 * width, 1, 2), (4 * width, 1, 1),
    ):  # fmt: skip
        layers += [nn.Conv2d(before, after, 3, stride, reach, reach, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        before = after
    head = nn.Conv2d(before, labels + 4, 1)
    for module in layers:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=numbers)
    nn.init.normal_(head.weight, std=0.01, generator=numbers)
    bias = cast("torch.Tensor", head.bias)
    nn.init.constant_(bias, -math.log(99))
    nn.init.zeros_(bias[labels:])
    return nn.Sequential(*layers, head)


@dataclass(frozen=True)
class _Goal:
    """What the network should say of one picture. ``heat``: (labels, grid, grid), 1 where a middle lies;

    ``cells``: those that learn the sides, their place in the grid; ``sides``: (cells, 4), left, top, right, bottom of the
    box in cells; ``share``: of each of these cells, so that those of one box are one together.
    """

    heat: torch.Tensor
    cells: torch.Tensor
    sides: torch.Tensor
    share: torch.Tensor


def _goal(boxes: npt.NDArray[np.float32], labels: int, side: int) -> _Goal:
    import torch

    grid = side // CELL
    heat, owner = np.zeros((labels, grid, grid), np.float32), np.full((grid, grid), -1)
    strongest = np.full((grid, grid), INSIDE)
    at = np.arange(grid) + 0.5
    for number, (left, top, right, bottom, label) in enumerate((boxes / [CELL, CELL, CELL, CELL, 1]).tolist()):
        column, row = (min(max(int((low + high) / 2), 0), grid - 1) for low, high in ((left, right), (top, bottom)))
        across = np.exp(-(((at - column - 0.5) / max(SPREAD * (right - left), 0.3)) ** 2) / 2)
        down = np.exp(-(((at - row - 0.5) / max(SPREAD * (bottom - top), 0.3)) ** 2) / 2)
        own = down[:, None] * across[None]
        heat[int(label)] = np.maximum(heat[int(label)], own)
        owner[own > strongest] = number
        strongest = np.maximum(strongest, own)
    cells = np.flatnonzero(owner.ravel() >= 0)
    whose = owner.ravel()[cells]
    share = 1 / np.maximum(np.bincount(whose, minlength=len(boxes))[whose], 1)
    return _Goal(
        torch.from_numpy(heat),
        torch.from_numpy(cells),
        torch.from_numpy(boxes[whose, :4] / np.float32(CELL)),
        torch.from_numpy(share.astype(np.float32)),
    )


def _loss(made: torch.Tensor, goals: list[_Goal], weights: torch.Tensor) -> torch.Tensor:
    """The heat's focal loss (Law and Deng) and 1 less the overlap of boxes, by boxes; each picture at its weight."""
    import torch
    from torch.nn import functional

    heat = torch.stack([goal.heat for goal in goals])
    said = made[:, :-4]
    sure = torch.sigmoid(said).clamp(1e-4, 1 - 1e-4)
    middle = heat == 1
    right = -functional.logsigmoid(said) * (1 - sure) ** 2
    wrong = -functional.logsigmoid(-said) * sure**2 * (1 - heat) ** 4
    each = torch.where(middle, right, wrong).sum(dim=(1, 2, 3))
    grid = made.shape[-1]
    rows = torch.cat([torch.full((len(goal.cells),), at) for at, goal in enumerate(goals)])
    cells = torch.cat([goal.cells for goal in goals])
    if len(cells):
        told = _boxes(made[rows, -4:, cells // grid, cells % grid], cells, grid)
        lost = (1 - _overlap(told, torch.cat([goal.sides for goal in goals]))) * torch.cat([g.share for g in goals])
        each = each + SIDES_WEIGHT * torch.zeros(len(goals)).index_add(0, rows, lost)
    return (each * weights).sum() / middle.sum().clamp(min=1)


def _boxes(said: torch.Tensor, cells: torch.Tensor, grid: int) -> torch.Tensor:
    """(cells, 4), left, top, right, bottom in cells: each side is exp(what is said) times two cells from the cell's middle."""
    import torch

    middles = torch.stack([cells % grid, cells // grid], dim=1) + 0.5
    far = 2 * torch.exp(said.clamp(-4, 4))
    return torch.cat([middles - far[:, :2], middles + far[:, 2:]], dim=1)


def _overlap(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Pairwise, less the share of the box around both that neither covers (Rezatofighi et al., CVPR 2019)."""
    import torch

    def area(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return (high - low).clamp(min=0).prod(dim=1)

    shared = area(torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:]))
    around = area(torch.minimum(one[:, :2], other[:, :2]), torch.maximum(one[:, 2:], other[:, 2:]))
    both = area(one[:, :2], one[:, 2:]) + area(other[:, :2], other[:, 2:]) - shared
    return shared / both - (around - both) / around


def _peaks(made: torch.Tensor, first: int, side: int) -> Floats:
    """What ``_told`` takes, of pictures from row ``first`` on: the highest heat among its neighbours, each once."""
    import torch
    from torch.nn import functional

    heat, grid = torch.sigmoid(made[:, :-4]), side // CELL
    heat = torch.where(functional.max_pool2d(heat, 3, 1, 1) == heat, heat, 0.0)
    scores, places = heat.flatten(1).topk(min(3 * FOUND, heat[0].numel()), dim=1)
    found = []
    for row in range(len(made)):
        label, cells = places[row] // grid**2, places[row] % grid**2
        boxes = (_boxes(made[row, -4:].flatten(1).T[cells], cells, grid) / grid).clamp(0, 1).double().numpy()
        kept = _apart(boxes, label.numpy(), scores[row].numpy())
        parts = [np.full((len(kept), 1), first + row), label.numpy()[kept][:, None], boxes[kept]]
        found.append(np.concatenate([*parts, scores[row].double().numpy()[kept][:, None]], axis=1))
    return np.concatenate(found)


def _apart(boxes: Floats, labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> list[int]:
    """The surest boxes, of one label none over another."""
    shapes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    over = (overlaps(shapes, shapes) > APART) & (labels[:, None] == labels[None])
    kept: list[int] = []
    for at in np.flatnonzero((scores >= LEAST_SCORE) & (shapes[:, 2:].min(axis=1) > 0)).tolist():
        if len(kept) < FOUND and not over[at, kept].any():
            kept.append(at)
    return kept
