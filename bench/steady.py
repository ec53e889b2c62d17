"""A steady load: requests leave at a constant rate, whatever becomes of those before. Shared by soak.py and hosts.py.

An answer's time counts from the moment its request was due. A client that waits for the answer before it asks again
asks a server least while it hangs, and so hardly sees its worst moments ("coordinated omission").
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
from verifier.core import tokens
from verifier.signing.keystore import Keystore, PrivateKey

WARM_S, CAPACITY_S, PATIENCE_S = 1.0, 5.0, 10.0
clock = time.perf_counter


class Ask(NamedTuple):
    """A request and the answer it must get."""

    kind: str
    status: int
    text: bytes  # in the body of the answer
    data: bytes


def post(body: bytes, path: str = "/profile") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def body(code: str, secret: str = SECRET) -> bytes:
    members = {"code": code, "secretKey": secret, "applicationId": APPLICATION_ID}
    return json.dumps(members, separators=(",", ":")).encode()


def refusal(text: str, body: bytes, status: int = 401, path: str = "/profile") -> Ask:
    """A request that must be refused, with this error_description."""
    return Ask("bad", status, f'"{text}"'.encode(), post(body, path))


class Mint:
    """Tokens of the current key, also such as no verifier takes."""

    def __init__(self, keys: Path) -> None:
        self.signer = Keystore(keys).signer
        self.count = 0

    def token(self, player: str, age_s: int = 0, key: Any = None) -> str:
        """With another `key`: good in everything but the key that signed it."""
        now = int(time.time())
        signer = self.signer(now)
        if key:
            signer = PrivateKey(signer.kid, signer.alg, key)
        return tokens.issue(
            tokens.Player(player), signer, issuer=ISSUER, application_id=APPLICATION_ID, now=now - age_s
        )

    def good(self) -> Ask:
        self.count += 1
        player = f"player-{self.count}"
        return Ask("good", 200, f'"_id":"{player}"'.encode(), post(body(self.token(player))))


class Connection(asyncio.Protocol):
    """One keep-alive connection, which is closed and made anew after a while."""

    def __init__(self, load: "Load") -> None:
        self.load, self.parser = load, httptools.HttpResponseParser(self)
        self.left = random.randrange(100, 500)  # noqa: S311
        self.asked: tuple[float, float, Ask] | None = None  # when it was due and sent
        self.content = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.load.connections.add(self)
        self.load.free(self)

    def ask(self, due: float, ask: Ask) -> None:
        self.asked, self.content = (due, clock(), ask), b""
        self.transport.write(ask.data)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, content: bytes) -> None:
        self.content += content

    def on_message_complete(self) -> None:
        self.answered(self.parser.get_status_code())
        self.left -= 1
        if self.left and self.parser.should_keep_alive():
            self.load.free(self)
        else:
            self.transport.close()

    def answered(self, status: int) -> None:
        assert self.asked
        due, _, ask = self.asked
        self.asked = None
        self.load.answered(due, ask, status, self.content)

    def connection_lost(self, exc: Exception | None) -> None:
        self.load.connections.discard(self)
        self.parser = None  # it knows this connection, and nobody collects circles here
        if self.asked:
            self.content = repr(exc).encode()
            self.answered(0)
        self.load.connect()


class Load:
    """Asks one after the other, over so many connections, and keeps what came of it."""

    def __init__(self, port: int, asks: Iterator[Ask], connections: int, context: ssl.SSLContext | None = None) -> None:
        self.port, self.asks, self.context = port, asks, context
        self.took: list[tuple[float, float, str]] = []  # due, seconds, kind; of every answer, who likes may empty it
        self.unexpected: Counter[str] = Counter()
        self.connections: set[Connection] = set()
        self.wanted, self.running, self.eager = connections, True, False
        self.idle: deque[Connection] = deque()
        self.waiting: deque[tuple[float, Ask]] = deque()
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
                    await asyncio.sleep(0.05)  # what is due waits, and its time runs

        if self.running:
            task = asyncio.create_task(one())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def free(self, connection: Connection) -> None:
        if self.eager:
            connection.ask(clock(), next(self.asks))
        elif self.waiting:
            connection.ask(*self.waiting.popleft())
        else:
            self.idle.append(connection)

    def due(self, at: float) -> None:
        self.waiting.append((at, next(self.asks)))
        while self.idle and self.waiting:
            connection = self.idle.popleft()
            if not connection.transport.is_closing():
                connection.ask(*self.waiting.popleft())

    def answered(self, due: float, ask: Ask, status: int, content: bytes) -> None:
        self.took.append((due, clock() - due, ask.kind))
        if status != ask.status or ask.text not in content:
            self.unexpected[f"{ask.kind}: {status} {content.decode(errors='replace')}"] += 1

    def pace(self, loop: asyncio.AbstractEventLoop, rate: float, seconds: float) -> None:
        """In a thread: sleep is exact to a tenth of a millisecond, timers of an event loop to one or two."""
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
        for _ in range(self.wanted):
            self.connect()
        while len(self.connections) < self.wanted:
            await asyncio.sleep(0.01)
        try:
            yield
        finally:
            self.running = False
            for connection in tuple(self.connections):
                connection.transport.abort()

    async def half(self) -> float:
        """Half of the requests per second that it reaches when every answer is followed by the next request."""
        self.eager = True
        async with self.connected():
            await asyncio.sleep(WARM_S)
            self.took.clear()
            await asyncio.sleep(CAPACITY_S)
            rate = len(self.took) / CAPACITY_S / 2
        print(f"{rate:,.0f}/s, half of what it can do", flush=True)
        return rate

    async def run(self, rate: float, seconds: float) -> None:
        sys.setswitchinterval(0.0005)
        gc.disable()  # its pauses would be taken for the server's
        async with self.connected():
            pacing = asyncio.create_task(asyncio.to_thread(self.pace, asyncio.get_running_loop(), rate, seconds))
            last = clock() + seconds + 2 * PATIENCE_S
            while not pacing.done() or self.waiting or any(connection.asked for connection in self.connections):
                await asyncio.sleep(0.5)
                if clock() > last:
                    self.unexpected["no answer"] += len(self.waiting)
                    break
                for connection in tuple(self.connections):
                    if connection.asked and clock() - connection.asked[1] > PATIENCE_S:
                        connection.transport.abort()
            await pacing
        gc.enable()


def quantile(ordered: list[float], share: float) -> float:
    """The smallest value that so large a share does not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def spread_ms(seconds: list[float]) -> tuple[float, float, float, float]:
    """p50, p99, p99.9 and the longest."""
    ordered = sorted(seconds)
    p50, p99, p999 = (quantile(ordered, share) * 1000 for share in (0.5, 0.99, 0.999))
    return p50, p99, p999, ordered[-1] * 1000
