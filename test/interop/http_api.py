"""What a node says and asks by HTTP (docs/protocol.md, sections 2.6, 3 and 7.7)."""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Mapping

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


Answer = tuple[int, str, bytes]
JOSE = {"content-type": "application/jose"}


def call(url: str, body: bytes | None = None, headers: Mapping[str, str] = {}, method: str | None = None) -> Answer:
    """Status, content type and body. An answer of any status is an answer."""
    request = urllib.request.Request(url, data=body, headers=dict(headers), method=method)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.headers.get_content_type(), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get_content_type(), error.read()


def upload(url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    """A PUT. The service may refuse it before it has read the body, and break off what is still being sent."""
    where = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
    connection = kind(where.netloc, timeout=TIMEOUT_S)
    try:
        try:
            connection.request("PUT", where.path, body, dict(headers))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the answer says why, if it has come
        answer = connection.getresponse()
        return answer.status, answer.headers.get_content_type(), answer.read()
    finally:
        connection.close()


@dataclass
class Service:
    """The service as a node reaches it by HTTP.

    `signer` is the key that the node signs with now. `key` is the service's, once a challenge or `latest` has told it;
    `http_seq` the last number that it has accepted. One request at a time, so that numbers arrive in their order.
    """

    base: str
    root: trust.Root
    node_id: str
    signer: jose.PrivateKey
    key: jose.PublicKey | None = None
    http_seq: int = 0
    one: threading.RLock = field(default_factory=threading.RLock)

    def get(self, path: str) -> bytes:
        status, _, body = call(f"{self.base}{path}")
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

    def register(self, binding: dict[str, str], grant: dict[str, Any] | None, agent_version: str) -> None:
        """Sections 3.4 and 3.7."""
        nonce = strict_json.parse(self.get("/v1/nodes/nonce"))["nonce"]
        url = f"{self.base}/v1/nodes/register"
        said = {"binding": binding, "agent_version": agent_version, "time": now_ms()}
        if grant is not None:
            said["grant"] = grant
        header = {"url": url, "nonce": nonce, "jwk": self.signer.public.jwk}
        answer = self.post(url, self.signer.sign("rn1.register", said, header))
        self._same_key(answer, self.signer)

    def ping(self, seq: int | None = None, **members: Any) -> dict[str, Any]:
        """`seq`: another number than the next one. `members` of the payload that are not as they should be."""
        return self._say("ping", "rn1.ping", {**self._now(), **members}, seq)

    def heartbeat(self, report: dict[str, Any]) -> dict[str, Any]:
        """The report by HTTP, for while the socket is down. Returns `latest`."""
        nonce = jose.random_text(32)
        said = {**self._now(), "nonce": nonce, "report": report}
        fields.checked(said, fields.HTTP_HEARTBEAT)
        latest = self._say("heartbeat", "rn1.http-heartbeat", said).get("latest")
        if latest is None or latest["nonce"] != nonce:
            raise Refused("wrong_challenge", "the answer to a heartbeat does not echo its nonce")
        return latest

    @property
    def key_change_url(self) -> str:
        return f"{self.base}/v1/nodes/key-change"

    def key_change(self, old: jose.PrivateKey, new: jose.PrivateKey) -> str:
        """A request that makes `new` the node's key, which is `old` (section 3.6)."""
        inner = {"node_id": self.node_id, "old_kid": old.kid, "time": now_ms()}
        header = {"url": self.key_change_url, "jwk": new.public.jwk}
        made = new.sign("rn1.key-change-new", fields.checked(inner, fields.KEY_CHANGE_NEW), header)
        return self.key_change_around(made, old)

    def key_change_around(self, new: str, old: jose.PrivateKey) -> str:
        """The request by the old key around the part by the new one."""
        said = fields.checked({**self._now(), "new": new}, fields.KEY_CHANGE)
        return old.sign("rn1.key-change", said, {"url": self.key_change_url, "seq": self.http_seq + 1})

    def change_key(self, body: str, new: jose.PrivateKey) -> None:
        """Sends what `key_change` has made. What the node signs from then on, it signs with `new`."""
        self._same_key(self.post(self.key_change_url, body), new)
        self.signer = new

    def job_input(self, lease: dict[str, Any], sha256: str, size: int, path: str | None = None) -> bytes:
        """Section 7.7. The bytes are not signed: what the offer says of them is. `path`: another job's."""
        url = f"{self.base}/v1/nodes/jobs/{path or lease['job']}/input"
        with self.one:
            seq = self.http_seq + 1
            said = fields.checked({**self._now(), **lease}, fields.JOB_INPUT)
            jws = self.signer.sign("rn1.job-input", said, {"url": url, "seq": seq})
            status, content_type, body = call(url, jws.encode(), JOSE)
            if status != 200:
                self._believe(status, content_type, body)
                raise Declined(status, "http", "a refusal without an error", signed=True)
            self.http_seq = max(self.http_seq, seq)
        if len(body) != size or hashlib.sha256(body).hexdigest() != sha256:
            raise Refused("digest_mismatch", f"the input of {lease['job']} is not the one of its offer")
        return body

    def job_output(self, lease: dict[str, Any], output: bytes, sha256: str, size: int | None = None) -> None:
        """Section 7.7. `sha256` and `size` are those of the output."""
        url = f"{self.base}/v1/nodes/jobs/{lease['job']}/output"
        with self.one:
            said = {**self._now(), **lease, "sha256": sha256, "size": len(output) if size is None else size}
            fields.checked(said, fields.JOB_OUTPUT)
            jws = self.signer.sign("rn1.job-output", said, {"url": url, "seq": self.http_seq + 1})
            self.put(url, output, {"resultity-request": jws})

    def put(self, url: str, body: bytes, headers: dict[str, str]) -> None:
        self._believe(*upload(url, body, {"content-type": "application/octet-stream", **headers}))

    def _now(self) -> dict[str, Any]:
        return {"node_id": self.node_id, "time": now_ms()}

    @staticmethod
    def _same_key(answer: dict[str, Any], key: jose.PrivateKey) -> None:
        if answer.get("kid") != key.kid:
            raise Refused("unknown_key", f"the service has {answer.get('kid')} as the node's key, not {key.kid}")

    def _say(self, path: str, typ: str, said: dict[str, Any], seq: int | None = None) -> dict[str, Any]:
        url = f"{self.base}/v1/nodes/{path}"
        with self.one:
            header = {"url": url, "seq": self.http_seq + 1 if seq is None else seq}
            return self.post(url, self.signer.sign(typ, said, header))

    def post(self, url: str, jws: str) -> dict[str, Any]:
        """What the service answers, believed. Raises Declined where it refuses."""
        with self.one:
            return self._believe(*call(url, jws.encode(), JOSE))

    def _believe(self, status: int, content_type: str, body: bytes) -> dict[str, Any]:
        if content_type != "application/jose":
            code, message = _unsigned_error(body)
            raise Declined(status, code, message, signed=False)
        if self.key is None:
            raise Refused("unknown_key", "the service's key is not known, so its answer cannot be believed")
        read = jose.read(body.decode("ascii", "replace"), "rn1.http-answer", limit=131_072).verify(self.key)
        answer = fields.checked(read.json(), fields.HTTP_ANSWER)
        if answer["node_id"] != self.node_id:
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
