"""``augmill releases``, ``show``, ``rollback``, ``tag``: what is published, taking it back, and keeping it by a name."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from augmill.tasks.contracts import CorruptObject, StoreRefused, UserError
from augmill.tasks.log import released_in
from augmill.tasks.shapes import TEXT

Dataset = Annotated[
    str | None, typer.Argument(help="The dataset, or its recipe; may be left out where the store holds one.")
]
StoreOption = Annotated[
    str | None, typer.Option("--store", help="The store's directory or address; else the recipe's, or augmill-store.")
]
ReleaseOption = Annotated[
    str | None, typer.Option("--release", help="A release's id, its beginning, or a tag; else the newest.")
]
DEFAULT_STORE = "augmill-store"
LISTED = 3  # snapshots of one entry that are named: a backfill moves hundreds


def register(app: typer.Typer) -> None:
    app.command("releases")(releases)
    app.command("show")(show)
    app.command("rollback")(rollback)
    app.command("tag")(tag)


def _open(store: str | None, dataset: str | None) -> tuple[Any, str]:
    """The store and the dataset meant, by its name or its recipe. Raises UserError."""
    from pathlib import Path

    from augmill.tasks.store import Store
    from augmill.tasks.store_rules import REMOTE_SCHEMES, require_root

    if dataset is not None and dataset.endswith((".yaml", ".yml")):
        from augmill.tasks.recipe import load_recipe

        loaded = load_recipe(dataset, store=store)
        store, dataset = loaded.run.store, loaded.dataset
    store = store or DEFAULT_STORE
    require_root(store)
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
            fix=f"known: {known}; a release or a row, where one is asked for, comes before the dataset",
        )
    return opened, dataset


def require_reason(reason: str) -> None:
    """Raises UserError for a blank one, or one with control characters: the log is to say why, to whoever asks later."""
    if not TEXT.fits(reason):
        fix = "write it without escape sequences; whoever lists the releases reads it on a terminal"
        raise UserError(f"it holds control characters: {reason[:80]!a}", where="--reason", fix=fix)
    if not reason.strip():
        raise UserError("it is blank", where="--reason", fix="say why in a few words; it stands in the log")


def _find(log: Any, prefix: str | None) -> str:
    """The release whose id begins with ``prefix``, or whose tag it is; the newest where it is None. Raises UserError."""
    if prefix is None:
        newest = log.newest()
        if newest is None:
            raise UserError(f"{log.dataset!r} has no current release", where="--release", fix="augmill run makes one")
        return str(newest)
    if prefix in (tags := log.tags()):
        return str(tags[prefix])
    known = {release for entry in log.entries for release in released_in(entry).values() if release}
    hits = sorted(release for release in known if release.startswith(prefix))
    if len(hits) != 1:
        found = ", ".join(hits) or "none"
        raise UserError(
            f"{prefix!r} names {len(hits)} releases ({found})", where="--release", fix="augmill releases lists them"
        )
    return str(hits[0])


def releases(dataset: Dataset = None, store: StoreOption = None) -> None:
    """Lists what was published, newest last; `*` marks what is current."""
    from augmill.tasks.log import entry_of, read_log

    opened, name = _open(store, dataset)
    log = read_log(opened, name)
    current, gone = set(log.current().values()), log.withdrawn()
    sys.stdout.write(f"{name}\n")
    for entry in log.entries:
        head = f"{entry['number']:>4}  {entry['time']}"
        for snapshot, release in list(entry["current"].items())[:LISTED]:
            mark = "*" if release in current else " "
            state = " withdrawn" if release in gone else ""
            told = entry_of(entry, release) if entry["kind"] == "release" else entry
            outcome = told.get("outcome", entry["kind"])
            made = release or "no release"
            sys.stdout.write(f"{mark} {head}  {snapshot:<12} {made:<16}  {outcome:<13} {entry['actor']}{state}\n")
        if (more := len(entry["current"]) - LISTED) > 0:
            sys.stdout.write(f"        and {more:,} more snapshot(s) in the same entry\n")
        if not entry["current"]:
            what = f"{entry['tag']}: {entry['release'] or 'no release'}" if entry["kind"] == "tag" else ""
            sys.stdout.write(f"  {head}  {entry['kind']:<12} {what}  {entry['actor']}\n")
        sys.stdout.write(f"        {entry.get('reason', '')}\n")
    for tag_name, release in sorted(log.tags().items()):
        sys.stdout.write(f"tag {tag_name:<16} {release}\n")


def show(dataset: Dataset = None, store: StoreOption = None, release: ReleaseOption = None) -> None:
    """Shows a release: rows, classes, ledger, who approved it and with which numbers."""
    from augmill.flows.explaining import taken_away
    from augmill.tasks.log import read_log
    from augmill.tasks.releases import read_manifest_of
    from augmill.tasks.store import release_key

    opened, name = _open(store, dataset)
    log = read_log(opened, name)
    found = _find(log, release)
    key = release_key(name, found, "manifest.json")
    manifest = read_manifest_of(opened, name, found)
    if manifest is None:
        if opened.size(key) is None and (gone := taken_away(log, found)) is not None:
            raise gone
        problem = f"the manifest of release {found} is gone, or not what was published"
        raise CorruptObject(problem, where=key, fix="run the recipe again")
    entry = log.publication(found)
    if not entry:
        problem = f"no entry of the log published release {found}, which a tag names"
        raise StoreRefused(problem, where=f"{name} log", fix="take the tag away (augmill tag NAME --delete)")
    out = sys.stdout
    out.write(f"release      {found}\nlocation     {opened.root}/{release_key(name, found)}\n")
    out.write(f"published    {entry['time']} by {entry['actor']} ({entry['command']})\n")
    out.write(
        f"outcome      {entry.get('outcome', entry['kind'])}: {entry['reason']}\napproved by  {entry.get('approved_by', '-')}\n\n"
    )
    out.write(f"{'split':<12}{'rows':>10}{'synthetic':>12}{'classes':>10}\n")
    for split, part in manifest["counts"].items():
        out.write(f"{split:<12}{part['rows']:>10,}{part['synthetic']:>12,}{len(part['classes']):>10}\n")
    if tags := [tag_name for tag_name, tagged in log.tags().items() if tagged == found]:
        out.write(f"tags         {', '.join(tags)}\n")
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


def rollback(
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the log.")],
    dataset: Dataset = None,
    store: StoreOption = None,
    to: Annotated[
        str | None, typer.Option("--to", help="The release to go back to; else the newest publication is undone.")
    ] = None,
) -> None:
    """Undoes the newest publication, all its snapshots at once, and withdraws what it had made current."""
    from augmill.flows.mirror import mirror_delta
    from augmill.tasks import log

    require_reason(reason)
    opened, name = _open(store, dataset)
    entry = log.rollback(opened, name, to=to, reason=reason, command="augmill rollback")
    mirror_delta(opened, name, wanted=False)
    out, moves = sys.stdout, entry["current"]
    for (snapshot, release), gone in list(zip(moves.items(), entry["withdraws"], strict=True))[:LISTED]:
        back = f"{release} is current again" if release else "nothing is current any more"
        out.write(f"{name} {snapshot}: {back}; {gone} is withdrawn.\n")
    if (more := len(moves) - LISTED) > 0:
        out.write(f"and {more:,} more snapshot(s) of the same publication.\n")


def tag(
    tag_name: Annotated[str, typer.Argument(metavar="NAME", help="The tag, such as the name of a trained model.")],
    dataset: Dataset = None,
    store: StoreOption = None,
    release: ReleaseOption = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the log.")] = "",
    delete: Annotated[bool, typer.Option("--delete", help="Take the tag away.")] = False,
) -> None:
    """Keeps a release under a name, whatever its age, and says so in the log."""
    from augmill.tasks import log

    opened, name = _open(store, dataset)
    if delete and release is not None:
        raise UserError("--delete takes the tag from whatever it names", where="--release", fix="leave --release out")
    standing = log.read_log(opened, name)
    found = None if delete else _find(standing, release)
    if not delete and tag_name not in standing.tags():
        _require_no_beginning(standing, tag_name)
    entry = log.tag(opened, name, tag_name, found, reason=reason, command="augmill tag")
    done = "is taken away" if delete else f"keeps {found}" + ("" if entry else " already")
    sys.stdout.write(f"{name}: the tag {tag_name} {done}.\n")


def _require_no_beginning(log: Any, tag_name: str) -> None:
    """Raises UserError for a tag that is the beginning of a release's id: --release would name the other of the two."""
    hits = sorted({r for entry in log.entries for r in entry["current"].values() if r and r.startswith(tag_name)})
    if hits:
        problem = f"{tag_name!r} begins the id of release {hits[0]}: --release {tag_name} could mean either"
        raise UserError(problem, where="NAME", fix="give the tag another name, such as model-7")
