"""What others check than the client, as far as the vectors judge it (docs/protocol.md, sections 3, 4.2 and 12).

The client does not need it. That it could be written from the same document is part of the proof.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from typing import Any, Mapping

import fields
import jose
import session
import trust
from binding import account_mac, binding_mac, grant_mac
from errors import Refused


def believe_hello(
    text: str,
    registered: Mapping[str, tuple[str, jose.PublicKey]],
    challenge: str,
    audience: str,
    network: str,
    now: int,
) -> dict[str, Any]:
    """`registered` maps a kid to its node's id and key."""
    jws = jose.read(text, "rn1.hello", limit=session.MAX_HELLO_BYTES)
    if jws.kid not in registered:
        raise Refused("unknown_key", "no node is registered with this key")
    node_id, key = registered[jws.kid]
    hello = fields.checked(jws.verify(key).json(), fields.FRAMES["hello"])
    if hello["version"] != 1:
        raise Refused("version", f"version {hello['version']} is not served")
    if hello["node_id"] != node_id:
        raise Refused("wrong_node", "the key is another node's")
    if hello["challenge"] != challenge:
        raise Refused("wrong_challenge", "this answers another challenge")
    if hello["audience"] != audience:
        raise Refused("wrong_audience", f"meant for {hello['audience']}")
    trust.same_network(hello["network"], network, "hello")
    trust.check_clock(hello["time"], now)
    return hello


def check_binding(binding: Any, account_key: bytes) -> None:
    """Section 3.4."""
    fields.checked(binding, fields.BINDING, "binding")
    mac = binding_mac(account_key, binding["network"], binding["account"], binding["node_id"])
    if not hmac.compare_digest(mac, binding["mac"]):
        raise Refused("binding", "the binding was not minted with the account's key")


def check_grant(grant: Any, account_key: bytes) -> None:
    """Section 3.7."""
    fields.checked(grant, fields.GRANT, "grant")
    said = [grant[name] for name in ("network", "account", "node_id", "kid", "generation")]
    if not hmac.compare_digest(grant_mac(account_key, *said), grant["mac"]):
        raise Refused("binding", "the grant was not minted with the account's key")


def check_registration(
    body: str, url: str, account_key: bytes | None, network: str, now: int
) -> dict[str, Any]:
    """Section 3.4, in its order. Any nonce of the right length passes, and without `account_key` any MAC."""
    jws = jose.read(body, "rn1.register", limit=131_072)
    nonce = jws.header.get("nonce")
    if not isinstance(nonce, str) or not 16 <= len(nonce) <= 512:
        raise Refused("wrong_challenge", "the registration has no nonce")
    said = fields.checked(jws.json(), fields.REGISTER)
    binding, grant = said["binding"], said.get("grant")
    if account_key is not None:
        check_binding(binding, account_key)
        if grant is not None:
            check_grant(grant, account_key)
    trust.same_network(said["binding"]["network"], network, "the binding")
    if jws.header.get("url") != url:
        raise Refused("wrong_audience", f"meant for {jws.header.get('url')}")
    key = jose.public_key(jws.header.get("jwk"), "unknown_key")
    jws.verify(key)
    if (grant["kid"] if grant else binding["node_id"]) != key.kid:
        raise Refused("wrong_node", "the binding is another node's, or the grant for another key")
    if grant:
        if any(grant[name] != binding[name] for name in ("node_id", "account")):
            raise Refused("wrong_node", "binding and grant are of two nodes or accounts")
        trust.same_network(grant["network"], binding["network"], "the grant")
    trust.check_clock(said["time"], now)
    return said


def check_request(
    body: str,
    typ: str,
    shape: fields.Shape,
    url: str,
    node_id: str,
    key: jose.PublicKey,
    now: int,
    last: int = 0,
) -> dict[str, Any]:
    """Section 3.2, in its order. `last` is the last number taken."""
    jws = jose.read(body, typ, limit=131_072)
    if jws.header.get("url") != url:
        raise Refused("wrong_audience", f"meant for {jws.header.get('url')}")
    try:
        fields.checked(jws.header.get("seq"), fields.FIELD_TYPES["seq"], "seq")
    except Refused as refused:
        raise Refused("sequence", refused.text) from refused
    said = fields.checked(jws.verify(key).json(), shape)
    if said["node_id"] != node_id:
        raise Refused("wrong_node", "the key is another node's")
    if jws.header["seq"] <= last:
        raise Refused("sequence", f"seq {jws.header['seq']} is not greater than {last}")
    trust.check_clock(said["time"], now)
    return said


@dataclass
class KeyKeeper:
    """The keys of nodes as a service keeps them through changes (section 3.6)."""

    url: str
    keys: dict[str, list[jose.PublicKey]]  # of each node, by its id: those it has had, the present one last
    http_seq: dict[str, int]  # of each node: the last number taken

    def change(self, body: str, now: int) -> None:
        jws = jose.read(body, "rn1.key-change", limit=131_072)
        owner = self._owner(jws.kid)
        if owner is None:
            raise Refused("unknown_key", "no node is known by this key")
        had = self.keys[owner]
        signer = next(key for key in had if key.kid == jws.kid)
        former = signer != had[-1]
        last = 0 if former else self.http_seq[owner]
        said = check_request(body, "rn1.key-change", fields.KEY_CHANGE, self.url, owner, signer, now, last)
        new = self._new_key(said, owner, signer, now)
        if former:
            # Only the change that it has made is answered to a former key, whose answer may have been lost.
            if new != had[-1]:
                raise Refused("unknown_key", "the key that signs is a former one")
            return
        if self._owner(new.kid) is not None:
            raise Refused("rollback" if new in had else "wrong_node", "a node has or had this key")
        had.append(new)
        self.http_seq[owner] = jws.header["seq"]

    def _owner(self, kid: str) -> str | None:
        return next((owner for owner, had in self.keys.items() if kid in [key.kid for key in had]), None)

    def _new_key(self, said: dict[str, Any], owner: str, old: jose.PublicKey, now: int) -> jose.PublicKey:
        jws = jose.read(said["new"], "rn1.key-change-new")
        if jws.header.get("url") != self.url:
            raise Refused("wrong_audience", f"the change inside is meant for {jws.header.get('url')}")
        fields.checked(jws.header.get("jwk"), fields.PUBLIC_JWK, "jwk")
        new = jose.public_key(jws.header["jwk"])
        inner = fields.checked(jws.verify(new).json(), fields.KEY_CHANGE_NEW)
        if inner["node_id"] != owner:
            raise Refused("wrong_node", "the change inside is of another node")
        if inner["old_kid"] != old.kid:
            raise Refused("unknown_key", "the change inside is to follow another key")
        if new == old:
            raise Refused("rollback", "the new key is the old one")
        trust.check_clock(inner["time"], now)
        return new


def check_drain(authorization: str, node: jose.PublicKey) -> None:
    """Section 12. Checked by an agent, not by the service."""
    scheme, _, token = authorization.partition(" ")
    if scheme != "Bearer" or not token:
        raise Refused("malformed", "a drain needs authorization: Bearer and the token")
    said = fields.checked(jose.read(token, "rn1.drain").verify(node).json(), fields.DRAIN)
    if said["node_id"] != node.kid:
        raise Refused("wrong_node", "the token of the drain is another node's")


_authorization = re.compile(r"Resultity-Account (\S+) ([0-9]{13}) (\S+) (\S+)")


def check_authorization(header: str, method: str, path: str, account: str, key: bytes, now: int) -> bool:
    """Section 3.5. `account` is the one whose key this is."""
    match = _authorization.fullmatch(header)
    if not match or match[1] != account or not jose.is_bytes(match[3], 32):
        return False
    mac = account_mac(key, account, method, path, int(match[2]), match[3])
    return hmac.compare_digest(mac, match[4]) and abs(int(match[2]) - now) <= trust.MAX_SKEW_MS
