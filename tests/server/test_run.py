"""The real server as processes: its port, workers, signals and reload."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import conftest
from tests.conftest import SECRET, free_port, lines, publish_now, start
from tests.support.sockets import post, until
from verifier.server import run


@pytest.fixture
def keys(keys, key_files):
    """Keys that verify by the real clock."""
    return publish_now(keys, key_files)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "é..x"])
def test_a_host_that_is_no_address_stops_the_start(environment, host):
    done = serve(environment, "--host", host)
    assert done.returncode == 3
    assert f"verifier: error: cannot listen on {host} port 8000 (no such address)\n" in done.stderr


def test_a_revocation_is_taken_in_while_another_file_is_broken(server, live, keys, pairs, tmp_path):
    assert server.ask(live()).status == 200
    (keys / "public" / f"{pairs['EdDSA'].kid}.json").write_text("{")
    path = keys / "public" / f"{pairs['ES256'].kid}.json"
    revoked = json.loads(path.read_text()) | {"revoked": {"revoked_at": int(time.time()), "reason": "leaked"}}
    path.write_text(json.dumps(revoked))
    expected = "the key with this kid is revoked"
    assert until(lambda: server.ask(live()).body.get("error_description") == expected)
    ready = server.ask(method="GET", path="/readyz").body
    assert (ready["usable_keys"], ready["problems"]) == (1, 1)
    log = (tmp_path / "server.log").read_text()
    assert f"{pairs['EdDSA'].kid}.json: is not valid JSON" in log


def test_no_request_is_dropped_while_keys_reload(server, live, keys, pairs):
    path = keys / "public" / f"{pairs['ES256'].kid}.json"
    members = json.loads(path.read_text())
    statuses = []
    for n in range(5):
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(members | {"exp": int(time.time()) + 10_000 + n}))
        temporary.replace(path)
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            statuses.append(server.ask(live()).status)
    assert set(statuses) == {200}


def test_a_new_secret_is_accepted_beside_the_old_one(environment, tmp_path, live):
    file = tmp_path / "applications.json"
    add = [sys.executable, "-m", "verifier", "applications", "add", conftest.APPLICATION_ID, "--file", str(file)]
    subprocess.run(add, input=SECRET + "\n", text=True, check=True, capture_output=True)
    kept = {n: v for n, v in environment.items() if n in ("VERIFIER_ISSUER", "VERIFIER_KEYS")}
    server = start(kept | {"VERIFIER_APPLICATIONS": str(file)}, tmp_path / "log")
    try:
        new = live() | {"secretKey": "the next secret, longer"}
        assert server.ask(new).status == 401
        subprocess.run(add, input="the next secret, longer\n", text=True, check=True, capture_output=True)
        assert until(lambda: server.ask(new).status == 200)
        assert server.ask(live()).status == 200
        file.write_text('{"applica')
        assert until(lambda: server.ask(method="GET", path="/readyz").body["problems"] == 1)
        assert server.ask(live()).status == 200
    finally:
        server.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_with_0(server, live, number):
    whole = post(live())
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(whole[:-1])
        time.sleep(0.2)
        server.process.send_signal(number)
        time.sleep(0.3)
        sock.sendall(whole[-1:])
        assert sock.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    assert server.process.wait(timeout=10) == 0


def test_two_workers_serve_and_stop(environment, tmp_path, live):
    server = start(environment | {"VERIFIER_WORKERS": "2"}, tmp_path / "log")
    try:
        assert {server.ask(live()).status for _ in range(20)} == {200}
    finally:
        assert server.stop() == 0


def workers_of(server) -> dict[int, int]:
    """The sockets of each worker process."""
    found = {}
    for child in Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split():
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            links = subprocess.run(["ls", "-l", f"/proc/{child}/fd"], capture_output=True, text=True)
            found[int(child)] = links.stdout.count("socket:")
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares connections out")
def test_every_worker_gets_its_share_of_connections_and_one_that_dies_is_replaced(environment, tmp_path, live):
    server = start(environment | {"VERIFIER_WORKERS": "2"}, tmp_path / "log")
    try:
        assert until(lambda: len(workers_of(server)) == 2, 10)
        before = workers_of(server)
        with ExitStack() as stack:
            for _ in range(64):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            assert until(lambda: sum(workers_of(server).values()) >= sum(before.values()) + 64, 10)
            after = workers_of(server)
            assert all(after[pid] - before[pid] >= 8 for pid in before), (before, after)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        assert until(lambda: len(workers_of(server).keys() - {killed}) == 2, 15)
        assert {server.ask(live()).status for _ in range(20)} == {200}
        for number in (signal.SIGTTIN, signal.SIGTTOU):  # uvicorn would change their number
            server.process.send_signal(number)
        time.sleep(1.2)
        assert len(workers_of(server)) == 2
    finally:
        assert server.stop() == 0


def test_workers_stop_when_their_parent_is_killed(environment, tmp_path):
    server = start(environment | {"VERIFIER_WORKERS": "2"}, tmp_path / "log")
    try:
        assert until(lambda: len(workers_of(server)) == 2, 10)
        workers = list(workers_of(server))
    finally:
        server.process.kill()
        server.process.wait()
    assert until(lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in workers), 10)
    socket.create_server(("127.0.0.1", server.port)).close()


def test_workers_that_take_long_to_start_are_not_killed(environment, tmp_path):
    # uvicorn's ping would wait 5 s, and then kill them; these are stopped for longer than one of its rounds.
    server = start(environment | {"VERIFIER_WORKERS": "2"}, tmp_path / "log")
    try:
        assert until(lambda: len(workers_of(server)) == 2, 10)
        workers = workers_of(server).keys()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        assert not until(lambda: workers_of(server).keys() != workers, 6)
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        assert server.ask(method="GET", path="/healthz").status == 200
    finally:
        assert server.stop() == 0


def test_a_worker_is_replaced_when_it_exits_unless_it_could_not_start(monkeypatch):
    started: list[object] = []

    class Process:
        def __init__(self, _config, sockets):
            self.exitcode, self.sockets = None, sockets

        def start(self):
            started.append(self.sockets)

        def join(self):
            pass

    monkeypatch.setattr(run, "Process", Process)
    supervisor = run.Supervisor.__new__(run.Supervisor)
    supervisor.config, supervisor.should_exit, supervisor.sockets = None, threading.Event(), ["a", "b"]
    supervisor.processes = [Process(None, "a"), Process(None, "b")]
    supervisor.keep_subprocess_alive()
    assert started == []
    supervisor.processes[1].exitcode = 1
    supervisor.keep_subprocess_alive()
    assert (started, supervisor.should_exit.is_set()) == ([["b"]], False)
    supervisor.processes[0].exitcode = run.STARTUP_FAILURE
    supervisor.keep_subprocess_alive()
    assert (len(started), supervisor.should_exit.is_set()) == (1, True)


def test_a_worker_whose_parent_exits_stops(monkeypatch):
    sent: list[tuple[int, int]] = []
    done = threading.Event()
    monkeypatch.setattr(os, "kill", lambda pid, number: (sent.append((pid, number)), done.set()))
    monkeypatch.setattr(run.multiprocessing, "parent_process", lambda: SimpleNamespace(join=lambda: None))
    run.stop_with_parent()
    assert done.wait(5)
    assert sent == [(os.getpid(), signal.SIGTERM)]


@pytest.mark.parametrize("workers", [1, 2])
def test_all_addresses_of_ipv6_are_those_of_ipv4_too(workers):
    try:
        sockets = run.listen("::", 0, workers)
    except run.ConfigError:
        pytest.skip("no IPv6 on this machine")
    try:
        port = sockets[0].getsockname()[1]
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port), timeout=5).close()
    finally:
        for sock in sockets:
            sock.close()


def serve(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "verifier", "serve", *arguments]
    inherited = {n: v for n, v in os.environ.items() if not n.startswith("VERIFIER_")}
    return subprocess.run(command, env=inherited | environment, text=True, capture_output=True, timeout=20)


def test_a_taken_port_stops_the_start(environment, shared):
    done = serve(environment, "--port", str(shared.port))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"verifier: error: cannot listen on 127.0.0.1 port {shared.port} (Address already in use)\n"
        "verifier: hint: choose another with --port, or --host for an address of this machine\n"
    )


def test_a_worker_that_cannot_start_stops_the_start(environment, monkeypatch, tmp_path):

    class Supervisor:
        def __init__(self, *_, **__):
            self.processes = [type("Process", (), {"exitcode": 3})]

        def run(self):
            pass

    monkeypatch.setattr(run, "Supervisor", Supervisor)
    monkeypatch.setattr(run, "configure_logging", lambda settings: None)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    settings = conftest.Settings.from_environment(environment | {"VERIFIER_WORKERS": "2", "VERIFIER_PORT": "0"})
    with pytest.raises(run.ConfigError, match=r"(?m)^a worker process could not start$"):
        run.serve(settings)


def test_a_worker_reads_its_settings_from_the_environment(environment, monkeypatch):

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(run, "configure_logging", lambda settings: None)
    assert run.app_from_environment().routes[0].path == "/profile"


def test_a_worker_that_starts_again_among_broken_files_says_so(environment, monkeypatch, keys, capfd):

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(run, "configure_logging", lambda settings: None)
    (keys / "public" / "bad.json").write_text("{")
    with pytest.raises(SystemExit) as end:
        run.app_from_environment()
    assert end.value.code == 1  # not 3, which would stop the other workers
    assert capfd.readouterr().err == f"verifier: error: {keys}/public/bad.json: is not valid JSON\n"


def handles_hangup(pid: int) -> bool:
    caught = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(caught and int(caught[1], 16) & 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_hangup_reloads_and_ends_nothing(environment, tmp_path, live, workers):
    server = start(environment | {"VERIFIER_WORKERS": str(workers)}, tmp_path / "log")
    told = lambda event: [line for line in lines((tmp_path / "log").read_text()) if line["event"] == event]  # noqa: E731
    try:
        assert until(lambda: len(told("start")) == workers, 10)
        serving = [server.process.pid] if workers == 1 else list(workers_of(server))
        assert until(lambda: all(handles_hangup(pid) for pid in serving), 10)
        server.process.send_signal(signal.SIGHUP)
        assert until(lambda: len(told("reload")) == workers, 10)
        assert server.ask(live()).status == 200
    finally:
        assert server.stop() == 0
    assert len(told("start")) == len(told("stop")) == workers, (tmp_path / "log").read_text()


def test_ipv6(environment, tmp_path):
    port = free_port()
    try:
        socket.create_server(("::1", port), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    command = [sys.executable, "-m", "verifier"]
    environment |= {"VERIFIER_HOST": "::1", "VERIFIER_PORT": str(port)}
    process = subprocess.Popen([*command, "serve"], env=os.environ | environment, stderr=subprocess.DEVNULL)
    try:
        check = [*command, "healthcheck", "--host", "::", "--port", str(port)]
        assert until(lambda: subprocess.run(check, capture_output=True).stdout == b"ready\n", 15)
    finally:
        process.terminate()
        assert process.wait() == 0


def test_a_hangup_signal_is_passed_on_to_the_workers_that_run(monkeypatch):

    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: told.append((pid, number)))
    supervisor = run.Supervisor.__new__(run.Supervisor)
    states = [(1, None), (2, 0), (None, None)]
    supervisor.processes = [SimpleNamespace(pid=pid, exitcode=code) for pid, code in states]
    supervisor.handle_hup()
    assert told == [(1, signal.SIGHUP)]


def test_more_connections_than_the_system_allows_stop_the_start(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 1000))
    limits = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    run.allow_connections(4)
    assert limits == []
    run.allow_connections(5)
    run.allow_connections(904)
    assert limits == [(101, 1000), (1000, 1000)]
    with pytest.raises(run.ConfigError, match=r"(?m)needs 1001 file descriptors \(found a hard limit of 1000\)$"):
        run.allow_connections(905)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    run.allow_connections(100_000)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("init", ["plain", "pid-1", "tini"])
def test_term_ends_with_0(environment, tmp_path, workers, init):
    wrapped = {"plain": [], "pid-1": ["unshare", "--pid", "--fork"], "tini": ["tini", "-s", "--"]}[init]
    if init == "tini" and not shutil.which("tini"):
        pytest.skip("tini is not installed")
    if init == "pid-1" and subprocess.run([*wrapped, "true"], capture_output=True).returncode:
        pytest.skip("no process namespace can be made here")
    port, log = free_port(), tmp_path / "log"
    command = [*wrapped, sys.executable, "-m", "verifier", "serve", "--port", str(port), "--workers", str(workers)]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
    started = lambda: sum(line["event"] == "start" for line in lines(log.read_text())) == workers  # noqa: E731
    assert until(started, 15), log.read_text()
    time.sleep(0.2)
    os.kill(children(process.pid)[0] if init == "pid-1" else process.pid, signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    assert sum(line["event"] == "stop" for line in lines(log.read_text())) == workers
