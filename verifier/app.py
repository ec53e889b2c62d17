"""HTTP: the routes, one bounded body, the three fields, one writer of errors."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib import resources
from typing import Any

import orjson
from starlette.routing import BaseRoute, Match, Router
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from verifier import __version__, files, tokens
from verifier.applications import ApplicationsSource
from verifier.encoding import json_object
from verifier.errors import InvalidRequest, Refusal, Unavailable
from verifier.keyring import KeyDirectory
from verifier.settings import MAX_BODY_BYTES, Settings
from verifier.telemetry import Request, Telemetry

RELOAD_S = 1.0

Header = tuple[bytes, bytes]
Answer = tuple[int, bytes]
# The codings that change nothing.
PLAIN = {b"content-encoding": (b"", b"identity"), b"transfer-encoding": (b"chunked",)}
JSON, NO_STORE = (b"content-type", b"application/json"), (b"cache-control", b"no-store")
CLOSE: tuple[Header, ...] = ((b"connection", b"close"),)
BUG = b'{"error":"server_error","error_description":"internal error"}'
WHOLE_BODY = "verifier.body"  # in the scope, from a server that had the body before it began


class ClientGone(Exception):
    """The client hung up; nobody is there to answer."""


class Endpoint(BaseRoute):
    """One path and its methods.

    The path is compared as a string: a pattern that ends in "$" also matches a trailing newline.
    """

    def __init__(
        self,
        path: str,
        methods: str,
        answer: Callable[[Scope, Receive, Request], Awaitable[Answer]],
        telemetry: Telemetry,
    ) -> None:
        self.path = path
        self.methods = methods.split(", ")
        self.allow = ((b"allow", methods.encode("ascii")),)
        self.answer = answer
        self.telemetry = telemetry

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        matched = scope["type"] == "http" and scope["path"] == self.path
        return (Match.FULL if matched else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(self.path)
        self.telemetry.in_flight += 1
        try:
            if scope["method"] not in self.methods:
                raise InvalidRequest(f"the method must be {', '.join(self.methods)}", status=405, headers=self.allow)
            status, body = await self.answer(scope, receive, request)
        except Refusal as refusal:
            request.refused(refusal)
            await send_refusal(send, refusal)
        except ClientGone:
            request |= {"outcome": "gone", "status": 0}
        except asyncio.CancelledError:
            # The time to shut down in has passed, and nobody else would answer.
            stopping = Unavailable("the server is stopping")
            request.refused(stopping)
            await send_refusal(send, stopping)
        except Exception as exc:  # noqa: BLE001 - nothing may pass here
            request |= {"outcome": "server_error", "status": 500, "level": "error"}
            self.telemetry.bug(exc)
            await send_answer(send, 500, BUG)
        else:
            request["status"] = status
            await send_answer(send, status, body)
        finally:
            self.telemetry.in_flight -= 1
        self.telemetry.finish(request)


class NotFound:
    """Any other path; no redirects, which could resend the secret in clear."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
            return
        request, refusal = Request(), InvalidRequest("no such path", status=404)
        request.refused(refusal)
        await send_refusal(send, refusal)
        self.telemetry.finish(request)


def answer_headers(body: bytes, headers: Iterable[Header] = ()) -> tuple[Header, ...]:
    """The headers of every answer, and these."""
    return (JSON, (b"content-length", b"%d" % len(body)), NO_STORE, *headers)


async def send_answer(send: Send, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
    """Write one JSON answer."""
    await send({"type": "http.response.start", "status": status, "headers": answer_headers(body, headers)})
    await send({"type": "http.response.body", "body": body})


async def send_refusal(send: Send, refusal: Refusal) -> None:
    """Write one error, `{"error": code, "error_description": text}`."""
    await send_answer(send, refusal.status, refusal_body(refusal), refusal.headers)


def refusal_body(refusal: Refusal) -> bytes:
    """The JSON of an error (RFC 6749 §5.2)."""
    return json_bytes({"error": refusal.code, "error_description": str(refusal)})


def json_bytes(value: object) -> bytes:
    """Compact JSON in ASCII."""
    data = orjson.dumps(value)  # 2 µs less than json
    if data.isascii() and b"\x7f" not in data:
        return data
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def check_headers(headers: Iterable[Header], max_body_bytes: int = MAX_BODY_BYTES) -> None:
    """Refuse a body that is not plain `application/json` or says it is too long; raises InvalidRequest."""
    types = []
    for name, value in headers:
        if name == b"content-type":
            types.append(value.partition(b";")[0].strip().lower())
        elif name in PLAIN and value.strip().lower() not in PLAIN[name]:
            raise InvalidRequest("the body must not be encoded", status=415)
        elif name == b"content-length" and int(value) > max_body_bytes:
            raise too_large(max_body_bytes)
    if types != [b"application/json"]:
        raise InvalidRequest("the Content-Type must be application/json", status=415)


def too_large(max_body_bytes: int) -> InvalidRequest:
    """The one refusal of a long body, announced or not."""
    return InvalidRequest(f"the body is over {max_body_bytes} bytes", status=413, headers=CLOSE)


async def read_body(receive: Receive, max_body_bytes: int, timeout_s: float) -> bytes:
    """The whole body; raises InvalidRequest when it is too long or too slow, ClientGone when it ends early."""
    body = b""
    try:
        async with asyncio.timeout(timeout_s):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                if len(body) > max_body_bytes:
                    raise too_large(max_body_bytes)
                more = message.get("more_body", False)
    except TimeoutError:
        text = f"the body was not here within {timeout_s:g} s"
        raise InvalidRequest(text, status=408, headers=CLOSE) from None
    return body


def parse_body(body: bytes) -> tuple[str, str, str]:
    """code, secretKey and applicationId as escs sends them; other members are ignored. Raises InvalidRequest."""
    try:
        members = json_object(body)
    except ValueError as exc:
        if not body:  # taken away on its way, which is not the sender's mistake
            raise InvalidRequest("the body is empty") from exc
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
        self.applications.load()
        paths = (settings.keys / "public", settings.applications or settings.secret_key_file)
        self.alone = [file for path in paths if path for file in files.mounted_alone(path)]
        self.telemetry = Telemetry(settings)
        self._reload = asyncio.Event()
        self._close_metrics = self._listen_for_metrics() if settings.metrics_port else lambda: None
        self.openapi = resources.files("verifier").joinpath("openapi.json").read_bytes()

    def _listen_for_metrics(self) -> Callable[[], None]:
        from verifier.metrics import Metrics

        told = self.telemetry
        metrics = Metrics(
            self.keys,
            self.applications,
            self.settings.leeway_s,
            {
                "verifier_requests_in_flight": ("Requests that have no answer yet.", lambda: told.in_flight),
                "verifier_reload_timestamp_seconds": ("When files were last read.", lambda: told.reloaded_at),
                "verifier_reload_duration_seconds": ("How long that took.", lambda: told.reload_s),
                "verifier_reload_failures_total": ("Readings that failed.", lambda: told.reload_failures),
                "verifier_log_lines_dropped_total": ("Log lines that nobody read.", lambda: told.output.dropped),
                "verifier_clock_timestamp_seconds": ("The clock that tokens are held against.", time.time),
                "verifier_files_mounted_alone": ("Files whose changes never arrive.", lambda: len(self.alone)),
            },
        )
        told.metrics = metrics
        return metrics.listen(self.settings.host, self.settings.metrics_port)

    async def profile(self, scope: Scope, receive: Receive, request: Request) -> Answer:
        """escs asks who a token is: `{"_id", "email"?, "username"?}`."""
        settings = self.settings
        if self.telemetry.in_flight > settings.max_requests:
            raise Unavailable("too many requests at once")
        check_headers(scope["headers"], settings.max_body_bytes)
        body = scope.get(WHOLE_BODY)
        if body is None:
            body = await read_body(receive, settings.max_body_bytes, settings.body_timeout_s)
        code, secret, application_id = parse_body(body)
        applications = self.applications.applications
        if application_id in applications.by_id:
            request["application"] = application_id
        request["slot"] = applications.authenticate(application_id=application_id, secret=secret) + 1
        policy = tokens.Policy(
            settings.issuer,
            application_id,
            self.keys.keyring,
            time.time(),
            settings.leeway_s,
            settings.max_lifetime_s,
        )
        player = tokens.verify(code, policy)
        request["kid"] = player.kid
        profile = {"_id": player.id}
        if player.email is not None:
            profile["email"] = player.email
        if player.username is not None:
            profile["username"] = player.username
        return 200, json_bytes(profile)

    async def healthz(self, _scope: Scope, _receive: Receive, request: Request) -> Answer:
        """The process answers."""
        request["level"] = "debug"
        return 200, b'{"status":"alive"}'

    async def readyz(self, _scope: Scope, _receive: Receive, request: Request) -> Answer:
        """Whether a sign-in can succeed, and which key set is loaded."""
        keyring = self.keys.keyring
        usable = len(keyring.usable(int(time.time()), self.settings.leeway_s))
        applications = len(self.applications.applications.by_id)
        ready = bool(usable and applications)
        request["level"] = "debug" if ready else "error"
        return (200 if ready else 503), json_bytes(
            {
                "status": "ready" if ready else "not ready",
                "usable_keys": usable,
                "applications": applications,
                "key_set_digest": keyring.digest,
                "problems": len(self.keys.problems) + len(self.applications.problems),
            }
        )

    async def jwks(self, _scope: Scope, _receive: Receive, request: Request) -> Answer:
        """The public keys it trusts now, or will from their nbf on (RFC 7517 §5)."""
        request["level"] = "debug"
        keyring = self.keys.keyring
        return 200, json_bytes({"keys": keyring.jwks(int(time.time())), "key_set_digest": keyring.digest})

    async def describe(self, _scope: Scope, _receive: Receive, request: Request) -> Answer:
        """The contract as OpenAPI."""
        request["level"] = "debug"
        return 200, self.openapi

    @asynccontextmanager
    async def lifespan(self, _app: Any) -> AsyncIterator[dict[str, "Verifier"]]:
        """Say what runs, and watch the files while it does."""
        self._started()
        self.telemetry.soon = asyncio.get_running_loop().call_soon
        task = asyncio.create_task(self._watch())
        with _on_hup(self._reload.set):
            try:
                yield {"verifier": self}
            finally:
                task.cancel()
                self._close_metrics()
                self.telemetry.flush()
                self.telemetry.log.info("stop", pid=os.getpid())

    def _started(self) -> None:
        settings, keyring, now = self.settings, self.keys.keyring, int(time.time())
        self.telemetry.log.info(
            "start",
            version=__version__,
            pid=os.getpid(),
            settings=settings.shown(),
            applications={a.id: len(a.secrets) for a in self.applications.applications.by_id.values()},
            keys={key.kid: keyring.stage(key, now) for key in keyring.keys.values()},
            key_set_digest=keyring.digest,
        )
        frozen = [f"{path}: is mounted by itself (subPath): changes to it never arrive" for path in self.alone]
        self._tell_problems((), [*self.applications.applications.weaknesses(), *frozen])

    async def _watch(self) -> None:
        while True:
            asked = False
            with suppress(TimeoutError):
                asked = await asyncio.wait_for(self._reload.wait(), RELOAD_S)
            self._reload.clear()
            told, began = self.telemetry, time.perf_counter()
            try:
                await asyncio.to_thread(self.refresh, asked)
                told.reloaded_at, told.reload_s = time.time(), time.perf_counter() - began
            except Exception as exc:  # noqa: BLE001 - a reload that fails must not be the last
                told.reload_failures += 1
                told.log.error("reload failed", error=type(exc).__name__)

    def refresh(self, asked: bool = False) -> None:
        """Take in what is in the files now, and say so when it changed or somebody asked."""
        log = self.telemetry.log
        if self.keys.refresh() or asked:
            keyring = self.keys.keyring
            log.info("reload", what="keys", count=len(keyring.keys), key_set_digest=keyring.digest)
            self._tell_problems(self.keys.problems)
        if self.applications.refresh() or asked:
            applications = self.applications.applications
            log.info("reload", what="applications", count=len(applications.by_id))
            self._tell_problems(self.applications.problems, applications.weaknesses())

    def _tell_problems(self, problems: Iterable[str], weaknesses: Iterable[str] = ()) -> None:
        for problem in problems:
            self.telemetry.log.error("problem", problem=problem)
        for problem in weaknesses:
            self.telemetry.log.warning("problem", problem=problem)


@contextmanager
def _on_hup(call: Callable[[], object]) -> Iterator[None]:
    """SIGHUP calls this, where the system has that signal."""
    if not hasattr(signal, "SIGHUP"):  # pragma: no cover - Windows
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, call)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # while it drains


def create_app(settings: Settings) -> Router:
    """The ASGI application; raises ConfigError when its keys or applications cannot be used."""
    verifier = Verifier(settings)
    telemetry = verifier.telemetry
    return Router(
        [
            Endpoint("/profile", "POST", verifier.profile, telemetry),
            Endpoint("/healthz", "GET, HEAD", verifier.healthz, telemetry),
            Endpoint("/readyz", "GET, HEAD", verifier.readyz, telemetry),
            Endpoint("/.well-known/jwks.json", "GET, HEAD", verifier.jwks, telemetry),
            Endpoint("/openapi.json", "GET, HEAD", verifier.describe, telemetry),
        ],
        redirect_slashes=False,
        default=NotFound(telemetry),
        lifespan=verifier.lifespan,
    )
