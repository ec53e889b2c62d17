"""One client behind HAProxy or Caddy, in the shipped configurations, or nginx cannot disturb the requests of another.

nginx speaks HTTP/1.0 to the verifier by default, or keeps connections if it is configured to.
"""

import http.client
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.processes import free_port
from tests.conftest import APPLICATION_ID, ISSUER, SECRET, start
from tests.support import http2
from tests.support.sockets import until

DEPLOY = Path(__file__).parents[2] / "deploy"
VICTIM_S = 0.9  # a request that was blocked took 5 s


@dataclass(frozen=True)
class Proxy:
    """A proxy with TLS in front of one verifier."""

    name: str
    port: int
    certificate: Path
    environment: dict[str, str]

    def connect(self, protocol: str = "http/1.1") -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.set_alpn_protocols([protocol])
        return context.wrap_socket(
            socket.create_connection(("127.0.0.1", self.port), timeout=10), server_hostname="localhost"
        )

    def get(self) -> tuple[int, float]:
        """Be another client: return status and duration of a request on a new connection."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=10, context=context)
        began = time.monotonic()
        try:
            connection.request("GET", "/.well-known/jwks.json")
            response = connection.getresponse()
            response.read()
            return response.status, time.monotonic() - began
        finally:
            connection.close()


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def haproxy(folder: Path, upstream: int, port: int, changes: dict[str, str]) -> list[str]:
    """Write the shipped configuration with one server and other addresses; return the command."""
    lines = (DEPLOY / "haproxy" / "haproxy.cfg").read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if "10.0.0.12" not in line and "10.0.0.13" not in line)
    both = folder / "verifier.pem"
    both.write_text((folder / "certificate").read_text() + (folder / "key").read_text())
    changes |= {
        "bind :443": f"bind 127.0.0.1:{port}",
        "/etc/haproxy/verifier.pem": str(both),
        "10.0.0.11:8000": f"127.0.0.1:{upstream}",
    }
    for before, after in changes.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    (folder / "haproxy.cfg").write_text(text)
    return [tool("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]


def caddy(folder: Path, upstream: int, port: int, changes: dict[str, str]) -> list[str]:
    text = (DEPLOY / "caddy" / "Caddyfile").read_text()
    changes |= {
        "{$VERIFIER_SITE} {": f"https://localhost:{port} {{\n\ttls {folder / 'certificate'} {folder / 'key'}",
        "{$VERIFIER_UPSTREAM}": f"127.0.0.1:{upstream}",
        "{\n\tservers": "{\n\tadmin off\n\tservers",
    }
    for before, after in changes.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    (folder / "Caddyfile").write_text(text)
    return [tool("caddy"), "run", "--config", str(folder / "Caddyfile")]


NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/a; scgi_temp_path {folder}/b; uwsgi_temp_path {folder}/c;
    upstream verifier {{ server 127.0.0.1:{upstream}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {folder}/certificate; ssl_certificate_key {folder}/key;
        location / {{ proxy_pass http://verifier; {settings} }}
    }}
}}
"""


def nginx(folder: Path, upstream: int, port: int, changes: dict[str, str]) -> list[str]:
    settings = changes.get("settings", "")
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, upstream=upstream, port=port, settings=settings))
    return [tool("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]


SHIPPED = ("haproxy", "caddy")
KEEPS = 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_request_buffering off;'
PROXIES = {
    "haproxy": (haproxy, {}),
    # HAProxy keeps connections to a server for all clients.
    "haproxy-reuse-always": (haproxy, {"    balance leastconn\n": "    balance leastconn\n    http-reuse always\n"}),
    "caddy": (caddy, {}),
    "nginx-http-1.0": (nginx, {}),
    "nginx-keep-alive": (nginx, {"settings": KEEPS}),
}


@pytest.fixture(scope="module", params=PROXIES)
def proxy(request, tmp_path_factory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp(request.param)
    config, changes = PROXIES[request.param]
    keys, port = folder / "keys", free_port()
    generate = [sys.executable, "-m", "verifier", "keys", "generate", "--keys", str(keys)]
    subprocess.run(generate, check=True, capture_output=True)
    certificate = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "certificate")]
    subprocess.run([tool("openssl"), "req", *certificate, *subject, *files], check=True, capture_output=True)
    environment = {
        "VERIFIER_ISSUER": ISSUER,
        "VERIFIER_KEYS": str(keys),
        "VERIFIER_APPLICATION_ID": APPLICATION_ID,
        "VERIFIER_SECRET_KEY": SECRET,
    }
    with ExitStack() as stack:
        server = start(environment, folder / "server.log")
        stack.callback(server.stop)
        command = config(folder, server.port, port, dict(changes))
        output = stack.enter_context((folder / "proxy.log").open("wb"))
        home = os.environ | {"HOME": str(folder)}
        process = subprocess.Popen(command, stdout=output, stderr=output, env=home)
        stack.callback(process.wait)
        stack.callback(process.kill)
        made = Proxy(request.param, port, folder / "certificate", environment)

        def is_ready() -> bool:
            try:
                return made.get()[0] == 200
            except OSError:
                return False

        assert until(is_ready, 20), (folder / "proxy.log").read_text()
        yield made


def head(*fields: bytes, path: bytes = b"/profile", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"POST %b HTTP/%b" % (path, version), b"Host: localhost", *fields, b"", b""])


JSON, TEXT = b"Content-Type: application/json", b"Content-Type: text/plain"
CHUNKED, LENGTH = b"Transfer-Encoding: chunked", b"Content-Length: 100"
BODY, END = b"2\r\n{}\r\n", b"0\r\n\r\n"
CLOSE, PROXY_CLOSE = b"0\r\nConnection: close\r\n\r\n", b"0\r\nProxy-Connection: close\r\n\r\n"
ATTACKS = {
    "trailer that closes": [head(JSON, CHUNKED) + BODY + CLOSE],
    "trailer of a proxy that closes": [head(JSON, CHUNKED) + BODY + PROXY_CLOSE],
    "trailer that closes, announced": [head(JSON, CHUNKED, b"Trailer: Connection") + BODY + CLOSE],
    "trailer that closes behind an early response": [head(TEXT, CHUNKED) + BODY, CLOSE],
    "early response, then a malformed chunk": [head(TEXT, CHUNKED) + BODY, b"zz\r\n"],
    "early response, then the body": [head(TEXT, LENGTH), b"y" * 100],
    "early response, no body": [head(TEXT, LENGTH)],
    "partial headers": [head(JSON, LENGTH)[:-4]],
    "partial body": [head(JSON, LENGTH) + b"y" * 50],
    "partial chunk": [head(JSON, CHUNKED) + b"5\r\nyy"],
    "trailer without an end": [head(JSON, CHUNKED) + BODY + b"0\r\nX: " + b"y" * 8000],
    "a request in the body": [
        head(JSON, b"Content-Length: 60") + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".ljust(60)
    ],
    "malformed behind a request": [head(JSON, b"Content-Length: 2") + b"{}" + b"nonsense\r\n\r\n"],
    "expect": [head(JSON, b"Expect: 100-continue", LENGTH), b"y" * 100],
    "upgrade": [head(JSON, b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 2") + b"{}"],
    "HTTP/1.0": [head(JSON, b"Content-Length: 2", version=b"1.0") + b"{}"],
    "too large": [head(JSON, CHUNKED) + b"5000\r\n" + b"y" * 0x5000 + b"\r\n"],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_other_client_waits_or_gets_another_response(proxy, attack):
    with ExitStack() as stack:
        for _ in range(5):
            sock = stack.enter_context(proxy.connect())
            for piece in ATTACKS[attack]:
                sock.sendall(piece)
                time.sleep(0.02)  # a piece of its own for the proxy
            outcomes = [proxy.get() for _ in range(2)]
            assert [status for status, _ in outcomes] == [200, 200]
            assert max(took for _, took in outcomes) < VICTIM_S


FORM, LIES = ("content-type", "application/json"), ("content-length", "100")
NOT_JSON = ("content-type", "text/plain")
HTTP_2_ATTACKS: dict[str, list[Callable[[str], bytes]]] = {
    "body without a length": [lambda a: http2.post(1, FORM, authority=a) + http2.body(1, b"{}", last=True)],
    "body in frames of one byte": [
        lambda a: http2.post(1, FORM, authority=a) + b"".join(http2.body(1, b"{") for _ in range(2000))
    ],
    "body shorter than its length": [
        lambda a: http2.post(1, FORM, LIES, authority=a) + http2.body(1, b"{}", last=True)
    ],
    "body longer than its length": [
        lambda a: http2.post(1, FORM, LIES, authority=a) + http2.body(1, b"y" * 200, last=True)
    ],
    "reset in the body": [
        lambda a: http2.post(1, FORM, LIES, authority=a) + http2.body(1, b"{}"),
        lambda a: http2.reset(1),
    ],
    "reset in a body without a length": [
        lambda a: http2.post(1, FORM, authority=a) + http2.body(1, b"{}"),
        lambda a: http2.reset(1),
    ],
    "reset before the response": [lambda a: http2.post(1, FORM, authority=a, flags=http2.END_STREAM) + http2.reset(1)],
    "early response, then the body": [
        lambda a: http2.post(1, NOT_JSON, authority=a) + http2.body(1, b"y"),
        lambda a: http2.body(1, b"y" * 1000, last=True),
    ],
    "early response, no body": [lambda a: http2.post(1, NOT_JSON, LIES, authority=a)],
    "trailer": [lambda a: http2.post(1, FORM, authority=a) + http2.body(1, b"{}") + http2.trailer(1, ("x", "y"))],
    "trailer that closes": [
        lambda a: http2.post(1, FORM, authority=a) + http2.body(1, b"{}") + http2.trailer(1, ("connection", "close"))
    ],
    "trailer of a proxy that closes": [
        lambda a: (
            http2.post(1, FORM, authority=a) + http2.body(1, b"{}") + http2.trailer(1, ("proxy-connection", "close"))
        )
    ],
    "trailer with a length": [
        lambda a: http2.post(1, FORM, authority=a) + http2.body(1, b"{}") + http2.trailer(1, ("content-length", "9"))
    ],
    "chunked": [
        lambda a: (
            http2.post(1, FORM, ("transfer-encoding", "chunked"), authority=a) + http2.body(1, b"0\r\n\r\n", last=True)
        )
    ],
    "two lengths": [
        lambda a: http2.post(1, FORM, LIES, ("content-length", "2"), authority=a) + http2.body(1, b"{}", last=True)
    ],
    "two hosts": [lambda a: http2.post(1, FORM, ("host", "other"), authority=a) + http2.body(1, b"{}", last=True)],
    "a request in a field": [
        lambda a: http2.post(1, FORM, ("x", "y\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), authority=a)
    ],
    "a request in the path": [
        lambda a: http2.post(1, FORM, authority=a, path="/profile HTTP/1.1\r\nHost: x\r\n\r\n", flags=1)
    ],
    "a request in the method": [lambda a: http2.post(1, FORM, authority=a, method="GET / HTTP/1.1\r\nX:", flags=1)],
    "a request in the body": [
        lambda a: (
            http2.post(1, FORM, ("content-length", "0"), authority=a)
            + http2.body(1, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", last=True)
        )
    ],
    "expect": [
        lambda a: http2.post(1, FORM, LIES, ("expect", "100-continue"), authority=a),
        lambda a: http2.body(1, b"y" * 100, last=True),
    ],
    "connection that closes": [lambda a: http2.post(1, FORM, ("connection", "close"), authority=a, flags=1)],
    "upgrade": [lambda a: http2.post(1, FORM, ("upgrade", "h2c"), authority=a, flags=1)],
    "connect": [lambda a: http2.post(1, authority=a, method="CONNECT") + http2.body(1, b"y" * 100)],
    "head with a body": [lambda a: http2.post(1, LIES, authority=a, method="HEAD") + http2.body(1, b"y" * 50)],
    "many requests in part": [
        lambda a: b"".join(http2.post(n, FORM, LIES, authority=a) + http2.body(n, b"{}") for n in range(1, 120, 2))
    ],
    "many requests, all reset": [
        lambda a: b"".join(http2.post(n, FORM, authority=a, flags=1) + http2.reset(n) for n in range(1, 120, 2))
    ],
    "too large": [lambda a: http2.post(1, FORM, authority=a) + http2.body(1, b"y" * 16_384) + http2.body(1, b"y")],
}


def test_a_request_of_http_2_reaches_the_verifier(proxy):
    with proxy.connect("h2") as sock:
        request = http2.post(1, FORM, authority=f"localhost:{proxy.port}") + http2.body(1, b"{}", last=True)
        sock.sendall(http2.start() + request)
        received = b""
        while b"code must be" not in received and (more := sock.recv(65_536)):
            received += more
    assert b'{"error":"invalid_request","error_description":"code must be a non-empty string"}' in received


@pytest.mark.parametrize("attack", HTTP_2_ATTACKS)
def test_no_client_of_http_2_disturbs_another(proxy, attack):
    with ExitStack() as stack:
        for _ in range(3):
            sock = stack.enter_context(proxy.connect("h2"))
            assert sock.selected_alpn_protocol() == "h2"
            sock.sendall(http2.start())
            for make in HTTP_2_ATTACKS[attack]:
                with suppress(OSError):  # the proxy may have closed the connection
                    sock.sendall(make(f"localhost:{proxy.port}"))
                time.sleep(0.02)  # a piece of its own for the proxy
            outcomes = [proxy.get() for _ in range(2)]
            assert [status for status, _ in outcomes] == [200, 200]
            assert max(took for _, took in outcomes) < VICTIM_S


def test_clients_of_http_2_are_not_disturbed_either(proxy):
    curl = tool("curl")
    if "HTTP2" not in subprocess.run([curl, "--version"], capture_output=True, text=True).stdout:
        pytest.skip("this curl has no HTTP/2")
    url = f"https://localhost:{proxy.port}/.well-known/jwks.json"
    command = [curl, "--silent", "--http2", "--cacert", str(proxy.certificate), "--max-time", str(VICTIM_S)]
    for pieces in ATTACKS.values():
        with proxy.connect() as sock:
            for piece in pieces:
                sock.sendall(piece)
            written = ["--output", os.devnull, "--write-out", "%{http_version} %{http_code}"]
            done = subprocess.run([*command, *written, url], capture_output=True, text=True)
            assert done.stdout == "2 200"


@pytest.mark.parametrize("proxy", SHIPPED, indirect=True)
def test_the_shipped_configuration_passes_the_shipped_checker(proxy):
    command = [sys.executable, "-m", "verifier", "check", f"https://localhost:{proxy.port}/profile", "--strict"]
    trusted = os.environ | proxy.environment | {"SSL_CERT_FILE": str(proxy.certificate)}
    keys = ["--keys", proxy.environment["VERIFIER_KEYS"]]
    for _ in range(3):  # Caddy sometimes closes a connection on which 128 KiB are still being sent
        done = subprocess.run([*command, *keys], env=trusted, capture_output=True, text=True, timeout=120)
        if done.returncode == 0 or "body-large: a body of 128 KiB: no response" not in done.stdout:
            break
    assert done.returncode == 0, done.stdout + done.stderr
    assert "must    39 pass, 0 fail, 0 skipped" in done.stdout
    assert "should  45 pass, 0 fail, 0 skipped" in done.stdout
