"""The rows that ``augmill judge`` compares: read as a run reads them, and kept apart as a run keeps them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from augmill.flows.units import gather_source
from augmill.tasks.checks.relations import RelationsOptions
from augmill.tasks.contracts import STRATUM, DataError, UserError, real_schema
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.recipe.sections import Columns, Labels, Refuse, Settle, Splits, Target
from augmill.tasks.rows.kinds.near import NearIndex, near_duplicate_groups
from augmill.tasks.rows.kinds.text import labels_alike
from augmill.tasks.rows.schema import class_counts, texts_of
from augmill.tasks.sources import SourceOptions, doubt_file, guess_columns, list_files, read_schema
from augmill.tasks.stages.refusals import nearest, require_header, require_rows
from augmill.tasks.stages.split import SplitConfig, hold_back, split_names
from augmill.tasks.store.stage import Site, Work
from augmill.tasks.store.store import Store

SHOWN = 8  # labels in a message
SHARE = 0.3  # of the real rows judges where no validation file is given: what a recipe holds out by default, in all


@dataclass(frozen=True)
class Read:
    """One source as read: ``rows`` has ``real_schema(fields)``; ``about`` is what the user is told of it."""

    rows: pa.Table
    columns: Columns
    about: dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """``train``, ``synthetic``, ``validation``: what the gate sees. ``left``: part to reason to rows that left it."""

    train: pa.Table
    synthetic: pa.Table
    validation: pa.Table
    fields: tuple[str, ...]
    left: dict[str, dict[str, int]]


def read_all(
    real: str, synthetic: str, validation: str | None, directory: str, *, text: list[str], label: str | None
) -> dict[str, Read]:
    """``real``, ``synthetic`` and, where it is given, ``validation``. Raises as ``read_rows``."""
    read = {"real": read_rows(real, "--real", directory, text=text, label=label)}
    for name, path in (("synthetic", synthetic), ("validation", validation)):
        if path is not None:
            like = read["real"].columns
            part = read_rows(path, f"--{name}", directory, text=text, label=label, like=like)
            read[name] = _named_alike(part, f"--{name}", list(class_counts(read["real"].rows[STRATUM])))
    return read


def _named_alike(read: Read, option: str, classes: list[str]) -> Read:
    """Its labels as the real rows write them, where they differ as 0 and 0.0, true and True, or A and a do.

    The sources may be of several types: what one holds as a number stands in the other as text. ``about["read_as"]``
    says which. Raises DataError where no label is one of the real rows'.
    """
    named = class_counts(read.rows[STRATUM])
    renamed = labels_alike(named, classes)
    if named and not renamed and not set(named) & set(classes):
        raise DataError(
            f"no label is one of the real rows'; here: {_some(named)}; there: {_some(classes)}",
            where=option,
            fix="name the right label column (--label), or write the labels alike",
        )
    strata = pa.array([renamed.get(name, name) for name in read.rows[STRATUM].to_pylist()], pa.string())
    rows = read.rows.set_column(read.rows.column_names.index(STRATUM), STRATUM, strata)
    return Read(rows, read.columns, read.about | {"read_as": renamed})


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - SHOWN:,} more" if len(listed) > SHOWN else ""
    return ", ".join(map(repr, listed[:SHOWN])) + more


def read_rows(
    path: str, option: str, directory: str, *, text: list[str], label: str | None, like: Columns | None = None
) -> Read:
    """Reads a file, glob or directory through the ingest stage; ``directory``: a store that is thrown away.

    ``like``: the columns of the real rows, taken where this source has them too. Raises UserError where a column is not
    there or cannot be guessed, DataError as ingest does.
    """
    try:
        source = SourceOptions(path=path)
    except ValueError as error:
        raise UserError(str(error), where=option, fix="name a file or directory") from error
    columns, why = _columns(source, option, text, label, like)
    # No share of refused rows stops it: they are counted and shown, and nothing is published.
    recipe = Recipe("judge", source, columns, Target(per_class=1), (), refuse=Refuse(max_share=1.0))
    site = Site(Store(directory))
    ingested = gather_source(site, recipe)
    work = Work(site, site.store.local_scratch("judge"))
    summary = work.read_json(ingested, "summary.json")
    about = {"path": path, "text": list(columns.texts), "label": columns.label, "why": why}
    about |= {name: summary[name] for name in ("read", "taken", "refused")}
    rows = work.read(ingested).select(real_schema(columns.fields).names)
    return Read(rows, columns, about)


def _columns(
    source: SourceOptions, option: str, text: list[str], label: str | None, like: Columns | None
) -> tuple[Columns, str]:
    """The columns and where they stem from: named, as in the real rows, or guessed."""
    files = list_files(source)
    names = read_schema(files[0], source)
    for given in [*text, *([label] if label else [])]:
        if given not in names:
            raise UserError(
                f"there is no column {given!r}; {nearest(given, names)}",
                where=f"{files[0].name} ({option})",
                fix="give --real, --synthetic and --validation the same column names",
            )
    if like is not None and {*like.texts, like.label} <= set(names):
        return like, "as in the real rows"
    if not (text and label):
        require_header(files[0], source)
    require_rows(files[0], source)
    guess = guess_columns(files[0], source)
    texts = text or [name for name in guess["text"] if name != label]
    chosen = label or guess["label"]
    if not texts or chosen is None or chosen in texts:
        what = "text" if not texts else "label"
        problem, fix = f"no {what} column could be told among {', '.join(names[:20])}", f"name it: --{what} COLUMN"
        if (doubt := doubt_file(files[0], source)) is not None:
            problem, fix = f"{problem}: {doubt.problem}", doubt.fix
        raise UserError(problem, where=f"{files[0].name} ({option})", fix=fix)
    if like is not None and len(texts) != len(like.texts):
        raise UserError(
            f"expected {len(like.texts)} text column(s) as in the real rows, found {', '.join(texts)}",
            where=f"{files[0].name} ({option})",
            fix="name the columns alike and give --text",
        )
    return _make_columns(texts, chosen), "named" if text and label else "guessed"


def _make_columns(texts: list[str], label: str) -> Columns:
    try:
        return Columns(text=texts[0] if len(texts) == 1 else tuple(texts), label=label)
    except ValueError as error:
        raise UserError(str(error), where="--text, --label", fix="name each column once") from error


def part_rows(read: dict[str, Read], *, seed: int) -> Judged:
    """Takes out what would make the comparison worthless, and counts it. Raises DataError where nothing is left.

    Held-out rows: ``validation``, else SHARE of the real rows by the split stage's hash. Train rows that stand in or near
    them leave, and so do synthetic rows; then synthetic rows of unknown labels, copies of train rows and of each other.
    Thresholds are the defaults of a recipe.
    """
    columns = read["real"].columns
    splits = Splits(validation=SHARE, test=0.0, seed=seed)
    config = SplitConfig(splits, Labels(), columns.fields, columns.texts)
    train = read["real"].rows
    if "validation" in read:
        held_out = read["validation"].rows
    else:
        names = pa.array(split_names(train, config))
        train, held_out = (train.filter(pc.equal(names, name)) for name in ("train", "validation"))
    train, near = hold_back(train, held_out, held_out.slice(0, 0), config)
    known = pa.array(sorted(class_counts(train[STRATUM])), pa.string())
    judging = pc.is_in(held_out[STRATUM], known)
    made, of_made = _synthetic(read["synthetic"].rows, train, held_out, known, config)
    strange = held_out.num_rows - int(pc.sum(judging).as_py() or 0)
    left = {"train": _counts(near), "validation": {"no_train_rows": strange} if strange else {}, "synthetic": of_made}
    judged = Judged(train, made, held_out.filter(judging), columns.fields, left)
    _require_sound(judged)
    return judged


def _require_sound(judged: Judged) -> None:
    tables = {"train": judged.train, "validation": judged.validation, "synthetic": judged.synthetic}
    for name, table in tables.items():
        if not table.num_rows:
            why = ", ".join(f"{reason} {count:,}" for reason, count in judged.left[name].items()) or "there were none"
            option = "--real" if name == "train" else f"--{name}"
            fix = "give more, or other, rows"
            if 2 * judged.left[name].get("near_heldout", 0) > sum(judged.left[name].values()):
                fix += (
                    "; rows made from one template are near each other: give --validation rows that are of none of them"
                )
            raise DataError(f"no {name} row is left to judge with: {why}", where=option, fix=fix)
    if len(class_counts(judged.train[STRATUM])) < 2:
        found = next(iter(class_counts(judged.train[STRATUM])))
        raise DataError(
            f"expected two classes or more to train on, found only {found!r}", where="--real", fix="check --label"
        )


def _synthetic(
    rows: pa.Table, train: pa.Table, held_out: pa.Table, known: pa.Array, config: SplitConfig
) -> tuple[pa.Table, dict[str, int]]:
    """The synthetic rows that may count, with empty ``parent_ids``, and how many left for which reason."""
    limits, settle = RelationsOptions(), Settle()
    left: Counter[str] = Counter()
    labelled = pc.is_in(rows[STRATUM], known)
    left["unknown_label"] = rows.num_rows - int(pc.sum(labelled).as_py() or 0)
    rows, near = hold_back(rows.filter(labelled), held_out, held_out.slice(0, 0), config)
    left.update(_counts(near))
    best, similarity = NearIndex.build(texts_of(train, config.fields), limits.train_near).nearest(
        texts_of(rows, config.fields)
    )
    left["in_train"] = int(np.count_nonzero(similarity >= 1))
    left["near_train"] = int(np.count_nonzero(best >= 0)) - left["in_train"]
    rows = rows.filter(pa.array(best < 0))
    kept = near_duplicate_groups(texts_of(rows, config.fields), settle.near)
    left["repeats_another"] = int(np.count_nonzero(~kept))
    rows = rows.filter(pa.array(kept))
    parents = pa.array([[]] * rows.num_rows, pa.list_(pa.string()))
    return rows.append_column("parent_ids", parents), {name: count for name, count in left.items() if count}


def _counts(held: pa.Table) -> dict[str, int]:
    return dict(sorted(Counter(held["reason"].to_pylist()).items()))
