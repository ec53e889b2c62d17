"""The load generator bench/client.c: compiled on demand, run, and its figures."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
BINARY = HERE / ".build" / "client"


class Load(NamedTuple):
    """How a server is loaded."""

    mode: str = "keep"  # alive; "new": a connection for each request; "open": at a constant rate, keep-alive
    connections: int = 16
    sleeps: bool = False  # a client that must be woken by the server, as wrk is
    rate: float = 0.0  # requests/s, mode open only

    def __str__(self) -> str:
        kind = {
            "keep": "keep-alive connections, closed loop",
            "new": "requests at once, a new connection for each",
            "open": "keep-alive connections, open loop",
        }[self.mode]
        return f"{'sleeps' if self.sleeps else 'never sleeps'}, {self.connections} {kind}"


class Outcome(NamedTuple):
    """What the client prints."""

    requests: int
    seconds: float
    errors: int  # responses of another status or length, connections that ended
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


def build(binary: Path = BINARY) -> Path:
    """Compile the client where that has not been done since its source changed."""
    source = HERE / "client.c"
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        if not shutil.which("cc"):
            raise SystemExit("needs a C compiler (Debian: gcc)")
        binary.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", binary, source], check=True)
    return binary


def run(
    port: int,
    bodies: Path,
    load: Load,
    *,
    status: int,
    length: int,
    seconds: float,
    core: str,
    count: int = 10**9,
    binary: Path = BINARY,
) -> Outcome:
    """Send requests for some seconds; each response must have this status and this length of its body."""
    line: list[object] = [build(binary), "--port", port, "--bodies", bodies, "--status", status, "--length", length]
    line += ["--mode", load.mode, "--connections", load.connections, "--seconds", seconds, "--count", count]
    line += ["--core", core, *(["--sleep"] if load.sleeps else []), *(["--rate", load.rate] if load.rate else [])]
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True, timeout=4 * seconds + 60)
    if done.returncode not in (0, 3):  # 3: there were unexpected responses
        raise SystemExit(f"client: {done.stderr}")
    return Outcome(**json.loads(done.stdout))
