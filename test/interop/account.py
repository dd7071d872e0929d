"""What an account asks of the service (docs/protocol.md, sections 3.5, 3.7 and 11)."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import binding
import fields
import jose
import strict_json
from errors import Refused
from http_api import TIMEOUT_S, Declined, call, now_ms


def read_key(path: Path) -> bytes:
    secret = jose.unb64(path.read_text().strip())
    if secret is None or len(secret) != 32:
        raise Refused("malformed", f"{path} does not hold an account key, 32 bytes of base64url")
    return secret


@dataclass
class Account:
    base: str
    name: str
    key: bytes

    def revoke(self, node_id: str) -> dict[str, Any]:
        path = f"/v1/fleet/nodes/{node_id}/revoke"
        status, _, body = call(f"{self.base}{path}", None, self._authorized("POST", path), "POST")
        if status != 200:
            raise Declined(status, "http", repr(body[:200]), signed=False)
        return json.loads(body)

    def feed(self) -> Iterator[dict[str, Any]]:
        """Lines of the fleet feed, up to the one that says that all nodes have been told."""
        path = "/v1/fleet/feed"
        request = urllib.request.Request(f"{self.base}{path}", headers=self._authorized("GET", path))
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            for raw in answer:
                line = fields.checked(strict_json.parse(raw), fields.FEED_LINE)
                if line["type"] == "synced":
                    return
                yield line

    def _authorized(self, method: str, path: str) -> dict[str, str]:
        return {"authorization": binding.authorization(self.key, self.name, method, path, now_ms())}
