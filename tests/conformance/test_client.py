"""The client gets a response, or names the cause: over real sockets."""

import contextlib
import http.client
import socket
import threading
import time
from typing import Any

import pytest

from tests.conformance.support import (
    NOTHING,
    cause_of,
    certificate,
    context,
    failures,
)
from tests.conftest import free_port


def test_a_closed_port_is_named(pairs):
    port = free_port()
    found = cause_of(f"http://127.0.0.1:{port}/profile", pairs["ES256"])
    assert found.startswith(f"connection refused: nothing listens on 127.0.0.1 port {port}; ")


@pytest.mark.parametrize("host", ["game.invalid", "a" * 64 + ".invalid"])
def test_an_unknown_name_is_named(pairs, host):
    assert cause_of(f"https://{host}/", pairs["ES256"]).startswith(f"DNS: the name {host} does not resolve; ")


def test_an_unreachable_network_is_named(pairs, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", fail)
    assert cause_of("http://127.0.0.1/", pairs["ES256"]) == (
        "unreachable: 127.0.0.1 port 80 (OSError); check the address, the port and the route"
    )


@pytest.mark.parametrize(
    ("says", "cause"),
    [
        (b"", "connection closed: "),
        (b"SSH-2.0-x\r\n", "not HTTP: "),
        (None, "timeout: "),  # says nothing
        ([b"HTTP/1.1 200 OK\r\n"] + [b"X: y\r\n"] * 50, "timeout: "),  # drips the header
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"] + [b"x"] * 50, "timeout: "),  # drips the body
    ],
    ids=["hangs-up", "ssh", "silent", "drips-header", "drips-body"],
)
def test_a_missing_response_is_named(pairs, says, cause):
    done = threading.Event()

    def speak(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(65_536)
            if says is None:
                done.wait(5)
            with contextlib.suppress(OSError):
                for part in says if isinstance(says, list) else [says or b""]:
                    peer.sendall(part)
                    done.wait(0.02 if isinstance(says, list) else 0)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=speak, args=(listener,))
        thread.start()
        started = time.monotonic()
        found = cause_of(f"http://127.0.0.1:{listener.getsockname()[1]}/", pairs["ES256"], timeout_s=0.3)
        assert time.monotonic() - started < 1
        done.set()
        thread.join()
    assert found.startswith(cause)


def test_a_response_despite_a_broken_pipe_is_read(serve, pairs, monkeypatch):
    request = http.client.HTTPConnection.request

    def broken(self: Any, *args: Any) -> None:
        request(self, *args)
        raise BrokenPipeError

    monkeypatch.setattr(http.client.HTTPConnection, "request", broken)
    assert failures(serve().url, context(pairs["ES256"]), "profile-bare") == NOTHING


@pytest.mark.parametrize(
    ("name", "days", "trusted", "cause"),
    [
        ("localhost", 90, False, "the certificate is self-signed"),
        ("localhost", -1, True, "the certificate has expired"),
        ("another.example", 90, True, "the certificate is for another host name"),
    ],
)
def test_a_bad_certificate_is_named(serve, pairs, tmp_path, monkeypatch, name, days, trusted, cause):
    tls, path = certificate(tmp_path, name, days)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
    assert cause_of(serve(tls=tls).url, pairs["ES256"]).startswith(f"TLS: {cause}; ")


@pytest.mark.parametrize(("port", "host"), [("", "localhost"), (":443", "localhost"), (":444", "localhost:444")])
def test_the_host_header_omits_the_default_port(serve, pairs, tmp_path, monkeypatch, port, host):
    tls, path = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    web, connect = serve(tls=tls), socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda _, timeout: connect(("localhost", web.server_port), timeout)
    )
    assert failures(f"https://localhost{port}/profile", context(pairs["ES256"]), "profile-bare") == NOTHING
    assert web.host == host


def test_a_port_without_tls_is_named(serve, pairs):
    url = serve().url.replace("http:", "https:")
    assert cause_of(url, pairs["ES256"]).startswith("TLS: the handshake with localhost port ")


def test_plain_http_to_a_tls_port_is_named(serve, pairs, tmp_path):
    url = serve(tls=certificate(tmp_path)[0]).url.replace("https:", "http:")
    assert cause_of(url, pairs["ES256"]).startswith("connection closed: ")
