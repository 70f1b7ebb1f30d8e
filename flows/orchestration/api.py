"""Prefect's API as one session sees it: whether it takes records, and what happens when it stops to."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from augmill.flows.orchestration.logs import api_answers, drop_client_records, start_client

_log = logging.getLogger("augmill")


class Api:
    """Prefect's API as one session sees it; of a run without Prefect one that never records."""

    def __init__(self, *, there: bool) -> None:
        self._lost = threading.Event()
        if not there:
            self._lost.set()

    @property
    def recording(self) -> bool:
        return not self._lost.is_set()

    def report(self, error: Exception) -> None:
        _log.debug("Prefect: %s: %s", type(error).__name__, error)
        if self.recording and not self.still_there():
            _log.warning("Prefect's API does not answer (%s); this run goes on without it.", type(error).__name__)

    def still_there(self) -> bool:
        if self.recording and not api_answers():
            self._lost.set()
            drop_client_records()
        return self.recording


@contextlib.contextmanager
def open_api(kind: str) -> Iterator[Api]:
    if kind == "none":
        yield Api(there=False)
        return

    from augmill.flows.orchestration.server import ServerUnavailable, prefect_server

    with contextlib.ExitStack() as stack:
        there = True
        try:
            stack.enter_context(prefect_server())
            start_client()
        except ServerUnavailable as error:
            _log.warning("%s\n  This run goes on without Prefect.", error)
            there = False
        yield Api(there=there)
