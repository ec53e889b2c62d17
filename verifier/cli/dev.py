"""The first profile in a minute: throwaway keys, the real server, one request as escs sends it."""

import functools
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Thread

import click

from verifier.cli.changes import read_secret
from verifier.cli.options import PATH, Number, option, setting_option
from verifier.cli.output import echo
from verifier.cli.program import command
from verifier.conformance import NoResponseError, Request, Url, get, send
from verifier.errors import ConfigError
from verifier.rotation import plan
from verifier.signing.issuer import TokenIssuer
from verifier.signing.keystore import Keystore
from verifier.storage import atomic

ISSUER = "https://game.example"
APPLICATION_ID = "dev-application"
_START_S = 15.0
_MAX_LOG_LINES = 100
_MAX_LINE_BYTES = 65_536


@click.command()
@option("--folder", type=PATH, default=".verifier-dev", help="Folder for the throwaway keys and secret.")
@setting_option("port", type=Number(1, 65535), help="First port to try.")
@option("--once", is_flag=True, help="Stop after the first response.")
@option("--verbose", is_flag=True, help="Show the log of the server.")
def dev(folder: Path, port: int, once: bool, verbose: bool) -> None:
    """Serve with throwaway keys and send one sample request.

    Listens on 127.0.0.1 until Ctrl-C. The keys and the secret are kept for the next run; never use them for players.
    """
    keys, secret = _prepare(folder)
    free = _free_port(port)
    # A process of its own: the one that serves holds no private key.
    with _server(_environment(folder, keys, free), verbose) as server:
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            _wait_until_ready(server, free)
            _show(folder, free, secret, taken=port if port != free else None, once=once)
            if not once and server.wait() != 0:
                raise ConfigError("the server ended", hint="its log is above")
        except KeyboardInterrupt:
            pass


def _environment(folder: Path, keys: Path, port: int) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("VERIFIER_")} | {
        "VERIFIER_ISSUER": ISSUER,
        "VERIFIER_KEYS": str(keys),
        "VERIFIER_APPLICATION_ID": APPLICATION_ID,
        "VERIFIER_SECRET_KEY_FILE": str(folder / "secret"),
        "VERIFIER_HOST": "127.0.0.1",
        "VERIFIER_PORT": str(port),
    }


@contextmanager
def _server(environment: dict[str, str], verbose: bool) -> Iterator[subprocess.Popen[bytes]]:
    """Run `verifier serve`; its log is shown at once, or else the end of it if something fails."""
    tail: deque[bytes] = deque(maxlen=_MAX_LOG_LINES)
    with subprocess.Popen(
        [sys.executable, "-m", "verifier", "serve"],
        env=environment,
        stdout=2 if verbose else subprocess.PIPE,
        stderr=None if verbose else subprocess.STDOUT,
    ) as server:
        log = server.stdout or BytesIO()
        reader = Thread(target=tail.extend, args=(iter(lambda: log.readline(_MAX_LINE_BYTES), b""),))
        reader.start()
        try:
            yield server
        except (ConfigError, NoResponseError):
            server.terminate()
            reader.join()
            click.echo(b"".join(tail), err=True, nl=False)
            raise
        finally:
            server.terminate()
            reader.join()


def _prepare(folder: Path) -> tuple[Path, str]:
    """Return the key directory and the secret, created on the first run and kept for the next."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic.write_atomic(folder / ".gitignore", b"*\n")
    keystore, now = Keystore(folder / "keys"), int(time.time())
    with keystore.transaction() as keyring:
        if keyring.current(now) is None:
            public, pem = keystore.generate_pair("ES256")
            keystore.apply([plan.activate_first_key(public, now=now)], "generate", now=now, pem=pem)
    path = folder / "secret"
    if not path.exists():
        atomic.write_new(path, secrets.token_urlsafe(24).encode() + b"\n", 0o600)
    return folder / "keys", read_secret(str(path))


def _free_port(first: int) -> int:
    from verifier.server.run import listen  # which needs the extra `server`

    for port in range(first, first + 100):
        try:
            listen("127.0.0.1", port)[0].close()
        except ConfigError:
            continue
        return port
    raise ConfigError(f"ports {first} to {first + 99} are all in use", hint="choose another with --port")


def _wait_until_ready(server: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            get(f"http://127.0.0.1:{port}/healthz", timeout_s=1)
        except NoResponseError:
            time.sleep(0.05)
        else:
            return
    raise ConfigError("the server did not start", hint="its log is above")


def _show(folder: Path, port: int, secret: str, *, taken: int | None, once: bool) -> None:
    """Send one request, and print it with its response and what to do next: six lines."""
    issuer = TokenIssuer.from_directory(folder / "keys", issuer=ISSUER, application_id=APPLICATION_ID)
    token = issuer.issue("player-42", email="ann@example.com", username="ann")
    body = json.dumps({"code": token, "secretKey": secret, "applicationId": APPLICATION_ID})
    url = f"http://127.0.0.1:{port}/profile"
    response = send(Url.parse(url), Request(body.encode()), timeout_s=10)
    curl = shlex.join(["curl", "-sS", url, "-H", "Content-Type: application/json", "-d", body])
    # While it serves, commands are pasted into another shell.
    folder, shown = (folder, command) if once else (folder.absolute(), functools.partial(command, elsewhere=True))
    options = ["--keys", folder / "keys", "--issuer", ISSUER, "--application-id", APPLICATION_ID]
    echo(f"serving   {url}" + (f" (port {taken} is in use)" if taken else ""))
    # With --once the server is about to stop: a command that needs it could not be pasted.
    echo(f"request   {f'POST {url} {body}' if once else curl}")
    echo(f"response  {response.status} {response.body.decode()}")
    echo(f"token     {shown('token', 'player-42', *options)}")
    if once:
        echo(f"next      {shown('dev', '--folder', folder)}")
        return
    echo(f"next      {shown('check', url, '--secret-file', folder / 'secret', *options)}")
    echo("stop      Ctrl-C")
