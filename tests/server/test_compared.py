"""The same bytes to our connection and to uvicorn's: where they differ, a table gives the reason.

Runs with every suite, so that an update of uvicorn, httptools or h11 is compared. Each of the three is driven over a
transport in memory with one application, which responds with method, path and body.
"""

import asyncio
import logging
import re
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tests.support.transport import Transport
from verifier.server.connection import HttpConnection
from verifier.server.settings import Settings

RESPONSE = re.compile(rb"(?s)HTTP/1\.1 (\d+) [^\r]*\r\n((?:[^\r\n]+\r\n)*)\r\n((?:(?!HTTP/1\.).)*)")


async def app(scope: Any, receive: Any, send: Any) -> None:
    body = scope.get("verifier.body")
    if body is None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
    data = b"%b %b %b" % (scope["method"].encode(), scope["path"].encode(), body)
    headers = [(b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Both of uvicorn's protocols log what they reject."""
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "disabled", True)


async def responses(kind: type, pieces: tuple[bytes, ...]) -> list[str]:
    """Send the pieces and close; return each response as status and body (of a 200), and whether it was the last."""
    loop = asyncio.get_running_loop()
    telemetry = SimpleNamespace(log_exception=print, record=lambda _: None)
    service = SimpleNamespace(settings=Settings(issuer="https://game.example"), telemetry=telemetry)
    config = Config(app, lifespan="off", log_config=None, ws="none")
    config.load()
    protocol = kind(config, ServerState(), {"service": service}, loop)
    transport = Transport(protocol, loop)
    for piece in pieces:
        transport.receive(piece)
        async with asyncio.timeout(5):  # ours reads small pieces at intervals
            while transport.incoming and transport.paused and not transport.closing:
                await asyncio.sleep(0.001)
        for _ in range(20):
            await asyncio.sleep(0)
    closed = transport.closing or transport.ended
    found = []
    for status, headers, body in RESPONSE.findall(transport.written):
        if status != b"100":
            is_last = b"connection: close" in headers.lower()
            found.append(f"{int(status)}{' ' + body.decode() if status == b'200' else ''}{' close' if is_last else ''}")
        else:
            found.append("100")
    transport.lose()
    await asyncio.sleep(0)
    return [*found, *(["closed"] if closed and not (found and found[-1].endswith("close")) else [])]


POST = b"POST /a HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"Connection: upgrade\r\nUpgrade: h2c\r\n"
HI = "200 POST /a hi"
B = "200 GET /b "

SAME = {
    "get": (GET,),
    "length": (POST + b"Content-Length: 2\r\n\r\nhi",),
    "length in pieces": (POST, b"Content-Length: 2\r\n", b"\r\nh", b"i"),
    "chunked": (CHUNKED + b"2\r\nhi\r\n0\r\n\r\n",),
    "chunked in pieces": (CHUNKED, b"1\r\nh\r\n1\r\n", b"i\r\n0\r\n", b"\r\n"),
    "chunk extension": (CHUNKED + b"2;a=b\r\nhi\r\n0\r\n\r\n",),
    "trailer": (CHUNKED + b"2\r\nhi\r\n0\r\nX: y\r\n\r\n",),
    "pipelined": (GET + GET + GET,),
    "two requests": (GET, GET),
    "close": (POST + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi",),
    "request behind a close": (POST + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi" + GET,),
    "malformed": (b"nonsense\r\n\r\n",),
    "malformed after a request": (GET, b"nonsense\r\n\r\n"),
    "HTTP/1.0": (b"GET /b HTTP/1.0\r\n\r\n",),
    "HTTP/1.0 that keeps alive": (b"GET /b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",),
    "head": (b"HEAD /b HTTP/1.1\r\nHost: x\r\n\r\n",),
    "two lengths": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi",),
    "other coding": (POST + b"Transfer-Encoding: gzip\r\n\r\nhi",),
    "bad chunk size": (CHUNKED + b"zz\r\nhi",),
    "negative chunk size": (CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n",),
    "space before a colon": (GET[:-2] + b"X : y\r\n\r\n",),
    "NUL in a field": (GET[:-2] + b"X: \0\r\n\r\n",),
    "path that is not ASCII": (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",),
    "query": (b"GET /b?c=d HTTP/1.1\r\nHost: x\r\n\r\n",),
    "escaped path": (b"GET /%62 HTTP/1.1\r\nHost: x\r\n\r\n",),
    "unfinished headers": (POST,),
    "unfinished body": (POST + b"Content-Length: 3\r\n\r\nhi",),
}

# Ours, httptools, h11, and why ours is right.
DIFFERENT: dict[str, tuple[tuple[bytes, ...], list[str], list[str], list[str], str]] = {
    "empty lines before": (
        (b"\r\n" + GET,),
        [B],
        [B],
        ["400 close"],
        "a server should ignore an empty line before a request (RFC 9112 2.2)",
    ),
    "trailer that closes": (
        (CHUNKED + b"2\r\nhi\r\n0\r\nConnection: close\r\n\r\n", GET),
        [f"{HI} close"],
        [HI],
        [HI, B],
        "a connection that httptools no longer reads must not look reusable to a proxy",
    ),
    "trailer of a proxy that closes": (
        (CHUNKED + b"2\r\nhi\r\n0\r\nProxy-Connection: close\r\n\r\n", GET),
        [f"{HI} close"],
        [HI],
        [HI, B],
        "the same",
    ),
    "malformed behind a request": (
        (GET + b"nonsense\r\n\r\n",),
        [B, "closed"],
        ["400 close"],
        [B, "400 close"],
        "the request has its response; a second one could be paired with the request of another client",
    ),
    "no host": (
        (b"GET /b HTTP/1.1\r\n\r\n",),
        ["400 close"],
        [B],
        ["400 close"],
        "a server must refuse it (RFC 9112 3.2)",
    ),
    "two hosts": (
        (b"GET /b HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",),
        ["400 close"],
        [B],
        ["400 close"],
        "a server must refuse it (RFC 9112 3.2)",
    ),
    "a host that is none": (
        (b"GET /b HTTP/1.1\r\nHost: x/y z@w\r\n\r\n",),
        ["400 close"],
        [B],
        [B],
        "a server must refuse it (RFC 9112 3.2)",
    ),
    "malformed HEAD": (
        (b"HEAD /b HTTP/1.1\r\n\r\n",),
        ["400 close"],
        ["200 "],
        ["400 close"],
        "as without a host; ours has no body",
    ),
    "HTTP/1.2": (
        (b"GET /b HTTP/1.2\r\nHost: x\r\n\r\n",),
        ["400 close"],
        ["400 close"],
        [B],
        "two servers could read another version differently",
    ),
    "RTSP": (
        (b"OPTIONS /b RTSP/1.0\r\nHost: x\r\n\r\n",),
        ["400 close"],
        ["200 OPTIONS /b  close"],
        ["400 close"],
        "it is not HTTP",
    ),
    "absolute form": (
        (b"GET http://x/b HTTP/1.1\r\nHost: x\r\n\r\n",),
        [B],
        [B],
        ["200 GET http://x/b "],
        "a server must accept it (RFC 9112 3.2.2)",
    ),
    "absolute form without a path": (
        (b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",),
        ["200 GET / "],
        ["400 close"],
        ["200 GET http://x "],
        "an empty path is / (RFC 9110 4.2.3)",
    ),
    "expect": (
        (POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", b"hi"),
        ["100", f"{HI} close"],
        ["100", HI],
        ["100", HI],
        "whether a body follows is up to the client, so nothing else may follow",
    ),
    "expect of HTTP/1.0": (
        (POST.replace(b"1.1", b"1.0") + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", b"hi"),
        [f"{HI} close"],
        ["100", f"{HI} close"],
        [f"{HI} close"],
        "a server must ignore it (RFC 9110 10.1.1)",
    ),
    "upgrade": (
        (POST + UPGRADE + b"Content-Length: 2\r\n\r\nhi",),
        [HI],
        ["200 POST /a "],
        [HI],
        "an offer is ignored with its protocol, not with the body",
    ),
    "upgrade, chunked": (
        (CHUNKED[:-2] + UPGRADE + b"\r\n2\r\nhi\r\n0\r\n\r\n",),
        [HI],
        ["200 POST /a "],
        [HI],
        "the same",
    ),
    "connect": (
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",),
        ["400 close"],
        ["400 close"],
        ["200 ", "closed"],
        "no tunnel is offered",
    ),
    "unknown method": (
        (b"BREW /b HTTP/1.1\r\nHost: x\r\n\r\n",),
        ["400 close"],
        ["400 close"],
        ["200 BREW /b "],
        "httptools decides",
    ),
    "bare LF": (
        (b"GET /b HTTP/1.1\nHost: x\n\n",),
        ["400 close"],
        ["400 close"],
        [B],
        "servers differ about it (RFC 9112 2.2)",
    ),
    "folded field": ((GET[:-2] + b"X: y\r\n z\r\n\r\n",), ["400 close"], ["400 close"], [B], "obsolete (RFC 9112 5.2)"),
    "two equal lengths": (
        (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",),
        ["400 close"],
        ["400 close"],
        [HI],
        "servers differ about it (RFC 9110 8.6)",
    ),
    "length and chunked": (
        (CHUNKED[:-2] + b"Content-Length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n",),
        ["400 close"],
        ["400 close"],
        [HI],
        "a sign of request smuggling (RFC 9112 6.3)",
    ),
    "space after a chunk size": (
        (CHUNKED + b"2 \r\nhi\r\n0\r\n\r\n",),
        ["400 close"],
        ["400 close"],
        [HI],
        "servers differ about it",
    ),
    "200 fields": ((GET[:-2] + b"a: b\r\n" * 200 + b"\r\n",), ["431 close"], [B], [B], "MAX_FIELDS"),
    "headers of 40 KB": (
        (GET[:-2] + b"X: " + b"y" * 40_000 + b"\r\n\r\n",),
        ["431 close"],
        [B],
        [B],
        "MAX_HEADER_BYTES",
    ),
    "trailer of 20 KB": (
        (CHUNKED + b"2\r\nhi\r\n0\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",),
        ["413 close"],
        [HI],
        [HI],
        "MAX_FRAMING_BYTES",
    ),
    "2,000 chunks": (
        (CHUNKED + b"1\r\nh\r\n" * 2000 + b"0\r\n\r\n",),
        ["413 close"],
        ["200 POST /a " + "h" * 2000],
        ["200 POST /a " + "h" * 2000],
        "MAX_FRAMING_BYTES",
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_the_three_respond_alike(name):
    ours, httptools, h11 = (
        asyncio.run(responses(kind, SAME[name])) for kind in (HttpConnection, HttpToolsProtocol, H11Protocol)
    )
    assert ours == httptools == h11


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_difference_is_the_one_that_the_table_explains(name):
    pieces, *expected, reason = DIFFERENT[name]
    found = [asyncio.run(responses(kind, pieces)) for kind in (HttpConnection, HttpToolsProtocol, H11Protocol)]
    assert found == expected
    assert found[0] != found[1] or found[0] != found[2]
    assert reason
