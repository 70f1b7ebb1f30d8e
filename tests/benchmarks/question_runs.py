"""Questions about invented things from source to release: what the gate says of each way to make more. Prints a table.

    python tests/benchmarks/question_runs.py [--ways rules chat-questions chat-documents wrong-spans] [--draws 10]

A program makes things with names of its own, facts about them, documents that state the facts, and twelve ways to ask for
each fact: four ask in train rows, four in validation and test rows, four are the answering server's. Three of four facts
stand in train rows, each asked once, in a way that the draw says; validation and test rows ask for all facts, so that the
documents alone have the others. The trainer is `retrieval`. The server is a program with templates, behind a real endpoint:
it finds what a question asks for by its words, or what a passage says by its sentences. What is measured is what such rows
are worth where they are good, and not how good a model is.

rules: words swapped and deleted. chat-questions: a train question in the server's words, its answer kept. chat-documents:
questions and answers out of the documents. wrong-spans: the same, but each answer is of another fact than its span, or the
span is made up; a wrong answer whose words the span has would pass. Gains are in points of ROUGE-L of the mix over real rows
and over the placebo, with 95 % bounds, by validation and by test rows, which decide nothing. Seconds are processor time.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from machine import Meter, machine_line, markdown
from media_runs import run_cell

sys.path.append(str(Path(__file__).parents[1]))
from chat_server import Act, Seen, as_answer, chat_server

THINGS, SEED = 60, 7
KINDS = ("mill", "ferry", "tower", "kiln", "lodge", "bridge")
WAYS = ("rules", "chat-questions", "chat-documents", "wrong-spans")
# Of each kind of fact its values, the sentence of a document, and the ways to ask: train's, held-out rows', the server's.
FACTS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "stuff": (
        ("larch", "grey slate", "tin", "baked clay", "river reed", "blue glass", "pressed straw", "cast iron"),
        "The {n} was built of {v}.",
        (
            "What is the {n} made of?", "Which material was used for the {n}?",
            "Tell me the material of the {n}.", "The {n} is made out of what?",
            "What did they build the {n} from?", "What stuff does the {n} consist of?",
            "Name the substance the {n} is constructed from.", "From which stuff is the {n} constructed?",
            "What was the {n} built of?", "Which stuff did they build the {n} from?",
            "The {n} consists of what substance?", "Can you name what the {n} is built from?",
        ),
    ),
    "place": (
        ("Lower Ost", "the Vey valley", "Harrow Quay", "the old fairground", "Pell Island", "Mere Cross", "Tarn Hill"),
        "Visitors find the {n} at {v}.",
        (
            "Where is the {n}?", "Where does the {n} stand?",
            "In which place is the {n}?", "Tell me the place of the {n}.",
            "At what location can one find the {n}?", "Where do I go to visit the {n}?",
            "What is the location of the {n}?", "Where would a visitor find the {n}?",
            "Where can the {n} be found?", "What location does the {n} have?",
            "To visit the {n}, where do I go?", "At which spot do visitors find the {n}?",
        ),
    ),
    "keeper": (
        ("Ada Brann", "Ivo Telle", "the Marsh guild", "Suna Kerr", "two brothers Oke", "the harbour office", "Nell Dow"),
        "Its keeper is {v}, who runs the {n} all year.",
        (
            "Who owns the {n}?", "Whose is the {n}?",
            "To whom does the {n} belong?", "Tell me the owner of the {n}.",
            "Who runs the {n}?", "Who takes care of the {n}?",
            "Which person is in charge of the {n}?", "Who is the keeper of the {n}?",
            "Who keeps the {n}?", "Who has charge of the {n}?",
            "By whom is the {n} run?", "Who is it that takes care of the {n}?",
        ),
    ),
    "year": (
        tuple(f"the year {year}" for year in range(1811, 1900, 6)),
        "It has stood since {v}, when the {n} was opened.",
        (
            "How old is the {n}?", "What is the age of the {n}?",
            "Since when does the {n} exist?", "Tell me the age of the {n}.",
            "In what year did the {n} open?", "When was the {n} founded?",
            "When did people first use the {n}?", "In which year was the {n} opened?",
            "When did the {n} open?", "What year was the {n} founded in?",
            "When was the opening of the {n}?", "People first used the {n} in what year?",
        ),
    ),
}  # fmt: skip
# Words by which the server tells what a question asks for.
SIGNS = {
    "stuff": ("made", "material", "built", "build", "stuff", "substance", "consist"),
    "place": ("where", "place", "location", "spot"),
    "keeper": ("who", "whose", "whom", "owner", "keeper", "charge"),
    "year": ("old", "age", "when", "year"),
}
Fact = tuple[str, str, str]  # thing, kind, value


def invent() -> list[Fact]:
    rng = random.Random(SEED)
    heads, tails = (
        ("Bra", "Cor", "Du", "El", "Fal", "Gor", "Hes", "Im", "Jor", "Kel"),
        ("vo", "nik", "bel", "dane", "sker", "rim"),
    )
    names = [f"{rng.choice(heads)}{rng.choice(tails)} {kind}" for kind in KINDS for _ in range(3 * THINGS)]
    names = sorted(set(names), key=lambda name: (rng.random(), name))[:THINGS]
    return [(name, kind, rng.choice(FACTS[kind][0])) for name in names for kind in FACTS]


def rows_of(facts: list[Fact], draw: int) -> list[dict[str, str]]:
    """Train rows by the draw; held-out rows always the same, half of them to judge."""
    fixed, rng = random.Random(SEED), random.Random(draw)
    known = set(fixed.sample(range(len(facts)), 3 * len(facts) // 4))
    found: list[dict[str, str]] = []
    for at, (name, kind, value) in enumerate(facts):
        ways = FACTS[kind][2]
        asked = [("train", rng.choice(ways[:4]))] if at in known else []
        asked += [(("validation", "test")[place % 2], way) for place, way in enumerate(ways[4:8])]
        found += [{"question": way.format(n=name), "answer": value, "split": split} for split, way in asked]
    return found


def document(facts: list[Fact]) -> str:
    by: dict[str, list[str]] = {}
    for name, kind, value in facts:
        by.setdefault(name, []).append(FACTS[kind][1].format(n=name, v=value))
    return "\n\n".join(f"# The {name}\n\n{' '.join(said)}" for name, said in by.items())


def block(seen: Seen, mark: str) -> list[Any]:
    found = re.search(rf"<{mark}>\n(.*?)\n</{mark}>", seen.body["messages"][1]["content"], re.DOTALL)
    return [json.loads(line) for line in found[1].split("\n")] if found else []


def put_anew(seen: Seen, number: int) -> Act:
    """The one real question of the prompt in the server's own words."""
    (shown,) = block(seen, "data")
    name = re.search(rf"[A-Z]\w+ (?:{'|'.join(KINDS)})", shown["text"])
    words = re.findall(r"\w+", shown["text"].lower())
    kind = max(SIGNS, key=lambda kind: sum(word in SIGNS[kind] for word in words))
    assert name is not None, shown
    return answered(seen, [{"text": way.format(n=name[0])} for way in FACTS[kind][2][8:]])


def ask_of(passage: str, rng: random.Random, wrong: bool) -> dict[str, str]:
    """A question about one sentence of the passage, in the server's own words."""
    said = []
    for _, sentence, ways in FACTS.values():
        pattern = re.escape(sentence).replace(r"\{n\}", r"(?P<n>\w+ \w+)").replace(r"\{v\}", r"(?P<v>[^.]+?)")
        said += [(match["n"], match["v"], match[0], ways[8:]) for match in re.finditer(pattern, passage)]
    name, value, span, ways = rng.choice(said)
    if wrong:
        other = rng.choice([each for each in said if each[1] != value])
        value, span = (other[1], span) if rng.random() < 0.5 else (value, f"The {name} is of {value}, they say.")
    return {"text": rng.choice(ways).format(n=name), "answer": value, "span": span}


def read_document(wrong: bool) -> Any:
    def script(seen: Seen, number: int) -> Act:
        rng = random.Random(seen.body["seed"])
        (passage,) = block(seen, "document")
        return answered(seen, [ask_of(passage, rng, wrong) for _ in range(10)])

    return script


def answered(seen: Seen, rows: list[dict[str, str]]) -> Act:
    count = int(re.search(r"exactly (\d+) objects", seen.body["messages"][0]["content"])[1])  # type: ignore[index]
    random.Random(seen.body["seed"]).shuffle(rows)
    return Act(body=as_answer(json.dumps(rows[:count])))


def write_recipe(folder: Path, draw: int, generator: dict[str, Any]) -> Path:
    facts = invent()
    lines = [json.dumps(row) + "\n" for row in rows_of(facts, draw)]
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "facts.md").write_text(document(facts), encoding="utf-8")
    document_ = {
        "dataset": "questions",
        "source": {"path": "rows.jsonl"},
        "columns": {"inputs": {"question": "text"}, "target": {"answer": "text"}},
        "splits": {"column": "split", "near": 1.0},
        "target": {"multiply": 3},
        "generators": [generator],
        "checks": {
            "relations": {"heldout_near": 1.0, "train_near": 1.0}
        },  # questions of one template are near by nature
        "settle": {"near": 1.0},
        "run": {"orchestrator": "none", "store": "store"},
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(document_, sort_keys=False), encoding="utf-8")
    return recipe


def refused(folder: Path) -> str:
    """What was not accepted, by reason, of the last settling."""
    from media_runs import evidence

    from augmill.tasks.store.store import Store

    (*_, ledger) = evidence(Store(str(folder / "store")), "settle", "ledger.json")
    counts: dict[str, int] = {}
    for row in ledger["rows"]:
        for reason, count in (row["rejected"] | row["undelivered"]).items():
            counts[reason] = counts.get(reason, 0) + count
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items(), key=lambda item: -item[1]))


def judge(way: str, draw: int, meter: Meter) -> list[str]:
    script = put_anew if way == "chat-questions" else read_document(way == "wrong-spans")
    with tempfile.TemporaryDirectory(prefix="augmill-questions-") as place, chat_server(script) as server:
        folder = Path(place)
        asked = {"use": "chat", "backend": "endpoint", "model": "templates", "base_url": server.url, "rows_per_call": 2}
        chosen: dict[str, dict[str, Any]] = {
            "rules": {"use": "rules"},
            "chat-questions": asked | {"write": "questions"},
            "chat-documents": asked | {"documents": "facts.md"},
            "wrong-spans": asked | {"documents": "facts.md"},
        }
        recipe = write_recipe(folder, draw, chosen[way])
        _, cells = run_cell(folder, recipe, meter, way)
        return [way, str(draw), *cells, refused(folder)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--draws", type=int, default=10)
    given = parser.parse_args()
    print(f"{machine_line()}\n")
    table = list[list[str]]()
    with Meter() as meter:
        for draw in range(given.draws):
            for way in given.ways:
                table.append(judge(way, draw, meter))
                print(" | ".join(table[-1]), flush=True)
    head = [
        "way",
        "draw",
        "outcome",
        "runs",
        "over real",
        "over placebo",
        "test: over real",
        "test: over placebo",
        "CPU s",
    ]
    print("\n" + markdown([*head, "not accepted"], sorted(table)), flush=True)


if __name__ == "__main__":
    main()
