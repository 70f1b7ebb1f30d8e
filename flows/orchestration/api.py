"""Prefect's API as one session sees it: there, or lost for good at the first trouble; the data goes on either way."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
_log = logging.getLogger("augmill")


class Api:
    """Prefect's API as one session sees it; of a run without Prefect one that never records.

    Prefect's engine makes requests of its own when a flow begins and after its function returns. An API that died or
    fell silent meanwhile would hold each of them for 10 s. So whoever runs a flow asks ``still_there`` before it begins
    one (a nested one too) and, as the last thing inside the flow's function, before it returns; where the answer is no,
    it raises ``prefect.exceptions.Abort`` there, which ends the engine without another request, and catches it outside
    the flow, where it takes the result that it kept. An error that the engine itself raises goes to ``report``.
    """

    def __init__(self, *, recording: bool = True) -> None:
        self.lost = threading.Event()  # set once and for all; the client's queues end by it
        self._asking = threading.Lock()
        if not recording:
            self.lost.set()

    @property
    def recording(self) -> bool:
        """Whether it takes records (runs, artifacts, logs) at this moment; once lost, lost for the session."""
        return not self.lost.is_set()

    def still_there(self) -> bool:
        """``recording``, asked anew: known within 4 s (20 ms of one that is there). The first no is one warning."""
        with self._asking:
            if self.recording:
                from augmill.flows.orchestration.client import STILL_TIMEOUT, api_trouble

                if (trouble := api_trouble(STILL_TIMEOUT)) is not None:
                    self.lost.set()
                    _log.warning("Prefect's API does not answer (%s); the run goes on without it.", trouble)
            return self.recording

    def report(self, error: Exception) -> None:
        """Takes note of an error of Prefect's own, which must not stop the data; asks whether the API is still there."""
        _log.debug("Prefect: %s: %s", type(error).__name__, error)
        self.still_there()

    def send(self, request: Callable[[], T]) -> T | None:
        """``request()`` to the API, which must not hold up the data: tried once. None where it failed or none records."""
        if not self.recording:
            return None
        from augmill.flows.orchestration.client import patience

        try:
            with patience(retries=0):
                return request()
        except Exception as error:  # noqa: BLE001 - whatever a remote service answers must not stop the data
            self.report(error)
            return None


@contextlib.contextmanager
def open_api(kind: str) -> Iterator[Api]:
    """``prefect`` or ``none``. A server that does not start, or a configured API that is dead or mute, is one warning,

    and an ``Api`` that never records. On leaving, what the client still holds is sent, within 10 s.
    """
    if kind == "none":
        yield Api(recording=False)
        return

    from augmill.flows.orchestration.server import ServerUnavailable, prefect_server

    with contextlib.ExitStack() as stack:
        api = Api()
        try:
            stack.enter_context(prefect_server(lost=api.lost))
        except ServerUnavailable as error:
            _log.warning("%s\n  This run goes on without Prefect.", error)
            api = Api(recording=False)
        yield api
