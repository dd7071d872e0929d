"""The files that say who a node is (docs/protocol.md, sections 3.4, 3.6 and 3.7; docs/keys.md).

The node reads them and writes none: whoever keeps the identity makes keys, binding and grant, and promotes the next
key.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fields
import jose
from errors import Refused


def write_durably(path: Path, text: str) -> None:
    """The file has all of the text or what it had before, through a power cut."""
    half = path.with_name(f"{path.name}.part")
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@dataclass(frozen=True)
class Identity:
    """key.jwk, next.jwk, former.json, binding.json and grant.json of a folder, as they are now."""

    folder: Path

    @property
    def binding(self) -> dict[str, str]:
        return fields.checked(self._read("binding.json"), fields.BINDING)

    @property
    def grant(self) -> dict[str, Any] | None:
        grant = self._read("grant.json")
        return None if grant is None else fields.checked(grant, fields.GRANT)

    @property
    def keys(self) -> list[jose.PrivateKey]:
        """The key, then the one that is to follow, if there is one."""
        found = [self._read("key.jwk"), self._read("next.jwk")]
        return [jose.private_key(jwk) for jwk in found if jwk is not None]

    @property
    def former(self) -> list[jose.PublicKey]:
        return [jose.public_key(jwk) for jwk in self._read("former.json") or []]

    def registering_key(self) -> jose.PrivateKey | None:
        """The key that can register: the one that the grant names, or the node's first one."""
        wanted = (self.grant or {"kid": self.binding["node_id"]})["kid"]
        return next((key for key in self.keys if key.kid == wanted), None)

    def make(self, name: str) -> jose.PrivateKey:
        """Makes key.jwk or next.jwk where there is none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / name).exists():
            raise Refused("rollback", f"{self.folder / name} is there already")
        key = jose.PrivateKey.generate()
        write_durably(self.folder / name, json.dumps(key.jwk))
        return key

    def promote(self) -> jose.PrivateKey:
        """Once the service has the next key: it takes the place of the key, whose public half stays."""
        key, new = self.keys
        write_durably(self.folder / "former.json", json.dumps([k.jwk for k in [*self.former, key.public]]))
        (self.folder / "next.jwk").replace(self.folder / "key.jwk")
        return new

    def _read(self, name: str) -> Any:
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else None
