"""A bucket on an S3 server of this process."""

from __future__ import annotations

import contextlib
import logging
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest


@contextlib.contextmanager
def s3_server(*buckets: str) -> Iterator[str]:
    """The server's address; obstore finds it, and these buckets on it, in the environment while the block runs."""
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }
    responses = pytest.importorskip("moto.s3.responses").S3Response
    put, one_at_a_time = responses.put_object, threading.Lock()

    def put_object(self: Any) -> Any:
        """moto looks whether a key is absent, then writes, in as many threads as ask; S3 does both in one."""
        with one_at_a_time:
            return put(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(responses, "put_object", put_object)
        for name, value in settings.items():
            patch.setenv(name, value)
        for bucket in buckets:
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")).close()
        yield endpoint
    server.stop()
