"""Bytes that change need a new VERSION (law 2): each stage and extension runs on a fixed input, against tests/versions.json.

What is hashed is portable: rows rather than Parquet bytes; floats to six digits and weights by name, type and shape
alone, because a matrix product's last bits differ between kinds of CPU. So a change to a model's weights that leaves
their shapes alone is not seen here, one to its tokenizer, its plan or its verdicts is; of a solver's scores none.

After a change of rows that is meant: count the VERSION up, then `python tests/test_versions.py --record`.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chain import WORDS, make_run, tiny_recipe, write_rows
from drawn_histories import HISTORY_FIELDS, history, users
from reading import put
from safetensors.numpy import load_file
from test_webdataset import tar

from augmill.flows.augment import make_snapshot
from augmill.tasks.checks import CHECKS
from augmill.tasks.contracts import (
    ANY,
    ROW_ID,
    STRATUM,
    TARGET,
    Artifact,
    Context,
    FitInputs,
    Fitted,
    Generator,
    Request,
)
from augmill.tasks.gate.evidence import trainings
from augmill.tasks.generators import GENERATORS
from augmill.tasks.generators.seq2seq.back_translation import Pivot
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.problems.strata import STRATA
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.rows.randomness import row_seeds
from augmill.tasks.sources import SOURCES, SourceOptions, list_files, read_batches
from augmill.tasks.sources.options import EventColumns
from augmill.tasks.stages.drift import DriftConfig, profile
from augmill.tasks.stages.extensions import generator_config
from augmill.tasks.stages.generate import (
    PaceConfig,
    RoundConfig,
    SetAsideConfig,
    ShardConfig,
    pace,
    set_aside,
    validate,
)
from augmill.tasks.stages.jobs import run_shard
from augmill.tasks.stages.mix import MixConfig, arrange_real
from augmill.tasks.stages.plan import AdaptiveConfig, PlanConfig, plan_adaptive
from augmill.tasks.stages.stratify import StratifyConfig, stratify
from augmill.tasks.stages.twins import TWINS
from augmill.tasks.stages.weigh import WeighConfig, weigh
from augmill.tasks.store.stage import Site, Stage, Work, commit, fetch, look_up, read_manifest
from augmill.tasks.store.store import Store
from augmill.tasks.trainers import TRAINERS
from augmill.tasks.trainers.contract import TrainerInputs
from augmill.tasks.validation import ValidationOptions

RECORDED = Path(__file__).with_name("versions.json")
sys.path.append(str(Path(__file__).with_name("generators")))  # helpers, also where this file is run by itself
RECORD = f"python tests/{Path(__file__).name} --record"


def pivots() -> Any:
    """One pivot, whose model babbles."""
    from tiny_seq2seq import babbler

    return (Pivot(str(babbler())),)


def address() -> str:
    """Of a server that writes rows as it is asked to."""
    from tiny_chat import row_server

    return row_server().url


def voice() -> str:
    """Of a model that babbles."""
    from tiny_vits import babbling_voice

    return str(babbling_voice())


# What an extension needs beside its defaults; a name without an entry runs with those. {here} is a directory of the test's.
OPTIONS: dict[str, dict[str, Any]] = {
    "rules": {
        "thesaurus": "{here}/thesaurus.csv",
        "operations": dict.fromkeys(("synonym", "insert", "swap", "delete", "punctuation"), 1.0),
    },
    "replay": {"path": "{here}/made.csv"},
    "causal_lm": {"max_steps": 2, "epochs": 1, "hidden": 16, "heads": 2, "layers": 1, "vocabulary": 300},
    "masked_lm": {"max_steps": 2, "epochs": 1, "hidden": 16, "heads": 2, "layers": 1, "vocabulary": 300},
    "seq2seq": {"max_steps": 2, "epochs": 1, "hidden": 16, "heads": 2, "layers": 1, "vocabulary": 300},
    "back_translation": {"pivots": pivots, "least_similar": 0.0, "max_length": 64},
    "chat": {"model": "tiny", "backend": "endpoint", "base_url": address},
    "speech": {"engine": "model", "model": voice},
    "ctc": {"steps": 60, "width": 16, "batch": 8, "learning_rate": 0.02},
    "cnn": {"steps": 60, "width": 8, "side": 16, "learning_rate": 0.01},
    "detector": {"steps": 3, "width": 4, "side": 16},
    "command": {"command": sys.executable + " {here}/train.py {{train}} {{eval}} {{seed}} {{predictions}}"},
}
# Their rows hang on weights, whose last bits are the CPU's: what is hashed of a row is what was asked and its seed.
BY_WEIGHTS = {"masked_lm", "seq2seq", "back_translation", "causal_lm", "transforms", "speech"}
# Its scores come from a solver that stops where a bound is met, which differs in the sixth digit between kinds of CPU.
BY_SOLVER = {"teacher"}
SLOW = {
    "masked_lm",
    "seq2seq",
    "back_translation",
    "causal_lm",
    "chat",
    "command",
    "transforms",
    "speech",
    "ctc",
    "cnn",
    "detector",
}  # torch is imported; processes are started
TRAIN = """
import sys, pyarrow as pa, pyarrow.parquet as pq
train, held, seed, out = sys.argv[1:]
labels = sorted(pq.read_table(train)["label"].to_pylist())
rows = pq.read_metadata(held).num_rows
pq.write_table(pa.table({"row": range(rows), "label": [labels[(at + int(seed)) % len(labels)] for at in range(rows)]}), out)
"""


def rounded(value: Any) -> Any:
    """Floats to six digits; what JSON does not know as text."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {str(key): rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value


def without_floats(value: Any) -> Any:
    """Losses, which hang on weights as rows do, are left out."""
    if isinstance(value, dict):
        return {key: without_floats(part) for key, part in value.items()}
    return (
        [without_floats(part) for part in value]
        if isinstance(value, list)
        else None
        if isinstance(value, float)
        else value
    )


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(rounded(value), sort_keys=True, default=str).encode()).hexdigest()[:16]


def portable(name: str, path: Path) -> Any:
    """What a file of that name says, without what a machine or a library's version adds to it."""
    kind = Path(name).suffix
    if kind == ".parquet":
        table = pq.read_table(path)
        return [str(table.schema.remove_metadata()), table.to_pylist()]
    if kind == ".arrow":
        table = pa.ipc.open_file(path).read_all()
        return [str(table.schema.remove_metadata()), table.to_pylist()]
    if kind == ".safetensors":
        return {name: [str(part.dtype), list(part.shape)] for name, part in load_file(path).items()}
    if kind == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    return path.read_text(encoding="utf-8")


def texts(count: int, seed: int) -> list[tuple[str, str]]:
    rng = np.random.Generator(np.random.Philox(key=seed))
    names = sorted(WORDS)
    return [
        (name := names[at % 3], " ".join(WORDS[name][pick] for pick in rng.integers(0, 12, 7))) for at in range(count)
    ]


def rows(prefix: str, count: int, seed: int) -> pa.Table:
    drawn = texts(count, seed)
    columns = {
        "row_id": [f"{prefix}{at}" for at in range(count)],
        "stratum": [s for s, _ in drawn],
        "text": [t for _, t in drawn],
    }
    return pa.table(columns, schema=real_schema(("text",)))


TABLE_FIELDS = ("number:price", "number:parts", "category:place", "timestamp:day")


def cells(prefix: str, count: int, seed: int) -> pa.Table:
    """Rows of a table for extensions that serve no texts: prices with gaps, whole parts, places and days."""
    drawn = Random(seed)
    names = [drawn.choice(sorted(WORDS)) for _ in range(count)]
    columns = {
        "row_id": [f"{prefix}{at}" for at in range(count)],
        "stratum": names,
        "number:price": [None if drawn.random() < 0.2 else round(drawn.expovariate(0.1), 2) for _ in names],
        "number:parts": [float(drawn.randrange(8) + len(name)) for name in names],
        "category:place": [drawn.choice(["Ulm", "Bonn", "Rom", None]) for _ in names],
        "timestamp:day": [datetime(2026, 1 + drawn.randrange(9), 1 + drawn.randrange(28), tzinfo=UTC) for _ in names],
    }
    return pa.table(columns, schema=real_schema(TABLE_FIELDS))


PICTURE_FIELDS = ("image:photo",)


def pictures(prefix: str, count: int, seed: int) -> pa.Table:
    """Rows for extensions that serve pictures alone: each class of a brightness of its own, as PNG without compression."""
    drawn, names = Random(seed), sorted(WORDS)
    strata = [drawn.choice(names) for _ in range(count)]
    files = [png(bytes([80 * names.index(each) + drawn.randrange(20) for _ in range(256)]), 16) for each in strata]
    columns = {
        "row_id": [f"{prefix}{at}" for at in range(count)],
        "stratum": strata,
        PICTURE_FIELDS[0]: [{"bytes": file, "path": None} for file in files],
    }
    return pa.table(columns, schema=real_schema(PICTURE_FIELDS))


def histories(prefix: str, count: int, seed: int) -> pa.Table:
    """Rows for extensions that serve histories alone, each class with a shelf of its own."""
    drawn, names = Random(seed), sorted(WORDS)
    strata = [drawn.choice(names) for _ in range(count)]
    columns = {
        "row_id": [f"{prefix}{at}" for at in range(count)],
        "stratum": strata,
        HISTORY_FIELDS[0]: [history(100 * seed + at, names.index(each) % 3) for at, each in enumerate(strata)],
    }
    return pa.table(columns, schema=real_schema(HISTORY_FIELDS))


def png(grey: bytes, width: int) -> bytes:
    """Without a library, whose next version may write other bytes."""
    lines = b"".join(b"\0" + grey[at : at + width] for at in range(0, len(grey), width))
    stored = b"\x78\x01\x01" + struct.pack("<HH", len(lines), len(lines) ^ 0xFFFF) + lines
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, len(grey) // width, 8, 0, 0, 0, 0)),
        (b"IDAT", stored + struct.pack(">I", zlib.adler32(lines))),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def answered(prefix: str, count: int, seed: int) -> pa.Table:
    """Rows for extensions of texts with answers alone: a row's answer is its last three words."""
    made = rows(prefix, count, seed)
    answers = [" ".join(text.split()[-3:]) for text in made["text"].to_pylist()]
    return made.append_column(TARGET, pa.array(answers, pa.large_string()))


def serves_answers(extension: Any) -> bool:
    return "text_to_text" in extension.problems and "classification" not in extension.problems


def sounds(prefix: str, count: int, seed: int) -> pa.Table:
    """Strings of tones, with their transcripts where those are what is learnt."""
    from toned import TONE_FIELDS, toned

    made = toned(prefix, count, 100 * seed)
    strata = pa.array([name for name, _ in texts(count, seed)], pa.string())
    return made.select([ROW_ID, STRATUM, TARGET, *TONE_FIELDS]).set_column(1, STRATUM, strata)


def sample_rows(extension: Any) -> tuple[Any, tuple[str, ...]]:
    """(what makes rows that it serves, their fields)."""
    if serves_answers(extension):
        return answered, ("text",)
    if serves_texts(extension):
        return rows, ("text",)
    if set(extension.kinds) == {"audio"}:
        own = "classification" in extension.problems
        return (lambda *of: sounds(*of).drop_columns([TARGET])) if own else sounds, ("audio:clip",)
    made = {"table": (cells, TABLE_FIELDS), "image": (pictures, PICTURE_FIELDS), "items": (histories, HISTORY_FIELDS)}
    return next(own for kind, own in made.items() if kind in extension.kinds)


def serves_texts(extension: Any) -> bool:
    return bool({"text", ANY} & set(extension.kinds))


def options_of(name: str, kind: Any, here: Path) -> Any:
    """The extension's options for this test, with the files they name."""
    (here / "thesaurus.csv").write_text("money,cash\nparcel,box,post\npassword,code\n", encoding="utf-8")
    made = "".join(f"{label},{text}\n" for label, text in texts(12, 5))
    (here / "made.csv").write_text(f"label,text\n{made}", encoding="utf-8")
    (here / "train.py").write_text(TRAIN, encoding="utf-8")
    given = {
        key: value.format(here=here) if isinstance(value, str) else value() if callable(value) else value
        for key, value in OPTIONS.get(name, {}).items()
    }
    return kind.Options(**given)


def fitted(extension: Any, here: Path) -> tuple[Fitted, Context, dict[str, Any]]:
    """The extension fitted to fixed rows: its files, and what they say."""
    work = here / "files"
    work.mkdir()
    made, fields = sample_rows(extension)
    none = made("n", 0, 0)
    ctx = Context(
        seed=3, fields=fields, workdir=work, target=pa.large_string() if TARGET in none.column_names else None
    )
    wants = isinstance(extension, Generator) and extension.wants_unlabelled()
    free = rows("u", 40, 6).set_column(1, "stratum", pa.array([""] * 40)) if wants else none
    files = extension.fit(FitInputs(made("r", 45, 1), made("v", 9, 2), made("t", 9, 3), none, free), ctx)
    # An option that is a path stands in no artifact: what it names does.
    return Fitted(work, "content"), ctx, {name: portable(name, path) for name, path in files.items()}


def run_generator(name: str, here: Path) -> Any:
    generator = GENERATORS[name](options_of(name, GENERATORS[name], here))
    model, ctx, files = fitted(generator, here)
    ordinals = np.arange(12, dtype=np.int64)
    table = generator.sample(model, Request([s for s, _ in texts(12, 0)], ordinals, row_seeds(9, ordinals)), ctx)
    files = without_floats(files) if name in BY_WEIGHTS else files
    return [files, (table.select(["ordinal", "asked", "seed"]) if name in BY_WEIGHTS else table).to_pylist()]


def run_check(name: str, here: Path) -> Any:
    check = CHECKS[name](options_of(name, CHECKS[name], here))
    model, ctx, files = fitted(check, here)
    if not serves_texts(check):
        return [files, check.judge(model, sample_rows(check)[0]("c", 40, 4), ctx).to_pylist()]
    strange = [("refund", ""), ("refund", "!!! ??"), ("nobody", "money back"), ("login", "x" * 400), ("track", "退款")]
    drawn = [*texts(20, 4), *texts(9, 1), *texts(3, 2), *strange]
    columns = {"stratum": [s for s, _ in drawn], "text": [t for _, t in drawn], "parent_ids": [["r0"]] * len(drawn)}
    candidates = pa.table(
        columns,
        schema=pa.schema([("stratum", pa.string()), ("text", pa.string()), ("parent_ids", pa.list_(pa.string()))]),
    )
    if ctx.target is not None:
        ends = [" ".join(text.split()[at % 4 :]) for at, (_, text) in enumerate(drawn)]
        candidates = candidates.append_column(TARGET, pa.array(ends, ctx.target))
    said = [files, check.judge(model, candidates, ctx).to_pylist()]
    return without_floats(said) if name in BY_SOLVER else said


def boxed_inputs() -> TrainerInputs:
    from boxed import DETECTION, boxed_rows
    from pictured import PICTURE_FIELDS

    made = boxed_rows(4, "s", 50).append_column("parent_ids", pa.array([["r000"]] * 4, pa.list_(pa.string())))
    held = boxed_rows(6, "v", 90).select(["row_id", *PICTURE_FIELDS])
    return TrainerInputs(boxed_rows(8), made, held, PICTURE_FIELDS, DETECTION)


def run_trainer(name: str, here: Path) -> Any:
    if "ranking" in TRAINERS[name].problems and "classification" not in TRAINERS[name].problems:
        return run_ranking(name, here)
    if name == "detector":  # whose boxes hang on weights, so that what is hashed is which rows have an answer
        given = boxed_inputs()
        trainer = TRAINERS[name](options_of(name, TRAINERS[name], here))
        return [len(found.target) for found in trainer.predict(given, trainings(given, 0, 1), here / "work")]
    draw, fields = sample_rows(TRAINERS[name])
    made = draw("s", 12, 6).append_column("parent_ids", pa.array([["r0"]] * 12, pa.list_(pa.string())))
    learnt = "classification" if {"classification", ANY} & set(TRAINERS[name].problems) else TRAINERS[name].problems[0]
    classes = () if TARGET in made.column_names else tuple(sorted(WORDS))
    held = draw("v", 30, 2).select([ROW_ID, *fields])
    problem = TrainerInputs(draw("r", 45, 1), made, held, fields, PROBLEMS[learnt], classes)
    trainer = TRAINERS[name](options_of(name, TRAINERS[name], here))
    predictions = trainer.predict(problem, trainings(problem, 0, 1), here / "work")
    # What `command` chose names its directory, which is another one each time.
    return [[found.target.tolist(), {} if name == "command" else found.chosen] for found in predictions]


def run_ranking(name: str, here: Path) -> Any:
    def rows(count: int, first: int) -> pa.Table:
        found = users(count, first)
        columns = {
            "row_id": [each["user"] for each in found],
            "stratum": ["1: all"] * count,
            "target": [each["next"] for each in found],
            HISTORY_FIELDS[0]: [each["history"] for each in found],
        }
        return pa.table(columns, schema=real_schema(HISTORY_FIELDS, pa.string()))

    made = rows(9, 60).append_column("parent_ids", pa.array([["u001"]] * 9, pa.list_(pa.string())))
    held = rows(20, 80).drop_columns(["stratum", "target"])
    problem = TrainerInputs(rows(40, 0), made, held, HISTORY_FIELDS, PROBLEMS["ranking"])
    trainer = TRAINERS[name](options_of(name, TRAINERS[name], here))
    return [found.target.tolist() for found in trainer.predict(problem, trainings(problem, 0, 1), here / "work")]


SOURCE_ROWS = {
    "csv": 'id,text,label\n1,"a, ""b""",x\n2,,y\n3,\ufeffc,x\n4,d\n\n5,"e\nf",\n',
    "jsonl": '{"id": 1, "text": "a, b", "label": true}\n{"id": 2, "text": null}\nno\n[]\n{"text": "c\\u0000", "label": false}\n',
}


def run_source(name: str, here: Path) -> Any:
    path = here / f"rows.{name}"
    rows = pa.table({"id": [1, 2], "text": ["a", "\ufeffb\x00"], "label": [True, None]})
    if name in SOURCE_ROWS:
        path.write_text(SOURCE_ROWS[name], encoding="utf-8")
    elif name == "events":
        lines = [
            f"{u},{i},{t}" for u, i, t in [("b", 2, 3), ("a", 9, 1), ("b", 1, 3), ("a", 8, 2), ("c", 1, 1), ("", 1, 1)]
        ]
        put(path, "\n".join(["user,item,time", *lines, "a,7,soon", "a,7,2026-01-01"]).encode())
    elif name == "delta":
        pytest.importorskip("deltalake").write_deltalake(path, rows)
    elif name == "folder":
        for file, data in {"day=1/a/1.png": b"one", "day=1/2.wav": b"", "day=1/b/c/3.jpg": b"too large a file"}.items():
            put(path / file, data)
    elif name == "webdataset":
        files = [
            ("a/1.png", b"one"),
            ("a/1.cls", b"x\n"),
            ("a/1.json", b'{"n": 1}'),
            ("../2.png", b"two"),
            ("3.txt", b"y"),
        ]
        put(path := here / "rows.tar", tar(files))
    elif name in ("coco", "voc"):
        for file in ("1.png", "2.png", "3.png"):
            put(path / file, b"too large a file" if file[0] == "3" else b"one")
        images = [{"id": at, "file_name": f"{at}.png"} for at in range(1, 5)]
        said = [{"image_id": at, "category_id": 1, "bbox": [at, 2.5, 3, "4" if at == 2 else 4]} for at in (1, 2, 3)]
        put(
            path / "x.json", json.dumps({"images": images, "annotations": said, "categories": [{"id": 1, "name": "a"}]})
        )
        corners = "<xmin>2</xmin><ymin>3.5</ymin><xmax>4</xmax><ymax>9</ymax>"
        put(path / "1.xml", f"<annotation><object><name>a</name><bndbox>{corners}</bndbox></object></annotation>")
        put(path / "2.xml", "<annotation>")
        (path / ("1.xml" if name == "coco" else "x.json")).unlink()
        (path / "2.xml").unlink() if name == "coco" else None
    else:
        pq.write_table(rows, path)
    given = {"format": name} if name in ("coco", "voc") else {}
    options = SourceOptions(path=str(path), max_file_bytes=10, **given)
    if name == "events":
        options = replace(
            options,
            path=str(put(here / "e.csv", path.read_bytes())),
            format="events",
            events=EventColumns(min_events=2),
        )
    (file,) = list_files(options)
    return [
        [str(batch.table.schema), batch.table.to_pylist(), batch.locations.to_pylist(), batch.repaired]
        + [[row.location, row.reason] for row in batch.refused]
        for batch in read_batches(file, options)
    ]


EXTENSIONS: dict[str, tuple[dict[str, Any], Any]] = {
    "generators": (GENERATORS, run_generator),
    "checks": (CHECKS, run_check),
    "trainers": (TRAINERS, run_trainer),
    "sources": (SOURCES, run_source),
}
NAMES = [(kind, name) for kind, (registry, _) in EXTENSIONS.items() for name in registry]


def extension_entry(kind: str, name: str) -> list[Any]:
    registry, run = EXTENSIONS[kind]
    with tempfile.TemporaryDirectory() as directory:
        return [registry[name].VERSION, digest(run(name, Path(directory)))]


def artifact_says(store: Store, artifact: Artifact) -> dict[str, Any]:
    names = [
        name for name in read_manifest(store, artifact)["files"] if name != TWINS
    ]  # which has a VERSION of its own
    said = {name: portable(name, fetch(store, artifact, name)) for name in names}
    if "manifest.json" in said:
        del said["manifest.json"]["recipe"]  # another recipe key, or another default, is no other row
    return said


def numbered_split(site: Site, directory: Path, step: int) -> Artifact:
    """A split of a regression, whose targets are ``step`` apart."""
    directory.mkdir()
    work, names = Work(site, directory), ("train", "validation", "test", "exclude", "unlabelled", "held_back")
    targets = pa.array([float(step * at) for at in range(40)])
    rows = pa.table({ROW_ID: [f"r{at}" for at in range(40)], STRATUM: ["1: all"] * 40, TARGET: targets})
    for name in names:
        work.write(rows, f"{name}.parquet")
    work.write_json(PROBLEMS["regression"].fit_strata(rows), STRATA)
    work.write_json({"rows": dict.fromkeys(names, 40), "classes": {}}, "summary.json")
    return commit(work, "split", f"{step:064d}")


def stage_runs() -> Iterator[tuple[Any, dict[str, Any]]]:
    """Every stage with what it made: a run with folds, and what only failures or several generators reach."""
    loaded = [module for name, module in sys.modules.items() if name.startswith("augmill.tasks.")]
    stages = {part.name: part for module in loaded for part in vars(module).values() if isinstance(part, Stage)}
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        store = Store(str(here / "store"))
        checks = {"label_consistency": False, "garbage": False}
        gate = {"seeds": 3, "resamples": 200, "folds": 2}
        # Content hashes stand in a release's manifest, and those are exact: no check here that computes with floats.
        recipe = tiny_recipe(
            write_rows(here / "rows.csv", 90),
            gate=gate,
            checks=checks,
            validation={"enabled": False},
            unlabelled={"path": str(write_rows(here / "free.csv", 30, seed=1))},
        )
        run = make_run(recipe, store)
        _, found = make_snapshot(run)
        site, split, settled = run.site, found.split, found.made.settled
        assert found.ingested and split and settled
        arrange_real(site, MixConfig(recipe.mix, recipe.publish.copy, recipe.columns.fields, recipe.seed), split)
        profile(site, DriftConfig(recipe.columns.fields), found.ingested)
        base = PlanConfig(recipe.target, recipe.refill, {"rules": 1.0})
        how = WeighConfig(recipe.plan, base.shares, recipe.columns.fields, recipe.splits.near, recipe.seed)
        weighed = weigh(site, how, split, settled)
        plan_adaptive(site, AdaptiveConfig(recipe.plan, base, 2), split, [settled], [weighed])
        segment = {"generator": "rules", "stratum": "refund", "start": 0, "count": 3}
        set_aside(site, SetAsideConfig("rules", recipe.columns.fields, (segment,), "deadline"))
        generator = generator_config(recipe.generators[0], recipe)
        pace(site, PaceConfig(generator, (), 3), split)
        looked_at = ValidationOptions()
        judged = ShardConfig(generator, (), (segment,), ("refund",), looked_at)
        fitted = next(event for event in run.events if event.stage == "fit")
        fit_artifact = look_up(store, *fitted.key.split("/"))
        assert fit_artifact
        validate(
            site,
            RoundConfig(recipe.columns.fields, ("refund",), looked_at),
            [run_shard(replace(site, observe=lambda event: None), judged, fit_artifact, [])],
        )
        stratify(
            site, StratifyConfig("regression", 1), *(numbered_split(site, here / str(step), step) for step in (1, 3))
        )
        for event in run.events:
            yield stages[event.stage], artifact_says(store, Artifact(event.key, 0, "", ""))


@cache
def stage_entries() -> dict[str, list[Any]]:
    made: dict[str, list[str]] = {}
    versions: dict[str, int] = {}
    for stage, said in stage_runs():
        versions[stage.name] = stage.version
        made.setdefault(stage.name, []).append(digest(said))
    # Sorted: shards are made side by side and end in any order.
    return {name: [versions[name], digest(sorted(said))] for name, said in sorted(made.items())}


Table = dict[str, dict[str, list[Any]]]  # kind: {name: [VERSION, hash]}


def recorded() -> Table:
    table: Table = json.loads(RECORDED.read_text(encoding="utf-8"))
    return table


def unversioned(found: Table, known: Table) -> list[str]:
    """What gives other rows than recorded under the recorded version; a stage's may have come from one before it."""
    pairs = [(kind, name) for kind in found for name in found[kind] if name in known.get(kind, {})]
    changed = [(kind, name) for kind, name in pairs if found[kind][name] != known[kind][name]]
    counted = [(kind, name) for kind, name in changed if found[kind][name][0] != known[kind][name][0]]
    silent = [(kind, name) for kind, name in changed if (kind, name) not in counted]
    return [f"{kind}/{name}" for kind, name in silent if not (kind == "stages" and counted)]


def compare(found: Table) -> None:
    known = recorded()
    if silent := unversioned(found, known):
        pytest.fail(
            f"other rows than before under the same VERSION: {', '.join(silent)}. Stores would mix old and new: where "
            f"that is meant, count up the VERSION of what was changed and run `{RECORD}`; where not, it is a defect"
        )
    new = [
        f"{kind}/{name}"
        for kind in found
        for name, pair in found[kind].items()
        if known.get(kind, {}).get(name) != pair
    ]
    assert not new, f"not recorded yet: run `{RECORD}` and commit {RECORDED.name}"


@pytest.mark.parametrize(
    ("kind", "name"), [pytest.param(*pair, marks=[pytest.mark.slow] if pair[1] in SLOW else []) for pair in NAMES]
)
def test_a_extension_that_gives_other_rows_has_a_new_version(kind: str, name: str) -> None:
    compare({kind: {name: extension_entry(kind, name)}})


def test_a_stage_that_gives_other_rows_has_a_new_version() -> None:
    """Where several are named, the first on the way from source to release is the cause."""
    compare({"stages": stage_entries()})


def test_every_stage_and_extension_is_recorded() -> None:
    known = recorded()
    assert {kind: sorted(part) for kind, part in known.items() if kind != "stages"} == {
        kind: sorted(registry) for kind, (registry, _) in EXTENSIONS.items()
    }
    sources = "".join(
        path.read_text(encoding="utf-8") for path in (Path(__file__).parents[1] / "tasks/stages").glob("*.py")
    )
    assert sorted(known["stages"]) == sorted(re.findall(r'^@stage\("(\w+)"', sources, re.MULTILINE))


def record() -> None:
    """Notes what each stage and extension makes now, unless rows changed and nobody said so."""
    found: Table = {
        kind: {name: extension_entry(kind, name) for name in sorted(extension)}
        for kind, (extension, _) in EXTENSIONS.items()
    }
    found["stages"] = stage_entries()
    silent = unversioned(found, recorded() if RECORDED.exists() else {})
    if silent:
        sys.exit(f"nothing recorded: count up the VERSION of what was changed first: {', '.join(silent)}")
    RECORDED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__" and sys.argv[1:] == ["--record"]:
    record()
