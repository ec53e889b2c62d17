"""The connection over a transport that keeps what is written."""

import asyncio
import gc
import re
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from tests.support.transport import Transport
from verifier.server import connection as connection_module
from verifier.server.connection import MAX_BATCH_SIZE, HttpConnection
from verifier.server.request_parser import MAX_FIELDS, MAX_HEADER_BYTES
from verifier.server.settings import Settings

CACHED = (connection_module.encode_headers_cached, connection_module.encode_date_cached)
GET = b"GET / HTTP/1.1\r\nHost: game.example\r\n\r\n"


def connect(app, bugs: list[Exception] | None = None, state: Any = None) -> tuple[HttpConnection, Transport]:
    telemetry = SimpleNamespace(log_exception=[].append if bugs is None else bugs.append, record=[].append)
    state = {} if state is None else state
    state["service"] = SimpleNamespace(settings=Settings(issuer="https://game.example"), telemetry=telemetry)
    config = Config(app, lifespan="off", log_config=None)
    config.load()
    connection = HttpConnection(config, ServerState(), state)
    return connection, Transport(connection, connection.loop)


async def at_once(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def reads(scope, receive, send):
    if "verifier.body" not in scope:
        await receive()
    await at_once(scope, receive, send)


async def later(scope, receive, send):
    await asyncio.sleep(0)
    await at_once(scope, receive, send)


UPGRADE = b"Connection: upgrade\r\nUpgrade: h2c\r\n"
CODINGS = b"Transfer-Encoding: x\r\n" * (MAX_FIELDS // 2) + b"Transfer-Encoding: chunked\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def test_requests_of_one_turn_are_answered_before_the_first_is_written():
    turn: list[str] = []

    async def told(scope, receive, send):
        turn.append("asked")
        await at_once(scope, receive, send)

    async def run():
        state: dict[str, Any] = {}
        connections = [connect(told, state=state) for _ in range(MAX_BATCH_SIZE + 1)]
        for connection, transport in connections:
            transport.write = lambda data: turn.append("written")
            connection.data_received(GET)
        assert turn == []
        await asyncio.sleep(0)

    asyncio.run(run())
    assert turn == ["asked"] * MAX_BATCH_SIZE + ["written"] * MAX_BATCH_SIZE + ["asked", "written"]


@pytest.mark.parametrize("answering", [pytest.param(at_once, id="at-once"), pytest.param(later, id="by-a-task")])
def test_what_was_sent_is_not_kept_after_the_answer(answering):
    async def run():
        connection, transport = connect(answering)
        connection.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\ncanary")
        await asyncio.sleep(0.01)
        assert transport.written == ANSWER
        assert (connection.request, connection.cycle, connection.backlog) == (None, None, b"")

    asyncio.run(run())


def test_a_new_date_every_second_fills_no_cache():
    async def run() -> list[int]:
        connection, transport = connect(at_once)
        kept = []
        for second in range(3):
            connection.server_state.default_headers = [(b"date", b"%d" % second)]
            connection.data_received(GET)
            await asyncio.sleep(0.01)
            assert b"date: %d\r\n" % second in transport.written
            kept.append(sum(function.cache_info().currsize for function in CACHED))
        return kept

    first, *others = asyncio.run(run())
    assert set(others) == {first}


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([GET], id="answered"),
        pytest.param([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n", b"x"], id="answered-before-its-body"),
    ],
)
def test_a_connection_with_nothing_to_do_is_closed_after_its_seconds(parts):
    async def run():
        connection, transport = connect(at_once)
        for part in parts:
            connection.data_received(part)
            await asyncio.sleep(0.01)
        now = asyncio.get_running_loop().time()
        connection.check_timeouts(now + 74)
        assert (transport.written, transport.closing) == (ANSWER, False)
        connection.check_timeouts(now + 76)
        assert transport.closing

    asyncio.run(run())


def test_an_application_that_waits_is_run_as_a_task():
    async def run():
        connection, transport = connect(later)
        connection.data_received(GET)
        assert transport.written == b""
        await asyncio.sleep(0.01)
        assert transport.written == ANSWER

    asyncio.run(run())


@pytest.mark.parametrize("answering", [pytest.param(at_once, id="at-once"), pytest.param(later, id="by-a-task")])
def test_a_bug_after_the_response_affects_no_later_request(answering):
    async def then_fail(scope, receive, send):
        await answering(scope, receive, send)
        raise LookupError

    async def run():
        bugs: list[Exception] = []
        connection, transport = connect(then_fail, bugs)
        for number in (1, 2):
            connection.data_received(GET)
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
        connection, transport = connect(fail, bugs)
        connection.data_received(request_)
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
        connection, transport = connect(half)
        connection.data_received(request_)
        await asyncio.sleep(0.01)
        assert transport.written.startswith(b"HTTP/1.1 500 Internal Server Error")
        connection.check_timeouts(asyncio.get_running_loop().time() + 3)
        assert transport.ended
        assert transport.closing

    asyncio.run(run())


@pytest.mark.parametrize(
    ("request_", "waits"),
    [
        pytest.param(GET, False, id="idle"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", True, id="ended"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", True, id="body-still-comes"),
        pytest.param(b"POST / HTTP/1.0\r\nContent-Length: 9\r\n\r\n", True, id="ended-and-body-still-comes"),
    ],
)
def test_a_stop_disconnects_no_client_that_still_sends(request_, waits):
    async def run():
        connection, transport = connect(at_once)
        connection.data_received(request_)
        await asyncio.sleep(0.01)
        assert b"200 OK" in transport.written
        connection.shutdown()
        assert (transport.closing, transport.ended) == ((False, True) if waits else (True, transport.ended))
        connection.check_timeouts(asyncio.get_running_loop().time() + 3)
        assert transport.closing

    asyncio.run(run())


@pytest.mark.parametrize("received", [GET[:9], GET + GET[:9]], ids=["alone", "behind-another"])
def test_headers_that_have_been_received_in_part_at_a_stop_are_completed(received):
    async def run():
        connection, transport = connect(reads)
        connection.data_received(received)
        connection.shutdown()
        await asyncio.sleep(0.01)
        assert not transport.ended
        connection.data_received(GET[9:])
        await asyncio.sleep(0.01)
        assert transport.written.endswith(ANSWER.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        assert transport.ended

    asyncio.run(run())


def test_a_client_that_closes_is_not_waited_for_when_the_answers_have_ended():
    async def run():
        connection, _ = connect(at_once)
        connection.data_received(
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx" + GET
        )
        await asyncio.sleep(0.01)
        assert connection.eof_received() is False

    asyncio.run(run())


def test_one_connection_that_fails_affects_no_other():
    bugs: list[Exception] = []

    async def run():
        state: dict[str, Any] = {}
        connections = [connect(at_once, bugs, state) for _ in range(MAX_BATCH_SIZE + 8)]
        aborted = []
        connections[3][1].write = lambda data: 1 / 0
        connections[3][1].abort = lambda: aborted.append(3)
        for connection, _ in connections:
            connection.data_received(GET)
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
        connection, transport = connect(at_once)
        connection.data_received(GET * 3)
        for number in (1, 2, 3):
            await asyncio.sleep(0)
            assert transport.written == ANSWER * number

    asyncio.run(run())


LARGEST = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * (MAX_HEADER_BYTES - 32) + b"\r\n\r\n"
PADDED = LARGEST.replace(b"y", b" ")
FIELDS = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * (MAX_FIELDS - 1) + b"\r\n"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param(LARGEST, b"200", id="largest"),
        pytest.param(LARGEST.replace(b"X:", b"XX:"), b"431", id="one-byte-more"),
        pytest.param(PADDED, b"200", id="largest-of-spaces"),
        pytest.param(PADDED.replace(b"X:", b"XX:"), b"431", id="one-space-more"),
        pytest.param(b"\r\n" + LARGEST, b"431", id="an-empty-line-more"),
        pytest.param(LARGEST.replace(b"X:", b"X:" + b"y" * 250_000), b"431", id="250-KB-more"),
        pytest.param(FIELDS, b"200", id="most-fields"),
        pytest.param(FIELDS[:-2] + b"a:\r\n\r\n", b"431", id="one-field-more"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 31_000 + b"\r\n", b"431", id="31000-fields"),
    ],
)
@pytest.mark.parametrize("size", [None, 1, 1000, 1024, 40_000])
def test_headers_have_the_same_limit_however_they_are_split(headers, status, size):
    async def run(before):
        connection, transport = connect(at_once)
        transport.receive(before)
        await asyncio.sleep(0)
        connection.reads = -1_000_000
        for start in range(0, len(headers), size or len(headers)):
            transport.receive(headers[start : start + (size or len(headers))])
        await asyncio.sleep(0.01)
        return re.findall(rb"HTTP/1.1 (\d+)", transport.written)

    assert asyncio.run(run(GET)) == [b"200", status]


def test_headers_that_are_too_large_behind_a_request_close_the_connection_without_a_response():
    async def run():
        _, transport = connect(at_once)
        transport.receive(GET + b"GET / HTTP/1.1\r\nX: " + b"y" * MAX_HEADER_BYTES)
        await asyncio.sleep(0.01)
        assert (transport.written, transport.ended) == (ANSWER, True)

    asyncio.run(run())


def test_a_rejected_request_gets_no_100_continue():
    bugs: list[Exception] = []

    async def reads(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await at_once(scope, receive, send)

    async def run():
        connection, transport = connect(reads, bugs)
        connection.data_received(
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        connection.data_received(b"zz\r\n")
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
        pytest.param([GET[:-2] + b"a:\r\n" * MAX_FIELDS], id="too-many-fields"),
        pytest.param([GET[:-2] + UPGRADE + b"a:\r\n" * MAX_FIELDS], id="upgrade-with-too-many-fields"),
        pytest.param([b"POST / HTTP/1.1\r\nHost: x\r\n" + UPGRADE + CODINGS], id="upgrade-with-too-many-codings"),
        pytest.param([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"], id="no-body"),
        pytest.param([b"GET / HT"], id="half-a-head"),
    ],
)
def test_a_connection_that_is_lost_is_forgotten_at_once(sent):
    async def run():
        connection, transport = connect(at_once)
        for part in sent:
            connection.data_received(part)
        transport.lose()
        gone = weakref.ref(connection)
        del connection, transport
        await asyncio.sleep(0.01)
        assert gone() is None

    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()


def test_who_does_not_read_is_not_written_to():
    async def run():
        connection, transport = connect(at_once)
        connection.pause_writing()
        connection.data_received(GET)
        await asyncio.sleep(0.01)
        assert transport.written == b""
        connection.resume_writing()
        await asyncio.sleep(0.01)
        assert transport.written == ANSWER

    asyncio.run(run())


def test_a_client_that_reads_again_before_its_response_gets_it_once():
    async def run():
        connection, transport = connect(later)
        transport.receive(GET)
        connection.pause_writing()
        transport.receive(GET)
        connection.resume_writing()
        await until(lambda: transport.written == ANSWER * 2)

    asyncio.run(run())


def test_a_disconnected_client_is_not_written_to():
    async def run():
        connection, transport = connect(later)
        connection.data_received(GET)
        await asyncio.sleep(0)
        connection.connection_lost(None)
        await asyncio.sleep(0.01)
        assert transport.written == b""

    asyncio.run(run())


def test_a_connection_that_does_not_take_its_answer_is_cut():
    taken: list[str] = []

    async def run():
        connection, transport = connect(at_once)
        transport.get_write_buffer_size = lambda: 1
        transport.abort = lambda: taken.append("cut")
        for _ in range(connection.settings.header_timeout_s):
            connection.check_timeouts(connection.request_started_at)
        assert taken == []
        connection.check_timeouts(connection.request_started_at)

    asyncio.run(run())
    assert taken == ["cut"]


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"


@pytest.mark.parametrize("field", [b"Connection", b"Proxy-Connection"])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_trailer_that_closes_is_said_in_the_response_and_nothing_follows_it(field, pieces):
    end = b"0\r\n%b: close\r\n\r\n" % field

    async def run():
        _, transport = connect(reads)
        transport.receive(*([CHUNKED + end + GET] if pieces == 1 else [CHUNKED, end + GET]))
        await asyncio.sleep(0.01)
        assert transport.written == ANSWER.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
        assert transport.ended

    asyncio.run(run())


def test_a_response_before_the_end_of_a_chunked_body_closes_because_a_trailer_could():
    async def run():
        _, transport = connect(at_once)
        transport.receive(CHUNKED)
        await asyncio.sleep(0.01)
        assert b"connection: close" in transport.written
        transport.receive(b"0\r\n\r\n" + GET)
        await asyncio.sleep(0.01)
        assert transport.written.count(b"HTTP/1.1") == 1

    asyncio.run(run())


def test_a_chunked_body_over_the_limit_has_its_response_at_once():
    async def run():
        connection, transport = connect(reads)
        transport.receive(CHUNKED + b"5000\r\n" + b"y" * 16_384)
        await asyncio.sleep(0.01)
        assert b"connection: close" in transport.written
        assert connection.request is None

    asyncio.run(run())


def test_an_exception_while_parsing_is_logged_and_a_500(monkeypatch):
    bugs: list[Exception] = []

    async def run():
        _, transport = connect(at_once, bugs)
        monkeypatch.setattr(connection_module.RequestParser, "on_header", lambda *_: 1 / 0)
        transport.receive(GET)
        assert transport.written.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert transport.ended

    asyncio.run(run())
    assert [type(bug) for bug in bugs] == [ZeroDivisionError]


@pytest.mark.parametrize("rest", [b"X y\r\n\r\n", b"\r\n", b"X: " + b"y" * MAX_HEADER_BYTES])
def test_an_error_in_response_to_head_has_no_body(rest):
    async def run():
        _, transport = connect(at_once)
        transport.receive(b"HEAD / HTTP/1.1\r\n" + rest)
        assert transport.written.startswith(b"HTTP/1.1 4")
        assert transport.written.endswith(b"\r\nconnection: close\r\n\r\n")

    asyncio.run(run())


def test_idle_time_before_a_request_does_not_cut_its_body():
    async def run():
        connection, transport = connect(at_once)
        transport.receive(GET)
        await asyncio.sleep(0.01)
        connection.idle_since -= 74
        transport.receive(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx")
        await asyncio.sleep(0.01)
        connection.check_timeouts(asyncio.get_running_loop().time() + 2)
        assert not transport.closing

    asyncio.run(run())


BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 16384\r\n\r\n"
MAX_READS, SMALL = connection_module.MAX_READS, connection_module.SMALL_READ_BYTES
FEW = MAX_READS // connection_module.SMALL_READ_FACTOR


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("piece", "without_delay"),
    [
        pytest.param(b"y" * SMALL, MAX_READS, id="large"),
        pytest.param(b"y" * (SMALL - 1), FEW, id="small"),
        pytest.param(b"y", FEW, id="of-one-byte"),
    ],
)
def test_a_request_is_read_without_a_delay_up_to_a_number_of_pieces(piece, without_delay):
    begin = b"GET / HTTP/1.1\r\nHost: x\r\nX: "

    async def run():
        connection, transport = connect(at_once)
        for _ in range(2):
            transport.receive(begin)
            connection.reads = 0
            for _ in range(without_delay):
                transport.receive(piece)
                assert (transport.paused, connection.read_timer) == (False, None)
            transport.receive(b"\r\n\r\n")
            assert (transport.paused, connection.read_timer) == (False, None)
            await asyncio.sleep(0)
        assert transport.written == ANSWER * 2

        transport.receive(begin)
        connection.reads = 0
        transport.receive(*[piece] * (without_delay + 1))
        assert transport.paused
        await until(lambda: not transport.paused)
        assert connection.read_timer is None

    asyncio.run(run())


def test_the_largest_body_in_the_smallest_segments_is_read_without_a_delay():
    async def run():
        connection, transport = connect(reads)
        connection._delay_next_read = None  # would fail if it was called
        transport.receive(BODY, *[b"y" * 1220] * 13, b"y" * (16_384 - 13 * 1220))
        await until(lambda: transport.written == ANSWER)

    asyncio.run(run())


def test_what_comes_in_small_pieces_is_gathered_and_the_request_gets_its_response():
    async def run():
        connection, transport = connect(reads)
        received = []
        receive = connection.data_received
        connection.data_received = lambda data: (received.append(data), receive(data))
        data = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n" + b"y" * 500
        for number in range(len(data)):
            transport.receive(data[number : number + 1])
        await until(lambda: transport.written == ANSWER)
        number = FEW + 1
        assert received == [*(data[at : at + 1] for at in range(number)), data[number:]]
        assert (connection.reads, connection.read_interval_s) == (0, connection_module.READ_INTERVAL_S)
        transport.receive(GET)
        await asyncio.sleep(0)
        assert transport.written == ANSWER * 2

    asyncio.run(run())


@pytest.mark.parametrize(("size", "growth"), [(1, 8), (SMALL - 1, 8), (SMALL, 1)])
@pytest.mark.parametrize("closing", [False, True])
def test_each_small_read_is_later_than_the_one_before(size, growth, closing):
    async def run():
        connection, _ = connect(at_once)
        connection.data_received(b"GET / HTTP/1.0\r\n\r\n" if closing else BODY)
        await asyncio.sleep(0)
        assert (connection.closing_since is not None) is closing
        connection.reads = MAX_READS
        delays = []
        connection.loop = SimpleNamespace(time=connection.loop.time, call_later=lambda delay, _: delays.append(delay))
        for _ in range(10):
            connection.data_received(b"y" * size)
            connection._end_read_interval()
        first, last = connection_module.READ_INTERVAL_S, connection_module.MAX_READ_INTERVAL_S
        assert delays == [min(first * growth**n, last) for n in range(10)]

    asyncio.run(run())


async def slowed_down(app=reads) -> tuple[HttpConnection, Transport]:
    """A connection that waits before the next read of a request, of which a byte is missing."""
    connection, transport = connect(app)
    await asyncio.sleep(0)
    transport.receive(BODY.replace(b"16384", b"1024"), *[b"y"] * MAX_READS)
    transport.receive(b"y" * (1023 - MAX_READS))
    assert transport.paused
    assert not connection.read_timer.cancelled()
    return connection, transport


def test_a_connection_that_is_lost_while_reading_is_paused_leaves_no_timer():
    async def run():
        connection, transport = await slowed_down()
        timer = connection.read_timer
        transport.lose()
        await asyncio.sleep(0)
        assert timer.cancelled()

    asyncio.run(run())


def test_a_connection_that_closes_while_reading_is_paused_does_not_read_again():
    async def run():
        connection, transport = await slowed_down()
        transport.client_reads, transport.buffered = False, 1
        transport.close()
        await until(lambda: connection.read_timer is None)
        assert transport.paused
        transport.take()
        await until(lambda: transport.protocol is None)

    asyncio.run(run())


def test_a_client_that_half_closes_while_reading_is_paused_is_noticed():
    async def run():
        _, transport = await slowed_down()
        transport.receive(None)
        assert not transport.closing
        await until(lambda: transport.closing)
        assert transport.written == b""

    asyncio.run(run())


def test_a_stop_while_reading_is_paused_completes_the_request():
    async def run():
        connection, transport = await slowed_down()
        connection.shutdown()
        transport.receive(b"y")
        await until(lambda: transport.ended)
        assert transport.written == ANSWER.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")

    asyncio.run(run())


def test_a_body_in_small_pieces_behind_its_response_is_gathered_too():
    async def run():
        _, transport = await slowed_down(at_once)
        await until(lambda: transport.written == ANSWER)
        transport.receive(b"y" + GET)
        await until(lambda: transport.written == ANSWER * 2)

    asyncio.run(run())


def test_reading_is_resumed_when_no_reason_is_left():
    async def run():
        connection, transport = await slowed_down()
        connection.pause_writing()
        await until(lambda: connection.read_timer is None)
        assert transport.paused
        connection.resume_writing()
        assert not transport.paused
        transport.receive(b"y")
        await until(lambda: transport.written == ANSWER)

    asyncio.run(run())


def test_the_timeout_of_a_request_goes_on_while_reading_is_paused():
    async def run():
        connection, transport = connect(reads)
        transport.receive(*(GET[at : at + 1] for at in range(FEW + 1)))
        assert transport.paused
        connection.check_timeouts(connection.request_started_at + connection.settings.header_timeout_s)
        assert transport.written.startswith(b"HTTP/1.1 408 ")
        connection.check_timeouts(connection.closing_since + connection_module.LINGER_TIMEOUT_S)
        assert transport.closing

    asyncio.run(run())


def test_what_is_discarded_after_the_last_response_is_bounded():
    async def run():
        _, transport = connect(at_once)
        transport.receive(b"GET / HTTP/1.0\r\n\r\n")
        await asyncio.sleep(0.01)
        transport.receive(b"y" * connection_module.MAX_DISCARDED_BYTES)
        assert not transport.closing
        transport.receive(b"y")
        assert transport.closing

    asyncio.run(run())


def test_requests_behind_another_are_held_up_to_a_number_of_bytes():
    async def run():
        connection, transport = connect(at_once)
        transport.receive(GET + b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000)
        assert len(connection.backlog) == connection_module.MAX_BACKLOG_BYTES
        await asyncio.sleep(0.01)
        assert (transport.written, transport.ended, connection.backlog) == (ANSWER, True, b"")

    asyncio.run(run())


def test_a_client_that_reads_again_with_nothing_pending_may_send_the_next_request():
    async def run():
        connection, transport = connect(at_once)
        transport.client_reads, transport.high_water = False, 0
        transport.receive(GET)
        await asyncio.sleep(0)
        assert (transport.written, transport.writing_paused, transport.paused) == (ANSWER, True, True)
        transport.take()
        assert (transport.paused, transport.ended, connection.closing_since) == (False, False, None)
        transport.receive(GET)
        await asyncio.sleep(0)
        assert transport.written == ANSWER * 2

    asyncio.run(run())


def test_a_request_whose_connection_is_lost_while_it_waits_for_its_batch_is_not_processed():
    processed: list[str] = []

    async def count(scope, receive, send):
        processed.append(scope["path"])
        await at_once(scope, receive, send)

    async def run():
        state: dict[str, Any] = {}
        connections = [connect(count, state=state) for _ in range(MAX_BATCH_SIZE + 1)]
        for _, transport in connections:
            transport.receive(GET)
        last = connections[-1][1]
        last.lose()
        while state["batch"]:
            await asyncio.sleep(0)
        assert [transport.written for _, transport in connections] == [ANSWER] * MAX_BATCH_SIZE + [b""]

    asyncio.run(run())
    assert processed == ["/"] * MAX_BATCH_SIZE
