"""Calls answered by an instruct model in this process: its own chat template, batched, with the noise of a call its own.

Prompts differ in length. Each is padded on the left to the next multiple of ``BUCKET`` tokens, which its own length
alone decides, so that a batch has many of them and a call is the same bits in any batch (on a CPU, in float32).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from augmill.tasks.contracts import Context
from augmill.tasks.errors import DeadlineExceeded, UserError, WorldError
from augmill.tasks.generators.chat.backend import Answer, Backend, ModelCall, call_key
from augmill.tasks.generators.chat.options import ChatOptions
from augmill.tasks.generators.lm.decode import TILE, Grammar, Sampling, decode, torch_threads
from augmill.tasks.generators.lm.load import banned_tokens
from augmill.tasks.generators.lm.models import check_files, find_model, load_model, quiet
from augmill.tasks.rows.randomness import uniforms

BUCKET = 64
PAD = -1
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ChatModel:
    """A loaded model with its tokenizer; ``ends``: the tokens that end an answer; ``longest``: what it can attend to."""

    model: Any
    tokenizer: Any
    ends: tuple[int, ...]
    banned: tuple[int, ...]
    longest: int


def locate(options: ChatOptions) -> Path:
    trust, pickle = options.trust_remote_code, options.allow_pickle
    return find_model(options.model, options.revision, trust_remote_code=trust, allow_pickle=pickle)


def require_files(path: Path, allow_pickle: bool) -> None:
    """Raises UserError where the directory holds no model, or one that has not been taught to answer."""
    check_files(path, allow_pickle)
    config = path / "tokenizer_config.json"
    inside = config.is_file() and "chat_template" in json.loads(config.read_text(encoding="utf-8"))
    if not inside and not any(path.glob("chat_template*")) and not (path / "additional_chat_templates").is_dir():
        raise UserError(
            "its tokenizer has no chat template, so it is not an instruct model",
            where=f"model {path}",
            fix="use the instruct (or chat) variant of the model; `causal_lm` fine-tunes a plain one",
        )


def load_chat(options: ChatOptions, device: str) -> ChatModel:
    """Raises UserError where the directory holds no instruct model with a fast tokenizer."""
    import torch

    path = locate(options)
    require_files(path, options.allow_pickle)
    with quiet():
        model, tokenizer = load_model(
            path, "causal", trust_remote_code=options.trust_remote_code, allow_pickle=options.allow_pickle
        )
    known = model.generation_config.eos_token_id
    ends = [tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])]
    ends = [end for end in dict.fromkeys(ends) if end is not None]
    if not ends or not tokenizer.is_fast:
        missing = "a fast tokenizer (tokenizer.json)" if ends else "a token that ends an answer (eos_token)"
        raise UserError(f"the model lacks {missing}", where=f"model {path}", fix="use a model with all its files")
    banned = banned_tokens(model, tokenizer.backend_tokenizer, ends[0])
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 20
    model = model.to(device=device, dtype=getattr(torch, options.dtype)).eval()
    return ChatModel(model, tokenizer, tuple(ends), tuple(banned), longest)


def as_tokens(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """The prompt by the model's own template, ready for the answer; what a reasoning model thinks aloud is left out.

    Some templates know no system message (Gemma's): it then stands before the user's.
    """
    import jinja2

    def apply(parts: Sequence[dict[str, str]]) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(
            list(parts), add_generation_prompt=True, return_dict=False, enable_thinking=False
        )
        return list(ids)

    try:
        return apply(messages)
    except jinja2.TemplateError:
        return apply([{"role": "user", "content": "\n\n".join(part["content"] for part in messages)}])


def local_backend(options: ChatOptions, load: Callable[[], ChatModel]) -> Backend:
    """``load``: gives the model once it is needed. A call whose prompt leaves no room for an answer is ``too_long``."""

    def run(calls: Sequence[ModelCall], ctx: Context) -> list[Answer]:
        chat = load()
        prompts = [as_tokens(chat.tokenizer, call.messages) for call in calls]
        answers: dict[int, Answer] = {}
        groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for at, (prompt, call) in enumerate(zip(prompts, calls, strict=True)):
            if len(prompt) + call.max_tokens > chat.longest:
                answers[at] = Answer(None, "too_long", 0, 0, False)
            else:
                groups[(len(prompt) // BUCKET + 1) * BUCKET, call.max_tokens].append(at)
        jobs = [part for group in groups.values() for part in _parts(group, options.decode_batch, ctx)]
        on_cpu = ctx.device == "cpu"  # one thread a batch: a matrix product on several rounds by their count
        with torch_threads(1) if on_cpu else nullcontext(), ThreadPoolExecutor(ctx.threads if on_cpu else 1) as pool:
            for done in pool.map(lambda part: _answer(chat, options, calls, prompts, part, ctx), jobs):
                answers |= done
                ctx.tell(len(answers), len(calls), "calls")
        return [answers[at] for at in range(len(calls))]

    return run


def _parts(group: list[int], batch: int, ctx: Context) -> Iterator[list[int]]:
    share = -(-len(group) // (ctx.threads if ctx.device == "cpu" else 1))
    size = max(1, min(batch, -(-share // TILE) * TILE))
    return (group[start : start + size] for start in range(0, len(group), size))


def _answer(
    chat: ChatModel,
    options: ChatOptions,
    calls: Sequence[ModelCall],
    prompts: list[list[int]],
    part: list[int],
    ctx: Context,
) -> dict[int, Answer]:
    """The answers to the calls at ``part``, whose prompts stand in one bucket."""
    import torch

    try:
        tokens = _decode(chat, options, [calls[at] for at in part], [prompts[at] for at in part], ctx)
    except torch.OutOfMemoryError as error:
        if len(part) == 1:
            raise WorldError(
                "one call does not fit the device's memory", where="chat", fix="use a smaller model, or fewer examples"
            ) from error
        ctx.log.warning("chat: out of memory at %d calls, continuing with half", len(part))
        tokens = None
    if tokens is None:
        torch.cuda.empty_cache()
        middle = len(part) // 2
        halves = [_answer(chat, options, calls, prompts, half, ctx) for half in (part[:middle], part[middle:])]
        return halves[0] | halves[1]
    found = {}
    for at, row in zip(part, tokens.tolist(), strict=True):
        drawn = row[: row.index(chat.ends[0])] if chat.ends[0] in row else [token for token in row if token >= 0]
        text = chat.tokenizer.decode(drawn, skip_special_tokens=True)
        found[at] = Answer(text, None, len(prompts[at]), len(drawn), False)
    return found


def _decode(
    chat: ChatModel, options: ChatOptions, calls: list[ModelCall], prompts: list[list[int]], ctx: Context
) -> Ints:
    width = (len(prompts[0]) // BUCKET + 1) * BUCKET
    padded = np.array([[PAD] * (width - len(prompt)) + prompt for prompt in prompts], dtype=np.int64)
    seeds = np.array([int(call_key("noise", call)[:15], 16) for call in calls], dtype=np.int64)
    noise = uniforms(seeds, calls[0].max_tokens)
    sampling = Sampling(options.temperature, options.top_k, options.top_p, 0.0, 1.0)

    def check_time() -> None:
        if ctx.out_of_time():
            raise DeadlineExceeded("the chat model ran out of time", where="chat", fix="raise run.shard_minutes")

    return decode(_Padded(chat), padded, noise, Grammar(chat.ends[0], 1, chat.banned), sampling, check_time)[0]


class _Padded:
    """The model as ``decode`` calls it: ``PAD`` is not attended to, and all tokens that end an answer count as one.

    No row is without ``PAD``: where a whole batch is, another kernel computes the attention.
    """

    def __init__(self, chat: ChatModel) -> None:
        from transformers import DynamicCache

        class Cache(DynamicCache):  # type: ignore[misc]
            """Beside keys and values, which of them each row attends to; rows leave both together."""

            mask: Any = None

            def batch_select_indices(self, indices: Any) -> None:
                super().batch_select_indices(indices)
                self.mask = self.mask[indices]

        self.chat, self.device, self.make_cache = chat, chat.model.device, Cache

    def __call__(self, input_ids: Any, past_key_values: Any, use_cache: bool) -> Any:
        import torch

        past = past_key_values
        if past is None:
            past = self.make_cache(config=self.chat.model.config)
            past.mask = (input_ids != PAD).long()
        else:
            past.mask = torch.cat([past.mask, torch.ones_like(input_ids)], dim=1)
        places = (past.mask.cumsum(dim=1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        output = self.chat.model(
            input_ids=input_ids.clamp(min=0), attention_mask=past.mask, position_ids=places,
            past_key_values=past, use_cache=use_cache, logits_to_keep=1,
        )  # fmt: skip
        logits, ends = output.logits[:, -1:].float(), list(self.chat.ends)
        logits[..., ends[0]] = logits[..., ends].logsumexp(dim=-1)
        return SimpleNamespace(logits=logits, past_key_values=past)


# --- Calls answered by vLLM in this process (extra `vllm`): paged attention, continuous batching, for a GPU -----------


def require_vllm() -> None:
    """Raises UserError where the extra is not installed."""
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        raise UserError(
            "vLLM is not installed on this machine",
            where="chat, backend: vllm",
            fix="install the extra: pip install 'augmill[vllm]'; or set `backend: local`",
        )


def load_vllm(options: ChatOptions) -> Any:
    """A ``vllm.LLM``. Raises UserError where vLLM is not installed, or the model is no instruct model."""
    require_vllm()
    from vllm import LLM

    path = locate(options)
    require_files(path, options.allow_pickle)
    return LLM(model=str(path), dtype=options.dtype, trust_remote_code=options.trust_remote_code, seed=0)


def vllm_backend(options: ChatOptions, load: Callable[[], Any]) -> Backend:
    """``load``: gives the engine once it is needed. Every call has a seed, yet a row may hang on its neighbours' sums."""

    def run(calls: Sequence[ModelCall], ctx: Context) -> list[Answer]:
        from vllm import SamplingParams

        engine = load()
        longest = engine.llm_engine.model_config.max_model_len
        prompts = [as_tokens(engine.get_tokenizer(), call.messages) for call in calls]
        fits = [at for at, call in enumerate(calls) if len(prompts[at]) + call.max_tokens <= longest]
        parameters = [
            SamplingParams(
                max_tokens=calls[at].max_tokens,
                temperature=calls[at].temperature,
                top_p=calls[at].top_p,
                top_k=options.top_k,
                seed=calls[at].seed,
            )
            for at in fits
        ]
        asked = [{"prompt_token_ids": prompts[at]} for at in fits]
        answers = [Answer(None, "too_long", 0, 0, False)] * len(calls)
        for at, output in zip(fits, engine.generate(asked, parameters, use_tqdm=False) if fits else [], strict=True):
            drawn = output.outputs[0]
            answers[at] = Answer(drawn.text, None, len(prompts[at]), len(drawn.token_ids), False)
        return answers

    return run
