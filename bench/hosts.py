"""What players see while hosts die, hang, vanish and restart, and keys change: `make hosts`, as root.

Three hosts behind HAProxy, asked at half of what they can do together: four fifths good sign-ins, one fifth forged.
"""

import argparse
import asyncio
import bisect
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench import namespaces, results, steady
from bench.steady import Request, TokenSource, body, rejected
from verifier.errors import Reason
from verifier.signing import keystore

STRETCH, CONNECTIONS = 2.4, 64
LIMIT_S, WITHIN = 0.05, 0.999


class Result(NamedTuple):
    """The responses of one run, and what was done when."""

    rate: float
    responses: list[tuple[float, float, str]]  # due, seconds, kind
    unexpected: Counter[str]
    marks: list[tuple[float, str]]  # when, what

    def failed(self, kind: str) -> int:
        return sum(count for text, count in self.unexpected.items() if text.startswith(kind))

    def good_s(self) -> list[float]:
        return [seconds for _, seconds, kind in self.responses if kind == "good"]

    def within(self) -> float:
        """Return the share of good sign-ins with the right response in time."""
        good = self.good_s()
        return (sum(seconds <= LIMIT_S for seconds in good) - self.failed("good")) / len(good)

    def holds(self) -> bool:
        return not self.unexpected and self.within() >= WITHIN

    def phases(self) -> list[tuple[str, list[float]]]:
        """Group the latencies of good sign-ins by what had been done last."""
        found: list[tuple[str, list[float]]] = [(name, []) for _, name in self.marks]
        begins = [at for at, _ in self.marks]
        for due, seconds, kind in self.responses:
            if kind == "good":
                found[max(0, bisect.bisect(begins, due) - 1)][1].append(seconds)
        return found


def requests(source: TokenSource, revoked: list[str]) -> Iterator[Request]:
    """Yield four good sign-ins, then one whose token another key has signed; new tokens for every twenty."""
    other_key = keystore.generate("ES256")
    while True:
        bad = rejected(Reason.SIGNATURE_INVALID, body(source.token("42", key=other_key)))
        if revoked:
            bad = rejected(Reason.KEY_REVOKED, body(revoked[0]))
        yield from [*[source.good()] * 4, bad] * 4


async def drive(hosts: list[namespaces.Host], keys: Path, port: int, context: ssl.SSLContext, seconds: float) -> Result:
    revoked: list[str] = []
    stream = requests(TokenSource(keys), revoked)
    rate = await steady.Load(port, stream, CONNECTIONS, context).half_of_capacity()
    load, marks = steady.Load(port, stream, CONNECTIONS, context), [(steady.clock(), "start")]

    def mark(name: str) -> None:
        marks.append((steady.clock(), name))
        print(name, f"{load.unexpected or ''}", flush=True)

    async with asyncio.TaskGroup() as group:
        group.create_task(load.run(rate, seconds))
        await asyncio.to_thread(namespaces.disturb, hosts, keys, revoked.append, mark, STRETCH)
        assert load.running, "it took longer than the load"
    return Result(rate, load.responses, load.unexpected, marks)


def run(folder: Path, seconds: float) -> Result:
    with namespaces.hosts(folder) as hosts, namespaces.proxy(hosts, folder) as (port, context):
        return uvloop.run(drive(hosts, folder / "keys", port, context, seconds))


def report(result: Result, seconds: float) -> str:
    p50, p99, p999, longest = steady.spread_ms(result.good_s())
    lines = [
        "| | | required |",
        "| --- | --- | --- |",
        f"| good sign-ins | {len(result.good_s()):,} | |",
        f"| of them failed | {result.failed('good')} | 0 |",
        f"| response within {LIMIT_S * 1000:g} ms | {result.within():.3%} | {WITHIN:.1%} |",
        f"| forged and revoked ones | {len(result.responses) - len(result.good_s()):,} | |",
        f"| of them not rejected for the right reason | {result.failed('bad')} | 0 |",
        f"| p50, p99, p99.9, maximum | {p50:.1f}, {p99:.1f}, {p999:.0f}, {longest:.0f} ms | |",
        "",
        f"| after | good sign-ins | over {LIMIT_S * 1000:g} ms | p50 ms | p99 ms | maximum ms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, times in result.phases():
        if times:
            p50, p99, _, longest = steady.spread_ms(times)
            slow = sum(seconds > LIMIT_S for seconds in times)
            lines.append(f"| {name} | {len(times):,} | {slow} | {p50:.1f} | {p99:.1f} | {longest:.0f} |")
    table = "\n".join(lines)
    return f"""## Hosts that fail

{time.strftime("%Y-%m-%d")}, {seconds:g} s of {result.rate:,.0f} requests/s, half of capacity.

{table}

- Three network namespaces with one replica each, behind the HAProxy of `deploy/haproxy` with TLS, and the client:
  all on two cores. Latencies count from the moment a request was due; {CONNECTIONS} keep-alive connections.
- Kill is SIGKILL and a start, stop is SIGSTOP, terminate is SIGTERM and a start, cut off is the link down.
- The network is that of one machine (veth pairs), not loopback. The client (bench/steady.py) sleeps, and repeats no
  request.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--quick", action="store_true", help="printed only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            result = run(Path(scratch), options.seconds)
        except namespaces.Missing as exc:
            raise SystemExit(f"cannot be run here: {exc}") from exc
    text = report(result, options.seconds)
    print(text)
    if result.unexpected:
        print(dict(result.unexpected), file=sys.stderr)
    if not options.quick:
        results.write("hosts", text)
    sys.exit(not result.holds())


if __name__ == "__main__":
    main()
