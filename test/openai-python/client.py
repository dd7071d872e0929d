"""The official OpenAI client for Python against a service that is given, as its users write it.

Usage: client.py BASE_URL API_KEY MODEL [CHECK...]; without names all checks but those of WAITING. Prints one JSON object a line: {"check": name, "said": what it saw}. Who started it
decides whether that is right.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Callable

import httpx
import openai

BASE_URL, API_KEY, MODEL = sys.argv[1:4]
MESSAGES: Any = [{"role": "user", "content": "Grüße aus 世界 🌍"}]


def client(**changes: Any) -> openai.OpenAI:
    return openai.OpenAI(**{"base_url": BASE_URL, "api_key": API_KEY, "max_retries": 0, **changes})


def error_of(call: Callable[[], object]) -> dict[str, Any]:
    """What the client raises, as its users catch it."""
    try:
        call()
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        return {"class": type(error).__name__, "status": error.status_code, "code": error.code,
                "param": error.param, "type": error.type, "message": isinstance(body.get("message"), str)}
    except (openai.APIError, httpx.TimeoutException) as error:
        return {"class": type(error).__name__}
    return {"class": None}


def ask(to: openai.OpenAI, **changes: Any) -> Any:
    return to.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, "max_tokens": 12, **changes})


def plain() -> Any:
    raw = client().chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, max_tokens=12)
    answer = raw.parse()
    usage = answer.usage
    return {"text": answer.choices[0].message.content, "finish": answer.choices[0].finish_reason,
            "tokens": usage and usage.completion_tokens, "job": raw.headers.get("x-request-id"),
            "request_id": answer._request_id}


def stream() -> Any:
    text, finish, tokens = "", None, None
    for part in ask(client(), stream=True, stream_options={"include_usage": True}):
        if part.usage:
            tokens = part.usage.completion_tokens
        for choice in part.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    return {"text": text, "finish": finish, "tokens": tokens}


def stream_helper() -> Any:
    with client().chat.completions.stream(model=MODEL, messages=MESSAGES, max_tokens=12) as events:
        for _ in events:
            pass
        return {"text": events.get_final_completion().choices[0].message.content}


def asynchronous() -> Any:
    async def run() -> Any:
        async with openai.AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0) as to:
            async def one() -> str | None:
                answer = await to.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=12)
                return answer.choices[0].message.content

            async def streamed() -> str:
                text = ""
                async for part in await to.chat.completions.create(
                        model=MODEL, messages=MESSAGES, max_tokens=12, stream=True):
                    text += part.choices[0].delta.content or ""
                return text

            return {"texts": await asyncio.gather(*(one() for _ in range(4)), *(streamed() for _ in range(4)))}

    return asyncio.run(run())


def models() -> Any:
    listed = list(client().models.list())
    return {"ids": [model.id for model in listed], "owners": [model.owned_by for model in listed]}


def gone() -> Any:
    """Leaves a stream after its third piece."""
    answer = client().chat.completions.with_raw_response.create(
        model=MODEL, messages=MESSAGES, max_tokens=2_000, stream=True)
    pieces = 0
    with answer.parse() as parts:
        for _ in parts:
            pieces += 1
            if pieces == 3:
                break
    return {"job": answer.headers.get("x-request-id"), "pieces": pieces}


CHECKS: dict[str, Callable[[], Any]] = {
    "plain": plain,
    "stream": stream,
    "stream helper": stream_helper,
    "async": asynchronous,
    "models": models,
    "unknown model": lambda: error_of(lambda: ask(client(), model="nobody/has-it")),
    "n = 1000": lambda: error_of(lambda: ask(client(), n=1000)),
    "negative max_tokens": lambda: error_of(lambda: ask(client(), max_tokens=-1)),
    "body too large": lambda: error_of(
        lambda: ask(client(), messages=[{"role": "user", "content": "x" * (40 * 1024 * 1024)}])),
    "wrong key": lambda: error_of(lambda: ask(client(api_key="rk-wrong-key"))),
    "gone": gone,
}
# Of these the engine must take longer than half a second to its first word.
WAITING: dict[str, Callable[[], Any]] = {
    "timeout": lambda: error_of(lambda: ask(client(timeout=0.5))),
    "timeout of a stream": lambda: error_of(lambda: list(ask(client(timeout=0.5), stream=True))),
}

for name in sys.argv[4:] or CHECKS:
    print(json.dumps({"check": name, "said": (CHECKS | WAITING)[name]()}), flush=True)
