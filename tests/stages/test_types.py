"""Every Arrow type in every role of a column: it ends in a release whose types are the file's own, or is refused by name."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from chain import make_run, recipe_document

from augmill.flows.source import read_source
from augmill.tasks.contracts import STRATUM
from augmill.tasks.errors import DataError
from augmill.tasks.recipe.recipe import build_recipe
from augmill.tasks.stages.mix import MixConfig, mix
from augmill.tasks.stages.publish import ReleaseConfig, build_release
from augmill.tasks.store.stage import Work, commit, fetch
from augmill.tasks.store.store import Store

ROWS = 24
DAY = datetime.date(2024, 1, 1)
NOON = datetime.datetime(2024, 1, 1, 12)


# Two values each, which stand in turn: where the type has an end, it is one of them.
TYPES: list[tuple[pa.DataType, list[Any]]] = [
    *((kind, [-(2 ** (bits - 1)), 1]) for bits, kind in ((8, pa.int8()), (16, pa.int16()), (32, pa.int32()))),
    (pa.int64(), [-(2**63), 2**63 - 1]),
    *((kind, [0, 2**bits - 1]) for bits, kind in ((8, pa.uint8()), (16, pa.uint16()), (32, pa.uint32()))),
    (pa.uint64(), [2**63, 2**64 - 1]),
    *((kind, [1.0, 2.0]) for kind in (pa.float16(), pa.float32(), pa.float64())),
    (pa.bool_(), [True, False]),
    *((kind, ["one", "two"]) for kind in (pa.string(), pa.large_string(), pa.string_view())),
    *((kind, [b"one", b"\xff\x00\x01"]) for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3))),
    (pa.dictionary(pa.int8(), pa.string()), ["one", "two"]),
    (pa.dictionary(pa.int32(), pa.int64()), [1, 2**63 - 1]),
    (pa.dictionary(pa.int8(), pa.large_string()), ["one", "two"]),
    (pa.decimal32(5, 0), [Decimal(1), Decimal(99999)]),
    (pa.decimal64(18, 0), [Decimal(1), Decimal(10**18 - 1)]),
    (pa.decimal128(20, 0), [Decimal(1), Decimal(2**63)]),
    (pa.decimal128(38, 0), [Decimal(1), Decimal(10**38 - 1)]),
    (pa.decimal256(76, 0), [Decimal(1), Decimal(10**76 - 1)]),
    (pa.decimal128(9, 2), [Decimal("1.00"), Decimal("2.00")]),
    (pa.date32(), [DAY, DAY + datetime.timedelta(1)]),
    (pa.date64(), [DAY, DAY + datetime.timedelta(1)]),
    *((kind, [datetime.time(1), datetime.time(2)]) for kind in (pa.time32("s"), pa.time32("ms"), pa.time64("us"))),
    (pa.time64("ns"), [1, 2]),
    *(
        (pa.timestamp(unit, zone), [NOON, NOON + datetime.timedelta(1)])
        for unit in ("s", "us")
        for zone in (None, "UTC", "Europe/Berlin")
    ),
    (pa.timestamp("ns"), [1, 2]),
    *((pa.duration(unit), [1, 2]) for unit in ("s", "ns")),
    *((kind, [[1], [2, 3]]) for kind in (pa.list_(pa.int64()), pa.large_list(pa.int64()), pa.list_view(pa.int64()))),
    (pa.list_(pa.int64(), 2), [[1, 2], [2, 3]]),
    (pa.list_(pa.string()), [["one"], ["two"]]),
    (pa.list_(pa.dictionary(pa.int8(), pa.string())), [["one"], ["two"]]),
    (pa.list_(pa.string_view()), [["one"], ["two"]]),
    (pa.large_list_view(pa.list_(pa.int64())), [[[1]], [[2], []]]),
    (pa.struct([("a", pa.list_view(pa.string())), ("b", pa.bool_())]), [{"a": ["x"], "b": True}, {"a": [], "b": None}]),
    (pa.struct([("a", pa.int64())]), [{"a": 1}, {"a": 2}]),
    (pa.map_(pa.string(), pa.int64()), [[("a", 1)], [("b", 2)]]),
    (pa.null(), [None, None]),
    (pa.uuid(), [uuid.UUID(int=1).bytes, uuid.UUID(int=2**128 - 1).bytes]),
    (pa.json_(), ['{"a": 1}', "{}"]),
    (pa.bool8(), [0, 1]),
    (pa.opaque(pa.int64(), "a", "b"), [1, 2]),
    (pa.fixed_shape_tensor(pa.int64(), [2]), [[1, 2], [2, 3]]),
]
NOT_IN_PARQUET = [
    pa.month_day_nano_interval(),
    pa.run_end_encoded(pa.int32(), pa.string()),
    pa.dense_union([pa.field("a", pa.int64()), pa.field("b", pa.string())]),
]
# Parquet gives these back as their values, or in the one type for texts and bytes that releases have.
PLAIN = {
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
    pa.list_(pa.field("element", pa.string_view())): pa.list_(pa.field("element", pa.string())),
}
ROLES = ("text", "label", "id", "group", "partition", "split", "unlabelled text", "unlabelled id")


def storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def array_of(kind: pa.DataType, values: list[Any], *, unique: bool = False) -> pa.Array:
    """The values in turn; with ``unique`` each number and text differs, as ids and texts of rows do."""
    turned = [values[at % len(values)] for at in range(ROWS)]
    if unique and (pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        turned = [type(values[-1])(int(values[-1]) - at) for at in range(ROWS)]
    elif unique and isinstance(values[0], str):
        turned = [f"{value} {at * 7919}" for at, value in enumerate(turned)]
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(turned, kind.storage_type))
    return pa.array(turned, kind)


def plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind) and pa.types.is_dictionary(kind.value_type):
        return pa.list_(pa.field("element", kind.value_type.value_type))
    return plain(kind.value_type) if pa.types.is_dictionary(kind) else PLAIN.get(kind, kind)


def ordinary(rows: int = ROWS) -> dict[str, Any]:
    """Two classes of short texts, and a split for each row."""
    things = ("parcel is late", "invoice was paid twice")
    return {
        "text": [f"{things[at % 2]} {at * 7919}" for at in range(rows)],
        "label": ["ab"[at % 2] for at in range(rows)],
        "split": ["validation" if at >= rows - 6 else "train" for at in range(rows)],
    }


def document_for(role: str, folder: Path, column: pa.Array) -> dict[str, Any]:
    """A recipe whose column ``x``, or the column of that role, is the given one; its files are written."""
    table = ordinary()
    columns: dict[str, Any] = {"text": "text", "label": "label"}
    changes: dict[str, Any] = {"splits": {"column": "split"}}
    if role in ("text", "label", "split"):
        table[role] = column
    elif role in ("id", "group", "partition"):
        columns[role], table["x"] = "x", column
    elif role.startswith("unlabelled"):
        free = {"text": [f"something else {at}" for at in range(ROWS)], "x": column}
        free |= {"text": column} if role == "unlabelled text" else {}
        columns |= {"id": "x"} if role == "unlabelled id" else {}
        table["x"] = [str(at) for at in range(ROWS)]
        (folder / "free").mkdir()
        pq.write_table(pa.table(free), folder / "free" / "free.parquet")
        changes["unlabelled"] = {"path": str(folder / "free")}
    else:
        table["x"] = column
    pq.write_table(pa.table(table), folder / "rows.parquet")
    return recipe_document(folder / "rows.parquet") | {"columns": columns} | changes


def release(folder: Path, document: dict[str, Any]) -> pa.Table:
    """The train rows as a run releases them, one made row among them. Raises as a run does."""
    recipe = build_recipe(document, base=folder)
    store = Store(str(folder / "store"))
    run = make_run(recipe, store)
    ingested, split = read_source(run)
    work = Work(run.site, folder / "settled")
    work.directory.mkdir()
    train = pq.read_table(fetch(store, split, "train.parquet"))
    made = {"text": ["a new text"], STRATUM: [train[STRATUM][0].as_py()], "generator": ["rules"], "asked": ["a"]}
    made |= {"parent_ids": [[train["row_id"][0].as_py()]], "ordinal": [0], "seed": [1]}
    scores = pa.nulls(1, pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())])))
    work.write(pa.table(made | {"scores": scores}), "accepted.parquet")
    settled = commit(work, "settle", "0" * 64)
    mixed = mix(run.site, MixConfig(recipe.mix, recipe.publish.copy, recipe.columns.fields, 0), split, settled)
    config = ReleaseConfig("tiny", "all", "mix", "aug_", recipe.columns, recipe.hash(), recipe.task)
    built = build_release(run.site, config, ingested, split, mixed, [])
    return pq.read_table(fetch(store, built, "train/part-00000.parquet"))


def unlike(release: pa.Table, source: pa.Table) -> list[str]:
    """Columns of the source whose type, or whose values in the real rows, are not those of the release."""
    real = release.filter(pc.equal(release["aug_origin"], "real"))
    at = [source["text"].to_pylist().index(text) for text in real["text"].to_pylist()]
    wanted = {name: source[name].to_pylist() for name in source.column_names}
    return [
        name
        for name in source.column_names
        if release.schema.field(name).type != plain(source.schema.field(name).type)
        or real[name].to_pylist() != [wanted[name][index] for index in at]
    ]


@pytest.fixture(autouse=True)
def without_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of stores are made, and none has to outlive a power cut."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.mark.parametrize("role", ROLES)
def test_every_type_in_every_role_is_released_in_its_type_or_refused_by_name(tmp_path: Path, role: str) -> None:
    released = set()
    for at, (kind, values) in enumerate(TYPES):
        folder = tmp_path / str(at)
        folder.mkdir()
        unique = role.endswith(("id", "text"))
        document = document_for(role, folder, array_of(kind, values, unique=unique))
        try:
            rows = release(folder, document)
        except DataError as error:
            assert error.where and error.fix and "defect" not in str(error), error
            continue
        assert unlike(rows, pq.read_table(folder / "rows.parquet")) == [], (role, kind)
        released.add(kind)
    numbers = {kind for kind, _ in TYPES if pa.types.is_integer(kind) or pa.types.is_decimal(kind)}
    kept = {kind for kind, _ in TYPES if not pa.types.is_nested(storage(kind)) and not pa.types.is_null(kind)}
    wanted = {"label": numbers, "id": numbers, "partition": numbers, "group": kept, "unlabelled id": numbers}
    wanted |= {"text": {pa.string(), pa.large_string(), pa.string_view()}, "split": set()}
    assert wanted.get(role, {pa.string()}) <= released, wanted[role] - released


def test_further_columns_of_every_type_are_released_in_it(tmp_path: Path) -> None:
    table = ordinary() | {f"x{at}": array_of(kind, values) for at, (kind, values) in enumerate(TYPES)}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    copied = [f"x{at}" for at in range(0, len(TYPES), 2)]  # the others are null in a made row
    changes = {"splits": {"column": "split"}, "publish": {"copy": copied}}
    rows = release(tmp_path, recipe_document(tmp_path / "rows.parquet") | changes)
    assert unlike(rows, pq.read_table(tmp_path / "rows.parquet")) == []
    (made,) = rows.filter(pc.equal(rows["aug_origin"], "synthetic")).to_pylist()
    assert [made[name] is None for name in (f"x{at}" for at in range(len(TYPES)))] == [
        f"x{at}" not in copied or pa.types.is_null(kind) for at, (kind, _) in enumerate(TYPES)
    ]


@pytest.mark.parametrize("kind", NOT_IN_PARQUET, ids=str)
def test_what_is_not_in_the_sweep_is_not_in_parquet_either(tmp_path: Path, kind: pa.DataType) -> None:
    array = pa.nulls(1, kind)
    with pytest.raises(pa.ArrowNotImplementedError):
        pq.write_table(pa.table({"x": array}), tmp_path / "rows.parquet")
