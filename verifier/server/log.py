"""What is told about requests, reloads, start and stop: one line each on standard output.

Only what this package wrote itself or read from its own files gets here; nothing a sender wrote does, but for the
age of a token that a loaded key signed.
"""

import json
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, BinaryIO, Protocol, cast

import orjson
import structlog
from structlog.processors import TimeStamper, add_log_level
from structlog.stdlib import ProcessorFormatter, add_logger_name
from structlog.typing import EventDict, Processor

from verifier.errors import ApiError, InvalidToken
from verifier.server.settings import Settings

# Bytes that a pipe takes whole or not at all (pipe(7)), and without waiting where poll calls it writable.
PIPE_BUF: int = getattr(select, "PIPE_BUF", 4096)  # Windows has none

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

DEFAULT_FIELDS = {"event": "request", "level": "info", "outcome": "ok", "status": 200}


class AccessLogEntry(dict[str, Any]):
    """The log line of a request, while it comes to be. What is not known of it is not there.

    outcome, status: "ok", or the error code of the answer; reason: why, a value of errors.Reason;
    path: one of our own; application: an id that is known; slot: 1 or 2, of the secret that matched; kid: of a key
    that is loaded; age_s: of a token that it signed, where a time is wrong; ms: until the answer;
    level: an operator must act soon (warning) or now (error).
    """

    __slots__ = ("started",)

    def __init__(self, path: str = "") -> None:
        super().__init__(DEFAULT_FIELDS)
        self.started = time.perf_counter()
        if path:
            self["path"] = path

    def record_error(self, error: ApiError) -> None:
        """Record that the response is an error."""
        self["status"], self["outcome"], self["reason"] = error.status, error.code, error.reason.value
        if isinstance(error, InvalidToken):
            if error.kid:
                self["kid"] = error.kid
            if error.age_s is not None:
                self["age_s"] = error.age_s
        elif error.status >= 500:
            self["level"] = "warning" if error.status == 503 else "error"


class NonBlockingWriter:
    """Standard output, which never makes a request wait: where nobody reads, lines are dropped and counted."""

    def __init__(self, descriptor: int = 1) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._poll = None
        self._lock = threading.Lock()  # the reading of files tells from a thread of its own
        if os.name == "posix":  # pragma: no branch - the suite runs on POSIX
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLOUT)

    def write(self, line: bytes | str) -> None:
        """Write lines of PIPE_BUF bytes at most, or drop them.

        It is one system call, so lines of several processes do not mix.
        """
        data = line if isinstance(line, bytes) else line.encode()
        with self._lock:
            try:
                if self._poll is None or self._poll.poll(0):
                    os.write(self._descriptor, data)
                    return
            except OSError:
                pass  # nobody reads any more
            self.dropped += data.count(b"\n")

    def flush(self) -> None:
        """Nothing is kept back."""


class MetricsRecorder(Protocol):
    """Who counts."""

    def count(self, outcome: str, reason: str, seconds: float) -> None: ...

    def record_use(self, application_id: str, slot: int, kid: str) -> None: ...


class Telemetry:
    """The log of one process, and what its metrics are made of."""

    metrics: MetricsRecorder | None = None
    call_soon: Callable[[Callable[[], None]], object] = staticmethod(
        lambda call: call()
    )  # `call_soon`, where a loop runs
    in_flight = 0  # requests
    reloaded_at = 0.0
    reload_s = 0.0  # how long the last reading took
    reload_failures = 0

    def __init__(self, settings: Settings, output: NonBlockingWriter | None = None) -> None:
        self.output = output or NonBlockingWriter()
        self._min_level = _LEVELS[settings.log_level]
        self._pending: list[AccessLogEntry] = []
        self._renderers = _renderers(settings)
        self.log = structlog.wrap_logger(
            structlog.BytesLogger(cast(BinaryIO, self.output)),
            processors=[add_log_level, *self._renderers],
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.log_level]),
            context_class=dict,
        ).bind()

    def record(self, request: AccessLogEntry) -> None:
        """Take note of a request. All that depends on what it was comes later, when its answer is on its way."""
        request["ms"] = int((time.perf_counter() - request.started) * 1e6) / 1000
        self._pending.append(request)
        if len(self._pending) == 1:
            self.call_soon(self.flush)

    def flush(self) -> None:
        """Count the requests since the last time, and write their lines with the system calls of one (8 µs each)."""
        told, self._pending = self._pending, []
        block = b""
        for request in told:
            if self.metrics and request.get("path", "/profile") == "/profile":
                self._count(self.metrics, request)
            if _LEVELS[request["level"]] < self._min_level:
                continue
            line: Any = request
            for render in self._renderers:
                line = render(None, "", line)
            if block and len(block) + len(line) >= PIPE_BUF:
                self.output.write(block)
                block = b""
            block += line + b"\n"
        if block:
            self.output.write(block)

    @staticmethod
    def _count(metrics: MetricsRecorder, request: AccessLogEntry) -> None:
        outcome, kid = request["outcome"], request.get("kid", "")
        metrics.count(outcome, request.get("reason", ""), request["ms"] / 1000)
        metrics.record_use(request.get("application", ""), request.get("slot", 0), kid if outcome == "ok" else "")

    def log_exception(self, exc: BaseException) -> None:
        """Say where an exception comes from that nobody expected. Its message could quote the request."""
        self.log.error("bug", error=type(exc).__name__, where=location_of(exc))


def configure_logging(settings: Settings) -> None:
    """Write the lines of uvicorn and asyncio in the same form."""
    handler = logging.StreamHandler(cast(Any, NonBlockingWriter()))
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, add_logger_name],
            processors=[redact_exception, *_renderers(settings), _decoded],
        )
    )
    logging.basicConfig(level=_LEVELS[settings.log_level], handlers=[handler], force=True)
    # Without a level of its own it prepares a line per connection that nobody sees.
    logging.getLogger("uvicorn.error").setLevel(_LEVELS[settings.log_level])


def redact_exception(_logger: Any, _name: str, event: EventDict) -> EventDict:
    """The first line of a message, and where an exception comes from: the rest could quote a request."""
    told = {name: event[name] for name in ("level", "logger")}
    told["event"] = str(event["event"]).partition("\n")[0]
    exc = (event.get("exc_info") or (None, None))[1]
    return told | ({"error": type(exc).__name__, "where": location_of(exc)} if exc else {})


def location_of(exc: BaseException) -> str:
    frame = exc.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "?"


def _renderers(settings: Settings) -> list[Processor]:
    terminal = os.isatty(1)
    if settings.log_format == "text" or (not settings.log_format and terminal):
        clock = TimeStamper(fmt="iso", key="time")
        return [clock, structlog.dev.ConsoleRenderer(colors=terminal, timestamp_key="time"), _encoded]
    return [_json]


def _decoded(_logger: Any, _name: str, line: Any) -> str:
    return str(line, "utf-8")  # a handler of the standard library takes text


def _encoded(_logger: Any, _name: str, line: Any) -> bytes:
    return bytes(line.encode("utf-8", "backslashreplace"))


def _json(_logger: Any, _name: str, event: EventDict) -> bytes:
    event["time"] = datetime.now(UTC)  # orjson writes it, 1.1 µs faster than a TimeStamper
    try:
        return orjson.dumps(event, option=orjson.OPT_UTC_Z)
    except TypeError:  # the name of a file that is not UTF-8
        return json.dumps(event, default=str).encode()
