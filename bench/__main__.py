"""Measures the server against its peers and its floors: `make bench`, or `make bench BENCH="--quick ES256"`.

Every round starts each server once, in turn (A B C A B C), pinned to one core; bench/client.c drives it from the other
over the loopback interface. Processor time per request is the figure that holds on a machine with other work to do.
"""

import argparse
import itertools
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from bench import client, inputs, report, results
from bench.client import Load
from bench.processes import CLIENT_CORE, SERVER_CORE, cpu_s, first_response, free_port, rss_mib, running, tree
from bench.report import Figures
from bench.servers import BARE, RAW, command
from bench.tables import SLOW, TABLES, TARGETS, Row
from bench.world import World, prepare

WARM_UP, WARM_UP_S = 10_000, 3.0  # requests, and the time for them: compilers of the peers need as many


@contextmanager
def slow_senders(port: int, sent: bytes | None) -> Iterator[None]:
    """Hold SLOW connections that have begun and do not go on; the server closes them after 5 s."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack:
        for _ in range(0 if sent is None else SLOW):
            stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(sent or b"")
        time.sleep(0 if sent is None else 0.5)  # until they are all read
        yield


@contextmanager
def changing_keys(folder: Path) -> Iterator[None]:
    """Replace one key file after the other, all but the first, twice a second."""
    stopped = threading.Event()

    def run() -> None:
        for number, path in enumerate(itertools.cycle(sorted(folder.glob("*.json"))[1:])):
            if stopped.wait(0.5):
                return
            new = path.with_suffix(".new")
            new.write_text(json.dumps(json.loads(path.read_text()) | {"exp": 10**10 + number}))
            new.replace(path)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def measure_floor(line: list[str], world: World, seconds: float) -> Figures:
    """Run a program that measures itself."""
    line = ["taskset", "-c", SERVER_CORE, *line, str(world.bodies), str(seconds)]
    done = subprocess.run(line, env=world.environment, capture_output=True, text=True, check=True)
    raw = json.loads(done.stdout)
    return Figures(raw["requests"] / raw["seconds"], raw["cpu_s"] / raw["requests"] * 1e6)


def measure(row: Row, line: list[str], port: int, world: World, seconds: float) -> Figures:
    """Measure one round of one row."""
    # Two workers have both cores, one of them together with the client.
    core = SERVER_CORE if row.workers == 1 else "0,1"
    settings = {"VERIFIER_WORKERS": str(row.workers), "VERIFIER_LOG_LEVEL": row.log_level}
    environment = world.environment | settings | {"VERIFIER_PORT": str(port), "PORT": str(port)}
    status = 200 if row.conditions.load == "good" or row.server == BARE else 401
    since = time.monotonic()
    with running(["taskset", "-c", core, *line], environment) as process:
        first = first_response(process, port, world.bodies.open("rb").readline(), status, since)
        full = status == 200 and row.server != BARE and row.conditions.token_bytes > 300
        if full and json.loads(first.body) != world.profile:
            raise SystemExit(f"{row.server} responds {first.body!r}")
        expected = {"status": status, "length": len(first.body), "core": CLIENT_CORE}
        warm_up = Load("keep", row.load.connections) if row.load.mode == "open" else row.load
        most = client.run(port, world.bodies, warm_up, seconds=WARM_UP_S, count=WARM_UP, **expected)
        load = row.load._replace(rate=most.requests / most.seconds * row.share)
        pids = tree(process.pid)
        keys = Path(environment["VERIFIER_KEYS"]) / "public"
        with slow_senders(port, row.slow), changing_keys(keys) if row.changing else nullcontext():
            before = cpu_s(pids)
            done = client.run(port, world.bodies, load, seconds=seconds, **expected)
            cpu_us = (cpu_s(pids) - before) / done.requests * 1e6
        latency = (done.p50_ms, done.p99_ms, done.p999_ms)
        return Figures(done.requests / done.seconds, cpu_us, *latency, rss_mib(pids), first.after_s, done.errors)


def run(name: str, rows: list[Row], rounds: int, seconds: float) -> str:
    """Measure one table, round by round; what cannot be started is left out, with the reason."""
    figures: dict[str, list[Figures]] = {}
    began, notes, worlds = os.getloadavg()[0], [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for row in rows:
            line = command(row.server, 0)
            if isinstance(line, str):
                notes.append(f"Left out: {row.label} ({line}).\n")
                rows = [other for other in rows if other is not row]
            elif row.conditions not in worlds:
                worlds[row.conditions] = prepare(Path(scratch) / str(len(worlds)), row.conditions)
        for number in range(rounds):
            for row in rows:
                port = free_port()
                line = command(row.server, port)
                assert isinstance(line, list)
                world = worlds[row.conditions]
                one = (
                    measure_floor(line, world, seconds)
                    if row.server == RAW
                    else measure(row, line, port, world, seconds)
                )
                figures.setdefault(row.label, []).append(one)
                print(f"{name} {number + 1}/{rounds} {row.label}: {one.cpu_us:.1f} µs", file=sys.stderr, flush=True)
    loads = f"load average {began:.1f} before and {os.getloadavg()[0]:.1f} after"
    when = f"{time.strftime('%Y-%m-%d %H:%M')}, {rounds} paired rounds of {seconds:g} s, loopback, {loads}."
    return (
        f"## {name}\n\n{when}\n\n{''.join(notes)}{report.report(figures, report.clients(rows), TARGETS.get(name, []))}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = [*TABLES, *inputs.TABLES]
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--only", help="rows whose label matches this pattern")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 s, printed only")
    options = parser.parse_args()
    if not shutil.which("taskset"):
        raise SystemExit("needs taskset (Debian: util-linux)")
    if options.quick:
        options.rounds, options.seconds = 2, 1.0
    client.build()
    for name in options.tables or names:
        if name in inputs.TABLES:
            text = inputs.run(name, quick=options.quick)
        else:
            rows = [row for row in TABLES[name] if re.search(options.only or "", row.label)]
            text = run(name, rows, options.rounds, options.seconds)
        print(text)
        if not (options.quick or options.only):
            results.write("machine", f"{report.machine()}\n")
            results.write(name, text)


if __name__ == "__main__":
    main()
