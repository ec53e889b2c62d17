"""Parse one HTTP/1.1 request from bytes that are split in any way. Pure: no transport, no clock, no response.

httptools (llhttp) decides what is valid. This module finds the end of the request, so that no byte of the next one
is parsed before this one has its response, and counts every byte against the limit of its part:

| part of the request | limit |
| --- | --- |
| headers: request line, fields, line ends, empty lines before them | MAX_HEADER_BYTES |
| fields: headers and trailer together | MAX_FIELDS |
| fields that the application reads, which are kept until the response | MAX_KEPT_BYTES |
| body | VERIFIER_MAX_BODY |
| framing of a chunked body: sizes, extensions, line ends, trailer | MAX_FRAMING_BYTES, MAX_EMPTY_LINES |
"""

import string
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import httptools

from verifier.errors import InvalidRequest, Reason
from verifier.server.asgi import declared_length

MAX_HEADER_BYTES = 32_768
MAX_FIELDS = 128
MAX_KEPT_BYTES = 16_384
FIELD_BYTES = 100  # of a kept field beside its value, in memory
SMALL_HEADER_BYTES = MAX_KEPT_BYTES - MAX_FIELDS * FIELD_BYTES  # which never exceed it
MAX_VALUE_BYTES = 256  # of a media type that is kept with its parameters, which decide nothing
MAX_FRAMING_BYTES = 8_192
MAX_EMPTY_LINES = 64  # in a chunked body, which may end at each of them
PIECE_BYTES = 2_048  # of a chunked body, parsed before the limits are checked
MAX_TARGET_BYTES = 256  # of the path and the query that are kept; a longer path is none of ours
MAX_AUTHORITY_BYTES = 512  # of a target in absolute form; a host name has 253 at most
ASGI = {"version": "3.0", "spec_version": "2.3"}
# The fields that the application reads; no others are kept, because many short fields take several times their size.
KEPT_FIELDS = {name: name for name in (b"content-type", b"content-length", b"content-encoding", b"transfer-encoding")}
HOST_CHARACTERS = (string.ascii_letters + string.digits + "-._~!$&'()*+,;=%:[]").encode()  # RFC 3986 §3.2.2
WHITE_SPACE = b" \t"  # behind a value, of which it is no part (RFC 9110 §5.5); httptools removes it before the value
PROFILE = b"/profile"
VERSIONS = {b" HTTP/1.1": "1.1", b" HTTP/1.0": "1.0"}


class RequestParser:
    """One request: feed bytes until `complete`; the attributes hold what has been parsed so far."""

    def __init__(self, max_body_bytes: int) -> None:
        # Assigned one by one, because a class attribute takes several times as long to read.
        self.complete = False  # the last byte of the request has been parsed
        self.headers_complete = False
        self.scope: dict[str, Any] = {}  # ASGI connection scope, from the end of the headers on
        self.keep_alive = False  # whether the connection may be reused, as far as the parsed part says
        self.expects_continue = False
        self.chunked = False
        self.body: bytes | bytearray = bytearray()
        self.on_body: Any = self.body.extend  # called by httptools: a method in Python would double what a chunk costs
        self.remaining = 0  # bytes of a body with Content-Length that are still to come
        self.too_large = False  # the body exceeds the limit; the rest of the input cannot be parsed
        self.discards_body = False  # because the response was sent before the body
        self.header_bytes = 0
        self._max_body_bytes = max_body_bytes
        self._begun = False
        self._version = ""
        self._url = b""
        self._tail = b""  # the last bytes before the next piece: what is searched for may be split
        self._headers: list[tuple[bytes, bytes]] = []
        self._fields = 0
        self._hosts = 0  # one that is not valid counts twice
        self._length = b""
        self._message_complete = False
        self._parser: Any = httptools.HttpRequestParser(self)

    @property
    def kept_bytes(self) -> int:
        """How many bytes the fields take that the application reads."""
        return sum(len(value) + FIELD_BYTES for _, value in self._headers)

    @property
    def is_head(self) -> bool:
        """Whether the method is HEAD, as far as it has been parsed."""
        if self._parser is None:
            return self.scope.get("method") == "HEAD"
        return bool(self._parser.get_method() == b"HEAD")

    def feed(self, data: bytes) -> int:
        """Parse more of the request.

        Returns:
            How many of the bytes belong to it: all, unless it is now complete.

        Raises:
            InvalidRequest: the request is malformed or exceeds a limit; its rest cannot be parsed.
        """
        used = 0
        if not self.headers_complete:
            used = self._feed_headers(data)
            if self.complete or not self.headers_complete:
                return used
            end = used + self.remaining
            if not self.chunked and end <= len(data) and self.remaining <= self._max_body_bytes:
                self.body, self.remaining, self.complete = data[used:end], 0, True
                return end
        # More is not copied, because one of the limits is exceeded before.
        data = data[used : used + self._max_body_bytes + MAX_FRAMING_BYTES + PIECE_BYTES]
        return used + (self._feed_chunked(data) if self.chunked else self._feed_sized(data))

    def take_body(self) -> bytes:
        """Return the body, and drop it."""
        body, self.body, self.on_body = bytes(self.body), b"", None
        return body

    def release(self) -> None:
        """Drop what has been collected, and discard the rest; the parser and this object refer to each other."""
        self._parser = self.on_body = None
        self.body, self.scope, self._headers, self.discards_body = b"", {}, [], True

    # Called by httptools.

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise InvalidRequest(Reason.HEADERS_TOO_MANY, limit=MAX_FIELDS)
        if self.headers_complete:
            return  # a trailer field is never merged into the headers (RFC 9110 §6.5.1)
        name = name.lower()
        if name == b"host":
            self._hosts += 2 if value.translate(None, HOST_CHARACTERS) and not is_host(value) else 1
        elif name in KEPT_FIELDS:
            if len(value) > MAX_VALUE_BYTES and name == b"content-type":
                value = value.partition(b";")[0]
            self._headers.append((KEPT_FIELDS[name], value))
            if name == b"content-length":
                self._length = value
            elif name == b"transfer-encoding":
                self.chunked = True  # httptools requires that chunked is the last coding
        elif name == b"expect":
            self.expects_continue = value.rstrip(WHITE_SPACE).lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        self.headers_complete, self.keep_alive = True, self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        self._message_complete = True
        # Once more, because a trailer can say `Connection: close`.
        self.keep_alive = self.keep_alive and self._parser.should_keep_alive()

    # The parts of a request.

    def _feed_headers(self, data: bytes) -> int:
        skipped = 0
        if not self._begun:
            if data[0] in b"\r\n":  # empty lines may precede a request (RFC 9112 §2.2)
                begin = data.lstrip(b"\r\n")
                skipped, data = len(data) - len(begin), begin
            self._begun = bool(data)
        window = self._tail + data
        end = window.find(b"\r\n\r\n")
        used = len(data) if end < 0 else end + 4 - len(self._tail)
        self.header_bytes += skipped + used
        if self.header_bytes > MAX_HEADER_BYTES:
            excess = self.header_bytes - MAX_HEADER_BYTES
            self._execute(data[: max(0, used - excess)])  # malformed headers are malformed, whatever their size
            raise InvalidRequest(Reason.HEADERS_TOO_LARGE, limit=MAX_HEADER_BYTES)
        self._execute(data[:used])
        if not self._version and (line_end := window.find(b"\r")) >= 0:
            self._version = VERSIONS.get(window[max(0, line_end - 9) : line_end], "")
            if not self._version:
                raise InvalidRequest(Reason.MALFORMED_REQUEST)
        if self.headers_complete is not (end >= 0):
            raise InvalidRequest(Reason.MALFORMED_REQUEST)
        if self.headers_complete:
            self._check_headers()
        else:
            self._tail = window[-9:]
        return skipped + used

    def _check_headers(self) -> None:
        """Build the scope and find out how the body is framed, which decides where the request ends."""
        # Two servers that read different hosts can be played off against each other: a second one and one that is
        # not valid are rejected (RFC 9112 §3.2).
        if self._hosts != 1 and (self._hosts or self._version == "1.1"):
            raise InvalidRequest(Reason.MALFORMED_REQUEST)
        if self.header_bytes > SMALL_HEADER_BYTES and self.kept_bytes > MAX_KEPT_BYTES:
            raise InvalidRequest(Reason.HEADERS_TOO_LARGE, limit=MAX_HEADER_BYTES)
        if self._version == "1.0":
            self.keep_alive = self.expects_continue = False  # RFC 9110 §10.1.1
        url, method = self._url, self._parser.get_method()
        if url == PROFILE:  # almost always
            path, raw_path, query = "/profile", url, b""
        else:
            raw_path, query = (part[:MAX_TARGET_BYTES] for part in split_target(url))
            path = decode_path(raw_path)
        self.scope = {
            "type": "http",
            "asgi": ASGI,
            "http_version": self._version,
            "method": "POST" if method == b"POST" else method.decode("ascii"),
            "scheme": "http",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
        }
        self._url = self._tail = b""
        if self.chunked:
            self._tail, self._framing_bytes, self._empty_lines = bytes(3), 0, 0
            return
        if not self._message_complete:
            length = self._length
            self.remaining = int(length) if len(length) < 19 else declared_length(length)
        self.complete = self.remaining == 0
        self._parser = None  # a body of known length needs none

    def _feed_sized(self, data: bytes) -> int:
        used = min(self.remaining, len(data))
        self.remaining -= used
        self.complete = self.remaining == 0
        self._append(data[:used])
        return used

    def _feed_chunked(self, data: bytes) -> int:
        """Parse up to the end of the body. It is the last byte of an empty line, which is therefore parsed alone."""
        window, begin = self._tail + data, 3
        while begin < len(window) and not (self.complete or self.too_large):
            end = min(begin + PIECE_BYTES, len(window))
            empty_line = window.find(b"\r\n\r\n", begin - 3, end)
            may_end = empty_line == begin - 3
            if may_end:
                end = begin + 1
                self._empty_lines += 1
            elif empty_line >= 0:
                end = empty_line + 3
            self._framing_bytes += end - begin + len(self.body)
            self._execute(window[begin:end])
            self._framing_bytes -= len(self.body)
            if self._framing_bytes > MAX_FRAMING_BYTES or self._empty_lines > MAX_EMPTY_LINES:
                raise InvalidRequest(Reason.FRAMING_TOO_LARGE, limit=MAX_FRAMING_BYTES)
            if self._message_complete and not may_end:
                raise InvalidRequest(Reason.MALFORMED_REQUEST)
            self.complete = self._message_complete
            self._check_size()
            begin = end
        if self.complete:
            self._parser = None
        self._tail = window[begin - 3 : begin]
        return begin - 3

    def _append(self, data: bytes) -> None:
        if not self.discards_body:
            self.body += data
            self._check_size()

    def _check_size(self) -> None:
        if len(self.body) > self._max_body_bytes:
            self.too_large = True
            self.body = self.body[: self._max_body_bytes + 1]

    def _execute(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
            return
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as exc:
            # What a callback raised is the context of the parser's own error.
            cause = exc.__context__ if isinstance(exc, httptools.HttpParserCallbackError) else None
            if cause is None or isinstance(cause, httptools.HttpParserError):
                raise InvalidRequest(Reason.MALFORMED_REQUEST) from exc
            try:
                raise cause from None
            finally:
                del cause  # its traceback has this frame, which has it
        # Only here, because the context of an exception is replaced while another is handled.
        self._ignore_upgrade()

    def _ignore_upgrade(self) -> None:
        """Parse the body although the headers offer another protocol, which a server may ignore (RFC 9110 §7.8).

        Java's HttpClient makes such an offer with every request, and httptools takes the body for that protocol.
        """
        method = self._parser.get_method()
        if method == b"CONNECT":
            self.keep_alive = False  # what follows is meant for the tunnel that is refused
            return
        self._message_complete = not (self._length or self.chunked)
        if self.chunked:
            codings = [b"%b: %b\r\n" % field for field in self._headers if field[0] == b"transfer-encoding"]
            body = SimpleNamespace(
                on_header=self.on_header, on_body=self.on_body, on_message_complete=self.on_message_complete
            )
            self._parser = httptools.HttpRequestParser(body)
            self._execute(b"%b / HTTP/1.1\r\n%b\r\n" % (method, b"".join(codings)))


def is_host(value: bytes) -> bool:
    """Return whether a value has only characters of a host and port, apart from white space behind it."""
    return not value.rstrip(WHITE_SPACE).translate(None, HOST_CHARACTERS)


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Split a request target (RFC 9112 §3.2) into path and query; the path of `*` is `*`.

    Raises:
        InvalidRequest: it is neither a path nor an absolute URI.
    """
    if not target.startswith(b"/") and target != b"*":
        scheme, _, rest = target.partition(b"://")
        authority = rest.partition(b"/")[0].partition(b"?")[0].partition(b"#")[0]
        if len(authority) > MAX_AUTHORITY_BYTES:
            raise InvalidRequest(Reason.MALFORMED_REQUEST)
        try:
            httptools.parse_url(b"%b://%b/" % (scheme, authority))
        except httptools.HttpParserInvalidURLError as exc:
            raise InvalidRequest(Reason.MALFORMED_REQUEST) from exc
        target = rest[len(authority) :]
        target = target if target.startswith(b"/") else b"/" + target
    if b"#" in target:
        target = target.partition(b"#")[0]
    path, _, query = target.partition(b"?")
    return path, query


def decode_path(raw_path: bytes) -> str:
    """Decode percent-encoding."""
    path = raw_path.decode("ascii")
    return unquote(path) if "%" in path else path
