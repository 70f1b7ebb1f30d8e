"""Trainers: what the gate trains to see whether rows help. Extend with one file and one line here, or from outside."""

from augmill.tasks.registry import Registry
from augmill.tasks.trainers.boosting import BoostingTrainer
from augmill.tasks.trainers.cnn import CnnTrainer
from augmill.tasks.trainers.command import CommandTrainer
from augmill.tasks.trainers.contract import Prediction, Trainer, TrainerInputs, Training
from augmill.tasks.trainers.ctc import CtcTrainer
from augmill.tasks.trainers.detector import DetectorTrainer
from augmill.tasks.trainers.ease import EaseTrainer
from augmill.tasks.trainers.linear import LinearTrainer
from augmill.tasks.trainers.retrieval import RetrievalTrainer
from augmill.tasks.trainers.tfidf import TfidfOptions, TfidfTrainer
from augmill.tasks.trainers.transitions import TransitionsTrainer
from augmill.tasks.trainers.tuning import CHOOSING

__all__ = [
    "CHOOSING",
    "QUICK",
    "TRAINERS",
    "Prediction",
    "TfidfOptions",
    "TfidfTrainer",
    "Trainer",
    "TrainerInputs",
    "Training",
]


# The first that serves a recipe's rows judges them by default: texts with labels `tfidf`, tables `boosting`, pictures
# and sound `cnn`, with boxes `detector`, with transcripts `ctc`, histories `transitions`, others `linear`; texts to be
# answered `retrieval`.
_SHIPPED: dict[str, type[Trainer]] = {
    "tfidf": TfidfTrainer,
    "boosting": BoostingTrainer,
    "cnn": CnnTrainer,
    "detector": DetectorTrainer,
    "ctc": CtcTrainer,
    "linear": LinearTrainer,
    "retrieval": RetrievalTrainer,
    "transitions": TransitionsTrainer,
    "ease": EaseTrainer,
    "command": CommandTrainer,
}
TRAINERS = Registry("trainer", Trainer, _SHIPPED)

# What measures between the rounds of an adaptive plan: quick enough for hundreds of trainings, and sure to some degree of each
# row. Where it does not serve a recipe's rows, the plan's policy is refused (tasks/recipe/recipe.py).
QUICK: Trainer = TfidfTrainer(TfidfOptions(cs=(10.0,)))
