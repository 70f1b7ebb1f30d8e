"""The calls of the library. Each imports what it needs when it is called, and works as the command of its name does."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from augmill.published import Release, find_releases, release_of
from augmill.results import CheckResult, Comparison, Judgement, RunResult

if TYPE_CHECKING:
    from augmill.tasks.recipe.recipe import Recipe

Where = str | os.PathLike[str] | Mapping[str, Any]  # of a recipe: path, address, text, or the document itself
Table = Any  # polars, pandas or pyarrow, rows as dicts, or where a file, glob, directory or address is

# Signals, waiting for a store and the logger `augmill` are the process's own: one call at a time, the next one waits.
_TURN = threading.RLock()
# Errors name what was given as the command line does (`--min-gain`); here it is an argument (`min_gain`).
_ARGUMENTS = {
    name.replace("_", "-"): name
    for name in (
        *(
            "real",
            "synthetic",
            "validation",
            "text",
            "label",
            "target",
            "trainer",
            "rule",
            "min_gain",
            "margin",
            "metric",
        ),
        *("seeds", "seed", "report", "as_of", "store", "orchestrator", "generators", "ratios", "out", "release"),
    )
} | {"input": "inputs"}
_OPTION = re.compile(rf"--({'|'.join(sorted(_ARGUMENTS, key=len, reverse=True))})(?![\w-])")


@contextlib.contextmanager
def _called() -> Iterator[None]:
    """Raises what went wrong as an AugmillError, in Python's words. A defect is raised as it is."""
    from augmill.tasks.errors import AugmillError, world_error

    with _TURN:
        try:
            yield
        except AugmillError as error:
            error.problem, error.where, error.fix = (_in_python(t) for t in (error.problem, error.where, error.fix))
            error.args = (error.problem, error.where, error.fix)
            raise
        except (OSError, MemoryError) as error:
            raise world_error(error) from error


def _in_python(text: str) -> str:
    text = re.sub(r"augmill (\w+) --help", r"help(augmill.\1)", text)
    return _OPTION.sub(lambda found: _ARGUMENTS[found[1]], text)


def load_recipe(
    where: Where | Recipe, *, store: str | os.PathLike[str] | None = None, changes: Sequence[str] = ()
) -> Recipe:
    """Read and validate a recipe.

    Parameters
    ----------
    where
        A YAML file's path; the address of one in a bucket (``s3://``, ``gs://``, ``az://``); the YAML text itself, which
        a line break tells from both; the document as a dict, whose relative paths begin in the working directory; or a
        recipe, which is given back.
    store
        Instead of ``run.store`` in the recipe.
    changes
        Values by dotted keys, such as ``"generators.0.share=0.5"``, as ``--set`` takes them. Of a recipe that is read: a dict,
        or a recipe, takes none.

    Returns
    -------
    Recipe
        Frozen. Every call that takes a recipe takes all of the above too.

    Raises
    ------
    UserError
        It cannot be read, or a key or value is wrong; the message names the line and the nearest known key.
    StoreError
        A bucket does not answer (a ``WorldError``).

    Examples
    --------
    >>> recipe = augmill.load_recipe("tickets.yaml")
    >>> recipe.dataset
    'tickets'
    """
    with _called():
        return _recipe(where, store, changes)


def _recipe(where: Where | Recipe, store: str | os.PathLike[str] | None, changes: Sequence[str] = ()) -> Recipe:
    from augmill.tasks.errors import UserError
    from augmill.tasks.recipe import recipe as reading

    if changes and isinstance(where, Mapping | reading.Recipe):
        problem = f"expected the path, address or text of a recipe, found a {type(where).__name__}"
        raise UserError(problem, where="changes", fix="put the values into the dict, or read the recipe with them")
    if not isinstance(where, str | os.PathLike | Mapping | reading.Recipe):
        problem = f"expected the path, address or text of a recipe, a dict or a Recipe; found a {type(where).__name__}"
        raise UserError(problem, where="recipe", fix="give one of them, such as 'tickets.yaml'")
    root = None if store is None else os.fspath(store)
    if isinstance(where, Mapping):
        return reading.build_recipe(_document(where), base=Path.cwd(), store=root)
    if not isinstance(where, reading.Recipe):
        return reading.load_recipe(where if isinstance(where, str) else Path(where), store=root, changes=changes)
    if root is None:
        return where
    moved = dataclasses.replace(where, run=dataclasses.replace(where.run, store=root))
    for name in ("origin", "digest", "changes"):  # no fields, which replace would keep
        object.__setattr__(moved, name, getattr(where, name))
    return moved


def _document(value: Any) -> Any:
    """The document as YAML would give it: dicts, lists, and texts for paths and dates."""
    if isinstance(value, Mapping):
        return {str(key): _document(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_document(part) for part in value]
    return str(value) if isinstance(value, os.PathLike | date) else value


def check(recipe: Where | Recipe, *, as_of: str | date | None = None) -> CheckResult:
    """Say what a recipe means for its data: rows, classes, the plan, the gain the gate can see. Touches nothing.

    Parameters
    ----------
    recipe
        As ``load_recipe`` takes it.
    as_of
        Use the rows of partitions up to and with this one.

    Returns
    -------
    CheckResult

    Raises
    ------
    UserError
        The recipe is wrong, or does not fit its data.
    DataError
        The data cannot be used.
    WorldError
        A file, a bucket or the store cannot be read.

    Examples
    --------
    >>> augmill.check("tickets.yaml").classes[0]["label"]
    'refund'
    """
    with _called():
        from augmill.flows.cli.costs import estimate, trainer_bytes
        from augmill.flows.cli.survey import store_facts, survey

        loaded, day = _recipe(recipe, None), _day(as_of)
        found = survey(loaded, as_of=day) | {"store": store_facts(loaded, day)}
        found |= {"time": estimate(loaded, found), "trainer_bytes": trainer_bytes(loaded, found)}
    warned = [*found["source"].get("warnings", ()), found["source_warning"], found["plan"]["nothing_to_make"]]
    return CheckResult(
        dataset=found["dataset"],
        snapshot=found["snapshot"],
        rows=found["splits"]["rows"],
        classes=tuple(found["classes"]),
        target=found["plan"]["target"],
        visible_gain=found["gate"]["visible"],
        unit=found["gate"]["unit"],
        seconds=sum(part["seconds"] or 0.0 for part in found["time"]),
        warnings=tuple(filter(None, warned)),
        next="augmill.run(recipe)" if found["plan"]["target"] else "Raise the target if more rows are wanted.",
        facts=found,
    )


def run(
    recipe: Where | Recipe,
    *,
    store: str | os.PathLike[str] | None = None,
    as_of: str | date | None = None,
    orchestrator: Literal["prefect", "none"] | None = None,
    republish: bool = False,
    quiet: bool = False,
) -> RunResult:
    """Make new rows, check them, prove whether they help, and publish a release.

    What is finished is kept in the store: after an interrupt or an error of the world the same call goes on from there,
    and where nothing changed it publishes nothing anew. One call at a time runs in a process; another waits.

    Parameters
    ----------
    recipe
        As ``load_recipe`` takes it.
    store
        Instead of ``run.store`` in the recipe.
    as_of
        Use the rows of partitions up to and with this one, which is over.
    orchestrator
        ``"prefect"`` makes the call a Prefect flow run, which starts a server where none is configured (8 to 18 s);
        ``"none"`` runs the same steps alone. By default ``"prefect"`` inside a Prefect flow or task whose API is configured
        (PREFECT_API_URL), where it is a run within theirs, and ``"none"`` elsewhere, whatever the recipe says.
    republish
        Publish even a release that was withdrawn.
    quiet
        No progress on stderr. There, a stage is a line when it ends; only a terminal has live lines.

    Returns
    -------
    RunResult
        Whatever the outcome: that the rows do not help is a result, not an error.

    Raises
    ------
    UserError
        The recipe or an argument is wrong.
    DataError
        The data cannot be used, and nothing is current that could be kept.
    WorldError
        Disk, network, a killed process; the same call goes on from there.
    KeyboardInterrupt
        Ctrl-C, or SIGTERM, on the main thread.

    Examples
    --------
    >>> result = augmill.run("tickets.yaml")
    >>> result.outcome, result.ok
    ('published', True)
    >>> train = result.release.to_polars()
    """
    with _called():
        loaded, kind = _recipe(recipe, store), _orchestrator(orchestrator)
        from augmill.flows.augment import run_recipe
        from augmill.tasks.store.store import LookingStore

        told = run_recipe(
            loaded, as_of=_day(as_of), command="augmill.run", orchestrator=kind, republish=republish,
            quiet=quiet, embedded=True,
        )  # fmt: skip
        store_now = LookingStore(loaded.run.store)
        release = told["release"] and release_of(store_now, loaded.dataset, told["release"], told["snapshot"])
    return RunResult(
        **{name: told[name] for name in ("outcome", "headline", "reason", "action", "dataset", "snapshot", "next")},
        release=release,
        new=told["new"],
        report=told["report"],
        warnings=tuple(told.get("warnings", ())),
        facts=told,
    )


def judge(
    real: Table,
    synthetic: Table,
    validation: Table | None = None,
    *,
    text: str | Sequence[str] = (),
    label: str | None = None,
    inputs: Sequence[str] | Mapping[str, str] = (),
    target: str | None = None,
    trainer: str | None = None,
    rule: Literal["superior", "not_worse"] = "superior",
    min_gain: float = 0.0,
    margin: float | None = None,
    metric: str | None = None,
    seeds: int = 10,
    early: bool = True,
    seed: int = 0,
    report: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Judgement:
    """Judge rows made anywhere: do they help, measured on real rows? No recipe, no store; nothing is published.

    Parameters
    ----------
    real, synthetic
        Labelled rows: a table (polars, pandas, pyarrow, a list of dicts, a dict of columns), or where one is: a file,
        glob, directory, or an address in a bucket.
    validation
        Real rows to judge by, which the maker of the synthetic ones never saw. Else a part of ``real`` judges, and
        ``caveat`` says what that means.
    text, label
        The text column, two or more for pairs, and the label column. What is not named is guessed.
    inputs, target
        Instead, of a table: the columns to learn from, as names, ``"name:type"`` or ``{name: type}`` (text, number,
        category, timestamp), and the one to learn, ``"name"``, ``"name:label"`` or ``"name:number"``.
    trainer
        ``tfidf``, ``boosting``, ``linear``, or your own training as a command; by default the first that serves the rows.
    rule, min_gain, margin, metric
        When rows pass: docs/recipe.md, ``gate``.
    seeds, early
        Trainings of each arm, at least 3; whether fewer do where the others could hardly change the outcome.
    seed
        The seed of everything drawn.
    report
        Where to write the report, one HTML file.
    quiet
        No progress on stderr.

    Returns
    -------
    Judgement

    Raises
    ------
    UserError
        An argument is wrong, a column is not there, or none can be guessed.
    DataError
        The rows cannot be used, or none is left once copies of those that judge are taken out.
    WorldError
        A file or a bucket cannot be read, a training was killed.

    Examples
    --------
    >>> verdict = augmill.judge(real, made, held_out, text="body", label="queue")
    >>> verdict.passed, verdict.gains["mix-real"]["low"] > 0
    (True, True)
    """
    with _called():
        from augmill.flows.cli.init import dataset_name
        from augmill.flows.columns import Asked
        from augmill.flows.judge import judge_rows

        typed = [f"{name}:{type}" for name, type in inputs.items()] if isinstance(inputs, Mapping) else list(inputs)
        given = [_rows(part, name) for part, name in ((real, "real"), (synthetic, "synthetic"))]
        told = judge_rows(
            given[0], given[1], None if validation is None else _rows(validation, "validation"),
            asked=Asked([text] if isinstance(text, str) else list(text), label, typed, target),
            dataset=dataset_name(given[1]) if isinstance(given[1], str) else "rows",
            trainer=trainer, seed=seed, report=None if report is None else Path(report), quiet=quiet,
            rule=rule, min_gain=min_gain, margin=margin, metric=metric, seeds=seeds, early=early,
        ).result  # fmt: skip
    same = ("outcome", "headline", "reason", "unit", "scores", "rows", "left", "report", "next")
    caveat = None if told["caveat"] is None else _in_python(told["caveat"])
    return Judgement(
        **{name: told[name] for name in same},
        metric=told["judged_by"],
        gains=told["numbers"],
        caveat=caveat,
        facts=told,
    )


def compare(
    recipe: Where | Recipe,
    generators: str | Sequence[str] = (),
    *,
    seeds: int = 10,
    ratios: Sequence[float] = (0.5, 1, 2),
    store: str | os.PathLike[str] | None = None,
    as_of: str | date | None = None,
    orchestrator: Literal["prefect", "none"] | None = None,
    out: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Comparison:
    """Run each generator with each seed, publish nothing, and say which gains what at which price.

    Every finished cell (a generator with a seed) is kept in the store: the same call goes on where another stopped.

    Parameters
    ----------
    recipe
        As ``load_recipe`` takes it.
    generators
        A name, or several, such as ``["rules", "causal_lm/teacher", "adaptive:rules+interpolate"]``; by default those of
        the recipe.
    seeds
        How many seeds each runs with, from the recipe's on.
    ratios
        Synthetic rows per real one to measure too, beside the recipe's target.
    store, as_of, orchestrator, quiet
        As in ``run``.
    out
        A folder for report.html, table.md, plot.svg and cells.jsonl; by default none is written.

    Returns
    -------
    Comparison

    Raises
    ------
    UserError
        The recipe, a generator's name or an argument is wrong.
    DataError
        The data cannot be used, or no cell could be measured.
    WorldError
        Disk, network, a killed process; the same call goes on from there.

    Examples
    --------
    >>> augmill.compare("tickets.yaml", ["rules", "interpolate"], seeds=3)
    """
    with _called():
        from augmill.flows.cli.compare import parse_ratios, require_seeds, write_comparison

        loaded, kind = _recipe(recipe, store), _orchestrator(orchestrator)
        names = generators if isinstance(generators, str) else ",".join(generators)
        wanted = parse_ratios(",".join(map(str, ratios)))
        command = f"augmill.compare of {require_seeds(seeds)} seeds"
        from augmill.flows.compare import Compared, run_compare
        from augmill.tasks.report import lines

        found = Compared()
        run_compare(
            loaded, found, command=command, orchestrator=kind, quiet=quiet, embedded=True,
            generators=names, seeds=seeds, ratios=wanted, as_of=_day(as_of),
        )  # fmt: skip
        left = [(each.generator, each.seed, each.reason) for each in found.left]
        title = f"Generators on {loaded.dataset}, {seeds} seed{'s' if seeds > 1 else ''}"
        about = {"title": title, "command": command, "left": [list(each) for each in left]}
        written = write_comparison(Path(out), found.cells, about) if out is not None else {}
        told = tuple(dataclasses.asdict(line) for line in lines(found.cells))
    return Comparison(loaded.dataset, told, tuple(found.cells), tuple(left), written.get("report"))


def releases(where: Where | Recipe, dataset: str | None = None) -> list[Release]:
    """List the releases of a dataset: the one that a reader gets first, then the newest publication first.

    Parameters
    ----------
    where
        A recipe as ``load_recipe`` takes it (a path or an address ends with .yaml or .yml), or a store's directory or
        address.
    dataset
        Which, where a store holds several.

    Returns
    -------
    list of Release
        ``[0].current`` says whether anything is current; the list is empty where nothing was published. What
        retention or erasure took away is not in it.

    Raises
    ------
    UserError
        There is no such store or dataset, or the recipe is wrong.
    WorldError
        The store cannot be read.

    Examples
    --------
    >>> newest = augmill.releases("tickets.yaml")[0]
    >>> newest.to_polars("test")
    """
    with _called():
        if isinstance(where, str | os.PathLike):
            text = os.fspath(where)
            is_recipe = "\n" in text or text.lower().endswith((".yaml", ".yml"))
            return find_releases(_recipe(where, None) if is_recipe else text, dataset)
        return find_releases(_recipe(where, None), dataset)


def _day(as_of: str | date | None) -> str | None:
    return as_of.isoformat() if isinstance(as_of, date) else as_of


def _orchestrator(named: str | None) -> str:
    """Raises UserError."""
    from augmill.tasks.errors import UserError

    inside, configured = _in_prefect()
    if named is None:
        return "prefect" if inside and configured else "none"
    if named not in ("prefect", "none"):
        problem = f"expected prefect or none; found {named!r}"
        raise UserError(problem, where="orchestrator", fix="give one of the two")
    if named == "prefect" and inside and not configured:
        problem = "the calling flow runs on a temporary Prefect server, which cannot take another run"
        raise UserError(
            problem,
            where="orchestrator",
            fix="set PREFECT_API_URL (`prefect server start`), or leave `orchestrator` out",
        )
    return named


def _in_prefect() -> tuple[bool, bool]:
    """(whether a flow or a task of Prefect's calls us, whether an API is configured); nobody who has not imported it."""
    if "prefect" not in sys.modules:
        return False, False
    from prefect.context import FlowRunContext, TaskRunContext
    from prefect.settings import PREFECT_API_URL

    return bool(FlowRunContext.get() or TaskRunContext.get()), bool(PREFECT_API_URL.value())


def _rows(given: Table, name: str) -> Any:
    """Where rows are, as text, or the table as pyarrow's. Raises UserError."""
    import pyarrow as pa

    from augmill.tasks.errors import UserError

    if isinstance(given, str | os.PathLike):
        return os.fspath(given)
    fix = "give a polars, pandas or pyarrow table, a list of dicts, a dict of columns, or a path"
    try:
        if hasattr(given, "collect") and hasattr(given, "collect_schema"):  # polars, lazy
            given = given.collect()
        if isinstance(given, pa.Table):
            return given
        if isinstance(given, list):
            return pa.Table.from_pylist(given)
        if hasattr(given, "iloc"):
            return pa.Table.from_pandas(given, preserve_index=False)
        return given.to_arrow() if hasattr(given, "to_arrow") else pa.table(given)
    except (pa.ArrowException, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"expected a table, found {type(given).__name__}: {error}", where=name, fix=fix) from error
