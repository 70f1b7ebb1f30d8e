"""Generators: what makes rows. Extend with one file and one line here."""

from augmill.tasks.contracts import Generator
from augmill.tasks.generators.causal_lm import CausalLM
from augmill.tasks.generators.interpolate import Interpolate
from augmill.tasks.generators.replay import Replay
from augmill.tasks.generators.rules import Rules

GENERATORS: dict[str, type[Generator]] = {
    "rules": Rules,
    "causal_lm": CausalLM,
    "replay": Replay,
    "interpolate": Interpolate,
}
