"""Who answers `chat` in tests: a server that writes rows as it is asked to, and a tiny instruct model."""

from __future__ import annotations

import json
import random
import re
import threading
from functools import cache
from pathlib import Path
from typing import Any

import torch
from chat_server import Act, ChatServer, Seen, as_answer
from generating import ROWS
from tiny_seq2seq import folder, seeded

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}" + TEMPLATE


def data_of(messages: Any) -> list[dict[str, str]]:
    """The real rows in a prompt, found as a reader of its system message would find them."""
    block = re.search(r"<data>\n(.*)\n</data>", messages[1]["content"], re.DOTALL)
    return [json.loads(line) for line in block[1].split("\n")] if block else []


def write_rows(seen: Seen) -> list[dict[str, str]]:
    """New rows as they are asked for: a real one each, its numbers and its end by the request's seed."""
    messages, draw = seen.body["messages"], random.Random(seen.body["seed"])
    count = int(re.search(r"exactly (\d+) objects", messages[0]["content"])[1])  # type: ignore[index]
    keys = re.search(r"with the keys? (.*?), whose", messages[0]["content"])[1].split(" and ")  # type: ignore[index]
    rows = data_of(messages)

    def vary(text: str) -> str:
        return re.sub(r"\d+", lambda _: str(draw.randrange(100, 1000)), text) + f" {draw.randrange(10**6)}"

    return [{json.loads(key): vary(draw.choice(rows)[json.loads(key)]) for key in keys} for _ in range(count)]


def obedient(seen: Seen, number: int) -> Act:
    return Act(body=as_answer(json.dumps(write_rows(seen), ensure_ascii=False)))


@cache
def row_server() -> ChatServer:
    """Serves until the process ends."""
    server = ChatServer(obedient)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


def endpoint(server: ChatServer, **more: Any) -> dict[str, Any]:
    """Options that ask it."""
    return {"backend": "endpoint", "model": "tiny", "base_url": server.url, **more}


@cache
def instruct_model(template: str = TEMPLATE) -> Path:
    """A Llama of two layers, untrained. An answer ends with `<|end|>`, as the template's turns do, or with `</s>`."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from augmill.tasks.generators.lm.train import train_tokenizer

    path = folder()
    special = ["<pad>", "<s>", "</s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = train_tokenizer([text for _, _, text, _ in ROWS], special, 350)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = template
    fast.save_pretrained(path)
    with seeded():
        config = LlamaConfig(
            vocab_size=fast.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        for weights in model.parameters():  # so that what it attends to shows in what it draws
            torch.nn.init.normal_(weights, std=0.4)
    model.generation_config.eos_token_id = [2, 3]
    model.save_pretrained(path)
    return path
