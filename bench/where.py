"""Shows where the time of one request goes, by module: `make profile`.

The real connection and application, fed from memory: no socket, no kernel. The total is measured without the profiler,
as the best of many batches; the shares come from cProfile, which makes Python calls look more expensive than they are.
A call into C (a signature check, hashing) counts as a module of its own.
"""

import argparse
import asyncio
import cProfile
import functools
import os
import pstats
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop
from uvicorn import Config
from uvicorn.server import ServerState

from bench.world import Conditions, prepare
from verifier.server.connection import HttpConnection
from verifier.server.endpoints import create_app
from verifier.server.settings import Settings

BATCH, CONNECTIONS = 200, 10  # requests; connections, each of which sends one per event-loop iteration


class Transport(asyncio.Transport):
    """Counts what is written and sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: Counter[bytes] = Counter()

    def write(self, data: Any) -> None:
        if data.startswith(b"HTTP/1.1 "):
            self.statuses[bytes(data[9:12])] += 1

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    pause_reading = resume_reading = close

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def requests(bodies: Path) -> list[bytes]:
    head = "POST /profile HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    return [(head.format(len(line)) + line).encode() for line in bodies.read_text().splitlines()]


async def drive(settings: Settings, sent: list[bytes], profiler: cProfile.Profile | None) -> tuple[float, Transport]:
    """Return the microseconds of processor time per request, of the best batch; under a profiler the mean."""
    app = create_app(settings)
    config = Config(app, ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False)
    config.load()
    transport = Transport()
    times = []
    async with app.lifespan_context(app) as state:
        app_state, server_state = dict(state or {}), ServerState()
        connections = [HttpConnection(config, server_state, app_state) for _ in range(CONNECTIONS)]
        for connection in connections:
            connection.connection_made(transport)
        for start in range(0, len(sent), BATCH):
            if profiler:
                profiler.enable()
            before = time.process_time()
            for first in range(start, start + BATCH, CONNECTIONS):
                for connection, request in zip(connections, sent[first : first + CONNECTIONS], strict=True):
                    connection.data_received(request)
                while transport.statuses.total() < first + CONNECTIONS:
                    await asyncio.sleep(0)
                await asyncio.sleep(0)  # the log lines of the iteration
            times.append((time.process_time() - before) / BATCH * 1e6)
            if profiler:
                profiler.disable()
        for connection in connections:
            connection.connection_lost(None)
    return (sum(times) / len(times) if profiler else min(times)), transport


def module(function: tuple[str, int, str]) -> str:
    path, _, name = function
    if path == "~":
        return f"C: {name.strip('<>').removeprefix('built-in method ')}"
    parts = Path(path).with_suffix("").parts
    for package in ("site-packages", "python3", "verifier"):
        for number, part in enumerate(parts):
            if part.startswith(package) and part != parts[-1]:
                return ".".join(parts[number + (package != "verifier") :])
    return path


def shares(profiler: cProfile.Profile) -> list[tuple[str, float, int]]:
    """Return each module with its share of the time and its calls, without the loop that drives them."""
    spent: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for function, (_, count, own, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        if Path(function[0]).name != Path(__file__).name and "sleep" not in function[2]:
            spent[module(function)] += own
            calls[module(function)] += count
    total = sum(spent.values())
    return [(name, own / total, calls[name]) for name, own in spent.most_common()]


def main(say: Callable[[str], None]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alg", default="ES256", choices=["ES256", "RS256", "EdDSA"])
    parser.add_argument("--load", default="good", choices=["good", "wrong secret", "garbage", "expired"])
    parser.add_argument("--count", type=int, default=4000, help=f"requests; rounded up to a multiple of {BATCH}")
    parser.add_argument("--top", type=int, default=25)
    options = parser.parse_args()
    count = -(-options.count // BATCH) * BATCH
    profiled = max(BATCH, count // 4 // BATCH * BATCH)
    with tempfile.TemporaryDirectory() as scratch:
        world = prepare(Path(scratch) / "world", Conditions(options.alg, options.load), count)
        settings = Settings.from_environment(world.environment)
        sent = requests(world.bodies)
        uvloop.run(drive(settings, sent[:BATCH], None))
        best, transport = uvloop.run(drive(settings, sent, None))
        say(f"{best:.1f} µs of processor time per request; responses {dict(transport.statuses)}")
        profiler = cProfile.Profile()
        uvloop.run(drive(settings, sent[:profiled], profiler))
    for name, share, calls in shares(profiler)[: options.top]:
        say(f"{share:6.1%} {calls / profiled:6.1f} calls  {name}")


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as output, open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 1)  # the server writes its log lines, and they are not shown
        main(functools.partial(print, file=output))
