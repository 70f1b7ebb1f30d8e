"""A sequence-to-sequence model as it is: read, kept in a fit artifact, asked to rewrite texts (paraphrase, translate)."""

from __future__ import annotations

import importlib.util
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import STRATUM, Context, Fitted, Request
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.generators._parents import Parents, changed_fields, draw_fields
from augmill.tasks.generators.lm.decode import Precision, Sampling, lower
from augmill.tasks.generators.lm.encoder_decoder import Frame, Outcome, in_parts, pad_rows, require_time, sample, search
from augmill.tasks.generators.lm.losses import Example
from augmill.tasks.generators.lm.models import Kind, check_files, find_model, load_model, quiet
from augmill.tasks.rows.kinds.text import canonical
from augmill.tasks.rows.randomness import uniforms

# --- What a sample asks of a sequence-to-sequence model: targets for sources, parents rewritten; and pairs to ---------


Ints = npt.NDArray[np.int64]
Made = tuple[str | None, str | None]  # a text, or why there is none


@dataclass(frozen=True)
class Decoding:
    """How a target is found: by sampling where ``beams`` is 0, else by beams."""

    sampling: Sampling
    beams: int
    batch: int
    max_length: int


@dataclass(frozen=True)
class Task:
    """One call of ``sample``: how targets are found, on which device and by when, for whom."""

    decoding: Decoding
    ctx: Context
    who: str

    def sampled(
        self,
        model: Any,
        frame: Frame,
        sources: list[list[int]],
        marks: list[tuple[int, ...]],
        seeds: Ints,
        stream: int,
        steps: int,
    ) -> list[Outcome]:
        """A target of at most ``steps`` tokens per source (``marks``: see ``sample``), by its own seed's ``stream``."""
        ask, most = require_time(self.ctx, self.who), longest(model, self.decoding.max_length)

        def draw(part: list[int]) -> list[Outcome]:
            lines = pad_rows([sources[at] for at in part], most)
            noise = uniforms(seeds[part], steps, stream=stream)
            return sample(model, lines, [marks[at] for at in part], noise, frame, self.decoding.sampling, ask)

        drawn = in_parts(sources, draw, self.decoding.batch, most, self.ctx, self.who)
        self._count(sum(steps if row is None else len(row) + 1 for row in drawn))
        return drawn

    def searched(
        self, model: Any, frame: Frame, end: int, sources: list[list[int]], seeds: Ints, stream: int, steps: int
    ) -> list[Outcome]:
        """As ``sampled``, by beams: a source is searched once, and the seed picks one of its beams. ``end``: the mark."""
        ask, most = require_time(self.ctx, self.who), longest(model, self.decoding.max_length)
        places = {source: at for at, source in enumerate(dict.fromkeys(map(tuple, sources)))}
        distinct, beams = list(places), self.decoding.beams

        def hunt(part: list[int]) -> list[list[list[int]]]:
            return search(model, pad_rows([distinct[at] for at in part], most), steps, beams, frame, end, ask)

        found = in_parts(distinct, hunt, max(1, self.decoding.batch // beams), most, self.ctx, self.who)
        self._count(sum(len(row) + 1 for rows in found for row in rows))
        picks = uniforms(seeds, 1, stream=stream)[:, 0].tolist()
        chosen = [found[places[tuple(source)]] for source in sources]
        return [rows[int(pick * len(rows))] if rows else None for rows, pick in zip(chosen, picks, strict=True)]

    def _count(self, tokens: int) -> None:
        self.ctx.usage["tokens"] = self.ctx.usage.get("tokens", 0) + tokens


def check_decoding(options: Any, bounds: dict[str, tuple[float, float]]) -> None:
    """Raises ValueError where a number of the options is out of bounds: those given, and those of the decoding."""
    bounds = bounds | {
        "max_length": (4, 1 << 20), "beams": (0, 64), "temperature": (0.01, 10), "top_k": (1, 1 << 20),
        "top_p": (0.01, 1), "min_p": (0, 1), "repetition_penalty": (1, 10), "decode_batch": (1, 65536),
    }  # fmt: skip
    for name, (low, high) in bounds.items():
        value = getattr(options, name)
        if not low <= value <= high:  # also refuses NaN
            raise ValueError(f"{name}: expected a number from {low} to {high}; found {value}")


def rewrite_parents(
    parents: Parents,
    request: Request,
    change: str,
    rewrite: Callable[[list[str], list[int], int], list[Made]],
    fields: tuple[str, ...],
) -> list[tuple[list[str] | None, str | None]]:
    """(texts, None) or (None, reason) per requested row: its parent, the chosen texts rewritten.

    ``rewrite(texts, places, field)``: a text, or why there is none, for each of ``texts``, asked for the rows at
    ``places``; ``field``: which of the text columns they are of.
    """
    rows, numbers = parents.draw(request).tolist(), uniforms(request.seeds, 2)[:, 1].tolist()
    allowed = changed_fields(change, fields, "change")
    kept: list[list[str] | None] = []
    jobs: defaultdict[int, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        texts = [canonical(parents.table[name][row].as_py() or "") for name in fields] if row >= 0 else None
        kept.append(texts)
        for name in draw_fields(change, allowed, texts, numbers[at]) if texts else []:
            jobs[name].append(at)
    made = [list(texts) if texts else None for texts in kept]
    reasons: list[str | None] = ["no_parent" if texts is None else None for texts in kept]
    for name, ats in jobs.items():
        for at, (text, why) in zip(ats, rewrite([(kept[at] or [])[name] for at in ats], ats, name), strict=True):
            reasons[at] = reasons[at] or why
            if text is not None:
                (made[at] or [""] * len(fields))[name] = text
    for at, texts in enumerate(made):
        reasons[at] = reasons[at] or ("unchanged" if texts == kept[at] else None)
    return [(None if why else texts, why) for texts, why in zip(made, reasons, strict=True)]


class Pairs:
    """What a paraphrase model learns from where it is asked to: a row, said as another row of its class."""

    def __init__(self, rows: pa.Table, rewriter: Rewriter, bound: int, fields: tuple[str, ...], change: str) -> None:
        forced = rewriter.frame.start[1:]
        self.groups: list[list[Example]] = []  # (source, target) of the rows that may stand for each other
        for at in changed_fields(change, fields, "seq2seq"):
            found: dict[str, list[Example]] = {}
            for stratum, text in zip(rows[STRATUM].to_pylist(), rows[fields[at]].to_pylist(), strict=True):
                source, target = rewriter.encode(text or ""), rewriter.encode_target(text or "")
                if (text or "").strip() and max(len(source), len(target) + len(forced) + 1) <= bound:
                    found.setdefault(stratum, []).append((source, target))
            self.groups += [group for group in found.values() if len(group) > 1]
        self.count = sum(map(len, self.groups))
        if not self.count:
            raise DataError(
                f"expected a class with two train rows of at most {bound} tokens, found none",
                where="seq2seq",
                fix="raise `max_length`, or leave `epochs` at 0",
            )

    def draw(self, rng: np.random.Generator) -> list[Example]:
        """Every row once, with another one of its class."""
        out = []
        for group in self.groups:
            steps = rng.integers(1, len(group), len(group)).tolist()
            out += [
                (row[0], group[(at + step) % len(group)][1])
                for at, (row, step) in enumerate(zip(group, steps, strict=True))
            ]
        return out


# --- The model that rewrites ------------------------------------------------------------------------------------------


# What a save_pretrained adds that says where or with what it was saved, and nothing of the model.
_NOT_THE_MODEL = ("transformers_version", "_from_model_config", "is_local", "local_files_only", "name_or_path")
_SENTENCEPIECE = ("*.spm", "*.model")  # vocabularies that only the package sentencepiece can read


@dataclass(frozen=True)
class Source:
    """What the recipe says about where a model comes from."""

    model: str
    revision: str
    trust_remote_code: bool
    allow_pickle: bool
    others: str = ""  # what else the option may say, for the message
    kind: Kind = "seq2seq"

    def find(self) -> Path:
        """Its local directory. Raises UserError where there is none, WorldError where the hub cannot be reached."""
        return find_model(
            self.model,
            self.revision,
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
            others=self.others,
        )

    def preflight(self) -> None:
        """Raises UserError where a local directory lacks what a model needs; a hub is not asked."""
        if Path(self.model).expanduser().exists() or not self.revision:
            path = self.find()
            check_files(path, self.allow_pickle)
            require_sentencepiece(path)

    def load(self) -> tuple[Any, Any]:
        """(model in float32 on the CPU, tokenizer). Raises UserError where it cannot be loaded."""
        path = self.find()
        check_files(path, self.allow_pickle)
        require_sentencepiece(path)
        return load_model(path, self.kind, trust_remote_code=self.trust_remote_code, allow_pickle=self.allow_pickle)


def require_sentencepiece(path: Path) -> None:
    """Raises UserError where a tokenizer can only be read by the package sentencepiece, and that is not there."""
    if (path / "tokenizer.json").is_file() or importlib.util.find_spec("sentencepiece"):
        return
    found = sorted(file.name for pattern in _SENTENCEPIECE for file in path.glob(pattern))
    if found:
        raise UserError(
            f"the tokenizer is a SentencePiece model ({', '.join(found)}), and the package sentencepiece is not installed",
            where=f"model {path}",
            fix="pip install sentencepiece",
        )


def save_pretrained(model: Any, tokenizer: Any, directory: Path) -> list[Path]:
    """Writes both; the same model makes the same bytes, wherever it came from. ``tokenizer``: None to leave it out."""
    model.save_pretrained(directory, max_shard_size="1000GB")
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            config = json.loads((directory / name).read_text(encoding="utf-8"))
            kept = {key: value for key, value in config.items() if key not in _NOT_THE_MODEL}
            (directory / name).write_text(json.dumps(kept, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    return sorted(path for path in directory.rglob("*") if path.is_file())


def load_saved(
    fitted: Fitted, folder: str, device: str, *, trust_remote_code: bool, precision: Precision
) -> tuple[Any, Any]:
    """(model on ``device`` as it decodes, tokenizer) of a fit artifact's folder; loaded once per process."""

    def load() -> tuple[Any, Any]:
        with quiet():
            model, tokenizer = load_model(
                fitted.path / folder, "seq2seq", trust_remote_code=trust_remote_code, allow_pickle=False
            )
        return lower(model.to(device).eval(), precision), tokenizer

    return fitted.get(f"seq2seq:{folder}:{device}:{precision}", load)


def decoder_start(model: Any, tokenizer: Any) -> int:
    """The token a decoder begins with: as the model says, else padding (T5's own)."""
    for config in (model.generation_config, model.config):
        value = getattr(config, "decoder_start_token_id", None)
        if value is not None:
            return int(value)
    return int(tokenizer.pad_token_id)


def longest(model: Any, bound: int) -> int:
    """Tokens that a source or a target may have: the option's bound, or the model's where that is less."""
    positions = getattr(model.config, "max_position_embeddings", None)
    return min(bound, positions or bound)


class Rewriter:
    """One model with its tokenizer, and the languages it reads and writes where it knows several.

    ``language`` in a code of the model's own: `en` for M2M100, `eng_Latn` for NLLB, `en_XX` for mBART, `fra` for a
    Marian model whose sources begin with `>>fra<<`. ``prefix`` stands before every text.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, prefix: str = "", source: str = "", target: str = "", where: str = ""
    ) -> None:
        self.model, self.tokenizer, self.prefix = model, tokenizer, prefix
        self.source, forced = "", getattr(model.generation_config, "forced_bos_token_id", None)
        if forced is None and tokenizer("x").input_ids[0] == tokenizer.bos_token_id:
            forced = tokenizer.bos_token_id  # BART's targets begin as its sources do
        if hasattr(tokenizer, "src_lang") or getattr(model.config, "model_type", "") == "m2m_100":
            if not (source and target):
                raise UserError(
                    "this model knows many languages, so it needs two language codes",
                    where=where,
                    fix="set `language` (of the rows) and the pivot's `language`, as the model's tokenizer spells them",
                )
            self.source = source
            _language_token(tokenizer, source, where)
            forced = _language_token(tokenizer, target, where)
        elif target and f">>{target}<<" in getattr(tokenizer, "supported_language_codes", []):
            self.prefix = f">>{target}<< {prefix}"
        start = [decoder_start(model, tokenizer), *([] if forced is None else [forced])]
        self.end: int = tokenizer.eos_token_id
        vocabulary = model.get_output_embeddings().weight.shape[0]
        nobody = range(len(tokenizer), vocabulary)  # places of the embeddings that no token has
        banned = sorted({*tokenizer.all_special_ids, *nobody})
        self.frame = Frame(tuple(start), tuple(index for index in banned if 0 <= index < vocabulary))

    def encode(self, text: str) -> list[int]:
        if self.source:
            self.tokenizer.src_lang = self.source
        ids: list[int] = self.tokenizer(self.prefix + text).input_ids
        return ids

    def encode_target(self, text: str) -> list[int]:
        """What is to be said for a text that should come out: its tokens after those that are forced, and the end."""
        ids: list[int] = self.tokenizer(text).input_ids
        forced = list(self.frame.start[1:])
        return ids[len(forced) :] if ids[: len(forced)] == forced else ids

    def bound(self, decoding: Decoding) -> int:
        """Tokens that a source may have."""
        return longest(self.model, decoding.max_length)

    def rewrite(self, texts: Sequence[str], seeds: Ints, stream: int, task: Task) -> list[Made]:
        """(text, None) or (None, reason) for each: ``too_long``, ``empty``, ``undecodable``; see ``Task``."""
        known = {text: self.encode(text) for text in dict.fromkeys(texts)}
        bound = self.bound(task.decoding)
        fit = [at for at, text in enumerate(texts) if len(known[text]) <= bound]
        outcomes: list[Outcome] = [None] * len(texts)
        steps = bound - len(self.frame.start)
        sources = [known[texts[at]] for at in fit]
        own = (seeds[fit], stream, steps)
        if task.decoding.beams:
            made = task.searched(self.model, self.frame, self.end, sources, *own)
        else:
            made = task.sampled(self.model, self.frame, sources, [(self.end,)] * len(fit), *own)
        for at, tokens in zip(fit, made, strict=True):
            outcomes[at] = tokens
        return [self._read(tokens) for tokens in outcomes]

    def _read(self, tokens: Outcome) -> Made:
        if tokens is None:
            return None, "too_long"
        text = canonical(self.tokenizer.decode(tokens, skip_special_tokens=True))
        if "\ufffd" in text:  # what a decoder puts where bytes are no UTF-8
            return None, "undecodable"
        return (text, None) if text else (None, "empty")


def _language_token(tokenizer: Any, code: str, where: str) -> int:
    """The id of the token for a language: `__en__` of M2M100, `eng_Latn` of NLLB, `en_XX` of mBART."""
    known = getattr(tokenizer, "lang_code_to_token", None) or {}
    token = known.get(code, code) if isinstance(known, dict) else code
    index = tokenizer.convert_tokens_to_ids(token)
    if index is None or index == tokenizer.unk_token_id:
        some = ", ".join(sorted(known)[:8])
        raise UserError(
            f"the model's tokenizer knows no language {code!r}" + (f"; it knows {some}, ..." if some else ""),
            where=where,
            fix="spell it as the model's page on the hub does",
        )
    return int(index)
