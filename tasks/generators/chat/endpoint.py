"""Asks an OpenAI-compatible endpoint. Every answer is kept before it is used, so that none is paid for twice.

What is sent is redacted first, and an answer is kept under the hash of what was sent: `answers/<ab>/<sha256>` in the
scratch space, which holds no key and no host. Of two processes that ask the same, the first answer kept is both's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from augmill.tasks.boundary.hosts import is_loopback
from augmill.tasks.contracts import Context, Scratch
from augmill.tasks.errors import AugmillError, DeadlineExceeded, StoreError, UserError, WorldError
from augmill.tasks.generators.chat.backend import Answer, Backend, ModelCall
from augmill.tasks.generators.chat.http import (
    EVERYONE,
    MALFORMED,
    Pace,
    Reply,
    backoff,
    make_body,
    most_tokens,
    open_client,
    read_secret,
    require_egress,
    send,
)
from augmill.tasks.generators.chat.options import ChatOptions
from augmill.tasks.generators.chat.redact import Redactor

# --- What may still be spent, counted in the store: over all shards, processes and attempts that use one fitted -------
# A log of totals, `budget/<scope>/<number>`, each written put-if-absent after the one before, so that two processes cannot
# both take what is left. What a request may cost at most is taken before it is sent and corrected when its answer is there:
# a process that is killed in between leaves the most that the request can have cost.


Spent = tuple[int, int, int]  # requests, tokens, millionths of the currency
ZERO: Spent = (0, 0, 0)


@dataclass(frozen=True)
class SpendingLimits:
    """Bounds of ``Spent``, None for none, and prices of a million tokens: a token costs so many millionths."""

    bounds: tuple[int | None, int | None, int | None]
    price_in: float
    price_out: float

    @staticmethod
    def of(options: ChatOptions) -> SpendingLimits:
        cost = None if options.max_cost is None else math.floor(options.max_cost * 1e6)
        return SpendingLimits((options.max_requests, options.max_tokens, cost), options.price_in, options.price_out)

    def cost(self, tokens_in: int, tokens_out: int) -> int:
        return math.ceil(tokens_in * self.price_in + tokens_out * self.price_out)


class Budget:
    """Takes and corrects. ``take`` is False once nothing under way could make room any more."""

    def __init__(self, limits: SpendingLimits, scratch: Scratch, scope: str) -> None:
        self.limits, self.scratch, self.place = limits, scratch, f"budget/{scope}"
        self.limited = any(bound is not None for bound in limits.bounds)
        self.total, self.number = ZERO, -1  # of the newest entry known here; -1: not looked yet
        self.owed = ZERO  # corrections that the next entry takes along
        self.outstanding = 0  # taken here and not corrected yet
        self.lock = asyncio.Lock()
        self.settled = asyncio.Event()

    async def take(self, tokens_in: int, tokens_out: int) -> bool:
        """``tokens_in``, ``tokens_out``: the most that the request can cost."""
        if not self.limited:
            return True
        spent = (1, tokens_in + tokens_out, self.limits.cost(tokens_in, tokens_out))
        while True:
            async with self.lock:
                self.settled.clear()
                if await self._write(spent):
                    self.outstanding += 1
                    return True
                if not self.outstanding:
                    return False
            await self.settled.wait()

    def correct(self, most: tuple[int, int], real: tuple[int, int] | None) -> None:
        """(tokens in, tokens out) as taken and as they were; None where nobody knows: then the most counts."""
        if self.limited:
            self.outstanding -= 1
            if real is not None:
                requests, tokens, cost = self.owed
                cost += self.limits.cost(*real) - self.limits.cost(*most)
                self.owed = (requests, tokens + sum(real) - sum(most), cost)
            self.settled.set()

    async def close(self) -> None:
        """Writes the last corrections."""
        async with self.lock:
            if self.owed != ZERO:
                await self._write(ZERO)

    async def _write(self, spent: Spent) -> bool:
        owed = self.owed
        stands = await asyncio.to_thread(self._append, spent, owed)
        if stands:
            now = self.owed  # corrections that came meanwhile stay owed
            self.owed = (now[0] - owed[0], now[1] - owed[1], now[2] - owed[2])
        return stands

    def _append(self, spent: Spent, owed: Spent) -> bool:
        """Whether the entry stands. It is not written where it would pass a bound; corrections alone always are."""
        while True:
            self._catch_up()
            after = (
                self.total[0] + spent[0] + owed[0], self.total[1] + spent[1] + owed[1], self.total[2] + spent[2] + owed[2]
            )  # fmt: skip
            if spent != ZERO and any(b is not None and a > b for a, b in zip(after, self.limits.bounds, strict=True)):
                return False
            if self.scratch.put_if_absent(self._key(self.number + 1), json.dumps(after).encode()):
                self.total, self.number = after, self.number + 1
                return True

    def _catch_up(self) -> None:
        """Reads what other processes wrote: the newest entry by name the first time, then one after the other."""
        if self.number < 0 and (known := self.scratch.keys(self.place)):
            self.number = int(known[-1].rpartition("/")[2]) - 1
        while (raw := self.scratch.get(self._key(self.number + 1))) is not None:
            requests, tokens, cost = json.loads(raw)
            self.total, self.number = (requests, tokens, cost), self.number + 1

    def _key(self, number: int) -> str:
        return f"{self.place}/{number:010d}"


# --- Asking the endpoint ----------------------------------------------------------------------------------------------


HOPELESS = 5  # requests that failed for good while none was answered: then it is not they
MALFORMED_TRIES = 3  # of a request whose answers are no answers
MOST_PATIENCE = 900.0  # seconds that a server may ask to be left alone for


def check_endpoint(options: ChatOptions) -> None:
    """Its part of the preflight, without a byte sent. Raises UserError: the address, the permission, the key."""
    require_egress(options)
    read_secret(options.api_key)


def endpoint_backend(options: ChatOptions, scope: str = "") -> Backend:
    """``scope``: over what the budget is counted: the content of the fit. Its reasons for a call without a text:

    ``budget``, ``too_long``, ``content_filter``, ``refused_by_model``, ``http_<status>``, ``timeout``, ``cut``,
    ``not_json``, ``no_choices``, ``no_text``, ``too_big``. It raises UserError where every request would fail,
    WorldError where the server cannot be had now, DeadlineExceeded; what was answered until then is kept.
    """

    def run(calls: Sequence[ModelCall], ctx: Context) -> list[Answer]:
        url = require_egress(options)
        redacted = [redact(options, call) for call in calls]
        keys = [answer_key(options, call) for call in redacted]
        client = _Endpoint(options, url, ctx, scope)
        try:
            asyncio.run(client.ask(dict(zip(keys, redacted, strict=True))))
        except BaseExceptionGroup as group:  # the first that failed ended the others
            raise first_error(group) from group
        return [client.answers[key] for key in keys]

    return run


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of those that tasks ended with: one of ours before a defect's."""
    leaves = list(_leaves(group))
    return next((error for error in leaves if isinstance(error, AugmillError)), leaves[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def redact(options: ChatOptions, call: ModelCall) -> ModelCall:
    """The call as it may be sent; in all of its messages the same value has the same placeholder."""
    if options.egress is None or not options.egress.redact:
        return call
    redactor = Redactor(options.egress.redact)
    messages = tuple({**part, "content": redactor.apply(part["content"])} for part in call.messages)
    return dataclasses.replace(call, messages=messages)


def answer_key(options: ChatOptions, call: ModelCall) -> str:
    """The hash of what is sent and of the call's seed, which a server may not be told."""
    digest = hashlib.sha256(make_body(options, call) + f"\n{call.seed}".encode()).hexdigest()
    return f"answers/{digest[:2]}/{digest}"


class Memory(Scratch):
    """Where an extension has no space in a store: what is kept ends with the process."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.held.get(key)

    def put_if_absent(self, key: str, value: bytes) -> bool:
        return self.held.setdefault(key, value) is value

    def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self.held if key.startswith(f"{prefix}/"))


class _Endpoint:
    """The calls of one ``run``: a few tasks take them one after the other."""

    def __init__(self, options: ChatOptions, url: Any, ctx: Context, scope: str) -> None:
        self.options, self.url, self.ctx = options, url, ctx
        self.scratch = ctx.scratch or Memory()
        self.limits = SpendingLimits.of(options)
        self.budget = Budget(self.limits, self.scratch, scope or "all")
        self.pace = Pace(options.max_parallel, ctx.log)
        self.answers: dict[str, Answer] = {}
        self.calls = self.answered = self.failed = 0  # requests of this run; calls that have no answer for good
        self.client: Any = None

    async def ask(self, calls: dict[str, ModelCall]) -> None:
        """Raises an ExceptionGroup of AugmillErrors."""
        waiting, self.calls = iter(calls.items()), len(calls)
        try:
            async with asyncio.timeout_at(self.ctx.deadline), asyncio.TaskGroup() as tasks:
                for _ in range(min(len(calls), self.options.max_parallel)):
                    tasks.create_task(self._work(waiting))
        except TimeoutError as error:
            raise self._late() from error
        finally:
            await self.budget.close()
            if self.client is not None:
                await self.client.aclose()

    async def _work(self, waiting: Iterator[tuple[str, ModelCall]]) -> None:
        for key, call in waiting:
            kept = await asyncio.to_thread(self._kept, key)
            self._count(cached=int(kept is not None))
            self.answers[key] = kept or await self._answer(key, call)
            self.ctx.tell(len(self.answers), self.calls, "calls")

    async def _answer(self, key: str, call: ModelCall) -> Answer:
        """Tries until there is an answer for good, which is kept, or no hope of one."""
        failed = malformed = 0
        body, most = make_body(self.options, call), most_tokens(call)
        while True:
            before = self.answered
            reply = await self._try(key, body, call, most, again=failed + malformed > 0)
            if reply is None:
                return Answer(None, "budget", 0, 0, False)
            if reply.answer is not None:
                return await self._take(key, body, call, reply)
            malformed += reply.cause in MALFORMED
            # Too many requests is no failure of this one as long as others are answered meanwhile.
            failed = 1 if reply.cause == "http_429" and self.answered > before and failed else failed + 1
            if failed >= self.options.tries or malformed >= MALFORMED_TRIES:
                return self._give_up(reply.cause)
            await asyncio.sleep(backoff(key, failed))

    async def _try(self, key: str, body: bytes, call: ModelCall, most: tuple[int, int], *, again: bool) -> Reply | None:
        """One request, counted; None where the budget has no room for it."""
        epoch = await self.pace.enter()
        try:
            if not await self.budget.take(*most):
                return None
            self._count(requests=1, retries=int(again), rows_sent=call.rows)
            try:
                async with asyncio.timeout(self.options.timeout):  # in all: httpx's own bound is between two reads
                    reply = await send(self._open(), self.url, body, call, self.options.api_key)
            except TimeoutError:
                reply = Reply(cause="timeout", slow=True)
            except UserError:
                self.budget.correct(most, (0, 0))
                raise
        finally:
            self.pace.leave()
        answer = reply.answer
        real = (0, 0) if reply.free else None if answer is None else (answer.tokens_in, answer.tokens_out)
        self.budget.correct(most, real)
        self._pace(reply, epoch)
        return reply

    def _open(self) -> Any:
        """The key is read when the first request is sent: what is kept can be had without."""
        if self.client is None:
            options = self.options
            secret, loopback = read_secret(options.api_key), is_loopback(self.url.host)
            self.client = open_client(options.timeout, options.max_parallel, secret, loopback=loopback)
        return self.client

    def _pace(self, reply: Reply, epoch: int) -> None:
        if reply.wait is not None and reply.wait > MOST_PATIENCE:
            problem = f"{self.url.host} asks for a pause of {reply.wait:.0f} s"
            raise WorldError(problem, where="endpoint", fix="run it again later; answers so far are kept")
        if reply.slow:
            self.pace.cut(epoch, reply.wait, reply.cause)
        elif reply.answer is not None and not reply.free:
            self.answered += 1
            self.pace.raise_slowly()

    async def _take(self, key: str, body: bytes, call: ModelCall, reply: Reply) -> Answer:
        """An answer that was paid for is kept before anybody sees it; where another process's stands, it is adopted."""
        answer = reply.answer
        assert answer is not None
        if reply.free:  # the server refused this request for good
            return self._give_up(answer.reason or "", reply.cause) if reply.cause else answer
        cost = self.limits.cost(answer.tokens_in, answer.tokens_out)
        tokens = answer.tokens_in + answer.tokens_out
        self._count(tokens=tokens, tokens_in=answer.tokens_in, tokens_out=answer.tokens_out, micro_cost=cost)
        kept = {name: getattr(answer, name) for name in ("text", "reason", "tokens_in", "tokens_out")}
        value = json.dumps({"request": json.loads(body), "seed": call.seed, "answer": kept}, sort_keys=True).encode()
        if await asyncio.to_thread(self.scratch.put_if_absent, key, value):
            return answer
        return await asyncio.to_thread(self._kept, key) or answer

    def _kept(self, key: str) -> Answer | None:
        raw = self.scratch.get(key)
        if raw is None:
            return None
        try:
            return Answer(**json.loads(raw)["answer"], cached=True)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                "a kept answer cannot be read", where=key, fix="remove it; it will be requested again"
            ) from error

    def _give_up(self, cause: str, code: str = "") -> Answer:
        """The reason for a call that has no answer for good. Raises where it is not this call's alone."""
        self.failed += 1
        host, again = self.url.host, "run it again later; answers so far are kept"
        if cause in EVERYONE:
            raise WorldError(
                f"{host} cannot be reached: {cause}, {self.options.tries} times", where="endpoint", fix=again
            )
        if self.failed >= HOPELESS and not self.answered and not any(a.cached for a in self.answers.values()):
            problem = f"{host} answered none of the first {self.failed} requests; the last one: {cause} {code}".rstrip()
            if cause.startswith("http_4") or cause in MALFORMED:
                fix = "check that it supports OpenAI's chat completions, and what it calls its `parameters`"
                raise UserError(problem, where="endpoint", fix=fix)
            raise WorldError(problem, where="endpoint", fix=again)
        self.ctx.log.warning("endpoint: a request failed for good: %s %s", cause, code)
        return Answer(None, cause, 0, 0, False)

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            "the endpoint's answers did not all arrive in time", where="endpoint", fix="raise run.shard_minutes"
        )

    def _count(self, **spent: int) -> None:
        for name, value in spent.items():
            self.ctx.usage[name] = self.ctx.usage.get(name, 0) + value
