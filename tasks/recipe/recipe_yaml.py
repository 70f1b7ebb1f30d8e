"""Reads a recipe's YAML: YAML 1.2's plain scalars, no duplicate keys, no alias bombs, the line of every key for messages.

PyYAML reads YAML 1.1, in which ``NO`` is false, 010 is 8, 1_000 is 1000, 12:30 is 750 and 2024-01-01 is no text. The core
schema of YAML 1.2 stands here in its stead: what it does not know is a text. Keys are read as they are written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from augmill.tasks.contracts import UserError

MAX_BYTES = 250_000  # brackets alone take PyYAML 3 s then; a recipe has a few thousand, with 8,000 aliases 190,000
MAX_NODES = 100_000  # after aliases are expanded; a large recipe has hundreds
_TAG = "tag:yaml.org,2002:"
# YAML 1.2, 10.3.2; and the merge key, which 1.2 has no more and recipes use.
_CORE = {
    "null": r"(~|null|Null|NULL|)\Z",
    "bool": r"(true|True|TRUE|false|False|FALSE)\Z",
    "int": r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z",
    "float": r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z",
    "merge": r"<<\Z",
}
_PLAIN = {f"{_TAG}{name}" for name in ("str", *_CORE)}  # tags of keys that JSON has too
# A label that is a whole number, true or false in one spelling alone loses nothing by being read as such.
_ONE_SPELLING = re.compile(r"0|-?[1-9][0-9]{0,17}|true|false")

Place = tuple[str, ...]  # keys from the document's root; ``*``: each key's value, or each item


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way to say it


class Dumper(yaml.SafeDumper):
    """Quotes a text that YAML 1.1 or 1.2 would read as something else, so that what is written is read back by both."""


def _read_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text[2:], {"0o": 8, "0x": 16}[text[:2]]) if text[:2] in ("0o", "0x") else int(text)


for _name, _pattern in _CORE.items():
    for _kind in (_Loader, Dumper):
        _kind.add_implicit_resolver(f"{_TAG}{_name}", re.compile(_pattern), None)
_Loader.add_constructor(f"{_TAG}int", _read_int)


class Lines:
    """The line on which each key of a YAML document stands."""

    def __init__(self, root: yaml.Node | None) -> None:
        self.root = root

    def of(self, location: tuple[str | int, ...]) -> int:
        """The line of the deepest part of ``location`` that stands in the document; from 1."""
        node, line = self.root, 1
        for part in location:
            if isinstance(node, yaml.MappingNode):
                found = next((pair for pair in node.value if pair[0].value == str(part)), None)
                if found is None:
                    continue
                line, node = found[0].start_mark.line + 1, found[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
        return line


def _expanded_size(node: yaml.Node, sizes: dict[int, int], where: str) -> int:
    """How many nodes the document has once aliases are expanded; each node is visited once."""
    if id(node) in sizes:
        if sizes[id(node)] < 0:
            line = node.start_mark.line + 1
            raise UserError("an alias refers to itself", where=f"{where} line {line}", fix="write the value out")
        return sizes[id(node)]
    sizes[id(node)] = -1
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for at, (key, value) in enumerate(node.value):
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _PLAIN:
                line = key.start_mark.line + 1
                raise UserError("a key is not plain text", where=f"{where} line {line}", fix="write `name: value`")
            if key.value in seen:
                line = key.start_mark.line + 1
                raise UserError(f"the key {key.value!r} stands twice", where=f"{where} line {line}", fix="keep one")
            seen.add(key.value)
            children.append(value)
            if key.tag != f"{_TAG}merge":
                node.value[at] = (_text_node(key), value)
    elif isinstance(node, yaml.SequenceNode):
        children = list(node.value)
    total = 1 + sum(_expanded_size(child, sizes, where) for child in children)
    if total > MAX_NODES:
        raise UserError(
            f"the recipe holds more than {MAX_NODES:,} values once its aliases are expanded",
            where=f"{where} line {node.start_mark.line + 1}",
            fix="write the values out, without aliases of aliases",
        )
    sizes[id(node)] = total
    return total


def _text_node(node: yaml.ScalarNode) -> yaml.ScalarNode:
    return yaml.ScalarNode(f"{_TAG}str", node.value, node.start_mark, node.end_mark, node.style)


def _as_written(node: yaml.Node, place: Place, typed: bool) -> yaml.Node:
    """``node``, with the plain scalars at ``place`` below it as the texts that were written; of ``typed`` ones those

    whose text could be told from their value stay numbers or truth values.
    """
    if not place:
        if not isinstance(node, yaml.ScalarNode) or node.style is not None or not node.value or node.tag not in _PLAIN:
            return node
        return node if typed and _ONE_SPELLING.fullmatch(node.value) else _text_node(node)
    if isinstance(node, yaml.SequenceNode) and place[0] == "*":
        node.value = [_as_written(child, place[1:], typed) for child in node.value]
    elif isinstance(node, yaml.MappingNode):
        for at, (key, value) in enumerate(node.value):
            if key.tag == f"{_TAG}merge":  # of one section, or of several
                for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    _as_written(part, place, typed)
            elif place[0] in ("*", key.value):
                node.value[at] = (key, _as_written(value, place[1:], typed))
    return node


def read_yaml(path: Path, labels: Mapping[Place, bool] | None = None) -> tuple[Any, Lines]:
    """The document and where its keys stand. ``labels``: where labels stand, which are read as they are written, and

    whether such a place takes numbers and truth values too. Raises UserError for what is not one plain YAML document.
    """
    where = str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        nearby = ", ".join(sorted(p.name for p in path.parent.glob("*.y*ml"))[:5]) if path.parent.is_dir() else ""
        fix = f"recipes in that directory: {nearby}" if nearby else "augmill init DATA writes a first one"
        raise UserError(f"the recipe cannot be read: {error.strerror}", where=where, fix=fix) from error
    if len(raw) > MAX_BYTES:
        raise UserError(
            f"a recipe is at most {MAX_BYTES:,} bytes; found {len(raw):,}",
            where=where,
            fix="give a recipe: is this the data?",
        )
    try:
        text = raw.decode("utf-8-sig")
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None, Lines(None)
        _expanded_size(root, {}, where)
        for place, typed in (labels or {}).items():
            root = _as_written(root, place, typed)
        return loader.construct_document(root), Lines(root)
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 at byte {error.start}", where=where, fix="save the recipe as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(
            f"not valid YAML: {', '.join(filter(None, (error.context, error.problem)))}",
            where=f"{where} line {line}",
            fix="see docs/recipe.md; a text that holds `: ` or begins with a sign is put in quotes",
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, LookupError, TypeError) as error:
        # The last three are PyYAML's at a tag that its text does not fit: `!!timestamp x`, `!!bool x`, `!!int ""`.
        problem = (str(error).splitlines() or ["empty"])[0][:200]
        raise UserError(f"not valid YAML: {problem}", where=where, fix="see docs/recipe.md") from error
