"""A file of gigabytes from a bucket: its time is not limited, and a connection that breaks is gone on from, not begun anew."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from augmill.tasks.boundary.retries import PATIENCE, Patience
from augmill.tasks.errors import StoreError, StoreSilent
from augmill.tasks.sources import storage
from augmill.tasks.store import store as stores
from augmill.tasks.store.store import Store

BODY = b"0123456789" * 4
SHA256 = hashlib.sha256(BODY).hexdigest()


class _Slow(http.server.BaseHTTPRequestHandler):
    """Hands over ``step`` bytes at once; after those of each request ``breaks`` hangs up (0) or falls silent (seconds)."""

    step, pause = 10, 0.0
    breaks: float | None = None
    asked: list[int]

    def do_GET(self) -> None:
        begin = int((self.headers.get("range") or "bytes=0-").split("=")[1].split("-")[0])
        self.asked.append(begin)
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("content-range", f"bytes {begin}-{len(BODY) - 1}/{len(BODY)}")
        for name, value in (("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT"), ("etag", '"a"')):
            self.send_header(name, value)
        self.send_header("content-length", str(len(BODY) - begin))
        self.end_headers()
        with contextlib.suppress(OSError):
            for at in range(begin, len(BODY), self.step):
                self.wfile.write(BODY[at : at + self.step])
                self.wfile.flush()
                time.sleep(self.pause)
                if self.breaks is not None:
                    time.sleep(self.breaks)
                    return

    def log_message(self, *words: Any) -> None:
        del words


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Slow]]:
    handler = type("Handler", (_Slow,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, value in (("ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}"), ("REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "test")
    PATIENCE.renew(1.0, silent=True)
    with contextlib.closing(server.socket):
        yield handler
        server.shutdown()
    thread.join(10)
    PATIENCE.renew(120.0)


READS: dict[str, Callable[[Store], bool]] = {
    "digest": lambda store: store.digest("public/a") == SHA256,
    "fetch": lambda store: store.fetch_object(SHA256, len(BODY)).read_bytes() == BODY,
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("breaks", [0.0, 1.5])
def test_a_read_that_breaks_goes_on_where_it_broke_and_is_borne_for_longer_than_the_patience(
    slow: type[_Slow], monkeypatch: pytest.MonkeyPatch, read: str, breaks: float
) -> None:
    monkeypatch.setattr(storage, "SILENCE_SECONDS", 0.4)
    monkeypatch.setattr(stores, "PIECE", 1)
    slow.breaks = breaks
    assert READS[read](Store("s3://mill/long"))
    assert slow.asked == [0, 10, 20, 30]  # each byte came once


def test_a_read_takes_the_time_it_takes_as_long_as_something_comes(
    slow: type[_Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "SILENCE_SECONDS", 0.8)
    slow.pause = 0.4
    store = Store("s3://mill/long")
    assert store.get("public/a") == BODY and slow.asked == [0]
    options = store.backend.client_options
    assert options is not None and str(options["timeout"]) == "1day"  # obstore's own 30 s are for a whole file


def test_a_store_that_gives_nothing_more_is_given_up(slow: type[_Slow], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(stores, "PIECE", 1)
    slow.breaks, slow.step = 1.0, 10
    PATIENCE.renew(0.5, silent=True)
    really = _Slow.do_GET
    monkeypatch.setattr(slow, "do_GET", lambda self: really(self) if len(slow.asked) < 2 else time.sleep(1.0))
    with pytest.raises(StoreSilent):
        Store("s3://mill/long").digest("public/a")
    assert slow.asked == [0, 10]


def test_what_took_long_before_it_failed_is_tried_again() -> None:
    now, asked = 0.0, 0

    def write() -> int:
        nonlocal now, asked
        now, asked = now + 600.0, asked + 1
        if asked == 1:
            raise StoreError("status code: 503 No", where="k")
        return asked

    patience = Patience(seconds=120.0, silent=True)
    patience._pause = lambda stopped, seconds: False  # type: ignore[method-assign]
    assert patience.outwait(write, clock=lambda: now) == 2
