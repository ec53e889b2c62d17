"""The uvicorn server around the application: the socket, the signals, and answers to what is not HTTP."""

import asyncio
import functools
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Iterable
from itertools import chain
from types import FrameType
from typing import Any, NoReturn

import httptools
from starlette.routing import Router
from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.supervisors.multiprocess import Multiprocess

from verifier.app import CLOSE, LINGER_S, WHOLE_BODY, Header, Verifier, answer_headers, create_app, refusal_body
from verifier.errors import ConfigError, InvalidRequest, Refusal, Unavailable
from verifier.settings import Settings
from verifier.telemetry import Request, take_over_logging

MAX_HEAD_BYTES = 32_768
MAX_PIPELINED = 32  # requests of one connection that wait for the answers before them
NOT_HTTP = "the request is not HTTP/1.1"
SWEEP_S = 1.0
LINGERING = 32  # connections above the limit that may still read why
SPARE_DESCRIPTORS = LINGERING + 64  # files, logs, the loop
TOGETHER = 32  # requests of one turn of the loop that are answered before the first of them is written
TRAILERS: Any = deque(maxlen=0)  # never merged into the head (RFC 9110 §6.5.1), nor kept
HEAD_TOO_LARGE = f"the request head is over {MAX_HEAD_BYTES} bytes"


def header_lines(headers: Iterable[Header]) -> bytes:
    """Headers as they are written."""
    return b"".join([b"%s: %s\r\n" % header for header in headers])


# Of answers only, which have few different ones: 1 µs.
kept_lines = functools.lru_cache(1024)(header_lines)


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with this project's answers where the application is never reached."""

    head_bytes: int | None = 0  # of the head that is being read; None while a body is
    since: float | None = None  # when the request that is being read began; None: none is
    idle_since: float | None = None  # when its last answer was given; None: there is something to do
    fresh: RequestResponseCycle | None = None  # begins when all that came with its head has been read
    whole: RequestResponseCycle | None = None  # the last request that was read to its end
    refused = False  # answered for good: what still comes is not looked at
    unread_sweeps = 0  # for how many sweeps its answer has not been taken

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.verifier: Verifier = self.app_state["verifier"]
        self.turn: Turn = self.app_state.setdefault("turn", [])
        self.since = self.loop.time()
        if "sweep" not in self.app_state:
            self.app_state["sweep"] = True
            self.loop.call_later(SWEEP_S, sweep, self.loop, self.connections)
        above = len(self.connections) - self.verifier.settings.max_connections
        if above > 0:
            self._refuse(Unavailable("too many connections at once"))
        if above > LINGERING:
            self.transport.close()

    def cut(self, now: float) -> None:
        """End the connection when its request does not get on, or its answer is not taken."""
        settings = self.verifier.settings
        if self.idle_since is not None and now - self.idle_since >= settings.keep_alive_s:
            self.transport.close()
        self.unread_sweeps = self.unread_sweeps + 1 if self.transport.get_write_buffer_size() else 0
        if self.unread_sweeps > settings.head_timeout_s:
            self.transport.abort()
        elif self.refused or self.since is None or now - self.since < settings.head_timeout_s:
            return
        elif self.head_bytes:
            self._refuse(InvalidRequest(f"the request head was not here within {settings.head_timeout_s} s", 408))
        # The application has its own deadline for a body, and LINGER_S for the rest of one it refused.
        elif self.head_bytes == 0 or now - self.since > settings.head_timeout_s + settings.body_timeout_s + 5:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        self.idle_since = None
        if self.since is None:
            self.since = self.loop.time()
        if self.head_bytes is not None:
            self.head_bytes += len(data)
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
        if self.fresh is not None and not self.refused:
            self._start(self.fresh)

    def on_message_begin(self) -> None:
        self.head_bytes = 1
        if self.since is None:  # it came with the end of the one before it
            self.since = self.loop.time()
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self.head_bytes, self.since = 0, None
        super().on_message_complete()
        self.whole = self.cycle
        if self.cycle is not None and self.cycle.response_complete:  # refused before its body came
            self.idle_since = self.loop.time()

    def on_headers_complete(self) -> None:
        self.head_bytes = None
        parts = list(chain.from_iterable(self.headers))  # names and values in turn
        if len(self.url) + sum(map(len, parts)) > MAX_HEAD_BYTES:
            raise InvalidRequest(HEAD_TOO_LARGE, status=431)
        version, hosts = self.parser.get_http_version(), parts[::2].count(b"host")
        # Two servers that read different hosts or versions can be played off against each other (RFC 9112 §3.2).
        if version not in ("1.0", "1.1") or hosts > 1 or (hosts == 0 and version == "1.1"):
            raise InvalidRequest(NOT_HTTP)
        if len(self.pipeline) >= MAX_PIPELINED:
            # uvicorn reads on while requests wait, as many as a client cares to send.
            raise Unavailable("too many requests at once")
        super().on_headers_complete()
        if self.parser.should_upgrade() and self._should_upgrade():
            return  # it is read once more, without the offer
        self.headers = TRAILERS
        if self.expect_100_continue:
            # Whether the body follows a refusal is the client's choice: the next head could be taken for it.
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, _app: Any) -> None:
        self.fresh = cycle

    def _start(self, cycle: RequestResponseCycle) -> None:
        """Have a request answered: with the others of this turn of the loop where it is all here, else by a task."""
        self.fresh = None
        here = not cycle.more_body and len(cycle.body) <= self.verifier.settings.max_body_bytes
        if not here or cycle.waiting_for_100_continue or self.flow.write_paused:
            self._start_task(cycle)
            return
        self.turn.append((self, cycle))
        if len(self.turn) == 1:
            self.loop.call_soon(answer, self.turn)

    def ask(self, cycle: RequestResponseCycle) -> list[Any]:
        """What the application says to a request that is all here: the two messages of its answer."""
        said: list[Any] = []

        async def say(message: Any) -> None:
            said.append(message)

        scope: Any = cycle.scope
        scope[WHOLE_BODY] = bytes(cycle.body)
        try:
            # There is nothing it could wait for: no task, no timer and no turn of the loop (14 µs).
            self.app(scope, cycle.receive, say).send(None)
        except StopIteration:
            # With its token and secret; the connection may stay open for long.
            del scope[WHOLE_BODY]
            cycle.body.clear()
            return said
        except Exception as exc:  # noqa: BLE001 - raised here it would cost the others their answers
            self.verifier.telemetry.bug(exc)
            if len(said) == 2:
                return said
        self._start_task(cycle)  # where it did wait after all, it begins again
        return []

    def _start_task(self, cycle: RequestResponseCycle) -> None:
        async def app(scope: Any, receive: Any, _send: Any) -> None:
            await self.app(scope, receive, functools.partial(self._send, cycle))

        super()._start_asgi_task(cycle, app)

    async def _send(self, cycle: RequestResponseCycle, message: Any) -> None:
        if self.flow.write_paused:
            await self.flow.drain()
        if message["type"] == "http.response.start":
            self.answer = message
        else:
            self.tell(cycle, self.answer, message)

    def tell(self, cycle: RequestResponseCycle, start: Any, message: Any) -> None:
        """Write an answer in one piece.

        A process that is killed in between would have sent half an answer, which no proxy can ask for again.
        """
        if cycle.disconnected or self.refused or self.transport.is_closing():
            cycle.disconnected = True
            return
        if not cycle.response_started:
            cycle.response_started, cycle.waiting_for_100_continue = True, False
            headers = tuple(start["headers"])
            if CLOSE[0] in headers:
                cycle.keep_alive = False
            elif not cycle.keep_alive:
                headers = (*headers, *CLOSE)
            body = b"" if cycle.scope["method"] == "HEAD" else message["body"]
            self._write(start["status"], headers, body)
        if not message.get("more_body"):
            cycle.response_complete = True
            cycle.message_event.set()
            if not cycle.keep_alive:
                self.transport.close()
            self.on_response_complete()

    def _write(self, status: int, headers: tuple[Header, ...], body: bytes) -> None:
        date = kept_lines(tuple(self.server_state.default_headers))
        self.transport.write(b"%b%b%b\r\n%b" % (STATUS_LINE[status], date, kept_lines(headers), body))

    def on_response_complete(self) -> None:
        """Begin the next request that is here already, or be idle: `cut` ends that, without a timer for each."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_task(self.pipeline.pop()[0])
        else:
            self.idle_since = self.loop.time()

    def _should_upgrade(self) -> bool:
        return self.parser.get_method() != b"CONNECT"

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read a request once more without its offer to upgrade, which a server may ignore (RFC 9110 §7.8).

        Java's HttpClient makes one with every request, and the parser would take the body for another protocol.
        """
        if not self._should_upgrade():
            self._finish_cycle()
            return
        kept = [h for h in self.headers if h[0] not in (b"connection", b"upgrade", b"http2-settings")]
        kept += () if self.parser.should_keep_alive() else CLOSE
        version = self.parser.get_http_version().encode()
        head = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)
        head += header_lines(kept)
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(head + b"\r\n" + rest)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Stay open when a client closes its half after a whole request and waits for the answer."""
        return self._finish_cycle()

    def _finish_cycle(self) -> bool:
        """Whether a complete request still waits for its answer; the last of them ends the connection."""
        if self.whole is None or self.whole.response_complete:
            return False
        self.whole.keep_alive = False
        return True

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what the application never sees, after the answer to the complete request before it, and close."""
        if self._finish_cycle():
            self.flow.pause_reading()
            return
        if self.head_bytes is None and self.cycle is not None and self.cycle.response_started:
            self.transport.close()  # it is the rest of a request that has its answer
            return
        request = Request()
        request.refused(refusal)
        body = refusal_body(refusal)
        self._write(refusal.status, answer_headers(body, (*refusal.headers, *CLOSE)), body)
        # Closing with unread bytes would reset the connection, and the client could lose the answer.
        self.refused = True
        self.transport.write_eof()
        if self.cycle is not None:  # whose body will never be whole
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.loop.call_later(LINGER_S, self.transport.close)
        self.verifier.telemetry.finish(request)


Turn = list[tuple[Protocol, RequestResponseCycle]]


def answer(turn: Turn) -> None:
    """Answer the requests of one turn of the loop, and only then write: each write may wake a client (12 µs)."""
    while turn:
        asked = turn[:TOGETHER]
        del turn[:TOGETHER]
        said = [connection.ask(cycle) for connection, cycle in asked]
        for (connection, cycle), messages in zip(asked, said, strict=True):
            if messages:
                connection.tell(cycle, *messages)


def sweep(loop: asyncio.AbstractEventLoop, connections: Iterable[Any]) -> None:
    """Look at every connection once a second: cheaper than a timer for every request."""
    now = loop.time()
    for connection in tuple(connections):
        connection.cut(now)
    loop.call_later(SWEEP_S, sweep, loop, connections)


class Supervisor(Multiprocess):
    """uvicorn's parent of several workers."""

    def handle_hup(self) -> None:
        """Pass it on: a worker reads its files again. uvicorn would replace every worker."""
        for process in self.processes:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, signal.SIGHUP)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigError when there is none to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # 2,048 connections may wait: Python's own default is 128 at most.
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, TypeError, UnicodeError) as exc:  # the last two for what is no host name at all
        number = getattr(exc, "errno", None) or 0  # negative: the resolver's own
        raise ConfigError(
            f"cannot listen on {host} port {port} ({os.strerror(number) if number > 0 else 'no such address'})",
            hint="choose another with --port, or --host for an address of this machine",
        ) from exc


def allow_connections(most: int) -> None:
    """Let this process and its workers open so many; raises ConfigError when the system forbids it."""
    if os.name != "posix":  # pragma: no cover - Windows has no such limit
        return
    import resource

    needed = most + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"VERIFIER_MAX_CONNECTIONS needs {needed} file descriptors (found a hard limit of {hard})",
            hint="lower it, or raise the limit: ulimit -n, LimitNOFILE= of systemd, --ulimit nofile= of docker",
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def app_from_environment() -> Router:
    """What a worker process serves."""
    try:
        settings = Settings.from_environment(os.environ)
        take_over_logging(settings)
        return create_app(settings)
    except ConfigError as exc:
        # A file broke since the start: the parent tries again, and the other workers go on.
        print(f"verifier: error: {exc}", file=sys.stderr)
        raise SystemExit(1) from exc


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; raises ConfigError when anything is wrong at the start.

    With several workers the settings must also be in the environment, where the workers find them.
    """
    if hasattr(signal, "SIGHUP"):  # pragma: no branch - Windows has none
        # Until files are watched; worker processes inherit it.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    take_over_logging(settings)
    allow_connections(settings.max_connections)
    app = create_app(settings)
    with listen(settings.host, settings.port) as sock:
        config = Config(
            app if settings.workers == 1 else "verifier.server:app_from_environment",
            factory=settings.workers > 1,
            host=settings.host,
            port=sock.getsockname()[1],
            workers=settings.workers,
            http=Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,  # uvicorn's has the query string, which may hold anything
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=settings.graceful_shutdown_s,
        )
        if settings.workers > 1:
            supervisor = Supervisor(config, sockets=[sock])
            supervisor.run()
            if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
                raise ConfigError("a worker process could not start", hint="its own lines above say why")
            return
        # uvicorn raises the signal again after it has drained; the default would end in 143, not 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _exit)
        Server(config).run(sockets=[sock])


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
