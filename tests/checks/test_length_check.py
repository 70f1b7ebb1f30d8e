"""Length: empty rows and rows far outside the train rows' lengths."""

from __future__ import annotations

from pathlib import Path

from checking import Bench, candidates, real, sentences


def test_empty_too_short_and_too_long_rows_are_refused_and_real_ones_are_not(tmp_path: Path) -> None:
    bench = Bench("length", tmp_path, real(sentences(20)))
    long = " ".join(["why a fee was charged"] * 8)
    rows = [("fee", text) for text in ["", " \ufeff", "\u3000", "fee", long, "why was this fee charged to me today"]]
    found = bench.reasons(candidates(rows))
    assert found[0] == found[2] == "empty"
    assert found[1] is not None
    assert found[3:] == ["too_short", "too_long", None]
    assert bench.reasons(candidates(sentences(20, seed=3))) == [None] * 60


def test_characters_are_counted_as_a_reader_counts_them(tmp_path: Path) -> None:
    bench = Bench("length", tmp_path, real([("a", "❤️‍🔥👨‍👩‍👧‍👦नमस्ते"), ("a", "🇩🇪🙏🏽सं")] * 5))
    assert bench.learnt["fields"]["text"]["characters"] == [2, 8]  # 3 and 5, with the slack


def test_words_are_bounded_too_where_they_are_set_apart(tmp_path: Path) -> None:
    bench = Bench("length", tmp_path, real(sentences(20)))
    assert bench.reasons(candidates([("fee", "a b c d e " * 8)])) == ["too_long"]
    chinese = [("a", "文登区这些公路及危桥将进入封闭施工请注意绕行"), ("a", "深山发现的紫薇树桩村民看了无可奈何殊不知")]
    bounds = Bench("length", tmp_path / "zh", real(chinese * 5)).learnt["fields"]["text"]
    assert list(bounds) == ["characters"]


def test_it_abstains_where_lengths_have_no_pattern_but_still_refuses_empty_rows(tmp_path: Path) -> None:
    rows = [("a", "x" * 4**at) for at in range(1, 6)]
    bench = Bench("length", tmp_path, real(rows))
    assert bench.learnt["abstains"]
    assert bench.learnt["real_refused"] > 0.1
    assert bench.reasons(candidates([("a", "x" * 9999), ("a", "")])) == [None, "empty"]


def test_the_second_field_of_a_pair_has_bounds_of_its_own(tmp_path: Path) -> None:
    rows = sentences(10)
    train = real(rows, second=["yes"] * len(rows))
    bench = Bench("length", tmp_path, train, fields=("text", "text_b"))
    table = candidates(rows[:2]).append_column("text_b", [["yes", rows[0][1]]])
    assert bench.reasons(table) == [None, "too_long"]
