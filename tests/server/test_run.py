"""The real server over real sockets: framing, signals, reload, hang-ups, load."""

import asyncio
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from tests import conftest
from tests.conftest import SECRET, Answer, free_port, lines, start
from verifier.server import run
from verifier.server.connection import MAX_BATCH_SIZE, MAX_HEADER_BYTES, Protocol
from verifier.server.settings import Settings

MALFORMED_REQUEST = (400, "malformed HTTP/1.1 request")


BAD_CHUNK = (
    b"POST /profile HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
)


def exchange(port: int, data: bytes, *, half_close: bool = True, timeout: float = 10) -> list[tuple[int, str]]:
    """Send raw bytes, read to the end; status and text of every answer (the profile's id for a 200)."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        sock.sendall(data)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        raw = b""
        while block := sock.recv(65_536):
            raw += block
    answers = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        assert b"cache-control: no-store" in head.lower() or b" 100 " in head
        assert b"server:" not in head.lower()
        length = int((re.search(rb"(?i)content-length: (\d+)", head) or [0, 0])[1])
        body, raw = json.loads(raw[:length] or b"{}"), raw[length:]
        answers.append((int(head.split()[1]), str(body.get("error_description", body.get("_id")))))
    return answers


def post(body: object, *headers: bytes, length: int | None = None, line: bytes = b"POST /profile HTTP/1.1") -> bytes:
    raw = json.dumps(body).encode()
    head = [line, b"Content-Type: application/json", *(headers or [b"Host: game.example"])]
    return b"\r\n".join([*head, b"Content-Length: %d" % (len(raw) if length is None else length), b"", raw])


@pytest.fixture(scope="module")
def shared(tmp_path_factory, key_files):
    """One server for the cases that change nothing."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "public").mkdir()
    now = int(time.time())
    for name, data in key_files.items():
        (folder / "public" / name).write_text(json.dumps(json.loads(data) | {"nbf": now - 100}))
    running = start(
        {
            "VERIFIER_ISSUER": conftest.ISSUER,
            "VERIFIER_KEYS": str(folder),
            "VERIFIER_APPLICATION_ID": conftest.APPLICATION_ID,
            "VERIFIER_SECRET_KEY": SECRET,
        },
        folder / "server.log",
    )
    yield running
    assert running.stop() == 0
    log = (folder / "server.log").read_text()
    assert "Traceback" not in log
    assert SECRET not in log
    assert "ann@example.com" not in log


@pytest.fixture
def live(pairs, claims):
    """A body that is good by the real clock."""
    from tests.support import forge

    def live(**changes):
        now = int(time.time())
        header = {"alg": "ES256", "kid": pairs["ES256"].kid, "typ": "at+jwt"}
        code = forge.token(pairs["ES256"], header, forge.changed(claims | {"iat": now, "exp": now + 300}, changes))
        return {"code": code, "secretKey": SECRET, "applicationId": conftest.APPLICATION_ID}

    return live


@pytest.fixture
def keys(keys, key_files):
    """Keys that verify by the real clock."""
    for name, data in key_files.items():
        (keys / "public" / name).write_text(json.dumps(json.loads(data) | {"nbf": int(time.time()) - 100}))
    return keys


HOST = b"Host: game.example"
OK = (200, "42")


def test_a_sign_in(shared, live):
    assert shared.ask(live()) == Answer(
        200,
        {"_id": "42", "email": "ann@example.com", "username": "ann"},
        {"content-type": "application/json", "content-length": "55", "cache-control": "no-store"},
    )


@pytest.mark.parametrize(
    ("request_", "answers"),
    [
        pytest.param(lambda b: post(b), [OK], id="content-length"),
        pytest.param(lambda b: post(b) * 3, [OK] * 3, id="pipelined"),
        pytest.param(lambda b: post(b) + b"\x16\x03\x01\r\n\r\n", [OK], id="then-garbage"),
        pytest.param(lambda b: post(b) * 2 + b"nonsense\r\n\r\n", [OK, OK], id="pipelined-then-garbage"),
        pytest.param(lambda b: post(b, HOST, b"Connection: Upgrade", b"Upgrade: h2c"), [OK], id="upgrade-h2c"),
        pytest.param(
            lambda b: post(b, HOST, b"Connection: upgrade", b"Upgrade: websocket"), [OK], id="upgrade-websocket"
        ),
        pytest.param(lambda b: post(b, HOST, b"Expect: 100-continue"), [(100, "None"), OK], id="expect-continue"),
        pytest.param(
            lambda b: post(b, HOST, b"Expect: 100-continue", b"Connection: upgrade", b"Upgrade: h2c"),
            [(100, "None"), OK],
            id="expect-and-upgrade",
        ),
        pytest.param(lambda b: post(b, b"X: y", line=b"POST /profile HTTP/1.0"), [OK], id="http-1.0"),
        pytest.param(
            lambda b: post(b, b"Connection: upgrade", b"Upgrade: h2c", line=b"POST /profile HTTP/1.0"),
            [OK],
            id="upgrade-http-1.0",
        ),
        pytest.param(
            lambda b: post(b, HOST, b"Connection: close, upgrade", b"Upgrade: h2c") * 2, [OK], id="upgrade-and-close"
        ),
        pytest.param(
            lambda b: post(b, HOST, b"Expect: 100-continue", line=b"POST /other HTTP/1.1")[:-1] + post(b),
            [(404, "not found")],
            id="expect-is-the-last",
        ),
        pytest.param(
            lambda b: (
                b"POST /profile HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"2\r\n{}\r\n0\r\nContent-Type: application/json\r\n\r\n"
            ),
            [(415, "Content-Type must be application/json")],
            id="trailer-is-no-header",
        ),
        pytest.param(lambda b: post(b, line=b"POST http://game.example/profile HTTP/1.1"), [OK], id="absolute-form"),
        pytest.param(lambda b: post(b, line=b"POST /profile?x=1 HTTP/1.1"), [OK], id="query"),
        pytest.param(lambda b: post(b, line=b"POST /profile%0a HTTP/1.1"), [(404, "not found")], id="newline"),
        pytest.param(lambda b: post(b, line=b"POST /%zz%ff HTTP/1.1"), [(404, "not found")], id="bad-percent"),
        pytest.param(lambda b: b"\x16\x03\x01 hello\r\n\r\n", [MALFORMED_REQUEST], id="tls-to-plain"),
        pytest.param(lambda b: post(b, b"X: y"), [MALFORMED_REQUEST], id="no-host"),
        pytest.param(lambda b: post(b, HOST, HOST), [MALFORMED_REQUEST], id="two-hosts"),
        pytest.param(lambda b: post(b, line=b"POST /profile HTTP/2.0"), [MALFORMED_REQUEST], id="http-2.0"),
        pytest.param(lambda b: b"GET /healthz\r\n\r\n", [MALFORMED_REQUEST], id="http-0.9"),
        pytest.param(lambda b: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [MALFORMED_REQUEST], id="http-2-preface"),
        pytest.param(
            lambda b: b"CONNECT game.example:80 HTTP/1.1\r\nHost: x\r\n\r\n", [MALFORMED_REQUEST], id="connect"
        ),
        pytest.param(
            lambda b: b"CONNECT /profile HTTP/1.1\r\nHost: x\r\n\r\n",
            [(405, "method not allowed (use POST)")],
            id="connect-path",
        ),
        pytest.param(lambda b: post(b, line=b"BREW /profile HTTP/1.1"), [MALFORMED_REQUEST], id="unknown-method"),
        pytest.param(lambda b: post(b, HOST, b"X : y"), [MALFORMED_REQUEST], id="space-before-colon"),
        pytest.param(lambda b: post(b, HOST, b"X: y\r\n z"), [MALFORMED_REQUEST], id="folded-header"),
        pytest.param(lambda b: post(b, HOST, b"X: \0"), [MALFORMED_REQUEST], id="nul-in-header"),
        pytest.param(lambda b: post(b).replace(b"\r\n", b"\n"), [MALFORMED_REQUEST], id="bare-newlines"),
        pytest.param(
            lambda b: post(b, HOST, b"Transfer-Encoding: chunked"), [MALFORMED_REQUEST], id="length-and-chunked"
        ),
        pytest.param(lambda b: post(b, HOST, b"Content-Length: 3"), [MALFORMED_REQUEST], id="two-lengths"),
        pytest.param(lambda b: post(b, length=-1), [MALFORMED_REQUEST], id="negative-length"),
        pytest.param(lambda b: post(b, line=b"POST /prof\xc3\xa9 HTTP/1.1"), [MALFORMED_REQUEST], id="path-not-ascii"),
        pytest.param(lambda b: BAD_CHUNK, [MALFORMED_REQUEST], id="bad-chunk"),
        pytest.param(lambda b: post(b) + BAD_CHUNK, [OK], id="then-bad-chunk"),
        pytest.param(lambda b: post(b) * 2 + post(b)[:-1], [OK, OK], id="pipelined-then-half"),
        pytest.param(lambda b: post(b) * 33 + post(b)[:-1], [OK] * 33, id="many-then-half"),
        pytest.param(
            lambda b: post(b, HOST, b"Expect: 100-continue", length=20_000),
            [(413, "request body too large (limit 16384 bytes)")],
            id="expect-too-much",
        ),
        pytest.param(
            lambda b: (
                b"POST /profile HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
                % (len(json.dumps(b)), json.dumps(b).encode())
            ),
            [OK],
            id="chunked",
        ),
    ],
)
def test_framing(shared, live, request_, answers):
    assert exchange(shared.port, request_(live())) == answers


def test_a_body_that_ends_before_the_next_request_breaks_has_its_answer(shared, live):
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as sock:
        sock.sendall(post(live())[:-1])
        time.sleep(0.2)
        sock.sendall(post(live())[-1:] + BAD_CHUNK)
        raw = b""
        while block := sock.recv(65_536):
            raw += block
    assert raw.count(b"HTTP/1.1 ") == raw.count(b"HTTP/1.1 200 ") == 1


def test_the_head_of_a_later_request_is_refused_in_words(shared, live):
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as sock:
        sock.sendall(post(live()))
        first = sock.recv(65_536)
        sock.sendall(post(live(), b"X: y"))
        rest = sock.makefile("rb").read()
    assert first.startswith(b"HTTP/1.1 200 ")
    assert rest.startswith(b"HTTP/1.1 400 ")
    assert json.loads(rest.partition(b"\r\n\r\n")[2])["error_description"] == "malformed HTTP/1.1 request"


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        pytest.param(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20 + b"zz\r\n\r\n", 20, id="garbage"),
        pytest.param(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 40, 33, id="too-many"),
        pytest.param(
            b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 4
            + b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            5,
            id="close",
        ),
    ],
)
def test_no_answer_is_lost_when_more_comes_after_the_last(shared, sent, answers):
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", shared.port))
        sock.sendall(sent)
        time.sleep(0.001)
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.3)
        assert sock.makefile("rb").read().count(b"HTTP/1.1 200 OK") == answers


def test_head_gets_the_head_alone(shared):
    headers = {"content-type": "application/json", "content-length": "18", "cache-control": "no-store"}
    assert shared.ask(method="HEAD", path="/healthz") == Answer(200, None, headers)


def test_the_largest_head_passes_and_one_byte_more_does_not(shared, live):
    # Counted: the target, and names and values of the headers.
    counted = sum(map(len, ["/profile", "Content-Type", "application/json", "Host", "x", "Content-Length", "999", "X"]))
    body = live()
    room = MAX_HEADER_BYTES - counted + 3 - len(str(len(json.dumps(body))))
    assert exchange(shared.port, post(body, b"Host: x", b"X: " + b"y" * room)) == [OK]
    too_large = [(431, "request headers too large (limit 32768 bytes)")]
    assert exchange(shared.port, post(body, b"Host: x", b"X: " + b"y" * (room + 1)), half_close=False) == too_large


def test_a_head_without_end_is_refused(shared):
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as sock:
        sock.sendall(b"POST /profile HTTP/1.1\r\nX: ")
        time.sleep(0.2)
        for _ in range(MAX_HEADER_BYTES // 1024 + 1):
            sock.sendall(b"y" * 1024)
        assert sock.recv(100).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


def test_a_refused_body_that_goes_wrong_later_gets_no_second_answer(shared):
    head = b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as sock:
        sock.sendall(head)
        assert sock.recv(1000).startswith(b"HTTP/1.1 404 ")
        time.sleep(0.1)
        for part in (b"zz\r\n", b"more", b"and more"):  # to a connection that is reset this would be an error
            sock.sendall(part)
            time.sleep(0.1)
        rest = b""
        while block := sock.recv(1000):
            rest += block
    assert b"HTTP/1.1" not in rest


@pytest.mark.parametrize("host", ["no-such-host.invalid", "é..x"])
def test_a_host_that_is_no_address_stops_the_start(environment, host):
    done = serve(environment, "--host", host)
    assert done.returncode == 3
    assert f"verifier: error: cannot listen on {host} port 8000 (no such address)\n" in done.stderr


def test_the_answer_to_a_body_that_is_too_long_arrives(shared):
    head = b"POST /profile HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 3000000\r\n\r\n"
    assert exchange(shared.port, head + b"x" * 3_000_000) == [(413, "request body too large (limit 16384 bytes)")]


def test_a_body_that_stops_is_refused_after_five_seconds(shared):
    head = b"POST /profile HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n{"
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as sock:
        sock.sendall(head)
        assert sock.recv(100).startswith(b"HTTP/1.1 408 ")
    assert 4.5 < time.monotonic() - began < 7


def test_hang_ups_are_silent(server, live, tmp_path):
    whole = post(live())
    for end in (0, 10, 120, len(whole) - 1, len(whole)):
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(whole[:end])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, not close
    assert exchange(server.port, whole[:-1]) == []  # closed in the middle of a body
    assert server.ask(live()).status == 200
    told = [line for line in lines((tmp_path / "server.log").read_text()) if line["event"] == "request"]
    assert {line["level"] for line in told} == {"info"}
    assert {line["outcome"] for line in told} == {"gone", "ok"}


def test_idle_connections_do_not_stop_sign_ins(shared, live):
    idle = [socket.create_connection(("127.0.0.1", shared.port)) for _ in range(100)]
    try:
        with ThreadPoolExecutor(40) as pool:
            good, bad = live(), live(aud="other")
            bodies = [good, bad, good | {"secretKey": "x"}, b"{"] * 100
            statuses = list(pool.map(lambda body: shared.ask(body).status, bodies))
    finally:
        for sock in idle:
            sock.close()
    assert statuses == [200, 401, 401, 400] * 100


def until(condition, seconds: float = 2.5) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


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
    with pytest.raises(run.ConfigError, match=r"^a worker process could not start$"):
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


@pytest.mark.parametrize("workers", [1, 2])
def test_hangup_reloads_and_ends_nothing(environment, tmp_path, live, workers):
    server = start(environment | {"VERIFIER_WORKERS": str(workers)}, tmp_path / "log")
    told = lambda event: [line for line in lines((tmp_path / "log").read_text()) if line["event"] == event]  # noqa: E731
    try:
        assert until(lambda: len(told("start")) == workers, 10)
        server.process.send_signal(signal.SIGHUP)
        assert until(lambda: len(told("reload")) == 2 * workers)
        assert server.ask(live()).status == 200
    finally:
        assert server.stop() == 0
    assert len(told("start")) == len(told("stop")) == workers


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


# --- the protocol alone


class Transport(asyncio.Transport):
    """Keeps what is written."""

    written = b""
    closing = False
    ended = False

    def write(self, data):
        assert not self.ended
        self.written += data

    def is_closing(self):
        return self.closing

    def close(self):
        self.closing = True

    def write_eof(self):
        self.ended = True

    def get_write_buffer_size(self):
        return 0

    def nothing(self):
        pass

    pause_reading = resume_reading = nothing


GET = b"GET / HTTP/1.1\r\nHost: game.example\r\n\r\n"


def connect(app, bugs: list[Exception] | None = None, state: Any = None) -> tuple[Protocol, Transport]:
    telemetry = SimpleNamespace(bug=[].append if bugs is None else bugs.append, finish=[].append)
    state = {} if state is None else state
    state["verifier"] = SimpleNamespace(settings=Settings(issuer="https://game.example"), telemetry=telemetry)
    config = Config(app, lifespan="off", log_config=None)
    config.load()
    protocol = Protocol(config, ServerState(), state)
    transport = Transport()
    protocol.connection_made(transport)
    return protocol, transport


async def at_once(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def later(scope, receive, send):
    await asyncio.sleep(0)
    await at_once(scope, receive, send)


ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def test_requests_of_one_turn_are_answered_before_the_first_is_written():
    turn: list[str] = []

    async def told(scope, receive, send):
        turn.append("asked")
        await at_once(scope, receive, send)

    async def run():
        state: dict[str, Any] = {}
        connections = [connect(told, state=state) for _ in range(MAX_BATCH_SIZE + 1)]
        for protocol, transport in connections:
            transport.write = lambda data: turn.append("written")
            protocol.data_received(GET)
        assert turn == []
        await asyncio.sleep(0)

    asyncio.run(run())
    assert turn == ["asked"] * MAX_BATCH_SIZE + ["written"] * MAX_BATCH_SIZE + ["asked", "written"]


@pytest.mark.parametrize("answering", [pytest.param(at_once, id="at-once"), pytest.param(later, id="by-a-task")])
def test_what_was_sent_is_not_kept_after_the_answer(answering):
    async def run():
        protocol, transport = connect(answering)
        protocol.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\ncanary")
        await asyncio.sleep(0.01)
        assert transport.written == ANSWER
        assert "canary" not in repr(vars(protocol.exchange))

    asyncio.run(run())


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([GET], id="answered"),
        pytest.param([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n", b"x"], id="answered-before-its-body"),
    ],
)
def test_a_connection_with_nothing_to_do_is_closed_after_its_seconds(parts):
    async def run():
        protocol, transport = connect(at_once)
        for part in parts:
            protocol.data_received(part)
            await asyncio.sleep(0.01)
        now = asyncio.get_running_loop().time()
        protocol.cut(now + 74)
        assert (transport.written, transport.closing) == (ANSWER, False)
        protocol.cut(now + 76)
        assert transport.closing

    asyncio.run(run())


def test_an_application_that_waits_is_run_as_a_task():
    async def run():
        protocol, transport = connect(later)
        protocol.data_received(GET)
        assert transport.written == b""
        await asyncio.sleep(0.01)
        assert transport.written == ANSWER

    asyncio.run(run())


@pytest.mark.parametrize("answering", [pytest.param(at_once, id="at-once"), pytest.param(later, id="by-a-task")])
def test_a_bug_after_the_answer_costs_no_later_request(answering):
    async def then_fail(scope, receive, send):
        await answering(scope, receive, send)
        raise LookupError

    async def run():
        bugs: list[Exception] = []
        protocol, transport = connect(then_fail, bugs)
        for number in (1, 2):
            protocol.data_received(GET)
            await asyncio.sleep(0.01)
            assert transport.written == ANSWER * number
        assert [type(bug) for bug in bugs] == [LookupError] * 2

    asyncio.run(run())


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(GET, id="all-here"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n", id="by-a-task"),
    ],
)
def test_a_bug_before_the_answer_is_a_500(request_):
    async def fail(_scope, _receive, _send):
        raise LookupError

    async def run():
        bugs: list[Exception] = []
        protocol, transport = connect(fail, bugs)
        protocol.data_received(request_)
        await asyncio.sleep(0.01)
        assert transport.written == (
            b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: 61\r\n"
            b"cache-control: no-store\r\nconnection: close\r\n\r\n"
            b'{"error":"server_error","error_description":"internal error"}'
        )
        assert transport.ended
        assert [type(bug) for bug in bugs] == [LookupError]

    asyncio.run(run())


@pytest.mark.parametrize("request_", [GET, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"])
@pytest.mark.parametrize(
    "said",
    [
        pytest.param([], id="nothing"),
        pytest.param([{"type": "http.response.start", "status": 200, "headers": []}], id="half"),
        pytest.param(
            [
                {"type": "http.response.start", "status": 413, "headers": [(b"connection", b"close")]},
                {"type": "http.response.body", "body": b"", "more_body": True},
            ],
            id="no-end",
        ),
    ],
)
def test_an_application_that_does_not_end_its_answer_keeps_no_connection(request_, said):
    async def half(_scope, _receive, send):
        for message in said:
            await send(message)

    async def run():
        protocol, transport = connect(half)
        protocol.data_received(request_)
        await asyncio.sleep(0.01)
        assert transport.written.startswith(b"HTTP/1.1 500 Internal Server Error")
        protocol.cut(asyncio.get_running_loop().time() + 3)
        assert transport.ended
        assert transport.closing

    asyncio.run(run())


@pytest.mark.parametrize(
    ("request_", "waits"),
    [
        pytest.param(GET, False, id="idle"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", False, id="ended"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", True, id="body-still-comes"),
        pytest.param(b"POST / HTTP/1.0\r\nContent-Length: 9\r\n\r\n", True, id="ended-and-body-still-comes"),
    ],
)
def test_a_stop_cuts_nobody_off_who_still_sends(request_, waits):
    async def run():
        protocol, transport = connect(at_once)
        protocol.data_received(request_)
        await asyncio.sleep(0.01)
        assert b"200 OK" in transport.written
        protocol.shutdown()
        assert (transport.closing, transport.ended) == ((False, True) if waits else (True, transport.ended))
        protocol.cut(asyncio.get_running_loop().time() + 3)
        assert transport.closing

    asyncio.run(run())


def test_a_client_that_closes_is_not_waited_for_when_the_answers_have_ended():
    async def run():
        protocol, _ = connect(at_once)
        protocol.data_received(
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx" + GET
        )
        await asyncio.sleep(0.01)
        assert protocol.eof_received() is False

    asyncio.run(run())


def test_one_connection_that_fails_costs_no_other():
    bugs: list[Exception] = []

    async def run():
        state: dict[str, Any] = {}
        connections = [connect(at_once, bugs, state) for _ in range(MAX_BATCH_SIZE + 8)]
        aborted = []
        connections[3][1].write = lambda data: 1 / 0
        connections[3][1].abort = lambda: aborted.append(3)
        for protocol, _ in connections:
            protocol.data_received(GET)
        await asyncio.sleep(0.01)
        good = [transport for number, (_, transport) in enumerate(connections) if number != 3]
        assert [transport.written for transport in good] == [ANSWER] * (MAX_BATCH_SIZE + 7)
        assert aborted == [3]
        connections[0][0].data_received(GET)
        await asyncio.sleep(0)
        assert connections[0][1].written == ANSWER * 2

    asyncio.run(run())
    assert [type(bug) for bug in bugs] == [ZeroDivisionError]


def test_pipelined_requests_leave_other_events_their_turn():
    async def run():
        protocol, transport = connect(at_once)
        protocol.data_received(GET * 3)
        for number in (1, 2, 3):
            await asyncio.sleep(0)
            assert transport.written == ANSWER * number

    asyncio.run(run())


@pytest.mark.parametrize(
    ("octets", "status"), [(MAX_HEADER_BYTES, b"200"), (MAX_HEADER_BYTES + 1, b"431"), (250_000, b"431")]
)
@pytest.mark.parametrize("cut", [1, 40, 30_000, -1])
def test_the_largest_head_in_two_pieces(octets, status, cut):
    counted = len(b"/HostxX")
    head = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * (octets - counted) + b"\r\n\r\n"

    async def run(before):
        protocol, transport = connect(at_once)
        protocol.data_received(before + head[:cut])
        await asyncio.sleep(0)
        protocol.data_received(head[cut:])
        await asyncio.sleep(0.01)
        return re.findall(rb"HTTP/1.1 (\d+)", transport.written)

    assert asyncio.run(run(b"")) == [status]
    assert asyncio.run(run(GET)) == [b"200", status]


def test_nobody_is_asked_to_go_on_who_was_refused():
    bugs: list[Exception] = []

    async def reads(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await at_once(scope, receive, send)

    async def run():
        protocol, transport = connect(reads, bugs)
        protocol.data_received(
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        protocol.data_received(b"zz\r\n")
        await asyncio.sleep(0.01)
        assert transport.written.startswith(b"HTTP/1.1 400 ")

    asyncio.run(run())
    assert bugs == []


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param([GET], id="answered"),
        pytest.param([GET * 3], id="pipelined"),
        pytest.param([b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"], id="refused"),
        pytest.param([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"], id="no-body"),
        pytest.param([b"GET / HT"], id="half-a-head"),
    ],
)
def test_a_connection_that_is_lost_is_forgotten_at_once(sent):
    async def run():
        protocol, _ = connect(at_once)
        for part in sent:
            protocol.data_received(part)
        protocol.connection_lost(None)
        gone = weakref.ref(protocol)
        del protocol
        await asyncio.sleep(0.01)
        assert gone() is None

    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()


def test_who_does_not_read_is_not_written_to():
    async def run():
        protocol, transport = connect(at_once)
        protocol.pause_writing()
        protocol.data_received(GET)
        await asyncio.sleep(0.01)
        assert transport.written == b""
        protocol.resume_writing()
        await asyncio.sleep(0.01)
        assert transport.written == ANSWER

    asyncio.run(run())


def test_who_has_gone_is_not_written_to():
    async def run():
        protocol, transport = connect(later)
        protocol.data_received(GET)
        await asyncio.sleep(0)
        protocol.connection_lost(None)
        await asyncio.sleep(0.01)
        assert transport.written == b""

    asyncio.run(run())


def test_a_connection_that_does_not_take_its_answer_is_cut():
    taken: list[str] = []

    async def run():
        protocol, transport = connect(at_once)
        transport.get_write_buffer_size = lambda: 1
        transport.abort = lambda: taken.append("cut")
        for _ in range(protocol.settings.header_timeout_s):
            protocol.cut(protocol.since)
        assert taken == []
        protocol.cut(protocol.since)

    asyncio.run(run())
    assert taken == ["cut"]


def test_a_hangup_signal_is_passed_on_to_the_workers_that_run(monkeypatch):

    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: told.append((pid, number)))
    supervisor = run.Supervisor.__new__(run.Supervisor)
    states = [(1, None), (2, 0), (None, None)]
    supervisor.processes = [SimpleNamespace(pid=pid, exitcode=code) for pid, code in states]
    supervisor.handle_hup()
    assert told == [(1, signal.SIGHUP)]


def test_an_answer_leaves_in_one_piece(shared, live):
    # A proxy can send a request again until it has a part of the answer.
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as sock:
        for _ in range(50):
            sock.sendall(post(live()))
            assert re.fullmatch(rb"HTTP/1\.1 200 .*\r\n\r\n\{.*\}", sock.recv(65_536), re.DOTALL)
