"""Metrics: what they count, from whom, and where they are not."""

import json
import re
import socket
import struct
import threading
import time
import tracemalloc
import urllib.request
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPException
from unittest import mock

import pytest

from tests.conftest import APPLICATION_ID, SECRET, Answer, free_port, start
from verifier._version import __version__
from verifier.core.applications import Application, Applications, Secret
from verifier.core.keyring import Keyring
from verifier.errors import ConfigError
from verifier.server import scrapes
from verifier.server.endpoints import Service, create_app
from verifier.server.log import AccessLogEntry
from verifier.server.metrics import BUCKETS_S, Metrics
from verifier.server.settings import Settings


def scrape(port: int) -> dict[str, float]:
    """Every sample by its name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


@pytest.fixture
def measured(environment, tmp_path, key_files, keys):
    """The real server with metrics, and its samples."""
    for name, data in key_files.items():
        (keys / "public" / name).write_text(json.dumps(json.loads(data) | {"nbf": int(time.time()) - 100}))
    port = free_port()
    server = start(environment | {"VERIFIER_METRICS_PORT": str(port)}, tmp_path / "server.log")
    yield server, lambda: scrape(port)
    assert server.stop() == 0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port)).close()


def test_what_is_counted_and_by_whom(measured, body, issue, pairs):
    server, samples = measured
    now = int(time.time())
    good = {"code": issue(iat=now, exp=now + 60)}
    before = samples()
    assert before[f'verifier_key_last_used_timestamp_seconds{{kid="{pairs["ES256"].kid}"}}'] == 0
    assert before[f'verifier_secret_last_used_timestamp_seconds{{application="{APPLICATION_ID}",slot="1"}}'] == 0
    for changes in (good, good, {"code": "canary"}, {"secretKey": "canary"}, {"applicationId": "canary"}):
        server.ask(body | changes)
    server.ask(path="/canary")
    server.ask(method="GET", path="/healthz")
    after = samples()
    counted = {name: value for name, value in after.items() if name.startswith("verifier_requests_total")}
    assert counted == {
        'verifier_requests_total{outcome="ok",reason=""}': 2,
        'verifier_requests_total{outcome="invalid_token",reason="token_malformed"}': 1,
        'verifier_requests_total{outcome="invalid_client",reason="client_rejected"}': 2,
        'verifier_requests_total{outcome="invalid_request",reason="not_found"}': 1,
    }
    assert after["verifier_request_duration_seconds_count"] == 6
    assert [n for n in after if n.startswith("verifier_request_duration_seconds_bucket")] == [
        f'verifier_request_duration_seconds_bucket{{le="{bound}"}}' for bound in (*BUCKETS_S, "+Inf")
    ]
    used = {n: v for n, v in after.items() if "last_used" in n and v}
    assert used.keys() == {
        f'verifier_key_last_used_timestamp_seconds{{kid="{pairs["ES256"].kid}"}}',
        f'verifier_secret_last_used_timestamp_seconds{{application="{APPLICATION_ID}",slot="1"}}',
    }
    assert all(now - 1 <= value <= time.time() for value in used.values())
    assert after["verifier_requests_in_flight"] == 0
    assert after["process_resident_memory_bytes"] > 0
    assert "canary" not in str(after)


def test_a_refused_token_is_no_use_of_its_key(measured, body, issue, pairs):
    server, samples = measured
    assert server.ask(body | {"code": issue(exp=100, iat=10)}).status == 401
    assert samples()[f'verifier_key_last_used_timestamp_seconds{{kid="{pairs["ES256"].kid}"}}'] == 0


def test_keys_and_their_end(measured, keys, pairs):
    server, samples = measured
    now = int(time.time())
    es, ed, rs = (keys / "public" / f"{pairs[alg].kid}.json" for alg in ("ES256", "EdDSA", "RS256"))
    es.write_text(json.dumps(json.loads(es.read_text()) | {"exp": now + 1000}))
    ed.write_text(json.dumps(json.loads(ed.read_text()) | {"revoked": {"revoked_at": now, "reason": "canary"}}))
    rs.with_name("bad.json").write_text("{")
    revoked = 'verifier_keys{state="revoked"}'
    while (found := samples())['verifier_invalid_files{kind="keys"}'] != 1 or found[revoked] != 1:
        time.sleep(0.05)
    assert found[f'verifier_key_expiry_timestamp_seconds{{kid="{pairs["ES256"].kid}"}}'] == now + 1000
    assert found[f'verifier_key_expiry_timestamp_seconds{{kid="{pairs["RS256"].kid}"}}'] == float("inf")
    assert f'verifier_key_expiry_timestamp_seconds{{kid="{pairs["EdDSA"].kid}"}}' not in found
    assert {n: v for n, v in found.items() if n.startswith("verifier_keys{") and v} == {
        'verifier_keys{state="current"}': 1,
        'verifier_keys{state="retiring"}': 1,
        'verifier_keys{state="revoked"}': 1,
    }
    assert found["verifier_keys_usable"] == 2
    digest = server.ask(method="GET", path="/readyz").body["key_set_digest"]
    assert found[f'verifier_key_set_info{{digest="{digest}"}}'] == 1
    assert now - 1 <= found["verifier_config_last_reload_success_timestamp_seconds"] <= time.time()
    assert 0 < found["verifier_config_reload_duration_seconds"] < 5
    assert (found["verifier_config_reload_failures_total"], found["verifier_log_lines_dropped_total"]) == (0, 0)


def test_the_public_port_has_no_metrics(measured):
    server, _ = measured
    expected = {"error": "invalid_request", "error_description": "not found"}
    assert isinstance(server.ask(method="GET", path="/metrics"), Answer)
    assert server.ask(method="GET", path="/metrics").body == expected


@pytest.fixture
def metrics(environment):
    """The metrics of an application that does not serve."""
    service = Service(Settings.from_environment(environment))
    return Metrics(service.files, 30)


def test_a_secret_keeps_its_last_use_when_it_moves_to_another_slot(metrics):
    source = metrics.files.applications
    old, new = Secret.of("the older secret"), Secret.of("the newer secret")
    source.applications = Applications([Application("a", (old, new))])
    for application_id, slot in (("a", 2), ("unknown", 1), ("a", 3)):
        request = AccessLogEntry("/profile")
        request |= {"application": application_id, "slot": slot, "outcome": "invalid_token", "duration_ms": 1.0}
        metrics.count(request)
    name = "verifier_secret_last_used_timestamp_seconds"
    assert metrics.registry.get_sample_value(name, {"application": "a", "slot": "1"}) == 0
    source.applications = Applications([Application("a", (new,))])
    assert metrics.registry.get_sample_value(name, {"application": "a", "slot": "1"}) > 0


def test_the_version_and_the_age_of_the_current_key_are_exposed(metrics, keys, pairs):
    assert metrics.registry.get_sample_value("verifier_build_info", {"version": __version__}) == 1
    path = keys / "public" / f"{pairs['RS256'].kid}.json"
    since = int(time.time()) - 5
    path.write_text(json.dumps(json.loads(path.read_text()) | {"nbf": since}))
    metrics.files.keys.refresh()
    assert metrics.registry.get_sample_value("verifier_current_key_since_timestamp_seconds") == since
    for path in (keys / "public").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"nbf": since + 1000}))
    metrics.files.keys.refresh()
    assert metrics.registry.get_sample_value("verifier_current_key_since_timestamp_seconds") is None


def test_undone_revocations_and_hung_reads_are_exposed(metrics, keys, pairs):
    def sample(name, **labels):
        return metrics.registry.get_sample_value(name, labels)

    assert (sample("verifier_revocations_undone"), sample("verifier_hung_reads", kind="keys")) == (0, 0)
    path = keys / "public" / f"{pairs['RS256'].kid}.json"
    original = path.read_bytes()
    path.write_text(json.dumps(json.loads(original) | {"revoked": {"revoked_at": 1, "reason": "canary"}}))
    metrics.files.keys.refresh()
    path.write_bytes(original)
    metrics.files.keys.refresh()
    metrics.files.readers[0].overdue = True
    assert (sample("verifier_revocations_undone"), sample("verifier_hung_reads", kind="keys")) == (1, 1)
    assert sample("verifier_keys", state="revoked") == 1


def test_a_scrape_of_many_keys_takes_linear_time(metrics):
    template = next(iter(metrics.files.keys.keyring.keys.values()))
    metrics.files.keys.keyring = Keyring(replace(template, kid=f"{n:043}") for n in range(2000))
    calls = []
    current = Keyring.current
    with mock.patch.object(Keyring, "current", lambda *arguments: calls.append(1) or current(*arguments)):
        list(metrics.collect())
    assert len(calls) <= 2


# --- the metrics port


@pytest.fixture
def port(metrics, monkeypatch):
    monkeypatch.setattr(scrapes, "SCRAPE_TIMEOUT_S", 0.5)
    port = free_port()
    close = scrapes.listen(metrics.registry, "127.0.0.1", port)
    yield port
    close()
    close()  # a lifespan may end more than once


def connect(port, sent=b""):
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.sendall(sent)
    return sock


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\n", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"])
def test_a_scrape_that_does_not_finish_is_closed(port, sent):
    with connect(port, sent) as sock:
        began = time.monotonic()
        assert sock.recv(100) == b""
        assert time.monotonic() - began < 5


def test_a_slow_client_cannot_extend_its_time_byte_by_byte(port):
    began = time.monotonic()
    with connect(port) as sock, suppress(OSError):
        while time.monotonic() - began < 10:
            sock.sendall(b"x")
            time.sleep(0.05)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "sent",
    [b"GET /metrics HTTP/1.1\r\n" + (b"a: " + b"y" * 65_000 + b"\r\n") * 99, b"GET /metrics?" + b"y" * 65_000],
    ids=["headers", "target"],
)
def test_of_a_request_for_metrics_only_so_many_bytes_are_kept(port, sent):
    tracemalloc.start()
    try:
        with connect(port) as sock, suppress(OSError):
            sock.sendall(sent)
            while sock.recv(65_536):
                pass
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert "verifier_keys_usable" in scrape(port)


def test_idle_connections_do_not_stop_a_scrape_and_hold_few_threads(port, monkeypatch):
    monkeypatch.setattr(scrapes, "SCRAPE_TIMEOUT_S", 3600)
    before = threading.active_count()
    idle = [connect(port) for _ in range(100)]
    assert "verifier_keys_usable" in scrape(port)
    assert threading.active_count() <= before + scrapes.MAX_SCRAPES + 1
    for sock in idle:
        sock.close()


def test_connections_that_cannot_be_closed_are_bounded(port, monkeypatch):
    monkeypatch.setattr(scrapes, "SCRAPE_TIMEOUT_S", 3600)
    monkeypatch.setattr(scrapes, "_shut_down", lambda _: None)
    idle = [connect(port) for _ in range(scrapes.MAX_SCRAPES)]
    with connect(port, b"GET /metrics HTTP/1.0\r\n\r\n") as sock:
        assert sock.recv(100) == b""
    idle[0].close()
    deadline = time.monotonic() + 5
    while True:
        try:
            assert "verifier_keys_usable" in scrape(port)
            break
        except (OSError, HTTPException):
            assert time.monotonic() < deadline
    for sock in idle:
        sock.close()


def test_a_client_that_leaves_during_a_scrape_is_silent(port, capfd):
    for _ in range(20):
        sock = connect(port, b"GET /metrics HTTP/1.0\r\n\r\n")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    assert "verifier_keys_usable" in scrape(port)
    assert capfd.readouterr().err == ""


def test_the_metrics_port_listens_on_ipv6(metrics):
    port = free_port()
    close = scrapes.listen(metrics.registry, "::1", port)
    try:
        with urllib.request.urlopen(f"http://[::1]:{port}/metrics", timeout=5) as response:
            assert b"verifier_keys_usable" in response.read()
    finally:
        close()


def test_a_taken_port_stops_the_start(environment):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        says = f"cannot listen on 127.0.0.1 port {port} for metrics (Address already in use)"
        with pytest.raises(ConfigError, match=f"(?m)^{re.escape(says)}$"):
            create_app(Settings.from_environment(environment | {"VERIFIER_METRICS_PORT": str(port)}))


def test_no_secret_is_in_the_metrics(measured):
    _, samples = measured
    assert SECRET not in str(samples())


def test_every_metric_has_a_sentence_of_help(metrics):
    found = list(metrics.registry.collect())
    assert len(found) > 15
    assert [metric.name for metric in found if not re.fullmatch(r"[A-Z1].*\w[.)]?", metric.documentation)] == []
