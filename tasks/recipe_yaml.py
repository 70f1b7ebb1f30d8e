"""Reads a recipe's YAML: the safe loader, no duplicate keys, no alias bombs, and the line of every key for messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from augmill.tasks.contracts import UserError

MAX_BYTES = 250_000  # brackets alone take PyYAML 3 s then; a recipe has a few thousand, with 8,000 aliases 190,000
MAX_NODES = 100_000  # after aliases are expanded; a large recipe has hundreds
# Tags of keys that JSON has too; the numbers and words among them are read as they are written.
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "merge")}


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
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _PLAIN:
                line = key.start_mark.line + 1
                fix = "write `name: value`, and a date as a key in quotes"
                raise UserError("a key is not plain text", where=f"{where} line {line}", fix=fix)
            if key.value in seen:
                line = key.start_mark.line + 1
                raise UserError(f"the key {key.value!r} stands twice", where=f"{where} line {line}", fix="keep one")
            seen.add(key.value)
            children.append(value)
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


def read_yaml(path: Path) -> tuple[Any, Lines]:
    """The document and where its keys stand. Raises UserError for anything that is not one plain YAML document."""
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
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None, Lines(None)
        _expanded_size(root, {}, where)
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
