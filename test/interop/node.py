"""A node: its identity, its config and its jobs (docs/protocol.md, sections 2.4, 2.5, 5.4, 6.3 and 7)."""

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
import trust
from errors import Refused
from http_api import Service, now_ms

AGENT_VERSION = "0.1.0"
ENGINE = "openai"
SLOTS = 4


@dataclass
class Job:
    """An attempt at a job, and what it has said so far."""

    offer: dict[str, Any]
    began: float = field(default_factory=time.monotonic)
    output: bytearray = field(default_factory=bytearray)
    result: dict[str, Any] | None = None
    grown: asyncio.Condition = field(default_factory=asyncio.Condition)
    work: asyncio.Task[None] | None = None

    @property
    def lease(self) -> dict[str, Any]:
        return {name: self.offer[name] for name in ("job", "attempt", "token")}

    @property
    def resume(self) -> dict[str, Any]:
        return {**self.lease, "next_offset": len(self.output), "finished": self.result is not None}


@dataclass
class Node:
    """One identity, from the files of its folder: key.jwk, binding.json, root.json."""

    folder: Path
    key: jose.PrivateKey
    binding: dict[str, str]
    service: Service
    first_piece_s: float = 0.0
    piece_s: float = 0.0
    release: dict[str, Any] | None = None
    applied: str | None = None
    models: list[str] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    instance: str = field(default_factory=lambda: jose.random_text(16))

    @staticmethod
    def load(folder: Path, base: str, network: str) -> Node:
        key = jose.private_key(json.loads((folder / "key.jwk").read_text()))
        root = trust.trust_root(trust.read_statement((folder / "root.json").read_bytes()), network)
        binding = json.loads((folder / "binding.json").read_text())
        return Node(folder, key, binding, Service(base.rstrip("/"), root, key))

    @property
    def id(self) -> str:
        """Without key rollover, the thumbprint of its only key."""
        return self.key.kid

    @property
    def known_release(self) -> int:
        """The highest sequence ever learned: never forgotten, so that nobody can turn it back."""
        path = self.folder / "release-sequence"
        return int(path.read_text()) if path.exists() else 0

    def learn(self, sequence: int) -> None:
        if sequence <= self.known_release:
            return
        half = self.folder / "release-sequence.part"
        with half.open("w") as file:
            file.write(str(sequence))
            file.flush()
            os.fsync(file.fileno())
        half.replace(self.folder / "release-sequence")

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
            "models": {"installed": self.models, "active": self.models},
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
        if "input" in offer:
            return "E_BUSY", "this node takes no job whose input is larger than a frame"
        if offer["durable"]:
            return "E_BUSY", "this node keeps no results on its disk"
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
        return self.jobs.pop(job_id)

    async def _work(self, job: Job) -> None:
        offer = job.offer
        async for piece in engine.complete(
            offer["body"], offer["stream"], self.first_piece_s, self.piece_s
        ):
            async with job.grown:
                job.output += piece.encode()
                job.grown.notify_all()
        async with job.grown:
            job.result = self._result(job)
            job.grown.notify_all()

    def _result(self, job: Job) -> dict[str, Any]:
        """Sections 5.11 and 7.5."""
        offer = job.offer
        usage = engine.usage_of(offer["body"])
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
            "account": self.binding["account"],
            "consumer": offer["consumer"],
            "model": offer["model"],
            "config_digest": self.applied,
            "input_sha256": hashlib.sha256(offer["body"].encode()).hexdigest(),
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
            "receipt": self.key.sign("rn1.receipt", receipt),
        }
