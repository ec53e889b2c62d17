"""The uvicorn server around the application: the socket, the workers and the signals."""

import functools
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from contextlib import ExitStack
from dataclasses import replace

from starlette.routing import Router
from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from verifier.errors import ConfigError
from verifier.server.connection import MAX_LINGERING, HttpConnection
from verifier.server.endpoints import Service, create_router
from verifier.server.log import configure_logging
from verifier.server.settings import Settings

SPARE_DESCRIPTORS = MAX_LINGERING + 64  # files, logs, the loop


class Supervisor(Multiprocess):
    """Parent of several workers, each with its own socket.

    With one socket for all, the first worker to wake could accept every connection while the others are idle.
    """

    @property
    def sockets(self) -> list[socket.socket]:
        """The socket of the next worker to start: in place of one that exited, or after the last."""
        exited = [place for place, process in enumerate(self.processes) if process.exitcode is not None]
        return [self._sockets[exited[0] if exited else len(self.processes)]]

    @sockets.setter
    def sockets(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets

    def keep_subprocess_alive(self) -> None:
        """Replace workers that have exited, and no others.

        uvicorn also kills a worker that does not answer a ping within a timeout. At a small share of a CPU no worker
        would get through its imports in time, and the answer comes from a thread: it does not show that a worker
        serves. The liveness probe does.
        """
        for place, process in enumerate(self.processes):
            if process.exitcode is None:
                continue
            process.join()
            if process.exitcode == STARTUP_FAILURE:
                self.should_exit.set()
                return
            replacement = Process(self.config, self.sockets)
            replacement.start()
            self.processes[place] = replacement

    def handle_hup(self) -> None:
        """Forward the signal, so that workers reload their files; uvicorn would replace every worker."""
        for process in self.processes:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, signal.SIGHUP)

    def handle_ttin(self) -> None:
        """Ignore the signal: the number of workers is a setting. uvicorn would start another worker."""

    handle_ttou = handle_ttin  # uvicorn would stop a worker, whose socket would still get connections


class AnnouncingServer(Server):
    """A server that logs its address; uvicorn does not when it is given sockets."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and log the address; uvicorn exits if the application cannot start."""
        await super().startup(sockets)
        announce(self.config)


def announce(config: Config) -> None:
    """Log the URL that the server listens on."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    logging.getLogger("uvicorn.error").info("Listening on http://%s:%d/profile", host, config.port)


def listen(host: str, port: int, workers: int = 1) -> list[socket.socket]:
    """Create a listening socket for each worker. Port 0 takes a free one; host `::` listens on IPv4 too.

    Raises:
        ConfigError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    # 2,048 connections may wait: Python's own default is 128 at most.
    create = functools.partial(socket.create_server, family=family, backlog=2048, dualstack_ipv6=both)
    try:
        sock = create((host, port))
        if workers == 1 or sys.platform != "linux":  # only Linux balances SO_REUSEPORT sockets
            return [sock] * workers
        # Bind exclusively first; SO_REUSEPORT alone would not detect a foreign listener.
        address = sock.getsockname()[:2]
        sock.close()
        return [create(address, reuse_port=True) for _ in range(workers)]
    except (OSError, TypeError, UnicodeError) as exc:  # the last two for what is no host name at all
        number = getattr(exc, "errno", None) or 0  # negative: an error of the resolver
        raise ConfigError(
            f"cannot listen on {host} port {port} ({os.strerror(number) if number > 0 else 'no such address'})",
            hint="choose another with --port, or --host for an address of this machine",
        ) from exc


def stop_with_parent() -> None:
    """Stop this worker when its parent has exited, however it was killed: an orphan would keep the port.

    The thread waits for the end of a pipe that only the parent holds open.
    """
    parent = multiprocessing.parent_process()
    if parent is None:  # not a worker
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def allow_connections(most: int) -> None:
    """Raise the limit of file descriptors of this process and its workers.

    Raises:
        ConfigError: the system does not allow so many.
    """
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


def ignore_hangup() -> None:
    """Ignore SIGHUP until the application handles it; a worker does not inherit this from its parent's handler."""
    if hasattr(signal, "SIGHUP"):  # pragma: no branch - Windows has none
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def app_from_environment() -> Router:
    """Create the application in a worker process, from the environment."""
    ignore_hangup()
    stop_with_parent()
    try:
        settings = Settings.from_environment(os.environ)
        configure_logging(settings)
        return create_router(Service(settings))
    except ConfigError as exc:
        # A file became invalid after start-up: the supervisor retries this worker, the others keep serving.
        print(f"verifier: error: {exc}", file=sys.stderr)
        raise SystemExit(1) from exc


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. With several workers, the settings must also be in the environment.

    Raises:
        ConfigError: a setting or file is invalid at start-up, or the port cannot be used.
    """
    ignore_hangup()
    configure_logging(settings)
    allow_connections(settings.max_connections)
    with ExitStack() as stack:
        sockets = [stack.enter_context(sock) for sock in listen(settings.host, settings.port, settings.workers)]
        # Where a free port was asked for (0), the log of this process and of the workers names the actual one.
        settings = replace(settings, port=sockets[0].getsockname()[1])
        os.environ["VERIFIER_PORT"] = str(settings.port)
        app = create_router(Service(settings))
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
            announce(config)
            supervisor = Supervisor(config, sockets)
            supervisor.run()
            if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
                raise ConfigError("a worker process could not start", hint="its log lines above name the cause")
            return
        # uvicorn raises the signal again after it has drained; the default would end in 143, not 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(0))
        AnnouncingServer(config).run(sockets)
