"""What stages share about extensions: the configuration of a fit, the context an extension runs in, loaded fits, asked rows."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import FIRST_PROBLEM, Artifact, Context, Fitted, Problem, Request
from augmill.tasks.generators import GENERATORS
from augmill.tasks.metrics import METRICS
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.recipe.reader import GeneratorChoice
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.kinds import kinds_of
from augmill.tasks.rows.randomness import row_seeds, stream_key
from augmill.tasks.sources import SOURCES
from augmill.tasks.stages.user_columns import codes_of, versions_of
from augmill.tasks.store.stage import Site, Work, fetch_directory
from augmill.tasks.trainers import TRAINERS


@dataclass(frozen=True)
class FitConfig:
    """What decides a fit: the extension, its version and options, the seed, the threads, the libraries' major.minor."""

    extension: str = field(metadata={"identity_name": "rib"})
    version: int
    options: Any
    seed: int
    fields: tuple[str, ...]
    threads: int
    libraries: dict[str, str] = field(default_factory=dict)
    problem: str = field(default=FIRST_PROBLEM, metadata={"later": True})  # its name
    versions: dict[str, int | str] | None = field(default=None, metadata={"later": True})  # as ingest's
    code: str = field(default="", metadata={"later": True})  # of an extension from outside

    @property
    def learnt(self) -> Problem:
        return PROBLEMS[self.problem]


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """major.minor of each package (law 2: part of the identity of fit and model-based generation only)."""
    return {name: ".".join(importlib.metadata.version(name).split(".")[:2]) for name in names}


def generator_config(choice: GeneratorChoice, recipe: Recipe) -> FitConfig:
    kind = GENERATORS[choice.use]
    # A generator without libraries trains nothing: threads cannot change it.
    threads = recipe.run.threads if kind.libraries else 0
    of_kinds = [name for own, _ in kinds_of(recipe.columns.fields) for name in kind.kind_libraries.get(own.name, ())]
    libraries = library_versions((*kind.libraries, *of_kinds))
    return FitConfig(
        choice.use,
        kind.VERSION,
        choice.options,
        recipe.seed,
        recipe.columns.fields,
        threads,
        libraries,
        code=GENERATORS.code(choice.use),
        **_rows(recipe),
    )


def is_light(recipe: Recipe) -> bool:
    """Whether no generator runs a model: each is Augmill's own and needs no library."""
    names = [choice.use for choice in recipe.generators]
    return not GENERATORS.codes(*names) and not any(GENERATORS[name].libraries for name in names)


def check_config(name: str, options: Any, recipe: Recipe) -> FitConfig:
    fields, version, code = recipe.columns.fields, CHECKS[name].VERSION, CHECKS.code(name)
    return FitConfig(name, version, options, recipe.seed, fields, 0, code=code, **_rows(recipe))


def _rows(recipe: Recipe) -> dict[str, Any]:
    """What decides what rows are made of, beside their fields' names."""
    return {"problem": recipe.learnt, "versions": versions_of(recipe.columns, recipe.learnt)}


def outside_code(recipe: Recipe) -> dict[str, dict[str, str]]:
    """The code of every extension from outside that the recipe uses, by what it is and its name (``Registry.code``)."""
    found = {
        "generators": GENERATORS.codes(*(choice.use for choice in recipe.generators)),
        "checks": CHECKS.codes(*recipe.checks),
        "judges": judging_code(recipe),
        "rows": codes_of(recipe.columns, recipe.learnt),
        "sources": SOURCES.codes(*_formats(recipe)),
    }
    return {what: codes for what, codes in found.items() if codes}


def judging_code(recipe: Recipe) -> dict[str, str] | None:
    """The code from outside that takes part in the gate's numbers: the trainer's, metrics', and what they learn from."""
    problem = recipe.problem
    metrics = {str(recipe.gate.metric), *problem.metrics, problem.stratum_metric, problem.focus_metric or "accuracy"}
    parts = (
        TRAINERS.codes(recipe.trainer.use),
        METRICS.codes(*sorted(metrics)),
        codes_of(recipe.columns, recipe.learnt),
    )
    return {name: code for part in parts for name, code in (part or {}).items()} or None


def _formats(recipe: Recipe) -> list[str]:
    options = [recipe.source, *([recipe.unlabelled] if recipe.unlabelled else [])]
    return [each.format for each in options if each.format != "auto"]


def checks_of(choice: GeneratorChoice, checks: dict[str, FitConfig]) -> tuple[FitConfig, ...]:
    """Those of the checks that judge this generator's rows, in their order, set to how it labels them.

    Its ``teacher`` only where it has one. A row that takes the teacher's class may be made from rows of any: its label is
    not theirs. Neither changes what is fitted.
    """
    made = []
    for name, config in checks.items():
        options = config.options
        if name == "teacher":
            if choice.label_by == "generator":
                continue
            options = dataclasses.replace(options, label_by=choice.label_by)
        if name == "relations" and (choice.label_by == "teacher" or config.learnt.fits_strata):
            options = dataclasses.replace(options, parent_class="any")
        made.append(dataclasses.replace(config, options=options))
    return tuple(made)


def extension_context(work: Work, config: FitConfig, name: str) -> Context:
    """What the extension may know: its own empty directory, its own scratch space, this machine's device."""
    return Context(
        seed=config.seed,
        fields=config.fields,
        workdir=work.empty_directory(name),
        target=config.learnt.target,
        device=work.site.device,
        threads=config.threads or work.site.threads,
        deadline=work.site.deadline,
        scratch=work.site.store.scratch(work.site.place(config.extension)),
        tell=work.tell,
    )


class LoadedFits:
    """Fit artifacts laid out once per process, the last few of them: a worker loads a model once."""

    def __init__(self, keep: int = 16) -> None:
        self.keep = keep
        # With each, what removes its directory: when it is put out, or at the process's end.
        self.items: OrderedDict[str, tuple[Fitted, weakref.finalize[..., Any]]] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, site: Site, artifact: Artifact) -> Fitted:
        key = f"{site.store.root}\x1f{artifact.key}\x1f{artifact.sha256}"
        with self.lock:
            if key not in self.items:
                folder = tempfile.mkdtemp(prefix="augmill-fitted-")
                remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
                path = fetch_directory(site.store, artifact, Path(folder)) / "files"
                self.items[key] = (Fitted(path, artifact.content), remove)
            self.items.move_to_end(key)
            while len(self.items) > self.keep:
                self.items.popitem(last=False)[1][1]()
            return self.items[key][0]


FITTED = LoadedFits()


def make_request(generator: FitConfig, segments: Iterable[dict[str, Any]], content: str) -> Request:
    """The rows of the segments with their seeds: a function of (fit artifact, seed, class, ordinal)."""
    strata: list[str] = []
    ordinals, seeds = [], []
    for segment in segments:
        part = np.arange(segment["start"], segment["start"] + segment["count"], dtype=np.int64)
        key = stream_key(content, generator.seed, generator.extension, segment["stratum"])
        strata += [segment["stratum"]] * len(part)
        ordinals.append(part)
        seeds.append(row_seeds(key, part))
    return Request(strata, np.concatenate(ordinals), np.concatenate(seeds))
