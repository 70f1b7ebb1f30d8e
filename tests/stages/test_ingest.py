"""Ingest: an id is a function of the texts, a row is taken or refused with place and reason, labels keep their type."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chain import recipe_document
from hypothesis import given, settings
from hypothesis import strategies as st

from augmill.flows.units import gather_source
from augmill.tasks.errors import ConflictError, DataError, UnsoundSource, UserError
from augmill.tasks.recipe.recipe import build_recipe
from augmill.tasks.stages.ingest import ingest, prepare_ingest
from augmill.tasks.store.stage import Site, Work
from augmill.tasks.store.store import Store


class Ingested:
    """What ingest and gather give over a source directory, with ``refuse.max_share`` at 1 unless given."""

    def __init__(self, source: Path, /, as_of: str | None = None, **changes: Any) -> None:
        document = recipe_document(source) | {"refuse": {"max_share": 1.0}} | changes
        self.site = Site(Store(str(source.parent / "store")))
        self.artifact = gather_source(self.site, build_recipe(document, base=source.parent), as_of)
        work = Work(self.site, source)
        self.rows = work.read(self.artifact)
        self.refused = work.read(self.artifact, "refused.parquet").to_pylist()
        self.summary = work.read_json(self.artifact, "summary.json")
        self.labels = work.read_json(self.artifact, "labels.json")
        self.schema = pq.read_schema(work.path(self.artifact, "source.parquet"))

    @property
    def reasons(self) -> list[tuple[str, str, str]]:
        return [(row["file"], row["location"], row["reason"]) for row in self.refused]

    def column(self, name: str) -> list[Any]:
        values: list[Any] = self.rows[name].to_pylist()
        return values


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def of_texts(directory: Path, texts: list[str], /, **changes: Any) -> Ingested:
    return Ingested(jsonl(directory / "rows.jsonl", [{"text": t, "label": "a"} for t in texts]), **changes)


def of_labels(directory: Path, labels: pa.Array, /, **changes: Any) -> Ingested:
    path = directory / "rows.parquet"
    pq.write_table(pa.table({"text": [f"text {i}" for i in range(len(labels))], "label": labels}), path)
    return Ingested(path, **changes)


@settings(max_examples=8)  # each reads two files through the store
@given(texts=st.lists(st.text("ab ", min_size=1, max_size=2).filter(str.strip), min_size=1, max_size=6), data=st.data())
def test_ids_are_unique_and_do_not_depend_on_the_order_of_rows(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    one = of_texts(tmp_path_factory.mktemp("one"), texts)
    other = of_texts(tmp_path_factory.mktemp("other"), data.draw(st.permutations(texts)))
    assert sorted(one.column("row_id")) == sorted(other.column("row_id"))
    assert len(set(one.column("row_id"))) == len(texts)
    for made in (one, other):  # texts that differ in white space alone are occurrences of one text
        stems = {(row["row_id"].split("-")[0], " ".join(row["text"].split())) for row in made.rows.to_pylist()}
        assert len(stems) == len({stem for stem, _ in stems}) == len({text for _, text in stems})


def test_an_id_is_the_texts_own_wherever_and_however_it_is_read(tmp_path: Path) -> None:
    rows = [{"text": f"some text {i}", "label": "ab"[i % 2], "more": i} for i in range(6)]
    one = Ingested(jsonl(tmp_path / "one" / "in" / "rows.jsonl", rows).parent)
    jsonl(tmp_path / "two" / "in" / "b.jsonl", rows[:2])
    split_up = Ingested(jsonl(tmp_path / "two" / "in" / "a.jsonl", rows[2:]).parent)
    (tmp_path / "three" / "in").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(reversed(rows))), tmp_path / "three" / "in" / "x.parquet")
    parquet = Ingested(tmp_path / "three" / "in")

    def ids(made: Ingested) -> dict[str, str]:
        return dict(zip(made.column("text"), made.column("row_id"), strict=True))

    assert ids(one) == ids(split_up) == ids(parquet)
    assert split_up.column("text")[:4] == [row["text"] for row in rows[2:]]  # files in the order of their names


def test_doubled_texts_are_told_apart_by_their_occurrence(tmp_path: Path) -> None:
    ids = of_texts(tmp_path, ["same", "other", "same", " same  "]).column("row_id")
    assert ids[2:] == [f"{ids[0]}-2", f"{ids[0]}-3"]


def test_the_whole_pair_of_texts_makes_the_id(tmp_path: Path) -> None:
    rows = [{"a": a, "b": b, "label": "x"} for a, b in [("x y", "z"), ("x", "y z"), ("z", "x y")]]
    columns = {"text": ["a", "b"], "label": "label"}
    made = Ingested(jsonl(tmp_path / "rows.jsonl", rows), columns=columns, task="pair_classification")
    assert len(set(made.column("row_id"))) == 3
    assert not any("-" in row_id for row_id in made.column("row_id"))
    assert (made.column("text")[1], made.column("text_b")[1]) == ("x", "y z")


def test_the_id_column_is_taken_and_a_missing_or_doubled_id_refused(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": "a", "key": key} for i, key in enumerate([7, 8, 7, None, 9])]
    made = Ingested(jsonl(tmp_path / "rows.jsonl", rows), columns={"text": "text", "label": "label", "id": "key"})
    assert made.column("row_id") == ["7", "8", "9"]
    assert made.reasons == [("rows.jsonl", "line 3", "duplicate_id"), ("rows.jsonl", "line 4", "no_id")]
    assert made.column("user.key") == [7, 8, 9]


def test_every_row_is_taken_or_refused_with_its_place_and_reason(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("text,label\ngood,a\n,a\n  ,a\nno label,\n" + "long " * 5 + ",b\nlast,b\n")
    (tmp_path / "in" / "b.csv").write_text("text,label\nragged,a,too,many\nfine,b\n")
    made = Ingested(tmp_path / "in", refuse={"max_share": 1.0, "max_chars": 20})
    assert made.column("text") == ["good", "last", "fine"]
    assert made.reasons == [
        ("a.csv", "line 3", "no_text"),
        ("a.csv", "line 4", "no_text"),
        ("a.csv", "line 5", "no_label"),
        ("a.csv", "line 6", "too_long"),
        ("b.csv", "line 2", "ragged"),
    ]
    assert (made.summary["read"], made.summary["taken"]) == (8, 3)
    assert made.summary["read"] == made.summary["taken"] + len(made.refused)
    assert made.summary["refused"] == dict(Counter(reason for *_, reason in made.reasons))
    assert made.refused[3]["row"] == "long " * 5
    assert made.rows["position"].to_pylist() == [0, 1, 2]


@pytest.mark.parametrize(("share", "stops"), [(0.25, False), (0.24, True)])
def test_more_refused_rows_than_the_share_stop_the_run_and_name_the_first(
    tmp_path: Path, share: float, stops: bool
) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"text": t, "label": "a"} for t in ("one", "", "three", "four")])
    if not stops:
        assert Ingested(path, refuse={"max_share": share}).summary["taken"] == 3
        return
    with pytest.raises(UnsoundSource, match=r"rows\.jsonl line 2"):
        Ingested(path, refuse={"max_share": share})


def test_a_source_without_a_usable_row_is_refused_whatever_the_share(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no_text"):
        of_texts(tmp_path, ["", " "])


@pytest.mark.parametrize(
    ("labels", "strata", "values"),
    [
        (pa.array(["b", "a", "b"]), ["b", "a", "b"], ["b", "a"]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ["b", "a", "b"], ["b", "a"]),
        (pa.array([3, -1, 3], pa.int16()), ["3", "-1", "3"], [3, -1]),
        (pa.array([True, False, True]), ["true", "false", "true"], [True, False]),
        (pa.array([3.0, -1.0, 3.0]), ["3", "-1", "3"], [3, -1]),
    ],
    ids=["text", "dictionary", "integer", "boolean", "whole float"],
)
def test_labels_are_counted_as_text_and_keep_their_values_in_order_of_appearance(
    tmp_path: Path, labels: pa.Array, strata: list[str], values: list[Any]
) -> None:
    made = of_labels(tmp_path, labels)
    assert made.column("stratum") == strata
    assert [made.labels["values"][name] for name in made.labels["order"]] == values
    assert [type(made.labels["values"][name]) for name in made.labels["order"]] == [type(value) for value in values]
    assert made.summary["labels_coerced_from_float"] == (3 if pa.types.is_floating(labels.type) else 0)


def test_fractional_and_missing_labels_are_refused(tmp_path: Path) -> None:
    made = of_labels(tmp_path, pa.array([1.0, 1.5, None, float("nan"), float("inf"), 2.0]))
    assert [(place, reason) for _, place, reason in made.reasons] == [
        ("row 2", "fractional_label"),
        ("row 3", "no_label"),
        ("row 4", "fractional_label"),
        ("row 5", "fractional_label"),
    ]
    assert made.column("stratum") == ["1", "2"]


def test_a_label_that_is_no_text_integer_or_boolean_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="label_type"):
        of_labels(tmp_path, pa.array([1, 2], pa.date32()))


def test_aliases_join_classes_and_retired_labels_leave_without_counting_as_refused(tmp_path: Path) -> None:
    rules = {"aliases": {"old": "new", "1": "one"}, "retired": ["gone"]}
    labels = pa.array(["old", "new", "gone", "1", "gone"])
    made = of_labels(tmp_path, labels, labels=rules, refuse={"max_share": 0.0})
    assert made.column("stratum") == ["new", "new", "one"]
    assert [reason for *_, reason in made.reasons] == ["retired_label", "retired_label"]
    assert made.labels["order"] == ["new", "one"]


def test_an_alias_may_lead_to_a_retired_label(tmp_path: Path) -> None:
    rules = {"aliases": {"old": "gone"}, "retired": ["gone"]}
    made = of_labels(tmp_path, pa.array(["old", "kept"]), labels=rules)
    assert made.column("stratum") == ["kept"]


def test_an_undeclared_label_is_admitted_put_apart_or_stops_the_run(tmp_path: Path) -> None:
    labels = pa.array(["a", "b", "x", "a"])

    def with_unknown(what: str) -> Ingested:
        (tmp_path / what).mkdir()
        return of_labels(tmp_path / what, labels, labels={"declared": ["a", "b"], "unknown": what})

    assert with_unknown("admit").column("stratum") == ["a", "b", "x", "a"]
    apart = with_unknown("quarantine")
    assert apart.column("stratum") == ["a", "b", "a"]
    assert [(row["location"], row["reason"], row["detail"]) for row in apart.refused] == [
        ("row 3", "unknown_label", "label 'x'")
    ]
    with pytest.raises(DataError, match=r"rows\.parquet row 3.*'x'.*labels\.declared"):
        with_unknown("stop")


def test_declared_labels_are_compared_as_values_of_any_type(tmp_path: Path) -> None:
    made = of_labels(tmp_path, pa.array([1, 0, 2]), labels={"declared": [0, 1], "unknown": "quarantine"})
    assert made.column("stratum") == ["1", "0"]


def test_marks_and_nulls_inside_a_text_change_neither_text_nor_id(tmp_path: Path) -> None:
    dirty = of_texts(tmp_path / "dirty", ["\ufeffhello", "wor\x00ld", "\ufeff"])
    clean = of_texts(tmp_path / "clean", ["hello", "world"])
    assert dirty.column("text") == ["hello", "world"]
    assert dirty.column("row_id") == clean.column("row_id")
    assert [reason for *_, reason in dirty.reasons] == ["no_text"]
    strict = {"path": "rows.jsonl", "bom": "refuse", "nul": "refuse_row"}
    refused = of_texts(tmp_path / "strict", ["\ufeffhello", "wor\x00ld", "fine"], source=strict)
    assert [reason for *_, reason in refused.reasons] == ["bom", "nul"]


def test_the_users_other_columns_group_and_partition_are_kept(tmp_path: Path) -> None:
    table = pa.table(
        {
            "day": pa.array([1, 2], pa.date32()),
            "text": ["x", "y"],
            "customer": pa.array([5, None], pa.int32()),
            "label": ["a", "b"],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    columns = {"text": "text", "label": "label", "group": "customer", "partition": "day"}
    made = Ingested(tmp_path / "rows.parquet", columns=columns)
    assert made.column("group") == ["5", None]
    assert made.column("partition") == ["1970-01-02", "1970-01-03"]
    assert made.rows["user.customer"].type == pa.int32()
    assert (made.schema.names, made.schema.field("day").type) == (["day", "text", "customer", "label"], pa.date32())


def test_a_given_split_is_read_and_an_unknown_one_refused(tmp_path: Path) -> None:
    values = ["train", "dev", "test", None, "other", "validation"]
    rows = [{"text": f"t{i}", "label": "a", "part": part} for i, part in enumerate(values)]
    made = Ingested(jsonl(tmp_path / "rows.jsonl", rows), splits={"column": "part", "names": {"dev": "validation"}})
    assert made.column("given_split") == ["train", "validation", "test", "validation"]
    assert [(place, reason) for _, place, reason in made.reasons] == [
        ("line 4", "unknown_split"),
        ("line 5", "unknown_split"),
    ]


def test_splits_by_file_name_take_each_file_whole(tmp_path: Path) -> None:
    for name in ("train-1", "train-2", "dev", "odd"):
        jsonl(tmp_path / "in" / f"{name}.jsonl", [{"text": f"in {name}", "label": "a"}])
    made = Ingested(tmp_path / "in", splits={"files": {"train": "train-*.jsonl", "validation": "dev.jsonl"}})
    assert dict(zip(made.column("text"), made.column("given_split"), strict=True)) == {
        "in dev": "validation",
        "in train-1": "train",
        "in train-2": "train",
    }
    assert made.reasons == [("odd.jsonl", "line 1", "unknown_split")]


def test_ingest_is_known_again_by_its_files_contents_and_not_by_where_they_lie(tmp_path: Path) -> None:
    rows = [{"text": "x", "label": "a"}]
    here, there = (prepared(jsonl(tmp_path / name / "rows.jsonl", rows)) for name in ("here", "there"))
    changed = prepared(jsonl(tmp_path / "changed" / "rows.jsonl", [{"text": "y", "label": "a"}]))
    assert here == there != changed


def prepared(source: Path) -> str:
    recipe = build_recipe(recipe_document(source), base=source.parent)
    (unit,) = prepare_ingest(recipe)
    return ingest.identity(unit, ())


DATED = {"text": "text", "label": "label", "partition": "day"}


@pytest.mark.parametrize("as_of", ["2026-11-3", "2026-11-03 ", "20261103", "3rd of May", "2026-11-03 00:00:00"])
def test_as_of_is_compared_only_where_it_is_written_as_the_partitions_are(tmp_path: Path, as_of: str) -> None:
    rows = [{"text": f"t {day}", "label": "a", "day": f"2026-11-{day:02}"} for day in range(1, 30)]
    source = jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=r"is not written like the column's '2026-11-01'"):
        Ingested(source, columns=DATED, as_of=as_of)
    made = Ingested(source, columns=DATED, as_of="2026-11-03")
    assert (made.column("text"), made.summary["later"], made.summary["read"]) == (["t 1", "t 2", "t 3"], 26, 3)


def test_as_of_a_day_is_no_moment_of_a_column_of_moments(tmp_path: Path) -> None:
    at = pa.array([0, 86_399_999, 86_400_000], pa.timestamp("ms"))
    pq.write_table(pa.table({"text": ["x", "y", "z"], "label": ["a"] * 3, "day": at}), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"'1970-01-01 00:00:00\.000'"):
        Ingested(tmp_path / "rows.parquet", columns=DATED, as_of="1970-01-01")
    made = Ingested(tmp_path / "rows.parquet", columns=DATED, as_of="1970-01-01 23:59:59.999")
    assert made.column("text") == ["x", "y"]


def test_files_of_later_directories_are_not_even_read(tmp_path: Path) -> None:
    jsonl(tmp_path / "in" / "day=2026-11-03" / "rows.jsonl", [{"text": "x", "label": "a"}])
    before = Ingested(tmp_path / "in", columns=DATED, as_of="2026-11-03")
    (tmp_path / "in" / "day=2026-11-04").mkdir()
    (tmp_path / "in" / "day=2026-11-04" / "rows.jsonl").write_text("no JSON at all\n")
    after = Ingested(tmp_path / "in", columns=DATED, as_of="2026-11-03")
    assert before.artifact == after.artifact
    with pytest.raises(UserError, match="the first one is from '2026-11-03'"):
        Ingested(tmp_path / "in", columns=DATED, as_of="2026-11-02")
    assert Ingested(tmp_path / "in", columns=DATED).reasons == [("day=2026-11-04/rows.jsonl", "line 1", "bad_json")]


def test_a_file_that_changes_after_it_was_hashed_is_not_taken_for_the_hashed_one(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [{"text": f"t{i}", "label": "a"} for i in range(9)])
    (unit,) = prepare_ingest(build_recipe(recipe_document(source), base=tmp_path))
    jsonl(source, [{"text": f"u{i}", "label": "a"} for i in range(9)])
    site = Site(Store(str(tmp_path / "store")))
    with pytest.raises(ConflictError, match=r"rows\.jsonl: the file changed while it was read") as told:
        ingest(site, unit)
    assert "run it again" in told.value.fix
    assert site.store.list_keys("private/manifests") == []
    Ingested(source)


def test_how_files_were_read_is_kept(tmp_path: Path) -> None:
    for number in range(22):
        jsonl(tmp_path / "in" / f"{number:02}.jsonl", [{"text": f"t{number}", "label": "a"}])
    (tmp_path / "in" / "00.jsonl").write_bytes('{"text": "caf\xe9 ol\xe9", "label": "a"}\n'.encode("latin-1") * 50)
    (_, *others) = read_as = Ingested(tmp_path / "in").summary["read_as"]
    assert len(read_as) == 20
    assert read_as[0]["encoding"] != others[0]["encoding"] and read_as[0]["encoding_why"]
