"""What stages share about ribs: the configuration of a fit, and the context a rib runs in."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, field
from typing import Any

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import Context
from augmill.tasks.generators import GENERATORS
from augmill.tasks.recipe import Recipe
from augmill.tasks.recipe_reader import GeneratorChoice
from augmill.tasks.stage import Work


@dataclass(frozen=True)
class FitConfig:
    """What decides a fit: the rib, its version and options, the seed, the threads, the libraries' major.minor."""

    rib: str
    version: int
    options: Any
    seed: int
    fields: tuple[str, ...]
    threads: int
    libraries: dict[str, str] = field(default_factory=dict)


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """major.minor of each package (law 2: part of the identity of fit and model-based generation only)."""
    return {name: ".".join(importlib.metadata.version(name).split(".")[:2]) for name in names}


def generator_config(choice: GeneratorChoice, recipe: Recipe) -> FitConfig:
    kind = GENERATORS[choice.use]
    # A generator without libraries trains nothing: threads cannot change it.
    threads = recipe.run.threads if kind.libraries else 0
    libraries = library_versions(kind.libraries)
    return FitConfig(choice.use, kind.VERSION, choice.options, recipe.seed, recipe.columns.fields, threads, libraries)


def check_config(name: str, options: Any, recipe: Recipe) -> FitConfig:
    return FitConfig(name, CHECKS[name].VERSION, options, recipe.seed, recipe.columns.fields, 0)


def rib_context(work: Work, config: FitConfig, name: str) -> Context:
    """What the rib may know: its own empty directory, its own scratch space, this machine's device."""
    return Context(
        seed=config.seed,
        fields=config.fields,
        workdir=work.empty_directory(name),
        device=work.site.device,
        threads=config.threads or work.site.threads,
        deadline=work.site.deadline,
        scratch=work.site.store.scratch(config.rib),
    )
