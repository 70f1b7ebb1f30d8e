"""A small dataset and the whole path over it in one process, without Prefect and without worker processes."""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from augmill.flows.orchestration.api import Api
from augmill.flows.progress import Progress
from augmill.flows.rounds import Made, produce
from augmill.flows.run import Run, Session, new_run, parameters_of, shared
from augmill.flows.signals import Stop
from augmill.flows.source import read_source
from augmill.tasks.contracts import Artifact, Tell, tell_nobody
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.stages import jobs as shards
from augmill.tasks.stages.mix import MixConfig, mix
from augmill.tasks.stages.publish import ReleaseConfig, build_release, commit_releases, put_release
from augmill.tasks.store.log import read_log
from augmill.tasks.store.stage import Event
from augmill.tasks.store.store import Store

WORDS = {
    "refund": [
        "money",
        "back",
        "charge",
        "return",
        "cash",
        "paid",
        "wrong",
        "amount",
        "please",
        "refund",
        "order",
        "price",
        "card",
    ],
    "track": [
        "where",
        "parcel",
        "late",
        "delivery",
        "courier",
        "status",
        "arrive",
        "tracking",
        "number",
        "today",
        "box",
        "post",
    ],
    "login": [
        "password",
        "account",
        "locked",
        "sign",
        "reset",
        "code",
        "email",
        "phone",
        "access",
        "cannot",
        "enter",
        "forgot",
    ],
}


def write_rows(path: Path, rows: int = 60, seed: int = 0) -> Path:
    """A CSV of short labelled sentences: three classes, the last one half as large."""
    rng = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "lang"])
        for index in range(rows):
            label = ("refund", "track", "refund", "track", "login")[index % 5]
            writer.writerow([" ".join(rng.choices(WORDS[label], k=7)), label, "en"])
    return path


def recipe_document(source: Path, **changes: Any) -> dict[str, Any]:
    """A recipe that is quick: rules, no Great Expectations, few trainings."""
    document: dict[str, Any] = {
        "dataset": "tiny",
        "source": {"path": str(source)},
        "columns": {"text": "text", "label": "label"},
        "splits": {"validation": 0.25, "test": 0.2},
        "target": {"per_class": 20},
        "generators": [{"use": "rules", "operations": {"insert": 1.0, "swap": 1.0, "delete": 1.0}}],
        "validation": {"enabled": False},
        "gate": {"seeds": 3, "resamples": 200},
        "trainer": {"use": "tfidf", "cs": [10.0]},
        "run": {"orchestrator": "none", "shard_rows": 25, "store": "unused"},
    }
    return document | changes


def tiny_recipe(source: Path, **changes: Any) -> Recipe:
    return build_recipe(recipe_document(source, **changes), base=source.parent)


class InlinePool:
    """Runs a worker's jobs in this process, over the same store object."""

    size = 1

    def run(
        self, store: str, job: dict[str, Any], *, seconds: float, tell: Tell = tell_nobody
    ) -> tuple[Artifact, list[Event]]:
        return shards.run_job(job | {"store": store, "device": "cpu", "threads": 1, "seconds": seconds}, tell)


def make_session(recipe: Recipe, store: Store, pool: Any = None) -> Session:
    """Without Prefect; jobs run in this process."""
    shards.STORES[store.root] = store
    return Session(recipe, store, Api(recording=False), pool or InlinePool(), Stop(), "cpu", None, "test")


def make_run(recipe: Recipe, store: Store, as_of: str | None = None, **how: Any) -> Run:
    return new_run(make_session(recipe, store), recipe, as_of, Progress(live=False), **how)


def make_snapshot(session: Session, as_of: str | None = None) -> dict[str, Any]:
    """What the flow ends with in that session, which others may share."""
    from augmill.flows.augment import augment  # imports Prefect, which reads the environment then
    from augmill.flows.flow import call_flow

    own = replace(session, quiet=True)
    with shared(own):
        return call_flow(own, augment, **parameters_of(session.recipe), as_of=as_of)


@dataclass(frozen=True)
class Produced:
    """One snapshot up to its accepted rows."""

    run: Run
    ingested: Artifact
    split: Artifact
    made: Made

    @property
    def settled(self) -> Artifact:
        assert self.made.settled is not None
        return self.made.settled

    def evidence(self) -> dict[str, Any]:
        """The gate's. Raises NotProduced where there is none."""
        from augmill.flows.augment import prove

        proof = prove(self.run, self.split, self.made)
        if proof.missing is not None:
            raise proof.missing
        assert proof.evidence is not None
        return proof.evidence


def produce_snapshot(recipe: Recipe, store: Store, as_of: str | None = None, **how: Any) -> Produced:
    """Reads the source and fills the targets. Raises what a run raises, and NotProduced where it keeps that."""
    run = make_run(recipe, store, as_of, **how)
    ingested, split = read_source(run)
    made = produce(run, split, ingested)
    if made.missing is not None:
        raise made.missing
    return Produced(run, ingested, split, made)


def produce_and_publish(recipe: Recipe, store: Store) -> tuple[str, Run]:
    """source to release, leaving the gate out: what a crash test repeats hundreds of times."""
    expected = read_log(store, recipe.dataset).current().get("all")
    produced = produce_snapshot(recipe, store, expected=expected)
    ingested, split, settled, site = produced.ingested, produced.split, produced.settled, produced.run.site
    config = MixConfig(recipe.mix, recipe.publish.copy, recipe.columns.fields, recipe.seed)
    mixed = mix(site, config, split, settled)
    release_config = ReleaseConfig(
        recipe.dataset, "all", "mix", recipe.publish.prefix, recipe.columns, recipe.hash(), recipe.task
    )
    built = build_release(site, release_config, ingested, split, mixed, [settled])
    release = put_release(store, recipe.dataset, built, {"command": "test"})
    commit_releases(store, recipe.dataset, {"all": (expected, release)}, entry={"reason": "test"}, command="test")
    return release, produced.run


def public_bytes(root: Path) -> dict[str, bytes]:
    """Every public file but provenance and the log, by name: what must not depend on how it came to be."""
    public = root / "public"
    return {
        path.relative_to(public).as_posix(): path.read_bytes()
        for path in sorted(public.rglob("*"))
        if path.is_file() and path.name != "provenance.json" and "_log" not in path.parts
    }
