"""The log: one line on standard output for each request, reload, start and stop.

It holds only what this package wrote itself or read from its own files. Nothing that a sender wrote gets here, except
the age of a token that a loaded key signed.
"""

import asyncio
import json
import logging
import os
import select
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

import orjson
import structlog
from structlog.processors import TimeStamper, add_log_level
from structlog.typing import EventDict, Processor

from verifier.core.encoding import printable
from verifier.errors import ApiError, InvalidToken
from verifier.server.settings import Settings
from verifier.storage.refresher import reset_in_child

PIPE_BUF: int = getattr(select, "PIPE_BUF", 4096)  # bytes that a pipe takes whole or not at all (pipe(7))

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

DEFAULT_FIELDS = {"event": "request", "level": "info", "outcome": "ok", "status": 200}


class AccessLogEntry(dict[str, Any]):
    """The log line of a request while it is being handled; what is not known is absent.

    outcome, status: "ok" or the error code of the response; reason: a value of errors.Reason;
    path: one of the five paths; application: an id that is known; slot: 1 or 2, of the secret that matched;
    kid: of a loaded key; token_age_s: of a token signed by it that is rejected for its times;
    duration_ms: until the response; level: warning or error if an operator must act soon or now.
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
                self["token_age_s"] = error.age_s
        elif error.status >= 500:
            self["level"] = "warning" if error.status == 503 else "error"


class NonBlockingWriter:
    """Standard output that never makes a request wait: if it blocks, lines are dropped and counted."""

    def __init__(self, descriptor: int = 1) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._poll = None
        if os.name == "posix":  # pragma: no branch - the suite runs on POSIX
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLOUT)
        self.reset()
        reset_in_child(self)

    def reset(self) -> None:
        """Replace the lock, which another thread of the parent may have held."""
        self._lock = threading.Lock()  # because files are read in threads of their own

    def write(self, lines: bytes) -> None:
        """Write lines of at most PIPE_BUF bytes, or drop them.

        It is one system call, so lines of several processes do not mix.
        """
        with self._lock:
            try:
                if self._poll is None or self._poll.poll(0):
                    os.write(self._descriptor, lines)
                    return
            except OSError:
                pass  # the reader has closed it
            self.dropped += lines.count(b"\n")

    def flush(self) -> None:
        """Do nothing, because nothing is buffered."""


class Telemetry:
    """The log of one process, and the source of its metrics."""

    count: Callable[[AccessLogEntry], None] | None = None  # called for each request, where there are metrics
    in_flight = 0  # requests
    reload_failures = 0

    def __init__(self, settings: Settings, output: NonBlockingWriter | None = None) -> None:
        self.output = output or NonBlockingWriter()
        self._min_level = _LEVELS[settings.log_level]
        self._renderers = _renderers(settings)
        self.log = structlog.wrap_logger(
            structlog.BytesLogger(cast(BinaryIO, self.output)),
            processors=[_escape, add_log_level, *self._renderers],
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.log_level]),
        ).bind()
        self.reset()
        reset_in_child(self)

    def reset(self) -> None:
        """Leave the lines of the parent to the parent."""
        self._pending: deque[AccessLogEntry] = deque()
        self._flushing_loop: asyncio.AbstractEventLoop | None = None

    def record(self, request: AccessLogEntry) -> None:
        """Record a request whose response is being sent. The rest of the work follows in the same loop iteration."""
        request["duration_ms"] = int((time.perf_counter() - request.started) * 1e6) / 1000
        self._pending.append(request)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        # The application may be served by several loops, and a loop may end before it calls `flush`.
        if loop is not self._flushing_loop:
            self._flushing_loop = loop
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Count the pending requests, and write their lines with few system calls (8 µs each)."""
        self._flushing_loop = None  # first, so that no entry is added without a call of this method to come
        block = b""
        while True:
            try:
                request = self._pending.popleft()
            except IndexError:
                break
            if self.count:
                self.count(request)
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

    def log_exception(self, exc: BaseException) -> None:
        """Log an unexpected exception."""
        self.log.error("internal_error", **describe_exception(exc))


class ForeignHandler(logging.Handler):
    """Writes the lines of uvicorn and asyncio in the same form as ours."""

    def __init__(self, telemetry: Telemetry) -> None:
        super().__init__()
        self.log = telemetry.log

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first line of a message and the location of an exception: the rest could quote a request."""
        # uvicorn calls its general logger "uvicorn.error", which would make every line look like an error.
        kept = {"logger": record.name.removesuffix(".error")}
        if exc := (record.exc_info or (None, None))[1]:
            kept |= describe_exception(exc)
        self.log.log(record.levelno, record.getMessage().partition("\n")[0], **kept)


def configure_logging(settings: Settings) -> None:
    """Write the lines of uvicorn and asyncio, too."""
    level = _LEVELS[settings.log_level]
    logging.basicConfig(level=level, handlers=[ForeignHandler(Telemetry(settings))], force=True)
    # Without a level of its own, it formats a line per connection that is never written.
    logging.getLogger("uvicorn.error").setLevel(level)


def describe_exception(exc: BaseException) -> dict[str, str]:
    """Return the type and location of an exception, without its message, which could quote the request."""
    return {"error": type(exc).__name__, "where": location_of(exc)}


def location_of(exc: BaseException) -> str:
    """Return the file and line where an exception was raised."""
    frames = list(traceback.walk_tb(exc.__traceback__))
    return f"{frames[-1][0].f_code.co_filename}:{frames[-1][1]}" if frames else "?"


def _renderers(settings: Settings) -> list[Processor]:
    terminal = os.isatty(1)
    if settings.log_format == "text" or (not settings.log_format and terminal):
        clock = TimeStamper(fmt="iso", key="time")
        return [clock, structlog.dev.ConsoleRenderer(colors=terminal, timestamp_key="time"), _encoded]
    return [_json]


def _escape(_logger: Any, _name: str, event: EventDict) -> EventDict:
    """Escape what comes from outside (file names), and replace the members of enums by their values."""
    return {name: _escape_value(value) for name, value in event.items()}


def _escape_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _escape_value(inner) for name, inner in value.items()}
    return printable(str(value)) if isinstance(value, str) else value


def _encoded(_logger: Any, _name: str, line: Any) -> bytes:
    return bytes(line.encode("utf-8", "backslashreplace"))


def _json(_logger: Any, _name: str, event: EventDict) -> bytes:
    event["time"] = datetime.now(UTC)  # orjson writes it, 1.1 µs faster than a TimeStamper
    try:
        return orjson.dumps(event, option=orjson.OPT_UTC_Z)
    except TypeError:  # the name of a file that is not UTF-8
        return json.dumps(event, default=str).encode()
