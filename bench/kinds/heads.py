"""Kinds of request heads: fields, values, targets, versions."""

from collections.abc import Iterator

from bench.kinds import MAX_HEAD_BYTES, Kind, Sender, fill, head, post

BODY = b'{"code":"x.y.z","secretKey":"wrong","applicationId":"x"}'
ROOM = MAX_HEAD_BYTES - 200  # what a head of the most bytes has left for one thing


def _lines(unit: bytes, count: int) -> list[bytes]:
    return [unit % number if b"%" in unit else unit for number in range(count)]


def fields(_: Sender) -> Iterator[Kind]:
    def kind(name: str, *lines: bytes) -> Kind:
        return Kind(f"head: {name}", lambda _: post(BODY, *lines))

    for count in (50, 90, 120, 1000, 2500):
        yield kind(f"{count} fields", *_lines(b"x-%d: y", count))
    yield kind("as many of the shortest fields as fit", *_lines(b"a:", ROOM // 4))
    yield kind("as many short fields as fit", *_lines(b"a:b", ROOM // 5))
    yield kind("90 fields of 300 bytes", *_lines(b"x-%d: " + b"y" * 300, 90))
    yield kind("one field of the most bytes", b"x: " + b"y" * ROOM)
    yield kind("a name of the most bytes", b"y" * ROOM + b": x")
    yield kind("a name of the most bytes in capitals", b"Y" * ROOM + b": x")
    yield kind("white space before a value", b"x:" + b" " * ROOM + b"y")
    yield kind("white space behind a value", b"x: y" + b" " * ROOM)
    yield kind("tabs and spaces as a value", b"x: y" + b" \t" * (ROOM // 2) + b"y")
    yield kind("bytes above ASCII", b"x: " + b"\xff" * ROOM)
    yield kind("folded lines", b"x: y" + b"\r\n z" * (ROOM // 4))
    yield kind("a control character at the end", b"x: " + b"y" * ROOM + b"\x00")
    yield kind("a space in the last name", *_lines(b"x-%d: y", 80), b"a b: c")
    yield kind("a field without a colon", *_lines(b"x-%d: y", 80), b"abc")
    yield kind("over the limit", b"x: " + b"y" * MAX_HEAD_BYTES * 2)
    yield kind("ten times over the limit", b"x: " + b"y" * MAX_HEAD_BYTES * 10)
    yield kind("two hosts", b"Host: b")
    yield kind("90 hosts", *_lines(b"Host: b", 90))
    yield kind("cookies", b"Cookie: " + fill(b"a=b; ", ROOM))
    yield kind("90 cookies", *_lines(b"Cookie: a=b; c=d", 90))


def values(_: Sender) -> Iterator[Kind]:
    """Fields that a server reads."""

    def kind(name: str, *lines: bytes) -> Kind:
        return Kind(f"head: {name}", lambda _: post(BODY, *lines))

    def plain(name: str, *lines: bytes) -> Kind:
        data = b"\r\n".join([b"POST /profile HTTP/1.1", b"Host: a", *lines]) + b"\r\n\r\n" + BODY
        return Kind(f"head: {name}", lambda _: [data], ends=True)

    length = b"Content-Length: %d" % len(BODY)
    json_type = b"Content-Type: application/json"
    yield plain("media type with parameters", json_type + fill(b"; a=b", ROOM), length)
    yield plain("media type with semicolons", json_type + b";" * ROOM, length)
    yield plain("media type in capitals", b"Content-Type: APPLICATION/JSON", length)
    yield plain("another media type", b"Content-Type: text/plain", length)
    yield plain("a media type of the most bytes", b"Content-Type: " + b"a" * ROOM, length)
    yield plain("no media type", length)
    yield plain("two media types", json_type, json_type, length)
    yield plain("90 media types", *[json_type] * 90, length)
    yield plain("a length of zeros", json_type, b"Content-Length: " + b"0" * (ROOM - 10) + b"56")
    yield plain("a length of digits", json_type, b"Content-Length: " + b"9" * ROOM)
    yield plain("a negative length", json_type, b"Content-Length: -1")
    yield plain("two lengths", json_type, length, length)
    yield plain("length and chunked", json_type, length, b"Transfer-Encoding: chunked")
    yield plain("no length", json_type)
    yield plain("codings, then chunked", json_type, b"Transfer-Encoding: " + fill(b"a,", ROOM) + b"chunked")
    yield plain("chunked again and again", json_type, b"Transfer-Encoding: " + fill(b"chunked,", ROOM) + b"chunked")
    yield plain("90 fields chunked", json_type, *[b"Transfer-Encoding: chunked"] * 90)
    yield kind("encoded with gzip", b"Content-Encoding: gzip")
    yield kind("encoded with identity, 90 times", *[b"Content-Encoding: identity"] * 90)
    yield kind("codings of the content", b"Content-Encoding: " + fill(b"identity,", ROOM))
    yield kind("connection options", b"Connection: " + fill(b"a,", ROOM))
    yield kind("90 connection fields", *[b"Connection: keep-alive"] * 90)
    yield kind("connection: close", b"Connection: close")
    yield kind("keep-alive and close", b"Connection: " + fill(b"keep-alive,", ROOM) + b"close")
    yield kind("an offer to upgrade", b"Connection: Upgrade", b"Upgrade: websocket")
    yield kind(
        "an offer to upgrade, HTTP/2", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAM"
    )
    yield kind("an offer to upgrade and 80 fields", b"Connection: Upgrade", b"Upgrade: h2c", *_lines(b"x-%d: y", 80))
    yield kind("an offer to upgrade, the most bytes", b"Connection: Upgrade", b"Upgrade: " + fill(b"a,", ROOM - 50))
    yield kind(
        "an offer to upgrade and the most fields",
        b"Connection: Upgrade",
        b"Upgrade: h2c",
        *_lines(b"a:", ROOM // 4 - 20),
    )
    yield kind("expects 100-continue", b"Expect: 100-continue")
    yield kind("expects something else", b"Expect: " + b"x" * ROOM)
    yield kind("90 expectations", *[b"Expect: 100-continue"] * 90)
    yield kind("forwarded by many", b"X-Forwarded-For: " + fill(b"1.2.3.4, ", ROOM))


def targets(_: Sender) -> Iterator[Kind]:
    def kind(name: str, target: bytes, method: bytes = b"POST") -> Kind:
        return Kind(f"target: {name}", lambda _: [head(len(BODY), method=method, target=target) + BODY])

    yield kind("unknown path", b"/nothing")
    yield kind("a slash more", b"/profile/")
    yield kind("a path of letters", b"/" + b"a" * ROOM)
    yield kind("a path of percent signs", b"/" + b"%" * ROOM)
    yield kind("a path of escaped letters", b"/" + fill(b"%41", ROOM))
    yield kind("a path of escaped invalid UTF-8", b"/" + fill(b"%ff", ROOM))
    yield kind("a path of escaped emoji", b"/" + fill(b"%f0%9f%98%80", ROOM))
    yield kind("a path of escapes and letters in turn", b"/" + fill(b"%41a", ROOM))
    yield kind("a path of bad escapes", b"/" + fill(b"%zz", ROOM))
    yield kind("the profile path, one letter escaped", b"/%70rofile")
    yield kind("the profile path, all letters escaped", b"/" + b"".join(b"%%%02x" % letter for letter in b"profile"))
    yield kind("a path of slashes", b"/" * ROOM)
    yield kind("a path of dots", b"/" + fill(b"../", ROOM))
    yield kind("a path of semicolons", b"/" + b";" * ROOM)
    yield kind("a path above ASCII", b"/" + b"\xff" * 1000)
    yield kind("a query of letters", b"/profile?" + b"a" * ROOM)
    yield kind("a query of pairs", b"/profile?" + fill(b"a=b&", ROOM))
    yield kind("a query of percent signs", b"/profile?" + b"%" * ROOM)
    yield kind("a query of question marks", b"/profile" + b"?" * ROOM)
    yield kind("a fragment", b"/profile#" + b"a" * ROOM)
    yield kind("absolute form", b"http://127.0.0.1/profile")
    yield kind("absolute form without a path", b"http://127.0.0.1")
    yield kind("absolute form, long host", b"http://" + b"a" * ROOM + b"/profile")
    yield kind("absolute form, user", b"http://" + b"a" * (ROOM - 20) + b"@b/profile")
    yield kind("absolute form, a port of digits", b"http://a:" + b"9" * ROOM + b"/profile")
    yield kind("absolute form, brackets", b"http://[" + b":" * (ROOM - 20) + b"]/profile")
    yield kind("a long scheme", b"a" * ROOM + b"://b/profile")
    yield kind("an asterisk", b"*", b"OPTIONS")
    yield kind("no slash", b"profile")
    yield kind("a tunnel", b"127.0.0.1:80", b"CONNECT")
    yield kind("a space within", b"/a b")


def methods(_: Sender) -> Iterator[Kind]:
    for method in (b"GET", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH", b"PROPFIND", b"M-SEARCH"):
        yield Kind(f"method: {method.decode()} /profile", lambda _, m=method: [head(None, method=m)])
    yield Kind("method: HEAD /profile", lambda _: [head(None, method=b"HEAD")], head_only=True)
    for path in (b"/healthz", b"/readyz", b"/.well-known/jwks.json", b"/openapi.json"):
        yield Kind(f"method: GET {path.decode()}", lambda _, p=path: [head(None, method=b"GET", target=p)])
    yield Kind(
        "method: HEAD /openapi.json", lambda _: [head(None, method=b"HEAD", target=b"/openapi.json")], head_only=True
    )
    yield Kind("method: unknown", lambda _: [head(None, method=b"FOO")])
    yield Kind("method: lower case", lambda _: [head(None, method=b"get")])
    yield Kind("method: of the most bytes", lambda _: [head(None, method=b"A" * ROOM)])


def versions(_: Sender) -> Iterator[Kind]:
    rest = b"\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    for version in (
        b"HTTP/1.0",
        b"HTTP/0.9",
        b"HTTP/2.0",
        b"HTTP/9.9",
        b"RTSP/1.0",
        b"ICE/1.0",
        b"HTTP/1.",
        b"XXXX/1.1",
        b"",
    ):
        yield Kind(
            f"version: {version.decode() or 'none'}", lambda _, v=version: [b"POST /profile " + v + rest], ends=True
        )
    yield Kind("version: HTTP/1.1 without a host", lambda _: [b"POST /profile HTTP/1.1\r\nContent-Length: 0\r\n\r\n"])
    yield Kind("version: the preface of HTTP/2", lambda _: [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], ends=True)
    yield Kind(
        "version: a TLS hello", lambda _: [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 506], ends=True
    )
    yield Kind("version: random bytes", lambda n: [bytes((n * 7 + i * 31) % 256 for i in range(1000))], ends=True)
    yield Kind("version: empty lines before", lambda _: [b"\r\n" * (ROOM // 2) + post(BODY)[0]])
    yield Kind("version: line feeds only", lambda _: [post(BODY)[0].replace(b"\r\n", b"\n")], ends=True)
    yield Kind("version: carriage returns only", lambda _: [post(BODY)[0].replace(b"\r\n", b"\r")], ends=True)
    yield Kind("version: letters", lambda _: [b"A" * ROOM], ends=True)
    yield Kind("version: a head cut off by FIN", lambda _: [b"POST /profile HTTP/1.1\r\nHost: a\r\nX: "], ends=True)
