"""The uvicorn server around the application: the socket, the signals, and answers to what is not HTTP."""

import os
import signal
import socket
from types import FrameType
from typing import Any, NoReturn

from starlette.routing import Router
from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.supervisors.multiprocess import Multiprocess

from verifier.app import create_app, refusal_body
from verifier.errors import ConfigError, InvalidRequest
from verifier.settings import Settings

GRACEFUL_SHUTDOWN_S = 8  # longer than a body may take, shorter than the 10 s that containers are given

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with this project's answers where the application is never reached."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Answer what is not HTTP, after the answer to the complete request before it."""
        if self._finish_cycle():
            self.flow.pause_reading()
            return
        body = refusal_body(InvalidRequest("the request is not HTTP/1.1"))
        head = [STATUS_LINE[400]]
        head += [b"%s: %s\r\n" % header for header in self.server_state.default_headers]
        head += [b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)]
        head += [b"cache-control: no-store\r\nconnection: close\r\n\r\n", body]
        self.transport.write(b"".join(head))
        self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Stay open when a client closes its half after a whole request and waits for the answer."""
        return self._finish_cycle()

    def _unsupported_upgrade_warning(self) -> None:
        # An offer to upgrade is ignored (RFC 9110 §7.8), but the parser has stopped there.
        self._finish_cycle()

    def _finish_cycle(self) -> bool:
        """Whether a complete request still waits for its answer, which is then the connection's last."""
        waiting = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        if waiting:
            self.cycle.keep_alive = False
        return waiting


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigError when there is none to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # 2,048 connections may wait: Python's own default is 128 at most.
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        raise ConfigError(
            f"cannot listen on {host} port {port} ({exc.strerror or exc})",
            hint="choose another with --port, or --host for an address of this machine",
        ) from exc


def app_from_environment() -> Router:
    """What a worker process serves."""
    return create_app(Settings.from_environment(os.environ))


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; raises ConfigError when anything is wrong at the start.

    With several workers the settings must also be in the environment, where the workers find them.
    """
    app = create_app(settings)
    with listen(settings.host, settings.port) as sock:
        config = Config(
            app if settings.workers == 1 else "verifier.server:app_from_environment",
            factory=settings.workers > 1,
            host=settings.host,
            port=sock.getsockname()[1],
            workers=settings.workers,
            http=Protocol,
            ws="none",
            lifespan="on",
            log_config=LOGGING,
            access_log=False,  # uvicorn's has the query string, which may hold anything
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
        )
        if settings.workers > 1:
            supervisor = Multiprocess(config, sockets=[sock])
            supervisor.run()
            if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
                raise ConfigError("a worker process could not start", hint="its own lines above say why")
            return
        # uvicorn raises the signal again after it has drained; the default would end in 143, not 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _exit)
        Server(config).run(sockets=[sock])


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
