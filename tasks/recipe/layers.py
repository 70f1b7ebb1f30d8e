"""What a recipe's document is made of: its own file, those it extends, the environment's variables, and ``--set``.

All of it is done on YAML's nodes, before they are values: a variable can give a value and no key, and an error names the
file and line where the key stands, whichever of the files that is.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from augmill.tasks.errors import UserError
from augmill.tasks.recipe.document import (
    SET,
    Dumper,
    FromVariables,
    Lines,
    Place,
    compose,
    construct,
    expanded_size,
    flatten,
    place_of_node,
    plain_tag,
)
from augmill.tasks.recipe.origin import (
    MAX_BYTES,
    beside,
    decode,
    is_address,
    is_relative,
    is_text,
    read_origin,
    require_size,
    shown,
)

EXTENDS = "extends"
MAX_DEPTH, MAX_FILES = 8, 16
_STR, _MAP = "tag:yaml.org,2002:str", "tag:yaml.org,2002:map"
# Names as environments have them. Anything else that begins with `${` is text, as it was before there were variables.
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Z_][A-Z0-9_]*)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class Document:
    """A recipe's values, where each stands, and the sha256 of all that was read for it."""

    value: Any
    lines: Lines
    digest: str


def read_document(
    where: str | Path, changes: Sequence[str] = (), labels: Mapping[Place, bool] | None = None
) -> Document:
    """The recipe at a path or an address, or that is given as text, with what it extends and its variables' values.

    ``changes``: as ``--set`` takes them; the last word. ``labels``: see ``construct``. Raises UserError; of a bucket that
    does not answer StoreRefused or StoreSilent.
    """
    files = _Files(variables := _Variables(os.environ))
    root = files.read(where)
    for change in changes:
        root = _changed(root, change, variables)
    if root is not None and changes:
        expanded_size(root, {})
    return Document(construct(root, shown(where), labels), Lines(root), files.digest())


def text_of(where: str | Path) -> str:
    """The recipe as one text, for a deployment's parameter; what it extends is put in, its variables stay as written.

    Raises what ``read_document`` raises.
    """
    files = _Files(None)
    root = files.read(where)
    if len(files.raws) == 1:
        return decode(files.raws[0], shown(where)).rstrip("\n") + "\n"
    return str(yaml.serialize(root, Dumper=Dumper, allow_unicode=True, width=MAX_BYTES))


# --- extends ----------------------------------------------------------------------------------------------------------


@dataclass
class _Files:
    """The files of one recipe, each read with those it extends below it. ``variables``: None leaves them as written."""

    variables: _Variables | None
    raws: list[bytes] = field(default_factory=list)

    def digest(self) -> str:
        return hashlib.sha256(b"".join(hashlib.sha256(raw).digest() for raw in self.raws)).hexdigest()

    def read(self, where: str | Path, above: tuple[str, ...] = ()) -> yaml.Node | None:
        """The file's nodes, with those of the files below it. ``above``: the files that lead to it."""
        raw = read_origin(where)
        self.raws.append(raw)
        require_size(sum(map(len, self.raws)), shown(where))
        if len(self.raws) > MAX_FILES:
            raise UserError(f"a recipe has more than {MAX_FILES} files", where=shown(where), fix="merge some of them")
        own = compose(raw, shown(where))
        if own is not None and self.variables is not None:
            own = self.variables.put(own)
        if not isinstance(own, yaml.MappingNode):
            return own
        named = next((pair for pair in own.value if pair[0].value == EXTENDS), None)
        if named is None:
            return own
        own.value.remove(named)
        place = f"{place_of_node(named[0])} ({EXTENDS})"
        root: yaml.Node | None = None
        for base in self._bases(named[1], where, place):
            below = self._below(base, (*above, _itself(where)), place)
            root = below if root is None else _merged(root, below)
        assert root is not None
        root = _merged(root, own)
        expanded_size(root, {})
        return root

    def _bases(self, node: yaml.Node, where: str | Path, place: str) -> list[str]:
        """Where what is extended stands: relative to the file that says so."""
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if self.variables is None:
            items = [_Variables(os.environ).put(item) for item in items]
        paths = [item.value for item in items if isinstance(item, yaml.ScalarNode) and item.tag == _STR]
        if not items or len(paths) < len(items) or not all(paths):
            fix = "write `extends: base.yaml`, or a list, in which later ones win"
            raise UserError("expected the path or the address of a recipe, or a list of them", where=place, fix=fix)
        return [self._placed(path, where, place) for path in paths]

    def _placed(self, path: str, where: str | Path, place: str) -> str:
        if is_text(path):
            raise UserError("a path cannot contain a line break", where=place, fix="name one file")
        if not is_relative(path):
            return path if is_address(path) else os.path.expanduser(path)  # noqa: PTH111 - Path raises at an unknown user
        if is_text(where):
            problem = "the recipe is given as text, so a relative path has nowhere to start"
            raise UserError(problem, where=place, fix="write an absolute path, or an address (s3://, gs://, az://)")
        if not is_address(where):
            return str(Path(where).parent / path)
        if (address := beside(str(where), path)) is None:
            raise UserError("the path leads out of the bucket", where=place, fix="write the full address")
        return address

    def _below(self, base: str, above: tuple[str, ...], place: str) -> yaml.MappingNode:
        if _itself(base) in above:
            circle = " extends ".join(f"{name.rpartition('/')[2]!r}" for name in (*above, base))
            raise UserError(f"it extends itself: {circle}", where=place, fix="remove one of these")
        if len(above) > MAX_DEPTH:
            problem = f"recipes extend one another more than {MAX_DEPTH} levels deep"
            raise UserError(problem, where=place, fix="use fewer levels; one recipe may extend a list")
        try:
            root = self.read(base, above)
        except UserError as error:
            if error.where != base:  # it is about what stands in there
                raise
            raise UserError(f"{base!r}: {error.problem}", where=place, fix=error.fix) from error
        if not isinstance(root, yaml.MappingNode):
            problem = f"{base!r} is not a recipe: expected keys such as dataset, source and columns"
            raise UserError(problem, where=place, fix="name a recipe, or a part of one")
        return root


def _itself(where: str | Path) -> str:
    """One name for one file, whichever way leads to it."""
    return str(where) if is_text(where) or is_address(where) else os.path.realpath(where)


def _merged(below: yaml.Node, own: yaml.Node) -> yaml.Node:
    """Sections key by key, anything else as a whole: ``own`` wins. So does a section that uses another extension."""
    if not isinstance(below, yaml.MappingNode) or not isinstance(own, yaml.MappingNode):
        return own
    pairs, nearer = flatten(below), flatten(own)
    used = [part["use"][1].value for part in (pairs, nearer) if "use" in part]
    if len(used) == 2 and used[0] != used[1]:
        return own
    for name, (key, value) in nearer.items():
        pairs[name] = (key, _merged(pairs[name][1], value) if name in pairs else value)
    return _section(pairs, own)


def _section(pairs: Mapping[str, tuple[yaml.ScalarNode, yaml.Node]], at: yaml.Node) -> yaml.MappingNode:
    """A new one: the nodes that it is made of may stand elsewhere too, by an alias."""
    return yaml.MappingNode(_MAP, list(pairs.values()), at.start_mark, at.end_mark, flow_style=False)


# --- Variables --------------------------------------------------------------------------------------------------------


class _Variables:
    """Puts values in place of ``${NAME}`` and ``${NAME:-default}`` in texts, never in keys."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        self.size = 0
        self._done: dict[int, tuple[yaml.Node, yaml.Node]] = {}  # with the node itself, so that its id stays its own

    def put(self, node: yaml.Node, at: tuple[str, ...] = ()) -> yaml.Node:
        """The node with its variables' values. Raises UserError for one that is not set."""
        if id(node) not in self._done:
            self._done[id(node)] = node, self._put(node, at)
        return self._done[id(node)][1]

    def _put(self, node: yaml.Node, at: tuple[str, ...]) -> yaml.Node:
        if isinstance(node, yaml.MappingNode):
            node.value = [(key, self.put(value, (*at, key.value))) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            node.value = [self.put(item, (*at, str(index))) for index, item in enumerate(node.value)]
        elif isinstance(node, yaml.ScalarNode) and node.tag == _STR and "${" in node.value:
            return self._scalar(node, at)
        return node

    def _scalar(self, node: yaml.ScalarNode, at: tuple[str, ...]) -> yaml.ScalarNode:
        """A plain scalar that is one variable is read as what it holds would be; any other one is a text."""
        place = place_of_node(node)
        place += f" ({'.'.join(at)})" if at and not place.startswith(SET) else ""
        held: dict[str, str] = {}

        def value_of(found: re.Match[str]) -> str:
            return "${" if found[1] is None else self._value(found[1], found[2], held, place)

        text = _VARIABLE.sub(value_of, node.value)
        whole = node.style is None and (found := _VARIABLE.fullmatch(node.value)) is not None and found[1] is not None
        if text == node.value:
            return node
        self.size += len(text)
        require_size(self.size, place)
        return FromVariables(node, plain_tag(text) if whole else _STR, text, None if whole else '"', held)

    def _value(self, name: str, default: str | None, held: dict[str, str], place: str) -> str:
        value = self.values.get(name)
        if value is None and default is None:
            fix = (
                f"set it wherever the recipe is read, also for a deployment's workers; or write `${{{name}:-default}}`, or "
                f"`$${{{name}}}` if no variable is meant"
            )
            raise UserError(f"the variable {name} is not set", where=place, fix=fix)
        if default is not None and not value:
            return default
        if yaml.reader.Reader.NON_PRINTABLE.search(value or ""):
            problem = f"the variable {name} holds control characters, or bytes that are not UTF-8"
            raise UserError(problem, where=place, fix="set it to plain text")
        held[name] = value or ""
        return held[name]


# --- --set ------------------------------------------------------------------------------------------------------------


def _changed(root: yaml.Node | None, change: str, variables: _Variables) -> yaml.Node:
    """The document with ``key=value`` put in; ``root`` stays as it is."""
    key, equals, text = change.partition("=")
    at = key.split(".")
    if not equals or not all(at) or not key.isprintable():
        fix = "write for example --set seed=7, or --set generators.0.share=0.5"
        raise UserError("expected KEY=VALUE, with dots between the parts of KEY", where=SET.strip(), fix=fix)
    if at[0] == EXTENDS:
        raise UserError("only a recipe can say what it extends", where=SET + key, fix="write it into a recipe")
    return _with(root, at, _value_of(key, text, variables))


def _value_of(key: str, text: str, variables: _Variables) -> yaml.Node:
    """A scalar, or a list or section between brackets, as YAML."""
    node = compose(text.encode("utf-8", "surrogateescape"), SET + key) if "\n" not in text else None
    if node is None and not text.strip():
        mark = yaml.Mark(SET + key, 0, 0, 0, "", 0)
        node = yaml.ScalarNode(plain_tag(""), "", mark, mark)
    block = isinstance(node, yaml.CollectionNode) and not node.flow_style
    if node is None or block:
        fix = "write [a, b] for a list, {key: value} for a section, and a text with `: ` or ` #` in double quotes"
        raise UserError("expected one value on one line", where=SET + key, fix=fix)
    return variables.put(node)


def _with(node: yaml.Node | None, at: Sequence[str], value: yaml.Node, above: tuple[str, ...] = ()) -> yaml.Node:
    if not at:
        return value
    part, rest, here, where = at[0], at[1:], (*above, at[0]), str(value.start_mark.name)
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == plain_tag("")):
        node = _section({}, value)
    if isinstance(node, yaml.MappingNode):
        pairs = flatten(node)
        key, before = pairs.get(part, (None, None))
        if key is None or not rest:
            key = yaml.ScalarNode(_STR, part, value.start_mark, value.end_mark)
        pairs[part] = (key, _with(before, rest, value, here))
        return _section(pairs, node)
    name = ".".join(above) or "the recipe"
    if not isinstance(node, yaml.SequenceNode):
        fix = f"give it whole: {SET}'{name}={{...}}'"
        raise UserError(f"{name} is a single value in the recipe, not a section with keys", where=where, fix=fix)
    if not re.fullmatch(r"[0-9]{1,6}", part) or int(part) >= len(node.value):
        fix = f"number them from 0, as in {name}.0; or give the whole list: {SET}'{name}=[...]'"
        raise UserError(f"{name} is a list of {len(node.value)} and has no entry {part!r}", where=where, fix=fix)
    items = list(node.value)
    items[int(part)] = _with(items[int(part)], rest, value, here)
    return yaml.SequenceNode(node.tag, items, node.start_mark, node.end_mark, flow_style=node.flow_style)
