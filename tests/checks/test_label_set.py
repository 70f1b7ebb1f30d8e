"""Label set: classes that no train row has."""

from __future__ import annotations

from pathlib import Path

from checking import Bench, candidates, real, sentences


def test_a_class_outside_train_is_refused_whatever_the_text(tmp_path: Path) -> None:
    bench = Bench("label_set", tmp_path, real(sentences(3)))
    rows = [("card", "x"), ("Card", "x"), (None, "x"), ("other", "x"), ("pin", "")]
    assert bench.reasons(candidates(rows)) == [None, "unknown_label", "unknown_label", "unknown_label", None]
