"""A node of the network in Python, written from docs/protocol.md and test/vectors alone.

    python client.py identity --folder F                                   makes key.jwk, prints the node's id
    python client.py bind --folder F --network N --account A --account-key FILE    mints binding.json
    python client.py receipts --folder F --network N --url URL --file FILE  verifies what `io receipts export` prints
    python client.py run --folder F --network N --url URL                  registers if it must, and serves

`run` prints what happens as one JSON object a line, and ends when it has served `--jobs` of them, on SIGTERM, or when a
newer session of the same node has begun. Key rollover is left out: the protocol's first version has none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import binding
import fields
import jose
import receipts
import session
import trust
from errors import Refused, code_of_reason
from http_api import Declined, now_ms
from node import AGENT_VERSION, Job, Node

ACCEPT_AFTER_S = 0.5
GATHER_S = 0.05
MAX_CHUNK_BYTES = 32_768
SUPERSEDED = 4409


def say(event: str, **members: Any) -> None:
    print(json.dumps({"event": event, **members}), flush=True)


class Lost(Exception):
    """The socket is gone; jobs are kept for the next session."""


class OpenSession:
    """One session, from `ready` to its end."""

    def __init__(
        self, node: Node, socket: ClientConnection, frames: session.Frames, ready: dict[str, Any], expires: int
    ) -> None:
        self.node = node
        self.socket = socket
        self.frames = frames
        self.heartbeat_s = min(max(ready["heartbeat_ms"], 100), 3_600_000) / 1000
        self.expires = expires
        self.changed = asyncio.Event()
        self.acked = 0
        self.cut_after: int | None = None
        self._sending = asyncio.Lock()
        self._nonces: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def send(self, kind: str, payload: dict[str, Any]) -> None:
        async with self._sending:
            try:
                await self.socket.send(self.frames.encode(self.node.key, kind, payload))
            except ConnectionClosed as closed:
                raise Lost(str(closed)) from closed

    async def serve(self, leave: asyncio.Event, jobs: int | None) -> None:
        """Until `leave`, until so many jobs have been acknowledged, or until the socket is lost."""
        await self._resume()
        beating = asyncio.create_task(self._beat())
        leaving = asyncio.create_task(leave.wait())
        try:
            while not leave.is_set() and (jobs is None or self.acked < jobs):
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
                    continue
                receiving.cancel()
                if not done:
                    await self._silent()
            beating.cancel()
            await self.send("goodbye", {"reason": "shutdown"})
            await self.socket.close(1000)
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

    async def _resume(self) -> None:
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
        elif kind == "verdict":
            for verdict in payload["jobs"]:
                self._judge(verdict)
        elif kind == "offer":
            await self._offered(payload)
        elif kind == "cancel":
            self._drop(payload["job"], payload["attempt"])
            say("cancelled", job=payload["job"], reason=payload["reason"])
        else:
            for result in payload["results"]:
                self._acknowledged(result)

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

    def _judge(self, verdict: dict[str, Any]) -> None:
        job = self.node.jobs.get(verdict["job"])
        if job is None or job.offer["attempt"] != verdict["attempt"]:
            return
        say("verdict", job=verdict["job"], action=verdict["action"], offset=verdict["offset"])
        if verdict["action"] == "keep":
            self._relay_from(job, verdict["offset"])
        else:
            self._drop(verdict["job"], verdict["attempt"])

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
        say("offer", job=offer["job"], attempt=offer["attempt"], model=offer["model"], stream=offer["stream"])
        self._relay_from(self.node.take(offer), 0)
        self.changed.set()

    def _relay_from(self, job: Job, offset: int) -> None:
        self._tasks[job.offer["job"]] = asyncio.create_task(self._relay(job, offset))

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
                grown = job.grown.wait_for(lambda: len(job.output) > offset or job.result is not None)
                try:
                    await asyncio.wait_for(grown, None if accepted else ACCEPT_AFTER_S)
                except asyncio.TimeoutError:
                    pass
                data = _whole_characters(bytes(job.output[offset : offset + MAX_CHUNK_BYTES]))
                result = job.result
            if data:
                await self.send("chunk", {**job.lease, "offset": offset, "data": data})
                offset += len(data.encode())
                chunks += 1
                if chunks == self.cut_after:
                    say("cut", job=job.offer["job"], offset=offset)
                    self.socket.transport.abort()
                    return
            elif result is not None:
                await self.send("result", result)
                say("result", job=job.offer["job"], bytes=offset, chunks=chunks)
                return
            elif not accepted:
                await self.send("accept", job.lease)
                say("accept", job=job.offer["job"])
            accepted = True
            if result is None:
                await asyncio.sleep(GATHER_S)

    def _drop(self, job_id: str, attempt: int) -> Job | None:
        job = self.node.forget(job_id, attempt)
        if job is not None:
            task = self._tasks.pop(job_id, None)
            if task is not None:
                task.cancel()
            self.changed.set()
        return job

    def _acknowledged(self, result: dict[str, Any]) -> None:
        job = self._drop(result["job"], result["attempt"])
        if job is None:
            return
        self.acked += 1
        if result["status"] == "committed" and "receipt" in result:
            link = receipts.verify_countersign(result["receipt"], self.frames.peer)
            if job.result is None or link["receipt"] != job.result["receipt"]:
                raise Refused("bad_signature", "the countersignature is over another receipt than was sent")
            with (self.node.folder / "receipts.jsonl").open("a") as file:
                file.write(result["receipt"] + "\n")
            say("receipt", job=result["job"], index=link["index"], metered=link["metered"])
        else:
            say("not-committed", job=result["job"], status=result["status"])


def _whole_characters(raw: bytes) -> str:
    """As text, less the beginning of a character that is not all there."""
    return raw.decode("utf-8", "ignore")


async def dial(node: Node) -> tuple[OpenSession, ClientConnection]:
    """Section 4. Raises ConnectionClosed when the service does not believe the hello."""
    base = node.service.base
    url = f"ws{base.removeprefix('http')}/v1/session"
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
        challenge, ready = await asyncio.wait_for(_handshake(node, socket, url), 15)
    except Refused as refused:
        await socket.close(refused.close_code, refused.reason)
        raise
    node.service.http_seq = max(node.service.http_seq, ready["http_seq"])
    frames = session.Frames(ready["sid"], challenge.delegation.key, fields.SERVICE_KINDS)
    say("ready", epoch=ready["epoch"], release=ready["latest"]["release_sequence"])
    return OpenSession(node, socket, frames, ready, challenge.delegation.expires), socket


async def _handshake(
    node: Node, socket: ClientConnection, url: str
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
    }
    hello = node.key.sign("rn1.hello", fields.checked(said, fields.FRAMES["hello"]))
    await socket.send(hello)
    return challenge, session.believe_ready(_text(await socket.recv()), challenge, hello, said["nonce"])


def _text(message: str | bytes) -> str:
    if isinstance(message, bytes):
        raise Refused("malformed", "a binary message")
    return message


def register(node: Node) -> None:
    """Registers, twice, which must make no difference, and then speaks by HTTP."""
    node.service.register(node.binding, AGENT_VERSION)
    node.service.register(node.binding, AGENT_VERSION)
    say("registered", node_id=node.id)
    node.service.ping(node.id)
    latest = node.service.heartbeat(node.id, node.report())
    say("http", seq=node.service.http_seq, release=latest["release_sequence"])
    try:
        node.service.ping(node.id, seq=node.service.http_seq)
    except Declined as declined:
        say("http-refused", status=declined.status, code=declined.code, signed=declined.signed)


async def run(node: Node, jobs: int | None, cut_after: int | None) -> int:
    leave = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leave.set)
    say("root", version=await asyncio.to_thread(node.sync_root))
    say("config", digest=await asyncio.to_thread(node.sync_config), sequence=node.known_release)
    failures = 0
    registered = False  # since the last wait
    while not leave.is_set():
        socket: ClientConnection | None = None
        try:
            opened, socket = await dial(node)
            failures = 0
            opened.cut_after, cut_after = cut_after, None
            await opened.serve(leave, jobs)
            say("left", code=socket.close_code)
            return 0
        except ConnectionClosed as closed:
            code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
            say("closed", code=code, reason=reason)
            if code == 4401 and code_of_reason(reason) == "unknown_key" and not registered:
                await asyncio.to_thread(register, node)
                registered = True
                continue
        except Lost:
            code, reason = (socket.close_code, socket.close_reason) if socket else (None, None)
            say("closed", code=code, reason=reason)
            if code == SUPERSEDED:
                return 4
        except Refused as refused:
            if socket is not None:
                await socket.close(refused.close_code, refused.reason)
            raise
        await asyncio.sleep(random.uniform(0, min(8 if node.jobs else 64, 2**failures)))
        failures += 1
        registered = False
    return 0


def make_identity(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    key = jose.PrivateKey.generate()
    with os.fdopen(os.open(folder / "key.jwk", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(key.jwk, file)
    print(key.kid)


def bind(folder: Path, network: str, account: str, key_file: Path) -> None:
    """What the holder of the account key does."""
    secret = jose.unb64(key_file.read_text().strip())
    if secret is None or len(secret) != 32:
        raise Refused("malformed", f"{key_file} does not hold an account key, 32 bytes of base64url")
    node_id = jose.private_key(json.loads((folder / "key.jwk").read_text())).kid
    minted = binding.mint_binding(secret, network, account, node_id)
    (folder / "binding.json").write_text(json.dumps(fields.checked(minted, fields.BINDING)))
    print(json.dumps(minted))


def verify_receipts(node: Node, file: Path) -> None:
    """A chain from its first link, with the receipts of this node in it."""
    node.service.latest()
    assert node.service.key is not None
    links = receipts.verify_chain(file.read_text().split(), node.service.key)
    for link in links:
        receipt = receipts.verify_receipt(link["receipt"], node.key.public)
        if receipt["account"] != link["account"] or receipt["node_id"] != node.id:
            raise Refused("wrong_node", f"receipt {link['index']} is another node's or account's")
    print(f"{len(links)} receipts, each by this node: the chain is whole")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("identity", "bind", "run", "receipts"):
        command = commands.add_parser(name)
        command.add_argument("--folder", type=Path, required=True)
        if name != "identity":
            command.add_argument("--network", required=True)
        if name == "bind":
            command.add_argument("--account", required=True)
            command.add_argument("--account-key", type=Path, required=True, help="file that holds it")
        if name in ("run", "receipts"):
            command.add_argument("--url", required=True, help="base URL of the service")
        if name == "receipts":
            command.add_argument("--file", type=Path, required=True, help="one compact JWS a line")
        if name == "run":
            command.add_argument("--jobs", type=int, help="leave after so many")
            command.add_argument("--cut-after", type=int, help="cut the first session after so many chunks")
            command.add_argument("--first-piece-ms", type=int, default=0, help="how long the engine thinks")
            command.add_argument("--piece-ms", type=int, default=10, help="between pieces of its answer")
    given = parser.parse_args()
    try:
        if given.command == "identity":
            make_identity(given.folder)
        elif given.command == "bind":
            bind(given.folder, given.network, given.account, given.account_key)
        elif given.command == "receipts":
            verify_receipts(Node.load(given.folder, given.url, given.network), given.file)
        else:
            node = Node.load(given.folder, given.url, given.network)
            node.first_piece_s, node.piece_s = given.first_piece_ms / 1000, given.piece_ms / 1000
            return asyncio.run(run(node, given.jobs, given.cut_after))
    except (Refused, Declined, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
