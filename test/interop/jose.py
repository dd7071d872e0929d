"""base64url, keys and compact JWS (docs/protocol.md, sections 1.1, 1.3 and 1.5)."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Any, Collection, Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

import strict_json
from errors import Refused

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*")


def b64(raw: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: object) -> bytes | None:
    """The bytes, or None for what is not the one spelling of them."""
    if not isinstance(text, str) or not _ALPHABET.fullmatch(text) or len(text) % 4 == 1:
        return None
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    return raw if b64(raw) == text else None


def is_bytes(text: object, size: int) -> bool:
    """Whether this is base64url of so many bytes."""
    raw = unb64(text)
    return raw is not None and len(raw) == size


def random_text(size: int) -> str:
    """base64url of so many random bytes: nonces and instance ids."""
    return b64(secrets.token_bytes(size))


def thumbprint(x: str) -> str:
    """RFC 7638 thumbprint of the key with this `x`: its `kid`."""
    return b64(hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode()).digest())


@dataclass(frozen=True)
class PublicKey:
    """A key that others sign with."""

    x: str

    @property
    def kid(self) -> str:
        return thumbprint(self.x)

    @property
    def jwk(self) -> dict[str, str]:
        return {"kty": "OKP", "crv": "Ed25519", "x": self.x}

    def verify(self, signature: bytes, message: bytes) -> bool:
        raw = unb64(self.x)
        assert raw is not None
        try:
            Ed25519PublicKey.from_public_bytes(raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """A key of one's own."""

    d: str
    public: PublicKey

    @staticmethod
    def generate() -> PrivateKey:
        return PrivateKey.of_bytes(secrets.token_bytes(32))

    @staticmethod
    def of_bytes(raw: bytes) -> PrivateKey:
        x = Ed25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()
        return PrivateKey(b64(raw), PublicKey(b64(x)))

    @property
    def kid(self) -> str:
        return self.public.kid

    @property
    def jwk(self) -> dict[str, str]:
        """With its secret half."""
        return {**self.public.jwk, "d": self.d}

    def sign(self, typ: str, payload: Any, extra: Mapping[str, Any] | None = None) -> str:
        """A compact JWS of this `typ` over the JSON of `payload`; `extra` are more members of its header."""
        header = {"alg": "Ed25519", "kid": self.kid, "typ": typ, **(extra or {})}
        signed = f"{b64(strict_json.dump(header).encode())}.{b64(strict_json.dump(payload).encode())}"
        raw = unb64(self.d)
        assert raw is not None
        return f"{signed}.{b64(Ed25519PrivateKey.from_private_bytes(raw).sign(signed.encode()))}"


def public_key(jwk: object, code: str = "malformed") -> PublicKey:
    """Reads a public JWK. Raises Refused `code` for any other thing."""
    if not isinstance(jwk, dict):
        raise Refused(code, "a JWK is an object")
    if jwk.get("kty") != "OKP" or jwk.get("crv") != "Ed25519":
        raise Refused(code, "a JWK here is of kty OKP and crv Ed25519")
    if not is_bytes(jwk.get("x"), 32):
        raise Refused(code, "x of a JWK is 32 bytes of base64url")
    return PublicKey(jwk["x"])


def private_key(jwk: object) -> PrivateKey:
    """Reads a private JWK. Raises Refused `malformed`, also when `d` is not that of `x`."""
    public = public_key(jwk)
    assert isinstance(jwk, dict)
    raw = unb64(jwk.get("d"))
    if raw is None or len(raw) != 32:
        raise Refused("malformed", "d of a JWK is 32 bytes of base64url")
    key = PrivateKey.of_bytes(raw)
    if key.public != public:
        raise Refused("malformed", "d and x of a JWK do not belong together")
    return key


@dataclass(frozen=True)
class Unverified:
    """A JWS that has passed checks 2 to 9 of section 1.5. Its payload is not to be believed yet."""

    header: dict[str, Any]
    kid: str
    typ: str
    payload: bytes
    signature: bytes
    signed: bytes

    def verify(self, key: PublicKey) -> Unverified:
        """Checks 10 and 11. Raises Refused `unknown_key` or `bad_signature`."""
        if self.kid != key.kid:
            raise Refused("unknown_key", f"{self.typ} is signed by {self.kid}, not by {key.kid}")
        if not key.verify(self.signature, self.signed):
            raise Refused("bad_signature", f"the signature of {self.typ} does not verify")
        return self

    def json(self) -> Any:
        """Check 12."""
        return strict_json.parse(self.payload)


def read(text: str, typs: str | Collection[str], limit: int | None = None) -> Unverified:
    """Checks 1 to 9 of section 1.5. `limit` is in bytes, `typs` what is expected here."""
    if limit is not None and len(text.encode()) > limit:
        raise Refused("too_large", f"{len(text.encode())} bytes, at most {limit} are taken")
    parts = text.split(".")
    if len(parts) != 3:
        raise Refused("malformed", f"a compact JWS has three parts, not {len(parts)}")
    header = _header(parts[0])
    if header.get("alg") != "Ed25519":
        raise Refused("wrong_alg", f"alg is {header.get('alg')!r}, not Ed25519")
    typ, kid = header.get("typ"), header.get("kid")
    if not isinstance(typ, str):
        raise Refused("wrong_typ", "the header has no typ")
    if not isinstance(kid, str) or not is_bytes(kid, 32):
        raise Refused("unknown_key", f"kid {kid!r} is not the thumbprint of a key")
    if "crit" in header or "b64" in header:
        raise Refused("malformed", "crit and b64 are not taken in a header")
    if typ not in ([typs] if isinstance(typs, str) else typs):
        raise Refused("wrong_typ", f"typ is {typ}, which is not expected here")
    payload = unb64(parts[1])
    if payload is None:
        raise Refused("malformed", f"the payload of {typ} is not base64url")
    signature = unb64(parts[2])
    if signature is None or len(signature) != 64:
        raise Refused("bad_signature", f"the signature of {typ} is not 64 bytes of base64url")
    return Unverified(header, kid, typ, payload, signature, f"{parts[0]}.{parts[1]}".encode())


def _header(part: str) -> dict[str, Any]:
    raw = unb64(part)
    if raw is None or len(part) > 4096:
        raise Refused("malformed", "the header is not base64url of at most 4096 characters")
    header = strict_json.parse(raw, levels=2, values=32)
    if not isinstance(header, dict):
        raise Refused("malformed", "the header is not an object")
    return header
