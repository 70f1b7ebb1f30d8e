"""Words of a real row replaced by others that fit its text and its label.

Wu et al., "Conditional BERT Contextual Augmentation", ICCS 2019 (CBERT); Kumar et al., "Data Augmentation using
Pre-trained Transformer Models", LifeLongNLP 2020 (BERT-prepend, the label before the text). Fine-tuned on the train
rows; a parent is a train row of the asked class, drawn by the row's seed.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar, Literal

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
from augmill.tasks.generators.lm.losses import mask_loss
from augmill.tasks.generators.lm.models import quiet
from augmill.tasks.generators.lm.rewriting import Source, save_pretrained
from augmill.tasks.generators.lm.train import TrainingSchedule, train, watch
from augmill.tasks.generators.masked.model import Filler, prepare
from augmill.tasks.generators.masked.options import SCRATCH, MaskedLMOptions
from augmill.tasks.generators.masked.rows import Filling, Row, WordMasking, draw_examples, fill, fitting_rows
from augmill.tasks.generators.masked.text import read_phrases
from augmill.tasks.rows.kinds.text import fold, join_fields
from augmill.tasks.rows.randomness import uniforms

PREPARED = 1 << 14  # rows kept taken apart per process


class MaskedLM(Generator):
    """A masked language model that is told the label chooses the words.

    Repeatable on a CPU, with the same libraries and the same kind of CPU: the fit for a given thread count
    (part of its identity), the rows at any thread count and batch. Not promised on a GPU.
    """

    VERSION = 4
    Options = MaskedLMOptions
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = False
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    problems: ClassVar[tuple[str, ...]] = ("classification", "text_to_text")
    # A model that knows no capitals may give back `parcel` for `Parcel`, which a reader would call the same row.
    normalisation: ClassVar[str] = "fold"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers")

    def preflight(self, fields: tuple[str, ...]) -> None:
        """Looks for the text column, protected words, and a model's files where it is a local directory; a hub is not asked."""
        changed_fields(self.options.change, fields, "masked_lm")
        _phrases(self.options)
        if source := _source(self.options):
            source.preflight()

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes the model with its tokenizer, parents.arrow and masked_lm.json (label tokens, protected words, losses).

        Parents are the rows within ``max_length`` that have a word to mask. Raises UserError for a model that cannot be
        used, DataError where no row can be a parent, WorldError where the hub cannot be reached, DeadlineExceeded.
        """
        import torch

        options: MaskedLMOptions = self.options
        phrases = _phrases(options)
        seed = int.from_bytes(hashlib.sha256(f"masked_lm {ctx.seed}".encode()).digest()[:8], "little") >> 1
        gpus = [torch.device(ctx.device)] if ctx.device.startswith("cuda") else []
        with quiet(), torch_threads(ctx.threads), torch.random.fork_rng(gpus):
            torch.manual_seed(seed)  # weights and dropout; fork_rng puts the old state back
            rng = np.random.Generator(np.random.Philox(key=seed))
            rows = sort_parents(inputs.train, ctx.fields)
            tell_scripts((rows[name].to_pylist() for name in ctx.fields), "masked_lm", ctx.log)
            filler = prepare(rows, _source(options), options, ctx.fields)
            masking = WordMasking(filler, options, phrases, ctx.fields)
            parents, taken = fitting_rows(rows, masking, ctx)
            labels = parents[STRATUM].to_pylist()
            filler.model.to(ctx.device)
            schedule = _schedule(options, len(taken))
            training = train(
                filler.model, lambda rng: draw_examples(labels, taken, masking, rng), partial(mask_loss, pad=filler.pad),
                schedule, rng, watch(ctx, schedule.steps, require_time(ctx, "masked_lm")),
            )  # fmt: skip
            save_pretrained(filler.model.cpu(), None, ctx.workdir)
        filler.tokenizer.save(str(ctx.workdir / "tokenizer.json"))
        write_parents(parents, ctx)
        keep_targets(inputs.train, ctx)
        plan = {"filler": filler.plan(), "protected": phrases, "training": training.record}
        text = json.dumps(plan, sort_keys=True, ensure_ascii=False)
        (ctx.workdir / "masked_lm.json").write_text(text, encoding="utf-8")
        files = sorted(path for path in ctx.workdir.rglob("*") if path.is_file())
        return {path.relative_to(ctx.workdir).as_posix(): path for path in files}

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """Rows that cannot be made: ``no_parent`` (no train row of the class has a word to mask within the bound),

        ``unchanged`` (the parent again, but for case and punctuation). Raises DeadlineExceeded.
        """
        options: MaskedLMOptions = self.options
        parents = fitted.get("parents", lambda: Parents(fitted))
        filler = fitted.get(
            f"filler:{ctx.device}:{options.decode_precision}", lambda: Filler.load(fitted, ctx.device, options)
        )
        masking = WordMasking(filler, options, fitted.read_json("masked_lm.json")["protected"], ctx.fields)
        take = lru_cache(PREPARED)(lambda at: masking.take([parents.table[name][at].as_py() for name in ctx.fields]))
        drawn = parents.draw(request)
        numbers = uniforms(request.seeds, masking.numbers, stream=1)
        places = np.flatnonzero(drawn >= 0)
        rows: list[Row] = [take(at) for at in drawn[places].tolist()]
        units = [masking.draw(row, own.tolist()) for row, own in zip(rows, numbers[places], strict=True)]
        jobs = [
            masking.job(request.strata[at], row, taken)
            for at, row, taken in zip(places.tolist(), rows, units, strict=True)
        ]
        filling = Filling(
            Sampling(options.temperature, options.top_k, options.top_p, 0.0, 1.0),
            options.may_stay,
            options.decode_batch,
        )
        made: list[list[str] | None] = [None] * len(request)
        reasons = ["no_parent"] * len(request)
        said = fill(filler, jobs, request.seeds[places], filling, ctx)
        for at, row, taken, tokens in zip(places.tolist(), rows, units, said, strict=True):
            texts = masking.read(row, taken, tokens)
            same = fold(join_fields(texts)) == fold(join_fields(text.text for text in row))
            made[at], reasons[at] = (None, "unchanged") if same else (texts, "")
        return with_targets(answer(request, ctx.fields, made, parents.ids_of(drawn), reasons), fitted, ctx)


def _source(options: MaskedLMOptions) -> Source | None:
    if options.model == SCRATCH:
        return None
    return Source(
        options.model, options.revision, options.trust_remote_code, options.allow_pickle, "`scratch`, ", "masked"
    )


def _phrases(options: MaskedLMOptions) -> list[str]:
    """All words and phrases that are kept."""
    return [*options.protect_words, *(read_phrases(Path(options.protect_file)) if options.protect_file else [])]


def _schedule(options: MaskedLMOptions, rows: int) -> TrainingSchedule:
    scratch = options.model == SCRATCH
    steps = min(options.max_steps, (options.epochs or (60 if scratch else 10)) * -(-rows // options.batch_size))
    return TrainingSchedule(
        steps, options.batch_size, options.learning_rate or (2e-3 if scratch else 5e-5), options.weight_decay
    )
