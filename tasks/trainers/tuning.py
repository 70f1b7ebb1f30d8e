"""What trainers that choose for themselves share: folds of the real rows to choose by, and several trainings at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from augmill.tasks.boundary.processes import importing
from augmill.tasks.contracts import ROW_ID, STRATUM, TARGET, Ints
from augmill.tasks.rows.folds import deal_folds
from augmill.tasks.rows.randomness import stream_key, uniforms
from augmill.tasks.trainers.contract import TrainerInputs, Training

T = TypeVar("T")
# Runs of an arm that choose for themselves; the others take their choices in turn. With one, the luck of a choice stayed
# through all runs where no interval sees it, and 8 of 100 gates without effect found the mix better in one cell; a gate
# that ends early trains three.
CHOOSING = 3

THREADS: dict[str, Any] = {
    "help": "number of parallel trainings; 0: one per core",
    "identity": False,
    "why": "each is computed alone",
}


def require_threads(where: str, threads: int) -> None:
    if not 0 <= threads <= 256:
        raise ValueError(f"{where}.threads: expected 0 to 256, found {threads}")


def learnt(inputs: TrainerInputs) -> npt.NDArray[Any]:
    """Of the training rows, real ones first: each class's place in ``classes``, or TARGET where there are none."""
    tables = (inputs.real, inputs.synthetic)
    if not inputs.classes:
        return np.concatenate([table[TARGET].to_numpy() for table in tables])
    index = {label: position for position, label in enumerate(inputs.classes)}
    return np.array([index[label] for table in tables for label in table[STRATUM].to_pylist()], dtype=np.int64)


def side_by_side(train: Callable[[Training], T], trainings: list[Training], threads: int) -> Iterator[T]:
    """What ``train`` makes of each training, in order, ``threads`` of them at a time (0: one a core).

    No more are begun than work beside the one that is waited for; whoever closes the iterator waits for these alone.
    """
    return _in_turn(lambda pool, training: pool.submit(train, training), trainings, threads)


def torch_content() -> dict[str, str]:
    """As ``Trainer.content``: the version of torch, whose kernels decide the last bits of each sum."""
    from importlib.metadata import version

    return {"torch": ".".join(version("torch").split(".")[:2])}


def torch_side_by_side(
    train: Callable[[Training], T], trainings: list[Training], threads: int, workdir: Path
) -> Iterator[T]:
    """As ``side_by_side``, of trainings that set torch's threads and rest in ``workdir``; its threads are then as before."""
    with importing():
        import torch
    before = torch.get_num_threads()
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        yield from side_by_side(train, trainings, threads)
    finally:
        torch.set_num_threads(before)


def train_side_by_side(
    train: Callable[[Training, T | None], T], trainings: list[Training], threads: int
) -> Iterator[T]:
    """As ``side_by_side``; ``train`` is also given what it made of the run that chooses for the training's own.

    That is one of the first ``CHOOSING`` of its arm, which get None. A training of the same rows and weights as that one, as
    all of the real rows alone are, is not made again.
    """
    firsts = {(each.arm, each.run % CHOOSING): each for each in sorted(trainings, key=lambda each: -each.run)}
    leads: dict[tuple[str, int], Future[T]] = {}

    def follow(training: Training, lead: Future[T]) -> T:
        return train(training, lead.result())

    def submit(pool: ThreadPoolExecutor, training: Training) -> Future[T]:
        group = training.arm, training.run % CHOOSING
        first = firsts[group]
        if group not in leads:
            leads[group] = pool.submit(train, first, None)
        again = np.array_equal(first.rows, training.rows) and np.array_equal(first.weights, training.weights)
        return leads[group] if again else pool.submit(follow, training, leads[group])

    return _in_turn(submit, trainings, threads)


def _in_turn(
    submit: Callable[[ThreadPoolExecutor, Training], Future[T]], trainings: list[Training], threads: int
) -> Iterator[T]:
    workers = threads or os.cpu_count() or 1
    queue: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for training in trainings:
                queue.append(submit(pool, training))
                if len(queue) == workers:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            for waiting in queue:
                waiting.cancel()


@dataclass(frozen=True)
class Descent:
    """Which synthetic rows descend from which real ones, so that none helps to choose by its own parent.

    A synthetic row that names no parents may descend from any real row, so it takes no part in choosing: with rows that a
    model remembers, the choice would go to what remembers best (0.7 to 1.3 points lost on SNIPS and TREC at 10 rows a
    class, where the choice was C).
    """

    real: int
    rows: int  # real and synthetic
    strata: list[str]  # of real rows
    ids: Ints  # one key per real row, from its row_id
    child: Ints  # synthetic position, and the real position of a parent
    parent: Ints
    orphans: npt.NDArray[np.bool_]  # synthetic rows that name no parents

    @classmethod
    def of(cls, inputs: TrainerInputs) -> Descent:
        ids = inputs.real[ROW_ID].to_pylist()
        positions = {row_id: position for position, row_id in enumerate(ids)}
        named = [parents or [] for parents in inputs.synthetic["parent_ids"].to_pylist()]
        pairs = [
            (at, positions[parent]) for at, parents in enumerate(named) for parent in parents if parent in positions
        ]
        child, parent = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return cls(
            len(ids),
            len(ids) + len(named),
            inputs.real[STRATUM].to_pylist(),
            np.array([stream_key(row_id) >> 1 for row_id in ids], dtype=np.int64),
            child,
            parent,
            np.array([not parents for parents in named], dtype=np.bool_),
        )

    def folds(self, seed: int, folds: int) -> Ints:
        """The fold of each real row: dealt out within its stratum in an order drawn from the seed and its row_id."""
        draw = uniforms(self.ids ^ np.int64(seed), 1)[:, 0]
        return deal_folds(self.strata, draw, folds, onward=True)  # so small strata spread over folds too

    def without(self, fold: Ints, held: int) -> npt.NDArray[np.bool_]:
        """Shape (rows,): which rows may train while the fold ``held`` judges: not its own, none of their descendants."""
        keep = np.ones(self.rows, dtype=np.bool_)
        keep[: self.real] = fold != held
        keep[self.real :] = ~self.orphans
        keep[self.real + self.child[fold[self.parent] == held]] = False
        return keep
