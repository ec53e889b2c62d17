"""Three hosts behind a real HAProxy with TLS: what a client sees while replicas die, hang, vanish and keys rotate.

`bench/hosts.py` does the same to hosts at half of what they can do.
"""

import http.client
import json
import os
import ssl
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from bench import namespaces
from bench.rotation import APPLICATION_ID, SECRET
from bench.steady import TokenSource
from verifier.signing import keystore

CLIENTS = 3
PAUSE_S = 0.01


@pytest.fixture
def hosts(tmp_path) -> Iterator[list[namespaces.Host]]:
    try:
        with namespaces.hosts(tmp_path) as made:
            yield made
    except namespaces.Missing as exc:
        pytest.skip(str(exc))


@dataclass
class Client:
    """escs: good and bad sign-ins without an end, each counted by what was seen."""

    port: int
    context: ssl.SSLContext
    good: Callable[[], str]
    bad: Callable[[], str]
    stop: threading.Event
    seen: "Counter[str]" = field(default_factory=Counter)
    took: list[float] = field(default_factory=list)

    def run(self) -> None:
        connection = self.connect()
        for number in range(1_000_000):
            if self.stop.wait(PAUSE_S):
                break
            is_good = number % 5 != 4
            code = self.good() if is_good else self.bad()
            body = json.dumps({"code": code, "secretKey": SECRET, "applicationId": APPLICATION_ID})
            began = time.perf_counter()
            try:
                connection.request("POST", "/profile", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read().decode()
                status = answer.status
            except (OSError, http.client.HTTPException) as exc:
                connection.close()
                connection, status, text = self.connect(), 0, repr(exc)
            self.took.append(time.perf_counter() - began)
            if status == (200 if is_good else 401):
                self.seen["good" if is_good else "bad"] += 1
            else:
                self.seen[f"{'good' if is_good else 'bad'}: {status} {text}"] += 1
        connection.close()

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("localhost", self.port, timeout=10, context=self.context)


def test_no_sign_in_is_lost_while_replicas_die_and_keys_rotate(hosts, tmp_path):
    keys = tmp_path / "keys"
    source, other = TokenSource(keys), keystore.generate("ES256")
    stop = threading.Event()
    with namespaces.proxy(hosts, tmp_path) as (port, context):
        clients = [
            Client(port, context, lambda: source.token("42"), lambda: source.token("42", key=other), stop)
            for _ in range(CLIENTS)
        ]
        threads = [threading.Thread(target=client.run) for client in clients]

        def revoked(token: str) -> None:
            for client in clients:
                client.bad = lambda: token

        for thread in threads:
            thread.start()
        try:
            namespaces.disturb(hosts, keys, revoked)
        finally:
            stop.set()
            for thread in threads:
                thread.join(timeout=15)
    seen = sum((client.seen for client in clients), Counter())
    took = sorted(took for client in clients for took in client.took)
    print(dict(seen), f"p50 {statistics.median(took) * 1000:.1f} ms, max {took[-1] * 1000:.0f} ms", file=sys.stderr)
    assert seen.keys() == {"good", "bad"}
    assert seen["good"] > 500
    assert seen["bad"] > 100


def test_what_a_killed_run_left_is_removed_and_what_a_live_one_uses_is_not():
    gone, live = f"vf{10**9}-a", f"vf{os.getpid()}-a"
    assert namespaces.strays(f"{gone} (id: 3)\n{live} (id: 1)\nvfs-1\nother\n") == [gone]
    listed = f"7: {gone}@if2: <BROADCAST> mtu 1500\\    link/ether 02:00\n8: {live}@if2: <BROADCAST>\n1: lo: <UP>\n"
    assert namespaces.strays(listed) == [gone]
