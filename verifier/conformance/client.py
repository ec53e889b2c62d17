"""The HTTP client: one request on a connection of its own, with one deadline and a size limit.

Follows no redirect and uses no proxy, because either could send the secret elsewhere.
"""

import functools
import http.client
import io
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from verifier.conformance.causes import Cause, ResponseTooLargeError, explain_failure, explain_no_json
from verifier.conformance.messages import JSON_TYPE, Request, Response, Url

MAX_RESPONSE_BYTES = 1_048_576  # head and body
_CHUNK_BYTES = 65_536


class NoResponseError(Exception):
    """No usable HTTP response arrived; `cause` has what to do about it. Text of the other party in it is escaped."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.text)
        self.cause = cause


def get(url: str, *, timeout_s: float, max_bytes: int = MAX_RESPONSE_BYTES) -> Response:
    """Send a GET request without credentials, so that plain http is accepted for every host.

    Args:
        url: An absolute http or https URL.
        timeout_s: From the start of the name lookup to the last byte of the response.
        max_bytes: Limit for the head and the body of the response together.

    Raises:
        ValueError: the URL cannot be used.
        NoResponseError: no complete response arrived within the time and the size.
    """
    request = Request(method="GET", headers={})
    return send(Url.parse(url, allow_http=True), request, timeout_s=timeout_s, max_bytes=max_bytes)


def get_json(url: str, *, timeout_s: float) -> tuple[Response, dict[str, Any]]:
    """Send a GET request; return the response and the JSON object in it.

    Raises:
        ValueError: the URL cannot be used.
        NoResponseError: no complete response arrived, or it is a redirect or not a JSON object.
    """
    response = get(url, timeout_s=timeout_s)
    if response.is_redirect or response.members is None:
        raise NoResponseError(explain_no_json(response, Url.parse(url, allow_http=True)))
    return response, response.members


def send(
    url: Url,
    request: Request,
    *,
    timeout_s: float,
    tls: ssl.SSLContext | None = None,
    max_bytes: int = MAX_RESPONSE_BYTES,
) -> Response:
    """Send a request and read its response; `tls` replaces the default context.

    Raises:
        NoResponseError: no complete response arrived within the time and the size.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with _connect(url, deadline) as sock:
            if url.https:
                context = tls or ssl.create_default_context()
                with context.wrap_socket(sock, server_hostname=url.host, do_handshake_on_connect=False) as tls_sock:
                    tls_sock.settimeout(_remaining(deadline))
                    tls_sock.do_handshake()
                    response = _interact(_Stream(tls_sock, deadline, max_bytes), url, request)
                    return replace(response, certificate_days=_certificate_days(tls_sock))
            return _interact(_Stream(sock, deadline, max_bytes), url, request)
    except (OSError, http.client.HTTPException, UnicodeError) as exc:
        raise NoResponseError(explain_failure(exc, url, timeout_s)) from exc


def _remaining(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _connect(url: Url, deadline: float) -> socket.socket:
    """Connect to the first address that accepts; each gets an equal share of the remaining time."""
    addresses = _resolve(url, deadline)
    for left in range(len(addresses), 1, -1):
        with suppress(OSError):
            return socket.create_connection(addresses[-left], _remaining(deadline) / left)
    return socket.create_connection(addresses[-1], _remaining(deadline))


def _resolve(url: Url, deadline: float) -> list[tuple[str, int]]:
    """Look the name up in a thread, because getaddrinfo has no timeout."""
    outcome: list[Any] = []

    def look_up() -> None:
        try:
            outcome.append(socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as exc:
            outcome.append(exc)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(_remaining(deadline))
    if not outcome:
        raise TimeoutError
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return [address[:2] for *_, address in outcome[0]]


def _certificate_days(sock: ssl.SSLSocket) -> float:
    ends = ssl.cert_time_to_seconds(str((sock.getpeercert() or {})["notAfter"]))
    return (ends - time.time()) / 86_400


class _Stream(io.RawIOBase):
    """What http.client uses of a socket, with one deadline for all calls together and a limit of bytes to read."""

    def __init__(self, sock: socket.socket, deadline: float, max_bytes: int) -> None:
        self._sock = sock
        self._deadline = deadline
        self._max_bytes = max_bytes
        self._received = 0

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._sock.settimeout(_remaining(self._deadline))
            view = view[self._sock.send(view) :]

    def makefile(self, _mode: str) -> io.BufferedIOBase:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(_remaining(self._deadline))
        size = self._sock.recv_into(buffer)
        self._received += size
        if self._received > self._max_bytes:
            raise ResponseTooLargeError(self._max_bytes)
        return size

    def close(self) -> None:
        """Do nothing, because http.client calls it before it reads the body; `send` closes the socket."""


def _interact(stream: _Stream, url: Url, request: Request) -> Response:
    # HTTPSConnection for https, because the Host header omits only the default port of the class.
    kind = http.client.HTTPSConnection if url.https else http.client.HTTPConnection
    connection: Any = kind(url.host, url.port)
    connection.sock = stream
    started = time.monotonic()
    headers = {"Accept": JSON_TYPE, "User-Agent": "verifier", "Connection": "close"} | dict(request.headers)
    body = [request.body] if request.chunked else request.body or None
    # Some servers respond and close before reading the body; the response may still be readable.
    with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
        connection.request(request.method, url.target(toggle_slash=request.toggle_slash), body, headers)
    response = connection.getresponse()
    with response:
        # In chunks, because http.client allocates as much as Content-Length announces.
        content = b"".join(iter(functools.partial(response.read, _CHUNK_BYTES), b""))
        if response.length:
            raise http.client.IncompleteRead(content, response.length)
    headers = {name.lower(): ", ".join(response.headers.get_all(name, [])) for name in response.headers}
    return Response(response.status, headers, content, time.monotonic() - started)
