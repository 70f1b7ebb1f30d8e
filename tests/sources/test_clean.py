"""Blocks parsed by pyarrow give what our own readers give, line by line, for whatever stands in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzz_inputs import PIECES
from fuzz_readers import CELLS, OBJECTS, Damaged, compare, damaged_file, everything
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from augmill.tasks.sources import delimited, jsonl

CSV = (*CELLS, *PIECES, b"a,b\n", b"some words,c\n", b'"x, y",d\n', b"caf\xc3\xa9,e\r\n", b",\n", b"\n")
LINES = (
    *OBJECTS,
    *PIECES,
    b'{"text":"some words","n":1}\n',
    b'{"text":"caf\xc3\xa9","n":2,"f":0.5}\n',
    b'{"text":null}\n',
)
OPTIONS = st.sampled_from(
    [{}, {}, {}, {"max_cell_bytes": 10}, {"bom": "refuse"}, {"nul": "refuse_row"}, {"quote": "none"}, {"quote": "'"}]
)
BLOCKS = st.sampled_from([16, 64, 300, 1 << 20])


@pytest.mark.parametrize("start", range(0, 100, 50))
def test_a_damaged_file_gives_the_same_by_either_reader(tmp_path: Path, start: int) -> None:
    """tests/benchmarks/fuzz_readers.py has 10,000 more of them."""
    for number in range(start, start + 50):
        fast, slow = compare(damaged_file(3, number), tmp_path)
        assert fast == slow, number


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(CSV), max_size=25), OPTIONS, BLOCKS)
def test_any_records_give_the_same_by_either_reader(
    tmp_path: Path, pieces: list[bytes], options: dict, block: int
) -> None:  # type: ignore[type-arg]
    fast, slow = compare(Damaged("rows.csv", b"text,label\n" + b"".join(pieces), options, block), tmp_path)
    assert fast == slow


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(LINES), min_size=1, max_size=25), OPTIONS, BLOCKS)
def test_any_objects_give_the_same_by_either_reader(
    tmp_path: Path, pieces: list[bytes], options: dict, block: int
) -> None:  # type: ignore[type-arg]
    fast, slow = compare(Damaged("rows.jsonl", b'{"text":"a"}\n' + b"".join(pieces), options, block), tmp_path)
    assert fast == slow


def test_rows_without_anything_odd_are_never_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = list[str]()
    monkeypatch.setattr(delimited, "is_odd", lambda line: slow.append(line) or False)
    row = jsonl.parse_row
    monkeypatch.setattr(jsonl, "parse_row", lambda line, *rest: slow.append(line) or row(line, *rest))
    rows = [
        {"text": f'row {at}, said "é"\nand more', "n": at, "share": at / 7, "yes": at % 2 == 0} for at in range(5000)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    cells = "".join(f'"row {at}, said ""é""\nand more",{at}\n' for at in range(5000))
    (tmp_path / "a.csv").write_text(f"text,n\n{cells}", encoding="utf-8")
    for name in ("a.jsonl", "a.csv"):
        slow.clear()
        assert len(everything(tmp_path / name, {})["places"]) == 5000
        assert len(slow) <= 4, name  # the header each time, or the line that shows the first keys


def test_one_odd_line_sends_few_others_to_the_slow_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = list[str]()
    monkeypatch.setattr(delimited, "is_odd", lambda line: taken.append(line) or False)
    lines = [f"row {at},a\n" for at in range(400_000)]
    lines[200_000] = 'row, "quoted in the middle"\n'
    (tmp_path / "a.csv").write_text("text,n\n" + "".join(lines))
    assert len(everything(tmp_path / "a.csv", {})["places"]) == 400_000
    assert len(taken) < 10_000
