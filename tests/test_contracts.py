"""The nouns every module shares, and what each entry of a registry owes. Generators and checks have suites of their own."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks import errors
from augmill.tasks.boundary.retries import may_retry
from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import ANY, Artifact, Check, Generator, Judged
from augmill.tasks.errors import AugmillError, DataError, UserError, WorldError
from augmill.tasks.generators import GENERATORS
from augmill.tasks.metrics import METRICS
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.problems.classification import Labels
from augmill.tasks.sources import SOURCES, Reader, SourceOptions, list_files
from augmill.tasks.trainers import TRAINERS, Trainer
from augmill.testing import PROBLEM_LAWS, SOURCE_LAWS, TRAINER_LAWS, SourceBench, TrainerBench

ROOT = Path(__file__).parents[1]
REGISTRIES: dict[str, tuple[dict[str, Any], type[Any]]] = {
    "generators": (GENERATORS, Generator),
    "checks": (CHECKS, Check),
    "trainers": (TRAINERS, Trainer),
    "sources": (SOURCES, Reader),
}
EXTENSIONS = [(kind, name) for kind, (registry, _) in REGISTRIES.items() for name in registry]
ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, AugmillError)]


def test_the_exception_tree_is_on_one_screen() -> None:
    """Whose fault it was decides the exit code; only what the world did wrong is retried (DESIGN, "Size and style")."""
    codes = {kind: (kind.exit_code, kind.retryable) for kind in ERRORS}
    for kind, (code, retryable) in codes.items():
        assert not retryable or issubclass(kind, WorldError), kind
        assert code == next(
            codes[base][0] for base in (UserError, DataError, WorldError, kind) if issubclass(kind, base)
        )
        assert may_retry(kind("problem")) == retryable
    assert {code for code, _ in codes.values()} == {1, 2, 3, 4, 5}


def test_every_error_of_ours_stands_in_that_tree() -> None:
    """Elsewhere at most a special case of one of its nouns."""
    for path in sorted(path for top in ("flows", "tasks") for path in (ROOT / top).rglob("*.py")):
        for name, base in re.findall(
            r"^class (\w+)\((\w*(?:Error|Exception|Interrupt))\)", path.read_text(), re.MULTILINE
        ):
            # an interrupt is no error, nor is the alarm that signals.py makes a DeadlineExceeded of
            ours = base in {kind.__name__ for kind in ERRORS} or base == "KeyboardInterrupt" or name == "_Late"
            assert ours or path.name == "errors.py", f"{path}: {name}({base})"


@given(st.text(min_size=1), st.text(), st.text())
def test_an_error_says_what_where_and_what_to_do(problem: str, where: str, fix: str) -> None:
    shown = str(UserError(problem, where=where, fix=fix))
    assert problem in shown and where in shown and fix in shown
    assert ("What to do: " in shown) == bool(fix) or "What to do: " in problem + where


@given(st.builds(Artifact, st.text(), st.integers(0), st.text(), st.text()))
def test_an_artifact_travels_as_json(artifact: Artifact) -> None:
    assert Artifact(**json.loads(json.dumps(artifact.to_json()))) == artifact


@pytest.mark.parametrize(("kind", "name"), EXTENSIONS)
def test_a_extension_has_a_version_and_is_final(kind: str, name: str) -> None:
    extension, base = REGISTRIES[kind][0][name], REGISTRIES[kind][1]
    assert type(extension.VERSION) is int and extension.VERSION >= 1
    assert extension.__bases__ == (base,), "no inheritance beyond the abstract class (law 11)"
    assert not inspect.isabstract(extension)
    assert not [other for other in extension.__subclasses__() if other.__module__.startswith("augmill.")]


@pytest.mark.parametrize(("kind", "name"), EXTENSIONS)
def test_a_extension_has_frozen_options_with_a_help_text_each(kind: str, name: str) -> None:
    options = SourceOptions if kind == "sources" else REGISTRIES[kind][0][name].Options
    assert dataclasses.is_dataclass(options) and options.__dataclass_params__.frozen  # type: ignore[attr-defined]
    for item in dataclasses.fields(options):
        assert len(item.metadata.get("help", "")) > 10 or item.metadata.get("help", "").endswith("only."), item.name
        assert item.metadata.get("identity", True) or item.metadata.get("why"), f"{item.name}: why is it no identity?"


def test_no_name_stands_for_two_extensions() -> None:
    for registry, _ in REGISTRIES.values():
        assert len(set(registry.values())) == len(registry)
    for name in [name for _, name in EXTENSIONS] + list(METRICS):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)


# A program for the trainer `command`: it predicts the commonest class.
MAJORITY = """
import sys, collections, pyarrow.parquet as pq, pyarrow as pa
train, held, _, out = sys.argv[1:]
rows, asked = pq.read_table(train), pq.read_metadata(held).num_rows
common = collections.Counter(rows["label"].to_pylist()).most_common(1)[0][0]
pq.write_table(pa.table({"row": range(asked), "label": [common] * asked}), out)
"""


# Those that the samples of `augmill.testing` serve; of pictures, tests/trainers/test_cnn.py has its own,
# of answers test_retrieval.py.
TRAINED = [
    name
    for name, kind in TRAINERS.items()
    if {"text", "table", ANY} & set(kind.kinds) and {"classification", ANY} & set(kind.problems)
]


@pytest.mark.parametrize("law", TRAINER_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "command" else name for name in TRAINED]
)
def test_it_keeps_the_laws_of_trainers(law: Callable[[TrainerBench], None], name: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(MAJORITY)
    command = f"{sys.executable} {tmp_path / 'train.py'} {{train}} {{eval}} {{seed}} {{predictions}}"
    options = TRAINERS[name].Options(**({"command": command} if name == "command" else {}))
    law(TrainerBench(TRAINERS[name](options), tmp_path))


@pytest.mark.parametrize("name", TRAINED)
def test_a_trainer_that_says_it_gives_scores_gives_them(name: str, tmp_path: Path) -> None:
    if name != "command":  # it may leave them out
        bench = TrainerBench(TRAINERS[name](TRAINERS[name].Options()), tmp_path)
        assert all((prediction.scores is not None) == bench.trainer.scores for prediction in bench.predict("all"))


@pytest.mark.parametrize("law", PROBLEM_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("classification", ["a", "b", "", None, 3, True, "a"]),
        ("regression", [1, 2.5, "3", "x", None, float("nan"), "", *range(30)]),
        ("transcription", ["yes", "a longer one", "", None, 3, True, *("x" * at for at in range(1, 90))]),
        ("text_to_text", ["yes", "a longer answer", "", None, 3, True, *("x" * at for at in range(1, 90))]),
        ("ranking", ["a", 17, 17.0, "", None, 1.5, True, ["a"], *"abcdefgh", *range(100)]),
        (
            "detection",
            [[{"bbox": [1, 2, 3, 4], "label": "a"}], [], None, "x", [{"bbox": [1, 2, 0, 4], "label": "a"}], [1]],
        ),
    ],
)
def test_it_keeps_the_laws_of_problems(law: Callable[..., None], name: str, values: list[Any]) -> None:
    law(PROBLEMS[name], values, Labels())


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if "classification" in metric.problems])
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_a_metric_of_classes_is_a_share_and_one_where_all_is_right(name: str, pairs: list[tuple[int, int]]) -> None:
    predicted, actual = np.array(pairs).T
    units, metric = np.arange(len(pairs)), METRICS[name]
    some, all_right = (
        float(metric.values(metric.prepare(held), np.ones((1, len(pairs)), np.float32))[0])
        for found in (predicted, actual)
        for held in (Judged(actual, found, np.eye(4)[found], units, len(pairs), tuple("abcd")),)
    )
    one_class = len(set(actual.tolist())) == 1  # in which nothing can be ranked
    assert (metric.needs_scores and one_class) or (0 <= some <= 1 and np.isclose(all_right, 1))


WRITERS: dict[str, Any] = {
    "csv": pyarrow.csv.write_csv,
    "jsonl": lambda table, path: path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist())),
    "parquet": pyarrow.parquet.write_table,
    "delta": lambda table, path: pytest.importorskip("deltalake").write_deltalake(path, table),
}


@pytest.mark.parametrize("law", SOURCE_LAWS, ids=lambda law: law.__name__)
# Those whose rows are files, or made of several: tests/sources/test_folder.py, test_webdataset.py, test_boxes.py, test_events.py.
@pytest.mark.parametrize(
    "name", [name for name in SOURCES if name not in ("folder", "webdataset", "coco", "voc", "events")]
)
def test_it_keeps_the_laws_of_readers(law: Callable[[SourceBench], None], name: str, tmp_path: Path) -> None:
    rows = [{"text": f"row {at}, “quoted”", "label": "ab"[at % 2]} for at in range(50)]
    path = tmp_path / f"rows.{name}"
    WRITERS[name](pa.Table.from_pylist(rows), path)
    assert [file.format for file in list_files(SourceOptions(path=str(path)))] == [name]
    law(SourceBench(name, path, rows))
