"""Runs every file of test/vectors against this client: `python vectors.py [FOLDER]`.

Prints one line a file, and one for each case that differs; exits 1 if any does. Codes are compared, not only whether a
case is taken: there is none that Python could not tell.
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import binding
import fields
import jose
import receipts
import service_side
import session
import strict_json
import trust
from errors import CLOSE_CODES, Refused, code_of_reason

# Name, verdict, and what to do: it raises Refused, or AssertionError where it makes something else than the vector has.
Case = tuple[str, str, Callable[[], Any]]

KEYS: dict[str, jose.PrivateKey] = {}  # by kid
NAMED: dict[str, jose.PrivateKey] = {}  # by the name that keys.json gives them
ACCOUNT_KEY = b""
NOW = 1_767_225_600_000  # where a file does not say another time


def text_of(case: dict[str, Any], member: str = "text") -> str:
    """A text that stands in a case, or is described by `repeat`."""
    if "repeat" in case:
        return "".join(part * times for part, times in case["repeat"])
    return case[member]


def same(got: Any, wanted: Any) -> None:
    if got != wanted:
        raise AssertionError(f"{got!r} is not {wanted!r}")


def public(kid: str) -> jose.PublicKey:
    return KEYS[kid].public


def of_json(file: dict[str, Any]) -> Iterator[Case]:
    for case in file["cases"]:
        raw = jose.unb64(case["bytes"]) if "bytes" in case else text_of(case).encode("utf-8")
        yield case["name"], case["verdict"], lambda raw=raw: strict_json.parse(raw)


def of_fields(file: dict[str, Any]) -> Iterator[Case]:
    for name, values in file["fields"].items():
        shape = fields.FIELD_TYPES[name]
        for verdict, wanted in (("valid", "valid"), ("invalid", "schema")):
            for at, value in enumerate(values[verdict]):
                # Numbers come from JSON here too, by the protocol's own reading.
                value = strict_json.parse(json.dumps(value))
                yield f"{name} {verdict} {at}", wanted, lambda s=shape, v=value: fields.checked(v, s)


def of_keys(file: dict[str, Any]) -> Iterator[Case]:
    for entry in file["keys"]:

        def check(entry: dict[str, Any] = entry) -> None:
            key = jose.private_key(entry["jwk"])
            same(key.kid, entry["kid"])
            same(key.d, jose.b64(hashlib.sha256(f"resultity test vector: key {entry['name']}".encode()).digest()))

        yield entry["name"], "valid", check
    for case in file["cases"]:
        reader = jose.private_key if "d" in case["jwk"] else jose.public_key
        yield case["name"], case["verdict"], lambda r=reader, c=case: r(c["jwk"])


def of_jws(file: dict[str, Any]) -> Iterator[Case]:
    for case in file["cases"]:

        def check(case: dict[str, Any] = case) -> None:
            jws = jose.read(case["jws"], file["typ"]).verify(public(file["kid"]))
            try:
                text = jws.payload.decode("utf-8")
            except UnicodeDecodeError as error:
                raise Refused("malformed", "the payload is not UTF-8") from error
            if "payload" in case:
                same(text, case["payload"])
            if "header" in case:
                same(jws.header, case["header"])

        yield case["name"], case["verdict"], check


def of_messages(file: dict[str, Any]) -> Iterator[Case]:
    same(sorted(file["examples"]), sorted(fields.FRAMES))
    for kind, example in file["examples"].items():
        yield f"example {kind}", "valid", lambda k=kind, e=example: fields.checked(e, fields.FRAMES[k])
    for case in file["cases"]:
        value = changed(file["examples"][case["kind"]], case)
        yield case["name"], case["verdict"], lambda k=case["kind"], v=value: fields.checked(v, fields.FRAMES[k])


def changed(example: Any, case: dict[str, Any]) -> Any:
    """The example with what the case takes out of it or puts into it."""
    value = copy.deepcopy(example)
    for change in ("remove", "set"):
        if change not in case:
            continue
        path = case[change]
        place = value
        for step in path[:-1]:
            place = place[step]
        if change == "remove":
            del place[path[-1]]
        else:
            place[path[-1]] = [case["item"]] * case["times"] if "item" in case else case["to"]
    return strict_json.parse(json.dumps(value))


def of_rollover(file: dict[str, Any]) -> Iterator[Case]:
    node_id, old, other = file["node_id"], public(file["kid"]), NAMED["other-node"].public

    def keeper(heard: int) -> service_side.KeyKeeper:
        keys = {node_id: [old], other.kid: [other]}
        return service_side.KeyKeeper(file["url"], keys, {node_id: heard, other.kid: 0})

    for case in file["changes"]:
        yield f"change: {case['name']}", case["verdict"], lambda c=case: keeper(0).change(c["body"], NOW)
    one_service = keeper(2)
    for case in file["steps"]:

        def step(case: dict[str, Any] = case) -> None:
            try:
                one_service.change(case["body"], NOW)
            finally:
                same(one_service.keys[node_id][-1].kid, case["kid"])
                same(one_service.http_seq[node_id], case["http_seq"])

        yield f"step: {case['name']}", case["verdict"], step
    key = jose.unb64(file["account_key"])
    assert key is not None
    for case in file["grants"]:
        yield f"grant: {case['name']}", case["verdict"], lambda c=case: service_side.check_grant(c["grant"], key)
    minted = file["grants"][0]["grant"]
    said = [minted[name] for name in ("network", "account", "node_id", "kid", "generation")]
    yield "grant: minted here", "valid", lambda: same(binding.mint_grant(key, *said), minted)
    lines = "\n".join(["rn1.grant", *map(str, said)])
    yield "grant: what is under its MAC", "valid", lambda: same(lines, file["grant_input"])
    for case in file["registrations"]:

        def register(case: dict[str, Any] = case) -> None:
            service_side.check_registration(case["body"], file["register_url"], None, "testnet", NOW)

        yield f"registration: {case['name']}", case["verdict"], register


def of_roots(file: dict[str, Any]) -> Iterator[Case]:
    for case in file["cases"]:
        yield case["name"], case["verdict"], lambda c=case: trust.trust_root(c["statement"], c["network"])
    current = trust.trust_root(file["current"], file["payload"]["network"])
    for case in file["rotations"]:
        yield f"rotation: {case['name']}", case["verdict"], lambda c=case: trust.rotate(current, c["statement"])
    for case in file["files"]:
        yield f"file: {case['name']}", case["verdict"], lambda c=case: trust.read_statement(text_of(c).encode())


def root_of(file: dict[str, Any]) -> trust.Root:
    return trust.trust_root(file["root"], "testnet")


def of_delegations(file: dict[str, Any]) -> Iterator[Case]:
    root = root_of(file)
    for case in file["cases"]:
        yield case["name"], case["verdict"], lambda c=case: trust.verify_delegation(root, c["statement"], c["now"])


def of_releases(file: dict[str, Any]) -> Iterator[Case]:
    root = root_of(file)
    for case in file["cases"]:
        yield case["name"], case["verdict"], lambda c=case: trust.verify_release(root, c["statement"], c["known"])
    for case in file["allowed"]:
        check = lambda c=case: trust.may_apply(file["payload"], c["digest"], c["now"])  # noqa: E731
        yield f"allowed: {case['name']}", case["verdict"], check


def of_snapshots(file: dict[str, Any]) -> Iterator[Case]:
    for case in file["cases"]:
        raw = text_of(case).encode()
        yield case["name"], case["verdict"], lambda r=raw, c=case: trust.verify_snapshot(r, c["digest"], c["network"])
    for at, case in enumerate(file["digests"]):
        yield f"digest {at}", "valid", lambda c=case: same(trust.digest_of(c["text"].encode()), c["digest"])
    for at, case in enumerate(file["weights"]):
        yield f"weights {at}", "valid", lambda c=case: same(trust.weights_digest(c["files"]), c["digest"])


def of_select(file: dict[str, Any]) -> Iterator[Case]:
    for case in file["cases"]:

        def check(case: dict[str, Any] = case) -> None:
            wish = case["wish"]
            got = trust.select(
                case.get("snapshot", file["snapshot"]),
                wish["engine"],
                wish.get("gpuProduct"),
                wish.get("image"),
                wish["models"],
            )
            same(got, (case["runtime"], case["models"]))

        yield case["name"], case["verdict"], check


def of_answers(file: dict[str, Any]) -> Iterator[Case]:
    root = trust.trust_root(file["root"], file["network"])
    for case in file["latest"]:

        def check(case: dict[str, Any] = case) -> None:
            trust.verify_latest(strict_json.parse(case["json"]), root, file["nonce"], case["now"])

        yield f"latest: {case['name']}", case["verdict"], check
    for case in file["statuses"]:

        def status(case: dict[str, Any] = case) -> None:
            jws = jose.read(text_of(case, "jws"), "rn1.status", limit=131_072).verify(public(file["kid"]))
            if fields.checked(jws.json(), fields.STATUS)["nonce"] != file["nonce"]:
                raise Refused("wrong_challenge", "the status echoes another nonce")

        yield f"status: {case['name']}", case["verdict"], status
    for case in file["drains"]:

        def drain(case: dict[str, Any] = case) -> None:
            service_side.check_drain(case["authorization"], public(file["kid"]))

        yield f"drain: {case['name']}", case["verdict"], drain


def of_http(file: dict[str, Any]) -> Iterator[Case]:
    now = file["heartbeat"]["payload"]["time"]
    node = public(file["kid"])

    def request(body: str, typ: str, shape: fields.Shape, url: str) -> dict[str, Any]:
        return service_side.check_request(body, typ, shape, url, node.kid, node, now)

    for case in file["registrations"]:

        def register(case: dict[str, Any] = case) -> None:
            service_side.check_registration(case["body"], file["register_url"], ACCOUNT_KEY, "testnet", now)

        yield f"registration: {case['name']}", case["verdict"], register
    for case in file["requests"]:
        check = lambda c=case: request(c["body"], "rn1.ping", fields.PING, file["ping_url"])  # noqa: E731
        yield f"request: {case['name']}", case["verdict"], check

    def heartbeat() -> None:
        given = file["heartbeat"]
        said = request(given["body"], "rn1.http-heartbeat", fields.HTTP_HEARTBEAT, given["url"])
        same(said, given["payload"])

    yield "heartbeat", "valid", heartbeat
    for member, shape in (("job_input", fields.JOB_INPUT), ("job_output", fields.JOB_OUTPUT)):

        def transfer(given: dict[str, Any] = file[member], member: str = member, shape: Any = shape) -> None:
            typ = f"rn1.{member.replace('_', '-')}"
            same(request(given["body"], typ, shape, given["url"]), given["payload"])

        yield member, "valid", transfer
    for case in file["answers"]:

        def answer(case: dict[str, Any] = case) -> None:
            jws = jose.read(case["body"], "rn1.http-answer").verify(public(file["service_kid"]))
            fields.checked(jws.json(), fields.HTTP_ANSWER)

        yield f"answer: {case['name']}", case["verdict"], answer


def of_bindings(file: dict[str, Any]) -> Iterator[Case]:
    key = jose.unb64(file["account_key"])
    assert key is not None
    for case in file["cases"]:
        yield case["name"], case["verdict"], lambda c=case: service_side.check_binding(c["binding"], key)
    minted = file["cases"][0]["binding"]
    yield "minted here", "valid", lambda: same(
        binding.mint_binding(key, minted["network"], minted["account"], minted["node_id"]), minted
    )
    for case in file["authorizations"]:

        def authorize(case: dict[str, Any] = case) -> None:
            if not service_side.check_authorization(
                case["header"], case["method"], case["path"], "acme", key, case["now"]
            ):
                raise Refused("refused", "HTTP 401")

        yield f"authorization: {case['name']}", case["verdict"], authorize


def of_session(file: dict[str, Any]) -> Iterator[Case]:
    root = trust.trust_root(file["root"], file["network"])
    now, frames = file["now"], file["frames"]
    registered = {each["kid"]: (each["node_id"], public(each["kid"])) for each in file["registered"]}
    challenge = session.believe_challenge(frames[0]["text"], root, now)
    hello_text, hello = frames[1]["text"], frames[1]["payload"]

    def believe_hello(text: str, at: int) -> dict[str, Any]:
        return service_side.believe_hello(
            text, registered, challenge.challenge, file["audience"], file["network"], at
        )

    def ends() -> dict[str, session.Frames]:
        """What each end takes, by the end's name."""
        sid = frames[2]["payload"]["sid"]
        return {
            "agent": session.Frames(sid, challenge.delegation.key, fields.SERVICE_KINDS),
            "service": session.Frames(sid, public(file["kid"]), fields.AGENT_KINDS),
        }

    def whole() -> None:
        same(strict_json.parse(jose.read(frames[0]["text"], "rn1.challenge").payload), frames[0]["payload"])
        same(believe_hello(hello_text, now), hello)
        same(session.believe_ready(frames[2]["text"], challenge, hello_text, hello["nonce"]), frames[2]["payload"])
        taking = ends()
        for frame in frames[3:]:
            end = taking["agent" if frame["from"] == "service" else "service"]
            same(end.decode(frame["text"]), (frame["kind"], frame["payload"]))
            if frame["kind"] == "result":
                receipt = receipts.verify_receipt(frame["payload"]["receipt"], public(file["kid"]))
                same(receipt["output_sha256"], frame["payload"]["output_sha256"])

    yield "the whole session", "valid", whole

    def made_here() -> None:
        """Ed25519 is deterministic: what the agent of the vectors has sent comes out of this client, byte by byte."""
        agent = session.Frames(frames[2]["payload"]["sid"], challenge.delegation.key, fields.SERVICE_KINDS)
        for frame in frames[3:]:
            if frame["from"] == "agent":
                members = {k: v for k, v in frame["payload"].items() if k not in ("sid", "seq")}
                same(agent.encode(KEYS[file["kid"]], frame["kind"], members), frame["text"])

    yield "the agent's frames, made here", "valid", made_here

    for case in file["handshake"]:

        def step(case: dict[str, Any] = case) -> None:
            text, at = text_of(case), case.get("now", now)
            if case["step"] == "challenge":
                session.believe_challenge(text, root, at)
            elif case["step"] == "hello":
                believe_hello(text, at)
            else:
                session.believe_ready(text, challenge, hello_text, hello["nonce"])

        yield f"{case['step']}: {case['name']}", case["verdict"], step
    for case in file["open"]:

        def take(case: dict[str, Any] = case) -> None:
            end = ends()[case["to"]]
            end.received = case["received"]
            end.decode(text_of(case))

        yield f"to the {case['to']}: {case['name']}", case["verdict"], take


def of_receipts(file: dict[str, Any]) -> Iterator[Case]:
    node, service = public(file["kid"]), public(file["service_kid"])
    same(file["start"], receipts.CHAIN_START)
    for case in file["cases"]:
        yield case["name"], case["verdict"], lambda c=case: receipts.verify_receipt(c["jws"], node)
    for case in file["chains"]:
        yield f"chain: {case['name']}", case["verdict"], lambda c=case: receipts.verify_chain(c["chain"], service)
    yield "hashes", "valid", lambda: same(
        [receipts.link_hash(link) for link in file["chains"][0]["chain"]], file["hashes"]
    )


def of_feed(file: dict[str, Any]) -> Iterator[Case]:
    for case in file["cases"]:
        line = case["line"]
        yield case["name"], case["verdict"], lambda t=line: fields.checked(strict_json.parse(t), fields.FEED_LINE)


def of_codes(file: dict[str, Any]) -> Iterator[Case]:
    yield "close code of each error", "valid", lambda: same(CLOSE_CODES, file["errors"])
    yield "known close codes", "valid", lambda: same(set(CLOSE_CODES.values()) - set(file["close_codes"]), set())
    for case in file["reasons"]:
        yield case["reason"], "valid", lambda c=case: same(code_of_reason(c["reason"]), c["code"])


class Noted(dict[str, Any]):
    """A vector file that notes which of its members are read."""

    def __init__(self, members: dict[str, Any]) -> None:
        super().__init__(members)
        self.seen = {"about"}

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)

    def unread(self) -> list[str]:
        """Lists of cases that nothing here runs."""
        return [name for name, value in self.items() if isinstance(value, list) and name not in self.seen]


RUNNERS: dict[str, Callable[[dict[str, Any]], Iterator[Case]]] = {
    "answers": of_answers,
    "bindings": of_bindings,
    "codes": of_codes,
    "delegations": of_delegations,
    "feed": of_feed,
    "fields": of_fields,
    "http": of_http,
    "json": of_json,
    "jws": of_jws,
    "keys": of_keys,
    "messages": of_messages,
    "receipts": of_receipts,
    "releases": of_releases,
    "rollover": of_rollover,
    "roots": of_roots,
    "select": of_select,
    "session": of_session,
    "snapshots": of_snapshots,
}


def verdict_of(check: Callable[[], Any]) -> str:
    try:
        check()
    except Refused as refused:
        return refused.code
    except AssertionError as error:
        return f"another value: {error}"
    return "valid"


def main(folder: Path) -> int:
    global ACCOUNT_KEY
    named = json.loads((folder / "keys.json").read_text())
    NAMED.update({entry["name"]: jose.private_key(entry["jwk"]) for entry in named["keys"]})
    KEYS.update({key.kid: key for key in NAMED.values()})
    ACCOUNT_KEY = jose.unb64(named["account_key"]) or b""
    gone = [name for name in RUNNERS if not (folder / f"{name}.json").exists()]
    for name in gone:
        print(f"{name}.json: there is no such file")
    differing = len(gone)
    for path in sorted(folder.glob("*.json")):
        runner = RUNNERS.get(path.stem)
        if runner is None:
            print(f"{path.name}: not run, it is newer than this client")
            differing += 1
            continue
        counts = {"accepted": 0, "refused": 0}
        wrong = []
        file = Noted(json.loads(path.read_text()))
        for name, wanted, check in runner(file):
            counts["accepted" if wanted == "valid" else "refused"] += 1
            got = verdict_of(check)
            if got != wanted:
                wrong.append(f"  {path.name}: {name}: {wanted} by the vector, {got} here")
        print(f"{path.name}: {counts['accepted']} accepted, {counts['refused']} refused, {len(wrong)} differ")
        for line in wrong:
            print(line)
        for name in file.unread():
            print(f"  {path.name}: {name} is not run, it is newer than this client")
        differing += len(wrong) + len(file.unread())
    return 1 if differing else 0


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else here.parent / "vectors"))
