"""A node that speaks: dials, registers, serves (docs/protocol.md, sections 4, 6.1, 6.3 and 7)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import traceback
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import fields
import jose
import receipts
import refusals
import session
from errors import Refused, code_of_reason
from events import say
from http_api import Declined, now_ms
from node import AGENT_VERSION, Job, Node

ACCEPT_AFTER_S = 0.5
GATHER_S = 0.05
MAX_CHUNK_BYTES = 32_768
SUPERSEDED = 4409


@dataclass
class Options:
    """When to end, and what to do wrong."""

    jobs: int | None = None  # leave after so many
    cut_after: int | None = None  # cut the first session after so many chunks
    die: str | None = None  # "kept": when a result is on the disk; "ack": when one is acknowledged
    probe: bool = False  # try what must be refused


class Lost(Exception):
    """The socket is gone; jobs are kept for the next session."""


class OpenSession:
    """One session, from `ready` to its end. What is said in it is signed by the key that has opened it."""

    def __init__(
        self,
        node: Node,
        options: Options,
        socket: ClientConnection,
        frames: session.Frames,
        ready: dict[str, Any],
        expires: int,
    ) -> None:
        self.node = node
        self.options = options
        self.key = node.service.signer
        self.socket = socket
        self.frames = frames
        self.heartbeat_s = min(max(ready["heartbeat_ms"], 100), 3_600_000) / 1000
        self.expires = expires
        self.changed = asyncio.Event()
        self.acked = 0
        self._sending = asyncio.Lock()
        self._nonces: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def send(self, kind: str, payload: dict[str, Any]) -> None:
        async with self._sending:
            try:
                await self.socket.send(self.frames.encode(self.key, kind, payload))
            except ConnectionClosed as closed:
                raise Lost(str(closed)) from closed

    async def serve(self, leave: asyncio.Event) -> bool:
        """Until `leave`, until enough jobs have been acknowledged, or until the socket is lost.

        False: the node's key has changed, and its jobs go on in a session by the new one.
        """
        await self.resume()
        beating = asyncio.create_task(self._beat())
        leaving = asyncio.create_task(leave.wait())
        try:
            while not leave.is_set() and self.acked != self.options.jobs:
                receiving = asyncio.create_task(self._receive())
                done, _ = await asyncio.wait(
                    [receiving, leaving, beating],
                    timeout=self._patience(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if beating in done:
                    beating.result()
                if receiving in done:
                    await self._handle(*receiving.result())
                    if self.node.service.signer == self.key:
                        continue
                    await self.socket.close(1000)
                    return False
                receiving.cancel()
                if not done:
                    await self._silent()
            beating.cancel()
            await self.send("goodbye", {"reason": "shutdown"})
            await self.socket.close(1000)
            return True
        finally:
            for task in [beating, leaving, *self._tasks.values()]:
                task.cancel()

    def _patience(self) -> float:
        return max(0.0, min(3 * self.heartbeat_s, (self.expires - now_ms()) / 1000))

    async def _silent(self) -> None:
        if now_ms() >= self.expires:
            raise Refused("expired", "the delegation of the service's key has ended")
        await self.socket.close(4408, "nothing heard for three heartbeats")
        raise Lost("nothing heard for three heartbeats")

    async def _receive(self) -> tuple[str, dict[str, Any]]:
        try:
            message = await self.socket.recv()
        except ConnectionClosed as closed:
            raise Lost(str(closed)) from closed
        if isinstance(message, bytes):
            raise Refused("malformed", "a binary message")
        return self.frames.decode(message)

    async def resume(self) -> None:
        held = [job.resume for job in self.node.jobs.values()]
        parts = [held[at : at + 256] for at in range(0, len(held), 256)] or [[]]
        for at, part in enumerate(parts):
            await self.send("resume", {"jobs": part, "last": at == len(parts) - 1})

    async def _beat(self) -> None:
        """At once, at every interval and at each change, but not twice within 100 ms."""
        while True:
            self.changed.clear()
            nonce = jose.random_text(32)
            self._nonces.add(nonce)
            leases = [job.lease for job in self.node.jobs.values() if job.result is None]
            report = self.node.report()
            await self.send("heartbeat", {"time": now_ms(), "nonce": nonce, "report": report, "leases": leases})
            await asyncio.sleep(0.1)
            try:
                await asyncio.wait_for(self.changed.wait(), max(0.0, self.heartbeat_s - 0.1))
            except asyncio.TimeoutError:
                pass

    async def _handle(self, kind: str, payload: dict[str, Any]) -> None:
        if kind == "heartbeat-ack":
            await self._learn(payload)
            await self._follow_key()
        elif kind == "verdict":
            for verdict in payload["jobs"]:
                self._judge(verdict)
        elif kind == "offer":
            await self._offered(payload)
        elif kind == "cancel":
            self._drop(payload["job"], payload["attempt"])
            say("cancelled", job=payload["job"], reason=payload["reason"])
        else:
            if self.options.die == "ack":
                say("died", at="ack")
                os._exit(9)
            for result in payload["results"]:
                self._over(result, result["status"])

    async def _learn(self, payload: dict[str, Any]) -> None:
        latest = payload["latest"]
        if latest["nonce"] not in self._nonces:
            raise Refused("wrong_challenge", "heartbeat-ack echoes a nonce that was not sent")
        self._nonces.discard(latest["nonce"])
        for lost in payload["lost"]:
            self._drop(lost["job"], lost["attempt"])
        held = self.node.release["sequence"] if self.node.release else 0
        if latest["release_sequence"] > held:
            self.node.learn(latest["release_sequence"])
            digest = await asyncio.to_thread(self.node.sync_config)
            say("config", digest=digest, sequence=self.node.known_release)
            self.changed.set()

    async def _follow_key(self) -> None:
        """Whoever keeps the identity may have put another key beside the node's (section 3.6)."""
        keys = self.node.identity.keys
        if keys[0] == self.key and len(keys) == 2:
            await asyncio.to_thread(roll_over, self.node, keys[1], self.options.probe)

    def _judge(self, verdict: dict[str, Any]) -> None:
        job = self.node.jobs.get(verdict["job"])
        if job is None or job.offer["attempt"] != verdict["attempt"]:
            return
        say("verdict", job=verdict["job"], action=verdict["action"], offset=verdict["offset"])
        if verdict["action"] == "keep":
            self._relay_from(job, verdict["offset"])
        else:
            self._over(verdict, verdict["action"])

    async def _offered(self, offer: dict[str, Any]) -> None:
        held = self.node.jobs.get(offer["job"])
        if held is not None:
            if offer["attempt"] <= held.offer["attempt"]:
                return
            self._drop(offer["job"], held.offer["attempt"])
        why_not = self.node.why_not(offer)
        if why_not is not None:
            lease = {name: offer[name] for name in ("job", "attempt", "token")}
            await self.send("nack", {**lease, "code": why_not[0], "reason": why_not[1]})
            return
        told = {name: offer[name] for name in ("job", "attempt", "model", "stream", "durable")}
        say("offer", **told, by="input" if "input" in offer else "body")
        job = self.node.take(offer)
        assert job.work is not None
        job.work.add_done_callback(_end_if_failed)
        self._relay_from(job, 0)
        self.changed.set()

    def _relay_from(self, job: Job, offset: int) -> None:
        task = asyncio.create_task(self._relay(job, offset))
        task.add_done_callback(_end_if_failed)
        self._tasks[job.offer["job"]] = task

    async def _relay(self, job: Job, offset: int) -> None:
        try:
            await self._relay_all(job, offset)
        except Lost:
            pass  # The job is kept; `_receive` notices too.

    async def _relay_all(self, job: Job, offset: int) -> None:
        """Output from `offset` on as it comes, then the result (section 6.3)."""
        chunks = 0
        accepted = offset > 0
        while True:
            async with job.grown:
                grown = job.grown.wait_for(lambda: len(job.output) > offset or job.result or job.nack)
                try:
                    await asyncio.wait_for(grown, None if accepted else ACCEPT_AFTER_S)
                except asyncio.TimeoutError:
                    pass
                result, nack = job.result, job.nack
                data = ""
                if job.offer["stream"] or result is not None:
                    data = _whole_characters(bytes(job.output[offset : offset + MAX_CHUNK_BYTES]))
            if nack is not None:
                await self.send("nack", {**job.lease, "code": nack[0], "reason": nack[1]})
                say("nack", job=job.offer["job"], code=nack[0], reason=nack[1])
                self._drop(job.offer["job"], job.offer["attempt"])
                return
            if offset == 0 and not job.offer["stream"] and len(job.output) > MAX_CHUNK_BYTES and result is not None:
                if not await asyncio.to_thread(self._bring, job):
                    return
                offset = len(job.output)
            elif data:
                await self.send("chunk", {**job.lease, "offset": offset, "data": data})
                offset += len(data.encode())
                chunks += 1
                if chunks == self.options.cut_after:
                    self.options.cut_after = None
                    say("cut", job=job.offer["job"], offset=offset)
                    self.socket.transport.abort()
                    return
            elif result is not None:
                if self.options.die == "kept":
                    say("died", at="kept", job=job.offer["job"])
                    os._exit(9)
                await self.send("result", result)
                say("result", job=job.offer["job"], bytes=offset, chunks=chunks, sha256=result["output_sha256"])
                return
            elif not accepted:
                await self.send("accept", job.lease)
                say("accept", job=job.offer["job"])
            accepted = True
            if result is None:
                await asyncio.sleep(GATHER_S)

    def _bring(self, job: Job) -> bool:
        """The whole output by HTTP (section 7.7). False: the service does not want it from this attempt now."""
        output = bytes(job.output)
        if self.options.probe:
            refusals.before_output(self.node.service, job.lease, output)
        sha256 = hashlib.sha256(output).hexdigest()
        try:
            self.node.service.job_output(job.lease, output, sha256)
        except Declined as declined:
            if declined.code != "E_LEASE_STALE":
                raise
            say("output-refused", job=job.offer["job"], code=declined.code)
            return False
        if self.options.probe:
            refusals.after_output(self.node.service, job.lease, output)
        say("output-brought", job=job.offer["job"], bytes=len(output))
        return True

    def _drop(self, job_id: str, attempt: int) -> Job | None:
        job = self.node.forget(job_id, attempt)
        if job is not None:
            task = self._tasks.pop(job_id, None)
            if task is not None and task is not asyncio.current_task():
                task.cancel()
            self.changed.set()
        return job

    def _over(self, said: dict[str, Any], fate: str) -> None:
        """An ack, or a verdict that ends a job: with `committed` comes the receipt."""
        job = self.node.jobs.get(said["job"])
        if job is None or job.offer["attempt"] != said["attempt"]:
            return
        if fate == "committed" and "receipt" in said:
            link = receipts.verify_countersign(said["receipt"], self.frames.peer)
            if job.result is None or link["receipt"] != job.result["receipt"]:
                raise Refused("bad_signature", "the countersignature is over another receipt than was sent")
            with (self.node.folder / "receipts.jsonl").open("a") as file:
                file.write(said["receipt"] + "\n")
                file.flush()
                os.fsync(file.fileno())
            signer = jose.read(link["receipt"], "rn1.receipt").kid
            say("receipt", job=said["job"], index=link["index"], metered=link["metered"], signer=signer)
        else:
            say("not-committed", job=said["job"], status=fate)
        self._drop(said["job"], said["attempt"])
        self.acked += 1


def _end_if_failed(task: asyncio.Task[None]) -> None:
    """A defect in what runs beside the session ends the process, as one in the session does."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        traceback.print_exception(type(error), error, error.__traceback__)
        os._exit(1)


def _whole_characters(raw: bytes) -> str:
    """As text, less the beginning of a character that is not all there."""
    return raw.decode("utf-8", "ignore")


async def dial(node: Node, options: Options, **wrong: Any) -> OpenSession:
    """Section 4. `wrong` are members of the hello that are not as they should be.

    Raises ConnectionClosed when the service does not believe the hello.
    """
    url = session_url(node)
    socket = await connect(
        url,
        subprotocols=[session.SUBPROTOCOL],
        compression=None,
        max_size=session.MAX_FRAME_BYTES,
        open_timeout=15,
        close_timeout=2,
        ping_interval=None,
    )
    try:
        if socket.subprotocol != session.SUBPROTOCOL:
            raise Refused("version", f"the service has not selected {session.SUBPROTOCOL}")
        challenge, ready = await asyncio.wait_for(_handshake(node, socket, url, wrong), 15)
    except Refused as refused:
        await socket.close(refused.close_code, refused.reason)
        raise
    node.service.http_seq = max(node.service.http_seq, ready["http_seq"])
    frames = session.Frames(ready["sid"], challenge.delegation.key, fields.SERVICE_KINDS)
    say("ready", epoch=ready["epoch"], release=ready["latest"]["release_sequence"], kid=node.service.signer.kid)
    return OpenSession(node, options, socket, frames, ready, challenge.delegation.expires)


def session_url(node: Node) -> str:
    return f"ws{node.service.base.removeprefix('http')}/v1/session"


async def _handshake(
    node: Node, socket: ClientConnection, url: str, wrong: dict[str, Any]
) -> tuple[session.Challenge, dict[str, Any]]:
    challenge = session.believe_challenge(_text(await socket.recv()), node.service.root, now_ms())
    node.service.key = challenge.delegation.key
    said = {
        "version": 1,
        "challenge": challenge.challenge,
        "audience": url,
        "network": node.service.root.network,
        "node_id": node.id,
        "nonce": jose.random_text(32),
        "time": now_ms(),
        "instance": node.instance,
        "agent_version": AGENT_VERSION,
        "release_sequence": node.known_release,
        **wrong,
    }
    hello = node.service.signer.sign("rn1.hello", fields.checked(said, fields.FRAMES["hello"]))
    await socket.send(hello)
    return challenge, session.believe_ready(_text(await socket.recv()), challenge, hello, said["nonce"])


def _text(message: str | bytes) -> str:
    if isinstance(message, bytes):
        raise Refused("malformed", "a binary message")
    return message


def register(node: Node) -> bool:
    """Registers, twice, which must make no difference, and then speaks by HTTP. Whether the service has taken it."""
    key = node.identity.registering_key()
    if key is None:
        say("cannot-register")
        return False
    service = node.service
    service.signer = key
    try:
        service.register(node.identity.binding, node.identity.grant, AGENT_VERSION)
    except Declined as declined:
        say("not-registered", status=declined.status, code=declined.code, signed=declined.signed)
        return False
    service.register(node.identity.binding, node.identity.grant, AGENT_VERSION)
    say("registered", node_id=node.id, kid=key.kid)
    service.ping()
    latest = service.heartbeat(node.report())
    say("http", seq=service.http_seq, release=latest["release_sequence"])
    refusals.attempt("a number that was there before", lambda: service.ping(seq=service.http_seq))
    return True


def roll_over(node: Node, new: jose.PrivateKey, probe: bool) -> None:
    """From the key that signs to `new` (section 3.6)."""
    service = node.service
    old = service.signer
    with service.one:
        if probe:
            refusals.before_key_change(service, old, new)
        body = service.key_change(old, new)
        service.change_key(body, new)
        say("rolled-over", old=old.kid, new=new.kid)
        if probe:
            refusals.after_key_change(service, old, body, node.changes)
        node.changes.append(body)


async def run(node: Node, options: Options) -> int:
    leave = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leave.set)
    say("root", version=await asyncio.to_thread(node.sync_root))
    say("config", digest=await asyncio.to_thread(node.sync_config), sequence=node.known_release)
    failures = 0
    registered = False  # since the last wait
    tried: set[str] = set()  # keys refused since the last wait
    while not leave.is_set():
        if node.service.signer not in node.identity.keys:
            node.service.signer = node.identity.keys[0]
        opened: OpenSession | None = None
        try:
            opened = await dial(node, options)
            failures = 0
            if await opened.serve(leave):
                say("left", code=opened.socket.close_code)
                return 0
            continue
        except ConnectionClosed as closed:
            code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
            say("closed", code=code, reason=reason)
            if code == 4401 and code_of_reason(reason) == "unknown_key":
                tried.add(node.service.signer.kid)
                other = next((key for key in node.identity.keys if key.kid not in tried), None)
                if other is not None:
                    node.service.signer = other
                    continue
                if not registered:
                    registered = True
                    if await asyncio.to_thread(register, node):
                        continue
        except Lost:
            code, reason = (opened.socket.close_code, opened.socket.close_reason) if opened else (None, None)
            say("closed", code=code, reason=reason)
            if code == SUPERSEDED:
                return 4
        except Refused as refused:
            if opened is not None:
                await opened.socket.close(refused.close_code, refused.reason)
            raise
        await asyncio.sleep(random.uniform(0, min(8 if node.jobs else 64, 2**failures)))
        failures += 1
        registered = False
        tried.clear()
    return 0
