"""A recipe's YAML is read safely: what is hostile, ambiguous or broken is refused at once, with its line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.contracts import UserError
from augmill.tasks.recipe_yaml import MAX_BYTES, Lines, read_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(14)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(BOMB, ("line 6", "more than 100,000 values"), id="alias bomb"),
        pytest.param("x: 1\na: &a [1, *a]\n", ("line 2", "refers to itself"), id="an alias of itself, in a list"),
        pytest.param("x: 1\na: &a {b: *a}\n", ("line 2", "refers to itself"), id="an alias of itself, in a map"),
        pytest.param("x: &x {<<: *x}\n", ("line 1", "refers to itself"), id="a merge key of itself"),
        pytest.param("a: 1\nb: !!python/object/apply:os.system ['true']\n", ("line 2", "tag"), id="a Python tag"),
        pytest.param("a: 1\nb: !own 1\n", ("line 2", "tag"), id="a tag of one's own"),
        pytest.param("a: 1\nb: {c: 1, c: 2}\n", ("line 2", "'c' stands twice"), id="a key twice, below"),
        pytest.param("a: 1\nb: 2\na: 3\n", ("line 3", "'a' stands twice"), id="a key twice"),
        pytest.param("a: 1\n[b]: 2\n", ("line 2", "not plain text"), id="a list as key"),
        pytest.param("a: 1\n\tb: 2\n", ("line 2", "not valid YAML", r"'\t'"), id="a tab"),
        pytest.param("a: 1\n---\nb: 2\n", ("line 2", "single document"), id="two documents"),
        pytest.param("a: {b: 1", ("line 1", "not valid YAML"), id="cut short"),
        pytest.param("[" * 1000, ("not valid YAML", "recursion"), id="too deep"),
        pytest.param("a: 1\0", ("not valid YAML", "#x0000"), id="a NUL"),
        pytest.param(b"a: caf\xe9\n", ("not UTF-8 at byte 6",), id="Latin-1"),
        pytest.param("a: 1\n".encode("utf-16"), ("not UTF-8 at byte 0",), id="UTF-16"),
        pytest.param("#" * (MAX_BYTES + 1), ("at most 250,000 bytes",), id="too big"),
    ],
)
def test_what_is_no_plain_document_is_refused_at_once(
    tmp_path: Path, text: str | bytes, words: tuple[str, ...]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert time.monotonic() - started < 10
    message = str(caught.value)
    assert all(word in message for word in ("recipe.yaml", "What to do: ", *words)), message
    assert caught.value.exit_code == 2 and "\n" not in caught.value.problem


def test_a_tag_runs_nothing(tmp_path: Path) -> None:
    path, made = tmp_path / "recipe.yaml", tmp_path / "made"
    path.write_text(f"a: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{made}']]\n")
    with pytest.raises(UserError):
        read_yaml(path)
    assert not made.exists()


def test_aliases_that_stay_small_are_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("a: &a {x: 1, y: [2]}\nb: *a\nc: {<<: *a, x: 3}\n")
    document, _ = read_yaml(path)
    assert document == {"a": {"x": 1, "y": [2]}, "b": {"x": 1, "y": [2]}, "c": {"x": 3, "y": [2]}}


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbfdataset: a\n")
    assert read_yaml(path)[0] == {"dataset": "a"}


@given(st.dictionaries(st.from_regex(r"k[a-z]{1,8}", fullmatch=True), st.integers(), min_size=1), st.integers(0, 5))
def test_the_line_of_a_key_is_where_it_stands(document: dict[str, int], above: int) -> None:
    # Nested two deep below a list, behind comments: what a location of a generator's option looks like.
    inner = "".join(f"\n    {name}: {value}" for name, value in document.items())
    text = "# a comment\n" * above + "generators:\n  - use: rules" + inner + "\n"
    lines = Lines(yaml.compose(text))
    for name in document:
        written = text.splitlines()[lines.of(("generators", 0, name)) - 1]
        assert written.strip().startswith(f"{name}:")
