"""What an operator can set: environment variables, their defaults and units."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from verifier.core.applications import Secret
from verifier.core.encoding import is_utf8_encodable
from verifier.core.rules import LEEWAY_S, MAX_LIFETIME_S
from verifier.errors import ConfigError

MAX_BODY_BYTES = 16_384
BODY_TIMEOUT_S = 5
HEADER_TIMEOUT_S = 5
KEEP_ALIVE_S = 75  # longer than a proxy keeps a connection, so that it is the proxy that closes it
GRACEFUL_SHUTDOWN_S = 8  # longer than a body may take, shorter than the 10 s that containers are given
MAX_STALENESS_S = 300  # long enough to repair a disk, short enough for a revocation that cannot arrive
# Slow senders are requests too: below this, 2,000 of them leave room for sign-ins.
MAX_REQUESTS = 2500
MAX_CONNECTIONS = 4000  # and below the 4,096 descriptors that Linux allows a process where nobody says otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Checked settings. Exactly one of `applications`, `secret_key_file` and `secret` is set."""

    issuer: str  # iss of every token
    keys: Path = Path("keys")  # holds public/ and, where tokens are signed, private/
    applications: Path | None = None  # file with several applications
    application_id: str = ""  # of the only application
    secret: Secret | None = None  # its secret
    secret_key_file: Path | None = None  # or a file with its secret
    max_lifetime_s: int = MAX_LIFETIME_S  # exp - iat of a token, at most
    leeway_s: int = LEEWAY_S  # how far two clocks may be apart
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    metrics_port: int = 0  # 0: no metrics
    max_connections: int = MAX_CONNECTIONS  # of one process, at once
    max_requests: int = MAX_REQUESTS  # of one process, at once
    max_body_bytes: int = MAX_BODY_BYTES
    body_timeout_s: int = BODY_TIMEOUT_S  # from the end of the head to the end of the body
    header_timeout_s: int = HEADER_TIMEOUT_S  # from the first byte, or the connection, to the end of the head
    keep_alive_s: int = KEEP_ALIVE_S  # between two requests
    graceful_shutdown_s: int = GRACEFUL_SHUTDOWN_S  # for requests that are under way
    max_staleness_s: int = MAX_STALENESS_S  # without a completed read of keys and applications
    log_level: str = "info"  # the least that is told: debug, info, warning or error
    log_format: str = ""  # json, text, or "" for text on a terminal and json elsewhere

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Settings from `VERIFIER_*` variables; an empty one counts as not set.

        Raises ConfigError, which names the variable and never shows its value.
        """
        known = {name: value for name, value in environ.items() if name.startswith("VERIFIER_") and value}
        for name, value in known.items():
            if not is_utf8_encodable(value):
                raise ConfigError(f"{name} is not UTF-8")
        if "VERIFIER_ISSUER" not in known:
            raise ConfigError(
                "VERIFIER_ISSUER is not set (expected the iss of your tokens)",
                hint="use what the game backend writes as iss, for instance https://game.example",
            )
        _check_applications(known)
        workers = _parse_int(known, "VERIFIER_WORKERS", 1, 1, 64)
        metrics_port = _parse_int(known, "VERIFIER_METRICS_PORT", 0, 0, 65535)
        if workers > 1 and metrics_port:
            raise ConfigError(
                "VERIFIER_METRICS_PORT is set beside several VERIFIER_WORKERS (expected one: each would count its own)",
                hint="run one worker per container, and as many containers as are needed",
            )

        def path(name: str) -> Path | None:
            return Path(known[name]) if name in known else None

        return cls(
            issuer=known["VERIFIER_ISSUER"],
            keys=Path(known.get("VERIFIER_KEYS", "keys")),
            applications=path("VERIFIER_APPLICATIONS"),
            application_id=known.get("VERIFIER_APPLICATION_ID", ""),
            secret=Secret.of(known["VERIFIER_SECRET_KEY"]) if "VERIFIER_SECRET_KEY" in known else None,
            secret_key_file=path("VERIFIER_SECRET_KEY_FILE"),
            max_lifetime_s=_parse_int(known, "VERIFIER_MAX_LIFETIME", MAX_LIFETIME_S, 1, 3600),
            leeway_s=_parse_int(known, "VERIFIER_LEEWAY", LEEWAY_S, 0, 60),
            host=known.get("VERIFIER_HOST", "127.0.0.1"),
            port=_parse_int(known, "VERIFIER_PORT", 8000, 0, 65535),
            workers=workers,
            metrics_port=metrics_port,
            max_connections=_parse_int(known, "VERIFIER_MAX_CONNECTIONS", MAX_CONNECTIONS, 1, 100_000),
            max_requests=_parse_int(known, "VERIFIER_MAX_REQUESTS", MAX_REQUESTS, 1, 100_000),
            max_body_bytes=_parse_int(known, "VERIFIER_MAX_BODY", MAX_BODY_BYTES, 1024, 1_048_576),
            body_timeout_s=_parse_int(known, "VERIFIER_BODY_TIMEOUT", BODY_TIMEOUT_S, 1, 60),
            header_timeout_s=_parse_int(known, "VERIFIER_HEAD_TIMEOUT", HEADER_TIMEOUT_S, 1, 60),
            keep_alive_s=_parse_int(known, "VERIFIER_KEEP_ALIVE", KEEP_ALIVE_S, 1, 3600),
            graceful_shutdown_s=_parse_int(known, "VERIFIER_GRACEFUL_SHUTDOWN", GRACEFUL_SHUTDOWN_S, 1, 300),
            max_staleness_s=_parse_int(known, "VERIFIER_MAX_STALENESS", MAX_STALENESS_S, 10, 86_400),
            log_level=_parse_choice(known, "VERIFIER_LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
            log_format=_parse_choice(known, "VERIFIER_LOG_FORMAT", "", ("json", "text")),
        )

    def to_log(self) -> dict[str, str | int]:
        """What may be told at the start: everything set but the secret."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "secret"}
        return {name: value if isinstance(value, int) else str(value) for name, value in told.items() if value}


def _check_applications(known: Mapping[str, str]) -> None:
    sources = [n for n in ("VERIFIER_APPLICATIONS", "VERIFIER_SECRET_KEY", "VERIFIER_SECRET_KEY_FILE") if n in known]
    if len(sources) != 1:
        found = " and ".join(sources) or "none"
        raise ConfigError(
            "exactly one of VERIFIER_APPLICATIONS, VERIFIER_SECRET_KEY and VERIFIER_SECRET_KEY_FILE "
            f"must be set (found {found})",
            hint="for one application set VERIFIER_APPLICATION_ID and VERIFIER_SECRET_KEY_FILE; "
            "for several: verifier applications add ID",
        )
    named = "VERIFIER_APPLICATION_ID" in known
    if not known.get("VERIFIER_APPLICATION_ID", "").isprintable():
        raise ConfigError("VERIFIER_APPLICATION_ID is not printable")
    if sources[0] == "VERIFIER_APPLICATIONS" and named:
        raise ConfigError("VERIFIER_APPLICATION_ID is set beside VERIFIER_APPLICATIONS (expected one of them)")
    if sources[0] != "VERIFIER_APPLICATIONS" and not named:
        raise ConfigError(
            f"VERIFIER_APPLICATION_ID is not set (expected beside {sources[0]})",
            hint="the escs dashboard shows it beside the secret",
        )


def _parse_int(known: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = known.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise ConfigError(f"{name} is out of range (expected a whole number from {low} to {high})")
    return int(text)


def _parse_choice(known: Mapping[str, str], name: str, default: str, choices: tuple[str, ...]) -> str:
    value = known.get(name, default)
    if value != default and value not in choices:
        raise ConfigError(f"{name} is unknown (expected one of {', '.join(choices)})")
    return value
