"""How long a start takes: the imports, the largest of them, and the first response. `make startup`."""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.processes import first_response, free_port
from bench.world import World, prepare

ROUNDS = 9


def run_s(code: str) -> float:
    since = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.monotonic() - since


def largest() -> list[tuple[int, str]]:
    """Microseconds of an import with all that it imports, for the packages this one asks for."""
    line = [sys.executable, "-X", "importtime", "-c", "import verifier.server.run"]
    text = subprocess.run(line, capture_output=True, text=True, check=True).stderr
    found = re.findall(r"\| +(\d+) \| +(\w+)\n", text)
    return sorted(((int(us), name) for us, name in found), reverse=True)


def first_response_s(world: World) -> float:
    port = free_port()
    body = world.bodies.open("rb").readline()
    since = time.monotonic()
    line = [sys.executable, "-m", "verifier", "serve"]
    process = subprocess.Popen(line, env=world.environment | {"VERIFIER_PORT": str(port)}, stderr=subprocess.DEVNULL)
    try:
        return first_response(process, port, body, 200, since).after_s
    finally:
        process.terminate()
        process.wait()


def say(what: str, times: list[float]) -> None:
    print(f"{what}: {statistics.median(times):.3f} s ({min(times):.3f} to {max(times):.3f})")


def main() -> None:
    say("Python alone", [run_s("pass") for _ in range(ROUNDS)])
    say("with the imports", [run_s("import verifier.server.run") for _ in range(ROUNDS)])
    with tempfile.TemporaryDirectory() as scratch:
        world = prepare(Path(scratch) / "world", count=1)
        say("first response", [first_response_s(world) for _ in range(ROUNDS)])
    for us, name in largest()[:12]:
        print(f"{us / 1000:7.1f} ms  {name}")


if __name__ == "__main__":
    main()
