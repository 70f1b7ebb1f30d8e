"""Who is told when nights go wrong: pages and notes to a webhook, of what our own flow saw.

A page for snapshots that failed, for an unsound source, and for a current release older than ``schedule.freshness``; a
note where snapshots were refused three times in a row. What dies can send nothing: see flows/nights/automations.py. The address
comes from the environment variable that ``schedule.webhook`` names; it is never in a log, a parameter or a recipe.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit

from augmill.flows.nights.states import find_stale
from augmill.tasks.boundary.hosts import has_proxy, is_address, is_loopback, peer_check
from augmill.tasks.errors import AugmillError, UserError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import rank
from augmill.tasks.rows.shown import visible
from augmill.tasks.store.attempts import Attempt, read_attempts
from augmill.tasks.store.log import read_log
from augmill.tasks.store.store import Store

_log = logging.getLogger("augmill")

TRIES, TIMEOUT, PAUSE = 3, 10.0, 1.0  # seconds; the pause doubles
REFUSED = ("harmful", "inconclusive", "not_produced")
IN_A_ROW = 3

Severity = Literal["page", "note"]
Kind = Literal["failed", "unsound_source", "stale", "refused"]


@dataclass(frozen=True)
class Message:
    """``text`` alone is enough for a person, and is the field that chat services show."""

    severity: Severity
    kind: Kind
    dataset: str
    snapshot: str
    reason: str
    next: str

    @property
    def text(self) -> str:
        head = f"[{self.severity}] {self.dataset}@{self.snapshot} {self.kind.replace('_', ' ')}: {self.reason}"
        head = visible(" ".join(head.split()))
        return head if "What to do:" in head else f"{head.rstrip('.')}. What to do: {self.next}"

    def body(self) -> bytes:
        return json.dumps({"text": self.text, **asdict(self)}, ensure_ascii=False).encode()


# --- what a night has to say ----------------------------------------------------------------------------------------


def messages(dataset: str, attempts: dict[str, list[Attempt]], since: datetime, stale: str | None) -> list[Message]:
    """What is to be told of the night that began at ``since``, from every attempt of the dataset by snapshot.

    ``stale``: in words, that what is current is too old.
    """
    ours = [attempt for tried in attempts.values() for attempt in tried[-1:] if _ended(attempt) >= since]
    told = [_of_attempt(dataset, attempt) for attempt in sorted(ours, key=lambda attempt: attempt.snapshot)]
    count = refused_in_a_row(attempts)
    if count and count % IN_A_ROW == 0 and any(_outcome(attempt) in REFUSED for attempt in ours):
        reason = f"the last {count} snapshots were refused: no synthetic rows were released."
        told.append(Message("note", "refused", dataset, max(attempts), reason, "read the reports' samples."))
    if stale is not None:
        told.append(Message("page", "stale", dataset, max(attempts, default="all"), f"{stale}.", "augmill status."))
    return [message for message in told if message is not None]


def _ended(attempt: Attempt) -> datetime:
    return datetime.fromisoformat((attempt.end or attempt.start)["time"])


def _outcome(attempt: Attempt) -> str:
    end = attempt.end or {}
    return "met" if end.get("nothing_to_make") else str(end.get("outcome", ""))  # nobody refused what nobody asked for


def _of_attempt(dataset: str, attempt: Attempt) -> Message | None:
    outcome, end = _outcome(attempt), attempt.end or {}
    if outcome not in ("error", "unsound_source") and end.get("action") != "fail":
        return None
    kind: Kind = "unsound_source" if outcome == "unsound_source" else "failed"
    # The first line: what a program printed may follow, and is for this machine alone.
    reason = str(end.get("reason", "")).split("\n", maxsplit=1)[0]
    return Message("page", kind, dataset, attempt.snapshot, reason, str(end.get("next", "")))


def refused_in_a_row(attempts: dict[str, list[Attempt]]) -> int:
    """How many of the newest snapshots, or of the tries where there is only one snapshot, were refused, up to now."""
    if len(attempts) == 1:
        (order,) = attempts.values()
    else:
        order = [attempts[name][-1] for name in sorted(attempts, key=rank)]
    outcomes = [_outcome(attempt) for attempt in order if attempt.end is not None]
    accepted = next((at for at, name in enumerate(reversed(outcomes)) if name not in REFUSED), len(outcomes))
    return accepted


@contextmanager
def watched(recipe: Recipe, since: datetime) -> Iterator[None]:
    """A night: tells, at its end, what it left behind; and what it could not begin for. An interrupt is not told of."""
    since = since.replace(microsecond=0)  # the store's documents hold whole seconds
    try:
        yield
    except Exception as whatever:
        error = (
            whatever if isinstance(whatever, AugmillError) else AugmillError(f"{type(whatever).__name__}: {whatever}")
        )
        reason, following = error.problem.split("\n", maxsplit=1)[0], error.fix or "see the run's log."
        send(recipe, [Message("page", "failed", recipe.dataset, "-", reason, following)])
        raise
    send(recipe, _seen(recipe, since))


def _seen(recipe: Recipe, since: datetime) -> list[Message]:
    store, now = Store(recipe.run.store), datetime.now(UTC)
    stale = find_stale(recipe, store, read_log(store, recipe.dataset), now=now)
    return messages(recipe.dataset, read_attempts(store, recipe.dataset), since, stale)


# --- sending --------------------------------------------------------------------------------------------------------


def address_of(recipe: Recipe) -> str | None:
    """The webhook's address; None where the recipe names none, or the variable is not set (said once)."""
    name = recipe.schedule.webhook
    if name is None:
        return None
    address = os.environ.get(name, "")
    if not is_address(address):
        fix = "it must hold an address that begins with http:// or https://"
        _log.warning("schedule.webhook: no page or note can be sent: %s is not set here, or wrong; %s.", name, fix)
        return None
    return address


def send(recipe: Recipe, told: Iterable[Message]) -> int:
    """How many of the messages were taken. One that was not is a warning: a night does not fail by its messenger."""
    told = list(told)
    for message in told:
        _log.warning("%s", message.text)
    address = address_of(recipe) if told else None
    return sum(_post(address, message, recipe) for message in told) if address else 0


def _try(address: str, message: Message, *, private: bool) -> int:
    """The status of one POST. A redirect is not followed: it would be a GET, to a host that nobody named."""
    import httpx

    host = urlsplit(address).hostname or ""
    fix = "`schedule.webhook_private: true` allows a private one"
    check = peer_check(host, private=private, where="schedule.webhook", fix=fix)
    if has_proxy(address):  # the other end is the proxy then, and it decides where a name leads
        check = peer_check("", private=True, where="schedule.webhook", fix=fix)
    headers = {"Content-Type": "application/json", "User-Agent": "augmill"}
    with (
        httpx.Client(timeout=TIMEOUT, follow_redirects=False, trust_env=not is_loopback(host)) as client,
        client.stream(
            "POST", address, content=message.body(), headers=headers, extensions={"trace": check}
        ) as response,
    ):
        return int(response.status_code)


def _post(address: str, message: Message, recipe: Recipe) -> bool:
    import httpx

    problem = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            status = _try(address, message, private=recipe.schedule.webhook_private)
        except UserError as error:
            problem = f"{error.problem}; {error.fix}"
            break
        except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:  # its text may hold the address
            problem = type(error).__name__
            continue
        if 200 <= status < 300:
            return True
        problem = f"HTTP {status}" + (", which redirects: not followed" if 300 <= status < 400 else "")
        if status < 500 and status != 429:
            break
    name, about = recipe.schedule.webhook, f"{message.severity} {message.kind} of {message.snapshot}"
    _log.warning("The webhook named by %s did not take the %s (%s).", name, about, problem)
    return False
