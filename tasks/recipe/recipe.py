"""The recipe: YAML in, one frozen Recipe out; every mistake named with its line and the nearest known key."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from augmill.tasks.boundary.retries import PATIENCE
from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import Problem
from augmill.tasks.errors import UserError
from augmill.tasks.gate.judge import GateOptions
from augmill.tasks.generators import GENERATORS
from augmill.tasks.metrics import METRICS
from augmill.tasks.problems import PROBLEMS, problem_learning
from augmill.tasks.problems.classification import Labels
from augmill.tasks.recipe.document import Lines
from augmill.tasks.recipe.layers import EXTENDS, Document, read_document
from augmill.tasks.recipe.nights import Partitions, Price, Refit, Retain, Schedule
from augmill.tasks.recipe.origin import Folder, beside, folder_of, is_relative, place_of, shown
from augmill.tasks.recipe.reader import LABEL_BY, RecipeReader, Rows, adapter
from augmill.tasks.recipe.sections import (
    Columns,
    Mix,
    Outcomes,
    Plan,
    Publish,
    Refill,
    Refuse,
    Report,
    RunOptions,
    Settle,
    Splits,
    Target,
    check,
    option,
    required,
)
from augmill.tasks.registry import PATH, Registry
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.rows.kinds import KINDS, kinds_of
from augmill.tasks.rows.shown import visible
from augmill.tasks.sources import SOURCES, SourceOptions
from augmill.tasks.store.rules import holds
from augmill.tasks.store.stage import identity_of
from augmill.tasks.trainers import QUICK, TRAINERS
from augmill.tasks.validation import ValidationOptions

_log = logging.getLogger("augmill")

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
    columns: Columns = required("what each column holds")
    target: Target = required("how many accepted rows each class should get")
    generators: tuple[Any, ...] = required("what makes rows: a list of `use: NAME` with that generator's options")
    trainer: Any = option(
        None,
        "what judges the rows: `use: NAME`, or `command: ...` for your own training. By default `tfidf` for "
        "texts with labels, `boosting` for tables, `cnn` for pictures and sound, `detector` for boxes, "
        "`ctc` for transcripts, `retrieval` for texts to be answered, `transitions` for histories, `linear` for other rows",
    )
    task: str = option(
        "classification",
        "what is learnt from the rows: classification, pair_classification (of two texts), regression, detection (boxes "
        "in pictures), text_to_text, transcription (of sounds), ranking; by default the types of target and inputs decide",
    )
    seed: int = option(0, "the seed of all random draws")
    labels: Labels = field(default_factory=Labels, metadata={"help": "what labels may be"})
    refuse: Refuse = field(default_factory=Refuse, metadata={"help": "when the source itself is refused"})
    splits: Splits = field(default_factory=Splits, metadata={"help": "which rows train and which judge"})
    unlabelled: SourceOptions | None = option(
        None, "where unlabelled rows of the same shape are, for generators that use them; `path`, as in source"
    )
    partitions: Partitions = field(
        default_factory=Partitions,
        metadata={"help": "how the source is cut by date, and which part of it a snapshot holds"},
    )
    refit: Refit = field(default_factory=Refit, metadata={"help": "when a generator is fitted anew"})
    checks: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "options by check; `off` turns one off; checks that are not named run with their defaults"},
    )
    plan: Plan = field(default_factory=Plan, metadata={"help": "how a class's target is split over several generators"})
    refill: Refill = field(default_factory=Refill, metadata={"help": "rounds of generation and their bounds"})
    settle: Settle = field(
        default_factory=Settle, metadata={"help": "which of the rows that passed the checks are accepted"}
    )
    validation: ValidationOptions = field(
        default_factory=ValidationOptions, metadata={"help": "Great Expectations suites and Data Docs"}
    )
    mix: Mix = field(default_factory=Mix, metadata={"help": "how accepted and real rows are combined"})
    gate: GateOptions = field(default_factory=GateOptions, metadata={"help": "when the mix is good enough"})
    outcomes: Outcomes = field(default_factory=Outcomes, metadata={"help": "what is released if it is not"})
    publish: Publish = field(default_factory=Publish, metadata={"help": "what a release looks like"})
    run: RunOptions = field(default_factory=RunOptions, metadata={"help": "where and how fast it runs; changes no row"})
    schedule: Schedule = field(default_factory=Schedule, metadata={"help": "when it runs by itself; changes no row"})
    retain: Retain = field(default_factory=Retain, metadata={"help": "how long results are kept; changes no row"})
    price: Price = field(default_factory=Price, metadata={"help": "what things cost, for estimates; changes no row"})
    # The empty sections above count in every hash that there is by their names; one that came later must not.
    report: Report = field(
        default_factory=Report,
        metadata={"help": "where people read the reports; changes no row", "identity": False, "why": "as its key"},
    )

    def __repr__(self) -> str:
        """Few words; ``augmill check --resolved`` prints every key."""
        names = self.columns.sources
        inputs = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        uses = ", ".join(choice.use for choice in self.generators)
        return visible(f"<Recipe: {self.dataset}, {self.problem.name} of {inputs}, by {uses}>")

    def __post_init__(self) -> None:
        plain = re.fullmatch(r"(?!(con|prn|aux|nul|com\d|lpt\d)$)[a-z0-9][a-z0-9_-]{0,63}", self.dataset)
        check(
            bool(plain),
            "dataset: expected 1 to 64 lower-case letters, digits, `-` and `_`, and not the name of a device",
        )
        problem = PROBLEMS.problem_of(self.task)
        check(not problem, f"task: {self.task!r} is not known; {problem}")
        pair = self.task == "pair_classification"
        two = self.columns.inputs is None and len(self.columns.sources) == 2
        check(not pair or two, "task: pair_classification needs two text columns")
        type = self.columns.answer_type
        served = ", ".join(self.problem.types)
        check(type in self.problem.types, f"task: {self.task} learns a {served}; columns.target is a {type}")
        check(0 <= self.seed < 2**63, "seed: between 0 and 2**63 - 1")
        cut = self.columns.partition is not None or self.partitions.pattern is not None
        check(cut or self.partitions == Partitions(), "partitions: name columns.partition, or give partitions.pattern")
        both = self.columns.partition is not None and self.partitions.pattern is not None
        check(not both, "partitions.pattern: contradicts columns.partition; give one")
        dated = self.partitions.every != "key"
        check(dated or not self.refit.asked, "refit: needs partitions by day, week or month (partitions.every)")
        fits = self.plan.policy == "shares" or self.plan.rounds <= self.refill.max_rounds
        check(fits, "plan.rounds: at most refill.max_rounds, or the full target is never asked for")
        clash = set(self.publish.copy) & {*self.columns.sources, self.columns.answer}
        check(not clash, f"publish.copy: {', '.join(sorted(clash))} is made by the generator, not copied")

    # Where it was read, the sha256 of what was read there, and what ``--set`` changed. ``load_recipe`` sets them on the
    # recipe it gives, to whom they are lost by ``dataclasses.replace``: no fields, since they are neither keys of the
    # document nor identity.
    origin = ""  # the absolute path, the address, or the text itself
    digest = ""
    changes = tuple[str, ...]()

    @property
    def problem(self) -> Problem:
        return PROBLEMS[self.task]

    @property
    def learnt(self) -> str:
        """The problem's name in identities, by which PROBLEMS has it too."""
        return self.problem.name if self.task in PROBLEMS else self.task

    def preflight(self) -> None:
        """Raises UserError, within a moment, where a generator or a check is told what a fit could not use."""
        for extension in (
            *(choice.build() for choice in self.generators),
            *(CHECKS[name](options) for name, options in self.checks.items()),
        ):
            extension.preflight(self.columns.fields)

    def hash(self) -> str:
        """sha256 of what the recipe says about rows and their publication; ``run`` is left out."""
        counted = [item.name for item in dataclasses.fields(self) if item.metadata.get("identity") is not False]
        return hash_json(identity_of({name: getattr(self, name) for name in counted} | {"run": None}))


def _located(value: str, base: Path) -> Path:
    """Where a path of the recipe leads. ``os.path``: Path raises at an unknown user, and at links that go round.

    Raises ValueError(what is wrong, what to do).
    """
    expanded = os.path.expanduser(value)  # noqa: PTH111
    if expanded.startswith("~"):
        raise ValueError("there is no such home directory", "write the full path")
    resolved = (base / expanded).absolute()
    if "\0" in value:
        raise ValueError("a file name cannot contain NUL", "correct the path")
    if max(len(part.encode("utf-8", "replace")) for part in resolved.parts) > LONGEST_NAME:
        raise ValueError("file name too long", "correct the path")
    if os.path.realpath(resolved) == resolved.anchor:  # to hash them, or to list them, would take minutes
        raise ValueError("this is the whole file system", "name a file or a directory")
    return resolved


@dataclass(frozen=True)
class _Paths:
    """Paths in a recipe are relative to the file in which they stand: the recipe, or one that it extends. One that stands

    in a bucket has addresses beside it and no local files, one that was given as text has nothing: what would mean
    another place on every machine is refused by name.
    """

    folder: Folder
    reader: RecipeReader

    def resolve(self, options: Any, *at: str | int, source: bool = False) -> Any:
        """``options`` with its files' whole paths. ``source``: they are read where they lie, in a bucket too."""
        changes: dict[str, Any] = {}
        for item in dataclasses.fields(options):
            value, place = getattr(options, item.name), (*at, item.name)
            if isinstance(value, tuple) and value and all(map(dataclasses.is_dataclass, value)):
                changes[item.name] = tuple(self.resolve(part, *place, number) for number, part in enumerate(value))
            if not item.metadata.get("file") or not value:
                continue
            if isinstance(value, tuple):
                changes[item.name] = tuple(
                    self._placed(part, (*place, number), source) for number, part in enumerate(value)
                )
            elif "://" not in value and (isinstance(self.folder_at(place), Path) or value != item.default):
                changes[item.name] = self._placed(value, place, source, hub=bool(item.metadata.get("hub")))
        return dataclasses.replace(options, **changes) if changes else options

    def folder_at(self, at: tuple[str | int, ...]) -> Folder:
        """Where the paths begin that stand at a key; where it is not written, or only on the command line, the recipe's."""
        file = self.reader.lines.file_of(at)
        return self.folder if file in (None, self.reader.path) else folder_of(str(file))

    def _placed(self, value: str, at: tuple[str | int, ...], source: bool, hub: bool = False) -> str:
        if "://" in value:
            return value
        base = self.folder_at(at)
        if isinstance(base, Path) or not is_relative(value):
            try:
                resolved = str(_located(value, base if isinstance(base, Path) else Path("/")))
            except ValueError as error:
                raise self.reader.fail(f"{value[:200]!r}: {error.args[0]}", at, error.args[1]) from error
            # A name that is no local path may be a hub id; the generator says what it found.
            return resolved if os.path.exists(resolved) or not hub else value  # noqa: PTH110
        if hub and re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", value):
            return value  # as a hub id is written
        if source and base is not None and (address := beside(base, value)):
            return address
        raise self._relative(value, at, "an address (s3://, gs://, az://)" if source else "")

    def store(self, value: str) -> str:
        """Where ``run.store`` leads; what can be no store is left to whoever opens it."""
        at = ("run", "store")
        base = self.folder_at(at)
        if not isinstance(base, Path) and is_relative(value):
            raise self._relative(value, at, "an address (s3://, gs://, az://), or give --store")
        return whole_store(value, base if isinstance(base, Path) else Path("/"))

    def _relative(self, value: str, at: tuple[str | int, ...], otherwise: str) -> UserError:
        where = "given as text" if self.folder_at(at) is None else "in a bucket"
        problem = f"{value[:200]!r} is a relative path, but a recipe {where} has no directory"
        return self.reader.fail(problem, at, f"write an absolute path{' or ' * bool(otherwise)}{otherwise}")


def whole_store(value: str, folder: Path) -> str:
    """A store's address, or its absolute path; what is neither stays as it is."""
    path = os.path.expanduser(value)  # noqa: PTH111 - Path raises at an unknown user
    if "://" in value or path.startswith("~") or not value.strip():
        return value
    return str((folder / path).absolute())


def load_recipe(where: str | Path, *, store: str | None = None, changes: Sequence[str] | None = ()) -> Recipe:
    """Reads and validates a recipe: a file's path, an object's address (s3://, gs://, az://), or the YAML text itself,

    which a line break tells from both. ``store`` overrides ``run.store``, relative to the working directory. ``changes``:
    values by dotted keys, such as ``generators.0.share=0.5``, as if they stood in the recipe. Raises UserError; of a
    bucket that does not answer StoreRefused or StoreSilent.
    """
    changes = tuple(changes or ())
    document = read_document(where, changes, LABELS)
    recipe = _built(where, document, store)
    if store is None:
        _require_store_beside(recipe, (document.value.get("run") or {}).get("store", RunOptions.store))
    for name, value in (("origin", place_of(where)), ("digest", document.digest), ("changes", changes)):
        object.__setattr__(recipe, name, value)
    PATIENCE.seconds = recipe.run.store_patience  # of the process: what only looks at the store honours it too
    return recipe


def _built(where: str | Path, document: Document, store: str | None) -> Recipe:
    reader = RecipeReader(shown(where), document.lines)
    return build_recipe(document.value, base=folder_of(where), reader=reader, store=store)


def _require_store_beside(recipe: Recipe, written: str) -> None:
    """Up to 0.1.0 a relative ``run.store`` began in the working directory. Raises UserError where this dataset stands

    there and not beside the recipe; where it stands in both, says which one is used.
    """
    new, old = recipe.run.store, str(Path(written).absolute())
    if not is_relative(written) or "://" in new or os.path.realpath(old) == os.path.realpath(new):
        return
    if not holds(old, recipe.dataset):
        return
    if holds(new, recipe.dataset):
        _log.warning("There are two stores of %s. %s, beside the recipe, is used; %s is not.", recipe.dataset, new, old)
        return
    raise UserError(
        f"a relative run.store starts at the recipe: {new}; {recipe.dataset!r} is not in it, but in {old}, "
        "where earlier versions looked, since they started at the working directory",
        where="run.store",
        fix=f"to continue with that one, give --store {old} or move it to {new}; to start afresh, give --store {new}",
    )


def recipe_edited(recipe: Recipe) -> bool:
    """Whether what stands at the recipe's origin now, or in what it extends, makes other rows than what was read; so does

    one that is gone. Comments, and where and how fast it runs, change no row. Raises StoreRefused or StoreSilent where a
    bucket does not answer.
    """
    if not recipe.origin:
        return False
    try:
        now = read_document(recipe.origin, recipe.changes, LABELS)
        return now.digest != recipe.digest and _built(recipe.origin, now, recipe.run.store).hash() != recipe.hash()
    except UserError:
        return True


def rows_of(recipe: Recipe) -> Rows:
    """What its extensions have to serve."""
    return _rows(recipe.columns, recipe.problem)


def rows_of_document(document: dict[str, Any]) -> Rows:
    """The same of a document whose columns are sound."""
    task = document.get("task") or _task_of(document["columns"]) or "classification"
    return _rows(adapter(Columns).validate_json(json.dumps(document["columns"])), PROBLEMS[task])


def _rows(columns: Columns, problem: Problem) -> Rows:
    return Rows(frozenset(kind.name for kind, _ in kinds_of(columns.fields)), problem.name)


def _task_of(columns: Any) -> str | None:
    """The first task that learns a target of the type which the recipe gives its column, from inputs of the types that it

    gives them, if any does; None where it gives none.
    """
    target, inputs = (columns.get(key) if isinstance(columns, dict) else None for key in ("target", "inputs"))
    if not isinstance(target, dict):
        return None
    type = str(next(iter(target.values()), ""))
    types = map(str, inputs.values()) if isinstance(inputs, dict) else ()
    return problem_learning(type, types) or problem_learning(type)


def build_recipe(
    document: Any, *, base: Folder, reader: RecipeReader | None = None, store: str | None = None
) -> Recipe:
    """A recipe from a parsed document; relative paths are taken from ``base`` (see ``folder_of``). Raises UserError."""
    reader = reader or RecipeReader("recipe", Lines(None))
    if not isinstance(document, dict):
        raise reader.fail("a recipe is a YAML document with keys such as dataset, source and columns", ())
    spine = {key: value for key, value in document.items() if key not in ("generators", "checks", "trainer")}
    spine |= {"generators": [None], "checks": {}}
    if "task" not in spine and (task := _task_of(spine.get("columns"))) is not None:
        spine["task"] = task
    recipe: Recipe = reader.read(Recipe, spine, ())
    if "generators" not in document:
        raise reader.fail("'generators' is missing", (), f"known generators: {', '.join(GENERATORS)}")
    rows = rows_of(recipe)
    for name, options in (("source", recipe.source), ("unlabelled", recipe.unlabelled or recipe.source)):
        reader.format(options.format, (name, "format"))
    files = sum(KINDS[type].files for type in recipe.columns.types.values())
    reader.require_exports(recipe.publish.export, rows, files)
    chosen, checks = reader.generators(document["generators"], rows), reader.checks(document.get("checks", {}), rows)
    for index, choice in enumerate(chosen):
        if recipe.unlabelled is None and choice.build().wants_unlabelled():
            problem = f"{choice.use} learns from unlabelled rows; the recipe names none"
            raise reader.fail(problem, ("generators", index), "say where they are: `unlabelled: {path: ...}`")
        if choice.label_by != LABEL_BY[0] and "teacher" not in checks:
            if not rows.served_in_part(CHECKS["teacher"]):
                raise reader.unserved("teacher", CHECKS, rows.served_in_part, rows, ("generators", index, "label_by"))
            problem = f"{choice.label_by!r} needs the check `teacher`, which is off"
            raise reader.fail(problem, ("generators", index, "label_by"), "remove `teacher: off` from `checks`")
    paths = _Paths(base, reader)
    placed = paths.store(recipe.run.store) if store is None else whole_store(store, Path())
    resolved = [
        dataclasses.replace(choice, options=paths.resolve(choice.options, "generators", index))
        for index, choice in enumerate(chosen)
    ]
    unlabelled = recipe.unlabelled
    return dataclasses.replace(
        recipe,
        source=paths.resolve(recipe.source, "source", source=True),
        unlabelled=paths.resolve(unlabelled, "unlabelled", source=True) if unlabelled else None,
        splits=paths.resolve(recipe.splits, "splits", source=True),
        validation=paths.resolve(recipe.validation, "validation"),
        generators=tuple(resolved),
        checks=checks,
        run=dataclasses.replace(recipe.run, store=placed),
        **_judges(recipe, document.get("trainer", {}), rows, reader),
    )


def _judges(recipe: Recipe, given: Any, rows: Rows, reader: RecipeReader) -> dict[str, Any]:
    """``trainer`` and ``gate`` as they serve the recipe's rows, with what is not ``given`` there. Raises UserError."""
    known = [name for name, trainer in TRAINERS.items() if rows.served_whole(trainer)]
    if isinstance(given, dict) and not {"use", "command"} & set(given):
        given = {"use": known[0] if known else "command", **given}  # the first that does is its default
    choice = reader.trainer(given)
    if not rows.served_whole(TRAINERS[choice.use]):
        raise reader.unserved(choice.use, TRAINERS, rows.served_whole, rows, ("trainer",))
    try:
        gate = recipe.gate.resolved(recipe.problem)
    except ValueError as error:
        key, _, said = str(error).removeprefix("gate.").partition(": ")
        raise reader.fail(said, ("gate", key)) from error
    if gate.needs_scores and not TRAINERS[choice.use].scores:
        able = ", ".join(name for name in known if TRAINERS[name].scores) or "none that serves these rows"
        said = f"{gate.metric} ranks rows by scores, which the trainer {choice.use} does not give"
        raise reader.fail(said, ("gate", "metric"), f"trainers that give them: {able}")
    if recipe.plan.policy == "adaptive" and not rows.served_whole(QUICK):
        said = f"adaptive measures generators by a quick trainer that does not serve rows of {rows}"
        raise reader.fail(said, ("plan", "policy"), "`policy: shares` splits the target by the generators' shares")
    return {"trainer": choice, "gate": gate}


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
    metrics = {"anyOf": [{"enum": [*METRICS, None]}, _from_outside(METRICS)], "default": None}
    definitions["GateOptions"]["properties"]["metric"] = metrics
    definitions["SourceOptions"]["properties"]["format"] |= {
        "anyOf": [{"enum": ["auto", *SOURCES]}, _from_outside(SOURCES)]
    }
    trainers.append(_section_from_outside(TRAINERS))
    choices.append(_section_from_outside(GENERATORS))
    schema["properties"]["trainer"] = {"anyOf": [{"enum": list(TRAINERS)}, _from_outside(TRAINERS), *trainers]}
    paths = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    schema["properties"][EXTENDS] = paths | {"description": "recipes whose keys this one inherits"}
    schema["anyOf"] = [{"required": [EXTENDS]}, {"required": schema.pop("required")}]
    schema["properties"]["generators"] = {"type": "array", "minItems": 1, "items": {"anyOf": choices}}
    schema["properties"]["checks"] = {
        "type": "object",
        "properties": checks,
        "patternProperties": {_from_outside(CHECKS)["pattern"]: {}},
        "additionalProperties": False,
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Augmill recipe", **schema}


def _from_outside(registry: Registry[Any]) -> dict[str, Any]:
    """A name of what comes from outside: a path, or what installed packages offer. Their options are not looked at."""
    names = [re.escape(offer.name) for offer in registry.offers()]
    return {"type": "string", "pattern": f"^({'|'.join([*names, PATH])})$"}


def _section_from_outside(registry: Registry[Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"use": _from_outside(registry)}, "required": ["use"]}


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
