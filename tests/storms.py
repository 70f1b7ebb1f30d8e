"""An object store that misbehaves: an HTTP proxy before a real one, which answers by itself what its rules say."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Storm:
    """``rule(method, path, count)``: a status to answer with instead of passing on, or None; ``count`` from 0, by path."""

    target: str
    rule: Callable[[str, str, int], int | None] = lambda method, path, count: None
    slow_lists: float = 0.0
    requests: list[tuple[str, str, int]] = field(
        default_factory=list
    )  # method, path, status where answered here, else 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    address: str = ""

    def of(self, part: str) -> list[tuple[str, str, int]]:
        return [request for request in self.requests if part in request[1]]

    def _decide(self, method: str, path: str) -> int | None:
        plain = path.partition("?")[0]
        with self.lock:
            count = sum(method == other and plain == seen for other, seen, _ in self.requests)
            status = self.rule(method, plain, count)
            self.requests.append((method, plain, status or 0))
        if "list-type" in path:
            time.sleep(self.slow_lists)
        return status

    def serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as stream:
            head = list(iter(stream.readline, b"\r\n"))
            if not head or not head[0]:
                return
            method, path = head[0].decode().split(" ")[:2]
            lengths = [int(line.split(b":")[1]) for line in head if line.lower().startswith(b"content-length:")]
            body = stream.read(sum(lengths))
            status = self._decide(method, path)
            if status is not None:
                said = b"<Error><Code>Storm</Code><Message>not now</Message></Error>"
                client.sendall(
                    b"HTTP/1.1 %d No\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(said))
                )
                client.sendall(b"" if method == "HEAD" else said)
                return
            kept = [line for line in head if not line.lower().startswith(b"connection:")]
            host, port = self.target.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as server:
                server.sendall(b"".join(kept) + b"Connection: close\r\n\r\n" + body)
                for part in iter(lambda: server.recv(1 << 16), b""):
                    client.sendall(part)


@contextlib.contextmanager
def storm(target: str) -> Iterator[Storm]:
    """A proxy before the server at ``target``; ``address`` is what to set as AWS_ENDPOINT_URL."""
    made = Storm(target)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    made.address = "http://{}:{}".format(*listener.getsockname())

    def quietly(client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # whoever asked has gone
            made.serve(client)

    def accept() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                threading.Thread(target=quietly, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
