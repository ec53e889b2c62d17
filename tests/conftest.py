"""Keys made once per run, an accepted token to change one thing of, the application, the real server."""

import asyncio
import contextlib
import http.client
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import freezegun
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from freezegun import freeze_time
from hypothesis import settings

from tests.support import forge
from verifier.cli import main
from verifier.core import rules, tokens
from verifier.core.keyring import Keyring, parse_public_key
from verifier.server.endpoints import create_app
from verifier.server.settings import Settings
from verifier.signing import keystore

# Its threads measure how long a read takes, and go on while a test has frozen the time.
freezegun.configure(extend_ignore_list=["verifier.server.reload", "verifier.server.reader"])

# How long an example takes is no test's business.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# What waits or works longest begins first, so that no process still has one of these when the others are done.
LONGEST = ["proxies", "servers", "guarantees", "limits", "hosts", "crash", "docs", "key_branches", "key_actors"]
LONGEST += ["server", "rotation_load", "rotation_property", "canary", "deploy"]

# A shell starts a background job with SIGINT ignored, which the programs under test would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

NOW = 1_800_000_000
ISSUER = "https://game.example"
APPLICATION_ID = "application-1"
SECRET = "secret-of-application-1"
TOKEN = ('"eyJ', ".eyJ", " eyJ")  # how a part of a token begins; a kid may have the same letters within


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


def children(pid: int) -> set[int]:
    """The processes that a process started and their descendants, as far as Linux shows them."""
    found: set[int] = set()
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found |= {int(child) for child in file.read_text().split()}
    return found.union(*(children(child) for child in found))


def _is_helper(pid: int) -> bool:
    """Whether a process belongs to Python itself and outlives a test: of multiprocessing, for instance."""
    try:
        return b"multiprocessing" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True  # it has ended


@pytest.fixture(autouse=True)
def _no_process_is_left_behind() -> Iterator[None]:
    """End what a test started and left running, however it ended, and restore the environment."""
    before, environment = children(os.getpid()), dict(os.environ)
    yield
    os.environ.clear()  # `serve` in process writes its options there
    os.environ.update(environment)
    left = [pid for pid in children(os.getpid()) - before if not _is_helper(pid)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer; `date` and `connection` are left out of the headers."""

    status: int
    body: Any
    headers: dict[str, str]


@pytest.fixture(scope="session")
def pairs() -> dict[str, forge.Pair]:
    return {alg: forge.Pair(alg, keystore.generate(alg)) for alg in ("ES256", "EdDSA", "RS256")}


@pytest.fixture(scope="session")
def key_files(pairs: dict[str, forge.Pair]) -> dict[str, bytes]:
    """The files of keys/public: three keys that verify at NOW; the ES256 one is current."""
    nbf = {"ES256": NOW - 100, "EdDSA": NOW - 200, "RS256": NOW - 300}
    return {
        f"{pair.kid}.json": json.dumps(pair.public | {"iat": nbf[alg], "nbf": nbf[alg]}).encode()
        for alg, pair in pairs.items()
    }


@pytest.fixture(scope="session")
def keyring(key_files: dict[str, bytes]) -> Keyring:
    return Keyring(parse_public_key(name, data) for name, data in key_files.items())


@pytest.fixture
def claims() -> dict[str, Any]:
    return {
        "iss": ISSUER,
        "aud": APPLICATION_ID,
        "sub": "42",
        "iat": NOW,
        "exp": NOW + 300,
        "email": "ann@example.com",
        "username": "ann",
    }


@pytest.fixture
def issue(pairs: dict[str, forge.Pair], claims: dict[str, Any]) -> Callable[..., str]:
    """A correctly signed token in which only the named claims, or members of `header`, differ."""

    def issue(alg: str = "ES256", header: dict[str, Any] | None = None, **changes: Any) -> str:
        members = {"alg": alg, "kid": pairs[alg].kid, "typ": "at+jwt"}
        return forge.token(pairs[alg], forge.changed(members, header or {}), forge.changed(claims, changes))

    return issue


@pytest.fixture
def verify(keyring: Keyring) -> Callable[..., tokens.Player]:
    def verify(token: str, **changes: Any) -> tokens.Player:
        return tokens.verify(token, rules.Policy(ISSUER, APPLICATION_ID, keyring, NOW)._replace(**changes))

    return verify


@pytest.fixture
def keys(tmp_path: Path, pairs: dict[str, forge.Pair], key_files: dict[str, bytes]) -> Path:
    """A key directory with public and private keys."""
    public, private = tmp_path / "keys" / "public", tmp_path / "keys" / "private"
    public.mkdir(parents=True)
    private.mkdir(mode=0o700)
    for name, data in key_files.items():
        (public / name).write_bytes(data)
    for pair in pairs.values():
        pem = private / f"{pair.kid}.pem"
        pem.write_bytes(pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        pem.chmod(0o600)
    return public.parent


def publish_now(keys: Path, key_files: dict[str, bytes]) -> Path:
    """Change a key directory into one whose keys verify by the real clock."""
    for name, data in key_files.items():
        (keys / "public" / name).write_text(json.dumps(json.loads(data) | {"nbf": int(time.time()) - 100}))
    return keys


@pytest.fixture
def environment(keys: Path) -> dict[str, str]:
    """The least that `verifier serve` needs."""
    return {
        "VERIFIER_ISSUER": ISSUER,
        "VERIFIER_KEYS": str(keys),
        "VERIFIER_APPLICATION_ID": APPLICATION_ID,
        "VERIFIER_SECRET_KEY": SECRET,
    }


@pytest.fixture
def body(issue: Callable[..., str]) -> dict[str, Any]:
    """What escs posts, all of it good."""
    return {"code": issue(), "secretKey": SECRET, "applicationId": APPLICATION_ID}


JSON = {"content-type": "application/json"}


@pytest.fixture
def ask(environment: dict[str, str]) -> Callable[..., Answer]:
    """Ask the application once, in process, at NOW."""
    app = create_app(Settings.from_environment(environment))

    def ask(
        body: Any = b"",
        *,
        method: str = "POST",
        path: str = "/profile",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        raw = [(name.encode(), value.encode()) for name, value in (JSON if headers is None else headers).items()]
        scope = {"type": "http", "method": method, "path": path, "headers": raw}
        with freeze_time(datetime.fromtimestamp(NOW, UTC), real_asyncio=True):
            asyncio.run(app(scope, receive, send))
        start, *rest = sent
        content = b"".join(message["body"] for message in rest)
        headers_out = {name.decode(): value.decode() for name, value in start["headers"]}
        assert int(headers_out["content-length"]) == len(content)
        return Answer(start["status"], json.loads(content), headers_out)

    return ask


def lines(text: str) -> list[dict[str, Any]]:
    """The log lines in what a process wrote; every line must be one."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def told(capfd) -> Callable[[], list[dict[str, Any]]]:
    """What was logged since the last call, without the time."""
    read = 0

    def told() -> list[dict[str, Any]]:
        nonlocal read
        # Not capfd.readouterr: it empties the file after reading it, and so loses what a thread writes between the two.
        data = os.pread(1, 1 << 20, read)
        data = data[: data.rfind(b"\n") + 1]
        read += len(data)
        found = lines(data.decode())
        assert all(line.pop("time")[4] == "-" for line in found)
        return found

    return told


@dataclass(frozen=True)
class Server:
    """`verifier serve` in a process of its own."""

    port: int
    process: "subprocess.Popen[str]"

    def ask(
        self,
        body: Any = b"",
        *,
        method: str = "POST",
        path: str = "/profile",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, data, JSON if headers is None else headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        names = {name.lower(): value for name, value in answer.getheaders()}
        kept = {name: value for name, value in names.items() if name not in ("date", "connection")}
        return Answer(answer.status, json.loads(content) if content else None, kept)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=15)


# Below the ports that the system gives to clients, and other ones in each process of the suite.
_PORTS = itertools.count(10_000 + os.getpid() % 20 * 1_000)


def free_port() -> int:
    """Return a port that nothing listens on, and that this process has not returned before."""
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


LOGS: list[Path] = []  # of every server of this run


@pytest.fixture(scope="session", autouse=True)
def _nothing_personal_in_any_log() -> Iterator[None]:
    """After the last test: no server of the run wrote what it must not, nor had an exception that nobody caught."""
    yield
    for log in LOGS:
        text = log.read_text("utf-8", "replace") if log.exists() else ""
        for word in (SECRET, "ann@example.com", *TOKEN, "PRIVATE KEY", "Traceback", "Exception in ASGI", "Fatal error"):
            assert word not in text, f"{word} in {log}"


def start(
    environment: dict[str, str],
    log: Path,
    program: tuple[str, ...] = ("-m", "verifier"),
    under: tuple[str, ...] = (),
) -> Server:
    """The real server, ready; `under` is a command that runs another in its place."""
    port = free_port()
    LOGS.append(log)
    with log.open("w") as output:
        process = subprocess.Popen(
            [*under, sys.executable, *program, "serve"],
            env={n: v for n, v in os.environ.items() if not n.startswith("VERIFIER_")}
            | environment
            | {"VERIFIER_PORT": str(port)},
            stdout=output,
            stderr=output,
            text=True,
        )
    server = Server(port, process)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            server.ask(method="GET", path="/healthz")
        except OSError:
            time.sleep(0.02)
        else:
            return server
    process.kill()
    raise AssertionError(f"the server did not start: {log.read_text()}")


@pytest.fixture
def server(environment: dict[str, str], tmp_path: Path) -> Iterator[Server]:
    running = start(environment, tmp_path / "server.log")
    yield running
    running.stop()


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str = ""


@pytest.fixture
def terminal(monkeypatch):
    """Let `run` read from a terminal."""

    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    monkeypatch.setattr(io, "TextIOWrapper", Terminal)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run `verifier` in process, in an empty folder, at NOW, without VERIFIER_* variables."""
    for name in [name for name in os.environ if name.startswith("VERIFIER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, stdin: str | bytes = "", now: int = NOW) -> Done:
        monkeypatch.setattr(sys, "argv", ["verifier", *map(str, arguments)])
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        capsys.readouterr()
        with freeze_time(datetime.fromtimestamp(now, UTC)), pytest.raises(SystemExit) as end:
            main.main()
        out, err = capsys.readouterr()
        return Done(int(end.value.code or 0), out, err)

    return run
