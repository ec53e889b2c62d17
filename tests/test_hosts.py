"""Three hosts behind a real HAProxy with TLS: what a client sees while replicas die, hang, vanish and keys rotate.

The configuration is the one in deploy/haproxy, with other addresses.
"""

import http.client
import json
import os
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import forge
from tests.conftest import APPLICATION_ID, ISSUER, SECRET, free_port
from tests.test_server import until
from verifier import TokenIssuer, keystore
from verifier.keystore import Keystore

ROOT = Path(__file__).parent.parent
HOSTS = ("a", "b", "c")
CLIENTS = 3
PAUSE_S = 0.01


def command(*words: object, **more: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True, **more)  # type: ignore[call-overload]


@dataclass
class Host:
    """A network namespace with one replica."""

    name: str
    address: str
    environment: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, sys.executable, "-m", "verifier.cli", "serve"],
                env=os.environ | self.environment,
                stdout=output,
                stderr=output,
            )

    def signal(self, number: int) -> None:
        assert self.process
        self.process.send_signal(number)

    def end(self, number: int) -> int:
        self.signal(number)
        assert self.process
        return self.process.wait(timeout=12)

    def link(self, state: str) -> None:
        command("ip", "-n", self.name, "link", "set", "eth0", state)

    def is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self.address, 8000, timeout=1)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


@pytest.fixture
def hosts(tmp_path) -> Iterator[list[Host]]:
    """Three namespaces, each with a link to this one and a running replica."""
    for program in ("ip", "haproxy", "openssl"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    prefix, subnet = f"vf{os.getpid() % 10_000}", 192 + os.getpid() % 32
    try:
        command("ip", "netns", "add", f"{prefix}-probe")
        command("ip", "netns", "delete", f"{prefix}-probe")
    except subprocess.CalledProcessError:
        pytest.skip("no network namespace can be made here")
    command(sys.executable, "-m", "verifier.cli", "keys", "generate", "--keys", tmp_path / "keys")
    environment = {
        "VERIFIER_ISSUER": ISSUER,
        "VERIFIER_KEYS": str(tmp_path / "keys"),
        "VERIFIER_APPLICATION_ID": APPLICATION_ID,
        "VERIFIER_SECRET_KEY": SECRET,
        "VERIFIER_HOST": "0.0.0.0",
    }
    made = []
    try:
        for number, name in enumerate(HOSTS, start=1):
            host = Host(f"{prefix}-{name}", f"10.{subnet}.{number}.2", environment, tmp_path / f"{name}.log")
            command("ip", "netns", "add", host.name)
            made.append(host)
            command("ip", "link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            command("ip", "address", "add", f"10.{subnet}.{number}.1/30", "dev", host.name)
            command("ip", "link", "set", host.name, "up")
            command("ip", "-n", host.name, "address", "add", f"{host.address}/30", "dev", "eth0")
            host.link("up")
            host.start()
        for host in made:
            assert until(host.is_ready, 15), host.log.read_text()
        yield made
    finally:
        for host in made:
            if host.process:
                host.process.kill()
                host.process.wait()
            command("ip", "netns", "delete", host.name)  # and its link


@pytest.fixture
def proxy(hosts, tmp_path) -> Iterator[tuple[int, ssl.SSLContext]]:
    """HAProxy in front of them; its port, and who trusts its certificate."""
    key, certificate, both = (tmp_path / name for name in ("key", "certificate", "verifier.pem"))
    request = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command("openssl", "req", *request, *subject, "-keyout", key, "-out", certificate)
    both.write_text(certificate.read_text() + key.read_text())
    port = free_port()
    text = (ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text()
    changes = {"bind :443": f"bind 127.0.0.1:{port}", "/etc/haproxy/verifier.pem": str(both)}
    changes |= {f"10.0.0.1{n}:8000": f"{host.address}:8000" for n, host in enumerate(hosts, start=1)}
    for before, after in changes.items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    file = tmp_path / "haproxy.cfg"
    file.write_text(text)
    with (tmp_path / "haproxy.log").open("wb") as output:
        process = subprocess.Popen(["haproxy", "-db", "-f", file], stdout=output, stderr=output)
    context = ssl.create_default_context(cafile=str(certificate))
    try:
        yield port, context
    finally:
        process.kill()
        process.wait()


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


def test_no_sign_in_is_lost_while_replicas_die_and_keys_rotate(hosts, proxy, tmp_path):
    port, context = proxy
    keys = tmp_path / "keys"
    issuer = TokenIssuer.from_directory(keys, issuer=ISSUER, application_id=APPLICATION_ID)
    first = Keystore(keys).signer(int(time.time()))
    stranger = forge.Pair("ES256", keystore.generate("ES256"))

    def forged() -> str:
        """Good in everything but the key that signed it."""
        now = int(time.time())
        header = {"alg": "ES256", "kid": first.kid, "typ": "at+jwt"}
        claims = {"iss": ISSUER, "aud": APPLICATION_ID, "sub": "42", "iat": now, "exp": now + 60}
        return forge.token(stranger, header, claims)

    stop = threading.Event()
    clients = [Client(port, context, lambda: issuer.issue("42"), forged, stop) for _ in range(CLIENTS)]
    threads = [threading.Thread(target=client.run) for client in clients]
    a, b, c = hosts

    def cli(*words: object) -> None:
        command(sys.executable, "-m", "verifier.cli", "keys", *words, "--keys", keys)

    time.sleep(1.2)  # until HAProxy knows that they are ready
    for thread in threads:
        thread.start()
    try:
        time.sleep(1)
        cli("rotate", "--lead", "5s", "--force")  # in 5 s every replica here has read it
        assert a.end(signal.SIGKILL) == -signal.SIGKILL
        time.sleep(1.5)
        a.start()
        assert until(a.is_ready, 10)
        b.signal(signal.SIGSTOP)
        time.sleep(3)
        b.signal(signal.SIGCONT)
        time.sleep(1.5)
        c.link("down")
        time.sleep(2.5)
        c.link("up")
        time.sleep(1.5)
        for host in hosts:
            assert host.end(signal.SIGTERM) == 0
            host.start()
            assert until(host.is_ready, 10)
            time.sleep(1.2)
        second = Keystore(keys).signer(int(time.time()))
        assert second.kid != first.kid
        late = TokenIssuer(first, issuer=ISSUER, application_id=APPLICATION_ID)
        late_token = late.issue("42")
        cli("revoke", "--kid", first.kid, "--reason", "test")
        time.sleep(2.2)
        for client in clients:
            client.bad = lambda: late_token
        time.sleep(1)
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
