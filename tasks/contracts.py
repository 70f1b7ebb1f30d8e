"""The nouns every module shares: artifacts, requests, contexts, and the contracts of generators and checks.

Imports only the standard library, numpy and pyarrow, so that a bare GPU worker can import an extension.
"""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

T = TypeVar("T")

# (done, total or None where nobody knows, unit): how far a piece of work is, such as (40, 200, "steps").
Tell = Callable[[int, int | None, str], None]


def tell_nobody(done: int, total: int | None, unit: str) -> None:
    """Where nobody looks on."""


class Artifact:
    """All that travels between tasks. ``key`` names the manifest; ``content`` is the hash of canonical rows.

    No dataclass: Prefect looks into one, and takes two tasks for linked whose artifacts share an equal string.
    """

    __slots__ = ("__weakref__", "content", "key", "rows", "sha256")

    def __init__(self, key: str, rows: int, sha256: str, content: str) -> None:
        self.key, self.rows, self.sha256, self.content = key, rows, sha256, content

    def to_json(self) -> dict[str, Any]:
        """What ``Artifact(**...)`` takes."""
        return {"key": self.key, "rows": self.rows, "sha256": self.sha256, "content": self.content}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Artifact) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.key, self.rows, self.sha256, self.content))

    def __repr__(self) -> str:
        return f"Artifact({self.key!r}, {self.rows}, {self.sha256!r}, {self.content!r})"


# Every table of real rows inside the pipeline: these columns, then ``text`` (``text_b``, ... for further text
# columns), then the user's other columns as ``user.<name>`` in their own types. The prefixes keep them apart.
ROW_ID = "row_id"
STRATUM = "stratum"  # the class by which targets and ledger count; for classification str(label)
USER_PREFIX = "user."
FIELD_NAMES = ("text", "text_b", "text_c", "text_d")


def real_schema(fields: tuple[str, ...]) -> pa.Schema:
    """The columns an extension may rely on in a table of real rows."""
    return pa.schema([(ROW_ID, pa.string()), (STRATUM, pa.string()), *((name, pa.string()) for name in fields)])


def candidate_schema(fields: tuple[str, ...]) -> pa.Schema:
    """What ``Generator.sample`` returns: one row per request, in the request's order.

    ``asked``: the requested class; ``stratum``: the class the row claims (differs only where ``labels == "own"``);
    ``reason``: null where a row was delivered, else why not, with null texts.
    """
    return pa.schema(
        [
            ("ordinal", pa.int64()),
            ("asked", pa.string()),
            (STRATUM, pa.string()),
            *((name, pa.string()) for name in fields),
            ("parent_ids", pa.list_(pa.string())),
            ("seed", pa.int64()),
            ("reason", pa.string()),
        ]
    )


# What ``Check.judge`` returns. ``reason``: null where a row passes. ``stratum`` may follow: its class from then on.
VERDICT_SCHEMA = pa.schema([("reason", pa.string()), ("score", pa.float64())])


@dataclass(frozen=True)
class Request:
    """The rows asked of a generator: ``strata[i]``, ``ordinals[i]`` and ``seeds[i]`` describe one row.

    A row is a function of the fit artifact and its own seed alone (law 3): nothing else in the request, and
    not the request's length, may change it.
    """

    strata: list[str]
    ordinals: npt.NDArray[np.int64]
    seeds: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.strata)


@dataclass
class Fitted:
    """A fit artifact as local files, with a cache for what is loaded from them once per process."""

    path: Path
    content: str
    cache: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str, load: Callable[[], T]) -> T:
        """What ``load`` made the first time it was asked for under ``name``."""
        if name not in self.cache:
            self.cache[name] = load()
        value: T = self.cache[name]
        return value

    def read_json(self, name: str) -> Any:
        return self.get(f"json:{name}", lambda: json.loads((self.path / name).read_text(encoding="utf-8")))


class Scratch(ABC):
    """An extension's own space in the store: kept between attempts, never part of a release. A put is True where it wrote."""

    @abstractmethod
    def get(self, key: str) -> bytes | None: ...

    @abstractmethod
    def put_if_absent(self, key: str, value: bytes) -> bool: ...

    @abstractmethod
    def keys(self, prefix: str) -> list[str]: ...  # those that stand below ``prefix/``, sorted

    def remove(self, key: str) -> None:  # noqa: B027 - where it cannot, what stands there stays
        """Frees the key; an extension may count on neither."""


@dataclass(frozen=True)
class Context:
    """What an extension may know of the run. ``workdir`` is an empty local directory for the files ``fit`` returns.

    ``tell(done, total, unit)``: a fit or a sample may say how far it is, as often as it likes and from any thread.
    """

    seed: int
    fields: tuple[str, ...]
    workdir: Path
    device: str = "cpu"
    threads: int = 1
    deadline: float | None = None  # seconds of time.monotonic()
    scratch: Scratch | None = None
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("augmill"))
    usage: dict[str, int] = field(default_factory=dict)  # ``sample`` may count here what it spends: ``tokens``
    tell: Tell = tell_nobody

    def out_of_time(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def part(self, start: int, stop: int, total: int, unit: str) -> Context:
        """This context for work that is ``start`` to ``stop`` of ``total``: what it tells is told as of the whole."""

        def tell(done: int, of: int | None, own: str) -> None:
            self.tell(start + (min(done, of) * (stop - start) // of if of else 0), total, unit)

        return replace(self, tell=tell)


@dataclass(frozen=True)
class FitInputs:
    """Real rows by split (``real_schema`` columns at least); held-out tables are empty for a generator, not for a check."""

    train: pa.Table
    validation: pa.Table
    test: pa.Table
    exclude: pa.Table  # rows of heldout_exclude: no training row may repeat them
    unlabelled: pa.Table  # every ``stratum`` is an empty text


class Generator(ABC):
    """Makes rows. Options are a frozen stdlib dataclass, ``Options``, whose fields may carry ``metadata``:

    ``{"identity": False, "why": ...}`` where a field changes no row (batch size); ``{"file": True}`` where it names
    a local file or directory, whose content then counts instead of its path.
    """

    VERSION: ClassVar[int]
    Options: ClassVar[type[Any]]
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = False
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    # What the rows are: made, or unlabelled real rows (the only parent of such a row) that got a label.
    origin: ClassVar[Literal["synthetic", "pseudo_labelled"]] = "synthetic"
    # Names a function of text.NORMALISATIONS under which a row must differ from its own parents (law 10).
    normalisation: ClassVar[str] = "canonical"
    # Versions of these packages (major.minor) are part of the identity of fit and sampling.
    libraries: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: Any) -> None:
        self.options = options

    def preflight(self, fields: tuple[str, ...]) -> None:  # noqa: B027 - most generators have nothing to look at
        """Raises UserError, within a moment, where the options name what a fit on these text columns could not use."""

    def wants_unlabelled(self) -> bool:
        """Whether, with these options, it does nothing without unlabelled rows (the recipe's ``unlabelled``)."""
        return False

    @abstractmethod
    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Learns from ``inputs.train``; returns file name -> local file (under ``ctx.workdir``)."""

    @abstractmethod
    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """One row of ``candidate_schema(ctx.fields)`` per requested row, in order."""


class Check(ABC):
    """Refuses rows. ``fit`` measures the check on real rows first and writes ``check.json`` with at least

    ``{"abstains": bool, "real_refused": share of real rows it would refuse (cross-fitted), "why": text}``.
    """

    VERSION: ClassVar[int]
    Options: ClassVar[type[Any]]

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Learns what real rows look like; returns file name -> local file (under ``ctx.workdir``)."""

    @abstractmethod
    def judge(self, fitted: Fitted, candidates: pa.Table, ctx: Context) -> pa.Table:
        """One row of ``VERDICT_SCHEMA`` per candidate, in order; a verdict depends on its own row alone."""
