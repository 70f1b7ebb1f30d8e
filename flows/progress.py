"""What a run shows while it runs: a live bar in a terminal, a line per stage elsewhere, artifacts in Prefect."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID

from augmill.flows.orchestration.api import Api
from augmill.flows.terminal import say
from augmill.tasks.rows.kinds.text import visible

T = TypeVar("T")
_log = logging.getLogger("augmill")

_ARTIFACT_INTERVAL = 2.0  # seconds between updates of a progress artifact: each is a request of about 20 ms


class Progress:
    """Use as a context manager; ``stage`` within it. Everything goes to stderr: stdout's last line is the result."""

    def __init__(self, *, live: bool | None = None, quiet: bool = False) -> None:
        """``live`` None: where stderr is a terminal. ``quiet``: no stage is shown: one of many snapshots."""
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal if live is None else live
        self._live = self._live and not quiet
        self._bars: Any = None

    def __enter__(self) -> Progress:
        if self._live:
            from rich import progress as rich

            self._bars = rich.Progress(
                rich.SpinnerColumn(finished_text=" "),
                rich.TextColumn("{task.description}", markup=False),
                rich.BarColumn(bar_width=30),
                rich.TextColumn("{task.fields[count]}", markup=False),
                rich.TimeElapsedColumn(),
                console=self._console,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "") -> Iterator[ShownStage]:
        """One stage: a bar of ``total`` units while it runs; on a plain stream one line when it ends."""
        stage = ShownStage(name, total, unit, self._bars, quiet=self._quiet)
        stage.show()
        try:
            yield stage
        except BaseException:
            stage.note = "stopped"
            raise
        finally:
            stage.close()


class ShownStage:
    """``advance`` counts; ``note`` is set to what the reader should know ("unchanged, from the store")."""

    def __init__(self, name: str, total: int | None, unit: str, bars: Any, *, quiet: bool = False) -> None:
        self.name, self.total, self.unit, self.note, self.quiet = name, total, unit, "", quiet
        self.done = 0
        self._bars = bars
        self._started = time.monotonic()
        self._task: Any = None

    @property
    def count(self) -> str:
        if self.total is None:
            counted = f"{self.done:,} {self.unit}" if self.done else ""
        else:
            counted = f"{self.done:,} of {self.total:,} {self.unit}"
        return ", ".join(part for part in (counted.strip(), self.note) if part)

    def show(self) -> None:
        if self._bars is not None:
            self._task = self._bars.add_task(f"{visible(self.name):<10}", total=self.total, count=visible(self.count))

    def tell(self, done: int, total: int | None, unit: str) -> None:
        self.done, self.total, self.unit = done, total, unit
        self.advance(0)

    def advance(self, by: int = 1) -> None:
        self.done += by
        if self._bars is not None:
            self._bars.update(self._task, completed=self.done, count=visible(self.count))

    def close(self) -> None:
        if self._bars is not None:
            end = self.total if self.total is not None else max(self.done, 1)
            self._bars.update(self._task, total=end, completed=end, count=visible(self.count))
        elif not self.quiet:
            say(f"{self.name:<10} {time.monotonic() - self._started:6.1f} s  {self.count}".rstrip(), err=True)


class Artifacts:
    """Prefect artifacts of the running flow. Without a Prefect API each method does nothing and returns None.

    ``key`` is made of lower-case letters, digits and dashes. A failing API never fails the run.
    """

    def __init__(self, api: Api) -> None:
        self._api = api

    def table(self, key: str, rows: Sequence[Mapping[str, Any]], description: str = "") -> UUID | None:
        table = [dict(row) for row in rows]
        return self._send("create_table_artifact", table, key=key, description=description)

    def markdown(self, key: str, text: str, description: str = "") -> UUID | None:
        return self._send("create_markdown_artifact", text, key=key, description=description)

    def link(self, key: str, url: str, text: str, description: str = "") -> UUID | None:
        return self._send("create_link_artifact", url, text, key=key, description=description)

    def bar(self, key: str, total: int, description: str = "") -> ArtifactBar:
        """A bar at 0 of ``total``."""
        made = self._send("create_progress_artifact", 0.0, key=key, description=description)
        return ArtifactBar(self, made, total)

    def update(self, artifact: UUID, share: float) -> None:
        """Moves a bar to ``share`` (0 to 1)."""
        self._send("update_progress_artifact", artifact, 100.0 * share)

    def _send(self, request: str, *values: Any, **options: str) -> UUID | None:
        """Calls that function of prefect.artifacts, whose import takes 1.3 s: only where there is an API."""
        if not self._api.recording:
            return None
        from prefect import artifacts

        answer = self._api.send(lambda: getattr(artifacts, request)(*values, **options))
        return answer if isinstance(answer, UUID) else None


class ArtifactBar:
    """A progress artifact. Updates within ``_ARTIFACT_INTERVAL`` seconds of the last are left out, but for the full one."""

    def __init__(self, artifacts: Artifacts, artifact: UUID | None, total: int) -> None:
        self._artifacts, self._artifact, self._total = artifacts, artifact, max(total, 1)
        self._done, self._updated = 0, 0.0

    def advance(self, by: int) -> None:
        self._done += by
        now = time.monotonic()
        full = self._done >= self._total
        if self._artifact is not None and (full or now - self._updated >= _ARTIFACT_INTERVAL):
            self._updated = now
            self._artifacts.update(self._artifact, self._done / self._total)
