"""A column of dialogues as it is read: turns instead of their JSON text, and what the assistant says last apart from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from augmill.tasks.rows.kinds.dialogue import TURNS, as_turns, split_reply

from .options import Batch, Reader, SourceFile, SourceOptions

REPLY = "reply"  # the column of the last turns that the assistant has
_DERIVED = {b"derived": b"reply"}
_JSON_TEXT = {b"json": b"text"}  # how readers of texts know a column whose lists are wanted as JSON


def with_reply(names: Sequence[str], options: SourceOptions) -> list[str]:
    """The columns' names with that of the replies, where they are split off."""
    splits = options.dialogue in names and REPLY not in names
    return [*names, REPLY] if splits else list(names)


def split_schema(schema: pa.Schema, options: SourceOptions) -> pa.Schema:
    """The schema as batches have it. A source that has a column ``reply`` of its own keeps it, and dialogues stay whole."""
    if options.dialogue not in schema.names:
        return schema
    at = schema.get_field_index(options.dialogue)
    schema = schema.set(at, pa.field(options.dialogue, TURNS))
    return schema if REPLY in schema.names else schema.append(pa.field(REPLY, pa.string(), metadata=_DERIVED))


def is_split(schema: pa.Schema) -> bool:
    """Whether the column ``reply`` of batches of this schema is made of the dialogues."""
    return REPLY in schema.names and schema.field(REPLY).metadata == _DERIVED


def raw_schema(schema: pa.Schema, reader: Reader, file: SourceFile, options: SourceOptions) -> pa.Schema:
    """As the reader of this file is asked for it."""
    if options.dialogue not in schema.names:
        return schema
    field = pa.field(options.dialogue, pa.string(), metadata=_JSON_TEXT)
    if file.format not in ("csv", "jsonl", "webdataset"):  # those have texts; a footer says what others have
        own = reader.schema([file], replace(options, dialogue=None))
        field = own.field(options.dialogue) if options.dialogue in own.names else field
    schema = schema.set(schema.get_field_index(options.dialogue), field)
    return schema.remove(schema.get_field_index(REPLY)) if is_split(schema) else schema


def raw_names(names: Sequence[str], schema: pa.Schema, options: SourceOptions) -> list[str]:
    """The columns of the file that these are made of."""
    own = [str(options.dialogue) if is_split(schema) and name == REPLY else name for name in names]
    return list(dict.fromkeys(own))


def split_batches(
    batches: Iterator[Batch], schema: pa.Schema, names: Sequence[str], options: SourceOptions
) -> Iterator[Batch]:
    """The batches with these columns of ``schema``."""
    wanted = pa.schema([schema.field(name) for name in names])
    for batch in batches:
        table = batch.table
        columns: dict[str, Any] = dict(zip(table.column_names, table.columns, strict=True))
        if options.dialogue in columns:
            turns = [as_turns(value) for value in columns[options.dialogue].to_pylist()]
            if is_split(schema):
                parts = [split_reply(each) for each in turns]
                columns[REPLY] = pa.array([reply for _, reply in parts], pa.string())
                turns = [before for before, _ in parts]
            columns[options.dialogue] = pa.array(turns, TURNS)
        yield replace(batch, table=pa.table([columns[name] for name in wanted.names], schema=wanted))
