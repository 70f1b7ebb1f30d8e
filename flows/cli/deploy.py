"""``augmill deploy`` and ``augmill serve``: a recipe's nights on a schedule, by a work pool or by this process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from augmill.flows.cli.run import RecipePath, StoreOption
from augmill.flows.terminal import flush, say

if TYPE_CHECKING:
    from augmill.flows.orchestration.deployments import Deployed
    from augmill.tasks.recipe.recipe import Recipe


def register(app: typer.Typer) -> None:
    app.command("deploy")(deploy)
    app.command("serve")(serve)


def deploy(
    recipe: RecipePath,
    pool: Annotated[str, typer.Option("--pool", help="The Prefect work pool whose workers run it.")],
    store: StoreOption = None,
) -> None:
    """Creates or updates the nightly deployment, the backfill on demand, and the automations that watch them."""
    from augmill.flows.orchestration.deployments import deploy as deploy_recipe
    from augmill.flows.orchestration.deployments import standing_api
    from augmill.flows.orchestration.logs import quiet_logging
    from augmill.tasks.recipe.recipe import load_recipe

    loaded = load_recipe(recipe, store=store)
    with quiet_logging(), standing_api(own=False):
        deployed = deploy_recipe(loaded, recipe, pool)
    _say(loaded, deployed, f"by workers of the pool {pool}")
    _last("deployed", deployed, f"prefect worker start --pool {pool}")


def serve(
    recipe: RecipePath,
    store: StoreOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Prefect's own log lines too.")] = False,
) -> None:
    """Runs the nights, and backfills asked for, in one process that stays; ends cleanly on SIGTERM or Ctrl-C.

    Uses the Prefect server that PREFECT_API_URL names, or else one of its own that lives as long.
    """
    from augmill.flows.orchestration.deployments import serve as serve_recipe
    from augmill.flows.orchestration.deployments import standing_api
    from augmill.flows.orchestration.logs import quiet_logging
    from augmill.tasks.recipe.recipe import load_recipe

    loaded = load_recipe(recipe, store=store)
    stood: list[Deployed] = []

    def ready(deployed: Deployed) -> None:
        stood.append(deployed)
        _say(loaded, deployed, "by this process, until it is stopped")
        flush()

    try:
        with quiet_logging(verbose), standing_api(own=True):
            serve_recipe(loaded, recipe, ready)
    except KeyboardInterrupt:
        if not stood:  # before it served anything: nothing was ended cleanly
            raise
    _last("stopped", stood[0], "start it again: nights that were missed then do what schedule.catch_up says")


def _say(recipe: Recipe, deployed: Deployed, how: str) -> None:
    schedule = recipe.schedule
    nightly, *others = deployed.names
    say(f"{nightly}  at {schedule.cron} ({schedule.timezone}), {how}")
    for name in others:
        say(f"{name}  on demand: prefect deployment run {name} -p first=... -p last=...")
    for name in deployed.automations:
        say(f"automation  {name}")


def _last(outcome: str, deployed: Deployed, following: str) -> None:
    last = {"outcome": outcome, "deployments": deployed.names, "automations": deployed.automations, "next": following}
    say(json.dumps(last, ensure_ascii=False))
