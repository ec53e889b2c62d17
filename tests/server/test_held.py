"""What a connection holds in the states that no client alone can bring about: while files hang, in large responses."""

import asyncio
import gc
import json
import time
import tracemalloc
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from tests.conftest import APPLICATION_ID, SECRET
from tests.server.test_connection import connect
from tests.support.transport import Transport
from verifier.core.keyring import Keyring
from verifier.server import reader, reload
from verifier.server.asgi import response_headers
from verifier.server.connection import WRITE_BUFFER_BYTES, HttpConnection
from verifier.server.endpoints import create_app, jwks_document
from verifier.server.settings import MAX_BODY_BYTES, Settings

NUMBER = 40
LIMIT_BYTES = 65_536
POST = b"POST /profile HTTP/1.1\r\nHost: x\r\n"
JSON = b"Content-Type: application/json\r\n"
PARAMETERS = JSON[:-2] + b";" + b"y" * 31_000 + b"\r\n"
BEHIND = b"G" * 40_000


def text(*names: str) -> bytes:
    """The largest body, in which these members are a text that takes four bytes for each character."""
    members = {"code": "x.y.z", "secretKey": SECRET, "applicationId": APPLICATION_ID}
    room = MAX_BODY_BYTES - len(json.dumps(members)) - 4 * len(names)
    members |= {name: members[name] + "\U0001f600" + "x" * (room // len(names)) for name in names}
    return json.dumps(members, ensure_ascii=False).encode()


def sized(body: bytes, *fields: bytes) -> bytes:
    return POST + b"".join(fields) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(body: bytes, *fields: bytes) -> bytes:
    return POST + b"".join(fields) + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def pieces(data: bytes) -> list[bytes | None]:
    return [data[place : place + 5_000] for place in range(0, len(data), 5_000)]


TO_READYZ = (b"POST /profile", b"HEAD /readyz")  # which does not read the body
CODE, SECRET_KEY, APPLICATION = text("code"), text("secretKey"), text("applicationId")
HELD: dict[str, list[bytes | None]] = {
    "code": [sized(CODE, JSON), BEHIND],
    "secret": [sized(SECRET_KEY, JSON), BEHIND],
    "application": [sized(APPLICATION, JSON), BEHIND],
    "behind-it-at-once": [sized(CODE, JSON) + BEHIND],
    "in-pieces": pieces(sized(CODE, JSON) + BEHIND),
    "parameters-of-the-media-type": [sized(CODE, PARAMETERS), BEHIND],
    "half-closed": [sized(CODE, PARAMETERS) + BEHIND, None],
    "many-small-fields": [sized(CODE, JSON, b"Content-Encoding: identity\r\n" * 120), BEHIND],
    "many-large-fields": [sized(CODE, (b"Content-Encoding: " + b"y" * 250 + b"\r\n") * 46).replace(*TO_READYZ), BEHIND],
    "chunked": [chunked(CODE, PARAMETERS) + BEHIND],
    "chunked-in-pieces": pieces(chunked(CODE, PARAMETERS) + BEHIND),
    "100-continue": [sized(CODE, JSON, b"Expect: 100-continue\r\n"), BEHIND],
    "100-continue-in-pieces": pieces(sized(CODE, JSON, b"Expect: 100-continue\r\n") + BEHIND),
    "upgrade": [chunked(CODE, JSON, b"Connection: upgrade\r\nUpgrade: h2c\r\n"), BEHIND],
    "readyz": [sized(CODE, PARAMETERS).replace(*TO_READYZ) + BEHIND],
    "readyz-in-pieces": pieces(chunked(CODE, JSON).replace(*TO_READYZ) + BEHIND),
    "too-large-for-readyz": pieces(sized(CODE * 9, JSON).replace(*TO_READYZ)),
}


def answered(opened: tuple[HttpConnection, Transport]) -> bool:
    return b"application/json" in opened[1].written


@pytest.mark.parametrize("state", HELD)
def test_a_connection_holds_at_most_64_kib_while_a_read_hangs(environment, disk, monkeypatch, state):
    for module, name in ((reload, "CATCH_UP_S"), (reader, "READ_TIMEOUT_S")):
        monkeypatch.setattr(module, name, 60)
    app = create_app(Settings.from_environment(environment))
    service = app.by_path["/profile"].handler.__self__
    config = Config(app, lifespan="off", log_config=None)
    config.load()

    async def opened(number: int) -> list[tuple[HttpConnection, Transport]]:
        made = [HttpConnection(config, ServerState(), {"service": service}) for _ in range(number)]
        found = [(connection, Transport(connection, connection.loop)) for connection in made]
        for piece in HELD[state]:
            for connection, transport in found:
                transport.receive(piece if piece is None else bytes(bytearray(piece)))
                transport.incoming.clear()  # belongs to the kernel
                connection.reads = 0  # not slowed down
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        return found

    async def run() -> None:
        service.files.start()
        disk.hangs = True
        deadline = time.monotonic() + 10
        while not disk.hung.is_set() or service.files.is_current(time.time()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        others = await opened(1)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            found = await opened(NUMBER)
            assert not any(map(answered, found))
            gc.collect()
            assert (tracemalloc.get_traced_memory()[0] - before) / NUMBER < LIMIT_BYTES
            disk.freed.set()
            while not all(map(answered, found)):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            assert all(connection.request is None for connection, _ in found)
            gc.collect()
            assert (tracemalloc.get_traced_memory()[0] - before) / NUMBER < 8_192
        finally:
            tracemalloc.stop()
        for _, transport in others + found:
            transport.lose()
        service.files.stop()

    asyncio.run(run())


def test_requests_that_wait_for_files_wait_together(environment, disk, monkeypatch):
    monkeypatch.setattr(reload, "CATCH_UP_S", 60)
    service = create_app(Settings.from_environment(environment)).by_path["/profile"].handler.__self__

    async def run() -> None:
        disk.hangs = True
        waiting = [asyncio.create_task(service.files.catch_up()) for _ in range(50)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()
        assert len(asyncio.all_tasks()) == 52  # this one, and the one that reads
        assert sum(len(reader._waiting) for reader in service.files.readers) <= 1
        disk.freed.set()
        ended, running = await asyncio.wait(waiting, timeout=10)
        assert (running, [task for task in ended if task.cancelled()]) == (set(), [waiting[0]])
        service.files.stop()

    asyncio.run(run())


def test_signals_and_requests_while_a_read_hangs_leave_nothing_behind(environment, disk):
    service = create_app(Settings.from_environment(environment)).by_path["/profile"].handler.__self__

    async def run() -> None:
        disk.hangs = True
        for _ in range(5):
            service.files.request()  # as SIGHUP does
            await service.files.catch_up()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(1_000):
                service.files.request()
                await service.files.catch_up()
            assert tracemalloc.get_traced_memory()[0] - before < 10_000
        finally:
            tracemalloc.stop()
        disk.freed.set()
        service.files.stop()

    asyncio.run(run())


def test_a_request_does_not_wait_for_a_read_that_began_before_a_suspension(environment, disk, monkeypatch):
    service = create_app(Settings.from_environment(environment)).by_path["/profile"].handler.__self__

    async def run() -> None:
        disk.hangs = True
        first = asyncio.create_task(service.files.catch_up())
        await asyncio.sleep(0.01)
        began = service.files._reading
        monkeypatch.setattr(service.files, "_reading_since", time.time() - 60)
        second = asyncio.create_task(service.files.catch_up())
        await asyncio.sleep(0)
        assert service.files._reading is not began
        disk.freed.set()
        await asyncio.wait([first, second])
        service.files.stop()

    asyncio.run(run())


def test_clients_that_do_not_read_a_large_response_share_it():
    """Of 1,000 keys, the JWK Set has 300 KB; a transport keeps what a client does not take."""
    keyring, body, kept = Keyring(), b"x" * (WRITE_BUFFER_BYTES + 1), []

    async def large(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": response_headers(body)})
        await send({"type": "http.response.body", "body": body})

    async def run() -> None:
        _, transport = connect(large)
        transport.writelines = kept.extend
        transport.receive(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0)

    asyncio.run(run())
    assert kept[1] is body
    assert jwks_document(keyring, 1) is jwks_document(keyring, 1)
