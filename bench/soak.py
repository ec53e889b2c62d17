"""Runs one server for a long time at half of its capacity and checks that nothing grows: `make soak`.

Connections come and go, some hundreds stay idle for a while, keys rotate, SIGHUP arrives.
"""

import argparse
import asyncio
import itertools
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench import processes, results, rotation, steady
from bench.namespaces import verifier
from bench.steady import Request, TokenSource, body, clock, rejected
from verifier.errors import Reason

WARM_UP_S, ROTATION = 300.0, 3  # samples
CONNECTIONS = 16
IDLE, IDLE_S = 300, 8.0  # the server closes connections that have sent nothing after 5 s
MORE_MEMORY, SLOWER, MORE_DESCRIPTORS = 1.02, 1.20, 2


class Sample(NamedTuple):
    """One minute; the columns of the table."""

    rss_mib: float
    anonymous_mib: float
    descriptors: float
    cpu_us: float  # per request
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class Run(NamedTuple):
    rate: float
    samples: list[Sample]
    unexpected: Counter[str]
    log_errors: int = 0  # lines with the level error


class Check(NamedTuple):
    """A limit for the last part, derived from the first."""

    what: str
    first: float
    last: float
    most: float

    @property
    def holds(self) -> bool:
        return self.last <= self.most


def tenths(samples: list[Sample]) -> list[Sample]:
    """Return the medians of ten parts of equal size (of fewer if there are fewer samples)."""
    parts = min(10, len(samples))
    cuts = [len(samples) * number // parts for number in range(parts + 1)]
    return [
        Sample(*(statistics.median(column) for column in zip(*samples[a:b], strict=True)))
        for a, b in itertools.pairwise(cuts)
    ]


def checks(parts: list[Sample], run: Run) -> list[Check]:
    first, last = parts[0], parts[-1]
    return [
        Check("RSS, MiB", first.rss_mib, last.rss_mib, first.rss_mib * MORE_MEMORY),
        Check("descriptors", first.descriptors, last.descriptors, first.descriptors + MORE_DESCRIPTORS),
        Check("p50, ms", first.p50_ms, last.p50_ms, first.p50_ms * SLOWER),
        Check("p99, ms", first.p99_ms, last.p99_ms, first.p99_ms * SLOWER),
        Check("unexpected responses", 0, run.unexpected.total(), 0),
        Check("errors in the log", 0, run.log_errors, 0),
    ]


def requests(source: TokenSource) -> Iterator[Request]:
    """Yield four good sign-ins, then one request that must be rejected, each time for another reason."""
    while True:
        for bad in (
            rejected(Reason.CLIENT_REJECTED, body(source.token("42"), secret="wrong" * 5)),
            rejected(Reason.TOKEN_MALFORMED, body("garbage" * 50)),
            rejected(Reason.TOKEN_EXPIRED, body(source.token("42", age_s=1000))),
            rejected(Reason.BODY_NOT_JSON, b'{"code":'),
            rejected(Reason.NOT_FOUND, b"{}", "/profil"),
        ):
            yield from [source.good()] * 4
            yield bad


async def idle(port: int, seconds: float) -> None:
    """Hold connections that send nothing, opened one by one because all at once would delay the load."""
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(IDLE)]
    await asyncio.sleep(seconds)
    for _, writer in opened:
        writer.close()


async def watch(pid: int, metrics: int, keys: Path, load: steady.Load, count: int, every_s: float) -> list[Sample]:
    """Disturb the server once per period, and take a sample when the disturbance is over."""
    samples, began, used = list[Sample](), clock(), processes.cpu_s([pid])
    for number in range(1, count + 1):
        await idle(load.port, min(IDLE_S, every_s / 3))
        os.kill(pid, signal.SIGHUP)
        if number % ROTATION == 0:
            for words in (["rotate", "--lead", "5s", "--force"], ["prune", "--retention", "0s"]):
                await asyncio.to_thread(verifier, "keys", *words, "--keys", keys)
        await asyncio.sleep(began + number * every_s - clock())
        with await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{metrics}/metrics") as response:
            assert b"verifier_log_lines_dropped_total 0.0" in response.read()
        responses, load.responses = load.responses, []
        before, used = used, processes.cpu_s([pid])
        anonymous = re.findall(r"(?m)^Anonymous: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text())
        sample = Sample(
            processes.rss_mib([pid]),
            int(anonymous[0]) / 1024,
            len(os.listdir(f"/proc/{pid}/fd")),
            (used - before) / len(responses) * 1e6,
            *steady.spread_ms([seconds for _, seconds, _ in responses]),
        )
        samples.append(sample)
        print(number, len(responses), " ".join(f"{value:.2f}" for value in sample), load.unexpected or "", flush=True)
    return samples


async def drive(pid: int, port: int, metrics: int, keys: Path, count: int, every_s: float) -> Run:
    stream = requests(TokenSource(keys))
    rate = await steady.Load(port, stream, CONNECTIONS).half_of_capacity()
    load = steady.Load(port, stream, CONNECTIONS)
    async with asyncio.TaskGroup() as group:  # what fails in one of them ends both
        group.create_task(load.run(rate, (count + 1) * every_s))
        samples = await watch(pid, metrics, keys, load, count, every_s)
        load.running = False
    return Run(rate, samples, load.unexpected)


def soak(folder: Path, count: int, every_s: float) -> Run:
    keys, port, metrics = folder / "keys", processes.free_port(), processes.free_port()
    verifier("keys", "generate", "--keys", keys)
    environment = rotation.environment(keys) | {"VERIFIER_PORT": str(port), "VERIFIER_METRICS_PORT": str(metrics)}
    line = ["taskset", "-c", processes.SERVER_CORE, sys.executable, "-m", "verifier", "serve"]
    os.sched_setaffinity(0, {int(processes.CLIENT_CORE)})
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE)
    log_errors = subprocess.Popen(["grep", "-c", '"level":"error"'], stdin=process.stdout, stdout=subprocess.PIPE)
    try:
        processes.first_response(process, port, b"{}", 400, clock())
        run = uvloop.run(drive(process.pid, port, metrics, keys, count, every_s))
    finally:
        process.terminate()
        process.wait()
    return run._replace(log_errors=int(log_errors.communicate()[0]))


def report(parts: list[Sample], checked: list[Check]) -> str:
    lines = ["| part | RSS MiB | anonymous MiB | descriptors | CPU µs/request | p50 ms | p99 ms | p99.9 ms | max ms |"]
    lines += ["| --- " * 9 + "|"]
    lines += [f"| {n} | {' | '.join(f'{value:,.2f}' for value in part)} |" for n, part in enumerate(parts, start=1)]
    lines += ["", "| | first part | last part | at most | |", "| --- | --- | --- | --- | --- |"]
    for check in checked:
        values = " | ".join(f"{value:,.2f}" for value in check[1:])
        lines.append(f"| {check.what} | {values} | {'holds' if check.holds else '**fails**'} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=60, help="seconds between two samples")
    parser.add_argument("--quick", action="store_true", help="3 minutes, sampled every 5 s, printed only")
    options = parser.parse_args()
    if options.quick:
        options.minutes, options.every = 3, 5
    with tempfile.TemporaryDirectory() as scratch:
        run = soak(Path(scratch), round(options.minutes * 60 / options.every), options.every)
    warm = round(min(WARM_UP_S, options.minutes * 6) / options.every)
    parts, every = tenths(run.samples[warm:]), f"{options.every:g} s"
    checked = checks(parts, run)
    text = f"""## Soak

{time.strftime("%Y-%m-%d")}, {options.minutes:g} minutes of {run.rate:,.0f} requests/s, half of capacity, loopback.

{report(parts, checked)}
- One worker on one core, with its log and metrics; {CONNECTIONS} connections, each opened again after 100 to
  500 requests. Client: bench/steady.py, an open loop that sleeps; latencies count from the moment a request was due.
- Four fifths good sign-ins, each token used four times; one fifth wrong secrets, garbage, expired tokens, broken JSON
  and a wrong path.
- Every {every} {IDLE} connections that send nothing and a SIGHUP; every third time a rotation and a prune.
- A part is a tenth of the time after {warm * options.every:g} s of warm-up: the median of samples, one every {every}.
"""
    print(text)
    if not options.quick:
        results.write("soak", text)
    sys.exit(not all(check.holds for check in checked))


if __name__ == "__main__":
    main()
