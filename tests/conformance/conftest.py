"""The key directory, the real server, broken endpoints and plain sockets, to send requests to."""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.endpoint import Web
from tests.conformance.support import dated, pem
from tests.conftest import APPLICATION_ID, ISSUER, SECRET, Server, start
from tests.support.forge import Pair


@pytest.fixture(scope="module")
def folder(pairs: dict[str, Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key directory whose ES256 key is current by the real clock."""
    folder = tmp_path_factory.mktemp("conformance")
    for name in ("public", "private"):
        (folder / name).mkdir()
    for pair in pairs.values():
        later = {"nbf": 1_700_000_001} if pair.alg == "ES256" else {}
        (folder / "public" / f"{pair.kid}.json").write_text(json.dumps(json.loads(dated(pair)) | later))
        (folder / "private" / f"{pair.kid}.pem").write_bytes(pem(pair.key))
    (folder / "secret").write_text(f"{SECRET}\n")
    return folder


@pytest.fixture(scope="module")
def ours(folder: Path) -> Iterator[Server]:
    environment = {
        "VERIFIER_ISSUER": ISSUER,
        "VERIFIER_KEYS": str(folder),
        "VERIFIER_APPLICATION_ID": APPLICATION_ID,
        "VERIFIER_SECRET_KEY": SECRET,
    }
    running = start(environment, folder / "server.log")
    yield running
    running.stop()


@pytest.fixture
def serve(pairs: dict[str, Pair]) -> Iterator[Callable[..., Web]]:
    """Starts an endpoint that is wrong in one way."""
    with contextlib.ExitStack() as stack:

        def serve(wrong: str = "", canned: Any = None, tls: ssl.SSLContext | None = None) -> Web:
            web = stack.enter_context(Web(pairs["ES256"], wrong, canned))
            if tls:
                web.socket = tls.wrap_socket(web.socket, server_side=True, do_handshake_on_connect=False)
            thread = threading.Thread(target=web.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(web.shutdown)
            return web

        yield serve


@pytest.fixture
def listen() -> Iterator[Callable[..., str]]:
    """Listen on a socket, read a request, send these parts 20 ms apart, and close; None sends nothing.

    Returns the URL of the socket.
    """
    done = threading.Event()
    with contextlib.ExitStack() as stack:

        def listen(
            parts: list[bytes] | None,
            seen: list[bytes] | None = None,
            tls: ssl.SSLContext | None = None,
            host: str = "127.0.0.1",
        ) -> str:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = stack.enter_context(socket.create_server((host, 0), family=family))

            def speak() -> None:
                with contextlib.suppress(OSError):  # the client hangs up, or never comes
                    peer, _ = listener.accept()
                    with tls.wrap_socket(peer, server_side=True) if tls else peer as connection:
                        (seen if seen is not None else []).append(connection.recv(65_536))
                        if parts is None:
                            done.wait(10)
                        for part in parts or ():
                            connection.sendall(part)
                            done.wait(0.02 if len(parts or ()) > 1 else 0)
                        # Read the rest of the request, because closing before that would reset the connection.
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(65_536):
                            pass

            thread = threading.Thread(target=speak)
            thread.start()
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            stack.callback(done.set)
            name = "localhost" if tls else f"[{host}]" if ":" in host else host
            return f"http{'s' * bool(tls)}://{name}:{listener.getsockname()[1]}/"

        yield listen
