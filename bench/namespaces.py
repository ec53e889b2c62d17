"""Three hosts, each a network namespace with a replica, behind a real HAProxy with TLS; failures of each kind.

The configuration is the one in deploy/haproxy, with other addresses. Shared by hosts.py and tests/test_hosts.py.
"""

import http.client
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench import processes
from bench.rotation import APPLICATION_ID, ISSUER, environment
from verifier import TokenIssuer
from verifier.signing.current_key import CurrentKey

ROOT = Path(__file__).parent.parent
HOSTS = ("a", "b", "c")


class Missing(Exception):
    """No host can be created on this machine; the message says why."""


def command(*words: object) -> str:
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout


def verifier(*words: object) -> None:
    """Run a command of this project, with low priority because in production it runs on another machine."""
    command("nice", sys.executable, "-m", "verifier", *words)


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
                ["ip", "netns", "exec", self.name, sys.executable, "-m", "verifier", "serve"],
                env=self.environment,
                stdout=output,
                stderr=output,
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 15
        while not self.is_ready():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def restart(self, number: int, down_s: float = 0) -> None:
        assert self.end(number) == (0 if number == signal.SIGTERM else -number)
        time.sleep(down_s)
        self.start()
        self.wait_until_ready()

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


def strays(names: str) -> list[str]:
    """Filter the output of `ip` for names made here by a process that no longer exists."""
    found = re.findall(r"(?m)^(?:\d+: )?(vf(\d+)-\w+)", names)
    alive = {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()}
    return [name for name, pid in found if int(pid) not in alive]


def sweep() -> None:
    """Remove the replicas, namespaces and links of killed runs."""
    for name in strays(command("ip", "netns", "list")):
        for pid in command("ip", "netns", "pids", name).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        # Another run may be doing the same.
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    for name in strays(command("ip", "-oneline", "link", "show", "type", "veth")):
        # One of a namespace may go with it meanwhile.
        subprocess.run(["ip", "link", "delete", name], capture_output=True)


@contextmanager
def hosts(folder: Path) -> Iterator[list[Host]]:
    """Three namespaces, each with a link to this one and a ready replica; raises Missing."""
    for program in ("ip", "haproxy", "openssl"):
        if not shutil.which(program):
            raise Missing(f"{program} is not installed")
    # The whole pid, because a later run must be able to tell whether this one is alive.
    prefix, subnet = f"vf{os.getpid()}", 192 + os.getpid() % 32
    try:
        command("ip", "netns", "add", f"{prefix}-probe")
        command("ip", "netns", "delete", f"{prefix}-probe")
    except subprocess.CalledProcessError as exc:
        raise Missing("no network namespace can be made here") from exc
    sweep()
    verifier("keys", "generate", "--keys", folder / "keys")
    settings = environment(folder / "keys") | {"VERIFIER_HOST": "0.0.0.0"}  # noqa: S104
    made: list[Host] = []
    try:
        for number, name in enumerate(HOSTS, start=1):
            host = Host(f"{prefix}-{name}", f"10.{subnet}.{number}.2", settings, folder / f"{name}.log")
            command("ip", "netns", "add", host.name)
            made.append(host)
            command("ip", "link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            command("ip", "address", "add", f"10.{subnet}.{number}.1/30", "dev", host.name)
            command("ip", "link", "set", host.name, "up")
            command("ip", "-n", host.name, "address", "add", f"{host.address}/30", "dev", "eth0")
            host.link("up")
            host.start()
        for host in made:
            host.wait_until_ready()
        yield made
    finally:
        for host in made:
            if host.process:
                host.process.kill()
                host.process.wait()
            command("ip", "netns", "delete", host.name)  # and its link


@contextmanager
def proxy(behind: list[Host], folder: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    """Run HAProxy in front of the hosts; yield its port and a TLS context that trusts its certificate."""
    key, certificate, both = (folder / name for name in ("key", "certificate", "verifier.pem"))
    request = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command("openssl", "req", *request, *subject, "-keyout", key, "-out", certificate)
    both.write_text(certificate.read_text() + key.read_text())
    port = processes.free_port()
    text = (ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text()
    changes = {"bind :443": f"bind 127.0.0.1:{port}", "/etc/haproxy/verifier.pem": str(both)}
    changes |= {f"10.0.0.1{n}:8000": f"{host.address}:8000" for n, host in enumerate(behind, start=1)}
    for before, after in changes.items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    file = folder / "haproxy.cfg"
    file.write_text(text)
    with (folder / "haproxy.log").open("wb") as output:
        process = subprocess.Popen(["haproxy", "-db", "-f", file], stdout=output, stderr=output)
    try:
        time.sleep(1.2)  # until its health checks have passed
        yield port, ssl.create_default_context(cafile=str(certificate))
    finally:
        process.kill()
        process.wait()


def disturb(
    behind: list[Host],
    keys: Path,
    revoked: Callable[[str], object],
    mark: Callable[[str], object] = print,
    stretch: float = 1,
) -> None:
    """Cause each kind of failure in turn; `revoked` is called with a token that must be rejected from then on."""

    def pause(seconds: float) -> None:
        time.sleep(seconds * stretch)

    a, b, c = behind
    first = CurrentKey(keys).signer(int(time.time()))
    pause(1)
    mark("rotate")
    verifier("keys", "rotate", "--lead", "5s", "--force", "--keys", keys)  # in 5 s every replica here has read it
    pause(0.5)
    mark("kill")
    a.restart(signal.SIGKILL, 1.5 * stretch)
    pause(0.5)
    mark("stop")
    b.signal(signal.SIGSTOP)
    pause(3)
    mark("continue")
    b.signal(signal.SIGCONT)
    pause(1.5)
    mark("cut off")
    c.link("down")
    pause(2.5)
    mark("rejoin")
    c.link("up")
    pause(1.5)
    for host in behind:
        mark(f"terminate {host.name[-1]}")
        host.restart(signal.SIGTERM)
        pause(1.2)
    assert CurrentKey(keys).signer(int(time.time())).kid != first.kid
    late = TokenIssuer(first, issuer=ISSUER, application_id=APPLICATION_ID).issue("42")
    mark("revoke")
    verifier("keys", "revoke", "--kid", first.kid, "--reason", "test", "--keys", keys)
    time.sleep(2.2)  # by then every replica has read it
    revoked(late)
    pause(1)
