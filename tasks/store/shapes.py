"""What a document in a store must look like before anything of it is used or printed: ids that are ids, paths that stay.

A seal says that a document is what somebody wrote, not that Augmill wrote it. One table, by key, names the shape of each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from augmill.tasks.errors import StoreRefused

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # and halves of surrogate pairs, which no terminal can show
_SPOKEN = frozenset({"reason", "where", "next"})  # sentences, which may have several lines


@dataclass(frozen=True)
class Word:
    """A string that ``fits``; ``what`` it is, for the message."""

    what: str
    fits: Callable[[str], object]


@dataclass(frozen=True)
class Every:
    """An object with any keys of one shape and values of another."""

    key: Any
    value: Any


def _is_time(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _stays_inside(value: str) -> bool:
    parts = value.split("/")
    return not (_CONTROL.search(value) or "\\" in value or ":" in parts[0] or {"", ".", ".."} & set(parts))


ID = Word("a release's id (16 of 0-9 and a-f)", re.compile(r"[0-9a-f]{16}").fullmatch)
HASH = Word("a sha256 (64 of 0-9 and a-f)", re.compile(r"[0-9a-f]{64}").fullmatch)
TIME = Word("a time with its offset from UTC", _is_time)
LINE = Word("a line without control characters", lambda value: not _CONTROL.search(value))
LINES = Word("lines without control characters", lambda value: not _CONTROL.search(re.sub(r"[\n\t]", "", value)))
NAME = Word("a name without control characters", lambda value: value and not _CONTROL.search(value))
PLAIN = Word("letters, digits, `.`, `_` and `-`", re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}").fullmatch)
FILE = Word("a file's name that stays in its directory", _stays_inside)
ARTIFACT = Word("an artifact's key (stage/identity)", re.compile(r"[a-z_]+/[A-Za-z0-9_-]+").fullmatch)
KIND = Word("release, rollback, tag, forget or expire", {"release", "rollback", "tag", "forget", "expire"}.__contains__)

# What a log entry says of one release. Where several switched together, each has its own under ``snapshots``.
_ABOUT = {
    **dict.fromkeys(("outcome?", "approved_by?", "recipe?", "backfill?"), LINE),
    "arrangement?": (LINE, None),
    "verdict?": dict,
}
LOG_ENTRY: dict[str, Any] = {
    **dict.fromkeys(("actor", "command", "commit"), LINE),
    **{"number": int, "previous": HASH, "time": TIME, "kind": KIND, "reason": LINES},
    "current": Every(NAME, (ID, None)),
    **_ABOUT,
    "snapshots?": Every(NAME, {"reason": LINES, **_ABOUT}),
    **{"forced?": bool, "request?": LINE, "counts?": Every(LINE, int), "tag?": PLAIN, "release?": (ID, None)},
    **{"withdraws?": [ID], "expired?": [ID], "erased?": [ID], "replaced?": Every(ID, ID), "made?": Every(NAME, ID)},
}
_TAGGED = {"tag": PLAIN, "release": (ID, None)}
_START: dict[str, Any] = {
    **{"snapshot": NAME, "token": LINE, "time": TIME},
    **dict.fromkeys(("command?", "recipe?", "code?", "backfill?"), LINE),
    "owner?": ({"machine": LINE, "pid": int, "began": int}, {"!": True}),
}
_PENDING = {"snapshot": NAME, "release": ID, "expected": (ID, None), "entry": {"reason": LINES, **_ABOUT}}
_END: dict[str, Any] = {
    **{"time": TIME, "outcome": LINE, "start?": _START},
    **dict.fromkeys(("reason?", "where?", "next?"), LINES),
    **dict.fromkeys(("kind?", "action?"), LINE),
    **dict.fromkeys(("arrangement?", "report?", "location?"), (LINE, None)),
    **{"release?": (ID, None), "artifacts?": [ARTIFACT], "pending?": (_PENDING, None), "source?": Every(str, str)},
    **dict.fromkeys(("seconds?", "gpu_seconds?", "generated?", "tokens?"), float),
}
_FILES = Every(FILE, {"sha256": HASH, "size": int})
_ESTIMATE = {"!": True, **dict.fromkeys(("seconds", "gpu_seconds", "tokens", "cost"), (float, None))}
_LINE = {"!": True, "snapshot": NAME, "state": LINE, "reason": LINES, "known": int, "estimate": _ESTIMATE}
_REQUEST = {"reprocess": LINE, **dict.fromkeys(("first", "last", "order", "publish"), (LINE, None))}
_PLAN: dict[str, Any] = {
    "!": True,
    **{"id": PLAIN, "kind": LINE, "dataset": PLAIN, "time": TIME, "recipe": LINE, "code": LINE, "publish": LINE},
    **{"request": _REQUEST, "lines": [_LINE], "left_out": Every(NAME, LINES)},
}
_SEGMENT = {"stratum": str, "start": int, "count": int}

# Of sealed documents, by a pattern of their key. What stands under no such key is only looked at for its seal.
_DOCUMENTS: tuple[tuple[str, str, Any], ...] = (
    (r"public/[^/]+/_log/\d+\.json", "log entry", LOG_ENTRY),
    (
        r"private/manifests/.*\.json",
        "artifact's manifest",
        {"rows": int, "content": LINE, "files": _FILES, "meta": dict},
    ),
    (r"private/attempts/.*/start\.json", "start of an attempt", _START),
    (r"private/attempts/.*/end\.json", "end of an attempt", _END),
    (r"private/attempts/.*/beat\.json", "sign of life of an attempt", {"time": TIME}),
    (r"private/bank/.*", "bank's record", {"artifact": (ARTIFACT, {"key": ARTIFACT}), "segments": [_SEGMENT]}),
    (r"private/backfills/.*/plan\.json", "plan of a backfill", _PLAN),
    (r"private/erased/.*", "list of erased rows", {"hashes": [HASH]}),
    (r"private/sources/.*", "record of the source's files", Every(str, [str])),
    (r"private/compare/.*", "cell of a comparison", {"spent": dict}),
)
_SHAPES = tuple((re.compile(pattern), name, shape) for pattern, name, shape in _DOCUMENTS)

_CLASSES = Every(str, int)
_COUNTS = {"rows": int, "synthetic": int, "classes": _CLASSES}
_LEDGER_ROW = {
    "generator": LINE,
    **dict.fromkeys(("asked", "delivered", "surplus", "accepted"), int),
    **dict.fromkeys(("rejected", "undelivered"), Every(LINE, int)),
}
RELEASE: dict[str, Any] = {
    **{"dataset": LINE, "snapshot": NAME, "arrangement": LINE, "recipe": LINE, "inputs": Every(LINE, LINE)},
    "counts": {"train": _COUNTS, "validation": _COUNTS, "test": _COUNTS},
    "ledger": (None, {"rows": [_LEDGER_ROW]}),
    "files": _FILES,
}
_TYPES = (None, Every(str, str))
PROVENANCE: dict[str, Any] = {
    "recipe": {
        **{"publish": {"prefix": LINE}, "seed": int, "generators": [{"use": LINE, "options": dict}]},
        "columns?": {"inputs?": _TYPES, "target?": _TYPES},
    },
    **{"failures": list, "generators?": Every(LINE, int)},
}


def require_document(key: str, body: dict[str, Any]) -> dict[str, Any]:
    """The body of the sealed document under that key. Raises StoreRefused, naming the key, for what Augmill wrote not."""
    for pattern, name, shape in _SHAPES:
        if pattern.fullmatch(key):
            require_shape(body, shape, key, name)
            if shape is LOG_ENTRY and body["kind"] == "tag":
                require_shape(body, _TAGGED, key, name)
            if shape in (LOG_ENTRY, _END, _START) and (found := _unclean(body)) is not None:
                raise _refusal(key, name, f"{found}: expected {LINE.what}")
    return body


def require_shape(value: Any, shape: Any, key: str, name: str) -> None:
    """Raises StoreRefused, naming the key, the part that is wrong, what was expected of it and what was found."""
    if (fault := _fault(value, shape, "")) is not None:
        raise _refusal(key, name, fault)


def _refusal(key: str, name: str, fault: str) -> StoreRefused:
    problem = f"the {name} is not one that Augmill writes: {fault}"
    return StoreRefused(problem, where=key, fix="somebody else wrote it: restore the file from a backup, or remove it")


def _fault(value: Any, shape: Any, at: str) -> str | None:
    """What is wrong with it, or None. A shape is a type, a ``Word``, None, alternatives (a tuple), the shape of each

    item (a list of one), an ``Every``, or the shapes of an object's keys; a key with ``?`` may be missing, and with ``!``
    among them there are no others.
    """
    if isinstance(shape, tuple):
        faults = [_fault(value, part, at) for part in shape]
        # Of the alternatives that of the value's own type tells most.
        return (
            None
            if None in faults
            else next((f for f in faults if f and not f.startswith(f"{at}: expected nothing")), faults[0])
        )
    if isinstance(shape, list | Every):
        return _fault_of_each(value, shape, at)
    if isinstance(shape, dict):
        return _fault_of_object(value, shape, at)
    return _fault_of_one(value, shape, at)


def _fault_of_each(value: Any, shape: Any, at: str) -> str | None:
    """Of the items of a list, or of the keys and values of an object that may have any."""
    if isinstance(shape, list):
        if not isinstance(value, list | tuple):  # a tuple: what is about to be written as a list
            return _told(at, "a list", value)
        faults = (_fault(part, shape[0], f"{at}[{number}]") for number, part in enumerate(value))
    else:
        if not isinstance(value, dict):
            return _told(at, "an object", value)
        pairs = value.items()
        faults = (_fault(k, shape.key, at) or _fault(part, shape.value, _below(at, k)) for k, part in pairs)
    return next(filter(None, faults), None)


def _fault_of_object(value: Any, shape: Mapping[str, Any], at: str) -> str | None:
    if not isinstance(value, dict):
        return _told(at, "an object", value)
    known = {name.removesuffix("?"): part for name, part in shape.items() if name != "!"}
    missing = [name for name in shape if name != "!" and not name.endswith("?") and name not in value]
    if missing:
        return f"{_below(at, missing[0])} is missing"
    if "!" in shape and (more := sorted(value.keys() - known.keys())):
        return f"{_below(at, more[0])} is unknown"
    inner = (_fault(value[name], part, _below(at, name)) for name, part in known.items() if name in value)
    return next(filter(None, inner), None)


def _fault_of_one(value: Any, shape: Any, at: str) -> str | None:
    if shape is None:
        return None if value is None else _told(at, "nothing", value)
    if isinstance(shape, Word):
        return None if isinstance(value, str) and shape.fits(value) else _told(at, shape.what, value)
    kinds: dict[type, tuple[str, tuple[type, ...]]] = {
        int: ("a whole number", (int,)),
        float: ("a number", (int, float)),
        str: ("a string", (str,)),
        bool: ("true or false", (bool,)),
        dict: ("an object", (dict,)),
        list: ("a list", (list,)),
    }
    what, types = kinds[shape]
    fits = isinstance(value, types) and (shape is bool or not isinstance(value, bool))
    return None if fits else _told(at, what, value)


def _below(at: str, key: Any) -> str:
    name = ascii(key)[1:-1] if isinstance(key, str) else ascii(key)
    return f"{at}.{name[:80]}" if at else name[:80]


def _told(at: str, what: str, value: Any) -> str:
    found = ascii(value)
    return f"{at}: expected {what}, found {found[:80]}{'...' if len(found) > 80 else ''}".removeprefix(": ")


def _unclean(value: Any, at: str = "", name: str = "") -> str | None:
    """Where in a document that commands print a control character stands; keys of the source's partitions are data."""
    if isinstance(value, str):
        shape = LINES if name in _SPOKEN else LINE
        return None if shape.fits(value) else at
    if isinstance(value, dict):
        for key, part in value.items():
            if name != "source" and not LINE.fits(key):
                return _below(at, key)
            if (found := _unclean(part, _below(at, key), key)) is not None:
                return found
    if isinstance(value, list | tuple):
        return next(filter(None, (_unclean(part, f"{at}[{n}]", name) for n, part in enumerate(value))), None)
    return None


def cleaned(value: Any, name: str = "") -> Any:
    """The document with its control characters written as escapes: a path or a label in a reason may hold some."""
    if isinstance(value, str):
        kept = "\n\t" if name in _SPOKEN else ""
        return _CONTROL.sub(lambda found: found[0] if found[0] in kept else ascii(found[0])[1:-1], value)
    if isinstance(value, dict):
        return {key: cleaned(part, key) for key, part in value.items()}
    return [cleaned(part, name) for part in value] if isinstance(value, list | tuple) else value
