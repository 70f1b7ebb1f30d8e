"""``augmill releases``, ``show``, ``verify``, ``rollback``: what is published, and taking it back."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from augmill.tasks.contracts import CorruptObject, UserError

Dataset = Annotated[str | None, typer.Argument(help="The dataset; may be left out where the store holds one.")]
StoreOption = Annotated[str, typer.Option("--store", help="The store's directory or address.")]
ReleaseOption = Annotated[
    str | None, typer.Option("--release", help="A release's id or its beginning; else the newest.")
]
DEFAULT_STORE = "augmill-store"


def register(app: typer.Typer) -> None:
    app.command("releases")(releases)
    app.command("show")(show)
    app.command("verify")(verify)
    app.command("rollback")(rollback)


def _open(store: str, dataset: str | None) -> tuple[Any, str]:
    """The store and the dataset meant. Raises UserError."""
    from pathlib import Path

    from augmill.tasks.store import REMOTE_SCHEMES, Store

    if not store.startswith(REMOTE_SCHEMES) and not Path(store).expanduser().is_dir():
        raise UserError(
            f"there is no store at {store!r}", where="--store", fix="give the store of your recipe (run.store)"
        )
    opened = Store(store)
    names = opened.datasets()
    if dataset is None and len(names) == 1:
        return opened, names[0]
    if dataset is None or dataset not in names:
        known = ", ".join(names) or "none yet"
        raise UserError(
            f"there is no dataset {dataset!r} in {store}" if dataset else "name a dataset",
            where="DATASET",
            fix=f"known: {known}",
        )
    return opened, dataset


def _find(log: Any, prefix: str | None) -> str:
    """The release whose id begins with ``prefix``; the newest one where it is None. Raises UserError."""
    if prefix is None:
        newest = log.newest()
        if newest is None:
            raise UserError(f"{log.dataset!r} has no current release", where="--release", fix="augmill run makes one")
        return str(newest)
    known = {release for entry in log.entries for release in entry["current"].values() if release}
    hits = sorted(release for release in known if release.startswith(prefix))
    if len(hits) != 1:
        found = ", ".join(hits) or "none"
        raise UserError(
            f"{prefix!r} names {len(hits)} releases ({found})", where="--release", fix="augmill releases lists them"
        )
    return str(hits[0])


def releases(dataset: Dataset = None, store: StoreOption = DEFAULT_STORE) -> None:
    """Lists what was published, newest last; `*` marks what is current."""
    from augmill.tasks.log import read_log

    opened, name = _open(store, dataset)
    log = read_log(opened, name)
    current, gone = set(log.current().values()), log.withdrawn()
    sys.stdout.write(f"{name}\n")
    for entry in log.entries:
        for snapshot, release in entry["current"].items():
            mark = "*" if release in current else " "
            state = " withdrawn" if release in gone else ""
            outcome = entry.get("outcome", entry["kind"])
            sys.stdout.write(
                f"{mark} {entry['number']:>4}  {entry['time']}  {snapshot:<12} {release}  {outcome:<13} {entry['actor']}{state}\n"
            )
            sys.stdout.write(f"        {entry['reason']}\n")


def show(dataset: Dataset = None, store: StoreOption = DEFAULT_STORE, release: ReleaseOption = None) -> None:
    """Shows a release: rows, classes, ledger, who approved it and with which numbers."""
    from augmill.tasks.log import read_log
    from augmill.tasks.store import release_key

    opened, name = _open(store, dataset)
    log = read_log(opened, name)
    found = _find(log, release)
    raw = opened.get(release_key(name, found, "manifest.json"))
    if raw is None:
        raise CorruptObject(f"release {found} is gone", where=release_key(name, found), fix="run the recipe again")
    manifest = json.loads(raw)
    entry = next(e for e in reversed(log.entries) if found in e["current"].values())
    out = sys.stdout
    out.write(f"release      {found}\nlocation     {store}/{release_key(name, found)}\n")
    out.write(f"published    {entry['time']} by {entry['actor']} ({entry['command']})\n")
    out.write(
        f"outcome      {entry.get('outcome', entry['kind'])}: {entry['reason']}\napproved by  {entry.get('approved_by', '-')}\n\n"
    )
    out.write(f"{'split':<12}{'rows':>10}{'synthetic':>12}{'classes':>10}\n")
    for split, part in manifest["counts"].items():
        out.write(f"{split:<12}{part['rows']:>10,}{part['synthetic']:>12,}{len(part['classes']):>10}\n")
    if manifest["ledger"]:
        _show_ledger(manifest["ledger"])


def _show_ledger(ledger: dict[str, Any]) -> None:
    out = sys.stdout
    out.write(f"\n{'generator':<16}{'asked':>9}{'delivered':>11}{'rejected':>10}{'surplus':>9}{'accepted':>10}\n")
    totals: dict[str, dict[str, int]] = {}
    reasons: dict[str, int] = {}
    for row in ledger["rows"]:
        total = totals.setdefault(
            row["generator"], dict.fromkeys(("asked", "delivered", "rejected", "surplus", "accepted"), 0)
        )
        for key in ("asked", "delivered", "surplus", "accepted"):
            total[key] += row[key]
        total["rejected"] += sum(row["rejected"].values())
        for reason, count in (row["rejected"] | row["undelivered"]).items():
            reasons[reason] = reasons.get(reason, 0) + count
    for generator, total in totals.items():
        out.write(
            f"{generator:<16}{total['asked']:>9,}{total['delivered']:>11,}{total['rejected']:>10,}"
            f"{total['surplus']:>9,}{total['accepted']:>10,}\n"
        )
    for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        out.write(f"  {reason:<40}{count:>8,}\n")


def verify(dataset: Dataset = None, store: StoreOption = DEFAULT_STORE, release: ReleaseOption = None) -> None:
    """Checks every file of the current releases (or of one) against its checksum."""
    from augmill.tasks.log import read_log
    from augmill.tasks.publish import verify_release

    opened, name = _open(store, dataset)
    log = read_log(opened, name)
    chosen = [_find(log, release)] if release else sorted(set(log.current().values()))
    wrong = [f"{found}/{file}" for found in chosen for file in verify_release(opened, name, found)]
    if wrong:
        raise CorruptObject(
            f"{len(wrong)} file(s) differ from their checksum: {', '.join(wrong)}",
            where=name,
            fix="restore or run again",
        )
    sys.stdout.write(f"{name}: the log and {len(chosen)} release(s) are whole.\n")


def rollback(
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the log.")],
    dataset: Dataset = None,
    store: StoreOption = DEFAULT_STORE,
    to: Annotated[str | None, typer.Option("--to", help="The release to go back to; else the one before.")] = None,
) -> None:
    """Makes an earlier release current again and withdraws the one it replaces."""
    from augmill.tasks import log

    opened, name = _open(store, dataset)
    entry = log.rollback(opened, name, to=to, reason=reason, command="augmill rollback")
    (snapshot, release), *_ = entry["current"].items()
    sys.stdout.write(f"{name} {snapshot}: {release} is current again; {', '.join(entry['withdraws'])} is withdrawn.\n")
