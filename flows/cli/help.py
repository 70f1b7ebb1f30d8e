"""What ``--help`` shows: plain text of at most 80 columns, in groups, with nothing cut off."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from typing import Any

from typer.core import TyperCommand, TyperGroup

from augmill.flows.cli.terminal import WIDTH
from augmill.flows.terminal import COLOURS, is_coloured

GROUPS = {
    "Make": ("init", "check", "run", "judge", "compare"),
    "Look": ("status", "releases", "show", "diff", "path", "explain", "audit", "verify"),
    "Operate": ("nightly", "backfill", "rollback", "tag", "gc", "forget"),
    "Set up": ("doctor", "deploy", "serve", "schema"),
}
NAMES = 24  # columns of names at most, before their texts
LEAST = 40  # columns of the narrowest page


class Command(TyperCommand):
    """A command whose options may stand in panels (``rich_help_panel``)."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(_page(self, ctx, {}))

    def get_short_help_str(self, limit: int = 0) -> str:
        """Whole, whatever ``limit`` says: what a shell shows beside a completion."""
        return _summary(self)


class Commands(TyperGroup):
    """The commands by ``GROUPS``. One that no group names stands under Other."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        known = [name for names in GROUPS.values() for name in names]
        groups = GROUPS | {"Other": tuple(name for name in self.commands if name not in known)}
        tables = {
            group: [(name, _summary(self.commands[name])) for name in names if name in self.commands]
            for group, names in groups.items()
        }
        formatter.write(_page(self, ctx, tables))


def _page(command: Any, ctx: Any, tables: dict[str, list[tuple[str, str]]]) -> str:
    """Usage, what the command does, ``tables``, arguments, and options by panel."""
    width = max(LEAST, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))
    pieces = [piece.strip("{}") for piece in command.collect_usage_pieces(ctx)]  # typer puts what is required in braces
    lines = _filled(" ".join(pieces), f"Usage: {ctx.command_path} ", width)
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        lines += ["", *textwrap.wrap(" ".join(paragraph.split()), width, break_on_hyphens=False)]
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": []}
    options = []
    for parameter in command.get_params(ctx):
        if (record := parameter.get_help_record(ctx)) is None:
            continue
        row = _name(parameter, record[0]), record[1]
        if parameter.param_type_name == "argument":
            panels["Arguments"].append(row)
        elif parameter.rich_help_panel:
            panels.setdefault(parameter.rich_help_panel, []).append(row)
        else:
            options.append(row)
    indent = max((len(name) for rows in tables.values() for name, _ in rows), default=0)
    for title, rows in (tables | panels | {"Options": options}).items():
        lines += ["", _heading(f"{title}:"), *_table(rows, width, indent if title in tables else 0)] if rows else []
    return "\n".join(lines) + "\n"


def _name(parameter: Any, told: str) -> str:
    """``--max-active N``; typer itself tells the type in Python's words, <int>."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    plain, _, _ = told.partition(" ")
    if plain == told:  # a flag
        return told
    usual = {"int": "N", "float": "NUMBER"}.get(told.rsplit("<", 1)[-1].rstrip(">"), plain.lstrip("-").upper())
    return f"{plain} {parameter.metavar or usual}"


def _heading(text: str) -> str:
    return f"\x1b[{COLOURS['bold']}m{text}\x1b[0m" if is_coloured() else text


def _summary(command: Any) -> str:
    """The first paragraph of a command's help."""
    return " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())


def _table(rows: list[tuple[str, str]], width: int, least: int) -> list[str]:
    """Names of ``least`` columns or more, and their texts beside them; a long name has a line of its own."""
    indent = min(NAMES, max(least, *(len(name) for name, _ in rows))) + 4
    lines = []
    for name, text in rows:
        first = f"  {name}".ljust(indent)
        if len(name) + 4 > indent:
            lines.append(first)
            first = " " * indent
        lines += _filled(text, first, width)
    return lines


def _filled(text: str, first: str, width: int) -> list[str]:
    """``text`` behind ``first``, wrapped between words and never within one."""
    indent = " " * len(first)
    lines = textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return lines or [first.rstrip()]
