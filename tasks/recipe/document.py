"""Reads YAML: version 1.2's plain scalars, no duplicate keys, no alias bombs, the file and line of every key."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from augmill.tasks.errors import UserError
from augmill.tasks.recipe.origin import decode, read_origin, shown

# PyYAML reads YAML 1.1, in which ``NO`` is false, 010 is 8, 1_000 is 1000, 12:30 is 750 and 2024-01-01 is no text. The core
# schema of YAML 1.2 stands here in its stead: what it does not know is a text. Keys are read as they are written.


MAX_NODES = 100_000  # after aliases are expanded; a large recipe has hundreds
# Of sections and lists within one another. What walks over nodes calls itself up to three times a level.
MAX_LEVELS = 100
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


class FromVariables(yaml.ScalarNode):
    """A scalar in which variables stood: ``written`` as it was, ``values`` what the environment gave, by their names."""

    def __init__(self, node: yaml.ScalarNode, tag: str, value: str, style: str | None, values: dict[str, str]) -> None:
        super().__init__(tag, value, node.start_mark, node.end_mark, style)
        self.written, self.values = str(node.value), values

    def forms(self) -> dict[str, str]:
        """What an error might show of them, each with what is shown in its stead."""
        found: dict[str, str] = {}
        for value, name in (
            (self.value, self.written),
            *((value, f"${{{name}}}") for name, value in self.values.items()),
        ):
            for form in (value, repr(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]):
                found.setdefault(form, name)
        if self.tag != f"{_TAG}str":  # a number, in another spelling perhaps
            value = _Loader("").construct_document(self)
            found |= dict.fromkeys((str(value), json.dumps(value)), self.written)
        return {form: name for form, name in found.items() if form} if self.values else {}


SET = "--set "  # what a node's file is called that the command line gave
_LONG = 8  # characters from which a variable's value is hidden wherever an error shows it
_CUT = 20  # of a value that an error shows cut short: so many are known again


def place_in(where: str, line: int) -> str:
    """A line of a document; what the command line gives has none."""
    return where if where.startswith(SET) else f"{where} line {line}"


def place_of_node(node: yaml.Node) -> str:
    """Its file and line."""
    return place_in(str(node.start_mark.name), int(node.start_mark.line) + 1)


class Lines:
    """Where each key of a document stands: its line, and its file, where the document is made of several."""

    def __init__(self, root: yaml.Node | None) -> None:
        self.root = root

    def of(self, location: tuple[str | int, ...]) -> int:
        """The line of the deepest part of ``location`` that stands in the document; from 1."""
        found, _, _ = self._find(location)
        return 1 if found is None else int(found.start_mark.line) + 1

    def where(self, location: tuple[str | int, ...], path: str) -> str:
        """The same with its file; ``path``: the whole document's."""
        found, _, _ = self._find(location)
        return place_in(path if found is None else str(found.start_mark.name), self.of(location))

    def file_of(self, location: tuple[str | int, ...]) -> str | None:
        """The file in which a key stands; None where the document has no such key, or the command line gave it."""
        found, _, whole = self._find(location)
        name = str(found.start_mark.name) if found is not None and whole else SET
        return None if name.startswith(SET) else name

    def _find(self, location: tuple[str | int, ...]) -> tuple[yaml.Node | None, yaml.Node | None, bool]:
        """(what marks the deepest part that stands there, its value, whether that is all of ``location``)."""
        node, mark, whole = self.root, None, True
        for part in location:
            if isinstance(node, yaml.MappingNode):
                found = next((pair for pair in node.value if pair[0].value == str(part)), None)
                if found is not None:
                    mark, node = found
                whole &= found is not None
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                mark = node = node.value[part]
            else:
                whole = False
        return mark, node, whole

    def hide(self, text: str, location: tuple[str | int, ...]) -> str:
        """``text`` with ``${NAME}`` in place of what the environment gave: a variable may hold a secret.

        A short value is looked for where it stands alone, if the error is about what it is a part of.
        """
        at = {id(node) for node in _held(self._find(location)[1])}
        for node in _held(self.root):
            for form, name in sorted(node.forms().items(), key=lambda pair: -len(pair[0])):
                if len(form) >= _LONG:
                    ends = range(min(len(form), len(text)), _CUT, -1)
                    cut = next((form[:end] for end in ends if form[:end] in text.replace(form, "")), form)
                    text = text.replace(form, name).replace(cut, name)
                elif id(node) in at:
                    text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", lambda _, name=name: name, text)  # type: ignore[misc]
        return text


def _held(node: yaml.Node | None, seen: set[int] | None = None) -> Iterator[FromVariables]:
    """The scalars at and below a node in which variables stood."""
    seen = set() if seen is None else seen
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, FromVariables):
        yield node
    elif isinstance(node, yaml.CollectionNode):
        for child in node.value:
            yield from _held(child[1] if isinstance(child, tuple) else child, seen)


def expanded_size(node: yaml.Node, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(nodes, levels) that the document has once aliases are expanded; each node is visited once. Raises UserError for more

    than ``MAX_NODES`` and ``MAX_LEVELS``, and for keys that are no plain texts, or stand twice.
    """
    if id(node) in sizes:
        if sizes[id(node)][0] < 0:
            at = place_of_node(node)
            raise UserError("an alias refers to itself", where=at, fix="write the value out")
        return sizes[id(node)]
    sizes[id(node)] = -1, 0
    below = [expanded_size(child, sizes) for child in _children(node)]
    total, levels = 1 + sum(size for size, _ in below), 1 + max((depth for _, depth in below), default=0)
    for what, count, most in (("values", total, MAX_NODES), ("levels", levels, MAX_LEVELS)):
        if count > most:
            raise UserError(
                f"the recipe holds more than {most:,} {what} once its aliases are expanded",
                where=place_of_node(node),
                fix="write the values out, without aliases of aliases",
            )
    sizes[id(node)] = total, levels
    return total, levels


def _children(node: yaml.Node) -> list[yaml.Node]:
    """The values of a section, whose keys are texts from now on, or of a list."""
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for index, (key, value) in enumerate(node.value):
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _PLAIN:
                at = place_of_node(key)
                raise UserError("a key is not plain text", where=at, fix="write `name: value`")
            if key.value in seen:
                at = place_of_node(key)
                raise UserError(f"the key {key.value!r} appears twice", where=at, fix="keep one")
            seen.add(key.value)
            children.append(value)
            if key.tag != f"{_TAG}merge":
                node.value[index] = (_text_node(key), value)
    elif isinstance(node, yaml.SequenceNode):
        children = list(node.value)
    return children


def _text_node(node: yaml.ScalarNode) -> yaml.ScalarNode:
    made = copy.copy(node)
    made.tag = f"{_TAG}str"
    return made


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


def read_yaml(where: str | Path, labels: Mapping[Place, bool] | None = None) -> tuple[Any, Lines]:
    """The document at a path or an address, or that is given as text, and where its keys stand; see ``parse_yaml``."""
    return parse_yaml(read_origin(where), shown(where), labels)


def parse_yaml(raw: bytes, where: str, labels: Mapping[Place, bool] | None = None) -> tuple[Any, Lines]:
    """The document and where its keys stand. ``labels``: see ``construct``. Raises UserError for what is not one plain

    YAML document.
    """
    root = compose(raw, where)
    return construct(root, where, labels), Lines(root)


def compose(raw: bytes, where: str) -> yaml.Node | None:
    """The document's nodes, each with its line and with ``where`` as its file. Raises UserError."""
    text = decode(raw, where)
    with _explained(where):
        loader = _Loader(text)
        loader.name = where
        root: yaml.Node | None = loader.get_single_node()
        if root is not None:
            expanded_size(root, {})
        return root


def construct(root: yaml.Node | None, where: str, labels: Mapping[Place, bool] | None = None) -> Any:
    """The values. ``labels``: where labels stand, which are read as they are written, and whether such a place takes

    numbers and truth values too. Raises UserError.
    """
    if root is None:
        return None
    with _explained(where):
        for place, typed in (labels or {}).items():
            root = _as_written(root, place, typed)
        return _Loader("").construct_document(root)


def flatten(node: yaml.MappingNode) -> dict[str, tuple[yaml.ScalarNode, yaml.Node]]:
    """A section's keys with their values, those of its merge keys (``<<``) too, from now on without. Raises UserError."""
    with _explained(str(node.start_mark.name)):
        _Loader("").flatten_mapping(node)
    pairs = {key.value: (key, value) for key, value in node.value}
    node.value = list(pairs.values())
    return pairs


def plain_tag(text: str) -> str:
    """The tag of a plain scalar: what YAML 1.2's core schema reads it as."""
    tag = str(_Loader("").resolve(yaml.ScalarNode, text, (True, False)))  # type: ignore[no-untyped-call]
    return f"{_TAG}str" if tag == f"{_TAG}merge" else tag


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    """PyYAML's errors in our words."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        line, place = 1, where
        if error.problem_mark:
            line, place = error.problem_mark.line + 1, error.problem_mark.name
        fix = "see docs/recipe.md; quote a text that contains `: ` or begins with a symbol"
        if "${" in str(error.problem_mark):  # PyYAML shows the line there
            fix = "put a `${NAME}` between { } or [ ] in quotes"
        said = ", ".join(filter(None, (error.context, error.problem)))
        raise UserError(f"not valid YAML: {said}", where=place_in(place, line), fix=fix) from error
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, LookupError, TypeError) as error:
        # The last three are PyYAML's at a tag that its text does not fit: `!!timestamp x`, `!!bool x`, `!!int ""`.
        problem = (str(error).splitlines() or ["empty"])[0][:200]
        raise UserError(f"not valid YAML: {problem}", where=where, fix="see docs/recipe.md") from error
