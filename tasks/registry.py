"""Extensions by the names that a recipe has for them: those that ship with Augmill, and a user's own from outside.

A user's own is an entry point of an installed package (group ``augmill.generators``, ``augmill.checks``, ...) or a
``package.module:Class`` that Python can import. It is found and imported when it is looked up, never before, so that a
broken one breaks the recipes that name it and nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.metadata
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from traceback import walk_tb
from typing import Any, TypeVar

from augmill.tasks.errors import AugmillError, UserError
from augmill.tasks.rows.names import nearest

T = TypeVar("T")
# Of the classes in tasks/contracts.py and its like. An extension from outside says in its class which it was written for,
# ``contract = 1``; the number counts up when such a class would have to be changed.
CONTRACT = 1
PATH = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"  # package.module:Class


@dataclass(frozen=True)
class Offer:
    """What an installed package offers under a name, not imported. ``path``: ``package.module:Class``."""

    name: str
    path: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} ({self.path})"


class Registry(dict[str, T]):
    """What ships is its items; ``registry[name]`` finds what comes from outside too.

    ``what``: a word for one of them; ``base``: the abstract class; ``made``: whether it holds objects, not classes. A
    lookup raises UserError for a name that nothing has, and for an extension that cannot be loaded.
    """

    def __init__(self, what: str, base: type[Any], shipped: Mapping[str, T], *, made: bool = False) -> None:
        super().__init__(shipped)
        self.what, self.base, self.made = what, base, made
        self._loaded: dict[str, T] = {}

    @property
    def group(self) -> str:
        """Of its entry points."""
        return f"augmill.{self.what}s"

    def offers(self) -> list[Offer]:
        """What installed packages offer, by name; nothing is imported."""
        found = [
            Offer(point.name, point.value.partition("[")[0].strip(), point.dist.name, point.dist.version)
            for point in importlib.metadata.entry_points(group=self.group)
            if point.dist is not None
        ]
        return sorted(set(found), key=lambda offer: (offer.name, offer.distribution))

    def names(self) -> list[str]:
        """All that a recipe may say, but for paths."""
        return list(dict.fromkeys([*self, *(offer.name for offer in self.offers())]))

    def path_of(self, name: str) -> str:
        """``package.module:Class`` of an extension from outside. Raises UserError where it is none, or several."""
        if re.fullmatch(PATH, name):
            return name
        offers = [offer for offer in self.offers() if offer.name == name]
        paths = {offer.path for offer in offers}
        if len(paths) > 1:
            problem = f"several packages offer a {self.what} {name!r}: {', '.join(map(str, offers))}"
            raise UserError(problem, where=self.group, fix=f"name the one you mean by its path, {offers[0].path!r}")
        if not paths:
            fix = f"`augmill extensions` lists them all; a class of your own is named {USES.get(self.what, _USE)}"
            raise UserError(f"there is no {self.what} {name!r}; {nearest(name, self.names())}", fix=fix)
        return paths.pop()

    def code(self, name: str) -> str:
        """What stands for an extension's code in identities: nothing for one that ships, whose VERSION does.

        Else its distribution and version; or, where it is edited in place or installed nowhere, the hash of its files.
        """
        if name in self:
            return ""
        found: Any = self[name]
        kind: Any = type(found) if self.made else found
        return code_of(kind)

    def codes(self, *names: str) -> dict[str, str] | None:
        """``code`` of those from outside, by name; None where there is none, so that no identity of others has it."""
        return {name: self.code(name) for name in names if name not in self} or None

    def problem_of(self, name: str) -> str:
        """Why nothing is found under a name; nothing where something is."""
        try:
            self[name]
        except UserError as error:
            known = name in self.names() or re.fullmatch(PATH, name)
            return f"{error.where}: {error.problem}. {error.fix}" if known else nearest(name, self.names())
        return ""

    def __missing__(self, name: str) -> T:
        path = self.path_of(name)
        if path not in self._loaded:
            found: Any = load(path, self.what, self.base)
            self._loaded[path] = found() if self.made else found
        return self._loaded[path]


_USE = 'by its path: `use: "package.module:Class"`'
USES = {  # where that is not `use`
    "check": 'by its path, as the key: `checks: {"package.module:Class": {}}`',
    "metric": 'by its path: `metric: "package.module:Class"`',
    "source": 'by its path: `format: "package.module:Class"`',
    "problem": 'by its path: `task: "package.module:Class"`',
    "kind": 'by its path: `inputs: {COLUMN: "package.module:Class"}`',
}
# Outermost module of extensions from outside, and of each of its classes that was loaded: what it is called in errors.
_OUTSIDE: dict[str, dict[type[Any], str]] = {}


@contextlib.contextmanager
def blaming() -> Iterator[None]:
    """What the code of an extension from outside raises in here, and is no error of ours, is a UserError that names it."""
    try:
        yield
    except (AugmillError, OSError, MemoryError):
        raise
    except Exception as error:
        frames = [(frame.f_globals.get("__name__", ""), frame, line) for frame, line in walk_tb(error.__traceback__)]
        own = [(name, frame, line) for name, frame, line in frames if name.partition(".")[0] in _OUTSIDE]
        if not own:
            raise
        name, frame, line = own[-1]
        outer = name.partition(".")[0]
        selves = (_OUTSIDE[outer].get(type(each.f_locals.get("self"))) for _, each, _ in own)
        who = next(filter(None, selves), f"the package {outer}")  # it may hold several, and the class says which
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        place = f"{Path(frame.f_code.co_filename).name} line {line} ({frame.f_code.co_name})"
        fix = "mend it; --debug shows the traceback, and its package's tests should catch it (augmill.testing)"
        raise UserError(f"{said}, in {place}", where=who, fix=fix) from error


def load(path: str, what: str, base: type[T]) -> type[T]:
    """Imports ``package.module:Class``. Raises UserError, whatever goes wrong in it."""
    module, _, name = path.partition(":")
    where = f"the {what} {path}"
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        mine = error.name is not None and f"{module}.".startswith(f"{error.name}.")
        fix = (
            "install its package, or put the directory that holds it on PYTHONPATH" if mine else "install what it needs"
        )
        raise UserError(f"it cannot be imported: {error}", where=where, fix=fix) from error
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}"[:500]
        raise UserError(f"it cannot be imported: {said}", where=where, fix=f"fix {module}, or leave it out") from error
    if problem := _unfit(found, base):
        raise UserError(
            problem, where=where, fix=f"see docs/extending.md, and the suite in augmill.testing for a {what}"
        )
    _OUTSIDE.setdefault(module.partition(".")[0], {})[found] = where
    return found  # type: ignore[no-any-return]


def _unfit(found: Any, base: type[Any]) -> str:
    """Why it is no extension of this kind; nothing where it is one."""
    if not (inspect.isclass(found) and issubclass(found, base)):
        return f"expected a subclass of {base.__module__}.{base.__name__}, found {found!r}"[:300]
    contract = getattr(found, "contract", None)
    if contract != CONTRACT:
        said = "does not name the contract it was written for" if contract is None else f"is for contract {contract!r}"
        return f"it {said}; this Augmill has contract {CONTRACT}, named in the class as `contract = {CONTRACT}`"
    if lacks := sorted(getattr(found, "__abstractmethods__", ())):
        return f"it lacks {', '.join(lacks)}"
    if lacks := [name for name in _declared(base) if not hasattr(found, name)]:
        return f"it does not define {', '.join(lacks)}"
    options: Any = getattr(found, "Options", None)
    if options is not None and not (dataclasses.is_dataclass(options) and vars(options)["__dataclass_params__"].frozen):
        return "its Options class is not a frozen dataclass"
    return ""


def _declared(base: type[Any]) -> Iterator[str]:
    """The class variables that an extension has to set."""
    for kind in base.__mro__:
        yield from (name for name, hint in inspect.get_annotations(kind).items() if "ClassVar" in str(hint))


@cache
def code_of(kind: type[Any]) -> str:
    """``name version`` of the installed distribution that holds the class; else the sha256 of its package's files.

    A distribution counts only where it holds this very file: not where it is installed to be edited, nor where another
    directory comes first on the path.
    """
    root, files = _files_of(kind.__module__)
    own = Path(str(sys.modules[kind.__module__].__file__)).resolve()
    for name in importlib.metadata.packages_distributions().get(kind.__module__.partition(".")[0], ()):
        distribution = importlib.metadata.distribution(name)
        held = {Path(str(distribution.locate_file(file))).resolve() for file in distribution.files or ()}
        if own in held:
            return f"{name} {distribution.version}"
    found = hashlib.sha256()
    for file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        found.update(f"{file.relative_to(root).as_posix()}\0{content}\n".encode())
    return found.hexdigest()


def _files_of(module: str) -> tuple[Path, list[Path]]:
    """(the directory, all files) of the outermost package that has a file of its own; of a plain module that alone."""
    parts = module.split(".")
    outer = [sys.modules[".".join(parts[: end + 1])] for end in range(len(parts))]
    first = next((each for each in outer if getattr(each, "__file__", None)), None)
    if first is None or first.__file__ is None:
        raise UserError(
            "its code is not in a file", where=module, fix="put the class into a module that can be imported"
        )
    root = Path(first.__file__).parent
    if not hasattr(first, "__path__"):
        return root, [Path(first.__file__)]
    files = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return root, sorted(files)
