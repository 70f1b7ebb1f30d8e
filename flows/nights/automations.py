"""What Prefect's server does for nights whose process can do nothing any more: it died, or it never started.

A run without heartbeats is marked Crashed; a crashed run is a page; and so is a night that has not completed within
``schedule.freshness``. What our own flow tells of itself: flows/nights/paging.py. The webhook's address lies in a Webhook
block, encrypted in the server's database: an automation can call nothing else.
"""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from augmill.flows.nights.paging import Kind, Message, address_of
from augmill.tasks.boundary.hosts import is_loopback
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import parse_duration

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.automations import Automation

TAG = "augmill"  # every flow run of ours carries it; the automations heed no others
HEARTBEAT = timedelta(seconds=180)  # Prefect's default (PREFECT_FLOWS_HEARTBEAT_FREQUENCY)
ZOMBIE = 3 * HEARTBEAT  # one late heartbeat is no death
Labels = dict[str, str | list[str]]
_EVERY_RUN: Labels = {"prefect.resource.id": "prefect.flow-run.*"}


def prefect_automations(dataset: str, nightly: UUID, freshness: str | None, block: UUID | None) -> list[Automation]:
    """What the server is to heed for this dataset; ``block`` is the Webhook block that pages, where there is one."""
    from prefect.automations import Automation, EventTrigger, Posture
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState

    zombies = Automation(
        name="augmill: a run without heartbeats has crashed",
        description=f"Marks a run of Augmill Crashed after {ZOMBIE.seconds} s without any event of it.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=_EVERY_RUN,
            match_related=_tagged(TAG),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=ZOMBIE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name="Crashed",
                message=f"no heartbeat for {ZOMBIE.seconds} s: it died",
                force=False,
            )
        ],
    )
    if block is None:
        return [zombies]
    return [zombies, *_paging(dataset, nightly, freshness, block)]


def _paging(dataset: str, nightly: UUID, freshness: str | None, block: UUID) -> list[Automation]:
    from prefect.automations import Automation, CallWebhook, EventTrigger, Posture

    crashed = Automation(
        name=f"augmill: page for crashed runs of {dataset}",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match=_EVERY_RUN,
            match_related=[_tagged(TAG), _tagged(dataset), _deployed("*")],
        ),
        actions=[
            CallWebhook(
                block_document_id=block,
                payload=_payload(
                    dataset, "failed", "the run died", "the next night goes on with it; so does `augmill nightly` now"
                ),
            )
        ],
    )
    if freshness is None:
        return [crashed]
    silent = Automation(
        name=f"augmill: page where no night of {dataset} completes",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Completed"},
            match=_EVERY_RUN,
            match_related=_deployed(str(nightly)),
            posture=Posture.Proactive,
            threshold=1,
            within=parse_duration(freshness),
        ),
        actions=[
            CallWebhook(
                block_document_id=block,
                payload=_payload(
                    dataset,
                    "stale",
                    f"no night completed within {freshness}",
                    "see whether a worker or `augmill serve` is running",
                ),
            )
        ],
    )
    return [crashed, silent]


def _tagged(tag: str) -> Labels:
    return {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{tag}"}


def _deployed(name: str) -> Labels:
    """Runs of a deployment: not the runs inside them, which die with them and would page again."""
    return {"prefect.resource.role": "deployment", "prefect.resource.id": f"prefect.deployment.{name}"}


def _payload(dataset: str, kind: Kind, reason: str, following: str) -> str:
    return Message("page", kind, dataset, "-", f"{reason}.", f"{following}.").body().decode()


def ensure_automations(recipe: Recipe, nightly: UUID) -> list[str]:
    """Creates what is missing and updates what is there, by name; returns the names. Removes what no longer applies."""
    from prefect.automations import Automation
    from prefect.client.orchestration import get_client

    address = address_of(recipe)
    block = None if address is None else _webhook_block(recipe, address)
    wanted = prefect_automations(recipe.dataset, nightly, recipe.schedule.freshness, block)
    paging = prefect_automations(recipe.dataset, nightly, "1d", nightly)[1:]
    with get_client(sync_client=True) as client:
        for name in {automation.name for automation in paging} - {automation.name for automation in wanted}:
            for gone in client.read_automations_by_name(name=name):
                client.delete_automation(gone.id)
        for automation in wanted:
            standing = client.read_automations_by_name(name=automation.name)
            if not standing:
                automation.create()
                continue
            first, *doubled = standing
            Automation(**{**automation.model_dump(), "id": first.id}).update()
            for other in doubled:
                client.delete_automation(other.id)
    return [automation.name for automation in wanted]


def _webhook_block(recipe: Recipe, address: str) -> UUID:
    from prefect.blocks.webhook import Webhook
    from pydantic import SecretStr

    # The server sends by the rule that the nights send by; it follows no redirect either.
    private = recipe.schedule.webhook_private or is_loopback(urlsplit(address).hostname or "")
    webhook = Webhook(url=SecretStr(address), allow_private_urls=private)
    saved = webhook.save(block_name(recipe.dataset), overwrite=True)
    return cast("UUID", saved)  # not a coroutine: nothing here runs in an event loop


def block_name(dataset: str) -> str:
    """A block's name has lower-case letters, digits and dashes only; two datasets never share one."""
    plain = re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-")[:40]
    return f"augmill-{plain}-{hashlib.sha256(dataset.encode()).hexdigest()[:8]}"
