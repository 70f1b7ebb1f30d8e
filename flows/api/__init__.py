"""Augmill as a library: a labelled dataset in, a release with synthetic rows where they measurably help.

>>> import augmill
>>> recipe = augmill.load_recipe("tickets.yaml")
>>> augmill.check(recipe)
>>> result = augmill.run(recipe)
>>> train = result.release.to_polars()

docs/library.md has more. Importing this costs little: each call imports what it needs. Everything that goes wrong is an
``AugmillError``: a ``UserError``, a ``DataError``, or a ``WorldError``, after which the same call may go on.
"""

from augmill.calls import check, compare, judge, load_recipe, releases, run
from augmill.published import Release
from augmill.results import CheckResult, Comparison, Judgement, RunResult
from augmill.tasks.errors import AugmillError, DataError, UserError, WorldError

__all__ = [
    "AugmillError",
    "CheckResult",
    "Comparison",
    "DataError",
    "Judgement",
    "Release",
    "RunResult",
    "UserError",
    "WorldError",
    "check",
    "compare",
    "judge",
    "load_recipe",
    "releases",
    "run",
]

__version__: str


def __getattr__(name: str) -> str:
    if name == "__version__":  # only then: it reads a file
        from importlib.metadata import version

        return version("augmill")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
