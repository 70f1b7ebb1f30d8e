"""``augmill releases``, ``show``, ``rollback``, ``tag``: what is published, taking it back, and keeping it by a name."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from augmill.flows.cli.run import COLOURS_OF, SetOption, require_recipe
from augmill.flows.terminal import print_lines, say
from augmill.tasks.errors import CorruptObject, StoreRefused, UserError
from augmill.tasks.store.shapes import LINES

Dataset = Annotated[
    str | None,
    typer.Argument(metavar="DATASET", help="The dataset, or its recipe. May be left out if the store holds only one."),
]
StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="STORE", help="The store.  [default: the recipe's, or augmill-store]")
]
ReleaseOption = Annotated[
    str | None,
    typer.Option(
        "--release",
        metavar="RELEASE",
        help="A release's id or its beginning, a tag, or a snapshot such as a date.  [default: the newest]",
    ),
]
GivenRelease = Annotated[
    str | None,
    typer.Argument(
        metavar="RELEASE", help="A release's id or its beginning, a tag, or a snapshot such as a date. May be left out."
    ),
]
DEFAULT_STORE = "augmill-store"
LISTED = 3  # snapshots of one entry that are named: a backfill moves hundreds


def register(app: typer.Typer) -> None:
    app.command("releases")(releases)
    app.command("show")(show)
    app.command("rollback")(rollback)
    app.command("tag")(tag)


def _open(
    store: str | None,
    dataset: str | None,
    changes: list[str] | None = None,
    *,
    write: bool = False,
    before: str = "",
) -> tuple[Any, str]:
    """The store, to look at unless ``write``, and the dataset meant, by its name or its recipe. Raises UserError.

    ``before``: a sentence on what the command takes before the dataset, if anything.
    """
    opened, dataset = _open_store(store, dataset, changes, write=write)
    names = opened.datasets()
    if dataset is None and len(names) == 1:
        return opened, names[0]
    if dataset is None or dataset not in names:
        whole = "several datasets; name one" if names else "no dataset yet"
        raise UserError(
            f"there is no dataset {dataset!r} in {opened.root}" if dataset else f"{opened.root} holds {whole}",
            where="DATASET",
            fix=". ".join(filter(None, (f"known: {', '.join(names) or 'none yet'}", before))),
        )
    return opened, dataset


def _open_store(
    store: str | None, dataset: str | None, changes: list[str] | None, *, write: bool = False
) -> tuple[Any, str | None]:
    """The store, and the dataset by its name if one was given, as such or as a recipe. Raises UserError."""
    from pathlib import Path

    from augmill.tasks.store.rules import REMOTE_SCHEMES, require_root
    from augmill.tasks.store.store import LookingStore, Store

    recipe = dataset if dataset is not None and _is_recipe(dataset) else None
    require_recipe(recipe, changes)
    if recipe is not None:
        from augmill.tasks.recipe.recipe import load_recipe

        loaded = load_recipe(recipe, store=store, changes=changes)
        store, dataset = loaded.run.store, loaded.dataset
    store = store or DEFAULT_STORE
    require_root(store)
    if not store.startswith(REMOTE_SCHEMES) and not Path(store).expanduser().is_dir():
        raise UserError(f"there is no store at {store!r}", where="--store", fix="give your recipe's store (run.store)")
    return Store(store) if write else LookingStore(store), dataset


def _is_recipe(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or "://" in name


def open_release(
    given: str | None,
    dataset: str | None,
    store: str | None,
    release: str | None,
    changes: list[str] | None = None,
) -> tuple[Any, str, str | None]:
    """(store, dataset, release meant or None) of ``COMMAND [RELEASE] [DATASET] --release RELEASE``.

    The first of them may be left out: what is a recipe, or the name of a dataset, is one. Raises UserError.
    """
    if given is not None and dataset is None and (_is_recipe(given) or given in _datasets(store)):
        given, dataset = None, given
    if given is not None and release is not None:
        problem = f"{given!r} and --release {release!r} both name a release"
        raise UserError(
            problem, where="--release", fix="give one of the two; `augmill releases` lists releases and tags"
        )
    return *_open(store, dataset, changes, before="A release comes before the dataset"), given or release


def _datasets(store: str | None) -> list[str]:
    from pathlib import Path

    from augmill.tasks.store.rules import REMOTE_SCHEMES, require_root
    from augmill.tasks.store.store import LookingStore

    store = store or DEFAULT_STORE
    require_root(store)
    there = store.startswith(REMOTE_SCHEMES) or Path(store).expanduser().is_dir()
    return LookingStore(store).datasets() if there else []


def require_reason(reason: str) -> None:
    """Raises UserError for a blank one, or one with control characters: the log is to say why, to whoever asks later."""
    if not LINES.fits(reason):
        fix = "write it without escape sequences: it is shown on terminals"
        raise UserError(f"it holds control characters: {reason[:80]!a}", where="--reason", fix=fix)
    if not reason.strip():
        raise UserError("it is blank", where="--reason", fix="say why in a few words; the log keeps it")


def _find(log: Any, prefix: str | None) -> str:
    """The release of that tag, whose id begins with ``prefix``, or that is current for that snapshot; None: the newest.

    Raises UserError where there is none, or several.
    """
    if prefix is None:
        newest = log.newest()
        if newest is None:
            raise UserError(f"{log.dataset!r} has no release yet", where="RELEASE", fix="`augmill run` makes one")
        return str(newest)
    if prefix in (tags := log.tags()):
        return str(tags[prefix])
    hits = {release for release in log.named() if release.startswith(prefix)} | {log.current().get(prefix)} - {None}
    if not hits:
        problem = f"{log.dataset!r} has no release, tag or snapshot {prefix!r}"
        raise UserError(problem, where="RELEASE", fix="`augmill releases` lists what there is")
    if len(hits) > 1:
        problem = f"{prefix!r} could mean {len(hits)} releases ({', '.join(sorted(hits))})"
        raise UserError(problem, where="RELEASE", fix="give more of the id")
    return str(hits.pop())


def releases(dataset: Dataset = None, changes: SetOption = None, store: StoreOption = None) -> None:
    """Lists what was published and withdrawn, the newest last.

    `*` marks a current release. If the store holds several datasets and none is named: each, with its newest release.
    """
    from rich.cells import cell_len

    from augmill.flows.cli.terminal import aligned, padded, shown, wrapped
    from augmill.tasks.store.log import entry_of, read_log

    opened, named = _open_store(store, dataset, changes)
    if named is None and len(names := opened.datasets()) > 1:
        _list_datasets(opened, names, ["--store", store] if store else [])
        return
    opened, name = _open(store, dataset, changes)
    log = read_log(opened, name)
    current, gone = set(log.current().values()), log.withdrawn()
    say(f"{name}")
    snapshots = {shown(snapshot, 40) for entry in log.entries for snapshot in [*entry["current"]][:LISTED]}
    width = max(map(cell_len, snapshots), default=0)
    for entry in log.entries:
        head = f"{entry['number']:>4}  {entry['time']}"
        for snapshot, release in list(entry["current"].items())[:LISTED]:
            mark = "*" if release in current else " "
            state = "  withdrawn" if release in gone else ""
            told = entry_of(entry, release) if entry["kind"] == "release" else entry
            outcome = told.get("outcome", entry["kind"])
            made = release or "no release"
            line = f"{mark} {head}  {padded(snapshot, width)}  {made:<16}  "
            print_lines([[(line, ""), (outcome, COLOURS_OF.get(outcome, "")), (f"  {entry['actor']}{state}", "")]])
        if (more := len(entry["current"]) - LISTED) > 0:
            say(f"        and {more:,} more snapshot(s) in the same entry")
        if not entry["current"]:
            what = f"  {entry['tag']}: {entry['release'] or 'no release'}" if entry["kind"] == "tag" else ""
            say(f"  {head}  {entry['kind']}{what}  {entry['actor']}")
        say(*(wrapped(reason, " " * 8) if (reason := entry.get("reason")) else []))
    say(*aligned([("tag", tag_name, release) for tag_name, release in sorted(log.tags().items())]))


def _list_datasets(opened: Any, names: Sequence[str], given: Sequence[str]) -> None:
    from augmill.flows.cli.terminal import aligned
    from augmill.tasks.store.log import read_log

    rows = [("dataset", "newest", "published", "outcome")]
    for name in names:
        log = read_log(opened, name)
        release = log.newest()
        entry = log.publication(release) if release else {}
        told = (release or "no release", str(entry.get("time", "")), str(entry.get("outcome", entry.get("kind", ""))))
        rows.append((name, *told))
    say(*aligned(rows, most=64), "", f"Next     {shlex.join(['augmill', 'releases', 'DATASET', *given])}")


def show(
    given: GivenRelease = None,
    dataset: Dataset = None,
    changes: SetOption = None,
    store: StoreOption = None,
    release: ReleaseOption = None,
) -> None:
    """Shows a release: verdict, rows, classes, what became of made rows."""
    from augmill.flows.cli.terminal import wrapped
    from augmill.flows.releases import taken_away
    from augmill.tasks.store.log import read_log
    from augmill.tasks.store.releases import read_manifest_of, strata_word
    from augmill.tasks.store.store import release_key

    opened, name, release = open_release(given, dataset, store, release, changes)
    log = read_log(opened, name)
    found = _find(log, release)
    key = release_key(name, found, "manifest.json")
    manifest = read_manifest_of(opened, name, found)
    if manifest is None:
        if opened.size(key) is None and (gone := taken_away(log, found)) is not None:
            raise gone
        problem = f"the manifest of release {found} is missing or damaged"
        raise CorruptObject(problem, where=key, fix="run the recipe again")
    entry = log.publication(found)
    if not entry:
        problem = f"a tag names release {found}, which the log never published"
        raise StoreRefused(problem, where=f"{name} log", fix="remove the tag (augmill tag NAME --delete)")
    say(f"release      {found}", f"location     {opened.root}/{release_key(name, found)}")
    say(f"published    {entry['time']} by {entry['actor']} ({entry['command']})")
    outcome = entry.get("outcome", entry["kind"])
    print_lines([[("outcome      ", ""), (outcome, COLOURS_OF.get(outcome, ""))]])
    say(*wrapped(entry["reason"], " " * 13))
    say(f"approved by  {entry.get('approved_by', '-')}", "")
    say(f"{'split':<12}{'rows':>10}{'synthetic':>12}{strata_word(opened, name, found):>10}")
    for split, part in manifest["counts"].items():
        say(f"{split:<12}{part['rows']:>10,}{part['synthetic']:>12,}{len(part['classes']):>10}")
    if tags := [tag_name for tag_name, tagged in log.tags().items() if tagged == found]:
        say(f"tags         {', '.join(tags)}")
    if manifest["ledger"]:
        _show_ledger(manifest["ledger"])


def _show_ledger(ledger: dict[str, Any]) -> None:
    from augmill.flows.cli.terminal import aligned

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
    keys = ("asked", "delivered", "rejected", "surplus", "accepted")
    made = [(generator, *(f"{total[key]:,}" for key in keys)) for generator, total in totals.items()]
    say("", *aligned([("generator", *keys), *made], right=range(1, 6)))
    if reasons:
        most_first = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        say(
            "",
            *aligned([("refused for", "rows"), *((reason, f"{count:,}") for reason, count in most_first)], right={1}),
        )


def rollback(
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why. It is kept in the log.")],
    dataset: Dataset = None,
    changes: SetOption = None,
    store: StoreOption = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="RELEASE", help="Go back to this release.  [default: undo the newest publication]"
        ),
    ] = None,
    backfill: Annotated[
        str | None,
        typer.Option(
            "--backfill",
            metavar="ID",
            help="Undo whatever this backfill published that is still current. ID: its id or its beginning.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --backfill: only list what would be undone.")
    ] = False,
) -> None:
    """Takes back the newest publication, or a whole backfill.

    The releases that were current before become current again; what is taken back is withdrawn, and no run publishes
    it again unless told to.
    """
    from augmill.flows.mirror import mirror_delta
    from augmill.tasks.store import log

    require_reason(reason)
    if (to is not None and backfill is not None) or (dry_run and backfill is None):
        problem = "--dry-run needs --backfill" if dry_run else "--to goes back to one release, --backfill undoes many"
        raise UserError(problem, where="--dry-run" if dry_run else "--to", fix="leave one of the two out")
    opened, name = _open(store, dataset, changes, write=not dry_run)
    if backfill is not None:
        _undo_backfill(opened, name, backfill, reason, dry_run=dry_run)
        return
    entry = log.rollback(opened, name, to=to, reason=reason, command="augmill rollback")
    mirror_delta(opened, name, wanted=False)
    _tell_moves(name, entry["current"], entry["withdraws"])


def _tell_moves(
    name: str,
    moves: Mapping[str, str | None],
    withdraws: Sequence[str],
    *,
    whole: str = "publication",
    would: bool = False,
) -> None:
    verb = "would be" if would else "is"
    for (snapshot, release), gone in list(zip(moves.items(), withdraws, strict=True))[:LISTED]:
        back = f"{release} {verb} current again" if release else f"nothing {verb} current any more"
        say(f"{name} {snapshot}: {back}; {gone} {verb} withdrawn.")
    if (more := len(moves) - LISTED) > 0:
        say(f"and {more:,} more snapshot(s) of the same {whole}.")


def _undo_backfill(opened: Any, name: str, given: str, reason: str, *, dry_run: bool) -> None:
    """All its publications that stand, each date's own or all together, taken back in one log entry."""
    from augmill.flows.mirror import mirror_delta
    from augmill.flows.nights.record import backfill_key, find_backfill, published_by
    from augmill.tasks.store import log

    backfill = find_backfill(opened, name, given)
    plan = opened.read_sealed(backfill_key(name, backfill, "plan.json")) or {}
    before = log.read_log(opened, name)
    entries = published_by(opened, before, backfill)
    moves, left = log.undone_of(opened, before, entries)
    if not dry_run:
        entry = log.rollback(
            opened, name, to=None, reason=reason, command=f"augmill rollback --backfill {backfill}", entries=entries
        )
        mirror_delta(opened, name, wanted=False)
        before = log.Log(name, log.read_log(opened, name).entries[: entry["number"]])
        moves, left = log.undone_of(opened, before, entries)
    current = before.current()
    _tell_moves(name, moves, [current[snapshot] for snapshot in moves], whole="backfill", would=dry_run)
    for snapshot, why in list(left.items())[:LISTED]:
        say(f"{name} {snapshot}: left alone; {why}.")
    if (more := len(left) - LISTED) > 0:
        say(f"and {more:,} more snapshot(s) left alone.")
    if plan.get("kind") == "backfill" and opened.size(backfill_key(name, backfill, "end.json")) is None:  # no night's
        say(f"{backfill} is not finished: run again, it would make what is left of it.")
    if dry_run:
        say("Nothing was changed. Without --dry-run it will be.")


def tag(
    tag_name: Annotated[
        str, typer.Argument(metavar="NAME", help="The tag, such as the name of the model trained on it.")
    ],
    dataset: Dataset = None,
    changes: SetOption = None,
    store: StoreOption = None,
    release: ReleaseOption = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why. It is kept in the log.")] = "",
    delete: Annotated[bool, typer.Option("--delete", help="Remove the tag.")] = False,
) -> None:
    """Gives a release a name, and keeps it whatever its age."""
    from augmill.tasks.store import log

    if reason:
        require_reason(reason)
    opened, name = _open(store, dataset, changes, write=True)
    if delete and release is not None:
        raise UserError(
            "--delete removes the tag from whatever release it names", where="--release", fix="leave --release out"
        )
    standing = log.read_log(opened, name)
    found = None if delete else _find(standing, release)
    if not delete and tag_name not in standing.tags():
        _require_no_beginning(standing, tag_name)
    entry = log.tag(opened, name, tag_name, found, reason=reason, command="augmill tag")
    done = "is removed" if delete else f"keeps {found}" + ("" if entry else " already")
    say(f"{name}: the tag {tag_name} {done}.")


def _require_no_beginning(log: Any, tag_name: str) -> None:
    """Raises UserError for a tag that is the beginning of a release's id: --release would name the other of the two."""
    hits = sorted(release for release in log.named() if release.startswith(tag_name))
    if hits:
        problem = f"{tag_name!r} begins the id of release {hits[0]}: --release {tag_name} could mean either"
        raise UserError(problem, where="NAME", fix="give the tag another name, such as model-7")
