"""The client of an endpoint, against a real server that misbehaves: nothing is paid twice, no bound is passed, and

nothing leaves this machine that the recipe does not let go. Redaction: test_redact.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from chain import tiny_recipe
from chain import write_rows as write_source
from chat_server import Act, ChatServer, Seen, as_answer, chat_server, in_turn, packed
from tiny_chat import data_of, endpoint, obedient

from augmill.flows.augment import run_recipe
from augmill.tasks.contracts import Artifact, Context
from augmill.tasks.errors import DeadlineExceeded, StoreError, UserError, WorldError
from augmill.tasks.generators.chat.backend import Answer, ModelCall
from augmill.tasks.generators.chat.endpoint import answer_key, check_endpoint, endpoint_backend
from augmill.tasks.generators.chat.http import LONGEST, Pace, backoff, read_retry_after
from augmill.tasks.generators.chat.options import ChatOptions, Egress, Secret
from augmill.tasks.generators.seq2seq.back_translation import BackTranslationOptions, Pivot
from augmill.tasks.stages.extensions import FitConfig
from augmill.tasks.stages.fit import fit
from augmill.tasks.stages.jobs import pack, unpack
from augmill.tasks.store.attempts import read_attempts
from augmill.tasks.store.store import Store, release_key

CANARY = "sk-canary-5e1f0c9a7b"


def make_calls(count: int, start: int = 0, content: str = "call {}") -> list[ModelCall]:
    return [
        ModelCall(({"role": "user", "content": content.format(n)},), 50, 1.0, 0.9, n, rows=2)
        for n in range(start, start + count)
    ]


class Client:
    """The options of one server, a store, and what was spent."""

    def __init__(self, folder: Path, server: ChatServer | None = None, **options: Any) -> None:
        self.store = Store(str(folder / "store"))
        self.options = ChatOptions(
            **{"model": "m", "backend": "endpoint", "base_url": server.url if server else "", "tries": 2} | options
        )
        self.spent: Counter[str] = Counter()

    def ask(self, calls: list[ModelCall], scope: str = "", **context: Any) -> list[Answer]:
        ctx = Context(0, ("text",), Path(), scratch=self.store.scratch("chat"), **context)
        try:
            return endpoint_backend(self.options, scope)(calls, ctx)
        finally:
            self.spent = Counter(ctx.usage)


def held(folder: Path) -> bytes:
    """Every byte of a store, names too."""
    return b"".join(str(path).encode() + (path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*"))


# --- nothing is paid twice ----------------------------------------------------------------------------------------------


def test_answers_come_in_order_and_a_rerun_asks_nothing(tmp_path: Path) -> None:
    with chat_server() as server:
        client = Client(tmp_path, server)
        calls = make_calls(30)
        first = client.ask([*calls, calls[3]])
        assert (client.spent["requests"], client.spent["rows_sent"], client.spent["tokens"]) == (30, 60, 450)
        assert [answer.text for answer in first] == [answer.text for answer in [*first[:30], first[3]]]
        assert len({answer.text for answer in first}) == 30
        again = client.ask(calls[::-1])
        assert len(server.seen) == 30
    assert [answer.text for answer in again] == [answer.text for answer in first[29::-1]]
    assert all(answer.cached for answer in again) and client.spent == Counter(cached=30)


def test_calls_that_differ_by_the_seed_alone_are_two_also_where_the_server_is_not_told(tmp_path: Path) -> None:
    same = make_calls(1)[0]
    with chat_server() as server:
        client = Client(tmp_path, server, parameters={"seed": "", "max_tokens": "max_completion_tokens"})
        client.ask([same, dataclasses.replace(same, seed=1)])
        sent = [seen.body for seen in server.seen]
    assert len(sent) == 2 and sent[0] == sent[1]
    assert set(sent[0]) == {"model", "messages", "max_completion_tokens", "temperature", "top_p"}
    options = client.options
    moved = dataclasses.replace(options, base_url="http://127.0.0.1:1/v1", api_key=Secret(env="OTHER"))
    assert answer_key(options, same) == answer_key(moved, same)  # neither the host nor the key is part of it
    assert answer_key(options, same) == answer_key(options, dataclasses.replace(same, rows=9))
    others = [dataclasses.replace(same, **{name: 2}) for name in ("max_tokens", "temperature", "top_p", "seed")]
    keys = {answer_key(options, call) for call in [same, *others]}
    assert len(keys) == 5


KILLED = """
import sys
from pathlib import Path
from augmill.tasks.contracts import Context
from augmill.tasks.generators.chat.options import ChatOptions
from augmill.tasks.generators.chat.endpoint import endpoint_backend
from augmill.tasks.store.store import Store
sys.path[:0] = sys.argv[3:]
from test_endpoint import make_calls
options = ChatOptions(model="m", backend="endpoint", base_url=sys.argv[1], max_requests=100)
ctx = Context(0, ("text",), Path(), scratch=Store(sys.argv[2]).scratch("chat"))
endpoint_backend(options)(make_calls(60), ctx)
"""


def test_a_killed_process_pays_again_for_what_was_under_way_alone(tmp_path: Path) -> None:
    with chat_server(lambda seen, number: Act(wait=0.05)) as server:
        client = Client(tmp_path, server, max_requests=100)
        own = Path(__file__).parent
        paths = map(str, (own, own.parent))
        child = subprocess.Popen([sys.executable, "-c", KILLED, server.url, str(tmp_path / "store"), *paths])
        while len(server.seen) < 25:
            assert child.poll() is None
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.wait()
        time.sleep(0.2)  # what the server still had in hand
        before, at_once = len(server.seen), max(seen.at_once for seen in server.seen)
        assert before < 60
        kept = len(client.store.list_keys("private/scratch/chat/answers"))
        answers = client.ask(make_calls(60))
        assert client.spent["cached"] == kept
        asked = Counter(seen.raw for seen in server.seen)
    assert all(answer.text for answer in answers) and len(asked) == 60
    twice = sum(count - 1 for count in asked.values())
    assert set(asked.values()) <= {1, 2} and twice == before - kept <= at_once
    counted = client.store.scratch("chat").keys("budget/all")[-1]
    # What the killed one had taken counts too, sent or on the way.
    assert 60 + twice <= json.loads(client.store.scratch("chat").get(counted) or b"")[0] <= 60 + twice + at_once


def test_of_two_that_ask_the_same_at_once_both_use_the_first_answer(tmp_path: Path) -> None:
    with chat_server(lambda seen, number: Act(wait=0.1, text=f"answer number {number}")) as server:
        clients = [Client(tmp_path, server) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(lambda client: client.ask(make_calls(4)), clients)
        assert len(server.seen) > 4
    assert [answer.text for answer in one] == [answer.text for answer in other]


def test_a_kept_answer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    client = Client(tmp_path, base_url="http://127.0.0.1:1/v1")
    key = answer_key(client.options, make_calls(1)[0])
    client.store.put(f"private/scratch/chat/{key}", b"{}")
    with pytest.raises(StoreError, match=key):
        client.ask(make_calls(1))


def test_a_worker_gets_the_sections_that_the_recipe_has() -> None:
    """They travel as JSON; a section that arrived as a dictionary would fail at its first use."""
    options = ChatOptions(
        "m", backend="endpoint", base_url="https://api.example.com", api_key=Secret(env="KEY"), egress=ALLOWED
    )
    twice = (Pivot("a", "b"), Pivot("c"))
    for name, given in (("chat", options), ("back_translation", BackTranslationOptions(pivots=twice))):
        config = FitConfig(name, 1, given, 0, ("text",), 1)
        job = json.loads(json.dumps(pack(fit, config, [Artifact("split/x", 1, "", "")])))
        assert unpack(job)[1] == config


# --- pace ---------------------------------------------------------------------------------------------------------------


def test_requests_at_once_are_cut_at_429_and_raised_again(tmp_path: Path) -> None:
    """By the server's own record: up to its bound and no further, then down to half or less, then up again."""
    first = 100  # by then, 4 + 5 + ... + 11 answers later, there are as many as may be

    def script(seen: Seen, number: int) -> Act:
        return Act(429 if first <= number < first + 4 else 200, wait=0.04)

    with chat_server(script) as server:
        client = Client(tmp_path, server, max_parallel=12, tries=6)
        answers = client.ask(make_calls(220))
        at_once = [seen.at_once for seen in server.seen]
    assert all(answer.text for answer in answers) and client.spent["retries"] == 4 == client.spent["requests"] - 220
    assert max(at_once[:4]) <= 4 and max(at_once) <= 12 and max(at_once[first - 20 : first]) >= 10
    after = at_once[first + 4 + 12 :]  # those that were under way are done
    assert max(after[:6]) <= 12 // 2 + 1
    assert max(after[-30:]) > max(after[:6])


def test_a_server_that_says_when_is_left_alone_until_then(tmp_path: Path) -> None:
    with chat_server(in_turn(Act(429, headers={"Retry-After": "1"}))) as server:
        answers = Client(tmp_path, server, max_parallel=1).ask(make_calls(3))
        came = [seen.came for seen in server.seen]
    assert all(answer.text for answer in answers) and len(came) == 4
    assert came[1] - came[0] >= 0.95


def test_refusals_of_one_moment_are_one_sign() -> None:
    async def run() -> list[int]:
        pace = Pace(8, logging.getLogger("test"))
        limits = []
        for _ in range(2):
            pace.limit = 8
            epochs = [await pace.enter() for _ in range(8)]
            for epoch in epochs:
                pace.leave()
                pace.cut(epoch, None, "http_429")
            limits.append(pace.limit)
        return limits

    assert asyncio.run(run()) == [4, 4]


def test_too_many_requests_are_no_failure_of_a_call_while_others_are_answered(tmp_path: Path) -> None:
    """One call is refused more often than it has tries, and is answered in the end."""

    def script(seen: Seen, number: int) -> Act:
        unlucky = seen.body["seed"] == 0 and sum(other.body["seed"] == 0 for other in server.seen) <= 3
        return Act(429 if unlucky else 200, wait=0.1)

    with chat_server(script) as server:
        answers = Client(tmp_path, server, max_parallel=4, tries=2).ask(make_calls(40))
        assert len(server.seen) == 43
    assert all(answer.text for answer in answers)


def test_backoff_doubles_up_to_a_bound_and_is_the_calls_own() -> None:
    for failed in range(1, 40):
        most = min(LONGEST, 0.5 * 2 ** (failed - 1))
        waits = {backoff(f"call {n}", failed) for n in range(20)}
        assert len(waits) == 20 and all(most / 2 <= wait <= most for wait in waits)
        assert backoff("call 1", failed) == backoff("call 1", failed)


def test_retry_after_is_seconds_or_a_date_and_never_trusted() -> None:
    assert read_retry_after("7") == 7.0 and read_retry_after("0") == 0.0
    soon = read_retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    assert soon is not None and 85 < soon <= 90
    assert read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    for odd in (None, "", "soon", "-1", "nan", "1e9", "inf", "Wed, 99 Oct 2015 07:28:00 GMT"):
        assert read_retry_after(odd) is None


def test_a_server_that_wants_an_hour_of_peace_ends_the_attempt(tmp_path: Path) -> None:
    with chat_server(lambda seen, number: Act(429, headers={"Retry-After": "3600"})) as server:
        with pytest.raises(WorldError, match="3600 s"):
            Client(tmp_path, server).ask(make_calls(2))
        assert len(server.seen) <= 2


# --- what a server may answer -------------------------------------------------------------------------------------------

GOOD = as_answer("good")
MALFORMED: dict[str, tuple[str, Act]] = {
    "no JSON": ("not_json", Act(body=b"<html>welcome</html>")),
    "cut JSON": ("not_json", Act(body=GOOD[:-3])),
    "not UTF-8": ("not_json", Act(body=b'{"choices": "\xff\xfe"}')),
    "another content type": ("not_json", Act(body=GOOD, headers={"Content-Type": "text/html"})),
    "NaN": ("not_json", Act(body=GOOD.replace(b'"prompt_tokens": 10', b'"prompt_tokens": NaN'))),
    "an infinite number": ("not_json", Act(body=GOOD.replace(b'"prompt_tokens": 10', b'"prompt_tokens": 1e999'))),
    "deep nesting": ("not_json", Act(body=b"[" * 200_000)),
    "an array": ("not_json", Act(body=b"[]")),
    "no choices": ("no_choices", Act(body=b"{}")),
    "empty choices": ("no_choices", Act(body=b'{"choices": []}')),
    "choices of another kind": ("no_choices", Act(body=b'{"choices": {"0": 1}}')),
    "no message": ("no_choices", Act(body=b'{"choices": [{"text": "x"}]}')),
    "null content": ("no_text", Act(body=b'{"choices": [{"message": {"content": null}}]}')),
    "a number": ("no_text", Act(body=b'{"choices": [{"message": {"content": 7}}]}')),
    "empty": ("not_json", Act(body=b"")),
    "too large": ("too_big", Act(body=b" " * (8 << 20) + GOOD)),
    "a bomb": ("too_big", packed(b" " * (64 << 20))),
    "broken gzip": ("too_big", Act(body=b"no gzip", headers={"Content-Encoding": "gzip"})),
    "an unknown packing": ("too_big", Act(body=GOOD, headers={"Content-Encoding": "br"})),
    "a cut connection": ("cut", Act(cut=True)),
    "less than it said": ("cut", Act(body=GOOD, headers={"Content-Length": str(len(GOOD) + 9), "Connection": "close"})),
    "a server error": ("http_500", Act(500, body=b"oops")),
    "slow": ("timeout", Act(wait=0.6)),
    "a drop at a time": ("timeout", Act(drip=0.02)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_answer_is_tried_again_then_a_reason(tmp_path: Path, name: str) -> None:
    """And is never kept: the next run asks again, and a good answer is used."""
    reason, act = MALFORMED[name]
    with chat_server(in_turn(act, act)) as server:
        client = Client(tmp_path, server, timeout=0.3 if reason == "timeout" else 20.0)
        (answer,) = client.ask(make_calls(1))
        assert (answer.text, answer.reason, len(server.seen)) == (None, reason, 2)
        assert client.spent["retries"] == 1 and not client.spent["tokens"]
        assert client.store.list_keys("private/scratch") == []
        (answer,) = client.ask(make_calls(1))
        assert answer.text and len(server.seen) == 3


def test_good_answers_of_every_form_are_read(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "in "}, {"type": "image"}, {"type": "text", "text": "parts"}]
    forms = [
        packed(GOOD),
        Act(body=as_answer("good", choices=[{"message": {"content": parts}}])),
        Act(body=as_answer("good", usage=None)),
        Act(body=as_answer("good", usage={"prompt_tokens": -1, "completion_tokens": 1 << 70})),
        Act(body=GOOD, headers={"Content-Type": "application/json; charset=utf-8"}),
    ]
    with chat_server(in_turn(*forms)) as server:
        client = Client(tmp_path, server, max_parallel=1)
        answers = client.ask(make_calls(5))
    assert [answer.text for answer in answers] == ["good", "in parts", "good", "good", "good"]
    for answer in answers[2:4]:  # a count that cannot be: the most that it can have been
        assert (answer.tokens_in, answer.tokens_out) == (len("call 2") + 32, len("good") + 1)


def test_a_refusal_is_an_answer_that_was_paid_for(tmp_path: Path) -> None:
    said = as_answer("x", choices=[{"message": {"content": None, "refusal": "I cannot do that"}}])
    cut = as_answer("x", choices=[{"message": {"content": "half"}, "finish_reason": "content_filter"}])
    with chat_server(in_turn(Act(body=said), Act(body=cut))) as server:
        client = Client(tmp_path, server, max_parallel=1)
        for _ in range(2):
            answers = client.ask(make_calls(2))
            assert [(a.text, a.reason) for a in answers] == [(None, "refused_by_model"), (None, "content_filter")]
        assert len(server.seen) == 2


def as_error(code: str, message: str = "") -> bytes:
    return json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": code}}).encode()


def test_a_call_that_the_server_refuses_for_good_has_a_reason_and_is_not_tried_again(tmp_path: Path) -> None:
    acts = [
        Act(400, as_error("context_length_exceeded", "maximum context length is 8 tokens")),
        Act(413, b""),
        Act(400, b'{"error": "prompt is too long"}'),
        Act(400, as_error("content_filter")),
        Act(422, as_error("odd")),
        Act(),
    ]
    with chat_server(in_turn(*acts)) as server:
        answers = Client(tmp_path, server, max_parallel=1).ask(make_calls(6))
        assert len(server.seen) == 6
    assert [answer.reason for answer in answers] == [*["too_long"] * 3, "content_filter", "http_422", None]


REFUSED = {
    "the key": (Act(401, as_error("invalid_api_key", f"no such key {CANARY}")), "CHAT_KEY"),
    "no right": (Act(403, b""), "CHAT_KEY"),
    "no money": (Act(402, b""), "asks for payment"),
    "no quota": (Act(429, as_error("insufficient_quota")), "no quota left"),
    "the model": (Act(404, as_error("model_not_found")), "model_not_found"),
    "another address": (
        Act(307, b"", headers={"Location": "https://u:p@other.example/v1?key=1"}),
        "redirects to other.example;",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_request_could_cure_ends_at_once(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    act, said = REFUSED[name]
    monkeypatch.setenv("CHAT_KEY", CANARY)
    with chat_server(lambda seen, number: act) as server:
        client = Client(tmp_path, server, api_key=Secret(env="CHAT_KEY"), max_parallel=1, max_tokens=8 * 15 + 88)
        with pytest.raises(UserError) as refused:
            client.ask(make_calls(9))
        assert len(server.seen) == 1
        assert said in str(refused.value) and CANARY not in str(refused.value)
        server.script = in_turn()
        assert all(answer.text for answer in client.ask(make_calls(9)))  # nothing of it was counted as spent


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_away_is_the_worlds_fault_and_what_was_answered_is_kept(tmp_path: Path, status: int) -> None:
    with chat_server(lambda seen, number: Act(status) if number >= 3 else Act()) as server:
        client = Client(tmp_path, server, max_parallel=1)
        with pytest.raises(WorldError, match=f"http_{status}, 2 times") as away:
            client.ask(make_calls(8))
        assert away.value.retryable and len(server.seen) == 5
        server.script = in_turn()
        client.ask(make_calls(8))
        assert client.spent["cached"] == 3


def test_nobody_at_the_address_is_the_worlds_fault(tmp_path: Path) -> None:
    with chat_server() as server:
        client = Client(tmp_path, server)
    with pytest.raises(WorldError, match="unreachable"):
        client.ask(make_calls(1))


@pytest.mark.parametrize(("act", "kind"), [(Act(500), WorldError), (Act(400), UserError), (Act(body=b"x"), UserError)])
def test_where_no_request_is_ever_answered_it_is_not_the_requests(
    tmp_path: Path, act: Act, kind: type[Exception]
) -> None:
    """Else an outage, or an option that the server does not know, would cost every row of a shard for good."""
    with chat_server(lambda seen, number: act) as server:
        with pytest.raises(kind, match="none of the first 5"):
            Client(tmp_path, server).ask(make_calls(40))
        assert len(server.seen) < 40


def test_the_deadline_ends_the_wait_and_keeps_what_came(tmp_path: Path) -> None:
    with chat_server(lambda seen, number: Act(wait=0.0 if number < 2 else 60.0)) as server:
        client = Client(tmp_path, server, max_parallel=1)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.ask(make_calls(4), deadline=started + 3.0)
        assert time.monotonic() - started < 40
        server.script = in_turn()
        client.ask(make_calls(4))
        assert client.spent["cached"] == 2


# --- budget -------------------------------------------------------------------------------------------------------------


def test_no_more_requests_are_sent_than_the_budget_has_whoever_sends_them(tmp_path: Path) -> None:
    """Two at once, again, and with retries: the server counts. Kept answers are still served, a raised budget goes on."""
    with chat_server(in_turn(*[Act(500)] * 3)) as server:
        clients = [Client(tmp_path, server, max_requests=17, tries=5) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(lambda part: part[0].ask(make_calls(20, part[1])), zip(clients, (0, 20), strict=True)))
        assert len(server.seen) == 17
        reasons = Counter(answer.reason for part in done for answer in part)
        assert reasons == {None: 14, "budget": 26}
        again = Client(tmp_path, server, max_requests=17).ask(make_calls(40))
        assert len(server.seen) == 17 and Counter(answer.reason for answer in again) == reasons
        Client(tmp_path, server, max_requests=20).ask(make_calls(40))
        assert len(server.seen) == 20
        Client(tmp_path, server, max_requests=2).ask(make_calls(5, 100), scope="another fit")
        assert len(server.seen) == 22


def test_tokens_and_money_are_used_up_and_never_passed(tmp_path: Path) -> None:
    """A request costs 15 tokens, at most 38 + 50: it is sent as long as what it may cost has room."""
    bounds: dict[str, dict[str, Any]] = {
        "max_tokens": {"max_tokens": 200},
        "max_cost": {"max_cost": 0.0002, "price_in": 1.0, "price_out": 1.0},
    }
    for name, bound in bounds.items():
        with chat_server(lambda seen, number: Act(wait=0.01)) as server:
            client = Client(tmp_path / name, server, **bound)
            answers = client.ask(make_calls(30))
            spent = sum(answer.tokens_in + answer.tokens_out for answer in answers)
            assert len(server.seen) == (200 - 88) // 15 + 1 == 8  # 7 x 15 + 88 <= 200 < 8 x 15 + 88
            assert spent == 120 == client.spent["tokens"] and Counter(a.reason for a in answers)["budget"] == 22
            assert client.spent["micro_cost"] == (120 if name == "max_cost" else 0)


def test_the_count_goes_on_where_its_beginning_was_tidied_away(tmp_path: Path) -> None:
    """`augmill gc` removes what is older than `retain.requests`, entry by entry."""
    with chat_server() as server:
        client = Client(tmp_path, server, max_requests=6)
        client.ask(make_calls(4))
        for key in client.store.list_keys("private/scratch/chat/budget")[:-1]:
            client.store.delete(key)
        client.ask(make_calls(9))
        assert len(server.seen) == 6


def test_what_an_unknown_answer_may_have_cost_counts_as_spent(tmp_path: Path) -> None:
    """A cut or malformed answer may have been charged; one with an error status was not."""
    with chat_server(in_turn(Act(cut=True), Act(500))) as server:
        client = Client(tmp_path, server, max_tokens=88 + 88 + 14, max_parallel=1, tries=5)
        first, second = client.ask(make_calls(2))
        assert first.text and second.reason == "budget" and len(server.seen) == 3


# --- secrets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["env", "file"])
def test_the_key_is_sent_and_stands_nowhere(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("CHAT_KEY", CANARY)
    (tmp_path / "key").write_text(f"{CANARY}\n")
    secret = Secret(env="CHAT_KEY") if kind == "env" else Secret(file=str(tmp_path / "key"))
    script = in_turn(Act(500), Act(), Act(body=b"x"), Act(401, as_error("bad", f"key {CANARY}")))
    with chat_server(script) as server:
        client = Client(tmp_path, server, api_key=secret, max_parallel=1, max_requests=9, tries=4)
        with pytest.raises(UserError) as refused:
            client.ask(make_calls(4))
        assert {seen.headers["Authorization"] for seen in server.seen} == {f"Bearer {CANARY}"}
        assert not [seen for seen in server.seen if CANARY.encode() in seen.raw]
    told = str(refused.value) + repr(refused.value) + repr(client.options) + caplog.text
    assert client.store.list_keys("private/scratch") and len(caplog.records) > 10
    assert CANARY not in told and CANARY.encode() not in held(tmp_path / "store")


@pytest.mark.slow
def test_a_run_tells_what_it_sent_and_the_key_stands_in_nothing_it_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In worker processes, source to report; again with nothing sent, and the same totals."""
    monkeypatch.setenv("CHAT_KEY", CANARY)
    with chat_server(obedient) as server:
        made = {"use": "chat", **endpoint(server, api_key={"env": "CHAT_KEY"}, rows_per_call=4)}
        source = write_source(tmp_path / "rows.csv", 90)
        changes = {"generators": [made], "run": {"store": str(tmp_path / "store"), "orchestrator": "none"}}
        recipe = tiny_recipe(source, **changes)
        told = [run_recipe(recipe) for _ in range(2)]
        sent = list(server.seen)
    assert all(seen.headers["Authorization"] == f"Bearer {CANARY}" for seen in sent)
    store = Store(str(tmp_path / "store"))
    first, again = [attempt.end or {} for attempt in read_attempts(store, recipe.dataset)["all"]]
    spent = first["spent"]
    assert (spent["requests"], again["spent"]) == (len(sent), {})
    assert spent["rows_sent"] == sum(len(data_of(seen.body["messages"])) for seen in sent) > 0
    assert spent["tokens_in"] == 10 * len(sent) and first["tokens"] == spent["tokens"] == 15 * len(sent)
    release = store.get(release_key(recipe.dataset, told[0]["release"], "provenance.json"))
    assert json.loads(release or b"")["spent"] == {"chat": spent}
    for result in told:
        assert f"sent {len(sent):,} requests" in Path(result["report"]).read_text().replace("</b>", "")
    assert CANARY.encode() not in held(tmp_path / "store") and CANARY not in caplog.text + json.dumps(told)


def test_a_missing_or_odd_key_is_named_by_its_place_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(tmp_path, base_url="http://127.0.0.1:9/v1", api_key=Secret(env="CHAT_KEY"))
    with pytest.raises(UserError, match="environment variable CHAT_KEY; found nothing"):
        check_endpoint(client.options)
    for odd in (f"{CANARY} two", f"{CANARY}\nX-Other: 1", f"{CANARY}\u00e9"):
        monkeypatch.setenv("CHAT_KEY", odd)
        with pytest.raises(UserError, match="CHAT_KEY") as refused:
            check_endpoint(client.options)
        assert CANARY not in str(refused.value)
    for name in ("no/whole/path", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match=r"nowhere|absolute path"):
            check_endpoint(dataclasses.replace(client.options, api_key=Secret(file=name)))


@pytest.mark.parametrize(
    ("where", "said", "fix"),
    [
        ("api_key", CANARY, "{env: NAME}"),
        ("api_key", {"env": CANARY}, "{env: NAME}"),
        ("api_key", [CANARY], "{env: NAME}"),
        ("api_key", {"key": CANARY}, "{env: NAME}"),
        ("base_url", [f"https://me:{CANARY}@api.example.com/v1"], "recipe"),
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(
    tmp_path: Path, where: str, said: object, fix: str
) -> None:
    source = write_source(tmp_path / "rows.csv", 30)
    chat = {"use": "chat", "backend": "endpoint", "model": "m", where: said}
    with pytest.raises(UserError, match=where) as refused:
        tiny_recipe(source, generators=[chat])
    assert CANARY not in str(refused.value) and fix in str(refused.value)
    assert "there are: env, file" in str(refused.value) or said != {"key": CANARY}
    assert CANARY not in egress_problem(f"me:{CANARY}@api.example.com/v1")


def test_what_is_kept_can_be_had_without_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_KEY", CANARY)
    with chat_server() as server:
        client = Client(tmp_path, server, api_key=Secret(env="CHAT_KEY"))
        client.ask(make_calls(2))
    monkeypatch.delenv("CHAT_KEY")
    assert all(answer.cached for answer in client.ask(make_calls(2)))


# --- egress -------------------------------------------------------------------------------------------------------------

ALLOWED = Egress(hosts=("api.example.com",), columns=("text",), redact=("email", "phone"))


def egress_problem(base_url: str, egress: Egress | None = ALLOWED) -> str:
    try:
        check_endpoint(ChatOptions(model="m", backend="endpoint", base_url=base_url, egress=egress))
    except UserError as error:
        return str(error)
    return ""


def test_rows_leave_for_a_listed_host_alone_and_encrypted() -> None:
    assert egress_problem("https://api.example.com/v1") == ""
    assert "does not say what may be sent" in egress_problem("https://api.example.com/v1", None)
    plain = dataclasses.replace(ALLOWED, plain_http=True)
    assert "unencrypted" in egress_problem("http://api.example.com/v1") and not egress_problem(
        "http://api.example.com/v1", plain
    )
    for host in ("example.com", "api.example.com.evil.org", "xapi.example.com", "93.184.216.34", "0x7f.1", "127.1"):
        assert "egress.hosts" in egress_problem(f"https://{host}/v1"), host
    for host in ("10.0.0.1", "0.0.0.0", "localhost.evil.org", "[::ffff:127.0.0.1]", "169.254.169.254"):
        assert "does not say" in egress_problem(f"http://{host}:8000/v1", None), host
    for host in ("127.0.0.1", "127.8.8.8", "localhost", "[::1]"):
        assert not egress_problem(f"http://{host}:8000/v1", None), host


@pytest.mark.parametrize(
    "base_url",
    [
        "https://localhost@api.evil.org/v1",
        "https://api.example.com@evil.org/v1",
        f"https://{CANARY}:x@api.example.com/v1",
        f"https://api.example.com/v1?key={CANARY}",
        f"https://api.example.com/v1#{CANARY}",
        "ftp://api.example.com/v1",
        "api.example.com/v1",
        "https:///v1",
        "https://api.example.com:port/v1",
        "http://[::1/v1",
    ],
)
def test_an_address_that_is_more_or_less_than_one_is_refused(base_url: str) -> None:
    said = egress_problem(base_url)
    assert "base_url" in said or "egress.hosts" in said
    assert CANARY not in said


def test_a_request_itself_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    """Not only by the preflight, which a worker does not run. The address is one where nobody listens to be heard."""
    client = Client(tmp_path, base_url="https://api.example.com/v1")
    with pytest.raises(UserError, match="does not say what may be sent"):
        client.ask(make_calls(1))
    assert not client.spent["requests"]


def test_what_is_sent_and_kept_is_redacted(tmp_path: Path) -> None:
    """Also towards this machine, where the recipe asks for it."""
    text = "write to ann@x.org or +49 171 2345678, {} " + json.dumps({"text": "<bob@y.org>\nann@x.org"})
    call = dataclasses.replace(make_calls(1)[0], messages=({"role": "user", "content": text},) * 2)
    with chat_server() as server:
        client = Client(tmp_path, server, egress=ALLOWED)
        client.ask([call])
        (seen,) = server.seen
    assert b"x.org" not in seen.raw and b"y.org" not in seen.raw and b"2345678" not in seen.raw
    sent = [part["content"] for part in seen.body["messages"]]
    assert sent[0] == sent[1]  # the same value has the same placeholder in all of a call
    assert sent[0] == 'write to [EMAIL_1] or [PHONE_1], {} {"text": "<[EMAIL_2]>\\n[EMAIL_1]"}'
    assert b"x.org" not in held(tmp_path / "store")


def test_a_certificate_that_nobody_vouches_for_ends_it(tmp_path: Path) -> None:
    import ssl

    certificate = write_certificate(tmp_path)
    with chat_server() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        client = Client(tmp_path, base_url=server.url.replace("http:", "https:"))
        with pytest.raises(UserError, match=r"certificate of 127\.0\.0\.1 is not trusted"):
            client.ask(make_calls(1))
        assert not server.seen


def write_certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "certificate.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_name_that_leads_to_a_metadata_address_is_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named in egress.hosts or not: what the name server says afterwards is looked at once the connection stands."""
    import asyncio

    from augmill.tasks.generators.chat.http import _peer

    class Stream:
        def get_extra_info(self, name: str) -> Any:
            return ("169.254.169.254", 80)

    told = {"return_value": Stream()}
    with pytest.raises(UserError, match="never asked"):
        asyncio.run(_peer("api.example.com")("connection.connect_tcp.complete", told))
    with pytest.raises(UserError, match="never asked"):
        _peer("169.254.169.254")
