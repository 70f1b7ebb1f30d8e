"""``augmill extensions`` and ``augmill new``: what recipes can name, and a package to begin one of your own with."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated, Any

import typer

from augmill.flows.terminal import say, say_result
from augmill.tasks.errors import UserError

if TYPE_CHECKING:
    from augmill.tasks.registry import Registry

SHIPS = "Augmill"
LONG = 90  # characters of a line about one
TEMPLATES = Path(__file__).parent / "templates"


def register(app: typer.Typer) -> None:
    app.command("extensions")(extensions)
    app.command("new")(new)


def extensions(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show this one: what it is for, and its options.")
    ] = None,
    load: Annotated[
        bool, typer.Option("--load", help="Import those of other packages to see whether they work.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Lists what recipes can use, from Augmill and other packages.

    Generators, checks, trainers, metrics, sources, kinds of field and problems. Nothing of another package is imported unless
    --load asks for it.
    """
    found = [_described(registry, name) for registry in _holding(name)] if name else list(_listed(load))
    broken = sum(bool(each.get("problem")) for each in found)
    if as_json:
        say(json.dumps({"extensions": found, "broken": broken}, ensure_ascii=False))
    else:
        say(*(line for each in found for line in _page(each)) if name else _list(found))
    if broken:
        raise typer.Exit(UserError.exit_code)


def registries() -> tuple[Registry[Any], ...]:
    """All that there are, in the order in which a recipe's path goes through them."""
    from augmill.tasks.checks import CHECKS
    from augmill.tasks.generators import GENERATORS
    from augmill.tasks.metrics import METRICS
    from augmill.tasks.problems import PROBLEMS
    from augmill.tasks.rows.kinds import KINDS
    from augmill.tasks.sources import SOURCES
    from augmill.tasks.trainers import TRAINERS

    return SOURCES, KINDS, PROBLEMS, GENERATORS, CHECKS, TRAINERS, METRICS


def _listed(load: bool) -> Iterator[dict[str, Any]]:
    for registry in registries():
        for name, shipped in registry.items():
            yield {"what": registry.what, "name": name, "from": SHIPS, "about": _summary(registry.what, shipped)}
        for offer in registry.offers():
            found = {"what": registry.what, "name": offer.name, "from": f"{offer.distribution} {offer.version}"}
            found |= {"path": offer.path}
            if offer.name in registry:
                yield found | {"hidden": "Augmill's own of that name is used instead"}
            else:
                problem = _why_broken(registry, offer.name) if load else ""
                yield found | ({"problem": problem} if problem else {})


def _why_broken(registry: Registry[Any], name: str) -> str:
    try:
        registry[name]
    except UserError as error:
        return error.problem
    return ""


def _summary(what: str, extension: Any) -> str:
    """In a few words: as its file begins, which for metrics is about several."""
    kind = extension if isinstance(extension, type) else type(extension)
    doc = kind.__doc__ if what == "metric" else sys.modules[kind.__module__].__doc__
    said = " ".join((doc or "").split("\n\n")[0].split()).replace("``", "`")
    first = re.split(r"(?<=\.) ", said)[0].rstrip(".")
    return first if len(first) <= LONG else first.partition(": ")[0]


def _list(found: list[dict[str, Any]]) -> list[str]:
    from augmill.flows.cli.terminal import padded, wrapped

    lines: list[str] = []
    width = min(max(len(each["name"]) for each in found), 24) + 2
    for what in dict.fromkeys(each["what"] for each in found):
        lines += ["", f"{what.capitalize()}s"]
        for each in (each for each in found if each["what"] == what):
            said = each.get("about") or f"{each['from']}, {each['path']}"
            lines += wrapped(said, " " * (width + 2), f"  {padded(each['name'], width - 2)}  ")
            for key, word in (("problem", "Broken"), ("hidden", "Hidden")):
                if key in each:
                    lines += wrapped(each[key], " " * (width + 2), f"{'':{width + 2}}{word}: ")
    outside = sum(each["from"] != SHIPS for each in found)
    own = f"From other packages: {outside:,}." if outside else "None comes from another package."
    return [*lines[1:], "", f"{own} `augmill extensions NAME` shows one with its options."]


def _holding(name: str) -> list[Registry[Any]]:
    """The registries that know the name. Raises UserError where none does, or where what it names cannot be loaded."""
    if ":" not in name:
        found = [registry for registry in registries() if name in registry.names()]
        if found:
            return found
        from augmill.tasks.rows.names import nearest

        known = [known for registry in registries() for known in registry.names()]
        fix = "`augmill extensions` lists them all"
        raise UserError(f"there is no extension {name!r}; {nearest(name, known)}", where="augmill extensions", fix=fix)
    errors = []
    for registry in registries():
        try:
            registry[name]
            return [registry]
        except UserError as error:
            errors.append(error)
    raise next((error for error in errors if "expected a subclass" not in error.problem), errors[0])


def _described(registry: Registry[Any], name: str) -> dict[str, Any]:
    """One extension, imported. Raises UserError where it cannot be."""
    extension = registry[name]
    found: dict[str, Any] = {
        "what": registry.what,
        "name": name,
        "from": SHIPS if name in registry else registry.code(name),
    }
    if name not in registry:
        found["path"] = registry.path_of(name)
        offers = [offer for offer in registry.offers() if offer.path == found["path"]]
        found |= {"package": f"{offers[0].distribution} {offers[0].version}"} if offers else {}
    summary, said = _summary(registry.what, extension), " ".join((extension.__doc__ or "").split()).replace("``", "`")
    found["about"] = said if not summary or said.startswith(summary) else f"{summary}. {said}"
    for key in ("VERSION", "kinds", "problems", "types", "libraries"):
        if (value := getattr(extension, key, None)) not in (None, ()):
            found[key.lower()] = value if isinstance(value, int) else list(value)
    options = getattr(extension, "Options", None)
    if options is not None:
        found["options"] = [_option(item) for item in dataclasses.fields(options)]
    return found


def _option(item: dataclasses.Field[Any]) -> dict[str, Any]:
    default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
    needed = default is dataclasses.MISSING
    return {
        "name": item.name,
        "help": item.metadata.get("help", ""),
        "default": "required" if needed else repr(default),
    }


def _page(found: dict[str, Any]) -> list[str]:
    from augmill.flows.cli.terminal import shown, wrapped

    code = found["from"]
    edited = bool(re.fullmatch("[0-9a-f]{64}", code))
    origin = found.get("package") or ("a file on the path" if edited else code)
    lines = [shown(f"{found['name']}, a {found['what']} of {origin}"), *wrapped(found["about"])]
    if edited:
        lines += wrapped(f"edited in place, so its rows go by the hash of its files, now {code[:12]}")
    for key in ("path", "version", "kinds", "problems", "types", "libraries"):
        if key in found:
            value = found[key]
            told = ", ".join(value).replace("*", "any") if isinstance(value, list) else str(value)
            lines += wrapped(told, " " * 13, f"  {key:<9}  ")
    if found.get("options"):
        lines.append("  options")
        for option in found["options"]:
            default = option["default"] if option["default"] == "required" else f"default {option['default']}"
            lines += wrapped(f"{option['name']}: {option['help']} ({default})", " " * 6, " " * 4)
    return [*lines, ""]


def new(
    what: Annotated[str, typer.Argument(metavar="generator", help="What to write: `generator`.")],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The name that recipes use: lower-case letters, digits and `_`.")
    ],
    into: Annotated[Path, typer.Option("--into", help="Where to create the package's directory.")] = Path(),
) -> None:
    """Writes a package with a generator of your own.

    It works as it is: a generator, its tests, a recipe and some rows, to be changed into what you need.
    """
    if what != "generator":
        raise UserError(
            f"there is only a template for a generator; found {what!r}",
            where="augmill new",
            fix="see docs/extending.md",
        )
    package = write_package(name, into)
    steps = [
        f"pip install --editable '{package}[test]'",
        f"pytest {package}",
        f"augmill check {package / 'recipe.yaml'}",
    ]
    say(f"Wrote a package with the generator {name}: {package}", *(f"  {step}" for step in steps), "")
    say_result({"outcome": "written", "package": str(package.absolute()), "next": steps[0]})


def write_package(name: str, into: Path) -> Path:
    """The directory of a new package. Raises UserError where the name cannot be one, is taken, or something stands there."""
    from augmill.tasks.generators import GENERATORS

    if not re.fullmatch(r"[a-z][a-z0-9_]{1,39}", name):
        problem = f"expected 2 to 40 lower-case letters, digits and `_`, a letter first; found {name[:80]!r}"
        raise UserError(problem, where="augmill new", fix="give another name")
    if name in GENERATORS:
        raise UserError(f"Augmill has a generator {name!r}", where="augmill new", fix="give another name")
    folder = into / f"augmill-{name.replace('_', '-')}"
    words = {"name": name, "module": f"augmill_{name}", "kind": "".join(part.capitalize() for part in name.split("_"))}
    words |= {"distribution": folder.name}
    if folder.exists():
        raise UserError("it exists already", where=str(folder), fix="give another name, or another --into")
    for template in sorted(TEMPLATES.rglob("*.txt")):
        file = folder / str(template.relative_to(TEMPLATES)).removesuffix(".txt").replace("MODULE", words["module"])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(template.read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
    return folder
