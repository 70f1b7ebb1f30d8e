"""The child process of ``server.prefect_server``: ``python -m augmill.flows.orchestration.server_child PARENT_PID``.

Serves the Prefect API on a free loopback port, prints that port once it answers, and ends with its parent.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from augmill.flows.orchestration.retention import EVERY, sweep

_FLUSH_TIMEOUT = 10.0  # seconds given to the queues before a stop


def _watch(parent: int) -> None:
    """Ends this process when ``parent`` is no longer its parent: first politely, so that records are written."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_FLUSH_TIMEOUT + 5)
    os._exit(1)


async def _sweep_on() -> None:
    while True:
        await asyncio.sleep(EVERY)
        await sweep()


async def _queues_written() -> None:
    """Waits until every published event has been consumed: task runs exist only as events until then."""
    import anyio
    from prefect.server.utilities.messaging.memory import METRICS

    with anyio.move_on_after(_FLUSH_TIMEOUT):
        while any(topic["published"] > topic["consumed"] for topic in METRICS.values()):
            await anyio.sleep(0.05)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def serve(parent: int) -> None:
    """Serves until SIGTERM or until ``parent`` is gone; prints the port on stdout once the API answers."""
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    gc.disable()  # it goes through all that the imports make, again and again: 0.9 of their 3.5 s
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    if PREFECT_API_URL.value():  # configured in a file of Prefect's, which our parent had not read yet
        return
    import uvicorn
    from prefect.server.api.server import create_app

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            # Two servers that migrate one fresh database at once break each other. The kernel drops the lock with
            # its holder, so a killed one blocks nobody.
            with (Path(PREFECT_HOME.value()) / "augmill-migrate.lock").open("w") as lock:
                while not _locked(lock.fileno()) and not self.should_exit:
                    await asyncio.sleep(0.1)
                await super().startup(sockets)
                await sweep()
            gc.freeze()
            gc.enable()
            self.sweeping = asyncio.create_task(_sweep_on())
            if self.started:
                sys.stdout.write(f"{port}\n")
                sys.stdout.flush()
                os.dup2(2, 1)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            self.sweeping.cancel()
            await _queues_written()
            await super().shutdown(sockets)

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    app = create_app(final=True)  # PREFECT__SERVER_EPHEMERAL says whether it schedules runs too
    config = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=5)
    Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(int(sys.argv[1]))
