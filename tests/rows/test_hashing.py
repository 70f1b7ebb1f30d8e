"""The content hash sees rows, not how they are stored: cuts, encodings and buffers change nothing; values do."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.rows import hashing
from augmill.tasks.rows.hashing import TableHasher, canonical_json, hash_json, hash_table

SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("number", pa.int64()),
        ("share", pa.float64()),
        ("flag", pa.bool_()),
        ("parents", pa.list_(pa.string())),
        ("scores", pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))),
    ]
)
text = st.one_of(st.none(), st.text(max_size=5))
row = st.fixed_dictionaries(
    {
        "text": text,
        "number": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        "share": st.one_of(st.none(), st.floats(allow_nan=False)),
        "flag": st.one_of(st.none(), st.booleans()),
        "parents": st.one_of(st.none(), st.lists(text, max_size=3)),
        "scores": st.one_of(
            st.none(), st.lists(st.fixed_dictionaries({"name": text, "value": st.floats(allow_nan=False)}), max_size=2)
        ),
    }
)


def table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


@given(st.lists(row, max_size=12), st.integers(1, 5))
def test_batches_change_no_hash(rows: list[dict], size: int) -> None:
    whole = table(rows)
    hasher = TableHasher(SCHEMA)
    for batch in whole.to_batches(max_chunksize=size):
        hasher.update(batch)
    assert hasher.hexdigest() == hash_table(whole)
    padded = table([*rows, *rows])  # a slice with an offset into larger buffers
    assert hash_table(padded.slice(len(rows))) == hash_table(whole)


@given(st.lists(row, max_size=6), st.lists(row, max_size=6))
def test_different_rows_have_different_hashes(first: list[dict], second: list[dict]) -> None:
    same = table(first).equals(table(second))
    assert (hash_table(table(first)) == hash_table(table(second))) == same


def test_null_differs_from_empty_and_cuts_between_values_count() -> None:
    def one(values: list, kind: pa.DataType) -> str:
        return hash_table(pa.table({"a": pa.array(values, kind)}))

    assert one([None], pa.string()) != one([""], pa.string())
    assert one(["ab", ""], pa.string()) != one(["a", "b"], pa.string())
    assert one([["a"], ["b"]], pa.list_(pa.string())) != one([["a", "b"], []], pa.list_(pa.string()))
    assert one([None], pa.list_(pa.string())) != one([[]], pa.list_(pa.string()))
    assert one([1], pa.int32()) != one([1], pa.int64())


def test_json_has_one_byte_string_per_value() -> None:
    assert canonical_json({"b": 1, "a": [True, None, "é"]}) == '{"a":[true,null,"é"],"b":1}'.encode()
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})


@given(st.lists(st.one_of(st.none(), st.binary(min_size=16, max_size=16)), max_size=6), st.integers(1, 4))
def test_bytes_of_one_length_and_uuids_hash_by_their_bytes(values: list, size: int) -> None:
    fixed = pa.array(values, pa.binary(16))
    for column in (fixed, pa.ExtensionArray.from_storage(pa.uuid(), fixed), pa.StructArray.from_arrays([fixed], ["a"])):
        whole = pa.table({"a": column})
        hasher = TableHasher(whole.schema)
        for batch in whole.to_batches(max_chunksize=size):
            hasher.update(batch)
        assert hasher.hexdigest() == hash_table(whole)
        turned = whole.take(pa.array(range(len(values))[::-1], pa.int64()))
        assert (hash_table(turned) == hash_table(whole)) == (values == values[::-1])


@given(st.lists(st.one_of(st.none(), st.text(max_size=6)), max_size=12), st.data())
def test_texts_hashed_from_their_buffers_are_hashed_as_by_kernels(texts: list[str | None], data: st.DataObject) -> None:
    under = pa.array([each or "under a null" for each in texts], pa.string())
    mask = pa.array([each is not None for each in texts], pa.bool_())
    validity = pa.array([each is not None for each in texts]).buffers()[1] if texts else None
    columns = {
        str(kind): pa.array(texts, pa.string()).cast(kind)
        for kind in (pa.string(), pa.large_string(), pa.large_binary())
    }
    columns["filled"] = pa.Array.from_buffers(pa.string(), len(texts), [validity, *under.buffers()[1:]])
    table = pa.table(columns).slice(data.draw(st.integers(0, len(mask))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "_spans", lambda array: None)
        by_kernels = hash_table(table)
    assert hash_table(table) == by_kernels
