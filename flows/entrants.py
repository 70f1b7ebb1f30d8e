"""What `augmill compare` compares: names on the command line as recipes, each with its generators and no other."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, Final

from augmill.tasks.contracts import UserError
from augmill.tasks.generators import GENERATORS
from augmill.tasks.recipe.reader import LABEL_BY, GeneratorChoice
from augmill.tasks.recipe.recipe import Recipe

ADAPTIVE: Final = "adaptive"
_WHERE = "--generators"


def entrants(recipe: Recipe, names: str) -> dict[str, Recipe]:
    """Name to recipe, for ``rules,causal_lm/teacher,rules+interpolate,adaptive:rules+interpolate``; "": each of the recipe's.

    A generator has the options that the recipe gives it, else its defaults; ``/teacher`` and ``/agree`` say who labels
    its rows; ``+`` lets several share the target, and ``adaptive:`` before it, or ``adaptive`` alone for all of the
    recipe, splits it by what helps. Raises UserError, also where a model's file is missing.
    """
    wanted = [part.strip() for part in names.split(",") if part.strip()]
    if names and not wanted:
        raise UserError(f"{names!r} names no generator", where=_WHERE, fix="name some, such as rules,interpolate")
    wanted = wanted or [choice.use for choice in recipe.generators]
    if len(set(wanted)) < len(wanted):
        doubled = next(name for name in wanted if wanted.count(name) > 1)
        raise UserError(f"{doubled!r} stands twice", where=_WHERE, fix="give each once")
    made = {name: _entrant(recipe, name) for name in wanted}
    for entrant in made.values():
        for choice in entrant.generators:
            choice.build().preflight(recipe.columns.fields)
    return made


def _entrant(recipe: Recipe, name: str) -> Recipe:
    policy, _, team = name.partition(":")
    if policy != ADAPTIVE:
        team = name
    parts = team.split("+") if team else [choice.use for choice in recipe.generators]
    choices = tuple(_choice(recipe, part.strip()) for part in parts)
    if len({choice.use for choice in choices}) < len(choices):
        raise UserError(f"a generator stands twice in {name!r}", where=_WHERE, fix="give each once")
    if policy == ADAPTIVE and len(choices) < 2:
        fix = f"name two or more, such as {ADAPTIVE}:rules+interpolate, or let the recipe hold several"
        raise UserError(f"{name!r} needs generators to choose among; found {len(choices)}", where=_WHERE, fix=fix)
    plan = dataclasses.replace(recipe.plan, policy=ADAPTIVE if policy == ADAPTIVE else "shares")
    return dataclasses.replace(recipe, generators=choices, plan=plan)


def _choice(recipe: Recipe, part: str) -> GeneratorChoice:
    use, slash, labeller = part.partition("/")
    if use not in GENERATORS:
        close = difflib.get_close_matches(use, [*GENERATORS, ADAPTIVE], n=1, cutoff=0.5)
        known = f"did you mean {close[0]!r}?" if close else f"known: {', '.join([*GENERATORS, ADAPTIVE])}"
        raise UserError(f"there is no generator {use!r}", where=_WHERE, fix=known)
    choice: GeneratorChoice | None = next((own for own in recipe.generators if own.use == use), None)
    choice = choice or _by_default(use)
    if recipe.unlabelled is None and choice.build().wants_unlabelled():
        fix = "say where they are: `unlabelled: {path: ...}`"
        raise UserError(f"{use} learns from unlabelled rows; the recipe names none", where=_WHERE, fix=fix)
    if not slash:
        return choice
    if labeller not in LABEL_BY:
        fix = f"one of {', '.join(f'{use}/{name}' for name in LABEL_BY)}"
        raise UserError(f"nobody called {labeller!r} can label rows ({part!r})", where=_WHERE, fix=fix)
    if labeller != LABEL_BY[0] and "teacher" not in recipe.checks:
        problem = f"{part!r} needs the check `teacher`, which is off"
        raise UserError(problem, where=_WHERE, fix="take `teacher: off` out of the recipe's checks")
    change: dict[str, Any] = {"label_by": labeller}
    return dataclasses.replace(choice, **change)


def _by_default(use: str) -> GeneratorChoice:
    """A generator that the recipe does not name, with its default options."""
    options = GENERATORS[use].Options
    needed = [
        item.name
        for item in dataclasses.fields(options)
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    if needed:
        problem = f"{use} cannot do without {', '.join(needed)}, and the recipe does not name it"
        raise UserError(problem, where=_WHERE, fix=f"add `use: {use}` with them to the recipe's generators")
    return GeneratorChoice(use, 1.0, options())
