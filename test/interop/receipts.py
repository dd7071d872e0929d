"""Receipts and their chains (docs/protocol.md, section 7.5)."""

from __future__ import annotations

import hashlib
from typing import Any, Sequence

import fields
import jose
from errors import Refused

CHAIN_START = jose.b64(bytes(32))


def verify_receipt(jws: str, node: jose.PublicKey) -> dict[str, Any]:
    """What a node claims."""
    return fields.checked(jose.read(jws, "rn1.receipt", limit=4096).verify(node).json(), fields.RECEIPT)


def verify_countersign(jws: str, service: jose.PublicKey) -> dict[str, Any]:
    """What the service has countersigned."""
    read = jose.read(jws, "rn1.countersign", limit=8192).verify(service)
    return fields.checked(read.json(), fields.COUNTERSIGN)


def link_hash(countersign: str) -> str:
    """`prev` of the link that follows this one."""
    return jose.b64(hashlib.sha256(countersign.encode()).digest())


def verify_chain(chain: Sequence[str], service: jose.PublicKey) -> list[dict[str, Any]]:
    """All countersignatures of one account, from the first on."""
    links = []
    prev = CHAIN_START
    for index, jws in enumerate(chain, start=1):
        link = verify_countersign(jws, service)
        if link["index"] != index:
            raise Refused("sequence", f"link {index} of the chain says that it is {link['index']}")
        if link["prev"] != prev:
            raise Refused("sequence", f"link {index} of the chain does not follow the one before it")
        prev = link_hash(jws)
        links.append(link)
    return links
