"""Makes the golden store: what a user's store holds after some weeks, made by the code of the day it was committed.

``python tests/golden/make.py`` writes ``golden.tar.xz`` and ``identities.json`` beside this file. They are not made again
when code changes: that today's code still reads that store, and makes nothing of it anew, is what tests/test_golden.py asks.
A stage whose VERSION counts up is named there, with the decision; the store stays.
"""

from __future__ import annotations

import csv
import io
import os
import platform
import random
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "generators")]

from chain import WORDS, recipe_document  # noqa: E402
from chat_server import chat_server  # noqa: E402
from commands import Ended, augmill  # noqa: E402
from tiny_chat import obedient  # noqa: E402

DAYS = ("2026-10-01", "2026-10-02", "2026-10-03")
DEAD = 9  # a port nobody serves: what the golden recipes name, so that an answer asked for again is an error
NOT_WORSE = {"seeds": 3, "resamples": 200, "rule": "not_worse", "margin": 100.0}
QUICK = {"seeds": 3, "resamples": 200}
Row = tuple[str, str]


def sentences(count: int, seed: int, labels: tuple[str, ...] = ("refund", "track"), words: int = 7) -> list[Row]:
    """(text, label): words of the label, as the tests' small sets have them."""
    draw = random.Random(seed)
    return [(" ".join(draw.choices(WORDS[label], k=words)), label) for label in labels for _ in range(count)]


def noisy(count: int, seed: int, labels: tuple[str, ...] = ("refund", "track"), share: float = 0.75) -> list[Row]:
    """Sentences whose words are mostly of any label, so that more rows really teach a classifier something."""
    draw, every = random.Random(seed), sorted(word for words in WORDS.values() for word in words)
    return [
        (" ".join(draw.choice(every if draw.random() < share else WORDS[label]) for _ in range(8)), label)
        for label in labels
        for _ in range(count)
    ]


def write_csv(
    path: Path, rows: list[Row], head: tuple[str, ...] = ("text", "label"), more: tuple[str, ...] = ()
) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([head, *((*row, *more) for row in rows)])


def write_recipe(here: Path, name: str, **changes: Any) -> Path:
    document = recipe_document(Path(f"{name}.csv")) | {
        "dataset": name,
        "gate": QUICK,
        "run": {"orchestrator": "none", "shard_rows": 40, "threads": 1, "workers": 1, "store": "store"},
    }
    path = here / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document | changes, sort_keys=False), encoding="utf-8")
    return path


def run(here: Path, *words: object) -> Ended:
    ended = augmill(*words, "--store", here / "store")
    print(ended.code, *words, file=sys.stderr)
    assert ended.code == 0, ended.err + ended.out
    return ended


def expect(ended: Ended, outcome: str) -> dict[str, Any]:
    assert ended.last["outcome"] == outcome, ended.last
    return ended.last


def nights(here: Path) -> None:
    """Three nights with a Delta table beside them and Great Expectations on; the last one rolled back, another tagged."""
    (here / "nights").mkdir()
    for number, day in enumerate(DAYS):
        (here / f"nights/day={day}").mkdir()
        write_csv(here / f"nights/day={day}/rows.csv", sentences(30 if number == 0 else 4, 10 + number))
    recipe = write_recipe(
        here,
        "nights",
        source={"path": "nights"},
        columns={"text": "text", "label": "label", "partition": "day"},
        partitions={"every": "day"},
        refit={"every": "7d"},
        target={"per_class": 10},
        gate=NOT_WORSE,
        validation={"enabled": True},
        publish={"format": "delta"},
        labels={"aliases": {"tracking": "track"}},
    )
    for day in DAYS:
        expect(run(here, "run", recipe, "--as-of", day), "published")
    newest = run(here, "path", recipe, "--as-of", DAYS[1]).out.strip().rsplit("/", 1)[-1]
    run(here, "tag", "gold", recipe, "--release", newest)
    run(here, "rollback", recipe, "--reason", "the third night is taken back")


def outcomes(here: Path) -> None:
    """One release per outcome."""
    few = noisy(12, 1)
    held = noisy(150, 2)
    split = {"files": {"train": "train*", "validation": "validation*", "test": "test*"}}

    def dataset(name: str, made: list[Row], **changes: Any) -> Path:
        folder = here / name
        folder.mkdir()
        for part, rows in (("train", few), ("validation", held[::2]), ("test", held[1::2])):
            write_csv(folder / f"{part}.csv", rows)
        write_csv(here / f"{name}-made.csv", made)
        replay = {"use": "replay", "path": f"{name}-made.csv"}
        quick = {"source": {"path": name}, "splits": split, "generators": [replay], "target": {"per_class": 60}}
        checks = {"checks": dict.fromkeys(("length", "garbage", "label_consistency"), False)}
        return write_recipe(here, name, **(quick | checks | changes))

    good = noisy(90, 3)
    expect(run(here, "run", dataset("published", good)), "published")
    wrong = [(text, "track" if label == "refund" else "refund") for text, label in good]
    expect(run(here, "run", dataset("harmful", wrong)), "harmful")
    expect(run(here, "run", dataset("inconclusive", noisy(90, 4, share=0.97))), "inconclusive")
    expect(run(here, "run", dataset("not-produced", few)), "not_produced")
    unsound = dataset("unsound", good, source={"path": "unsound", "ready": {"max_drop": "50%"}})
    expect(run(here, "run", unsound), "published")
    for part in ("validation", "test"):
        write_csv(here / f"unsound/{part}.csv", held[::30])
    expect(run(here, "run", unsound), "unsound_source")


def forgotten(here: Path) -> None:
    """A row that was asked to be forgotten; the source still delivers it."""
    write_csv(here / "forgotten.csv", sentences(40, 20))
    recipe = write_recipe(here, "forgotten", gate=NOT_WORSE, target={"per_class": 12})
    expect(run(here, "run", recipe), "published")
    location = run(here, "path", recipe).out.strip()
    rows = pq.read_table(f"{location}/train").to_pylist()
    first = next(row["aug_row_id"] for row in rows if row["aug_origin"] == "real")
    (here / "forgotten-ids.txt").write_text(f"{first}\n", encoding="utf-8")
    run(here, "forget", recipe, "--rows", here / "forgotten-ids.txt", "--reason", "asked for", "--orchestrator", "none")


def together(here: Path) -> None:
    """A backfill for a changed recipe, whose releases become current in one step: half of it is done and staged."""
    for number, day in enumerate(DAYS):
        (here / f"together/day={day}").mkdir(parents=True)
        write_csv(here / f"together/day={day}/rows.csv", sentences(30 if number == 0 else 4, 30 + number))
    parts: dict[str, Any] = {
        "source": {"path": "together"},
        "columns": {"text": "text", "label": "label", "partition": "day"},
        "partitions": {"every": "day"},
        "target": {"per_class": 6},
        "gate": NOT_WORSE,
        "price": {"cpu_hour": 3600.0},
    }
    span = ("--from", DAYS[0], "--to", DAYS[-1])
    run(here, "backfill", write_recipe(here, "together", **parts), *span)
    changed = write_recipe(here, "together", **parts, seed=7)
    ended = augmill(
        "backfill", changed, *span, "--reprocess", "changed-recipe", "--max-cost", "0.01", "--store", here / "store"
    )
    assert ended.code == 11 and ended.last["publish"] == "together" and len(ended.last["released"]) < len(DAYS), (
        ended.last
    )


def chat(here: Path) -> None:
    """Rows of an endpoint, paid for once: the bank and the kept answers hold them."""
    rows = [(f"{text} {at}", label) for at, (text, label) in enumerate(sentences(30, 40))]
    write_csv(here / "chat.csv", rows)
    with chat_server(obedient) as server:
        port = server.server_address[1]
        made = {"use": "chat", "backend": "endpoint", "model": "tiny", "base_url": f"http://127.0.0.1:{port}/v1"}
        recipe = write_recipe(
            here, "chat", generators=[made | {"rows_per_call": 4}], gate=NOT_WORSE, target={"per_class": 8}
        )
        expect(run(here, "run", recipe), "published")
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(f":{port}/", f":{DEAD}/"), encoding="utf-8")


def pack(here: Path, target: Path) -> None:
    """Sorted, without owners and times: what is packed is files."""
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for path in sorted(here.rglob("*")):
            entry = archive.gettarinfo(path, path.relative_to(here).as_posix())
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            with path.open("rb") if path.is_file() else io.BytesIO() as stream:
                archive.addfile(entry, stream if path.is_file() else None)


def main() -> None:
    platform.node = lambda: "golden"  # provenance names the host, and this store is everybody's
    os.environ.update(dict.fromkeys(("LOGNAME", "USER", "USERNAME"), "golden"))
    here = Path(tempfile.mkdtemp(prefix="augmill-golden-"))
    try:
        for part in (nights, outcomes, forgotten, together, chat):
            part(here)
        pack(here, HERE / "golden.tar.xz")
        print(
            f"{(HERE / 'golden.tar.xz').stat().st_size:,} bytes; identities: pytest tests/test_golden.py",
            file=sys.stderr,
        )
    finally:
        if "--keep" in sys.argv:
            print(here, file=sys.stderr)
        else:
            shutil.rmtree(here)


if __name__ == "__main__":
    main()
