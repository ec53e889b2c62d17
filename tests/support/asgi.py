"""The endpoint outside `verifier serve`: in other applications and on other ASGI servers."""

import contextlib
import http.client
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# An environment of its own: nothing else needs these servers.
SERVERS = ROOT / "tests" / "servers" / ".venv" / "bin"
ISSUER, APPLICATION_ID, SECRET = "https://game.example", "orbit-run", "the secretKey of the dashboard"
PROFILE = (200, {"_id": "42", "username": "ann"})
REVOKED = (401, "invalid_token")
REVOCATION_S = 2.0  # from the changed file to the first rejection, at most


def verifier(*arguments: object, **more: Any) -> "subprocess.CompletedProcess[str]":
    """Run a command of this package."""
    command = [sys.executable, "-m", "verifier", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **more)


def revoke(game: Path) -> None:
    """Mark the only key as revoked, as the file that a deployment brings."""
    (path,) = (game / "keys" / "public").iterdir()
    jwk = json.loads(path.read_text()) | {"revoked": {"revoked_at": int(time.time()), "reason": "compromised"}}
    path.with_suffix(".new").write_text(json.dumps(jwk))
    path.with_suffix(".new").replace(path)


def summary(content: bytes) -> Any:
    """The error code of an error of the endpoint, or the whole content."""
    try:
        members = json.loads(content)
    except ValueError:
        return content.decode()
    return members.get("error", members) if isinstance(members, dict) else members


async def post(app: Any, path: str, body: bytes = b"", method: str = "POST", root_path: str = "") -> tuple[int, Any]:
    """Send one request to an ASGI application; the status, and the profile or the error code."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "root_path": root_path, "query_string": b""}
    scope |= {"headers": [(b"content-type", b"application/json")], "scheme": "http", "server": ("127.0.0.1", 80)}
    await app(scope, receive, send)
    return sent[0]["status"], summary(b"".join(message["body"] for message in sent[1:]))


@dataclass(frozen=True)
class Running:
    """A server in a process of its own."""

    port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    def request(self, path: str, body: bytes | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("GET" if body is None else "POST", path, body, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        return response.status, summary(content)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=20)


@contextmanager
def run(command: list[str], port: int, folder: Path, environment: dict[str, str]) -> Iterator[Running]:
    """Run a command until it listens, and end it whatever happens."""
    log = folder / f"server-{port}.log"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VERIFIER_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=inherited | environment | {"PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until_listening(process, port, log)
        yield Running(port, process, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)  # with its workers
        process.wait()


def wait_until_listening(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise AssertionError(log.read_text())


def server_command(line: str, port: int) -> list[str]:
    """A command of docs/embedding.md, from the environment of the servers, on a port instead of 8001."""
    program, *arguments = shlex.split(line.replace("8001", str(port)))
    if not (SERVERS / "python").exists():
        pytest.skip(f"{program} is not installed: make tests/servers/.venv")
    return [str(SERVERS / "python"), "-m", program, *arguments]


def check(running: Running, prefix: str, game: Path, *more: str) -> str:
    """What `verifier check` finds at a server; "" for nothing."""
    options = ["--keys", game / "keys", "--issuer", ISSUER, "--application-id", APPLICATION_ID]
    url = f"http://127.0.0.1:{running.port}{prefix}/profile"
    done = verifier("check", url, *options, "--secret-file", game / "secret", *more)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def seconds_until_rejected(running: Running, path: str, body: bytes, game: Path) -> float:
    """Revoke the key of a token that is accepted, and use it until it is not."""
    assert running.request(path, body) == PROFILE
    revoke(game)
    since = time.monotonic()
    while (response := running.request(path, body)) == PROFILE:
        assert time.monotonic() - since < REVOCATION_S
        time.sleep(0.01)
    assert response == REVOKED
    return time.monotonic() - since
