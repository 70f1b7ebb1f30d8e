"""``augmill run``: one snapshot, source to release."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from augmill.flows.terminal import say

RecipePath = Annotated[
    str, typer.Argument(help="The recipe: a YAML file, or the s3://, gs:// or az:// address of one.")
]
StoreOption = Annotated[str | None, typer.Option("--store", help="Instead of run.store in the recipe.")]
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
        str | None, typer.Option("--as-of", help="Use the rows of partitions up to and with this one, which is over.")
    ] = None,
    orchestrator: Annotated[str | None, typer.Option("--orchestrator", help="prefect or none.")] = None,
    republish: Annotated[bool, typer.Option("--republish", help="Publish even a release that was withdrawn.")] = False,
    exit_code: Annotated[
        str, typer.Option("--exit-code", help="Exit codes by outcome, such as harmful=20,inconclusive=21.")
    ] = "",
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Prefect's own log lines too.")] = False,
) -> None:
    """Makes new rows, checks them, proves whether they help, and publishes a release."""
    from augmill.flows.orchestration.server import early_server
    from augmill.flows.progress import Progress
    from augmill.tasks.errors import UserError
    from augmill.tasks.recipe.origin import name_of
    from augmill.tasks.recipe.recipe import load_recipe

    codes = parse_exit_codes(exit_code)
    if orchestrator not in (None, "prefect", "none"):
        problem = f"an orchestrator is prefect or none; found {orchestrator!r}"
        raise UserError(problem, where="--orchestrator", fix="give one of the two")
    loaded = load_recipe(recipe, store=store, changes=changes)
    command, kind = f"augmill run {name_of(recipe, changes)}", orchestrator or loaded.run.orchestrator
    command += f" --as-of {as_of}" if as_of else ""
    with early_server(kind):
        with Progress() as shown, shown.waiting("Prefect"):
            from augmill.flows.augment import run_recipe  # imports it, which takes seconds

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


def print_result(result: dict[str, object]) -> None:
    """What happened, for a person; then one line of JSON, for a program."""
    decided = {"published": "Published. ", "harmful": "Not published. ", "inconclusive": "Not published. "}
    say("", f"{decided.get(str(result['outcome']), '')}{result['headline']}", f"  {result['reason']}")
    released = {"mix": "real and synthetic rows", "real": "real rows alone", "placebo": "real rows, weighted by class"}
    if result["arrangement"]:
        new = "new" if result["new"] else "already published, nothing changed"
        say(f"  Release  {result['release']} ({released[str(result['arrangement'])]}; {new})")
    if result.get("location"):
        say(f"           {result['location']}")
    for warning in result.get("warnings", ()):  # type: ignore[attr-defined]
        say(f"  Warning  {warning}")
    if result["report"]:
        say(f"  Report   {result['report']}")
    say(f"  Next     {result['next']}")
    say(json.dumps(result, ensure_ascii=False, sort_keys=True))
