"""ASGI plumbing: exact-match routing, bounded request bodies, JSON responses and the one writer of errors."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match, Router
from starlette.types import Lifespan, Receive, Scope, Send

from verifier.errors import ApiError, InternalError, InvalidRequest, Reason, ServiceUnavailableError
from verifier.server.log import AccessLogEntry, Telemetry
from verifier.server.settings import MAX_BODY_BYTES

Header = tuple[bytes, bytes]
Response = tuple[int, bytes]  # status and JSON body
IDENTITY_CODINGS = {b"content-encoding": (b"", b"identity"), b"transfer-encoding": (b"chunked",)}
JSON, NO_STORE = (b"content-type", b"application/json"), (b"cache-control", b"no-store")
CLOSE: tuple[Header, ...] = ((b"connection", b"close"),)
INTERNAL_ERROR = InternalError()
BUFFERED_BODY = "verifier.body"  # scope key: complete body, set by a server that buffered it before calling the app


@dataclass(frozen=True, eq=False)
class Endpoint(BaseRoute):
    """One path and its methods.

    The path is compared as a string: a pattern that ends in "$" also matches a trailing newline.
    """

    path: str
    methods: tuple[str, ...]
    handler: Callable[[Scope, Receive, AccessLogEntry], Awaitable[Response]]
    telemetry: Telemetry

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        matched = scope["type"] == "http" and route_path(scope) == self.path
        return (Match.FULL if matched else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = AccessLogEntry(self.path)
        self.telemetry.in_flight += 1
        try:
            if scope["method"] not in self.methods:
                allow = ((b"allow", ", ".join(self.methods).encode()),)
                raise InvalidRequest(Reason.METHOD_NOT_ALLOWED, allow, methods=" or ".join(self.methods))
            status, body = await self.handler(scope, receive, request)
        except ApiError as error:
            await send_error(send, request, error)
        except ClientDisconnect:
            request |= {"outcome": "client_disconnected", "status": 0}
        except asyncio.CancelledError:
            # Graceful-shutdown timeout expired: respond before this task is cancelled.
            await send_error(send, request, ServiceUnavailableError(Reason.SHUTTING_DOWN))
        except Exception as exc:  # noqa: BLE001 - the last handler: nothing may pass here
            self.telemetry.log_exception(exc)
            await send_error(send, request, INTERNAL_ERROR)
        else:
            request["status"] = status
            await send_json(send, status, body)
        finally:
            self.telemetry.in_flight -= 1
        self.telemetry.record(request)


def route_path(scope: Scope) -> str:
    """Return the path without the prefix that the application is mounted under, as Starlette does."""
    path: str = scope["path"]
    prefix = scope.get("root_path", "").rstrip("/")
    if not prefix:
        return path
    rest = path.removeprefix(prefix)
    return rest if rest != path and rest[:1] in ("", "/") else path


class ExactRouter(Router):
    """Starlette's router, which finds an endpoint by its path at once instead of comparing them one by one (2 µs)."""

    def __init__(self, endpoints: Sequence[Endpoint], telemetry: Telemetry, lifespan: Lifespan[Any]) -> None:
        super().__init__(endpoints, redirect_slashes=False, lifespan=lifespan)
        self.by_path = {endpoint.path: endpoint for endpoint in endpoints}
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self.by_path.get(route_path(scope)) if scope["type"] == "http" else None
        if endpoint is None:
            await super().__call__(scope, receive, send)
        else:
            await endpoint.handle(scope, receive, send)

    async def not_found(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond 404 to any other path, without redirects: a redirect could resend the secret in clear text."""
        if scope["type"] == "websocket":
            await super().not_found(scope, receive, send)
            return
        request = AccessLogEntry()
        await send_error(send, request, InvalidRequest(Reason.NOT_FOUND))
        self.telemetry.record(request)


def response_headers(body: bytes, headers: Iterable[Header] = ()) -> tuple[Header, ...]:
    """Return the headers of every response, followed by `headers`."""
    return (JSON, (b"content-length", b"%d" % len(body)), NO_STORE, *headers)


async def send_json(send: Send, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
    """Send a JSON response."""
    await send({"type": "http.response.start", "status": status, "headers": response_headers(body, headers)})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, request: AccessLogEntry, error: ApiError) -> None:
    """Record and send an error response, `{"error": code, "error_description": text}`."""
    request.record_error(error)
    await send_json(send, error.status, error_body(error), error.headers)


def error_body(error: ApiError) -> bytes:
    """Encode an error as JSON (RFC 6749 §5.2)."""
    return json_bytes({"error": error.code, "error_description": str(error)})


def json_bytes(value: object) -> bytes:
    """Encode as compact JSON in ASCII."""
    data = orjson.dumps(value)  # 2 µs less than json
    if data.isascii() and b"\x7f" not in data:
        return data
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def check_headers(headers: Iterable[Header], max_body_bytes: int = MAX_BODY_BYTES) -> None:
    """Check that the headers announce an unencoded `application/json` body within the limit.

    Raises:
        InvalidRequest: 415 for another media type or an encoding, 413 for a declared length over the limit.
    """
    types = []
    for name, value in headers:
        if name == b"content-type":
            types.append(value.partition(b";")[0].strip().lower())
        elif name in IDENTITY_CODINGS and value.strip().lower() not in IDENTITY_CODINGS[name]:
            raise InvalidRequest(Reason.BODY_ENCODED)
        elif name == b"content-length" and declared_length(value) > max_body_bytes:
            raise too_large(max_body_bytes)
    if types != [b"application/json"]:
        raise InvalidRequest(Reason.MEDIA_TYPE_UNSUPPORTED)


def declared_length(value: bytes) -> int:
    """Parse the value of Content-Length, of any number of digits: `int` refuses more than 4,300.

    Raises:
        InvalidRequest: it is not a number.
    """
    if not value.isdigit():
        value = value.rstrip(b" \t")  # no part of it (RFC 9110 §5.5), but httptools leaves it there
        if not value.isdigit():
            raise InvalidRequest(Reason.MALFORMED_REQUEST)
    digits = value.lstrip(b"0")
    return int(digits or b"0") if len(digits) < 19 else sys.maxsize


def too_large(max_body_bytes: int) -> InvalidRequest:
    """Build the 413 for a declared or an actual body over the limit."""
    return InvalidRequest(Reason.BODY_TOO_LARGE, CLOSE, limit=max_body_bytes)


async def read_body(receive: Receive, max_body_bytes: int, timeout_s: float) -> bytes:
    """Read the complete body.

    Raises:
        InvalidRequest: 413 for a body over the limit, 408 for one that is not complete within `timeout_s`.
        ClientDisconnect: the client disconnected before the body was complete.
    """
    body = b""
    try:
        async with asyncio.timeout(timeout_s):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body += message.get("body", b"")
                if len(body) > max_body_bytes:
                    raise too_large(max_body_bytes)
                more = message.get("more_body", False)
    except TimeoutError:
        raise InvalidRequest(Reason.BODY_TIMEOUT, CLOSE, limit=f"{timeout_s:g}") from None
    return body
