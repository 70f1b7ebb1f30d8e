"""Spans of a real row refilled, or a real row paraphrased.

`infill`: Kumar et al., "Data Augmentation using Pre-trained Transformer Models", LifeLongNLP 2020 (BART-span, the label
prepended), and the spans of T5 (Raffel et al., JMLR 2020); fine-tuned on the train rows. `paraphrase`: any model that
rewrites a text, as it is. A parent is a train row of the asked class, drawn by the row's seed.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import STRATUM, Context, FitInputs, Fitted, Generator, Request
from augmill.tasks.generators._edits import tell_scripts
from augmill.tasks.generators._parents import (
    Parents,
    answer,
    changed_fields,
    keep_targets,
    sort_parents,
    with_targets,
    write_parents,
)
from augmill.tasks.generators.lm.decode import Sampling, torch_threads
from augmill.tasks.generators.lm.encoder_decoder import require_time
from augmill.tasks.generators.lm.losses import pair_loss
from augmill.tasks.generators.lm.models import quiet
from augmill.tasks.generators.lm.rewriting import (
    Decoding,
    Made,
    Pairs,
    Rewriter,
    Source,
    Task,
    load_saved,
    rewrite_parents,
    save_pretrained,
)
from augmill.tasks.generators.lm.train import Draw, Loss, TrainingSchedule, train, watch
from augmill.tasks.generators.seq2seq.infill import (
    Infiller,
    SpanMasking,
    draw_examples,
    fill,
    fitting_rows,
    prepare,
    words_of,
)
from augmill.tasks.generators.seq2seq.options import SCRATCH, Seq2SeqOptions


class Seq2Seq(Generator):
    """An encoder-decoder model fills the spans or rewrites the row.

    Repeatable on a CPU, with the same libraries and the same kind of CPU: the fit for a given thread count
    (part of its identity), the rows at any thread count and batch, sampled or by beams. Not promised on a GPU.
    """

    VERSION = 4
    Options = Seq2SeqOptions
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = False
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    problems: ClassVar[tuple[str, ...]] = ("classification", "text_to_text")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers")

    def preflight(self, fields: tuple[str, ...]) -> None:
        """Looks for the text column, and for a model's files where its name is a local directory; a hub is not asked."""
        changed_fields(self.options.change, fields, "seq2seq")
        if source := _source(self.options):
            source.preflight()

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes the model with its tokenizer, parents.arrow and seq2seq.json (label tokens, bounds, losses).

        Raises UserError for a model that cannot be used, DataError where no row fits ``max_length``, WorldError where
        the hub cannot be reached, DeadlineExceeded past the deadline.
        """
        import torch

        options: Seq2SeqOptions = self.options
        seed = int.from_bytes(hashlib.sha256(f"seq2seq {ctx.seed}".encode()).digest()[:8], "little") >> 1
        gpus = [torch.device(ctx.device)] if ctx.device.startswith("cuda") else []
        with quiet(), torch_threads(ctx.threads), torch.random.fork_rng(gpus):
            torch.manual_seed(seed)  # weights and dropout; fork_rng puts the old state back
            rng = np.random.Generator(np.random.Philox(key=seed))
            rows = sort_parents(inputs.train, ctx.fields)
            parents, plan = (self._infill if options.mode == "infill" else self._paraphrase)(rows, rng, ctx)
        write_parents(parents, ctx)
        keep_targets(inputs.train, ctx)
        plan["classes"] = sorted(set(parents[STRATUM].to_pylist()))
        text = json.dumps(plan, sort_keys=True, ensure_ascii=False)
        (ctx.workdir / "seq2seq.json").write_text(text, encoding="utf-8")
        files = sorted(path for path in ctx.workdir.rglob("*") if path.is_file())
        return {path.relative_to(ctx.workdir).as_posix(): path for path in files}

    def _infill(self, rows: pa.Table, rng: np.random.Generator, ctx: Context) -> tuple[pa.Table, dict[str, Any]]:
        options: Seq2SeqOptions = self.options
        tell_scripts((rows[name].to_pylist() for name in ctx.fields), "seq2seq", ctx.log)
        if options.beams:
            ctx.log.warning("seq2seq: `beams` is for `mode: paraphrase`; rows of `infill` are sampled (beams: 0)")
        infiller = prepare(rows, _source(options), options, ctx.fields)
        masking = SpanMasking(infiller, options, ctx.fields)
        parents = fitting_rows(rows, infiller, masking, ctx.fields, ctx)
        words = words_of(parents, ctx.fields)
        infiller.model.to(ctx.device)
        draw = lambda rng: draw_examples(words, infiller, masking, rng)  # noqa: E731
        loss = partial(pair_loss, start=infiller.start, pad=infiller.pad)
        record = self._train(infiller.model, draw, loss, parents.num_rows, rng, ctx)
        save_pretrained(infiller.model.cpu(), None, ctx.workdir)
        infiller.tokenizer.save(str(ctx.workdir / "tokenizer.json"))
        return parents, infiller.plan() | {"training": record}

    def _paraphrase(self, rows: pa.Table, rng: np.random.Generator, ctx: Context) -> tuple[pa.Table, dict[str, Any]]:
        options: Seq2SeqOptions = self.options
        source = _source(options)
        assert source is not None  # the options refuse `scratch`
        model, tokenizer = source.load()
        record: dict[str, Any] = {"steps": 0, "train_loss": []}
        if options.epochs:
            rewriter = Rewriter(model, tokenizer, prefix=options.prefix, where=f"model {options.model}")
            pairs = Pairs(rows, rewriter, rewriter.bound(_decoding(options)), ctx.fields, options.change)
            pad = rewriter.end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
            model.to(ctx.device)
            loss = partial(pair_loss, start=rewriter.frame.start, pad=pad)
            record = self._train(model, pairs.draw, loss, pairs.count, rng, ctx)
        save_pretrained(model.cpu(), tokenizer, ctx.workdir)
        return rows, {"training": record}

    def _train(
        self, model: Any, draw: Draw, loss: Loss, rows: int, rng: np.random.Generator, ctx: Context
    ) -> dict[str, Any]:
        schedule = self._schedule(rows)
        return train(model, draw, loss, schedule, rng, watch(ctx, schedule.steps, require_time(ctx, "seq2seq"))).record

    def _schedule(self, rows: int) -> TrainingSchedule:
        options: Seq2SeqOptions = self.options
        epochs = options.epochs or 60
        steps = min(options.max_steps, epochs * -(-rows // options.batch_size))
        rate = options.learning_rate or (3e-3 if options.model == SCRATCH else 1e-4)
        return TrainingSchedule(steps, options.batch_size, rate, options.weight_decay)

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """Rows that cannot be made: ``no_parent`` (no train row of the class), ``too_long`` (no end within the bound),

        ``empty``, ``undecodable`` (bytes that are no UTF-8), ``unchanged`` (the parent again). Raises DeadlineExceeded.
        """
        options: Seq2SeqOptions = self.options
        parents = fitted.get("parents", lambda: Parents(fitted))
        task = Task(_decoding(options), ctx, "seq2seq")
        if options.mode == "infill":
            infiller = fitted.get(
                f"infiller:{ctx.device}:{options.decode_precision}", lambda: Infiller.load(fitted, ctx.device, options)
            )
            made = fill(infiller, SpanMasking(infiller, options, ctx.fields), parents, request, task)
        else:
            trust, precision = options.trust_remote_code, options.decode_precision
            model, tokenizer = load_saved(fitted, "", ctx.device, trust_remote_code=trust, precision=precision)
            rewriter = Rewriter(model, tokenizer, prefix=options.prefix, where="seq2seq")

            def rewrite(texts: list[str], ats: list[int], name: int) -> list[Made]:
                return rewriter.rewrite(texts, request.seeds[ats], 2 + name, task)

            made = rewrite_parents(parents, request, options.change, rewrite, ctx.fields)
        texts, reasons = [row for row, _ in made], [why for _, why in made]
        return with_targets(
            answer(request, ctx.fields, texts, parents.ids_of(parents.draw(request)), reasons), fitted, ctx
        )


def _source(options: Seq2SeqOptions) -> Source | None:
    if options.model == SCRATCH:
        return None
    others = "`scratch`, " if options.mode == "infill" else ""
    return Source(options.model, options.revision, options.trust_remote_code, options.allow_pickle, others)


def _decoding(options: Seq2SeqOptions) -> Decoding:
    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.min_p, options.repetition_penalty)
    return Decoding(sampling, options.beams, options.decode_batch, options.max_length)
