"""Kinds of framing and of connections: chunks, trailers, pieces, pipelines, and clients that leave."""

import json
from collections.abc import Iterator

from bench.kinds import MAX_BODY_BYTES, Kind, Sender, fill, head, post, sign_in
from bench.kinds.tokens import header

CHUNKED = b"Transfer-Encoding: chunked"
SMALL = b'{"code":"x.y.z","secretKey":"wrong","applicationId":"x"}'


def _body(sender: Sender, number: int) -> bytes:
    return sign_in(sender, sender.compact(header(sender), json.dumps(sender.claims(number)).encode()))


def _chunks(body: bytes, size: int, extension: bytes = b"", zeros: int = 0) -> bytes:
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%b%x%b\r\n%b\r\n" % (b"0" * zeros, len(piece), extension, piece) for piece in pieces)


def chunks(sender: Sender) -> Iterator[Kind]:
    start = head(None, CHUNKED)

    def kind(name: str, data: bytes, *, ends: bool = False) -> Kind:
        return Kind(f"chunks: {name}", lambda _: [start + data], ends=ends)

    for size in (1, 2, 16, 256, MAX_BODY_BYTES):
        yield kind(f"16 KB of white space in chunks of {size}", _chunks(b" " * MAX_BODY_BYTES, size) + b"0\r\n\r\n")
        yield Kind(
            f"chunks: a sign-in in chunks of {size}",
            lambda n, s=size: [start + _chunks(_body(sender, n), s) + b"0\r\n\r\n"],
        )
    yield kind("16 KB in chunks of 1, short of an end", _chunks(b" " * (MAX_BODY_BYTES - 1), 1), ends=True)
    yield kind("over the limit in chunks of 1", _chunks(b" " * (MAX_BODY_BYTES + 1), 1) + b"0\r\n\r\n")
    yield kind("ten times the limit in chunks of 1", _chunks(b" " * MAX_BODY_BYTES * 10, 1) + b"0\r\n\r\n")
    yield kind("2,000 extensions", _chunks(SMALL * 40, 1, b";a=b") + b"0\r\n\r\n")
    yield kind("an extension of 16 KB", _chunks(SMALL, 100, b";" + b"a" * 16_000) + b"0\r\n\r\n")
    yield kind("an extension of 200 KB", _chunks(SMALL, 100, b";" + b"a" * 200_000) + b"0\r\n\r\n")
    yield kind("extensions of 16 KB in chunks of 1", _chunks(SMALL, 1, b";" + b"a" * 16_000) + b"0\r\n\r\n")
    yield kind("sizes with 10 zeros before", _chunks(SMALL * 20, 1, zeros=10) + b"0\r\n\r\n")
    yield kind("a size of zeros", b"0" * 30_000 + b"38\r\n" + SMALL + b"\r\n0\r\n\r\n")
    yield kind("a size too large", b"f" * 16 + b"\r\n" + SMALL, ends=True)
    yield kind("a size of many digits", b"f" * 30_000 + b"\r\n" + SMALL, ends=True)
    yield kind("no size", b"x\r\n" + SMALL, ends=True)
    yield kind("line feeds only", _chunks(SMALL, 100).replace(b"\r\n", b"\n") + b"0\n\n", ends=True)
    yield kind("nothing", b"0\r\n\r\n")
    last = _chunks(SMALL, 100) + b"0\r\n"
    yield kind("a trailer", last + b"x: y\r\n\r\n")
    yield kind("a trailer that closes", last + b"Connection: close\r\n\r\n")
    yield kind("a trailer of 90 fields", last + b"x: y\r\n" * 90 + b"\r\n")
    yield kind("a trailer of 30 KB of fields", last + fill(b"a:\r\n", 30_000) + b"\r\n")
    yield kind("a trailer of one field of 30 KB", last + b"x: " + b"y" * 30_000 + b"\r\n\r\n")
    yield kind("a trailer of 300 KB", last + b"x: " + b"y" * 300_000 + b"\r\n\r\n", ends=True)
    yield kind("a trailer without an end", last + fill(b"a:b\r\n", 200_000), ends=True)


def pieces(sender: Sender) -> Iterator[Kind]:
    """The same bytes in many writes; each is a system call and a turn of the loop."""
    for size in (1, 10, 100):

        def cut(data: bytes, size: int = size) -> list[bytes]:
            return [data[at : at + size] for at in range(0, len(data), size)]

        yield Kind(f"pieces: a sign-in in writes of {size}", lambda n, c=cut: c(post(_body(sender, n))[0]))
        yield Kind(f"pieces: a sign-in, its body in writes of {size}", lambda n, c=cut: _cut_body(_body(sender, n), c))
    for size in (100, 1000):
        data = post(b" " * MAX_BODY_BYTES)[0]
        wide = post(SMALL, *[b"x: y" + b"z" * 300] * 90)[0]
        yield Kind(
            f"pieces: 16 KB in writes of {size}", lambda _, d=data, s=size: [d[a : a + s] for a in range(0, len(d), s)]
        )
        yield Kind(
            f"pieces: a head of 27 KB in writes of {size}",
            lambda _, d=wide, s=size: [d[a : a + s] for a in range(0, len(d), s)],
        )


def _cut_body(body: bytes, cut: object) -> list[bytes]:
    assert callable(cut)
    return [head(len(body)), *cut(body)]


def pipelines(sender: Sender) -> Iterator[Kind]:
    tiny, not_found = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
    health = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    for count in (2, 16, 32):
        yield Kind(f"pipeline: {count} sign-ins", lambda n, c=count: [post(_body(sender, n))[0] * c], responses=count)
        yield Kind(f"pipeline: {count} small requests", lambda _, c=count: [tiny * c], responses=count)
        yield Kind(f"pipeline: {count} health checks", lambda _, c=count: [health * c], responses=count)
    for count in (100, 1200):
        yield Kind(
            f"pipeline: {count} small requests to the end",
            lambda _, c=count: [not_found * c],
            responses=0,
            ends=True,
        )
    yield Kind(
        "pipeline: more behind a closing request", lambda _: [post(SMALL, b"Connection: close")[0] + b"x" * 60_000]
    )
    early = head(None, CHUNKED, b"Content-Encoding: gzip")
    yield Kind("pipeline: a body behind an early response", lambda _: [early, _chunks(b" " * 4000, 1) + b"0\r\n\r\n"])


def discarded(_: Sender) -> Iterator[Kind]:
    """Bodies of requests that are rejected by their headers, and so never read."""
    rejected = {
        "unknown path": head(None, CHUNKED, target=b"/x"),
        "wrong method": head(None, CHUNKED, method=b"PUT"),
        "encoded": head(None, CHUNKED, b"Content-Encoding: gzip"),
        "health check": head(None, CHUNKED, method=b"GET", target=b"/healthz"),
    }
    bodies = {
        "16 KB": _chunks(b" " * MAX_BODY_BYTES, MAX_BODY_BYTES),
        "16 KB in chunks of 16": _chunks(b" " * MAX_BODY_BYTES, 16),
        "4 KB in chunks of 1": _chunks(b" " * 4096, 1),
        "160 KB": _chunks(b" " * MAX_BODY_BYTES * 10, MAX_BODY_BYTES),
        "160 KB in chunks of 1": _chunks(b" " * MAX_BODY_BYTES * 10, 1),
    }
    for what, start in rejected.items():
        for size, body in bodies.items():
            yield Kind(f"discarded: {what}, {size}", lambda _, s=start, b=body: [s + b + b"0\r\n\r\n"])
    for length in (MAX_BODY_BYTES, MAX_BODY_BYTES * 10):
        for target in (b"/x", b"/healthz"):
            name = f"discarded: {target.decode()}, {length} bytes"
            yield Kind(name, lambda _, n=length, t=target: [head(n, target=t) + b" " * n])


def clients(sender: Sender) -> Iterator[Kind]:
    yield Kind("client: a new connection for each sign-in", lambda n: post(_body(sender, n), b"Connection: close"))
    yield Kind("client: half-closes behind a sign-in", lambda n: post(_body(sender, n)), ends=True)
    yield Kind("client: connects and leaves", lambda _: [], hangs_up=True)
    yield Kind("client: connects and resets", lambda _: [], hangs_up=True, resets=True)
    yield Kind("client: sends a sign-in and resets", lambda n: post(_body(sender, n)), hangs_up=True, resets=True)
    yield Kind("client: connects and sends FIN", lambda _: [], ends=True)
    yield Kind("client: sends a sign-in and leaves", lambda n: post(_body(sender, n)), hangs_up=True)
    yield Kind("client: sends half a head and leaves", lambda _: [b"POST /profile HTTP/1.1\r\nX: "], hangs_up=True)
    yield Kind("client: sends half a body and leaves", lambda _: [head(500) + b"{"], hangs_up=True)
