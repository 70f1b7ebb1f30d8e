"""Which host may be asked over HTTP: one rule for chat endpoints and for webhooks, held against the address reached.

A name says nothing of where it leads, and may lead elsewhere a moment later. So the rule looks at the other end of the
connection that was made, before a byte of the request is sent.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from augmill.tasks.errors import UserError

# Where clouds hand out a machine's own credentials, beside the link-local ones.
_METADATA = {"100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_address(text: str) -> bool:
    """Whether that can be asked over HTTP: http or https, a host, and nothing that a request line cannot hold."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    plain = text.isascii() and text.isprintable() and " " not in text
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0


def is_loopback(host: str) -> bool:
    """Whether what is sent there stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name: it may lead anywhere
        return False


def has_proxy(address: str) -> bool:
    """Whether the environment sends a request for this address through a proxy; never one for this machine."""
    from urllib.request import getproxies, proxy_bypass

    parts, proxies = urlsplit(address), getproxies()
    host = parts.hostname or ""
    return not is_loopback(host) and bool({parts.scheme, "all"} & {*proxies}) and not proxy_bypass(host)


def why_not(host: str, address: str, *, private: bool) -> str | None:
    """What forbids to ask ``host`` at ``address`` (an IP address); None where nothing does.

    Link-local and metadata addresses are never asked; private ones, and this machine by another name, only where
    ``private`` says so.
    """
    ip = _inner(ipaddress.ip_address(address.partition("%")[0]))
    if ip.is_loopback and is_loopback(host):
        return None
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or str(ip) in _METADATA:
        return "a link-local, metadata or multicast address, which is never asked"
    if not private and not ip.is_global:
        return "a private address"
    return None


def _inner(ip: Any) -> Any:
    """The IPv4 address that an IPv6 one stands for."""
    if ip.version == 4:
        return ip
    if ip in _NAT64:
        return ipaddress.ip_address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


def peer_check(host: str, *, private: bool, where: str, fix: str) -> Callable[[str, dict[str, Any]], None]:
    """For httpx's request extension ``trace``: raises UserError as soon as a connection stands where it may not.

    Raises it at once for a host that is an address itself.
    """

    def require(address: str) -> None:
        if (why := why_not(host, address, private=private)) is not None:
            raise UserError(f"the host leads to {why}; nothing was sent", where=where, fix=fix)

    def check(event: str, info: dict[str, Any]) -> None:
        if not event.endswith(".connect_tcp.complete"):
            return
        require(info["return_value"].get_extra_info("server_addr")[0])

    with suppress(ValueError):  # a name: known once it was looked up
        require(str(ipaddress.ip_address(host.strip("[]"))))
    return check


def async_peer_check(check: Callable[[str, dict[str, Any]], None]) -> Callable[[str, dict[str, Any]], Awaitable[None]]:
    """The same for an AsyncClient."""

    async def traced(event: str, info: dict[str, Any]) -> None:
        check(event, info)

    return traced
