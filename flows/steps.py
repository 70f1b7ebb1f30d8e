"""What every step of a flow does alike: a named task with its stage's retries, a line of progress, a bounded map."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from augmill.flows.orchestration.orchestrate import Orchestrator
from augmill.flows.progress import Artifacts, Progress, ShownStage
from augmill.tasks.contracts import Artifact, Tell
from augmill.tasks.errors import AugmillError, DeadlineExceeded
from augmill.tasks.recipe.sections import Run
from augmill.tasks.stages.extensions import FitConfig
from augmill.tasks.stages.generate import SetAsideConfig, ShardConfig, bank_of, generate, sample, set_aside
from augmill.tasks.stages.jobs import pack
from augmill.tasks.store.bank import Bank
from augmill.tasks.store.stage import Event, Site, Stage, look_up
from augmill.tasks.workers import WorkerPool

CUT_SHORT = ("deadline", "shard_failed")  # why a shard is set aside that another try may make


class OutOfTime(DeadlineExceeded):
    """The run's own deadline came. Trying again is for another run."""

    retryable = False


@dataclass
class Steps:
    """Runs stages for one snapshot: through the orchestrator, with progress, noting what was reused."""

    orchestrator: Orchestrator
    site: Site
    pool: WorkerPool
    progress: Progress
    artifacts: Artifacts
    label: str  # dataset@snapshot, in every task's name
    stage_seconds: float  # a stage that takes longer is stopped, and tried again as its retries say
    events: list[Event] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    banks: dict[str, Bank] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def tags(self) -> list[str]:
        return ["augmill", self.label.split("@")[0]]

    @property
    def cut_short(self) -> bool:
        """Whether a shard is missing that another try may make."""
        return any(failure["reason"] in CUT_SHORT for failure in self.failures)

    def do(
        self,
        stage: Stage[Any],
        config: Any,
        *inputs: Artifact | list[Artifact],
        what: str = "",
        tell: Callable[[Artifact], str] | None = None,
    ) -> Artifact:
        """One stage as one task; its progress line says what it gave and whether it stood in the store already.

        ``tell``: what it gave in the stage's own words, instead of the number of rows.
        """
        name = f"{stage.name} {self.label} {what}".strip()
        with self.progress.stage(f"{stage.name} {what}".strip()) as shown:
            artifact = self.orchestrator.call(
                stage, replace(self.site, tell=shown.tell), config, *inputs,
                name=name, retry=stage.retry, tags=self.tags, timeout=self.stage_seconds,
            )  # fmt: skip
            event = next(event for event in reversed(self.events) if event.key == artifact.key)
            gave = tell(artifact) if tell else f"{artifact.rows:,} rows"
            shown.note = gave + (", unchanged, from the store" if event.reused else "")
        return artifact

    def in_worker(self, stage: Stage[Any], config: FitConfig, split: Artifact, *, what: str) -> Artifact:
        """A fit as one task, run in a worker process: it can be killed, and this process stays small."""
        name = f"{stage.name} {self.label} {what}"
        with self.progress.stage(f"{stage.name} {what}") as shown:
            run = lambda: self._in_worker(stage, config, [split], self.stage_seconds, shown.tell)  # noqa: E731
            artifact = self.orchestrator.call(run, name=name, retry=stage.retry, tags=self.tags)
            event = next(event for event in reversed(self.events) if event.key == artifact.key)
            shown.note = "unchanged, from the store" if event.reused else f"{artifact.rows:,} rows"
        return artifact

    def _in_worker(
        self, stage: Stage[Any], config: Any, inputs: list[Artifact], seconds: float, tell: Tell
    ) -> Artifact:
        """The stage's artifact: from the store where it stands, else made by a worker."""
        identity = stage.identity(config, (inputs[0], inputs[1:]) if stage is generate else (inputs[0],))
        known = look_up(self.site.store, stage.name, identity)
        started = time.monotonic()
        if known is not None:
            self.site.observe(Event(stage.name, known.key, known.rows, True, 0.0))
            return known
        if self.site.deadline is not None:
            seconds = min(seconds, self.site.deadline - started)
            if seconds <= 0:
                raise OutOfTime("the run's deadline came before it was made", fix="give it more time, or ask for less")
        if stage is generate:
            bank = self._bank(bank_of(config.generator, inputs[0].content))
            config = replace(config, raw=bank.pieces(config.segments))
        job = pack(stage, config, inputs) | {"dataset": self.site.dataset}
        artifact, events = self.pool.run(self.site.store.root, job, seconds=seconds, tell=tell)
        for event in events:
            self.site.observe(event)
        return artifact

    def _bank(self, name: str) -> Bank:
        """The bank as it stood when it was first asked for in this round: read once, not by each shard."""
        with self.lock:
            if name not in self.banks:
                self.banks[name] = Bank(self.site.store, name)
            return self.banks[name]

    def run_shards(
        self, configs: Sequence[ShardConfig], inputs: list[list[Artifact]], how: Run, *, round_number: int
    ) -> list[Artifact]:
        """Every shard's artifact, in order. One that failed for good is set aside: its rows count as undelivered."""
        if not configs:
            return []
        jobs = list(zip(range(len(configs)), configs, inputs, strict=True))
        total = sum(segment["count"] for config in configs for segment in config.segments)
        bar = self.artifacts.progress(
            f"augmill-{self.label.split('@')[0]}-round-{round_number}", "shards of this round"
        )
        finished, before = 0, len(self.events)
        for bank in self.banks.values():
            bank.refresh()  # what the round before, or another snapshot, has sampled

        with self.progress.stage(f"generate {round_number}", total, "rows") as shown:

            def done(artifact: Artifact) -> None:
                nonlocal finished
                finished += artifact.rows
                self.artifacts.update(bar, finished / max(total, 1))

            results = self.orchestrator.map(
                lambda job: self._shard(round_number, *job, 60 * how.shard_minutes, shown),
                jobs,
                limit=2 * self.pool.size,
                name=lambda job: f"generate {self.label} round {round_number} shard {job[0]}",
                retry=replace(generate.retry, tries=1 + how.shard_retries),
                tags=[*self.tags, "shard"],
                on_done=done,
                give_up=lambda job, error: self._give_up(round_number, job[0], job[1], error, shown),
            )
            round_events = self.events[before:]  # nothing else of this snapshot runs meanwhile
            shown.note = f"{len(results)} shards{_from_before(round_events, len(results))}"
        return results

    def _shard(
        self,
        round_number: int,
        shard: int,
        config: ShardConfig,
        inputs: list[Artifact],
        seconds: float,
        shown: ShownStage,
    ) -> Artifact:
        tell = shown.tell_part(shard, sum(segment["count"] for segment in config.segments))
        try:
            artifact = self._in_worker(generate, config, inputs, seconds, tell)
        except OutOfTime as error:  # not tried again, and no end of the round: what stands counts
            return self._give_up(round_number, shard, config, error, shown)
        shown.advance(artifact.rows, part=shard)
        return artifact

    def _give_up(
        self, round_number: int, shard: int, config: ShardConfig, error: AugmillError, shown: ShownStage
    ) -> Artifact:
        """Stands in for a shard whose tries are used up: its rows are undelivered, with the reason."""
        reason = CUT_SHORT[0] if isinstance(error, DeadlineExceeded) else CUT_SHORT[1]
        self.failures.append({"round": round_number, "shard": shard, "reason": reason, "error": str(error)})
        aside = SetAsideConfig(config.generator.extension, config.generator.fields, config.segments, reason)
        artifact = set_aside(self.site, aside)
        shown.advance(artifact.rows, part=shard)
        return artifact


def _from_before(events: list[Event], shards: int) -> str:
    """What of a round did not have to be made."""
    if sum(event.reused and event.stage == generate.name for event in events) == shards:
        return ", unchanged, from the store"
    taken = sum(event.rows for event in events if event.reused and event.stage == sample.name)
    return f", {taken:,} rows sampled before" if taken else ""
