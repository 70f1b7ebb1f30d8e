"""A loopback address between a client and an API, which a test can make mute or dead."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Relay:
    """A loopback address that passes everything on to an API and back, until it falls silent: then it takes and says nothing."""

    def __init__(self, url: str) -> None:
        self.silent = threading.Event()
        self.refused: list[bytes] = []  # requests that begin so are cut off, each once
        self._connections: list[socket.socket] = []
        self._target = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/api"

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.die()

    def die(self) -> None:
        """As a server that was killed: connections are reset, and new ones refused."""
        for end in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((str(self._target.hostname), int(self._target.port or 0)))
                self._connections += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while some := source.recv(65536):
                if refused := next((start for start in self.refused if some.startswith(start)), None):
                    self.refused.remove(refused)
                    for end in (source, sink):
                        end.shutdown(socket.SHUT_RDWR)
                    return
                if not self.silent.is_set():
                    sink.sendall(some)
            if not self.silent.is_set():
                sink.shutdown(socket.SHUT_WR)
