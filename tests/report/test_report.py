"""The report says what the evidence says, escapes what stems from data, fetches nothing, stands with parts missing."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from report_sample import evidence, ledger, with_texts

from augmill.tasks.report.report import ReportEvidence, class_rows, render_report, report_markdown, report_table


class Text(HTMLParser):
    """The words of a page outside its style, and whether its tags are balanced."""

    VOID = ("meta", "path", "rect", "link", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(page)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def test_the_page_says_what_the_evidence_says() -> None:
    text = Text(render_report(evidence())).text
    for told in (
        "The synthetic rows help: a gain of more than 0.5 points is proven.",
        "Released: the real rows together with the accepted synthetic rows.",
        "+4.2 gain over the real rows alone +2.9 to +5.6 points",
        "+2.1 gain over the placebo +0.8 to +3.5 points",
        "260 synthetic rows accepted target 267; 632 were asked for",
        "201 real rows in train and 1,221 held out",
        "min_gain +0.5",
        "On test, which is only reported mix over real +3.8 +2.5 to +5.2",
        "95% confidence, over held-out rows, 10 training seeds and 10 draws",
        "real rows alone 78.4 75.3 78.0 75.3",
        "812 validation rows and 409 test rows; four times in five a true gain of 1.9 points would show.",
        "gdpr_request 4 10 68.4 72.6 not judged",
        "refund_status 52 58 77.6 81.8 +4.2 \u22124.8 to +12.2",
        "632 asked 608 delivered 260 accepted 63 surplus (sound, not needed) 156 refused: label_consistency",
        "24 not delivered: unchanged",
        "causal_lm 223 217 99 27 91",
        "gdpr_request 48 41 7 label_consistency 30, near_train 11",
        "gdpr_request 4 \u2192 45",
        "real, median 46 synthetic, median 49",
        "label_consistency abstains 18.4%",
        "11 passed, 1 nothing to validate",
        "14 of 14 expectations evaluated, passed",
        "nearest real row, similarity 0.71",
        "1,448 rows were read from 2 files, 1,422 taken. Refused: no text 19, unknown label 7.",
        "public/support_intents/releases/5f0c2f6c9b1e44d7",
    ):
        assert told in text, told


def test_the_flow_shows_every_row_of_the_ledger_once() -> None:
    rows = ledger()["rows"]
    text = Text(render_report(evidence())).text
    shown = text[text.index("632 asked") : text.index("generator asked")]
    counts = [int(found) for found in re.findall(r"\d+", shown)]
    assert counts[0] == sum(row["asked"] for row in rows)
    assert counts[1] == sum(row["delivered"] for row in rows)
    assert sum(counts[2:]) == counts[0]


HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}&amp;"


def test_what_went_to_an_endpoint_is_told() -> None:
    spent = {"requests": 1204, "retries": 3, "rows_sent": 6020, "cached": 40, "tokens": 3, "micro_cost": 421_300}
    page: dict[str, Any] = {**evidence(), "spent": {"chat": spent | {"tokens_in": 240_000, "tokens_out": 61_000}}}
    text = Text(render_report(page)).text
    for said in (
        "chat sent 1,204 requests",
        "6,020 real rows",
        "240,000 tokens went out",
        "61,000 came back",
        "0.4213",
    ):
        assert said in text
    assert "by the recipe's prices" not in Text(render_report({**page, "spent": {"chat": spent}})).text


def test_whatever_stems_from_data_is_escaped() -> None:
    poisoned = with_texts(evidence(), lambda text: text + HOSTILE)
    page = render_report(poisoned)
    parsed = Text(page)
    assert parsed.open == []
    assert "script" not in parsed.tags and "img" not in parsed.tags
    assert page.count(HOSTILE) == 0 and page.count("&lt;script&gt;alert(1)") > 100


def test_the_page_fetches_nothing_and_is_the_same_every_time() -> None:
    page = render_report(evidence())
    assert page == render_report(copy.deepcopy(evidence()))
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link|<img", page)


@pytest.mark.parametrize("outcome", ["published", "harmful", "inconclusive", "not_produced", "unsound_source"])
def test_every_outcome_stands_without_its_optional_parts(outcome: str) -> None:
    bare: ReportEvidence = {
        "dataset": "d",
        "snapshot": "all",
        "outcome": outcome,
        "next_action": "Look into it.",
        "reason": "the model's weights are gone",
    }
    parsed = Text(render_report(bare))
    assert parsed.open == [] and "The model's weights are gone" in parsed.text
    assert "Nothing was released." in parsed.text
    assert "What was measured" not in parsed.text and "Where every row went" not in parsed.text
    assert report_table(bare) == []
    assert "gone" in report_markdown(bare)


@pytest.mark.parametrize("part", sorted(set(evidence()) - {"dataset", "snapshot", "outcome", "reason", "next_action"}))
def test_each_part_alone_may_be_missing(part: str) -> None:
    whole: Any = evidence()
    whole.pop(part, None)
    assert Text(render_report(whole)).open == []


def test_a_test_that_contradicts_validation_is_said() -> None:
    found: Any = evidence()
    found["gate"]["test"]["comparisons"]["mix-placebo"]["gains"]["accuracy"]["gain"] = -0.3
    assert "differs in sign against the placebo." in Text(render_report(found)).text


def test_many_classes_are_folded_not_dropped() -> None:
    found: Any = evidence()
    found["train"] = {f"class_{place:03d}": place for place in range(150)}
    page = render_report(found)
    assert "more classes</summary>" in page
    assert all(f"class_{place:03d}" in page for place in range(150))


def test_the_table_holds_one_flat_row_per_class() -> None:
    table = report_table(evidence())
    assert [row["class"] for row in table] == [row["label"] for row in class_rows(evidence())]
    first, last = table[0], table[-1]
    assert first | {"f1_real": 0, "f1_mix": 0} == {
        "class": "gdpr_request", "train": 4, "target": 48, "accepted": 41, "shortfall": 7, "f1_real": 0, "f1_mix": 0,
        "recall_gain": None, "recall_low": None, "recall_high": None,
        "recall_gain_over_placebo": None, "recall_low_over_placebo": None, "recall_high_over_placebo": None,
    }  # fmt: skip
    assert last["recall_gain"] == 4.2 and last["recall_gain_over_placebo"] == 2.1 and last["target"] == 0


def test_a_class_shows_its_gain_over_both_baselines() -> None:
    found = evidence()
    for pair, gain in (("mix-real", 1.7), ("mix-placebo", -2.3)):
        of_class = found["gate"]["validation"]["comparisons"][pair]["per_class"]
        next(each for each in of_class if each["judged"]).update(gain=gain, low=gain - 1, high=gain + 1)
    judged = next(each["label"] for each in of_class if each["judged"])
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", render_report(found), re.DOTALL)
    (row,) = [Text(each).text for each in rows if f">{judged}<" in each and "+1.7" in each]
    assert row.index("+1.7") < row.index("+0.7 to +2.7") < row.index("\u22122.3") < row.index("\u22123.3 to \u22121.3")
