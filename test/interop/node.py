"""A node: its config and its jobs (docs/protocol.md, sections 2.4, 2.5, 5.4, 6.3 and 7)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import engine
import jose
import refusals
import trust
from errors import Refused
from events import say
from http_api import Declined, Service, now_ms
from identity import Identity, write_durably

AGENT_VERSION = "0.1.0"
ENGINE = "openai"
SLOTS = 4


def lease_of(offer: dict[str, Any]) -> dict[str, Any]:
    return {name: offer[name] for name in ("job", "attempt", "token")}


@dataclass
class Job:
    """An attempt at a job, and what it has said so far. `nack`: code and reason to hand it back with."""

    offer: dict[str, Any]
    began: float = field(default_factory=time.monotonic)
    output: bytearray = field(default_factory=bytearray)
    result: dict[str, Any] | None = None
    nack: tuple[str, str] | None = None
    grown: asyncio.Condition = field(default_factory=asyncio.Condition)
    work: asyncio.Task[None] | None = None

    @property
    def lease(self) -> dict[str, Any]:
        return lease_of(self.offer)

    @property
    def resume(self) -> dict[str, Any]:
        return {**self.lease, "next_offset": len(self.output), "finished": self.result is not None}


@dataclass
class Node:
    """One identity at its service, and what it runs. Results of durable jobs are kept in `results` of its folder."""

    folder: Path
    identity: Identity
    service: Service
    first_piece_s: float = 0.0
    piece_s: float = 0.0
    release: dict[str, Any] | None = None
    applied: str | None = None
    models: list[str] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)  # of its key, as they were asked for
    probe: bool = False
    instance: str = field(default_factory=lambda: jose.random_text(16))

    @staticmethod
    def load(folder: Path, base: str, network: str) -> Node:
        identity = Identity(folder)
        root = trust.trust_root(trust.read_statement((folder / "root.json").read_bytes()), network)
        node_id = identity.binding["node_id"]
        node = Node(folder, identity, Service(base.rstrip("/"), root, node_id, identity.keys[0]))
        (folder / "results").mkdir(exist_ok=True)
        for path in sorted((folder / "results").glob("*.json")):
            kept = json.loads(path.read_text())
            job = Job(kept["offer"], output=bytearray(kept["output"].encode()), result=kept["result"])
            node.jobs[job.offer["job"]] = job
        return node

    @property
    def id(self) -> str:
        return self.service.node_id

    @property
    def known_release(self) -> int:
        """The highest sequence ever learned: never forgotten, so that nobody can turn it back."""
        path = self.folder / "release-sequence"
        return int(path.read_text()) if path.exists() else 0

    def learn(self, sequence: int) -> None:
        if sequence <= self.known_release:
            return
        write_durably(self.folder / "release-sequence", str(sequence))

    def sync_root(self) -> int:
        """Follows the service's root if it is newer. Returns the version that is trusted."""
        statement = self.service.root_statement()
        try:
            newest = trust.rotate(self.service.root, statement)
        except Refused as refused:
            if refused.code != "rollback":
                raise
            newest = trust.trust_root(statement, self.service.root.network)
            if newest.payload != self.service.root.payload:
                raise
        self.service.root = newest
        return newest.version

    def sync_config(self) -> str:
        """Fetches, verifies and applies what the newest release makes current. Returns its digest."""
        self.learn(self.service.latest()["release_sequence"])
        release = self.service.release(self.known_release)
        self.learn(release["sequence"])
        digest = release["current"]
        trust.may_apply(release, digest, now_ms())
        snapshot = self.service.snapshot(digest)
        least = snapshot["min_agent_version"]
        if trust.agent_version_order(AGENT_VERSION) < trust.agent_version_order(least):
            raise Refused("version", f"the snapshot needs agent {least}, this one is {AGENT_VERSION}")
        _, self.models = trust.select(snapshot, ENGINE)
        self.release, self.applied = release, digest
        return digest

    def report(self) -> dict[str, Any]:
        """Section 5.4. What is not known is null, never 0."""
        why_not = self.why_not_accepting()
        load: dict[str, Any] = {"slots": SLOTS, "active": len(self.jobs), "accepting": why_not is None}
        return {
            "agent_version": AGENT_VERSION,
            "engine": {"type": ENGINE, "version": None, "image": None, "health": "healthy"},
            "hardware": {"cpus": os.cpu_count() or 1, "memory_mib": 1024, "gpus": []},
            "config": {
                "applied": self.applied,
                "target": self.applied,
                "staged": None,
                "release_sequence": self.known_release,
            },
            "models": {
                "installed": self.models,
                "active": self.models,
                # The engine alone knows how large they are.
                "states": [{"model": name, "state": "active", "bytes": 0, "total": 0} for name in self.models],
            },
            "load": load if why_not is None else {**load, "reason": why_not},
            "subclouds": [],
        }

    def why_not_accepting(self) -> str | None:
        if self.release is None or self.applied is None:
            return "no config is applied"
        try:
            trust.may_apply(self.release, self.applied, now_ms())
        except Refused as refused:
            return refused.text
        return None

    def why_not(self, offer: dict[str, Any]) -> tuple[str, str] | None:
        """NACK code and reason, if this offer is not to be taken."""
        not_accepting = self.why_not_accepting()
        if not_accepting:
            return "E_CONFIG", not_accepting
        if len(self.jobs) >= SLOTS:
            return "E_BUSY", f"all {SLOTS} slots are in use"
        if offer["model"] not in self.models:
            return "E_MODEL", f"{offer['model']} is not loaded"
        return None

    def take(self, offer: dict[str, Any]) -> Job:
        """Begins to work. The job is held until `forget`."""
        job = Job(offer)
        self.jobs[offer["job"]] = job
        job.work = asyncio.create_task(self._work(job))
        return job

    def forget(self, job_id: str, attempt: int) -> Job | None:
        """Drops an attempt with its output; None if it is not held."""
        job = self.jobs.get(job_id)
        if job is None or job.offer["attempt"] != attempt:
            return None
        if job.work is not None:
            job.work.cancel()
        self._kept(job_id).unlink(missing_ok=True)
        return self.jobs.pop(job_id)

    def _kept(self, job_id: str) -> Path:
        return self.folder / "results" / f"{job_id}.json"

    def _keep(self, job: Job, result: dict[str, Any]) -> None:
        """Output and result outlast this process (section 7.6)."""
        offer = {name: job.offer[name] for name in ("job", "attempt", "token", "stream")}
        kept = {"offer": offer, "output": job.output.decode(), "result": result}
        write_durably(self._kept(offer["job"]), json.dumps(kept))

    def _input(self, offer: dict[str, Any]) -> str:
        if "body" in offer:
            return offer["body"]
        if self.probe:
            refusals.before_input(self.service, lease_of(offer), **offer["input"])
        body = self.service.job_input(lease_of(offer), **offer["input"])
        say("input-fetched", job=offer["job"], bytes=len(body), sha256=hashlib.sha256(body).hexdigest())
        return body.decode()

    async def _work(self, job: Job) -> None:
        offer = job.offer
        try:
            body = await asyncio.to_thread(self._input, offer)
        except (Refused, Declined, OSError) as error:
            if isinstance(error, Declined) and error.code == "E_LEASE_STALE":
                return  # `cancel`, `lost` or the next verdict tells more
            async with job.grown:
                job.nack = ("E_SCHEMA" if isinstance(error, Refused) else "E_BUSY", str(error)[:512])
                job.grown.notify_all()
            return
        async for piece in engine.complete(body, offer["stream"], self.first_piece_s, self.piece_s):
            async with job.grown:
                job.output += piece.encode()
                job.grown.notify_all()
        result = self._result(job, body)
        if offer["durable"]:
            await asyncio.to_thread(self._keep, job, result)
        async with job.grown:
            job.result = result
            job.grown.notify_all()

    def _result(self, job: Job, body: str) -> dict[str, Any]:
        """Sections 5.11 and 7.5."""
        offer = job.offer
        usage = engine.usage_of(body)
        shared = {
            "output_sha256": hashlib.sha256(job.output).hexdigest(),
            "duration_ms": int((time.monotonic() - job.began) * 1000),
            "outcome": "completed",
        }
        receipt = {
            "network": self.service.root.network,
            "job": offer["job"],
            "attempt": offer["attempt"],
            "node_id": self.id,
            "account": self.identity.binding["account"],
            "consumer": offer["consumer"],
            "model": offer["model"],
            "config_digest": self.applied,
            "input_sha256": hashlib.sha256(body.encode()).hexdigest(),
            **usage,
            **shared,
            "time": now_ms(),
        }
        return {
            **job.lease,
            **shared,
            "status": 200,
            "output_bytes": len(job.output),
            "usage": usage,
            "receipt": self.service.signer.sign("rn1.receipt", receipt),
        }
