"""``augmill gc`` and ``augmill verify``: what nothing needs any more, and whether all that stands is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from augmill.flows.cli.releases import (
    DEFAULT_STORE,
    Dataset,
    GivenRelease,
    ReleaseOption,
    StoreOption,
    _find,
    open_release,
)
from augmill.flows.cli.run import SetOption, require_recipe
from augmill.flows.terminal import say, say_result

SHOWN = 10


def register(app: typer.Typer) -> None:
    app.command("gc")(gc)
    app.command("verify")(verify)


def gc(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="Use the store of this recipe, and its retain section for its dataset."),
    ] = None,
    changes: SetOption = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="STORE", help="The store, if no recipe is given.")
    ] = None,
    grace: Annotated[str, typer.Option("--grace", metavar="TIME", help="Leave alone what is younger.")] = "24h",
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete what is listed. Without it nothing changes.")
    ] = False,
) -> None:
    """Lists what is no longer needed; with --delete, deletes it.

    That is: what nothing refers to any more, and what is older than the recipe's retain section keeps.
    """
    from augmill.flows.releases import Limits, find_garbage, sweep_store
    from augmill.tasks.errors import UserError
    from augmill.tasks.recipe.recipe import load_recipe
    from augmill.tasks.rows.calendar import parse_duration

    try:
        span = parse_duration(grace)
    except ValueError as error:
        raise UserError(str(error), where="--grace", fix="give it as 24h or 7d") from error
    require_recipe(recipe, changes)
    loaded = load_recipe(recipe, store=store, changes=changes) if recipe is not None else None
    opened = open_store(loaded.run.store if loaded is not None else store or DEFAULT_STORE, write=delete)
    limits = {loaded.dataset: Limits.of(loaded.retain)} if loaded is not None else {}
    sweep = find_garbage(opened, grace=span, limits=limits)
    for sentence in sweep.left_alone:
        say(f"Left alone: {sentence}.")
    counts = sweep.counts()
    for kind, count in counts.items():
        say(f"{kind:<12}{count['files']:>9,} files {count['bytes'] / 1e6:>12,.1f} MB")
    for dataset, names in sweep.releases().items():
        say(f"Releases of {dataset}: {_named(names)}")
    if delete:
        sweep_store(opened, sweep, grace=span, command="augmill gc --delete")
    done = "deleted" if delete else "listed"
    say(f"{'Nothing to delete.' if not counts else 'Deleted.' if delete else 'Nothing was deleted: add --delete.'}")
    result = {"outcome": done, "what": counts, "releases": sweep.releases(), "left_alone": sweep.left_alone}
    say_result(result)


def _named(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def open_store(
    address: str,
    *,
    where: str = "--store",
    fix: str = "give your recipe's store (run.store)",
    write: bool = False,
) -> Any:
    """A store that is there already; unless ``write``, one to look at, which changes nothing in it. Raises UserError."""
    from augmill.tasks.errors import UserError
    from augmill.tasks.store.rules import REMOTE_SCHEMES, require_root
    from augmill.tasks.store.store import LookingStore, Store

    require_root(address)
    if not address.startswith(REMOTE_SCHEMES) and not Path(address).expanduser().is_dir():
        raise UserError(f"there is no store at {address!r} yet", where=where, fix=fix)
    return Store(address) if write else LookingStore(address)


def verify(
    given: GivenRelease = None,
    dataset: Dataset = None,
    changes: SetOption = None,
    store: StoreOption = None,
    release: ReleaseOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Check everything in the store: objects, documents, logs, every release.")
    ] = False,
) -> None:
    """Checks the files of releases against their checksums.

    Of the current releases, of one release, or with --all of the whole store.
    """
    from augmill.tasks.errors import CorruptObject, UserError
    from augmill.tasks.store.log import read_log
    from augmill.tasks.store.releases import verify_release

    if everything:
        if (given, dataset, release) != (None, None, None):
            raise UserError(
                "--all checks the whole store, so it takes neither a dataset nor a release",
                where="verify",
                fix="leave one of the two out",
            )
        _verify_all(store or DEFAULT_STORE)
        return
    opened, name, release = open_release(given, dataset, store, release, changes)
    log = read_log(opened, name)
    chosen = [_find(log, release)] if release else sorted(set(log.current().values()))
    wrong = [f"{found}/{file}" for found in chosen for file in verify_release(opened, name, found)]
    if wrong:
        raise CorruptObject(
            f"{len(wrong)} file(s) differ from their checksums: {', '.join(wrong)}",
            where=name,
            fix="restore them, or run the recipe again",
        )
    say(f"{name}: the log and {len(chosen)} release(s) are whole.")


def _verify_all(address: str) -> None:
    from augmill.flows.releases import verify_store
    from augmill.tasks.errors import CorruptObject

    found = verify_store(open_store(address))
    looked = ", ".join(f"{count:,} {kind}" for kind, count in found.looked.items() if count)
    for line in found.pending:
        say(f"{line}.")
    if found.wrong:
        for line in found.wrong:
            say(f"wrong: {line}")
        raise CorruptObject(
            f"{len(found.wrong)} of the things checked ({looked}) are damaged, first {found.wrong[0]}",
            where=address,
            fix="running the recipe makes releases and artifacts again; restore a log entry from a backup",
        )
    say(f"{address} is whole: {looked}.")
