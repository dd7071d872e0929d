"""Requests that must be refused, put on purpose between those that must not (docs/protocol.md, sections 3 and 7.7)."""

from __future__ import annotations

import hashlib
from typing import Any, Callable

import jose
from events import say
from http_api import Declined, Service, now_ms


def attempt(what: str, ask: Callable[[], Any]) -> None:
    try:
        ask()
    except Declined as declined:
        say("refused", what=what, status=declined.status, code=declined.code, signed=declined.signed)
    else:
        say("taken", what=what)


def before_key_change(service: Service, old: jose.PrivateKey, new: jose.PrivateKey) -> None:
    """None of these makes `new` the node's key."""
    url = service.key_change_url

    def part(signer: jose.PrivateKey, shown: dict[str, str], url: str = url) -> str:
        said = {"node_id": service.node_id, "old_kid": old.kid, "time": now_ms()}
        return signer.sign("rn1.key-change-new", said, {"url": url, "jwk": shown})

    right = part(new, new.public.jwk)

    def around(what: str, inner: str, signer: jose.PrivateKey = old) -> None:
        attempt(what, lambda: service.post(url, service.key_change_around(inner, signer)))

    attempt("the new key's part alone", lambda: service.post(url, right))
    around("both parts by the new key", right, new)
    around("both parts by the old key", part(old, old.public.jwk))
    around("a change inside a change", service.key_change_around(right, old))
    around("a part for another URL", part(new, new.public.jwk, f"{url}/"))
    around("a part by another key than it shows", part(old, new.public.jwk))
    around("a part that shows the private key", part(new, new.jwk))


def after_key_change(service: Service, old: jose.PrivateKey, body: str, earlier: list[str]) -> None:
    """`body` has made the change from `old` to the key that signs now; `earlier` ones were made before it."""
    url, new = service.key_change_url, service.signer
    attempt("the same change again", lambda: service.post(url, body))
    for change in earlier:
        attempt("an earlier change again", lambda: service.post(url, change))
    another = service.key_change(old, jose.PrivateKey.generate())
    attempt("another change by the former key", lambda: service.post(url, another))
    attempt("back to the former key", lambda: service.post(url, service.key_change(new, old)))
    service.signer = old
    attempt("a ping by the former key", service.ping)
    service.signer = new


def before_input(service: Service, lease: dict[str, Any], sha256: str, size: int) -> None:
    other = {**lease, "token": jose.random_text(16)}
    attempt("an input with another token", lambda: service.job_input(other, sha256, size))
    other = {**lease, "attempt": lease["attempt"] + 1}
    attempt("an input of another attempt", lambda: service.job_input(other, sha256, size))
    other = {**lease, "job": "job-of-somebody-else"}
    attempt("an input of an unknown job", lambda: service.job_input(other, sha256, size))
    attempt("an input by the path of another job", lambda: service.job_input(lease, sha256, size, other["job"]))


def before_output(service: Service, lease: dict[str, Any], output: bytes) -> None:
    """What is refused unread is small: the service may close a connection on which more is still to come."""
    part, sha256 = output[:1000], hashlib.sha256(output).hexdigest()
    other = {**lease, "token": jose.random_text(16)}
    of_part = hashlib.sha256(part).hexdigest()
    attempt("an output with another token", lambda: service.job_output(other, part, of_part))
    url = f"{service.base}/v1/nodes/jobs/{lease['job']}/output"
    attempt("an output without a request", lambda: service.put(url, part, {}))
    attempt("an output of another hash", lambda: service.job_output(lease, output, "0" * 64))
    attempt("an output that is cut", lambda: service.job_output(lease, output[:-1], sha256, len(output)))


def after_output(service: Service, lease: dict[str, Any], output: bytes) -> None:
    sha256 = hashlib.sha256(output).hexdigest()
    attempt("the same output again", lambda: service.job_output(lease, output, sha256))
    other = output[:-1]
    attempt("another output after it", lambda: service.job_output(lease, other, hashlib.sha256(other).hexdigest()))
