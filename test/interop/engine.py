"""An inference engine that always says the same, for a node that has none."""

from __future__ import annotations

import asyncio
import json
from typing import Any, AsyncIterator

# Beyond ASCII and beyond the basic plane: offsets count bytes, bounds count characters.
ANSWER = ["Grüße", " aus", " 世界", " an", " alle", ",", " die", " zuhören", " 🌍", "."]


def answer_to(prompt: str) -> list[str]:
    """The pieces of the answer: the same ones, then the prompt."""
    return [*ANSWER, " ", prompt]


def _prompt(request: dict[str, Any]) -> str:
    said = request["messages"][-1]["content"]
    return said if isinstance(said, str) else json.dumps(said)


def usage_of(body: str) -> dict[str, int]:
    """One token a piece, and one a character of the prompt."""
    prompt = _prompt(json.loads(body))
    return {"prompt_tokens": len(prompt), "completion_tokens": len(answer_to(prompt))}


async def complete(body: str, stream: bool, wait_s: float, piece_s: float) -> AsyncIterator[str]:
    """Output of `POST /v1/chat/completions`: server-sent events one by one, or the JSON body.

    Waits `wait_s` before the first piece and `piece_s` before each one after it.
    """
    request = json.loads(body)
    prompt = _prompt(request)
    usage = usage_of(body)
    usage["total_tokens"] = sum(usage.values())
    base = {"id": "chatcmpl-interop", "created": 1_767_225_600, "model": request["model"]}
    await asyncio.sleep(wait_s)
    if not stream:
        message = {"role": "assistant", "content": "".join(answer_to(prompt))}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        yield json.dumps({**base, "object": "chat.completion", "choices": [choice], "usage": usage})
        return

    def event(delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = {**base, "object": "chat.completion.chunk", "choices": [choice]}
        return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"

    yield event({"role": "assistant", "content": ""})
    for piece in answer_to(prompt):
        await asyncio.sleep(piece_s)
        yield event({"content": piece})
    yield event({}, "stop")
    if (request.get("stream_options") or {}).get("include_usage"):
        last = {**base, "object": "chat.completion.chunk", "choices": [], "usage": usage}
        yield f"data: {json.dumps(last)}\n\n"
    yield "data: [DONE]\n\n"
