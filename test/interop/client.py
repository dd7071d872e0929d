"""A node of the network in Python, written from docs/protocol.md and test/vectors alone.

What whoever keeps the identity does:
    python client.py identity --folder F                makes key.jwk, prints its id
    python client.py next --folder F                    makes next.jwk beside it, prints its id
    python client.py promote --folder F                 once the service has it: next.jwk becomes key.jwk

What the holder of the account's key does, in the file --account-key, for the account --account:
    python client.py bind --folder F --network N        mints binding.json for the node whose key.jwk is there
    python client.py grant --network N --node ID --kid KID --generation G    prints a grant
    python client.py revoke --url URL --node ID         makes the node's key void, prints the answer
    python client.py feed --url URL                     prints the account's nodes as the fleet feed has them

What the node does:
    python client.py run --folder F --network N --url URL       registers if it must, and serves
    python client.py receipts --folder F --network N --url URL --file FILE  verifies what `io receipts export` prints
    python client.py refusals --folder F --network N --url URL  registers, and then does what must be refused

`run` prints what happens as one JSON object a line, and ends when it has served `--jobs` of them, on SIGTERM, or when a
newer session of the same node has begun. It follows key and grant of its folder as they change.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

import account
import binding
import fields
import jose
import receipts
import refused_sessions
from agent import Options, run
from errors import Refused
from http_api import Declined
from identity import Identity, write_durably
from node import Node


def bind(folder: Path, network: str, account_name: str, secret: bytes) -> None:
    node_id = Identity(folder).keys[0].kid
    minted = fields.checked(binding.mint_binding(secret, network, account_name, node_id), fields.BINDING)
    write_durably(folder / "binding.json", json.dumps(minted))
    print(json.dumps(minted))


def verify_receipts(node: Node, file: Path) -> None:
    """A chain from its first link, with the receipts of this node in it, by the keys that it has or had."""
    node.service.latest()
    assert node.service.key is not None
    links = receipts.verify_chain(file.read_text().split(), node.service.key)
    keys = {key.kid: key for key in [*node.identity.former, *(key.public for key in node.identity.keys)]}
    for link in links:
        signer = keys.get(jose.read(link["receipt"], "rn1.receipt").kid)
        if signer is None:
            raise Refused("unknown_key", f"receipt {link['index']} is signed by no key of this node")
        receipt = receipts.verify_receipt(link["receipt"], signer)
        if receipt["account"] != link["account"] or receipt["node_id"] != node.id:
            raise Refused("wrong_node", f"receipt {link['index']} is another node's or account's")
    print(f"{len(links)} receipts, each by this node: the chain is whole")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = made.add_subparsers(dest="command", required=True)
    of_node, of_account = ("run", "receipts", "refusals"), ("bind", "grant", "revoke", "feed")
    for name in ("identity", "next", "promote", *of_account, *of_node):
        command = commands.add_parser(name)
        if name not in ("grant", "revoke", "feed"):
            command.add_argument("--folder", type=Path, required=True)
        if name in ("bind", "grant", *of_node):
            command.add_argument("--network", required=True)
        if name in of_account:
            command.add_argument("--account", required=True)
            command.add_argument("--account-key", type=Path, required=True, help="file that holds it")
        if name in ("grant", "revoke"):
            command.add_argument("--node", required=True, help="id of the node")
        if name == "grant":
            command.add_argument("--kid", required=True, help="id of the key that is granted")
            command.add_argument("--generation", type=int, required=True)
        if name in ("revoke", "feed", *of_node):
            command.add_argument("--url", required=True, help="base URL of the service")
        if name == "receipts":
            command.add_argument("--file", type=Path, required=True, help="one compact JWS a line")
        if name == "run":
            command.add_argument("--jobs", type=int, help="leave after so many")
            command.add_argument("--cut-after", type=int, help="cut the first session after so many chunks")
            command.add_argument("--die", choices=["kept", "ack"], help="when a result is on the disk, or acknowledged")
            command.add_argument("--probe", action="store_true", help="also ask for what must be refused")
            command.add_argument("--first-piece-ms", type=int, default=0, help="how long the engine thinks")
            command.add_argument("--piece-ms", type=int, default=10, help="between pieces of its answer")
    return made


def main() -> int:
    given = parser().parse_args()
    try:
        if given.command == "identity":
            print(Identity(given.folder).make("key.jwk").kid)
        elif given.command == "next":
            print(Identity(given.folder).make("next.jwk").kid)
        elif given.command == "promote":
            print(Identity(given.folder).promote().kid)
        elif given.command == "bind":
            bind(given.folder, given.network, given.account, account.read_key(given.account_key))
        elif given.command == "grant":
            secret = account.read_key(given.account_key)
            said = (given.network, given.account, given.node, given.kid, given.generation)
            print(json.dumps(fields.checked(binding.mint_grant(secret, *said), fields.GRANT)))
        elif given.command in ("revoke", "feed"):
            asked = account.Account(given.url.rstrip("/"), given.account, account.read_key(given.account_key))
            for line in asked.feed() if given.command == "feed" else [asked.revoke(given.node)]:
                print(json.dumps(line))
        else:
            node = Node.load(given.folder, given.url, given.network)
            if given.command == "receipts":
                verify_receipts(node, given.file)
            elif given.command == "refusals":
                asyncio.run(refused_sessions.run(node))
            else:
                node.first_piece_s, node.piece_s = given.first_piece_ms / 1000, given.piece_ms / 1000
                node.probe = given.probe
                return asyncio.run(run(node, Options(given.jobs, given.cut_after, given.die, given.probe)))
    except (Refused, Declined, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
