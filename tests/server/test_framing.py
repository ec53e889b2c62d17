"""The real server over real sockets: what is a request, where it ends, and what it gets."""

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import Answer, lines, publish_now
from tests.support.sockets import exchange, post
from verifier.server.request_parser import MAX_HEADER_BYTES

MALFORMED_REQUEST = (400, "malformed HTTP/1.1 request")


BAD_CHUNK = (
    b"POST /profile HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
)


HOST = b"Host: game.example"
OK = (200, "42")


@pytest.fixture
def keys(keys, key_files):
    """Keys that verify by the real clock."""
    return publish_now(keys, key_files)


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


def test_the_largest_headers_pass_and_one_byte_more_does_not(shared, live):
    body = live()
    room = MAX_HEADER_BYTES - post(body, b"Host: x", b"X: ").index(b"\r\n\r\n") - 4
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


def test_an_answer_leaves_in_one_piece(shared, live):
    # A proxy can send a request again until it has a part of the answer.
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as sock:
        for _ in range(50):
            sock.sendall(post(live()))
            assert re.fullmatch(rb"HTTP/1\.1 200 .*\r\n\r\n\{.*\}", sock.recv(65_536), re.DOTALL)


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
    assert {line["outcome"] for line in told} == {"client_disconnected", "ok"}


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
