"""The report as Markdown says what the page says, shows no row, and lets nothing that stems from data mean anything."""

from __future__ import annotations

import copy
import html
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from report_sample import evidence, whole_evidence, with_texts

from augmill.tasks.report.report import (
    LEFT_OUT,
    LONGEST_VALUE,
    MARKDOWN_BYTES,
    ReportEvidence,
    render_report,
    report_markdown,
)
from augmill.tasks.rows.shown import PAGE, visible

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
PLACE = "/srv/store/private/reports/support_intents/2026-11-24-0f/index.html"
OPTIONAL = sorted(set(whole_evidence()) - {"dataset", "snapshot", "outcome", "reason", "next_action"})
# What some renderer, somewhere, takes for more than text.
PIECES = """\
` `` ``` ~~~ * ** _ __ [ ] ( ) < > | \\| \\\\ & # $ ~~ ! ![ ![a](b) [a](b) [a]: [^1] - + = : 1. 1) --- === ***
:-: |-|-| <b> </td> <!-- --> <script>alert(1)</script> <https://a.example> &lt; &#60; &amp; https:// http://a.example/b?c=d
HTTPS://A.EXAMPLE ftp://a.example www. www.a.example WWW.A.EXAMPLE @ @@ anna@a.example mailto:anna@a.example {{ {% 7*7 }}
"""
WHITE = [" ", "    ", "\t", "\n", "\n\n", "\r", "\x00", "\x1b[2J", "\u202e", "\u200b", "\u2028", "\u00a0", "\ud800"]
NASTY = st.lists(st.sampled_from([*PIECES.split(), *WHITE, "a", "7"]) | st.text(max_size=4), max_size=6).map("".join)
# As GFM's renderers look for addresses: in the text, after escapes are undone.
ADDRESS = re.compile(r"(https?|ftp)://|\bwww\.|\w@\w", re.IGNORECASE)


def inside(tokens: list[Token]) -> list[list[Token]]:
    return [token.children or [] for token in tokens if token.type == "inline"]


def texts(children: list[Token]) -> list[str]:
    """Of a paragraph or cell the texts that stand whole, between what is no text."""
    runs = [""]
    for child in children:
        if child.type in ("text", "text_special"):
            runs[-1] += child.content
        else:
            runs.append("")
    return runs


def shape(markdown: str) -> list[Any]:
    """Everything but the texts: blocks with their tags, and what stands in them; code spans count as text."""
    found: list[Any] = []
    for token in PARSER.parse(markdown):
        found.append((token.type, token.tag, token.info))
        marks = {"text", "text_special", "code_inline"}
        found += [child.type for child in token.children or [] if child.type not in marks]
    return found


def columns(markdown: str) -> list[int]:
    """Cells of every line of a table as it is written: a parser would cut or fill a line that has others."""
    return [len(re.findall(r"(?<!\\)\|", line)) - 1 for line in markdown.splitlines() if line.startswith("|")]


@given(NASTY, NASTY)
def test_no_text_of_the_data_means_anything(before: str, after: str) -> None:
    """Only texts differ from those of a plain night: no link, picture, HTML, heading, list or column is new."""
    nasty = with_texts(whole_evidence(), lambda text: f"{before}{text}{after}")
    wanted, found = report_markdown(whole_evidence(), PLACE), report_markdown(nasty, f"{before}{PLACE}{after}")
    assert shape(found) == shape(wanted)
    assert columns(found) == columns(wanted)
    tokens = PARSER.parse(found)
    assert not [run for children in inside(tokens) for run in texts(children) if ADDRESS.search(run)]
    spans = {child.content for children in inside(tokens) for child in children if child.type == "code_inline"}
    assert not [span for span in spans if not re.fullmatch(r"(@|://|\.)+", span)]
    # \n joins lines of ours; every other control character of the data is written out.
    assert found.replace("\n", "") == visible(found.replace("\n", ""), keep=PAGE)


def require_read_as_it_is(text: str) -> None:
    bare: ReportEvidence = {"dataset": text, "snapshot": "s", "outcome": "harmful", "reason": "r", "next_action": text}
    plain, found = report_markdown({**bare, "dataset": "d", "next_action": "n"}), report_markdown(bare)
    shown = visible(text, keep=PAGE.lstrip("\n\t")).strip()
    assert shape(found) == shape(plain)
    read = ["".join(child.content for child in children) for children in inside(PARSER.parse(found))]
    assert (read[0], read[4]) == (f"{shown} snapshot s".strip(), f"Next: {shown}".strip())


@given(NASTY)
def test_a_text_of_the_data_reads_as_it_is(text: str) -> None:
    require_read_as_it_is(text)


@pytest.mark.parametrize("piece", [*PIECES.split(), "1234567890."])
def test_each_mark_of_markdown_reads_as_it_is(piece: str) -> None:
    for text in (piece, f"{piece} a", f"{piece} {piece} {piece}", f"a {piece}b{piece} c", f"a\n{piece} b"):
        require_read_as_it_is(text)


@pytest.mark.parametrize("part", ["", *OPTIONAL])
def test_the_markdown_has_the_page_s_sections_in_its_order(part: str) -> None:
    found: Any = whole_evidence()
    found.pop(part, None)
    page = re.sub(r"<h3>(Accepted|Refused)</h3>", "", render_report(found))  # samples
    wanted = [html.unescape(text) for text in re.findall(r"<h[123]>(.*?)</h[123]>", page)]
    tokens = PARSER.parse(report_markdown(found))
    heads = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    assert heads == wanted


def words(text: str) -> str:
    """Without markup, and without the punctuation that stands for it."""
    return " ".join(re.sub(r"[(),±|]|<[^>]*>", " ", html.unescape(text).replace("\\", "")).split())


def test_the_markdown_has_every_number_of_the_page_s_tables() -> None:
    page, markdown = render_report(whole_evidence()), report_markdown(whole_evidence())
    rows = [words(row) for row in re.findall(r"<tr>(<th scope.*?|<td.*?)</tr>", page, re.DOTALL)]
    lines = [words(line) for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) > 25 and [row for row in rows if row not in lines] == []


def test_the_markdown_says_what_the_page_says() -> None:
    page, markdown = words(render_report(whole_evidence())), words(report_markdown(whole_evidence()))
    for said in (
        "Released: the real rows together with the accepted synthetic rows.",
        "against the placebo real rows repeated the gain is +2.1 points",
        "Each bound holds with 95% confidence over held-out rows 10 training seeds and 10 draws.",
        "rows to judge by: validation and in 5 folds train and 409 test rows; four times in five",
        "sent 1 204 requests to its endpoint 3 of them retries",
        "for 0.4213 by the recipe's prices. 40 answers were kept from before.",
        "11 passed 1 nothing to validate.",
        "14 of 14 expectations evaluated passed.",
        "1 448 rows were read from 2 files 1 422 taken. Refused: no text 19 unknown label 7.",
        "Since 2026-11-01 the rows moved by 0.120 0: alike 1: nothing in common : label mix 0.100",
        "Warning: 3 equal texts stand under several labels.",
        "ttr: expect_column_max_to_be_between failed found 0.2",
    ):
        assert said in page and said in markdown, said
    assert "lower bound above min_gain +0.5." in markdown
    assert words(f"The report: {PLACE}") in words(report_markdown(evidence(), PLACE)) and PLACE not in markdown


@given(NASTY)
def test_no_row_s_text_is_in_the_markdown(text: str) -> None:
    """It goes to Prefect's database; what shows rows stays in the store's private side."""
    found: Any = whole_evidence()
    for rows in found["samples"].values():
        for row in rows:
            row["text"], row["row_id"] = f"zebra{text}", "quagga"
            row["nearest"] |= {"text": f"{text}okapi", "row_id": "quagga"}
    page, markdown = render_report(found), report_markdown(found, PLACE)
    assert all(name in page for name in ("zebra", "okapi", "quagga"))
    assert not [name for name in ("zebra", "okapi", "quagga") if name in markdown]
    assert "See the report itself for samples: it shows rows." in markdown
    assert markdown == report_markdown({**copy.deepcopy(found), "samples": evidence()["samples"]}, PLACE)


def with_classes(count: int, length: int) -> ReportEvidence:
    found: Any = whole_evidence()
    found["train"] = {f"class_{place:05d}{'<' * (length - 11)}": place for place in range(count)}
    return with_texts(found, lambda text: text)


def test_two_hundred_classes_are_shown_and_the_others_counted() -> None:
    markdown = report_markdown(with_classes(1_000, 40))
    known = 200 - 9  # those of the sample's gate have none in train, and come first
    shown = {place for place in range(1_000) if f"class\\_{place:05d}" in markdown}
    assert shown == set(range(known)) and markdown.count("\n\nand 809 more classes\n\n") == 3


def test_what_is_too_long_for_prefect_is_left_out_and_said() -> None:
    whole = report_markdown(with_classes(1_000, 40))
    assert LEFT_OUT not in whole and len(whole.encode()) < MARKDOWN_BYTES
    cut = report_markdown(with_classes(1_000, LONGEST_VALUE))
    assert LEFT_OUT in cut and len(cut.encode()) <= MARKDOWN_BYTES
    assert re.findall(r"(?m)^#+ .*", cut) == re.findall(r"(?m)^#+ .*", whole)
    many: Any = whole_evidence()
    many["source"]["warnings"] = [f"{place} {'x' * 400}" for place in range(1_000)]
    assert MARKDOWN_BYTES - 1_000 < len(report_markdown(many).encode()) <= MARKDOWN_BYTES
    many["reason"] = "r" * 10 * LONGEST_VALUE
    assert f"R{'r' * (LONGEST_VALUE - 1)} \u2026\n" in report_markdown(many)


@pytest.mark.parametrize("outcome", ["published", "harmful", "inconclusive", "not_produced", "unsound_source"])
def test_the_markdown_of_a_run_that_ended_early_says_why(outcome: str) -> None:
    bare: ReportEvidence = {
        "dataset": "d",
        "snapshot": "all",
        "outcome": outcome,
        "next_action": "Look into it.",
        "reason": "the model's weights are gone",
    }
    text = report_markdown(bare)
    for said in (f"**{outcome.replace('_', ' ').capitalize()}.**", "Nothing was released.", "**Next:** Look into it."):
        assert said in text
    assert "The model's weights are gone" in text and "Samples" not in text and "|" not in text
