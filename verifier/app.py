"""HTTP: the routes, one bounded body, the three fields, one writer of errors."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from starlette.routing import BaseRoute, Match, Router
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from verifier import tokens
from verifier.applications import ApplicationsSource
from verifier.encoding import json_object
from verifier.errors import InvalidRequest, Refusal
from verifier.keyring import KeyDirectory
from verifier.settings import Settings

MAX_BODY_BYTES = 16_384
BODY_TIMEOUT_S = 5.0
LINGER_S = 2.0
RELOAD_S = 1.0

log = logging.getLogger("verifier")

Header = tuple[bytes, bytes]
Answer = tuple[int, bytes]
# The codings that change nothing.
PLAIN = {b"content-encoding": (b"", b"identity"), b"transfer-encoding": (b"chunked",)}
CLOSE: tuple[Header, ...] = ((b"connection", b"close"),)


class ClientGone(Exception):
    """The client hung up; nobody is there to answer."""


class Endpoint(BaseRoute):
    """One path and its methods.

    The path is compared as a string: a pattern that ends in "$" also matches a trailing newline.
    """

    def __init__(self, path: str, methods: str, answer: Callable[[Scope, Receive], Awaitable[Answer]]) -> None:
        self.path = path
        self.methods = methods  # as in Allow
        self.answer = answer

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        matched = scope["type"] == "http" and scope["path"] == self.path
        return (Match.FULL if matched else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] not in self.methods.split(", "):
                allow = ((b"allow", self.methods.encode("ascii")),)
                raise InvalidRequest(f"the method must be {self.methods}", status=405, headers=allow)
            status, body = await self.answer(scope, receive)
        except Refusal as refusal:
            await send_refusal(refusal, receive, send)
        except ClientGone:
            pass
        except Exception as exc:  # noqa: BLE001
            # Nothing may pass here. No message and no traceback in the log: they could quote the request.
            frame = exc.__traceback__
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            where = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "?"
            log.error("bug: %s at %s", type(exc).__name__, where)
            await send_answer(send, 500, b'{"error":"server_error","error_description":"internal error"}')
        else:
            await send_answer(send, status, body)


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Any other path; no redirects, which could resend the secret in clear."""
    if scope["type"] == "websocket":
        await WebSocketClose()(scope, receive, send)
    else:
        await send_refusal(InvalidRequest("no such path", status=404), receive, send)


async def send_answer(send: Send, status: int, body: bytes, headers: Iterable[Header] = (), more: bool = False) -> None:
    """Write one JSON answer."""
    start = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def send_refusal(refusal: Refusal, receive: Receive, send: Send) -> None:
    """Write one error, `{"error": code, "error_description": text}`."""
    body = refusal_body(refusal)
    closing = CLOSE[0] in refusal.headers
    await send_answer(send, refusal.status, body, refusal.headers, more=closing)
    if closing:
        # The rest of the body is on its way. Closing now would reset the connection, and the
        # client could lose the answer it has not read yet.
        try:
            async with asyncio.timeout(LINGER_S):
                while (await receive()).get("more_body"):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b""})


def refusal_body(refusal: Refusal) -> bytes:
    """The JSON of an error (RFC 6749 §5.2)."""
    return json_bytes({"error": refusal.code, "error_description": str(refusal)})


def json_bytes(value: object) -> bytes:
    """Compact JSON in ASCII."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def check_headers(headers: Iterable[Header]) -> None:
    """Refuse a body that is not plain `application/json` or says it is too long; raises InvalidRequest."""
    types = []
    for name, value in headers:
        if name == b"content-type":
            types.append(value.partition(b";")[0].strip().lower())
        elif name in PLAIN and value.strip().lower() not in PLAIN[name]:
            raise InvalidRequest("the body must not be encoded", status=415)
        elif name == b"content-length" and int(value) > MAX_BODY_BYTES:
            raise too_large()
    if types != [b"application/json"]:
        raise InvalidRequest("the Content-Type must be application/json", status=415)


def too_large() -> InvalidRequest:
    """The one refusal of a long body, announced or not."""
    return InvalidRequest(f"the body is over {MAX_BODY_BYTES} bytes", status=413, headers=CLOSE)


async def read_body(receive: Receive) -> bytes:
    """The whole body; raises InvalidRequest when it is too long or too slow, ClientGone when it ends early."""
    body = b""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise too_large()
                more = message.get("more_body", False)
    except TimeoutError:
        text = f"the body was not here within {BODY_TIMEOUT_S:g} s"
        raise InvalidRequest(text, status=408, headers=CLOSE) from None
    return body


def parse_body(body: bytes) -> tuple[str, str, str]:
    """code, secretKey and applicationId as escs sends them; other members are ignored. Raises InvalidRequest."""
    try:
        members = json_object(body)
    except ValueError as exc:
        raise InvalidRequest(f"the body {exc}") from exc
    for name in ("code", "secretKey", "applicationId"):
        if not isinstance(members.get(name), str) or not members[name]:
            raise InvalidRequest(f"{name} must be a non-empty string")
    return members["code"], members["secretKey"], members["applicationId"]


class Verifier:
    """What the endpoints share: settings, keys and applications, each read again when its files change."""

    def __init__(self, settings: Settings) -> None:
        """Read everything; raises ConfigError when anything is wrong."""
        self.settings = settings
        self.keys = KeyDirectory(settings.keys / "public")
        self.applications = ApplicationsSource(settings)
        self.keys.load()
        self._warn_about(self.applications.load().weaknesses())
        self.openapi = resources.files("verifier").joinpath("openapi.json").read_bytes()

    async def profile(self, scope: Scope, receive: Receive) -> Answer:
        """escs asks who a token is: `{"_id", "email"?, "username"?}`."""
        check_headers(scope["headers"])
        code, secret, application_id = parse_body(await read_body(receive))
        self.applications.applications.authenticate(application_id=application_id, secret=secret)
        settings = self.settings
        policy = tokens.Policy(
            settings.issuer,
            application_id,
            self.keys.keyring,
            int(time.time()),
            settings.leeway_s,
            settings.max_lifetime_s,
        )
        player = tokens.verify(code, policy)
        profile = {"_id": player.id, "email": player.email, "username": player.username}
        return 200, json_bytes({name: value for name, value in profile.items() if value is not None})

    async def healthz(self, _scope: Scope, _receive: Receive) -> Answer:
        """The process answers."""
        return 200, b'{"status":"alive"}'

    async def readyz(self, _scope: Scope, _receive: Receive) -> Answer:
        """Whether a sign-in can succeed, and which key set is loaded."""
        keyring = self.keys.keyring
        usable = len(keyring.usable(int(time.time()), self.settings.leeway_s))
        applications = len(self.applications.applications.by_id)
        ready = bool(usable and applications)
        return (200 if ready else 503), json_bytes(
            {
                "status": "ready" if ready else "not ready",
                "usable_keys": usable,
                "applications": applications,
                "key_set_digest": keyring.digest,
                "problems": len(self.keys.problems) + len(self.applications.problems),
            }
        )

    async def jwks(self, _scope: Scope, _receive: Receive) -> Answer:
        """The public keys it trusts now, or will from their nbf on (RFC 7517 §5)."""
        keyring = self.keys.keyring
        return 200, json_bytes({"keys": keyring.jwks(int(time.time())), "key_set_digest": keyring.digest})

    async def describe(self, _scope: Scope, _receive: Receive) -> Answer:
        """The contract as OpenAPI."""
        return 200, self.openapi

    @asynccontextmanager
    async def lifespan(self, _app: Any) -> AsyncIterator[None]:
        """Watch the files while the server runs."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_S)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as exc:  # noqa: BLE001 - a reload that fails must not be the last
                log.error("reload failed: %s", type(exc).__name__)

    def refresh(self) -> None:
        """Take in what is in the files now, and say so when it changed."""
        if self.keys.refresh():
            log.info("keys reloaded: %d, digest %s", len(self.keys.keyring.keys), self.keys.keyring.digest[:16])
            self._warn_about(self.keys.problems)
        if self.applications.refresh():
            log.info("applications reloaded: %d", len(self.applications.applications.by_id))
            self._warn_about((*self.applications.problems, *self.applications.applications.weaknesses()))

    def _warn_about(self, problems: Iterable[str]) -> None:
        for problem in problems:
            log.warning("%s", problem)


def create_app(settings: Settings) -> Router:
    """The ASGI application; raises ConfigError when its keys or applications cannot be used."""
    verifier = Verifier(settings)
    return Router(
        [
            Endpoint("/profile", "POST", verifier.profile),
            Endpoint("/healthz", "GET, HEAD", verifier.healthz),
            Endpoint("/readyz", "GET, HEAD", verifier.readyz),
            Endpoint("/.well-known/jwks.json", "GET, HEAD", verifier.jwks),
            Endpoint("/openapi.json", "GET, HEAD", verifier.describe),
        ],
        redirect_slashes=False,
        default=not_found,
        lifespan=verifier.lifespan,
    )
