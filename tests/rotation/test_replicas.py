"""What a running replica has loaded, and that nothing that it sends raises or hangs."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from verifier.errors import ConfigError
from verifier.rotation import replicas
from verifier.rotation.replicas import Replica, Uses

READY = {"status": "ready", "settings": {"max_lifetime_s": 300, "leeway_s": 30}, "version": "1.2"}
GOOD: dict[str, Any] = {
    "/readyz": READY,
    "/.well-known/jwks.json": {"keys": [{"kid": "a"}], "key_set_digest": "d"},
}
Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve one body for each path, as JSON or as bytes; the base URL."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def serve(
        bodies: dict[str, Any],
        status: int = 200,
        jwks_status: int = 200,
        headers: tuple[tuple[str, str], ...] = (),
        offset_s: int = 0,
    ) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = bodies.get(self.path)
                self.send_response(status if self.path == "/readyz" else jwks_status)
                for header in headers:
                    self.send_header(*header)
                self.end_headers()
                self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string((timestamp or time.time()) + offset_s)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_ready_replica_names_its_keys_clock_and_settings(serve):
    url = serve(GOOD)
    found = replicas.query(f"{url}/")
    assert found.clock_offset_s in (-1, 0, 1)
    assert found == Replica(
        f"{url}/", "d", ("a",), ready=True, clock_offset_s=found.clock_offset_s, max_lifetime_s=300, leeway_s=30,
        version="1.2",
    )  # fmt: skip


def test_a_clock_that_is_off_is_measured(serve):
    assert replicas.query(serve(GOOD, offset_s=60)).clock_offset_s in (59, 60, 61)


def test_a_replica_that_is_not_ready_responds_all_the_same(serve):
    found = replicas.query(serve(GOOD | {"/readyz": {"status": "not ready"}}, status=503))
    assert (found.ready, found.digest, found.kids, found.max_lifetime_s) == (False, "d", ("a",), None)


def test_a_jwk_set_with_an_error_status_has_no_keys(serve):
    url = serve(GOOD, jwks_status=503)
    found = replicas.query(url)
    assert found == Replica(
        url, ready=True, problem="status 503 for the JWK Set (expected 200)", clock_offset_s=found.clock_offset_s,
        max_lifetime_s=300, leeway_s=30, version="1.2",
    )  # fmt: skip


@pytest.mark.parametrize("path", ["/profile", "/profile/", "/readyz", "/.well-known/jwks.json"])
@pytest.mark.parametrize("prefix", ["", "/escs"])
def test_a_url_with_the_path_of_an_endpoint_is_explained(serve, prefix, path):
    url = f"{serve(GOOD)}{prefix}{path}"
    assert replicas.query(url).problem.endswith(f"; give the URL without {path.rstrip('/')}")
    assert "give the URL" not in replicas.query(f"{serve(GOOD)}{prefix}/other").problem


def test_a_prefix_under_which_the_endpoint_is_mounted_is_part_of_the_url(serve):
    url = serve({f"/profile{path}": body for path, body in GOOD.items()})
    assert replicas.query(f"{url}/profile").problem == ""


NOT_A_VERIFIER = "not a verifier: its JWK Set has no list of keys, or no key_set_digest"


@pytest.mark.parametrize(
    ("bodies", "problem"),
    [
        ({}, "not JSON: "),
        (GOOD | {"/.well-known/jwks.json": {}}, NOT_A_VERIFIER),
        (GOOD | {"/.well-known/jwks.json": {"keys": [1], "key_set_digest": "d"}}, NOT_A_VERIFIER),
        (GOOD | {"/.well-known/jwks.json": {"keys": [{"kid": "\x1b[31m"}], "key_set_digest": "d"}}, NOT_A_VERIFIER),
        (GOOD | {"/.well-known/jwks.json": {"keys": [{"kid": "a"}], "key_set_digest": "\ud800"}}, "not JSON: "),
        (GOOD | {"/.well-known/jwks.json": {"keys": [{"kid": "a"}], "key_set_digest": 1}}, NOT_A_VERIFIER),
        (GOOD | {"/readyz": b"[" * 100_000}, "not JSON: "),
        (GOOD | {"/readyz": b"\xff\xfe"}, "not JSON: "),
        (GOOD | {"/readyz": b"x" * 2_000_000}, ""),
    ],
)
def test_something_else_is_not_a_replica(serve, bodies, problem):
    found = replicas.query(serve(bodies))
    assert found.problem
    assert found.problem.startswith(problem)
    assert found.problem.isprintable()
    assert (found.digest, found.kids) == ("", ())


@pytest.mark.parametrize("settings", [None, 1, {"max_lifetime_s": "300", "leeway_s": True}, {"leeway_s": 1e300}])
def test_settings_of_another_kind_are_unknown(serve, settings):
    found = replicas.query(serve(GOOD | {"/readyz": READY | {"settings": settings, "version": "\x1b"}}))
    assert (found.problem, found.max_lifetime_s, found.leeway_s, found.version) == ("", None, None, "")


def test_a_redirect_is_a_failure(serve):
    target = serve(GOOD)
    found = replicas.query(serve(GOOD, status=302, headers=(("Location", f"{target}/readyz"),)))
    assert found.problem.startswith("redirect: ")
    assert not found.ready


@pytest.mark.parametrize("url", ["http://[", "ftp://x", "", "http://", "http://a b", "http://x:99999", "\x1b"])
def test_what_is_no_url_is_a_problem(url):
    assert replicas.query(url) == Replica(url, problem="not an http or https URL (expected http://host:port)")


def test_a_proxy_of_the_environment_is_not_used(serve, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert replicas.query(serve(GOOD)).problem == ""


METRICS = (
    b"# TYPE verifier_secret_last_used_timestamp_seconds gauge\n"
    b'verifier_secret_last_used_timestamp_seconds{application="app",slot="1"} 1.8e9\n'
    b'verifier_secret_last_used_timestamp_seconds{application="app",slot="2"} 0\n'
    b'verifier_secret_last_used_timestamp_seconds{application="o\\"\\\\n",slot="1"} 1.7e9\n'
    b"# TYPE verifier_key_last_used_timestamp_seconds gauge\n"
    b'verifier_key_last_used_timestamp_seconds{kid="k"} 1.75e9\n'
    b"# TYPE process_start_time_seconds gauge\n"
    b"process_start_time_seconds 1.7e9\n"
)


def test_the_last_use_of_keys_and_secrets_is_read_from_metrics(serve):
    url = serve({"/metrics": METRICS, "/later": METRICS.replace(b"1.75e9", b"1.76e9")})
    used = {("secret", "app 1"): 1.8e9, ("secret", "app 2"): 0, ("secret", 'o"\\n 1'): 1.7e9, ("key", "k"): 1.75e9}
    assert replicas.read_uses(f"{url}/metrics") == Uses(used, 1.7e9)
    last = {("key", "k"): 1.76e9, ("secret", "app 1"): 1.8e9, ("secret", 'o"\\n 1'): 1.7e9}
    problem = "ftp://x: not an http or https URL"
    assert replicas.last_uses([f"{url}/later", "ftp://x", f"{url}/metrics"]) == (last, (problem,))


@pytest.mark.parametrize("value", ["1e300", "1.00000000001e11", "NaN", "+Inf", "-1"])
def test_a_value_that_is_no_time_is_left_out(serve, value):
    url = serve({"/metrics": METRICS.replace(b"1.8e9", value.encode())})
    used = {("secret", "app 2"): 0, ("secret", 'o"\\n 1'): 1.7e9, ("key", "k"): 1.75e9}
    assert replicas.read_uses(f"{url}/metrics") == Uses(used, 1.7e9)


def test_a_replica_whose_system_does_not_tell_its_start_has_none(serve):
    url = serve({"/metrics": METRICS.replace(b"process_start", b"another")})
    assert replicas.read_uses(f"{url}/metrics").started_at is None


@pytest.mark.parametrize("body", [b"", b"go_goroutines 7\n", b"process_start_time_seconds 1.7e9\n"])
def test_the_metrics_page_of_another_program_is_an_error(serve, body):
    url = serve({"/metrics": body})
    with pytest.raises(ConfigError, match=r"/metrics: has no metrics of a verifier\nhint: "):
        replicas.read_uses(f"{url}/metrics")


@pytest.mark.parametrize("body", [b'x{a="b} 1\n', b"x y z w\n", b"# TYPE x nonsense\n", b"{} {} {}\n"])
def test_what_is_no_metrics_page_is_an_error(serve, body):
    url = serve({"/metrics": body})
    with pytest.raises(ConfigError, match=r"(?m)/metrics: not metrics in the Prometheus text format$"):
        replicas.read_uses(f"{url}/metrics")


def test_a_metrics_page_that_is_not_there_is_an_error(serve):
    url = serve({}, status=404)
    with pytest.raises(ConfigError, match=r"(?m)/readyz: no metrics \(status 404, expected 200\)$"):
        replicas.read_uses(f"{url}/readyz")
    with pytest.raises(ConfigError, match=r"^http://127.0.0.1:9/metrics: no metrics \(connection refused"):
        replicas.read_uses("http://127.0.0.1:9/metrics")
    with pytest.raises(ConfigError, match=r"(?m)^ftp://x: not an http or https URL$"):
        replicas.read_uses("ftp://x")
