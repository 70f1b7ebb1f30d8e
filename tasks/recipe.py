"""The recipe: YAML in, one frozen Recipe out; every mistake named with its line and the nearest known key."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import Generator, UserError
from augmill.tasks.gate import GateOptions
from augmill.tasks.generators import GENERATORS
from augmill.tasks.hashing import hash_json
from augmill.tasks.recipe_sections import (
    Columns,
    Labels,
    Mix,
    Outcomes,
    Publish,
    Refill,
    Refuse,
    Run,
    Settle,
    Splits,
    Target,
    check,
    option,
    required,
)
from augmill.tasks.recipe_yaml import Lines, read_yaml
from augmill.tasks.sources import SourceOptions
from augmill.tasks.stage import identity_of
from augmill.tasks.trainers import TRAINERS
from augmill.tasks.validation import ValidationOptions


@dataclass(frozen=True)
class GeneratorChoice:
    """One generator of the recipe, its share of each class's target, and its own options."""

    use: str
    share: float
    options: Any

    def build(self) -> Generator:
        return GENERATORS[self.use](self.options)


@dataclass(frozen=True)
class TrainerChoice:
    """What judges the rows, and its options."""

    use: str
    options: Any


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
    checks: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "options by check; `off` leaves one out; what is not named has defaults"},
    )
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

    def __post_init__(self) -> None:
        check(
            bool(re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", self.dataset)),
            f"dataset: {self.dataset!r} is not 1 to 64 lower-case letters, digits, `-` and `_`",
        )
        pair = self.task == "pair_classification"
        check(not pair or len(self.columns.texts) == 2, "task: pair_classification needs two text columns")
        check(0 <= self.seed < 2**63, "seed: between 0 and 2**63 - 1")
        clash = set(self.publish.copy) & {*self.columns.texts, self.columns.label}
        check(not clash, f"publish.copy: {', '.join(sorted(clash))} is made by the generator, not copied")

    def hash(self) -> str:
        """sha256 of what the recipe says about rows and their publication; ``run`` is left out."""
        return hash_json(
            identity_of({item.name: getattr(self, item.name) for item in dataclasses.fields(self)} | {"run": None})
        )


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(known))}"


def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Validates strictly, refusing unknown keys, in every dataclass below ``kind``."""
    for part in _dataclasses(kind, set()):
        part.__pydantic_config__ = {"extra": "forbid", "strict": True}
    return TypeAdapter(kind)


def _dataclasses(kind: Any, seen: set[Any]) -> set[Any]:
    import typing

    if dataclasses.is_dataclass(kind) and kind not in seen:
        seen.add(kind)
        for hint in typing.get_type_hints(kind).values():
            _dataclasses(hint, seen)
    for argument in typing.get_args(kind):
        _dataclasses(argument, seen)
    return seen


def _known_keys(kind: Any, location: tuple[str | int, ...]) -> list[str]:
    import typing

    for part in location:
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        kind = hints.get(str(part), kind)
    return [item.name for item in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


class _Reader:
    """Validates parts of one document and turns every pydantic error into a sentence with its line."""

    def __init__(self, path: str, lines: Lines) -> None:
        self.path, self.lines = path, lines

    def fail(self, problem: str, location: tuple[str | int, ...], fix: str = "") -> UserError:
        name = ".".join(str(part) for part in location)
        where = f"{self.path} line {self.lines.of(location)}" + (f" ({name})" if name else "")
        return UserError(problem, where=where, fix=fix or "see docs/recipe.md, or `augmill schema`")

    def read(self, kind: Any, value: Any, location: tuple[str | int, ...]) -> Any:
        if not isinstance(value, dict):
            raise self.fail(f"expected a section with keys, found {type(value).__name__}", location)
        try:
            # Through JSON, because strict validation of Python values would refuse a list where a tuple stands.
            return _adapter(kind).validate_json(json.dumps(value, default=str))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            at = tuple(part for part in first["loc"] if not (isinstance(part, str) and _is_type_tag(part)))
            where = (*location, *at)
            if first["type"] in ("unexpected_keyword_argument", "extra_forbidden", "no_such_attribute"):
                known = _known_keys(kind, at[:-1])
                raise self.fail(f"unknown key {str(at[-1])!r}; {_nearest(str(at[-1]), known)}", where) from error
            if first["type"].startswith("missing"):
                raise self.fail(f"{at[-1]!r} is missing", where) from error
            found = json.dumps(first["input"], default=str, ensure_ascii=False)[:80]
            message = first["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:] if message.startswith("Input should") else message
            raise self.fail(f"{message}; found {found}" if "found" not in message else message, where) from error

    def generators(self, value: Any) -> tuple[GeneratorChoice, ...]:
        at: tuple[str | int, ...] = ("generators",)
        if not isinstance(value, list) or not value:
            raise self.fail("expected a list of at least one generator", at, f"known: {', '.join(GENERATORS)}")
        chosen = []
        for index, entry in enumerate(value):
            if not isinstance(entry, dict) or not isinstance(entry.get("use"), str):
                raise self.fail("each generator is a section with `use: NAME`", (*at, index))
            rest = {key: part for key, part in entry.items() if key not in ("use", "share")}
            if entry["use"] not in GENERATORS:
                problem = f"there is no generator {entry['use']!r}; {_nearest(entry['use'], list(GENERATORS))}"
                raise self.fail(problem, (*at, index, "use"))
            share = entry.get("share", 1.0)
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1e6:
                raise self.fail(f"share: a positive number; found {share!r}", (*at, index, "share"))
            options = self.read(GENERATORS[entry["use"]].Options, rest, (*at, index))
            chosen.append(GeneratorChoice(entry["use"], float(share), options))
        names = [choice.use for choice in chosen]
        if len(set(names)) < len(names):
            raise self.fail("a generator stands twice", at, "give each once, with a share")
        return tuple(chosen)

    def trainer(self, value: Any) -> TrainerChoice:
        if isinstance(value, str):
            value = {"use": value}
        if not isinstance(value, dict):
            raise self.fail("expected `use: NAME` or `command: ...`", ("trainer",), f"known: {', '.join(TRAINERS)}")
        name = value.get("use", "command" if "command" in value else "tfidf")
        if name not in TRAINERS:
            raise self.fail(f"there is no trainer {name!r}; {_nearest(str(name), list(TRAINERS))}", ("trainer", "use"))
        rest = {key: part for key, part in value.items() if key != "use"}
        return TrainerChoice(name, self.read(TRAINERS[name].Options, rest, ("trainer",)))

    def checks(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.fail("expected a section of checks by name", ("checks",), f"known: {', '.join(CHECKS)}")
        for name in value:
            if name not in CHECKS:
                raise self.fail(f"there is no check {name!r}; {_nearest(str(name), list(CHECKS))}", ("checks", name))
        given = {name: value.get(name, {}) for name in CHECKS}
        return {
            name: self.read(CHECKS[name].Options, part or {}, ("checks", name))
            for name, part in given.items()
            if part is not False
        }


def _is_type_tag(part: str) -> bool:
    """pydantic names the branch of a union it tried; that is no key of the recipe."""
    return bool(re.fullmatch(r"str|int|bool|float|(tuple|list|dict|literal|constrained|function|json)[\[\-'].*", part))


def _resolve(options: Any, base: Path) -> Any:
    """Paths in a recipe are relative to the recipe."""
    changes: dict[str, Any] = {}
    for item in dataclasses.fields(options):
        value = getattr(options, item.name)
        if not item.metadata.get("file"):
            continue
        if isinstance(value, str) and value and "://" not in value:
            resolved = (base / Path(value).expanduser()).absolute()
            # A name that is no local path may be a hub id; the generator says what it found.
            if resolved.exists() or not item.metadata.get("hub"):
                changes[item.name] = str(resolved)
        elif isinstance(value, tuple):
            changes[item.name] = tuple(v if "://" in v else str((base / v).absolute()) for v in value)
    return dataclasses.replace(options, **changes) if changes else options


def load_recipe(path: str | Path, *, store: str | None = None) -> Recipe:
    """Reads and validates a recipe file. ``store`` overrides ``run.store``. Raises UserError."""
    document, lines = read_yaml(Path(path))
    return build_recipe(document, base=Path(path).absolute().parent, reader=_Reader(str(path), lines), store=store)


def build_recipe(document: Any, *, base: Path, reader: _Reader | None = None, store: str | None = None) -> Recipe:
    """A recipe from a parsed document; relative paths are taken from ``base``."""
    reader = reader or _Reader("recipe", Lines(None))
    if not isinstance(document, dict):
        raise reader.fail("a recipe is a YAML document with keys such as dataset, source and columns", ())
    spine = {key: value for key, value in document.items() if key not in ("generators", "checks", "trainer")}
    spine |= {"generators": [None], "checks": {}}
    recipe: Recipe = reader.read(Recipe, spine, ())
    if "generators" not in document:
        raise reader.fail("'generators' is missing", (), f"known generators: {', '.join(GENERATORS)}")
    chosen = reader.generators(document["generators"])
    run = recipe.run if store is None else dataclasses.replace(recipe.run, store=store)
    return dataclasses.replace(
        recipe,
        source=_resolve(recipe.source, base),
        splits=_resolve(recipe.splits, base),
        generators=tuple(dataclasses.replace(c, options=_resolve(c.options, base)) for c in chosen),
        checks=reader.checks(document.get("checks", {})),
        trainer=reader.trainer(document.get("trainer", {})),
        run=run,
    )


def json_schema() -> dict[str, Any]:
    """The recipe's JSON Schema (draft 2020-12), with every generator's and check's options."""
    schema: dict[str, Any] = _adapter(Recipe).json_schema()
    definitions = schema.setdefault("$defs", {})
    choices = []
    for name, generator in GENERATORS.items():
        part = _adapter(generator.Options).json_schema()
        definitions |= part.pop("$defs", {})
        part["properties"] = {"use": {"const": name}, "share": {"type": "number", "default": 1.0}, **part["properties"]}
        part["required"] = ["use", *part.get("required", [])]
        choices.append(part)
    checks: dict[str, Any] = {}
    for name, kind in CHECKS.items():
        part = _adapter(kind.Options).json_schema()
        definitions |= part.pop("$defs", {})
        checks[name] = {"anyOf": [part, {"const": False}]}
    trainers = []
    for name, trainer in TRAINERS.items():
        part = _adapter(trainer.Options).json_schema()
        definitions |= part.pop("$defs", {})
        part["properties"] = {"use": {"const": name}, **part["properties"]}
        trainers.append(part)
    schema["properties"]["trainer"] = {"anyOf": [{"enum": list(TRAINERS)}, *trainers]}
    schema["properties"]["generators"] = {"type": "array", "minItems": 1, "items": {"anyOf": choices}}
    schema["properties"]["checks"] = {"type": "object", "properties": checks, "additionalProperties": False}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Augmill recipe", **schema}


def not_identity() -> dict[str, str]:
    """Every recipe field that changes no row, with the reason (law 2)."""
    table: dict[str, str] = {}
    kinds: dict[str, Any] = {item.name: item.type for item in dataclasses.fields(Recipe)}
    sections = {"source": SourceOptions, "run": Run, "outcomes": Outcomes, "gate": GateOptions}
    sections |= {f"generators.{name}": generator.Options for name, generator in GENERATORS.items()}
    sections |= {f"checks.{name}": kind.Options for name, kind in CHECKS.items()}
    assert set(sections) & set(kinds)
    for section, kind in sections.items():
        for item in dataclasses.fields(kind):
            if item.metadata.get("identity") is False:
                table[f"{section}.{item.name}"] = item.metadata["why"]
    return table
