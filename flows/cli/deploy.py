"""``augmill deploy`` and ``augmill serve``: a recipe's nights on a schedule, by a work pool or by this process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from augmill.flows.cli.run import RecipePath, SetOption, StoreOption, VerboseOption
from augmill.flows.terminal import flush, say, say_result

if TYPE_CHECKING:
    from augmill.flows.orchestration.deployments import Deployed
    from augmill.tasks.recipe.recipe import Recipe


def register(app: typer.Typer) -> None:
    app.command("deploy")(deploy)
    app.command("serve")(serve)


def deploy(
    recipe: RecipePath,
    pool: Annotated[
        str, typer.Option("--pool", metavar="POOL", help="The Prefect work pool whose workers do the runs.")
    ],
    changes: SetOption = None,
    store: StoreOption = None,
    inline: Annotated[
        bool,
        typer.Option(
            "--inline", help="Store the recipe's text in the deployments, so that workers do not need its file."
        ),
    ] = False,
    image: Annotated[
        str | None,
        typer.Option(
            "--image", metavar="IMAGE", help="The container image of the runs: short for --job-variable image=IMAGE."
        ),
    ] = None,
    job_variable: Annotated[
        list[str] | None,
        typer.Option(
            "--job-variable",
            metavar="NAME=VALUE",
            help="Set a variable of the pool's jobs; VALUE may be JSON. env.NAME=VALUE sets an environment variable of "
            "the runs. May be repeated.",
        ),
    ] = None,
) -> None:
    """Puts a recipe's nights on a schedule, run by a Prefect work pool.

    Creates or updates the nightly deployment, the one for backfills on demand, and the automations that watch them.
    """
    from augmill.flows.orchestration.deployments import deploy as deploy_recipe
    from augmill.flows.orchestration.deployments import standing_api
    from augmill.flows.orchestration.logs import quiet_logging
    from augmill.tasks.recipe.layers import text_of
    from augmill.tasks.recipe.recipe import load_recipe

    variables = parse_job_variables(job_variable or [], image)
    loaded = load_recipe(text_of(recipe) if inline else recipe, store=store, changes=changes)
    with quiet_logging(), standing_api(own=False):
        deployed = deploy_recipe(loaded, pool, variables)
    _say(loaded, deployed, f"by workers of the pool {pool}")
    if names := variable_names(variables):
        say(f"job variables  {', '.join(names)}")  # not their values, which may be secrets
    _last("deployed", deployed, f"prefect worker start --pool {pool}", job_variables=names)


def parse_job_variables(given: list[str], image: str | None = None) -> dict[str, Any]:
    """Values by name, of ``NAME=VALUE``: JSON where it is valid, else a text; of ``env.NAME`` a text below ``env``.

    Raises UserError, which repeats no value: it may be a secret.
    """
    from augmill.tasks.errors import UserError

    found: dict[str, Any] = {} if image is None else {"image": image}
    environment: dict[str, str] = {}
    for number, entry in enumerate(given, 1):
        name, equals, value = entry.partition("=")
        variable = name.removeprefix("env.")
        if not equals or not variable:
            problem = f"expected NAME=VALUE, which use number {number} of the option is not"
            raise UserError(problem, where="--job-variable", fix="write for example env.AWS_REGION=eu-central-1")
        if name in found or (variable != name and variable in environment):
            raise UserError(f"{name!r} is given twice", where="--job-variable", fix="give it once")
        if variable == name:
            found[name] = _parsed(value)
        else:
            environment[variable] = value
    if environment:
        whole = found.get("env", {})
        if not isinstance(whole, dict):
            fix = 'write env={"NAME": "VALUE"}, or env.NAME=VALUE alone'
            raise UserError("expected a JSON object of names and values", where="--job-variable env", fix=fix)
        found["env"] = whole | environment
    return found


def _parsed(value: str) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(word)  # NaN and Infinity are Python's, not JSON's

    try:
        return json.loads(value, parse_constant=refuse)
    except (ValueError, RecursionError):
        return value


def variable_names(variables: dict[str, Any]) -> list[str]:
    """As they are given on the command line, without their values."""
    names = []
    for name, value in variables.items():
        names += [f"env.{key}" for key in value] if name == "env" and isinstance(value, dict) else [name]
    return sorted(names)


def serve(
    recipe: RecipePath,
    changes: SetOption = None,
    store: StoreOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Puts a recipe's nights on a schedule, run by this process.

    It runs backfills on demand too, and ends cleanly on SIGTERM or Ctrl-C. It uses the Prefect server that
    PREFECT_API_URL names, or starts its own.
    """
    from augmill.flows.orchestration.deployments import serve as serve_recipe
    from augmill.flows.orchestration.deployments import standing_api
    from augmill.flows.orchestration.logs import quiet_logging
    from augmill.tasks.recipe.recipe import load_recipe

    loaded = load_recipe(recipe, store=store, changes=changes)
    stood: list[Deployed] = []

    def ready(deployed: Deployed) -> None:
        stood.append(deployed)
        _say(loaded, deployed, "by this process, until it is stopped")
        flush()

    try:
        with quiet_logging(verbose), standing_api(own=True):
            serve_recipe(loaded, ready)
    except KeyboardInterrupt:
        if not stood:  # before it served anything: nothing was ended cleanly
            raise
    _last("stopped", stood[0], "start it again; schedule.catch_up says what happens to missed nights")


def _say(recipe: Recipe, deployed: Deployed, how: str) -> None:
    schedule = recipe.schedule
    nightly, *others = deployed.names
    say(f"{nightly}  at {schedule.cron} ({schedule.timezone}), {how}")
    for name in others:
        say(f"{name}  on demand: prefect deployment run {name} -p first=... -p last=...")
    for name in deployed.automations:
        say(f"automation  {name}")


def _last(outcome: str, deployed: Deployed, following: str, **more: list[str]) -> None:
    say("", f"Next     {following}")
    last = {"outcome": outcome, "deployments": deployed.names, "automations": deployed.automations}
    say_result(last | more | {"next": following})
