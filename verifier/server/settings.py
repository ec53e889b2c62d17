"""The settings of the server: variables, options, defaults and their reference are derived from these fields."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from verifier.core.applications import Secret
from verifier.core.encoding import describe_flaw, is_utf8_encodable
from verifier.core.times import LEEWAY_S, MAX_LIFETIME_S
from verifier.errors import ConfigError
from verifier.server.variables import refuse_service_link, unknown_variables

MAX_BODY_BYTES = 16_384
GRACEFUL_SHUTDOWN_S = 8  # longer than a body may take, shorter than the 10 s that containers are given
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 - where a platform starts the container and sets PORT


@dataclass(frozen=True, slots=True)
class Option:
    """One setting as `verifier serve` takes it."""

    help: str
    low: int = 0
    high: int = 0
    choices: tuple[str, ...] = ()
    unset: str = ""  # what an empty value means
    in_process_list: bool = True  # False: a variable only, because other users can read the options of a process
    serve_only: bool = False  # of the server, which is another one where the endpoint is embedded
    # Those of the field, from Settings.options.
    name: str = ""
    kind: type = str
    default: Any = None

    @property
    def word(self) -> str:
        """The name without its unit."""
        return self.name.removesuffix("_s").removesuffix("_bytes")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"VERIFIER_{self.word.upper()}"

    def parse(self, text: str, variable: str) -> Any:
        """Parse a value.

        Raises:
            ConfigError: it is invalid; the text names the variable, never the value.
        """
        if self.kind is Secret:
            return Secret.of(text)
        if self.kind is int:
            return self._parse_int(text, variable)
        if self.choices:
            if text.lower() not in self.choices:
                expected = ", ".join(self.choices)
                raise ConfigError(f"{variable} is unknown (expected one of {expected})")
            return text.lower()
        check_text(text, variable)
        return self.kind(text)

    def _parse_int(self, text: str, variable: str) -> int:
        low, high = self.low, self.high
        refuse_service_link(text, variable)
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()):
            raise ConfigError(f"{variable} is not a number (expected a whole number from {low} to {high})")
        if digits != text or len(text) > 9 or not low <= int(text) <= high:
            raise ConfigError(f"{variable} is out of range (expected a whole number from {low} to {high})")
        return int(text)


def check_text(text: str, name: str) -> None:
    """Check that a value has no characters that make it look like another one.

    Raises:
        ConfigError: it has; the text names the value and the characters.
    """
    flaw = describe_flaw(text)
    if flaw:
        raise ConfigError(
            f"{name} {flaw}", hint="remove them from the value; Docker does not strip quotes or \\r in an env file"
        )


def _setting(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"option": Option(text, **more)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Checked settings. Exactly one of `applications`, `secret_key_file` and `secret_key` is set.

    Durations are in whole seconds, sizes in bytes. The limits apply to one process.

    Raises:
        ConfigError: a text has invisible characters, or is in quotes.
    """

    issuer: str = field(metadata={"option": Option("Value of iss in every token.")})
    keys: Path = _setting(Path("keys"), "Folder that holds public/.")
    applications: Path | None = _setting(None, "File with several applications.")
    application_id: str = _setting("", "ID of the only application.", in_process_list=False)
    secret_key: Secret | None = _setting(None, "Its secret.", in_process_list=False)
    secret_key_file: Path | None = _setting(
        None, "File with its secret; a newline at the end is not part of it.", in_process_list=False
    )
    max_lifetime_s: int = _setting(
        MAX_LIFETIME_S, "Maximum lifetime of a token (exp - iat) in seconds.", low=1, high=3600
    )
    leeway_s: int = _setting(LEEWAY_S, "Clock skew tolerance in seconds.", low=0, high=60)
    host: str = _setting("127.0.0.1", f"Address to listen on; {ALL_ADDRESSES} where only PORT is set.", serve_only=True)
    port: int = _setting(
        8000, "Port to listen on; the value of PORT where only that is set.", low=0, high=65535, serve_only=True
    )
    workers: int = _setting(1, "Number of processes.", low=1, high=64, serve_only=True)
    # Below the 4,096 descriptors that Linux allows a process by default.
    max_connections: int = _setting(
        4000, "Maximum concurrent connections per worker.", low=1, high=100_000, serve_only=True
    )
    # Slow clients are requests too: below this, 2,000 of them leave room for sign-ins.
    max_requests: int = _setting(
        2500, "Maximum concurrent requests per worker, including slow clients.", low=1, high=100_000
    )
    max_body_bytes: int = _setting(MAX_BODY_BYTES, "Maximum body size in bytes.", low=1024, high=1_048_576)
    body_timeout_s: int = _setting(5, "Timeout in seconds for a request body, after the headers.", low=1, high=60)
    header_timeout_s: int = _setting(5, "Timeout in seconds for request headers.", low=1, high=60, serve_only=True)
    # Longer than a proxy keeps a connection, so that it is the proxy that closes it.
    keep_alive_s: int = _setting(75, "Timeout in seconds for an idle connection.", low=1, high=3600, serve_only=True)
    graceful_shutdown_s: int = _setting(
        GRACEFUL_SHUTDOWN_S, "Shutdown grace period in seconds.", low=1, high=300, serve_only=True
    )
    # Long enough to repair a disk, short enough for a revocation that cannot arrive.
    max_staleness_s: int = _setting(
        300,
        "Maximum time in seconds without a completed read of the files; then every token is rejected.",
        low=10,
        high=86_400,
    )
    metrics_port: int = _setting(0, "Port for Prometheus metrics.", low=0, high=65535, unset="no metrics")
    log_level: str = _setting("info", "Minimum log level.", choices=("debug", "info", "warning", "error"))
    log_format: str = _setting(
        "", "Format of the log.", choices=("json", "text"), unset="text on a terminal, json elsewhere"
    )
    # Variables that look like settings and are none; not a setting itself.
    warnings: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        for option in self.options():
            value = getattr(self, option.name)
            if value and option.kind in (str, Path):
                check_text(str(value), option.name)

    @classmethod
    def options(cls) -> Iterator[Option]:
        """Yield every setting as an option."""
        for each in fields(cls):
            if "option" in each.metadata:
                kind = next(kind for kind in (int, Path, Secret, str) if each.type in (kind, kind | None))
                default = "" if each.name == "issuer" else each.default
                yield replace(each.metadata["option"], name=each.name, kind=kind, default=default)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings from `VERIFIER_*` variables, and `PORT`; an empty variable counts as not set.

        Raises:
            ConfigError: a variable is missing or invalid; the text names it and never shows its value.
        """
        known = {name: value for name, value in environ.items() if name.startswith("VERIFIER_") and value}
        for name, value in known.items():
            if not is_utf8_encodable(value):
                raise ConfigError(f"{name} is not UTF-8")
        options = {option.variable: option for option in cls.options()}
        warnings = unknown_variables(environ, options)
        if "VERIFIER_ISSUER" not in known:
            raise ConfigError(
                "VERIFIER_ISSUER is not set (expected the iss of your tokens)",
                hint=next(
                    (text for text in warnings if "VERIFIER_ISSUER" in text),
                    "use what the game backend writes as iss, for instance https://game.example",
                ),
            )
        _check_sources(known, warnings)
        values = {
            option.name: option.parse(known[variable], variable)
            for variable, option in options.items()
            if variable in known and not (variable == "VERIFIER_APPLICATION_ID" and "VERIFIER_APPLICATIONS" in known)
        }
        if environ.get("PORT") and "port" not in values:
            values["port"] = options["VERIFIER_PORT"].parse(environ["PORT"], "PORT")
            values.setdefault("host", ALL_ADDRESSES)
        if values.get("workers", 1) > 1 and values.get("metrics_port"):
            raise ConfigError(
                "VERIFIER_METRICS_PORT excludes several VERIFIER_WORKERS (expected one: each counts its own)",
                hint="run one worker per container, and as many containers as are needed",
            )
        return cls(**values, warnings=tuple(warnings))

    def to_log(self, *, embedded: bool = False) -> dict[str, str | int]:
        """Return the settings that are set, without the secret; those that have no effect if embedded are left out."""
        shown = [option for option in self.options() if option.kind is not Secret]
        if embedded:
            # The metrics have a port of their own, on the same address.
            shown = [each for each in shown if not each.serve_only or (each.name == "host" and self.metrics_port)]
        values = {option.name: getattr(self, option.name) for option in shown}
        return {name: value if isinstance(value, int) else str(value) for name, value in values.items() if value}


def _check_sources(known: Mapping[str, str], warnings: list[str]) -> None:
    names = ("VERIFIER_APPLICATIONS", "VERIFIER_SECRET_KEY", "VERIFIER_SECRET_KEY_FILE")
    sources = [name for name in names if name in known]
    if len(sources) != 1:
        found = " and ".join(sources) or "none"
        raise ConfigError(
            f"exactly one of {names[0]}, {names[1]} and {names[2]} must be set (found {found})",
            hint=next(
                (text for text in warnings if not sources and any(name in text for name in names)),
                "for one application set VERIFIER_APPLICATION_ID and VERIFIER_SECRET_KEY_FILE; "
                "for several set VERIFIER_APPLICATIONS to the file that verifier applications add ID creates",
            ),
        )
    # `check` and `token` need the id of one application even where the server has several.
    if sources[0] != "VERIFIER_APPLICATIONS" and "VERIFIER_APPLICATION_ID" not in known:
        raise ConfigError(
            f"VERIFIER_APPLICATION_ID is not set (expected beside {sources[0]})",
            hint="the escs dashboard shows it beside the secret",
        )
