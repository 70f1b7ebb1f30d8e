"""A real HTTP server that speaks OpenAI's chat completions and misbehaves on demand. Its record tells what it saw.

python tests/chat_server.py    # serves on a free port, which it prints; a row a request
"""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Seen:
    """One request. ``at_once``: how many were under way when it came, itself among them; ``status``: what it got."""

    body: dict[str, Any]
    raw: bytes
    headers: dict[str, str]
    path: str
    at_once: int
    came: float
    status: int = 0


@dataclass
class Act:
    """What is done with one request. ``cut``: the connection is closed after half of the body; ``drip``: seconds per byte."""

    status: int = 200
    body: bytes | None = None  # None: an answer made of ``text``
    text: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0
    cut: bool = False
    drip: float = 0.0


Script = Callable[[Seen, int], Act]  # the request and its number, from 0


def as_answer(text: str, tokens: tuple[int, int] = (10, 5), **more: Any) -> bytes:
    """The body of a good answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage} | more).encode()


def echo_text(seen: Seen) -> str:
    """A text that is the request's own, so that answers cannot be confused."""
    return f"answer {hashlib.sha256(seen.raw).hexdigest()[:12]}"


def in_turn(*acts: Act) -> Script:
    """One after the other, then good answers."""
    return lambda seen, number: acts[number] if number < len(acts) else Act()


def packed(body: bytes) -> Act:
    return Act(body=gzip.compress(body), headers={"Content-Encoding": "gzip"})


class ChatServer(ThreadingHTTPServer):
    """``seen``: every request so far, in order. ``script`` may be changed while it serves."""

    daemon_threads, block_on_close = True, False  # a slow answer holds up nobody's end
    request_queue_size = 128

    def __init__(self, script: Script) -> None:
        self.script, self.seen, self.lock, self.under_way = script, list[Seen](), threading.Lock(), 0
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def bodies(self, status: int = 200) -> list[bytes]:
        return [seen.raw for seen in self.seen if seen.status == status]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for the client's acknowledgement
    server: ChatServer

    def do_POST(self) -> None:
        server = self.server
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with server.lock:
            server.under_way += 1
            seen = Seen(json.loads(raw), raw, dict(self.headers), self.path, server.under_way, time.monotonic())
            number = len(server.seen)
            server.seen.append(seen)
        left = False
        try:
            act = server.script(seen, number)
            seen.status = act.status
            time.sleep(act.wait)
            with server.lock:
                server.under_way -= 1
                left = True
            self.answer(act, seen)
        finally:
            if not left:
                with server.lock:
                    server.under_way -= 1

    def answer(self, act: Act, seen: Seen) -> None:
        body = as_answer(act.text if act.text is not None else echo_text(seen)) if act.body is None else act.body
        self.send_response(act.status)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(body))} | act.headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        if act.drip:
            for at in range(len(body)):
                self.wfile.write(body[at : at + 1])
                time.sleep(act.drip)
        elif act.cut:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Tests read ``seen``."""


@contextmanager
def chat_server(script: Script = lambda seen, number: Act()) -> Iterator[ChatServer]:
    """Serves until the block ends."""
    server = ChatServer(script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    with chat_server() as running:
        print(running.url, flush=True)
        threading.Event().wait()
