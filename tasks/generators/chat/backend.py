"""What `chat` asks of whatever answers: calls in, answers out, in order.

Three backends, each made of the options (_chat_options.py): `_chat_local.local_backend`, `_chat_vllm.vllm_backend`,
`_endpoint.endpoint_backend(options) -> Backend`, whose `check_endpoint(options)` is its part of the preflight.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from augmill.tasks.contracts import Context


@dataclass(frozen=True)
class ModelCall:
    """One request to a model. ``messages``: ``{"role": "system" | "user", "content": text}`` each.

    ``seed`` has 31 bits, what every server takes. ``rows``: how many real rows the messages hold; it is for counting
    and no part of what is asked.
    """

    messages: tuple[dict[str, str], ...]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    rows: int = 0


@dataclass(frozen=True)
class Answer:
    """What came back: a text, or None and the reason why this call has none for good (``budget``, ``too_long``, ...).

    ``cached``: it was kept from before and cost nothing now; the tokens are then what it cost once.
    """

    text: str | None
    reason: str | None
    tokens_in: int
    tokens_out: int
    cached: bool


# Answers stand in the order of the calls. What it spends a backend counts in ``ctx.usage`` itself.
Backend = Callable[[Sequence[ModelCall], Context], list[Answer]]


def call_key(model: str, call: ModelCall) -> str:
    """Under what an answer is kept: the model and all that is asked of it."""
    asked = {"model": model, **dataclasses.asdict(call)}
    del asked["rows"]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def keep_answers(backend: Backend, model: str, calls_at_a_time: int) -> Backend:
    """A backend that looks into ``ctx.scratch`` first and keeps there what ``backend`` answers, part by part.

    So shards that share a call, and an attempt after a killed one, compute it once; of two processes the first to
    finish is adopted by the other. ``model`` tells models apart. Calls without a text are not kept.
    """

    def run(calls: Sequence[ModelCall], ctx: Context) -> list[Answer]:
        keys = [call_key(model, call) for call in calls]
        found = {key: answer for key in dict.fromkeys(keys) if (answer := _kept(ctx, key)) is not None}
        ctx.usage["cached"] = ctx.usage.get("cached", 0) + len(found)
        missing = {key: call for key, call in zip(keys, calls, strict=True) if key not in found}
        todo = list(missing)
        for start in range(0, len(todo), calls_at_a_time):
            part = todo[start : start + calls_at_a_time]
            own = ctx.part(len(found), len(found) + len(part), len(found) + len(todo) - start, "calls")
            for key, answer in zip(part, backend([missing[key] for key in part], own), strict=True):
                spent = answer.tokens_in + answer.tokens_out
                ctx.usage["tokens"] = ctx.usage.get("tokens", 0) + spent
                found[key] = _keep(ctx, key, answer)
        return [found[key] for key in keys]

    return run


def _kept(ctx: Context, key: str) -> Answer | None:
    known = ctx.scratch.get(_place(key)) if ctx.scratch else None
    return None if known is None else Answer(**json.loads(known), reason=None, cached=True)


def _keep(ctx: Context, key: str, answer: Answer) -> Answer:
    if ctx.scratch is None or answer.text is None:
        return answer
    kept = {"text": answer.text, "tokens_in": answer.tokens_in, "tokens_out": answer.tokens_out}
    if ctx.scratch.put_if_absent(_place(key), json.dumps(kept, sort_keys=True).encode()):
        return answer
    return _kept(ctx, key) or answer


def _place(key: str) -> str:
    return f"computed/{key[:2]}/{key}"
