"""``augmill run``: one snapshot, source to release."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from augmill.flows.terminal import Line, print_lines, say, say_result
from augmill.tasks.boundary.processes import importing

COLOURS_OF = {"published": "green", "inconclusive": "yellow"}  # of outcomes; the others are red

RecipePath = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="The recipe: a YAML file, or the s3://, gs:// or az:// address of one."),
]
StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="STORE", help="Use this store instead of the recipe's run.store.")
]
OrchestratorOption = Annotated[
    str | None,
    typer.Option("--orchestrator", metavar="NAME", help="prefect or none, instead of the recipe's run.orchestrator."),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show Prefect's own log lines too.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Put a value into the recipe, such as seed=7 or generators.0.share=0.5. May be repeated.",
    ),
]


def require_recipe(recipe: str | None, changes: list[str] | None) -> None:
    """Raises UserError for a change of no recipe."""
    from augmill.tasks.errors import UserError

    if changes and recipe is None:
        raise UserError(
            "it changes a recipe, and none is given", where="--set", fix="name the recipe, or leave --set out"
        )


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    recipe: RecipePath,
    changes: SetOption = None,
    store: StoreOption = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", metavar="PARTITION", help="Use the rows up to the end of this partition, such as a date."
        ),
    ] = None,
    orchestrator: OrchestratorOption = None,
    republish: Annotated[bool, typer.Option("--republish", help="Publish again a release that was withdrawn.")] = False,
    exit_code: Annotated[
        str,
        typer.Option(
            "--exit-code", metavar="OUTCOME=CODE", help="Exit codes by outcome, such as harmful=20,inconclusive=21."
        ),
    ] = "",
    verbose: VerboseOption = False,
) -> None:
    """Makes new rows, proves whether they help, and publishes a release.

    What is finished is kept: after an interruption the same command goes on where it stopped.
    """
    with importing():
        from augmill.flows.orchestration.server import early_server
        from augmill.tasks.errors import UserError
        from augmill.tasks.recipe.origin import name_of
        from augmill.tasks.recipe.recipe import load_recipe

    codes = parse_exit_codes(exit_code)
    if orchestrator not in (None, "prefect", "none"):
        problem = f"expected prefect or none, found {orchestrator!r}"
        raise UserError(problem, where="--orchestrator", fix="give one of the two")
    loaded = load_recipe(recipe, store=store, changes=changes)
    command, kind = f"augmill run {name_of(recipe, changes)}", orchestrator or loaded.run.orchestrator
    command += f" --as-of {as_of}" if as_of else ""
    with early_server(kind):
        with importing():
            from augmill.flows.augment import run_recipe

        result = run_recipe(
            loaded, as_of=as_of, command=command, orchestrator=kind, republish=republish, verbose=verbose
        )
    print_result(result)
    raise typer.Exit(codes.get(result["outcome"], 10 if result["action"] == "fail" else 0))


def parse_exit_codes(text: str) -> dict[str, int]:
    """outcome: code, from ``harmful=20,inconclusive=21``. Raises UserError."""
    from augmill.flows.outcome import NEXT
    from augmill.tasks.errors import UserError

    codes: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, code = part.partition("=")
        if name not in NEXT or not code.isdecimal() or not 0 <= int(code) <= 255:
            raise UserError(
                f"expected outcome=code, found {part!r}",
                where="--exit-code",
                fix=f"outcomes: {', '.join(NEXT)}; codes 0 to 255",
            )
        codes[name] = int(code)
    return codes


def print_result(result: dict[str, Any]) -> None:
    """What happened, for a person; for a program one line of JSON."""
    from augmill.flows.cli.terminal import wrapped

    decided = {"published": "Published. ", "harmful": "Not published. ", "inconclusive": "Not published. "}
    colour = COLOURS_OF.get(result["outcome"], "red")
    said = f"{decided.get(result['outcome'], '')}{result['headline']}"
    lines: list[Line] = [[("", "")], *([(line, colour)] for line in wrapped(said, first=""))]
    lines += [_gains_painted(line, colour) for line in wrapped(result["reason"])]
    print_lines(lines)
    released = {"mix": "real and synthetic rows", "real": "real rows alone", "placebo": "real rows, weighted by class"}
    if result["arrangement"]:
        new = "new" if result["new"] else "already published, nothing changed"
        say(f"  Release  {result['release']} ({released[result['arrangement']]}; {new})")
    if result.get("location"):
        say(f"           {result['location']}")
    for warning in result.get("warnings", ()):
        print_lines([[(line, "yellow")] for line in wrapped(warning, " " * 11, "  Warning  ")])
    if result["report"]:
        say(f"  Report   {result['report']}")
    say(*wrapped(result["next"], " " * 11, "  Next     "))
    say_result(result)


def _gains_painted(line: str, colour: str) -> Line:
    """Gains in the colour of what they decided: +0.3 points of nothing proven are not green."""
    parts = re.split(r"(?<![\w.])([+-]\d[\d,.]*\d|[+-]\d)", line)
    return [(part, colour if at % 2 else "") for at, part in enumerate(parts)]
