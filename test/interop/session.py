"""The agent's end of a session, without its socket (docs/protocol.md, section 4)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Collection

import fields
import jose
import trust
from errors import Refused

MAX_FRAME_BYTES = 262_144
MAX_HELLO_BYTES = 4096
SUBPROTOCOL = "resultity.v1"


@dataclass(frozen=True)
class Challenge:
    """A challenge that is believed."""

    challenge: str
    delegation: trust.Delegation
    text: str


def believe_challenge(text: str, root: trust.Root, now: int) -> Challenge:
    """Section 4.2: the delegation inside names the key that must have signed."""
    jws = jose.read(text, "rn1.challenge", limit=MAX_FRAME_BYTES)
    unverified = fields.checked(jws.json(), fields.FRAMES["challenge"])
    delegation = trust.verify_delegation(root, unverified["delegation"], now)
    payload = jws.verify(delegation.key).json()
    trust.same_network(payload["network"], root.network, "the service")
    trust.check_clock(payload["time"], now)
    return Challenge(payload["challenge"], delegation, text)


def transcript_of(challenge: str, hello: str) -> str:
    return jose.b64(hashlib.sha256(f"{challenge}\n{hello}".encode()).digest())


def believe_ready(text: str, challenge: Challenge, hello: str, nonce: str) -> dict[str, Any]:
    """Section 4.2. `hello` is the frame as it was sent, `nonce` the one in it."""
    jws = jose.read(text, "rn1.ready", limit=MAX_FRAME_BYTES).verify(challenge.delegation.key)
    ready = fields.checked(jws.json(), fields.FRAMES["ready"])
    if ready["transcript"] != transcript_of(challenge.text, hello):
        raise Refused("wrong_transcript", "ready answers another handshake")
    if ready["latest"]["nonce"] != nonce:
        raise Refused("wrong_transcript", "latest of ready echoes another nonce")
    return ready


@dataclass
class Frames:
    """Numbers what one end sends and checks what it gets, from `ready` on (section 4.3).

    `kinds` are those of the other end, `peer` its key.
    """

    sid: str
    peer: jose.PublicKey
    kinds: Collection[str]
    sent: int = 0
    received: int = 0
    _typs: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._typs = [f"rn1.{kind}" for kind in self.kinds]

    def encode(self, key: jose.PrivateKey, kind: str, payload: dict[str, Any]) -> str:
        """The next frame to send. It must leave before the one that is made after it."""
        numbered = {"sid": self.sid, "seq": self.sent + 1, **payload}
        text = key.sign(f"rn1.{kind}", fields.checked(numbered, fields.FRAMES[kind], kind))
        if len(text) > MAX_FRAME_BYTES:
            raise Refused("too_large", f"a frame has at most {MAX_FRAME_BYTES} bytes, this {kind} {len(text)}")
        self.sent += 1
        return text

    def decode(self, text: str) -> tuple[str, dict[str, Any]]:
        """Kind and payload of the next frame that came."""
        jws = jose.read(text, self._typs, limit=MAX_FRAME_BYTES).verify(self.peer)
        kind = jws.typ.removeprefix("rn1.")
        payload = fields.checked(jws.json(), fields.FRAMES[kind])
        if payload["sid"] != self.sid:
            raise Refused("wrong_session", f"this {kind} is of another session")
        if payload["seq"] != self.received + 1:
            raise Refused("sequence", f"frame {payload['seq']} after frame {self.received}")
        self.received += 1
        return kind, payload
