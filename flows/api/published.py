"""Releases as Python sees them: which there are, what is current, and their rows as frames and datasets."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from augmill.display import Grid, lines, page

if TYPE_CHECKING:
    import datasets
    import polars as pl
    import pyarrow as pa
    import torch.utils.data

    from augmill.tasks.recipe.recipe import Recipe
    from augmill.tasks.store.store import Store

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, repr=False)
class Release:
    """One release: a whole training set, readable on its own. ``augmill.releases`` and ``augmill.run`` give them.

    It holds no rows and no connection, only what the log says; each ``to_...`` reads the store anew and checks what it
    reads against the manifest.

    Attributes
    ----------
    id, dataset, snapshot
        Names; the snapshot is the date as of which it is, or ``all``.
    location
        Its directory, or its address in a bucket.
    published
        When, in UTC, as the log says it.
    outcome
        Of the run that published it, such as ``published`` or ``inconclusive``.
    current
        Whether it is what a reader of its snapshot gets, at the moment of the call that gave it.
    withdrawn
        Whether a rollback took it back.
    tags
        Names under which it is kept.
    store
        The store's root.
    """

    id: str
    dataset: str
    snapshot: str
    location: str
    published: str
    outcome: str
    current: bool
    withdrawn: bool
    tags: tuple[str, ...]
    store: str

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """Checksums, counts and the ledger: manifest.json, checked against the release's id.

        Raises
        ------
        CorruptObject
            It is gone, or not what was published (a ``WorldError``).
        StoreError
            The store does not answer, or a later version of Augmill wrote it.
        """
        from augmill.tasks.errors import CorruptObject
        from augmill.tasks.store.releases import read_manifest_of

        found = read_manifest_of(self._open(), self.dataset, self.id)
        if found is None:
            problem = f"the manifest of release {self.id} is missing or damaged"
            raise CorruptObject(problem, where=f"{self.location}/manifest.json", fix="run the recipe again")
        return found

    @property
    def counts(self) -> Mapping[str, Mapping[str, Any]]:
        """Of each split ``rows``, ``synthetic`` and ``classes``, from the manifest."""
        counts: Mapping[str, Mapping[str, Any]] = self.manifest["counts"]
        return counts

    @cached_property
    def labels(self) -> Mapping[Any, int]:
        """Each label's id, by first appearance in the source: it never shifts, so there may be gaps. labels.json."""
        return {each["value"]: each["id"] for each in json.loads(self._read("labels.json"))["labels"]}

    def to_arrow(self, split: str = "train", *, typed: bool = False) -> pa.Table:
        """The rows of a split as a pyarrow.Table, in the release's order, which knows neither class nor origin.

        Parameters
        ----------
        split
            ``train``, ``validation`` or ``test``.
        typed
            Inputs and target in the types that the recipe names: a ``number`` as float64, a ``timestamp`` as a moment
            in UTC, with null where a cell holds no value. Texts, categories and labels stay as they are. By default
            each column has the type of the source, and those of a CSV are all text.

        Raises
        ------
        UserError
            There is no such split; or ``typed``, and the release does not say what its recipe was (provenance.json).
        CorruptObject
            A file is gone, or not what was published.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        from augmill.tasks.errors import UserError

        if split not in SPLITS:
            raise UserError(f"there is no split {split!r}", where="split", fix=f"one of {', '.join(SPLITS)}")
        files = [name for name in sorted(self.manifest["files"]) if name.startswith(f"{split}/")]
        if not files:  # a split without a row has no file
            return self.to_arrow("train", typed=typed).slice(0, 0)
        table = pa.concat_tables([pq.read_table(pa.BufferReader(self._read(name))) for name in files])
        return _typed(table, self._types()) if typed else table

    def to_polars(self, split: str = "train", *, typed: bool = False) -> pl.DataFrame:
        """The rows of a split as a polars.DataFrame. ``typed``, and what is raised, as in ``to_arrow``.

        Examples
        --------
        >>> train = release.to_polars()
        >>> train.group_by("aug_origin").len()
        """
        import polars as pl

        frame = pl.from_arrow(self.to_arrow(split, typed=typed))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def to_torch(
        self,
        split: str = "train",
        *,
        columns: Sequence[str] | None = None,
        epoch: int | None = None,
        typed: bool = False,
    ) -> torch.utils.data.StackDataset[dict[str, Any]]:
        """The rows of a split as a map-style torch Dataset, each a dict by column, ready for a DataLoader.

        Numbers are tensors, everything else is as Python has it. ``dataset.datasets["aug_weight"]`` is a whole column.

        Parameters
        ----------
        split
            ``train``, ``validation`` or ``test``.
        columns
            Which; by default your own columns that have a value in every row, and the weight. A DataLoader's default
            collation takes no None.
        epoch
            The train rows in the order of that epoch of order.parquet, in which a row may be left out or come again
            (``mix.order``). By default each row once, in the release's order.
        typed
            As in ``to_arrow``: numbers that the source holds as text become tensors too.

        Raises
        ------
        UserError
            There is no such split, column or epoch, or as ``to_arrow`` with ``typed``.
        CorruptObject
            A file is gone, or not what was published.

        Examples
        --------
        >>> rows = release.to_torch()
        >>> sampler = torch.utils.data.WeightedRandomSampler(rows.datasets["aug_weight"], num_samples=len(rows))
        >>> loader = torch.utils.data.DataLoader(rows, batch_size=32, sampler=sampler)
        """
        from torch.utils.data import StackDataset

        from augmill.tasks.errors import UserError
        from augmill.tasks.rows.names import nearest

        table = self.to_arrow(split, typed=typed)
        if epoch is not None:
            table = table.take(self._order(table, split, epoch))
        wanted = self._columns(table) if columns is None else list(columns)
        for name in wanted:
            if name not in table.column_names:
                fix = "name others, or leave `columns` out"
                raise UserError(
                    f"there is no column {name!r}; {nearest(name, table.column_names)}", where="columns", fix=fix
                )
        if not wanted:
            raise UserError("no column is named", where="columns", fix="name one or more, or leave `columns` out")
        return StackDataset(**{name: _column(table[name]) for name in wanted})

    def to_datasets(self, *, typed: bool = False) -> datasets.DatasetDict:
        """All splits that have rows as a ``datasets.DatasetDict``, in memory (``pip install datasets``).

        ``typed``, and what is raised, as in ``to_arrow``; UserError where the library is not installed.
        """
        from augmill.tasks.errors import UserError

        try:
            import datasets
        except ImportError as error:
            raise UserError("`datasets` is not installed", where="to_datasets", fix="pip install datasets") from error
        held = [name for name in SPLITS if self.counts[name]["rows"]]
        return datasets.DatasetDict(
            {name: datasets.Dataset(self.to_arrow(name, typed=typed), split=datasets.NamedSplit(name)) for name in held}
        )

    def verify(self) -> Release:
        """Reads every file and compares it with its checksum; gives the release itself back.

        Raises
        ------
        CorruptObject
            A file is gone, or not what was published; it names the first one.

        Examples
        --------
        >>> train = augmill.releases("tickets.yaml")[0].verify().to_polars()
        """
        from augmill.tasks.store.releases import require_whole

        require_whole(self._open(), self.dataset, self.id)
        return self

    def _open(self) -> Store:
        from augmill.tasks.store.store import LookingStore

        return LookingStore(self.store)

    def _types(self) -> tuple[dict[str, str], dict[str, str]]:
        """(the inputs, the target) by column, with the types that the recipe names beside text and label.

        provenance.json says them, which no checksum covers: only types that are known here count. Raises UserError.
        """
        from augmill.tasks.errors import UserError
        from augmill.tasks.store.releases import read_provenance

        found = read_provenance(self._open(), self.dataset, self.id)
        if found is None:
            raise UserError(
                f"release {self.id} does not say the types of its columns: provenance.json is missing or damaged",
                where="typed",
                fix="leave `typed` out and cast the columns, or run the recipe again, which puts the file again",
            )
        columns = found["recipe"].get("columns") or {}
        return columns.get("inputs") or {}, columns.get("target") or {}

    def _read(self, name: str) -> bytes:
        """A file of the release, whole. Raises CorruptObject."""
        from augmill.tasks.errors import CorruptObject
        from augmill.tasks.store.store import release_key

        raw = self._open().get(release_key(self.dataset, self.id, name))
        if raw is None or hashlib.sha256(raw).hexdigest() != self.manifest["files"][name]["sha256"]:
            what = "missing" if raw is None else "damaged"
            fix = "name another release, or run its recipe again, which puts it again whole"
            raise CorruptObject(f"the file is {what}", where=f"{self.location}/{name}", fix=fix)
        return raw

    def _ordering(self) -> tuple[pa.Table, str]:
        """order.parquet, and the prefix of the columns that Augmill adds (``publish.prefix``), which it has too."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        order = pq.read_table(pa.BufferReader(self._read("order.parquet")))
        return order, order.column_names[-1].removesuffix("row_id")

    def _order(self, table: pa.Table, split: str, epoch: int) -> pa.Array:
        """Where the rows of an epoch stand in the table. Raises UserError."""
        import pyarrow as pa
        import pyarrow.compute as pc

        from augmill.tasks.errors import UserError

        if split != "train":
            raise UserError("only train rows have reading orders", where="epoch", fix="leave `epoch` out")
        order, prefix = self._ordering()
        chosen = order.filter(pc.equal(order["epoch"], pa.scalar(epoch, pa.int64()))).sort_by("position")
        if not chosen.num_rows:
            there = len(order["epoch"].unique())
            raise UserError(
                f"there is no epoch {epoch}", where="epoch", fix=f"0 to {there - 1}; `mix.epochs` makes more"
            )
        found: pa.Array = pc.index_in(chosen[f"{prefix}row_id"], table[f"{prefix}row_id"].combine_chunks())
        return found

    def _columns(self, table: pa.Table) -> list[str]:
        """The user's columns without a gap, and the weight."""
        prefix = self._ordering()[1]
        own = [name for name in table.column_names if not name.startswith(prefix) and not table[name].null_count]
        return [*own, f"{prefix}weight"]

    @property
    def _strata(self) -> str:
        from augmill.tasks.store.releases import strata_word

        return strata_word(self._open(), self.dataset, self.id)

    @property
    def _state(self) -> str:
        return "current" if self.current else "withdrawn" if self.withdrawn else "superseded"

    def _told(self) -> list[tuple[str, Any]]:
        when = f"{self.published} ({self.outcome})"
        return [("published", when), ("location", self.location), ("tags", ", ".join(self.tags))]

    def __repr__(self) -> str:
        return lines("Release", f"{self.id} of {self.dataset}, {self.snapshot}, {self._state}", self._told())

    def _repr_html_(self) -> str:
        head = f"Release {self.id} of {self.dataset}, {self.snapshot}: {self._state}"
        return page(head, "", self._told(), counted(self))


class Releases(list[Release]):
    """A list that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        heads = ("release", "dataset", "snapshot", "state", "published", "outcome", "tags")
        rows = [
            (each.id, each.dataset, each.snapshot, each._state, each.published, each.outcome, ", ".join(each.tags))
            for each in self
        ]
        return page(f"{len(self):,} release{'' if len(self) == 1 else 's'}", "", (), Grid(heads, rows))


def counted(release: Release) -> Grid:
    """Its splits in numbers; without a row where the store does not answer, which costs the table, not the page."""
    from augmill.tasks.errors import AugmillError

    heads = ("split", "rows", "synthetic", "classes")
    try:
        heads = (*heads[:3], release._strata)
        of = [(name, release.counts[name]) for name in SPLITS]
    except AugmillError:
        return Grid(heads, ())
    return Grid(heads, [(name, part["rows"], part["synthetic"], len(part["classes"])) for name, part in of])


def _typed(table: pa.Table, types: tuple[dict[str, str], dict[str, str]]) -> pa.Table:
    """Numbers and moments read as a run reads them from the source."""
    import pyarrow as pa

    from augmill.tasks.contracts import ReadLimits
    from augmill.tasks.problems import PROBLEMS
    from augmill.tasks.rows.kinds import KINDS

    inputs, target = types
    for at, name in enumerate(table.column_names):
        if (type := inputs.get(name)) in ("number", "timestamp"):
            values, _ = KINDS[type].read(table[name], type, ReadLimits(10**9))
        elif target.get(name) == "number":  # regression reads other spellings than inputs do
            reader = PROBLEMS["regression"].reader(None)
            values = pa.array([reader.read(value).value for value in table[name].to_pylist()], pa.float64())
        else:
            continue
        table = table.set_column(at, name, values)
    return table


def _column(values: pa.ChunkedArray) -> Any:
    """As a tensor where it holds numbers in every row, else as a list."""
    import pyarrow as pa
    import torch

    numbers = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    return torch.tensor(values.to_pylist()) if numbers and not values.null_count else values.to_pylist()


def find_releases(where: str | os.PathLike[str] | Recipe, dataset: str | None) -> list[Release]:
    """See ``augmill.releases``."""
    from augmill.tasks.errors import UserError
    from augmill.tasks.recipe.recipe import Recipe
    from augmill.tasks.store.rules import REMOTE_SCHEMES, require_root
    from augmill.tasks.store.store import LookingStore

    root, name = (where.run.store, where.dataset) if isinstance(where, Recipe) else (str(where), dataset)
    require_root(root)
    if not isinstance(where, Recipe) and not root.startswith(REMOTE_SCHEMES) and not Path(root).expanduser().is_dir():
        raise UserError(f"there is no store at {root!r}", where="releases", fix="give the store, or the recipe")
    store = LookingStore(root)
    names = store.datasets()
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        if isinstance(where, Recipe):
            return Releases()
        problem = (
            f"there is no dataset {name!r} in {root}"
            if name
            else f"the store holds {'several datasets' if names else 'no dataset yet'}"
        )
        raise UserError(problem, where="dataset", fix=f"known: {', '.join(names) or 'none yet'}")
    return _listed(store, str(name))


def release_of(store: Store, dataset: str, release: str, snapshot: str) -> Release | None:
    """The one of that id, as the log has it now, of that snapshot if it is of several; None where no entry names it."""
    found = [each for each in _listed(store, dataset) if each.id == release]
    return next((each for each in found if each.snapshot == snapshot), found[0] if found else None)


def _listed(store: Store, dataset: str) -> list[Release]:
    """Those that stand, each once for each snapshot: what a reader gets first, then the newest publication first."""
    from augmill.flows.releases import taken_away
    from augmill.tasks.rows.calendar import rank
    from augmill.tasks.store.log import entry_of, read_log, released_in
    from augmill.tasks.store.store import release_key

    log = read_log(store, dataset)
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in reversed(log.entries):
        if entry["kind"] in ("rollback", "tag"):  # they move or keep what another entry published
            continue
        for snapshot, release in sorted(released_in(entry).items(), key=lambda item: rank(item[0]), reverse=True):
            if release is not None and taken_away(log, release) is None:
                entries.setdefault((snapshot, release), entry_of(entry, release))
    current, withdrawn, newest = log.current(), log.withdrawn(), log.newest()
    tags: dict[str, list[str]] = {}
    for tag, kept in sorted(log.tags().items()):
        tags.setdefault(kept, []).append(tag)
    root = store.root.rstrip("/") if store.local is None else str(store.local)
    found = [
        Release(
            id=release,
            dataset=dataset,
            snapshot=snapshot,
            location=f"{root}/{release_key(dataset, release)}",
            published=str(entry["time"]),
            outcome=str(entry.get("outcome", entry["kind"])),
            current=current.get(snapshot) == release,
            withdrawn=release in withdrawn,
            tags=tuple(tags.get(release, ())),
            store=root,
        )
        for (snapshot, release), entry in entries.items()
    ]
    return Releases(sorted(found, key=lambda each: not (each.current and each.id == newest)))
