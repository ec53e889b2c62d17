"""Every limit at its edge, on the real server: the last that passes, the first that does not, and never a hang."""

import json
import os
import re
import resource
import signal
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.conftest import APPLICATION_ID, SECRET, publish_now, start
from tests.support import forge
from tests.support.sockets import answer, connections, exchange, post, seconds_until_closed, trickling, until
from verifier.server.connection import MAX_LINGERING, MAX_PIPELINED

OK = (200, "42")
OPENAPI = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
TOO_MANY_REQUESTS = (503, "too many concurrent requests")
TOO_MANY_CONNECTIONS = (503, "too many concurrent connections")
NO_HEAD = (408, "timed out reading request headers (1 s)")


@pytest.fixture
def keys(keys, key_files):
    """Keys that verify by the real clock."""
    return publish_now(keys, key_files)


@pytest.fixture
def live(pairs, claims):
    """A body that is good by the real clock."""
    now = int(time.time())
    header = {"alg": "ES256", "kid": pairs["ES256"].kid, "typ": "at+jwt"}
    code = forge.token(pairs["ES256"], header, claims | {"iat": now, "exp": now + 300})
    return {"code": code, "secretKey": SECRET, "applicationId": APPLICATION_ID}


@pytest.fixture
def limited(environment, tmp_path):
    """The real server with these limits."""
    with ExitStack() as stack:

        def limited(**limits: int):
            variables = {f"VERIFIER_{name.upper()}": str(value) for name, value in limits.items()}
            running = start(environment | variables, tmp_path / "server.log")
            stack.callback(running.stop)
            return running

        yield limited


def test_the_last_concurrent_request_is_served_and_one_more_gets_503(limited, live):
    server = limited(max_requests=5)
    unfinished = post(live)[:-1]
    with connections(server.port, 4, unfinished) as opened:
        assert exchange(server.port, post(live)) == [OK]
        with connections(server.port, 1, unfinished):
            assert exchange(server.port, post(live)) == [TOO_MANY_REQUESTS]
            refused = server.ask(live)
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert refused.body["error"] == "temporarily_unavailable"
            assert server.ask(method="GET", path="/readyz").status == 200
        for sock in opened:
            sock.sendall(post(live)[-1:])
            assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
    assert exchange(server.port, post(live)) == [OK]


def test_the_last_connection_is_served_and_one_more_gets_503(limited, live):
    server = limited(max_connections=5, header_timeout=60)
    with connections(server.port, 4):
        assert exchange(server.port, post(live)) == [OK]
        with connections(server.port, 1):
            assert exchange(server.port, b"", half_close=False) == [TOO_MANY_CONNECTIONS]
            assert server.ask(live).headers["retry-after"] == "1"
            # One that sends at once reads its answer too, and none of them stays.
            assert [exchange(server.port, post(live)) for _ in range(50)] == [[TOO_MANY_CONNECTIONS]] * 50
            with connections(server.port, MAX_LINGERING + 50) as above:
                took, found = seconds_until_closed(above[-1])
                assert (b"503" in found, took < 0.5) == (True, True)
            assert descriptors(server.process.pid) < 5 + MAX_LINGERING + 30
    assert until(lambda: server.ask(live).status == 200)


def test_the_largest_body_is_a_setting(limited, live):
    server = limited(max_body=1024)
    raw = json.dumps(live).encode()
    assert server.ask(raw + b" " * (1024 - len(raw))).status == 200
    assert (
        server.ask(raw + b" " * (1025 - len(raw))).body["error_description"]
        == "request body too large (limit 1024 bytes)"
    )


def test_a_body_has_its_seconds(limited, live):
    server = limited(body_timeout=1)
    whole = post(live)
    with connections(server.port, 1, whole[:-1]) as [sock]:
        time.sleep(0.4)  # and 0.3 before
        sock.sendall(whole[-1:])
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
    with connections(server.port, 1, whole[:-1]) as [sock]:
        time.sleep(1)
        assert b"408 " in sock.recv(100)


def test_a_head_has_its_seconds(limited, live):
    server = limited(header_timeout=1)
    whole = post(live)
    with connections(server.port, 1, whole[:30]) as [sock]:
        time.sleep(0.4)  # and 0.3 before
        sock.sendall(whole[30:])
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
    with connections(server.port, 1) as [sock]:
        with trickling(sock, whole):
            took, found = seconds_until_closed(sock)
        assert b"HTTP/1.1 408 " in found
        assert NO_HEAD[1].encode() in found
        assert took < 3


def test_a_head_that_begins_with_the_end_of_another_request_has_its_seconds(limited, live):
    server = limited(header_timeout=1)
    with connections(server.port, 1, post(live) + post(live)[:30]) as [sock]:
        _, found = seconds_until_closed(sock)
    assert found.count(b"HTTP/1.1 200 ") == found.count(b"HTTP/1.1 408 ") == 1
    assert NO_HEAD[1].encode() in found


def test_a_connection_that_sends_nothing_is_closed_without_a_word(limited):
    server = limited(header_timeout=1)
    with connections(server.port, 1) as [sock]:
        took, found = seconds_until_closed(sock)
    assert (found, took < 3) == (b"", True)


def test_a_kept_connection_is_closed_after_its_seconds(limited, live):
    server = limited(keep_alive=2, header_timeout=1)
    with connections(server.port, 1, post(live)) as [sock]:
        assert answer(sock).startswith(b"HTTP/1.1 200 ")
        time.sleep(1.4)  # and 0.3 before
        sock.sendall(post(live))
        assert answer(sock).startswith(b"HTTP/1.1 200 ")
        took, found = seconds_until_closed(sock)
    assert found == b""
    assert 1.5 < took < 4


def test_empty_lines_do_not_keep_a_connection(limited, live):
    server = limited(header_timeout=1)
    with connections(server.port, 1, post(live)) as [sock]:
        assert answer(sock).startswith(b"HTTP/1.1 200 ")
        with trickling(sock, b"\r\n" * 100):
            took, found = seconds_until_closed(sock)
    assert NO_HEAD[1].encode() in found
    assert took < 4


def test_a_body_after_the_answer_does_not_keep_a_connection(limited):
    server = limited(header_timeout=1, body_timeout=1)
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    with connections(server.port, 1, head) as [sock]:
        assert sock.recv(1000).startswith(b"HTTP/1.1 404 ")
        with trickling(sock, b"x" * 1000):
            took, _ = seconds_until_closed(sock)
    assert 4 < took < 10


def test_a_client_that_reads_no_answer_is_cut(limited, tmp_path):
    server = limited(header_timeout=1)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        sock.settimeout(15)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):  # noqa: PT012
            while True:
                sock.sendall(OPENAPI * 20)
                time.sleep(0.02)
    assert server.ask(method="GET", path="/healthz").status == 200


def test_pipelined_requests_are_answered_up_to_a_number(limited, live):
    server = limited()
    answers = exchange(server.port, post(live) * (MAX_PIPELINED + 1))
    assert answers == [OK] * (MAX_PIPELINED + 1)  # one under way, the others waiting
    answers = exchange(server.port, post(live) * (MAX_PIPELINED + 50))
    assert answers == [OK] * (MAX_PIPELINED + 1)  # and the connection closed


def test_a_flood_of_pipelined_requests_takes_no_memory(limited):
    server = limited()
    before = resident_kib(server.process.pid)
    with socket.create_connection(("127.0.0.1", server.port), timeout=1) as sock, suppress(OSError):
        for _ in range(1000):
            sock.sendall(OPENAPI * 100)
    assert resident_kib(server.process.pid) - before < 20_000


def test_what_is_under_way_at_the_stop_has_its_seconds(limited, live):
    server = limited(graceful_shutdown=1, body_timeout=30)
    with connections(server.port, 2, post(live)[:-1]) as [finishes, hangs]:
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        finishes.sendall(post(live)[-1:])
        assert answer(finishes).startswith(b"HTTP/1.1 200 ")
        _, found = seconds_until_closed(hangs)
        assert found.startswith(b"HTTP/1.1 503 ")
        assert b"the server is shutting down" in found
    assert server.process.wait(timeout=5) == 0


@pytest.mark.parametrize("data", [b"", b"POST /profile HTTP/1.1\r\nX: ", "body"], ids=["idle", "head", "body"])
def test_2000_connections_that_do_not_get_on_stop_no_sign_in(limited, live, data):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4200:
        pytest.skip(f"this machine allows {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4200), hard))
    server = limited()
    try:
        with connections(server.port, 2000, post(live)[:-1] if data == "body" else data):
            time.sleep(1)
            for _ in range(200):
                assert server.ask(live).status == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


HEAD = b"POST /profile HTTP/1.1\r\nHost: x\r\n"
JSON = b"Content-Type: application/json\r\n"
SIZED, CHUNKED = b"Content-Length: 16384\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
LARGE = b"y" * 32_000
HELD = {
    "idle": [HEAD + JSON + b"X: " + LARGE + b"\r\nContent-Length: 2\r\n\r\n{}"],
    "one-large-field": [HEAD + b"X: " + LARGE],
    "many-fields-that-are-kept": [HEAD + (b"Content-Type: " + b"y" * 230 + b"\r\n") * 120],
    "body-behind-a-large-field": [HEAD + JSON[:-2] + b";" + LARGE + b"\r\n" + SIZED, b"y" * 16_383],
    "body-behind-a-large-path": [b"POST /" + LARGE + HEAD[13:] + JSON + SIZED, b"y" * 16_383],
    "body-after-an-early-response": [b"POST /x?" + LARGE + HEAD[13:] + SIZED, b"y" * 16_383],
    "large-chunk": [HEAD + JSON + CHUNKED, b"4000\r\n" + b"y" * 16_383],
    "trailer": [HEAD + JSON + CHUNKED + b"1\r\ny\r\n0\r\nX: " + LARGE[:8_000]],
    "lingering-close": [HEAD + JSON + b"Content-Length: 9999999\r\n\r\n" + LARGE * 2],
}


@pytest.mark.parametrize("state", HELD)
def test_a_connection_holds_at_most_64_kib(limited, state):
    server, number = limited(header_timeout=60, body_timeout=60), 300
    idle = lambda: [server.ask(method="GET", path="/healthz").status for _ in range(3)]  # noqa: E731
    with connections(server.port, 100, OPENAPI):
        idle()
    before = resident_kib(server.process.pid)
    with connections(server.port, number, b"") as opened:
        for piece in HELD[state]:
            for sock in opened:
                sock.sendall(piece)
            assert idle() == [200] * 3  # so the pieces have been read
        assert resident_kib(server.process.pid) - before < 64 * number


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kib(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1])
