"""What a run shows while it runs: a live line per stage in a terminal, lines elsewhere, artifacts in Prefect."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any
from uuid import UUID

from augmill.flows.orchestration.api import Api
from augmill.flows.terminal import say
from augmill.tasks.contracts import Tell
from augmill.tasks.rows.shown import visible

# Every line that a stream is given, also where a terminal shows it otherwise or not at all: for the logs of the run that
# the stage belongs to. No record goes up to `augmill`, whose terminal has the line already.
_lines = logging.getLogger("augmill.progress")
_lines.propagate = False
_lines.addHandler(logging.NullHandler())

FIRST, EVERY = 20.0, 60.0  # seconds after which a stage that still runs is told of, and from then on
STRETCH = 60.0  # seconds by whose pace the rest is reckoned: an epoch is measured, a machine gets busy
NAME = 28  # columns of a stage in a line: the longest is `fit_check label_consistency`
_EARLY, _FEW = 10.0, 0.05  # nothing is claimed in so many seconds, nor of so small a part unless after a stretch
_REFRESH = 8  # times a second

_ARTIFACT_INTERVAL = 2.0  # seconds between updates of a progress artifact: each is a request of about 20 ms


class Progress:
    """Use as a context manager; ``stage`` within it. Everything goes to stderr: stdout's last line is the result.

    A terminal shows each stage from its beginning, with its count and the time that is left. A stream is given a line
    when a stage ends, and for one that takes longer a line after ``FIRST`` seconds and every ``EVERY`` from then on.
    """

    def __init__(
        self,
        *,
        live: bool | None = None,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
        first: float = FIRST,
        every: float = EVERY,
    ) -> None:
        """``live`` None: where stderr is a terminal. ``quiet``: no stage is shown: one of many snapshots."""
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal if live is None else live
        self._live = self._live and not quiet
        self._screen: Any = None
        self._clock, self._first, self._every = clock, first, every
        # A record belongs to the run in whose context it is written: the ticker's thread writes in the stage's.
        self._running: dict[ShownStage, contextvars.Context] = {}
        self._ended = threading.Event()

    def __enter__(self) -> Progress:
        if self._live:
            from rich.live import Live

            self._screen = Live(
                _LiveLines(self._running), console=self._console, refresh_per_second=_REFRESH, transient=True
            )
            self._screen.start()
        threading.Thread(target=self._tick_on, daemon=True, name="augmill-progress").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()  # nobody waits for the thread: an interrupt is answered at once
        if self._screen is not None:
            self._screen.stop()
            self._screen = None

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "") -> Iterator[ShownStage]:
        """One stage, of ``total`` units where the caller counts them; a line when it ends."""
        stage = ShownStage(name, total, unit, clock=self._clock)
        try:
            with self._shown(stage):
                yield stage
        except BaseException:
            stage.stop()
            raise
        finally:
            self._say(f"{name:<{NAME}} {stage.seconds:6.1f} s  {stage.count}".rstrip(), show=not self._quiet)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Shows that ``what`` is waited for ("Prefect's server"), for what comes before the first stage."""
        with self._shown(ShownStage(f"waiting for {what}", clock=self._clock)):
            yield

    @contextlib.contextmanager
    def _shown(self, stage: ShownStage) -> Iterator[None]:
        stage.due = self._clock() + self._first
        self._running[stage] = contextvars.copy_context()
        try:
            if self._screen is not None:
                self._screen.refresh()
            yield
        finally:
            self._running.pop(stage, None)

    def tick(self) -> None:
        """Says how far each stage is whose line is due."""
        for stage, context in list(self._running.items()):
            if self._clock() >= stage.due:
                stage.due = self._clock() + self._every
                context.run(self._say, f"... {stage.name}: {stage.standing()}", show=not (self._quiet or self._live))

    def _tick_on(self) -> None:
        while not self._ended.wait(min(1.0, self._first / 4, self._every / 4)):
            with contextlib.suppress(OSError, ValueError):  # a closed pipe at the other end is not our failure
                self.tick()

    def _say(self, line: str, *, show: bool) -> None:
        if show:
            say(line, err=True)
        _lines.info("%s", visible(line))


class ShownStage:
    """``advance`` counts what the caller has of it; ``note`` is set to what the reader should know when it ends.

    ``tell`` hears how far the stage itself says that it is: that is shown while it runs. From any thread.
    """

    def __init__(
        self, name: str, total: int | None = None, unit: str = "", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.unit, self.note = name, unit, ""
        self.due = 0.0  # when a stream is told of it next
        self._counted, self._total = 0, total
        self._parts: dict[Hashable, int] = {}
        self._told: tuple[int, int | None, str] | None = None
        self._clock, self._lock, self._pace = clock, threading.Lock(), TimeLeft()
        self._started = clock()

    @property
    def done(self) -> int:
        return self._now()[0]

    @property
    def total(self) -> int | None:
        return self._now()[1]

    @property
    def seconds(self) -> float:
        return self._clock() - self._started

    @property
    def count(self) -> str:
        """What the caller counted, and the note: what stays of the stage."""
        counted = _counted(self._counted, self._total, self.unit) if self._total is not None or self._counted else ""
        return _joined(counted, self.note)

    def advance(self, by: int = 1, part: Hashable = None) -> None:
        """``part``: whose own tells (``tell_part``) these units replace."""
        with self._lock:
            self._parts.pop(part, None)
            self._counted += by
        self._see()

    def tell(self, done: int, total: int | None, unit: str) -> None:
        """How far the stage is, as it says itself; see ``Site.tell``."""
        self._told = done, total, unit
        self._see()

    def tell_part(self, part: Hashable, size: int) -> Tell:
        """For one of several jobs that share the count, of ``size`` of its units: what it tells is added to the count

        until ``advance(..., part=part)`` says what it really gave, or it begins anew.
        """

        def tell(done: int, total: int | None, unit: str) -> None:
            with self._lock:
                self._parts[part] = max(0, min(size, done * size // total if total else done))
            self._see()

        return tell

    def stop(self) -> None:
        """It did not come to its end: how far it was is worth knowing then."""
        self.note = _joined(_counted(*self._told) if self._told else "", "stopped")

    def standing(self) -> str:
        """How far it is, in words, and what is left of it or how long it has run."""
        left = self.left()
        return _joined(
            self.counts(), f"about {rough(left)} left" if left is not None else f"{rough(self.seconds)} so far"
        )

    def counts(self) -> str:
        now = self._now()
        own = _counted(*now) if now[0] or now[1] is not None else ""
        told = _counted(*self._told) if self._told and self._told != now else ""
        return _joined(own, told, self.note)

    def left(self) -> float | None:
        """Seconds, or None where nobody can know yet."""
        total = self.total
        with self._lock:
            return self._pace.left(self._clock(), total)

    def line(self, width: int) -> str:
        """The stage on a terminal of that many columns: its name gives way, then the words of the count, never the time."""
        from rich.cells import cell_len, set_cell_size

        clock, left, (done, total, _) = _clock_face(self.seconds), self.left(), self._now()
        full = _joined(visible(self.counts()), "" if left is None else f"about {rough(left)} left")
        brief = "" if not done and not total else f"{done:,}" if total is None else f"{done:,}/{total:,}"
        brief += "" if left is None else f" ~{rough(left)}"
        name = visible(self.name)
        fits = min(24, cell_len(name)) + len(clock) + cell_len(full) + 4 <= width
        detail = full if fits else brief
        room = max(min(8, cell_len(name)), width - len(clock) - cell_len(detail) - 4)
        name = name if cell_len(name) <= room else set_cell_size(name, room - 1) + "…"
        return f"{name}  {clock}  {detail}".rstrip()

    def _now(self) -> tuple[int, int | None, str]:
        """What is counted at this moment: the caller's units, else those that the stage tells."""
        with self._lock:
            if self._told is not None and self._total is None and not self._counted:
                return self._told
            return self._counted + sum(self._parts.values()), self._total, self.unit

    def _see(self) -> None:
        done = self._now()[0]
        with self._lock:
            self._pace.see(self._clock(), done)


class TimeLeft:
    """How fast a count goes, by its last ``STRETCH`` seconds. Says nothing before that can be known."""

    def __init__(self) -> None:
        self._begun, self._done = (0.0, 0), 0
        self._seen: deque[tuple[float, int]] = deque()  # a second apart

    def see(self, now: float, done: int) -> None:
        """``done`` at ``now``. A count that falls behind the stretch is another one: a second training, a new try."""
        if self._seen and done < self._seen[0][1]:
            self._seen.clear()
        if not self._seen:
            self._begun = now, done
        if not self._seen or (done > self._done and now - self._seen[-1][0] >= 1.0):
            self._seen.append((now, done))
        while len(self._seen) > 1 and self._seen[1][0] <= now - STRETCH:
            self._seen.popleft()
        self._done = done

    def left(self, now: float, total: int | None) -> float | None:
        """Seconds until ``total``, never negative; None before 10 s, before 5 % unless a minute has shown the pace, and

        where nothing moved or nothing is left.
        """
        if not self._seen or total is None or self._done >= total:
            return None
        took, done = now - self._begun[0], self._done - self._begun[1]
        if took < _EARLY or (took < STRETCH and done < _FEW * total):
            return None
        since, moved = now - self._seen[0][0], self._done - self._seen[0][1]
        return (total - self._done) * since / moved if since > 0 and moved > 0 else None


class _LiveLines:
    """The stages under way, as rich draws them."""

    def __init__(self, running: Mapping[ShownStage, object]) -> None:
        from rich.spinner import Spinner

        self._running = running
        self._spinners: dict[bool, Any] = {False: Spinner("dots"), True: Spinner("line")}

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        spinner = self._spinners[options.ascii_only].render(console.get_time())
        for stage in list(self._running):
            yield Text.assemble(spinner, " ", stage.line(options.max_width - 2), no_wrap=True, overflow="ellipsis")


def rough(seconds: float) -> str:
    """A time in words: two figures of it are enough."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _clock_face(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _counted(done: int, total: int | None, unit: str) -> str:
    return f"{done:,} {unit}".strip() if total is None else f"{done:,} of {total:,} {unit}".strip()


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


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
