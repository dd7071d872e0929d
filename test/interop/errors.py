"""What is not believed, and why (docs/protocol.md, section 8)."""

from __future__ import annotations

# Close code of each error code.
CLOSE_CODES = {
    "malformed": 4400,
    "schema": 4400,
    "too_large": 1009,
    "wrong_typ": 4401,
    "wrong_alg": 4401,
    "unknown_key": 4401,
    "bad_signature": 4401,
    "wrong_audience": 4401,
    "wrong_challenge": 4401,
    "wrong_node": 4401,
    "wrong_transcript": 4401,
    "clock_skew": 4401,
    "threshold": 4401,
    "expired": 4401,
    "rollback": 4401,
    "not_allowed": 4401,
    "digest_mismatch": 4401,
    "no_runtime": 4401,
    "binding": 4401,
    "wrong_session": 4412,
    "sequence": 4412,
    "wrong_network": 4413,
    "version": 4426,
}


class Refused(Exception):
    """A check that failed: `code` is the protocol's name for it, `text` says on what it failed."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text

    @property
    def close_code(self) -> int:
        """With which a session is closed."""
        return CLOSE_CODES[self.code]

    @property
    def reason(self) -> str:
        """Reason of the close frame, which holds 123 bytes."""
        return str(self).encode()[:123].decode(errors="ignore")


def code_of_reason(reason: str) -> str | None:
    """The error code that the reason of a close frame names, if it does."""
    code = reason.split(":", 1)[0]
    return code if code in CLOSE_CODES else None
