"""Sessions and requests of a node that break the rules, one after another (docs/protocol.md, sections 3.2, 4 and 9)."""

from __future__ import annotations

import asyncio
from typing import Any, Awaitable, Callable

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import jose
from agent import OpenSession, Options, dial, register, session_url
from events import say
from http_api import Declined, now_ms
from node import Node
from refusals import attempt

HOUR_MS = 3_600_000


async def run(node: Node) -> None:
    """With a node that is not registered yet."""
    service = node.service
    await asyncio.to_thread(service.latest)  # tells the service's key
    attempt("a ping before the registration", service.ping)
    await upgrade_without(node)
    await hello(node, "a hello before the registration")
    if not register(node):
        return
    await hello(node, "a hello of version 2", version=2)
    await hello(node, "a hello for another URL", audience=f"{session_url(node)}/")
    await hello(node, "a hello of another network", network="elsewhere")
    await hello(node, "a hello of an hour ago", time=now_ms() - HOUR_MS)
    await hello(node, "a hello to another challenge", challenge=jose.random_text(32))
    await hello(node, "a hello of another node", node_id=jose.random_text(32))

    async def skip(opened: OpenSession) -> None:
        opened.frames.sent += 1
        await opened.send("goodbye", {"reason": "shutdown"})

    async def elsewhere(opened: OpenSession) -> None:
        opened.frames.sid = jose.random_text(16)
        await opened.send("goodbye", {"reason": "shutdown"})

    async def mirror(opened: OpenSession) -> None:
        await opened.send("verdict", {"jobs": [], "last": True})

    async def another_key(opened: OpenSession) -> None:
        opened.key = jose.PrivateKey.generate()
        await opened.send("goodbye", {"reason": "shutdown"})

    await frame(node, "a skipped number", skip)
    await frame(node, "another session's frame", elsewhere)
    await frame(node, "a frame of the service sent back", mirror)
    await frame(node, "a frame by another key", another_key)
    await frame(node, "a resume after the last one", lambda opened: opened.resume())
    await frame(node, "a binary message", lambda opened: opened.socket.send(b"x"))

    await conflict(node)
    attempt("a ping of an hour ago", lambda: service.ping(time=now_ms() - HOUR_MS))
    attempt("a ping of another node", lambda: service.ping(node_id=jose.random_text(32)))
    attempt("a ping without time", lambda: service.ping(time="now"))
    url = f"{service.base}/v1/nodes/ping"
    header = {"url": f"{url}/", "seq": service.http_seq + 1}
    said = {"node_id": node.id, "time": now_ms()}
    attempt("a ping for another URL", lambda: service.post(url, service.signer.sign("rn1.ping", said, header)))
    too_many(node)


async def upgrade_without(node: Node) -> None:
    for what, offered in (("no subprotocol", None), ("another subprotocol", ["resultity.v2"])):
        try:
            async with connect(session_url(node), subprotocols=offered):
                say("taken", what=what)
        except InvalidStatus as refused:
            say("refused", what=what, status=refused.response.status_code)


async def hello(node: Node, what: str, **wrong: Any) -> None:
    try:
        opened = await dial(node, Options(), **wrong)
    except ConnectionClosed as closed:
        say("closed", what=what, code=closed.rcvd.code, reason=closed.rcvd.reason)
    else:
        await opened.socket.close(1000)
        say("taken", what=what)


async def conflict(node: Node) -> None:
    """A process comes back while another one has its place (section 4.2)."""
    await asyncio.sleep(3)  # a node may open one session a second
    former, present = jose.random_text(16), jose.random_text(16)
    first = await dial(node, Options(), instance=former)
    second = await dial(node, Options(), instance=present)
    await asyncio.wait_for(first.socket.wait_closed(), 5)
    say("closed", what="an older session", code=first.socket.close_code, reason=first.socket.close_reason)
    await hello(node, "a process that another one follows", instance=former)
    await second.socket.close(1000)


async def frame(node: Node, what: str, act: Callable[[OpenSession], Awaitable[None]]) -> None:
    """A session in order up to a frame that is not."""
    opened = await dial(node, Options())
    await opened.resume()
    await opened.socket.recv()  # the verdict
    await act(opened)
    await asyncio.wait_for(opened.socket.wait_closed(), 5)
    say("closed", what=what, code=opened.socket.close_code, reason=opened.socket.close_reason)


def too_many(node: Node) -> None:
    """More requests than a node may make at once (section 9)."""
    for sent in range(40):
        try:
            node.service.ping()
        except Declined as declined:
            say("refused", what="too many pings", status=declined.status, sent=sent)
            return
    say("taken", what="too many pings")
