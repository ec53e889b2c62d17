"""One connection: HTTP/1.1 as httptools reads it, and the answers to what never reaches the application."""

import asyncio
import functools
from collections import deque
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.server import ServerState

from verifier.errors import ApiError, InvalidRequest, Reason, ServiceUnavailableError
from verifier.server.asgi import BUFFERED_BODY, CLOSE, INTERNAL_ERROR, Header, error_body, response_headers
from verifier.server.endpoints import Service
from verifier.server.log import AccessLogEntry

MAX_HEADER_BYTES = 32_768
MAX_PIPELINED = 32  # requests of one connection that wait for the answers before them
TIMEOUT_CHECK_INTERVAL_S = 1.0
LINGER_TIMEOUT_S = 2.0  # for a client to read why, before the connection is closed
MAX_LINGERING = 32  # connections above the limit that may still read why
MAX_BATCH_SIZE = 32  # requests of one batch of the loop that are response_complete before the first of them is written
ASGI = {"version": "3.0", "spec_version": "2.3"}
DISCARD_TRAILERS: Any = deque(maxlen=0)  # never merged into the head (RFC 9110 §6.5.1), nor kept
INTERNAL_ERROR_BODY = error_body(INTERNAL_ERROR)
INTERNAL_ERROR_RESPONSE: list[Any] = [
    {"status": 500, "headers": (*response_headers(INTERNAL_ERROR_BODY), *CLOSE)},
    {"body": INTERNAL_ERROR_BODY},
]
STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}


def encode_headers(headers: Iterable[Header]) -> bytes:
    """Headers as they are written."""
    return b"".join([b"%s: %s\r\n" % header for header in headers])


# Of answers only, which have few different ones: 1 µs.
encode_headers_cached = functools.lru_cache(1024)(encode_headers)


class RequestResponseCycle:
    """A request and its answer."""

    request_complete = False  # it has been read to its end
    body_delivered = False  # to its end, by the application
    disconnected = False  # nobody is there to answer
    response_complete = False
    response_start: Any = None  # of the answer: status and headers, which leave together with the body
    waiter: asyncio.Future[None] | None = None  # who waits for more of the body, or for the end

    def __init__(
        self, connection: "HttpConnection", scope: dict[str, Any], *, keep_alive: bool, expects_continue: bool
    ) -> None:
        self.connection = connection
        self.scope = scope
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue
        self.body = bytearray()  # what has come of it and was not body_delivered

    def wake_receiver(self) -> None:
        """Wake who waits in `receive`."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def disconnect(self) -> None:
        """Nobody will be response_complete."""
        self.disconnected = True
        self.wake_receiver()

    async def receive(self) -> dict[str, Any]:
        """The next part of the body, or that there is nobody to answer any more (ASGI)."""
        connection = self.connection
        if self.expects_continue and not (
            self.disconnected or self.response_complete or connection.transport.is_closing()
        ):
            connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.expects_continue = False
        connection.flow.resume_reading()
        while not (
            self.disconnected
            or self.response_complete
            or self.body
            or (self.request_complete and not self.body_delivered)
        ):
            self.waiter = connection.loop.create_future()
            await self.waiter
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body_delivered = bytes(self.body), self.request_complete
        self.body.clear()
        return {"type": "http.request", "body": body, "more_body": not self.request_complete}

    async def send(self, message: Any) -> None:
        """A part of the answer (ASGI)."""
        if self.connection.flow.write_paused:
            await self.connection.flow.drain()
        if message["type"] == "http.response.start":
            self.response_start = message
        else:
            self.connection.send_response(self, self.response_start, message)


class HttpConnection(asyncio.Protocol):
    """What uvicorn makes of every connection."""

    transport: asyncio.Transport
    flow: FlowControl

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.app = config.loaded_app
        self.loop = _loop or asyncio.get_running_loop()
        self.server_state = server_state
        self.connections: set[Any] = server_state.connections
        self.service: Service = app_state["service"]
        self.settings = self.service.settings
        self.batch: Batch = app_state.setdefault("batch", [])
        self.header_bytes: int | None = 0  # of the head that is being read; None while a body is
        self.chunk_size = 0  # of what is being read now
        self.first_chunk_size = 0  # of the piece in which the head began
        self.request_started_at: float | None = None  # when the request that is being read began; None: none is
        self.idle_since: float | None = None  # when its last answer was given; None: there is something to do
        self.cycle: RequestResponseCycle | None = None  # the last that was begun
        self.ready: RequestResponseCycle | None = None  # begins when all that came with its head has been read
        self.last_complete: RequestResponseCycle | None = None  # the last that was read to its end
        self.pipeline: deque[RequestResponseCycle] = deque()  # those that wait for the answers before them
        self.upgrade_requested = False
        self.half_closed = False  # by the client, which waits for its answer
        self.closing_since: float | None = (
            None  # request_started_at when no more is response_complete, and what still comes is not looked at
        )
        self.stalled_checks = 0  # for how many sweeps its answer has not been body_delivered
        self.parser = self._new_parser()
        if "check_all_timeouts" not in app_state:
            app_state["check_all_timeouts"] = True
            self.loop.call_later(TIMEOUT_CHECK_INTERVAL_S, check_all_timeouts, self.loop, self.connections)

    # What the transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport, self.flow = transport, FlowControl(transport)
        self.request_started_at = self.loop.time()
        self.connections.add(self)
        above = len(self.connections) - self.settings.max_connections
        if above > 0:
            self.send_error(ServiceUnavailableError(Reason.TOO_MANY_CONNECTIONS))
        if above > MAX_LINGERING:
            transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.connections.discard(self)
        if self.cycle is not None:
            self.cycle.disconnect()
        self.flow.resume_writing()
        # What holds on to this, and this to it.
        self.cycle = self.ready = self.last_complete = None
        self.pipeline.clear()
        del self.parser

    def eof_received(self) -> bool:
        """Stay open when a client closes its half after a whole request and waits for the answer."""
        self.half_closed = True
        return self.closing_since is None and self.close_after_response()

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self.closing_since is not None:
            return
        self.idle_since = None
        if self.request_started_at is None:
            self.request_started_at = self.loop.time()
        self.chunk_size = len(data)
        if self.header_bytes is not None:
            self.header_bytes += self.chunk_size
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self.restart_without_upgrade(data[offer.args[0] :])
        except httptools.HttpParserError as exc:
            # A error raised in on_headers_complete comes back as the cause of the parser's own error.
            self.send_error(
                exc.__context__ if isinstance(exc.__context__, ApiError) else InvalidRequest(Reason.MALFORMED_REQUEST)
            )
        else:
            if self.header_bytes is not None and self.header_bytes > MAX_HEADER_BYTES:
                self.send_error(InvalidRequest(Reason.HEADERS_TOO_LARGE, limit=MAX_HEADER_BYTES))
        if self.ready is not None and self.closing_since is None:
            self._start(self.ready)

    # What the parser calls.

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        # What comes after a request that closes is no error: that request gets its answer.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def on_message_begin(self) -> None:
        self.header_bytes, self.first_chunk_size = 1, self.chunk_size
        if self.request_started_at is None:  # it came with the end of the one before it
            self.request_started_at = self.loop.time()
        self.url = b""
        self.headers: list[Header] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser, headers, hosts, expects = self.parser, self.headers, 0, False
        # It is counted where it could be too large.
        counted = (self.header_bytes or 0) + self.first_chunk_size > MAX_HEADER_BYTES
        if counted and len(self.url) + sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
            raise InvalidRequest(Reason.HEADERS_TOO_LARGE, limit=MAX_HEADER_BYTES)
        self.header_bytes = None
        for name, value in headers:
            if name == b"host":
                hosts += 1
            elif name == b"expect" and value.lower() == b"100-continue":
                expects = True
        version = parser.get_http_version()
        # Two servers that read different hosts or versions can be played off against each other (RFC 9112 §3.2).
        if version not in ("1.0", "1.1") or hosts > 1 or (hosts == 0 and version == "1.1"):
            raise InvalidRequest(Reason.MALFORMED_REQUEST)
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ServiceUnavailableError(Reason.TOO_MANY_PIPELINED)
        method = parser.get_method()
        self.upgrade_requested = parser.should_upgrade() and method != b"CONNECT"
        if self.upgrade_requested:
            return  # it is read once more, without the offer
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope = {
            "type": "http",
            "asgi": ASGI,
            "http_version": version,
            "method": method.decode("ascii"),
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
            "root_path": "",
            "headers": headers,
        }
        self.headers = DISCARD_TRAILERS
        # Whether the body follows a error is the client's choice: the next head could be body_delivered for it.
        keep_alive = version == "1.1" and parser.should_keep_alive() and not expects
        before = self.cycle
        self.cycle = cycle = RequestResponseCycle(self, scope, keep_alive=keep_alive, expects_continue=expects)
        if before is None or before.response_complete:
            self.ready = cycle
        else:
            self.flow.pause_reading()
            self.pipeline.append(cycle)

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.body += body
            cycle.wake_receiver()
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()

    def on_message_complete(self) -> None:
        self.header_bytes, self.request_started_at = 0, None
        cycle = self.cycle
        if cycle is None or self.upgrade_requested:
            return
        self.last_complete, cycle.request_complete = cycle, True
        cycle.wake_receiver()
        if cycle.response_complete:  # refused before its body came
            self.idle_since = self.loop.time()

    # What it does with a request.

    def _start(self, cycle: RequestResponseCycle) -> None:
        """Process a request: in the batch of this loop iteration if it is complete, else in a task."""
        self.ready = None
        here = cycle.request_complete and len(cycle.body) <= self.settings.max_body_bytes
        if not here or cycle.expects_continue or self.flow.write_paused:
            self._start_task(cycle)
            return
        self.batch.append(cycle)
        if len(self.batch) == 1:
            self.loop.call_soon(process_batch, self.batch)

    def call_app_sync(self, cycle: RequestResponseCycle) -> list[Any]:
        """What the application says to a request that is all here: the two messages of its answer."""
        messages: list[Any] = []

        async def collect(message: Any) -> None:
            messages.append(message)

        scope: Any = cycle.scope
        scope[BUFFERED_BODY] = bytes(cycle.body)
        try:
            # There is nothing it could wait for: no task, no timer and no batch of the loop (14 µs).
            self.app(scope, cycle.receive, collect).send(None)
        except StopIteration:
            pass
        except Exception as exc:  # noqa: BLE001 - raised here it would cost the others their answers
            self.service.telemetry.log_exception(exc)
        else:
            self._start_task(cycle)  # it did wait after all, and begins again
            return []
        return messages if len(messages) == 2 else INTERNAL_ERROR_RESPONSE

    def _start_task(self, cycle: RequestResponseCycle) -> None:
        task = self.loop.create_task(self._run(cycle))
        self.server_state.tasks.add(task)
        task.add_done_callback(self.server_state.tasks.discard)

    async def _run(self, cycle: RequestResponseCycle) -> None:
        try:
            await self.app(cycle.scope, cycle.receive, cycle.send)
        except Exception as exc:  # noqa: BLE001 - asyncio would write its message, which could quote the request
            self.service.telemetry.log_exception(exc)
        if not cycle.response_complete:
            cycle.keep_alive = False
            self.send_response(cycle, *INTERNAL_ERROR_RESPONSE)

    def send_response(self, cycle: RequestResponseCycle, response_start: Any, body: Any) -> None:
        """Write an answer in one piece.

        A process that is killed in between would have sent half an answer, which no proxy can call_app_sync for again.
        """
        if (
            cycle.disconnected
            or cycle.response_complete
            or self.closing_since is not None
            or self.transport.is_closing()
        ):
            cycle.disconnected = True
            return
        if body.get("more_body"):
            response_start, body = INTERNAL_ERROR_RESPONSE
        headers = tuple(response_start["headers"])
        if CLOSE[0] in headers:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            headers = (*headers, *CLOSE)
        self._write(response_start["status"], headers, b"" if cycle.scope["method"] == "HEAD" else body["body"])
        cycle.response_complete = True
        cycle.wake_receiver()
        # Its token and secret: the connection may stay open for long.
        cycle.body.clear()
        cycle.scope.pop(BUFFERED_BODY, None)
        self.on_response_complete(cycle.keep_alive)

    def _write(self, status: int, headers: tuple[Header, ...], body: bytes) -> None:
        date = encode_headers_cached(tuple(self.server_state.default_headers))
        self.transport.write(b"%b%b%b\r\n%b" % (STATUS_LINES[status], date, encode_headers_cached(headers), body))

    def on_response_complete(self, keep_alive: bool) -> None:
        """Start the next pipelined request, or become idle until `check_timeouts` closes the connection."""
        if not keep_alive:
            self.start_lingering_close()
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start(self.pipeline.popleft())
        else:
            self.idle_since = self.loop.time()

    # What ends it.

    def shutdown(self) -> None:
        """uvicorn stops: what is under way gets its answer."""
        if self.cycle is None or (self.cycle.response_complete and self.cycle.request_complete):
            self.transport.close()
        elif not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif self.closing_since is None:  # its body is still coming
            self.start_lingering_close()

    def check_timeouts(self, now: float) -> None:
        """End the connection when its request does not get on, or its answer is not body_delivered."""
        settings = self.settings
        if self.idle_since is not None and now - self.idle_since >= settings.keep_alive_s:
            self.transport.close()
        self.stalled_checks = self.stalled_checks + 1 if self.transport.get_write_buffer_size() else 0
        if self.stalled_checks > settings.header_timeout_s:
            self.transport.abort()
        elif self.closing_since is not None:
            if now - self.closing_since >= LINGER_TIMEOUT_S:
                self.transport.close()
        elif self.request_started_at is None or now - self.request_started_at < settings.header_timeout_s:
            return
        elif self.header_bytes:
            self.send_error(InvalidRequest(Reason.HEADER_TIMEOUT, limit=settings.header_timeout_s))
        # The application has its own deadline for a body.
        elif (
            self.header_bytes == 0
            or now - self.request_started_at > settings.header_timeout_s + settings.body_timeout_s + 5
        ):
            self.transport.close()

    def restart_without_upgrade(self, rest: bytes) -> None:
        """Read a request once more without its offer to upgrade, which a server may ignore (RFC 9110 §7.8).

        Java's HttpClient makes one with every request, and the parser would take the body for another protocol.
        """
        if not self.upgrade_requested:  # a tunnel, which was refused
            self.close_after_response()
            return
        kept = [h for h in self.headers if h[0] not in (b"connection", b"upgrade", b"http2-settings")]
        kept += () if self.parser.should_keep_alive() else CLOSE
        version = self.parser.get_http_version().encode()
        head = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)
        head += encode_headers(kept)
        self.parser = self._new_parser()
        self.data_received(head + b"\r\n" + rest)

    def close_after_response(self) -> bool:
        """Whether a complete request still waits for its answer; the last of them ends the connection."""
        if self.last_complete is None or self.last_complete.response_complete:
            return False
        self.last_complete.keep_alive = False
        return True

    def send_error(self, error: ApiError) -> None:
        """Answer what the application never sees, after the answer to the complete request before it, and close."""
        if self.close_after_response():
            self.flow.pause_reading()
            return
        if self.cycle is not None and self.cycle.response_complete and not self.cycle.request_complete:
            self.start_lingering_close()  # it is the rest of a request that has its answer
            return
        request = AccessLogEntry()
        request.record_error(error)
        body = error_body(error)
        self._write(error.status, response_headers(body, (*error.headers, *CLOSE)), body)
        if self.cycle is not None:  # whose body will never be whole
            self.cycle.disconnect()
        self.start_lingering_close()
        self.service.telemetry.record(request)

    def start_lingering_close(self) -> None:
        """Close when the client does, or `check_timeouts` in its place.

        Closing with unread bytes would reset the connection, and the client could lose the answers on their way.
        """
        self.closing_since = self.loop.time()
        self.flow.resume_reading()
        if self.half_closed:
            self.transport.close()
        else:
            self.transport.write_eof()


Batch = list[RequestResponseCycle]


def process_batch(batch: Batch) -> None:
    """Answer the requests of one batch of the loop, and only then write: each write may wake a client (12 µs)."""
    asked = batch[:MAX_BATCH_SIZE]
    collected = [cycle.connection.call_app_sync(cycle) for cycle in asked]
    for cycle, messages in zip(asked, collected, strict=True):
        try:
            if messages:
                cycle.connection.send_response(cycle, *messages)
        except Exception as exc:  # noqa: BLE001 - it costs one connection, not those behind it
            cycle.connection.service.telemetry.log_exception(exc)
            cycle.connection.transport.abort()
    # Only now: what came in the meantime does not call this once more, and other events have their batch.
    del batch[: len(asked)]
    if batch:
        asked[0].connection.loop.call_soon(process_batch, batch)


def check_all_timeouts(loop: asyncio.AbstractEventLoop, connections: Iterable[Any]) -> None:
    """Look at every connection once a second: cheaper than a timer for every request."""
    loop.call_later(TIMEOUT_CHECK_INTERVAL_S, check_all_timeouts, loop, connections)
    now = loop.time()
    for connection in tuple(connections):
        connection.check_timeouts(now)
