"""What follows from the log beside the releases: the Delta table, where the recipe asks for one (publish.format: delta)."""

from __future__ import annotations

import logging

from augmill.tasks.errors import AugmillError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.store.delta import has_delta, require_deltalake, sync_delta
from augmill.tasks.store.store import Store

_log = logging.getLogger("augmill")


def require_mirrors(recipe: Recipe) -> None:
    """Raises UserError where a library is missing that the end of the run will need."""
    if recipe.publish.format == "delta":
        require_deltalake()


def mirror_delta(store: Store, dataset: str, *, wanted: bool) -> int | None:
    """Brings the dataset's Delta table up to the log; its version, or None where there is none or it could not be written.

    ``wanted``: make one where there is none. What was released stands whatever happens here: the log decides, and the
    next run, or ``augmill rollback``, commits what is missing.
    """
    try:
        if not wanted and not has_delta(store, dataset):
            return None
        return sync_delta(store, dataset)
    except AugmillError as error:
        _log.warning("The release is published, but its Delta table lags behind the log until the next run: %s", error)
        return None
