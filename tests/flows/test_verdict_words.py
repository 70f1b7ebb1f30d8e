"""What every surface says of a verdict: what was proven, and no more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytest
from commands import augmill, write_recipe
from hypothesis import given
from hypothesis import strategies as st

from augmill.flows import report as flow_report
from augmill.flows.outcome import NEXT
from augmill.tasks.gate.interval import Interval
from augmill.tasks.gate.verdict import Gains, Rule, decide, explain, headline, proven, sight, true_effect
from augmill.tasks.report import ReportEvidence, report_markdown

UP, DOWN, WIDE = Interval(2, 1, 3), Interval(-2, -3, -1), Interval(-1.3, -6, 2.2)
GAIN, LOSS, NOTHING = Gains(UP, UP, UP), Gains(DOWN, UP, UP), Gains(WIDE, WIDE, WIDE)
TO_PLACEBO, TO_BOTH = Gains(UP, DOWN, UP), Gains(DOWN, DOWN, UP)
FOCUS, GUARDED = Gains(UP, UP, UP, (WIDE, UP)), Gains(UP, UP, UP, (DOWN, UP))
CLOSE = Interval(-1, -2.5, 0.4)  # a loss is likely, and not proven
NEARLY = Gains(DOWN, CLOSE, UP, (CLOSE, UP))
ANY, MORE = Rule("superior", 0, 8, 0.95), Rule("superior", 1.5, 8, 0.95)
LAX, STRICT = Rule("not_worse", 0, 8, 0.95), Rule("not_worse", 0, 0.5, 0.95)

# Every sentence there is. (rule, gains): (the verdict, the headline, how the reason begins)
SENTENCES: list[tuple[Rule, Gains, str, str, str]] = [
    (ANY, GAIN, "published", "The synthetic rows help: a gain is proven.", "The mix is proven to gain more than 0 points: "),
    (
        Rule("superior", 0.5, 8, 0.95), GAIN, "published",
        "The synthetic rows help: a gain of more than 0.5 points is proven.",
        "The mix is proven to gain more than 0.5 points: ",
    ),
    (
        ANY, FOCUS, "published", "The synthetic rows help the focus labels: a gain is proven.",
        "The mix is proven to gain more than 0 points: ",
    ),
    (ANY, NOTHING, "inconclusive", "No gain is proven.", "Nothing is proven: "),
    (MORE, NOTHING, "inconclusive", "No gain of more than 1.5 points is proven.", "Nothing is proven: "),
    (
        MORE, GAIN, "inconclusive", "A gain is proven, but not one of more than 1.5 points, which the rule asks for.",
        "Too little is proven: ",
    ),
    (
        ANY, LOSS, "harmful", "The synthetic rows do harm: a loss against the real rows alone is proven.",
        "The mix is proven to lose: against the real rows alone ",
    ),
    (
        ANY, TO_PLACEBO, "harmful",
        "Repeating real rows does better than the synthetic rows: a loss against the placebo is proven.",
        "The mix is proven to lose: against the placebo ",
    ),
    (
        ANY, TO_BOTH, "harmful",
        "The synthetic rows do harm: a loss against the real rows alone and the placebo (real rows repeated) is proven.",
        "The mix is proven to lose: against the real rows alone ",
    ),
    (
        ANY, NEARLY, "harmful", "The synthetic rows do harm: a loss against the real rows alone is proven.",
        "The mix is proven to lose: against the real rows alone ",
    ),
    (
        ANY, GUARDED, "harmful", "The synthetic rows do harm: a loss over all labels is proven.",
        "The mix is proven to lose: over all labels ",
    ),
    (
        LAX, NOTHING, "published", "The synthetic rows are not worse by more than 8 points; no gain is proven.",
        "The mix is proven to lose at most 8 points, and not proven to gain: ",
    ),
    (
        LAX, LOSS, "published",
        "The synthetic rows are proven to lose, but not more than the 8 points that the rule allows.",
        "The mix is proven to lose, but at most 8 points: against the real rows alone ",
    ),
    (
        LAX, GAIN, "published", "The synthetic rows help: a gain is proven.",
        "The mix is proven to gain more than 0 points, where the rule asks only that it lose at most 8: ",
    ),
    (
        STRICT, NOTHING, "inconclusive", "It is not proven that the synthetic rows lose at most 0.5 points.",
        "Nothing is proven: ",
    ),
    (
        STRICT, LOSS, "harmful", "The synthetic rows do harm: a loss against the real rows alone is proven.",
        "The mix is proven to lose: against the real rows alone ",
    ),
]  # fmt: skip
ARRANGED: dict[Literal["real", "placebo"], str] = {
    "real": "Real rows repeated (or weighted) are not proven to beat the real rows as they are.",
    "placebo": "Real rows repeated (or weighted) to the mix's class counts are proven to beat them as they are.",
}


@pytest.mark.parametrize("better", ["real", "placebo"])
@pytest.mark.parametrize(("rule", "gains", "verdict", "said", "reason"), SENTENCES)
def test_every_rule_verdict_and_better_arm_has_its_sentence(
    rule: Rule, gains: Gains, verdict: Any, said: str, reason: str, better: Literal["real", "placebo"]
) -> None:
    assert decide(gains, rule) == verdict
    assert proven(verdict, rule, gains) == said
    found = explain(verdict, better, gains, rule, 500).reason
    assert found.startswith(reason)
    assert found.endswith(ARRANGED[better]) == (verdict != "published")


BOUNDS = st.lists(st.floats(-20, 20), min_size=3, max_size=3).map(sorted).map(lambda b: Interval(b[1], b[0], b[2]))
RULES = st.builds(Rule, st.sampled_from(["superior", "not_worse"]), st.floats(0, 20), st.floats(0, 20), st.just(0.95))


@given(st.builds(Gains, BOUNDS, BOUNDS, BOUNDS, st.one_of(st.just(()), st.tuples(BOUNDS, BOUNDS))), RULES)
def test_that_rows_help_is_said_only_of_a_proven_gain_and_that_they_do_harm_only_of_a_proven_loss(
    gains: Gains, rule: Rule
) -> None:
    verdict = decide(gains, rule)
    told = proven(verdict, rule, gains) + explain(verdict, "real", gains, rule, 500).reason
    both = (gains.mix_real, gains.mix_placebo)
    if "help" in told or "proven to gain more" in told:
        assert all(found.low > 0 for found in both)
    if "harm" in told or "proven to lose:" in told:
        assert any(found.high < 0 for found in (*both, *gains.guards))
    if "no gain is proven" in told.lower():
        assert not all(found.low > max(0, rule.min_gain if rule.kind == "superior" else 0) for found in both)
    assert not re.search(r"true (gain|loss) of -|gain (of|more than) -|For -| -0\.0", told.split(" the gain is ")[0])


@pytest.mark.parametrize(
    ("rule", "effect", "said"),
    [
        (ANY, 2.1, "a true gain of 2.1 points would show"),
        (LAX, -0.9, "a mix with a true loss of 0.9 points would be proven to lose at most 8 points"),
        (STRICT, 1.24, "a mix with a true gain of 1.2 points would be proven to lose at most 0.5 points"),
        (STRICT, -0.04, "a mix with neither a true gain nor a true loss would be proven to lose at most 0.5 points"),
    ],
)
def test_what_a_gate_can_see_is_said_as_a_gain_or_as_a_loss(rule: Rule, effect: float, said: str) -> None:
    assert sight(rule, effect) == said


@given(st.floats(-100, 100))
def test_an_effect_is_never_a_negative_gain(points: float) -> None:
    assert "-" not in true_effect(points)


def test_an_inconclusive_gate_under_not_worse_speaks_of_losses() -> None:
    found = explain("inconclusive", "real", Gains(WIDE, WIDE, WIDE), Rule("not_worse", 0, 5, 0.95), 500)
    assert "where a mix with a true gain of 2.1 points would be proven to lose at most 5 points." in found.reason
    assert "For a true loss of 1.3 points it takes about" in found.reason


def test_a_verdict_without_its_evidence_claims_nothing() -> None:
    for outcome in NEXT:
        assert not re.search(r"help|gain|harm", headline(outcome, None))


def test_the_laxer_rule_is_named_with_what_it_gives_up() -> None:
    assert re.search(r"not_worse publishes rows that gain nothing, or lose up to gate\.margin", NEXT["inconclusive"])


@pytest.fixture(scope="module")
def lax_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """surface: all that it says of a mix that not_worse published without a proven gain."""
    folder, sent = tmp_path_factory.mktemp("lax"), []
    gate = {"seeds": 3, "resamples": 200, "rule": "not_worse", "margin": 60.0}
    recipe = write_recipe(folder, gate=gate)
    with pytest.MonkeyPatch.context() as patch:
        render = flow_report.render_report

        def render_both(evidence: ReportEvidence) -> str:
            sent.append(report_markdown(evidence, "the page"))  # what Prefect gets, where it records
            return render(evidence)

        patch.setattr(flow_report, "render_report", render_both)
        ran = augmill("run", recipe)
    assert ran.last["outcome"] == "published", ran.out + ran.err
    release, store = ran.last["release"], folder / "store"
    location = Path(ran.last["location"])
    (report,) = (store / "private" / "reports").rglob("index.html")
    made = folder / "made.csv"
    made.write_text("text,label\n" + "".join(f"refund of my money {at},refund\n" for at in range(8)))
    judged = augmill(
        "judge", "--real", folder / "rows.csv", "--synthetic", made, "--rule", "not_worse", "--margin", 90, "--seeds", 3,
        "--report", folder / "judged.html",
    )  # fmt: skip
    assert judged.last["outcome"] == "published", judged.out + judged.err
    return {
        "run": ran.out + ran.err,
        "report": report.read_text(encoding="utf-8"),
        "artifact": "".join(sent),
        "card": (location / "README.md").read_text(encoding="utf-8"),
        "status": augmill("status", recipe).out,
        "releases": augmill("releases", "--store", store).out,
        "show": augmill("show", "--store", store).out,
        "audit": augmill("audit", release, "--store", store).out,
        "check": augmill("check", recipe).out.split("Recipe, as it")[0],
        "judge": judged.out,
        "judge's report": (folder / "judged.html").read_text(encoding="utf-8"),
    }


SURFACES = (
    "run", "report", "artifact", "card", "status", "releases", "show", "audit", "check", "judge", "judge's report",
)  # fmt: skip
SAY = re.compile(r"not worse by more than 60 points; no gain is proven|at most 60 points, and not proven to gain")


@pytest.mark.parametrize("surface", SURFACES)
def test_no_surface_says_that_rows_help_where_only_no_great_loss_is_proven(
    lax_run: dict[str, str], surface: str
) -> None:
    words = " ".join(lax_run[surface].split())
    assert words
    assert not re.search(
        r"\bhelp(s|ed|ing)?\b|proven to gain more|a gain is proven|true (gain|loss) of -|gain of -", words
    )
    if surface in ("run", "report", "artifact", "card", "releases", "show", "audit"):
        assert SAY.search(words), words
