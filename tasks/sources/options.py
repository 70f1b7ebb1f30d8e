"""What a source is, what is read from it, and the contract of a reader."""

from __future__ import annotations

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import pyarrow as pa

from augmill.tasks.contracts import MAX_FILE_BYTES

Format = str  # csv, jsonl, parquet, delta, or one of a reader from outside
Compression = Literal["none", "gzip", "zstd"]

# Marks a column of files, in the metadata of the field as a reader is asked for it: its values may be longer than texts.
FILES = {b"files": b"yes"}

# Why a row can be refused here; labels and texts are judged later, by the ingest stage.
REASONS: dict[str, str] = {
    "ragged": "a CSV record with more or fewer cells than the header",
    "bad_quoting": "a CSV record whose quotes do not pair",
    "bad_json": "a line that is not JSON",
    "not_an_object": "a line of JSON that is no object",
    "nested_value": "a list or object in a column that mostly holds plain values",
    "wrong_type": "a value that does not fit the column's type",
    "invalid_encoding": "bytes, or escapes, that are no text in the file's encoding",
    "nul": "a NUL character, where `nul: refuse_row`",
    "bom": "a stray U+FEFF inside a text, where `bom: refuse`",
    "cell_too_long": "a cell of more than `max_cell_bytes`",
    "no_such_file": "a name that is no file's beside the table",
    "outside_source": "a name that is absolute, or leads out of the source's directory",
    "file_too_large": "a picture or sound of more than `max_file_bytes`",
    "no_user": "an event that names no user",
    "no_item": "an event that names no item",
    "bad_time": "an event whose time is neither a number nor a moment",
    "bad_value": "an event whose value is no number",
    "too_few_events": "a user with fewer events than `events.min_events`",
    "bad_xml": "an XML file that is damaged, or has entities of its own",
    "bad_sample": "files that make no row: named twice, of a tar a link, or no text where one belongs",
}


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


_READY = "decides whether a night trusts the source, not what its rows are"


def _ready(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Ready:
    """When a partition of the source may be trusted; until then, and where it never is, the source is unsound."""

    marker: str | None = _ready(
        None, "a file, such as _SUCCESS, that appears beside the partition's files once they are all there"
    )
    min_rows: int = _ready(0, "least number of rows in the newest partition")
    max_drop: str | None = _ready(None, "how far its rows may fall below the median of the seven before, such as 50%")
    wait_until: str | None = _ready(None, 'wait for it until this time of day, such as "04:00" (schedule.timezone)')

    def __post_init__(self) -> None:
        if self.marker is not None and not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", self.marker):
            raise ValueError(f"marker: a plain file name such as _SUCCESS, found {self.marker!r}")
        if not 0 <= self.min_rows <= 10**12:
            raise ValueError("min_rows: at least 0")
        if self.max_drop is not None and not re.fullmatch(r"\d{1,2}%|100%", self.max_drop):
            raise ValueError(f"max_drop: a share such as 50%, found {self.max_drop!r}")
        if self.wait_until is not None and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", self.wait_until):
            raise ValueError(f'wait_until: a time of day such as "04:00", in quotes; found {self.wait_until!r}')

    @property
    def least_share(self) -> float:
        """Rows of the newest partition as a share of the median before it, at least."""
        return 0.0 if self.max_drop is None else 1 - int(self.max_drop[:-1]) / 100


@dataclass(frozen=True)
class EventColumns:
    """Which columns of events say who took what and when, and which users become rows (`format: events`)."""

    user: str = _option("user", "the column that names the user, a row's id")
    item: str = _option("item", "the column that names the item")
    time: str = _option("time", "the column of times: numbers or timestamps, the later the larger")
    value: str | None = _option(None, "the column of values, such as ratings; without it all events count")
    min_value: float | None = _option(None, "the least value that counts; null: every event does")
    min_events: int = _option(5, "a user with fewer events that count is refused")
    max_history: int = _option(200, "items of a history at most, the last ones")

    def __post_init__(self) -> None:
        if self.min_value is not None and self.value is None:
            raise ValueError("min_value: needs `value`, the column that it is of")
        if not 2 <= self.min_events <= 10_000:
            raise ValueError(
                f"min_events: between 2 (one to learn from, one to learn) and 10,000, found {self.min_events}"
            )
        if not 1 <= self.max_history <= 10_000:
            raise ValueError(f"max_history: between 1 and 10,000, found {self.max_history}")


@dataclass(frozen=True)
class SourceOptions:
    """Where labelled rows lie and how their files are read. Credentials come from the environment or the instance."""

    path: str = field(
        metadata={
            "help": "a file, glob, directory, or s3://, gs://, az:// address of one",
            "file": True,
            "identity": False,
            "why": "the content of the files counts, not where they lie",
        }
    )
    format: str = _option(
        "auto",
        "auto: decided by the file name; or csv, jsonl, parquet; delta: the path is the directory of a Delta table (extra "
        "`delta`); folder: a directory of pictures or sounds, a row a file (columns `file` and `label`, the directory in "
        "which it lies); webdataset: tars of samples, a column an extension; coco, voc: a directory of pictures with boxes, in a "
        "JSON or in an XML file each (columns `image` and `objects`); events: tables of who took what and when, a row a user "
        "(columns `user`, `history`, `next`); or a reader of your own",
    )
    version: int | None = field(
        default=None,
        metadata={
            "help": "version of a Delta table, by default the newest; provenance.json says which one was read",
            "identity": False,
            "why": "the files that the version names count",
        },
    )
    delimiter: str | None = _option(None, "separates the cells of a CSV; by default found from the first rows")
    quote: Literal['"', "'", "none"] = _option('"', "the quote around cells of a CSV; `none`: quotes are ordinary text")
    encoding: str = _option("auto", "auto, or a codec such as utf-8, gb18030, cp1252")
    compression: Literal["auto", "none", "gzip", "zstd"] = _option(
        "auto", "decided by file name and first bytes, or as given"
    )
    bom: Literal["strip", "keep", "refuse"] = _option(
        "strip", "what to do with a stray U+FEFF inside a text; `refuse` refuses the row"
    )
    nul: Literal["strip", "refuse_row"] = _option("strip", "what to do with a NUL character inside a text")
    hive: bool | Literal["auto"] = _option(
        "auto", "whether key=value directories become columns; true: there must be some"
    )
    ready: Ready = field(
        default_factory=Ready,
        metadata={"help": "when the newest partition may be trusted", "identity": False, "why": _READY},
    )
    max_cell_bytes: int = _option(1_000_000, "a row with a longer cell (UTF-8 bytes) is refused")
    skip_lines: int = field(
        default=0,
        metadata={"help": "lines above the header of a CSV (a title, the date of an export)", "later": True},
    )

    max_file_bytes: int = field(
        default=MAX_FILE_BYTES,
        metadata={"help": "a row with a larger picture or sound (bytes) is refused", "later": True},
    )
    events: EventColumns = field(
        default=EventColumns(), metadata={"help": "what the columns of `format: events` mean", "later": True}
    )

    dialogue: str | None = field(
        default=None,
        metadata={
            "help": "a column of dialogues, lists of turns with `role` and `content` or their JSON text, such as `messages`: "
            "the assistant's last turn is split off as a column `reply`, unless the source has one",
            "later": True,
        },
    )

    def __post_init__(self) -> None:
        if not self.path or "\x00" in self.path:
            raise ValueError(
                "path: expected a file, glob, directory or object store address, found an empty text or a NUL"
            )
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in "\r\n\x00 \"'\ufeff"):
            raise ValueError(f"delimiter: one character such as `,` `;` `|` or a tab, found {self.delimiter!r}")
        if self.version is not None and (not 0 <= self.version < 2**53 or self.format not in ("auto", "delta")):
            raise ValueError(f"version: of a Delta table, from 0; found {self.version} with format {self.format}")
        if not 0 <= self.skip_lines <= 1000:
            raise ValueError(f"skip_lines: between 0 and 1,000, found {self.skip_lines}")
        if not 1 <= self.max_cell_bytes <= 2**24:
            raise ValueError(f"max_cell_bytes: between 1 and {2**24} (16 MiB), found {self.max_cell_bytes}")
        if not 1 <= self.max_file_bytes <= 2**30:
            raise ValueError(f"max_file_bytes: between 1 and {2**30} (1 GiB), found {self.max_file_bytes}")
        if self.encoding != "auto":
            try:
                "a".encode(self.encoding).decode(codecs.lookup(self.encoding).name, "surrogateescape")
            except (LookupError, UnicodeError):  # also one that is not of text, such as zlib, or not of lines: punycode
                raise ValueError(f"encoding: there is no text codec {self.encoding!r}; auto finds one") from None


class Member(NamedTuple):
    """A file that is a value of a row. ``name``: as the row has it; ``stamp``: as SourceFile's.

    ``reason``: why it cannot be read, of ``REASONS``; then there is nothing else of it.
    """

    name: str
    uri: str
    size: int
    stamp: str
    reason: str = ""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, or a directory of files that are rows, called ``.`` in its own place.

    ``name`` is relative to the source's root, with ``/``; sizes are bytes as stored."""

    uri: str
    name: str
    format: Format
    compression: Compression
    size: int
    partition: dict[str, str] = field(default_factory=dict)
    stamp: str = ""  # changes when the file does (e_tag, or modification time and size); never content
    kept: bytes = b""  # a bit a row, the lowest first: 0 where a Delta table deleted it since; beyond the end all stand
    version: int | None = None  # of the Delta table
    members: tuple[Member, ...] = ()  # of a directory that is read as one; of a table the files that its rows name
    named: tuple[str, ...] = ()  # the columns whose texts name them
    parts: tuple[SourceFile, ...] = ()  # of files that are read as one: each as it is by itself


@dataclass(frozen=True)
class RefusedRow:
    """A row that could not be read. ``location`` is "line 12" or "row 3", from 1; ``reason`` is of ``REASONS``."""

    location: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Batch:
    """Rows in file order; ``locations[i]`` says where row i stands; ``repaired`` counts stripped characters' cells.

    ``names``: of a directory that is read as one the file that each row is.
    """

    table: pa.Table
    locations: pa.Array
    refused: list[RefusedRow]
    repaired: dict[str, int] = field(default_factory=dict)
    names: list[str] | None = None


class Reader(ABC):
    """Reads one format. A new one is a subclass, a line in ``SOURCES`` and its endings in ``files.FORMATS``; or from outside."""

    VERSION: ClassVar[int]  # counts up whenever the same file gives other rows
    noun: ClassVar[str]  # "line" or "row"

    @abstractmethod
    def columns(self, file: SourceFile, options: SourceOptions) -> list[str]:
        """Column names, read cheaply, in the file's order."""

    @abstractmethod
    def schema(self, files: Sequence[SourceFile], options: SourceOptions) -> pa.Schema:
        """The columns of all ``files`` together and one type for each. Raises DataError where types clash."""

    @abstractmethod
    def batches(self, file: SourceFile, options: SourceOptions, schema: pa.Schema) -> Iterator[Batch]:
        """The columns of ``schema`` that the file has, in those types; at least one batch, perhaps empty.

        Raises DataError where the file as a whole cannot be read.
        """

    @abstractmethod
    def sample(self, file: SourceFile, options: SourceOptions, count: int) -> list[dict[str, Any]]:
        """The first readable rows, at most ``count``."""
