"""Trainers: what the gate trains to see whether rows help. Extend with one file and one line here."""

from augmill.tasks.trainers.command import CommandTrainer
from augmill.tasks.trainers.contract import Problem, Trainer, Training
from augmill.tasks.trainers.features import text_features
from augmill.tasks.trainers.logistic import fit
from augmill.tasks.trainers.tfidf import TfidfTrainer

__all__ = ["TRAINERS", "Problem", "Trainer", "Training", "fit", "text_features"]


TRAINERS: dict[str, type[Trainer]] = {
    "tfidf": TfidfTrainer,
    "command": CommandTrainer,
}
