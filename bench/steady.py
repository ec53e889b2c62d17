"""An open-loop load: requests are sent at a constant rate, whatever becomes of those before. For soak.py and hosts.py.

A latency counts from the moment at which the request was due. A client that waits for the response before its next
request sends least while the server hangs, and so hardly sees its worst moments ("coordinated omission").
"""

import asyncio
import gc
import json
import math
import random
import ssl
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httptools

from bench.rotation import APPLICATION_ID, ISSUER, SECRET
from verifier.core.keyring import Keyring
from verifier.core.rules import Policy
from verifier.core.tokens import Player
from verifier.errors import Reason
from verifier.signing.current_key import CurrentKey
from verifier.signing.issuer import issue
from verifier.signing.private_key import PrivateKey

WARM_S, CAPACITY_S, PATIENCE_S = 1.0, 5.0, 10.0
clock = time.perf_counter


class Request(NamedTuple):
    """A request and the response that it must get."""

    kind: str
    status: int
    text: bytes  # in the body of the response
    data: bytes


def post(body: bytes, path: str = "/profile") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def body(code: str, secret: str = SECRET) -> bytes:
    members = {"code": code, "secretKey": secret, "applicationId": APPLICATION_ID}
    return json.dumps(members, separators=(",", ":")).encode()


def rejected(reason: Reason, body: bytes, path: str = "/profile") -> Request:
    """Build a request that must be rejected for this reason."""
    return Request("bad", reason.status, f'"{reason.text}"'.encode(), post(body, path))


class TokenSource:
    """Issues tokens of the current key, also such as a verifier must reject."""

    def __init__(self, keys: Path) -> None:
        self.signer = CurrentKey(keys).signer
        self.count = 0

    def token(self, player: str, age_s: int = 0, key: Any = None) -> str:
        """Issue a token; with another `key`, everything but its signature is right."""
        now = int(time.time())
        signer = self.signer(now)
        if key:
            signer = PrivateKey(signer.kid, signer.alg, key)
        return issue(Player(player), signer, Policy(ISSUER, APPLICATION_ID, Keyring(), now - age_s))

    def good(self) -> Request:
        self.count += 1
        player = f"player-{self.count}"
        return Request("good", 200, f'"_id":"{player}"'.encode(), post(body(self.token(player))))


class Connection(asyncio.Protocol):
    """One keep-alive connection, which is closed and opened again after 100 to 500 requests."""

    def __init__(self, load: "Load") -> None:
        self.load, self.parser = load, httptools.HttpResponseParser(self)
        self.left = random.randrange(100, 500)  # noqa: S311
        self.pending: tuple[float, float, Request] | None = None  # when it was due and sent
        self.content = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.load.connections.add(self)
        self.load.free(self)

    def send(self, due: float, request: Request) -> None:
        self.pending, self.content = (due, clock(), request), b""
        self.transport.write(request.data)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, content: bytes) -> None:
        self.content += content

    def on_message_complete(self) -> None:
        self.on_response(self.parser.get_status_code())
        self.left -= 1
        if self.left and self.parser.should_keep_alive():
            self.load.free(self)
        else:
            self.transport.close()

    def on_response(self, status: int) -> None:
        assert self.pending
        due, _, request = self.pending
        self.pending = None
        self.load.on_response(due, request, status, self.content)

    def connection_lost(self, exc: Exception | None) -> None:
        self.load.connections.discard(self)
        self.parser = None  # a reference cycle, and garbage collection is off
        if self.pending:
            self.content = repr(exc).encode()
            self.on_response(0)
        self.load.connect()


class Load:
    """Sends requests over a number of connections and records the responses."""

    def __init__(
        self, port: int, requests: Iterator[Request], connections: int, context: ssl.SSLContext | None = None
    ) -> None:
        self.port, self.requests, self.context = port, requests, context
        self.responses: list[tuple[float, float, str]] = []  # due, seconds, kind; the caller may empty it
        self.unexpected: Counter[str] = Counter()
        self.connections: set[Connection] = set()
        self.count, self.running, self.closed_loop = connections, True, False
        self.idle: deque[Connection] = deque()
        self.waiting: deque[tuple[float, Request]] = deque()
        self.tasks: set[asyncio.Task[None]] = set()

    def connect(self) -> None:
        async def one() -> None:
            loop = asyncio.get_running_loop()
            host = "localhost" if self.context else None
            while self.running:
                try:
                    await loop.create_connection(
                        lambda: Connection(self), "127.0.0.1", self.port, ssl=self.context, server_hostname=host
                    )
                    return
                except OSError:
                    await asyncio.sleep(0.05)  # requests that are due wait, and their latency grows

        if self.running:
            task = asyncio.create_task(one())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def free(self, connection: Connection) -> None:
        if self.closed_loop:
            connection.send(clock(), next(self.requests))
        elif self.waiting:
            connection.send(*self.waiting.popleft())
        else:
            self.idle.append(connection)

    def due(self, at: float) -> None:
        self.waiting.append((at, next(self.requests)))
        while self.idle and self.waiting:
            connection = self.idle.popleft()
            if not connection.transport.is_closing():
                connection.send(*self.waiting.popleft())

    def on_response(self, due: float, request: Request, status: int, content: bytes) -> None:
        self.responses.append((due, clock() - due, request.kind))
        if status != request.status or request.text not in content:
            self.unexpected[f"{request.kind}: {status} {content.decode(errors='replace')}"] += 1

    def pace(self, loop: asyncio.AbstractEventLoop, rate: float, seconds: float) -> None:
        """Schedule the requests, in a thread because sleep is exact to 0.1 ms and event-loop timers to 1 or 2 ms."""
        began = clock()
        for number in range(int(rate * seconds)):
            at = began + number / rate
            if (pause := at - clock()) > 0:
                time.sleep(pause)
            if not self.running:
                return
            loop.call_soon_threadsafe(self.due, at)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        for _ in range(self.count):
            self.connect()
        while len(self.connections) < self.count:
            await asyncio.sleep(0.01)
        try:
            yield
        finally:
            self.running = False
            for connection in tuple(self.connections):
                connection.transport.abort()

    async def half_of_capacity(self) -> float:
        """Measure the requests per second in a closed loop, and return half of them."""
        self.closed_loop = True
        async with self.connected():
            await asyncio.sleep(WARM_S)
            self.responses.clear()
            await asyncio.sleep(CAPACITY_S)
            rate = len(self.responses) / CAPACITY_S / 2
        print(f"{rate:,.0f}/s, half of capacity", flush=True)
        return rate

    async def run(self, rate: float, seconds: float) -> None:
        sys.setswitchinterval(0.0005)
        gc.disable()  # its pauses would count as the server's
        async with self.connected():
            pacing = asyncio.create_task(asyncio.to_thread(self.pace, asyncio.get_running_loop(), rate, seconds))
            last = clock() + seconds + 2 * PATIENCE_S
            while not pacing.done() or self.waiting or any(connection.pending for connection in self.connections):
                await asyncio.sleep(0.5)
                if clock() > last:
                    self.unexpected["no response"] += len(self.waiting)
                    break
                for connection in tuple(self.connections):
                    if connection.pending and clock() - connection.pending[1] > PATIENCE_S:
                        connection.transport.abort()
            await pacing
        gc.enable()


def quantile(ordered: list[float], share: float) -> float:
    """Return the smallest value that this share of the values does not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def spread_ms(seconds: list[float]) -> tuple[float, float, float, float]:
    """Return p50, p99, p99.9 and the maximum in milliseconds."""
    ordered = sorted(seconds)
    p50, p99, p999 = (quantile(ordered, share) * 1000 for share in (0.5, 0.99, 0.999))
    return p50, p99, p999, ordered[-1] * 1000
