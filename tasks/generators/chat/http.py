"""One request to `POST {base_url}/chat/completions`, and what its answer means. What a server says is never trusted."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import os
import re
import ssl
import zlib
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import monotonic, time
from typing import Any

from augmill.tasks.boundary.hosts import async_peer_check, is_loopback, peer_check
from augmill.tasks.errors import UserError
from augmill.tasks.generators.chat.backend import Answer, ModelCall
from augmill.tasks.generators.chat.options import ChatOptions, Secret

# --- How many requests are under way at once: raised slowly, cut fast (AIMD; Chiu and Jain 1989), as TCP does it ------


FIRST = 4  # requests at once, before anything is known of the server
BACKOFF, LONGEST = 0.5, 60.0  # seconds before the second try; before any


class Pace:
    """One more after as many answers in a row as may be under way; half of it after a 429, a 5xx or a time-out.

    What was under way when it was cut cuts no further: sixteen refusals of one moment are one sign, not sixteen.
    """

    def __init__(self, most: int, log: logging.Logger) -> None:
        self.most, self.log = most, log
        self.limit = min(FIRST, most)
        self.active = self.answered = self.epoch = 0
        self.not_before = 0.0
        self.free = asyncio.Event()

    async def enter(self) -> int:
        """Waits for a place; returns what ``leave`` needs."""
        while True:
            if (left := self.not_before - monotonic()) > 0:
                await asyncio.sleep(left)
            elif self.active < self.limit:
                self.active += 1
                return self.epoch
            else:
                self.free.clear()
                await self.free.wait()

    def leave(self) -> None:
        self.active -= 1
        self.free.set()

    def raise_slowly(self) -> None:
        self.answered += 1
        if self.answered >= self.limit and self.limit < self.most:
            self.limit, self.answered = self.limit + 1, 0
            self.free.set()

    def cut(self, epoch: int, wait: float | None, why: str) -> None:
        """``wait``: seconds for which the server wants no request at all."""
        self.answered = 0
        if wait is not None:
            self.not_before = max(self.not_before, monotonic() + wait)
        if epoch == self.epoch:
            self.limit, self.epoch = max(1, self.limit // 2), self.epoch + 1
            self.log.info("endpoint: %s; at most %d requests at once from now on", why, self.limit)


def backoff(key: str, failed: int) -> float:
    """Seconds to wait after so many failures: doubled each time, less up to a half that is the call's own number."""
    share = int.from_bytes(hashlib.sha256(f"{key} {failed}".encode()).digest()[:4], "big") / (1 << 32)
    return min(LONGEST, BACKOFF * float(2 ** min(failed - 1, 20))) * (0.5 + share / 2)


def read_retry_after(value: str | None) -> float | None:
    """Seconds, of a header that gives those or a date (RFC 9110, 10.2.3); None for what is neither."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, OverflowError, OSError):  # a server's slip; backoff waits all the same
        return None


# --- Whether rows may be sent to an endpoint at all, and with which key. Everything here is asked before the first ----


def parse_url(base_url: str) -> Any:
    """The httpx.URL that requests go to, by the parser that sends them: what is checked is what is asked.

    Raises UserError for what is no address, or for one that holds more: a key in an address would stand in every log.
    """
    import httpx

    where, fix = "base_url", "give the address before `/chat/completions`, such as https://api.example.com/v1"
    try:
        url = httpx.URL(base_url.rstrip("/") + "/chat/completions")
    except httpx.InvalidURL as error:
        raise UserError(f"expected an address; found one that cannot be read: {error}", where=where, fix=fix) from error
    if url.scheme not in ("http", "https") or not url.host:
        found = "one not shown here, since it holds a name or a key" if "@" in base_url else repr(base_url)
        raise UserError(f"expected http:// or https:// and a host; found {found}", where=where, fix=fix)
    if url.userinfo or url.query or url.fragment or "?" in base_url or "#" in base_url:
        problem = f"expected only an address; found a name, a key or parameters in it (host {url.host})"
        raise UserError(problem, where=where, fix=f"{fix}; a key goes into `api_key: {{env: NAME}}`")
    return url


def require_egress(options: ChatOptions) -> Any:
    """The address that may be asked. Raises UserError where the recipe does not allow it."""
    url, egress = parse_url(options.base_url), options.egress
    if is_loopback(url.host):
        return url
    if egress is None:
        problem = f"{url.host} is not this machine, and the recipe does not say what may be sent there"
        fix = f"add `egress: {{hosts: [{url.host}], columns: [text], redact: [email, phone, card, cn_id]}}`"
        raise UserError(problem, where="egress", fix=fix)
    if url.host not in egress.hosts:
        problem = f"rows may be sent to {', '.join(egress.hosts) or 'nobody'}; base_url names {url.host}"
        raise UserError(problem, where="egress.hosts", fix="add the host exactly as written here, or correct base_url")
    if url.scheme == "http" and not egress.plain_http:
        problem = f"rows would go to {url.host} unencrypted"
        raise UserError(problem, where="base_url", fix="use https://, or set `plain_http: true` in `egress`")
    return url


def name_secret(secret: Secret) -> str:
    """How messages call it."""
    return f"environment variable {secret.env}" if secret.file is None else f"file {secret.file}"


def read_secret(secret: Secret | None) -> str | None:
    """The key itself. Raises UserError, which names where it should stand and never what stands there."""
    if secret is None:
        return None
    name = name_secret(secret)
    try:
        raw = os.environ.get(secret.env or "", "") if secret.file is None else _read_file(secret.file)
    except (OSError, UnicodeDecodeError) as error:
        problem = f"the {name} cannot be read: {type(error).__name__}"
        raise UserError(problem, where="api_key", fix="correct the path, or grant read access") from None
    value = raw.strip()
    if not value:
        problem = f"expected a key in the {name}; found nothing"
        raise UserError(problem, where="api_key", fix="set it where the workers run, or correct the name")
    if not value.isascii() or not value.isprintable() or " " in value:
        problem = f"expected one key in the {name}; found several words, lines, or characters that no key has"
        raise UserError(problem, where="api_key", fix="put only the key there")
    return value


def _read_file(name: str) -> str:
    path = Path(name).expanduser()
    if not path.is_absolute():
        problem = f"expected an absolute path to the key's file; found {name!r}"
        raise UserError(
            problem, where="api_key", fix="workers have a working directory of their own: begin with / or ~"
        )
    return path.read_text(encoding="utf-8")


# --- One request ------------------------------------------------------------------------------------------------------


MOST_BYTES = 8 << 20  # of an answer, unpacked; 30 times what 64,000 tokens take
MOST_TOKENS = 1 << 31  # a count beyond is a server's slip
# Why another try is made. Those in EVERYONE are of the server or the way to it; others may be of this one request.
EVERYONE = {"unreachable", "http_429", "http_502", "http_503", "http_504"}
MALFORMED = {"not_json", "no_choices", "no_text", "too_big"}  # each may have been paid for
_TOO_LONG = re.compile(r"context.{0,20}(length|window|size)|maximum context|too (long|many tokens)|max_model_len", re.I)
_FILTERED = re.compile(r"content.?(filter|policy|management)|safety", re.I)


@dataclass(frozen=True)
class Reply:
    """What a try gave: an answer for good, or ``cause``, for which another may be made.

    ``wait``: seconds for which the server wants no request. ``free``: whether it is known that nothing was charged.
    ``slow``: whether the server, or the way to it, has too much to do. Both at once: the server refuses this very request.
    """

    answer: Answer | None = None
    cause: str = ""
    wait: float | None = None
    free: bool = False
    slow: bool = False


def make_body(options: ChatOptions, call: ModelCall) -> bytes:
    """The same bytes for the same call: keys sorted, nothing of this host or of the time in it."""
    sent: dict[str, Any] = {"model": options.model, "messages": list(call.messages)}
    for name in ("max_tokens", "temperature", "top_p", "seed"):
        if known_as := options.parameters.get(name, name):
            sent[known_as] = getattr(call, name)
    return json.dumps(sent, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def most_tokens(call: ModelCall) -> tuple[int, int]:
    """What it can cost at most: no tokenizer makes more tokens than bytes; a chat template adds a few a message."""
    size = sum(len(part["content"].encode()) + 16 for part in call.messages)
    return size + 16, call.max_tokens


def open_client(timeout: float, parallel: int, secret: str | None, *, loopback: bool) -> Any:
    """An httpx.AsyncClient that follows no redirect and verifies certificates; no proxy stands before this machine."""
    import httpx

    headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
    if secret is not None:
        headers["Authorization"] = f"Bearer {secret}"
    return httpx.AsyncClient(
        headers=headers | {"User-Agent": "augmill"},
        timeout=httpx.Timeout(timeout),
        limits=httpx.Limits(max_connections=parallel, max_keepalive_connections=parallel),
        follow_redirects=False,
        verify=True,
        trust_env=not loopback,
    )


async def send(client: Any, url: Any, body: bytes, call: ModelCall, secret: Secret | None) -> Reply:
    """One try. Raises UserError for what no further request could cure (the key, the address, the account)."""
    import httpx

    try:
        async with client.stream("POST", url, content=body, extensions={"trace": _peer(url.host)}) as response:
            raw = await _read(response)
    except httpx.ConnectError as error:
        if (refused := _certificate(error)) is not None:
            problem = f"the certificate of {url.host} is not trusted: {refused.verify_message}"
            fix = "point SSL_CERT_FILE to the company's certificate authorities, or correct base_url"
            raise UserError(problem, where="base_url", fix=fix) from error
        return Reply(cause="unreachable", free=True, slow=True)
    except (httpx.TimeoutException, TimeoutError):
        return Reply(cause="timeout", slow=True)
    except httpx.TransportError:
        return Reply(cause="cut", slow=True)
    if response.status_code != 200:
        return _refused(response, raw or b"", call, secret, url.host)
    return _accepted(response, raw, call)


def _peer(host: str) -> Any:
    """The recipe names the host, so it may stand in a private network; where a name leads is looked at all the same."""
    fix = "correct base_url, or the name server's entry; no model answers there"
    return async_peer_check(peer_check(host, private=True, where="base_url", fix=fix))


def _certificate(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error


async def _read(response: Any) -> bytes | None:
    """The body, unpacked; None where it is larger than any answer, before or after that, or cannot be unpacked."""
    raw = bytearray()
    async for part in response.aiter_raw():
        raw += part
        if len(raw) > MOST_BYTES:
            return None
    packed = response.headers.get("content-encoding", "identity").strip().lower()
    if packed in ("", "identity"):
        return bytes(raw)
    if packed not in ("gzip", "x-gzip", "deflate"):
        return None
    try:
        whole = zlib.decompressobj(wbits=47).decompress(bytes(raw), MOST_BYTES + 1)
    except zlib.error:
        return None
    return whole if len(whole) <= MOST_BYTES else None


def _refused(response: Any, raw: bytes, call: ModelCall, secret: Secret | None, host: str) -> Reply:
    status, said = response.status_code, parse(raw)
    detail = said.get("error") if isinstance(said, dict) else None
    fields = detail if isinstance(detail, dict) else {}
    code = next(
        (v for n in ("code", "type") if isinstance(v := fields.get(n), str) and re.fullmatch(r"\w{1,64}", v)), ""
    )
    if status in (408, 409, 429) or status >= 500:
        if code == "insufficient_quota":
            raise UserError("the account has no quota left", where=host, fix="raise its limit, then run it again")
        wait = read_retry_after(response.headers.get("retry-after"))
        return Reply(cause=f"http_{status}", wait=wait, free=True, slow=status != 409)
    _require_access(status, code, response.headers.get("location", ""), secret, host)
    message = f"{code} {fields.get('message') or detail or (said if isinstance(said, str) else '')}"
    if status == 413 or _TOO_LONG.search(message):
        return Reply(Answer(None, "too_long", 0, 0, False), free=True)
    if _FILTERED.search(message):
        return Reply(Answer(None, "content_filter", 0, 0, False), free=True)
    return Reply(Answer(None, f"http_{status}", 0, 0, False), cause=code or f"http_{status}", free=True)


def _require_access(status: int, code: str, location: str, secret: Secret | None, host: str) -> None:
    """The server's own words are not repeated: they may hold the key, or rows."""
    said = f"HTTP {status}" + (f", {code}" if code else "")
    if 300 <= status < 400:
        to = re.match(r"[a-z]+://(?:[^/@]*@)?([^/?#]{1,100})", location, re.I)
        place = to.group(1) if to else "another address of its own"
        problem = f"{host} redirects to {place}; rows go only where the recipe says"
        raise UserError(problem, where="base_url", fix="name that address, if it is the right one")
    if status in (401, 403):
        held = "there is no api_key" if secret is None else f"the key in the {name_secret(secret)} was not accepted"
        raise UserError(f"{host} refuses ({said}): {held}", where="api_key", fix="give a key that may use the model")
    if status == 402:
        raise UserError(f"{host} asks for payment ({said})", where=host, fix="top the account up, then run it again")
    if status in (404, 405, 501):
        fix = "correct `model`, or `base_url`: the address before /chat/completions"
        raise UserError(f"{host} knows no such model or address ({said})", where="model, base_url", fix=fix)


def parse(raw: bytes) -> Any:
    """JSON by the letter; None for what is none: no NaN, and no number that is infinite."""
    try:
        return json.loads(raw, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(name)


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError(digits)
    return number


def _accepted(response: Any, raw: bytes | None, call: ModelCall) -> Reply:
    if raw is None:
        return Reply(cause="too_big")
    kind = response.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    said = parse(raw) if kind.endswith("json") else None
    if not isinstance(said, dict):
        return Reply(cause="not_json")
    choices = said.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return Reply(cause="no_choices")
    text, reason = _text(message.get("content")), None
    if message.get("refusal") or choice.get("finish_reason") == "content_filter":
        text, reason = None, "refused_by_model" if message.get("refusal") else "content_filter"
    elif text is None:
        return Reply(cause="no_text")
    return Reply(Answer(text, reason, *_spent(said.get("usage"), call, text or ""), cached=False))


def _text(content: Any) -> str | None:
    """A text, or the texts of a list of parts."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(map(str, texts)) if texts and all(isinstance(text, str) for text in texts) else None
    return content if isinstance(content, str) else None


def _spent(usage: Any, call: ModelCall, text: str) -> tuple[int, int]:
    """Tokens in and out as the server counted them; where it says nothing that can be so, the most that it can be."""
    counts = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    most = (most_tokens(call)[0], min(call.max_tokens, len(text.encode(errors="replace")) + 1))
    known = [
        count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < MOST_TOKENS else bound
        for count, bound in zip(counts, most, strict=True)
    ]
    return known[0], known[1]
