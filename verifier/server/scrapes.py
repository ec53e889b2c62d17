"""The HTTP server of the metrics port, in threads: bounded in connections, and in bytes and seconds per connection."""

import contextlib
import io
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from verifier.errors import ConfigError

MAX_SCRAPES = 8  # connections at once, each with a thread
MAX_REQUEST_BYTES = 16_384
SCRAPE_TIMEOUT_S = 5.0  # from the connection to the end of the response


class ScrapeServer(socketserver.ThreadingMixIn, WSGIServer):
    """Closes connections that take too long, and the oldest one when there are too many.

    The standard library's server has a thread for every idle connection, without a timeout.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily) -> None:
        self.address_family = family
        self._open: dict[Any, float] = {}  # connections, oldest first
        self._changed = threading.Condition()  # of `_open`
        super().__init__(address, QuietHandler)

    def server_bind(self) -> None:
        """Bind without looking up the name of the host, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a thread; beyond the limit, close the oldest, or this one if that does not help."""
        with self._changed:
            if len(self._open) == MAX_SCRAPES:
                _shut_down(next(iter(self._open)))
            if accepted := self._changed.wait_for(lambda: len(self._open) < MAX_SCRAPES, timeout=1):
                self._open[request] = time.monotonic()
        if accepted:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection when it ends."""
        with self._changed:
            self._open.pop(request, None)
            self._changed.notify()
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections that have taken too long; called twice per second."""
        with self._changed:
            late = [sock for sock, since in self._open.items() if time.monotonic() - since > SCRAPE_TIMEOUT_S]
        for sock in late:
            _shut_down(sock)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write nothing about connections that fail."""


class RequestReader(io.BufferedReader):
    """Ends at a number of bytes: the standard library reads up to 6 MB of headers."""

    left = MAX_REQUEST_BYTES

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line of at most so many bytes."""
        line = super().readline(self.left if size is None or size < 0 else min(size, self.left))
        self.left -= len(line)
        return line


class QuietHandler(WSGIRequestHandler):
    """Writes no access log."""

    def setup(self) -> None:
        """Bound what is read."""
        super().setup()
        self.rfile = RequestReader(self.rfile.detach())

    def log_message(self, *_: Any) -> None:
        """Do nothing."""


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # if it has ended meanwhile
        sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it


def listen(registry: CollectorRegistry, host: str, port: int) -> Callable[[], None]:
    """Serve the metrics from a thread; return what ends it.

    Raises:
        ConfigError: the port cannot be bound.
    """
    try:
        server = ScrapeServer((host, port), socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as exc:
        raise ConfigError(
            f"cannot listen on {host} port {port} for metrics ({exc.strerror})",
            hint="choose another with --metrics-port",
        ) from exc
    server.set_app(make_wsgi_app(registry))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def close() -> None:
        if thread.is_alive():  # a lifespan may end more than once
            server.shutdown()
            server.server_close()
            thread.join()

    return close
