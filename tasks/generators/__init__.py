"""Generators: what makes rows. Extend with one file and one line here, or from outside (tasks/registry.py)."""

from augmill.tasks.contracts import Generator
from augmill.tasks.generators.causal import CausalLM
from augmill.tasks.generators.chat import Chat
from augmill.tasks.generators.interpolate import Interpolate
from augmill.tasks.generators.masked import MaskedLM
from augmill.tasks.generators.replay import Replay
from augmill.tasks.generators.resample import Resample
from augmill.tasks.generators.rules import Rules
from augmill.tasks.generators.self_training import SelfTraining
from augmill.tasks.generators.seq2seq import BackTranslation, Seq2Seq
from augmill.tasks.generators.sequences import Sequences
from augmill.tasks.generators.smote import Smote
from augmill.tasks.generators.speech import Speech
from augmill.tasks.generators.transforms import Transforms
from augmill.tasks.registry import Registry

_SHIPPED: dict[str, type[Generator]] = {
    "rules": Rules,
    "causal_lm": CausalLM,
    "replay": Replay,
    "self_training": SelfTraining,
    "interpolate": Interpolate,
    "masked_lm": MaskedLM,
    "seq2seq": Seq2Seq,
    "back_translation": BackTranslation,
    "chat": Chat,
    "resample": Resample,
    "smote": Smote,
    "transforms": Transforms,
    "sequences": Sequences,
    "speech": Speech,
}

GENERATORS = Registry("generator", Generator, _SHIPPED)
