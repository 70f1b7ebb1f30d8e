"""The recipe: YAML in, one frozen Recipe out; every mistake named with its line and the nearest known key."""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from augmill.tasks.boundary.retries import PATIENCE
from augmill.tasks.checks import CHECKS
from augmill.tasks.errors import UserError
from augmill.tasks.gate.judge import GateOptions
from augmill.tasks.generators import GENERATORS
from augmill.tasks.recipe.nights import Partitions, Price, Refit, Retain, Schedule
from augmill.tasks.recipe.reader import LABEL_BY, Lines, RecipeReader, adapter, read_yaml
from augmill.tasks.recipe.sections import (
    Columns,
    Labels,
    Mix,
    Outcomes,
    Plan,
    Publish,
    Refill,
    Refuse,
    Report,
    Run,
    Settle,
    Splits,
    Target,
    check,
    option,
    required,
)
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.sources import SourceOptions
from augmill.tasks.store.stage import identity_of
from augmill.tasks.trainers import TRAINERS
from augmill.tasks.validation import ValidationOptions

# Where a recipe names labels: read as they are written. True where it takes numbers and truth values too.
LABELS = {
    ("labels", "declared", "*"): True,
    ("labels", "retired", "*"): True,
    ("labels", "aliases", "*"): True,
    ("gate", "focus", "*"): False,
    ("generators", "*", "labels", "*"): False,  # replay
}
LONGEST_NAME = 255  # bytes, on the file systems there are


@dataclass(frozen=True)
class Recipe:
    """What to augment, how, and when it is good enough."""

    dataset: str = required("name of the dataset: lower-case letters, digits, `-` and `_`")
    source: SourceOptions = required("where the labelled rows are")
    columns: Columns = required("which column is what")
    target: Target = required("how many accepted rows each class is to get")
    generators: tuple[Any, ...] = required("what makes rows: a list of `use: NAME` with that generator's options")
    trainer: Any = option(None, "what judges the rows: `use: tfidf` (default), or `command: ...` for your own training")
    task: Literal["classification", "pair_classification"] = option("classification", "what is learnt from the rows")
    seed: int = option(0, "the seed of everything drawn")
    labels: Labels = field(default_factory=Labels, metadata={"help": "what labels may be"})
    refuse: Refuse = field(default_factory=Refuse, metadata={"help": "when the source itself is refused"})
    splits: Splits = field(default_factory=Splits, metadata={"help": "which rows train, which judge"})
    unlabelled: SourceOptions | None = option(
        None, "where rows of the same shape without labels are, for generators that can use such; `path`, as in source"
    )
    partitions: Partitions = field(
        default_factory=Partitions, metadata={"help": "how the source is cut by date, and which of it a snapshot holds"}
    )
    refit: Refit = field(default_factory=Refit, metadata={"help": "when a generator is fitted anew"})
    checks: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "options by check; `off` leaves one out; what is not named has defaults"},
    )
    plan: Plan = field(default_factory=Plan, metadata={"help": "how a class's target is split over several generators"})
    refill: Refill = field(default_factory=Refill, metadata={"help": "rounds of generation and their bounds"})
    settle: Settle = field(default_factory=Settle, metadata={"help": "which of the rows that passed are accepted"})
    validation: ValidationOptions = field(
        default_factory=ValidationOptions, metadata={"help": "Great Expectations suites and Data Docs"}
    )
    mix: Mix = field(default_factory=Mix, metadata={"help": "how accepted and real rows are put together"})
    gate: GateOptions = field(default_factory=GateOptions, metadata={"help": "when the mix is good enough"})
    outcomes: Outcomes = field(default_factory=Outcomes, metadata={"help": "what is released otherwise"})
    publish: Publish = field(default_factory=Publish, metadata={"help": "what a release looks like"})
    run: Run = field(default_factory=Run, metadata={"help": "where it runs and how fast; changes no row"})
    schedule: Schedule = field(default_factory=Schedule, metadata={"help": "when it runs by itself; changes no row"})
    retain: Retain = field(default_factory=Retain, metadata={"help": "how long what is made is kept; changes no row"})
    price: Price = field(default_factory=Price, metadata={"help": "what things cost, for estimates; changes no row"})
    # The empty sections above count in every hash that there is by their names; one that came later must not.
    report: Report = field(
        default_factory=Report,
        metadata={"help": "where people read the reports; changes no row", "identity": False, "why": "as its key"},
    )

    def __post_init__(self) -> None:
        plain = re.fullmatch(r"(?!(con|prn|aux|nul|com\d|lpt\d)$)[a-z0-9][a-z0-9_-]{0,63}", self.dataset)
        check(bool(plain), "dataset: expected 1 to 64 lower-case letters, digits, `-` and `_`, and no name of a device")
        pair = self.task == "pair_classification"
        check(not pair or len(self.columns.texts) == 2, "task: pair_classification needs two text columns")
        check(0 <= self.seed < 2**63, "seed: between 0 and 2**63 - 1")
        cut = self.columns.partition is not None or self.partitions.pattern is not None
        check(cut or self.partitions == Partitions(), "partitions: name columns.partition, or give partitions.pattern")
        both = self.columns.partition is not None and self.partitions.pattern is not None
        check(not both, "partitions.pattern: contradicts columns.partition; give one")
        dated = self.partitions.every != "key"
        check(dated or not self.refit.asked, "refit: needs partitions by day, week or month (partitions.every)")
        fits = self.plan.policy == "shares" or self.plan.rounds <= self.refill.max_rounds
        check(fits, "plan.rounds: at most refill.max_rounds, or the target is never asked for whole")
        clash = set(self.publish.copy) & {*self.columns.texts, self.columns.label}
        check(not clash, f"publish.copy: {', '.join(sorted(clash))} is made by the generator, not copied")

    def hash(self) -> str:
        """sha256 of what the recipe says about rows and their publication; ``run`` is left out."""
        counted = [item.name for item in dataclasses.fields(self) if item.metadata.get("identity") is not False]
        return hash_json(identity_of({name: getattr(self, name) for name in counted} | {"run": None}))


def _located(value: str, base: Path, where: str) -> Path:
    """Where a path of the recipe leads. ``os.path``: Path raises at an unknown user, and at links that go round."""
    expanded = os.path.expanduser(value)  # noqa: PTH111
    if expanded.startswith("~"):
        raise UserError("nobody knows whose home this is", where=where, fix="write it out")
    resolved = (base / expanded).absolute()
    if "\0" in value:
        raise UserError("a NUL character is in no file's name", where=where, fix="correct the path")
    if max(len(part.encode("utf-8", "replace")) for part in resolved.parts) > LONGEST_NAME:
        raise UserError("file name too long", where=where, fix="give the path of what is there")
    if os.path.realpath(resolved) == resolved.anchor:  # to hash them, or to list them, would take minutes
        raise UserError("this is all of the machine's files", where=where, fix="name a file or a directory")
    return resolved


def _resolve(options: Any, base: Path) -> Any:
    """Paths in a recipe are relative to the recipe."""
    changes: dict[str, Any] = {}
    for item in dataclasses.fields(options):
        value = getattr(options, item.name)
        if isinstance(value, tuple) and value and all(map(dataclasses.is_dataclass, value)):
            changes[item.name] = tuple(_resolve(part, base) for part in value)
        if not item.metadata.get("file"):
            continue
        if isinstance(value, str) and value and "://" not in value:
            resolved = _located(value, base, f"{item.name}: {value[:200]}")
            # A name that is no local path may be a hub id; the generator says what it found.
            if os.path.exists(resolved) or not item.metadata.get("hub"):  # noqa: PTH110
                changes[item.name] = str(resolved)
        elif isinstance(value, tuple):
            changes[item.name] = tuple(v if "://" in v else str((base / v).absolute()) for v in value)
    return dataclasses.replace(options, **changes) if changes else options


def load_recipe(path: str | Path, *, store: str | None = None) -> Recipe:
    """Reads and validates a recipe file. ``store`` overrides ``run.store``. Raises UserError."""
    document, lines = read_yaml(Path(path), LABELS)
    recipe = build_recipe(
        document, base=Path(path).absolute().parent, reader=RecipeReader(str(path), lines), store=store
    )
    PATIENCE.seconds = recipe.run.store_patience  # of the process: what only looks at the store honours it too
    return recipe


def build_recipe(document: Any, *, base: Path, reader: RecipeReader | None = None, store: str | None = None) -> Recipe:
    """A recipe from a parsed document; relative paths are taken from ``base``."""
    reader = reader or RecipeReader("recipe", Lines(None))
    if not isinstance(document, dict):
        raise reader.fail("a recipe is a YAML document with keys such as dataset, source and columns", ())
    spine = {key: value for key, value in document.items() if key not in ("generators", "checks", "trainer")}
    spine |= {"generators": [None], "checks": {}}
    recipe: Recipe = reader.read(Recipe, spine, ())
    if "generators" not in document:
        raise reader.fail("'generators' is missing", (), f"known generators: {', '.join(GENERATORS)}")
    chosen, checks = reader.generators(document["generators"]), reader.checks(document.get("checks", {}))
    for index, choice in enumerate(chosen):
        if recipe.unlabelled is None and choice.build().wants_unlabelled():
            problem = f"{choice.use} learns from unlabelled rows; the recipe names none"
            raise reader.fail(problem, ("generators", index), "say where they are: `unlabelled: {path: ...}`")
        if choice.label_by != LABEL_BY[0] and "teacher" not in checks:
            problem = f"{choice.label_by!r} needs the check `teacher`, which is off"
            raise reader.fail(problem, ("generators", index, "label_by"), "take `teacher: off` out of `checks`")
    run = recipe.run if store is None else dataclasses.replace(recipe.run, store=store)
    return dataclasses.replace(
        recipe,
        source=_resolve(recipe.source, base),
        unlabelled=_resolve(recipe.unlabelled, base) if recipe.unlabelled else None,
        splits=_resolve(recipe.splits, base),
        validation=_resolve(recipe.validation, base),
        generators=tuple(dataclasses.replace(c, options=_resolve(c.options, base)) for c in chosen),
        checks=checks,
        trainer=reader.trainer(document.get("trainer", {})),
        run=run,
    )


def json_schema() -> dict[str, Any]:
    """The recipe's JSON Schema (draft 2020-12), with every generator's and check's options."""
    schema: dict[str, Any] = adapter(Recipe).json_schema()
    definitions = schema.setdefault("$defs", {})
    choices = []
    for name, generator in GENERATORS.items():
        part = adapter(generator.Options).json_schema()
        definitions |= part.pop("$defs", {})
        part["properties"] = {"use": {"const": name}, "share": {"type": "number", "default": 1.0}, **part["properties"]}
        part["properties"]["label_by"] = {"enum": list(LABEL_BY), "default": LABEL_BY[0]}
        part["required"] = ["use", *part.get("required", [])]
        choices.append(part)
    checks: dict[str, Any] = {}
    for name, kind in CHECKS.items():
        part = adapter(kind.Options).json_schema()
        definitions |= part.pop("$defs", {})
        checks[name] = {"anyOf": [part, {"enum": [False, "off"]}]}
    trainers = []
    for name, trainer in TRAINERS.items():
        part = adapter(trainer.Options).json_schema()
        definitions |= part.pop("$defs", {})
        part["properties"] = {"use": {"const": name}, **part["properties"]}
        trainers.append(part)
    schema["properties"]["trainer"] = {"anyOf": [{"enum": list(TRAINERS)}, *trainers]}
    schema["properties"]["generators"] = {"type": "array", "minItems": 1, "items": {"anyOf": choices}}
    schema["properties"]["checks"] = {"type": "object", "properties": checks, "additionalProperties": False}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Augmill recipe", **schema}


def not_identity() -> dict[str, str]:
    """Every recipe field that changes no row, with the reason (law 2)."""
    hints = typing.get_type_hints(Recipe)
    sections: dict[str, Any] = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    sections |= {f"generators.{name}": kind.Options for name, kind in GENERATORS.items()}
    sections |= {f"checks.{name}": kind.Options for name, kind in CHECKS.items()}
    sections |= {f"trainer.{name}": kind.Options for name, kind in TRAINERS.items()}
    return {
        f"{section}.{item.name}": item.metadata["why"]
        for section, kind in sections.items()
        for item in dataclasses.fields(kind)
        if item.metadata.get("identity") is False
    }
