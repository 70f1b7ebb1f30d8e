"""A thousand malformed recipes and source files: each ends well or says what to do; none hangs, writes elsewhere, swells.

What docs/measured.md reports comes from the same code: tests/benchmarks/fuzz.py.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import fuzz
import pytest
from commands import augmill, refused, write_recipe
from fuzz_inputs import make_input

UTF16 = "text,label\nsome words,a\n".encode("utf-16-le")
# What the fuzzer found: (the file's bytes, changes of the recipe, exit code, what is said).
FOUND: dict[str, tuple[bytes | None, dict[str, Any], int, list[str]]] = {
    "ASCII with many NULs": (b"a\0\0b\0,\n" * 9, {}, 3, ["the encoding cannot be told"]),
    "UTF-16 without its mark": (UTF16, {"source": {"path": "x.csv", "encoding": "utf-16"}}, 3, ["not utf-16", "BOM"]),
    "UTF-16 that breaks off": (UTF16 + b"\x00\xd8" * 3, {}, 3, ["not utf-16-le near byte", "source.encoding"]),
    "a codec not of lines": (b"a", {"source": {"path": "x.csv", "encoding": "punycode"}}, 2, ["no text codec"]),
    "a header of 20,001 columns": (b"," * 20_000 + b"\n", {}, 3, ["at most 20,000 columns, found 20,001"]),
    "all of the machine": (None, {"source": {"path": "/"}}, 2, ["the whole file system"]),
    "nobody's home": (None, {"source": {"path": "~nobody-here/x"}}, 2, ["no such home directory"]),
    "too long a name": (None, {"source": {"path": "x" * 300}}, 2, ["file name too long"]),
    "a trainer that is a section": (None, {"trainer": {"use": {"a": 1}}}, 2, ["there is no trainer"]),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once_is_told_in_one_message(tmp_path: Path, name: str) -> None:
    content, changes, code, words = FOUND[name]
    if content is not None:
        (tmp_path / "x.csv").write_bytes(content)
        changes = {"source": {"path": "x.csv"}} | changes
    refused(augmill("check", write_recipe(tmp_path, **changes)), code, words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("refuse: {2026-01-01: 1}", ["unknown key '2026-01-01'", "line"]),
        ("seed: !!timestamp x", ["not valid yaml"]),
        ("seed: !!bool x", ["not valid yaml"]),
    ],
)
def test_yaml_that_no_value_can_be_made_of_is_told_in_one_message(tmp_path: Path, line: str, words: list[str]) -> None:
    recipe = write_recipe(tmp_path)
    recipe.write_text(recipe.read_text().replace("seed: 0\n", "") + line + "\n")
    refused(augmill("check", recipe), 2, words)


def test_an_input_is_the_same_whenever_it_is_made() -> None:
    forward = [make_input(1, number) for number in range(100)]
    assert forward == [make_input(1, number) for number in reversed(range(100))][::-1]
    assert make_input(1, 3) != make_input(2, 3)


@pytest.mark.slow
def test_a_thousand_malformed_inputs_each_end_well_or_with_what_to_do() -> None:
    outcomes: Counter[str] = Counter()
    for answer in fuzz.fuzz(iter(range(1_000)), seed=3):
        outcomes[answer["outcome"]] += 1
        assert not answer["problems"], answer
    assert set(outcomes) <= {"ok", "UserError", "DataError", "NoRows", "UnsoundSource"}
    assert min(outcomes["ok"], outcomes["UserError"], outcomes["DataError"]) > 20  # inputs of every kind
