"""The recipe's sections that the spine owns, as frozen dataclasses. Options of extensions stand beside their extensions.

``metadata["help"]`` feeds docs/recipe.md and the comments that ``augmill init`` writes. A field that changes no row
carries ``identity: False`` with the reason; ``recipe.not_identity()`` lists them all in one table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from augmill.tasks.boundary.hosts import is_address
from augmill.tasks.boundary.retries import PATIENCE_SECONDS
from augmill.tasks.contracts import FIELD_NAMES
from augmill.tasks.rows.calendar import parse_clock
from augmill.tasks.rows.kinds import KINDS, field_of

Action = Literal["best_real", "keep_current", "fail"]


def option(default: Any, help: str, *, why_no_identity: str = "", file: bool = False, later: bool = False) -> Any:
    """A dataclass field with its help text; ``why_no_identity`` says why it changes no row.

    ``later``: it was added to a section that recipes have had, so that at its default it is no part of an identity.
    """
    metadata: dict[str, Any] = {"help": help, **({"later": True} if later else {})}
    if why_no_identity:
        metadata |= {"identity": False, "why": why_no_identity}
    if file:
        metadata["file"] = True
    return field(default=default, metadata=metadata)


def required(help: str) -> Any:
    return field(metadata={"help": help})


def check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Columns:
    """What each column holds: `inputs` and `target`, or their short form `text` and `label`."""

    text: str | tuple[str, ...] | None = option(None, "the text column; a list of columns for tasks on several texts")
    label: str | None = option(None, "the label column: strings, integers or booleans; it comes back in its own type")
    id: str | None = option(None, "a column of unique ids; without it a row's id is a hash of its inputs")
    group: str | None = option(None, "rows of one group are always in the same split (a customer, a document)")
    partition: str | None = option(
        None, "an ordered key, such as a date; `--as-of D` uses the rows up to and including D"
    )
    inputs: dict[str, str] | None = option(
        None, "the columns to learn from, each with its type: text, number, category, timestamp, items", later=True
    )
    target: dict[str, str] | None = option(
        None,
        "the column to learn, with its type: label (classification), number (regression), boxes (detection), text (text_to_text; "
        "of sounds transcription) or item (ranking)",
        later=True,
    )

    def __post_init__(self) -> None:
        for short, general in (("text", "inputs"), ("label", "target")):
            given = [name for name in (short, general) if getattr(self, name) is not None]
            check(bool(given), f"{short!r} is missing, or {general!r}: {{COLUMN: TYPE}}")
            check(len(given) == 1, f"{general}: {short} says the same; give one of the two")
        self._shorten()
        names = [*self.sources, self.answer]
        for name, type in (self.inputs or {}).items():
            problem = KINDS.problem_of(type)
            check(not problem, f"inputs: {name!r} is of no known type {type!r}; {problem}")
            several = ":" in type and len(KINDS[type].types) > 1
            check(not several, f"inputs: {type} has several types; name one by its package's entry point")
        texts = [type for type in self.types.values() if type == "text"]
        check(bool(self.sources), "inputs: at least one column")
        check(len(texts) <= len(FIELD_NAMES), f"text: between 1 and {len(FIELD_NAMES)} columns")
        check(self.target is None or len(self.target) == 1, "target: one column")
        check(len(set(names)) == len(names), f"a column is used twice: {', '.join(names)}")

    def _shorten(self) -> None:
        """Texts alone, and a label, are the same recipe in either form."""
        if self.inputs and set(self.inputs.values()) == {"text"}:
            names = tuple(self.inputs)
            object.__setattr__(self, "text", names[0] if len(names) == 1 else names)
            object.__setattr__(self, "inputs", None)
        if self.target is not None and list(self.target.values()) == ["label"]:
            object.__setattr__(self, "label", next(iter(self.target)))
            object.__setattr__(self, "target", None)

    @property
    def types(self) -> dict[str, str]:
        """The source's columns that are inputs, with their types."""
        if self.inputs is not None:
            return self.inputs
        return dict.fromkeys((self.text,) if isinstance(self.text, str) else tuple(self.text or ()), "text")

    @property
    def sources(self) -> tuple[str, ...]:
        """The names in the source of what are the fields inside the pipeline."""
        return tuple(self.types) if self.inputs is not None or not isinstance(self.text, tuple) else self.text

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the inputs inside the pipeline, in the order of ``sources``."""
        names = iter(FIELD_NAMES)
        return tuple(next(names) if type == "text" else field_of(type, name) for name, type in self._typed())

    def _typed(self) -> list[tuple[str, str]]:
        return [(name, self.types[name]) for name in self.sources]

    @property
    def answer(self) -> str:
        """The source's column that is learnt."""
        return self.label if self.label is not None else next(iter(self.target or {"": ""}))

    @property
    def answer_type(self) -> str:
        """What the recipe calls that column: ``label``, ``number``, ..."""
        return "label" if self.target is None else self.target[self.answer]

    @property
    def named(self) -> dict[str, str | None]:
        """Recipe key: the source's column that it names."""
        if self.inputs is not None:
            keys = {f"columns.inputs.{name}": name for name in self.inputs}
        else:
            many = len(self.sources) > 1
            keys = {f"columns.text{[at] if many else ''}": name for at, name in enumerate(self.sources)}
        keys["columns.label" if self.label is not None else f"columns.target.{self.answer}"] = self.answer
        return {**keys, "columns.id": self.id, "columns.group": self.group, "columns.partition": self.partition}


@dataclass(frozen=True)
class Refuse:
    """When the source itself is refused."""

    max_share: float = option(0.05, "a larger share of refused source rows stops the run before any generation")
    max_chars: int = option(20_000, "a text longer than this is refused")
    conflicts: Literal["keep", "majority", "drop"] = option(
        "keep",
        "equal rows under several labels: keep them all; keep those of the label that most of them have (none"
        " in a tie); or drop them all",
        later=True,
    )

    def __post_init__(self) -> None:
        check(0 <= self.max_share <= 1, "max_share: a share between 0 and 1")
        check(0 < self.max_chars <= 2**24, "max_chars: between 1 and 2**24")


@dataclass(frozen=True)
class Splits:
    """Which rows train and which judge: by a hash of the text, unless the source says."""

    column: str | None = option(None, "a column that names each row's split")
    files: dict[str, str] = field(
        default_factory=dict, metadata={"help": "split: file name pattern, if each split has its own files"}
    )
    names: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "value in `column`: split, if the values are not train, validation and test"},
    )
    validation: float = option(0.15, "share of rows that judge the mix (read once, by the gate)")
    test: float = option(0.15, "share of rows that are only reported")
    seed: int = option(0, "a row's split is a hash of this seed and its text or group")
    near: float = option(
        0.8,
        "a train row this similar to a held-out row leaves train (texts: Jaccard of character 5-grams; pictures: "
        "1 - 4 (1 - cosine) once one is laid over the other)",
    )
    heldout_exclude: tuple[str, ...] = option((), "files whose texts no training row may repeat", file=True)

    def __post_init__(self) -> None:
        check(self.validation > 0 and self.test >= 0, "validation must be positive and test not negative")
        check(self.validation + self.test <= 0.9, "validation and test leave less than a tenth for train")
        check(0 <= self.seed < 2**63, "seed: between 0 and 2**63 - 1")
        check(0.5 <= self.near <= 1, "near: a similarity between 0.5 and 1")
        check(not (self.column and self.files), "column and files contradict each other: give one")
        known = {"train", "validation", "test"}
        for name in [*self.files, *self.names.values()]:
            check(name in known, f"{name!r} is not a split; splits are train, validation and test")
        check(not self.files or "train" in self.files, "files: a pattern for train is needed")

    @property
    def given(self) -> bool:
        return bool(self.column or self.files)


@dataclass(frozen=True)
class Target:
    """How many *accepted* rows each class should get. Give one of the three."""

    per_class: int | None = option(None, "this many accepted rows in each class")
    multiply: float | None = option(None, "real and accepted rows together are this many times the real ones")
    balance: Literal["max"] | int | None = option(None, "fill every class up to the largest one, or to this number")

    def __post_init__(self) -> None:
        given = [value for value in (self.per_class, self.multiply, self.balance) if value is not None]
        check(len(given) == 1, f"give exactly one of per_class, multiply and balance; found {len(given)}")
        check(self.per_class is None or 0 < self.per_class <= 10_000_000, "per_class: between 1 and 10,000,000")
        check(self.multiply is None or 1 < self.multiply <= 1000, "multiply: more than 1, at most 1000")
        check(not isinstance(self.balance, int) or 0 < self.balance <= 10_000_000, "balance: between 1 and 10,000,000")


@dataclass(frozen=True)
class Refill:
    """Rounds of generation until every class has its target or these bounds end it.

    A generator is not asked again for a class where 30 rows in a row gave nothing new and sound, or as many as should
    have given three by its share before.
    """

    max_rounds: int = option(6, "maximum number of rounds")
    max_asked: float = option(20.0, "maximum number of rows asked for per class, as a multiple of its target")
    on_shortfall: Literal["publish", "refuse"] = option("publish", "what happens when a class cannot be filled")

    def __post_init__(self) -> None:
        check(1 <= self.max_rounds <= 100, "max_rounds: between 1 and 100")
        check(1 <= self.max_asked <= 1000, "max_asked: between 1 and 1000")


@dataclass(frozen=True)
class Settle:
    """How accepted rows are chosen among those that passed."""

    near: float = option(0.95, "two accepted rows this similar are duplicates; the better one is kept")
    prefer: Literal["score", "first"] = option(
        "score", "if more rows pass than are needed: keep those the label check is surest of, or the first ones"
    )

    def __post_init__(self) -> None:
        check(0.5 <= self.near <= 1, "near: a similarity between 0.5 and 1")


@dataclass(frozen=True)
class Mix:
    """How accepted and real rows are combined."""

    max_ratio: float | None = option(None, "maximum number of synthetic rows per real row, over all classes")
    synthetic_weight: float = option(1.0, "weight of a synthetic row; a real row weighs 1")
    # At 10 rows a class and 4 times as many added, a weight of 0.3 gained on 1 (points on test rows, 5 seeds, 2 of the last
    # two): TREC 0.7, SST-2 0.1, TNEWS 0.7, phrasebank 0.8, BANKING77 0.8, CLINC150 0.2; SNIPS lost 0.2.
    pseudo_labelled_weight: float = option(
        0.3, "weight of a real row whose label a teacher found (`self_training`); such labels are wrong more often"
    )
    order: Literal["shuffled", "alternating"] = option(
        "shuffled", "reading order: all rows shuffled in each epoch, or epochs of part real, part synthetic rows"
    )
    synthetic_share: float = option(0.5, "alternating: the share of synthetic rows in an epoch")
    epochs: int = option(1, "how many epochs order.parquet holds")

    def __post_init__(self) -> None:
        check(self.max_ratio is None or 0 < self.max_ratio <= 1000, "max_ratio: more than 0, at most 1000")
        for name in ("synthetic_weight", "pseudo_labelled_weight"):
            check(0 < getattr(self, name) <= 100, f"{name}: more than 0, at most 100")
        check(0 < self.synthetic_share < 1, "synthetic_share: between 0 and 1")
        check(1 <= self.epochs <= 1000, "epochs: between 1 and 1000")


@dataclass(frozen=True)
class Outcomes:
    """What is released if the mix is not (DESIGN, law 9)."""

    harmful: Action = option("best_real", "the mix is measurably worse", why_no_identity="decides what is published")
    inconclusive: Action = option("best_real", "no proof either way", why_no_identity="decides what is published")
    not_produced: Action = option(
        "best_real", "generation failed or ran out of time", why_no_identity="decides what is published"
    )
    unsound_source: Literal["keep_current", "fail"] = option(
        "keep_current", "the source cannot be trusted", why_no_identity="decides what is published"
    )


_COPY = "the same rows, in another table as well"


@dataclass(frozen=True)
class Publish:
    """What a release looks like."""

    prefix: str = option(
        "aug_", "prefix of the columns Augmill adds; a prefix that clashes with your columns is refused"
    )
    copy: tuple[str, ...] = option((), "columns that a synthetic row copies from its first parent; the others are null")
    format: Literal["parquet", "delta"] = option(
        "parquet", "delta: each release is also a version of a Delta table (extra `delta`)", why_no_identity=_COPY
    )
    export: tuple[Literal["coco", "imagefolder", "audiofolder", "webdataset"], ...] = option(
        (),
        "layouts of other tools in which a release's pictures or sounds stand too: coco (boxes), imagefolder and "
        "audiofolder (labels), webdataset (tars)",
        later=True,
    )

    def __post_init__(self) -> None:
        check(bool(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", self.prefix)), "prefix: letters, digits and underscores")
        check(self.prefix != "_", "prefix: `_row_id` is a reserved column of Iceberg v3")
        check(len(set(self.export)) == len(self.export), "export: a layout is listed twice")
        object.__setattr__(self, "export", tuple(sorted(self.export)))  # their order changes nothing


@dataclass(frozen=True)
class Report:
    """Where people read the reports. They show rows, so Augmill itself serves them to nobody."""

    url: str | None = option(
        None,
        "the address under which the store's private/reports are served, such as "
        "https://reports.example.org/augmill; the Prefect artifact links to it",
        why_no_identity="where the report is read, not what it says",
    )

    def __post_init__(self) -> None:
        if self.url is None:
            return
        check(is_address(self.url), "url: an address that begins with http:// or https://, percent-encoded")
        check(
            "@" not in urlsplit(self.url).netloc, "url: must hold no user or password; anyone who sees a run sees them"
        )
        check(not set("?#") & set(self.url), "url: must hold no query or fragment; the report's own path follows it")


def report_link(url: str, prefix: str) -> str:
    """The address of the page that stands under ``prefix`` in the store, such as private/reports/tickets/2026-11-24-1f.

    ``url``: as in ``Report``. Percent-encoded, parentheses too, which would end a link in Markdown.
    """
    path = f"{url.rstrip('/')}/{quote(prefix.removeprefix('private/reports/'), safe='/')}/index.html"
    return path.replace("(", "%28").replace(")", "%29")


_RUN = "where and how fast, not what is made"
_WEEK = 10_080.0  # minutes


FIRST_ROWS = 2_000


@dataclass(frozen=True)
class RunOptions:
    """Where and how fast it runs. Nothing here changes a row."""

    store: str = option(
        "augmill-store",
        "a directory (a relative path starts at the recipe), or s3://, gs:// or az://",
        why_no_identity=_RUN,
    )
    orchestrator: Literal["prefect", "none"] = option(
        "prefect", "none: the same tasks without Prefect, for other schedulers", why_no_identity=_RUN
    )
    shard_rows: int = option(
        0,
        "maximum rows per shard; 0: 2,000, and more of those generators that make and judge so many in less than 10 s",
        why_no_identity=_RUN,
    )
    devices: tuple[str, ...] = option(
        (), "cpu, cuda:0, ...; empty: every CUDA device, or the CPU", why_no_identity=_RUN
    )
    workers: int = option(
        0,
        "worker processes; 0: one per device, or one per core (8 at most) where no generator runs a model",
        why_no_identity=_RUN,
    )
    threads: int = option(2, "threads that a fit is pinned to; part of a trained model's identity")
    shard_minutes: float = option(30.0, "a shard that takes longer is killed and tried again", why_no_identity=_RUN)
    shard_retries: int = option(2, "how often a shard is tried again after a cause that may pass", why_no_identity=_RUN)
    stage_minutes: float = option(
        360.0, "a fit, an evaluation or any other stage is stopped if it takes longer", why_no_identity=_RUN
    )
    deadline_minutes: float | None = option(
        None, "a run that is still generating after this long ends as not_produced", why_no_identity=_RUN
    )
    deadline: str | None = option(
        None, 'the same as a time of day, such as "05:30", in schedule.timezone', why_no_identity=_RUN
    )
    max_failed_shards: float = option(
        0.1, "a larger share of failed shards in a round ends generation", why_no_identity=_RUN
    )

    store_patience: float = option(
        PATIENCE_SECONDS,
        "how many seconds to keep asking a store or a source that does not answer",
        why_no_identity=_RUN,
    )

    @property
    def first_rows(self) -> int:
        """Rows of a shard before anything is known of its generator's pace."""
        return self.shard_rows or FIRST_ROWS

    def __post_init__(self) -> None:
        check(0 <= self.store_patience <= 86_400, "store_patience: between 0 and 86,400 seconds")
        check(0 <= self.shard_rows <= 10_000_000, "shard_rows: between 0 and 10,000,000")
        check(0 <= self.workers <= 256, "workers: between 0 and 256")
        check(1 <= self.threads <= 256, "threads: between 1 and 256")
        check(0 <= self.shard_retries <= 100, "shard_retries: between 0 and 100")
        for name in ("shard_minutes", "stage_minutes"):
            check(0 < getattr(self, name) <= _WEEK, f"{name}: more than 0, at most a week (10,080)")
        limit = self.deadline_minutes
        check(limit is None or 0 < limit <= _WEEK, "deadline_minutes: more than 0, at most a week (10,080)")
        if self.deadline is not None:
            try:
                parse_clock(self.deadline)
            except ValueError as error:
                raise ValueError(f"deadline: {error}") from error
        check(0 <= self.max_failed_shards <= 1, "max_failed_shards: a share between 0 and 1")
        for device in self.devices:
            check(bool(re.fullmatch(r"cpu|mps|cuda(:\d+)?", device)), f"devices: {device!r} is not cpu or cuda:N")


# --- The recipe's section on how a class's target is split over its generators ----------------------------------------


@dataclass(frozen=True)
class Plan:
    """How a class's target is split over several generators."""

    policy: Literal["shares", "adaptive"] = option(
        "shares",
        "shares: by each generator's `share`; adaptive: round by round, by what passed the checks and what "
        "helped on parts of train that the measuring classifier did not see",
    )
    explore: float = option(
        0.25, "adaptive: the part of each target that the first round asks for, split by `share`, to learn from"
    )
    rounds: int = option(
        3, "adaptive: rounds until the whole target is asked for; weights are measured between them and then stay"
    )
    floor: float = option(
        0.1, "adaptive: the part of each target that is always split by `share`, so that no generator is starved"
    )
    seeds: int = option(3, "adaptive: trainings per generator and part of train, each with its own draw of rows")

    def __post_init__(self) -> None:
        check(0 < self.explore < 1, "explore: a share between 0 and 1")
        check(2 <= self.rounds <= 100, "rounds: between 2 and 100")
        check(0 < self.floor <= 1, "floor: more than 0, at most 1")
        check(2 <= self.seeds <= 100, "seeds: between 2 and 100")
