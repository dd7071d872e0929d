"""Field types and the shape of everything that is signed (docs/protocol.md, sections 1.4, 2, 3, 5, 7.5, 11, 12).

A shape is a function that takes a value and where it stands, and raises Refused `schema`.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Collection

import jose
from errors import Refused
from strict_json import MAX_INTEGER

Shape = Callable[[Any, str], None]


def _no(where: str, what: str) -> Refused:
    return Refused("schema", f"{where or 'the payload'} is not {what}")


def matching(pattern: str, least: int, most: int, what: str) -> Shape:
    compiled = re.compile(pattern, re.DOTALL)

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str) or not least <= len(value) <= most or not compiled.fullmatch(value):
            raise _no(where, what)

    return check


def text_of(least: int, most: int) -> Shape:
    return matching(r".*", least, most, f"a text of {least} to {most} characters")


def encoded(size: int) -> Shape:
    def check(value: Any, where: str) -> None:
        if not jose.is_bytes(value, size):
            raise _no(where, f"base64url of {size} bytes")

    return check


def integer(least: int, most: int = MAX_INTEGER) -> Shape:
    def check(value: Any, where: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _no(where, f"an integer from {least} to {most}")

    return check


def one_of(*values: Any) -> Shape:
    def check(value: Any, where: str) -> None:
        if value not in values:
            raise _no(where, f"one of {', '.join(map(str, values))}")

    return check


def boolean(value: Any, where: str) -> None:
    if not isinstance(value, bool):
        raise _no(where, "true or false")


def or_null(shape: Shape) -> Shape:
    return lambda value, where: None if value is None else shape(value, where)


def list_of(shape: Shape, most: int, least: int = 0) -> Shape:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise _no(where, f"a list of {least} to {most}")
        for at, item in enumerate(value):
            shape(item, f"{where}[{at}]")

    return check


def record(members: dict[str, Shape], optional: Collection[str] = ()) -> Shape:
    """An object with these members; those that it does not know are ignored."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _no(where, "an object")
        for name, shape in members.items():
            place = f"{where}.{name}" if where else name
            if name in value:
                shape(value[name], place)
            elif name not in optional:
                raise Refused("schema", f"{place} is missing")

    return check


def one_member_of(shape: Shape, names: Collection[str]) -> Shape:
    """A record that has exactly one of these members."""

    def check(value: Any, where: str) -> None:
        shape(value, where)
        if sum(name in value for name in names) != 1:
            raise _no(where, f"one of {', '.join(names)}")

    return check


def checked(value: Any, shape: Shape, where: str = "") -> Any:
    """The value, if it has the shape."""
    shape(value, where)
    return value


def _model(value: Any, where: str) -> None:
    _model_form(value, where)
    if ".." in value.split("/"):
        raise _no(where, "the name of a model: a part is ..")


def PUBLIC_JWK(value: Any, where: str) -> None:
    """As statements and key changes have it: a private key that stands there is a mistake."""
    if isinstance(value, dict) and "d" in value:
        raise Refused("schema", f"{where}: a private key")
    jose.public_key(value, "schema")


_model_form = matching(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]*", 1, 255, "the name of a model")
_name = matching(r"[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9]", 1, 63, "a name")
_digest = matching(r"sha256:[0-9a-f]{64}", 71, 71, "a digest")
_sha256 = matching(r"[0-9a-f]{64}", 64, 64, "a hash in lower-case hex")
_job = matching(r"[a-z0-9][a-z0-9_-]*", 8, 64, "a job id")
_version = matching(r"[0-9A-Za-z][0-9A-Za-z.+_-]*", 1, 64, "a version")
_image = matching(r"[A-Za-z0-9][A-Za-z0-9._:/-]*@sha256:[0-9a-f]{64}", 1, 512, "an image by digest")
_url = matching(r"(https?|wss?)://\S+", 1, 2048, "a URL")
_text = text_of(0, 512)
_count = _time = integer(0)
_seq = integer(1)
_attempt = integer(1, 1000)
_duration = integer(0, 2_678_400_000)
_bytes32 = encoded(32)
_bytes16 = encoded(16)

# By the names that section 1.4 gives them.
FIELD_TYPES: dict[str, Shape] = {
    "bytes32": _bytes32,
    "bytes16": _bytes16,
    "digest": _digest,
    "sha256": _sha256,
    "job": _job,
    "name": _name,
    "model": _model,
    "version": _version,
    "image": _image,
    "url": _url,
    "text": _text,
    "count": _count,
    "time": _time,
    "seq": _seq,
    "attempt": _attempt,
    "duration": _duration,
}

STATEMENT = record(
    {
        "payload": text_of(0, 65_536),
        "signatures": list_of(record({"protected": text_of(0, 4096), "signature": text_of(0, 128)}), 32, 1),
    }
)

_role = record({"threshold": integer(1, 16), "kids": list_of(_bytes32, 16, 1)})
ROOT = record(
    {
        "network": _name,
        "version": _seq,
        "keys": list_of(PUBLIC_JWK, 48, 1),
        "roles": record({"root": _role, "config": _role, "delegation": _role}),
    }
)
DELEGATION = record({"network": _name, "key": PUBLIC_JWK, "expires": _time})
RELEASE = record(
    {
        "network": _name,
        "sequence": _seq,
        "released_at": _time,
        "current": _digest,
        "allowed": list_of(record({"digest": _digest, "expires": _time}), 64, 1),
    }
)


def _weight_path(value: Any, where: str) -> None:
    _weight_path_form(value, where)
    if any(part in ("", ".", "..") for part in value.split("/")):
        raise _no(where, "the path of a file: a part is empty, . or ..")


def _model_files(value: Any, where: str) -> None:
    list_of(record({"path": _weight_path, "sha256": _sha256, "size": _count}), 256, 1)(value, where)
    paths = {file["path"] for file in value}
    if len(paths) < len(value):
        raise _no(where, "files: a path is there twice")
    for path in paths:
        parts = path.split("/")
        if any("/".join(parts[:at]) in paths for at in range(1, len(parts))):
            raise _no(where, "files: a path is another one's folder")


def _snapshot_model(value: Any, where: str) -> None:
    members = {"name": _model, "engines": list_of(_name, 16), "files": _model_files, "sources": list_of(_source, 16)}
    record(members, ("files", "sources"))(value, where)
    if "sources" in value and "files" not in value:
        raise _no(where, "a model with sources and no files")


_weight_path_form = matching(r"[A-Za-z0-9._@+=,/-]*", 1, 255, "the path of a file")
_source = matching(
    r"https?://[^\s/?#@\\]+(/[^\s?#\\]*)?|file:///[^\s?#\\]*", 1, 2048, "a URL without user, query or fragment"
)

SNAPSHOT = record(
    {
        "network": _name,
        "version": _version,
        "runtimes": list_of(
            record(
                {
                    "engine": _name,
                    "image": _image,
                    "gpu_products": list_of(_text, 64),
                    "launcher": one_of("shell", "none"),
                    "command": list_of(text_of(1, 4096), 64),
                }
            ),
            64,
            1,
        ),
        "models": list_of(_snapshot_model, 256),
        "participation": record({"testnet": boolean, "mainnet": boolean}),
        "subclouds": list_of(_name, 64),
        "limits": record({"max_jobs": integer(1, 1024), "max_output_bytes": integer(1, 1_073_741_824)}),
        "min_agent_version": _version,
    }
)

_latest_members: dict[str, Shape] = {
    "release_sequence": _count,
    "digest": or_null(_digest),
    "nonce": _bytes32,
}
_latest = record(_latest_members)
LATEST = record({**_latest_members, "network": _name, "time": _time})
LATEST_BODY = record({"latest": text_of(1, 4096), "delegation": STATEMENT})

BINDING = record({"network": _name, "account": _name, "node_id": _bytes32, "mac": _bytes32})
GRANT = record(
    {
        "network": _name,
        "account": _name,
        "node_id": _bytes32,
        "kid": _bytes32,
        "generation": _seq,
        "mac": _bytes32,
    }
)
REGISTER = record({"binding": BINDING, "grant": GRANT, "agent_version": _version, "time": _time}, ["grant"])
KEY_CHANGE = record({"node_id": _bytes32, "time": _time, "new": text_of(1, 4096)})
KEY_CHANGE_NEW = record({"node_id": _bytes32, "old_kid": _bytes32, "time": _time})
PING = record({"node_id": _bytes32, "time": _time})

DRAIN = record({"node_id": _bytes32})

_xid = record({"code": integer(1, 65_535), "since": or_null(_time)})
REPORT = record(
    {
        "agent_version": _version,
        "engine": record(
            {
                "type": _name,
                "version": or_null(_version),
                "image": or_null(_text),
                "health": one_of("starting", "healthy", "unhealthy", "stopped"),
                "reason": _text,
                "crashes": _count,
            },
            optional=["reason", "crashes"],
        ),
        "hardware": record(
            {
                "cpus": _count,
                "memory_mib": _count,
                "gpus": list_of(
                    record(
                        {"product": or_null(_text), "memory_mib": or_null(_count), "xid": _xid}, optional=["xid"]
                    ),
                    64,
                ),
            }
        ),
        "config": record(
            {
                "applied": or_null(_digest),
                "target": or_null(_digest),
                "staged": or_null(_digest),
                "release_sequence": _count,
            }
        ),
        "models": record(
            {
                "installed": list_of(_model, 256),
                "active": list_of(_model, 256),
                "states": list_of(
                    record(
                        {
                            "model": _model,
                            "state": one_of("pending", "downloading", "verifying", "inactive", "active", "failed"),
                            "bytes": _count,
                            "total": _count,
                            "reason": _text,
                        },
                        ("reason",),
                    ),
                    256,
                ),
            },
            ("states",),
        ),
        "load": record(
            {"slots": _count, "active": _count, "accepting": boolean, "reason": _text}, optional=["reason"]
        ),
        "subclouds": list_of(_name, 64),
    }
)
_job_input: dict[str, Shape] = {
    "node_id": _bytes32,
    "time": _time,
    "job": _job,
    "attempt": _attempt,
    "token": _bytes16,
}
JOB_INPUT = record(_job_input)
JOB_OUTPUT = record({**_job_input, "sha256": _sha256, "size": integer(0, 33_554_432)})
HTTP_HEARTBEAT = record({"node_id": _bytes32, "time": _time, "nonce": _bytes32, "report": REPORT})
HTTP_ANSWER = record(
    {
        "node_id": _bytes32,
        "time": _time,
        "http_seq": _count,
        "latest": _latest,
        "kid": _bytes32,
        "error": record({"code": _text, "message": _text}),
    },
    optional=["latest", "kid", "error"],
)

_receipt_members: dict[str, Shape] = {
    "network": _name,
    "job": _job,
    "attempt": _attempt,
    "node_id": _bytes32,
    "account": _name,
    "consumer": _name,
    "model": _model,
    "config_digest": _digest,
    "input_sha256": _sha256,
    "output_sha256": _sha256,
    "prompt_tokens": _count,
    "completion_tokens": _count,
    "duration_ms": _duration,
    "outcome": one_of("completed", "failed"),
    "time": _time,
}
RECEIPT = record(_receipt_members)
_usage = record({"prompt_tokens": _count, "completion_tokens": _count})
COUNTERSIGN = record(
    {
        "receipt": text_of(1, 4096),
        "account": _name,
        "index": _seq,
        "prev": _bytes32,
        "metered": _usage,
        "committed_at": _time,
    }
)

_moment = or_null(_time)
STATUS = record(
    {
        "nonce": _bytes32,
        "time": _time,
        "node_id": _bytes32,
        "instance": _bytes16,
        "desired_revision": _count,
        "image_disk": record({"free": _count, "total": _count}),
        "report": REPORT,
        "config_error": or_null(record({"digest": or_null(_digest), "code": _text, "message": _text})),
        "drain": record(
            {"state": one_of("serving", "draining", "drained"), "jobs": _count, "since": _moment}
        ),
        "session": record(
            {"connected": boolean, "since": _moment, "epoch": _count, "last_error": or_null(_text)}
        ),
    },
    optional=["image_disk"],
)

_feed_node = record(
    {
        "node_id": _bytes32,
        "kid": _bytes32,
        "connected": boolean,
        "since": _time,
        "epoch": _count,
        "deprioritised_until": _moment,
        "banned": or_null(_text),
        "generation": _count,
        "revoked": boolean,
        "conflict": _moment,
        "config_applied": or_null(_digest),
        "models_active": list_of(_model, 256),
        "jobs_committed": _count,
        "xids": list_of(_xid, 64),
        "work": record(
            {
                "config": or_null(_digest),
                "completed": _count,
                "failed": _count,
                "duration_ms": _count,
            }
        ),
    },
    optional=["xids"],
)
_feed_lines: dict[str, Shape] = {"node": _feed_node, "synced": record({}), "ping": record({"time": _time})}


def FEED_LINE(value: Any, where: str) -> None:
    record({"type": one_of(*_feed_lines)})(value, where)
    _feed_lines[value["type"]](value, where)


_numbered: dict[str, Shape] = {"sid": _bytes16, "seq": _seq}
_attempt_of: dict[str, Shape] = {"job": _job, "attempt": _attempt}
_lease: dict[str, Shape] = {**_attempt_of, "token": _bytes16}

_offer = one_member_of(
    record(
        {
            **_numbered,
            **_lease,
            "model": _model,
            "endpoint": one_of("/v1/chat/completions"),
            "stream": boolean,
            "durable": boolean,
            "body": text_of(0, 163_840),
            "input": record({"sha256": _sha256, "size": integer(0, 33_554_432)}),
            "consumer": _name,
            "deadline_ms": _duration,
        },
        optional=["body", "input"],
    ),
    ["body", "input"],
)

# Payload of each kind of frame (section 5).
FRAMES: dict[str, Shape] = {
    "challenge": record({"challenge": _bytes32, "time": _time, "network": _name, "delegation": STATEMENT}),
    "hello": record(
        {
            "version": integer(-MAX_INTEGER),
            "challenge": _bytes32,
            "audience": _url,
            "network": _name,
            "node_id": _bytes32,
            "nonce": _bytes32,
            "time": _time,
            "instance": _bytes16,
            "agent_version": _version,
            "release_sequence": _count,
        }
    ),
    "ready": record(
        {
            "transcript": _bytes32,
            "sid": _bytes16,
            "epoch": _seq,
            "time": _time,
            "http_seq": _count,
            "latest": _latest,
            "heartbeat_ms": _duration,
            "lease_ms": _duration,
        }
    ),
    "heartbeat": record(
        {
            **_numbered,
            "time": _time,
            "nonce": _bytes32,
            "report": REPORT,
            "leases": list_of(record(_lease), 1024),
        }
    ),
    "heartbeat-ack": record(
        {**_numbered, "time": _time, "latest": _latest, "lost": list_of(record(_attempt_of), 1024)}
    ),
    "resume": record(
        {
            **_numbered,
            "jobs": list_of(record({**_lease, "next_offset": _count, "finished": boolean}), 256),
            "last": boolean,
        }
    ),
    "verdict": record(
        {
            **_numbered,
            "jobs": list_of(
                record(
                    {
                        **_attempt_of,
                        "action": one_of("keep", "cancel", "committed"),
                        "offset": _count,
                        "receipt": text_of(1, 8192),
                    },
                    optional=["receipt"],
                ),
                256,
            ),
            "last": boolean,
        }
    ),
    "offer": _offer,
    "accept": record({**_numbered, **_lease}),
    "chunk": record({**_numbered, **_lease, "offset": _count, "data": text_of(1, 163_840)}),
    "result": record(
        {
            **_numbered,
            **_lease,
            "outcome": one_of("completed", "failed"),
            "status": integer(100, 599),
            "output_sha256": _sha256,
            "output_bytes": _count,
            "usage": _usage,
            "duration_ms": _duration,
            "receipt": text_of(1, 4096),
        }
    ),
    "nack": record(
        {
            **_numbered,
            **_lease,
            "code": one_of(
                "E_SIG", "E_SCHEMA", "E_LEASE_STALE", "E_MODEL", "E_CONFIG", "E_BUSY", "E_ENGINE"
            ),
            "reason": _text,
        }
    ),
    "cancel": record({**_numbered, **_attempt_of, "reason": _text}),
    "ack": record(
        {
            **_numbered,
            "upto": _count,
            "results": list_of(
                record(
                    {
                        **_attempt_of,
                        "status": one_of("committed", "stale", "refused"),
                        "receipt": text_of(1, 8192),
                    },
                    optional=["receipt"],
                ),
                256,
            ),
        }
    ),
    "goodbye": record({**_numbered, "reason": one_of("drained", "shutdown", "superseded", "config")}),
}

# Kinds that each end sends once the session is open.
SERVICE_KINDS = ["verdict", "heartbeat-ack", "offer", "cancel", "ack"]
AGENT_KINDS = ["resume", "heartbeat", "accept", "chunk", "result", "nack", "goodbye"]
