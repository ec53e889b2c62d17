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

from verifier.app import BUG, CLOSE, WHOLE_BODY, Header, Verifier, answer_headers, refusal_body
from verifier.errors import InvalidRequest, Refusal, Unavailable
from verifier.telemetry import Request

MAX_HEAD_BYTES = 32_768
MAX_PIPELINED = 32  # requests of one connection that wait for the answers before them
SWEEP_S = 1.0
LINGER_S = 2.0  # for a client to read why, before the connection is closed
LINGERING = 32  # connections above the limit that may still read why
TOGETHER = 32  # requests of one turn of the loop that are answered before the first of them is written
NOT_HTTP = "the request is not HTTP/1.1"
HEAD_TOO_LARGE = f"the request head is over {MAX_HEAD_BYTES} bytes"
ASGI = {"version": "3.0", "spec_version": "2.3"}
TRAILERS: Any = deque(maxlen=0)  # never merged into the head (RFC 9110 §6.5.1), nor kept
BROKEN: list[Any] = [{"status": 500, "headers": (*answer_headers(BUG), *CLOSE)}, {"body": BUG}]
STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}


def header_lines(headers: Iterable[Header]) -> bytes:
    """Headers as they are written."""
    return b"".join([b"%s: %s\r\n" % header for header in headers])


# Of answers only, which have few different ones: 1 µs.
kept_lines = functools.lru_cache(1024)(header_lines)


class Exchange:
    """A request and its answer."""

    whole = False  # it has been read to its end
    taken = False  # to its end, by the application
    gone = False  # nobody is there to answer
    answered = False
    start: Any = None  # of the answer: status and headers, which leave together with the body
    news: asyncio.Future[None] | None = None  # who waits for more of the body, or for the end

    def __init__(
        self, connection: "Protocol", scope: dict[str, Any], *, keep_alive: bool, expects_continue: bool
    ) -> None:
        self.connection = connection
        self.scope = scope
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue
        self.body = bytearray()  # what has come of it and was not taken

    def tell(self) -> None:
        """Wake who waits in `receive`."""
        if self.news is not None and not self.news.done():
            self.news.set_result(None)

    def abandon(self) -> None:
        """Nobody will be answered."""
        self.gone = True
        self.tell()

    async def receive(self) -> dict[str, Any]:
        """The next part of the body, or that there is nobody to answer any more (ASGI)."""
        connection = self.connection
        if self.expects_continue and not (self.gone or self.answered or connection.transport.is_closing()):
            connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.expects_continue = False
        connection.flow.resume_reading()
        while not (self.gone or self.answered or self.body or (self.whole and not self.taken)):
            self.news = connection.loop.create_future()
            await self.news
        if self.gone or self.answered:
            return {"type": "http.disconnect"}
        body, self.taken = bytes(self.body), self.whole
        self.body.clear()
        return {"type": "http.request", "body": body, "more_body": not self.whole}

    async def send(self, message: Any) -> None:
        """A part of the answer (ASGI)."""
        if self.connection.flow.write_paused:
            await self.connection.flow.drain()
        if message["type"] == "http.response.start":
            self.start = message
        else:
            self.connection.write_answer(self, self.start, message)


class Protocol(asyncio.Protocol):
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
        self.verifier: Verifier = app_state["verifier"]
        self.settings = self.verifier.settings
        self.turn: Turn = app_state.setdefault("turn", [])
        self.head_bytes: int | None = 0  # of the head that is being read; None while a body is
        self.piece_bytes = 0  # of what is being read now
        self.first_bytes = 0  # of the piece in which the head began
        self.since: float | None = None  # when the request that is being read began; None: none is
        self.idle_since: float | None = None  # when its last answer was given; None: there is something to do
        self.exchange: Exchange | None = None  # the last that was begun
        self.fresh: Exchange | None = None  # begins when all that came with its head has been read
        self.whole: Exchange | None = None  # the last that was read to its end
        self.pipeline: deque[Exchange] = deque()  # those that wait for the answers before them
        self.offers_upgrade = False
        self.half_closed = False  # by the client, which waits for its answer
        self.ended: float | None = None  # since when no more is answered, and what still comes is not looked at
        self.unread_sweeps = 0  # for how many sweeps its answer has not been taken
        self.parser = self._new_parser()
        if "sweep" not in app_state:
            app_state["sweep"] = True
            self.loop.call_later(SWEEP_S, sweep, self.loop, self.connections)

    # What the transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport, self.flow = transport, FlowControl(transport)
        self.since = self.loop.time()
        self.connections.add(self)
        above = len(self.connections) - self.settings.max_connections
        if above > 0:
            self._refuse(Unavailable("too many connections at once"))
        if above > LINGERING:
            transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.connections.discard(self)
        if self.exchange is not None:
            self.exchange.abandon()
        self.flow.resume_writing()
        # What holds on to this, and this to it.
        self.exchange = self.fresh = self.whole = None
        self.pipeline.clear()
        del self.parser

    def eof_received(self) -> bool:
        """Stay open when a client closes its half after a whole request and waits for the answer."""
        self.half_closed = True
        return self.ended is None and self._ends_with_answer()

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self.ended is not None:
            return
        self.idle_since = None
        if self.since is None:
            self.since = self.loop.time()
        self.piece_bytes = len(data)
        if self.head_bytes is not None:
            self.head_bytes += self.piece_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._ignore_upgrade(data[offer.args[0] :])
        except httptools.HttpParserError as exc:
            # A refusal raised in on_headers_complete comes back as the cause of the parser's own error.
            self._refuse(exc.__context__ if isinstance(exc.__context__, Refusal) else InvalidRequest(NOT_HTTP))
        else:
            if self.head_bytes is not None and self.head_bytes > MAX_HEAD_BYTES:
                self._refuse(InvalidRequest(HEAD_TOO_LARGE, status=431))
        if self.fresh is not None and self.ended is None:
            self._start(self.fresh)

    # What the parser calls.

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        # What comes after a request that closes is no error: that request gets its answer.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def on_message_begin(self) -> None:
        self.head_bytes, self.first_bytes = 1, self.piece_bytes
        if self.since is None:  # it came with the end of the one before it
            self.since = self.loop.time()
        self.url = b""
        self.headers: list[Header] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser, headers, hosts, expects = self.parser, self.headers, 0, False
        # It is counted where it could be too large.
        counted = (self.head_bytes or 0) + self.first_bytes > MAX_HEAD_BYTES
        if counted and len(self.url) + sum(len(name) + len(value) for name, value in headers) > MAX_HEAD_BYTES:
            raise InvalidRequest(HEAD_TOO_LARGE, status=431)
        self.head_bytes = None
        for name, value in headers:
            if name == b"host":
                hosts += 1
            elif name == b"expect" and value.lower() == b"100-continue":
                expects = True
        version = parser.get_http_version()
        # Two servers that read different hosts or versions can be played off against each other (RFC 9112 §3.2).
        if version not in ("1.0", "1.1") or hosts > 1 or (hosts == 0 and version == "1.1"):
            raise InvalidRequest(NOT_HTTP)
        if len(self.pipeline) >= MAX_PIPELINED:
            raise Unavailable("too many requests at once")
        method = parser.get_method()
        self.offers_upgrade = parser.should_upgrade() and method != b"CONNECT"
        if self.offers_upgrade:
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
        self.headers = TRAILERS
        # Whether the body follows a refusal is the client's choice: the next head could be taken for it.
        keep_alive = version == "1.1" and parser.should_keep_alive() and not expects
        before = self.exchange
        self.exchange = exchange = Exchange(self, scope, keep_alive=keep_alive, expects_continue=expects)
        if before is None or before.answered:
            self.fresh = exchange
        else:
            self.flow.pause_reading()
            self.pipeline.append(exchange)

    def on_body(self, body: bytes) -> None:
        exchange = self.exchange
        if exchange is not None and not exchange.answered:
            exchange.body += body
            exchange.tell()
            if len(exchange.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()

    def on_message_complete(self) -> None:
        self.head_bytes, self.since = 0, None
        exchange = self.exchange
        if exchange is None or self.offers_upgrade:
            return
        self.whole, exchange.whole = exchange, True
        exchange.tell()
        if exchange.answered:  # refused before its body came
            self.idle_since = self.loop.time()

    # What it does with a request.

    def _start(self, exchange: Exchange) -> None:
        """Have a request answered: with the others of this turn of the loop where it is all here, else by a task."""
        self.fresh = None
        here = exchange.whole and len(exchange.body) <= self.settings.max_body_bytes
        if not here or exchange.expects_continue or self.flow.write_paused:
            self._start_task(exchange)
            return
        self.turn.append(exchange)
        if len(self.turn) == 1:
            self.loop.call_soon(answer, self.turn)

    def ask(self, exchange: Exchange) -> list[Any]:
        """What the application says to a request that is all here: the two messages of its answer."""
        said: list[Any] = []

        async def say(message: Any) -> None:
            said.append(message)

        scope: Any = exchange.scope
        scope[WHOLE_BODY] = bytes(exchange.body)
        try:
            # There is nothing it could wait for: no task, no timer and no turn of the loop (14 µs).
            self.app(scope, exchange.receive, say).send(None)
        except StopIteration:
            pass
        except Exception as exc:  # noqa: BLE001 - raised here it would cost the others their answers
            self.verifier.telemetry.bug(exc)
        else:
            self._start_task(exchange)  # it did wait after all, and begins again
            return []
        return said if len(said) == 2 else BROKEN

    def _start_task(self, exchange: Exchange) -> None:
        task = self.loop.create_task(self._run(exchange))
        self.server_state.tasks.add(task)
        task.add_done_callback(self.server_state.tasks.discard)

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self.app(exchange.scope, exchange.receive, exchange.send)
        except Exception as exc:  # noqa: BLE001 - asyncio would write its message, which could quote the request
            self.verifier.telemetry.bug(exc)
        if not exchange.answered:
            exchange.keep_alive = False
            self.write_answer(exchange, *BROKEN)

    def write_answer(self, exchange: Exchange, start: Any, body: Any) -> None:
        """Write an answer in one piece.

        A process that is killed in between would have sent half an answer, which no proxy can ask for again.
        """
        if exchange.gone or exchange.answered or self.ended is not None or self.transport.is_closing():
            exchange.gone = True
            return
        if body.get("more_body"):
            start, body = BROKEN
        headers = tuple(start["headers"])
        if CLOSE[0] in headers:
            exchange.keep_alive = False
        elif not exchange.keep_alive:
            headers = (*headers, *CLOSE)
        self._write(start["status"], headers, b"" if exchange.scope["method"] == "HEAD" else body["body"])
        exchange.answered = True
        exchange.tell()
        # Its token and secret: the connection may stay open for long.
        exchange.body.clear()
        exchange.scope.pop(WHOLE_BODY, None)
        self._go_on(exchange.keep_alive)

    def _write(self, status: int, headers: tuple[Header, ...], body: bytes) -> None:
        date = kept_lines(tuple(self.server_state.default_headers))
        self.transport.write(b"%b%b%b\r\n%b" % (STATUS_LINES[status], date, kept_lines(headers), body))

    def _go_on(self, keep_alive: bool) -> None:
        """Begin the next request that is here already, or be idle: `cut` ends that, without a timer for each."""
        if not keep_alive:
            self._end()
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start(self.pipeline.popleft())
        else:
            self.idle_since = self.loop.time()

    # What ends it.

    def shutdown(self) -> None:
        """uvicorn stops: what is under way gets its answer."""
        if self.exchange is None or (self.exchange.answered and self.exchange.whole):
            self.transport.close()
        elif not self.exchange.answered:
            self.exchange.keep_alive = False
        elif self.ended is None:  # its body is still coming
            self._end()

    def cut(self, now: float) -> None:
        """End the connection when its request does not get on, or its answer is not taken."""
        settings = self.settings
        if self.idle_since is not None and now - self.idle_since >= settings.keep_alive_s:
            self.transport.close()
        self.unread_sweeps = self.unread_sweeps + 1 if self.transport.get_write_buffer_size() else 0
        if self.unread_sweeps > settings.head_timeout_s:
            self.transport.abort()
        elif self.ended is not None:
            if now - self.ended >= LINGER_S:
                self.transport.close()
        elif self.since is None or now - self.since < settings.head_timeout_s:
            return
        elif self.head_bytes:
            self._refuse(InvalidRequest(f"the request head was not here within {settings.head_timeout_s} s", 408))
        # The application has its own deadline for a body.
        elif self.head_bytes == 0 or now - self.since > settings.head_timeout_s + settings.body_timeout_s + 5:
            self.transport.close()

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read a request once more without its offer to upgrade, which a server may ignore (RFC 9110 §7.8).

        Java's HttpClient makes one with every request, and the parser would take the body for another protocol.
        """
        if not self.offers_upgrade:  # a tunnel, which was refused
            self._ends_with_answer()
            return
        kept = [h for h in self.headers if h[0] not in (b"connection", b"upgrade", b"http2-settings")]
        kept += () if self.parser.should_keep_alive() else CLOSE
        version = self.parser.get_http_version().encode()
        head = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)
        head += header_lines(kept)
        self.parser = self._new_parser()
        self.data_received(head + b"\r\n" + rest)

    def _ends_with_answer(self) -> bool:
        """Whether a complete request still waits for its answer; the last of them ends the connection."""
        if self.whole is None or self.whole.answered:
            return False
        self.whole.keep_alive = False
        return True

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what the application never sees, after the answer to the complete request before it, and close."""
        if self._ends_with_answer():
            self.flow.pause_reading()
            return
        if self.exchange is not None and self.exchange.answered and not self.exchange.whole:
            self._end()  # it is the rest of a request that has its answer
            return
        request = Request()
        request.refused(refusal)
        body = refusal_body(refusal)
        self._write(refusal.status, answer_headers(body, (*refusal.headers, *CLOSE)), body)
        if self.exchange is not None:  # whose body will never be whole
            self.exchange.abandon()
        self._end()
        self.verifier.telemetry.finish(request)

    def _end(self) -> None:
        """Close when the client does, or `cut` in its place.

        Closing with unread bytes would reset the connection, and the client could lose the answers on their way.
        """
        self.ended = self.loop.time()
        self.flow.resume_reading()
        if self.half_closed:
            self.transport.close()
        else:
            self.transport.write_eof()


Turn = list[Exchange]


def answer(turn: Turn) -> None:
    """Answer the requests of one turn of the loop, and only then write: each write may wake a client (12 µs)."""
    asked = turn[:TOGETHER]
    said = [exchange.connection.ask(exchange) for exchange in asked]
    for exchange, messages in zip(asked, said, strict=True):
        try:
            if messages:
                exchange.connection.write_answer(exchange, *messages)
        except Exception as exc:  # noqa: BLE001 - it costs one connection, not those behind it
            exchange.connection.verifier.telemetry.bug(exc)
            exchange.connection.transport.abort()
    # Only now: what came in the meantime does not call this once more, and other events have their turn.
    del turn[: len(asked)]
    if turn:
        asked[0].connection.loop.call_soon(answer, turn)


def sweep(loop: asyncio.AbstractEventLoop, connections: Iterable[Any]) -> None:
    """Look at every connection once a second: cheaper than a timer for every request."""
    loop.call_later(SWEEP_S, sweep, loop, connections)
    now = loop.time()
    for connection in tuple(connections):
        connection.cut(now)
