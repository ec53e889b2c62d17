"""The uvicorn server around the application: the socket, the workers and the signals."""

import functools
import os
import signal
import socket
import sys
from contextlib import ExitStack
from dataclasses import replace
from types import FrameType
from typing import NoReturn

from starlette.routing import Router
from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess

from verifier.errors import ConfigError
from verifier.server.connection import MAX_LINGERING, HttpConnection
from verifier.server.endpoints import create_app
from verifier.server.log import configure_logging
from verifier.server.settings import Settings

SPARE_DESCRIPTORS = MAX_LINGERING + 64  # files, logs, the loop


class Supervisor(Multiprocess):
    """uvicorn's parent of several workers, each with a socket of its own.

    With one socket for all, the first to wake may take every connection, and the others have nothing to do.
    """

    @property
    def sockets(self) -> list[socket.socket]:
        """That of the worker which starts next: in the place of one that ended, or behind the last."""
        ended = [place for place, process in enumerate(self.processes) if process.exitcode is not None]
        return [self._sockets[ended[0] if ended else len(self.processes)]]

    @sockets.setter
    def sockets(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets

    def handle_hup(self) -> None:
        """Pass it on: a worker reads its files again. uvicorn would replace every worker."""
        for process in self.processes:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, signal.SIGHUP)

    def handle_ttin(self) -> None:
        """Nothing: the number of workers is a setting. uvicorn would start one more."""

    handle_ttou = handle_ttin  # or stop one, whose socket nobody would answer


def listen(host: str, port: int, workers: int = 1) -> list[socket.socket]:
    """A listening socket for each worker; port 0 takes a free one. Raises ConfigError when there is none to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # 2,048 connections may wait: Python's own default is 128 at most.
    create = functools.partial(socket.create_server, family=family, backlog=2048)
    try:
        sock = create((host, port))
        if workers == 1 or sys.platform != "linux":  # elsewhere the system does not share connections out
            return [sock] * workers
        # Only now: to share the port from the start would not notice that another program has it.
        address = sock.getsockname()[:2]
        sock.close()
        return [create(address, reuse_port=True) for _ in range(workers)]
    except (OSError, TypeError, UnicodeError) as exc:  # the last two for what is no host name at all
        number = getattr(exc, "errno", None) or 0  # negative: the resolver's own
        raise ConfigError(
            f"cannot listen on {host} port {port} ({os.strerror(number) if number > 0 else 'no such address'})",
            hint="choose another with --port, or --host for an address of this machine",
        ) from exc


def allow_connections(most: int) -> None:
    """Let this process and its workers open so many; raises ConfigError when the system forbids it."""
    if os.name != "posix":  # pragma: no cover - Windows has no such limit
        return
    import resource

    needed = most + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"VERIFIER_MAX_CONNECTIONS needs {needed} file descriptors (found a hard limit of {hard})",
            hint="lower it, or raise the limit: ulimit -n, LimitNOFILE= of systemd, --ulimit nofile= of docker",
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def app_from_environment() -> Router:
    """What a worker process serves."""
    try:
        settings = Settings.from_environment(os.environ)
        configure_logging(settings)
        return create_app(settings)
    except ConfigError as exc:
        # A file broke since the start: the parent tries again, and the other workers go on.
        print(f"verifier: error: {exc}", file=sys.stderr)
        raise SystemExit(1) from exc


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; raises ConfigError when anything is wrong at the start.

    With several workers the settings must also be in the environment, where the workers find them.
    """
    if hasattr(signal, "SIGHUP"):  # pragma: no branch - Windows has none
        # Until files are watched; worker processes inherit it.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    configure_logging(settings)
    allow_connections(settings.max_connections)
    with ExitStack() as stack:
        sockets = [stack.enter_context(sock) for sock in listen(settings.host, settings.port, settings.workers)]
        # Where a free port was asked for (0), the log of this process and of the workers names the actual one.
        settings = replace(settings, port=sockets[0].getsockname()[1])
        os.environ["VERIFIER_PORT"] = str(settings.port)
        app = create_app(settings)
        config = Config(
            app if settings.workers == 1 else "verifier.server.run:app_from_environment",
            factory=settings.workers > 1,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            http=HttpConnection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,  # uvicorn's has the query string, which may hold anything
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=settings.graceful_shutdown_s,
        )
        if settings.workers > 1:
            supervisor = Supervisor(config, sockets)
            supervisor.run()
            if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
                raise ConfigError("a worker process could not start", hint="its own lines above say why")
            return
        # uvicorn raises the signal again after it has drained; the default would end in 143, not 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _exit)
        Server(config).run(sockets)


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
