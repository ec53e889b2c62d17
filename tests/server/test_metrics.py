"""Metrics: what they count, from whom, and where they are not."""

import json
import re
import socket
import time
import urllib.request

import pytest

from tests.conftest import APPLICATION_ID, SECRET, Answer, free_port, start
from verifier.core.applications import Application, Secret
from verifier.errors import ConfigError
from verifier.server.endpoints import create_app
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
    assert after["verifier_request_seconds_count"] == 6
    assert [n for n in after if n.startswith("verifier_request_seconds_bucket")] == [
        f'verifier_request_seconds_bucket{{le="{bound}"}}' for bound in (*BUCKETS_S, "+Inf")
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
    while (found := samples())['verifier_problems{what="keys"}'] != 1 or found[revoked] != 1 or len(found) < 1:
        time.sleep(0.05)
    assert 0 < found[f'verifier_key_seconds_to_exp{{kid="{pairs["ES256"].kid}"}}'] <= 1000
    assert found[f'verifier_key_seconds_to_exp{{kid="{pairs["RS256"].kid}"}}'] == float("inf")
    assert f'verifier_key_seconds_to_exp{{kid="{pairs["EdDSA"].kid}"}}' not in found
    assert {n: v for n, v in found.items() if n.startswith("verifier_keys{") and v} == {
        'verifier_keys{state="current"}': 1,
        'verifier_keys{state="retiring"}': 1,
        'verifier_keys{state="revoked"}': 1,
    }
    assert found["verifier_keys_usable"] == 2
    digest = server.ask(method="GET", path="/readyz").body["key_set_digest"]
    assert found[f'verifier_key_set_info{{digest="{digest}"}}'] == 1
    assert now - 1 <= found["verifier_reload_timestamp_seconds"] <= time.time()
    assert 0 < found["verifier_reload_duration_seconds"] < 5
    assert (found["verifier_reload_failures_total"], found["verifier_log_lines_dropped_total"]) == (0, 0)


def test_the_public_port_has_no_metrics(measured):
    server, _ = measured
    expected = {"error": "invalid_request", "error_description": "not found"}
    assert isinstance(server.ask(method="GET", path="/metrics"), Answer)
    assert server.ask(method="GET", path="/metrics").body == expected


def test_a_secret_keeps_its_last_use_when_it_moves_to_another_slot(environment):
    from verifier.core.applications import Applications
    from verifier.server.applications_file import ApplicationsFile
    from verifier.storage.key_directory import KeyDirectory

    settings = Settings.from_environment(environment)
    source = ApplicationsFile(settings)
    metrics = Metrics(KeyDirectory(settings.keys / "public"), source, 30, {})
    old, new = Secret.of("the older secret"), Secret.of("the newer secret")
    source.applications = Applications([Application("a", (old, new))])
    metrics.record_use("a", 2, "")
    metrics.record_use("gone", 1, "")
    metrics.record_use("a", 3, "")
    name = "verifier_secret_last_used_timestamp_seconds"
    assert metrics.registry.get_sample_value(name, {"application": "a", "slot": "1"}) == 0
    source.applications = Applications([Application("a", (new,))])
    assert metrics.registry.get_sample_value(name, {"application": "a", "slot": "1"}) > 0


def test_a_taken_port_stops_the_start(environment):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        says = f"cannot listen on 127.0.0.1 port {port} for metrics (Address already in use)"
        with pytest.raises(ConfigError, match=f"^{re.escape(says)}$"):
            create_app(Settings.from_environment(environment | {"VERIFIER_METRICS_PORT": str(port)}))


def test_no_secret_is_in_the_metrics(measured):
    _, samples = measured
    assert SECRET not in str(samples())
