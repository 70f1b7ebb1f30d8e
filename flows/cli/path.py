"""``augmill path``: where the newest release lies, for shell scripts and other schedulers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from augmill.flows.cli.releases import _find
from augmill.flows.cli.run import RecipePath, SetOption, StoreOption
from augmill.flows.terminal import say

if TYPE_CHECKING:
    from augmill.tasks.recipe.recipe import Recipe
    from augmill.tasks.store.store import Store

AsOf = Annotated[
    str | None,
    typer.Option("--as-of", metavar="PARTITION", help="The newest release as of this partition, such as a date."),
]
VerifyOption = Annotated[
    bool,
    typer.Option("--verify", help="Check every file against its checksum first. Exits 4 if one differs."),
]
DeltaOption = Annotated[
    bool, typer.Option("--delta", help="Print the Delta table's path instead (publish.format: delta).")
]


def register(app: typer.Typer) -> None:
    app.command("path")(path)


def path(
    recipe: RecipePath,
    as_of: AsOf = None,
    changes: SetOption = None,
    release: Annotated[
        str | None,
        typer.Option("--release", metavar="RELEASE", help="The release of this id or its beginning, tag or snapshot."),
    ] = None,
    store: StoreOption = None,
    delta: DeltaOption = False,
    verify: VerifyOption = False,
) -> None:
    """Prints the path of the newest release, and nothing else.

    Exits 3 if there is no release yet.
    """
    from augmill.tasks.errors import UserError
    from augmill.tasks.recipe.recipe import load_recipe

    if delta and as_of is not None:
        problem = "a Delta table is read as of one of its versions, not of a snapshot's date"
        raise UserError(problem, where="--as-of", fix="the table's history() says which snapshot each version is")
    if release is not None and (delta or as_of is not None):
        raise UserError("it names one release by itself", where="--release", fix="leave out --as-of and --delta")
    if delta and verify:
        raise UserError("it verifies releases, not Delta tables", where="--verify", fix="leave one of the two out")
    loaded = load_recipe(recipe, store=store, changes=changes)
    say(_table(loaded) if delta else _release(loaded, as_of, release, verify))


def _release(recipe: Recipe, as_of: str | None, named: str | None, verify: bool) -> str:
    from augmill.flows.units import require_partition
    from augmill.tasks.errors import DataError
    from augmill.tasks.store.log import read_log
    from augmill.tasks.store.releases import require_whole
    from augmill.tasks.store.store import release_key

    require_partition(recipe, as_of, "--as-of")
    store = _open(recipe)
    log = None if store is None else read_log(store, recipe.dataset)
    found = None if log is None else log.newest(as_of) if named is None else _find(log, named)
    if store is None or found is None:
        upto = "" if as_of is None else f" as of {as_of}"
        raise DataError(
            f"{recipe.dataset!r} has no release{upto}",
            where=recipe.run.store,
            fix="`augmill run` makes one; `augmill releases` lists what there is",
        )
    if verify:
        require_whole(store, recipe.dataset, found)
    return f"{store.root.rstrip('/')}/{release_key(recipe.dataset, found)}"


def _table(recipe: Recipe) -> str:
    from augmill.tasks.errors import DataError
    from augmill.tasks.store.delta import delta_uri, has_delta

    store = _open(recipe)
    if store is None or not has_delta(store, recipe.dataset):
        raise DataError(
            f"{recipe.dataset!r} has no Delta table",
            where=recipe.run.store,
            fix="set `publish: {format: delta}` in the recipe; the next run writes it",
        )
    return delta_uri(store, recipe.dataset)


def _open(recipe: Recipe) -> Store | None:
    """The store; None where there is none. A question makes no directory."""
    from augmill.tasks.store.rules import REMOTE_SCHEMES, require_root
    from augmill.tasks.store.store import LookingStore

    root = recipe.run.store
    require_root(root)
    there = root.startswith(REMOTE_SCHEMES) or Path(root).expanduser().is_dir()
    return LookingStore(root) if there else None
