"""Losses of a training, an epoch at a time, to TensorBoard or Weights & Biases (the extra `loggers`)."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from augmill.tasks.contracts import UserError
from augmill.tasks.generators.lm.train import Training

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def require_logger(log_to: str) -> None:
    if log_to != "none" and importlib.util.find_spec(_PACKAGES[log_to]) is None:
        raise UserError(
            f"{_PACKAGES[log_to]} is not installed",
            where=f"causal_lm: log_to {log_to}",
            fix="pip install 'augmill[loggers]', or set `log_to: none`",
        )


class Losses:
    """Writes under ``directory``/``name``; nothing for ``none``. ``close`` ends it."""

    def __init__(self, log_to: str, directory: Path, name: str) -> None:
        self._write, self.close = _open(log_to, directory, name)

    def after_epoch(self, training: Training) -> None:
        record = training.record
        last = {kind: record[kind][-1] for kind in ("train_loss", "select_loss") if record[kind]}
        self._write(last, record["steps"])


def _open(log_to: str, directory: Path, name: str) -> tuple[Callable[[dict[str, float], int], None], Callable[[], Any]]:
    require_logger(log_to)
    if log_to == "none":
        return lambda values, step: None, lambda: None
    directory.mkdir(parents=True, exist_ok=True)
    if log_to == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter(str(directory / name))

        def write(values: dict[str, float], step: int) -> None:
            for kind, value in values.items():
                writer.add_scalar(f"causal_lm/{kind}", value, step)

        return write, writer.close
    run = importlib.import_module("wandb").init(
        project="augmill", name=name, dir=str(directory)
    )  # WANDB_MODE, WANDB_API_KEY: its own
    return lambda values, step: run.log(values, step=step), run.finish
