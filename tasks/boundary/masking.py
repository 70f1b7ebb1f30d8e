"""Secrets out of what other programs print: the values of this process's own, and whatever looks like one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import quote

MASK = "[masked]"
SHORTEST = 4  # characters of a value that is looked for: a shorter one stands in every other word

_KINDS = r"key|token|secret|passw(?:or)?d|passphrase|pwd|credential|signature|\bsig\b|auth|cookie"
_NAMES = re.compile(rf"{_KINDS}|hook|dsn|database_url|connection", re.I)
_PATTERNS = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S), MASK),
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,31}://)[^\s/]{1,512}@", re.I), rf"\1{MASK}@"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.I), rf"\1 {MASK}"),
    # name=value, "name": "value", --name value; a number is a figure (tokens=512), not a secret
    (
        re.compile(
            rf"([\w.-]{{0,64}}(?:{_KINDS})[\w-]{{0,64}}[\"']?\s{{0,4}}[=:]\s{{0,4}}[\"']?)(?![\d.,eE+-]+(?:[\s,;&\"']|$))"
            r"(?!\[masked\])[^\s\"'&,;]{3,}",
            re.I,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"(--[\w-]{0,64}(?:key|token|secret|password)[\w-]{0,64} )[^\s-]\S{3,}", re.I), rf"\1{MASK}"),
    (
        re.compile(
            r"\b(?:sk-[\w-]{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{20,}|"
            r"xox[abeprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|AIza[\w-]{30,}|"
            r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
        ),
        MASK,
    ),
)


def masked(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without secrets: the values of environment variables whose names say that they are one (lines of several,

    and as an address holds them), credentials in addresses, ``key=...``, bearer tokens, private keys and the tokens of
    well-known services. More than secrets may go: what is shown is for a person who looks for a cause.
    """
    for value in _values(os.environ if environment is None else environment):
        text = text.replace(value, MASK)
    for pattern, put in _PATTERNS:
        text = pattern.sub(put, text)
    return text


def _values(environment: Mapping[str, str]) -> list[str]:
    """The longest first: one may be part of another."""
    found: set[str] = set()
    for name, value in environment.items():
        if _NAMES.search(name):
            lines = [line.strip() for line in value.splitlines()]
            found |= {form for line in lines for form in (line, quote(line), quote(line, safe=""))}
    plain = {"true", "false", "none", "null", "auto"}
    return sorted(
        (form for form in found if len(form) >= SHORTEST and form.lower() not in plain),
        key=lambda form: (-len(form), form),
    )
