"""Feed a stream of bytes to a connection, in random pieces, with timeouts, half-closes and clients that do not read.

The first four bytes of an input choose pieces and events, the rest is the stream. Invariants, of which each broken one
is an AssertionError: responses are in order, at most one per request, and well-formed; a request that the application
has taken gets its response, or the connection ends; nothing is written after the end; what is held is bounded; and
in the end no task, timer or byte remains. The outcome of the first request does not depend on the pieces.
"""

import asyncio
import heapq
import itertools
import random
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from uvicorn.server import ServerState

from tests.support.transport import Transport
from verifier.server import connection as connection_module
from verifier.server import request_parser
from verifier.server.connection import HttpConnection
from verifier.server.settings import Settings

MAX_BODY = 64
MAX_HELD = 4096
SETTINGS = Settings(issuer="https://game.example", max_body_bytes=MAX_BODY, keep_alive_s=4, header_timeout_s=2)
# Small enough for an input of 4,096 bytes to reach them.
LIMITS = {
    request_parser: {"MAX_HEADER_BYTES": 512, "MAX_FIELDS": 8, "MAX_FRAMING_BYTES": 128, "MAX_EMPTY_LINES": 6},
    connection_module: {"MAX_BACKLOG_BYTES": 1024, "MAX_PIPELINED": 4, "WRITE_BUFFER_BYTES": 200}
    | {"MAX_READS": 16, "SMALL_READ_BYTES": 16},
}
RESPONSE = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+\r\n((?:[a-z-]+: [ -~]+\r\n)*)\r\n")


class Loop:
    """As much of an event loop as a connection needs, with a clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ready: deque[asyncio.Handle] = deque()
        self.timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def call_soon(self, callback: Callable[..., Any], *arguments: Any, context: Any = None) -> asyncio.Handle:
        self.ready.append(asyncio.Handle(callback, arguments, self, context))  # type: ignore[arg-type]
        return self.ready[-1]

    def call_later(self, delay: float, callback: Callable[..., Any], *arguments: Any) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(self.now + delay, callback, arguments, self)  # type: ignore[arg-type]
        heapq.heappush(self.timers, (timer.when(), next(self.numbers), timer))
        return timer

    def _timer_handle_cancelled(self, timer: asyncio.TimerHandle) -> None:
        """Called by a timer that is cancelled; it is skipped when its time comes."""

    def create_future(self) -> "asyncio.Future[None]":
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def create_task(self, coroutine: Any) -> "asyncio.Task[None]":
        self.tasks.append(asyncio.Task(coroutine, loop=self))  # type: ignore[arg-type]
        return self.tasks[-1]

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise context["exception"]

    def run(self) -> None:
        """Run one iteration."""
        for _ in range(len(self.ready)):
            handle = self.ready.popleft()
            if not handle.cancelled():
                handle._callback(*handle._args)  # type: ignore[attr-defined]

    def advance(self, seconds: float) -> None:
        """Let time pass, timer by timer, and run what becomes ready."""
        end = self.now + seconds
        while self.timers and self.timers[0][0] <= end:
            self.now, _, timer = heapq.heappop(self.timers)
            if not timer.cancelled():
                timer._callback(*timer._args)  # type: ignore[attr-defined]
            self.settle()
        self.now = end
        self.settle()

    def settle(self) -> None:
        for _ in range(1000):
            if not self.ready:
                return
            self.run()
        raise AssertionError("the loop never becomes idle")


@contextmanager
def small_limits() -> Iterator[None]:
    with ExitStack() as stack:
        for module, limits in LIMITS.items():
            stack.enter_context(mock.patch.multiple(module, **limits))
        yield


class Run:
    """One connection, its client, and an application that numbers its responses."""

    def __init__(self, *, always_reads: bool = False) -> None:
        self.always_reads = always_reads
        self.loop, self.state, self.calls = Loop(), ServerState(), 0
        self.checked = 0  # bytes of the responses
        self.heads: list[bool] = []  # of the requests that the application has taken
        telemetry = SimpleNamespace(log_exception=self.fail, record=lambda entry: None)
        service = SimpleNamespace(settings=SETTINGS, telemetry=telemetry)
        config: Any = SimpleNamespace(loaded_app=self.app)
        self.connection = HttpConnection(config, self.state, {"service": service}, self.loop)  # type: ignore[arg-type]
        self.transport = Transport(self.connection, self.loop)  # type: ignore[arg-type]

    def fail(self, exc: Exception) -> None:
        raise AssertionError("an exception inside the connection") from exc

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Respond early, or with the body, or wait first: whatever the length of the path says."""
        self.calls += 1
        number, kind = self.calls, 1 if self.always_reads else len(scope["path"]) % 4
        self.heads.append(scope["method"] == "HEAD")
        size, too_large = 0, False
        if kind == 1:
            if (body := scope.get("verifier.body")) is None:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body, too_large = message["body"], message["more_body"]
            size = len(body)
            assert too_large is (size > MAX_BODY)
        elif kind == 2 and "verifier.body" not in scope:
            await receive()
        data = b"%d %d" % (number, size)
        headers = [(b"content-length", b"%d" % len(data))]
        await send({"type": "http.response.start", "status": 413 if too_large else 200 + kind, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    def check(self) -> None:
        """Check what must hold at any moment."""
        connection = self.connection
        held = len(connection.backlog)
        if connection.request is not None:
            request = connection.request
            held += len(request.body) + len(request._tail) + len(request._url)
            held += sum(len(name) + len(value) for name, value in request._headers)
        assert held <= MAX_HELD, f"{held} bytes are held"
        assert connection.idle_since is None or (connection.request is None and connection.cycle is None)
        assert connection.read_paused is self.transport.paused
        reason = connection.write_paused or connection.read_timer or connection.backlog or self.transport.closing
        assert reason or not connection.read_paused, "reading would never be resumed"
        if len(self.transport.written) != self.checked:
            self.checked = len(self.transport.written)
            assert len(self.responses()) <= self.calls + 1

    def responses(self) -> list[tuple[int, bytes, bytes]]:
        """Parse what was written: status, headers and body of every response."""
        found, data, finals = [], self.transport.written, 0
        while data:
            match = RESPONSE.match(data)
            assert match, data
            status, headers, data = int(match[1]), match[2], data[match.end() :]
            if status == 100:
                assert not headers
                continue
            finals += 1
            length = int(re.findall(rb"content-length: (\d+)", headers)[0])
            is_head = status < 300 and self.heads[int(finals) - 1]
            if status >= 300 and not data:
                length = 0  # to HEAD
            body, data = (b"", data) if is_head else (data[:length], data[length:])
            assert is_head or len(body) == length
            found.append((status, headers, body))
        return found

    def finish(self) -> list[tuple[int, bytes, bytes]]:
        """Let every timeout pass; nothing may remain, and the responses must be those of the requests."""
        self.transport.take()
        for _ in range(6):
            if not self.transport.lost:
                self.loop.advance(4)
                self.transport.take()
        self.loop.settle()
        assert self.transport.lost
        connection = self.connection
        assert (connection.request, connection.cycle, connection.backlog) == (None, None, b"")
        assert not self.state.connections
        assert not self.state.tasks
        assert all(task.done() for task in self.loop.tasks)
        for task in self.loop.tasks:
            task.result()
        pending = [timer for _, _, timer in self.loop.timers if not timer.cancelled()]
        assert len(pending) == 1  # of check_all_timeouts
        found = self.responses()
        for place, (status, headers, body) in enumerate(found):
            last = place == len(found) - 1
            assert last or b"connection: close" not in headers, "a response after the last"
            if status < 300:
                assert self.heads[place] or int(body.split()[0]) == place + 1, "out of order"
            else:
                assert b"connection: close" in headers
        return found


def pieces(stream: bytes, chance: random.Random) -> list[bytes]:
    """Split the stream: anywhere, or everywhere, or where lines end."""
    kind = chance.randrange(4)
    if kind == 0 and len(stream) < 400:
        return [stream[n : n + 1] for n in range(len(stream))]
    if kind == 1:
        return re.findall(rb"[^\r\n]*\r?\n?", stream)
    cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(chance.randrange(8)))
    return [stream[a:b] for a, b in itertools.pairwise([0, *cuts, len(stream)])]


def first_outcome(parts: list[bytes]) -> int:
    """Return the status of the first response when the client sends without a pause; 0: none.

    Every error counts as 400: which of two errors of one request is found first may depend on the pieces.
    """
    run = Run(always_reads=True)  # an early response may come before an error in the body
    for part in filter(None, parts):
        run.transport.receive(part)
        run.loop.settle()
        run.check()
    run.loop.settle()
    run.loop.advance(0.5)  # reads that are slowed down
    found = run.responses()
    run.finish()
    return min(found[0][0], 400) if found else 0


def events(run: Run, parts: list[bytes], chance: random.Random) -> None:
    for part in parts:
        if part:
            run.transport.receive(part)
        match chance.randrange(12):
            case 0:
                run.loop.run()
            case 1 | 2 | 3 | 4:
                run.loop.settle()
            case 5:
                run.loop.advance(chance.choice((0.01, 1, 3, 5)))
            case 6:
                run.transport.client_reads = False
            case 7:
                run.transport.take()
            case 8 if chance.randrange(4) == 0:
                run.transport.receive(None)
            case 9 if chance.randrange(8) == 0 and not run.transport.closing:
                run.connection.shutdown()
            case 10 if chance.randrange(8) == 0:
                run.transport.lose()
        run.check()
        if run.transport.lost or run.transport.incoming.count(None):
            return


def target(data: bytes) -> None:
    """Run one input."""
    chance, stream = random.Random(data[:4]), data[4:]  # noqa: S311
    parts = pieces(stream, chance)
    run = Run()
    events(run, parts, chance)
    run.loop.settle()
    run.check()
    run.finish()
    assert first_outcome(parts) == first_outcome([stream]), "the first response depends on the pieces"
