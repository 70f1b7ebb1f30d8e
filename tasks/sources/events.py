"""Events (who took what, and when) read as histories: a row a user, the last item apart as what comes next.

The files are tables of their own formats, read in any order: a user's events are sorted by time, of one moment by the
item's name, and users by theirs. Of each event two codes and a moment are held, 16 bytes; names once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import Floats, Ints
from augmill.tasks.errors import DataError
from augmill.tasks.rows.kinds.table import NUMBER, TIMESTAMP, is_moment, micros, read_column

from .batching import BATCH_CELLS, BATCH_ROWS
from .guess import snaked
from .options import Batch, EventColumns, Reader, RefusedRow, SourceFile, SourceOptions

EVENTS = "events"
COLUMNS = ("user", "history", "next")
Mask = npt.NDArray[np.bool_]


def join_events(files: Sequence[SourceFile], path: str) -> SourceFile:
    """All files as one source file: a user's events may stand in several."""
    size = sum(file.size for file in files)
    if len(files) == 1:
        return SourceFile(files[0].uri, files[0].name, EVENTS, "none", size, parts=tuple(files))
    return SourceFile(path, ".", EVENTS, "none", size, parts=tuple(files))


class Events(Reader):
    """Columns ``user``, ``history`` (a list of items) and ``next``; whole numbers stay such, all else is text.

    Refused: ``no_user``, ``no_item``, ``bad_time``, ``bad_value`` (events), ``too_few_events`` (users).
    """

    VERSION = 1
    noun = "user"

    def columns(self, file: SourceFile, options: SourceOptions) -> list[str]:
        return list(COLUMNS)

    def schema(self, files: Sequence[SourceFile], options: SourceOptions) -> pa.Schema:
        parts = [part for file in files for part in file.parts]
        found, about = _scan(parts, options), options.events
        user, item = (_name_type(found.field(name), parts[0]) for name in (about.user, about.item))
        return pa.schema([("user", user), ("history", pa.list_(item)), ("next", item)])

    def batches(self, file: SourceFile, options: SourceOptions, schema: pa.Schema) -> Iterator[Batch]:
        whole = self.schema([file], options)
        held, about = _Held(), options.events
        for refused in _read(file, options, held):
            yield Batch(_select(whole.empty_table(), schema), pa.array([], pa.string()), refused)
        users, items = _EventNames(held.users), _EventNames(held.items)
        user, item, time = held.joined()
        order = np.lexsort((items.rank[item], time, users.rank[user]))
        counts = np.bincount(users.rank[user], minlength=len(held.users))
        ends = np.cumsum(counts)
        ranked = items.rank[item][order]
        longest = about.max_history + 1
        for part in _parts(np.minimum(counts, longest)):
            enough = np.flatnonzero(counts[part] >= about.min_events) + part.start
            few = np.flatnonzero(counts[part] < about.min_events) + part.start
            chosen = users.texts.take(pa.array(enough))
            taken = [ranked[max(ends[at] - counts[at], ends[at] - longest) : ends[at]] for at in enough.tolist()]
            table = _histories(chosen, taken, items.texts, whole)
            places = pc.binary_join_element_wise("user", chosen, " ")
            yield Batch(_select(table, schema), places, [_too_few(users, counts, at, about) for at in few.tolist()])

    def sample(self, file: SourceFile, options: SourceOptions, count: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for batch in self.batches(file, options, self.schema([file], options)):
            rows += batch.table.slice(0, count - len(rows)).to_pylist()
            if len(rows) >= count:
                break
        return rows


# --- Which tables are events: for ``augmill init`` -----------------------------------------------------------------------

_OF = r"(?:_?(?:id|code|no|number|name))?"
_ROLES = {  # what people call such columns, in snake case
    "user": rf"(?:u|user|customer|client|member|visitor|account|session|listener|reader|viewer|player|reviewer){_OF}|uid",
    "item": rf"(?:i|item|product|article|movie|film|book|song|track|artist|game|video|listing|business|offer){_OF}"
    r"|asin|sku|isbn|iid",
    "time": r"ts|(?:\w+_)?(?:timestamp|time|datetime|date|day|at)",
    "value": r"ratings?|scores?|stars|overall|values?|weights?|plays|counts?|quantity|amount",
}


def guess_events(names: Sequence[str]) -> EventColumns | None:
    """Where these columns are a user, an item, a time and at most a value, which is which; else None."""
    found: dict[str, Any] = {}
    for name in names:
        role = next((role for role, words in _ROLES.items() if re.fullmatch(words, snaked(name))), None)
        if role is None or role in found:
            return None
        found[role] = name
    if not {"user", "item", "time"} <= set(found):
        return None
    return EventColumns(found["user"], found["item"], found["time"], found.get("value"))


# --- What is held of all events -----------------------------------------------------------------------------------------


@dataclass
class _Held:
    """``users`` and ``items``: their codes by name, in order of first appearance."""

    users: dict[str, int] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    pieces: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Floats]] = field(default_factory=list)

    def add(self, user: pa.Array, item: pa.Array, time: Floats) -> None:
        self.pieces.append((_codes(user, self.users), _codes(item, self.items), time))

    def joined(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Floats]:
        empty = np.empty(0, np.int32)
        pieces = [(empty, empty, np.empty(0)), *self.pieces]
        self.pieces = []
        user, item, time = (np.concatenate(part) for part in zip(*pieces, strict=True))
        return user, item, time


def _codes(texts: pa.Array, known: dict[str, int]) -> npt.NDArray[np.int32]:
    encoded = texts.dictionary_encode()
    own = [known.setdefault(name, len(known)) for name in encoded.dictionary.to_pylist()]
    codes: npt.NDArray[np.int32] = np.array(own, np.int32)[encoded.indices.to_numpy()]
    return codes


class _EventNames:
    """``texts``: sorted; ``rank``: of each code its place among them."""

    def __init__(self, codes: dict[str, int]) -> None:
        ordered = sorted(codes)
        self.texts = pa.array(ordered, pa.string())
        self.rank = np.empty(len(codes), np.int64)
        self.rank[[codes[name] for name in ordered]] = np.arange(len(codes))


def _parts(sizes: Ints) -> Iterator[slice]:
    """Stretches of users who have together so many items that they fit into a batch, one user at least; one stretch, if

    empty, where there is no user.
    """
    start = held = 0
    for at, size in enumerate(sizes.tolist()):
        if at > start and (held + size > BATCH_CELLS or at - start >= BATCH_ROWS):
            yield slice(start, at)
            start, held = at, 0
        held += size
    yield slice(start, len(sizes))


def _histories(users: pa.Array, taken: list[Ints], names: pa.Array, schema: pa.Schema) -> pa.Table:
    """``taken``: places in ``names``, in order, the last one what comes next."""
    offsets = np.cumsum([0, *(len(items) - 1 for items in taken)], dtype=np.int32)
    before = np.concatenate([np.empty(0, np.int64), *(items[:-1] for items in taken)])
    after = np.array([items[-1] for items in taken], np.int64)
    item = schema.field("next").type
    lists = pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(before)).cast(item))
    columns = [users.cast(schema.field("user").type), lists, names.take(pa.array(after)).cast(item)]
    return pa.table(columns, schema=schema)


def _select(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return table.select(schema.names).cast(schema)


def _too_few(users: _EventNames, counts: Ints, at: int, about: EventColumns) -> RefusedRow:
    had = f"{counts[at]} {'event' if counts[at] == 1 else 'events'}"
    found = f"{had}, at least {about.min_events} are needed (source.events.min_events)"
    return RefusedRow(f"user {users.texts[at].as_py()}", "too_few_events", found)


# --- How events are read ------------------------------------------------------------------------------------------------


def _scan(parts: Sequence[SourceFile], options: SourceOptions) -> pa.Schema:
    """One type for each column of the events. Raises DataError where one that is named is not there."""
    from . import scan_schema

    found, about = scan_schema(parts, _of_parts(options)), options.events
    for key in ("user", "item", "time", "value"):
        name = getattr(about, key)
        if name is not None and name not in found.names:
            problem = f"there is no column {name!r} among those of the events: {', '.join(found.names[:20])}"
            raise DataError(problem, where=parts[0].uri, fix=f"correct source.events.{key}")
        if name is not None and pa.types.is_nested(found.field(name).type):
            problem = f"column {name!r} holds {found.field(name).type}: several values in a cell"
            raise DataError(problem, where=parts[0].uri, fix=f"name a column of single values (source.events.{key})")
    return found


def _of_parts(options: SourceOptions) -> SourceOptions:
    return replace(options, format="auto")


def _name_type(field: pa.Field, file: SourceFile) -> pa.DataType:
    """Of names of users or items."""
    kind = field.type
    if pa.types.is_integer(kind):
        return pa.uint64() if pa.types.is_uint64(kind) else pa.int64()  # hashes use all 64 bits
    if pa.types.is_string(kind) or pa.types.is_null(kind):
        return pa.string()
    fix = "name users and items by texts or whole numbers (source.events)"
    raise DataError(f"column {field.name!r} holds {kind}, which names nobody", where=file.uri, fix=fix)


def _read(file: SourceFile, options: SourceOptions, held: _Held) -> Iterator[list[RefusedRow]]:
    """Fills ``held`` with the events that count; what is refused of each batch."""
    from . import read_batches

    about, schema = options.events, _scan(file.parts, options)
    names = list(dict.fromkeys(n for n in (about.user, about.item, about.time, about.value) if n is not None))
    wanted = pa.schema([schema.field(name) for name in names])
    for part in file.parts:
        above = f"{part.name} " if len(file.parts) > 1 else ""
        for batch in read_batches(part, _of_parts(options), names, schema=wanted):
            bad = [replace(row, location=f"{above}{row.location}") for row in batch.refused]
            bad += _take(batch, about, above, held)
            if bad:
                yield bad


def _take(batch: Batch, about: EventColumns, above: str, held: _Held) -> list[RefusedRow]:
    table = batch.table
    user, item = (table[name].combine_chunks().cast(pa.string()) for name in (about.user, about.item))
    time, late = _moments(table[about.time])
    value, odd = (np.full(table.num_rows, np.inf), np.zeros(table.num_rows, np.bool_))
    if about.value is not None:
        numbers, reasons = read_column(table[about.value], NUMBER, 1000)
        value, odd = numbers.to_numpy(zero_copy_only=False), np.array([bool(why) for why in reasons], np.bool_)
    reasons_of = {"no_user": _blank(user), "no_item": _blank(item), "bad_time": late, "bad_value": odd}
    bad, refused = np.zeros(table.num_rows, np.bool_), list[RefusedRow]()
    for reason, mask in reasons_of.items():
        for at in np.flatnonzero(mask & ~bad).tolist():
            said = {"bad_time": about.time, "bad_value": about.value}.get(reason)
            value_there = None if said is None else table[said][at].as_py()
            detail = (
                "" if said is None else f"column {said!r}: {'' if value_there is None else str(value_there)[:60]!r}"
            )
            refused.append(RefusedRow(f"{above}{batch.locations[at].as_py()}", reason, detail))
        bad |= mask
    counts = ~bad if about.min_value is None else ~bad & (np.nan_to_num(value, nan=-np.inf) >= about.min_value)
    kept = pa.array(np.flatnonzero(counts))
    held.add(user.take(kept), item.take(kept), time[counts])
    return refused


def _blank(texts: pa.Array) -> Mask:
    return np.asarray(pc.fill_null(pc.equal(texts, ""), True).to_numpy(zero_copy_only=False))


def _moments(column: pa.ChunkedArray) -> tuple[Floats, Mask]:
    """(a number that is the larger, the later; which rows have none). Moments and texts of such in seconds since 1970."""
    if is_moment(column.type):
        since, missing = micros(read_column(column, TIMESTAMP, 1000)[0])
        return since / 1e6, missing
    found, reasons = read_column(column, NUMBER, 1000)
    time = found.to_numpy(zero_copy_only=False).astype(np.float64)
    if any(reasons):
        other, _ = read_column(column, TIMESTAMP, 1000)
        since, missing = micros(other)
        time = np.where(np.isnan(time) & ~missing, since / 1e6, time)
    return time, np.isnan(time)
