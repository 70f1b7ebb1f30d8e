"""provenance.json of a release: who made it, where, when and with what. Not hashed, and public."""

from __future__ import annotations

import dataclasses
import platform
from datetime import UTC, datetime
from typing import Any

from augmill.flows.steps import Steps
from augmill.tasks.generators import GENERATORS
from augmill.tasks.recipe import Recipe
from augmill.tasks.ribs import library_versions

LIBRARIES = ("prefect", "torch", "transformers", "pyarrow", "polars", "great-expectations", "scikit-learn", "numpy")


def provenance(recipe: Recipe, steps: Steps, command: str) -> dict[str, Any]:
    """JSON values. The recipe holds no secrets: they come from the environment."""
    return {
        "command": command,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "python": platform.python_version(),
        "device": steps.site.device,
        "versions": library_versions(LIBRARIES),
        "recipe": dataclasses.asdict(recipe),
        "repeatable": {choice.use: repeatable(choice.use, steps.site.device) for choice in recipe.generators},
        "stages": [dataclasses.asdict(event) for event in steps.events],
        "failures": steps.failures,
    }


def repeatable(generator: str, device: str) -> bool:
    """Whether a fresh store would hold the same rows (law 3): a model's are promised on a CPU alone."""
    kind = GENERATORS[generator]
    return kind.repeatable and (not kind.libraries or device == "cpu")
