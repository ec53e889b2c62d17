"""Measures what every kind of input costs the server, next to a valid sign-in: `make inputs INPUTS="header"`.

The real server on one core; the client sends rounds of one request on each of 16 connections from the other and never
sleeps. The cost is the processor time of the server (user and system). It includes making the connection anew where
the kind of input ends it. It is compared with valid sign-ins that are measured between the kinds in the same way.
"""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.kinds import Kind, bodies, connections, heads, post, sign_in, tokens
from bench.processes import CLIENT_CORE, SERVER_CORE, cpu_ns, first_response, free_port, running, tree
from bench.servers import OURS, command
from bench.wire import Wire, exchange
from bench.world import ISSUER, SECRET, Conditions, key, prepare

LIMIT = 5.0  # valid sign-ins
CONNECTIONS = 16
TABLES = {"inputs ES256": "ES256", "inputs RS256": "RS256"}
LIST: tuple[Callable[[Any], Iterator[Kind]], ...] = (
    *(bodies.alone, bodies.within, bodies.fields),
    *(heads.fields, heads.values, heads.targets, heads.methods, heads.versions),
    *(connections.chunks, connections.pieces, connections.pipelines, connections.discarded, connections.clients),
    *(tokens.parts, tokens.spellings, tokens.headers, tokens.signatures, tokens.claims),
)


class Cost(NamedTuple):
    """What one kind costs."""

    name: str
    size: int  # of one request, bytes
    us: float
    ratio: float  # to a valid sign-in
    outcomes: Counter[str]

    @property
    def group(self) -> str:
        return self.name.partition(":")[0]


class Sender:
    """The game backend and escs in one: it has the key and the secret."""

    def __init__(self, alg: str) -> None:
        self.signer = key(alg, 0)
        self.application_id, self.secret, self.kid = "application-0000", SECRET, self.signer.kid
        self.alg, self.now = alg, int(time.time())

    def claims(self, number: int) -> dict[str, object]:
        sub = f"player-{number}"
        claims = {"iss": ISSUER, "aud": self.application_id, "sub": sub}
        claims |= {"jti": f"{number:022}", "client_id": self.application_id}
        claims |= {"email": f"{sub}@game.example", "username": f"Player {number}"}
        return {**claims, "iat": self.now, "exp": self.now + 3600}

    def compact(self, header: bytes, payload: bytes) -> str:
        header = header.replace(b'"alg":"ES256"', b'"alg":"%b"' % self.alg.encode())
        signed = f"{tokens.b64(header)}.{tokens.b64(payload)}"
        return f"{signed}.{tokens.b64(self.signer.sign(signed.encode()))}"

    def valid(self, number: int) -> list[bytes]:
        payload = json.dumps(self.claims(number), separators=(",", ":")).encode()
        return post(sign_in(self, self.compact(tokens.header(self), payload)))


class Meter:
    """Measures kinds against one running server."""

    def __init__(self, port: int, pids: list[int], cpu_s: float) -> None:
        self.wires = [Wire(port) for _ in range(CONNECTIONS)]
        self.pids, self.cpu_s, self.number = pids, cpu_s, 0

    def measure(self, kind: Kind) -> tuple[float, int, Counter[str]]:
        """Microseconds for one input, its size, and what came of it."""
        spent, count, outcomes = 0, 0, Counter[str]()
        until = time.monotonic() + 40 * self.cpu_s
        for wire in self.wires:
            wire.close()
        # Unmeasured: where a kind keeps its connections, what it takes to make them is not part of its cost.
        exchange(self.wires, [kind.make(self.number + n) for n in range(CONNECTIONS)], kind)
        self.number += CONNECTIONS
        size = 0
        while count == 0 or (spent < self.cpu_s * 1e9 and time.monotonic() < until):
            batches = []
            for _ in range(1 if kind.responses > 2 or spent > 1e9 * self.cpu_s / 4 else 8):
                batches.append([kind.make(self.number + n) for n in range(CONNECTIONS)])
                self.number += CONNECTIONS
            size = sum(map(len, batches[0][0]))
            before = cpu_ns(self.pids)
            for batch in batches:
                found = exchange(self.wires, batch, kind)
                outcomes += found
                count += len(batch) * kind.responses or found.total()
            spent += cpu_ns(self.pids) - before
        return spent / count / 1000, size, outcomes


def measure(alg: str, pattern: str, cpu_s: float) -> tuple[list[Cost], list[float]]:
    """Measure all kinds whose name matches: their costs, and those of the valid sign-ins between them."""
    os.sched_setaffinity(0, {int(CLIENT_CORE)})
    costs, bases = list[Cost](), list[float]()
    with tempfile.TemporaryDirectory() as scratch:
        world = prepare(Path(scratch) / "world", Conditions(alg), 1)
        port = free_port()
        line = command(OURS, port)
        assert isinstance(line, list)
        with running(
            ["taskset", "-c", SERVER_CORE, *line], world.environment | {"VERIFIER_PORT": str(port)}
        ) as process:
            first_response(process, port, world.bodies.read_bytes().rstrip(), 200, time.monotonic())
            sender = Sender(alg)
            meter, valid = Meter(port, tree(process.pid), cpu_s), Kind("valid", sender.valid)
            meter.measure(valid)
            kinds = [kind for group in LIST for kind in group(sender) if re.search(pattern, kind.name)]
            for number, kind in enumerate(kinds):
                if number % 10 == 0:
                    bases.append(meter.measure(valid)[0])
                us, size, outcomes = meter.measure(kind)
                costs.append(Cost(kind.name, size, us, us / statistics.median(bases[-3:]), outcomes))
                print(f"{number + 1}/{len(kinds)} {costs[-1].ratio:6.2f} {kind.name}", file=sys.stderr, flush=True)
    return costs, bases


def report(costs: list[Cost], bases: list[float], top: int) -> str:
    """Format the groups of kinds with the dearest of each, then the dearest kinds of all."""
    over = [cost for cost in costs if cost.ratio > LIMIT]
    base = f"{statistics.median(bases):.0f} µs ({min(bases):.0f} to {max(bases):.0f})"
    lines = [
        f"A valid sign-in: {base}. {len(costs)} kinds of input, {len(over)} of them over {LIMIT:g} valid sign-ins.",
        "",
        "| group | kinds | median | most | which |",
        "| --- | --- | --- | --- | --- |",
    ]
    for group in dict.fromkeys(cost.group for cost in costs):
        members = [cost for cost in costs if cost.group == group]
        most = max(members, key=lambda cost: cost.ratio)
        median = statistics.median(cost.ratio for cost in members)
        name = most.name.partition(": ")[2]
        lines.append(f"| {group} | {len(members)} | {median:.1f} | {most.ratio:.1f} | {name} |")
    lines += ["", "| valid sign-ins | µs | bytes | kind | outcomes |", "| --- | --- | --- | --- | --- |"]
    for cost in sorted(costs, key=lambda cost: -cost.ratio)[: max(top, len(over))]:
        outcomes = ", ".join(sorted(cost.outcomes))
        lines.append(f"| {cost.ratio:.1f} | {cost.us:.0f} | {cost.size} | {cost.name} | {outcomes} |")
    return "\n".join(lines) + "\n"


def run(name: str, pattern: str = "", *, quick: bool = False) -> str:
    """Measure and format one table."""
    costs, bases = measure(TABLES[name], pattern, 0.02 if quick else 0.1)
    when = f"{time.strftime('%Y-%m-%d %H:%M')}, loopback, load average {os.getloadavg()[0]:.1f} at the end."
    return f"## {name}\n\n{when}\n\n{report(costs, bases, 20)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.inputs", description=__doc__)
    parser.add_argument("pattern", nargs="?", default="", help="only kinds whose name matches")
    parser.add_argument("--alg", default="ES256", choices=["ES256", "RS256", "EdDSA"])
    parser.add_argument("--cpu", type=float, default=0.1, help="seconds of processor time for each kind")
    parser.add_argument("--top", type=int, default=40)
    options = parser.parse_args()
    costs, bases = measure(options.alg, options.pattern, options.cpu)
    print(report(costs, bases, options.top))


if __name__ == "__main__":
    main()
