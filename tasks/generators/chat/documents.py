"""Passages of the user's documents, and whether an answer stands in the words that it names of one."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pyarrow as pa

from augmill.tasks.contracts import Context, Fitted
from augmill.tasks.errors import UserError
from augmill.tasks.rows.kinds.text import canonical, words
from augmill.tasks.rows.kinds.whole import read_arrow, write_arrow

DOCUMENTS = "documents.arrow"
ENDINGS = (".txt", ".md")
PASSAGE = 2000  # characters of one, at most
MOST_BYTES, MOST_PASSAGES = 64 << 20, 20_000  # of all documents; of more passages those with the smallest hashes
SHARED = 0.5  # of an answer's words, at least, stand in the words that it names


def write_passages(path: str, ctx: Context) -> dict[str, Path]:
    """``documents.arrow``: name and passage. Raises UserError where there is no text to be read."""
    root = Path(path)
    files = [root] if root.is_file() else sorted(each for each in root.rglob("*") if each.suffix.lower() in ENDINGS)
    files = [each for each in files if each.is_file()]
    if not files:
        raise UserError(
            "there is no text file", where=f"chat, documents: {path}", fix=f"name {' or '.join(ENDINGS)} files"
        )
    if sum(each.stat().st_size for each in files) > MOST_BYTES:
        raise UserError(f"they are more than {MOST_BYTES >> 20} MiB", where="chat, documents", fix="name fewer files")
    rows = [(name, passage) for name, text in _read(files, root) for passage in passages(text)]
    if not rows:
        raise UserError("the files hold no text", where=f"chat, documents: {path}", fix="name files with text in them")
    rows.sort(key=lambda row: hashlib.sha256("\x1f".join(row).encode()).digest())
    names, texts = zip(*rows[:MOST_PASSAGES], strict=True)
    table = pa.table({"document": list(names), "passage": list(texts)})
    return {DOCUMENTS: write_arrow(table, ctx.workdir / DOCUMENTS)}


def _read(files: list[Path], root: Path) -> list[tuple[str, str]]:
    found = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            problem = f"{file.name} is no UTF-8 at byte {error.start}"
            raise UserError(problem, where="chat, documents", fix="write it as UTF-8, or leave it out") from error
        found.append((file.relative_to(root).as_posix() if file != root else file.name, text))
    return found


def passages(text: str) -> list[str]:
    """Paragraphs together, up to ``PASSAGE`` characters; a longer one is cut between sentences, or else between words."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        for piece in _pieces(canonical(paragraph)):
            if piece and found and len(found[-1]) + 2 + len(piece) <= PASSAGE:
                found[-1] += f"\n\n{piece}"
            elif piece:
                found.append(piece)
    return found


def _pieces(paragraph: str) -> list[str]:
    pieces: list[str] = []
    while len(paragraph) > PASSAGE:
        ends = [end.end() for end in re.finditer(r"[.!?]\s|[。！？]|\s", paragraph[:PASSAGE])]
        sentences = [end for end in ends if paragraph[end - 1] in "。！？" or paragraph[max(end - 2, 0)] in ".!?"]
        at = max(sentences or ends or [PASSAGE])
        pieces.append(paragraph[:at].strip())
        paragraph = paragraph[at:].strip()
    return [*pieces, paragraph]


def load_passages(fitted: Fitted) -> list[str]:
    found: list[str] = read_arrow(fitted.path / DOCUMENTS)["passage"].to_pylist()
    return found


def ungrounded(answer: str, span: str, passage: str) -> str | None:
    """Why an answer does not stand in the passage: ``span_not_in_document`` (its span is not there word for word),

    ``answer_not_in_span`` (fewer than ``SHARED`` of its words are in the span, or a number is not); None where it does.
    """
    if not stands_in(span, passage):
        return "span_not_in_document"
    own, named = words(answer), set(words(span))
    lost = [word for word in own if word not in named]
    numbers = any(map(str.isdigit, "".join(lost)))
    return "answer_not_in_span" if numbers or len(lost) > (1 - SHARED) * len(own) else None


def stands_in(span: str, passage: str) -> bool:
    """Word for word: letter for letter but for white space, and from one word's start to another's end."""
    wanted, whole = canonical(span), canonical(passage)
    if not wanted:
        return False
    at = whole.find(wanted)
    while at >= 0:
        before, after = whole[max(at - 1, 0) : at], whole[at + len(wanted) : at + len(wanted) + 1]
        if _apart(before, wanted[0]) and _apart(wanted[-1], after):
            return True
        at = whole.find(wanted, at + 1)
    return False


def _apart(one: str, other: str) -> bool:
    """Whether a word may end between these characters: of Chinese and Japanese it may anywhere."""
    return not (one.isalnum() and other.isalnum()) or len(words(one + other)) > 1
