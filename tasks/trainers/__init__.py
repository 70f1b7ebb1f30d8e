"""Trainers: what the gate trains to see whether rows help. Extend with one file and one line here."""

from augmill.tasks.trainers.command import CommandTrainer
from augmill.tasks.trainers.contract import Prediction, Trainer, TrainerInputs, Training
from augmill.tasks.trainers.features import text_features
from augmill.tasks.trainers.tfidf import TfidfOptions, TfidfTrainer

__all__ = [
    "TRAINERS",
    "Prediction",
    "TfidfOptions",
    "TfidfTrainer",
    "Trainer",
    "TrainerInputs",
    "Training",
    "text_features",
]


TRAINERS: dict[str, type[Trainer]] = {
    "tfidf": TfidfTrainer,
    "command": CommandTrainer,
}
