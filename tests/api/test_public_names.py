"""What `import augmill` offers, with its signatures, as committed: what moves there, users notice.

`python tests/api/test_public_names.py --record` writes it anew.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path

import augmill

COMMITTED = Path(__file__).with_name("public_names.txt")


def members(name: str, kind: type) -> list[str]:
    """Fields, methods and properties of a class, inherited ones of ours too."""
    fields = {item.name: str(item.type) for item in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}
    told = [f"{name}.{field}: {type}" for field, type in fields.items()]
    for own, value in inspect.getmembers(kind):
        if own.startswith("_") or own in fields or hasattr(BaseException, own):
            continue
        told.append(f"{name}.{own}" + (str(inspect.signature(value)) if callable(value) else ""))
    return told


def names() -> str:
    found = []
    for name in sorted(augmill.__all__):
        value = getattr(augmill, name)
        found += (
            [f"class {name}", *members(name, value)]
            if inspect.isclass(value)
            else [f"{name}{inspect.signature(value)}"]
        )
    return "\n".join(found) + "\n"


def test_public_names_and_signatures_are_those_committed() -> None:
    fix = "a change that users notice: say so in CHANGELOG.md, then python tests/api/test_public_names.py --record"
    assert names() == COMMITTED.read_text(encoding="utf-8"), fix


def test_what_is_offered_says_what_it_does_with_what_it_raises_and_an_example() -> None:
    calls = [getattr(augmill, name) for name in augmill.__all__ if inspect.isfunction(getattr(augmill, name))]
    assert len(calls) == 6
    for call in calls:
        text = inspect.getdoc(call) or ""
        assert all(f"\n{part}\n---" in text for part in ("Parameters", "Returns", "Raises", "Examples")), call.__name__
        listed = text.split("Parameters\n")[1].split("\nReturns\n")[0].replace(",", " ").split()
        assert set(inspect.signature(call).parameters) <= set(listed), call.__name__


if __name__ == "__main__" and sys.argv[1:] == ["--record"]:
    COMMITTED.write_text(names(), encoding="utf-8")
