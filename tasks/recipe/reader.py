"""Reads sections of a recipe strictly; every mistake becomes a sentence with its line and the nearest known key."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import ANY, Generator
from augmill.tasks.errors import UserError
from augmill.tasks.exports import EXPORTS
from augmill.tasks.generators import GENERATORS
from augmill.tasks.recipe.document import SET, Lines
from augmill.tasks.registry import Registry
from augmill.tasks.rows.names import nearest
from augmill.tasks.sources import SOURCES
from augmill.tasks.trainers import TRAINERS

T = TypeVar("T")
LABEL_BY = ("generator", "teacher", "agree")
UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden", "no_such_attribute")  # what pydantic calls such a key
# Texts in YAML 1.2; recipes written for 1.1 have them where only true or false can be meant, and there they stay that.
_WORDS = {"yes": True, "on": True, "no": False, "off": False}


@dataclass(frozen=True)
class GeneratorChoice:
    """One generator of the recipe, its share of each class's target, its own options, and who says a row's class:

    the ``generator``, the check ``teacher`` in its stead, or both, who have to ``agree``.
    """

    use: str
    share: float
    options: Any
    label_by: Literal["generator", "teacher", "agree"] = "generator"

    def build(self) -> Generator:
        return GENERATORS[self.use](self.options)


@dataclass(frozen=True)
class TrainerChoice:
    """What judges the rows, and its options."""

    use: str
    options: Any


def adapter(kind: Any) -> TypeAdapter[Any]:
    """Validates strictly, refusing unknown keys, in every dataclass below ``kind``."""
    hashable: Hashable = kind
    return _adapter(hashable)


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    for part in _dataclasses(kind, set()):
        part.__pydantic_config__ = {"extra": "forbid", "strict": True}
    return TypeAdapter(kind)


def _dataclasses(kind: Any, seen: set[Any]) -> set[Any]:
    if dataclasses.is_dataclass(kind) and kind not in seen:
        seen.add(kind)
        for hint in typing.get_type_hints(kind).values():
            _dataclasses(hint, seen)
    for argument in typing.get_args(kind):
        _dataclasses(argument, seen)
    return seen


def _with_words(kind: Any, value: Any) -> Any:
    """The value with ``_WORDS`` read wherever ``kind`` asks for true or false, and for no text."""
    kinds = (kind, *typing.get_args(kind))
    if isinstance(value, dict):
        section = next(filter(dataclasses.is_dataclass, kinds), None)
        hints = typing.get_type_hints(section) if section else {}
        return {key: _with_words(hints.get(key), part) for key, part in value.items()}
    wanted = isinstance(value, str) and bool in kinds and str not in kinds
    return _WORDS.get(value.lower(), value) if wanted else value


def _known_keys(kind: Any, location: tuple[str | int, ...]) -> list[str]:
    for part in location:
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        kind = hints.get(str(part), kind)
        kind = next(filter(dataclasses.is_dataclass, typing.get_args(kind)), kind)  # of `Section | None` the section
    return [item.name for item in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def _shown(value: Any, location: tuple[str | int, ...]) -> str:
    """What was found, in short; not where it may be a secret: in a log it would stand for good."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    address = bool({"base_url", "url"} & {*location})
    if "api_key" in location or "api_key" in text or (address and set("@?#") & set(text)):
        return "a value not shown here, since it may be a secret"
    return text[:80]


@dataclass(frozen=True)
class Rows:
    """What the recipe's rows are made of, and what is learnt from them: what extensions have to serve."""

    kinds: frozenset[str]
    problem: str

    def served_whole(self, extension: Any) -> bool:
        """By what makes rows, or learns from them: all their kinds."""
        return self._learnt(extension) and (ANY in extension.kinds or self.kinds <= set(extension.kinds))

    def served_in_part(self, extension: Any) -> bool:
        """By what judges them: one of their kinds at least."""
        return self._learnt(extension) and bool({ANY, *self.kinds} & set(extension.kinds))

    def why_aside(self, check: Any) -> str:
        """For what rows a check is that has nothing to judge in these; an empty text where it has."""
        if self.served_in_part(check):
            return ""
        return (
            f"for {' and '.join(check.problems if self.kinds & {*check.kinds} or ANY in check.kinds else check.kinds)}"
        )

    def asides(self) -> dict[str, str]:
        """The checks that stand aside though nobody has to name them, each with for what rows it is."""
        return {name: why for name, check in CHECKS.items() if check.always and (why := self.why_aside(check))}

    def _learnt(self, extension: Any) -> bool:
        return bool({ANY, self.problem} & set(extension.problems))

    def __str__(self) -> str:
        return f"{' and '.join(sorted(self.kinds))}, {self.problem}"


def _serves(extension: Any) -> str:
    kinds, problems = ("any" if ANY in part else " and ".join(part) for part in (extension.kinds, extension.problems))
    return f"{kinds}, {problems}"


class RecipeReader:
    """Validates parts of one document and turns every pydantic error into a sentence with its line."""

    def __init__(self, path: str, lines: Lines) -> None:
        self.path, self.lines = path, lines

    def fail(self, problem: str, location: tuple[str | int, ...], fix: str = "") -> UserError:
        name = ".".join(str(part) for part in location)
        where = self.lines.where(location, self.path)
        where += f" ({name})" if name and where != f"{SET}{name}" else ""
        if "api_key" in location:
            fix = fix or "write `{env: NAME}` or `{file: PATH}`, the place of the key; never the key itself"
        fix = fix or "see docs/recipe.md, or `augmill schema`"
        return UserError(self.lines.hide(problem, location), where=where, fix=self.lines.hide(fix, location))

    def read(self, kind: Any, value: Any, location: tuple[str | int, ...]) -> Any:
        if not isinstance(value, dict):
            raise self.fail(f"expected a section with keys; found {_shown(value, location)}", location)
        try:
            # Through JSON, because strict validation of Python values would refuse a list where a tuple stands.
            return adapter(kind).validate_json(json.dumps(_with_words(kind, value), default=str))
        except ValidationError as error:
            raise self._explain(kind, error, location) from error

    def _explain(self, kind: Any, error: ValidationError, location: tuple[str | int, ...]) -> UserError:
        """The first of pydantic's complaints; all it says of that one key, which may be of several types."""
        errors = error.errors(include_url=False, include_context=False)
        first = errors[0]
        if first["type"].startswith("missing"):  # a misspelt key is both missing and unknown
            first = next((each for each in errors if each["type"] in UNKNOWN), first)
        at = _place(first["loc"])
        if first["type"] in UNKNOWN:
            known = [*_known_keys(kind, at[:-1]), *(["extends"] if not (*location, *at[:-1]) else [])]
            return self.fail(f"unknown key {str(at[-1])!r}; {nearest(str(at[-1]), sorted(known))}", (*location, *at))
        if first["type"].startswith("missing"):
            return self.fail(f"{at[-1]!r} is missing", (*location, *at))
        if first["type"] == "value_error":
            return self._out_of_bounds(first["msg"].removeprefix("Value error, "), first["input"], (*location, *at))
        said = dict.fromkeys(_expected(other["msg"]) for other in errors if _place(other["loc"]) == at)
        found = _shown(first["input"], (*location, *at))
        grouped = isinstance(first["input"], str) and re.fullmatch(r"[-+]?[0-9][0-9_]*", first["input"])
        fix = "write the number without `_` and quotes" if grouped else ""
        return self.fail(f"expected {' or '.join(said)}; found {found}", (*location, *at), fix)

    def _out_of_bounds(self, message: str, section: Any, location: tuple[str | int, ...]) -> UserError:
        """What a section says of its own values: ``key: what was expected``. The line is the key's where there is one."""
        key, colon, rest = message.partition(": ")
        key = key.rsplit(".", 1)[-1]
        if not colon or not isinstance(section, dict) or key not in section:
            return self.fail(message, location)
        found = _shown(section[key], (*location, key))
        return self.fail(rest if "found" in rest else f"{rest}; found {found}", (*location, key))

    def generators(self, value: Any, rows: Rows) -> tuple[GeneratorChoice, ...]:
        at: tuple[str | int, ...] = ("generators",)
        if not isinstance(value, list) or not value:
            raise self.fail("expected a list of at least one generator", at, f"known: {', '.join(GENERATORS)}")
        chosen = []
        for index, entry in enumerate(value):
            if not isinstance(entry, dict) or not isinstance(entry.get("use"), str):
                raise self.fail(
                    "each generator is a section with `use: NAME`", (*at, index), f"known: {', '.join(GENERATORS)}"
                )
            rest = {key: part for key, part in entry.items() if key not in ("use", "share", "label_by")}
            kind = self.find(GENERATORS, entry["use"], (*at, index, "use"))
            if not rows.served_whole(kind):
                raise self.unserved(entry["use"], GENERATORS, rows.served_whole, rows, (*at, index, "use"))
            share = entry.get("share", 1.0)
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1e6:
                raise self.fail(f"share: a positive number; found {share!r}", (*at, index, "share"))
            label_by = entry.get("label_by", LABEL_BY[0])
            if label_by not in LABEL_BY:
                problem = f"expected {' or '.join(map(repr, LABEL_BY))}; found {str(label_by)[:80]!r}"
                raise self.fail(problem, (*at, index, "label_by"))
            options = self.read(kind.Options, rest, (*at, index))
            chosen.append(GeneratorChoice(entry["use"], float(share), options, label_by))
        names = [choice.use for choice in chosen]
        if len(set(names)) < len(names):
            raise self.fail("a generator is listed twice", at, "list each once, with a share")
        return tuple(chosen)

    def trainer(self, value: Any) -> TrainerChoice:
        if isinstance(value, str):
            value = {"use": value}
        if not isinstance(value, dict):
            raise self.fail("expected `use: NAME` or `command: ...`", ("trainer",), f"known: {', '.join(TRAINERS)}")
        name = value.get("use", "command" if "command" in value else "tfidf")
        kind = self.find(TRAINERS, name, ("trainer", "use"))
        rest = {key: part for key, part in value.items() if key != "use"}
        return TrainerChoice(name, self.read(kind.Options, rest, ("trainer",)))

    def format(self, name: str, at: tuple[str | int, ...]) -> None:
        """Raises UserError where nothing reads files of that format."""
        if name != "auto":
            self.find(SOURCES, name, at)

    def find(self, registry: Registry[T], name: Any, at: tuple[str | int, ...]) -> T:
        """What has the name, imported where it comes from outside. Raises UserError with its line."""
        try:
            return registry[str(name)]
        except UserError as error:
            raise self.fail(
                f"{error.where}: {error.problem}" if error.where else error.problem, at, error.fix
            ) from error

    def unserved(
        self, name: str, known: Mapping[str, Any], serves: Callable[[Any], bool], rows: Rows, at: tuple[str | int, ...]
    ) -> UserError:
        problem = f"{name} is for rows of {_serves(known[name])}; this recipe's are {rows}"
        others = ", ".join(other for other, extension in known.items() if serves(extension)) or "none of Augmill's own"
        return self.fail(
            problem, at, f"those that serve it: {others}; `augmill extensions` lists those of other packages"
        )

    def require_exports(self, names: Sequence[str], rows: Rows, files: int) -> None:
        """Raises UserError for a layout that has no place for such rows, ``files`` of whose columns hold files."""
        able = [name for name, export in EXPORTS.items() if files == 1 and rows.served_whole(export)]
        for name in names:
            if name not in able:
                problem = f"{name} needs {EXPORTS[name].needs}; this recipe's rows are {rows}"
                problem += f", with {files} files each" if files > 1 else ""
                fix = f"layouts for these rows: {', '.join(able)}" if able else "leave it out: Parquet holds every row"
                raise self.fail(problem, ("publish", "export"), fix)

    def checks(self, value: Any, rows: Rows) -> dict[str, Any]:
        """The options of every check that serves these rows, and of those that judge only where they are named; one that

        does not serve stands aside, unless it was named.
        """
        if not isinstance(value, dict):
            raise self.fail("expected a section of checks by name", ("checks",), f"known: {', '.join(CHECKS)}")
        value = {name: _with_words(bool, part) for name, part in value.items()}
        named = {str(name): self.find(CHECKS, name, ("checks", name)) for name in value}
        if value.get("relations") is False:
            problem = (
                "`relations` cannot be switched off: it keeps held-out rows out of train, and the gate judges by them"
            )
            raise self.fail(problem, ("checks", "relations"), "set its thresholds instead")
        for name, part in value.items():
            if part is not False and not rows.served_in_part(named[name]):
                raise self.unserved(name, CHECKS, rows.served_in_part, rows, ("checks", name))
        known = {**CHECKS, **named}  # those from outside judge after all others, in the recipe's order
        asked = [name for name, check in known.items() if check.always or name in value]
        given = {name: value.get(name, {}) for name in asked if rows.served_in_part(known[name])}
        return {
            name: self.read(known[name].Options, part or {}, ("checks", name))
            for name, part in given.items()
            if part is not False
        }


def _place(location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """The keys of the recipe in one of pydantic's locations."""
    return tuple(part for part in location if not (isinstance(part, str) and _is_type_tag(part)))


def _expected(message: str) -> str:
    """``Input should be a valid integer`` in a reader's words: ``an integer``."""
    said = message.removeprefix("Input should be ").replace("a valid ", "a ")
    known = {"an object": "a section with keys", "a integer": "an integer", "a string": "text", "a array": "a list"}
    return known.get(said, said)


def _is_type_tag(part: str) -> bool:
    """pydantic names the branch of a union it tried; that is no key of the recipe."""
    return part == "[key]" or bool(
        re.fullmatch(r"str|int|bool|float|(tuple|list|dict|literal|constrained|function|json)[\[\-'].*", part)
    )
