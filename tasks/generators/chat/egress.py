"""Whether rows may be sent to an endpoint at all, and with which key. Everything here is asked before the first byte."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from augmill.tasks.boundary.hosts import is_loopback
from augmill.tasks.contracts import UserError
from augmill.tasks.generators.chat.options import ChatOptions, Secret


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
        found = "what is not repeated here, since it holds a name or a key" if "@" in base_url else repr(base_url)
        raise UserError(f"expected http:// or https:// and a host; found {found}", where=where, fix=fix)
    if url.userinfo or url.query or url.fragment or "?" in base_url or "#" in base_url:
        problem = f"expected an address alone; found a name, a key or parameters beside it (host {url.host})"
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
        raise UserError(problem, where="egress.hosts", fix="add the host, written just so, or correct base_url")
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
        problem = f"expected one key in the {name}; found several words, lines, or characters no key has"
        raise UserError(problem, where="api_key", fix="let it hold the key alone")
    return value


def _read_file(name: str) -> str:
    path = Path(name).expanduser()
    if not path.is_absolute():
        problem = f"expected the key's file by its whole path; found {name!r}"
        raise UserError(
            problem, where="api_key", fix="workers have a working directory of their own: begin with / or ~"
        )
    return path.read_text(encoding="utf-8")
