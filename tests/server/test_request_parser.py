"""The parser of one request: every outcome is the same however the bytes are split, and every part has a limit."""

import random
import sys
from collections.abc import Callable

import pytest

from verifier.errors import ApiError, InvalidRequest
from verifier.server.asgi import check_headers
from verifier.server.request_parser import (
    FIELD_BYTES,
    MAX_EMPTY_LINES,
    MAX_FIELDS,
    MAX_FRAMING_BYTES,
    MAX_HEADER_BYTES,
    MAX_KEPT_BYTES,
    MAX_TARGET_BYTES,
    PIECE_BYTES,
    RequestParser,
    decode_path,
    split_target,
)

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /profile HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
MAX_BODY = 20_000
MALFORMED = "malformed_request"


def parse(data: bytes, cuts: list[int]) -> object:
    """Feed the pieces; return the reason of an error, or what was parsed and how many bytes were not."""
    parser, used = RequestParser(MAX_BODY), 0
    try:
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            if start < end:
                used += parser.feed(data[start:end])
            if parser.complete or parser.too_large:
                break
    except ApiError as error:
        return error.reason.value
    if parser.too_large:
        return "too large"
    if not parser.complete:
        return "incomplete"
    return (parser.scope["method"], parser.scope["path"], bytes(parser.body), parser.keep_alive, len(data) - used)


def complete(body: bytes = b"", *, method: str = "POST", path: str = "/profile", close: bool = False, rest: int = 0):
    return (method, path, body, not close, rest)


def chunks(size: int, count: int) -> bytes:
    return b"%x\r\n%b\r\n" % (size, b"y" * size) * count


MOST_CHUNKS = (MAX_FRAMING_BYTES - 5) // 5
KEPT = (b"Content-Encoding: " + b"y" * 1_900 + b"\r\n") * 8 + b"Content-Encoding: "
KEPT_REST = MAX_KEPT_BYTES - 8 * (1_900 + FIELD_BYTES) - FIELD_BYTES
MEDIA_TYPE = b"Content-Type: application/json;" + b"y" * 31_000
EMPTY_LINES = b"%b\r\n%b\r\n0\r\n\r\n"
CASES = {
    "get": (GET, complete(method="GET", path="/")),
    "the next request": (GET + GET, complete(method="GET", path="/", rest=len(GET))),
    "empty lines before": (b"\r\n\r\n\n" + GET, complete(method="GET", path="/")),
    "only empty lines": (b"\r\n" * 9, "incomplete"),
    "length": (POST + b"Content-Length: 5\r\n\r\nhelloG", complete(b"hello", rest=1)),
    "length of nothing": (POST + b"Content-Length: 0\r\n\r\nG", complete(rest=1)),
    "length with 5,000 zeros": (POST + b"Content-Length: " + b"0" * 5000 + b"3\r\n\r\nabc", complete(b"abc")),
    "length of 5,000 digits": (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc", MALFORMED),
    "length over the limit": (POST + b"Content-Length: 20001\r\n\r\n" + b"y" * 20_001, "too large"),
    "largest body": (POST + b"Content-Length: 20000\r\n\r\n" + b"y" * 20_000, complete(b"y" * 20_000)),
    "unfinished body": (POST + b"Content-Length: 5\r\n\r\nhell", "incomplete"),
    "chunked": (CHUNKED + b"5\r\nhello\r\n0\r\n\r\nGET", complete(b"hello", rest=3)),
    "chunked, nothing": (CHUNKED + b"0\r\n\r\nG", complete(rest=1)),
    "chunk extensions": (CHUNKED + b'5;a=b;c="d"\r\nhello\r\n0;e\r\n\r\nG', complete(b"hello", rest=1)),
    "trailer": (CHUNKED + b"0\r\nHost: y\r\nX: z\r\n\r\nG", complete(rest=1)),
    "length in a trailer": (CHUNKED + b"0\r\nContent-Length: 5\r\n\r\nG", MALFORMED),
    "another coding in a trailer": (CHUNKED + b"0\r\nTransfer-Encoding: gzip\r\n\r\nG", MALFORMED),
    "trailer that closes": (CHUNKED + b"0\r\nConnection: close\r\n\r\nG", complete(close=True, rest=1)),
    "trailer of a proxy that closes": (CHUNKED + b"0\r\nProxy-Connection: close\r\n\r\n", complete(close=True)),
    "trailer that keeps alive what closes": (
        CHUNKED[:-2] + b"Connection: close\r\n\r\n0\r\nConnection: keep-alive\r\n\r\n",
        complete(close=True),
    ),
    "unfinished trailer": (CHUNKED + b"0\r\nX: y\r\n", "incomplete"),
    "chunked over the limit": (CHUNKED + chunks(5000, 5), "too large"),
    "chunked up to the limit": (CHUNKED + chunks(5000, 4) + b"0\r\n\r\n", complete(b"y" * 20_000)),
    "most chunks": (CHUNKED + chunks(1, MOST_CHUNKS) + b"0\r\n\r\nG", complete(b"y" * MOST_CHUNKS, rest=1)),
    "one chunk more": (CHUNKED + chunks(1, MOST_CHUNKS + 1) + b"0\r\n\r\n", "framing_too_large"),
    "many more chunks": (CHUNKED + chunks(1, 10 * MOST_CHUNKS), "framing_too_large"),
    "empty lines in the body": (
        CHUNKED + b"8\r\n\r\n\r\n\r\n\r\n\r\n" * 9 + b"0\r\n\r\nG",
        complete(b"\r\n" * 36, rest=1),
    ),
    "a body that contains its end": (CHUNKED + b"5\r\n0\r\n\r\n\r\n0\r\n\r\nG", complete(b"0\r\n\r\n", rest=1)),
    "most empty lines": (
        CHUNKED + EMPTY_LINES % (b"7c", b"\r\n" * (MAX_EMPTY_LINES - 2)),
        complete(b"\r\n" * (MAX_EMPTY_LINES - 2)),
    ),
    "one empty line more": (CHUNKED + EMPTY_LINES % (b"7e", b"\r\n" * (MAX_EMPTY_LINES - 1)), "framing_too_large"),
    "extension without end": (CHUNKED + b"1;" + b"y" * MAX_FRAMING_BYTES, "framing_too_large"),
    "extensions without end": (CHUNKED + (b"1;" + b"y" * 90 + b"\r\ny\r\n") * 90, "framing_too_large"),
    "trailer without end": (CHUNKED + b"0\r\nX: " + b"y" * MAX_FRAMING_BYTES, "framing_too_large"),
    "most kept bytes": (POST + KEPT + b"y" * KEPT_REST + b"\r\n\r\n", complete()),
    "kept bytes over the limit": (POST + KEPT + b"y" * KEPT_REST + b"y\r\n\r\n", "headers_too_large"),
    "parameters of a media type are not kept": (POST + MEDIA_TYPE + b"\r\n\r\n", complete()),
    "trailer of fields without end": (CHUNKED + b"0\r\n" + b"a:\r\n" * MAX_FIELDS, "headers_too_many"),
    "bad chunk size": (CHUNKED + b"zz\r\n", MALFORMED),
    "negative chunk size": (CHUNKED + b"-5\r\nhello\r\n", MALFORMED),
    "chunk size with a sign": (CHUNKED + b"+5\r\nhello\r\n", MALFORMED),
    "chunk size with 0x": (CHUNKED + b"0x5\r\nhello\r\n", MALFORMED),
    "chunk size with an underscore": (CHUNKED + b"1_0\r\n0123456789abcdef\r\n", MALFORMED),
    "chunk size with a space": (CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n", MALFORMED),
    "no chunk size": (CHUNKED + b"\r\nhello\r\n", MALFORMED),
    "huge chunk size": (CHUNKED + b"f" * 17 + b"\r\nhello\r\n", MALFORMED),
    "chunk longer than its size": (CHUNKED + b"4\r\nhello\r\n0\r\n\r\n", MALFORMED),
    "chunk that ends with LF": (CHUNKED + b"5\nhello\n0\n\n", MALFORMED),
    "upgrade": (POST + UPGRADE + b"\r\nG", complete(rest=1)),
    "upgrade, length": (POST + UPGRADE + b"Content-Length: 3\r\n\r\nabcG", complete(b"abc", rest=1)),
    "upgrade, chunked": (CHUNKED[:-2] + UPGRADE + b"\r\n3\r\nabc\r\n0\r\n\r\nG", complete(b"abc", rest=1)),
    "upgrade, too many codings": (
        POST + UPGRADE + b"Transfer-Encoding: x\r\n" * 70 + b"Transfer-Encoding: chunked\r\n\r\n",
        "headers_too_many",
    ),
    "upgrade and close, chunked": (
        CHUNKED[:-2] + b"Connection: close, upgrade\r\nUpgrade: h2c\r\n\r\n0\r\n\r\n",
        complete(close=True),
    ),
    "upgrade, other coding": (POST + UPGRADE + b"Transfer-Encoding: gzip\r\n\r\n", MALFORMED),
    "other coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", MALFORMED),
    "two codings": (
        POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        complete(),
    ),
    "length and chunked": (CHUNKED[:-2] + b"Content-Length: 3\r\n\r\n", MALFORMED),
    "connect": (b"CONNECT / HTTP/1.1\r\nHost: x\r\n\r\nG", complete(method="CONNECT", path="/", close=True, rest=1)),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", complete(method="GET", path="/", close=True)),
    "HTTP/1.1 without host": (b"GET / HTTP/1.1\r\n\r\n", MALFORMED),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", MALFORMED),
    "two hosts, HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n", MALFORMED),
    "RTSP": (b"OPTIONS rtsp://x RTSP/1.0\r\n\r\n", MALFORMED),
    "ICE": (b"SOURCE / ICE/1.0\r\n\r\n", MALFORMED),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", MALFORMED),
    "HTTP/0.9": (b"GET /\r\n\r\n", MALFORMED),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", MALFORMED),
    "TLS": (b"\x16\x03\x01\x02\0\x01\0", MALFORMED),
    "bare LF": (b"GET / HTTP/1.1\nHost: x\n\n", MALFORMED),
    "folded field": (GET[:-2] + b"X: y\r\n z\r\n\r\n", MALFORMED),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", complete(method="OPTIONS", path="*")),
    "no path": (b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n", complete(method="GET", path="/")),
    "largest headers": (
        GET[:-2] + b"X:" + b" " * (MAX_HEADER_BYTES - 31) + b"\r\n\r\n",
        complete(method="GET", path="/"),
    ),
    "largest headers and a byte": (
        GET[:-2] + b"X:" + b" " * (MAX_HEADER_BYTES - 30) + b"\r\n\r\n",
        "headers_too_large",
    ),
    "malformed beyond the limit": (GET[:-2] + b"X : y\r\nX: " + b"y" * MAX_HEADER_BYTES, MALFORMED),
}


@pytest.mark.parametrize("name", CASES)
def test_a_request_has_one_outcome_however_it_is_split(name):
    data, expected = CASES[name]
    assert parse(data, []) == expected
    random.seed(name)
    size = len(data)
    places = range(1, size) if size < 300 else sorted(random.sample(range(1, size), 60))
    for cut in places:
        assert parse(data, [cut]) == expected, cut
    for count in (2, 3, 5, 20):
        for _ in range(10):
            cuts = sorted(random.sample(range(size + 1), min(count, size)))
            assert parse(data, cuts) == expected, cuts
    if size < 10_000:
        assert parse(data, list(range(1, size))) == expected


@pytest.mark.parametrize(
    ("fields", "version", "expected"),
    [
        (b"Expect: 100-continue\r\n", b"1.1", True),
        (b"EXPECT: 100-Continue\r\n", b"1.1", True),
        (b"Expect: 100-continue\r\n", b"1.0", False),
        (b"Expect: something\r\n", b"1.1", False),
        (b"X-Expect: 100-continue\r\n", b"1.1", False),
        (b"TE: 100-continue\r\n", b"1.1", False),
    ],
)
def test_only_the_field_expect_of_http_1_1_expects_a_100_continue(fields, version, expected):
    parser = RequestParser(10)
    parser.feed(b"POST / HTTP/%b\r\nHost: x\r\nContent-Length: 1\r\n%b\r\n" % (version, fields))
    assert parser.expects_continue is expected


@pytest.mark.parametrize(
    ("host", "valid"),
    [
        (b"", True),
        (b"game.example", True),
        (b"GAME_1.example:8443", True),
        (b"127.0.0.1:80", True),
        (b"[::1]:80", True),
        (b"a b", False),
        (b"a,b", True),
        (b"user@a", False),
        (b"a/b", False),
        (b"http://a", False),
        ("é".encode(), False),
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_host_has_only_characters_of_a_host(host, valid, version):
    data = b"GET / HTTP/%b\r\nHost: %b\r\n\r\n" % (version, host)
    assert (parse(data, []) != MALFORMED, parse(data, [30]) != MALFORMED) == (valid, valid)


def test_a_trailer_is_no_header():
    parser = RequestParser(10)
    parser.feed(CHUNKED + b"0\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n\r\n")
    assert parser.complete
    assert parser.scope["headers"] == [(b"transfer-encoding", b"chunked")]
    assert not parser.expects_continue


@pytest.mark.parametrize(
    "data", [GET, CHUNKED + b"0\r\n\r\n", b"HEAD / HTTP/1.1\r\nX y", b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"]
)
def test_the_method_is_known_as_soon_as_it_was_read(data):
    parser = RequestParser(10)
    try:
        parser.feed(data)
    except InvalidRequest:
        assert b"X y" in data
    assert parser.is_head is data.startswith(b"HEAD")


@pytest.mark.parametrize("name", ["on_header", "on_url", "on_headers_complete", "on_message_complete"])
def test_an_exception_in_a_callback_of_the_parser_is_not_an_error_of_the_client(name):
    class Broken(RequestParser):
        pass

    def fail(*_):
        raise LookupError

    setattr(Broken, name, fail)
    with pytest.raises(LookupError):
        Broken(10).feed(CHUNKED + b"1\r\nx\r\n0\r\n\r\n")


class Disagreeing:
    """A parser that finds the end of a part at the end of any input, or never."""

    def __init__(self, at_any_end: Callable[[], None] | None) -> None:
        self.at_any_end = at_any_end

    def feed_data(self, _data: bytes) -> None:
        if self.at_any_end is not None:
            self.at_any_end()

    def should_keep_alive(self) -> bool:
        return True


@pytest.mark.parametrize("early", [True, False])
def test_headers_whose_end_is_ambiguous_are_malformed(early):
    def end():
        parser.on_header(b"Host", b"x")
        parser.on_headers_complete()

    parser = RequestParser(10)
    parser._parser = Disagreeing(end if early else None)
    with pytest.raises(InvalidRequest) as caught:
        parser.feed(GET[:-2] if early else GET)
    assert (caught.value.reason.value, parser.complete) == (MALFORMED, False)


@pytest.mark.parametrize("body", [b"1\r\nx\r\n", b"1\r\nx\r\n0\r\n\r\n", b"0\r\n\r"])
def test_a_chunked_body_that_ends_elsewhere_than_with_an_empty_line_is_malformed(body):
    parser = RequestParser(10)
    parser.feed(CHUNKED)
    parser._parser = Disagreeing(parser.on_message_complete)
    with pytest.raises(InvalidRequest) as caught:
        parser.feed(body)
    assert (caught.value.reason.value, parser.complete) == (MALFORMED, False)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/profile", (b"/profile", b"")),
        (b"/profile?a=b?c", (b"/profile", b"a=b?c")),
        (b"/a#b?c", (b"/a", b"")),
        (b"//profile", (b"//profile", b"")),
        (b"*", (b"*", b"")),
        (b"http://x", (b"/", b"")),
        (b"http://x?a", (b"/", b"a")),
        (b"http://x#a", (b"/", b"")),
        (b"http://x:80/profile?a", (b"/profile", b"a")),
        (b"http://%b/a" % (b"x" * 512), (b"/a", b"")),
    ],
)
def test_a_target_is_split_into_path_and_query(target, expected):
    assert split_target(target) == expected


@pytest.mark.parametrize("target", [b"x:80", b"http:///a", b"http://x:99999/a", b"http://%b/a" % (b"x" * 513)])
def test_any_other_target_is_malformed(target):
    with pytest.raises(InvalidRequest, match=r"^malformed HTTP/1.1 request$"):
        split_target(target)


@pytest.mark.parametrize(("raw", "path"), [(b"/profile%0a", "/profile\n"), (b"/%zz%ff", "/%zz\ufffd"), (b"/a", "/a")])
def test_a_path_is_decoded(raw, path):
    assert decode_path(raw) == path


@pytest.mark.parametrize("space", [b" ", b"\t", b" \t  "])
def test_white_space_around_a_value_is_no_part_of_it(space):
    fields = [b"Host", b"x", b"Content-Type", b"application/json", b"Content-Encoding", b"identity"]
    fields += [b"Content-Length", b"2", b"Expect", b"100-continue"]
    lines = [name + b":" + space + value + space for name, value in zip(fields[::2], fields[1::2], strict=True)]
    parser = RequestParser(MAX_BODY)
    parser.feed(b"\r\n".join([b"POST /profile HTTP/1.1", *lines, b"", b"{}"]))
    check_headers(parser.scope["headers"])
    assert (parser.complete, bytes(parser.body), parser.expects_continue) == (True, b"{}", True)


@pytest.mark.parametrize("size", [MAX_TARGET_BYTES, MAX_TARGET_BYTES + 1])
@pytest.mark.parametrize("form", [b"/%b", b"/%b?%b", b"http://x/%b?%b", b"/?%b", b"//%b#%b"])
def test_no_more_is_kept_of_a_target_than_tells_it_from_ours(form, size):
    parser, part = RequestParser(10), b"y" * size
    parser.feed(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % form.replace(b"%b", part))
    scope = parser.scope
    assert parser.complete
    assert len(scope["path"]) == len(scope["raw_path"]) <= MAX_TARGET_BYTES
    assert len(scope["query_string"]) <= MAX_TARGET_BYTES


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"0" * 5000 + b"16384", ""),
        (b"0" * 5000 + b"16385", "request body too large (limit 16384 bytes)"),
        (b"9" * 18, "request body too large (limit 16384 bytes)"),
        (b"9" * 5000, "request body too large (limit 16384 bytes)"),
        (b"", "malformed HTTP/1.1 request"),
        (b"x", "malformed HTTP/1.1 request"),
        (b"-1", "malformed HTTP/1.1 request"),
        ("٣".encode(), "malformed HTTP/1.1 request"),
    ],
)
def test_a_declared_length_of_any_number_of_digits_is_no_internal_error(value, text):
    assert sys.get_int_max_str_digits() < 5000
    try:
        check_headers([(b"content-type", b"application/json"), (b"content-length", value)], 16_384)
    except InvalidRequest as error:
        assert str(error) == text
    else:
        assert text == ""


def test_chunks_beyond_the_limit_are_not_parsed():
    parser = RequestParser(MAX_BODY)
    with pytest.raises(InvalidRequest, match="chunked framing"):
        parser.feed(CHUNKED + chunks(1, 16 * MOST_CHUNKS))
    assert len(parser.body) <= MOST_CHUNKS + PIECE_BYTES // 5
