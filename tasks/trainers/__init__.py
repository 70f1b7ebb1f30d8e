"""Trainers: what the gate trains to see whether rows help. Extend with one file and one line here."""

from augmill.tasks.trainers.command import CommandTrainer
from augmill.tasks.trainers.contract import Trainer
from augmill.tasks.trainers.tfidf import TfidfTrainer

TRAINERS: dict[str, type[Trainer]] = {
    "tfidf": TfidfTrainer,
    "command": CommandTrainer,
}
