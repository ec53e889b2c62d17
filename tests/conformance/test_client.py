"""The client gets a response, or names the cause: over real sockets."""

import http.client
import socket
import ssl
import subprocess
import sys
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
from verifier.conformance import client
from verifier.conformance.messages import Request, Url

TIMEOUT = "timeout: no complete response from {} within 0.3 s; make it respond faster, or open the firewall"


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


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("sent", "cause"),
    [
        ([b""], "connection closed: {} sent no response; see its log, or use https if the port expects TLS"),
        ([b"SSH-2.0-x\r\n"], "not HTTP: {} speaks another protocol (BadStatusLine); use the port of the endpoint"),
        (
            [OK + b"Content-Length: 3\r\n\r\nab"],
            "incomplete response: {} closed the connection before the end; "
            "see its log and that of the proxy; compare Content-Length with the body",
        ),
        (
            [OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"],
            "incomplete response: {} closed the connection before the end; "
            "see its log and that of the proxy; compare Content-Length with the body",
        ),
        (None, TIMEOUT),  # sends nothing
        ([OK] + [b"X: y\r\n"] * 50, TIMEOUT),  # drips the header
        ([b"HTTP/1.1 100 Continue\r\n\r\n"] * 50, TIMEOUT),  # drips interim responses
        ([OK + b"Content-Length: 100\r\n\r\n"] + [b"x"] * 50, TIMEOUT),  # drips the body
        ([OK + b"Transfer-Encoding: chunked\r\n\r\n"] + [b"1\r\nx\r\n"] * 50, TIMEOUT),  # drips chunks
    ],
    ids=["closes", "ssh", "truncated", "truncated-chunks", "silent", "header", "interim", "body", "chunks"],
)
def test_a_missing_response_is_named_within_the_time(listen, sent, cause):
    url = listen(sent)
    started = time.monotonic()
    with pytest.raises(client.NoResponseError) as caught:
        client.get(url, timeout_s=0.3)
    assert time.monotonic() - started < 1
    where = f"127.0.0.1 port {Url.parse(url).port}"
    assert f"{caught.value}; {caught.value.cause.fix}" == cause.format(where)


@pytest.mark.parametrize("get", [client.get, client.get_json])
def test_a_name_that_takes_too_long_to_resolve_is_a_timeout(monkeypatch, get):
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: done.wait(10))
    try:
        with pytest.raises(client.NoResponseError, match=r"^timeout: .* game\.example port 80 within 0\.1 s$"):
            get("http://game.example/", timeout_s=0.1)
    finally:
        done.set()


def test_no_time_left_is_a_timeout():
    with pytest.raises(client.NoResponseError, match=r"^timeout: .* 127\.0\.0\.1 port 1 within 0 s$"):
        client.get("http://127.0.0.1:1/", timeout_s=0)


def test_the_time_is_shared_by_all_addresses_of_a_name(monkeypatch):
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", 80)) for n in (1, 2, 3)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    tried: list[tuple[str, float]] = []

    def connect(address: tuple[str, int], timeout: float) -> None:
        tried.append((address[0], round(timeout)))
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(client.NoResponseError, match=r"^timeout: "):
        client.get("http://game.example/", timeout_s=60)
    assert tried == [("127.0.0.1", 20), ("127.0.0.2", 30), ("127.0.0.3", 60)]


def test_the_second_address_is_tried(listen, monkeypatch):
    url = Url.parse(listen([OK + b"\r\n{}"]))
    addresses = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
        for host, port in (("127.0.0.1", free_port()), ("127.0.0.1", url.port))
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    assert client.get(f"http://game.example:{url.port}/", timeout_s=5).body == b"{}"


def test_an_ipv6_address_is_reached(listen):
    try:
        url = listen([OK + b"\r\n{}"], host="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert client.get(url, timeout_s=5).body == b"{}"


def test_a_request_that_is_not_read_is_a_timeout():
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and never reads
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        url = Url.parse(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        started = time.monotonic()
        with pytest.raises(client.NoResponseError, match=r"^timeout: "):
            client.send(url, Request(body=bytes(50_000_000)), timeout_s=0.3)
        assert time.monotonic() - started < 2


def padded(size: int) -> bytes:
    head = OK + b"\r\n"
    return head + b"x" * (size - len(head))


@pytest.mark.parametrize(
    "sent",
    [
        padded(2001),
        OK + b"X: " + b"y" * 2000,  # the head counts
        OK + b"Content-Length: 999999999999\r\n\r\n" + b"x" * 2000,  # and is not allocated
        OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + b"x" * 2000,  # http.client reads until the end
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
    ],
    ids=["body", "head", "content-length", "negative-chunk", "interim"],
)
def test_a_response_over_the_limit_is_named(listen, sent):
    url = listen([sent])
    with pytest.raises(client.NoResponseError) as caught:
        client.get(url, timeout_s=5, max_bytes=2000)
    where = f"127.0.0.1 port {Url.parse(url).port}"
    assert str(caught.value) == f"too large: the response from {where} is over 2000 bytes"
    assert caught.value.cause.fix == "use the URL of the endpoint itself"


def test_a_response_up_to_the_limit_is_read(listen):
    head = OK + b"\r\n"
    assert client.get(listen([padded(2000)]), timeout_s=5, max_bytes=2000).body == b"x" * (2000 - len(head))
    large = client.MAX_RESPONSE_BYTES
    assert len(client.get(listen([padded(large)]), timeout_s=5).body) == large - len(head)
    with pytest.raises(client.NoResponseError, match=r"^too large: .* is over 1048576 bytes$"):
        client.get(listen([padded(large + 1)]), timeout_s=5)


def test_a_get_request_carries_nothing_but_what_it_needs(listen):
    seen: list[bytes] = []
    url = listen([OK + b"X-A: 1\r\nx-a: 2\r\nContent-Type: Text/HTML; charset=x\r\n\r\n{}"], seen)
    response = client.get(f"{url}?a=b", timeout_s=5)
    assert (response.status, response.body, response.certificate_days) == (200, b"{}", None)
    assert (response.headers, response.media_type) == (
        {"x-a": "1, 2", "content-type": "Text/HTML; charset=x"},
        "text/html",
    )
    assert 0 < response.duration_s < 5
    assert abs(response.received_at - time.time()) < 5
    host = f"127.0.0.1:{Url.parse(url).port}"
    assert b"".join(seen).decode().split("\r\n") == [
        "GET /?a=b HTTP/1.1",
        f"Host: {host}",
        "Accept-Encoding: identity",
        "Accept: application/json",
        "User-Agent: verifier",
        "Connection: close",
        "",
        "",
    ]


def test_no_proxy_of_the_environment_is_used(listen, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert client.get(listen([OK + b"\r\n{}"]), timeout_s=5).body == b"{}"


@pytest.mark.parametrize(
    ("sent", "cause"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: /login?next=secret\r\n\r\n{}", "redirect: {} redirects to /login"),
        (b"HTTP/1.1 300 x\r\n\r\n{}", "redirect: {} redirects to nowhere"),
        (b"HTTP/1.1 399 x\r\n\r\n{}", "redirect: {} redirects to nowhere"),
        (b"HTTP/1.1 400 x\r\n\r\n", "not JSON: {} has no JSON object at /readyz (status 400)"),
        (b"HTTP/1.1 299 x\r\n\r\n", "not JSON: {} has no JSON object at /readyz (status 299)"),
        (b"HTTP/1.1 302 x\r\nLocation: /\x1b[31m\r\n\r\n", r"redirect: {} redirects to /\x1b[31m"),
        (OK + b"Content-Type: text/html\r\n\r\nhi", "HTML: {} has no JSON object at /readyz (status 200)"),
        (b"HTTP/1.1 404 x\r\n\r\n <html>", "HTML: {} has no JSON object at /readyz (status 404)"),
        (OK + b"\r\n[]", "not JSON: {} has no JSON object at /readyz (status 200)"),
        (b"HTTP/1.1 500 x\r\n\r\n", "not JSON: {} has no JSON object at /readyz (status 500)"),
    ],
)
def test_get_json_names_what_is_not_a_json_object(listen, sent, cause):
    url = listen([sent])
    with pytest.raises(client.NoResponseError) as caught:
        client.get_json(f"{url}readyz?token=secret", timeout_s=5)
    assert str(caught.value) == cause.format(f"127.0.0.1 port {Url.parse(url).port}")
    fix = (
        "use that URL"
        if cause.startswith("redirect")
        else "use the host, the port and the path of the service itself, with the prefix under which it is mounted"
    )
    assert caught.value.cause.fix == fix


@pytest.mark.parametrize(("line", "status"), [(OK, 200), (b"HTTP/1.1 503 x\r\n", 503)])
def test_get_json_returns_response_and_object(listen, line, status):
    response, members = client.get_json(listen([line + b'\r\n{"a": [1]}']), timeout_s=5)
    assert (response.status, members) == (status, {"a": [1]})


@pytest.mark.parametrize("get", [client.get, client.get_json])
def test_a_url_that_cannot_be_used_is_a_value_error(get):
    with pytest.raises(ValueError, match=r"^expected https://host/path \(Invalid IPv6 URL\)$"):
        get("http://[", timeout_s=1)


@pytest.mark.parametrize("error", [BrokenPipeError, ConnectionResetError, ssl.SSLEOFError])
def test_a_response_despite_a_broken_pipe_is_read(serve, pairs, monkeypatch, error):
    request = http.client.HTTPConnection.request

    def broken(self: Any, *args: Any) -> None:
        request(self, *args)
        raise error

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


def test_a_tls_server_that_drips_its_response_is_a_timeout(listen, tmp_path, monkeypatch):
    tls, path = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    url = listen([OK + b"Content-Length: 100\r\n\r\n"] + [b"x"] * 100, tls=tls)
    started = time.monotonic()
    with pytest.raises(client.NoResponseError, match=r"^timeout: "):
        client.get(url, timeout_s=0.4)
    assert time.monotonic() - started < 1.2


def test_a_tls_server_that_never_finishes_its_handshake_is_a_timeout(listen):
    url = listen(None).replace("http:", "https:")
    started = time.monotonic()
    with pytest.raises(client.NoResponseError, match=r"^timeout: "):
        client.get(url, timeout_s=0.3)
    assert time.monotonic() - started < 1


def test_a_tls_handshake_has_the_time_that_is_left(listen, monkeypatch):
    # As after a connection that was established in most of the time.
    monkeypatch.setattr(client, "_connect", lambda url, _: socket.create_connection((url.host, url.port), 10))
    started = time.monotonic()
    with pytest.raises(client.NoResponseError, match=r"^timeout: "):
        client.get(listen(None).replace("http:", "https:"), timeout_s=0.3)
    assert time.monotonic() - started < 5


def test_the_days_until_the_certificate_expires_are_known(serve, tmp_path, monkeypatch):
    tls, path = certificate(tmp_path, days=30)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    response = client.get(serve(tls=tls).url, timeout_s=5)
    assert response.certificate_days is not None
    assert round(response.certificate_days) == 30


def test_the_client_loads_no_cryptography_library():
    code = (
        "import sys, verifier.conformance; print({m.partition('.')[0] for m in sys.modules} & {'cryptography', 'jwt'})"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
