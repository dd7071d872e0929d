"""What is trusted: statements, root, delegation, release, snapshot, latest (docs/protocol.md, section 2)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import fields
import jose
import strict_json
from errors import Refused

MAX_SKEW_MS = 5 * 60_000
MAX_STATEMENT_BYTES = 524_288
MAX_SNAPSHOT_BYTES = 262_144


@dataclass(frozen=True)
class Root:
    """A root that is trusted: which keys hold which role."""

    network: str
    version: int
    payload: dict[str, Any]

    def keys_of(self, role: str) -> dict[str, jose.PublicKey]:
        listed = {key.kid: key for key in map(jose.public_key, self.payload["keys"])}
        return {kid: listed[kid] for kid in self.payload["roles"][role]["kids"]}

    def threshold(self, role: str) -> int:
        return self.payload["roles"][role]["threshold"]

    def verify(self, statement: Any, role: str, typ: str) -> Any:
        """The JSON of a statement's payload, if enough keys of the role have signed it (section 2.1)."""
        fields.checked(statement, fields.STATEMENT, "the statement")
        keys = self.keys_of(role)
        signers: set[str] = set()
        payload = b""
        for each in statement["signatures"]:
            parts = (each["protected"], statement["payload"], each["signature"])
            jws = jose.read(".".join(parts), typ)
            payload = jws.payload
            if jws.kid in keys:
                jws.verify(keys[jws.kid])
                signers.add(jws.kid)
        if len(signers) < self.threshold(role):
            raise Refused(
                "threshold",
                f"{len(signers)} keys of the role {role} have signed {typ}, {self.threshold(role)} must",
            )
        return strict_json.parse(payload)


def read_statement(raw: bytes) -> Any:
    """A statement as it comes in a file or an answer."""
    if len(raw) > MAX_STATEMENT_BYTES:
        raise Refused("too_large", f"a statement has at most {MAX_STATEMENT_BYTES} bytes")
    return fields.checked(strict_json.parse(raw), fields.STATEMENT, "the statement")


def trust_root(statement: Any, network: str) -> Root:
    """Trust in the root that the user has configured (section 2.2)."""
    fields.checked(statement, fields.STATEMENT, "the root")
    raw = jose.unb64(statement["payload"])
    if raw is None:
        raise Refused("malformed", "the root's payload is not base64url")
    payload = fields.checked(strict_json.parse(raw), fields.ROOT, "")
    same_network(payload["network"], network, "the root")
    listed = {jose.thumbprint(jwk["x"]) for jwk in payload["keys"]}
    for role, held in payload["roles"].items():
        if role not in ("root", "config", "delegation"):
            continue
        kids = set(held["kids"])
        if not kids <= listed:
            raise Refused("schema", f"the role {role} of the root names a key that the root does not list")
        if len(kids) < held["threshold"]:
            raise Refused("schema", f"the role {role} of the root has fewer keys than its threshold")
    root = Root(network, payload["version"], payload)
    root.verify(statement, "root", "rn1.root")
    return root


def rotate(root: Root, statement: Any) -> Root:
    """From a trusted root to the next one (section 2.2)."""
    payload = fields.checked(root.verify(statement, "root", "rn1.root"), fields.ROOT)
    if payload["version"] != root.version + 1:
        raise Refused("rollback", f"root {payload['version']} does not follow root {root.version}")
    return trust_root(statement, root.network)


@dataclass(frozen=True)
class Delegation:
    """The key with which the service speaks, until `expires` (milliseconds since 1970)."""

    key: jose.PublicKey
    expires: int


def verify_delegation(root: Root, statement: Any, now: int) -> Delegation:
    """Section 2.3. `now` in milliseconds."""
    payload = root.verify(statement, "delegation", "rn1.delegation")
    fields.checked(payload, fields.DELEGATION, "the delegation")
    same_network(payload["network"], root.network, "the delegation")
    if payload["expires"] <= now:
        raise Refused("expired", f"the delegation of the service's key ended at {payload['expires']}")
    return Delegation(jose.public_key(payload["key"]), payload["expires"])


def verify_release(root: Root, statement: Any, known: int) -> dict[str, Any]:
    """Section 2.4. `known` is the highest sequence known, 0 for none."""
    release = root.verify(statement, "config", "rn1.release")
    fields.checked(release, fields.RELEASE, "the release")
    same_network(release["network"], root.network, "the release")
    if release["current"] not in {entry["digest"] for entry in release["allowed"]}:
        raise Refused("schema", "current of the release is not among allowed")
    if len({entry["digest"] for entry in release["allowed"]}) < len(release["allowed"]):
        raise Refused("schema", "allowed of the release names a digest twice")
    if release["sequence"] < known:
        raise Refused("rollback", f"release {release['sequence']} is older than {known}, which is known")
    return release


def may_apply(release: dict[str, Any], digest: str, now: int) -> None:
    """Whether this release lets a node apply a digest at `now`."""
    ends = [entry["expires"] for entry in release["allowed"] if entry["digest"] == digest]
    if not ends:
        raise Refused("not_allowed", f"release {release['sequence']} does not allow {digest}")
    if max(ends) <= now:
        raise Refused("expired", f"{digest} ended at {max(ends)}")


def digest_of(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def verify_snapshot(raw: bytes, digest: str, network: str) -> dict[str, Any]:
    """Section 2.5, in its order."""
    if len(raw) > MAX_SNAPSHOT_BYTES:
        raise Refused("too_large", f"a snapshot has at most {MAX_SNAPSHOT_BYTES} bytes")
    if digest_of(raw) != digest:
        raise Refused("digest_mismatch", f"the bytes are those of {digest_of(raw)}, not of {digest}")
    snapshot = fields.checked(strict_json.parse(raw), fields.SNAPSHOT, "")
    same_network(snapshot["network"], network, "the snapshot")
    return snapshot


def weights_digest(files: list[dict[str, Any]]) -> str:
    """Identity of a model's weights."""
    lines = sorted((file["path"].encode(), f"{file['sha256']} {file['size']} {file['path']}\n") for file in files)
    return hashlib.sha256("".join(line for _, line in lines).encode()).hexdigest()


def select(
    snapshot: dict[str, Any],
    engine: str,
    gpu_product: str | None = None,
    image: str | None = None,
    models: list[str] | None = None,
) -> tuple[int, list[str]]:
    """Index of the runtime and the models that a node of this kind gets (section 2.5)."""
    own = [entry for entry in enumerate(snapshot["runtimes"]) if entry[1]["engine"] == engine]
    listed = [entry for entry in own if gpu_product is not None and gpu_product in entry[1]["gpu_products"]]
    for_any = [entry for entry in own if not entry[1]["gpu_products"]]
    candidates = listed + for_any
    if image is not None:
        digest = image.rsplit("@", 1)[-1]
        candidates = [entry for entry in candidates if entry[1]["image"].rsplit("@", 1)[-1] == digest]
    if not candidates:
        raise Refused("no_runtime", f"the snapshot has no runtime {engine} for this node")
    approved = [m["name"] for m in snapshot["models"] if not m["engines"] or engine in m["engines"]]
    chosen = [name for name in models if name in approved] if models else approved
    if models and not chosen:
        raise Refused("no_runtime", f"none of the models asked for is approved for {engine}")
    return candidates[0][0], chosen


def agent_version_order(version: str) -> tuple[int, int, int, bool, str]:
    """Something to compare agent versions by (section 2.5)."""
    plain = version.split("+", 1)[0]
    numbers, _, suffix = plain.partition("-")
    parts = [int(part) for part in re.findall(r"\d+", numbers)[:3]]
    major, minor, patch = (parts + [0, 0, 0])[:3]
    return major, minor, patch, not suffix, suffix


def verify_latest(body: Any, root: Root, nonce: str, now: int) -> tuple[dict[str, Any], Delegation]:
    """An answer of `GET /v1/config/latest` (section 2.6): what it says, and the service's key."""
    fields.checked(body, fields.LATEST_BODY, "")
    delegation = verify_delegation(root, body["delegation"], now)
    jws = jose.read(body["latest"], "rn1.latest", limit=4096).verify(delegation.key)
    latest = fields.checked(jws.json(), fields.LATEST, "latest")
    same_network(latest["network"], root.network, "latest")
    if latest["nonce"] != nonce:
        raise Refused("wrong_challenge", "latest echoes another nonce")
    check_clock(latest["time"], now)
    return latest, delegation


def same_network(got: str, wanted: str, of: str) -> None:
    if got != wanted:
        raise Refused("wrong_network", f"{of} is of the network {got}, not of {wanted}")


def check_clock(theirs: int, ours: int) -> None:
    """Both in milliseconds. Five minutes are allowed on either side."""
    if abs(theirs - ours) > MAX_SKEW_MS:
        raise Refused("clock_skew", f"the clocks differ by {abs(theirs - ours) / 1000:.0f} s")
