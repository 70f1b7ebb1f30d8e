"""Seeded malformed inputs for the fuzzer: recipes whose YAML is mutated as a tree and as text, and files of rows."""

from __future__ import annotations

import codecs
import copy
import csv
import dataclasses
import gzip
import io
import json
import random
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from fuzz_bombs import BOMBS, bomb

from augmill.tasks.checks import CHECKS
from augmill.tasks.generators import GENERATORS
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.trainers import TRAINERS

Draw = random.Random
MUCH = 1_500_000  # bytes of a giant cell: past source.max_cell_bytes
WORDS = (
    "refund",
    "money",
    "back",
    "order",
    "parcel",
    "late",
    "password",
    "account",
    "naïve",
    "中文",
    "\U0001f600",
    "don't",
    "3.5",
    "-",
)


@dataclass
class Input:
    """One recipe and the files beside it."""

    recipe: bytes
    files: dict[str, bytes]
    as_of: str | None = None
    kinds: list[str] = field(default_factory=list)  # what was done to it, for the report


def make_input(seed: int, number: int) -> Input:
    """The same for the same seed and number, whatever was drawn before."""
    draw = Draw(f"{seed}/{number}")
    made = _recipe(draw) if number % 2 else _source(draw)
    if draw.random() < 0.2:
        made.as_of = draw.choice(("2026-10-03", "2026-W41", "x", "", "9999-99-99", "../x", "\udcff"))
    return made


# --- recipes ------------------------------------------------------------------------------------------------------------

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**63, -(2**63), 10**30, 10**400, 1e9, 1e308, 0.5, -0.0, float("inf"), float("nan"),
    "", " ", "x", "all", "auto", "none", "off", "0", "1e9", "30d", "-3d", "99999999999d", "0d", "1h", "50%", "04:00", "25:61",
    "../../x", "/", "/etc/passwd", "~nobody-here/x",
    "file:///etc/passwd", "http://169.254.169.254/", "s3://", "s3://a:b@c/d", "\u2028",
    "\ud83d", "\x00", "\u202e", "a" * 300, "中" * 5_000, "{train}", "%s%n", "$(touch x)", "`touch x`", "rows.csv", "(a+)+$",
    "(", "(.*)", "(a)(b)", "* * * * *", "61 25 * * *", "Europe/Berlin", "../zone", "Mars/Base", "CON", "2026-10-01",
    [], {}, [[]], [None], {"": None}, {"a": {"a": {"a": 1}}}, ["x"] * 1000, [[["x"]]], {"use": "rules"}, {"reopen": "3d"},
)  # fmt: skip


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else "x"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value


def _options(kind: Any) -> dict[str, Any]:
    return {item.name: _plain(_default(item)) for item in dataclasses.fields(kind)}


def _sections() -> dict[str, Any]:
    """Every section of a recipe with its defaults."""
    hints = typing.get_type_hints(Recipe)
    found = {name: _options(kind) for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    found["checks"] = {name: _options(kind.Options) for name, kind in CHECKS.items()}
    return {name: part for name, part in found.items() if name not in ("source", "columns", "target", "run")}


SECTIONS = _sections()


def _document(draw: Draw, file: str = "rows.csv") -> dict[str, Any]:
    """A sound recipe: the few keys that are needed, and some sections with every key at its default."""
    document: dict[str, Any] = {
        "dataset": "tiny",
        "source": {"path": file},
        "columns": {"text": "text", "label": "label"},
        "target": {"per_class": 12},
        "generators": [{"use": "rules"}],
        "run": {"store": "store", "orchestrator": "none"},
    }
    if draw.random() < 0.3:
        document["columns"]["partition"] = "day"
        document["partitions"] = {"every": draw.choice(("key", "day", "week", "month")), "timezone": "UTC"}
        if document["partitions"]["every"] != "key" and draw.random() < 0.5:
            document["partitions"] |= {"window": "30d", "late": {"reopen": "3d"}}
            document["refit"] = {"every": "7d"}
    for name in draw.sample(sorted(SECTIONS), draw.randrange(4)):
        document[name] = {**json.loads(json.dumps(SECTIONS[name])), **document.get(name, {})}
    if draw.random() < 0.15:
        kind = draw.choice(sorted(GENERATORS))
        document["generators"] = [{"use": kind, **_options(GENERATORS[kind].Options)}]
    if draw.random() < 0.15:
        kind = draw.choice(sorted(TRAINERS))
        document["trainer"] = {"use": kind, **_options(TRAINERS[kind].Options)}
    return document


def _places(value: Any, depth: int) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value below, to a depth."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(pairs):
        yield value, key
        if depth:
            yield from _places(part, depth - 1)


def _near(draw: Draw, value: Any) -> Any:
    """Another value of the same type, which more often than not is a sound one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return draw.choice((0, 1, 2, 7, 0.0, 0.01, 0.5, 1.0, value + 1, value * 10, value * 10**6, -value))
    return copy.deepcopy(draw.choice([part for part in HOSTILE if isinstance(part, type(value))] or [None]))


def _change_tree(draw: Draw, document: dict[str, Any]) -> str:
    holder, key = draw.choice(list(islice(_places(document, 50), 3_000)))
    how = draw.choice(("near", "near", "near", "value", "value", "rename", "delete", "nest", "wrap", "deep"))
    if how == "near":
        holder[key] = _near(draw, holder[key])
    elif how == "rename" and isinstance(holder, dict):
        name = draw.choice((str(key)[:-1], f"{key}x", "", "__class__", "a.b", "\x00", "x" * 200, "use", "path"))
        holder[name] = holder.pop(key)
    elif how == "delete" and isinstance(holder, dict):
        del holder[key]
    elif how == "nest":
        holder[key] = {str(key): holder[key]}
    elif how == "wrap":
        holder[key] = [holder[key]] * draw.choice((0, 1, 2, 50))
    elif how == "deep":
        value: Any = holder[key]
        for _ in range(draw.choice((10, 100, 300))):
            value = draw.choice(([value], {"a": value}))
        holder[key] = value
    else:
        holder[key] = copy.deepcopy(draw.choice(HOSTILE))  # or the next change would change it for all that follow
    return how


TEXTS: dict[str, Callable[[Draw, str], str | bytes]] = {
    "cut": lambda draw, text: text[: draw.randrange(len(text))],
    "tag": lambda draw, text: text.replace(": ", draw.choice(TAGS), 1 + draw.randrange(3)),
    "bomb": lambda draw, text: _bomb(draw.choice((3, 9, 40))) + text,
    "self alias": lambda draw, text: text + "labels: &a\n  aliases: *a\n",
    "unknown alias": lambda draw, text: text.replace("rules", "*nobody"),
    "merge": lambda draw, text: text + draw.choice(("<<: *x\n", "<<: 3\n", "<<: [1, 2]\n", "refuse: {<<: {max_share: 2}}\n")),
    "brackets": lambda draw, text: text + "x: " + draw.choice("[{") * draw.choice((10, 900, 30_000)),
    "indents": lambda draw, text: text + "".join(f"{' ' * at}a:\n" for at in range(draw.choice((50, 1_200)))),
    "dashes": lambda draw, text: text + "- " * draw.choice((50, 20_000)),
    "doubled key": lambda draw, text: text + text[: text.find("\n") + 1],
    "two documents": lambda draw, text: text + "---\n" + text,
    "directive": lambda draw, text: draw.choice(("%YAML 9.9\n---\n", "%TAG ! !!python/\n---\n", "%\n")) + text,
    "tabs": lambda draw, text: text.replace("  ", "\t"),
    "key": lambda draw, text: text + draw.choice(KEYS),
    "number": lambda draw, text: text.replace("12", draw.choice(NUMBERS)),
    "encoding": lambda draw, text: text.encode(draw.choice(("utf-16", "utf-32", "cp037", "utf-8-sig")), "replace"),
    "bytes": lambda draw, text: _flip(draw, text.encode("utf-8", "surrogatepass")),
    "much": lambda draw, text: text + f"x: {'y' * draw.choice((100_000, 1_100_000))}\n",
    "many": lambda draw, text: text + "".join(f"k{at}: {at}\n" for at in range(draw.choice((200, 5_000)))),
}  # fmt: skip
KEYS = ("? [a, b]\n: 1\n", "? {a: b}\n: 1\n", "null: 1\n", "1: 1\n", "2026-01-01: 1\n")
TAGS = (
    ": !!python/object/apply:os.system ",
    ": !!binary ",
    ": !!timestamp ",
    ": !!set ",
    ": !x ",
    ": &a ",
    ": !!int ",
    ": !!omap ",
)
NUMBERS = (
    "0x7f",
    "1_000",
    "0b1",
    "1e3",
    ".inf",
    ".nan",
    "190:20:30",
    "9" * 5_000,
    "0o17",
    "2026-01-01",
    "1:2",
    "~",
    "yes",
)


def _bomb(depth: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]" for at in range(1, depth)]
    return "\n".join(lines) + "\n"


def _recipe(draw: Draw) -> Input:
    document, kinds = _document(draw), []
    for _ in range(draw.choice((0, 1, 1, 1, 2, 4))):
        kinds.append(_change_tree(draw, document))
    text: str | bytes = _dump(document)
    for _ in range(0 if kinds and draw.random() < 0.7 else draw.choice((1, 1, 2))):
        if isinstance(text, str) and text:
            name = draw.choice(sorted(TEXTS))
            kinds.append(name)
            text = TEXTS[name](draw, text)
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return Input(raw, {"rows.csv": _csv(_rows(draw))}, kinds=kinds)


def _dump(document: Any) -> str:
    try:
        return yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
    except (RecursionError, ValueError):  # too deep for the writer, or a number of too many digits
        return repr(document)


# --- files of rows ------------------------------------------------------------------------------------------------------

Rows = list[dict[str, Any]]


def _rows(draw: Draw) -> Rows:
    labels = draw.choice(
        (["refund", "track"], ["a", "b", "c"], [0, 1], [True, False], ["", "x"], [1.5, 2.0], ["../x", "CON"])
    )
    count = draw.choice((0, 1, 2, 40, 40, 40, 40))
    return [
        {
            "text": " ".join(draw.choices(WORDS, k=draw.choice((1, 5, 7, 9)))),
            "label": draw.choice(labels),
            "day": f"2026-10-{1 + at % 9:02d}",
            "n": at,
        }
        for at in range(count)
    ]


def _csv(rows: Rows, delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["text", "label", "day", "n"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode("utf-8", "surrogatepass")


def _jsonl(draw: Draw, rows: Rows) -> bytes:
    ascii_only = draw.random() < 0.5
    return b"".join(json.dumps(row, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") + b"\n" for row in rows)


def _parquet(draw: Draw, rows: Rows) -> bytes:
    table = (
        pa.Table.from_pylist(rows)
        if rows
        else pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())})
    )
    odd = draw.choice(("", "", "binary", "list", "null", "dictionary", "dates", "doubled"))
    if odd and rows:
        columns = {
            "binary": pa.array([row["text"].encode("latin-1", "replace") for row in rows], pa.binary()),
            "list": pa.array([[row["text"]] for row in rows]),
            "null": pa.nulls(len(rows)),
            "dictionary": pa.array([row["text"] for row in rows]).dictionary_encode(),
            "dates": pa.array([row["n"] for row in rows], pa.timestamp("ns")),
            "doubled": table["text"],
        }
        place = draw.randrange(table.num_columns)
        table = table.set_column(place, "label" if odd == "doubled" else table.column_names[place], columns[odd])
    out = io.BytesIO()
    pq.write_table(
        table, out, compression=draw.choice(("none", "zstd", "snappy")), row_group_size=draw.choice((7, 1000))
    )
    return out.getvalue()


def _flip(draw: Draw, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 3, 20))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _put(draw: Draw, content: bytes, piece: bytes, times: int = 1) -> bytes:
    for _ in range(times):
        at = draw.randrange(len(content) + 1)
        content = content[:at] + piece + content[at:]
    return content


def _recode(draw: Draw, content: bytes) -> bytes:
    codec = draw.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "gb18030", "cp037", "shift_jis", "utf-8-sig"))
    return content.decode("utf-8", "replace").encode(codec, "replace")


def _move(draw: Draw, content: bytes) -> bytes:
    first, last = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[last:] + content[first:last] + content[:first]


PIECES = (
    b"\x00",
    b'"',
    b"'",
    b",",
    b"\n",
    b"\r",
    b"\r\n",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"{",
    b"}",
    b"\\u0000",
)
MAGIC = (b"PK\x03\x04", b"\x1f\x8b", b"PAR1", b"%PDF", b"\x28\xb5\x2f\xfd", b"SQLite format 3\0")
BYTES: dict[str, Callable[[Draw, bytes], bytes]] = {
    "cut": lambda draw, content: content[: draw.randrange(len(content) + 1)],
    "beheaded": lambda draw, content: content[draw.randrange(len(content) + 1) :],
    "flipped": _flip,
    "pieces": lambda draw, content: _put(draw, content, draw.choice(PIECES), draw.choice((1, 5, 50))),
    "doubled": lambda draw, content: content * draw.choice((2, 3)),
    "moved": _move,
    "recoded": _recode,
    "random": lambda draw, content: draw.randbytes(draw.choice((1, 100, 20_000))),
    "zeros": lambda draw, content: content + b"\x00" * draw.choice((1, 5_000)),
    "giant": lambda draw, content: _put(draw, content, draw.choice((b"x", b'"', b",", b"[", b"\xff")) * MUCH),
    "lines": lambda draw, content: _put(draw, content, draw.choice((b"\n", b"{}\n", b",\n", b"x\n")) * 20_000),
    "nested": lambda draw, content: _put(draw, content, draw.choice((b"[", b'{"a":')) * draw.choice((100, 5_000))),
    "wide": lambda draw, content: content.replace(b"\n", b"," * draw.choice((3, 3_000)) + b"\n", draw.choice((1, 3))),
    "mark": lambda draw, content: codecs.BOM_UTF8 + content,
    "numbers": lambda draw, content: content.replace(b"10", draw.choice((b"9" * 5_000, b"1e999", b"-0", b"NaN", b"Infinity"))),
    "magic": lambda draw, content: draw.choice(MAGIC) + content,
    "separator": lambda draw, content: b"sep=" + draw.choice((b";", b",", b"\t", b"")) + b"\r\n" + content,
    "page": lambda draw, content: b"<!DOCTYPE html>\n<html><body>" + draw.choice((b"404", content)) + b"</body></html>\n",
    "pointer": lambda draw, content: b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
        b"0123456789abcdef" * 4, len(content)
    ),
    "array": lambda draw, content: b"[" + content.replace(b"}\n{", b"},\n{") + b"]",
    "object": lambda draw, content: b'{"data": [' + content.replace(b"}\n{", b"},\n{") + b"]}",
    "keys": lambda draw, content: content + b"".join(b'{"k%d": %d}\n' % (at, at) for at in range(draw.choice((50, 30_000)))),
    "packed": lambda draw, content: gzip.compress(
        content + draw.choice((b"x\n", b"x,y\n")) * draw.choice((9, 3_400_000)), 1, mtime=0
    ),
}  # fmt: skip
SOURCE_KEYS: dict[str, tuple[Any, ...]] = {
    "format": ("auto", "csv", "jsonl", "parquet"),
    "delimiter": (",", ";", "|", "\t", "x", "é"),
    "quote": ('"', "'", "none"),
    "encoding": ("auto", "utf-8", "latin-1", "utf-16", "gb18030", "ascii", "utf-7", "punycode", "idna", "utf-8-sig", "utf-32"),
    "compression": ("auto", "none", "gzip", "zstd"),
    "bom": ("strip", "keep", "refuse"),
    "nul": ("strip", "refuse_row"),
    "hive": ("auto", True, False),
    "max_cell_bytes": (1, 10, 1_000, 2**24),
}  # fmt: skip


def _source(draw: Draw) -> Input:
    kind = draw.choice(("csv", "csv", "jsonl", "jsonl", "parquet", "bomb"))
    rows, kinds = _rows(draw), [kind]
    write = {"csv": lambda: _csv(rows, draw.choice(",,;\t|")), "jsonl": lambda: _jsonl(draw, rows)}
    if kind == "bomb":
        kind = "parquet"
        kinds.append(draw.choice(sorted(BOMBS.keys() - {"10,000 columns"})))  # whose every stage takes its second
        content = bomb(kinds[-1])
    else:
        content = write.get(kind, lambda: _parquet(draw, rows))()
    packed = draw.random() < 0.2
    for last in (False, True):  # what is packed is changed before or after it was
        for _ in range(draw.choice((0, 1, 1, 2)) if last or packed else 0):
            name = draw.choice(sorted(BYTES))
            kinds.append(name)
            content = BYTES[name](draw, content)
        if packed and not last:
            content = gzip.compress(content, 1, mtime=0)
    name = f"rows.{draw.choice((kind, kind, kind, 'csv', 'jsonl', 'parquet', 'txt', 'tsv'))}{'.gz' if packed else ''}"
    if draw.random() < 0.1:
        name = f"{draw.choice(('day=2026-10-01', 'day=', '=x', 'day=%2e%2e', 'a b'))}/{name}"
    document = _document(draw, name if draw.random() < 0.85 else draw.choice((name.split("/")[0], "*", "**/*", ".")))
    for key in draw.sample(sorted(SOURCE_KEYS), draw.choice((0, 0, 1, 2))):
        document["source"][key] = draw.choice(SOURCE_KEYS[key])
    if draw.random() < 0.1:
        document["columns"] |= draw.choice(({"id": "n"}, {"group": "day"}, {"label": "n"}, {"text": ["text", "day"]}))
    document["refuse"] = {"max_share": draw.choice((0.05, 0.5, 1.0))}
    files = {name: content}
    if draw.random() < 0.1:
        files["more.csv"] = _csv(_rows(draw))
    return Input(_dump(document).encode("utf-8", "surrogatepass"), files, kinds=kinds)
