"""Rows that an instruct model writes, several per call: it is told the task, the label's definition and some real rows.

In-context data generation (Ye et al., "ZeroGen", EMNLP 2022; Yoo et al., "GPT3Mix", EMNLP Findings 2021), with axes
such as length, style and topic drawn for every call: AttrPrompt (Yu et al., "Large Language Model as Attributed Training
Data Generator", NeurIPS 2023), whose point is that rows differ. What comes back is parsed and validated, never trusted.

A call is of one class and ``rows_per_call`` ordinals in a row; its seed is a function of the fit artifact, the recipe's
seed, the class and its number, so that whoever needs one of its rows makes the same call. Answers are kept in the scratch
space: a call is paid once.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import ROW_ID, STRATUM, TARGET, Context, FitInputs, Fitted, Generator, Ints, Request
from augmill.tasks.errors import UserError
from augmill.tasks.generators._parents import answer, keep_targets, load_targets, sort_parents
from augmill.tasks.generators.chat.backend import Backend, ModelCall, keep_answers
from augmill.tasks.generators.chat.documents import load_passages, write_passages
from augmill.tasks.generators.chat.examples import EXAMPLES, Examples, write_examples
from augmill.tasks.generators.chat.local import (
    load_chat,
    load_vllm,
    local_backend,
    locate,
    require_files,
    require_vllm,
    vllm_backend,
)
from augmill.tasks.generators.chat.options import ChatOptions
from augmill.tasks.generators.chat.pairs import PairPrompt, as_told, is_dialogue, make_pair_prompt, read_pairs
from augmill.tasks.generators.chat.prompts import Prompt, make_prompt, read_answer
from augmill.tasks.rows.kinds import candidate_schema
from augmill.tasks.rows.randomness import row_seeds, stream_key, uniforms

PLAN = "chat.json"
ROWS_STREAM, AXES_STREAM, PASSAGES_STREAM = 1, 2, 3
Block = tuple[str, int]  # a class and the number of a call in it


class Chat(Generator):
    """The real rows that a prompt shows are the parents of its rows: a row is removed with any of them, or erased with it.

    It must differ from each in more than case and punctuation. Rows are not repeatable, because an endpoint promises
    nothing: the first answer that was kept counts. `local` on a CPU is repeatable all the same.
    """

    VERSION = 2
    Options = ChatOptions
    repeatable: ClassVar[bool] = False
    finite: ClassVar[bool] = False
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    normalisation: ClassVar[str] = "fold"
    kinds: ClassVar[tuple[str, ...]] = ("text", "dialogue")
    problems: ClassVar[tuple[str, ...]] = ("classification", "text_to_text")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "scikit-learn")

    def preflight(self, fields: tuple[str, ...]) -> None:
        """The columns to show, a local model's files, vLLM where it is asked for; of an endpoint what may be sent."""
        options: ChatOptions = self.options
        _shown_fields(options, (*fields, TARGET))  # whether there is one is known at the fit
        if options.backend == "endpoint":
            from augmill.tasks.generators.chat.endpoint import check_endpoint  # asyncio, which others need not wait for

            check_endpoint(options)
            return
        if options.backend == "vllm":
            require_vllm()
        if Path(options.model).expanduser().exists() or not options.revision:
            require_files(locate(options), options.allow_pickle)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes ``examples.arrow`` (the rows that prompts may show, without columns that may not be sent) and

        ``chat.json``. Raises UserError where the options name a column, a label or a model that is not there.
        """
        options: ChatOptions = self.options
        if options.backend != "endpoint":
            require_files(locate(options), options.allow_pickle)
        shown = _shown_fields(options, (*ctx.fields, TARGET) if ctx.target is not None else ctx.fields)
        if ctx.target is not None:
            return self._fit_pairs(inputs, shown, ctx)
        labels = sorted(set(inputs.train[STRATUM].to_pylist()))
        if unknown := sorted(set(options.definitions) - set(labels)):
            problem = f"expected labels of train rows; found {', '.join(map(repr, unknown[:5]))}"
            raise UserError(
                problem, where="chat, definitions", fix=f"known labels: {', '.join(map(repr, labels[:20]))}"
            )
        _require_texts(options, ctx.fields)
        path = write_examples(sort_parents(inputs.train, ctx.fields), shown, options, ctx)
        return {EXAMPLES: path, PLAN: _write_plan(labels, options, ctx)}

    def _fit_pairs(self, inputs: FitInputs, shown: tuple[str, ...], ctx: Context) -> dict[str, Path]:
        """Of texts to be answered: the same, with answers where they may be sent; passages; and answers that are kept."""
        options: ChatOptions = self.options
        if options.write == "questions" and not (set(shown) & set(ctx.fields) and options.examples):
            problem = "a question is put in other words by whoever is shown it; no real row may be shown"
            raise UserError(problem, where="chat, write", fix="set `write: rows`, or let rows be shown")
        labels = sorted(set(inputs.train[STRATUM].to_pylist()))
        told = as_told(sort_parents(inputs.train, (*ctx.fields, TARGET)), ctx.fields)
        files = {EXAMPLES: write_examples(told, shown, options, ctx), PLAN: _write_plan(labels, options, ctx)}
        if options.documents is not None:
            files |= write_passages(options.documents, ctx)
        return files | (keep_targets(inputs.train, ctx) if options.write == "questions" else {})

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """Rows that cannot be made: ``unknown_class`` (not in train), the backend's reason for a call without an answer,

        or the reader's for a row that is none (_chat_parse.py). Raises what the backend raises.
        """
        options: ChatOptions = self.options
        plan = fitted.read_json(PLAN)
        blocks: defaultdict[Block, list[int]] = defaultdict(list)
        known = set(plan["labels"])
        for at, (stratum, ordinal) in enumerate(zip(request.strata, request.ordinals.tolist(), strict=True)):
            if stratum in known:
                blocks[stratum, ordinal // options.rows_per_call].append(at)
        if ctx.target is not None:
            return self._sample_pairs(fitted, request, blocks, ctx)
        made = [self._make_call(fitted, block, ctx) for block in blocks]
        answers = self._backend(fitted, ctx)([call for call, _ in made], ctx) if made else []
        texts: list[list[str] | None] = [None] * len(request)
        reasons: list[str | None] = ["unknown_class"] * len(request)
        parents: list[tuple[str, ...]] = [()] * len(request)
        for ats, (_, prompt), given in zip(blocks.values(), made, answers, strict=True):
            rows = None if given.text is None else read_answer(given.text, prompt.bounds)
            for name, count in (("calls", 1), ("lenient", int(rows is not None and rows.lenient))):
                ctx.usage[name] = ctx.usage.get(name, 0) + count
            for at in ats:
                place = int(request.ordinals[at]) % options.rows_per_call
                texts[at], reasons[at] = (
                    (None, given.reason) if rows is None else (rows.texts[place], rows.reasons[place])
                )
                parents[at] = prompt.parents
        return answer(request, ctx.fields, texts, parents, reasons)

    def _sample_pairs(
        self, fitted: Fitted, request: Request, blocks: Mapping[Block, list[int]], ctx: Context
    ) -> pa.Table:
        made = [self._make_pair_call(fitted, block, ctx) for block in blocks]
        answers = self._backend(fitted, ctx)([call for call, _ in made], ctx) if made else []
        values: list[list[Any] | None] = [None] * len(request)
        targets: list[str | None] = [None] * len(request)
        reasons: list[str | None] = ["unknown_class"] * len(request)
        parents: list[tuple[str, ...]] = [()] * len(request)
        for ats, (_, prompt), given in zip(blocks.values(), made, answers, strict=True):
            found = None if given.text is None else read_pairs(given.text, prompt.bounds)
            for name, count in (("calls", 1), ("lenient", int(found is not None and found.lenient))):
                ctx.usage[name] = ctx.usage.get(name, 0) + count
            for at in ats:
                place = int(request.ordinals[at]) % self.options.rows_per_call
                pair, reasons[at] = (None, given.reason) if found is None else (found.rows[place], found.reasons[place])
                parents[at] = prompt.parents
                if pair is not None:
                    values[at], targets[at] = pair
        rows = answer(request, ctx.fields, values, parents, reasons)
        schema = candidate_schema(ctx.fields, ctx.target)
        return rows.append_column(TARGET, pa.array(targets, ctx.target)).select(schema.names).cast(schema)

    def _make_pair_call(self, fitted: Fitted, block: Block, ctx: Context) -> tuple[ModelCall, PairPrompt]:
        """As ``_make_call``; of a question that is put in other words the only real row is its parent."""
        options: ChatOptions = self.options
        anew = options.write == "questions"
        seed, drawn, values = self._draw(fitted, block, ctx)
        drawn = drawn[:1] if anew else drawn
        examples = fitted.get("examples", lambda: Examples(fitted))
        passage, kept = "", ""
        if options.documents is not None:
            passages = fitted.get("passages", lambda: load_passages(fitted))
            passage = passages[int(uniforms(seed, 1, stream=PASSAGES_STREAM)[0, 0] * len(passages))]
        if anew and drawn:
            kept = fitted.get("targets", lambda: load_targets(fitted))[drawn[0][ROW_ID]]
        shown = [{name: row[name] for name in (ROW_ID, *examples.fields)} for row in drawn]
        prompt = make_pair_prompt(options, ctx.fields, block[0], shown, values, passage, kept)
        return self._call(prompt.messages, seed, len(drawn)), prompt

    def _call(self, messages: tuple[dict[str, str], ...], seed: Ints, rows: int) -> ModelCall:
        options: ChatOptions = self.options
        short = int(seed[0]) & 0x7FFFFFFF
        return ModelCall(messages, options.max_new_tokens, options.temperature, options.top_p, short, rows)

    def _draw(self, fitted: Fitted, block: Block, ctx: Context) -> tuple[Ints, list[dict[str, Any]], dict[str, str]]:
        """(the call's seed, the real rows that it shows, its value of each axis): the block's alone."""
        options: ChatOptions = self.options
        stratum, number = block
        examples = fitted.get("examples", lambda: Examples(fitted))
        key = stream_key(fitted.content, ctx.seed, "chat", stratum)
        seed = row_seeds(key, np.array([number], dtype=np.int64))
        drawn = examples.draw(stratum, options.choice, uniforms(seed, options.examples, stream=ROWS_STREAM)[0])
        axes = sorted(options.attributes)
        numbers = uniforms(seed, len(axes), stream=AXES_STREAM)[0] if axes else []
        values = {
            axis: options.attributes[axis][int(number * len(options.attributes[axis]))]
            for axis, number in zip(axes, numbers, strict=True)
        }
        return seed, drawn, values

    def _make_call(self, fitted: Fitted, block: Block, ctx: Context) -> tuple[ModelCall, Prompt]:
        """The call is the block's alone: the part of it that was requested plays no part."""
        options: ChatOptions = self.options
        seed, drawn, values = self._draw(fitted, block, ctx)
        examples, stratum = fitted.get("examples", lambda: Examples(fitted)), block[0]
        labels = fitted.read_json(PLAN)["labels"]
        prompt = make_prompt(options, ctx.fields, labels, stratum, drawn, examples.fields, values)
        return self._call(prompt.messages, seed, len(drawn)), prompt

    def _backend(self, fitted: Fitted, ctx: Context) -> Backend:
        """Loaded models stay in the fit's cache: once per process."""
        options: ChatOptions = self.options
        if options.backend == "endpoint":
            from augmill.tasks.generators.chat.endpoint import endpoint_backend

            return endpoint_backend(options, fitted.content)
        if options.backend == "vllm":
            backend = vllm_backend(options, lambda: fitted.get("vllm", lambda: load_vllm(options)))
        else:
            backend = local_backend(
                options, lambda: fitted.get(f"chat:{ctx.device}", lambda: load_chat(options, ctx.device))
            )
        how = [options.backend, fitted.read_json(PLAN)["model"], options.top_k, options.dtype, ctx.device.split(":")[0]]
        return keep_answers(backend, json.dumps(how), 8 * options.decode_batch)


def _require_texts(options: ChatOptions, fields: tuple[str, ...]) -> None:
    """Raises UserError for what serves only texts to be answered."""
    problem = (
        "dialogues are written to be answered, not to be sorted into classes"
        if any(map(is_dialogue, fields))
        else "it serves texts to be answered, not classes"
        if options.documents is not None or options.write != "rows"
        else ""
    )
    if problem:
        raise UserError(
            problem, where="chat", fix="leave out `documents` and `write`, or learn a text (task: text_to_text)"
        )


def _write_plan(labels: list[str], options: ChatOptions, ctx: Context) -> Path:
    text = json.dumps({"labels": labels, "model": _fingerprint(options)}, sort_keys=True, ensure_ascii=False)
    (ctx.workdir / PLAN).write_text(text, encoding="utf-8")
    return ctx.workdir / PLAN


def _shown_fields(options: ChatOptions, fields: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that prompts may show: all, unless `egress` names some."""
    if options.egress is None:
        return fields
    if unknown := sorted(set(options.egress.columns) - set(fields)):
        problem = f"expected some of the text columns {', '.join(fields)}; found {', '.join(unknown)}"
        raise UserError(problem, where="chat, egress.columns", fix="use these names")
    return tuple(name for name in fields if name in options.egress.columns)


def _fingerprint(options: ChatOptions) -> str:
    """What tells models apart: of a hub id its commit, of a directory what its files hold, of a server's its name."""
    path = Path(options.model).expanduser()
    if options.backend == "endpoint" or not path.is_dir():
        return f"{options.model}@{options.revision}"
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts):
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{file.relative_to(path).as_posix()}\n{content}\n".encode())
    return digest.hexdigest()
