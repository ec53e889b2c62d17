"""The five endpoints, and the ASGI application that serves them."""

import functools
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from starlette.routing import Router
from starlette.types import Receive, Scope

from verifier._version import __version__
from verifier.core import rules, tokens
from verifier.core.encoding import DecodeError, loads_object
from verifier.core.keyring import Keyring
from verifier.errors import InvalidRequest, Reason, ServiceUnavailableError
from verifier.server.asgi import BUFFERED_BODY, Endpoint, ExactRouter, Response, check_headers, json_bytes, read_body
from verifier.server.log import AccessLogEntry, Telemetry
from verifier.server.reload import Reloader, sighup_handler
from verifier.server.settings import Settings

REQUIRED_MEMBERS = {
    "code": Reason.CODE_MISSING,
    "secretKey": Reason.SECRET_KEY_MISSING,
    "applicationId": Reason.APPLICATION_ID_MISSING,
}


def parse_body(body: bytes) -> tuple[str, str, str]:
    """Parse what escs posts into code, secretKey and applicationId; other members are ignored.

    Raises:
        InvalidRequest: the body is not a JSON object, or a member is missing, empty or not a string.
    """
    try:
        members = loads_object(body)
    except DecodeError as exc:
        # An empty body was probably stripped by a proxy, which is not the sender's mistake.
        raise InvalidRequest(Reason(f"body_{exc.cause}") if body else Reason.BODY_EMPTY) from exc
    for name, missing in REQUIRED_MEMBERS.items():
        if not isinstance(members.get(name), str) or not members[name]:
            raise InvalidRequest(missing)
    return members["code"], members["secretKey"], members["applicationId"]


@functools.lru_cache(1)
def jwks_document(keyring: Keyring, now: int) -> bytes:
    """Encode the JWK Set, once a second: of 1,000 keys it takes 13 sign-ins, and 300 KB for each slow reader."""
    return json_bytes({"keys": keyring.jwks(now), "key_set_digest": keyring.digest})


class Service:
    """What the endpoints share: the settings, the loaded keys and applications, and the telemetry."""

    def __init__(self, settings: Settings, *, embedded: bool = False) -> None:
        """Read everything.

        Raises:
            ConfigError: a file is missing or invalid, or the metrics port cannot be bound.
        """
        self.settings, self._embedded = settings, embedded
        self.telemetry = Telemetry(settings)
        self.files = Reloader(settings, self.telemetry, self._log_start)
        self._close_metrics = self._listen_for_metrics() if settings.metrics_port else lambda: None
        document = resources.files("verifier.server").joinpath("openapi.json").read_bytes()
        self.openapi_document = json_bytes(json.loads(document))

    def _listen_for_metrics(self) -> Callable[[], None]:
        from verifier.server.metrics import Metrics
        from verifier.server.scrapes import listen

        metrics = Metrics(self.files, self.settings.leeway_s)
        self.telemetry.count = metrics.count
        return listen(metrics.registry, self.settings.host, self.settings.metrics_port)

    async def profile(self, scope: Scope, receive: Receive, request: AccessLogEntry) -> Response:
        """Handle POST /profile: authenticate escs, verify the token, return the profile."""
        settings = self.settings
        if self.telemetry.in_flight > settings.max_requests:
            raise ServiceUnavailableError(Reason.TOO_MANY_REQUESTS)
        check_headers(scope["headers"], settings.max_body_bytes)
        body = scope.get(BUFFERED_BODY)
        if body is None:
            body = await read_body(receive, settings.max_body_bytes, settings.body_timeout_s)
        now = time.time()
        if not self.files.is_current(now):
            await self.files.catch_up()
            now = time.time()
        # Only now: parsed, a body can take five times its size, and it would do so while a read hangs.
        code, secret, application_id = parse_body(body)
        applications = self.files.applications.applications
        if application_id in applications.by_id:
            request["application"] = application_id
        request["slot"] = applications.authenticate(application_id=application_id, secret=secret) + 1
        policy = rules.Policy(
            settings.issuer, application_id, self.files.keys.keyring, now, settings.leeway_s, settings.max_lifetime_s
        )
        player = tokens.verify(code, policy)
        request["kid"] = player.kid
        profile = {"_id": player.id}
        if player.email is not None:
            profile["email"] = player.email
        if player.username is not None:
            profile["username"] = player.username
        return 200, json_bytes(profile)

    async def healthz(self, _scope: Scope, _receive: Receive, request: AccessLogEntry) -> Response:
        """Liveness: the process responds."""
        request["level"] = "debug"
        return 200, b'{"status":"alive"}'

    async def readyz(self, _scope: Scope, _receive: Receive, request: AccessLogEntry) -> Response:
        """Readiness: a sign-in can succeed, with which keys and under which settings."""
        files, settings = self.files, self.settings
        stale = False
        if not files.is_current(time.time()):
            try:
                await files.catch_up()
            except ServiceUnavailableError:
                stale = True
        keyring = files.keys.keyring
        usable = len(keyring.verification_keys(int(time.time()), settings.leeway_s))
        applications = len(files.applications.applications.by_id)
        ready = bool(usable and applications) and not stale
        request["level"] = "debug" if ready else "error"
        return (200 if ready else 503), json_bytes(
            {
                "status": "ready" if ready else "not ready",
                "usable_keys": usable,
                "applications": applications,
                "key_set_digest": keyring.digest,
                "last_read_age_s": round(max(0.0, files.age_s()), 3),
                "problems": len(files.keys.problems) + len(files.applications.problems),
                "hung_reads": sum(reader.overdue for reader in files.readers),
                "undone_revocations": len(files.keys.undone_revocations),
                "settings": {
                    "max_lifetime_s": settings.max_lifetime_s,
                    "leeway_s": settings.leeway_s,
                    "max_staleness_s": settings.max_staleness_s,
                },
                "version": __version__,
            }
        )

    async def jwks(self, _scope: Scope, _receive: Receive, request: AccessLogEntry) -> Response:
        """The public keys that are trusted now or will be from their nbf on, as a JWK Set (RFC 7517 §5)."""
        request["level"] = "debug"
        if not self.files.is_current(time.time()):
            await self.files.catch_up()
        return 200, jwks_document(self.files.keys.keyring, int(time.time()))

    async def openapi(self, _scope: Scope, _receive: Receive, request: AccessLogEntry) -> Response:
        """The HTTP interface as OpenAPI."""
        request["level"] = "debug"
        return 200, self.openapi_document

    @asynccontextmanager
    async def lifespan(self, _app: Any) -> AsyncIterator[dict[str, "Service"]]:
        """Start reading before the first request; stop it and write the last lines at shutdown."""
        self.files.start()
        with sighup_handler(self.files.request):
            try:
                yield {"service": self}
            finally:
                self.files.stop()
                self._close_metrics()
                self.telemetry.flush()
                self.telemetry.log.info("stop", pid=os.getpid())

    def _log_start(self) -> None:
        keyring, applications, now = self.files.keys.keyring, self.files.applications.applications, int(time.time())
        self.telemetry.log.info(
            "start",
            version=__version__,
            pid=os.getpid(),
            settings=self.settings.to_log(embedded=self._embedded),
            applications={a.id: len(a.secrets) for a in applications.by_id.values()},
            keys=keyring.states(now),
            key_set_digest=keyring.digest,
        )
        unwatchable = [
            f"{path}: is bind-mounted as a single file (subPath); changes to it never arrive"
            for path in self.files.bind_mounted_files
        ]
        self.files.log_problems((), [*self.settings.warnings, *applications.weaknesses(), *unwatchable])


def create_app(settings: Settings) -> Router:
    """Create the ASGI application.

    Raises:
        ConfigError: the keys or applications cannot be used.
    """
    return create_router(Service(settings, embedded=True))


def create_router(service: Service) -> Router:
    """Return the router of the five endpoints."""
    telemetry, reading = service.telemetry, ("GET", "HEAD")
    endpoints = [
        Endpoint("/profile", ("POST",), service.profile, telemetry),
        Endpoint("/healthz", reading, service.healthz, telemetry),
        Endpoint("/readyz", reading, service.readyz, telemetry),
        Endpoint("/.well-known/jwks.json", reading, service.jwks, telemetry),
        Endpoint("/openapi.json", reading, service.openapi, telemetry),
    ]
    return ExactRouter(endpoints, telemetry, service.lifespan)
