"""A snapshot's rows hang on the rows up to its day alone: not on their files, later rows, the window or other nights."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from partitioned import DATED, Nights, Row, labelled, write_day

import augmill.tasks.stages.gather as gathering
import augmill.tasks.stages.ingest as ingesting
from augmill.flows.nights.states import snapshots_of
from augmill.flows.units import read_units, source_view
from augmill.tasks.errors import DataError, UnsoundSource, UserError
from augmill.tasks.rows import calendar
from augmill.tasks.stages import partitions
from augmill.tasks.stages.gather import unify_units
from augmill.tasks.stages.ingest import ingest, prepare_ingest

DAYS = [f"2026-10-{day:02}" for day in range(1, 7)]
rows_of_days = st.lists(
    st.tuples(st.sampled_from(DAYS), st.sampled_from(["x", "y", " x ", "z w"]), st.sampled_from(["a", "b", "c"])),
    min_size=1,
    max_size=12,
)
CONFLICTS = ["keep", "majority", "drop"]
Drawn = list[tuple[str, str, str]]


def lay_out(directory: Path, drawn: Drawn, how: str) -> Nights:
    """The same rows in directories of days, in files named by the day, in one file, or cut into files anyhow."""
    by_day: dict[str, list[Row]] = {}
    for day, text, label in drawn:
        by_day.setdefault(day, []).append({"text": text, "label": label})
    if how == "pattern":
        partitions = {"every": "day", "pattern": r"log-(\d{8})\."}
        nights = Nights(directory, partitions=partitions, columns={"text": "text", "label": "label"})
        for day, rows in by_day.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (nights.source / f"log-{day.replace('-', '')}.jsonl").write_text(lines)
        return nights
    nights = Nights(directory)
    if how == "hive":
        for day, rows in by_day.items():
            write_day(nights.source, day, rows)
        return nights
    lines = [json.dumps({"text": t, "label": label, "day": day}) + "\n" for day, t, label in drawn]
    cut = len(lines) if how == "one file" else 1 + len(lines) // 3
    for at in range(0, len(lines), cut):
        (nights.source / f"{at:03}.jsonl").write_text("".join(lines[at : at + cut]))
    return nights


def seen(rows: list[Row]) -> list[tuple[str, ...]]:
    return [(row["row_id"], row["partition"], row["text"], row["stratum"]) for row in rows]


FEW = settings(max_examples=6, phases=[Phase.generate])  # each lays sources out; to shrink one takes minutes


@FEW
@given(drawn=rows_of_days, as_of=st.sampled_from([None, *DAYS[2:]]))
def test_rows_and_ids_are_the_same_however_the_rows_lie_in_files(
    tmp_path_factory: pytest.TempPathFactory, drawn: Drawn, as_of: str | None
) -> None:
    drawn = [(DAYS[0], "first", "a"), *drawn]
    found = []
    for how in ("hive", "pattern", "one file", "files"):
        found.append(seen(lay_out(tmp_path_factory.mktemp("in"), drawn, how).rows(as_of)))
    expected = sorted(((day, t, label) for day, t, label in drawn if as_of is None or day <= as_of), key=lambda r: r[0])
    assert found == [found[0]] * 4
    assert [row[1:] for row in found[0]] == expected
    assert len({row[0] for row in found[0]}) == len(expected)


@FEW
@given(drawn=rows_of_days, later=rows_of_days, how=st.sampled_from(["hive", "pattern", "one file", "files"]))
def test_nothing_after_a_day_changes_its_snapshot(
    tmp_path_factory: pytest.TempPathFactory, drawn: Drawn, later: Drawn, how: str
) -> None:
    drawn = [("2026-10-01", "first", "b"), *drawn]
    after = [(day.replace("-10-", "-11-"), text, f"new {label}") for day, text, label in later]
    before = lay_out(tmp_path_factory.mktemp("in"), drawn, how).gathered("2026-10-06")
    # In one file the later rows stand first; in several they are cut elsewhere.
    with_later = after + drawn if how == "one file" else drawn + after
    assert lay_out(tmp_path_factory.mktemp("in"), with_later, how).gathered("2026-10-06").content == before.content


@FEW
@given(drawn=rows_of_days)
def test_a_window_that_moves_shifts_no_id_of_row_or_label(
    tmp_path_factory: pytest.TempPathFactory, drawn: Drawn
) -> None:
    drawn += [(day, "common", "a") for day in DAYS]
    everything = lay_out(tmp_path_factory.mktemp("in"), drawn, "hive")
    narrow = lay_out(tmp_path_factory.mktemp("in"), drawn, "hive")
    narrow.document |= {"partitions": {"every": "day", "window": "2d"}}
    for at, day in list(enumerate(DAYS))[1::2]:
        inside = [row for row in seen(everything.rows(day)) if row[1] in DAYS[max(0, at - 1) : at + 1]]
        assert seen(narrow.rows(day)) == inside
        wide, small = (each.work.read_json(each.gathered(day), "labels.json") for each in (everything, narrow))
        assert small == wide


@settings(max_examples=3, phases=[Phase.generate])
@given(drawn=rows_of_days, how=st.sampled_from(["one file", "files", "hive"]), conflicts=st.sampled_from(CONFLICTS))
def test_where_parts_are_cut_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, drawn: Drawn, how: str, conflicts: str
) -> None:
    drawn = [(DAYS[5], "x", "a"), *drawn, (DAYS[0], " x ", "b"), (DAYS[0], "x", "b"), (DAYS[0], "said once", "a")]
    found = []
    for rows in (gathering.PART_ROWS, 1, 3):
        nights = lay_out(tmp_path_factory.mktemp("in"), drawn, how)
        nights.document |= {"refuse": {"max_share": 1.0, "conflicts": conflicts}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gathering, "PART_ROWS", rows)
            found.append((nights.rows(), nights.refused(), nights.gathered().content))
    assert found == [found[0]] * 3


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_occurrences_are_counted_in_the_order_of_rows(drawn: list[tuple[int, int]]) -> None:
    seen = Counter[tuple[int, int]]()
    counted = []
    for digest in drawn:
        seen[digest] += 1
        counted.append(seen[digest])
    assert gathering._occurrences(np.array(drawn, np.uint64).reshape(-1, 2)).tolist() == counted


def test_label_ids_are_in_order_of_first_appearance_by_partition(tmp_path: Path) -> None:
    drawn = [("2026-10-02", "x", "late"), ("2026-10-01", "y", "early"), ("2026-10-03", "z", "last")]
    nights = lay_out(tmp_path, drawn, "one file")
    assert nights.work.read_json(nights.gathered(), "labels.json")["order"] == ["early", "late", "last"]


def test_a_doubled_id_is_refused_across_units_by_the_order_of_partitions(tmp_path: Path) -> None:
    nights = Nights(tmp_path, columns=DATED | {"id": "key"})
    lines = [{"key": 7, "day": "2026-10-03"}, {"key": 8, "day": "2026-10-02"}, {"key": 7, "day": "2026-10-01"}]
    path = nights.source / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"t{i}", "label": "a", **r}) + "\n" for i, r in enumerate(lines)))
    assert nights.texts("2026-10-02") == ["t2", "t1"]  # a later row takes no id away from an earlier one
    (nights.source / "b.jsonl").write_text(json.dumps(lines[1] | {"text": "again", "label": "a"}) + "\n")
    assert nights.texts() == ["t2", "again"]
    assert nights.refused() == [("rows.jsonl", "line 1", "duplicate_id"), ("rows.jsonl", "line 2", "duplicate_id")]
    assert nights.refused("2026-10-02") == [("rows.jsonl", "line 2", "duplicate_id")]


def test_a_row_without_a_partition_is_refused_and_says_what_stood_there(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    days = ["2026-10-01", None, "soon", "", "2026-10-01T23:59:59"]
    rows = [{"text": f"t{at}", "label": "a", "day": day} for at, day in enumerate(days)]
    (nights.source / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert nights.texts() == ["t0", "t4"]
    assert [(place, why) for _, place, why in nights.refused()] == [
        ("line 2", "no_partition"),
        ("line 3", "bad_partition"),
        ("line 4", "bad_partition"),
    ]
    assert nights.work.read(nights.gathered(), "refused.parquet")["detail"].to_pylist()[1] == (
        "partition 'soon': no day; write it as 2026-10-01"
    )


def test_a_directory_or_name_that_is_no_partition_has_all_its_rows_refused(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    write_day(nights.source, "2026-10-01", labelled(["x", "y"]))
    write_day(nights.source, "__HIVE_DEFAULT_PARTITION__", labelled(["z"]))
    assert nights.texts("2026-10-01") == ["x", "y"]
    assert nights.refused() == [("day=__HIVE_DEFAULT_PARTITION__/rows.jsonl", "line 1", "bad_partition")]
    nights = Nights(
        tmp_path, columns={"text": "text", "label": "label"}, partitions={"every": "day", "pattern": r"=(\d.*)/"}
    )
    assert nights.texts() == ["x", "y"]
    assert [why for *_, why in nights.refused()] == ["bad_partition"]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_each_row_is_in_one_partition_when_clocks_change(tmp_path: Path, zone: str) -> None:
    """Scenario 16: every half hour around the change, the ends of UTC's days, a leap day; as text and as Arrow instants."""
    times = [
        f"2026-{day}T{hour:02}:{minute:02}:00Z"
        for day in ("03-28", "03-29", "10-03", "10-24", "10-25", "11-01")
        for hour in range(24)
        for minute in (0, 30)
    ]
    times += ["2028-02-28T23:59:59.999Z", "2028-02-29T00:00:00Z", "2028-02-29T23:59:59.999Z", "2028-03-01T00:00:00Z"]
    nights = Nights(tmp_path / "texts", partitions={"every": "day", "timezone": zone})
    rows = [{"text": f"t{at}", "label": "a", "day": value} for at, value in enumerate(times)]
    (nights.source / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    typed = Nights(tmp_path / "instants", partitions={"every": "day", "timezone": zone})
    instants = (
        pa.array([value.removesuffix("Z") for value in times]).cast(pa.timestamp("ms")).cast(pa.timestamp("ms", "UTC"))
    )
    table = pa.table({"text": [row["text"] for row in rows], "label": ["a"] * len(rows), "day": instants})
    pq.write_table(table, typed.source / "rows.parquet")
    everything = nights.rows()
    assert len(everything) == len(times) and nights.refused() == []
    assert seen(typed.rows()) == seen(everything)
    days = sorted({row["partition"] for row in everything})
    # The snapshots as of each day, one on the other, hold every row once.
    upto = [{row["row_id"] for row in nights.rows(day)} for day in days]
    for day, before, now in zip(days[1:], upto, upto[1:], strict=False):
        assert now - before == {row["row_id"] for row in everything if row["partition"] == day} and before <= now
    assert len(upto[-1]) == len(times)


def test_types_of_units_widen_and_a_missing_column_is_null(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    write_day(nights.source, "2026-10-01", labelled(["x"], n=None, m=1, k=1, only=True))
    write_day(nights.source, "2026-10-02", labelled(["y"], n=2, m=1.5, k="one"))
    assert nights.schema() == {
        "text": "string", "label": "string", "n": "int64", "m": "double", "k": "string", "only": "bool", "day": "string"
    }  # fmt: skip
    found = [(row["user.n"], row["user.m"], row["user.k"], row["user.only"]) for row in nights.rows()]
    assert found == [(None, 1.0, "1", True), (2, 1.5, "one", None)]
    assert nights.schema("2026-10-01")["m"] == "int64"  # as of the first day nobody knows better


def test_types_that_clash_name_the_column_the_partition_and_both_types(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    for day, values in (("2026-10-01", pa.array([1])), ("2026-10-02", pa.array(["one"]))):
        folder = nights.source / f"day={day}"
        folder.mkdir()
        pq.write_table(pa.table({"text": ["x"], "label": ["a"], "n": values}), folder / "rows.parquet")
    assert nights.texts("2026-10-01") == ["x"]
    with pytest.raises(DataError, match=r"2026-10-02.*column 'n' holds string here and int64 in .*2026-10-01"):
        nights.rows()
    nights.document |= {"partitions": {"every": "day", "window": "1d"}}  # what was written before it stops no night
    assert (nights.texts("2026-10-02"), nights.schema("2026-10-02")["n"]) == (["x"], "string")


FIELDS = st.sampled_from([pa.null(), pa.int64(), pa.float64(), pa.string(), pa.bool_(), pa.date32()])


@given(st.lists(st.dictionaries(st.sampled_from("abc"), FIELDS), min_size=1, max_size=5))
def test_one_schema_holds_every_units_and_hangs_on_what_is_in_the_window_first(units: list[dict[str, Any]]) -> None:
    schemas = [pa.schema(list(unit.items())) for unit in units]
    try:
        found = unify_units(schemas, schemas, ["x"] * len(schemas), as_strings=True)
    except DataError:
        types = {name: {unit[name] for unit in units if name in unit} - {pa.null()} for name in "abc"}
        assert any(len(of) > 1 and of != {pa.int64(), pa.float64()} for of in types.values())
        return
    assert found.names == list(dict.fromkeys(name for unit in units for name in unit))
    for unit in schemas:
        for field in unit:
            pa.nulls(1, field.type).cast(found.field(field.name).type)
    assert unify_units(schemas[-1:], schemas, ["x"], as_strings=True).names == found.names


def test_refused_rows_count_over_the_window_alone(tmp_path: Path) -> None:
    nights = Nights(tmp_path, refuse={"max_share": 0.1})
    write_day(nights.source, "2026-10-01", labelled(["", "", "x"]))
    write_day(nights.source, "2026-10-02", labelled(["y", "z"]))
    with pytest.raises(UnsoundSource, match="2 of 5 rows are refused"):
        nights.rows("2026-10-02")
    nights.document |= {"partitions": {"every": "day", "window": "1d"}}
    assert nights.texts("2026-10-02") == ["y", "z"]
    # Refused rows are no part of what a unit's rows are; they count anew all the same.
    path = nights.source / "day=2026-10-02" / "rows.jsonl"
    path.write_text(path.read_text() + "no JSON\n")
    with pytest.raises(UnsoundSource, match="1 of 3 rows are refused"):
        nights.rows("2026-10-02")


def test_a_partition_without_a_readable_line_is_refused_not_the_whole_source(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    write_day(nights.source, "2026-10-01", labelled(["x"]))
    (nights.source / "day=2026-10-02").mkdir()
    (nights.source / "day=2026-10-02" / "rows.jsonl").write_text("nothing\nof this\n")
    assert nights.texts() == ["x"]
    assert [why for *_, why in nights.refused()] == ["bad_json"] * 2 and nights.refused("2026-10-01") == []


def test_an_as_of_that_no_snapshot_can_be_of_is_refused(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    write_day(nights.source, "2026-10-02", labelled(["x"]))
    for wrong in ("2026-10", "tomorrow", "2026-02-30", "9999-12-31", "../x"):
        with pytest.raises(UserError, match=r"--as-of"):
            nights.rows(wrong)
    with pytest.raises(UserError, match="the first one is from '2026-10-02'"):
        nights.rows("2026-10-01")
    assert nights.texts("2026-12-31") == ["x"]
    nights.document |= {"partitions": {"every": "day", "window": "7d"}}
    with pytest.raises(
        UnsoundSource, match=r"from 2026-12-25 to 2026-12-31; the last ones before are from '2026-10-02'"
    ):
        nights.rows("2026-12-31")


def test_single_rows_are_no_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("augmill.tasks.stages.unit_rows.MOST", 3)
    nights = Nights(tmp_path, partitions={})
    rows = [{"text": f"t{at}", "label": "a", "day": str(at)} for at in range(4)]
    (nights.source / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="more than 3 different values"):
        nights.rows()


def test_weeks_gather_the_days_that_directories_name(tmp_path: Path) -> None:
    nights = Nights(tmp_path, partitions={"every": "week", "window": "14d"})
    for day in ("2026-09-27", "2026-09-28", "2026-10-04", "2026-10-05", "2026-10-12"):
        write_day(nights.source, day, labelled([f"of {day}"]))
    assert nights.texts("2026-W41") == ["of 2026-09-28", "of 2026-10-04", "of 2026-10-05"]


# --- a night reads only what is new ---------------------------------------------------------------------------------


def test_a_night_ingests_the_new_partition_alone_and_the_one_that_changed(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    for day in DAYS:
        write_day(nights.source, day, labelled([f"of {day}"]))
    nights.rows(DAYS[4])
    assert nights.worked().count("ingest") == 5
    nights.rows(DAYS[5])
    assert nights.worked() == ["ingest", "gather"]
    write_day(nights.source, DAYS[1], labelled(["late"]), "late.jsonl")
    assert "late" in nights.texts(DAYS[5])
    assert nights.worked() == ["ingest", "gather"]
    nights.document |= {"refuse": {"max_share": 0.5}, "partitions": {"every": "day", "window": "3d"}}
    assert nights.texts(DAYS[5]) == [f"of {day}" for day in DAYS[3:]]
    assert nights.worked() == ["gather"]  # neither window nor share is the ingest's


def hashed(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose content was read to be hashed."""
    read: list[str] = []
    real = partitions.hash_file

    def note(file: Any, how: Any) -> str:
        read.append(file.name)
        return real(file, how)

    with monkeypatch.context() as patch:
        patch.setattr(partitions, "hash_file", note)
        prepare_ingest(nights.recipe, None, nights.store)
    return read


def test_a_file_is_hashed_once_while_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights(tmp_path)
    paths = [write_day(nights.source, day, labelled([f"of {day}"])) for day in DAYS[:3]]
    names = [path.relative_to(nights.source).as_posix() for path in paths]
    old = time.time() - 60
    for path in paths[:2]:
        os.utime(path, (old, old))
    assert hashed(nights, monkeypatch) == names
    assert hashed(nights, monkeypatch) == names[2:]  # it is so young that the next change might leave no trace
    os.utime(paths[2], (old, old))
    assert (hashed(nights, monkeypatch), hashed(nights, monkeypatch)) == (names[2:], [])
    # Same size, same time, another file in its place: seen by its number.
    other = paths[0].with_name("other")
    other.write_text(paths[0].read_text().replace("of", "OF"))
    os.utime(other, (old, old))
    other.replace(paths[0])
    assert hashed(nights, monkeypatch) == names[:1]
    assert nights.texts()[0] == f"OF {DAYS[0]}"
    note = tmp_path / "store" / "private" / "sources" / "tiny" / "hashes.json"
    note.write_bytes(note.read_bytes()[:-9])
    assert hashed(nights, monkeypatch) == names  # a cache: made anew
    paths[1].unlink()
    assert (hashed(nights, monkeypatch), set(json.loads(note.read_bytes())["body"])) == (
        [],
        {str(path) for path in (paths[0], paths[2])},
    )


def revisions(nights: Nights) -> dict[str, str]:
    found = read_units(nights.site, prepare_ingest(nights.recipe, None, nights.store)).view()
    return {name: part.revision for name, part in found.items()}


def test_a_revision_is_of_the_rows_not_of_their_writer_or_the_recipe(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    for day in DAYS[:3]:
        (nights.source / f"day={day}").mkdir()
        table = pa.table({"text": [f"{day} {at}" for at in range(40)], "label": ["a", "b"] * 20})
        pq.write_table(table, nights.source / f"day={day}" / "rows.parquet")
    first = revisions(nights)
    assert len(set(first.values())) == 3 and all(len(name) == 16 for name in first.values())
    path = nights.source / "day=2026-10-02" / "rows.parquet"
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table, path, row_group_size=7, compression="gzip", version="1.0")
    nights.document |= {"labels": {"aliases": {"b": "c"}, "retired": ["a"]}}
    assert revisions(nights) == first
    pq.write_table(table.slice(1), path)
    changed = revisions(nights)
    assert {name for name in first if first[name] != changed[name]} == {"2026-10-02"}


def test_a_revision_in_one_file_of_many_days_is_of_that_days_rows(tmp_path: Path) -> None:
    drawn = [(day, f"t{at}", "a") for at in range(3) for day in DAYS]
    nights = lay_out(tmp_path, drawn, "one file")
    first = revisions(nights)
    path = nights.source / "000.jsonl"
    path.write_text(path.read_text() + json.dumps({"text": "late", "label": "a", "day": DAYS[2]}) + "\n")
    changed = revisions(nights)
    assert {name for name in first if first[name] != changed[name]} == {DAYS[2]}


def test_a_units_identity_is_neither_the_snapshot_nor_the_window(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    for day in DAYS[:2]:
        write_day(nights.source, day, labelled([f"of {day}"]))
    first, *_ = prepare_ingest(nights.recipe, DAYS[0])
    nights.document |= {"partitions": {"every": "day", "window": "1d", "late": {"reopen": "3d"}}}
    again, _ = prepare_ingest(nights.recipe, DAYS[1])
    assert ingest.identity(first, ()) == ingest.identity(again, ())


def test_directories_of_years_months_and_days_are_days(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    places = {"x": "year=2026/month=9/day=30", "y": "year=2026/month=10/day=01", "z": "year=2026/month=10/day=2/hour=3"}
    for text, path in places.items():
        (nights.source / path).mkdir(parents=True)
        (nights.source / path / "rows.jsonl").write_text(json.dumps({"text": text, "label": "a"}) + "\n")
    assert list(source_view(nights.recipe, nights.store)) == ["2026-09-30", "2026-10-01", "2026-10-02"]
    assert nights.texts("2026-10-01") == ["x", "y"]
    nights.document |= {"partitions": {"every": "month"}, "columns": DATED | {"partition": "month"}}
    assert list(source_view(nights.recipe, nights.store)) == ["2026-09", "2026-10"]
    nights.document |= {"partitions": {"every": "day"}}
    with pytest.raises(DataError, match="a month alone; name the column or directory of days"):
        source_view(nights.recipe, nights.store)


@given(st.lists(st.integers(0, 300), min_size=2, unique=True), st.data())
def test_numbers_as_keys_are_in_the_order_of_numbers(keys: list[int], data: st.DataObject) -> None:
    """9 comes before 10, in a snapshot, in what it calls later, and in the ids of labels."""
    as_of = data.draw(st.sampled_from(keys))
    with tempfile.TemporaryDirectory() as directory:
        nights = Nights(Path(directory), partitions={"every": "key"})
        lines = [{"text": f"t{key}", "label": f"l{key}", "day": key} for key in keys]
        (nights.source / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        wanted = sorted(key for key in keys if key <= as_of)
        assert nights.texts(str(as_of)) == [f"t{key}" for key in wanted]
        assert nights.work.read_json(nights.gathered(str(as_of)), "labels.json")["order"] == [f"l{k}" for k in wanted]
        view = source_view(nights.recipe, nights.store)
        assert list(view) == [str(key) for key in sorted(keys)]
        assert snapshots_of(nights.recipe, view, now=datetime.now(UTC), last=str(as_of)) == list(map(str, wanted))


def test_a_file_whose_column_says_another_day_than_its_directory_is_named(tmp_path: Path, said: list[str]) -> None:
    nights = Nights(tmp_path)
    write_day(nights.source, "2026-10-01", [row | {"day": "2026-10-01T09:00:00Z"} for row in labelled(["x"])])
    assert nights.texts() == ["x"] and not said
    write_day(nights.source, "2026-10-02", [row | {"day": "2026-10-01"} for row in labelled(["y"])])
    assert nights.texts("2026-10-02") == ["x", "y"] and nights.texts("2026-10-01") == ["x"]
    (line,) = said
    assert line.startswith("'day=2026-10-02/rows.jsonl' is in the directory of '2026-10-02', but its column 'day' says")


def test_what_an_earlier_version_took_for_no_day_is_read_anew_and_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = Nights(tmp_path)
    for name, day in (("a", "2026-10-01"), ("b", "2026-10-02 00:30:00 UTC"), ("c", "soon")):
        line = json.dumps({"text": name, "label": "a", "day": day})
        (nights.source / f"{name}.jsonl").write_text(f"{line}\n")
    with monkeypatch.context() as earlier:
        earlier.setattr(calendar, "_parse", date.fromisoformat)
        earlier.setattr(ingesting, "FORMS", 1)
        assert nights.texts() == ["a"]
    nights.worked()
    assert nights.texts() == ["a", "b"]
    assert nights.worked().count("ingest") == 2  # b and c
    assert nights.texts() == ["a", "b"] and "ingest" not in nights.worked()
