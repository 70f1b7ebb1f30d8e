"""Rows from a language model that is told the class: Kumar et al., "Data Augmentation using Pre-trained Transformer

Models", LifeLongNLP 2020 ("prepend"), and LAMBADA (Anaby-Tavor et al., "Do Not Have Enough Data? Deep Learning to the
Rescue!", AAAI 2020), whose filter is the check `label_consistency`. A row is `[start] <label> text <end>`, with a second
`text <end>` for a pair. A label is one token of its own, so every prompt has one length and a batch needs no padding.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import Context, FitInputs, Fitted, Generator, Request
from augmill.tasks.errors import WorldError
from augmill.tasks.generators._parents import answer
from augmill.tasks.generators.causal.adapter import require_peft
from augmill.tasks.generators.causal.fit import fit_model, model_path, read_row, require_logger, require_time
from augmill.tasks.generators.causal.options import SCRATCH, CausalLMOptions
from augmill.tasks.generators.lm.decode import TILE, Grammar, decode, torch_threads
from augmill.tasks.generators.lm.load import load_fitted, save
from augmill.tasks.generators.lm.models import check_files, quiet
from augmill.tasks.generators.lm.utf8 import characters_of
from augmill.tasks.rows.randomness import uniforms


class CausalLM(Generator):
    """A label-conditioned language model, trained or fine-tuned on the train rows.

    Repeatable on a CPU in float32, with the same libraries and the same kind of CPU: the fit for a given thread count
    (part of its identity), the rows at any thread count and batch. Not promised on a GPU.
    """

    VERSION = 3
    Options = CausalLMOptions
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = False
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers")

    def preflight(self, fields: tuple[str, ...]) -> None:
        """Looks for a model's files where its name is a local directory, and for packages; a hub is not asked."""
        options: CausalLMOptions = self.options
        require_logger(options.log_to)
        if options.adapter is not None:
            require_peft()
        if options.model != SCRATCH and (Path(options.model).expanduser().exists() or not options.revision):
            check_files(model_path(options), options.allow_pickle)

    def wants_unlabelled(self) -> bool:
        return bool(self.options.pretrain_on == "unlabelled")

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes model.safetensors, config.json, tokenizer.json and lm.json (label tokens, bounds, losses).

        Raises UserError for a model or device that cannot be used, DataError where no row fits ``max_length``,
        WorldError where the hub cannot be reached, DeadlineExceeded past the deadline, with a checkpoint of what is done.
        """
        import torch

        if self.options.adapter is not None:
            require_peft()
        gpus = [torch.device(ctx.device)] if ctx.device.startswith("cuda") else []
        with quiet(), torch_threads(ctx.threads), torch.random.fork_rng(gpus):  # which puts the old state back
            base, plan = fit_model(self.options, inputs, ctx)
            return save(base.model.cpu(), base.tokenizer, plan, ctx.workdir)

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
        grammar = Grammar(plan["end"], len(ctx.fields), tuple(plan["banned"]))
        if "characters" in plan:
            vocabulary = model.config.get_text_config().vocab_size
            wanted = vocabulary, plan["end"], plan["banned"], plan["characters"]
            rule = fitted.get("characters", lambda: characters_of(tokenizer, *wanted))
            grammar = replace(grammar, characters=rule)
        noise = uniforms(request.seeds[known], plan["max_new_tokens"])
        tokens, whole = self._decode(model, grammar, prompts, noise, ctx)
        ctx.usage["tokens"] = ctx.usage.get("tokens", 0) + int((tokens >= 0).sum())
        texts: list[list[str] | None] = [None] * len(request)
        reasons: list[str | None] = ["unknown_class"] * len(request)
        for at, row, done in zip(known.tolist(), tokens, whole, strict=True):
            texts[at], reasons[at] = read_row(row.tolist(), bool(done), tokenizer, plan["end"], len(ctx.fields))
        return answer(request, ctx.fields, texts, [[]] * len(request), reasons)

    def _decode(
        self,
        model: Any,
        grammar: Grammar,
        prompts: npt.NDArray[np.int64],
        noise: npt.NDArray[np.float64],
        ctx: Context,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """``decode`` in parts; on a CPU one thread a part, because a matrix product on several rounds by their count.

        Two parts at a time are also faster than one part on two threads (19,000 against 15,000 tokens/s at batch 256).
        """
        import torch

        sampling = self.options.sampling
        whole: dict[int, int] = {}  # first row of a part: how many of its rows have come to their end

        def run(part: slice) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
            def finished(rows: int) -> None:
                whole[part.start] = rows
                ctx.tell(sum(list(whole.values())), len(prompts), "rows")

            try:
                check_time = lambda: require_time(ctx)  # noqa: E731
                return decode(model, prompts[part], noise[part], grammar, sampling, check_time, finished)
            except torch.OutOfMemoryError as error:
                size = (part.stop - part.start) // 2
                if size == 0:
                    raise WorldError("one row does not fit the device's memory", where="causal_lm") from error
                ctx.log.warning("causal_lm: out of memory at %d rows, continuing with %d", 2 * size, size)
            torch.cuda.empty_cache()
            middle = part.start + size
            first, second = run(slice(part.start, middle)), run(slice(middle, part.stop))
            return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])

        on_cpu = ctx.device == "cpu"
        lanes = ctx.threads if on_cpu else 1
        share = -(-len(prompts) // lanes)
        size = max(1, min(self.options.decode_batch, -(-share // TILE) * TILE))
        parts = [slice(start, min(start + size, len(prompts))) for start in range(0, len(prompts), size)]
        with torch_threads(1) if on_cpu else nullcontext(), ThreadPoolExecutor(lanes) as pool:
            done = list(pool.map(run, parts))
        empty = (np.zeros((0, noise.shape[1]), dtype=np.int64), np.zeros(0, dtype=np.bool_))
        tokens, ended = zip(empty, *done, strict=True)
        return np.concatenate(tokens), np.concatenate(ended)
