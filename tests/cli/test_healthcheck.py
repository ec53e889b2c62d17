"""The command `verifier healthcheck`: ready, not ready, or not the server that was started here."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.conftest import ISSUER, Done, free_port

READY = {"status": "ready", "key_set_digest": "d", "last_read_age_s": 0.5, "hung_reads": 0}
Serve = Callable[..., int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve a body for /readyz and one for the JWKS, under a prefix; the port."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def serve(readyz: Any, jwks: Any = b"not JSON", status: int = 200, prefix: str = "") -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                bodies = {f"{prefix}/readyz": readyz, f"{prefix}/.well-known/jwks.json": jwks}
                body = bodies.get(self.path, {"detail": "Not Found"})
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return server.server_port

    yield serve
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def error(text: str, hint: str) -> Done:
    return Done(1, "", f"verifier: error: {text}\nverifier: hint: {hint}\n")


EXPECTED = "at /readyz, expected ready or not ready)"
OTHER = (
    "another program listens there: stop it, or correct the port; if it is your application, which mounts the "
    "endpoint, name the path: --prefix /escs"
)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"status": "not ready"}', Done(1, "not ready\n")),
        (
            b"<html>",
            error(
                "HTML: 127.0.0.1 port {} has no JSON object at /readyz (status 503)",
                "use the host, the port and the path of the service itself, with the prefix under which it is mounted",
            ),
        ),
        (
            b'{"status": "\\u001b[31mUP"}',
            error(f"127.0.0.1 port {{}} is not a verifier (found status \\x1b[31mUP {EXPECTED}", OTHER),
        ),
        (
            b'{"detail": "Not Found"}',
            error(
                "127.0.0.1 port {} is not a verifier (found no status at /readyz, expected ready or not ready)", OTHER
            ),
        ),
    ],
    ids=["not ready", "HTML", "another status", "no status"],
)
def test_what_is_not_ready_is_1_and_named(run, serve, body, expected):
    port = serve(body, status=503)
    assert run("healthcheck", "--port", port) == Done(
        expected.status, expected.out, expected.err.replace("{}", str(port))
    )


def test_another_program_that_responds_with_200_is_1(run, serve):
    assert run("healthcheck", "--port", serve({"status": "UP"})).status == 1


def test_a_port_where_nothing_listens_is_1(run):
    port = free_port()
    text = f"connection refused: nothing listens on 127.0.0.1 port {port}"
    expected = error(text, "start the server, or correct the port")
    assert run("healthcheck", "--host", "0.0.0.0", "--port", port) == expected


@pytest.mark.parametrize("port", [0, 65536])
def test_a_port_out_of_range_is_named(run, port):
    text = f"invalid value for '--port' (env var: 'VERIFIER_PORT', 'PORT'): {port} is not in the range 1<=x<=65535"
    assert run("healthcheck", "--port", port) == Done(
        2, "", f"verifier: error: {text}\nverifier: hint: verifier healthcheck --help shows the usage and examples\n"
    )


@pytest.mark.parametrize(("option", "value"), [("--host", "a b"), ("--host", "["), ("--prefix", "a b")])
def test_an_address_that_cannot_be_used_is_named(run, option, value):
    done = run("healthcheck", option, value)
    assert (done.status, "--host, --port or --prefix: expected https://host/path" in done.err) == (2, True)


def test_a_server_with_other_keys_is_another_server(run, serve, keys):
    """The walkthrough while `make run` holds the port: what responds there is ready, but it is not this server."""
    kid = min(path.stem for path in (keys / "public").glob("*.json"))
    port = serve(READY, {"keys": [{"kid": "-other"}]})
    assert run("healthcheck", "--port", port, "--keys", keys) == error(
        f"http://127.0.0.1:{port} is another server: it trusts none of the keys in {keys}/public "
        f"(found -other, expected {kid})",
        "stop it, or choose another port for yours with VERIFIER_PORT, for serve and for this command",
    )
    own = serve(READY, {"keys": [{"kid": "-other"}, {"kid": kid}]})
    assert run("healthcheck", "--port", own, "--keys", keys) == Done(0, "ready\n")


@pytest.mark.parametrize("jwks", [{}, {"keys": []}, {"keys": "text"}, {"keys": ["text"]}])
def test_a_server_that_publishes_no_key_is_not_compared(run, serve, keys, jwks):
    assert run("healthcheck", "--port", serve(READY, jwks), "--keys", keys) == Done(0, "ready\n")


@pytest.mark.parametrize("change", [{"hung_reads": 1}, {"last_read_age_s": 11}, {"last_read_age_s": None}])
def test_a_hung_disk_does_not_hang_the_health_check(run, serve, keys, change):
    port = serve(READY | change, {"keys": [{"kid": "other"}]})
    assert run("healthcheck", "--port", port, "--keys", keys) == Done(0, "ready\n")


def test_without_a_key_directory_nothing_is_compared(run, serve):
    port = serve(READY, {"keys": [{"kid": "other"}]})
    assert run("healthcheck", "--port", port) == Done(0, "ready\n")


def test_a_verifier_without_a_jwks_is_named(run, serve, keys):
    done = run("healthcheck", "--port", serve(READY), "--keys", keys)
    assert (done.status, "has no JSON object at /.well-known/jwks.json" in done.err) == (1, True)


@pytest.mark.parametrize("prefix", ["/escs", "escs", "/escs/"])
def test_an_endpoint_that_an_application_mounts_is_queried_under_its_prefix(run, serve, keys, prefix):
    kid = min(path.stem for path in (keys / "public").glob("*.json"))
    port = serve(READY, {"keys": [{"kid": kid}]}, prefix="/escs")
    found = f"127.0.0.1 port {port} is not a verifier (found no status {EXPECTED}"
    assert run("healthcheck", "--port", port, "--keys", keys) == error(found, OTHER)
    assert run("healthcheck", "--port", port, "--keys", keys, "--prefix", prefix) == Done(0, "ready\n")


@pytest.mark.parametrize("command", ["serve", "dev", "healthcheck"])
@pytest.mark.parametrize("name", ["VERIFIER_PORT", "--port"])
def test_a_kubernetes_service_link_is_named_by_every_command_in_one_way(run, monkeypatch, command, name):
    monkeypatch.setenv("VERIFIER_ISSUER", ISSUER)
    monkeypatch.setenv("VERIFIER_APPLICATIONS", "applications.json")
    link = "tcp://10.0.0.1:80"
    if name.isupper():
        monkeypatch.setenv(name, link)
    assert run(command, *(() if name.isupper() else (name, link))) == Done(
        3,
        "",
        f"verifier: error: {name} is the address of a Kubernetes Service, not a number\n"
        "verifier: hint: set enableServiceLinks: false in the pod, or give the Service another name\n",
    )


def test_a_health_check_loads_no_cryptography_library():
    code = (
        "import sys; sys.argv = ['verifier', 'healthcheck', '--port', '1']\n"
        "from verifier.cli import main\n"
        "try: main.main()\n"
        "except SystemExit: print([m for m in sys.modules if m.partition('.')[0] in ('cryptography', 'jwt')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"
