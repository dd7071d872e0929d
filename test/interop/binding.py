"""What is made with an account's key (docs/protocol.md, sections 3.4, 3.5 and 3.7). An agent never has it."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import jose


def _mac(key: bytes, *lines: str) -> str:
    return jose.b64(hmac.new(key, "\n".join(lines).encode(), hashlib.sha256).digest())


def binding_mac(key: bytes, network: str, account: str, node_id: str) -> str:
    return _mac(key, "rn1.binding", network, account, node_id)


def grant_mac(key: bytes, network: str, account: str, node_id: str, kid: str, generation: int) -> str:
    return _mac(key, "rn1.grant", network, account, node_id, kid, str(generation))


def account_mac(key: bytes, account: str, method: str, path: str, time: int, nonce: str) -> str:
    """`path` with its query, `time` in milliseconds."""
    return _mac(key, "rn1.account", account, method, path, str(time), nonce)


def mint_binding(key: bytes, network: str, account: str, node_id: str) -> dict[str, str]:
    """Binds a node to an account."""
    mac = binding_mac(key, network, account, node_id)
    return {"network": network, "account": account, "node_id": node_id, "mac": mac}


def mint_grant(key: bytes, network: str, account: str, node_id: str, kid: str, generation: int) -> dict[str, Any]:
    """Makes a key that of a node from now on."""
    mac = grant_mac(key, network, account, node_id, kid, generation)
    return {
        "network": network,
        "account": account,
        "node_id": node_id,
        "kid": kid,
        "generation": generation,
        "mac": mac,
    }


def authorization(key: bytes, account: str, method: str, path: str, time: int) -> str:
    """The header of an account's request."""
    nonce = jose.random_text(32)
    return f"Resultity-Account {account} {time} {nonce} {account_mac(key, account, method, path, time, nonce)}"
