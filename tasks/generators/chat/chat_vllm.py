"""Calls answered by vLLM in this process (extra `vllm`): paged attention, continuous batching, for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from augmill.tasks.contracts import Context, UserError
from augmill.tasks.generators.chat.backend import Answer, Backend, Call
from augmill.tasks.generators.chat.local import as_tokens, locate, require_files
from augmill.tasks.generators.chat.options import ChatOptions


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

    def run(calls: Sequence[Call], ctx: Context) -> list[Answer]:
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
