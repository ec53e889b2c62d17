"""One HTTP/1.1 connection: requests in order, one response each, and a limit on every state.

One request at a time: what follows it waits unparsed until it has its response. A complete request is processed in
the batch of its event-loop iteration; one whose body is still to come in a task of its own.

| state of the connection | limit of bytes | limit of time |
| --- | --- | --- |
| headers, body, chunked framing | request_parser.py | VERIFIER_HEADER_TIMEOUT, VERIFIER_BODY_TIMEOUT |
| requests behind one that waits, and its fields | MAX_BACKLOG_BYTES, MAX_PIPELINED | |
| rest of a body after its response | VERIFIER_MAX_BODY; chunked: the connection closes | MAX_REQUEST_S more |
| idle between two requests | 0: nothing of a request is kept | VERIFIER_KEEP_ALIVE |
| response that is not read | WRITE_BUFFER_BYTES and one response, large ones shared | VERIFIER_HEADER_TIMEOUT |
| lingering close | MAX_DISCARDED_BYTES, none kept | LINGER_TIMEOUT_S |
| request in more than MAX_READS pieces | as above | one read every READ_INTERVAL_S to MAX_READ_INTERVAL_S |

Follows the fixes of uvicorn's httptools_impl.py up to uvicorn 0.54.0 (with httptools 0.9.0);
tests/server/test_compared.py lists every difference from that version's protocols.
"""

import asyncio
import functools
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from uvicorn import Config
from uvicorn.server import ServerState

from verifier.errors import ApiError, InvalidRequest, Reason, ServiceUnavailableError
from verifier.server.asgi import BUFFERED_BODY, CLOSE, INTERNAL_ERROR, Header, error_body, response_headers
from verifier.server.cycle import RequestResponseCycle
from verifier.server.endpoints import Service
from verifier.server.log import AccessLogEntry
from verifier.server.request_parser import RequestParser

MAX_BACKLOG_BYTES = 32_768
MAX_PIPELINED = 32  # requests behind one that was received together with them
MAX_REQUEST_S = 5  # beyond the timeouts of its headers and its body
MAX_DISCARDED_BYTES = 4_194_304
WRITE_BUFFER_BYTES = 16_384
MAX_READS = 22  # of one request, without a delay: small headers, and a body in segments of 1,220 bytes (IPv6)
READ_INTERVAL_S = 0.02
MAX_READ_INTERVAL_S = 0.64
SMALL_READ_BYTES = 1_024
SMALL_READ_FACTOR = 8  # a small read counts as so many, and multiplies the interval
TIMEOUT_CHECK_INTERVAL_S = 1.0
LINGER_TIMEOUT_S = 2.0
MAX_LINGERING = 32  # connections above VERIFIER_MAX_CONNECTIONS that may still read their 503
MAX_BATCH_SIZE = 32  # responses computed in one event-loop iteration before any is written
INTERNAL_ERROR_BODY = error_body(INTERNAL_ERROR)
INTERNAL_ERROR_RESPONSE: list[Any] = [
    {"status": 500, "headers": (*response_headers(INTERNAL_ERROR_BODY), *CLOSE)},
    {"body": INTERNAL_ERROR_BODY},
]
STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}


def encode_headers(headers: Iterable[Header]) -> bytes:
    """Encode header fields as lines."""
    return b"".join([b"%s: %s\r\n" % header for header in headers])


# For the headers of responses only, of which there are few different ones; saves 1 µs.
encode_headers_cached = functools.lru_cache(1024)(encode_headers)
# A cache of its own, because the date changes every second and would fill the other one.
encode_date_cached = functools.lru_cache(1)(encode_headers)


class HttpConnection(asyncio.Protocol):
    """Per-connection protocol, instantiated by uvicorn."""

    transport: asyncio.Transport

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        # Global state
        self.app = config.loaded_app
        self.loop = _loop or asyncio.get_running_loop()
        self.server_state = server_state
        self.connections: set[Any] = server_state.connections
        self.service: Service = app_state["service"]
        self.settings = self.service.settings
        self.batch: Batch = app_state.setdefault("batch", [])

        # Per-connection state
        self.backlog = b""  # received behind the current request
        self.backlog_truncated = False
        self.pipelined = 0  # requests taken from the backlog since it was last empty
        self.reads = 0  # of the current request
        self.read_interval_s = READ_INTERVAL_S
        self.read_timer: asyncio.TimerHandle | None = None
        self.read_paused = self.write_paused = False
        self.half_closed = False  # by the client, which waits for its responses
        self.shutting_down = False
        self.idle_since: float | None = None  # None: a request has begun
        self.closing_since: float | None = None  # when lingering close began; later input is discarded
        self.discarded_bytes = 0
        self.stalled_checks = 0  # consecutive checks that found unsent bytes

        # Per-request state
        self.request: RequestParser | None = None
        self.cycle: RequestResponseCycle | None = None
        self.request_started_at = 0.0

        if "check_all_timeouts" not in app_state:
            app_state["check_all_timeouts"] = True
            self.loop.call_later(TIMEOUT_CHECK_INTERVAL_S, check_all_timeouts, self.loop, self.connections)

    # Called by the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self.request_started_at = self.loop.time()
        self.connections.add(self)
        above = len(self.connections) - self.settings.max_connections
        if above > 0:
            self.send_error(ServiceUnavailableError(Reason.TOO_MANY_CONNECTIONS))
        if above > MAX_LINGERING:
            transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.connections.discard(self)
        if self.read_timer is not None:
            self.read_timer.cancel()
        self._release()

    def eof_received(self) -> bool:
        """Stay open while requests that were received in full wait for their responses."""
        self.half_closed = True
        return self.closing_since is None and (self._awaits_response() or bool(self.backlog))

    def pause_writing(self) -> None:
        self.write_paused = True
        self._pause_reading()

    def resume_writing(self) -> None:
        self.write_paused = False
        if not (self.closing_since is not None or self.transport.is_closing() or self._awaits_response()):
            self._take_backlog()
        self._resume_reading()

    def data_received(self, data: bytes) -> None:
        small = len(data) < SMALL_READ_BYTES
        self.reads += SMALL_READ_FACTOR if small else 1
        if self.closing_since is not None:
            self.discarded_bytes += len(data)
            if self.discarded_bytes > MAX_DISCARDED_BYTES:
                self.transport.close()
        elif self.write_paused or (self.cycle is not None and self._awaits_response()):
            self._hold(data)
        else:
            self.pipelined = 0
            self._parse(data)
        if self.reads > MAX_READS and not (self.transport.is_closing() or self._awaits_response()):
            self._delay_next_read(small)

    # From bytes to requests

    def _parse(self, data: bytes) -> None:
        """Feed the current request, begin a new one if there is none, and hold what follows it."""
        request = self.request
        if request is None:
            self.request = request = RequestParser(self.settings.max_body_bytes)
            self.request_started_at, self.idle_since = self.loop.time(), None
        try:
            used = request.feed(data)
        except ApiError as error:
            self._reject(error)
            return
        except Exception as exc:  # noqa: BLE001 - a fault of ours, which must not look like one of the client
            self.service.telemetry.log_exception(exc)
            self._reject(INTERNAL_ERROR)
            return
        if used < len(data) and not request.too_large:
            self._hold(data[used:])
        if self.cycle is None:
            if request.headers_complete:
                self.cycle = RequestResponseCycle(self, request)
                self._start(self.cycle)
        elif self.cycle.response_complete:
            if request.complete:
                self._next_request()
        elif self.cycle.request_complete:
            self.cycle.wake_receiver()

    def _hold(self, data: bytes) -> None:
        """Keep what was received behind the current request, as much as may be kept."""
        room = max(0, MAX_BACKLOG_BYTES - len(self.backlog) - (self.request.kept_bytes if self.request else 0))
        self.backlog += data[:room]
        self.backlog_truncated |= len(data) > room
        self._pause_reading()

    def _take_backlog(self) -> None:
        """Parse what was received behind the last request; close when nothing more can follow."""
        if self.backlog and not self.write_paused:
            data, self.backlog = self.backlog, b""
            self.pipelined += 1
            self._parse(data)
        if self.closing_since is not None or self.backlog or self._awaits_response():
            return
        if self.backlog_truncated or self.half_closed or (self.shutting_down and self.request is None):
            self.start_lingering_close()

    def _next_request(self) -> None:
        """Release the current request, which has its response; continue with the next or become idle."""
        self.request = self.cycle = None
        self.reads, self.read_interval_s = 0, READ_INTERVAL_S
        self.idle_since = self.loop.time()
        if self.backlog or self.half_closed or self.shutting_down:
            self._take_backlog()
        if self.read_paused:
            self._resume_reading()

    def _awaits_response(self) -> bool:
        """Whether the current request has been received in full and has no response yet."""
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and cycle.request_complete

    def _release(self) -> None:
        """Drop the current request and what was received behind it."""
        if self.request is not None:
            self.request.release()
        if self.cycle is not None:
            self.cycle.disconnect()
        self.request = self.cycle = None
        self.backlog = b""

    def _pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        """Read again, unless there is still a reason not to; uvloop raises an error if the connection is closing."""
        if self.read_paused and not (
            self.write_paused or self.read_timer or self.backlog or self.transport.is_closing()
        ):
            self.read_paused = False
            self.transport.resume_reading()

    def _delay_next_read(self, small: bool) -> None:
        """Let the kernel gather what comes next: a read has the same price for one byte as for many."""
        self.read_timer = self.loop.call_later(self.read_interval_s, self._end_read_interval)
        if small:
            self.read_interval_s = min(SMALL_READ_FACTOR * self.read_interval_s, MAX_READ_INTERVAL_S)
        self._pause_reading()

    def _end_read_interval(self) -> None:
        self.read_timer = None
        self._resume_reading()

    # From requests to responses

    def _start(self, cycle: RequestResponseCycle) -> None:
        """Dispatch a request: batched if it is complete, otherwise in its own task."""
        if not cycle.request.complete or cycle.request.too_large or cycle.request.expects_continue:
            self._start_task(cycle)
            return
        self.batch.append((self, cycle))
        if len(self.batch) == 1:
            self.loop.call_soon(process_batch, self.batch)

    def call_app_sync(self, cycle: RequestResponseCycle) -> list[Any]:
        """Run the application on a complete request; return the two messages of its response."""
        messages: list[Any] = []
        if cycle.disconnected:
            return messages

        async def collect(message: Any) -> None:
            messages.append(message)

        scope: Any = cycle.scope
        scope[BUFFERED_BODY] = cycle.request.take_body()
        try:
            # A complete request never awaits, so step the coroutine directly: without a task or timer (14 µs).
            self.app(scope, cycle.receive, collect).send(None)
        except StopIteration:
            pass
        except Exception as exc:  # noqa: BLE001 - raised here, the others of the batch would have no response
            self.service.telemetry.log_exception(exc)
        else:
            self._start_task(cycle)  # it did await, and begins again
            return []
        return messages if len(messages) == 2 else INTERNAL_ERROR_RESPONSE

    def _start_task(self, cycle: RequestResponseCycle) -> None:
        task = self.loop.create_task(self._run(cycle))
        self.server_state.tasks.add(task)
        task.add_done_callback(self.server_state.tasks.discard)

    async def _run(self, cycle: RequestResponseCycle) -> None:
        try:
            await self.app(cycle.scope, cycle.receive, cycle.send)
        except Exception as exc:  # noqa: BLE001 - asyncio would log its message, which could quote the request
            self.service.telemetry.log_exception(exc)
        if not cycle.response_complete:
            self.send_response(cycle, *INTERNAL_ERROR_RESPONSE)

    def send_response(self, cycle: RequestResponseCycle, response_start: Any, body: Any) -> None:
        """Write a response at once: a proxy can send a request again until it has a part of the response."""
        if cycle.disconnected or cycle.response_complete or self.transport.is_closing():
            cycle.disconnected = True
            return
        request = cycle.request
        if body.get("more_body"):
            response_start, body = INTERNAL_ERROR_RESPONSE
        headers, keep_alive = tuple(response_start["headers"]), self._may_keep_alive(request)
        if CLOSE[0] in headers:
            keep_alive = False
        elif not keep_alive:
            headers = (*headers, *CLOSE)
        self._write(response_start["status"], headers, b"" if cycle.scope["method"] == "HEAD" else body["body"])
        cycle.response_complete = True
        if cycle.waiter is not None:
            cycle.wake_receiver()
        if not keep_alive:
            self.start_lingering_close()
        elif request.complete:
            self._next_request()
        else:
            cycle.scope = {}
            request.release()

    def _may_keep_alive(self, request: RequestParser) -> bool:
        """Whether another request may follow the response; after an early response, at the end of the body.

        What the client may or may not send decides nothing: the body after a final response in place of
        100 Continue (RFC 9110 §10.1.1), or a trailer that closes.
        """
        if not request.keep_alive or request.too_large or request.expects_continue:
            return False
        if not request.complete:
            return not request.chunked and request.remaining <= self.settings.max_body_bytes
        if self.half_closed or self.shutting_down:
            return bool(self.backlog)
        return self.pipelined < MAX_PIPELINED

    def _write(self, status: int, headers: tuple[Header, ...], body: bytes) -> None:
        date = encode_date_cached(tuple(self.server_state.default_headers))
        head = b"%b%b%b\r\n" % (STATUS_LINES[status], date, encode_headers_cached(headers))
        if len(body) > WRITE_BUFFER_BYTES:
            self.transport.writelines((head, body))  # not copied, because clients that do not read share the body
        else:
            self.transport.write(head + body)

    # The end of the connection

    def shutdown(self) -> None:
        """Stop at the request of uvicorn: requests that have been received in part are still completed."""
        self.shutting_down = True
        if self.closing_since is not None or self.transport.is_closing():
            return
        if self.cycle is not None and self.cycle.response_complete:  # the rest of its body is still to come
            self.start_lingering_close()
        elif self.request is None and not self.backlog:
            self.transport.close()

    def check_timeouts(self, now: float) -> None:
        """Enforce the timeouts of headers, body, keep-alive, unread responses and lingering close."""
        settings, elapsed = self.settings, now - self.request_started_at
        self.stalled_checks = self.stalled_checks + 1 if self.transport.get_write_buffer_size() else 0
        if self.stalled_checks > settings.header_timeout_s:
            self.transport.abort()
        elif self.transport.is_closing():
            return
        elif self.closing_since is not None:
            if now - self.closing_since >= LINGER_TIMEOUT_S:
                self.transport.close()
        elif self.idle_since is not None:
            if now - self.idle_since >= settings.keep_alive_s:
                self.transport.close()
        elif self.request is None or not self.request.headers_complete:
            if elapsed < settings.header_timeout_s:
                return
            if self.request is None:
                self.transport.close()
            else:
                self.send_error(InvalidRequest(Reason.HEADER_TIMEOUT, limit=settings.header_timeout_s))
        # The application has a timeout of its own for the body.
        elif elapsed > settings.header_timeout_s + settings.body_timeout_s + MAX_REQUEST_S:
            self.transport.close()

    def _reject(self, error: ApiError) -> None:
        """Respond to a request that cannot be parsed, unless it was pipelined.

        A proxy that did not send it as a request would pair that response with the next request of another client.
        """
        if self.pipelined or (self.cycle is not None and self.cycle.response_complete):
            self.start_lingering_close()
        else:
            self.send_error(error)

    def send_error(self, error: ApiError) -> None:
        """Respond with an error that does not come from the application, and close."""
        entry = AccessLogEntry()
        entry.record_error(error)
        body = error_body(error)
        is_head = self.request is not None and self.request.is_head
        self._write(error.status, response_headers(body, (*error.headers, *CLOSE)), b"" if is_head else body)
        self.start_lingering_close()
        self.service.telemetry.record(entry)

    def start_lingering_close(self) -> None:
        """Close after the client does, or after LINGER_TIMEOUT_S.

        Closing with unread bytes would reset the connection, and the client could lose responses on their way.
        """
        self.closing_since = self.loop.time()
        self._release()
        self._resume_reading()
        if self.half_closed:
            self.transport.close()
        else:
            self.transport.write_eof()


Batch = list[tuple[HttpConnection, RequestResponseCycle]]


def process_batch(batch: Batch) -> None:
    """Compute the responses of one event-loop iteration, and only then write: a write may wake a client (12 µs)."""
    first = batch[:MAX_BATCH_SIZE]
    collected = [connection.call_app_sync(cycle) for connection, cycle in first]
    for (connection, cycle), messages in zip(first, collected, strict=True):
        try:
            if messages:
                connection.send_response(cycle, *messages)
        except Exception as exc:  # noqa: BLE001 - only its own connection is lost
            connection.service.telemetry.log_exception(exc)
            connection.transport.abort()
    # Cleared last, so that new requests do not schedule a second run; they wait one iteration, which is fair.
    del batch[: len(first)]
    if batch:
        first[0][0].loop.call_soon(process_batch, batch)


def check_all_timeouts(loop: asyncio.AbstractEventLoop, connections: Iterable[Any]) -> None:
    """Check every connection once a second, which is cheaper than a timer for every request."""
    loop.call_later(TIMEOUT_CHECK_INTERVAL_S, check_all_timeouts, loop, connections)
    now = loop.time()
    for connection in tuple(connections):
        connection.check_timeouts(now)
