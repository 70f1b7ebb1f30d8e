"""The report: one self-contained HTML page that says what was decided, on what evidence, and what to do next."""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Required, TypedDict

from augmill.tasks.gate.gauge import POINTS, Gauge
from augmill.tasks.gate.verdict import headline, rule_of, sight
from augmill.tasks.report.charts import Effect, dumbbell, flow, forest, histogram, marked, points, stacked, streams_of
from augmill.tasks.rows.shown import PAGE, POLICY, cut, visible

# --- What a report is made of: the parts the pipeline holds already, by name. Types only ------------------------------


class Nearest(TypedDict, total=False):
    """The real row a sample stands nearest to. ``similarity``: as its kind measures it, 0 to 1."""

    text: Required[str]
    drawn: str
    label: str
    row_id: str
    similarity: float


class Sample(TypedDict, total=False):
    """A synthetic row as the report shows it; ``reason`` where it was refused. ``drawn``: HTML, of our own making."""

    text: Required[str]
    drawn: str
    drawn_whole: bool  # it says all that the text does
    label: Required[str]
    generator: Required[str]
    row_id: str
    reason: str
    nearest: Nearest | None


class CheckFinding(TypedDict, total=False):
    """A check's own ``check.json`` (``abstains``, ``real_refused`` as a share of real rows, ``why``) under its name;

    ``thresholds``: name -> value, as they held in this run.
    """

    name: Required[str]
    abstains: Required[bool]
    real_refused: float | None
    why: str
    thresholds: dict[str, Any]


class Validation(TypedDict, total=False):
    """``shards``: outcome -> shards; ``release``: summary of ``validate_release``; ``docs``: relative link."""

    shards: dict[str, int]
    release: dict[str, Any] | None
    docs: str


class ReportEvidence(TypedDict, total=False):
    """All that a report shows; every part but the first five may be missing, and its section is then left out.

    The parts are what the pipeline holds already: ``gate`` is the gate's evidence (tasks/gate/judge.py), ``ledger`` the
    settled ledger.json, ``source`` ingest's summary.json. Numbers in ``gate`` are points and percent, or in the unit that
    it names. ``stratum``: what people call what the rows are counted by; "class" where it is not said.
    """

    dataset: Required[str]
    snapshot: Required[str]
    outcome: Required[str]  # published | harmful | inconclusive | not_produced | unsound_source
    reason: Required[str]
    next_action: Required[str]
    released: str | None  # mix | real | placebo | current (what stood before stays); None: nothing
    gate: dict[str, Any] | None
    stratum: str
    ledger: dict[str, Any] | None
    split: list[dict[str, Any]]  # plan.policy: adaptive: round, generator, asked, passed, gain, error, weight
    spent: dict[str, dict[str, int]]  # of generators that ask an endpoint: requests, rows_sent, tokens_in, ...
    train: dict[str, int]  # class -> real train rows
    mixed: dict[str, int]  # class -> rows of the mix, real and synthetic; by default train + accepted
    lengths: dict[str, list[int]]  # "real", "synthetic": how much of what ``counted`` names each row has
    counted: str  # such as characters, which is also what counts where nothing else is said
    checks: list[CheckFinding]
    aside: dict[str, str]  # checks that have nothing to judge in these rows, with what they are for: "for text"
    validation: Validation
    samples: dict[str, list[Sample]]  # "accepted", "refused"
    source: dict[str, Any] | None
    drift: dict[str, Any]  # fitted, against (snapshots), and, where both could be read, labels, lengths, characters
    splits: dict[str, int]  # rows of train, validation, test, and of train held back for standing in the latter two
    release: str | None
    release_path: str  # path or URI, as a reader of the release would give it
    prefix: str
    recipe_sha256: str
    versions: dict[str, str]


# --- The page ---------------------------------------------------------------------------------------------------------


__all__ = ["ReportEvidence", "Sample", "render_report", "report_markdown", "report_table"]

RELEASED = {
    "mix": "Released: the real rows together with the accepted synthetic rows.",
    "real": "Released: the real rows as they are.",
    "placebo": "Released: the real rows, each once, with weights that balance the classes.",
    "current": "Kept: the release that was current stays current.",
    None: "Nothing was released.",
}
KNOWN = ("accuracy", "macro_f1")  # metrics of evidence that does not say how its own are read
OF_CLASS = {"f1": "F1", "recall": "recall"}  # what evidence calls macro-F1 and accuracy of one class alone
FOCUS = "focus_f1"  # stands in the verdict, and in no table
ARMS = {"real": "real rows alone", "placebo": "placebo: real rows repeated", "mix": "mix: real and synthetic rows"}
SHOWN_CLASSES = 30  # on the page; the rest stands in a folded table
SHOWN_SAMPLES = 12
# Prefect sets no limit of its own to an artifact, but holds each whole in its database and sends it with the run's page.
MARKDOWN_BYTES = 200_000
MARKDOWN_CLASSES = 200
LONGEST_VALUE = 500  # characters of one text in the Markdown: a reason has up to 400
LEFT_OUT = "This part is too long to show here; see the report itself."


def render_report(evidence: ReportEvidence) -> str:
    """The page. Everything that stems from data is escaped; the same evidence gives the same bytes."""
    rendered: str = environment().get_template("report.html").render(_told(evidence, SHOWN_CLASSES))
    return visible(rendered, keep=PAGE)


def _told(evidence: ReportEvidence, shown: int) -> dict[str, Any]:
    """What the page and the Markdown say, by the templates' names. ``shown``: classes in a table before the others."""
    gate, ledger = evidence.get("gate"), evidence.get("ledger")
    classes, reason = class_rows(evidence), evidence["reason"]
    stratum = str(evidence.get("stratum") or (gate or {}).get("stratum") or "class")
    effects = _effects(gate) if gate else []
    return {
        **(_readings(gate, effects) if gate else {"metrics": [], "gauge": POINTS, "decimals": 1}),
        "stratum": stratum,
        "strata": f"{stratum}es" if stratum.endswith("s") else f"{stratum}s",
        "e": _complete(evidence),
        "headline": headline(evidence["outcome"], gate),
        "released": RELEASED[evidence.get("released")],
        "reason": reason[:1].upper() + reason[1:],
        "next_action": evidence["next_action"],
        "figures": key_figures(evidence),
        "effects": effects,
        "bar": rule_of(gate).bar if gate else 0.0,
        "bar_label": _bar_label(gate) if gate else "",
        "sight": sight(rule_of(gate), gate["smallest_visible_gain"]) if gate else "",
        "test_note": test_note(gate) if gate else "",
        "arms": [(ARMS[name], name, gate["validation"]["arms"][name], _test_arm(gate, name)) for name in ARMS]
        if gate
        else [],
        "classes": classes,
        "span": _span(classes, gate),
        "most": max((max(row["train"], row["mixed"]) for row in classes), default=1),
        "streams": streams_of(_totals(ledger)) if ledger and ledger["rows"] else [],
        "generators": _by_generator(ledger) if ledger else [],
        "lengths": _lengths(evidence.get("lengths", {})),
        "shown": shown,
        "path": evidence.get("release_path", ""),
        "prefix": evidence.get("prefix", "aug_"),
    }


def _readings(gate: Mapping[str, Any], effects: Sequence[Effect]) -> dict[str, Any]:
    """How the gate's numbers are read: over all rows, and of one stratum."""
    gauge = Gauge.read(gate)
    names = [name for name in gate.get("metrics", KNOWN) if name in gate["validation"]["arms"]["mix"]]
    read = {name: Gauge.read(gate, name) for name in names}
    shown, gained = _own_metrics(gate)

    def number(name: str, value: float | None) -> str:
        return "" if value is None else read.get(name, POINTS).shown(value)

    def gain(found: Mapping[str, float]) -> list[str]:
        values = [found[name] for name in ("gain", "low", "high")]
        return [points(value, read.get(gained, POINTS).decimals(*values)) for value in values]

    return {
        "gauge": gauge,
        "decimals": gauge.decimals(*(value for effect in effects for value in effect[1:4])),
        "metrics": [
            (name, each.title if each.in_points else f"{each.title} ({each.unit})")
            for name, each in read.items()
            if name != FOCUS
        ],
        "number": number,
        "gain": gain,
        "own": (shown, OF_CLASS.get(shown) or read[shown].title),
        "gained": OF_CLASS.get(gained) or read[gained].title,
    }


def _own_metrics(gate: Mapping[str, Any]) -> tuple[str, str]:
    """Of one stratum the metric whose values are shown, and the one whose gains are."""
    known = next(
        ({*each} - {"label", "n"} for each in gate["validation"]["arms"]["mix"]["per_class"]), {"f1", "recall"}
    )
    only = sorted(known)[0]
    return ("f1" if "f1" in known else only), ("recall" if "recall" in known else only)


def _complete(evidence: ReportEvidence) -> dict[str, Any]:
    """The evidence with None for every part that is missing: in the template a misspelt name stays an error."""

    def fill(kind: Any, value: Any) -> dict[str, Any]:
        return {**dict.fromkeys(kind.__annotations__), **value}

    found = fill(ReportEvidence, evidence)
    found["checks"] = [fill(CheckFinding, check) for check in found["checks"] or ()]
    found["validation"] = fill(Validation, found["validation"]) if found["validation"] else None
    found["samples"] = {
        kind: [
            {**fill(Sample, row), "nearest": fill(Nearest, row["nearest"]) if row.get("nearest") else None}
            for row in rows[:SHOWN_SAMPLES]
        ]
        for kind, rows in sorted((found["samples"] or {}).items())
        if rows
    }
    return found


def key_figures(evidence: ReportEvidence) -> list[tuple[str, str, str]]:
    """(value, name, detail) of the three or four numbers that matter most."""
    figures = []
    if gate := evidence.get("gate"):
        for pair, name in (("mix-real", "over the real rows alone"), ("mix-placebo", "over the placebo")):
            gain, gauge = gate["validation"]["comparisons"][pair]["gains"][gate["judged_by"]], Gauge.read(gate)
            decimals = gauge.decimals(*gain.values())
            shown = {key: points(value, decimals) for key, value in gain.items()}
            figures.append((shown["gain"], f"gain {name}", f"{shown['low']} to {shown['high']} {gauge.unit}"))
    if (ledger := evidence.get("ledger")) and ledger["rows"]:
        accepted, target = sum(ledger["accepted"].values()), sum(ledger["targets"].values())
        asked = sum(row["asked"] for row in ledger["rows"])
        figures.append((f"{accepted:,}", "synthetic rows accepted", f"target {target:,}; {asked:,} were asked for"))
    if splits := evidence.get("splits"):
        held_out = splits.get("validation", 0) + splits.get("test", 0)
        figures.append((f"{splits['train']:,}", "real rows in train", f"and {held_out:,} held out"))
    return figures


def _effects(gate: Mapping[str, Any]) -> list[Effect]:
    names = {"mix-real": "mix over real", "mix-placebo": "mix over placebo", "placebo-real": "placebo over real"}
    judged_by, effects = gate["judged_by"], []
    groups = {"validation": "On validation, which decides", "test": "On test, which is only reported"}
    for split, group in groups.items():
        for pair, name in names.items() if gate.get(split) else ():
            gain = gate[split]["comparisons"][pair]["gains"].get(judged_by) or {"gain": None}
            if gain["gain"] is None:  # such as of focus labels that no test row has
                continue
            quiet = split == "test" or pair == "placebo-real"
            effects.append(Effect(name, gain["gain"], gain["low"], gain["high"], quiet, group))
    return effects


def _bar_label(gate: Mapping[str, Any]) -> str:
    rule = rule_of(gate)
    decimals = rule.gauge.decimals(rule.bar)
    return f"{'min_gain' if rule.kind == 'superior' else 'margin'} {points(rule.bar, decimals)}"


def test_note(gate: Mapping[str, Any]) -> str:
    """Whether test, which decides nothing, agrees in sign with validation."""
    if not gate.get("test"):
        return ""
    gains = [
        [_gain(gate[split], pair, gate["judged_by"]) for split in ("validation", "test")]
        for pair in ("mix-real", "mix-placebo")
    ]
    if any(each is None for pair in gains for each in pair):
        return "Test, read once and decides nothing, has no rows to measure this by."
    agree = [(first > 0) == (second > 0) and (first < 0) == (second < 0) for first, second in gains]
    if all(agree):
        return "Test, read once and never deciding, agrees in sign on both."
    pairs = [name for name, same in zip(("real rows", "placebo"), agree, strict=True) if not same]
    return f"Test, read once and never deciding, differs in sign against the {' and the '.join(pairs)}."


def _gain(split: Mapping[str, Any], pair: str, name: str) -> Any:
    return (split["comparisons"][pair]["gains"].get(name) or {"gain": None})["gain"]


test_note.__test__ = False  # type: ignore[attr-defined]


def _test_arm(gate: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    arm: Mapping[str, Any] | None = gate["test"]["arms"][name] if gate.get("test") else None
    return arm


def class_rows(evidence: ReportEvidence) -> list[dict[str, Any]]:
    """One row per class, rarest in train first: counts, target, accepted, shortfall with its causes, scores, gains

    in recall over both baselines.
    """
    ledger = evidence.get("ledger") or {"rows": [], "targets": {}, "accepted": {}, "shortfall": {}}
    train, gate = evidence.get("train", {}), evidence.get("gate")
    arms = gate["validation"]["arms"] if gate else {}
    before, after = (
        {each["label"]: each for each in arms.get(name, {}).get("per_class", [])} for name in ("real", "mix")
    )
    pairs = gate["validation"]["comparisons"] if gate else {}
    over_real, over_placebo = (
        {each["label"]: each for each in pairs.get(pair, {}).get("per_class", [])}
        for pair in ("mix-real", "mix-placebo")
    )
    rows = []
    for label in sorted({*train, *ledger["targets"], *before}, key=lambda name: (train.get(name, 0), name)):
        accepted = ledger["accepted"].get(label, 0)
        row = {
            "label": label,
            "train": train.get(label, 0),
            "mixed": evidence.get("mixed", {}).get(label, train.get(label, 0) + accepted),
            "target": ledger["targets"].get(label, 0),
            "accepted": accepted,
            "shortfall": ledger["shortfall"].get(label, 0),
            "causes": _causes(ledger["rows"], label) if ledger["shortfall"].get(label) else "",
            "before": before.get(label),
            "after": after.get(label),
            "gain": over_real.get(label),
            "gain_placebo": over_placebo.get(label),
        }
        rows.append(row)
    return rows


def _span(classes: Sequence[Mapping[str, Any]], gate: Mapping[str, Any] | None) -> tuple[float, float]:
    """The tens around every class's F1, so that differences show, in percent; of another metric its own range."""
    own = _own_metrics(gate)[0] if gate else "f1"
    scores = [row[arm][own] for row in classes for arm in ("before", "after") if row[arm]] or [0.0, 100.0]
    if own != "f1":
        return min(scores), max(*scores, min(scores) + 1e-9)
    low, high = 10.0 * math.floor(min(scores) / 10), 10.0 * math.ceil(max(scores) / 10)
    return low, max(high, low + 10)


def _causes(rows: Sequence[Mapping[str, Any]], label: str) -> str:
    """The two commonest reasons for which rows asked of this class came to nothing."""
    lost: Counter[str] = Counter()
    for row in rows:
        if row["class"] == label:
            lost.update(row["rejected"])
            lost.update(row["undelivered"])
    ranked = sorted(lost.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ranked[:2]) or "the rounds ended first"


def _totals(ledger: Mapping[str, Any]) -> dict[str, Counter[str]]:
    totals: dict[str, Counter[str]] = {kind: Counter() for kind in ("accepted", "surplus", "rejected", "undelivered")}
    for row in ledger["rows"]:
        totals["accepted"][""] += row["accepted"]
        totals["surplus"][""] += row["surplus"]
        totals["rejected"].update(row["rejected"])
        totals["undelivered"].update(row["undelivered"])
    return totals


def _by_generator(ledger: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: dict[str, Counter[str]] = {}
    for row in ledger["rows"]:
        entry = found.setdefault(row["generator"], Counter())
        entry.update({key: row[key] for key in ("asked", "delivered", "surplus", "accepted")})
        entry["rejected"] += sum(row["rejected"].values())
    return [{"generator": name, **found[name]} for name in sorted(found)]


def ways(drift: Mapping[str, Any]) -> str:
    """How far the rows moved in each way of looking at them: ``label mix 0.100, lengths 0.020``."""
    found = {way: moved for way, moved in drift.items() if way not in ("fitted", "against", "largest")}
    return ", ".join(f"{'label mix' if way == 'labels' else way} {moved:.3f}" for way, moved in found.items())


def _lengths(lengths: Mapping[str, list[int]]) -> dict[str, Any]:
    if not lengths.get("real") or len({value for values in lengths.values() for value in values}) < 2:
        return {}
    middle = {kind: sorted(values)[len(values) // 2] for kind, values in lengths.items() if values}
    return {"real": lengths["real"], "synthetic": lengths.get("synthetic", []), "median": middle}


def report_table(evidence: ReportEvidence) -> list[dict[str, Any]]:
    """One flat row per class, rarest first, for a Prefect table artifact; None where nothing was measured."""
    table = []
    gate = evidence.get("gate")
    own, gained = _own_metrics(gate) if gate else ("f1", "recall")
    for row in class_rows(evidence):
        scores = {
            f"{own}_{arm}": row[key][own] if row[key] else None for arm, key in (("real", "before"), ("mix", "after"))
        }
        gains = {
            f"{gained}_{name}{over}": row[key][name] if row[key] and row[key]["judged"] else None
            for key, over in (("gain", ""), ("gain_placebo", "_over_placebo"))
            for name in ("gain", "low", "high")
        }
        counts = {
            "class": visible(row["label"]),
            **{key: row[key] for key in ("train", "target", "accepted", "shortfall")},
        }
        table.append({**counts, **scores, **gains})
    return table


# --- The same as Markdown ---------------------------------------------------------------------------------------------


def report_markdown(evidence: ReportEvidence, place: str | None = None) -> str:
    """The report as GitHub's Markdown, for Prefect's artifact: what the page says, but for the samples.

    An artifact lies in Prefect's database, which is not the store's private side, so no row's text is in it. What
    stems from data is inert: it makes no link, picture, HTML or table. ``place``: where the page is, shown as text. At
    most MARKDOWN_BYTES; a part that does not fit is left out, and that is said.
    """
    told = _told(evidence, MARKDOWN_CLASSES)
    told["e"]["samples"] = bool(told["e"]["samples"])  # the template cannot show what it does not have
    rendered: str = _markdown_environment().get_template("report.md").render(told, place=place)
    return _bounded(re.split(r"\n{2,}", rendered.strip("\n")))


def _bounded(parts: Sequence[str]) -> str:
    """Paragraphs and tables, each whole, as far as they fit."""
    kept, room = [""], MARKDOWN_BYTES - 2 * len(LEFT_OUT)  # that it ends early is said within the bound
    for part in parts:
        size = len(part.encode()) + len("\n\n")
        fits = size <= room
        if fits or kept[-1] != LEFT_OUT:
            kept.append(part if fits else LEFT_OUT)
            room -= size if fits else len(LEFT_OUT) + len("\n\n")
    return "\n\n".join(kept[1:]) + "\n"


@cache
def _markdown_environment() -> Any:
    """The pages' own, with every value made inert as Markdown where a page has it escaped as HTML."""
    from markupsafe import Markup

    found = environment().overlay(finalize=_inert)
    found.filters = {**found.filters, "as_code": lambda text: Markup(visible(text))}
    return found


# What renderers turn into a link although it is escaped: they look at the text again once it is parsed. In a code span
# they do not (tried: marked 17, remark-gfm 4, which Prefect's two pages use).
_LINKING = re.compile(r"(?:@|(?<=http)://|(?<=https)://|(?<=ftp)://|(?<=www)\.)+", re.IGNORECASE)
_MEANT = re.compile(r"[\\`*_\[\]|~#$]")
_FIRST = re.compile(r"^(\d*)([-+=:](?!\d)|[.)](?=\s|$))")  # a list, a rule, an underlined heading


def _inert(value: Any) -> Any:
    """A value as a text of one line in which Markdown and HTML mean nothing; what a macro made is that already."""
    from markupsafe import Markup

    if hasattr(value, "__html__"):
        return value
    text = visible(str(value), keep=PAGE.lstrip("\n\t")).strip()
    text = text if len(text) <= LONGEST_VALUE else cut(text, LONGEST_VALUE) + " \u2026"
    text = _MEANT.sub(r"\\\g<0>", html.escape(text, quote=False))
    text = _FIRST.sub(r"\1\\\2", text)
    return Markup(_LINKING.sub(r"`\g<0>`", text))


@cache
def environment() -> Any:
    """The templates' own, shared by every page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    templates = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        autoescape=True, loader=templates, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"points": points, "count": lambda value: f"{value:,}", "ways": ways}
    charts = {"forest": forest, "flow": flow, "histogram": histogram, "stacked": stacked, "dumbbell": dumbbell}
    environment.globals |= {
        "policy": Markup(POLICY),
        "marked": marked,
        "drawn": lambda row: Markup(row or ""),
        **charts,
    }
    return environment
