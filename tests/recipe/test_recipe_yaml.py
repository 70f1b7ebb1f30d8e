"""A recipe's YAML is read safely: what is hostile, ambiguous or broken is refused at once, with its line."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from augmill.flows.cli.schema import yaml_text
from augmill.tasks.errors import UserError
from augmill.tasks.recipe.document import Lines, read_yaml
from augmill.tasks.recipe.origin import MAX_BYTES

STAIRS = "".join(f"a{at}: &a{at} [{f'*a{at - 1}' if at else 1}]\n" for at in range(2_000))
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(14)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(BOMB, ("line 6", "more than 100,000 values"), id="alias bomb"),
        pytest.param("a: " + "[" * 101 + "]" * 101, ("line 1", "more than 100 levels"), id="many levels"),
        pytest.param(STAIRS, ("more than 100 levels",), id="aliases one within the other"),
        pytest.param("x: 1\na: &a [1, *a]\n", ("line 2", "refers to itself"), id="an alias of itself, in a list"),
        pytest.param("x: 1\na: &a {b: *a}\n", ("line 2", "refers to itself"), id="an alias of itself, in a map"),
        pytest.param("x: &x {<<: *x}\n", ("line 1", "refers to itself"), id="a merge key of itself"),
        pytest.param("a: 1\nb: !!python/object/apply:os.system ['true']\n", ("line 2", "tag"), id="a Python tag"),
        pytest.param("a: 1\nb: !own 1\n", ("line 2", "tag"), id="a tag of one's own"),
        pytest.param("a: 1\nb: {c: 1, c: 2}\n", ("line 2", "'c' appears twice"), id="a key twice, below"),
        pytest.param("a: 1\nb: 2\na: 3\n", ("line 3", "'a' appears twice"), id="a key twice"),
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
    assert time.monotonic() - started < 60
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


# Plain scalars of YAML 1.2's core schema (10.3.2), and what YAML 1.1 made of the others.
SCALARS = [
    *((word, True) for word in ("true", "True", "TRUE")),
    *((word, False) for word in ("false", "False", "FALSE")),
    *((word, None) for word in ("null", "Null", "NULL", "~", "")),
    *((word, word) for word in ("NO", "no", "yes", "on", "Off", "y", "tRUE", "nUll")),
    *((number, int(number)) for number in ("0", "-7", "+12", "010", "0777")),
    *(("0o17", 15), ("0x1F", 31)),
    *((word, word) for word in ("1_000", "0b11", "12:30", "1:2:3", "190:20:30", "0x", "0o8", "--1", "1-2")),
    *((number, float(number)) for number in ("1.0", "-.5", "1.", "1e5", "1E-5", "+12.5e3")),
    *((".inf", float("inf")), ("-.INF", float("-inf"))),
    *((word, word) for word in ("2024-01-01", "2024-01-01 10:00:00", "1e", ".", "1.2.3", "=", "inf", "nan")),
]


@pytest.mark.parametrize(("written", "read"), SCALARS)
def test_a_plain_scalar_is_read_as_yaml_1_2_reads_it_and_a_quoted_one_is_text(
    tmp_path: Path, written: str, read: object
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"a: {written}\nb: '{written}'\nc: [{written or '~'}]\n")
    document, _ = read_yaml(path)
    assert document == {"a": read, "b": written, "c": [read]}
    assert [type(value) for value in document.values()] == [type(read), str, list]


@given(
    st.dictionaries(
        st.text("NOnoyes01:._-~ex", min_size=1, max_size=6).filter(lambda key: key.strip() == key), st.just(1)
    )
)
def test_every_key_is_read_as_it_is_written(document: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "recipe.yaml"
        path.write_text("".join(f"? {yaml_text(key)}\n: 1\n" for key in document) or "{}")
        assert read_yaml(path)[0] == document
        plain = {key: value for key, value in document.items() if key[0] not in "-~:._" and ": " not in f"{key} "}
        path.write_text("".join(f"{key}: 1\n" for key in plain) or "{}")
        assert read_yaml(path)[0] == plain


@given(st.text("NOnoyes01:._-~exTruefals ", max_size=8) | st.sampled_from([written for written, _ in SCALARS]))
def test_a_text_that_is_written_is_read_back_by_both_versions_of_yaml(text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "recipe.yaml"
        path.write_text(f"a: [{yaml_text(text)}]\n")
        assert read_yaml(path)[0] == yaml.safe_load(path.read_text()) == {"a": [text]}
