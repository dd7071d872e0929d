"""What is made with an account's key (docs/protocol.md, sections 3.4 and 3.5). An agent never has it."""

from __future__ import annotations

import hashlib
import hmac

import jose


def _mac(key: bytes, *lines: str) -> str:
    return jose.b64(hmac.new(key, "\n".join(lines).encode(), hashlib.sha256).digest())


def binding_mac(key: bytes, network: str, account: str, node_id: str) -> str:
    return _mac(key, "rn1.binding", network, account, node_id)


def account_mac(key: bytes, account: str, method: str, path: str, time: int, nonce: str) -> str:
    """`path` with its query, `time` in milliseconds."""
    return _mac(key, "rn1.account", account, method, path, str(time), nonce)


def mint_binding(key: bytes, network: str, account: str, node_id: str) -> dict[str, str]:
    """Binds a node to an account."""
    mac = binding_mac(key, network, account, node_id)
    return {"network": network, "account": account, "node_id": node_id, "mac": mac}
