"""Pictures with boxes as detection knows them: COCO (a JSON beside the pictures) and VOC (an XML file a picture).

A row is a picture: ``image``, the file, and ``objects``, its boxes with their labels (tasks/problems/detection.py). A JSON
is a source file, whose members are the pictures that it names; a directory of XML files is one, with its pictures.
"""

from __future__ import annotations

import codecs
import json
import logging
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import pyarrow as pa

from augmill.tasks.errors import DataError, UserError
from augmill.tasks.problems.detection import BOXES
from augmill.tasks.rows.kinds.media import RELEASED

from .batching import BATCH_ROWS
from .folder import is_beside, is_media_file
from .listing import Entry
from .members import in_parts, read_files, too_large
from .options import Batch, Member, Reader, RefusedRow, SourceFile, SourceOptions
from .repair import Refusal
from .storage import open_bytes

COCO, VOC = "coco", "voc"
HEAD = 1 << 16  # bytes of a JSON that say whether it is COCO's
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_SCHEMA = pa.schema([("image", RELEASED), ("objects", BOXES)])

_log = logging.getLogger("augmill")


@dataclass
class Annotated:
    """What is said of one picture: its boxes, or why it is no row."""

    boxes: list[dict[str, Any]] = field(default_factory=list)
    refusal: Refusal | None = None

    def refuse(self, reason: str, detail: str) -> None:
        self.refusal = self.refusal or Refusal(reason, detail)


class Coco(Reader):
    """Annotations of a category without a name have no label. Regions of a crowd are no boxes, and are left out."""

    VERSION = 1
    noun = "picture"

    def columns(self, file: SourceFile, options: SourceOptions) -> list[str]:
        return list(_SCHEMA.names)

    def schema(self, files: Sequence[SourceFile], options: SourceOptions) -> pa.Schema:
        return _SCHEMA

    def batches(self, file: SourceFile, options: SourceOptions, schema: pa.Schema) -> Iterator[Batch]:
        known = _parsed(file.uri, file.stamp)
        return _batches(file.members, lambda members: [_said_of(each.name, known) for each in members], options, schema)

    def sample(self, file: SourceFile, options: SourceOptions, count: int) -> list[dict[str, Any]]:
        return _sample(self, file, options, count)


class Voc(Reader):
    """Pixels count from 1 in VOC, and from 0 here."""

    VERSION = 1
    noun = "picture"

    def columns(self, file: SourceFile, options: SourceOptions) -> list[str]:
        return list(_SCHEMA.names)

    def schema(self, files: Sequence[SourceFile], options: SourceOptions) -> pa.Schema:
        return _SCHEMA

    def batches(self, file: SourceFile, options: SourceOptions, schema: pa.Schema) -> Iterator[Batch]:
        """Of the members a picture is followed by its XML."""
        xml = dict(zip((each.name for each in file.members[::2]), file.members[1::2], strict=False))
        pictures = [each for each in file.members[::2] if each.name in xml]

        def said(members: Sequence[Member]) -> list[Annotated]:
            return [_read_xml(xml[each.name], options) for each in members]

        return _batches(pictures, said, options, schema)

    def sample(self, file: SourceFile, options: SourceOptions, count: int) -> list[dict[str, Any]]:
        return _sample(self, file, options, 2 * count)[:count]


def _sample(reader: Coco | Voc, file: SourceFile, options: SourceOptions, count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for batch in reader.batches(file, options, _SCHEMA):
        rows += batch.table.slice(0, count - len(rows)).to_pylist()
        if len(rows) >= count:
            break
    return rows


def _batches(
    members: Sequence[Member],
    said: Callable[[Sequence[Member]], list[Annotated]],
    options: SourceOptions,
    schema: pa.Schema,
) -> Iterator[Batch]:
    """At least one batch. ``said``: what is said of each picture."""
    sizes = [0 if too_large(each, options) else each.size * ("image" in schema.names) for each in members]
    for part in in_parts(sizes, BATCH_ROWS) if members else [slice(0, 0)]:
        kept, boxes, refused = list[Member](), list[Any](), list[RefusedRow]()
        for member, found in zip(members[part], said(members[part]), strict=True):
            large = too_large(member, options)
            if member.reason or large:
                refused.append(RefusedRow(member.name, member.reason or "file_too_large", large or f"{member.name!r}"))
            elif found.refusal is not None:
                refused.append(RefusedRow(member.name, found.refusal.reason, found.refusal.detail))
            else:
                kept.append(member)
                boxes.append(found.boxes)
        names = [member.name for member in kept]
        columns: dict[str, Any] = {"objects": pa.array(boxes, BOXES)}
        if "image" in schema.names:
            columns["image"] = pa.StructArray.from_arrays(
                [pa.array(read_files(kept), pa.binary()), pa.array(names, pa.string())], fields=list(RELEASED)
            )
        table = pa.table([columns[name] for name in schema.names], names=schema.names)
        yield Batch(table, pa.array(names, pa.string()), refused, names=names)


# --- COCO --------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)  # one JSON is asked for when it is listed, and by each stage that reads it
def _parsed(uri: str, stamp: str) -> dict[str, Annotated]:
    """What the JSON says of each picture, by the name that it has there, in order. Raises DataError."""
    try:
        with open_bytes(uri) as stream:
            found = json.loads(stream.read())
    except (ValueError, RecursionError) as error:
        fix = "write the file again, or download it again"
        raise DataError(f"not JSON, or cut short: {error}"[:300], where=uri, fix=fix) from None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), list) for key in ("images", "annotations")):
        problem = "expected COCO's JSON, an object with the lists `images`, `annotations` and `categories`"
        raise DataError(problem, where=uri, fix="name a directory whose JSON has them, or set source.format")
    names = _categories(found.get("categories"), uri)
    pictures, by_id = _pictures(found["images"], uri)
    left = Counter[str]()
    for at, each in enumerate(found["annotations"]):
        owner = by_id.get(each["image_id"]) if isinstance(each, dict) and _is_id(each.get("image_id")) else None
        if owner is None:
            left["that are of no picture"] += 1
        elif each.get("iscrowd"):
            left["of a crowd"] += 1
        else:
            _annotate(owner, each, names, at)
    if left["that are of no picture"] == len(found["annotations"]) > 0:
        problem = f"none of its {len(found['annotations']):,} annotations has the id of one of its images"
        fix = "make each `image_id` an image's `id`, both whole numbers or both texts"
        raise DataError(problem, where=uri, fix=fix)
    for why, count in left.items():
        _log.warning("%r: left out, %s annotations %s", uri, f"{count:,}", why)
    return pictures


def _categories(categories: Any, uri: str) -> dict[Any, str]:
    """Names by id. Raises DataError where an id has two: nothing could say what a box shows."""
    names: dict[Any, str] = {}
    for each in categories if isinstance(categories, list) else ():
        if isinstance(each, dict) and _is_id(each.get("id")) and isinstance(each.get("name"), str):
            name = _whole(each["name"])
            if names.setdefault(each["id"], name) != name:
                problem = f"two categories have the id {each['id']!r}: {names[each['id']]!r} and {name!r}"
                raise DataError(problem[:300], where=uri, fix="give each category an id of its own")
    return names


def _whole(text: str) -> str:
    """Without halves of surrogate pairs, which can stand in no table."""
    return text.encode("utf-8", "replace").decode()


def _pictures(images: list[Any], uri: str) -> tuple[dict[str, Annotated], dict[Any, Annotated]]:
    """(by name, by id). Raises DataError for an entry that names no file: nothing could say which row it is."""
    pictures: dict[str, Annotated] = {}
    by_id: dict[Any, Annotated] = {}
    for at, each in enumerate(images):
        name = each.get("file_name") if isinstance(each, dict) else None
        if not isinstance(name, str) or not name or "\0" in name or not _is_id(each.get("id")):
            fix = "give each image an `id` and a `file_name`"
            raise DataError(f"images[{at}] has no id or no file_name", where=uri, fix=fix)
        name = _whole(name).removeprefix("./")
        twice = name in pictures
        own = pictures.setdefault(name, Annotated())
        if twice:
            own.refuse("bad_sample", f"{name!r} stands twice among the images")
        if each["id"] in by_id:
            for one in (own, by_id[each["id"]]):
                one.refuse("bad_sample", f"two images have the id {each['id']}")
        by_id[each["id"]] = own
    return pictures, by_id


def _is_id(value: Any) -> bool:
    if isinstance(value, float):  # 7.0, which is 7: as who wrote the JSON out of a table with gaps has it
        return value.is_integer()
    return isinstance(value, int | str) and not isinstance(value, bool)


def _annotate(owner: Annotated, each: Mapping[str, Any], names: Mapping[Any, str], at: int) -> None:
    bbox, category = each.get("bbox"), each.get("category_id")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        owner.refuse("wrong_type", f"annotations[{at}]: bbox is {bbox!r}, not four numbers"[:200])
        return
    label = names.get(category) if _is_id(category) else None
    owner.boxes.append({"bbox": [float(number) for number in bbox], "label": label})


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, float) or (whole and abs(value) < 1 << 53)


def _said_of(name: str, known: Mapping[str, Annotated]) -> Annotated:
    """Of a picture by where it lies: the JSON may leave out directories above it."""
    while name not in known and "/" in name:
        name = name.partition("/")[2]
    return known.get(name) or Annotated([], Refusal("bad_sample", "the JSON does not name it"))


def is_coco(entries: Sequence[Entry]) -> bool:
    """Whether these are pictures with a JSON of COCO's beside them, and nothing else but what often lies there."""
    jsons, others = _apart(entries, ".json")
    return bool(jsons) and not others and all(_says_coco(entry) for entry in jsons)


def _apart(entries: Sequence[Entry], ending: str) -> tuple[list[Entry], list[Entry]]:
    """(files with the ending where there are pictures, what is neither)."""
    pictures = [entry for entry in entries if is_media_file(entry.name)]
    own = [entry for entry in entries if entry.name.lower().endswith(ending)]
    taken = {entry.name for entry in [*pictures, *own]}
    others = [entry for entry in entries if entry.name not in taken and not is_beside(entry.name)]
    return own if pictures else [], others


def _says_coco(entry: Entry) -> bool:
    with open_bytes(entry.uri) as stream:
        head = stream.read(HEAD).removeprefix(codecs.BOM_UTF8)
    return head.lstrip().startswith(b"{") and any(key in head for key in _KEYS)


def list_coco(entries: Sequence[Entry], where: str) -> list[SourceFile]:
    """Each JSON of COCO's with the pictures that it names. Raises UserError or DataError."""
    jsons = [entry for entry in entries if entry.name.lower().endswith(".json") and _says_coco(entry)]
    if not jsons:
        problem = "expected a JSON with COCO's annotations, and found none"
        raise UserError(problem, where=where, fix="name the directory that holds the JSON and its pictures")
    # COCO's own directory of annotations holds captions and key points of the same pictures too.
    jsons = [each for each in jsons if each.name.rpartition("/")[2].startswith("instances")] or jsons
    there = {entry.name: entry for entry in entries}
    beneath = defaultdict(list)
    for entry in entries:
        beneath[entry.name.rpartition("/")[2]].append(entry)
    return [
        SourceFile(
            entry.uri, entry.name, COCO, "none", entry.size, stamp=entry.stamp,
            members=_unshared(
                [(name, _find(name, entry.name, there, beneath)) for name in _parsed(entry.uri, entry.stamp)]
            ),
        )
        for entry in sorted(jsons, key=lambda entry: entry.name)
    ]  # fmt: skip


def _unshared(found: Sequence[tuple[str, Member]]) -> tuple[Member, ...]:
    """Each with its own name; a file that more than one stands for is nobody's: what is said of it may differ."""
    counts = Counter(member.name for _, member in found)
    return tuple(
        member if counts[member.name] == 1 else Member(name, "", 0, "", "bad_sample") for name, member in found
    )


def _find(name: str, json_name: str, there: Mapping[str, Entry], beneath: Mapping[str, list[Entry]]) -> Member:
    """The picture of that name: beside the JSON, at the root, where COCO has it, or the only one that is called so."""
    if name.startswith("/") or "://" in name or ".." in name.split("/"):
        return Member(name, "", 0, "", "outside_source")
    above, _, base = json_name.rpartition("/")
    split = base.partition(".")[0].removeprefix("instances_")
    places = (above, "", "images", split, f"images/{split}", posixpath.dirname(above))
    found = next((there[path] for each in places if (path := posixpath.join(each, name)) in there), None)
    if found is None:
        same = [entry for entry in beneath[name.rpartition("/")[2]] if f"/{entry.name}".endswith(f"/{name}")]
        found = same[0] if len(same) == 1 else None
    return Member(name, "", 0, "", "no_such_file") if found is None else _member(found)


def _member(entry: Entry) -> Member:
    return Member(entry.name, entry.uri, entry.size, entry.stamp)


# --- VOC ---------------------------------------------------------------------------------------------------------------


def is_voc(entries: Sequence[Entry]) -> bool:
    """Whether most of the XML files here are named as a picture is, and no other file is a table."""
    xmls, others = _apart(entries, ".xml")
    stems = {_stem(entry.name) for entry in entries if is_media_file(entry.name)}
    named = sum(_stem(entry.name) in stems for entry in xmls)
    return 2 * named > len(xmls) and all(entry.name.lower().endswith(".txt") for entry in others)


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def list_voc(entries: Sequence[Entry], root: str, where: str) -> list[SourceFile]:
    """All XML files and their pictures as one source file. Raises UserError where there are none.

    A picture without an XML file was not annotated, and is left out; an XML file without a picture is a refused row.
    """
    pictures: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if is_media_file(entry.name):
            pictures[_stem(entry.name)].append(entry)
    xmls = sorted((each for each in entries if each.name.lower().endswith(".xml")), key=lambda each: each.name)
    if not xmls:
        problem = "expected XML files with VOC's annotations, and found none"
        raise UserError(problem, where=where, fix="name the directory that holds them and their pictures")
    beside = [_beside(each.name, pictures[_stem(each.name)]) for each in xmls]
    shown = [
        (each.name, Member(each.name, "", 0, "", "no_such_file") if found is None else _member(found))
        for each, found in zip(xmls, beside, strict=True)
    ]
    members = [one for pair in zip(_unshared(shown), map(_member, xmls), strict=True) for one in pair]
    if left := sum(map(len, pictures.values())) - len(members) // 2:
        _warn_of_pictures(root, left)
    return [SourceFile(f"{root}/.", ".", VOC, "none", sum(m.size for m in members), members=tuple(members))]


def _beside(name: str, pictures: list[Entry]) -> Entry | None:
    """The picture of an XML file: in its directory, else the only one of that name."""
    above = name.rpartition("/")[0]
    near = [entry for entry in pictures if entry.name.rpartition("/")[0] == above]
    return next(iter(near), pictures[0] if len(pictures) == 1 else None)


@cache  # a run lists its source more than once
def _warn_of_pictures(root: str, count: int) -> None:
    if count > 0:
        _log.warning("%r: left out, %s pictures without an XML file", root, f"{count:,}")


def _read_xml(member: Member, options: SourceOptions) -> Annotated:
    found = Annotated()
    if member.size > options.max_cell_bytes:
        found.refuse("cell_too_long", f"{member.name!r}: {member.size:,} bytes, at most {options.max_cell_bytes:,}")
        return found
    try:
        root = parse_xml(read_files([member])[0])
    except (expat.ExpatError, ValueError, LookupError) as error:
        found.refuse("bad_xml", f"{member.name!r}: {error}"[:200])
        return found
    if root.tag != "annotation":
        found.refuse("bad_xml", f"{member.name!r}: its root is <{root.tag}>, not VOC's <annotation>"[:200])
    for at, each in enumerate(root.iter("object")):
        try:
            left, top, right, bottom = (float(each.findtext(f"bndbox/{side}", "")) for side in _SIDES)
        except ValueError:
            found.refuse("wrong_type", f"{member.name!r}: the bndbox of object {at + 1} holds no four numbers")
            continue
        bbox = [left - 1, top - 1, right - left + 1, bottom - top + 1]
        found.boxes.append({"bbox": bbox, "label": (each.findtext("name") or "").strip() or None})
    return found


_SIDES = ("xmin", "ymin", "xmax", "ymax")


def parse_xml(data: bytes) -> Element:
    """The tree of a document without a DOCTYPE, and so without entities of its own. Raises ExpatError or ValueError."""

    def refuse(*_: Any) -> None:
        raise ValueError("it has a DOCTYPE, which may define entities; annotations need none")

    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(data, True)
    return builder.close()
