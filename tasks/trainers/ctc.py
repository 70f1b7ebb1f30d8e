"""A small recogniser: log-mel spectra through convolutions over time to characters, by connectionist temporal

classification (Graves et al., ICML 2006), read greedily, without a language model. Every training takes the same number of
steps, whatever its rows.

For short utterances of few words, a few hundred of them, on a CPU: what it measures is which rows help to hear, not how well
one could. What large recognisers make of the rows, `command` says.
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
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import TARGET
from augmill.tasks.rows.kinds import kinds_of
from augmill.tasks.rows.kinds.text import equal
from augmill.tasks.trainers.cnn import pace
from augmill.tasks.trainers.contract import Prediction, Trainer, TrainerInputs, Training
from augmill.tasks.trainers.tuning import THREADS, require_threads, torch_content, torch_side_by_side

if TYPE_CHECKING:
    import torch

DILATIONS = (1, 2, 4, 8)  # of the blocks, in steps of 20 ms: a character is told by 0.66 s around it
TAPS = 5  # of each convolution
EVALUATED = 32  # rows that are predicted together
BLANK = 0  # of CTC; characters are counted from 1
Spectrum = npt.NDArray[np.uint8]  # (frames, bands): a quarter of the memory of floats


class Audible(Protocol):
    """A kind whose fields have spectra over time."""

    def spectra(self, column: pa.ChunkedArray) -> Iterator[npt.NDArray[np.float32]]:
        """(frames, bands) of each row, 0 to 1."""


@dataclass(frozen=True)
class CtcOptions:
    width: int = field(default=64, metadata={"help": "channels of each layer"})
    steps: int = field(default=400, metadata={"help": "steps of every training of every arm"})
    batch: int = field(default=16, metadata={"help": "rows of a step"})
    learning_rate: float = field(
        default=0.004, metadata={"help": "at its highest: it rises for a fifth of the steps, then falls"}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "weight decay of AdamW"})
    threads: int = field(default=0, metadata=THREADS)

    def __post_init__(self) -> None:
        bounds = [
            ("width", self.width in range(4, 513, 4), "a multiple of 4 from 4 to 512"),
            ("steps", 1 <= self.steps <= 1_000_000, "1 to 1,000,000"),
            ("batch", 2 <= self.batch <= 4096, "2 to 4,096"),
            ("learning_rate", 0 < self.learning_rate <= 1, "above 0, at most 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
        ]
        for name, holds, expected in bounds:
            if not holds:
                raise ValueError(f"trainer.ctc.{name}: expected {expected}, found {getattr(self, name)}")
        require_threads("trainer.ctc", self.threads)


class CtcTrainer(Trainer):
    """Five convolutions over time, AdamW; several trainings side by side, each in one thread. It hears a row's first sound.

    Rows weigh in the loss, which is a transcript's over its length. Transcripts are without case and punctuation, as the
    metrics compare them. A training gives the same texts again. What is finished rests in ``workdir``.
    """

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[Any]] = CtcOptions
    kinds: ClassVar[tuple[str, ...]] = ("audio",)
    problems: ClassVar[tuple[str, ...]] = ("transcription",)

    def content(self) -> dict[str, str]:
        return torch_content()

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        heard = _Utterances(inputs)
        yield from torch_side_by_side(
            lambda training: _rested(heard, training, self.options, workdir), trainings, self.options.threads, workdir
        )


class _Utterances:
    """What all trainings of one gate share. ``truth``: of training rows the places of their characters in ``signs``, from 1."""

    def __init__(self, inputs: TrainerInputs) -> None:
        tables, name = (inputs.real, inputs.synthetic, inputs.evaluation), inputs.fields[0]
        spectra = [each for table in tables for each in _spectra(table.select([name]))]
        real, count = inputs.real.num_rows, inputs.real.num_rows + inputs.synthetic.num_rows
        self.train, self.evaluation = spectra[:count], spectra[count:]
        texts = [equal(text) for table in tables[:2] for text in table[TARGET].to_pylist()]
        self.signs = sorted(set("".join(texts)))
        place = {sign: at for at, sign in enumerate(self.signs, BLANK + 1)}
        self.truth = [np.array([place[sign] for sign in text], np.int64) for text in texts]
        whole = np.concatenate([*spectra[:real], np.zeros((1, spectra[0].shape[1]), np.uint8)]).astype(np.float64)
        self.mean, self.deviation = float(whole.mean()), float(whole.std()) or 1.0  # of real rows, over all arms
        digest = hashlib.sha256(json.dumps([texts, [len(each) for each in spectra]]).encode())
        for each in spectra:
            digest.update(each.data)
        self.content = digest.hexdigest()

    def batch(self, spectra: list[Spectrum]) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, bands, frames), normalised, zero beyond a row's end; (rows,): frames of each."""
        import torch

        sizes = [len(each) for each in spectra]
        made = np.zeros((len(spectra), spectra[0].shape[1], max(sizes)), np.float32)
        for row, each in enumerate(spectra):
            made[row, :, : len(each)] = ((each - self.mean) / self.deviation).T
        return torch.from_numpy(made), torch.tensor(sizes)


def _spectra(rows: pa.Table) -> Iterator[Spectrum]:
    ((kind, (name,)),) = kinds_of(rows.column_names)
    for each in cast(Audible, kind).spectra(rows[name]):
        yield np.ascontiguousarray(np.rint(np.clip(each, 0, 1) * 255).astype(np.uint8))


# --- One training --------------------------------------------------------------------------------------------------------


def _rested(heard: _Utterances, training: Training, options: CtcOptions, workdir: Path) -> Prediction:
    """What an earlier attempt found, where it did."""
    own = training.merged()
    told = {name: value for name, value in asdict(options).items() if name != "threads"}
    rows = hashlib.sha256(own.rows.tobytes() + own.weights.tobytes()).hexdigest()
    parts = json.dumps([CtcTrainer.VERSION, told, heard.content, rows, own.seed])
    path = workdir / f"{hashlib.sha256(parts.encode()).hexdigest()[:32]}.json"
    if not path.exists():
        attempt = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        attempt.write_text(json.dumps(_train(heard, own, options)), encoding="utf-8")
        attempt.replace(path)
    found = np.empty(len(heard.evaluation), dtype=object)
    found[:] = json.loads(path.read_text(encoding="utf-8"))
    return Prediction(found)


def _train(heard: _Utterances, training: Training, options: CtcOptions) -> list[str]:
    """``training``: each row once. What is heard in each evaluation row."""
    import torch

    torch.set_num_threads(1)  # of this thread; sums are then taken in one order
    numbers = torch.Generator().manual_seed(training.seed % (1 << 63))
    network = make_network(heard.train[0].shape[1] if heard.train else 1, len(heard.signs) + 1, options.width, numbers)
    weights = torch.from_numpy((training.weights / training.weights.mean()).astype(np.float32))
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(options.steps):
        while len(order) < options.batch:  # each row once before any comes again
            order = torch.cat([order, torch.randperm(len(weights), generator=numbers)])
        some, order = order[: options.batch], order[options.batch :]
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate * pace(step, options.steps)
        optimiser.zero_grad()
        losses = _losses(network, heard, training.rows[some.numpy()].tolist())
        torch.autograd.backward((losses * weights[some]).mean())
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
    network.eval()
    return _heard(network, heard)


def _losses(network: torch.nn.Module, heard: _Utterances, rows: list[int]) -> torch.Tensor:
    """Of each row, over the length of its transcript; nothing where the sound has fewer steps than it has characters."""
    import torch
    from torch.nn import functional

    spectra, sizes = heard.batch([heard.train[row] for row in rows])
    made, steps = network(spectra, sizes)
    truth = [heard.truth[row] for row in rows]
    lengths = torch.tensor([len(each) for each in truth])
    found = functional.ctc_loss(
        made.log_softmax(dim=1).permute(2, 0, 1),
        torch.from_numpy(np.concatenate(truth)),
        steps,
        lengths,
        blank=BLANK,
        reduction="none",
        zero_infinity=True,
    )
    return found / lengths.clamp(min=1)


def _heard(network: torch.nn.Module, heard: _Utterances) -> list[str]:
    import torch

    found = [""] * len(heard.evaluation)
    by_size = sorted(range(len(found)), key=lambda row: len(heard.evaluation[row]))
    with torch.inference_mode():
        for start in range(0, len(by_size), EVALUATED):
            rows = by_size[start : start + EVALUATED]
            made, steps = network(*heard.batch([heard.evaluation[row] for row in rows]))
            for row, best, count in zip(rows, made.argmax(dim=1).numpy(), steps.tolist(), strict=True):
                found[row] = read_greedily(best[:count], heard.signs)
    return found


def read_greedily(best: npt.NDArray[np.int64], signs: list[str]) -> str:
    """The likeliest sign of each step, of equal neighbours one, without blanks."""
    kept = best[np.flatnonzero(np.diff(best, prepend=-1))]
    return " ".join("".join(signs[place - 1] for place in kept.tolist() if place != BLANK).split())


def make_network(bands: int, outputs: int, width: int, numbers: torch.Generator) -> torch.nn.Module:
    """(rows, bands, frames) and each row's frames to (rows, outputs, steps of two frames) and each row's steps.

    Beyond a row's end all is zero in every layer, so that the rows beside it change nothing. Its weights are drawn from
    ``numbers``.
    """
    import torch
    from torch import nn

    class Recogniser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv1d(bands, width, TAPS, 2, TAPS // 2)
            self.blocks = nn.ModuleList(
                nn.Conv1d(width, width, TAPS, 1, TAPS // 2 * dilation, dilation) for dilation in DILATIONS
            )
            self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(len(DILATIONS) + 1))
            self.last = nn.Conv1d(width, outputs, 1)

        def forward(self, values: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            steps = (sizes + 1) // 2
            values = self.first(values)
            inside = (torch.arange(values.shape[2]) < steps[:, None])[:, None].float()
            values = self._normed(0, values, inside)
            for at, block in enumerate(self.blocks, 1):
                values = values + self._normed(at, block(values), inside)
            return self.last(values), steps

        def _normed(self, at: int, values: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
            """Over the channels of each step, which no other step or row has a part in."""
            norm = self.norms[at]
            normal = norm(values.transpose(1, 2))
            return torch.relu(normal).transpose(1, 2) * inside

    network = Recogniser()
    for module in network.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=numbers)
            nn.init.zeros_(cast(torch.Tensor, module.bias))
    nn.init.zeros_(network.last.weight)
    return network
