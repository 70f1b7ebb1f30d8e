"""``augmill doctor``: whether this installation can do what a night needs, proven rather than assumed."""

from __future__ import annotations

from typing import Annotated

import typer

from augmill.flows.cli.run import SetOption, StoreOption, require_recipe
from augmill.flows.terminal import flush, print_lines, say, say_result


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="Test the store, devices and webhook of this recipe.")
    ] = None,
    changes: SetOption = None,
    store: StoreOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the scheduled run, which takes longest.")] = False,
) -> None:
    """Tests this installation: devices, store, Prefect, a scheduled run.

    Exits 4 if something is missing, and says what to do about it.
    """
    from augmill.flows.cli.terminal import shown, wrapped
    from augmill.flows.orchestration.doctor import examine
    from augmill.flows.orchestration.logs import quiet_logging
    from augmill.tasks.recipe.recipe import load_recipe
    from augmill.tasks.store.rules import require_root

    require_recipe(recipe, changes)
    if store is not None:
        require_root(store)
    loaded = load_recipe(recipe, store=store, changes=changes) if recipe is not None else None
    found = []
    with quiet_logging():
        for line in examine(loaded, store, quick):
            found.append(line)
            mark = ("ok    ", "green") if line.ok else ("FAILED", "red")
            print_lines([[mark, (f"  {line.name:<9} {shown(line.said)}", "")]])
            for text in [] if line.ok else wrapped(line.fix, " " * 10, f"{'':<8}What to do: "):
                say(text)
            flush()
    failed = [line.name for line in found if not line.ok]
    following = "augmill deploy, or augmill serve" if not failed else next(line.fix for line in found if not line.ok)
    say("", *wrapped(f"Next     {following}", " " * 9, ""))
    last = {"outcome": "failed" if failed else "ok", "failed": failed, "checked": [line.name for line in found]}
    say_result(last | {"next": following})
    if failed:
        raise typer.Exit(4)
