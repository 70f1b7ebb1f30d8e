"""The built-in trainer for texts: TF-IDF and multinomial logistic regression, fast enough to be trained hundreds of times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from augmill.tasks.trainers.contract import Prediction, Trainer, TrainerInputs, Training
from augmill.tasks.trainers.features import text_features
from augmill.tasks.trainers.linear import regress, require_strengths
from augmill.tasks.trainers.logistic import solver
from augmill.tasks.trainers.tuning import THREADS


@dataclass(frozen=True)
class TfidfOptions:
    cs: tuple[float, ...] = field(
        default=(1.0, 10.0, 100.0),
        metadata={"help": "inverse ridge strengths to choose from; the loss is scaled to the number of real rows"},
    )
    folds: int = field(
        default=3,
        metadata={
            "help": "folds of the real train rows, by which the first three trainings of each arm choose among `cs`"
        },
    )
    threads: int = field(default=0, metadata=THREADS)

    def __post_init__(self) -> None:
        require_strengths("trainer.tfidf", self)


class TfidfTrainer(Trainer):
    """The first three trainings of each arm choose C, by cross-validation over real rows; the others take turns with their

    choices, and start from their models.
    """

    VERSION: ClassVar[int] = 4
    Options: ClassVar[type[Any]] = TfidfOptions
    scores: ClassVar[bool] = True

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        yield from regress(inputs, trainings, self.options, *_features(inputs), solver)


def _features(inputs: TrainerInputs) -> tuple[Any, Any]:
    train = [[*_texts(inputs.real, name), *_texts(inputs.synthetic, name)] for name in inputs.fields]
    held = [_texts(inputs.evaluation, name) for name in inputs.fields]
    return text_features(train, held, inputs.real.num_rows)


def _texts(table: Any, name: str) -> list[str]:
    return [text or "" for text in table[name].to_pylist()]
