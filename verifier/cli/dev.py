"""The first profile in a minute: throwaway keys, the real server, one request as escs sends it."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from verifier.conformance import NoResponseError, Request, Url, get, send
from verifier.errors import ConfigError

# What signs is imported where it is used, because `serve` loads this module and must never load that.

ISSUER = "https://game.example"
APPLICATION_ID = "dev-application"
_START_S = 15.0


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=".verifier-dev",
    show_default=True,
    help="Where to keep the throwaway keys.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    envvar="VERIFIER_PORT",
    default=8000,
    show_default=True,
    help="The next free one is used.",
)
@click.option("--once", is_flag=True, help="Stop after the answer.")
def dev(folder: Path, port: int, once: bool) -> None:
    """Make throwaway keys, serve on 127.0.0.1, ask once as escs would, and keep serving until Ctrl-C."""
    run(folder, port, once=once, say=click.echo)


def run(folder: Path, first_port: int, *, once: bool, say: Callable[[str], None]) -> None:
    """Serve from `folder` until Ctrl-C, or until the answer is shown; raises ConfigError when it cannot start."""
    keys, secret = _prepare(folder)
    port = _free_port(first_port)
    if port != first_port:
        say(f"Port {first_port} is taken, using {port}.")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VERIFIER_")} | {
        "VERIFIER_ISSUER": ISSUER,
        "VERIFIER_KEYS": str(keys),
        "VERIFIER_APPLICATION_ID": APPLICATION_ID,
        "VERIFIER_SECRET_KEY_FILE": str(folder / "secret"),
        "VERIFIER_HOST": "127.0.0.1",
        "VERIFIER_PORT": str(port),
    }
    # A process of its own: the one that serves holds no private key.
    server = subprocess.Popen([sys.executable, "-m", "verifier", "serve"], env=environment, stdout=2)
    try:
        signal.signal(signal.SIGTERM, _interrupt)
        _wait_until_ready(server, port)
        _show(folder, port, secret, say)
        if not once and server.wait() != 0:
            raise ConfigError("the server ended", hint="its own lines above say why")
    except KeyboardInterrupt:
        pass
    finally:
        server.terminate()
        server.wait()


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _prepare(folder: Path) -> tuple[Path, str]:
    """The keys and the secret, made on the first run and kept for the next."""
    from verifier.rotation import plan
    from verifier.signing.keystore import Keystore
    from verifier.storage import atomic

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keystore, now = Keystore(folder / "keys"), int(time.time())
    with keystore.transaction() as keyring:
        if keyring.current(now) is None:
            public, pem = keystore.generate_pair("ES256")
            keystore.apply([plan.activate_first_key(public, now=now)], "generate", now=now, pem=pem)
    path = folder / "secret"
    if not path.exists():
        atomic.write_new(path, secrets.token_urlsafe(24).encode() + b"\n", 0o600)
    return folder / "keys", path.read_text().strip()


def _free_port(first: int) -> int:
    from verifier.server.run import listen

    for port in range(first, first + 100):
        try:
            listen("127.0.0.1", port)[0].close()
        except ConfigError:
            continue
        return port
    raise ConfigError(f"ports {first} to {first + 99} are all taken", hint="choose another with --port")


def _wait_until_ready(server: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            get(f"http://127.0.0.1:{port}/healthz", timeout_s=1)
        except NoResponseError:
            time.sleep(0.05)
        else:
            return
    raise ConfigError("the server did not start", hint="its own lines above say why")


def _show(folder: Path, port: int, secret: str, say: Callable[[str], None]) -> None:
    from verifier.signing.issuer import TokenIssuer

    issuer = TokenIssuer.from_directory(folder / "keys", issuer=ISSUER, application_id=APPLICATION_ID)
    token = issuer.issue("player-42", email="ann@example.com", username="ann")
    body = json.dumps({"code": token, "secretKey": secret, "applicationId": APPLICATION_ID})
    url = f"http://127.0.0.1:{port}/profile"
    response = send(Url.parse(url), Request(body.encode()), timeout_s=10)
    say(f"\nKeys and secret: {folder} (throwaway; never use them for players)\n")
    say(f"escs asks:\n\n  POST {url}\n  Content-Type: application/json\n\n  {body}\n")
    headers = "".join(f"\n  {name}: {value}" for name, value in response.headers.items())
    phrase = HTTPStatus(response.status).phrase
    say(f"verifier answers:\n\n  {response.status} {phrase}{headers}\n\n  {response.body.decode()}\n")
    say(f"Ask yourself, within 5 minutes:\n\n  curl -sS {url} -H 'Content-Type: application/json' -d '{body}'\n")
    say(
        f"A fresh token:\n\n  verifier token player-42 --keys {folder / 'keys'} --issuer {ISSUER}"
        f" --application-id {APPLICATION_ID}\n"
    )
