"""The nouns every module shares: artifacts, requests, contexts, and the contracts of extensions.

Imports only the standard library, numpy and pyarrow, so that a bare GPU worker can import an extension.
"""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

T = TypeVar("T")
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

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


# Every table of real rows inside the pipeline: ROW_ID, STRATUM, TARGET where the problem has one, the fields, then the
# user's other columns as ``user.<name>`` in their own types. A text field is called ``text`` (``text_b``, ... for further
# ones), any other ``<type>:<column>``, such as ``number:age``; prefixes keep all of them apart.
ROW_ID = "row_id"
STRATUM = "stratum"  # by what targets and ledger count; for classification the class
TARGET = "target"  # what is learnt, where that is no class; its type is the problem's
USER_PREFIX = "user."
FIELD_NAMES = ("text", "text_b", "text_c", "text_d")
ANY = "*"  # in ``kinds`` and ``problems`` of an extension: whatever they are
FIRST_PROBLEM = "classification"  # what is learnt where an identity names no problem: there was one alone once


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
    target: pa.DataType | None = None  # of the column TARGET, where the problem has one
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
    """Real rows by split (``kinds.real_schema`` columns at least); held-out tables are empty for a generator, not for a check."""

    train: pa.Table
    validation: pa.Table
    test: pa.Table
    exclude: pa.Table  # rows of heldout_exclude: no training row may repeat them
    unlabelled: pa.Table  # every ``stratum`` is an empty text
    # What ``Problem.fit_strata`` learnt of the snapshot, of more rows perhaps than ``train`` still has: so strata follow.
    strata: Mapping[str, Any] = field(default_factory=dict)


# --- What a row is made of: kinds of fields ----------------------------------------------------------------------------


class NearIndex(ABC):
    """Rows to be found again by the fields of one kind, equal or near; from ``Kind.near``."""

    @abstractmethod
    def matches(self, columns: pa.Table) -> tuple[Ints, Ints, Floats]:
        """All pairs that are near: (query, position, similarity up to 1, which is equal), by query, then position.

        Of rows that are equal in this kind's fields only the first position is found.
        """

    @abstractmethod
    def nearest(self, columns: pa.Table) -> tuple[Ints, Floats]:
        """The best match of each row: (position, similarity); (-1, 0.0) where none is near."""

    @abstractmethod
    def save(self, directory: Path, name: str) -> dict[str, Path]:
        """File name -> path; each name begins with ``name``."""


class Featurizer(ABC):
    """Rows as numbers, fitted on train rows alone; from ``Kind.features``."""

    @abstractmethod
    def transform(self, columns: pa.Table) -> Any:
        """float32, (rows, features): a numpy array, or a scipy CSR matrix. NaN in an array: a value is missing."""


MAX_FILE_BYTES = 50_000_000  # of one picture or sound, unless a recipe says otherwise


@dataclass(frozen=True)
class ReadLimits:
    """Of what is read from a source: characters of one text at most, bytes of one file (a picture, a sound)."""

    max_chars: int
    max_bytes: int = MAX_FILE_BYTES


class Kind(ABC):
    """Owns all fields of its types in a row, together: what equal and near mean, how they are read, shown and measured.

    ``columns`` is always a table of this kind's fields and no other column, each of type ``arrow(type)``.
    """

    VERSION: ClassVar[int]
    name: ClassVar[str]
    types: ClassVar[tuple[str, ...]]  # what a recipe's ``columns.inputs`` may call such a column
    # Versions of these packages (major.minor) are part of the identity of what equal, near, profile and features give.
    libraries: ClassVar[tuple[str, ...]] = ()
    remedies: ClassVar[Mapping[str, str]] = {}  # what to do about the reasons that ``read`` gives
    verbatim: ClassVar[bool] = (
        False  # fields hold the user's values as they came: a release gives real ones back from them
    )
    # Its values are files: texts in a source's column of its types name files that lie beside the table, and ``read`` is
    # given what is in them (``kinds.media.RELEASED``). Ids go by their bytes, so that a column's values stay verbatim.
    files: ClassVar[bool] = False
    hub: ClassVar[str] = (
        ""  # what the Hub calls rows of this kind alone in its task categories: text, tabular, image, ...
    )
    feature: ClassVar[str] = ""  # the class of ``datasets`` that such a column of a release opens as: Image, Audio
    unsaid: ClassVar[int] = 0  # the version that no identity holds: rows were read by it before identities had versions
    drawn_whole: ClassVar[bool] = False  # ``draw`` says all that ``show`` does, so that a page needs one of them

    @abstractmethod
    def arrow(self, type: str) -> pa.DataType:
        """Of a field of this type inside the pipeline."""

    @abstractmethod
    def sniff(self, column: pa.ChunkedArray, name: str) -> tuple[str, float]:
        """(the type that a source's column seems to be, how sure, from 0 to 1)."""

    @abstractmethod
    def takes(self, kind: pa.DataType, type: str) -> bool:
        """Whether a source's column of plain values of that Arrow type can be a field of this type."""

    @abstractmethod
    def read(self, column: pa.ChunkedArray, type: str, limits: ReadLimits) -> tuple[pa.Array, list[str | None]]:
        """(values of ``arrow(type)``, why each row is refused; of several fields' reasons the one that sorts first counts)."""

    def release(self, values: pa.Array, kind: pa.DataType) -> pa.Array:
        """Generated values in the user's own type."""
        return values.cast(kind)

    @abstractmethod
    def id(self, columns: pa.Table) -> list[bytes]:
        """What copies of one row share, for row ids and erasure: library-free, and frozen for ever.

        Asked of refused rows too, whose values are what ``read`` gave, perhaps null: erased ones are not shown again.
        """

    @abstractmethod
    def equal(self, columns: pa.Table) -> list[bytes]:
        """What rows share that a reader would call the same: for relations, duplicates, and splits.

        Splits go by ``id`` where the kind has ``libraries``, whose next version may give other keys.
        """

    @abstractmethod
    def near(self, columns: pa.Table, threshold: float) -> NearIndex | None:
        """An index of these rows by similarity from ``threshold`` up; None: rows are equal or they are not."""

    @abstractmethod
    def load_near(self, directory: Path, name: str) -> NearIndex:
        """What ``NearIndex.save`` wrote. Never asked for where ``near`` gives None."""

    @abstractmethod
    def groups(self, columns: pa.Table, threshold: float) -> npt.NDArray[np.bool_]:
        """Of rows in order of priority those that stay: no row that stays stands before them and is equal or near."""

    def near_keys(self, columns: pa.Table, threshold: float) -> npt.NDArray[np.uint32]:
        """(rows, keys): two rows that ``groups`` finds near, and are not equal, share a key in one of the places, as others

        may; so that only rows that share one are looked at together. Never asked for where ``near`` gives None.
        """
        return np.zeros((columns.num_rows, 1), np.uint32)

    @abstractmethod
    def profile(self, columns: pa.Table) -> dict[str, Any]:
        """What these rows look like, as JSON, for drift, expectations and estimates."""

    @abstractmethod
    def drift(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
        """How far two profiles lie apart, each way of looking from 0 (alike) to 1 (nothing in common)."""

    @abstractmethod
    def expectations(self, field: str, max_null_share: float) -> list[dict[str, Any]]:
        """What Great Expectations holds of one field in passed rows: ``[{"type": ..., "kwargs": ...}]``."""

    @abstractmethod
    def features(self, train: pa.Table) -> Featurizer:
        """Learns from train rows how to turn rows into numbers."""

    @abstractmethod
    def show(self, columns: pa.Table) -> list[str]:
        """Each row in one line, for reports and messages; not escaped."""

    def draw(self, columns: pa.Table) -> list[str] | None:
        """Each row as HTML that reports set as it stands (a picture with its bytes in it); None: ``show`` says it all."""
        return None

    def similarities(self, made: pa.Table, real: pa.Table) -> Floats:
        """(made, real), 0 to 1: how alike rows are, for reports; 1 for equal ones and else 0 where a kind knows no more."""
        own, others = self.equal(made), self.equal(real)
        return np.array([[float(one == other) for other in others] for one in own]).reshape(len(own), len(others))

    def diversity(self, made: pa.Table, real: pa.Table) -> dict[str, float]:
        """How varied made rows are, and how far from real ones; reported, decides nothing."""
        return {}

    def sizes(self, columns: pa.Table) -> tuple[str, list[int]] | None:
        """(what is counted, such as ``characters``; of each row how many), for the report's histogram; None: nothing."""
        return None


# --- What is learnt: problems, and the metrics that a gate judges by -----------------------------------------------------


@dataclass(frozen=True)
class ReadTarget:
    """One value of the target's column. ``reason``: why its row is refused, or an empty text.

    ``stratum``: None where it is refused; ``said``: what the source calls it, None where that is no target at all;
    ``value``: for the column TARGET.
    """

    stratum: str | None
    value: Any
    reason: str
    said: str | None


class TargetReader(ABC):
    """Reads the target's column of one unit of the source, value by value."""

    coerced: int = 0  # values that were read as another type than they have, such as 3.0 as 3
    values: dict[
        str, Any
    ]  # stratum: its value in the user's own type; empty where the target itself stands in the rows
    limits: ReadLimits = ReadLimits(1 << 31)  # of one value; whoever reads a source sets those of the recipe

    @abstractmethod
    def read(self, value: Any) -> ReadTarget: ...


class Problem(ABC):
    """What is learnt from rows. A row's stratum is what targets, ledger and placebo count by."""

    VERSION: ClassVar[int]
    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = (ANY,)  # kinds of input that it serves
    types: ClassVar[tuple[str, ...]]  # what a recipe's ``columns.target`` may call its column
    target: ClassVar[pa.DataType | None] = None  # of the column TARGET; None: the stratum says it all
    answer: ClassVar[pa.DataType | None] = None  # of a prediction, where it has another type than the target
    fits_strata: ClassVar[bool] = False  # strata hang on data (bins): made with the fit, see ``fit_strata``
    strata_of_fields: ClassVar[bool] = False  # ``fit_strata`` is given the fields beside the column TARGET
    metric: ClassVar[str]  # that the gate judges by unless the recipe says
    metrics: ClassVar[tuple[str, ...]]  # that every gate measures and reports
    stratum_metric: ClassVar[str]  # measured on the rows of each stratum by themselves
    focus_metric: ClassVar[str | None] = None  # that can be of some strata alone (``gate.focus``)
    stratum_word: ClassVar[str] = "class"  # what people call a stratum
    remedies: ClassVar[Mapping[str, str]] = {}  # what to do about the reasons that ``TargetReader.read`` gives
    hub: ClassVar[str] = ""  # as the Hub's task categories end: classification, ...; or a whole one: object-detection
    unsaid: ClassVar[int] = 0  # as ``Kind.unsaid``

    @abstractmethod
    def reader(self, rules: Any) -> TargetReader:
        """``rules``: the recipe's section ``labels``."""

    def misfits(self, fields: pa.Table, values: Sequence[Any]) -> list[str | None]:
        """Why each row is refused whose target and fields do not go together (a box outside of its picture).

        ``fields``: of rows that are not refused otherwise; ``values``: of the column TARGET. An empty list: none is.
        """
        return []

    @abstractmethod
    def lacks(self, train: pa.Table) -> tuple[str, str] | None:
        """(what train rows lack for anything to be learnt, what to look at); None where they lack nothing."""

    def named(self, rules: Any) -> list[Any]:
        """Every name that the rules have for a target. ``rules``: as for ``reader``."""
        return []

    def least(self, rules: Any) -> int:
        """Train rows that each stratum needs."""
        return 0

    def stops(self, rules: Any) -> bool:
        """Whether a stratum with fewer train rows stops the run; else its rows leave."""
        return False

    def vanished(self, rules: Any, before: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
        """Strata that had rows enough to be trained on before, have none now, and should: the source is then unsound."""
        return []

    def doubts(
        self, rules: Any, said: set[str], counts: Mapping[str, int], several: tuple[int, int], kind: pa.DataType
    ) -> list[str]:
        """What is likely wrong with the targets, a sentence each with what to do.

        ``said``: what rows call theirs; ``counts``: rows by stratum; ``several``: equal rows under several strata, and
        how many rows they are; ``kind``: the type of the target's column.
        """
        return []

    def require_named(self, rules: Any, said: set[str], kind: pa.DataType) -> None:  # noqa: B027 - most name nothing
        """Raises DataError where the rules name what no row has, and should stop then."""

    def fit_strata(self, train: pa.Table) -> dict[str, Any]:
        """What ``stratum`` needs, as JSON, learnt from the column TARGET of train rows (see ``strata_of_fields``)."""
        return {}

    def stratum(self, target: pa.Array, fitted: Mapping[str, Any]) -> pa.Array:
        """The strata of real or made rows by their TARGET. ``fitted``: of ``fit_strata``; empty where none are fitted."""
        raise NotImplementedError

    def column(self, rows: pa.Table, values: Mapping[str, Any], kind: pa.DataType) -> pa.Array:
        """The target of rows in the user's own type. ``values``: as ``TargetReader.values``."""
        return rows[TARGET].combine_chunks().cast(kind)

    def tell(self, value: Any) -> str:
        """A target as people read it, in one line; not escaped. ``value``: of the column TARGET."""
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    def draw(self, drawn: str, fields: pa.Table, value: Any) -> str:
        """A row as reports show it (``Kind.draw``, HTML), with its target set into it, where that can be seen there.

        ``fields``: of that row alone; ``value``: of the column TARGET.
        """
        return drawn

    def stratum_named(self, name: str, known: Iterable[str]) -> str | None:
        """Which of the known strata the recipe means by a name; None: none of them."""
        return name if name in known else None

    def units(self, rows: pa.Table) -> pa.Array:
        """What is held out and drawn together: the row, or an image or a user where several rows are one."""
        return rows[ROW_ID]


@dataclass(frozen=True)
class Judged:
    """Held-out rows as one training predicted them.

    ``truth`` and ``predicted``: (rows,), places in ``classes`` (-1: none of them) where the stratum says all of the
    target, else values: numbers, or plain Python ones (dtype object) of ``Problem.target`` and of ``Problem.answer``;
    ``scores``: (rows, classes), where the trainer gives them, each column ranks the rows; ``units``:
    (rows,), each row's unit; ``count``: units in all.
    """

    truth: Any
    predicted: Any
    scores: Any
    units: Ints
    count: int
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Foresight:
    """What is assumed of a metric before anything is trained, in its values.

    ``deviation``: standard deviation of what a unit adds to the gain of one arm over another; ``step``: what a unit
    moves the value by, times the units; ``worth``: what ``gate.folds: auto`` takes for a point; ``words``: a sentence.
    """

    deviation: float
    step: float
    worth: float
    words: str


class Metric(ABC):
    """Maps weights of held-out units to a value, so that one bootstrap serves every metric."""

    name: ClassVar[str]
    title: ClassVar[str] = ""  # as people read it; empty: the name
    of_stratum: ClassVar[str] = ""  # what evidence calls it where it is of one stratum alone; empty: the name
    problems: ClassVar[tuple[str, ...]]
    better: ClassVar[Literal["more", "less"]] = "more"
    scale: ClassVar[float] = 100.0  # a value times this is in the unit that people read
    unit: ClassVar[str] = "points"  # ``{target}`` in it: the target's column
    needs_scores: ClassVar[bool] = False

    @abstractmethod
    def prepare(self, judged: Judged) -> Any:
        """All that does not hang on weights; once a training."""

    @abstractmethod
    def values(self, prepared: Any, weights: npt.NDArray[np.float32]) -> Floats:
        """``weights``: (resamples, units), how often each unit stands in each; returns (resamples,), unscaled.

        NaN where the units that stand in a resample say nothing of it.
        """

    def over_runs(self, prepared: Sequence[Any], weights: npt.NDArray[np.float32]) -> Floats:
        """``values`` of several trainings, (resamples, trainings); to be replaced where all at once are quicker."""
        return np.stack([self.values(each, weights) for each in prepared], axis=1)

    def one_unit(self, judged: Judged) -> float:
        """About what one unit moves the value by; the doubt of few units is made of it."""
        return 1 / max(judged.count, 1)

    def only(self, strata: tuple[str, ...]) -> Metric:
        """This metric over these of ``Judged.classes`` alone; asked of a problem's ``focus_metric``, as ``each`` is."""
        raise NotImplementedError

    def each(self, judged: Judged) -> Floats:
        """Of every class alone, (classes,)."""
        raise NotImplementedError

    def foresee(self, spread: float | None) -> Foresight | None:
        """``spread``: standard deviation of train rows' TARGET, where the problem has one. None: nothing is known."""
        return None


# --- What makes rows, and what refuses them -----------------------------------------------------------------------------


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
    # Under which equality a row must differ from its own parents (law 10): ``canonical`` is Kind.id, ``fold`` Kind.equal.
    normalisation: ClassVar[str] = "canonical"
    # Versions of these packages (major.minor) are part of the identity of fit and sampling.
    libraries: ClassVar[tuple[str, ...]] = ()
    # And of these where a recipe has fields of the kind, beside what the kind itself decodes with.
    kind_libraries: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    # What it serves: it makes all fields of these kinds (ANY: whatever they are), for these problems.
    kinds: ClassVar[tuple[str, ...]] = ("text",)
    problems: ClassVar[tuple[str, ...]] = ("classification",)

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
        """One row of ``kinds.candidate_schema(ctx.fields, ctx.target)`` per requested row, in order."""


class Check(ABC):
    """Refuses rows. ``fit`` measures the check on real rows first and writes ``check.json`` with at least

    ``{"abstains": bool, "real_refused": share of real rows it would refuse (cross-fitted), "why": text}``.
    """

    VERSION: ClassVar[int]
    Options: ClassVar[type[Any]]
    kinds: ClassVar[tuple[str, ...]] = ("text",)  # of which a row must have fields for the check to judge it; ANY: none
    problems: ClassVar[tuple[str, ...]] = ("classification",)
    always: ClassVar[bool] = True  # whether it judges where a recipe does not name it

    def __init__(self, options: Any) -> None:
        self.options = options

    def preflight(self, fields: tuple[str, ...]) -> None:  # noqa: B027 - most checks have nothing to look at
        """Raises UserError, within a moment, where the options name what a fit on these fields could not use."""

    @abstractmethod
    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Learns what real rows look like; returns file name -> local file (under ``ctx.workdir``)."""

    @abstractmethod
    def judge(self, fitted: Fitted, candidates: pa.Table, ctx: Context) -> pa.Table:
        """One row of ``VERDICT_SCHEMA`` per candidate, in order; a verdict depends on its own row alone."""
