"""Reading files again at most once per second, for objects that many threads and forked processes use."""

import os
import threading
import time
import weakref
from collections.abc import Callable

_refreshers: "weakref.WeakSet[Refresher]" = weakref.WeakSet()


class Refresher:
    """Calls `refresh` at most once per interval, in the thread that asks first; the others wait for it.

    Survives a fork: the child has a lock of its own and reads again.
    """

    def __init__(self, refresh: Callable[[], object], interval_s: float = 1.0) -> None:
        self._refresh, self._interval_s = refresh, interval_s
        self.reset()
        _refreshers.add(self)

    def reset(self) -> None:
        """Replace the lock, which another thread may have held at the fork, and make the next call refresh."""
        self._lock = threading.Lock()
        self._read_at: float | None = None

    def __call__(self) -> None:
        """Refresh if the interval has passed since the last time."""
        with self._lock:
            now = time.monotonic()
            if self._read_at is None or now - self._read_at >= self._interval_s:
                self._refresh()
                self._read_at = now


def _reset_all() -> None:
    for refresher in _refreshers:
        refresher.reset()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_reset_all)
