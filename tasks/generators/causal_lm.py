"""Rows from a language model that was told the class: Kumar et al., "Data Augmentation using Pre-trained Transformer

Models", LifeLongNLP 2020 ("prepend"), and LAMBADA (Anaby-Tavor et al., "Do Not Have Enough Data? Deep Learning to the
Rescue!", AAAI 2020), whose filter is the check `label_consistency`. A row is `[start] <label> text <end>`, with a second
`text <end>` for a pair. A label is one token of its own, so every prompt has one length and a batch needs no padding.
"""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import (
    STRATUM,
    Context,
    DeadlineExceeded,
    FitInputs,
    Fitted,
    Generator,
    Request,
    WorldError,
    candidate_schema,
)
from augmill.tasks.generators._lm_decode import TILE, Grammar, Sampling, decode, torch_threads
from augmill.tasks.generators._lm_load import (
    END,
    Pretrained,
    add_tokens,
    banned_tokens,
    load_fitted,
    load_pretrained,
    save,
)
from augmill.tasks.generators._lm_rows import Rows, encode, read_row
from augmill.tasks.generators._lm_train import Schedule, scratch_model, train, train_tokenizer
from augmill.tasks.generators._models import check_files, find_model, quiet
from augmill.tasks.randomness import uniforms

SCRATCH = "scratch"
_WORDS = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])")  # where a label such as `AddToPlaylist` or `card_lost` splits


@dataclass(frozen=True)
class CausalLMOptions:
    """Which model, how long it is trained, how a row is drawn from it."""

    model: str = field(
        default=SCRATCH,
        metadata={
            "file": True,
            "hub": True,
            "help": "`scratch` trains a small model on the train rows; or a local directory or a hub id (with "
            "`revision`) of a causal language model, which is fine-tuned.",
        },
    )
    revision: str = field(default="", metadata={"help": "40-digit commit of a hub model; needed for hub ids."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Runs code that comes with the model."})
    allow_pickle: bool = field(
        default=False, metadata={"help": "Reads weights from pickle files where there are no safetensors."}
    )
    max_length: int = field(
        default=128,
        metadata={"help": "Longer train rows (in tokens, label and ends included) are left out of the training."},
    )
    epochs: int = field(default=25, metadata={"help": "Passes over the train rows."})
    max_steps: int = field(default=1200, metadata={"help": "Bound of the training steps, however many rows there are."})
    batch_size: int = field(default=32, metadata={"help": "Rows per training step."})
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak rate of AdamW; when null, 3e-3 for `scratch` and 1e-4 otherwise."}
    )
    patience: int = field(
        default=0,
        metadata={
            "help": "Epochs without a better loss on `select` (a tenth of train, by hash, then not learnt from) that end "
            "the training; 0: all steps, on all rows. Without effect where `select` has fewer than 20 rows."
        },
    )
    weight_decay: float = field(default=0.1, metadata={"help": "Decoupled weight decay of matrices."})
    vocabulary: int = field(default=1000, metadata={"help": "`scratch` only: size of the byte-level BPE at most."})
    layers: int = field(default=2, metadata={"help": "`scratch` only."})
    hidden: int = field(default=128, metadata={"help": "`scratch` only: width; a multiple of `heads`."})
    heads: int = field(default=4, metadata={"help": "`scratch` only: attention heads."})
    temperature: float = field(default=0.9, metadata={"help": "Below 1: likelier, more alike rows."})
    top_k: int = field(default=50, metadata={"help": "Tokens to draw from at each step."})
    top_p: float = field(default=0.95, metadata={"help": "Smallest set of the top k with this probability."})
    min_p: float = field(default=0.0, metadata={"help": "Drops tokens less likely than this share of the likeliest."})
    repetition_penalty: float = field(default=1.0, metadata={"help": "Above 1: against tokens the row has already."})
    decode_batch: int = field(
        default=256,
        metadata={"help": "Rows decoded at a time.", "identity": False, "why": "a row has its own noise"},
    )

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "max_length": (4, 1 << 20), "epochs": (1, 10_000), "max_steps": (1, 10_000_000), "batch_size": (1, 4096),
            "patience": (0, 10_000), "weight_decay": (0, 1), "vocabulary": (260, 1 << 20), "layers": (1, 96),
            "hidden": (8, 16384), "heads": (1, 256), "temperature": (0.01, 10), "top_k": (1, 1 << 20),
            "top_p": (0.01, 1), "min_p": (0, 1), "repetition_penalty": (1, 10), "decode_batch": (1, 65536),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                raise ValueError(f"{name}: expected a number from {low} to {high}; found {value}")
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            raise ValueError(f"learning_rate: expected a number above 0 and at most 1; found {self.learning_rate}")
        if self.hidden % self.heads:
            raise ValueError(f"hidden: expected a multiple of heads ({self.heads}); found {self.hidden}")


class CausalLM(Generator):
    """A label-conditioned language model, trained or fine-tuned on the train rows.

    Repeatable on a CPU in float32, with the same libraries and the same kind of CPU: the fit for a given thread count
    (part of its identity), the rows at any thread count and batch. Not promised on a GPU.
    """

    VERSION = 1
    Options = CausalLMOptions
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = False
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers")

    def preflight(self) -> None:
        """Looks for a model's files where its name is a local directory; a hub is not asked."""
        options: CausalLMOptions = self.options
        path = Path(options.model).expanduser()
        if options.model != SCRATCH and (path.exists() or not options.revision):
            trust, pickle = options.trust_remote_code, options.allow_pickle
            check_files(
                find_model(
                    options.model, options.revision, trust_remote_code=trust, allow_pickle=pickle, others="`scratch`, "
                ),
                pickle,
            )

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes model.safetensors, config.json, tokenizer.json and lm.json (label tokens, bounds, losses).

        Raises UserError for a model that cannot be used, DataError where no row fits ``max_length``, WorldError where
        the hub cannot be reached, DeadlineExceeded past the deadline.
        """
        import torch

        seed = _seed(ctx.seed)
        gpus = [torch.device(ctx.device)] if ctx.device.startswith("cuda") else []
        with quiet(), torch_threads(ctx.threads), torch.random.fork_rng(gpus):
            torch.manual_seed(seed)  # weights and dropout; fork_rng puts the old state back
            rows = Rows(inputs.train, ctx.fields)
            base, plan = self._prepare(rows)
            learnt, select = encode(base, plan, rows, self.options, ctx)
            base.model.to(ctx.device)
            rng = np.random.Generator(np.random.Philox(key=seed))
            schedule = self._schedule(len(learnt))
            prompt = len(plan["start"]) + 1
            plan["training"] = train(base.model, learnt, select, prompt, schedule, rng, lambda: _require_time(ctx))
            return save(base.model.cpu(), base.tokenizer, plan, ctx.workdir)

    def _prepare(self, rows: Rows) -> tuple[Pretrained, dict[str, Any]]:
        """The model to train with its tokens for labels and the end, and the plan that ``sample`` goes by."""
        options: CausalLMOptions = self.options
        labels = sorted(set(rows.strata))
        names = {label: f"<|label:{index}|>" for index, label in enumerate(labels)}
        if options.model == SCRATCH:
            texts = [text for row in rows.texts for text in row]
            tokenizer = train_tokenizer(texts, [END, *names.values()], options.vocabulary)
            model = scratch_model(
                tokenizer.get_vocab_size(), options.max_length, 0,
                layers=options.layers, hidden=options.hidden, heads=options.heads,
            )  # fmt: skip
            base, ids = (
                Pretrained(model, tokenizer, None, 0),
                {name: tokenizer.token_to_id(name) for name in names.values()},
            )
        else:
            trust, pickle = options.trust_remote_code, options.allow_pickle
            path = find_model(
                options.model, options.revision, trust_remote_code=trust, allow_pickle=pickle, others="`scratch`, "
            )
            base = load_pretrained(path, trust_remote_code=trust, allow_pickle=pickle)
            new = {name: _WORDS.sub(" ", label).strip() for label, name in names.items()}
            ids = add_tokens(base.model, base.tokenizer, new | ({END: ""} if base.end is None else {}))
        end = ids[END] if base.end is None else base.end
        plan = {
            "labels": {label: ids[name] for label, name in names.items()},
            "start": [] if base.start is None else [base.start],
            "end": end,
            "banned": banned_tokens(base.model, base.tokenizer, end),
        }
        base.tokenizer.encode_special_tokens = True  # a user's text that holds `<|end|>` is text
        return base, plan

    def _schedule(self, rows: int) -> Schedule:
        options: CausalLMOptions = self.options
        steps = min(options.max_steps, options.epochs * -(-rows // options.batch_size))
        rate = options.learning_rate or (3e-3 if options.model == SCRATCH else 1e-4)
        return Schedule(steps, options.batch_size, rate, options.weight_decay, options.patience)

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """Rows that cannot be made: ``unknown_class`` (not in train), ``too_long`` (no end within the longest train

        row), ``empty``, ``undecodable`` (bytes that are no UTF-8). Raises DeadlineExceeded: a row must not depend on
        how much time there was.
        """
        plan = fitted.read_json("lm.json")
        model, tokenizer = fitted.get(
            f"model:{ctx.device}",
            lambda: load_fitted(fitted, ctx.device, trust_remote_code=self.options.trust_remote_code),
        )
        labels = np.array([plan["labels"].get(stratum, -1) for stratum in request.strata], dtype=np.int64)
        known = np.flatnonzero(labels >= 0)
        prompts = np.concatenate([np.tile(plan["start"], (len(known), 1)), labels[known, None]], axis=1).astype(
            np.int64
        )
        tokens, whole = self._decode(model, plan, prompts, request.seeds[known], ctx)
        ctx.usage["tokens"] = ctx.usage.get("tokens", 0) + int((tokens >= 0).sum())
        texts: list[list[str] | None] = [None] * len(request)
        reasons: list[str | None] = ["unknown_class"] * len(request)
        for at, row, done in zip(known.tolist(), tokens, whole, strict=True):
            texts[at], reasons[at] = read_row(row.tolist(), bool(done), tokenizer, plan["end"], len(ctx.fields))
        columns: dict[str, Any] = {
            "ordinal": request.ordinals,
            "asked": request.strata,
            STRATUM: request.strata,
            **{name: [row[at] if row else None for row in texts] for at, name in enumerate(ctx.fields)},
            "parent_ids": [[] for _ in texts],
            "seed": request.seeds,
            "reason": reasons,
        }
        return pa.table(columns, schema=candidate_schema(ctx.fields))

    def _decode(
        self,
        model: Any,
        plan: dict[str, Any],
        prompts: npt.NDArray[np.int64],
        seeds: npt.NDArray[np.int64],
        ctx: Context,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """``decode`` in parts; on a CPU one thread a part, because a matrix product on several rounds by their count.

        Two parts at a time are also faster than one part on two threads (19,000 against 15,000 tokens/s at batch 256).
        """
        import torch

        options: CausalLMOptions = self.options
        grammar = Grammar(plan["end"], len(ctx.fields), tuple(plan["banned"]))
        sampling = Sampling(
            options.temperature, options.top_k, options.top_p, options.min_p, options.repetition_penalty
        )

        def run(part: slice) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
            try:
                noise = uniforms(seeds[part], plan["max_new_tokens"])
                return decode(model, prompts[part], noise, grammar, sampling, lambda: _require_time(ctx))
            except torch.OutOfMemoryError as error:
                size = (part.stop - part.start) // 2
                if size == 0:
                    raise WorldError("one row does not fit the device's memory", where="causal_lm") from error
                ctx.log.warning("causal_lm: out of memory at %d rows, going on with %d", 2 * size, size)
            torch.cuda.empty_cache()
            middle = part.start + size
            first, second = run(slice(part.start, middle)), run(slice(middle, part.stop))
            return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])

        on_cpu = ctx.device == "cpu"
        lanes = ctx.threads if on_cpu else 1
        share = -(-len(prompts) // lanes)
        size = max(1, min(options.decode_batch, -(-share // TILE) * TILE))
        parts = [slice(start, min(start + size, len(prompts))) for start in range(0, len(prompts), size)]
        with torch_threads(1) if on_cpu else nullcontext(), ThreadPoolExecutor(lanes) as pool:
            done = list(pool.map(run, parts))
        empty = (np.zeros((0, plan["max_new_tokens"]), dtype=np.int64), np.zeros(0, dtype=np.bool_))
        tokens, whole = zip(empty, *done, strict=True)
        return np.concatenate(tokens), np.concatenate(whole)


def _seed(seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"causal_lm {seed}".encode()).digest()[:8], "little") >> 1


def _require_time(ctx: Context) -> None:
    if ctx.out_of_time():
        raise DeadlineExceeded("the language model ran out of time", where="causal_lm", fix="raise run.shard_minutes")
