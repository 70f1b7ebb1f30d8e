"""Events read as histories: equal to the plain definition, whatever the files' order, formats and dirt."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import put

from augmill.tasks.errors import DataError
from augmill.tasks.sources import Batch, SourceOptions, list_files, read_batches, scan_schema
from augmill.tasks.sources.events import guess_events
from augmill.tasks.sources.options import EventColumns
from augmill.tasks.stages.partitions import hash_files
from augmill.testing import SOURCE_LAWS, SourceBench

Event = tuple[str, str, float, float | None]  # user, item, time, value
ABOUT = EventColumns(min_events=2)


def options_of(path: Path, about: EventColumns = ABOUT, **more: Any) -> SourceOptions:
    return SourceOptions(path=str(path), format="events", events=about, **more)


def read_all(options: SourceOptions) -> list[Batch]:
    (file,) = list_files(options)
    return list(read_batches(file, options))


def rows_of(batches: list[Batch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.table.to_pylist()]


def refused(batches: list[Batch]) -> list[tuple[str, str]]:
    return [(row.location, row.reason) for batch in batches for row in batch.refused]


def as_csv(events: list[Event]) -> str:
    return "user,item,time,value\n" + "".join(f"{u},{i},{t:g},{'' if v is None else v}\n" for u, i, t, v in events)


def plainly(events: list[Event], about: EventColumns) -> tuple[list[dict[str, Any]], set[str]]:
    """(the rows, the users that are refused): the definition that the reader has to equal."""
    by: dict[str, list[tuple[float, str]]] = {}
    for user, item, time, value in events:
        if about.min_value is None or (value is not None and value >= about.min_value):
            by.setdefault(user, []).append((time, item))
    rows = []
    for user in sorted(by):
        items = [item for _, item in sorted(by[user])]
        if len(items) >= about.min_events:
            rows.append({"user": user, "history": items[:-1][-about.max_history :], "next": items[-1]})
    return rows, {user for user, own in by.items() if len(own) < about.min_events}


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["u", "v", "w", "ü"]),
        st.sampled_from(["a", "b", "c", "10", "9"]),
        st.integers(-3, 3).map(float),
        st.one_of(st.none(), st.integers(0, 5).map(float)),
    ),
    min_size=1,
    max_size=25,
)


@given(EVENTS, st.integers(2, 4), st.integers(1, 3), st.sampled_from([None, 3.0]), st.integers(1, 3))
def test_histories_are_those_of_the_plain_definition(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[Event],
    least: int,
    longest: int,
    value: float | None,
    files: int,
) -> None:
    about = EventColumns(min_events=least, max_history=longest, value="value", min_value=value)
    folder = tmp_path_factory.mktemp("events")
    for at in range(files):
        put(folder / f"{at}.csv", as_csv(events[at::files]))
    batches = read_all(options_of(folder, about))
    rows, few = plainly(events, about)
    assert rows_of(batches) == rows
    assert refused(batches) == [(f"user {user}", "too_few_events") for user in sorted(few)]


@pytest.mark.parametrize("law", SOURCE_LAWS, ids=lambda law: law.__name__)
def test_events_keep_the_laws_of_readers(tmp_path: Path, law: Callable[[SourceBench], None]) -> None:
    events = [(f"u{at}", f"i{at + step}", float(step), None) for at in range(9) for step in range(3 + at % 4 + 2)]
    put(tmp_path / "e.csv", as_csv(events))
    law(SourceBench("events", tmp_path / "e.csv", plainly(events, EventColumns())[0]))


def test_the_order_of_events_and_files_changes_nothing_and_formats_agree(tmp_path: Path) -> None:
    events: list[Event] = [(f"u{at % 7}", str(at * 7 % 11), float(at % 5), None) for at in range(60)]
    put(tmp_path / "one" / "e.csv.gz", gzip.compress(as_csv(events).encode()))
    shuffled = random.Random(1).sample(events, len(events))
    names = ("user", "item", "time")
    lines = [json.dumps(dict(zip(names, event, strict=False))) + "\n" for event in shuffled]
    put(tmp_path / "two" / "b.jsonl", "".join(lines[:20]))
    put(tmp_path / "two" / "a.jsonl", "".join(lines[20:]))
    first, second = (read_all(options_of(tmp_path / name)) for name in ("one", "two"))
    assert rows_of(first) == rows_of(second) == plainly(events, ABOUT)[0]


def test_whole_numbers_stay_such_and_moments_are_times(tmp_path: Path) -> None:
    when = [datetime(2026, 1, day, tzinfo=UTC) for day in (3, 1, 2)]
    table = pa.table({"user": [7, 7, 7], "item": pa.array([30, 10, 20], pa.int32()), "time": when})
    pq.write_table(table, tmp_path / "e.parquet")
    options = options_of(tmp_path / "e.parquet")
    assert rows_of(read_all(options)) == [{"user": 7, "history": [10, 20], "next": 30}]
    assert scan_schema(list_files(options), options).field("history").type == pa.list_(pa.int64())


def test_days_as_text_and_numbers_as_text_are_times(tmp_path: Path) -> None:
    put(tmp_path / "e.csv", "user,item,time\na,x,2026-01-02\na,y,2026-01-01T10:00:00\na,z,1e9\n")
    assert rows_of(read_all(options_of(tmp_path / "e.csv"))) == [{"user": "a", "history": ["z", "y"], "next": "x"}]


def test_a_bad_event_is_refused_with_its_place_and_the_others_stay(tmp_path: Path) -> None:
    lines = ["a,x,1,3", ",x,1,3", "a,,2,3", "a,y,soon,3", "a,y,,3", "a,y,4,many", "a,z,5,", "a,w,6,4", "a"]
    put(tmp_path / "e.csv", "user,item,time,value\n" + "\n".join(lines) + "\n")
    batches = read_all(options_of(tmp_path / "e.csv", EventColumns(value="value", min_value=3, min_events=2)))
    assert rows_of(batches) == [{"user": "a", "history": ["x"], "next": "w"}]
    assert sorted(refused(batches)) == [
        ("line 10", "ragged"),
        ("line 3", "no_user"),
        ("line 4", "no_item"),
        ("line 5", "bad_time"),
        ("line 6", "bad_time"),
        ("line 7", "bad_value"),
    ]


def test_a_source_without_a_user_who_did_enough_is_empty_with_the_reasons(tmp_path: Path) -> None:
    put(tmp_path / "e.csv", "user,item,time\na,x,1\nb,x,1\n")
    batches = read_all(options_of(tmp_path / "e.csv"))
    assert rows_of(batches) == [] and refused(batches) == [("user a", "too_few_events"), ("user b", "too_few_events")]


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    put(tmp_path / "e.csv", "who,item,time\na,x,1\n")
    with pytest.raises(DataError, match=r"there is no column 'user' among those of the events: who, item, time"):
        read_all(options_of(tmp_path / "e.csv"))


def test_fractions_name_nobody(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": [1.5], "item": ["a"], "time": [1]}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match="column 'user' holds double, which names nobody"):
        read_all(options_of(tmp_path / "e.parquet"))


def test_items_named_by_hashes_of_64_bits_stay_whole_numbers(tmp_path: Path) -> None:
    items = pa.array([2**64 - 1, 5], pa.uint64())
    pq.write_table(pa.table({"user": ["a", "a"], "item": items, "time": [1, 2]}), tmp_path / "e.parquet")
    assert rows_of(read_all(options_of(tmp_path / "e.parquet"))) == [{"user": "a", "history": [2**64 - 1], "next": 5}]


def test_several_values_in_a_cell_are_no_time(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": ["a"], "item": ["x"], "time": [[1, 2]]}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"column 'time' holds list<.*>: several values in a cell"):
        read_all(options_of(tmp_path / "e.parquet"))


def test_a_time_that_is_not_there_is_shown_as_nothing(tmp_path: Path) -> None:
    put(tmp_path / "e.csv", "user,item,time\na,x,\n")
    (row,) = (row for batch in read_all(options_of(tmp_path / "e.csv")) for row in batch.refused)
    assert (row.reason, row.detail) == ("bad_time", "column 'time': ''")


def test_what_is_in_each_file_is_identity_and_where_it_lies_is_not(tmp_path: Path) -> None:
    def identity(name: str, second: str) -> list[str]:
        put(tmp_path / name / "a.csv", "user,item,time\na,x,1\n")
        put(tmp_path / name / "b.csv", second)
        options = options_of(tmp_path / name)
        files = list_files(options)
        return [hash_files(files, files, options, None, "d")[file.uri] for file in files]

    one, same = (identity(name, "user,item,time\na,y,2\n") for name in ("one", "same"))
    assert one == same != identity("other", "user,item,time\na,y,3\n")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["userId", "movieId", "rating", "timestamp"], ("userId", "movieId", "timestamp", "rating")),
        (["visitor_id", "sku", "event_time"], ("visitor_id", "sku", "event_time", None)),
        (["userId", "movieId", "tag", "timestamp"], None),  # a tag is neither
        (["user", "item"], None),
        (["user", "customer", "item", "time"], None),  # two that could be it
        (["text", "label"], None),
    ],
)  # fmt: skip
def test_events_are_known_by_the_names_of_all_columns(names: list[str], found: tuple[str, ...] | None) -> None:
    about = guess_events(names)
    assert (None if about is None else (about.user, about.item, about.time, about.value)) == found


def test_options_out_of_bounds_name_themselves() -> None:
    for wrong in ({"min_events": 1}, {"max_history": 0}, {"min_value": 3.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EventColumns(**wrong)  # type: ignore[arg-type]
