"""Judges with the model the user really trains: a command that reads Parquet and writes Parquet.

What the command gets, through the placeholders of its template:

- ``{train}``: Parquet with ``row_id, origin ("real" | "synthetic"), the inputs, label (string), weight``; a repeated row
  stands several times. The placebo has as many rows as the mix, hence as many steps per epoch; a command that trains
  for a fixed number of steps gives the real arm as many. For regression ``target`` (double) stands in place of label.
  Where a target is no number (boxes, a transcript, a list of items), ``target`` has the problem's own type.
- ``{eval}``: Parquet with ``row (int64)`` and the inputs. Targets are kept back: Augmill computes the metrics.
- ``{seed}``: an integer below 2**31, the same for the arms of one run.
- ``{predictions}``: where to write Parquet with ``row`` and ``label``, one row per row of ``{eval}``; for regression
  ``row`` and ``target``, a finite number. For metrics that need scores (``auc``, ``average_precision``) also a column
  ``score.LABEL`` for each label that it knows: a number that is the larger, the surer it is, such as a probability.

The inputs are called ``text`` (``text_b``, ... for further texts), or ``TYPE:COLUMN``, such as ``number:age``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.tasks.boundary.masking import masked
from augmill.tasks.boundary.parquet import plain_schema, read_parquet
from augmill.tasks.contracts import ANY, STRATUM, TARGET, Problem
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.rows.schema import is_number
from augmill.tasks.trainers import _guard
from augmill.tasks.trainers.contract import Prediction, Trainer, TrainerInputs, Training

PLACEHOLDERS = ("train", "eval", "seed", "predictions")
PREDICTIONS = "predictions.parquet"
SCORE = "score."  # before a label, of the column with its scores
LONGEST = 604_800  # seconds, a week: what `timeout` may be, so no attempt is older and still running
TAIL = 2000  # characters of the command's output that are kept, and shown in an error
READ = 65536  # bytes of its end that are looked at: secrets are masked before it is cut


@dataclass(frozen=True)
class CommandOptions:
    command: str = field(
        metadata={
            "help": "run once per training, without a shell, e.g. "
            "`python train.py --train {train} --eval {eval} --seed {seed} --out {predictions}`"
        }
    )
    timeout: float = field(
        default=3600.0,
        metadata={
            "help": "seconds for one training",
            "identity": False,
            "why": "a training that ends in time is the same",
        },
    )

    def __post_init__(self) -> None:
        try:
            words = shlex.split(self.command)
            found = {name for word in words for name in _places(word)}
        except ValueError as error:
            raise ValueError(f"trainer.command: cannot be read ({error}); write literal braces as {{{{ }}}}") from error
        if missing := [name for name in PLACEHOLDERS if name not in found]:
            raise ValueError(f"trainer.command: expected {{{missing[0]}}} in the command, found {self.command!r}")
        if unknown := sorted(found - set(PLACEHOLDERS)):
            raise ValueError(f"trainer.command: {{{unknown[0]}}} is not one of {', '.join(PLACEHOLDERS)}")
        if not 0 < self.timeout <= LONGEST:
            raise ValueError(f"trainer.timeout: expected seconds above 0, at most a week, found {self.timeout}")


class CommandTrainer(Trainer):
    """One subprocess per training, one at a time. A finished run is kept under the hash of its inputs and reused."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[Any]] = CommandOptions
    kinds: ClassVar[tuple[str, ...]] = (ANY,)
    problems: ClassVar[tuple[str, ...]] = (ANY,)
    scores: ClassVar[bool] = True  # where the command writes them

    def predict(self, inputs: TrainerInputs, trainings: list[Training], workdir: Path) -> Iterator[Prediction]:
        evaluation = inputs.evaluation.select(list(inputs.fields))
        evaluation = evaluation.add_column(0, "row", pa.array(range(evaluation.num_rows), pa.int64()))
        answer = _answer(inputs)
        known = [self.VERSION, self.options.command, self.content(), _hash(evaluation)]
        for training in trainings:
            train = _train_table(inputs, training)
            key = hashlib.sha256(json.dumps([*known, _hash(train), training.seed]).encode()).hexdigest()
            finished = workdir / "runs" / key
            if not (finished / PREDICTIONS).exists():
                attempt = _new_attempt(workdir / "attempts", key)
                _read_predictions(self._run(attempt, train, evaluation, training, answer), inputs)
                _adopt(attempt, finished)
            yield Prediction(*_read_predictions(finished / PREDICTIONS, inputs), {"run": key[:16]})

    def content(self) -> dict[str, str]:
        """The sha256 of each file that a word of the command names, the program too: an edited one is trained again.

        Of ``--config=c.yaml`` the end counts. Paths are taken as the command takes them: the program's from PATH, the
        others from the working directory.
        """
        words = [word.format() for word in shlex.split(self.options.command) if not _places(word)]
        named = {word: Path(word.rpartition("=")[2]) for word in words}
        if words and (program := shutil.which(words[0])):
            named[words[0]] = Path(program)
        return {word: _hash_file(path) for word, path in sorted(named.items()) if path.is_file()}

    def _run(self, folder: Path, train: pa.Table, evaluation: pa.Table, training: Training, answer: str) -> Path:
        """Trains once, with ``folder`` for its files. Raises UserError where the command does not do its part."""
        paths = {"train": folder / "train.parquet", "eval": folder / "eval.parquet"}
        pq.write_table(train, paths["train"])
        pq.write_table(evaluation, paths["eval"])
        written = folder / PREDICTIONS
        values = {**paths, "seed": training.seed, "predictions": written}
        words = [word.format(**values) for word in shlex.split(self.options.command)]
        code, output = _execute(words, folder / "output.txt", self.options.timeout)
        shown = f"\n  Its output ended with:\n{output}" if output else "; it printed nothing"
        if code is None:
            raise UserError(
                f"expected the command to end within {self.options.timeout:g} s; it was stopped{shown}",
                where=f"trainer.command ({training.arm}, run {training.run})",
                fix="raise `timeout`, or train less; finished trainings are kept",
            )
        if code != 0:
            raise UserError(
                f"expected exit code 0, found {code}{shown}",
                where=f"trainer.command ({training.arm}, run {training.run})",
                fix=f"try it by hand: {masked(shlex.join(words))}",
            )
        if not written.exists():
            raise UserError(
                f"the command succeeded but wrote nothing{shown}",
                where=str(written),
                fix=f"write Parquet with columns row and {answer} to {{predictions}}",
            )
        return written


def _places(word: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(word) if name is not None]


def _hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _new_attempt(attempts: Path, key: str) -> Path:
    """A directory that no other process writes to: two runs of one recipe may train at once.

    A failed attempt stays to be looked at, a killed one because nobody could remove it; both for a week.
    """
    attempts.mkdir(parents=True, exist_ok=True)
    for other in attempts.iterdir():
        with contextlib.suppress(FileNotFoundError):  # its run ended, or removes it too
            if other.stat().st_mtime < time.time() - LONGEST:
                shutil.rmtree(other)
    attempt = attempts / f"{key[:16]}-{uuid.uuid4().hex[:12]}"
    attempt.mkdir()
    return attempt


def _adopt(attempt: Path, finished: Path) -> None:
    """Puts a finished attempt in its place at once; where another run was first, its predictions are the truth."""
    for name in ("train", "eval"):
        (attempt / f"{name}.parquet").unlink(
            missing_ok=True
        )  # a copy of the training rows for every run would fill the disk
    finished.parent.mkdir(parents=True, exist_ok=True)
    try:
        attempt.rename(finished)
    except OSError:
        if not finished.is_dir():
            raise
        if not (finished / PREDICTIONS).exists():  # what stood there was refused when it was read again
            (attempt / PREDICTIONS).replace(finished / PREDICTIONS)
        shutil.rmtree(attempt)


def _answer(inputs: TrainerInputs) -> str:
    """The column that is learnt, as the command sees it."""
    return "label" if inputs.problem.target is None else TARGET


def _train_table(inputs: TrainerInputs, training: Training) -> pa.Table:
    schema = real_schema(inputs.fields, inputs.problem.target)
    both = pa.concat_tables([table.select(schema.names).cast(schema) for table in (inputs.real, inputs.synthetic)])
    origin = pa.array(["real"] * inputs.real.num_rows + ["synthetic"] * inputs.synthetic.num_rows)
    rows = both.add_column(1, "origin", origin).take(pa.array(training.rows))
    if inputs.problem.target is None:
        rows = rows.rename_columns(["label" if name == STRATUM else name for name in rows.column_names])
    else:
        rows = rows.drop_columns([STRATUM])
    return rows.append_column("weight", pa.array(training.weights))


def _hash(table: pa.Table) -> str:
    """Of the rows, not of Parquet bytes, which hold the writer's version."""
    digest = hashlib.sha256(json.dumps(table.column_names).encode())
    for batch in table.to_batches(max_chunksize=10_000):
        digest.update(json.dumps(batch.to_pylist(), ensure_ascii=False, default=str).encode())
    return digest.hexdigest()


def _execute(words: list[str], log: Path, timeout: float) -> tuple[int | None, str]:
    """Exit code (None where time ran out) and output.

    All that descends from the command ends with this call, and with this process however that ends: see _guard.py.
    """
    if shutil.which(words[0]) is None:
        raise UserError(
            f"expected a program to run; there is none called {words[0]!r}",
            where="trainer.command",
            fix="give the full path, or put it on PATH",
        )
    guarded = [sys.executable, "-I", "-S", _guard.__file__, str(os.getpid()), *words]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            guarded, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                process.terminate()  # the guard kills all that descends from the command, and ends
                process.wait()
            _keep_end(log)
    return code, log.read_text(encoding="utf-8", errors="replace").strip()


def _keep_end(log: Path) -> None:
    """Leaves the last lines of the output in the file, without secrets: what a program prints is nobody's to keep."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - READ))
        end = stream.read().decode("utf-8", errors="replace")
    kept = masked(end if log.stat().st_size <= READ else end.partition("\n")[2] or end[512:]).strip()
    log.write_text(kept if len(kept) <= TAIL else kept[-TAIL:], encoding="utf-8", errors="replace")


def _read_predictions(path: Path, inputs: TrainerInputs) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
    """Targets and scores as in ``Prediction``. Raises UserError, and moves the file aside, where it is not as asked."""
    answer = _answer(inputs)

    def wrong(problem: str) -> UserError:
        refused = path.replace(path.with_name("predictions.refused.parquet"))
        return UserError(problem, where=str(refused), fix=f"one row per row of {{eval}}: columns row and {answer}")

    try:
        with path.open("rb") as stream:
            named = plain_schema(stream, str(path)).names
        scored = [name for name in named if name.startswith(SCORE)] if inputs.classes else []
        table = read_parquet(path, ["row", answer, *scored])
    except (DataError, pa.ArrowException, OSError) as error:
        raise wrong(f"expected Parquet, found something else ({getattr(error, 'problem', error)})") from error
    if missing := [name for name in ("row", answer) if name not in table.column_names]:
        raise wrong(f"expected columns row and {answer}, found {table.column_names} ({missing[0]} is missing)")
    rows, count = table["row"].to_pylist(), inputs.evaluation.num_rows
    if sorted(rows, key=lambda row: (row is None, row)) != list(range(count)):
        raise wrong(f"expected each row 0 to {count - 1} once, found {len(rows)} rows, {len(set(rows))} distinct")
    table = table.sort_by("row")
    try:
        found = (
            _values(table, inputs.problem)
            if answer == TARGET
            else _label_places(table[answer].to_pylist(), inputs.classes)
        )
        return found, _scores(table, scored, inputs.classes) if scored else None
    except ValueError as error:
        raise wrong(str(error)) from error


def _label_places(labels: list[Any], classes: tuple[str, ...]) -> npt.NDArray[np.int64]:
    index = {label: position for position, label in enumerate(classes)}
    for row, label in enumerate(labels):
        if label is None or label != label or str(label) not in index:  # noqa: PLR0124 (NaN is not itself)
            raise ValueError(f"expected one of {len(index)} labels in each row, found {label!r} in row {row}")
    return np.array([index[str(label)] for label in labels], dtype=np.int64)


def _values(table: pa.Table, problem: Problem) -> npt.NDArray[Any]:
    """Of the column TARGET: numbers, or plain Python values of what the problem asks for."""
    kind = problem.answer or problem.target
    if is_number(kind):
        return _numbers(table, TARGET)
    found = np.empty(table.num_rows, dtype=object)
    try:
        found[:] = table[TARGET].cast(kind).to_pylist()
    except pa.ArrowException as error:
        raise ValueError(f"expected {kind} in column {TARGET}, found {table[TARGET].type}") from error
    missing = [value is None for value in found]
    if any(missing):
        raise ValueError(f"expected a value in each row of column {TARGET}, found none in row {missing.index(True)}")
    holed = [_has_hole(value) for value in found]
    if any(holed):
        raise ValueError(f"expected no null inside of column {TARGET}, found one in row {holed.index(True)}")
    return found


def _has_hole(value: Any) -> bool:
    """Whether a null stands anywhere in a value of lists and structs."""
    if isinstance(value, dict | list):
        return any(_has_hole(own) for own in (value.values() if isinstance(value, dict) else value))
    return value is None


def _numbers(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    try:
        found: npt.NDArray[np.float64] = pc.fill_null(table[name].cast(pa.float64()), float("nan")).to_numpy()
    except pa.ArrowException as error:
        raise ValueError(f"expected numbers in column {name}, found {table[name].type}") from error
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found))[0])
        raise ValueError(f"expected a finite number in each row of column {name}, found {found[row]:g} in row {row}")
    return found


def _scores(table: pa.Table, names: list[str], classes: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """(rows, classes); of a label that the command does not know nothing is surer than anything else."""
    scores = np.full((table.num_rows, len(classes)), -np.inf)
    for name in names:
        if name.removeprefix(SCORE) in classes:
            scores[:, classes.index(name.removeprefix(SCORE))] = _numbers(table, name)
    return scores
