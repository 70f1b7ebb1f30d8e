"""Bounds what our own Prefect server keeps of our runs: a run leaves 0.65 MB of records, and nothing takes them away.

Prefect's own vacuum (``PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED``) does not run in a server that passes with its run,
knows ages only, and deletes whatever flow run it meets: the database under PREFECT_HOME may hold somebody else's. So only
runs tagged ``augmill`` go, with their tasks, states, logs, artifacts and events. The store never depended on them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uuid import UUID

KEEP_RUNS = 100  # the newest, whatever their age up to KEEP_DAYS; 65 MB
KEEP_DAYS = 30
SWEEP_SECONDS = 3.0  # of one sweep: a database that grew for years is made smaller by each start
BATCH = 10  # runs in one transaction, so that another server waits little for the lock
EVERY = 3600.0  # seconds between two sweeps of a server that stands
SPARE = 64_000_000  # bytes that lie free, and are more than half of the file, before it is packed
_log = logging.getLogger("augmill.server")


async def sweep() -> int:
    """Deletes what is over the bounds, for at most SWEEP_SECONDS; how many runs went. An error is a line in the log."""
    until, gone = time.monotonic() + SWEEP_SECONDS, 0
    try:
        while time.monotonic() < until and (found := await _over(BATCH)):
            await _delete(found)
            gone += len(found)
        if gone:
            await _pack()
    except Exception as error:  # noqa: BLE001 - a database that is busy or broken must not keep the server from serving
        _log.warning(
            "Prefect's old records could not be removed: %s: %s",
            type(error).__name__,
            str(error).split("\n", maxsplit=1)[0],
        )
    return gone


async def _over(most: int) -> Sequence[UUID]:
    """Runs of ours that ended and are over the bounds, and those that nobody ended in KEEP_DAYS; the oldest first."""
    import sqlalchemy as sa
    from prefect.server.database import provide_database_interface
    from prefect.server.schemas.states import TERMINAL_STATES

    db = provide_database_interface()
    run = db.FlowRun
    cutoff = datetime.now(UTC) - timedelta(days=KEEP_DAYS)
    ours = sa.cast(run.tags, sa.String).contains('"augmill"')
    newest = sa.select(run.id).where(ours).order_by(run.created.desc()).limit(KEEP_RUNS).scalar_subquery()
    ended = run.state_type.in_(TERMINAL_STATES)
    over = sa.or_(run.created < cutoff, sa.and_(ended, run.id.not_in(newest)))
    chosen = sa.select(run.id).where(ours, over).order_by(run.created).limit(most)
    async with db.session_context() as session:
        found: Sequence[UUID] = (await session.execute(chosen)).scalars().all()
        return found


async def _delete(runs: Sequence[UUID]) -> None:
    import sqlalchemy as sa
    from prefect.server.database import provide_database_interface

    db = provide_database_interface()
    named = [f"prefect.flow-run.{run}" for run in runs]
    # Takes the write lock at its start: a read that becomes a write meets SQLITE_BUSY at once, however long the time-out.
    async with db.session_context(begin_transaction=True, with_for_update=True) as session:

        async def drop(table: Any, condition: Any) -> None:
            await session.execute(sa.delete(table).where(condition).execution_options(synchronize_session=False))

        of_runs = sa.select(db.EventResource.event_id).where(db.EventResource.resource_id.in_(named))
        events = (await session.execute(of_runs.distinct())).scalars().all()
        for first in range(0, len(events), 500):  # SQLite takes 999 values in a statement
            some = events[first : first + 500]
            await drop(db.EventResource, db.EventResource.event_id.in_(some))
            await drop(db.Event, db.Event.id.in_(some))
        made = sa.select(db.Artifact.id).where(db.Artifact.flow_run_id.in_(runs))
        await drop(db.ArtifactCollection, db.ArtifactCollection.latest_id.in_(made))
        await drop(db.Artifact, db.Artifact.flow_run_id.in_(runs))
        await drop(db.Log, db.Log.flow_run_id.in_(runs))
        await drop(db.FlowRun, db.FlowRun.id.in_(runs))  # its tasks and states go with it


async def _pack() -> None:
    """Gives a SQLite file's free pages back where most of it is free; elsewhere they are used again."""
    import sqlalchemy as sa
    from prefect.server.database import provide_database_interface

    engine = await provide_database_interface().engine()
    if engine.dialect.name != "sqlite":
        return
    async with engine.connect() as connection:
        raw = await connection.execution_options(isolation_level="AUTOCOMMIT")
        size, free, pages = [
            (await raw.execute(sa.text(f"PRAGMA {name}"))).scalar_one()
            for name in ("page_size", "freelist_count", "page_count")
        ]
        if free * size > SPARE and free > pages / 2:
            await raw.execute(sa.text("VACUUM"))
