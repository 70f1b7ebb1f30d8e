"""Every kind keeps the laws of kinds; a kind that breaks one is told which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from drawn_pictures import drawn, photos, saved
from drawn_sounds import file_of, sounds, wav, word
from drawn_tables import tables
from hypothesis import given, settings

from augmill.tasks.contracts import Kind
from augmill.tasks.rows.kinds import KINDS
from augmill.tasks.rows.kinds.audio import Audio, encode
from augmill.tasks.rows.kinds.dialogue import Dialogue
from augmill.tasks.rows.kinds.image import Image
from augmill.tasks.rows.kinds.items import ITEMS, Items
from augmill.tasks.rows.kinds.table import Table
from augmill.tasks.rows.kinds.text import Text
from augmill.testing.kinds import KIND_LAWS, Law, kind_laws

TEXTS = [
    "where is my new card",
    "Where is my new card?",
    "where is my new card now",
    "my card was lost",
    "!!",
    "",
    "カードはどこですか",
    "where is my new card",
]
PAIRS = {"text": TEXTS, "text_b": [*TEXTS[1:4], *TEXTS[1:4], "b", "where is my new card now"]}
NUMBERS = pa.array([39.0, 39.0000001, None, -0.0, 0.0, 1e308, -2.5, 39.0])
JOBS = pa.array(["Sales", "sales", None, "Tech-support", "Sales", "?!", "Ｓales", "Sales"])
MOMENTS = pa.array([0, 999_999, None, -1, 1_700_000_000_000_000, 0, 1, 0], pa.int64()).view(
    pa.timestamp("us", tz="UTC")
)
# Equal: as WAV and FLAC; near: quieter, and as MP3; else of its own.
SOUNDS = [
    wav(word(1)),
    encode(word(1), 8000, "FLAC"),
    wav(word(2)),
    wav(word(1) * np.float32(0.5)),
    file_of(word(2), 8000, "MP3"),
    wav(word(3)),
    wav(word(1)),
    b"no sound at all",
]
# Equal: as two files of one picture; near: as JPEG, and mirrored; flat ones, and none at all.
PICTURES = [
    saved(drawn(1), "PNG"),
    saved(drawn(1), "PNG", compress_level=1),
    saved(drawn(1), "JPEG", quality=70),
    saved(drawn(1)[:, ::-1], "PNG"),
    saved(drawn(2), "WEBP"),
    saved(drawn(3)[..., 0], "PNG"),
    saved(drawn(1) // 255, "PNG"),
    None,
]
# Equal: but for case and punctuation; near: with a word more; the same words by others; none at all.
DIALOGUES = [
    [("system", "Be kind."), ("user", "where is my new card"), ("assistant", "On its way."), ("user", "since when?")],
    [("system", "be kind"), ("user", "Where is my new card?"), ("assistant", "on its way"), ("user", "since when")],
    [("system", "be kind"), ("user", "Where is my new card?"), ("assistant", "on its way"), ("user", "since when now")],
    [("user", "where is my new card"), ("assistant", "where is my new card")],
    [("user", "カードはどこですか")],
    [("user", "!!")],
    None,
    [("system", "Be kind."), ("user", "where is my new card"), ("assistant", "On its way."), ("user", "since when?")],
]


def dialogues(rows: list[Any]) -> pa.Array:
    made = [turns and [{"role": role, "content": content} for role, content in turns] for turns in rows]
    return pa.array(made, Dialogue().arrow("dialogue"))


# Equal; the same in another order; one more, one less; nothing in common; none at all.
SEEN = [["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "e"], ["b", "a", "c", "d", "e"], ["a", "b", "c", "d", "e", "é"]]
SEEN += [["a", "b", "c", "d"], ["x", "x", "y"], None, ["1", "23"], ["12", "3"]]
HISTORIES = pa.array(SEEN, ITEMS)
EXAMPLES: dict[str, tuple[Kind, list[pa.Table]]] = {
    "image": (Image(), [photos(PICTURES), photos(PICTURES, [*PICTURES[:2], *PICTURES[1:7]])]),
    "text": (Text(), [pa.table({"text": TEXTS}), pa.table(PAIRS)]),
    "table": (
        Table(),
        [
            pa.table({"number:age": NUMBERS, "category:job": JOBS, "timestamp:hired": MOMENTS}),
            pa.table({"number:age": pa.nulls(8, pa.float64())}),
            pa.table({"category:job": JOBS}),
        ],
    ),
    "dialogue": (
        Dialogue(),
        [
            pa.table({"dialogue:messages": dialogues(DIALOGUES)}),
            pa.table({"dialogue:a": dialogues(DIALOGUES), "dialogue:b": dialogues(DIALOGUES[::-1])}),
        ],
    ),
    "items": (
        Items(),
        [
            pa.table({"items:seen": HISTORIES}),
            pa.table({"items:seen": HISTORIES, "items:bought": pa.array([*SEEN[5:], *SEEN[:5]], ITEMS)}),
        ],
    ),
    "audio": (
        Audio(),
        [
            sounds(SOUNDS),
            sounds(SOUNDS[:7]).append_column("audio:reply", sounds([*SOUNDS[2:6], *SOUNDS[:3]])["audio:clip"]),
        ],
    ),
}


def test_every_kind_has_examples() -> None:
    assert {kind.name for kind in KINDS.values()} == set(EXAMPLES)


@pytest.mark.parametrize("law", KIND_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_kind_keeps_the_law(name: str, law: Law) -> None:
    kind, examples = EXAMPLES[name]
    for table in examples:
        for part in (table, table.slice(0, 1), table.slice(0, 0)):
            law(kind, part)


@given(tables())
@settings(max_examples=60)
def test_tables_keep_all_laws_whatever_stands_in_them(table: pa.Table) -> None:
    kind_laws(Table(), [_as_read(table)])


@given(tables(names=("text", "text_b"), most=8))
@settings(max_examples=25)
def test_texts_keep_all_laws_whatever_stands_in_them(table: pa.Table) -> None:
    kind_laws(Text(), [table])


def _as_read(table: pa.Table) -> pa.Table:
    """Blanks at the ends of categories are gone once they are read."""
    stripped = {
        name: pa.array([text and text.strip() for text in table[name].to_pylist()], pa.string())
        for name in table.column_names
        if name.startswith("category:")
    }
    return pa.table({name: stripped.get(name, table[name]) for name in table.column_names})


class Forgetful(Table):
    """Rows are equal by their first column alone in ``id``, by all in ``equal``."""

    def id(self, columns: pa.Table) -> list[bytes]:
        return super().id(columns.select(columns.column_names[:1]))


def test_a_broken_kind_is_told_which_law_it_breaks() -> None:
    rows = pa.table({"number:a": [1.0, 1.0], "number:b": [1.0, 2.0]})
    with pytest.raises(AssertionError, match="table: what_has_one_id_is_equal: rows with one id are not equal"):
        kind_laws(Forgetful(), [rows])
