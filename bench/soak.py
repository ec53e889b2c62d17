"""Does it stay as it is? One server, asked for a long time at half its capacity: `make soak SOAK="--minutes 60"`.

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
from bench.steady import body, clock, refusal

WARM_UP_S, ROTATION = 300.0, 3  # samples
CONNECTIONS = 16
IDLE, IDLE_S = 300, 8.0  # the server itself closes after 5 s what has sent nothing
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
    alarms: int = 0  # lines of the log with the level error


class Claim(NamedTuple):
    """What must be so in the end."""

    what: str
    first: float
    last: float
    most: float

    @property
    def holds(self) -> bool:
        return self.last <= self.most


def tenths(samples: list[Sample]) -> list[Sample]:
    """Medians of ten parts, as even as can be; of fewer where there are fewer samples."""
    parts = min(10, len(samples))
    cuts = [len(samples) * number // parts for number in range(parts + 1)]
    return [
        Sample(*(statistics.median(column) for column in zip(*samples[a:b], strict=True)))
        for a, b in itertools.pairwise(cuts)
    ]


def claims(parts: list[Sample], run: Run) -> list[Claim]:
    first, last = parts[0], parts[-1]
    return [
        Claim("RSS, MiB", first.rss_mib, last.rss_mib, first.rss_mib * MORE_MEMORY),
        Claim("descriptors", first.descriptors, last.descriptors, first.descriptors + MORE_DESCRIPTORS),
        Claim("p50, ms", first.p50_ms, last.p50_ms, first.p50_ms * SLOWER),
        Claim("p99, ms", first.p99_ms, last.p99_ms, first.p99_ms * SLOWER),
        Claim("unexpected answers", 0, run.unexpected.total(), 0),
        Claim("errors in the log", 0, run.alarms, 0),
    ]


def requests(mint: steady.Mint) -> Iterator[steady.Ask]:
    """Four times a good sign-in, with the same new token, then one that is refused, each for another reason."""
    while True:
        for refused in (
            refusal("unknown application or wrong secret", body(mint.token("42"), secret="wrong" * 5)),
            refusal("code is not a compact JWS of three parts", body("garbage" * 50)),
            refusal("exp is in the past", body(mint.token("42", age_s=1000))),
            refusal("the body is not JSON", b'{"code":', 400),
            refusal("no such path", b"{}", 404, "/profil"),
        ):
            yield from [mint.good()] * 4
            yield refused


async def idle(port: int, seconds: float) -> None:
    """Connections that send nothing; opened one by one, as all at once would hold up the load."""
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(IDLE)]
    await asyncio.sleep(seconds)
    for _, writer in opened:
        writer.close()


async def watch(pid: int, metrics: int, keys: Path, load: steady.Load, count: int, every_s: float) -> list[Sample]:
    """Each minute what happens beside the load, then, when that is long over, a sample."""
    samples, began, used = list[Sample](), clock(), processes.cpu_s([pid])
    for number in range(1, count + 1):
        await idle(load.port, min(IDLE_S, every_s / 3))
        os.kill(pid, signal.SIGHUP)
        if number % ROTATION == 0:
            for words in (["rotate", "--lead", "5s", "--force"], ["prune", "--retention", "0s"]):
                await asyncio.to_thread(verifier, "keys", *words, "--keys", keys)
        await asyncio.sleep(began + number * every_s - clock())
        with await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{metrics}/metrics") as answer:
            assert b"verifier_log_lines_dropped_total 0.0" in answer.read()
        took, load.took = load.took, []
        before, used = used, processes.cpu_s([pid])
        anonymous = re.findall(r"(?m)^Anonymous: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text())
        sample = Sample(
            processes.rss_mib([pid]),
            int(anonymous[0]) / 1024,
            len(os.listdir(f"/proc/{pid}/fd")),
            (used - before) / len(took) * 1e6,
            *steady.spread_ms([seconds for _, seconds, _ in took]),
        )
        samples.append(sample)
        print(number, len(took), " ".join(f"{value:.2f}" for value in sample), load.unexpected or "", flush=True)
    return samples


async def drive(pid: int, port: int, metrics: int, keys: Path, count: int, every_s: float) -> Run:
    asks = requests(steady.Mint(keys))
    rate = await steady.Load(port, asks, CONNECTIONS).half()
    load = steady.Load(port, asks, CONNECTIONS)
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
    alarms = subprocess.Popen(["grep", "-c", '"level":"error"'], stdin=process.stdout, stdout=subprocess.PIPE)
    try:
        processes.first_response(process, port, b"{}", 400, clock())
        run = uvloop.run(drive(process.pid, port, metrics, keys, count, every_s))
    finally:
        process.terminate()
        process.wait()
    return run._replace(alarms=int(alarms.communicate()[0]))


def report(parts: list[Sample], judged: list[Claim]) -> str:
    lines = ["| part | RSS MiB | anonymous MiB | descriptors | CPU µs/request | p50 ms | p99 ms | p99.9 ms | max ms |"]
    lines += ["| --- " * 9 + "|"]
    lines += [f"| {n} | {' | '.join(f'{value:,.2f}' for value in part)} |" for n, part in enumerate(parts, start=1)]
    lines += ["", "| | first part | last part | at most | |", "| --- | --- | --- | --- | --- |"]
    for claim in judged:
        values = " | ".join(f"{value:,.2f}" for value in claim[1:])
        lines.append(f"| {claim.what} | {values} | {'holds' if claim.holds else '**fails**'} |")
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
    judged = claims(parts, run)
    text = f"""## Soak

{time.strftime("%Y-%m-%d")}, {options.minutes:g} minutes of {run.rate:,.0f} requests/s, half of the most.

{report(parts, judged)}
- One worker on one core, with its log and metrics; {CONNECTIONS} connections, each made anew after 100 to 500
  requests. Times count from the moment a request was due. The most is reached when every answer is followed by the
  next request.
- Four fifths good sign-ins, with ever new tokens; one fifth wrong secrets, garbage, expired tokens, broken JSON and
  a wrong path.
- Every {every} {IDLE} connections that send nothing and a SIGHUP; every third time a rotation and a prune.
- A part is a tenth of the time after {warm * options.every:g} s of warm-up: the median of samples, one every {every}.
"""
    print(text)
    if not options.quick:
        results.write("soak", text)
    sys.exit(not all(claim.holds for claim in judged))


if __name__ == "__main__":
    main()
