"""What a node says and asks by HTTP (docs/protocol.md, sections 2.6 and 3)."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import fields
import jose
import strict_json
import trust
from errors import Refused

TIMEOUT_S = 10


def now_ms() -> int:
    return int(time.time() * 1000)


class Declined(Exception):
    """The service has refused a request: `code` as it says, believed only if `signed`."""

    def __init__(self, status: int, code: str, message: str, signed: bool) -> None:
        super().__init__(f"HTTP {status} {code}: {message}")
        self.status = status
        self.code = code
        self.signed = signed


def _call(url: str, body: str | None = None) -> tuple[int, str, bytes]:
    """Status, content type and body. An answer of any status is an answer."""
    request = urllib.request.Request(url, data=None if body is None else body.encode())
    if body is not None:
        request.add_header("content-type", "application/jose")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.headers.get_content_type(), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get_content_type(), error.read()


@dataclass
class Service:
    """The service as a node reaches it by HTTP.

    `key` is the service's, once a challenge or `latest` has told it; `http_seq` the last number that it has accepted.
    """

    base: str
    root: trust.Root
    node: jose.PrivateKey
    key: jose.PublicKey | None = None
    http_seq: int = 0

    def get(self, path: str) -> bytes:
        status, _, body = _call(f"{self.base}{path}")
        if status != 200:
            raise Declined(status, "http", f"GET {path}: {body[:200]!r}", signed=False)
        return body

    def root_statement(self) -> Any:
        return trust.read_statement(self.get("/v1/config/root"))

    def release(self, known: int) -> dict[str, Any]:
        """The newest release, verified."""
        statement = trust.read_statement(self.get("/v1/config/release"))
        return trust.verify_release(self.root, statement, known)

    def snapshot(self, digest: str) -> dict[str, Any]:
        return trust.verify_snapshot(self.get(f"/v1/config/snapshots/{digest}"), digest, self.root.network)

    def latest(self) -> dict[str, Any]:
        """What the service says to be current. Its key is known from then on."""
        nonce = jose.random_text(32)
        body = strict_json.parse(self.get(f"/v1/config/latest?nonce={nonce}"))
        latest, delegation = trust.verify_latest(body, self.root, nonce, now_ms())
        self.key = delegation.key
        return latest

    def register(self, binding: dict[str, str], agent_version: str) -> dict[str, Any]:
        """Section 3.4."""
        nonce = strict_json.parse(self.get("/v1/nodes/nonce"))["nonce"]
        url = f"{self.base}/v1/nodes/register"
        said = {"binding": binding, "agent_version": agent_version, "time": now_ms()}
        header = {"url": url, "nonce": nonce, "jwk": self.node.public.jwk}
        return self._post(url, self.node.sign("rn1.register", said, header))

    def ping(self, node_id: str, seq: int | None = None) -> dict[str, Any]:
        """`seq`: another number than the next one."""
        return self._say("ping", "rn1.ping", {"node_id": node_id, "time": now_ms()}, seq)

    def heartbeat(self, node_id: str, report: dict[str, Any]) -> dict[str, Any]:
        """The report by HTTP, for while the socket is down. Returns `latest`."""
        nonce = jose.random_text(32)
        said = {"node_id": node_id, "time": now_ms(), "nonce": nonce, "report": report}
        fields.checked(said, fields.HTTP_HEARTBEAT)
        latest = self._say("heartbeat", "rn1.http-heartbeat", said).get("latest")
        if latest is None or latest["nonce"] != nonce:
            raise Refused("wrong_challenge", "the answer to a heartbeat does not echo its nonce")
        return latest

    def _say(self, path: str, typ: str, said: dict[str, Any], seq: int | None = None) -> dict[str, Any]:
        url = f"{self.base}/v1/nodes/{path}"
        header = {"url": url, "seq": self.http_seq + 1 if seq is None else seq}
        return self._post(url, self.node.sign(typ, said, header))

    def _post(self, url: str, jws: str) -> dict[str, Any]:
        status, content_type, body = _call(url, jws)
        if content_type != "application/jose":
            code, message = _unsigned_error(body)
            raise Declined(status, code, message, signed=False)
        if self.key is None:
            raise Refused("unknown_key", "the service's key is not known, so its answer cannot be believed")
        read = jose.read(body.decode("ascii", "replace"), "rn1.http-answer", limit=131_072).verify(self.key)
        answer = fields.checked(read.json(), fields.HTTP_ANSWER)
        if answer["node_id"] != self.node.kid:
            raise Refused("wrong_node", "the answer is to another node")
        self.http_seq = max(self.http_seq, answer["http_seq"])
        if "error" in answer:
            raise Declined(status, answer["error"]["code"], answer["error"]["message"], signed=True)
        return answer


def _unsigned_error(body: bytes) -> tuple[str, str]:
    try:
        error = json.loads(body)["error"]
        return str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return "http", repr(body[:200])
