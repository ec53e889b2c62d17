"""Reading one source every second in a thread of its own.

A read of a network file system can hang and cannot be cancelled: it must not block the event loop, the other files or
the exit of the process. The thread depends on no event loop and on no lifespan.
"""

import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from verifier.errors import ConfigError
from verifier.server.applications_file import ApplicationsFile
from verifier.server.log import Telemetry, location_of
from verifier.storage.key_directory import KeyDirectory

RELOAD_INTERVAL_S = 1.0
READ_TIMEOUT_S = 10.0  # a read that takes longer is reported
T = TypeVar("T")
Source = KeyDirectory | ApplicationsFile


class Periodic:
    """Calls a method at once, then every second and when woken, in a daemon thread.

    It ends when it is stopped or the object of the method has been collected.
    """

    def __init__(self, method: Callable[[], object]) -> None:
        self._method = weakref.WeakMethod(method)
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def is_running(self) -> bool:
        """Return whether the thread is alive; after a fork it is not."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread if it is not running."""
        self._stopped = False
        if not self.is_running():
            # A daemon, because a call that hangs must not delay the exit of the process.
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread, now or after the call in progress."""
        self._stopped = True
        self._wake.set()

    def wake(self) -> None:
        """Call the method now, or again after the call in progress."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopped and (method := self._method()) is not None:
            method()
            del method  # because the thread must not keep the object alive
            self._wake.wait(RELOAD_INTERVAL_S)
            self._wake.clear()


class Reader:
    """The thread that reads one source, and what is known about its reads."""

    def __init__(
        self, kind: str, source: Source, telemetry: Telemetry, on_read: Callable[["Reader", bool], None]
    ) -> None:
        self.kind, self.source = kind, source
        self.read_at = 0.0  # when the last completed read began, in seconds since 1970
        self.completed_at = -math.inf  # the same by the monotonic clock
        self.duration_s = 0.0
        self.overdue = False  # the read in progress has taken longer than READ_TIMEOUT_S
        self.behind = False  # a request has waited for a read in vain
        self._telemetry, self._on_read = telemetry, on_read
        self._began: float | None = None  # of the read in progress, by the monotonic clock
        self._failure = ""  # of the last read
        self.reset()

    def reset(self) -> None:
        """Forget the thread and its locks: a child process has neither after a fork."""
        self._full = False
        self._waiting: deque[Future[None]] = deque()
        self.thread = Periodic(self.read)

    def read_all(self) -> None:
        """Read now, after a read in progress, also what has not changed; keep nothing while a read hangs."""
        self._full = True
        self.thread.wake()

    def request(self) -> Future[None]:
        """Read now, after a read in progress; return what is done when that read has ended."""
        future: Future[None] = Future()
        self._waiting.append(future)
        self.thread.wake()
        return future

    def read(self) -> None:
        """Read once."""
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        waiting = [future for future in waiting if future.set_running_or_notify_cancel()]
        full, self._full = self._full, False
        self._began, read_at = time.monotonic(), time.time()
        try:
            changed = self.source.refresh(full=full)
            self._end(self.source.unread, read_at)
            if not self.source.unread:
                self._on_read(self, changed or full)
        except Exception as exc:  # noqa: BLE001 - a read that fails must not be the last
            self._end(f"{type(exc).__name__} at {location_of(exc)}", read_at)
        for future in waiting:
            future.set_result(None)

    def _end(self, failure: str, read_at: float) -> None:
        now, began = time.monotonic(), self._began or 0.0
        if self.overdue:
            self._telemetry.log.warning("read_resumed", path=str(self.source.path), duration_s=round(now - began))
        if failure and failure != self._failure:
            self._telemetry.log.error("reload_failed", kind=self.kind, path=str(self.source.path), error=failure)
        self._telemetry.reload_failures += bool(failure)
        self._began, self.overdue, self.behind, self._failure = None, False, bool(failure), failure
        if not failure:
            self.read_at, self.completed_at, self.duration_s = read_at, began, now - began

    def check_overdue(self) -> None:
        """Report a read that has not finished in time, once."""
        began = self._began
        if began is None or self.overdue or time.monotonic() - began < READ_TIMEOUT_S:
            return
        self.overdue = self.behind = True
        self._telemetry.reload_failures += 1
        self._telemetry.log.error("config_problem", problem=hangs(self.source.path))


def hangs(path: Path) -> str:
    """Describe a read that does not end."""
    return f"{path}: a read has not finished within {READ_TIMEOUT_S:g} s"


def read_in_time(path: Path, read: Callable[[], T]) -> T:
    """Call `read` in a thread that may hang, and return its result.

    Raises:
        ConfigError: it has not finished in time, or raised this itself.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(read())
        except Exception as exc:  # noqa: BLE001 - raised below
            future.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(READ_TIMEOUT_S)
    except TimeoutError:
        if future.done():
            raise
        raise ConfigError(hangs(path), hint="check the file system that holds it (NFS, FUSE)") from None
