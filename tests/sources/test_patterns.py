"""Expressions over names of files: what Python's engine finds, in time that grows with the name and no faster."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.errors import UserError
from augmill.tasks.recipe.nights import Partitions
from augmill.tasks.sources import SourceOptions, list_files
from augmill.tasks.sources.patterns import found_in, glob_pattern

PATTERNS = [
    r"(\d{4}-\d{2}-\d{2})",
    r"(?P<day>\d{8})",
    r"day=(\d.*)/",
    r"_(\w+)\.csv",
    r"^([^\W_]+)-",
    r"([\w.-]+?)[/_]",
    r"(\S+)\s",
    r"a{,2}(b)",
    r"([]a[^]+)",
    r"([a[]+)b",
    r"(?i:PART)-(\d+)",
    r"(?:x|xy)(\D*)\Z",
    r"\A(.+?)(?:\.gz)?$",
    r"(\[\w\])",
]
names = st.text(st.sampled_from("ab_0123-./=[]^ xyPART店é１ csvgz"), max_size=30)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(name=names)
def test_an_expression_finds_what_pythons_own_engine_finds(pattern: str, name: str) -> None:
    if "[^" in pattern and r"\W" in pattern and not name.isascii():
        return  # within brackets the opposite of a class is of ASCII
    found = re.search(pattern, name)
    assert found_in(name, pattern) == (None if found is None else found[1])


@pytest.mark.parametrize("name", ["2026-10-01", "a/day=2026-10-01/x.csv"])
def test_a_named_group_is_the_group(name: str) -> None:
    assert found_in(name, r"(?P<day>\d{4}-\d\d-\d\d)") == "2026-10-01"
    assert found_in(f"\udce9{name}", r"(?P<day>\d{4}-\d\d-\d\d)") == "2026-10-01"  # of bytes that are no text


@pytest.mark.parametrize("pattern", [r"^(?:([a-z])+.)+[A-Z]$", r"(a|aa)+$", r"(?:a?){26}(a{26})"])
def test_a_name_takes_no_longer_than_it_is_long(pattern: str) -> None:
    began = time.process_time()
    found_in("a" * 2000 + "!", pattern)
    assert time.process_time() - began < 10  # minutes where it backtracks


@pytest.mark.parametrize(
    "pattern", [r"(\d+)(?=\.csv)", r"(?<!x)(\d+)", r"(\d)\1", r"(?P<d>\d)(?P=d)", r"(\d++)", r"(?>\d)(a)", r"(a{2000})"]
)
def test_what_no_linear_engine_matches_is_refused_by_the_recipe(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"pattern: cannot be matched in linear time \(.*write it without"):
        Partitions(pattern=pattern)


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "not a regular expression"), ("a", "exactly one group; found 0")]
)
def test_what_is_no_expression_is_refused_as_such(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Partitions(pattern=pattern)


def test_a_glob_of_many_stars_takes_no_longer_than_the_key_is_long() -> None:
    began = time.process_time()
    assert glob_pattern("*a" * 12 + "*b").fullmatch("a" * 200) is None
    assert glob_pattern("**/*a*.csv").fullmatch("x/y/za.csv") is not None
    assert time.process_time() - began < 10  # minutes where it backtracks


def test_a_bracket_that_is_none_is_the_users_to_mend() -> None:
    with pytest.raises(ValueError, match=r"'x/\[z-a\]\*' is not a glob"):
        glob_pattern("x/[z-a]*")
    with pytest.raises(UserError):
        list_files(SourceOptions(path="/nowhere/[z-a]*.csv"))
